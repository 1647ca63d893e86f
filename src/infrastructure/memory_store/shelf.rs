//! Everything one memory store keeps: channels, logs, peers, the node's record, snapshots.
//!
//! Applies changes that were checked before and cannot fail. Never locks anything that it does not own: the
//! store decides who may look when.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::line::LineStore;
use crate::application::ports::{NodeRecord, PeerRecord, SnapshotKey, SnapshotRecord, StoredLog, WriteOp};
use crate::domain::channel::ChannelRecord;
use crate::domain::id::{ChannelId, NodeId};
use crate::domain::log::{Line, LineNo, LogName, LogNo};
use crate::domain::run::Run;
use crate::domain::time::Timestamp;
use smallvec::SmallVec;

/// Log numbers below this are looked up by index (16 bytes per number), larger ones in a tree: the library
/// counts them up from 0, but nothing obliges it to.
const DENSE_LOGS: u32 = 1 << 20;

/// The contents of a store.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) channels: BTreeMap<ChannelId, Channel>,
    dense: Vec<Slot>,
    sparse: BTreeMap<LogNo, Slot>,
    pub(super) peers: BTreeMap<NodeId, PeerRecord>,
    pub(super) node: NodeRecord,
    pub(super) snapshots: BTreeMap<SnapshotKey, SnapshotRecord>,
}

/// A channel. `seen` has a lock of its own: every append raises it.
#[derive(Debug)]
pub(super) struct Channel {
    record: ChannelRecord,
    seen: Mutex<Timestamp>,
}

/// What became of a log number.
#[derive(Debug, Default)]
pub(super) enum Slot {
    #[default]
    NeverUsed,
    Removed,
    Live(Box<LogStore>),
}

/// A log with its lines, which have a lock of their own: an append holds only this one exclusively.
#[derive(Debug)]
pub(super) struct LogStore {
    pub(super) name: LogName,
    floor: u64,
    pub(super) lines: Mutex<Lines>,
}

/// The lines of a log: nearly always one.
#[derive(Debug, Default)]
pub(super) struct Lines(SmallVec<[LineStore; 1]>);

impl Lines {
    pub(super) fn get(&self, no: LineNo) -> Option<&LineStore> {
        self.0.iter().find(|line| line.record().no == no)
    }

    fn get_mut(&mut self, no: LineNo) -> Option<&mut LineStore> {
        self.0.iter_mut().find(|line| line.record().no == no)
    }

    /// Appends to a line, new or not; returns the bytes that were added.
    pub(super) fn append(&mut self, line: &Line, run: &Run) -> usize {
        match self.get_mut(line.no) {
            Some(held) => held.append(line, run),
            None => {
                let mut held = LineStore::new(line.clone());
                let added = held.append(line, run);
                self.0.push(held);
                added
            }
        }
    }

    fn size(&self) -> usize {
        self.0.iter().map(LineStore::size).sum()
    }
}

impl Channel {
    /// Raises the largest seen stamp.
    pub(super) fn see(&self, stamp: Timestamp) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = stamp.max(*seen);
    }

    /// The channel's record.
    pub(super) fn record(&self) -> ChannelRecord {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        ChannelRecord { seen, ..self.record.clone() }
    }
}

impl LogStore {
    fn lines_mut(&mut self) -> &mut Lines {
        self.lines.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn stored(&mut self, no: LogNo) -> StoredLog {
        let mut lines: Vec<Line> = self.lines_mut().0.iter().map(|line| line.record().clone()).collect();
        lines.sort_by_key(|line| line.no);
        StoredLog { no, name: self.name.clone(), floor: self.floor, lines }
    }

    fn duplicate(&mut self) -> Self {
        let lines = Lines(self.lines_mut().0.iter().map(LineStore::duplicate).collect());
        Self { name: self.name.clone(), floor: self.floor, lines: Mutex::new(lines) }
    }
}

impl Shelf {
    /// The log of this number.
    pub(super) fn log(&self, no: LogNo) -> Option<&LogStore> {
        match self.slot(no) {
            Slot::Live(log) => Some(log),
            Slot::NeverUsed | Slot::Removed => None,
        }
    }

    /// What became of a log number.
    pub(super) fn slot(&self, no: LogNo) -> &Slot {
        let slot = if no.0 < DENSE_LOGS { self.dense.get(no.0 as usize) } else { self.sparse.get(&no) };
        slot.unwrap_or(&Slot::NeverUsed)
    }

    fn slot_mut(&mut self, no: LogNo) -> &mut Slot {
        if no.0 >= DENSE_LOGS {
            return self.sparse.entry(no).or_default();
        }
        let at = no.0 as usize;
        if at >= self.dense.len() {
            self.dense.resize_with(at + 1, Slot::default);
        }
        &mut self.dense[at]
    }

    fn slots(&mut self) -> impl Iterator<Item = (LogNo, &mut Slot)> {
        let dense = self.dense.iter_mut().enumerate().map(|(no, slot)| (LogNo(no as u32), slot));
        dense.chain(self.sparse.iter_mut().map(|(no, slot)| (*no, slot)))
    }

    fn live(&mut self) -> impl Iterator<Item = (LogNo, &mut LogStore)> {
        self.slots().filter_map(|(no, slot)| match slot {
            Slot::Live(log) => Some((no, &mut **log)),
            Slot::NeverUsed | Slot::Removed => None,
        })
    }

    /// All logs with their lines, by rising number.
    pub(super) fn stored_logs(&mut self) -> Vec<StoredLog> {
        self.live().map(|(no, log)| log.stored(no)).collect()
    }

    /// One above the largest number that was ever used.
    pub(super) fn next_log(&mut self) -> LogNo {
        let used = self.slots().filter(|(_, slot)| !matches!(slot, Slot::NeverUsed));
        LogNo(used.map(|(no, _)| no.0.saturating_add(1)).max().unwrap_or(0))
    }

    /// The numbers of a channel's logs, rising.
    pub(super) fn logs_of(&self, channel: ChannelId) -> Vec<LogNo> {
        let dense = self.dense.iter().enumerate().map(|(no, slot)| (LogNo(no as u32), slot));
        let slots = dense.chain(self.sparse.iter().map(|(no, slot)| (*no, slot)));
        let of_it = |slot: &Slot| matches!(slot, Slot::Live(log) if log.name.channel == channel);
        slots.filter(|(_, slot)| of_it(slot)).map(|(no, _)| no).collect()
    }

    /// Applies a change that was checked; returns by how many bytes the store grew.
    pub(super) fn apply(&mut self, op: WriteOp) -> i64 {
        match op {
            WriteOp::PutChannel(record) => {
                let size = size_of::<Channel>() as i64;
                let (id, seen) = (record.id, record.seen);
                let replaced = self.channels.insert(id, Channel { record, seen: Mutex::new(seen) });
                let Some(held) = replaced else { return size };
                if let Some(channel) = self.channels.get(&id) {
                    channel.see(held.record().seen);
                }
                0
            }
            WriteOp::RemoveChannel(id) => self.remove_channel(id),
            WriteOp::SetSeen(id, stamp) => {
                if let Some(channel) = self.channels.get(&id) {
                    channel.see(stamp);
                }
                0
            }
            WriteOp::PutLog(no, name) => {
                let log = LogStore { name, floor: 0, lines: Mutex::default() };
                *self.slot_mut(no) = Slot::Live(Box::new(log));
                (size_of::<Slot>() + size_of::<LogStore>()) as i64
            }
            WriteOp::RaiseFloor(no, floor) => {
                if let Slot::Live(log) = self.slot_mut(no) {
                    log.floor = floor.max(log.floor);
                }
                0
            }
            WriteOp::Append { log, line, run } => {
                self.lines_mut(log).map_or(0, |lines| lines.append(&line, &run)) as i64
            }
            WriteOp::PutLine(log, line) => {
                if let Some(held) = self.lines_mut(log).and_then(|lines| lines.get_mut(line.no)) {
                    held.set_record(line);
                }
                0
            }
            WriteOp::PutBlockHead(log, line, head) => {
                let held = self.lines_mut(log).and_then(|lines| lines.get_mut(line));
                held.map_or(0, |held| held.put_block_head(head)) as i64
            }
            WriteOp::PutPeer(record) => {
                let size = peer_size(&record);
                let replaced = self.peers.insert(record.node, record);
                size - replaced.as_ref().map_or(0, peer_size)
            }
            WriteOp::RemovePeer(node) => -self.peers.remove(&node).as_ref().map_or(0, peer_size),
            WriteOp::PutNode(record) => {
                self.node = record;
                0
            }
            WriteOp::PutSnapshot(key, record) => {
                let size = snapshot_size(&record);
                size - self.snapshots.insert(key, record).as_ref().map_or(0, snapshot_size)
            }
            WriteOp::RemoveSnapshot(key) => -self.snapshots.remove(&key).as_ref().map_or(0, snapshot_size),
            WriteOp::Wipe => {
                let size = self.size();
                *self = Self::default();
                -size
            }
        }
    }

    /// What a backup taken now would hold; shares what never changes.
    pub(super) fn duplicate(&mut self) -> Self {
        let slots: Vec<(LogNo, Slot)> = self.slots().map(|(no, slot)| (no, slot.duplicate())).collect();
        let channels = self.channels.iter().map(|(id, channel)| {
            let record = channel.record();
            (*id, Channel { seen: Mutex::new(record.seen), record })
        });
        let mut copy = Self {
            channels: channels.collect(),
            peers: self.peers.clone(),
            node: self.node.clone(),
            snapshots: self.snapshots.clone(),
            ..Self::default()
        };
        for (no, slot) in slots {
            *copy.slot_mut(no) = slot;
        }
        copy
    }

    /// Bytes that everything occupies, counted.
    pub(super) fn size(&mut self) -> i64 {
        let channels = self.channels.len() * size_of::<Channel>();
        let logs: usize = self.live().map(|(_, log)| log.size()).sum();
        let peers: i64 = self.peers.values().map(peer_size).sum();
        let snapshots: i64 = self.snapshots.values().map(snapshot_size).sum();
        (channels + logs) as i64 + peers + snapshots
    }

    fn lines_mut(&mut self, no: LogNo) -> Option<&mut Lines> {
        match self.slot_mut(no) {
            Slot::Live(log) => Some(log.lines_mut()),
            Slot::NeverUsed | Slot::Removed => None,
        }
    }

    fn remove_channel(&mut self, id: ChannelId) -> i64 {
        let mut freed = self.channels.remove(&id).map_or(0, |_| size_of::<Channel>() as i64);
        for no in self.logs_of(id) {
            if let Slot::Live(mut log) = std::mem::replace(self.slot_mut(no), Slot::Removed) {
                freed += log.size() as i64;
            }
        }
        self.snapshots.retain(|key, record| {
            let stays = key.channel != id;
            freed += if stays { 0 } else { snapshot_size(record) };
            stays
        });
        -freed
    }
}

impl LogStore {
    fn size(&mut self) -> usize {
        size_of::<Slot>() + size_of::<Self>() + self.lines_mut().size()
    }
}

impl Slot {
    fn duplicate(&mut self) -> Self {
        match self {
            Self::NeverUsed => Self::NeverUsed,
            Self::Removed => Self::Removed,
            Self::Live(log) => Self::Live(Box::new(log.duplicate())),
        }
    }
}

fn peer_size(record: &PeerRecord) -> i64 {
    let addresses: usize = record.addresses.iter().map(|address| address.as_str().len()).sum();
    (size_of::<PeerRecord>() + record.label.len() + addresses) as i64
}

fn snapshot_size(record: &SnapshotRecord) -> i64 {
    (size_of::<SnapshotKey>() + size_of::<SnapshotRecord>() + record.state.len()) as i64
}
