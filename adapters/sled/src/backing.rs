//! sled as a [`Backing`].
//!
//! sled 0.34 is used within what it does well: one tree, one writing thread, batches, and the synchronous `flush`
//! (its asynchronous one can deadlock). Its background thread stays on, since that is what reclaims space. A
//! failure inside sled is final: it refuses everything afterwards, so a full device is detected beforehand.

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anabranch::application::ports::{StoreError, StoreUsage};
use anabranch::infrastructure::packed::{Backing, Changes};
use bytes::Bytes;

use crate::SledOptions;
use crate::files::{self, Files, SyncFile};

/// sled's unit of allocation. Fixed for the life of a store: sled refuses to open with another.
const SEGMENT_BYTES: usize = 4 * 1024 * 1024;
/// sled keeps up to 17 values in one node, and writes a node of more than a quarter segment to a file of its
/// own each time it changes. This keeps nodes just below: 17 * 56 KiB < 1 MiB.
const VALUE_BYTES: usize = 56 * 1024;
/// How often sled's own thread flushes and reclaims space: its default.
const BACKGROUND: Duration = Duration::from_millis(500);
/// Space that must stay free besides what a write needs: two segments, which sled allocates as a whole.
const RESERVE_BYTES: u64 = 2 * SEGMENT_BYTES as u64;
/// What sled may write at once for one byte of ours: the value, and later its node.
const AMPLIFICATION: u64 = 4;
/// sled's threads may hold its lock for a moment after a database was dropped (they finish truncating the file);
/// nobody else can, since we hold ours.
const OPEN_TRIES: u32 = 200;
const OPEN_PAUSE: Duration = Duration::from_millis(10);

pub(crate) struct SledBacking {
    // Dropped in this order: sled first, our lock last.
    db: sled::Db,
    files: Mutex<Files>,
    path: PathBuf,
    bytes: AtomicU64,
    free_space: Box<FreeSpace>,
    _lock: std::fs::File,
}

type FreeSpace = dyn Fn(&Path) -> std::io::Result<u64> + Send + Sync;

impl std::fmt::Debug for SledBacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledBacking").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SledBacking {
    pub(crate) fn open(path: &Path, options: &SledOptions) -> Result<Self, StoreError> {
        Self::open_with(path, options, Some(BACKGROUND), Box::new(|_, file| file.sync_data()))
    }

    pub(crate) fn open_with(
        path: &Path,
        options: &SledOptions,
        background: Option<Duration>,
        sync: Box<SyncFile>,
    ) -> Result<Self, StoreError> {
        let lock = files::claim(path)?;
        let directory = path.join(files::SLED);
        let config = sled::Config::new()
            .path(&directory)
            .cache_capacity(options.cache_bytes)
            .segment_size(SEGMENT_BYTES)
            .flush_every_ms(background.map(|every| every.as_millis() as u64));
        let mut tries = OPEN_TRIES;
        let db = loop {
            match config.open() {
                Ok(db) => break db,
                Err(error) if is_locked(&error) && tries > 0 => {
                    tries -= 1;
                    files::pause(OPEN_PAUSE);
                }
                Err(error) if is_locked(&error) => {
                    return Err(StoreError::InUse(path.display().to_string().into()));
                }
                Err(error) => return Err(failed(&error)),
            }
        };
        let mut files = Files::new(&directory, sync)?;
        let bytes = AtomicU64::new(files.sync()?);
        let (files, path) = (Mutex::new(files), path.to_owned());
        Ok(Self {
            db,
            files,
            path,
            bytes,
            free_space: Box::new(|path| fs2::available_space(path)),
            _lock: lock,
        })
    }

    /// Describes where the store lies.
    pub(crate) fn residence(&self) -> Result<Bytes, StoreError> {
        let place = self.files.lock().unwrap_or_else(PoisonError::into_inner).residence(&self.path);
        place.map(Bytes::from).map_err(|error| files::io_error("cannot look at", &self.path, &error))
    }
}

fn is_locked(error: &sled::Error) -> bool {
    // sled gives this no type of its own.
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

fn failed(error: &sled::Error) -> StoreError {
    match error {
        sled::Error::Corruption { .. } => StoreError::Corrupt(error.to_string().into()),
        other => StoreError::Io(other.to_string().into()),
    }
}

impl Backing for SledBacking {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.db.get(key).map_err(|error| failed(&error))?.map(Bytes::from_owner))
    }

    fn scan(
        &self,
        range: Range<&[u8]>,
        backward: bool,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut pairs = self.db.range(range);
        while let Some(pair) = if backward { pairs.next_back() } else { pairs.next() } {
            let (key, value) = pair.map_err(|error| failed(&error))?;
            if visit(&key, Bytes::from_owner(value)).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        let size =
            |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len);
        let needed = changes.iter().map(size).sum::<usize>() as u64 * AMPLIFICATION + RESERVE_BYTES;
        // Where the free space cannot be told, the write itself will show.
        if (self.free_space)(&self.path).is_ok_and(|free| free < needed) {
            return Err(StoreError::Full);
        }
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&key[..], &value[..]),
                None => batch.remove(&key[..]),
            }
        }
        self.db.apply_batch(batch).map_err(|error| failed(&error))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|error| failed(&error))?;
        let bytes = self.files.lock().unwrap_or_else(PoisonError::into_inner).sync()?;
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn usage(&self) -> StoreUsage {
        StoreUsage { bytes: self.bytes.load(Ordering::Relaxed) }
    }

    fn value_bytes(&self) -> usize {
        VALUE_BYTES
    }
}

#[cfg(test)]
mod tests;
