//! Why two nodes do not hold the same.
//!
//! Asks the driver and reports; changes nothing.

use super::coordinator::Coordinator;
use super::error::NodeError;
use super::stream::EventStream;
use crate::application::driver::{Command, NodeState};
use crate::domain::id::{ChannelId, NodeId};
use crate::domain::peer::Status;

/// Where this node stands with all its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyncStatus {
    /// Per channel and reachable peer.
    pub peers: Vec<PeerSync>,
    /// Nothing is under way, and every reachable peer was last found to hold the same.
    pub quiescent: bool,
}

/// Where this node stands with one peer about one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerSync {
    /// The channel.
    pub channel: ChannelId,
    /// The peer.
    pub peer: NodeId,
    /// The last comparison found both equal, and nothing changed since.
    pub synced: bool,
    /// Entries that the peer lacks, as far as known, and that are still to be sent.
    pub peer_behind: u64,
    /// Runs on their way that the peer has not stored yet.
    pub in_flight: u64,
    /// Logs that this node asked the peer for.
    pub logs_wanted: u64,
}

/// Why this node and a peer do not hold the same of a stream: the first cause that applies.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Explanation {
    /// They do hold the same, as of the last comparison.
    Same,
    /// This node does not know the peer.
    UnknownPeer,
    /// This node's network is off.
    Stopped,
    /// This node is paused: it takes nothing.
    Paused,
    /// The peer does not answer.
    Unreachable,
    /// The peer said goodbye and is expected back when it likes.
    Left,
    /// No session stands with the peer, but others hear it: it gets through them what they share.
    ThroughOthers,
    /// This node does not admit the peer to the channel.
    NotAdmittedHere,
    /// The peer does not share the channel: it does not know it, or does not admit this node.
    NotSharedThere,
    /// A log of the stream is left out between the two: one of them refuses its entries (author not admitted,
    /// too many lines, too many logs). The faults say which.
    Parked,
    /// The peer is paused: it takes nothing.
    PeerPaused,
    /// This stream is being sent.
    Sending {
        /// Entries still to be sent.
        entries: u64,
        /// Runs that the peer has not stored yet.
        in_flight: u64,
    },
    /// Something of the channel was asked for and has not come yet: of which streams, shows when it comes.
    Waiting {
        /// Logs of the channel asked for.
        logs: u64,
    },
    /// A comparison will tell; one is due or under way.
    Comparing,
}

pub(super) async fn explain(
    node: &Coordinator,
    peer: &NodeId,
    stream: &EventStream,
) -> Result<Explanation, NodeError> {
    let channel = stream.channel_id();
    let asked = Some(stream.id().clone());
    let standing = node.ask(|reply| Command::Standing(*peer, channel, asked, reply)).await?;
    let Some(known) = node.peer(peer) else { return Ok(Explanation::UnknownPeer) };
    match node.state() {
        NodeState::Stopped => return Ok(Explanation::Stopped),
        NodeState::Closed => return Err(NodeError::Closed),
        NodeState::Running | NodeState::Paused => {}
    }
    if !known.reachable {
        return Ok(match known.status {
            Status::Left => Explanation::Left,
            Status::Alive => Explanation::ThroughOthers,
            _ => Explanation::Unreachable,
        });
    }
    let admitted = node.get_channel(&channel).is_some_and(|channel| channel.admission().admits(peer));
    let Some(standing) = standing.filter(|_| admitted) else { return Ok(Explanation::NotAdmittedHere) };
    Ok(if !standing.theirs {
        Explanation::NotSharedThere
    } else if standing.parked.contains(stream.id()) {
        Explanation::Parked
    } else if standing.synced {
        Explanation::Same
    } else if node.state() == NodeState::Paused {
        Explanation::Paused
    } else if standing.paused {
        Explanation::PeerPaused
    } else if standing.owed > 0 || standing.unacknowledged > 0 {
        Explanation::Sending { entries: standing.owed, in_flight: standing.unacknowledged }
    } else if standing.wanted > 0 {
        Explanation::Waiting { logs: standing.wanted }
    } else {
        Explanation::Comparing
    })
}

pub(super) async fn sync_status(node: &Coordinator) -> Result<SyncStatus, NodeError> {
    let mut peers = Vec::new();
    for peer in node.reachable_peers() {
        for channel in node.channels_for_peer(&peer.node) {
            let id = channel.id();
            let standing = node.ask(|reply| Command::Standing(peer.node, id, None, reply)).await?;
            let Some(standing) = standing.filter(|standing| standing.theirs) else { continue };
            peers.push(PeerSync {
                channel: id,
                peer: peer.node,
                synced: standing.synced,
                peer_behind: standing.owed,
                in_flight: standing.unacknowledged,
                logs_wanted: standing.wanted,
            });
        }
    }
    let quiescent = node.ask(Command::Quiescent).await?;
    Ok(SyncStatus { peers, quiescent })
}
