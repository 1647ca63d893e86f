//! Use cases and the loop that owns the engines.

pub mod ports;
