//! The suite passes for the memory store, and fails for each store that breaks one clause.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

use super::*;
use crate::application::ports::{
    ChannelRepository, EntryRepository, NodeRecord, NodeRepository, PeerRecord, PeerRepository, Residence,
    SnapshotKey, SnapshotRecord, SnapshotRepository, StoreUsage, StoredLog,
};
use crate::domain::channel::ChannelRecord;
use crate::domain::head::Head;
use crate::domain::id::ChannelId;
use crate::domain::identity::Identity;
use crate::domain::log::{LineNo, LogNo};
use crate::domain::run::Run;
use crate::domain::time::Timestamp;
use crate::infrastructure::memory_store::MemoryStore;

/// How a store breaks its contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    DropsEverySecondOp,
    IgnoresMaxBytes,
    NotAtomic,
    OnlyReadsForward,
    ReadsBeyondTheRange,
    ForgetsTheLine,
    ForgetsEverything,
    ForgetsItsName,
    IgnoresLimit,
    IgnoresRemoveChannel,
    IgnoresRemovePeer,
    IgnoresWipe,
    IgnoresPutLine,
    IgnoresRaiseFloor,
    ForgetsFloors,
    LowersFloors,
    IgnoresHeadsOfBlocks,
    LowersSeen,
    SaysYesToMisuse,
    HoldsTheLastBatchBack,
    StaysOpen,
    OpensTwice,
    NeverGrows,
    ShowsPeersBackwards,
    SaysThatItMoved,
}

struct Flawed {
    inner: MemoryStore,
    flaw: Flaw,
    opening: u8,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ops: u64,
    held: Option<WriteBatch>,
    seen: BTreeMap<ChannelId, Timestamp>,
    floors: BTreeMap<LogNo, u64>,
}

impl Flawed {
    fn is(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    fn keeps(&self, op: &WriteOp) -> bool {
        let mut state = self.state.lock().unwrap();
        state.ops += 1;
        match op {
            WriteOp::SetSeen(id, stamp) => {
                state.seen.insert(*id, *stamp);
            }
            WriteOp::RaiseFloor(log, floor) => {
                state.floors.insert(*log, *floor);
            }
            WriteOp::PutChannel(record) => {
                state.seen.insert(record.id, record.seen);
            }
            _ => {}
        }
        match (self.flaw, op) {
            (Flaw::DropsEverySecondOp, _) => state.ops % 2 == 1,
            (Flaw::IgnoresRemoveChannel, WriteOp::RemoveChannel(_))
            | (Flaw::IgnoresRemovePeer, WriteOp::RemovePeer(_))
            | (Flaw::IgnoresWipe, WriteOp::Wipe)
            | (Flaw::IgnoresPutLine, WriteOp::PutLine(..))
            | (Flaw::IgnoresRaiseFloor, WriteOp::RaiseFloor(..))
            | (Flaw::IgnoresHeadsOfBlocks, WriteOp::PutBlockHead(..)) => false,
            _ => true,
        }
    }
}

#[async_trait]
impl EntryRepository for Flawed {
    async fn logs(&self) -> Result<Vec<StoredLog>, StoreError> {
        let mut logs = self.inner.logs().await?;
        if self.is(Flaw::ForgetsTheLine) {
            logs.iter_mut().for_each(|log| log.lines.truncate(1));
        }
        if self.is(Flaw::ForgetsFloors) && self.opening > 1 {
            logs.iter_mut().for_each(|log| log.floor = 0);
        }
        if self.is(Flaw::LowersFloors) {
            let state = self.state.lock().unwrap();
            logs.iter_mut()
                .for_each(|log| log.floor = state.floors.get(&log.no).copied().unwrap_or(log.floor));
        }
        Ok(logs)
    }

    async fn next_log(&self) -> Result<LogNo, StoreError> {
        self.inner.next_log().await
    }

    async fn read(
        &self,
        log: LogNo,
        line: LineNo,
        range: RangeInclusive<u64>,
        max_bytes: usize,
        backward: bool,
    ) -> Result<Option<Run>, StoreError> {
        let (mut range, mut max_bytes, mut backward) = (range, max_bytes, backward);
        match self.flaw {
            Flaw::IgnoresMaxBytes => max_bytes = usize::MAX,
            Flaw::OnlyReadsForward => backward = false,
            Flaw::ReadsBeyondTheRange if !backward => range = *range.start()..=range.end().saturating_add(1),
            _ => {}
        }
        self.inner.read(log, line, range, max_bytes, backward).await
    }

    async fn block_heads(
        &self,
        log: LogNo,
        line: LineNo,
        range: RangeInclusive<u64>,
        limit: usize,
    ) -> Result<Vec<Head>, StoreError> {
        let limit = if self.is(Flaw::IgnoresLimit) { usize::MAX } else { limit };
        self.inner.block_heads(log, line, range, limit).await
    }
}

#[async_trait]
impl ChannelRepository for Flawed {
    async fn channels(&self) -> Result<Vec<ChannelRecord>, StoreError> {
        let mut channels = self.inner.channels().await?;
        if self.is(Flaw::LowersSeen) {
            let state = self.state.lock().unwrap();
            for channel in &mut channels {
                channel.seen = state.seen.get(&channel.id).copied().unwrap_or(channel.seen);
            }
        }
        Ok(channels)
    }
}

#[async_trait]
impl PeerRepository for Flawed {
    async fn peers(&self) -> Result<Vec<PeerRecord>, StoreError> {
        let mut peers = self.inner.peers().await?;
        if self.is(Flaw::ShowsPeersBackwards) {
            peers.reverse();
        }
        Ok(peers)
    }
}

#[async_trait]
impl NodeRepository for Flawed {
    fn identity(&self) -> Identity {
        if self.is(Flaw::ForgetsItsName) {
            Identity::from_secret([self.opening; 32])
        } else {
            self.inner.identity()
        }
    }

    fn residence(&self) -> Residence {
        if self.is(Flaw::SaysThatItMoved) { Residence::Moved } else { self.inner.residence() }
    }

    async fn node(&self) -> Result<NodeRecord, StoreError> {
        self.inner.node().await
    }
}

#[async_trait]
impl SnapshotRepository for Flawed {
    async fn snapshot(&self, key: &SnapshotKey) -> Result<Option<SnapshotRecord>, StoreError> {
        self.inner.snapshot(key).await
    }
}

#[async_trait]
impl Store for Flawed {
    fn submit(&self, mut batch: WriteBatch) -> Receipt {
        batch.ops.retain(|op| self.keeps(op));
        match self.flaw {
            Flaw::NotAtomic => {
                let single = batch
                    .ops
                    .into_iter()
                    .map(|op| self.inner.submit(WriteBatch::new([op])).settled().unwrap());
                Receipt::ready(single.fold(Ok(()), Result::and))
            }
            Flaw::SaysYesToMisuse => match self.inner.submit(batch).settled() {
                Some(Err(StoreError::Misuse(_))) => Receipt::ready(Ok(())),
                Some(result) => Receipt::ready(result),
                None => unreachable!("a memory store settles at once"),
            },
            Flaw::HoldsTheLastBatchBack => {
                let held = self.state.lock().unwrap().held.replace(batch);
                held.map_or_else(|| Receipt::ready(Ok(())), |held| self.inner.submit(held))
            }
            _ => self.inner.submit(batch),
        }
    }

    fn usage(&self) -> StoreUsage {
        if self.is(Flaw::NeverGrows) { StoreUsage::default() } else { self.inner.usage() }
    }

    async fn close(&self) -> Result<(), StoreError> {
        if self.is(Flaw::StaysOpen) { Ok(()) } else { self.inner.close().await }
    }
}

/// A memory store that can be opened again, with a flaw or without.
struct Fixture {
    first: MemoryStore,
    openings: Mutex<u8>,
    flaw: Option<Flaw>,
}

impl Fixture {
    fn new(flaw: Option<Flaw>) -> Self {
        Self { first: MemoryStore::new(Identity::from_secret([1; 32])), openings: Mutex::new(0), flaw }
    }

    fn open_inner(&self) -> Result<MemoryStore, StoreError> {
        let mut openings = self.openings.lock().unwrap();
        *openings += 1;
        if *openings == 1 {
            return Ok(self.first.clone());
        }
        match self.flaw {
            Some(Flaw::ForgetsEverything) => Ok(MemoryStore::new(Identity::from_secret([1; 32]))),
            Some(Flaw::OpensTwice) => self.first.reopen().or_else(|_| self.first.backup().restore()),
            _ => self.first.reopen(),
        }
    }
}

/// The memory store as it is.
struct Sound(Fixture);

#[async_trait]
impl StoreFixture for Sound {
    type Store = MemoryStore;

    async fn open(&self) -> Result<MemoryStore, StoreError> {
        self.0.open_inner()
    }
}

#[async_trait]
impl StoreFixture for Fixture {
    type Store = Flawed;

    async fn open(&self) -> Result<Flawed, StoreError> {
        let (inner, flaw) = (self.open_inner()?, self.flaw.unwrap());
        Ok(Flawed { inner, flaw, opening: *self.openings.lock().unwrap(), state: Mutex::default() })
    }
}

/// Runs the suite without a runtime: a memory store never makes it wait.
fn finish<T>(suite: impl Future<Output = T>) -> T {
    suite.now_or_never().expect("memory never waits")
}

#[test]
fn the_memory_store_conforms() {
    finish(conformance(|| async { MemoryStore::ephemeral().unwrap() }));
}

#[test]
fn the_memory_store_conforms_across_restarts() {
    finish(conformance_with_restarts(|| async { Sound(Fixture::new(None)) }));
}

/// The message of the panic that the suite answers `flaw` with.
fn verdict(flaw: Flaw) -> String {
    let suite = conformance_with_restarts(|| async move { Fixture::new(Some(flaw)) });
    match finish(AssertUnwindSafe(suite).catch_unwind()) {
        Ok(()) => panic!("the suite finds nothing wrong with a store that {flaw:?}"),
        Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
    }
}

#[test]
fn the_suite_names_the_clause_that_a_flawed_store_breaks() {
    let cases = [
        (Flaw::DropsEverySecondOp, "clause PutChannel"),
        (Flaw::IgnoresMaxBytes, "clause max_bytes"),
        (Flaw::NotAtomic, "clause misuse changes nothing"),
        (Flaw::OnlyReadsForward, "clause read backward"),
        (Flaw::ReadsBeyondTheRange, "clause read"),
        (Flaw::ForgetsTheLine, "clause logs"),
        (Flaw::ForgetsEverything, "clause PutChannel"),
        (Flaw::ForgetsItsName, "clause identity"),
        (Flaw::IgnoresLimit, "clause block_heads"),
        (Flaw::IgnoresRemoveChannel, "clause RemoveChannel"),
        (Flaw::IgnoresRemovePeer, "clause PutPeer and RemovePeer"),
        (Flaw::IgnoresWipe, "clause Wipe"),
        (Flaw::IgnoresPutLine, "clause logs"),
        (Flaw::IgnoresRaiseFloor, "clause RaiseFloor only rises"),
        (Flaw::ForgetsFloors, "clause RaiseFloor only rises"),
        (Flaw::LowersFloors, "clause RaiseFloor only rises"),
        (Flaw::IgnoresHeadsOfBlocks, "clause block_heads"),
        (Flaw::LowersSeen, "clause SetSeen only rises"),
        (Flaw::SaysYesToMisuse, "clause misuse"),
        (Flaw::HoldsTheLastBatchBack, "clause PutChannel"),
        (Flaw::StaysOpen, "clause close"),
        (Flaw::OpensTwice, "clause exclusive"),
        (Flaw::NeverGrows, "clause usage"),
        (Flaw::ShowsPeersBackwards, "clause PutPeer and RemovePeer"),
        (Flaw::SaysThatItMoved, "clause a fresh store"),
    ];
    for (flaw, clause) in cases {
        let verdict = verdict(flaw);
        assert!(verdict.contains(clause), "a store that {flaw:?} is said to break: {verdict}");
    }
}
