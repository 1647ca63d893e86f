//! A store's contents over any small ordered key-value backing.
//!
//! [`PackedStore`] turns [`WriteBatch`](crate::application::ports::WriteBatch)es into keys and values and
//! answers the repositories' questions from them; [`Backing`] is the little that a database has to provide.
//! So sled, and every later database, share one layout on disk, one set of checks and one merge of small
//! writes.
//!
//! Synchronous and deterministic: no threads, no clock, no randomness; whoever calls it decides on which thread
//! it may block. [`ThreadedStore`](super::threaded_store::ThreadedStore) is the caller that makes it a
//! [`Store`](crate::application::ports::Store).

mod backing;
mod layout;
#[cfg(any(test, feature = "test-util"))]
mod map_backing;
mod merge;
mod staged;
mod store;
mod withheld;

pub use backing::{Backing, Changes};
pub use layout::FORMAT;
#[cfg(any(test, feature = "test-util"))]
pub use map_backing::{Fault, MapBacking};
pub use merge::MergeStep;
pub use store::PackedStore;
#[cfg(test)]
pub(super) use store::tests as store_fixtures;
