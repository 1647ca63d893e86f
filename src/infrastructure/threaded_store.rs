//! [`ThreadedStore`]: a synchronous database as a [`Store`].
//!
//! One thread writes, in the order of submission, and makes whole groups of batches durable with one sync;
//! two threads read. No caller ever waits for a disk inside a poll. The threads end, and the backing is
//! released, at [`close`](Store::close) or when the store is dropped. The adapters for databases wrap this
//! type ([`forward_store!`](crate::forward_store)); applications use theirs.

use std::any::Any;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{oneshot, watch};

use super::packed::{Backing, MergeStep, PackedStore};
use crate::application::ports::{
    ChannelRepository, Completer, Durability, EntryRepository, NodeRecord, NodeRepository, PeerRecord,
    PeerRepository, Receipt, Residence, SnapshotKey, SnapshotRecord, SnapshotRepository, Store, StoreError,
    StoreUsage, StoredLog, WriteBatch, WriteOp,
};
use crate::domain::channel::ChannelRecord;
use crate::domain::head::Head;
use crate::domain::identity::Identity;
use crate::domain::log::{LineNo, LogNo};
use crate::domain::run::Run;

/// Reading threads: one may sit in a cold read while the other serves from the cache.
const READERS: usize = 2;
/// Batches of one group at most: bounds how long the first of them waits for its sync.
const GROUP_BATCHES: usize = 1024;
/// Appended bytes that enter the backing as one change at most: keeps its memory and its pauses small.
const GROUP_BYTES: usize = 2 * 1024 * 1024;
/// Quiet time after the last write before small chunks are merged: longer than a writer that waits for each
/// receipt needs to come back, shorter than anybody would notice.
const IDLE: Duration = Duration::from_millis(20);
/// Merge steps after which the backing is synced: only then can it reuse the space of what was merged.
const MERGES_PER_SYNC: u32 = 16;
/// Pause after the device was too full to merge.
const FULL_PAUSE: Duration = Duration::from_secs(5);

type Job<B> = Box<dyn FnOnce(&PackedStore<B>) + Send>;

#[expect(clippy::large_enum_variant, reason = "nearly every command is a submission")]
enum Command {
    Submit(WriteBatch, Completer),
    Hasten,
    Close,
}

/// A [`PackedStore`] behind threads of its own.
#[derive(Debug)]
pub struct ThreadedStore<B> {
    identity: Identity,
    residence: Residence,
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared<B>>,
    closed: watch::Receiver<Option<Result<(), StoreError>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared<B> {
    /// `None` once the store is closed.
    jobs: Mutex<Option<mpsc::Sender<Job<B>>>>,
    bytes: AtomicU64,
    /// Batches with an interval that are not durable yet: what [`Store::hasten`] could be about.
    lazy: AtomicU64,
    /// The reading threads, for whom the writing one waits at the end.
    readers: Vec<ThreadId>,
}

impl<B> std::fmt::Debug for Shared<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("bytes", &self.bytes).field("lazy", &self.lazy).finish_non_exhaustive()
    }
}

impl<B: Backing> ThreadedStore<B> {
    /// Opens a store on its writing thread, which is called `name`.
    ///
    /// Dropping the future lets the opening go on and closes the store right after.
    ///
    /// # Errors
    /// What `open` returns; [`StoreError::Io`] if it panics or no thread can be started.
    pub async fn open(
        name: &str,
        open: impl FnOnce() -> Result<PackedStore<B>, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (commands, queue) = mpsc::channel();
        let (opened, outcome) = oneshot::channel();
        let (closer, closed) = watch::channel(None);
        let readers_name = format!("{name}-read");
        let writer = spawn(name, move || {
            let ready = guarded(open).and_then(|store| {
                let store = Arc::new(store);
                let (jobs, readers) = readers(&readers_name, &store)?;
                let lazy = AtomicU64::new(0);
                let bytes = AtomicU64::new(store.usage().bytes);
                let ids = readers.iter().map(|reader| reader.thread().id()).collect();
                let shared = Arc::new(Shared { jobs: Mutex::new(Some(jobs)), bytes, lazy, readers: ids });
                Ok((store, shared, readers))
            });
            match ready {
                Ok((store, shared, readers)) => {
                    let face = (store.identity(), store.residence(), Arc::clone(&shared));
                    // If nobody waits any more, the queue is already disconnected and the writer ends at once.
                    let _ = opened.send(Ok(face));
                    Writer::new(store, shared, queue).run(readers, &closer);
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            }
        })?;
        let gone = || StoreError::Io("the store's thread died while opening".into());
        let (identity, residence, shared) = outcome.await.map_err(|_| gone())??;
        Ok(Self { identity, residence, commands, shared, closed, writer: Mutex::new(Some(writer)) })
    }

    /// Runs `job` on a reading thread.
    async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&PackedStore<B>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, outcome) = oneshot::channel();
        let job: Job<B> = Box::new(move |store| {
            let _ = answer.send(guarded(|| job(store)));
        });
        match &*lock(&self.shared.jobs) {
            Some(jobs) => jobs.send(job).map_err(|_| StoreError::Closed)?,
            None => return Err(StoreError::Closed),
        }
        outcome.await.map_err(|_| StoreError::Closed)?
    }
}

impl<B> Drop for ThreadedStore<B> {
    /// Waits until everything submitted is durable and the backing released, so that it can be reopened.
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Close);
        let Some(writer) = lock(&self.writer).take() else { return };
        let here = thread::current().id();
        // A waker that is called on one of its own threads may hold the last handle: no thread waits for itself.
        if writer.thread().id() != here && !self.shared.readers.contains(&here) {
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl<B: Backing> EntryRepository for ThreadedStore<B> {
    async fn logs(&self) -> Result<Vec<StoredLog>, StoreError> {
        self.ask(PackedStore::logs).await
    }

    async fn next_log(&self) -> Result<LogNo, StoreError> {
        self.ask(PackedStore::next_log).await
    }

    async fn read(
        &self,
        log: LogNo,
        line: LineNo,
        range: RangeInclusive<u64>,
        max_bytes: usize,
        backward: bool,
    ) -> Result<Option<Run>, StoreError> {
        self.ask(move |store| store.read(log, line, range, max_bytes, backward)).await
    }

    async fn block_heads(
        &self,
        log: LogNo,
        line: LineNo,
        range: RangeInclusive<u64>,
        limit: usize,
    ) -> Result<Vec<Head>, StoreError> {
        self.ask(move |store| store.block_heads(log, line, range, limit)).await
    }
}

#[async_trait]
impl<B: Backing> ChannelRepository for ThreadedStore<B> {
    async fn channels(&self) -> Result<Vec<ChannelRecord>, StoreError> {
        self.ask(PackedStore::channels).await
    }
}

#[async_trait]
impl<B: Backing> PeerRepository for ThreadedStore<B> {
    async fn peers(&self) -> Result<Vec<PeerRecord>, StoreError> {
        self.ask(PackedStore::peers).await
    }
}

#[async_trait]
impl<B: Backing> NodeRepository for ThreadedStore<B> {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn residence(&self) -> Residence {
        self.residence
    }

    async fn node(&self) -> Result<NodeRecord, StoreError> {
        self.ask(PackedStore::node).await
    }
}

#[async_trait]
impl<B: Backing> SnapshotRepository for ThreadedStore<B> {
    async fn snapshot(&self, key: &SnapshotKey) -> Result<Option<SnapshotRecord>, StoreError> {
        let key = key.clone();
        self.ask(move |store| store.snapshot(&key)).await
    }
}

#[async_trait]
impl<B: Backing> Store for ThreadedStore<B> {
    fn submit(&self, batch: WriteBatch) -> Receipt {
        let lazy = matches!(batch.durability, Durability::Interval(_));
        if lazy {
            self.shared.lazy.fetch_add(1, Ordering::AcqRel);
        }
        let (receipt, completer) = Receipt::pending();
        match self.commands.send(Command::Submit(batch, completer)) {
            Ok(()) => receipt,
            Err(_) => Receipt::ready(Err(StoreError::Closed)),
        }
    }

    fn hasten(&self) {
        if self.shared.lazy.load(Ordering::Acquire) > 0 {
            let _ = self.commands.send(Command::Hasten);
        }
    }

    fn usage(&self) -> StoreUsage {
        StoreUsage { bytes: self.shared.bytes.load(Ordering::Relaxed) }
    }

    async fn close(&self) -> Result<(), StoreError> {
        let _ = self.commands.send(Command::Close);
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(StoreError::Io("the store's thread died".into())),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[allow(clippy::disallowed_methods, reason = "when to sync is a matter of real time on a real disk")]
fn now() -> Instant {
    Instant::now()
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let spawned = thread::Builder::new().name(name.into()).spawn(run);
    spawned.map_err(|error| StoreError::Io(format!("no thread for the store: {error}").into()))
}

/// Calls into the database: its panic is an error of this call.
fn guarded<T>(call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

fn panicked(panic: &(dyn Any + Send)) -> StoreError {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    StoreError::Io(format!("the database panicked: {text}").into())
}

type Readers<B> = (mpsc::Sender<Job<B>>, Vec<JoinHandle<()>>);

fn readers<B: Backing>(name: &str, store: &Arc<PackedStore<B>>) -> Result<Readers<B>, StoreError> {
    let (jobs, queue) = mpsc::channel::<Job<B>>();
    let queue = Arc::new(Mutex::new(queue));
    let readers = (0..READERS).map(|_| {
        let (queue, store) = (Arc::clone(&queue), Arc::clone(store));
        spawn(name, move || {
            loop {
                let job = lock(&queue).recv();
                let Ok(job) = job else { return };
                job(&store);
            }
        })
    });
    Ok((jobs, readers.collect::<Result<_, _>>()?))
}

/// The writing thread's state.
struct Writer<B> {
    store: Arc<PackedStore<B>>,
    shared: Arc<Shared<B>>,
    queue: mpsc::Receiver<Command>,
    /// Taken from the queue, not yet applied, and the bytes they append.
    gathered: Vec<(WriteBatch, Completer)>,
    gathered_bytes: usize,
    /// Applied and visible, not yet durable; with whether each had an interval.
    unsynced: Vec<(Completer, bool)>,
    /// When the next sync is due at the latest.
    deadline: Option<Instant>,
    /// Something may be worth merging, from then on.
    merge_at: Option<Instant>,
    merged: u32,
    failure: Option<StoreError>,
    closing: bool,
}

impl<B: Backing> Writer<B> {
    fn new(store: Arc<PackedStore<B>>, shared: Arc<Shared<B>>, queue: mpsc::Receiver<Command>) -> Self {
        let merge_at = Some(now() + IDLE);
        Self {
            store,
            shared,
            queue,
            gathered: Vec::new(),
            gathered_bytes: 0,
            unsynced: Vec::new(),
            deadline: None,
            merge_at,
            merged: 0,
            failure: None,
            closing: false,
        }
    }

    /// Serves until told to close, then releases everything and says so to `closer`.
    fn run(mut self, readers: Vec<JoinHandle<()>>, closer: &watch::Sender<Option<Result<(), StoreError>>>) {
        while !self.closing {
            self.turn();
        }
        // What was queued behind the close is refused by dropping its completers below; reads end with the
        // jobs already queued.
        self.sync();
        self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        for reader in readers {
            let _ = reader.join();
        }
        let Self { store, queue, failure, shared, .. } = self;
        shared.bytes.store(store.usage().bytes, Ordering::Relaxed);
        let released = guarded(|| {
            drop(store);
            Ok(())
        });
        drop(queue);
        closer.send_replace(Some(failure.map_or(released, Err)));
    }

    /// Waits for something to do, and does it.
    fn turn(&mut self) {
        let wake = match (self.deadline, self.merge_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let first = match wake {
            Some(at) => self.queue.recv_timeout(at.saturating_duration_since(now())),
            None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let idle = first.is_err();
        match first {
            Ok(command) => self.take(command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.closing = true,
        }
        for _ in 1..GROUP_BATCHES {
            match self.queue.try_recv() {
                Ok(command) if !self.closing => self.take(command),
                _ => break,
            }
        }
        self.apply();
        if self.deadline.is_some_and(|at| at <= now()) {
            self.sync();
        }
        if self.closing || self.failure.is_some() {
            self.merge_at = None;
        } else if idle && self.merge_at.is_some_and(|at| at <= now()) {
            self.merge_at = self.merge();
        } else if self.store.merge_overdue() {
            self.merge();
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Submit(batch, completer) => {
                let size = |op: &WriteOp| if let WriteOp::Append { run, .. } = op { run.size() } else { 0 };
                self.gathered_bytes += batch.ops.iter().map(size).sum::<usize>();
                self.gathered.push((batch, completer));
                if self.gathered_bytes > GROUP_BYTES {
                    self.apply();
                }
            }
            Command::Hasten => {
                self.apply();
                self.deadline = self.deadline.map(|_| now());
            }
            Command::Close => self.closing = true,
        }
    }

    /// Applies what was gathered: together, or if that fails, one by one.
    fn apply(&mut self) {
        let group = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        if group.is_empty() {
            return;
        }
        let batches: Vec<&WriteBatch> = group.iter().map(|(batch, _)| batch).collect();
        let together = match &self.failure {
            Some(failure) => Err(failure.clone()),
            None => guarded(|| self.store.apply_together(&batches)),
        };
        let singly = group.len() > 1 && matches!(together, Err(StoreError::Full | StoreError::Misuse(_)));
        for (batch, completer) in group {
            let outcome = match &self.failure {
                Some(failure) => Err(failure.clone()),
                None if singly => guarded(|| self.store.apply(&batch)),
                None => together.clone(),
            };
            self.applied(batch.durability, completer, outcome);
        }
    }

    fn applied(&mut self, durability: Durability, completer: Completer, outcome: Result<(), StoreError>) {
        let within = match durability {
            Durability::Immediate => None,
            Durability::Interval(within) => Some(within),
        };
        match outcome {
            Ok(()) => {
                completer.visible();
                let now = now();
                // An interval beyond the end of the clock is "when the store is closed".
                let due = now.checked_add(within.unwrap_or_default());
                self.deadline = self.deadline.into_iter().chain(due).min();
                self.merge_at = Some(now + IDLE);
                self.unsynced.push((completer, within.is_some()));
            }
            Err(error @ (StoreError::Full | StoreError::Misuse(_) | StoreError::Poisoned(_))) => {
                self.settle(completer, within.is_some(), Err(error));
            }
            Err(error) => {
                // What was applied before may still become durable.
                self.sync();
                self.fail(&error);
                self.settle(completer, within.is_some(), Err(error));
            }
        }
    }

    /// Makes durable what was applied, and says so.
    fn sync(&mut self) {
        self.deadline = None;
        if !self.unsynced.is_empty() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let result = match &self.failure {
            Some(failure) => Err(failure.clone()),
            None => guarded(|| self.store.sync()),
        };
        self.deadline = None;
        self.shared.bytes.store(self.store.usage().bytes, Ordering::Relaxed);
        for (completer, lazy) in std::mem::take(&mut self.unsynced) {
            self.settle(completer, lazy, result.clone());
        }
        if let Err(error) = result {
            self.fail(&error);
        }
    }

    fn settle(&self, completer: Completer, lazy: bool, result: Result<(), StoreError>) {
        if lazy {
            self.shared.lazy.fetch_sub(1, Ordering::AcqRel);
        }
        completer.done(result);
    }

    /// From now on every write is refused: what is on disk is not known.
    fn fail(&mut self, error: &StoreError) {
        if self.failure.is_none() {
            tracing::error!(%error, "the store failed: it takes no writes until it is reopened");
            self.failure = Some(StoreError::Poisoned(error.to_string().into()));
        }
    }

    /// One step of merging small chunks; when the next is due.
    fn merge(&mut self) -> Option<Instant> {
        match guarded(|| self.store.merge_step()) {
            Ok(step) => {
                self.merged += 1;
                if self.merged.is_multiple_of(MERGES_PER_SYNC) || step == MergeStep::Idle {
                    self.flush();
                }
                (step == MergeStep::More).then(now)
            }
            Err(StoreError::Full) => Some(now() + FULL_PAUSE),
            Err(error @ StoreError::Corrupt(_)) => {
                tracing::warn!(%error, "a line is left unmerged");
                Some(now())
            }
            Err(error) => {
                self.sync();
                self.fail(&error);
                None
            }
        }
    }
}

/// Implements [`Store`] and its repositories for a tuple struct whose first field is another store.
///
/// For adapters whose type adds nothing to a [`ThreadedStore`] but the way to open it. Whoever names a function
/// besides the type, of the store and a batch, has it called in place of [`Store::submit`], as a test does that
/// holds or refuses some batches. The crate that uses it depends on `async-trait`.
#[macro_export]
macro_rules! forward_store {
    ($name:ty) => {
        $crate::forward_store!($name, |store, batch| store.0.submit(batch));
    };
    ($name:ty, $submit:expr) => {
        const _: () = {
            use $crate::application::ports::*;
            use $crate::domain::log::{LineNo, LogNo};

            #[::async_trait::async_trait]
            impl EntryRepository for $name {
                async fn logs(&self) -> Result<Vec<StoredLog>, StoreError> {
                    self.0.logs().await
                }
                async fn next_log(&self) -> Result<LogNo, StoreError> {
                    self.0.next_log().await
                }
                async fn read(
                    &self,
                    log: LogNo,
                    line: LineNo,
                    range: ::core::ops::RangeInclusive<u64>,
                    max_bytes: usize,
                    backward: bool,
                ) -> Result<Option<$crate::domain::run::Run>, StoreError> {
                    self.0.read(log, line, range, max_bytes, backward).await
                }
                async fn block_heads(
                    &self,
                    log: LogNo,
                    line: LineNo,
                    range: ::core::ops::RangeInclusive<u64>,
                    limit: usize,
                ) -> Result<Vec<$crate::domain::head::Head>, StoreError> {
                    self.0.block_heads(log, line, range, limit).await
                }
            }

            #[::async_trait::async_trait]
            impl ChannelRepository for $name {
                async fn channels(&self) -> Result<Vec<$crate::domain::channel::ChannelRecord>, StoreError> {
                    self.0.channels().await
                }
            }

            #[::async_trait::async_trait]
            impl PeerRepository for $name {
                async fn peers(&self) -> Result<Vec<PeerRecord>, StoreError> {
                    self.0.peers().await
                }
            }

            #[::async_trait::async_trait]
            impl NodeRepository for $name {
                fn identity(&self) -> $crate::domain::identity::Identity {
                    self.0.identity()
                }
                fn residence(&self) -> Residence {
                    self.0.residence()
                }
                async fn node(&self) -> Result<NodeRecord, StoreError> {
                    self.0.node().await
                }
            }

            #[::async_trait::async_trait]
            impl SnapshotRepository for $name {
                async fn snapshot(&self, key: &SnapshotKey) -> Result<Option<SnapshotRecord>, StoreError> {
                    self.0.snapshot(key).await
                }
            }

            #[::async_trait::async_trait]
            impl Store for $name {
                fn submit(&self, batch: WriteBatch) -> Receipt {
                    let submit: fn(&$name, WriteBatch) -> Receipt = $submit;
                    submit(self, batch)
                }
                fn hasten(&self) {
                    self.0.hasten();
                }
                fn usage(&self) -> StoreUsage {
                    self.0.usage()
                }
                async fn close(&self) -> Result<(), StoreError> {
                    self.0.close().await
                }
            }
        };
    };
}

#[cfg(test)]
mod tests;
