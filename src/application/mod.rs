//! Use cases and the loop that owns the engines.
//!
//! Handles of the facade call `replica` and `reader` directly; the driver runs beside them and owns everything that has
//! to do with the network. Nothing in here names a store, a transport or a clock: those come through [`ports`].

pub(crate) mod changes;
pub(crate) mod checkpoints;
pub mod config;
pub(crate) mod driver;
pub(crate) mod liveness;
pub(crate) mod log_cell;
pub(crate) mod marks;
pub(crate) mod news;
pub(crate) mod notices;
pub(crate) mod peers;
pub mod ports;
pub(crate) mod reader;
pub(crate) mod replica;
pub(crate) mod selection;
pub(crate) mod store_work;
