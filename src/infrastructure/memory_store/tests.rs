use super::*;
use crate::domain::block::BlockPhase;
use crate::domain::id::{ChannelId, LogKey, NodeId, StreamId};
use crate::domain::log::LogName;
use crate::domain::run::RunBuilder;
use crate::domain::time::Timestamp;
use crate::domain::version::Tip;
use futures::FutureExt as _;

const NO: LineNo = LineNo(0);

fn channel() -> ChannelId {
    ChannelId::well_known("test").unwrap()
}

fn name() -> LogName {
    LogName::new(channel(), StreamId::new("s").unwrap(), NodeId::from_bytes([1; 32]))
}

fn channel_record() -> ChannelRecord {
    let admission = crate::domain::channel::Admission::Open;
    ChannelRecord { id: channel(), label: String::new(), admission, seen: Timestamp::ZERO }
}

fn store() -> MemoryStore {
    let store = MemoryStore::new(Identity::from_secret([1; 32]));
    write(&store, [WriteOp::PutChannel(channel_record()), WriteOp::PutLog(LogNo(0), name())]).unwrap();
    store
}

fn write(store: &MemoryStore, ops: impl IntoIterator<Item = WriteOp>) -> Result<(), StoreError> {
    store.submit(WriteBatch::new(ops)).settled().unwrap()
}

fn read(store: &MemoryStore, range: RangeInclusive<u64>, max_bytes: usize, backward: bool) -> Option<Run> {
    store.read(LogNo(0), NO, range, max_bytes, backward).now_or_never().unwrap().unwrap()
}

fn run_after(tip: Tip, entries: u64, payload_len: usize) -> Run {
    let mut builder = RunBuilder::new(LogKey::from_bytes([1; 32]), tip, 0, 0);
    for n in 1..=entries {
        builder.push(Timestamp::new(0, (tip.sequence + n) * 10), &vec![n as u8; payload_len]);
    }
    builder.finish().unwrap()
}

/// The line with `run` behind it, and the op that appends it.
fn append(line: &mut Line, run: &Run) -> WriteOp {
    *line = line.extended(run).unwrap().0;
    WriteOp::Append { log: LogNo(0), line: line.clone(), run: run.clone() }
}

fn append_new(line: &mut Line, entries: u64, payload_len: usize) -> WriteOp {
    let run = run_after(line.tip, entries, payload_len);
    append(line, &run)
}

fn empty_line() -> Line {
    Line::empty(NO, Tip::START, Timestamp::ZERO, BlockPhase::START)
}

#[test]
fn a_line_reads_back_the_same_whatever_the_sizes_it_was_appended_in() {
    let (store, mut line, mut runs) = (store(), empty_line(), Vec::new());
    for (entries, len) in [(1, 10), (1, 10), (40, 90), (300, 100), (1, 70_000), (700, 100), (1, 0), (20, 400)]
    {
        for _ in 0..entries.min(30) {
            let run = run_after(line.tip, entries, len);
            write(&store, [append(&mut line, &run)]).unwrap();
            runs.push(run);
        }
    }
    let whole = Run::join(&runs).unwrap();
    for (max_bytes, backward) in [(0, false), (5_000, true), (64 * 1024, false), (usize::MAX, true)] {
        let (mut first, mut last, mut parts) = (1, whole.last(), Vec::new());
        while first <= last {
            let part = read(&store, first..=last, max_bytes, backward).unwrap();
            let meets = if backward { part.last() == last } else { part.first() == first };
            assert!(meets && (part.len() == 1 || part.body().len() <= max_bytes));
            (first, last) = if backward { (first, part.first() - 1) } else { (part.last() + 1, last) };
            parts.push(part);
        }
        if backward {
            parts.reverse();
        }
        assert_eq!(Run::join(&parts), Some(whole.clone()));
    }
    let lines = store.logs().now_or_never().unwrap().unwrap()[0].lines.clone();
    assert_eq!(lines, [line]);
}

#[test]
fn small_appends_become_few_large_chunks_that_are_read_without_a_copy() {
    let (store, mut line) = (store(), empty_line());
    for _ in 0..10_000 {
        let run = run_after(line.tip, 1, 100);
        write(&store, [append(&mut line, &run)]).unwrap();
    }
    let mut chunks = 0;
    let mut next = 1;
    while let Some(part) = read(&store, next..=u64::MAX, usize::MAX, false) {
        next = part.last() + 1;
        chunks += 1;
    }
    // 10,000 entries of about 105 bytes make 17 chunks of 64 KiB; the newest are not merged yet.
    assert!(chunks <= 17 + 9, "{chunks} chunks");
    let (a, b) =
        (read(&store, 1..=9, usize::MAX, false).unwrap(), read(&store, 1..=9, usize::MAX, false).unwrap());
    assert_eq!(a.body().as_ptr(), b.body().as_ptr());
}

#[test]
fn a_log_of_one_small_entry_costs_less_than_400_bytes() {
    let run = run_after(Tip::START, 1, 10);
    assert!(size_of::<shelf::Slot>() + size_of::<shelf::LogStore>() + run.size() < 400);
    let (store, mut line) = (store(), empty_line());
    let before = store.usage().bytes;
    write(&store, [append(&mut line, &run)]).unwrap();
    assert_eq!(store.usage().bytes - before, run.size() as u64);
}

#[test]
fn a_restart_finds_what_was_there_and_a_second_open_is_refused() {
    let store = store();
    assert!(matches!(store.reopen(), Err(StoreError::InUse(_))));
    store.close().now_or_never().unwrap().unwrap();
    assert!(matches!(store.channels().now_or_never(), Some(Err(StoreError::Closed))));
    let again = store.reopen().unwrap();
    assert!(matches!(store.reopen(), Err(StoreError::InUse(_))));
    assert_eq!((again.identity().node(), again.residence()), (store.identity().node(), Residence::Same));
    assert_eq!(again.logs().now_or_never().unwrap().unwrap().len(), 1);
    store.close().now_or_never().unwrap().unwrap();
    assert!(again.channels().now_or_never().unwrap().is_ok(), "an old handle closed a new opening");
    drop(again);
    assert!(store.reopen().is_ok(), "dropping the last handle is the end of the process");
}

#[test]
fn a_restored_backup_knows_the_past_only_and_says_that_it_moved() {
    let (store, mut line) = (store(), empty_line());
    write(&store, [append_new(&mut line, 3, 5)]).unwrap();
    let backup = store.backup();
    write(&store, [append_new(&mut line, 3, 5)]).unwrap();
    let restored = backup.restore().unwrap();
    assert_eq!(restored.residence(), Residence::Moved);
    assert_eq!(restored.identity().node(), store.identity().node());
    assert_eq!(read(&restored, 1..=9, 1000, false).unwrap().last(), 3);
    assert_eq!(read(&store, 1..=9, 1000, false).unwrap().last(), 6);
    let mut fork = restored.logs().now_or_never().unwrap().unwrap()[0].lines[0].clone();
    write(&restored, [append_new(&mut fork, 1, 9)]).unwrap();
    assert_eq!(backup.restore().unwrap().usage(), backup.restore().unwrap().usage());
    assert_eq!(read(&backup.restore().unwrap(), 1..=9, 1000, true).unwrap().last(), 3);
}

#[test]
fn a_wiped_store_is_another_node_when_it_opens_again() {
    let store = store();
    write(&store, [WriteOp::Wipe]).unwrap();
    store.close().now_or_never().unwrap().unwrap();
    let (again, twin) = (store.reopen().unwrap(), self::store());
    assert_ne!(again.identity().node(), store.identity().node());
    assert!(again.logs().now_or_never().unwrap().unwrap().is_empty());
    write(&twin, [WriteOp::Wipe]).unwrap();
    assert_eq!(twin.backup().restore().unwrap().identity().node(), again.identity().node());
    let ephemeral = MemoryStore::ephemeral().unwrap();
    assert_ne!(ephemeral.identity().node(), MemoryStore::ephemeral().unwrap().identity().node());
}

#[test]
fn log_numbers_need_not_be_dense() {
    let store = store();
    let far = |no| WriteOp::PutLog(LogNo(no), name());
    write(&store, [far(u32::MAX), far(70_000)]).unwrap();
    let logs = store.logs().now_or_never().unwrap().unwrap();
    assert_eq!(logs.iter().map(|log| log.no.0).collect::<Vec<_>>(), [0, 70_000, u32::MAX]);
    write(&store, [WriteOp::RemoveChannel(channel()), WriteOp::PutChannel(channel_record())]).unwrap();
    assert!(matches!(write(&store, [far(70_000)]), Err(StoreError::Misuse(_))));
    assert!(matches!(write(&store, [far(u32::MAX)]), Err(StoreError::Misuse(_))));
}

#[test]
fn a_batch_is_checked_against_what_it_did_itself() {
    let (store, mut line) = (store(), empty_line());
    let first = append_new(&mut line, 2, 5);
    let again = first.clone();
    assert!(matches!(write(&store, [first.clone(), again]), Err(StoreError::Misuse(_))));
    assert!(read(&store, 1..=9, 99, false).is_none());
    let second = append_new(&mut line, 2, 5);
    let (gone, made) = (WriteOp::RemoveChannel(channel()), WriteOp::PutChannel(channel_record()));
    let dead = [first.clone(), gone.clone(), made.clone(), second.clone()];
    assert!(matches!(write(&store, dead), Err(StoreError::Misuse(_))));
    write(&store, [first.clone(), second.clone()]).unwrap();
    let anew = [WriteOp::Wipe, made, WriteOp::PutLog(LogNo(0), name()), first, second];
    write(&store, anew).unwrap();
    assert_eq!(read(&store, 1..=9, 99, false).unwrap().len(), 4);
}
