//! The store of a simulated node: the shipped packing of runs over a [`SimDisk`], in virtual time.
//!
//! A batch waits for the disk, becomes visible, and durable with the next sync. Everything it is handed goes
//! into the world's books too, and so under the eyes of the invariants.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anabranch::application::ports::{
    ChannelRepository, Completer, EntryRepository, NodeRecord, NodeRepository, PeerRecord, PeerRepository,
    Receipt, SnapshotKey, SnapshotRecord, SnapshotRepository, StoreUsage, StoredLog, WriteBatch, WriteOp,
};
use anabranch::domain::channel::ChannelRecord;
use anabranch::domain::head::Head;
use anabranch::domain::identity::SignatureScheme;
use anabranch::domain::log::{Line, LineNo, LogName, LogNo};
use anabranch::domain::run::Run;
use anabranch::infrastructure::packed::{MergeStep, PackedStore};
use anabranch::{Durability, Identity, Residence, Store, StoreError};
use async_trait::async_trait;
use bytes::Bytes;

use crate::core::{Core, Due, DueKey, Kind, Seen, Shared};
use crate::disk::SimDisk;

/// Shortest and longest time that a healthy disk takes to write or to sync, in nanoseconds: an SSD's.
const DISK_TIME: (u64, u64) = (50_000, 2_000_000);
/// Pause after which small writes are merged, in nanoseconds.
const MERGE_PAUSE: u64 = 1_000_000_000;
/// Bytes of body read at once when a store is checked at its opening.
const CHECK_BYTES: usize = 1 << 20;

/// Operations of a write that the trace names, of many.
const SUMMED_UP: usize = 8;

/// What a store does when its time comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    Apply,
    Sync,
    Merge,
}

/// The store of one incarnation of one node. Clones are the same store.
#[derive(Clone)]
pub struct SimStore(Arc<StoreInner>);

pub(crate) struct StoreInner {
    shared: Shared,
    node: usize,
    identity: Identity,
    packed: PackedStore<SimDisk>,
    disk: SimDisk,
    queue: Mutex<Queue>,
    /// Its node crashed.
    dead: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(WriteBatch, Completer)>,
    waiting_bytes: usize,
    unsynced: Vec<(WriteBatch, Completer)>,
    apply_due: bool,
    sync_due: Option<DueKey>,
    merge_due: bool,
    failure: Option<StoreError>,
    closed: bool,
    names: BTreeMap<LogNo, LogName>,
}

impl SimStore {
    /// Opens the disk of a device.
    pub(crate) fn open(
        shared: &Shared,
        node: usize,
        entropy: [u8; 32],
        scheme: Option<Arc<dyn SignatureScheme>>,
    ) -> Result<Self, StoreError> {
        let (disk, place) = {
            let core = shared.lock();
            (core.devices[node].disk.clone(), core.devices[node].place)
        };
        if !disk.open() {
            return Err(StoreError::InUse("the simulated disk".into()));
        }
        let opened = Self::load(shared, node, entropy, scheme, &disk, place);
        if opened.is_err() {
            disk.close();
        }
        opened
    }

    fn load(
        shared: &Shared,
        node: usize,
        entropy: [u8; 32],
        scheme: Option<Arc<dyn SignatureScheme>>,
        disk: &SimDisk,
        place: u64,
    ) -> Result<Self, StoreError> {
        let residence = Bytes::copy_from_slice(&place.to_le_bytes());
        let packed = PackedStore::open(disk.clone(), entropy, &residence)?;
        let identity = match scheme {
            Some(scheme) => Identity::with_scheme(*packed.identity().secret(), scheme),
            None => packed.identity(),
        };
        let mut names = BTreeMap::new();
        let mut lines = Vec::new();
        for stored in packed.logs()? {
            names.insert(stored.no, stored.name.clone());
            lines.extend(stored.lines.into_iter().map(|line| (stored.no, stored.name.clone(), line)));
        }
        let channels = packed.channels()?;
        let own = identity.node();
        let mut recovered = Vec::new();
        let mut intact = Ok(());
        for (no, name, line) in &lines {
            let (runs, whole) = read_line(&packed, *no, line);
            if name.author == own {
                recovered.extend(runs.into_iter().map(|run| (name.clone(), line.clone(), run)));
            }
            if let Err(error) = whole {
                intact = intact.and(Err(format!("{:?} of {:?}: {error}", name.stream, name.author)));
            }
        }
        let lines: Vec<_> = lines.into_iter().map(|(_, name, line)| (name, line)).collect();
        {
            let mut core = shared.lock();
            let id = identity.node();
            core.devices[node].node = Some(id);
            core.see(&Seen::Booted { node, id, lines: &lines, intact: &intact });
            // What a crash left on the disk is durable from now on, synced or not.
            for (log, line, run) in &recovered {
                core.see(&Seen::Durable { node, log, line, run });
            }
            for record in &channels {
                let admission = Some(&record.admission);
                core.see(&Seen::Channel { node, channel: record.id, admission });
            }
            core.note_holds(node);
        }
        let queue = Mutex::new(Queue { names, ..Queue::default() });
        let inner = StoreInner {
            shared: shared.clone(),
            node,
            identity,
            packed,
            disk: disk.clone(),
            queue,
            dead: AtomicBool::new(false),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// The node crashed: nothing that waits happens.
    pub(crate) fn kill(&self) {
        self.0.dead.store(true, Ordering::Relaxed);
        let waiting = {
            let mut queue = self.0.queue();
            queue.closed = true;
            queue.waiting_bytes = 0;
            (std::mem::take(&mut queue.waiting), std::mem::take(&mut queue.unsynced))
        };
        drop(waiting);
    }

    /// Whether entries were handed in that are not durable yet: readers may see them already.
    pub(crate) fn has_entries_under_way(&self) -> bool {
        let queue = self.0.queue();
        let mut batches = queue.waiting.iter().chain(&queue.unsynced);
        batches.any(|(batch, _)| batch.ops.iter().any(|op| matches!(op, WriteOp::Append { .. })))
    }

    /// Bytes of batches that were handed in and not applied.
    pub(crate) fn unwritten_bytes(&self) -> usize {
        self.0.queue().waiting_bytes
    }
}

/// Reads every entry of a line: what can be read, whatever is damaged before it, and whether it is exactly what the
/// line's record says.
fn read_line(packed: &PackedStore<SimDisk>, log: LogNo, line: &Line) -> (Vec<Run>, Result<(), String>) {
    let (mut runs, mut whole) = (Vec::new(), Ok(()));
    let (mut next, mut previous) = (line.base().sequence + 1, Some(line.base().hash));
    while next <= line.tip.sequence {
        let found = packed
            .read(log, line.no, next..=line.tip.sequence, CHECK_BYTES, false)
            .map_err(|error| error.to_string())
            .and_then(|run| run.ok_or_else(|| format!("entry {next} of line {:?} is missing", line.no)));
        match found {
            Ok(run) => {
                if run.first() != next || previous.is_some_and(|previous| previous != run.previous()) {
                    let what = format!("entry {next} of line {:?} does not continue the one before", line.no);
                    whole = whole.and(Err(what));
                }
                next = run.last().max(next) + 1;
                previous = Some(run.tip().hash);
                runs.push(run);
            }
            Err(error) => {
                whole = whole.and(Err(error));
                next += 1;
                previous = None;
            }
        }
    }
    if previous.is_some_and(|previous| previous != line.tip.hash) {
        whole = whole.and(Err(format!("line {:?} ends elsewhere", line.no)));
    }
    (runs, whole)
}

/// Operations in a line.
fn summary<'a>(ops: impl Iterator<Item = &'a WriteOp>) -> String {
    let ops: Vec<String> = ops.map(describe).collect();
    let more = ops.len().saturating_sub(SUMMED_UP);
    let shown = ops[..ops.len() - more].join(", ");
    if more > 0 { format!("{shown}, and {more} more") } else { shown }
}

/// An operation in a word.
fn describe(op: &WriteOp) -> String {
    match op {
        WriteOp::Append { log, line, run } => {
            format!("{}..={} to line {} of log {}", run.first(), run.last(), line.no.0, log.0)
        }
        WriteOp::PutLog(log, name) => format!("log {} of {:?} in {:?}", log.0, name.author, name.stream),
        WriteOp::PutLine(log, line) => {
            format!("the record of line {} of log {} at {}", line.no.0, log.0, line.tip.sequence)
        }
        WriteOp::PutBlockHead(log, line, head) => {
            format!("a head of line {} of log {} at {}", line.0, log.0, head.tip.sequence)
        }
        WriteOp::PutChannel(_) => "a channel".to_owned(),
        WriteOp::RemoveChannel(_) => "a channel's removal".to_owned(),
        WriteOp::SetSeen(..) => "the largest stamp".to_owned(),
        WriteOp::PutPeer(_) | WriteOp::RemovePeer(_) => "a peer".to_owned(),
        WriteOp::PutNode(_) => "the node's own record".to_owned(),
        WriteOp::PutSnapshot(..) | WriteOp::RemoveSnapshot(_) => "a snapshot".to_owned(),
        _ => "something else".to_owned(),
    }
}

impl StoreInner {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is due.
    pub(crate) fn run(self: &Arc<Self>, job: Job) {
        if self.dead.load(Ordering::Relaxed) {
            return;
        }
        match job {
            Job::Apply => self.apply(),
            Job::Sync => self.sync(),
            Job::Merge => self.merge(),
        }
    }

    fn disk_time(core: &mut Core, node: usize) -> u64 {
        let (least, most) = DISK_TIME;
        // The fourth root of a long tail: mostly close to the shortest.
        let draw = core.prng.below(1 << 16);
        let tail = (((draw * draw) >> 16) * (most - least)) >> 16;
        core.now.saturating_add(least + tail).saturating_add(core.devices[node].disk_delay)
    }

    fn apply(self: &Arc<Self>) {
        let mut settle = Vec::new();
        let mut queue = self.queue();
        queue.apply_due = false;
        let waiting = std::mem::take(&mut queue.waiting);
        queue.waiting_bytes = 0;
        let mut hurry = false;
        let before = queue.unsynced.len();
        for (batch, completer) in waiting {
            if let Some(failure) = &queue.failure {
                settle.push((completer, Err(failure.clone())));
                continue;
            }
            match self.packed.apply(&batch) {
                Ok(()) => {
                    completer.visible();
                    hurry |= batch.durability == Durability::Immediate;
                    queue.unsynced.push((batch, completer));
                }
                Err(error @ (StoreError::Full | StoreError::Misuse(_))) => {
                    if let StoreError::Misuse(what) = &error {
                        let ops: Vec<String> = batch.ops.iter().map(describe).collect();
                        let what = format!("node {}: {what}: {}", self.node, ops.join(", "));
                        self.shared.lock().violate("store contract", what);
                    }
                    settle.push((completer, Err(error)));
                }
                Err(error) => {
                    queue.failure = Some(StoreError::Poisoned(error.to_string().into()));
                    settle.push((completer, Err(error)));
                }
            }
        }
        {
            let mut core = self.shared.lock();
            core.event(Some(self.node), Kind::Written, &[], || {
                let written = queue.unsynced[before..].iter().flat_map(|(batch, _)| &batch.ops);
                match settle.len() {
                    0 => summary(written),
                    refused => format!("{}; {refused} batches refused", summary(written)),
                }
            });
            self.plan_sync(&mut queue, &mut core, hurry);
        }
        drop(queue);
        for (completer, result) in settle {
            completer.done(result);
        }
    }

    fn plan_sync(self: &Arc<Self>, queue: &mut Queue, core: &mut Core, hurry: bool) {
        let lazy = queue.unsynced.iter().filter_map(|(batch, _)| match batch.durability {
            Durability::Immediate => None,
            Durability::Interval(within) => Some(within),
        });
        let least = lazy.min().map(|within| u64::try_from(within.as_nanos()).unwrap_or(u64::MAX));
        let at = match (hurry, least) {
            (true, _) => Self::disk_time(core, self.node),
            (false, Some(least)) => core.now.saturating_add(least),
            (false, None) => return,
        };
        if let Some(due) = queue.sync_due {
            if due.0 <= at {
                return;
            }
            core.due.remove(&due);
        }
        queue.sync_due = Some(core.schedule(at, Due::Disk(Arc::clone(self), Job::Sync)));
    }

    fn sync(self: &Arc<Self>) {
        let mut queue = self.queue();
        queue.sync_due = None;
        let result = match &queue.failure {
            Some(failure) => Err(failure.clone()),
            None => self.packed.sync(),
        };
        if let Err(error) = &result
            && queue.failure.is_none()
        {
            queue.failure = Some(StoreError::Poisoned(error.to_string().into()));
        }
        let unsynced = std::mem::take(&mut queue.unsynced);
        {
            let mut core = self.shared.lock();
            core.event(Some(self.node), Kind::Synced, &[], || match &result {
                Ok(()) => summary(unsynced.iter().flat_map(|(batch, _)| &batch.ops)),
                Err(error) => error.to_string(),
            });
            if result.is_ok() {
                for (batch, _) in &unsynced {
                    self.note_durable(&mut core, &queue.names, batch);
                }
                core.note_holds(self.node);
            }
            if !queue.merge_due && queue.failure.is_none() {
                queue.merge_due = true;
                let at = core.now + MERGE_PAUSE;
                core.schedule(at, Due::Disk(Arc::clone(self), Job::Merge));
            }
        }
        drop(queue);
        for (_, completer) in unsynced {
            completer.done(result.clone());
        }
    }

    fn note_durable(&self, core: &mut Core, names: &BTreeMap<LogNo, LogName>, batch: &WriteBatch) {
        let node = self.node;
        for op in &batch.ops {
            match op {
                WriteOp::Append { log, line, run } => {
                    if let Some(log) = names.get(log) {
                        core.see(&Seen::Durable { node, log, line, run });
                    }
                }
                WriteOp::PutChannel(record) => {
                    let admission = Some(&record.admission);
                    core.see(&Seen::Channel { node, channel: record.id, admission });
                }
                WriteOp::RemoveChannel(channel) => {
                    core.see(&Seen::Channel { node, channel: *channel, admission: None });
                }
                _ => {}
            }
        }
    }

    fn merge(self: &Arc<Self>) {
        let mut queue = self.queue();
        queue.merge_due = false;
        if queue.closed || queue.failure.is_some() {
            return;
        }
        match self.packed.merge_step() {
            Ok(MergeStep::More) => {
                queue.merge_due = true;
                let mut core = self.shared.lock();
                let at = Self::disk_time(&mut core, self.node);
                core.schedule(at, Due::Disk(Arc::clone(self), Job::Merge));
            }
            Ok(MergeStep::Idle) | Err(StoreError::Full | StoreError::Corrupt(_)) => {}
            Err(error) => queue.failure = Some(StoreError::Poisoned(error.to_string().into())),
        }
    }

    fn submit(self: &Arc<Self>, batch: WriteBatch) -> Receipt {
        let mut queue = self.queue();
        if queue.closed {
            return Receipt::ready(Err(StoreError::Closed));
        }
        let mut bytes = 0;
        let mut core = self.shared.lock();
        for op in &batch.ops {
            match op {
                WriteOp::PutLog(no, name) => {
                    queue.names.insert(*no, name.clone());
                }
                WriteOp::PutChannel(record) => {
                    let admitting = &mut core.facts.nodes[self.node].admitting;
                    admitting.insert(record.id, record.admission.clone());
                }
                WriteOp::Append { log, line, run } => {
                    bytes += run.size();
                    if let Some(log) = queue.names.get(log) {
                        let own = log.author == self.identity.node();
                        let fresh = own && core.facts.known(log, run).is_none();
                        let wall = core.devices[self.node].clock.wall(core.now);
                        core.see(&Seen::Written { node: self.node, log, line, run, fresh, wall });
                    }
                }
                _ => {}
            }
        }
        let (receipt, completer) = Receipt::pending();
        queue.waiting.push_back((batch, completer));
        queue.waiting_bytes += bytes;
        if !queue.apply_due {
            queue.apply_due = true;
            let at = Self::disk_time(&mut core, self.node);
            core.schedule(at, Due::Disk(Arc::clone(self), Job::Apply));
        }
        receipt
    }
}

#[async_trait]
impl EntryRepository for SimStore {
    async fn logs(&self) -> Result<Vec<StoredLog>, StoreError> {
        self.0.readable()?.logs()
    }

    async fn next_log(&self) -> Result<LogNo, StoreError> {
        self.0.readable()?.next_log()
    }

    async fn read(
        &self,
        log: LogNo,
        line: LineNo,
        range: RangeInclusive<u64>,
        max_bytes: usize,
        backward: bool,
    ) -> Result<Option<Run>, StoreError> {
        self.0.readable()?.read(log, line, range, max_bytes, backward)
    }

    async fn block_heads(
        &self,
        log: LogNo,
        line: LineNo,
        range: RangeInclusive<u64>,
        limit: usize,
    ) -> Result<Vec<Head>, StoreError> {
        self.0.readable()?.block_heads(log, line, range, limit)
    }
}

impl StoreInner {
    fn readable(&self) -> Result<&PackedStore<SimDisk>, StoreError> {
        if self.queue().closed { Err(StoreError::Closed) } else { Ok(&self.packed) }
    }
}

#[async_trait]
impl ChannelRepository for SimStore {
    async fn channels(&self) -> Result<Vec<ChannelRecord>, StoreError> {
        self.0.readable()?.channels()
    }
}

#[async_trait]
impl PeerRepository for SimStore {
    async fn peers(&self) -> Result<Vec<PeerRecord>, StoreError> {
        self.0.readable()?.peers()
    }
}

#[async_trait]
impl NodeRepository for SimStore {
    fn identity(&self) -> Identity {
        self.0.identity.clone()
    }

    fn residence(&self) -> Residence {
        self.0.packed.residence()
    }

    async fn node(&self) -> Result<NodeRecord, StoreError> {
        self.0.readable()?.node()
    }
}

#[async_trait]
impl SnapshotRepository for SimStore {
    async fn snapshot(&self, key: &SnapshotKey) -> Result<Option<SnapshotRecord>, StoreError> {
        self.0.readable()?.snapshot(key)
    }
}

#[async_trait]
impl Store for SimStore {
    fn submit(&self, batch: WriteBatch) -> Receipt {
        self.0.submit(batch)
    }

    fn hasten(&self) {
        let mut queue = self.0.queue();
        if !queue.unsynced.is_empty() {
            let mut core = self.0.shared.lock();
            self.0.plan_sync(&mut queue, &mut core, true);
        }
    }

    fn usage(&self) -> StoreUsage {
        StoreUsage { bytes: self.0.disk.used() }
    }

    async fn close(&self) -> Result<(), StoreError> {
        if self.0.queue().closed {
            return Ok(());
        }
        self.0.apply();
        self.0.sync();
        let mut queue = self.0.queue();
        queue.closed = true;
        self.0.disk.close();
        queue.failure.clone().map_or(Ok(()), Err)
    }
}

impl std::fmt::Debug for SimStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimStore").field("node", &self.0.node).finish_non_exhaustive()
    }
}
