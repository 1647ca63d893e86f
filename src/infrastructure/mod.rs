//! In-process implementations of the ports, and the models they run on.
//!
//! Inner layers never name this module; the facade's builder does, and applications and tests that choose their
//! own ports. The only layer in which ambient time and randomness may be touched, each time with its reason.

pub mod entropy;
pub mod link_model;
pub mod link_profile;
pub mod memory_port;
pub mod memory_store;
pub mod packed;
pub mod prng;
#[cfg(feature = "tokio")]
pub mod system_timer;
pub mod threaded_store;
