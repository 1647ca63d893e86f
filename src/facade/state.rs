//! State folded from a stream.

use std::marker::PhantomData;
use std::sync::Arc;

use super::stream::EventStream;
use crate::application::ports::StoreError;
use crate::domain::entry::LogEntry;

/// A pure fold from the entries of a stream, in order, to a state of the application.
pub trait StateMaterializer: Send + Sync + 'static {
    /// Names the saved state.
    const NAME: &'static str;
    /// Changes when the fold does.
    const VERSION: u32;
    /// The order of entries does not matter to the fold.
    const COMMUTATIVE: bool = false;
    /// The state.
    type State: Clone + Send + Sync + 'static;
    /// The state before the first entry.
    fn initial(&self) -> Self::State;
    /// Folds one entry in.
    ///
    /// # Errors
    /// [`FoldError`]: the entry is skipped.
    fn fold(&self, state: &mut Self::State, entry: &LogEntry) -> Result<(), FoldError>;
}

/// An entry that the materializer refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FoldError(Arc<str>);

/// A state cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Handle of a materialized state.
pub struct StateHandle<M: StateMaterializer>(PhantomData<M>);

/// States as they change.
pub struct StateChanges<M: StateMaterializer>(PhantomData<M>);

impl<M: StateMaterializer> StateHandle<M> {
    pub(super) async fn open(_: &EventStream, _: M) -> Result<Self, StateError> {
        Ok(Self(PhantomData))
    }
}
