//! sled as a [`Backing`].
//!
//! sled 0.34 is used within what it does well: one tree, one writing thread, large batches, and the synchronous
//! `flush` (its asynchronous one can deadlock). Its background thread stays on, since that is what reclaims space.
//! A failure inside sled is final: it refuses everything afterwards, so a full device is detected beforehand.
//!
//! Small changes go into the [`Journal`] and, for readers, into an overlay on top of sled. When the journal is
//! full, or together with the next large change, sled takes them all in one atomic batch, and notes in it which
//! generation of the journal it took. So at any moment the contents are what sled has, and on top of it
//! the records of the one generation after that.

use std::cmp::Ordering as Order;
use std::ops::{Bound, ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use anabranch::application::ports::{StoreError, StoreUsage};
use anabranch::infrastructure::packed::{Backing, Changes};
use bytes::Bytes;

use crate::SledOptions;
use crate::files::{self, Files, SyncFile};
use crate::journal::{JOURNAL_BYTES, Journal, Overlay, Taken};

/// sled's unit of allocation. Fixed for the life of a store: sled refuses to open with another.
const SEGMENT_BYTES: usize = 4 * 1024 * 1024;
/// sled keeps up to 17 values in one node, and each of the 256 parts of its cache keeps at least one node, however little
/// it may hold. So nodes have to be small: some 70 KiB as they come about.
const VALUE_BYTES: usize = 8 * 1024;
/// A part of sled's cache looks whether it holds too much at every 64th access to its nodes, and not before. Whoever reads or
/// writes much in one place makes few, and sled would keep all of it. So nodes are looked at until their part has looked at
/// itself: this often …
const LOOKS: usize = 64;
/// … or this often, where it is about reading, which then keeps twice as much …
const READING_LOOKS: usize = 32;
/// … for every so many bytes of values: about a node.
const LOOKED_AT_BYTES: usize = 64 * 1024;
/// How often sled's own thread flushes and reclaims space: its default.
const BACKGROUND: Duration = Duration::from_millis(500);
/// Changes of at most this many bytes go into the journal: several steps of merging small chunks, so that small appends are
/// merged before they ever reach sled. Larger ones would be written twice for little.
const SMALL_BYTES: usize = 80 * 1024;
/// Where sled keeps its [`Taken`]: behind all keys of the layout.
const TAKEN_KEY: [u8; 2] = [0xff, b'j'];
/// The first key that is ours and not the layout's.
const OURS: [u8; 1] = [0xff];
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
    /// What sled has not taken yet. Readers look here first.
    overlay: RwLock<Overlay>,
    pen: Mutex<Pen>,
    path: PathBuf,
    bytes: AtomicU64,
    /// Bytes read from sled since it was last made to look at its cache.
    read: AtomicUsize,
    free_space: Box<FreeSpace>,
    _lock: std::fs::File,
}

/// What the writing thread has.
struct Pen {
    journal: Journal,
    files: Files,
    /// sled took changes since the last sync. Until the next one it takes all: a record must not get onto the
    /// disk before what it builds on.
    taking: bool,
    /// Keys that sled took since the last sync, one in about every node.
    taken: Vec<Vec<u8>>,
}

type FreeSpace = dyn Fn(&Path) -> std::io::Result<u64> + Send + Sync;

impl std::fmt::Debug for SledBacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledBacking").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SledBacking {
    pub(crate) fn open(path: &Path, options: &SledOptions) -> Result<Self, StoreError> {
        Self::open_with(path, options, Some(BACKGROUND), Arc::new(|_, file| file.sync_data()))
    }

    pub(crate) fn open_with(
        path: &Path,
        options: &SledOptions,
        background: Option<Duration>,
        sync: Arc<SyncFile>,
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
        let mut files = Files::new(&directory, Arc::clone(&sync))?;
        let taken = match db.get(TAKEN_KEY).map_err(|error| failed(&error))? {
            Some(value) => Taken::parse(&value)?,
            None => {
                // The file first: once sled has its note, a journal that is gone was lost.
                Journal::create(path)?;
                let taken = Taken { generation: 0, key: random()? };
                db.insert(TAKEN_KEY, taken.value()).map_err(|error| failed(&error))?;
                db.flush().map_err(|error| failed(&error))?;
                taken
            }
        };
        let bytes = AtomicU64::new(files.sync()? + JOURNAL_BYTES as u64);
        let (journal, overlay) = Journal::open(path, taken, sync)?;
        Ok(Self {
            db,
            overlay: RwLock::new(overlay),
            pen: Mutex::new(Pen { journal, files, taking: false, taken: Vec::new() }),
            path: path.to_owned(),
            bytes,
            read: AtomicUsize::new(0),
            free_space: Box::new(|path| fs2::available_space(path)),
            _lock: lock,
        })
    }

    /// Describes where the store lies.
    pub(crate) fn residence(&self) -> Result<Bytes, StoreError> {
        let place = self.pen().files.residence(&self.path);
        place.map(Bytes::from).map_err(|error| files::io_error("cannot look at", &self.path, &error))
    }

    fn pen(&self) -> MutexGuard<'_, Pen> {
        self.pen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sled drop what it caches too much of beside `key`.
    fn look_at_cache(&self, key: &[u8], looks: usize) -> Result<(), StoreError> {
        for _ in 0..looks {
            self.db.contains_key(key).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// So many bytes were read from sled, at `key` last.
    fn was_read(&self, key: &[u8], bytes: usize) -> Result<(), StoreError> {
        if self.read.fetch_add(bytes, Ordering::Relaxed) + bytes < LOOKED_AT_BYTES {
            return Ok(());
        }
        self.read.store(0, Ordering::Relaxed);
        self.look_at_cache(key, READING_LOOKS)
    }

    /// Puts `changes`, which the journal has, on top of sled.
    fn lay(&self, changes: &Changes) -> Result<(), StoreError> {
        let mut absent = Vec::new();
        for (key, value) in changes {
            if value.is_none() && !self.db.contains_key(key).map_err(|error| failed(&error))? {
                absent.push(key);
            }
        }
        let mut overlay = self.overlay.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            overlay.insert(key.clone(), value.as_deref().map(Bytes::copy_from_slice));
        }
        for key in absent {
            overlay.remove(key);
        }
        Ok(())
    }

    /// Lets sled take everything that is on top of it, and `changes`.
    fn take(&self, pen: &mut Pen, changes: &Changes) -> Result<(), StoreError> {
        let overlay = self.overlay();
        let ours = changes.iter().map(|(key, value)| (key, value.as_deref()));
        let waiting = overlay.iter().map(|(key, value)| (key, value.as_deref()));
        let size = |(key, value): (&Vec<u8>, Option<&[u8]>)| key.len() + value.map_or(0, <[u8]>::len);
        let bytes = waiting.clone().chain(ours.clone()).map(size).sum::<usize>();
        let needed = bytes as u64 * AMPLIFICATION + RESERVE_BYTES;
        // Where the free space cannot be told, the write itself will show.
        if (self.free_space)(&self.path).is_ok_and(|free| free < needed) {
            return Err(StoreError::Full);
        }
        let mut batch = sled::Batch::default();
        let mut unmarked = 0;
        // Later ones count.
        for (key, value) in waiting.chain(ours) {
            match value {
                Some(value) => {
                    unmarked += value.len();
                    if unmarked >= LOOKED_AT_BYTES {
                        unmarked = 0;
                        pen.taken.push(key.clone());
                    }
                    batch.insert(&key[..], value);
                }
                None => batch.remove(&key[..]),
            }
        }
        if !pen.taking {
            batch.insert(&TAKEN_KEY[..], pen.journal.next_taken().value());
        }
        self.db.apply_batch(batch).map_err(|error| failed(&error))?;
        pen.taking = true;
        drop(overlay);
        self.overlay.write().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }
}

#[allow(clippy::disallowed_methods, reason = "a key that nobody else may know")]
fn random() -> Result<[u8; 32], StoreError> {
    let mut key = [0; 32];
    let filled = getrandom::fill(&mut key).map(|()| key);
    filled.map_err(|error| StoreError::Io(format!("no randomness for the journal: {error}").into()))
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
        if let Some(value) = self.overlay().get(key) {
            return Ok(value.clone());
        }
        let value = self.db.get(key).map_err(|error| failed(&error))?;
        if let Some(value) = &value {
            self.was_read(key, value.len())?;
        }
        Ok(value.map(Bytes::from_owner))
    }

    fn scan(
        &self,
        range: Range<&[u8]>,
        backward: bool,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let range = range.start..range.end.min(&OURS);
        if range.start >= range.end {
            return Ok(());
        }
        let overlay = self.overlay();
        let bounds = (Bound::Included(range.start), Bound::Excluded(range.end));
        let mut upper = overlay.range::<[u8], _>(bounds);
        let mut upper =
            std::iter::from_fn(|| if backward { upper.next_back() } else { upper.next() }).peekable();
        let mut lower = self.db.range(range);
        let mut lower =
            std::iter::from_fn(|| if backward { lower.next_back() } else { lower.next() }).peekable();
        loop {
            // Which of the two comes next; of equal keys the upper one, instead of the lower.
            let order = match (upper.peek(), lower.peek()) {
                (None, None) => break,
                (None, Some(_)) | (Some(_), Some(Err(_))) => Order::Greater,
                (Some(_), None) => Order::Less,
                (Some((a, _)), Some(Ok((b, _)))) => {
                    let order = a.as_slice().cmp(b);
                    if backward { order.reverse() } else { order }
                }
            };
            if order != Order::Less
                && let Some(pair) = lower.next()
                && order == Order::Greater
            {
                let (key, value) = pair.map_err(|error| failed(&error))?;
                self.was_read(&key, value.len())?;
                if visit(&key, Bytes::from_owner(value)).is_break() {
                    break;
                }
            }
            if order != Order::Greater
                && let Some((key, Some(value))) = upper.next()
                && visit(key, value.clone()).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        let pen = &mut *self.pen();
        let size =
            |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len);
        let small = changes.iter().map(size).sum::<usize>() <= SMALL_BYTES;
        if small && !pen.taking && pen.journal.offer(changes) {
            return self.lay(changes);
        }
        self.take(pen, changes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        let pen = &mut *self.pen();
        if !pen.taking {
            return pen.journal.write();
        }
        self.db.flush().map_err(|error| failed(&error))?;
        for key in pen.taken.drain(..) {
            self.look_at_cache(&key, LOOKS)?;
        }
        let bytes = pen.files.sync()? + JOURNAL_BYTES as u64;
        pen.journal.begin();
        pen.taking = false;
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
