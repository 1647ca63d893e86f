//! What tests of ports, and of applications, are made of. Feature `test-util`.
//!
//! One module per port holds its conformance suite, which any implementation runs in one line, and one that of materializers. Nothing here is
//! meant for production.

mod manual_timer;
pub mod materializer;
pub mod message_port;
pub mod store;
pub mod timer_port;

pub use crate::infrastructure::{link_model, link_profile};
pub use manual_timer::ManualTimer;
