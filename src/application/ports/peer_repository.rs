//! Peers: the read side, called once when a node is loaded.

use async_trait::async_trait;

use super::store::StoreError;
use crate::domain::id::NodeId;
use crate::domain::link::PeerAddr;

/// What is kept of a peer across restarts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PeerRecord {
    /// Who.
    pub node: NodeId,
    /// Local name for people; empty if none was given.
    pub label: String,
    /// Where it was met, newest first.
    pub addresses: Vec<PeerAddr>,
    /// Largest incarnation heard of it.
    pub incarnation: u64,
}

/// Read side of the peers.
#[async_trait]
pub trait PeerRepository: Send + Sync + 'static {
    /// All peers, by rising id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn peers(&self) -> Result<Vec<PeerRecord>, StoreError>;
}
