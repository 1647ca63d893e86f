//! A store in memory: for tests, simulations, caches and relays that need not survive a restart.
//!
//! It keeps the whole contract of [`Store`] except that its stable storage is the process: contents live as long
//! as a handle does. It never does I/O, never waits, and asks the system for randomness only to make an identity
//! that nobody gave it. A node is built over it; tests use [`reopen`](MemoryStore::reopen) for a restart and
//! [`backup`](MemoryStore::backup) for a restored or cloned device.
//!
//! # Locks
//!
//! A gate (`RwLock`) around everything, and a lock per log inside. A batch that only appends to one log and
//! raises `seen` stamps passes the gate shared and holds the lock of its log to its end. All other batches pass
//! the gate alone. Reads of one log pass the gate shared and take the lock of the log; reads of anything that
//! several batches may change side by side pass it alone. So no read sees half a batch, and what a read saw no
//! later read misses.

mod line;
mod rules;
mod shelf;

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;

use self::rules::{check, check_append, misuse};
use self::shelf::{Lines, Shelf};
use crate::application::ports::{
    ChannelRepository, EntryRepository, NodeRecord, NodeRepository, PeerRecord, PeerRepository, Receipt,
    Residence, SnapshotKey, SnapshotRecord, SnapshotRepository, Store, StoreError, StoreUsage, StoredLog,
    WriteBatch, WriteOp,
};
use crate::domain::channel::ChannelRecord;
use crate::domain::head::Head;
use crate::domain::identity::Identity;
use crate::domain::log::{Line, LineNo, LogNo};
use crate::domain::run::Run;
use crate::infrastructure::entropy::system_seed;

/// Context string (blake3 derive-key mode) of the identity that follows a wipe where randomness is not allowed.
const NEXT_IDENTITY_CONTEXT: &str = "anabranch 1 memory store: the identity after a wipe";

/// A [`Store`] in memory.
///
/// Clones are handles of the same open store: closing one closes all. The contents stay while a handle lives, and
/// [`reopen`](Self::reopen) opens them again.
///
/// ```
/// # use anabranch::infrastructure::memory_store::MemoryStore;
/// # use anabranch::application::ports::{NodeRepository as _, Store as _};
/// # futures::executor::block_on(async {
/// let store = MemoryStore::ephemeral()?;
/// store.close().await?;
/// let again = store.reopen()?;
/// assert_eq!(store.identity().node(), again.identity().node());
/// # Ok::<(), anabranch::application::ports::StoreError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct MemoryStore {
    backing: Arc<Backing>,
    opening: Arc<Opening>,
    identity: Identity,
    residence: Residence,
}

/// Everything a [`MemoryStore`] held at one moment, the identity included: a backup, or the image of a disk.
#[derive(Debug)]
pub struct MemoryBackup {
    contents: Mutex<Contents>,
}

/// What stays between two openings.
#[derive(Debug)]
struct Backing {
    gate: RwLock<Contents>,
    /// Bytes held; as of the last write.
    bytes: AtomicI64,
}

#[derive(Debug)]
struct Contents {
    shelf: Shelf,
    /// The secret; `None` after a wipe, until the next open.
    identity: Option<Identity>,
    source: IdentitySource,
    /// Number of the opening that has the store; `None` while it is closed.
    open: Option<u64>,
    openings: u64,
}

/// Where the identity after a wipe comes from.
#[derive(Debug, Clone)]
enum IdentitySource {
    /// The system's randomness.
    System,
    /// The identity before: a store that was given its identity stays a function of it, so that simulated runs
    /// with a wipe in them repeat.
    Previous(Identity),
}

/// One opening of a backing; ends when closed or when the last handle goes.
#[derive(Debug)]
struct Opening {
    no: u64,
    backing: Arc<Backing>,
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.backing.release(self.no);
    }
}

impl MemoryStore {
    /// A new, empty store of the node `identity`. Everything about it, even the identity after a wipe, is a
    /// function of the identity and of what is written.
    pub fn new(identity: Identity) -> Self {
        let source = IdentitySource::Previous(identity.clone());
        Self::of(Shelf::default(), Some(identity.clone()), source, identity, Residence::Same)
    }

    /// A new, empty store with an identity from the randomness of the operating system.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the system has no randomness to give.
    pub fn ephemeral() -> Result<Self, StoreError> {
        let identity = random_identity()?;
        let kept = Some(identity.clone());
        Ok(Self::of(Shelf::default(), kept, IdentitySource::System, identity, Residence::Same))
    }

    /// The same handle, reporting `residence`: lets a test say that the store was moved.
    #[must_use]
    pub fn with_residence(self, residence: Residence) -> Self {
        Self { residence, ..self }
    }

    /// Opens the contents again after [`Store::close`], as a restarted process would. Any handle will do.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while the store is open; [`StoreError::Io`] if it was wiped and the system has no
    /// randomness for a new identity. Nothing changed.
    pub fn reopen(&self) -> Result<Self, StoreError> {
        let mut contents = self.backing.exclusive()?;
        if contents.open.is_some() {
            return Err(StoreError::InUse("memory".into()));
        }
        let identity = contents.settle_identity()?;
        contents.openings += 1;
        let no = contents.openings;
        contents.open = Some(no);
        drop(contents);
        let opening = Arc::new(Opening { no, backing: Arc::clone(&self.backing) });
        Ok(Self { backing: Arc::clone(&self.backing), opening, identity, residence: Residence::Same })
    }

    /// What the store holds now, as a backup of the device would have it; works on a closed store too. Costs a
    /// copy of the records and of the end of each line; the rest is shared.
    pub fn backup(&self) -> MemoryBackup {
        let mut contents = self.backing.gate.write().unwrap_or_else(PoisonError::into_inner);
        MemoryBackup { contents: Mutex::new(contents.duplicate()) }
    }

    fn of(
        shelf: Shelf,
        kept: Option<Identity>,
        source: IdentitySource,
        identity: Identity,
        residence: Residence,
    ) -> Self {
        let mut contents = Contents { shelf, identity: kept, source, open: Some(0), openings: 0 };
        let bytes = AtomicI64::new(contents.shelf.size());
        let backing = Arc::new(Backing { gate: RwLock::new(contents), bytes });
        let opening = Arc::new(Opening { no: 0, backing: Arc::clone(&backing) });
        Self { backing, opening, identity, residence }
    }

    fn shared(&self) -> Result<RwLockReadGuard<'_, Contents>, StoreError> {
        let contents = self.backing.gate.read().map_err(poisoned)?;
        if contents.open == Some(self.opening.no) { Ok(contents) } else { Err(StoreError::Closed) }
    }

    fn exclusive(&self) -> Result<RwLockWriteGuard<'_, Contents>, StoreError> {
        let contents = self.backing.exclusive()?;
        if contents.open == Some(self.opening.no) { Ok(contents) } else { Err(StoreError::Closed) }
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut appends = batch.ops.iter().filter(|op| !matches!(op, WriteOp::SetSeen(..)));
        if let (Some(WriteOp::Append { log, line, run }), None) = (appends.next(), appends.next()) {
            return self.append(*log, line, run, &batch.ops);
        }
        let mut contents = self.exclusive()?;
        check(&contents.shelf, &batch.ops)?;
        let mut grown = 0;
        for op in batch.ops {
            if matches!(op, WriteOp::Wipe) {
                contents.identity = None;
            }
            grown += contents.shelf.apply(op);
        }
        self.backing.bytes.fetch_add(grown, Ordering::Relaxed);
        Ok(())
    }

    /// The short way of nearly every batch: one append, beside stamps that were seen.
    fn append(&self, log: LogNo, line: &Line, run: &Run, ops: &[WriteOp]) -> Result<(), StoreError> {
        let contents = self.shared()?;
        let shelf = &contents.shelf;
        let mut lines = lines(shelf, log)?.ok_or_else(|| misuse("Append: no such log"))?;
        check_append(lines.get(line.no).map(Into::into), line, run)?;
        let seen = || {
            ops.iter().filter_map(|op| if let WriteOp::SetSeen(id, at) = op { Some((id, at)) } else { None })
        };
        for (id, _) in seen() {
            if !shelf.channels.contains_key(id) {
                return Err(misuse("SetSeen: no such channel"));
            }
        }
        let grown = lines.append(line, run);
        for (id, stamp) in seen() {
            if let Some(channel) = shelf.channels.get(id) {
                channel.see(*stamp);
            }
        }
        drop(lines);
        self.backing.bytes.fetch_add(grown as i64, Ordering::Relaxed);
        Ok(())
    }
}

impl MemoryBackup {
    /// A new store with what was backed up: another device, or the same one in the past. It reports
    /// [`Residence::Moved`] and can be open beside the original, as a clone of a disk can.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the backup is of a wiped store and the system has no randomness for a new identity.
    pub fn restore(&self) -> Result<MemoryStore, StoreError> {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner).duplicate();
        let identity = contents.settle_identity()?;
        let Contents { shelf, identity: kept, source, .. } = contents;
        Ok(MemoryStore::of(shelf, kept, source, identity, Residence::Moved))
    }
}

impl Backing {
    fn exclusive(&self) -> Result<RwLockWriteGuard<'_, Contents>, StoreError> {
        self.gate.write().map_err(poisoned)
    }

    fn release(&self, opening: u64) {
        let mut contents = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        contents.open.take_if(|open| *open == opening);
    }
}

impl Contents {
    /// The identity, made now if the store was wiped.
    fn settle_identity(&mut self) -> Result<Identity, StoreError> {
        if let Some(identity) = &self.identity {
            return Ok(identity.clone());
        }
        let identity = match &self.source {
            IdentitySource::System => random_identity()?,
            IdentitySource::Previous(previous) => {
                let secret = blake3::derive_key(NEXT_IDENTITY_CONTEXT, previous.secret());
                Identity::with_scheme(secret, previous.scheme())
            }
        };
        if let IdentitySource::Previous(previous) = &mut self.source {
            *previous = identity.clone();
        }
        self.identity = Some(identity.clone());
        Ok(identity)
    }

    fn duplicate(&mut self) -> Self {
        let (identity, source) = (self.identity.clone(), self.source.clone());
        Self { shelf: self.shelf.duplicate(), identity, source, open: None, openings: 0 }
    }
}

/// The lines of a log, locked; `None` if there is no such log.
fn lines(shelf: &Shelf, log: LogNo) -> Result<Option<MutexGuard<'_, Lines>>, StoreError> {
    shelf.log(log).map(|log| log.lines.lock()).transpose().map_err(poisoned)
}

fn poisoned<T>(_: PoisonError<T>) -> StoreError {
    StoreError::Poisoned("a write to memory panicked".into())
}

fn random_identity() -> Result<Identity, StoreError> {
    let mut secret = system_seed()
        .map_err(|error| StoreError::Io(format!("the system has no randomness: {error}").into()))?;
    let identity = Identity::from_secret(secret);
    zeroize::Zeroize::zeroize(&mut secret);
    Ok(identity)
}

#[async_trait]
impl EntryRepository for MemoryStore {
    async fn logs(&self) -> Result<Vec<StoredLog>, StoreError> {
        Ok(self.exclusive()?.shelf.stored_logs())
    }

    async fn next_log(&self) -> Result<LogNo, StoreError> {
        Ok(self.exclusive()?.shelf.next_log())
    }

    async fn read(
        &self,
        log: LogNo,
        line: LineNo,
        range: RangeInclusive<u64>,
        max_bytes: usize,
        backward: bool,
    ) -> Result<Option<Run>, StoreError> {
        let contents = self.shared()?;
        let Some(lines) = lines(&contents.shelf, log)? else { return Ok(None) };
        lines.get(line).map_or(Ok(None), |line| line.read(range, max_bytes, backward))
    }

    async fn block_heads(
        &self,
        log: LogNo,
        line: LineNo,
        range: RangeInclusive<u64>,
        limit: usize,
    ) -> Result<Vec<Head>, StoreError> {
        let contents = self.shared()?;
        let lines = lines(&contents.shelf, log)?;
        let held = lines.as_ref().and_then(|lines| lines.get(line));
        Ok(held.map_or_else(Vec::new, |line| line.block_heads(range, limit)))
    }
}

#[async_trait]
impl ChannelRepository for MemoryStore {
    async fn channels(&self) -> Result<Vec<ChannelRecord>, StoreError> {
        Ok(self.exclusive()?.shelf.channels.values().map(|channel| channel.record()).collect())
    }
}

#[async_trait]
impl PeerRepository for MemoryStore {
    async fn peers(&self) -> Result<Vec<PeerRecord>, StoreError> {
        Ok(self.shared()?.shelf.peers.values().cloned().collect())
    }
}

#[async_trait]
impl NodeRepository for MemoryStore {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn residence(&self) -> Residence {
        self.residence
    }

    async fn node(&self) -> Result<NodeRecord, StoreError> {
        Ok(self.shared()?.shelf.node.clone())
    }
}

#[async_trait]
impl SnapshotRepository for MemoryStore {
    async fn snapshot(&self, key: &SnapshotKey) -> Result<Option<SnapshotRecord>, StoreError> {
        Ok(self.shared()?.shelf.snapshots.get(key).cloned())
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn submit(&self, batch: WriteBatch) -> Receipt {
        Receipt::ready(self.write(batch))
    }

    fn usage(&self) -> StoreUsage {
        StoreUsage { bytes: u64::try_from(self.backing.bytes.load(Ordering::Relaxed)).unwrap_or(0) }
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.backing.release(self.opening.no);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
