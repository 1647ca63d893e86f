//! Anti-entropy: finding out what two nodes hold differently, at a cost in proportion to the difference.
//!
//! Three sketches of the same list of logs, each cheaper than the next and each judged by the one before:
//! [`fingerprint`] says whether anything differs, [`estimate`] about how many logs do, [`cells`] which. All
//! are pure arithmetic over digests that the caller keeps; none sees an entry, decides what to send, or
//! trusts a number that a peer sent. `docs/protocol/reconciliation.md` states them down to the byte.

pub mod cells;
pub mod estimate;
pub mod fingerprint;
