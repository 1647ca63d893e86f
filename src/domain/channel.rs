//! Channels: who is admitted, and what is kept about them.
//!
//! Admission is each node's own decision and never travels. Asked by the driver, the gossip engine and handles.

use std::collections::BTreeSet;

use super::id::{ChannelId, NodeId};
use super::time::Timestamp;

/// Who may read and write a channel, in the eyes of this node.
///
/// Local lists: each node decides whom it serves and whose entries it takes. A list never travels.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Admission {
    /// The nodes listed. The own node is always among them.
    Members(BTreeSet<NodeId>),
    /// Every authenticated node that knows the channel's id.
    Open,
}

impl Admission {
    /// Nobody but `node`.
    pub fn only(node: NodeId) -> Self {
        Self::Members(BTreeSet::from([node]))
    }

    /// Whether `node` is admitted.
    pub fn admits(&self, node: &NodeId) -> bool {
        match self {
            Self::Members(members) => members.contains(node),
            Self::Open => true,
        }
    }
}

/// A channel as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ChannelRecord {
    /// Its id.
    pub id: ChannelId,
    /// Local name for people; empty if none was given.
    pub label: String,
    /// Who may read and write it.
    pub admission: Admission,
    /// Largest stamp seen or written in the channel (`seen`): our next stamp is greater.
    pub seen: Timestamp,
}
