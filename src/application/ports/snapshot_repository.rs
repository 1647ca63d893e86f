//! States of materializers, with the position up to which they were folded.

use async_trait::async_trait;
use bytes::Bytes;

use super::store::StoreError;
use crate::domain::entry::OrderKey;
use crate::domain::id::{ChannelId, StreamId};
use crate::domain::version::VersionVector;

/// Which state: a stream, a materializer and its version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct SnapshotKey {
    /// The channel.
    pub channel: ChannelId,
    /// The stream.
    pub stream: StreamId,
    /// `StateMaterializer::NAME`.
    pub name: String,
    /// `StateMaterializer::VERSION`.
    pub version: u32,
}

/// A saved state.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SnapshotRecord {
    /// What was folded into it.
    pub position: VersionVector,
    /// The last entry folded, in stream order; `None` for the initial state.
    pub last: Option<OrderKey>,
    /// Entries that the materializer refused so far.
    pub refused: u64,
    /// The state, as the materializer encoded it.
    pub state: Bytes,
}

/// Read side of the materializers' states.
#[async_trait]
pub trait SnapshotRepository: Send + Sync + 'static {
    /// The state kept under `key`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn snapshot(&self, key: &SnapshotKey) -> Result<Option<SnapshotRecord>, StoreError>;
}
