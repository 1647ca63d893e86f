//! Materializers: what an application folds a stream's entries into.
//!
//! Pure: a materializer sees entries and its own state, nothing else, which is why every node with the same
//! entries ends with the same state (I3). Applications implement [`StateMaterializer`]; the folding itself is
//! done by `application::checkpoints`, driven by the handle that
//! [`EventStream::materialize`](crate::EventStream::materialize) returns.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::entry::LogEntry;

/// A pure fold from the entries of a stream, in the stream's order, to a state of the application.
///
/// Devices agree on the state if the fold is a function of the state and the entry alone: no clock, no
/// randomness, no iteration over unordered maps.
///
/// # Errors and panics
/// An entry for which [`fold`](Self::fold) returns `Err` is skipped, on every node alike, counted
/// ([`StateHandle::refused`](crate::StateHandle::refused)) and reported once per cause. A panic in any of these
/// functions fails this one materialization with [`StateError::Panicked`](crate::StateError::Panicked) until
/// [`StateHandle::reset`](crate::StateHandle::reset); the node and all other states go on.
///
/// # Cost
/// States are cloned: about one clone for every 64 entries that come in small portions, log2(n) clones in all
/// for n entries folded in one go, and one whenever a state that somebody still holds has to change. Keep large
/// parts of the state behind an [`Arc`] or in persistent collections.
///
/// ```
/// use std::collections::BTreeMap;
/// use anabranch::{FoldError, LogEntry, StateMaterializer};
///
/// struct Tally;
///
/// impl StateMaterializer for Tally {
///     const NAME: &'static str = "tally";
///     const VERSION: u32 = 1;
///     type State = BTreeMap<String, u64>;
///
///     fn initial(&self) -> Self::State {
///         BTreeMap::new()
///     }
///
///     fn fold(&self, state: &mut Self::State, entry: &LogEntry) -> Result<(), FoldError> {
///         *state.entry(std::str::from_utf8(entry.payload())?.to_owned()).or_default() += 1;
///         Ok(())
///     }
/// }
/// ```
pub trait StateMaterializer: Send + Sync + 'static {
    /// Names the saved state. Materializers of one stream that save need different names.
    const NAME: &'static str;
    /// Changes when the fold, the state or its encoding does: a state saved under another version is not used.
    const VERSION: u32;
    /// The fold gives the same state in whatever order entries come, errors included. Then nothing is ever
    /// folded again because something came late, and no checkpoints are kept.
    const COMMUTATIVE: bool = false;

    /// The state.
    type State: Clone + Send + Sync + 'static;

    /// The state before the first entry.
    fn initial(&self) -> Self::State;

    /// Folds one entry in.
    ///
    /// Check first, change then: on `Err` the state must be as it was. (One that is not makes no two nodes
    /// differ, as all of them fold and refuse the same; but the skipped entry has left its trace.)
    ///
    /// # Errors
    /// [`FoldError`]: the entry is skipped. Whatever implements `std::error::Error` converts with `?`.
    fn fold(&self, state: &mut Self::State, entry: &LogEntry) -> Result<(), FoldError>;

    /// The state as bytes, to start from after a restart; `None` (the default) if it is cheaper, or simpler, to
    /// fold it again. Called now and then, after much was folded.
    fn save(&self, state: &Self::State) -> Option<Bytes> {
        let _ = state;
        None
    }

    /// The state that [`save`](Self::save) of the same name and version made these bytes of; `None` if they are
    /// not to be used, and everything is folded again.
    fn load(&self, saved: &[u8]) -> Option<Self::State> {
        let _ = saved;
        None
    }
}

/// Why a materializer refuses an entry.
///
/// The message is reported as a fault and logged: keep payloads out of it, and what differs from entry to entry
/// too, as each distinct message counts as a cause of its own.
///
/// Not itself a `std::error::Error`, so that every error converts into it with `?`.
#[derive(Clone, PartialEq, Eq)]
pub struct FoldError(Arc<str>);

impl FoldError {
    /// With this message.
    pub fn new(message: impl fmt::Display) -> Self {
        Self(message.to_string().into())
    }

    /// The message.
    pub fn message(&self) -> &Arc<str> {
        &self.0
    }
}

impl<E: std::error::Error> From<E> for FoldError {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

impl fmt::Display for FoldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FoldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FoldError({:?})", self.0)
    }
}
