//! Use cases and the loop that owns the engines.

pub(crate) mod checkpoints;
pub mod config;
pub(crate) mod driver;
pub(crate) mod log_cell;
pub(crate) mod notices;
pub(crate) mod peers;
pub mod ports;
pub(crate) mod reader;
pub(crate) mod replica;
pub(crate) mod store_work;
