//! Anti-entropy: finding out what two nodes hold differently, and sending just that.
//!
//! [`GossipEngine`] is the engine; the driver in `application` is its only caller. Between two nodes, per
//! channel that both announced (`share`):
//!
//! 1. **Compare**: a salted fingerprint. Equal: done. Else cells that tell which logs differ, else a list.
//! 2. **Transfer**: whoever is ahead in a log sends runs that end at signed heads, within a window of bytes
//!    that the other side has not stored yet.
//! 3. **Live**: fresh entries are pushed at once to peers that are up to date otherwise: by their author to all in
//!    small groups, and along a tree that the links form by themselves (`spread`).
//! 4. **Pace**: comparisons back off while nothing changes, and come at once when something does. Between nodes that
//!    push to each other, what they say in passing stands in for most of them (`holds`).
//!
//! Three sketches of the list of logs, each cheaper than the next and each judged by the one before:
//! [`fingerprint`] says whether anything differs, [`estimate`] about how many logs do, [`cells`] which. They are
//! pure arithmetic over digests; none sees an entry or trusts a number that a peer sent.
//! `docs/protocol/reconciliation.md` states them down to the byte.

pub mod cells;
mod compare;
mod conversation;
mod engine;
pub mod estimate;
pub mod fingerprint;
mod fresh;
mod holds;
mod pace;
mod packing;
mod share;
mod spread;
mod transfer;

pub use packing::AVAILABLE as CAN_PACK;
pub use transfer::MAX_INCOMING;

pub use engine::{
    Count, DurableRun, Effect, GossipConfig, GossipEngine, Input, MergeOutcome, SessionId, Standing, Ticket,
};
