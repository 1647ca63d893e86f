//! Liveness alone, in groups of up to a few thousand nodes, in virtual time under one seed.
//!
//! The engine of `anabranch::protocol::swim` without store, sessions or channels, and, with the feature `foca`, that crate
//! as a baseline in the same network. The command `anabranch-sim swim` and the tests of liveness call it.

mod anabranch;
#[cfg(feature = "foca")]
mod baseline;
mod group;
mod measure;
mod scenario;

pub use self::anabranch::Ours;
#[cfg(feature = "foca")]
pub use self::baseline::Baseline;
pub use self::group::{Engine, Group, Network, Out, View};
pub use self::measure::{Measured, Plan, measure};
pub use self::scenario::{Scenario, Trouble, trouble};
