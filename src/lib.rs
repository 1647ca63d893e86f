//! Offline-first event-stream sync.

pub mod application;
pub mod domain;
pub mod infrastructure;
pub mod protocol;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
