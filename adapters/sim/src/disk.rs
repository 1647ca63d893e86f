//! A modelled disk under the shipped store.
//!
//! It behaves as a database over a journal of checksummed records does: what was applied is in the journal's
//! cache until a sync. A crash keeps each unsynced record or not, each by a draw of its own, and may tear the
//! last one that it keeps; opening finds the longest prefix of whole records and drops the rest. Damage to
//! what is on the disk (rotten bits, a value written in another's place) is found by nobody here: that is what
//! the checksums of the store above are for.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch::infrastructure::packed::{Backing, Changes};
use anabranch::infrastructure::prng::Prng;
use anabranch::{StoreError, application::ports::StoreUsage};
use bytes::Bytes;

/// What a key and its value take besides their bytes.
const PAIR_COST: u64 = 16;

/// What was there before a record was applied.
type Undo = Vec<(Vec<u8>, Option<Bytes>)>;

#[derive(Debug, Default)]
struct Disk {
    map: BTreeMap<Vec<u8>, Bytes>,
    unsynced: Vec<Undo>,
    bytes: u64,
    /// Bytes beyond which it is full.
    capacity: Option<u64>,
    sync_fails: bool,
    write_fails: bool,
    open: bool,
    /// What faults came to.
    hits: DiskHits,
}

/// How often a disk did what no disk should.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DiskHits {
    pub(crate) full: u64,
    pub(crate) sync_failed: u64,
    pub(crate) write_failed: u64,
    pub(crate) lost: u64,
    pub(crate) torn: u64,
    pub(crate) survived: u64,
}

/// A disk. Clones are the same disk: the machine keeps one while the store above lives and dies.
#[derive(Debug, Clone, Default)]
pub struct SimDisk(Arc<Mutex<Disk>>);

/// What is on a disk at a moment.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    map: BTreeMap<Vec<u8>, Bytes>,
    bytes: u64,
}

impl SimDisk {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A store opens it; whether it was free.
    pub(crate) fn open(&self) -> bool {
        !std::mem::replace(&mut self.disk().open, true)
    }

    pub(crate) fn close(&self) {
        self.disk().open = false;
    }

    pub(crate) fn set_capacity(&self, capacity: Option<u64>) {
        self.disk().capacity = capacity;
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.disk().capacity.is_some()
    }

    pub(crate) fn used(&self) -> u64 {
        self.disk().bytes
    }

    pub(crate) fn set_sync_fails(&self, fails: bool) {
        self.disk().sync_fails = fails;
    }

    pub(crate) fn set_write_fails(&self, fails: bool) {
        self.disk().write_fails = fails;
    }

    pub(crate) fn take_hits(&self) -> DiskHits {
        std::mem::take(&mut self.disk().hits)
    }

    /// The machine loses power: what was not synced survives in part.
    pub(crate) fn crash(&self, prng: &mut Prng) {
        let mut disk = self.disk();
        let records = std::mem::take(&mut disk.unsynced);
        let torn = prng.below(2) == 0;
        let survived: Vec<bool> = records.iter().map(|_| prng.below(2) == 0).collect();
        let mut whole = survived.iter().take_while(|survived| **survived).count();
        if torn && whole > 0 {
            whole -= 1;
            disk.hits.torn += 1;
        }
        disk.hits.survived += whole as u64;
        disk.hits.lost += (records.len() - whole) as u64;
        for undo in records.into_iter().skip(whole).rev() {
            disk.roll_back(undo);
        }
        disk.sync_fails = false;
        disk.write_fails = false;
        disk.open = false;
    }

    /// What a copy of the synced contents holds.
    pub(crate) fn image(&self) -> Image {
        let disk = self.disk();
        let mut copy = Disk { map: disk.map.clone(), bytes: disk.bytes, ..Disk::default() };
        for undo in disk.unsynced.iter().rev() {
            copy.roll_back(undo.clone());
        }
        Image { map: copy.map, bytes: copy.bytes }
    }

    /// Puts the contents of a copy on this disk. No store may have it open.
    pub(crate) fn restore(&self, image: Image) {
        let mut disk = self.disk();
        *disk = Disk { map: image.map, bytes: image.bytes, hits: disk.hits, ..Disk::default() };
    }

    /// Flips one bit of one value; whether there was one.
    pub(crate) fn rot(&self, prng: &mut Prng) -> bool {
        let mut disk = self.disk();
        let Some(key) = disk.draw_key(prng) else { return false };
        let Some(value) = disk.map.get_mut(&key) else { return false };
        let mut bytes = value.to_vec();
        let bit = prng.below(bytes.len() as u64 * 8);
        let Some(byte) = bytes.get_mut((bit / 8) as usize) else { return false };
        *byte ^= 1 << (bit % 8);
        *value = bytes.into();
        true
    }

    /// Puts one value in the place of another; whether there were two.
    pub(crate) fn misdirect(&self, prng: &mut Prng) -> bool {
        let mut disk = self.disk();
        let (Some(from), Some(to)) = (disk.draw_key(prng), disk.draw_key(prng)) else { return false };
        if from == to {
            return false;
        }
        let value = disk.map.get(&from).cloned().unwrap_or_default();
        disk.map.insert(to, value);
        true
    }
}

impl Disk {
    fn draw_key(&self, prng: &mut Prng) -> Option<Vec<u8>> {
        let at = prng.below(self.map.len() as u64);
        self.map.keys().nth(at as usize).cloned()
    }

    fn roll_back(&mut self, undo: Undo) {
        for (key, old) in undo.into_iter().rev() {
            let new = match old {
                Some(old) => {
                    self.bytes += cost(&key, &old);
                    self.map.insert(key.clone(), old)
                }
                None => self.map.remove(&key),
            };
            if let Some(new) = new {
                self.bytes = self.bytes.saturating_sub(cost(&key, &new));
            }
        }
    }
}

fn cost(key: &[u8], value: &Bytes) -> u64 {
    key.len() as u64 + value.len() as u64 + PAIR_COST
}

impl Backing for SimDisk {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.disk().map.get(key).cloned())
    }

    fn scan(
        &self,
        range: Range<&[u8]>,
        backward: bool,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        if range.start >= range.end {
            return Ok(());
        }
        let disk = self.disk();
        let bounds = (std::ops::Bound::Included(range.start), std::ops::Bound::Excluded(range.end));
        let mut pairs = disk.map.range::<[u8], _>(bounds);
        while let Some((key, value)) = if backward { pairs.next_back() } else { pairs.next() } {
            if visit(key, value.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        let mut disk = self.disk();
        if disk.write_fails {
            disk.hits.write_failed += 1;
            return Err(StoreError::Io("the simulated disk failed a write".into()));
        }
        if let Some(capacity) = disk.capacity {
            let added: u64 = changes
                .iter()
                .filter_map(|(key, value)| Some((key.len() + value.as_ref()?.len()) as u64 + PAIR_COST))
                .sum();
            if disk.bytes + added > capacity {
                disk.hits.full += 1;
                return Err(StoreError::Full);
            }
        }
        let mut undo = Undo::with_capacity(changes.len());
        for (key, value) in changes {
            let old = match value {
                Some(value) => {
                    let value = Bytes::copy_from_slice(value);
                    disk.bytes += cost(key, &value);
                    disk.map.insert(key.clone(), value)
                }
                None => disk.map.remove(key),
            };
            if let Some(old) = &old {
                disk.bytes = disk.bytes.saturating_sub(cost(key, old));
            }
            undo.push((key.clone(), old));
        }
        disk.unsynced.push(undo);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut disk = self.disk();
        if disk.sync_fails {
            disk.hits.sync_failed += 1;
            return Err(StoreError::Io("the simulated disk failed a sync".into()));
        }
        disk.unsynced.clear();
        Ok(())
    }

    fn usage(&self) -> StoreUsage {
        StoreUsage { bytes: self.disk().bytes }
    }
}
