//! Who is known, and who answers.
//!
//! Written by the driver, read by handles at any time. Decides nothing.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use super::ports::{PeerAddr, PeerRecord};
use crate::domain::id::NodeId;
use crate::domain::time::Instant;

/// A known peer, as of the call that asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Who.
    pub node: NodeId,
    /// Local name; the short form of the id if none was given.
    pub label: String,
    /// Whether it answers.
    pub reachable: bool,
    /// Where it was met, newest first.
    pub addresses: Vec<PeerAddr>,
    /// Traffic and timing.
    pub metrics: PeerMetrics,
}

/// Traffic with a peer since the node was opened, and how quickly it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PeerMetrics {
    /// Frames received.
    pub frames_in: u64,
    /// Frames sent.
    pub frames_out: u64,
    /// Bytes of frames received.
    pub bytes_in: u64,
    /// Bytes of frames sent.
    pub bytes_out: u64,
    /// Bytes that were sent again because they were lost.
    pub retransmitted: u64,
    /// Smoothed round-trip time (RFC 6298), if anything was acknowledged yet.
    pub rtt: Option<Duration>,
    /// When it was last heard, by the node's monotonic clock.
    pub last_heard: Option<Instant>,
    /// Sessions that stand with it now.
    pub sessions: u32,
}

/// What the driver keeps about all peers, readable by handles.
#[derive(Debug, Default)]
pub(crate) struct PeerBook {
    peers: Mutex<BTreeMap<NodeId, Known>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) record: PeerRecord,
    pub(crate) metrics: PeerMetrics,
}

const SOUND: &str = "no code that can panic runs under this lock";
/// Addresses kept of a peer: those of its last few networks.
const MAX_ADDRESSES: usize = 4;

impl PeerBook {
    pub(crate) fn load(records: Vec<PeerRecord>) -> Self {
        let known = |record: PeerRecord| (record.node, Known { record, metrics: PeerMetrics::default() });
        Self { peers: Mutex::new(records.into_iter().map(known).collect()) }
    }

    pub(crate) fn contains(&self, node: &NodeId) -> bool {
        self.peers.lock().expect(SOUND).contains_key(node)
    }

    pub(crate) fn list(&self) -> Vec<Peer> {
        self.peers.lock().expect(SOUND).values().map(Known::peer).collect()
    }

    pub(crate) fn get(&self, node: &NodeId) -> Option<Peer> {
        self.peers.lock().expect(SOUND).get(node).map(Known::peer)
    }

    /// Makes the peer known, with an address if one is; the record to keep if it changed, and whether it is new.
    pub(crate) fn note(&self, node: NodeId, address: Option<PeerAddr>) -> (Option<PeerRecord>, bool) {
        let mut peers = self.peers.lock().expect(SOUND);
        let mut new = false;
        let known = peers.entry(node).or_insert_with(|| {
            new = true;
            let record = PeerRecord { node, label: String::new(), addresses: Vec::new(), incarnation: 0 };
            Known { record, metrics: PeerMetrics::default() }
        });
        let mut changed = new;
        if let Some(address) = address
            && known.record.addresses.first() != Some(&address)
        {
            known.record.addresses.retain(|other| *other != address);
            known.record.addresses.insert(0, address);
            known.record.addresses.truncate(MAX_ADDRESSES);
            changed = true;
        }
        (changed.then(|| known.record.clone()), new)
    }

    pub(crate) fn label(&self, node: NodeId, label: &str) -> PeerRecord {
        self.note(node, None);
        let mut peers = self.peers.lock().expect(SOUND);
        let known = peers.get_mut(&node).expect("the peer was just noted");
        known.record.label = label.to_owned();
        known.record.clone()
    }

    pub(crate) fn remove(&self, node: &NodeId) -> bool {
        self.peers.lock().expect(SOUND).remove(node).is_some()
    }

    pub(crate) fn update(&self, node: &NodeId, update: impl FnOnce(&mut PeerMetrics)) {
        if let Some(known) = self.peers.lock().expect(SOUND).get_mut(node) {
            update(&mut known.metrics);
        }
    }

    pub(crate) fn addresses(&self) -> Vec<(NodeId, Vec<PeerAddr>)> {
        let peers = self.peers.lock().expect(SOUND);
        peers.values().map(|known| (known.record.node, known.record.addresses.clone())).collect()
    }
}

impl Known {
    fn peer(&self) -> Peer {
        let label =
            if self.record.label.is_empty() { self.record.node.short() } else { self.record.label.clone() };
        Peer {
            node: self.record.node,
            label,
            reachable: self.metrics.sessions > 0,
            addresses: self.record.addresses.clone(),
            metrics: self.metrics,
        }
    }
}
