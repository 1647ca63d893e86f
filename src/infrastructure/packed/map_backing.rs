//! A backing in memory with a model of a disk under it: for tests of what lies above.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::backing::{Backing, Changes};
use crate::application::ports::{StoreError, StoreUsage};

/// What the next calls of a [`MapBacking`] come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// They succeed.
    None,
    /// An `apply` of more than so many bytes finds the device full.
    FullAbove(usize),
    /// An `apply` fails, and nobody knows what became of it.
    Apply,
    /// A `sync` fails.
    Sync,
}

#[derive(Debug)]
struct Disk {
    map: BTreeMap<Vec<u8>, Bytes>,
    durable: BTreeMap<Vec<u8>, Bytes>,
    fault: Fault,
    syncs: u64,
    applies: u64,
}

/// An ordered map. Clones share it: keep one to look at the disk, to break it and to crash it.
#[derive(Debug, Clone)]
pub struct MapBacking {
    disk: Arc<Mutex<Disk>>,
    value_bytes: usize,
}

impl MapBacking {
    /// An empty disk whose values should have at most `value_bytes`.
    pub fn new(value_bytes: usize) -> Self {
        let (map, durable) = Default::default();
        let disk = Disk { map, durable, fault: Fault::None, syncs: 0, applies: 0 };
        Self { disk: Arc::new(Mutex::new(disk)), value_bytes }
    }

    /// Lets the following calls fail.
    pub fn set_fault(&self, fault: Fault) {
        self.disk().fault = fault;
    }

    /// Number of `sync` calls so far.
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// Number of `apply` calls so far.
    pub fn applies(&self) -> u64 {
        self.disk().applies
    }

    /// Number of clones alive, this one included.
    pub fn handles(&self) -> usize {
        Arc::strong_count(&self.disk)
    }

    /// What a machine that crashed now would find: a disk of its own.
    pub fn crashed(&self) -> Self {
        let fresh = Self::new(self.value_bytes);
        let durable = self.disk().durable.clone();
        fresh.disk().map.clone_from(&durable);
        fresh.disk().durable = durable;
        fresh
    }

    /// All keys and values.
    pub fn contents(&self) -> BTreeMap<Vec<u8>, Bytes> {
        self.disk().map.clone()
    }

    /// Overwrites one value behind the store's back.
    pub fn tamper(&self, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk();
        let mut value = disk.map.get(key).map(|value| value.to_vec()).unwrap_or_default();
        change(&mut value);
        disk.map.insert(key.to_vec(), value.into());
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backing for MapBacking {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.disk().map.get(key).cloned())
    }

    fn scan(
        &self,
        range: Range<&[u8]>,
        backward: bool,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let disk = self.disk();
        let mut pairs = disk.map.range(range.start.to_vec()..range.end.to_vec());
        while let Some((key, value)) = if backward { pairs.next_back() } else { pairs.next() } {
            if visit(key, value.clone()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        let mut disk = self.disk();
        let bytes: usize = changes.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Vec::len)).sum();
        match disk.fault {
            Fault::FullAbove(limit) if bytes > limit => return Err(StoreError::Full),
            Fault::Apply => return Err(StoreError::Io("injected failure of a write".into())),
            _ => {}
        }
        disk.applies += 1;
        for (key, value) in changes {
            match value {
                Some(value) => disk.map.insert(key.clone(), Bytes::copy_from_slice(value)),
                None => disk.map.remove(key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut disk = self.disk();
        if disk.fault == Fault::Sync {
            return Err(StoreError::Io("injected failure of a sync".into()));
        }
        disk.durable = disk.map.clone();
        disk.syncs += 1;
        Ok(())
    }

    fn usage(&self) -> StoreUsage {
        let disk = self.disk();
        StoreUsage { bytes: disk.map.iter().map(|(k, v)| (k.len() + v.len()) as u64).sum() }
    }

    fn value_bytes(&self) -> usize {
        self.value_bytes
    }
}
