//! Sans-IO engines: synchronous state machines that are handed every input together with the time.
//!
//! None reads a clock, draws a random number, awaits or spawns. Each takes inputs, returns effects as plain
//! data, and says when it next wants to be woken. The driver in `application` is their only caller.

pub(crate) mod agenda;
pub(crate) mod delivery;
pub mod gossip;
pub mod session;
pub mod swim;
pub mod wire;
