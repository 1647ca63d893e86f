//! The node itself: identity, incarnation, residence.

use async_trait::async_trait;

use super::store::StoreError;
use crate::domain::identity::Identity;

/// What the node keeps about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct NodeRecord {
    /// Raised at each start and to refute suspicion; only rises.
    pub incarnation: u64,
}

/// Whether the store is where it was when it was last closed.
///
/// A store that was copied, restored or moved to another device may be older than what its node already
/// published; its first append waits until a peer had the chance to say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residence {
    /// Same device, file and machine as before, or a fresh store.
    Same,
    /// Something differs: the store may be a copy or a backup.
    Moved,
}

/// Read side of the node's own records.
#[async_trait]
pub trait NodeRepository: Send + Sync + 'static {
    /// The node's secret. Made at the first open and the same ever after, until a wipe.
    fn identity(&self) -> Identity;

    /// Whether the store moved since it was last open; decided at open.
    fn residence(&self) -> Residence;

    /// The node's own record; the default one in a fresh store.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn node(&self) -> Result<NodeRecord, StoreError>;
}
