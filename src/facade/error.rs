//! What can go wrong when an application calls, and whether anything changed.
//!
//! One type per kind of operation. What goes wrong without a caller is a `Fault` instead.

use crate::application::ports::StoreError;
use crate::application::replica::NoLog;
use crate::domain::entry::EntryId;
use crate::domain::id::IdError;
use crate::domain::time::TimeExhausted;
use crate::protocol::swim::MetadataTooLarge;

/// A call on a node failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The node was closed. Nothing changed.
    #[error("the node is closed")]
    Closed,
    /// The channel was removed. Nothing changed.
    #[error("the channel was removed")]
    ChannelRemoved,
    /// The own node cannot be taken out of a channel: remove the channel instead. Nothing changed.
    #[error("the own node is always a member of its channels")]
    OwnNode,
    /// The channel is open: nobody can be left out of it. Admit a member first, which starts a list. Nothing changed.
    #[error("the channel is open to all: it has no list of members")]
    OpenChannel,
    /// A name or secret is out of range. Nothing changed.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The metadata is too large. Nothing changed.
    #[error(transparent)]
    Metadata(#[from] MetadataTooLarge),
    /// The store has no more logs, of which each author has one per stream. Nothing changed.
    #[error("the store has no log numbers left")]
    TooManyLogs,
    /// The node has no driver any more: it was dropped. Nothing changed.
    #[error("the node's driver is gone")]
    NoDriver,
    /// The store failed. If it was full ([`StoreError::Full`]), a change of a channel was not made, unless a later one was under way
    /// already, which includes it; otherwise, whether it is kept shows after reopening.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<NoLog> for NodeError {
    fn from(none: NoLog) -> Self {
        match none {
            NoLog::Removed => Self::ChannelRemoved,
            NoLog::TooMany => Self::TooManyLogs,
        }
    }
}

/// An append failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Nothing was appended.
    #[error("nothing was appended: {0}")]
    Unchanged(#[source] AppendRefusal),
    /// The store failed underway. Whether the entry is kept, [`EventStream::contains`](super::EventStream::contains)
    /// decides after reopening; until then the stream takes no appends.
    #[error("the store failed, entry {} may or may not be kept: {source}", .id.sequence)]
    Indeterminate {
        /// The first entry of the append: it decides for the whole batch.
        id: EntryId,
        /// What the store said.
        source: StoreError,
    },
}

/// Why nothing was appended.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AppendRefusal {
    /// The payload exceeds the configured cap: a fault of the caller.
    #[error("a payload of {len} bytes, at most {max} are allowed")]
    PayloadTooLarge {
        /// Its length.
        len: usize,
        /// The cap.
        max: usize,
    },
    /// The batch holds no payload.
    #[error("an empty batch")]
    EmptyBatch,
    /// The channel was removed.
    #[error("the channel was removed")]
    ChannelRemoved,
    /// The node was closed.
    #[error("the node is closed")]
    Closed,
    /// No later timestamp exists in this channel.
    #[error(transparent)]
    Time(#[from] TimeExhausted),
    /// The store has no more logs.
    #[error("the store has no log numbers left")]
    TooManyLogs,
    /// The store does not take it: full, or poisoned by an earlier failure.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A read failed. Nothing changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
    /// The node was closed.
    #[error("the node is closed")]
    Closed,
    /// The channel was removed, and the entries with it.
    #[error("the channel was removed")]
    ChannelRemoved,
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Closed => Self::Closed,
            error => Self::Store(error),
        }
    }
}
