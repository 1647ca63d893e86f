//! In-process implementations of the ports, and the models they run on.
//!
//! Inner layers never name this module; the facade's builder does, and applications and tests that choose their
//! own ports.

pub mod link_model;
pub mod link_profile;
pub mod memory_port;
pub mod prng;
#[cfg(feature = "tokio")]
pub mod system_timer;
