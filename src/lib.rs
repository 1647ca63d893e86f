//! Offline-first event-stream sync.

pub mod application;
pub mod domain;
pub mod protocol;
