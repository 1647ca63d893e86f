//! Values, aggregates and transitions of the log model.
//!
//! Everything here is pure: no `async`, no I/O, no clock, no randomness. What a function needs of the
//! outside world (the time, a hash that only a store holds) it is handed as an argument. The layers
//! above call this one; it calls nobody.

pub mod block;
pub mod channel;
mod ed25519;
pub mod entry;
pub mod event;
pub mod fork;
pub mod head;
pub mod id;
pub mod identity;
pub mod link;
pub mod log;
pub mod materializer;
pub mod payload_hash;
pub mod peer;
pub mod run;
pub mod time;
pub mod version;
