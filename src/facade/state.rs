//! State folded from a stream: handles that fold when they are asked.
//!
//! Nothing is folded in the background: [`StateHandle::get`] and [`StateChanges`] fold what is new in the task
//! that calls them, a portion at a time, committing state and position together. So a call may be dropped at any
//! await, and the next one goes on from there. The folding itself is `application::checkpoints`; here are the
//! reading, the waiting, the saving, and the containment of user code that panics.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use tokio::sync::Mutex;

use super::stream::EventStream;
use crate::application::checkpoints::{Checkpoint, Checkpoints, Offered};
use crate::application::log_cell::Changed;
use crate::application::ports::{
    Durability, Receipt, SnapshotKey, SnapshotRecord, StoreError, WriteBatch, WriteOp,
};
use crate::application::reader::{OrderedReader, Positions, Ready, Snapshot};
use crate::domain::event::Fault;
use crate::domain::log::LineNo;
pub use crate::domain::materializer::{FoldError, StateMaterializer};
use crate::domain::version::VersionVector;

/// Entries folded before other tasks of the executor get their turn: well under a millisecond of a cheap fold.
const FOLDS_PER_TURN: u64 = 1024;
/// Entries folded since the last save before the state is saved by itself: so few are folded again in no time.
const SAVE_AFTER: u64 = 4096;
/// Of a large state, this share must be new before it is saved by itself, so that saving costs no more than a
/// constant number of encodings per entry.
const SAVE_SHARE: u64 = 16;
/// A state saved by itself is durable at most this much later: losing it costs folding again, nothing else.
const SAVE_WITHIN: Duration = Duration::from_secs(1);
/// Distinct causes of refusal that one materialization reports; beyond that they are only counted.
const REPORTED_CAUSES: usize = 64;

/// A state cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The materializer panicked: a fault of the application. Its state is unavailable until
    /// [`StateHandle::reset`]; nothing else is affected.
    #[error("the materializer {name} panicked: its state is unavailable until it is reset")]
    Panicked {
        /// Its name.
        name: &'static str,
    },
    /// The node was closed. Nothing changed.
    #[error("the node is closed")]
    Closed,
    /// The channel was removed, and the stream with it.
    #[error("the channel was removed")]
    ChannelRemoved,
    /// The store failed. What was folded so far is kept, and a later call goes on from there.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Handle of a materialized state. A cheap clone; all clones share one state.
///
/// Each call of [`EventStream::materialize`] makes a state of its own, which folds on its own: keep the handle
/// and clone it. States of one name, version and stream share what is saved.
///
/// # Concurrency and cancellation
/// Calls wait for one another, first come first served, and every one of them may be dropped at any point: what
/// was folded stays folded. A future that is neither polled nor dropped halts the others.
pub struct StateHandle<M: StateMaterializer>(Arc<Shared<M>>);

struct Shared<M: StateMaterializer> {
    stream: EventStream,
    materializer: M,
    turn: Mutex<Turn<M::State>>,
    /// Copy of the count, for callers that do not wait.
    refused: AtomicU64,
    /// Wakes those who wait for changes: after a reset all is new, though the stream is not.
    resets: Changed,
}

/// What only the one that folds touches.
struct Turn<S> {
    folded: Checkpoints<S>,
    /// Version of the stream up to which everything is folded.
    seen: Option<u64>,
    panicked: bool,
    reported: BTreeSet<Arc<str>>,
    /// Entries folded since the last save.
    unsaved: u64,
    saving: Option<Receipt>,
}

/// Why a portion ended.
enum Portion {
    Spent,
    Fill,
    Late,
    End,
}

impl<M: StateMaterializer> StateHandle<M> {
    pub(super) async fn open(stream: &EventStream, materializer: M) -> Result<Self, StateError> {
        let initial = contain::<M, _>(stream, || materializer.initial())?;
        let turn = Turn {
            folded: Checkpoints::new(initial),
            seen: None,
            panicked: false,
            reported: BTreeSet::new(),
            unsaved: 0,
            saving: None,
        };
        let stream = stream.clone();
        let refused = AtomicU64::new(0);
        let mut shared =
            Shared { stream, materializer, turn: Mutex::new(turn), refused, resets: Changed::default() };
        shared.load().await?;
        Ok(Self(Arc::new(shared)))
    }

    /// The state, with everything folded that the stream held when this was called.
    ///
    /// Folds what is new in the task of the caller, letting other tasks run now and then. Costs one clone of the
    /// state at the next fold if the returned one is still held then.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn get(&self) -> Result<Arc<M::State>, StateError> {
        Ok(self.0.current().await?.0)
    }

    /// The state as it is, then each time it changed. Folds when polled; what came in between is folded at once,
    /// so a slow reader skips states but always gets to the newest.
    ///
    /// After an error of the store it ends; after a panic it goes on when the state is reset. It ends without an
    /// error when the channel is removed or the node closed.
    pub fn changes(&self) -> StateChanges<M> {
        let watcher = Watcher { shared: Arc::clone(&self.0), handed_out: None, told: false, ended: false };
        let states = futures::stream::unfold(watcher, |mut watcher| async move {
            let state = watcher.next().await?;
            Some((state, watcher))
        });
        StateChanges(states.boxed())
    }

    /// Forgets the state, its checkpoints and what was saved of it; the next [`get`](Self::get) folds from the
    /// beginning of the stream. The way out of a panic.
    ///
    /// # Errors
    /// [`StateError::Panicked`] if `initial` panics; the store's, after which the state is reset, but what was
    /// saved may still be there. Dropped before it returns, it may have happened or not.
    pub async fn reset(&self) -> Result<(), StateError> {
        let shared = &*self.0;
        let mut turn = shared.turn.lock().await;
        shared.check_open()?;
        let initial = contain::<M, _>(&shared.stream, || shared.materializer.initial())?;
        turn.folded.restart(initial);
        turn.seen = None;
        turn.panicked = false;
        turn.unsaved = 0;
        shared.refused.store(0, Ordering::Relaxed);
        shared.resets.bump();
        let forget = WriteBatch::new([WriteOp::RemoveSnapshot(shared.key())]);
        let receipt = shared.stream.node.replica.store.submit(forget);
        receipt.durable().await.map_err(|error| shared.failed(error))
    }

    /// Saves the state as folded so far, durably, so that after a restart folding goes on from here. Whether
    /// there was something to save: `false` if the materializer's `save` returned `None`.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn save(&self) -> Result<bool, StateError> {
        let shared = &*self.0;
        let mut turn = shared.turn.lock().await;
        shared.check_usable(&turn)?;
        let Some(receipt) = shared.submit_save(&mut turn, Durability::Immediate)? else { return Ok(false) };
        drop(turn);
        receipt.durable().await.map_err(|error| shared.failed(error))?;
        Ok(true)
    }

    /// Entries that the materializer refused, among those folded so far. Each counts once, however often it was
    /// folded.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Up to where entries were folded so far.
    pub async fn version(&self) -> VersionVector {
        let turn = self.0.turn.lock().await;
        self.0.vector(&turn.folded.head().positions)
    }
}

impl<M: StateMaterializer> Shared<M> {
    fn key(&self) -> SnapshotKey {
        SnapshotKey {
            channel: self.stream.channel_id(),
            stream: self.stream.id().clone(),
            name: M::NAME.to_owned(),
            version: M::VERSION,
        }
    }

    fn check_open(&self) -> Result<(), StateError> {
        if self.stream.node.replica.is_closed() {
            Err(StateError::Closed)
        } else if self.stream.channel.is_removed() {
            Err(StateError::ChannelRemoved)
        } else {
            Ok(())
        }
    }

    fn check_usable(&self, turn: &Turn<M::State>) -> Result<(), StateError> {
        self.check_open()?;
        if turn.panicked { Err(StateError::Panicked { name: M::NAME }) } else { Ok(()) }
    }

    /// What an error of the store means: a channel or node that went away underway makes reads fail.
    fn failed(&self, error: StoreError) -> StateError {
        self.check_open().err().unwrap_or(StateError::Store(error))
    }

    /// Folds everything that the stream holds now: the state, and how often it changed so far.
    async fn current(&self) -> Result<(Arc<M::State>, u64), StateError> {
        let mut turn = self.turn.lock().await;
        self.check_usable(&turn)?;
        self.look_after_save(&mut turn);
        let version = self.stream.cell.changed.version();
        if turn.seen != Some(version) {
            self.fold(&mut turn).await?;
            turn.seen = Some(version);
            let folded = turn.folded.head().folded;
            if turn.unsaved >= SAVE_AFTER.max(folded / SAVE_SHARE) && turn.saving.is_none() {
                turn.saving = self.submit_save(&mut turn, Durability::Interval(SAVE_WITHIN))?;
            }
        }
        Ok((Arc::clone(&turn.folded.head().state), turn.folded.changes()))
    }

    async fn fold(&self, turn: &mut Turn<M::State>) -> Result<(), StateError> {
        let snapshot = Snapshot::of(&self.stream.cell);
        loop {
            let spans = snapshot.spans_after(&turn.folded.head().positions);
            let mut left: u64 = spans.iter().map(|span| span.to.saturating_sub(span.from)).sum();
            let mut reader = OrderedReader::new(Arc::clone(&self.stream.node.replica.store), spans, false);
            loop {
                match self.fold_portion(turn, &mut reader, &mut left)? {
                    Portion::Fill => reader.fill().await.map_err(|error| self.failed(error))?,
                    Portion::Spent => yield_now().await,
                    Portion::Late => break,
                    Portion::End => return Ok(()),
                }
            }
        }
    }

    /// Folds what the reader has at hand, at most so many that other tasks do not notice.
    fn fold_portion(
        &self,
        turn: &mut Turn<M::State>,
        reader: &mut OrderedReader,
        left: &mut u64,
    ) -> Result<Portion, StateError> {
        let mut refusals = Vec::new();
        let portion = contain::<M, _>(&self.stream, || {
            for _ in 0..FOLDS_PER_TURN {
                let (entry, line) = match reader.ready() {
                    Ready::Entry(entry, line) => (entry, line),
                    Ready::Fill => return Portion::Fill,
                    Ready::End => return Portion::End,
                };
                *left = left.saturating_sub(1);
                match turn.folded.offer(&self.materializer, &entry, line, *left) {
                    Offered::Folded => turn.unsaved += 1,
                    Offered::Refused(error) => {
                        turn.unsaved += 1;
                        if turn.reported.len() < REPORTED_CAUSES && !turn.reported.contains(error.message()) {
                            turn.reported.insert(Arc::clone(error.message()));
                            refusals.push(error);
                        }
                    }
                    Offered::Late => return Portion::Late,
                }
            }
            Portion::Spent
        });
        turn.panicked = portion.is_err();
        self.refused.store(turn.folded.head().refused, Ordering::Relaxed);
        for refusal in refusals {
            let reason = Arc::clone(refusal.message());
            let cause = format!("fold {} of {}: {reason}", M::NAME, self.stream.id());
            let fault = || Fault::FoldRefused { name: M::NAME, reason };
            self.stream.node.replica.notices.fault_once(&cause, None, fault);
        }
        portion
    }

    /// Starts from the saved state, if there is one and the stream still holds what it covers.
    async fn load(&mut self) -> Result<(), StateError> {
        self.check_open()?;
        let replica = &self.stream.node.replica;
        let saved = replica.store.snapshot(&self.key()).await.map_err(|error| self.failed(error))?;
        let Some(saved) = saved else { return Ok(()) };
        let snapshot = Snapshot::of(&self.stream.cell);
        if !self.holds(&snapshot, &saved.position).await.map_err(|error| self.failed(error))? {
            return Ok(());
        }
        let positions =
            snapshot.resolve(replica, &saved.position).await.map_err(|error| self.failed(error))?;
        let bases = snapshot
            .logs
            .iter()
            .flat_map(|(log, lines)| lines.iter().map(|line| ((log.no, line.no), line.base().sequence)));
        let folded =
            bases.filter_map(|(line, base)| Some(positions.get(&line)?.sequence.saturating_sub(base))).sum();
        let materializer = &self.materializer;
        match contain::<M, _>(&self.stream, || materializer.load(&saved.state)) {
            Ok(Some(state)) => {
                let loaded = Checkpoint::loaded(state, positions, saved.last, folded, saved.refused);
                self.turn.get_mut().folded.load(loaded);
                *self.refused.get_mut() = saved.refused;
            }
            Ok(None) => {}
            // The handle is handed out all the same: a reset forgets what it cannot load.
            Err(_) => self.turn.get_mut().panicked = true,
        }
        Ok(())
    }

    /// Whether every entry that `position` names is held. Entries may have gone since: an older copy of the
    /// store was restored, or the author's log was compacted.
    async fn holds(&self, snapshot: &Snapshot, position: &VersionVector) -> Result<bool, StoreError> {
        for (author, tips) in position.iter() {
            let Some((log, lines)) = snapshot.logs.iter().find(|(log, _)| log.name.author == *author) else {
                return Ok(false);
            };
            for tip in tips {
                let mut held = false;
                for line in lines {
                    held = held || self.stream.node.replica.runs_through(log, line, *tip).await?;
                }
                if !held {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Hands the state to the store, if the materializer saves it.
    fn submit_save(
        &self,
        turn: &mut Turn<M::State>,
        durability: Durability,
    ) -> Result<Option<Receipt>, StateError> {
        let head = turn.folded.head();
        let encoded = contain::<M, _>(&self.stream, || self.materializer.save(&head.state));
        turn.panicked = encoded.is_err();
        turn.unsaved = 0;
        let Some(state) = encoded? else { return Ok(None) };
        let head = turn.folded.head();
        let position = self.vector(&head.positions);
        let record = SnapshotRecord { position, last: head.last, refused: head.refused, state };
        let op = WriteOp::PutSnapshot(self.key(), record);
        let batch = WriteBatch { durability, ..WriteBatch::new([op]) };
        // Held while it is submitted: a removal of the channel comes after it, and takes it along.
        let _state = self.stream.channel.hold();
        self.check_open()?;
        Ok(Some(self.stream.node.replica.store.submit(batch)))
    }

    /// A save that failed is reported (I9), and otherwise harmless: the state is folded again.
    fn look_after_save(&self, turn: &mut Turn<M::State>) {
        match turn.saving.as_ref().and_then(Receipt::settled) {
            Some(Ok(())) => turn.saving = None,
            Some(Err(error)) => {
                turn.saving = None;
                let notices = &self.stream.node.replica.notices;
                notices.counters.store_failures.add(1);
                notices.fault(Fault::Store(error.to_string().into()));
            }
            None => {}
        }
    }

    fn vector(&self, positions: &Positions) -> VersionVector {
        let mut version = VersionVector::START;
        for log in self.stream.cell.logs() {
            let lines = (log.no, LineNo(0))..=(log.no, LineNo(u16::MAX));
            version.set(log.name.author, positions.range(lines).map(|(_, tip)| *tip));
        }
        version
    }
}

/// Runs code of the application; a panic is reported and fails the state.
fn contain<M: StateMaterializer, T>(stream: &EventStream, code: impl FnOnce() -> T) -> Result<T, StateError> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|_| {
        let notices = &stream.node.replica.notices;
        notices.counters.panics.add(1);
        notices.fault(Fault::FoldPanicked { name: M::NAME });
        StateError::Panicked { name: M::NAME }
    })
}

/// Lets other tasks of the executor run, whichever it is.
async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// States as they change; made by [`StateHandle::changes`].
pub struct StateChanges<M: StateMaterializer>(BoxStream<'static, Result<Arc<M::State>, StateError>>);

impl<M: StateMaterializer> StateChanges<M> {
    /// The newest state that was not handed out yet; waits for one. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Arc<M::State>, StateError>> {
        self.0.next().await
    }
}

impl<M: StateMaterializer> Stream for StateChanges<M> {
    type Item = Result<Arc<M::State>, StateError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

struct Watcher<M: StateMaterializer> {
    shared: Arc<Shared<M>>,
    /// The change that was handed out last.
    handed_out: Option<u64>,
    /// The panic was handed out.
    told: bool,
    ended: bool,
}

impl<M: StateMaterializer> Watcher<M> {
    async fn next(&mut self) -> Option<Result<Arc<M::State>, StateError>> {
        while !self.ended {
            // Read before folding, so that what comes meanwhile is noticed.
            let (stream, resets) = (self.shared.stream.cell.changed.version(), self.shared.resets.version());
            match self.shared.current().await {
                Ok((state, change)) => {
                    self.told = false;
                    if self.handed_out.replace(change) != Some(change) {
                        return Some(Ok(state));
                    }
                }
                Err(StateError::Closed | StateError::ChannelRemoved) => return None,
                Err(error @ StateError::Panicked { .. }) => {
                    if !std::mem::replace(&mut self.told, true) {
                        return Some(Err(error));
                    }
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
            self.wait(stream, resets).await;
        }
        None
    }

    async fn wait(&self, stream: u64, resets: u64) {
        let mut closed = self.shared.stream.node.replica.closed.subscribe();
        let closed = closed.wait_for(|closed| *closed);
        let changed = self.shared.stream.cell.changed.past(stream);
        let reset = self.shared.resets.past(resets);
        futures::pin_mut!(closed, changed, reset);
        futures::future::select(closed, futures::future::select(changed, reset)).await;
    }
}

impl<M: StateMaterializer> Clone for StateHandle<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: StateMaterializer> std::fmt::Debug for StateHandle<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateHandle")
            .field("name", &M::NAME)
            .field("version", &M::VERSION)
            .field("stream", self.0.stream.id())
            .field("refused", &self.refused())
            .finish_non_exhaustive()
    }
}

impl<M: StateMaterializer> std::fmt::Debug for StateChanges<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateChanges").field("name", &M::NAME).finish_non_exhaustive()
    }
}
