//! Use cases and the loop that owns the engines.

pub mod config;
pub(crate) mod log_cell;
pub(crate) mod notices;
pub mod ports;
pub(crate) mod replica;
