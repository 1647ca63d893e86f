//! Liveness: who answers.
//!
//! A [`Prober`] watches one session: it asks for a sign of life when nothing was heard for a while, and says
//! when to give up. The driver owns one per session and is its only caller.

mod prober;

pub use prober::{Probe, Prober};
