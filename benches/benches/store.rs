//! What a store costs by itself: single and batched appends, merging received runs, ordered scan, partial reads.
//!
//! Appends include building the runs (two hashes per entry), which every store pays alike; `build_run` shows that
//! part alone.

mod received;

use anabranch::application::ports::{EntryRepository as _, Store as _, WriteBatch, WriteOp};
use anabranch::domain::block::BlockPhase;
use anabranch::domain::channel::{Admission, ChannelRecord};
use anabranch::domain::id::{ChannelId, NodeId, StreamId};
use anabranch::domain::identity::Identity;
use anabranch::domain::log::{Line, LineNo, LogName, LogNo};
use anabranch::domain::run::{Run, RunBuilder};
use anabranch::domain::time::Timestamp;
use anabranch::domain::version::Tip;
use anabranch::infrastructure::memory_store::MemoryStore;
use divan::Bencher;
use divan::counter::ItemsCount;
use futures::executor::block_on;

/// Payload of an entry, in bytes: the size for which the targets are stated.
const PAYLOAD: [u8; 100] = [0x5a; 100];
/// Entries of a batch, as in the targets.
const BATCH: u64 = 1_000;
/// Entries written or read per measured round.
const ENTRIES: u64 = 100_000;
const LOG: LogNo = LogNo(0);
const LINE: LineNo = LineNo(0);
const AUTHOR: NodeId = NodeId::from_bytes([1; 32]);

fn main() {
    divan::main();
}

fn channel() -> ChannelId {
    ChannelId::from_bytes([1; 32])
}

fn name() -> LogName {
    LogName::new(channel(), StreamId::new("bench").expect("a short name"), AUTHOR)
}

fn store() -> MemoryStore {
    let store = MemoryStore::new(Identity::from_secret([1; 32]));
    let (id, label, admission) = (channel(), String::new(), Admission::Open);
    let channel = WriteOp::PutChannel(ChannelRecord { id, label, admission, seen: Timestamp::ZERO });
    write(&store, WriteBatch::new([channel, WriteOp::PutLog(LOG, name())]));
    store
}

fn write(store: &MemoryStore, batch: WriteBatch) {
    store.submit(batch).settled().expect("memory settles at once").expect("the batch keeps the rules");
}

fn run(name: &LogName, tip: Tip, entries: u64) -> Run {
    let bytes = entries as usize * PAYLOAD.len();
    let mut builder = RunBuilder::new(name.key, tip, entries as usize, bytes);
    for n in 1..=entries {
        builder.push(Timestamp::new(0, (tip.sequence + n) << 20), &PAYLOAD);
    }
    builder.finish().expect("at least one entry")
}

/// Appends `ENTRIES` entries as an appender does, `per_batch` at a time: entries, line record and seen stamp.
fn fill(store: &MemoryStore, per_batch: u64) {
    let name = name();
    let mut line = Line::empty(LINE, Tip::START, Timestamp::ZERO, BlockPhase::START);
    for _ in 0..ENTRIES / per_batch {
        let run = run(&name, line.tip, per_batch);
        line = line.extended(&run).expect("the run continues the line").0;
        let seen = WriteOp::SetSeen(channel(), line.stamp);
        let append = WriteOp::Append { log: LOG, line: line.clone(), run };
        write(store, WriteBatch { ops: [append, seen].into_iter().collect(), ..WriteBatch::default() });
    }
}

fn filled(per_batch: u64) -> MemoryStore {
    let store = store();
    fill(&store, per_batch);
    store
}

/// Runs built, hashed and appended: what the targets are about.
#[divan::bench(args = [1, BATCH], sample_count = 20)]
fn memory_append(bencher: Bencher<'_, '_>, per_batch: u64) {
    bencher.counter(ItemsCount::new(ENTRIES)).with_inputs(store).bench_values(|store| {
        fill(&store, per_batch);
        store
    });
}

/// The same runs and line records without a store: the difference is what the store costs.
#[divan::bench(args = [1, BATCH], sample_count = 20)]
fn build_run(bencher: Bencher<'_, '_>, per_batch: u64) {
    let name = name();
    bencher.counter(ItemsCount::new(ENTRIES)).bench(|| {
        let mut line = Line::empty(LINE, Tip::START, Timestamp::ZERO, BlockPhase::START);
        for _ in 0..ENTRIES / per_batch {
            let run = divan::black_box(run(&name, line.tip, per_batch));
            line = line.extended(&run).expect("the run continues the line").0;
        }
        line
    });
}

/// Runs of 2,048 entries from a peer, verified and written with their block heads.
#[divan::bench(sample_count = 20)]
fn memory_merge(bencher: Bencher<'_, '_>) {
    let received = received::Received::new(name(), LOG, Identity::from_secret([2; 32]), ENTRIES);
    bencher.counter(ItemsCount::new(received.entries())).with_inputs(store).bench_values(|store| {
        received.merge(|batch| write(&store, batch));
        store
    });
}

/// Pages of 64 KiB, each entry looked at, from a line that was written one by one or in batches.
#[divan::bench(args = [1, BATCH])]
fn memory_scan(bencher: Bencher<'_, '_>, per_batch: u64) {
    let store = filled(per_batch);
    bencher.counter(ItemsCount::new(ENTRIES)).bench(|| {
        let (mut next, mut bytes) = (1, 0);
        while let Some(run) =
            block_on(store.read(LOG, LINE, next..=u64::MAX, 64 * 1024, false)).expect("memory reads")
        {
            bytes += run.entries(AUTHOR).map(|entry| entry.payload().len()).sum::<usize>();
            next = run.last() + 1;
        }
        assert_eq!(bytes, ENTRIES as usize * PAYLOAD.len());
    });
}

/// One entry at a time: at the tip, where it is in the growing tail, and in the middle of a sealed chunk.
#[divan::bench(args = [ENTRIES, ENTRIES / 2])]
fn memory_read_one(bencher: Bencher<'_, '_>, sequence: u64) {
    let store = filled(1);
    bencher.bench(|| block_on(store.read(LOG, LINE, sequence..=sequence, 64 * 1024, false)));
}
