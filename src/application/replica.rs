//! The replica: channels, streams and logs of this node, shared by all handles and the driver.
//!
//! Local appends and reads go through here and never through the driver, so they never queue behind network
//! work. The locks in here are short: none is held across an await, and their order is registry, channel,
//! stream, log, clock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};
use tokio::sync::watch;

use super::changes::Changes;
use super::config::Config;
use super::log_cell::{Changed, LogCell, LogState, OWN_LINE, Origin, Pending, Settled};
use super::marks::Marks;
use super::news::{News, NewsBoard, NewsReader};
use super::notices::Notices;
use super::ports::{Durability, Receipt, Store, StoreError, TimerPort, WriteBatch, WriteOp};
use crate::domain::block::BlockPhase;
use crate::domain::channel::{Admission, ChannelRecord};
use crate::domain::entry::{EntryHeader, EntryId};
use crate::domain::event::{Event, Fault, Refusal};
use crate::domain::head::Head;
use crate::domain::id::{ChannelId, NodeId, StreamId};
use crate::domain::identity::Identity;
use crate::domain::log::{Line, Log, LogName, LogNo, Placement};
use crate::domain::payload_hash::{HASH_LANES, payload_hash, payload_hashes};
use crate::domain::run::{Run, RunBuilder, VerifiedRun};
use crate::domain::time::{Instant, TimeExhausted, Timestamp};
use crate::domain::version::Tip;

mod channels;

/// Everything a node holds.
pub(crate) struct Replica {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) timer: Arc<dyn TimerPort>,
    pub(crate) identity: Identity,
    pub(crate) config: Config,
    pub(crate) notices: Notices,
    registry: RwLock<Registry>,
    news: Arc<NewsBoard>,
    pub(crate) totals: Totals,
    /// `true` once appends may go on: at once, unless the store moved.
    pub(crate) resident: Latch,
    pub(crate) closed: Latch,
}

/// Something that becomes true once and stays so: every append looks at it, few wait for it.
pub(crate) struct Latch {
    is_set: AtomicBool,
    told: watch::Sender<bool>,
}

impl Latch {
    fn new(is_set: bool) -> Self {
        Self { is_set: AtomicBool::new(is_set), told: watch::channel(is_set).0 }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self) {
        // In this order: whoever was told finds it set.
        self.is_set.store(true, Ordering::Release);
        self.told.send_replace(true);
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<bool> {
        self.told.subscribe()
    }
}

#[derive(Default)]
struct Registry {
    channels: BTreeMap<ChannelId, Arc<ChannelCell>>,
    /// Channels that the store was told of and has not confirmed: nobody else sees them before.
    creations: BTreeMap<ChannelId, (Arc<ChannelCell>, Receipt)>,
    /// What was kept of channels removed since the node was opened, newer than what the store may say by now; and what
    /// became of the removal, for a full disk may have refused it.
    removed: BTreeMap<ChannelId, Removal>,
    next_log: u32,
}

/// What is known of a channel that was removed.
struct Removal {
    marks: Marks,
    receipt: Receipt,
    /// It was there for others, who have yet to hear that it is gone.
    is_untold: bool,
}

/// What the node holds, counted as it changes.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) entries: AtomicU64,
    pub(crate) streams: AtomicUsize,
    pub(crate) logs: AtomicUsize,
}

/// A channel as all tasks share it.
pub(crate) struct ChannelCell {
    pub(crate) id: ChannelId,
    pub(crate) state: RwLock<ChannelState>,
    /// Where a change goes back to that the store did not take. Under the lock of `state`.
    changes: Mutex<Changes<ChannelState>>,
    /// Set under the lock of `state`, looked at with every append.
    removed: AtomicBool,
    /// Largest stamp seen or written. The stamps of all lines are in the store, so it is never lost.
    seen: Mutex<Timestamp>,
    /// What others may hold of own logs that were removed with an earlier channel of this id.
    marks: Marks,
    /// Until when appends wait for that to come back.
    marks_until: Instant,
    streams: RwLock<BTreeMap<StreamId, Arc<StreamCell>>>,
}

/// What may change about a channel.
#[derive(Debug, Clone)]
pub(crate) struct ChannelState {
    pub(crate) label: String,
    pub(crate) admission: Admission,
}

/// Logs, sorted by author. A list: a tree would take room for eleven, and most streams have few.
type ByAuthor = SmallVec<[Arc<LogCell>; 1]>;

/// A stream as all tasks share it.
pub(crate) struct StreamCell {
    pub(crate) id: StreamId,
    pub(crate) changed: Arc<Changed>,
    logs: RwLock<ByAuthor>,
}

/// Why an append was not submitted. Nothing changed.
#[derive(Debug)]
pub(crate) enum NotSubmitted {
    Removed,
    Time(TimeExhausted),
    Poisoned(StoreError),
    /// Wait for this receipt, then try again.
    NoRoom(Receipt),
    TooManyLogs,
    /// Others hold entries of this log that were removed here: wait until they are back, or for this moment.
    Forgotten(Instant),
}

/// Why there is no log to write to.
#[derive(Debug)]
pub(crate) enum NoLog {
    /// The channel was removed.
    Removed,
    /// Log numbers are used up.
    TooMany,
}

impl From<NoLog> for NotSubmitted {
    fn from(none: NoLog) -> Self {
        match none {
            NoLog::Removed => Self::Removed,
            NoLog::TooMany => Self::TooManyLogs,
        }
    }
}

/// A submitted append.
pub(crate) struct Submitted {
    pub(crate) receipt: Receipt,
    /// Readers see it already, and the log was told.
    pub(crate) shown: bool,
    pub(crate) log: Arc<LogCell>,
    pub(crate) first: Tip,
    pub(crate) last: Tip,
}

/// What became of a run from a peer.
#[derive(Debug)]
pub(crate) enum Merge {
    /// On its way into the store.
    Queued(Receipt),
    /// Everything in it is held already.
    Duplicate,
    /// Entries before it are missing.
    Gap,
    /// It starts within a line: compare with what is stored there ([`Replica::merge_within`]).
    Within,
    /// It will never be taken as things are.
    Refused(Refusal),
    /// The store does not take it.
    Failed(StoreError),
}

impl ChannelCell {
    fn new(record: ChannelRecord, marks: Marks, marks_until: Instant) -> Self {
        let ChannelRecord { id, label, admission, seen } = record;
        let state = ChannelState { label, admission };
        Self {
            id,
            changes: Mutex::new(Changes::new(state.clone())),
            state: RwLock::new(state),
            removed: AtomicBool::new(false),
            seen: Mutex::new(seen),
            marks,
            marks_until,
            streams: RwLock::default(),
        }
    }

    pub(crate) fn record(&self) -> ChannelRecord {
        let ChannelState { label, admission } = self.state.read().expect(SOUND).clone();
        ChannelRecord { id: self.id, label, admission, seen: *self.seen.lock().expect(SOUND) }
    }

    pub(crate) fn state(&self) -> ChannelState {
        self.state.read().expect(SOUND).clone()
    }

    /// While this is held the channel is not removed, if it was not before.
    pub(crate) fn hold(&self) -> RwLockReadGuard<'_, ChannelState> {
        self.state.read().expect(SOUND)
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub(crate) fn stream(&self, id: &StreamId) -> Option<Arc<StreamCell>> {
        self.streams.read().expect(SOUND).get(id).cloned()
    }

    pub(crate) fn streams(&self) -> Vec<Arc<StreamCell>> {
        self.streams.read().expect(SOUND).values().cloned().collect()
    }

    fn raise_seen(&self, stamp: Timestamp) {
        let mut seen = self.seen.lock().expect(SOUND);
        *seen = stamp.max(*seen);
    }
}

impl StreamCell {
    pub(crate) fn logs(&self) -> Vec<Arc<LogCell>> {
        self.logs.read().expect(SOUND).to_vec()
    }

    pub(crate) fn log(&self, author: &NodeId) -> Option<Arc<LogCell>> {
        let logs = self.logs.read().expect(SOUND);
        let at = logs.binary_search_by_key(author, |log| log.name.author).ok()?;
        Some(Arc::clone(&logs[at]))
    }

    /// The log of `author`, made by `make` if there is none; and whether it was.
    fn log_or_make(&self, author: &NodeId, make: impl FnOnce() -> LogCell) -> (Arc<LogCell>, bool) {
        let mut logs = self.logs.write().expect(SOUND);
        match logs.binary_search_by_key(author, |log| log.name.author) {
            Ok(at) => (Arc::clone(&logs[at]), false),
            Err(at) => {
                let log = Arc::new(make());
                logs.insert(at, Arc::clone(&log));
                (log, true)
            }
        }
    }
}

const SOUND: &str = "no code that can panic runs under this lock";

impl Replica {
    /// Loads everything that `store` holds. Returns what the driver listens to.
    pub(crate) async fn load(
        store: Arc<dyn Store>,
        timer: Arc<dyn TimerPort>,
        config: Config,
        resident: bool,
    ) -> Result<(Arc<Self>, NewsReader), StoreError> {
        let (news, reader) = NewsBoard::new();
        let mut registry = Registry::default();
        for record in store.channels().await? {
            let seen = if mutant!(ClockMarkForgotten) { Timestamp::ZERO } else { record.seen };
            let (id, until) = (record.id, timer.now() + config.amnesia_wait);
            let marks = Marks::of(&*store, id).await?;
            let cell = ChannelCell::new(ChannelRecord { seen, ..record }, marks, until);
            registry.channels.insert(id, Arc::new(cell));
        }
        let totals = Totals::default();
        registry.next_log = store.next_log().await?.0;
        for stored in store.logs().await? {
            let Some(channel) = registry.channels.get(&stored.name.channel) else {
                return Err(StoreError::Corrupt("a log of a channel that does not exist".into()));
            };
            let forgotten = mutant!(TailForgotten) && stored.name.author == store.identity().node();
            let lines = if forgotten { Vec::new() } else { stored.lines };
            let log = Log::new(stored.floor, lines);
            if !mutant!(ClockMarkForgotten)
                && let Some(stamp) = log.lines().iter().map(|line| line.stamp).max()
            {
                channel.raise_seen(stamp);
            }
            totals.entries.fetch_add(log.len(), Ordering::Relaxed);
            totals.logs.fetch_add(1, Ordering::Relaxed);
            let mut streams = channel.streams.write().expect(SOUND);
            let stream = streams.entry(stored.name.stream.clone()).or_insert_with(|| {
                totals.streams.fetch_add(1, Ordering::Relaxed);
                new_stream(stored.name.stream.clone())
            });
            let author = stored.name.author;
            let changed = Arc::clone(&stream.changed);
            stream.log_or_make(&author, || LogCell::new(stored.no, stored.name, log, true, changed));
        }
        let replica = Self {
            identity: store.identity(),
            notices: Notices::new(config.event_capacity),
            store,
            timer,
            config,
            registry: RwLock::new(registry),
            news,
            totals,
            resident: Latch::new(resident),
            closed: Latch::new(false),
        };
        Ok((Arc::new(replica), reader))
    }

    pub(crate) fn node(&self) -> NodeId {
        self.identity.node()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_set()
    }

    /// Closes the node, wipes its store if it is to, and releases it once everything is durable.
    ///
    /// # Errors
    /// What the last writes came to; [`StoreError::Closed`] if it was released before, and so not wiped.
    pub(crate) async fn release(&self, wipe: bool) -> Result<(), StoreError> {
        self.shut();
        let wiped = match wipe {
            true => self.store.submit(WriteBatch::new([WriteOp::Wipe])).durable().await,
            false => Ok(()),
        };
        wiped.and(self.store.close().await)
    }

    /// Closes the node. When this returns, whatever is still done to a channel was submitted: nothing comes after a wipe.
    fn shut(&self) {
        self.closed.set();
        // Whoever makes, changes or removes a channel, names a peer, or saves a state, looks under one of these locks whether
        // the node is closed, and submits under it.
        drop(self.registry.write().expect(SOUND));
        for channel in self.channels() {
            drop(channel.state.write().expect(SOUND));
        }
    }

    /// Lets `submit` write something, unless the node is closed: what it submits comes before a wipe.
    pub(crate) fn while_open<T>(&self, submit: impl FnOnce() -> T) -> Option<T> {
        let _registry = self.registry.read().expect(SOUND);
        (!self.is_closed()).then(submit)
    }

    pub(crate) fn channel(&self, id: &ChannelId) -> Option<Arc<ChannelCell>> {
        self.registry.read().expect(SOUND).channels.get(id).cloned()
    }

    pub(crate) fn channels(&self) -> Vec<Arc<ChannelCell>> {
        self.registry.read().expect(SOUND).channels.values().cloned().collect()
    }

    /// How many channels there are.
    pub(crate) fn channel_count(&self) -> usize {
        self.registry.read().expect(SOUND).channels.len()
    }

    /// The stream, created with an empty log of the own node if it does not exist; or why it cannot be.
    pub(crate) async fn open_stream(
        &self,
        channel: &Arc<ChannelCell>,
        id: &StreamId,
    ) -> Result<Result<Arc<StreamCell>, NoLog>, StoreError> {
        if let Some(stream) = channel.stream(id) {
            return Ok(Ok(stream));
        }
        let (stream, log, created) = match self.open_log(channel, id, &self.node()) {
            Ok(opened) => opened,
            Err(none) => return Ok(Err(none)),
        };
        if created {
            let naming = {
                let mut state = log.lock();
                if state.removed {
                    return Ok(Err(NoLog::Removed));
                }
                // Who found the stream meanwhile may have appended to it, which brought the log's name along.
                (!state.registered).then(|| {
                    let name = WriteOp::PutLog(log.no, log.name.clone());
                    let naming = self.store.submit(WriteBatch::new([name]));
                    state.name(naming.clone());
                    naming
                })
            };
            // Told at once: whoever drops the future changes nothing about what is under way.
            self.tell(News::Opened(Arc::clone(&log)));
            if let Some(naming) = naming {
                let named = naming.durable().await;
                log.lock().settle_name();
                named?;
            }
        }
        Ok(Ok(stream))
    }

    /// The log of `author`, created together with its stream if it does not exist; whether it was. Writes nothing: the
    /// first append registers the log.
    pub(crate) fn open_log(
        &self,
        channel: &Arc<ChannelCell>,
        stream: &StreamId,
        author: &NodeId,
    ) -> Result<(Arc<StreamCell>, Arc<LogCell>, bool), NoLog> {
        if let Some(found) = channel.stream(stream)
            && let Some(log) = found.log(author)
        {
            return Ok((found, log, false));
        }
        let no = {
            let mut registry = self.registry.write().expect(SOUND);
            let no = LogNo(registry.next_log);
            registry.next_log = registry.next_log.checked_add(1).ok_or(NoLog::TooMany)?;
            no
        };
        // Held until the log is in and counted, so that a removal of the channel either precedes it or takes it along.
        let state = channel.state.read().expect(SOUND);
        if channel.is_removed() {
            return Err(NoLog::Removed);
        }
        let mut new_stream_made = false;
        let found = {
            let mut streams = channel.streams.write().expect(SOUND);
            let entry = streams.entry(stream.clone()).or_insert_with(|| {
                new_stream_made = true;
                new_stream(stream.clone())
            });
            Arc::clone(entry)
        };
        let (log, created) = found.log_or_make(author, || {
            let name = LogName::new(channel.id, stream.clone(), *author);
            LogCell::new(no, name, Log::default(), false, Arc::clone(&found.changed))
        });
        self.totals.streams.fetch_add(usize::from(new_stream_made), Ordering::Relaxed);
        self.totals.logs.fetch_add(usize::from(created), Ordering::Relaxed);
        drop(state);
        if new_stream_made {
            self.notices.event(Event::StreamCreated(channel.id, stream.clone()));
        }
        Ok((found, log, created))
    }

    /// The append lane: stamps, hashes and submits own entries. Never waits.
    pub(crate) fn submit_append(
        &self,
        channel: &Arc<ChannelCell>,
        stream: &Arc<StreamCell>,
        payloads: &[Bytes],
    ) -> Result<Submitted, NotSubmitted> {
        let log = match stream.log(&self.node()) {
            Some(log) => log,
            None => self.open_log(channel, &stream.id, &self.node())?.1,
        };
        let state = log.lock();
        if state.removed {
            return Err(NotSubmitted::Removed);
        }
        if let Some(error) = state.poisoned() {
            return Err(NotSubmitted::Poisoned(error.clone()));
        }
        if channel.marks.lacks(&stream.id, &state) && self.timer.now() < channel.marks_until {
            return Err(NotSubmitted::Forgotten(channel.marks_until));
        }
        if state.pending_bytes() > self.config.append_window
            && let Some(oldest) = state.oldest()
        {
            return Err(NotSubmitted::NoRoom(oldest));
        }
        let line = match state.submitted_line(OWN_LINE) {
            Some(line) => line.clone(),
            None => Line::empty(OWN_LINE, Tip::START, Timestamp::ZERO, BlockPhase::START),
        };
        let (run, saturated) =
            self.stamp(channel, &log.name, line.tip, payloads).map_err(NotSubmitted::Time)?;
        let (after, ends) = line.extended(&run).expect("own stamps are greater than all seen in the channel");
        let ends = ends
            .into_iter()
            .map(|sequence| Tip {
                sequence,
                hash: run.hash_at(sequence).expect("a block ends in or before the run"),
            })
            .collect();
        let first =
            Tip { sequence: run.first(), hash: run.hash_at(run.first()).expect("a run is never empty") };
        let last = run.tip();
        let (receipt, shown) = self.submit_run(&log, state, after, run, ends, Vec::new(), Origin::Own);
        if saturated {
            self.notices.fault_once("era", None, || Fault::EraSaturated(channel.id));
        }
        Ok(Submitted { receipt, shown, log, first, last })
    }

    /// Packs `payloads` (at least one) with the next stamps of the channel; and whether its era could not rise any more.
    fn stamp(
        &self,
        channel: &ChannelCell,
        name: &LogName,
        tip: Tip,
        payloads: &[Bytes],
    ) -> Result<(Run, bool), TimeExhausted> {
        let bytes = payloads.iter().map(Bytes::len).sum();
        let mut builder = RunBuilder::new(name.key, tip, payloads.len(), bytes);
        let wall = self.timer.wall();
        let mut saturated = false;
        {
            let mut clock = channel.seen.lock().expect(SOUND);
            let mut seen = *clock;
            let mut push = |payload: &[u8], hash| {
                let stamped = Timestamp::next(seen, wall, self.config.drift)?;
                builder.push_hashed(payload, EntryHeader::with(stamped.stamp, payload, hash));
                seen = stamped.stamp;
                saturated |= stamped.era_saturated;
                Ok(())
            };
            if let [alone] = payloads {
                push(alone, payload_hash(alone))?;
            } else {
                for group in payloads.chunks(HASH_LANES) {
                    let group: SmallVec<[&[u8]; HASH_LANES]> =
                        group.iter().map(|payload| &payload[..]).collect();
                    let hashes = payload_hashes(&group);
                    group.iter().zip(hashes).try_for_each(|(payload, hash)| push(payload, hash))?;
                }
            }
            *clock = seen;
        }
        Ok((builder.finish().expect("the facade refuses empty batches"), saturated))
    }

    /// Submits a run, and whether readers see all that was submitted. Gives the log's lock back and tells of it then: who is
    /// woken may look at the log at once.
    #[expect(clippy::too_many_arguments, reason = "one call per kind of write, all parts differ")]
    fn submit_run(
        &self,
        log: &Arc<LogCell>,
        mut state: MutexGuard<'_, LogState>,
        line: Line,
        run: Run,
        ends: Vec<Tip>,
        block_heads: Vec<Head>,
        origin: Origin,
    ) -> (Receipt, bool) {
        let mut batch = WriteBatch { ops: smallvec![], durability: self.durability(origin) };
        state.settle_name();
        if !state.registered && !mutant!(LogNotRegistered) {
            batch.ops.push(WriteOp::PutLog(log.no, log.name.clone()));
            state.registered = true;
        }
        // The line exists for the store once something is in it.
        batch.ops.push(WriteOp::Append { log: log.no, line: line.clone(), run: run.clone() });
        for head in block_heads {
            batch.ops.push(WriteOp::PutBlockHead(log.no, line.no, head));
        }
        let receipt = self.store.submit(batch);
        let shown = state.push(Pending { line, run, ends, origin, receipt: receipt.clone() }, &log.changed);
        self.count(&state, shown);
        // Whoever merges waits for the receipt, and looks at the log then.
        let is_news = origin == Origin::Own && !std::mem::replace(&mut state.announced, true);
        let is_shown = state.is_shown();
        drop(state);
        if shown > 0 {
            self.take_note(log, Settled { shown, failed: None });
        }
        if is_news {
            self.tell(News::Log(Arc::clone(log)));
        }
        (receipt, is_shown)
    }

    fn durability(&self, origin: Origin) -> Durability {
        match origin {
            Origin::Own => self.config.durability,
            // Merged entries can be had again: what matters is that they are acknowledged only when durable.
            Origin::Session(_) => Durability::Immediate,
        }
    }

    /// Merges a verified run from a peer. Never waits.
    pub(crate) fn merge(
        &self,
        channel: &Arc<ChannelCell>,
        log: &Arc<LogCell>,
        run: VerifiedRun,
        origin: Origin,
    ) -> Merge {
        let state = log.lock();
        if state.removed {
            return Merge::Refused(Refusal::UnknownStream);
        }
        if let Some(error) = state.poisoned() {
            return Merge::Failed(error.clone());
        }
        let submitted = state.submitted();
        let (run, placement) = match place(&submitted, run) {
            Ok(placed) => placed,
            Err(refusal) => return Merge::Refused(refusal),
        };
        let line = match placement {
            Placement::Extends(no) => state.submitted_line(no).cloned(),
            Placement::Starts => Some(Line::empty(OWN_LINE, Tip::START, Timestamp::ZERO, BlockPhase::START)),
            Placement::Within(_) => return Merge::Within,
            Placement::Gap => return gap(&submitted, &run),
            Placement::BelowFloor => return Merge::Refused(Refusal::BelowFloor),
        };
        let line = line.expect("the placement named a line of this log");
        self.extend(channel, log, state, line, run, origin)
    }

    fn extend(
        &self,
        channel: &Arc<ChannelCell>,
        log: &Arc<LogCell>,
        state: MutexGuard<'_, LogState>,
        line: Line,
        run: VerifiedRun,
        origin: Origin,
    ) -> Merge {
        let Some((mut after, ends)) = line.extended(run.run()) else {
            return Merge::Refused(Refusal::Stamps);
        };
        let (run, heads) = run.into_parts();
        let mut block_heads = Vec::with_capacity(ends.len());
        let line_head = line.head();
        for end in ends {
            let known = line_head.iter().chain(&heads).find(|head| head.tip.sequence == end);
            match known {
                Some(head) => block_heads.push(*head),
                None if log.name.author == self.node() => {
                    let hash = run.hash_at(end).expect("a block ends in or before the run");
                    block_heads.push(Head::sign(&log.name.key, Tip { sequence: end, hash }, &self.identity));
                }
                // Before the first entry held, block ends are somebody else's to prove.
                None if end == line.base().sequence => {}
                None => return Merge::Refused(Refusal::UnsignedBlock),
            }
        }
        if mutant!(BlockHeadsDropped) && log.name.author != self.node() {
            block_heads.clear();
        }
        if let Some(head) = heads.last() {
            after.set_head(*head);
        }
        if !mutant!(SeenNotRaised) {
            channel.raise_seen(run.last_stamp());
        }
        let ahead = run.last_stamp().ahead_of(self.timer.wall(), self.config.drift);
        let (receipt, _) = self.submit_run(log, state, after, run, Vec::new(), block_heads, origin);
        if let Some(by) = ahead {
            let author = log.name.author;
            self.notices.fault_once("clock", Some(author), || Fault::ClockAhead { author, by });
        }
        Merge::Queued(receipt)
    }

    /// What a run of a log that is not held would come to, if it could not be taken: nothing is to be made of it.
    pub(crate) fn refuses_start(run: &VerifiedRun) -> Option<Merge> {
        let first = run.run();
        if Log::default().place(first.first(), first.previous()) != Placement::Starts {
            return Some(Merge::Gap);
        }
        let empty = Line::empty(OWN_LINE, Tip::START, Timestamp::ZERO, BlockPhase::START);
        let (_, ends) = empty.extended(first)?;
        let signed = |end: &u64| run.heads().iter().any(|head| head.tip.sequence == *end);
        (!ends.iter().all(signed)).then_some(Merge::Refused(Refusal::UnsignedBlock))
    }

    /// Merges a run that starts within a line: skips what is held, and keeps what differs as a line of its own.
    pub(crate) async fn merge_within(
        &self,
        channel: Arc<ChannelCell>,
        log: Arc<LogCell>,
        mut run: VerifiedRun,
        origin: Origin,
    ) -> Merge {
        // Every turn skips entries that are held, or ends; a line is compared again only if it grew meanwhile.
        loop {
            let (submitted, newest) = {
                let state = log.lock();
                (state.submitted(), state.newest())
            };
            run = match place(&submitted, run) {
                Ok((above, _)) => above,
                Err(refusal) => return Merge::Refused(refusal),
            };
            // What is submitted and not yet written cannot be read: it would look like a line that parts here.
            if let Some(newest) = newest
                && let Err(error) = newest.visible().await
            {
                return Merge::Failed(error);
            }
            let lines = submitted.lines().to_vec();
            let known = lines.len();
            let mut best: Option<(Line, u64)> = None;
            for line in lines {
                match self.common(&log, &line, &run).await {
                    Ok(Some(to)) if best.as_ref().is_none_or(|(_, best)| to > *best) => {
                        best = Some((line, to))
                    }
                    Ok(_) => {}
                    Err(error) => return Merge::Failed(error),
                }
            }
            let Some((line, to)) = best else { return gap(&submitted, &run) };
            if to == run.run().last() {
                return Merge::Duplicate;
            }
            let Some(rest) = run.after(to) else { return Merge::Duplicate };
            if to == line.tip.sequence {
                match self.merge(&channel, &log, rest.clone(), origin) {
                    // The line grew while we looked.
                    Merge::Within => run = rest,
                    merged => return merged,
                }
            } else if to >= run.run().first() && !mutant!(LineStoredTwice) {
                // Another line may start where these part and hold the rest: it was out of reach so far.
                run = rest;
            } else if mutant!(ForkIgnored) {
                return Merge::Duplicate;
            } else {
                match self.fork(&channel, &log, &line, to, known, rest.clone(), origin).await {
                    Merge::Within => run = rest,
                    merged => return merged,
                }
            }
        }
    }

    /// The last sequence up to which `run` repeats `line`, if it touches it at all.
    async fn common(&self, log: &LogCell, line: &Line, run: &VerifiedRun) -> Result<Option<u64>, StoreError> {
        let run = run.run();
        let before = run.first() - 1;
        if !line.reaches(before) {
            return Ok(None);
        }
        let mut common = None;
        if line.known_hash(before) == Some(run.previous()) {
            common = Some(before);
        }
        let mut next = before.max(line.base().sequence + 1);
        while next <= line.tip.sequence && next <= run.last() {
            let range = next..=line.tip.sequence.min(run.last());
            // Only a hash that differs shows that lines part: what cannot be read shows nothing.
            let Some(held) = self.store.read(log.no, line.no, range, READ_BYTES, false).await? else {
                return Ok(None);
            };
            for sequence in held.first() - 1..=held.last() {
                match run.hash_at(sequence) {
                    Some(hash) if held.hash_at(sequence) == Some(hash) => common = common.max(Some(sequence)),
                    Some(_) => return Ok(common),
                    None => {}
                }
            }
            next = held.last() + 1;
        }
        Ok(common)
    }

    /// Starts a new line after the entry `at` of `parent`, if the log still has `known` lines.
    #[expect(clippy::too_many_arguments, reason = "the one place where lines part")]
    async fn fork(
        &self,
        channel: &Arc<ChannelCell>,
        log: &Arc<LogCell>,
        parent: &Line,
        at: u64,
        known: usize,
        rest: VerifiedRun,
        origin: Origin,
    ) -> Merge {
        let start = match self.phase_at(log, parent, at).await {
            Ok(start) => start,
            Err(error) => return Merge::Failed(error),
        };
        let base = Tip { sequence: at, hash: rest.run().previous() };
        let state = log.lock();
        if state.removed {
            return Merge::Refused(Refusal::UnknownStream);
        }
        let submitted = state.submitted();
        let reaches = submitted.line(parent.no).is_some_and(|parent| parent.reaches(at));
        if submitted.lines().len() != known || !reaches {
            // Somebody else started a line while we read, which may be the same, or a write of the parent failed.
            return Merge::Within;
        }
        if known >= usize::from(self.config.max_lines) {
            return Merge::Refused(Refusal::TooManyLines);
        }
        let Some(no) = submitted.next_line() else { return Merge::Refused(Refusal::TooManyLines) };
        let line = Line::empty(no, base, start.stamp, start.phase);
        let merged = self.extend(channel, log, state, line, rest, origin);
        if matches!(merged, Merge::Queued(_)) {
            self.notices.counters.forks.add(1);
        }
        merged
    }

    /// Stamp and block phase of `line` after its entry `at`. Walks the line from its start, through the lines
    /// that it forked from: forks are rare.
    async fn phase_at(&self, log: &LogCell, line: &Line, at: u64) -> Result<Start, StoreError> {
        let lines = log.lock().submitted().lines().to_vec();
        let mut path = vec![(line.clone(), at)];
        while let Some((child, _)) = path.last()
            && child.base().sequence > 0
        {
            let mut parent = None;
            for candidate in lines.iter().filter(|line| line.no < child.no) {
                if self.runs_through(log, candidate, child.base()).await? {
                    parent = Some((candidate.clone(), child.base().sequence));
                    break;
                }
            }
            let Some(parent) = parent else { break };
            path.push(parent);
        }
        let mut start = Start { stamp: Timestamp::ZERO, phase: BlockPhase::START };
        for (line, to) in path.into_iter().rev() {
            let mut next = line.base().sequence + 1;
            while next <= to {
                let Some(run) = self.store.read(log.no, line.no, next..=to, READ_BYTES, false).await? else {
                    break;
                };
                start = Start { stamp: run.last_stamp(), phase: run.walk_blocks(start.phase, |_| {}) };
                next = run.last() + 1;
            }
        }
        Ok(start)
    }

    /// Whether `line` holds the entry `tip`, or starts after it.
    pub(crate) async fn runs_through(
        &self,
        log: &LogCell,
        line: &Line,
        tip: Tip,
    ) -> Result<bool, StoreError> {
        if !line.reaches(tip.sequence) {
            return Ok(false);
        }
        if let Some(hash) = line.known_hash(tip.sequence) {
            return Ok(hash == tip.hash);
        }
        let run = self.store.read(log.no, line.no, tip.sequence..=tip.sequence, 1, false).await?;
        Ok(run.is_some_and(|run| run.hash_at(tip.sequence) == Some(tip.hash)))
    }

    /// Looks what the store made of a log's pending changes: tells readers, and reports what failed.
    pub(crate) fn settle(&self, log: &LogCell) {
        let settled = {
            let mut state = log.lock();
            let settled = state.settle(&log.changed);
            self.count(&state, settled.shown);
            settled
        };
        self.take_note(log, settled);
    }

    /// Counts entries that became visible, under the lock of their log: a removal takes back what was counted.
    pub(crate) fn count(&self, state: &LogState, shown: u64) {
        if !state.removed {
            self.totals.entries.fetch_add(shown, Ordering::Relaxed);
        }
    }

    /// Tells of what settled, when the log's lock is given back.
    pub(crate) fn take_note(&self, log: &LogCell, settled: Settled) {
        if settled.shown > 0 {
            log.changed.wake();
        }
        if let Some(error) = settled.failed {
            self.notices.counters.store_failures.add(1);
            self.notices.fault(Fault::Store(error.to_string().into()));
        }
    }

    /// Tells the driver. No lock is held: it may run here.
    fn tell(&self, news: News) {
        self.news.put(news);
        self.news.wake();
    }

    /// Whether an entry is held, by its identity.
    pub(crate) async fn contains(&self, stream: &StreamCell, id: &EntryId) -> Result<bool, StoreError> {
        let Some(log) = stream.log(&id.author) else { return Ok(false) };
        let tip = Tip { sequence: id.sequence, hash: id.hash };
        for line in log.visible().lines() {
            if id.sequence > line.base().sequence && self.runs_through(&log, line, tip).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What of `run` is above the floor of `log`, and where it belongs.
fn place(log: &Log, run: VerifiedRun) -> Result<(VerifiedRun, Placement), Refusal> {
    let find = |run: &VerifiedRun| log.place(run.run().first(), run.run().previous());
    match find(&run) {
        Placement::BelowFloor => {
            let above = run.after(log.floor()).ok_or(Refusal::BelowFloor)?;
            let placement = find(&above);
            Ok((above, placement))
        }
        placement => Ok((run, placement)),
    }
}

/// What to say to a run that continues nothing held. If what it lacks is at or below the floor, asking for
/// that would never end.
fn gap(log: &Log, run: &VerifiedRun) -> Merge {
    let before = run.run().first() - 1;
    let is_lost = (1..=log.floor()).contains(&before);
    if is_lost { Merge::Refused(Refusal::BelowFloor) } else { Merge::Gap }
}

/// Where a forked line starts.
struct Start {
    stamp: Timestamp,
    phase: BlockPhase,
}

/// Bytes read at once when lines are compared.
const READ_BYTES: usize = 64 * 1024;

fn new_stream(id: StreamId) -> Arc<StreamCell> {
    Arc::new(StreamCell { id, changed: Arc::default(), logs: RwLock::default() })
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replica({:?})", self.node())
    }
}

#[cfg(test)]
mod tests;
