//! Who is known, and who answers.
//!
//! Written by the driver, read by handles at any time. Decides nothing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::ports::{PeerAddr, PeerRecord, Receipt, Store, WriteBatch, WriteOp};
use crate::domain::id::NodeId;
use crate::domain::peer::Status;
use crate::domain::time::Instant;
use crate::protocol::swim::Metadata;

/// A known peer, as of the call that asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Who.
    pub node: NodeId,
    /// Local name; the short form of the id if none was given.
    pub label: String,
    /// Whether a session stands with it.
    pub reachable: bool,
    /// What it is held for: alive, suspect, unreachable or left, by what it and others say. A peer may be alive without a
    /// session: then it is reached through others.
    pub status: Status,
    /// Its incarnation, as far as known.
    pub incarnation: u64,
    /// What it tells about itself.
    pub metadata: Arc<Metadata>,
    /// Its version: the incarnation in which it was set, 0 if it tells nothing.
    pub metadata_version: u64,
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
#[derive(Debug)]
pub(crate) struct PeerBook {
    book: Mutex<Book>,
    /// News about peers that wait to be passed on.
    updates: AtomicUsize,
    /// Strangers kept at most, besides those that are connected.
    max_strangers: usize,
}

#[derive(Debug)]
struct Book {
    peers: BTreeMap<NodeId, Known>,
    /// Peers with a session, counted as sessions come and go.
    reachable: usize,
    /// Peers that came by themselves, counted as they come and go.
    strangers: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) record: PeerRecord,
    pub(crate) metrics: PeerMetrics,
    pub(crate) status: Status,
    pub(crate) metadata: (u64, Arc<Metadata>),
}

const SOUND: &str = "no code that can panic runs under this lock";
/// Addresses kept of a peer: those of its last few networks.
const MAX_ADDRESSES: usize = 4;

/// What [`PeerBook::note`] changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Its record is to be [kept](PeerBook::keep).
    pub(crate) changed: bool,
    /// The peer was not known before.
    pub(crate) new: bool,
    /// A stranger that was dropped for it.
    pub(crate) dropped: Option<NodeId>,
}

impl PeerBook {
    pub(crate) fn load(records: Vec<PeerRecord>, max_strangers: usize) -> Self {
        let known = |record: PeerRecord| (record.node, Known::new(record));
        let peers: BTreeMap<NodeId, Known> = records.into_iter().map(known).collect();
        let strangers = peers.values().filter(|known| known.is_stranger()).count();
        let book = Mutex::new(Book { peers, reachable: 0, strangers });
        Self { book, updates: AtomicUsize::new(0), max_strangers }
    }

    pub(crate) fn updates(&self) -> usize {
        self.updates.load(Ordering::Relaxed)
    }

    pub(crate) fn set_updates(&self, updates: usize) {
        self.updates.store(updates, Ordering::Relaxed);
    }

    pub(crate) fn contains(&self, node: &NodeId) -> bool {
        self.lock().peers.contains_key(node)
    }

    /// How many are known.
    pub(crate) fn len(&self) -> usize {
        self.lock().peers.len()
    }

    /// How many of them answer.
    pub(crate) fn reachable(&self) -> usize {
        self.lock().reachable
    }

    pub(crate) fn list(&self) -> Vec<Peer> {
        self.lock().peers.values().map(Known::peer).collect()
    }

    pub(crate) fn get(&self, node: &NodeId) -> Option<Peer> {
        self.lock().peers.get(node).map(Known::peer)
    }

    /// Makes the peer known, with an address if one is. If it came by itself, as too many others did, the one
    /// of them that was unseen for the longest time is dropped (I6).
    pub(crate) fn note(&self, node: NodeId, address: Option<PeerAddr>) -> Noted {
        let mut book = self.lock();
        let Book { peers, strangers, .. } = &mut *book;
        let mut noted = Noted::default();
        let known = peers.entry(node).or_insert_with(|| {
            noted.new = true;
            let record = PeerRecord { node, label: String::new(), addresses: Vec::new(), incarnation: 0 };
            Known::new(record)
        });
        let was_stranger = !noted.new && known.is_stranger();
        noted.changed = noted.new;
        if let Some(address) = address
            && known.record.addresses.first() != Some(&address)
        {
            known.record.addresses.retain(|other| *other != address);
            known.record.addresses.insert(0, address);
            known.record.addresses.truncate(MAX_ADDRESSES);
            noted.changed = true;
        }
        *strangers = *strangers + usize::from(known.is_stranger()) - usize::from(was_stranger);
        if noted.new && *strangers > self.max_strangers {
            let others = peers.iter().filter(|(other, known)| {
                **other != node && known.is_stranger() && known.metrics.sessions == 0
            });
            noted.dropped = others.min_by_key(|(_, known)| known.metrics.last_heard).map(|(other, _)| *other);
            if let Some(dropped) = noted.dropped {
                book.remove(&dropped);
            }
        }
        noted
    }

    /// Makes the peer known under a local name: then it is no stranger.
    pub(crate) fn label(&self, node: NodeId, label: &str) {
        let mut book = self.lock();
        let Book { peers, strangers, .. } = &mut *book;
        let mut was_stranger = false;
        let known = match peers.entry(node) {
            Entry::Occupied(known) => {
                was_stranger = known.get().is_stranger();
                known.into_mut()
            }
            Entry::Vacant(free) => {
                let record = PeerRecord { node, label: String::new(), addresses: Vec::new(), incarnation: 0 };
                free.insert(Known::new(record))
            }
        };
        known.record.label = label.to_owned();
        *strangers = *strangers + usize::from(known.is_stranger()) - usize::from(was_stranger);
    }

    /// Makes the store hold of a peer what is known of it now, if anything is: under the lock, so that of two threads that
    /// changed it the later one writes what both did.
    pub(crate) fn keep(&self, node: &NodeId, store: &dyn Store) -> Receipt {
        let book = self.lock();
        let known = book.peers.get(node).map(|known| known.record.clone());
        store.submit(WriteBatch::new([known.map_or(WriteOp::RemovePeer(*node), WriteOp::PutPeer)]))
    }

    pub(crate) fn remove(&self, node: &NodeId) -> bool {
        self.lock().remove(node).is_some()
    }

    pub(crate) fn update(&self, node: &NodeId, update: impl FnOnce(&mut PeerMetrics)) {
        let mut book = self.lock();
        let Book { peers, reachable, .. } = &mut *book;
        if let Some(known) = peers.get_mut(node) {
            let before = usize::from(known.metrics.sessions > 0);
            update(&mut known.metrics);
            *reachable = *reachable + usize::from(known.metrics.sessions > 0) - before;
        }
    }

    /// What a peer is held for: what it was held for before, and whether its incarnation rose: then it is to be
    /// [kept](Self::keep).
    pub(crate) fn liveness(&self, node: &NodeId, status: Status, incarnation: u64) -> Option<(Status, bool)> {
        let mut book = self.lock();
        let known = book.peers.get_mut(node)?;
        let before = std::mem::replace(&mut known.status, status);
        let risen = incarnation > known.record.incarnation;
        known.record.incarnation = known.record.incarnation.max(incarnation);
        Some((before, risen))
    }

    /// Whether a peer lives in a higher incarnation than was known: then it is to be [kept](Self::keep).
    pub(crate) fn risen(&self, node: &NodeId, incarnation: u64) -> bool {
        let mut book = self.lock();
        let Some(known) = book.peers.get_mut(node) else { return false };
        let risen = known.record.incarnation < incarnation;
        known.record.incarnation = known.record.incarnation.max(incarnation);
        risen
    }

    /// What a peer tells about itself; whether that is news.
    pub(crate) fn told(&self, node: &NodeId, version: u64, metadata: Arc<Metadata>) -> bool {
        let mut book = self.lock();
        let Some(known) = book.peers.get_mut(node) else { return false };
        let news = known.metadata.1 != metadata;
        known.metadata = (version, metadata);
        news
    }

    pub(crate) fn addresses(&self) -> Vec<(NodeId, Vec<PeerAddr>)> {
        let book = self.lock();
        book.peers.values().map(|known| (known.record.node, known.record.addresses.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect(SOUND)
    }
}

impl Book {
    fn remove(&mut self, node: &NodeId) -> Option<Known> {
        let known = self.peers.remove(node)?;
        self.reachable -= usize::from(known.metrics.sessions > 0);
        self.strangers -= usize::from(known.is_stranger());
        Some(known)
    }
}

impl Known {
    fn new(record: PeerRecord) -> Self {
        Self {
            record,
            metrics: PeerMetrics::default(),
            status: Status::Joining,
            metadata: (0, Arc::default()),
        }
    }

    /// Nobody here named it or dialled it: it came by itself.
    fn is_stranger(&self) -> bool {
        self.record.label.is_empty() && self.record.addresses.is_empty()
    }

    fn peer(&self) -> Peer {
        let label =
            if self.record.label.is_empty() { self.record.node.short() } else { self.record.label.clone() };
        Peer {
            node: self.record.node,
            label,
            reachable: self.metrics.sessions > 0,
            status: self.status,
            incarnation: self.record.incarnation,
            metadata: Arc::clone(&self.metadata.1),
            metadata_version: self.metadata.0,
            addresses: self.record.addresses.clone(),
            metrics: self.metrics,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn heard(book: &PeerBook, peer: u8, at: u64, sessions: u32) {
        book.update(&node(peer), |metrics| {
            (metrics.last_heard, metrics.sessions) =
                (Some(Instant::ZERO + Duration::from_secs(at)), sessions);
        });
    }

    #[test]
    fn i6_the_stranger_unseen_for_longest_makes_room_and_nobody_else() {
        let book = PeerBook::load(Vec::new(), 2);
        book.label(node(1), "ana");
        book.note(node(2), Some("here".into()));
        for stranger in [3, 4] {
            assert_eq!(book.note(node(stranger), None).dropped, None);
        }
        heard(&book, 3, 20, 0);
        heard(&book, 4, 10, 0);
        let noted = book.note(node(5), None);
        assert_eq!((noted.new, noted.dropped), (true, Some(node(4))));
        // Those who are connected stay, even if they are too many.
        heard(&book, 3, 20, 1);
        heard(&book, 5, 30, 1);
        assert_eq!(book.note(node(6), None).dropped, None);
        heard(&book, 5, 30, 0);
        assert_eq!(book.note(node(7), None).dropped, Some(node(6)), "never heard at all");
        // Whoever is named or dialled is no stranger any more, and one known already drops nobody.
        book.label(node(5), "eva");
        book.note(node(7), Some("there".into()));
        assert_eq!(book.note(node(3), None), Noted::default());
        assert_eq!(book.note(node(8), None).dropped, None);
        let known: Vec<NodeId> = book.list().iter().map(|peer| peer.node).collect();
        assert_eq!(known, [1, 2, 3, 5, 7, 8].map(node));
    }

    #[test]
    fn peers_are_counted_as_they_come_and_go() {
        let book = PeerBook::load(Vec::new(), 10);
        for peer in 1..=3 {
            book.note(node(peer), None);
            heard(&book, peer, 1, 1);
        }
        heard(&book, 2, 2, 2);
        assert_eq!((book.len(), book.reachable()), (3, 3));
        heard(&book, 2, 3, 1);
        heard(&book, 1, 3, 0);
        assert_eq!((book.len(), book.reachable()), (3, 2));
        assert!(book.remove(&node(3)) && !book.remove(&node(3)));
        assert_eq!((book.len(), book.reachable()), (2, 1));
    }
}
