use super::*;
use crate::application::ports::WriteOp;
use crate::domain::block::BlockPhase;
use crate::domain::head::Head;
use crate::domain::id::{LogKey, NodeId, StreamId};
use crate::domain::log::LogName;
use crate::domain::run::RunBuilder;
use crate::domain::version::{Tip, VersionVector};
use crate::infrastructure::packed::{Fault, MapBacking};
use proptest::prelude::*;

const PLACE: Bytes = Bytes::from_static(b"here");

/// A run of `count` entries of `len` bytes that starts a line or continues `after`.
pub(in crate::infrastructure) fn run_after(after: Option<&Run>, count: usize, len: usize) -> Run {
    let tip = after.map_or(Tip::START, Run::tip);
    let start = after.map_or(0, |run| run.last_stamp().time());
    let mut builder = RunBuilder::new(LogKey::from_bytes([1; 32]), tip, count, count * len);
    for n in 1..=count as u64 {
        let sequence = tip.sequence + n;
        let payload: Vec<u8> = (0..len).map(|i| (sequence as usize + i) as u8).collect();
        builder.push(Timestamp::new(0, start + n), &payload);
    }
    builder.finish().unwrap()
}

pub(in crate::infrastructure) fn line_after(line: Option<&Line>, run: &Run) -> Line {
    let empty = Line::empty(LineNo(0), Tip::START, Timestamp::ZERO, BlockPhase::START);
    line.unwrap_or(&empty).extended(run).unwrap().0
}

pub(in crate::infrastructure) fn append(log: u32, line: &Line, run: &Run) -> WriteOp {
    WriteOp::Append { log: LogNo(log), line: line.clone(), run: run.clone() }
}

fn channel(name: &str) -> ChannelRecord {
    ChannelRecord {
        id: ChannelId::well_known(name).unwrap(),
        label: name.into(),
        admission: crate::domain::channel::Admission::Open,
        seen: Timestamp::ZERO,
    }
}

pub(in crate::infrastructure) fn name(channel: &str, stream: &str) -> LogName {
    let channel = ChannelId::well_known(channel).unwrap();
    LogName::new(channel, StreamId::new(stream).unwrap(), NodeId::from_bytes([9; 32]))
}

fn open(disk: &MapBacking) -> PackedStore<MapBacking> {
    PackedStore::open(disk.clone(), [5; 32], &PLACE).unwrap()
}

/// Makes the log `no` if it is not there.
pub(in crate::infrastructure) fn register<B: Backing>(store: &PackedStore<B>, no: u32) {
    if store.logs().unwrap().iter().all(|log| log.no != LogNo(no)) {
        let log = WriteOp::PutLog(LogNo(no), name("c", &no.to_string()));
        store.apply(&WriteBatch::new([WriteOp::PutChannel(channel("c")), log])).unwrap();
    }
}

/// Appends a run for each of `sizes` (entries, payload length), each in a batch of its own.
fn fill(store: &PackedStore<MapBacking>, log: u32, sizes: &[(usize, usize)]) -> (Line, Vec<Run>) {
    register(store, log);
    let (mut line, mut runs) = (None::<Line>, Vec::<Run>::new());
    for (count, len) in sizes {
        let run = run_after(runs.last(), *count, *len);
        let next = line_after(line.as_ref(), &run);
        store.apply(&WriteBatch::new([append(log, &next, &run)])).unwrap();
        (line, runs) = (Some(next), {
            runs.push(run);
            runs
        });
    }
    (line.unwrap(), runs)
}

/// Reads a whole line piece by piece.
fn whole(store: &PackedStore<MapBacking>, log: u32, max: usize, backward: bool) -> Option<Run> {
    let (mut parts, mut from, mut to) = (Vec::new(), 1, u64::MAX);
    while let Some(run) = store.read(LogNo(log), LineNo(0), from..=to, max, backward).unwrap() {
        assert!(run.body().len() <= max || run.len() == 1, "{} > {max}", run.body().len());
        if backward {
            to = run.first() - 1;
            parts.insert(0, run);
        } else {
            from = run.last() + 1;
            parts.push(run);
        }
    }
    Run::join(&parts)
}

fn merge_all(store: &PackedStore<MapBacking>) {
    for _ in 0..10_000 {
        if store.merge_step().unwrap() == MergeStep::Idle {
            return;
        }
    }
    panic!("merging does not end");
}

#[test]
fn the_identity_stays_the_same_and_a_copy_elsewhere_is_noticed_once() {
    let disk = MapBacking::new(4096);
    let first = open(&disk);
    assert_eq!(first.residence(), Residence::Same);
    let again = PackedStore::open(disk.clone(), [6; 32], &PLACE).unwrap();
    assert_eq!(again.identity().node(), first.identity().node());
    assert_eq!(again.residence(), Residence::Same);
    let copy = disk.crashed();
    let moved = PackedStore::open(copy.clone(), [6; 32], &Bytes::from_static(b"there")).unwrap();
    assert_eq!((moved.identity().node(), moved.residence()), (first.identity().node(), Residence::Moved));
    let settled = PackedStore::open(copy, [6; 32], &Bytes::from_static(b"there")).unwrap();
    assert_eq!(settled.residence(), Residence::Same);
}

#[test]
fn a_newer_format_and_a_foreign_database_are_refused_untouched() {
    let disk = MapBacking::new(4096);
    drop(open(&disk));
    disk.tamper(&[0], |value| *value = layout::format_value(layout::FORMAT + 1));
    let before = disk.contents();
    let refused = PackedStore::open(disk.clone(), [5; 32], &PLACE).unwrap_err();
    assert!(matches!(refused, StoreError::NewerFormat { found: 2, supported: 1 }), "{refused}");
    assert_eq!(disk.contents(), before);

    let foreign = MapBacking::new(4096);
    foreign.tamper(b"somebody", |value| value.extend(b"else"));
    let before = foreign.contents();
    let refused = PackedStore::open(foreign.clone(), [5; 32], &PLACE).unwrap_err();
    assert!(matches!(refused, StoreError::Location(_)), "{refused}");
    assert_eq!(foreign.contents(), before);
}

#[test]
fn every_record_reads_back_after_reopening() {
    let disk = MapBacking::new(4096);
    let store = open(&disk);
    let (run, peer) = (run_after(None, 3, 10), NodeId::from_bytes([8; 32]));
    let line = line_after(None, &run);
    let head = Head::sign(&LogKey::from_bytes([1; 32]), run.tip(), &store.identity());
    let peer = PeerRecord { node: peer, label: "ben".into(), addresses: Vec::new(), incarnation: 4 };
    let key = SnapshotKey {
        channel: channel("notes").id,
        stream: StreamId::new("today").unwrap(),
        name: "tally".into(),
        version: 1,
    };
    // Larger than a value of this backing: cut into pieces.
    let state = SnapshotRecord {
        position: VersionVector::START,
        last: None,
        refused: 1,
        state: Bytes::from(vec![7; 10_000]),
    };
    store
        .apply(&WriteBatch::new([
            WriteOp::PutChannel(channel("notes")),
            WriteOp::PutLog(LogNo(3), name("notes", "today")),
            WriteOp::RaiseFloor(LogNo(3), 2),
            append(3, &line, &run),
            WriteOp::PutBlockHead(LogNo(3), LineNo(0), head),
            WriteOp::SetSeen(channel("notes").id, Timestamp::new(1, 2)),
            WriteOp::PutPeer(peer.clone()),
            WriteOp::PutNode(NodeRecord { incarnation: 12 }),
            WriteOp::PutSnapshot(key.clone(), state.clone()),
        ]))
        .unwrap();
    store.apply(&WriteBatch::new([WriteOp::SetSeen(channel("notes").id, Timestamp::new(0, 9))])).unwrap();
    let small = SnapshotRecord { state: Bytes::from_static(b"small"), ..state.clone() };
    for store in [&store, &open(&disk)] {
        let log =
            StoredLog { no: LogNo(3), name: name("notes", "today"), floor: 2, lines: vec![line.clone()] };
        assert_eq!(store.logs().unwrap(), [log]);
        assert_eq!(whole(store, 3, 1000, false), Some(run.clone()));
        assert_eq!(store.block_heads(LogNo(3), LineNo(0), 0..=u64::MAX, 9).unwrap(), [head]);
        assert_eq!(
            store.channels().unwrap(),
            [ChannelRecord { seen: Timestamp::new(1, 2), ..channel("notes") }]
        );
        assert_eq!(store.peers().unwrap(), std::slice::from_ref(&peer));
        assert_eq!(store.node().unwrap(), NodeRecord { incarnation: 12 });
        assert_eq!(store.snapshot(&key).unwrap(), Some(state.clone()));
    }
    store.apply(&WriteBatch::new([WriteOp::PutSnapshot(key.clone(), small.clone())])).unwrap();
    assert_eq!(store.snapshot(&key).unwrap(), Some(small), "no piece of the longer one is left");
    store
        .apply(&WriteBatch::new([WriteOp::RemoveSnapshot(key.clone()), WriteOp::RemovePeer(peer.node)]))
        .unwrap();
    assert_eq!((store.snapshot(&key).unwrap(), store.peers().unwrap()), (None, Vec::new()));
}

#[test]
fn removing_a_channel_leaves_nothing_of_it_and_everything_of_the_others() {
    let disk = MapBacking::new(2048);
    let store = open(&disk);
    let contents = || {
        let mut contents = disk.contents();
        contents.retain(|key, _| key[0] != layout::REMOVED_LOGS);
        contents
    };
    let all = contents();
    let mut ops = vec![WriteOp::PutChannel(channel("kept")), WriteOp::PutLog(LogNo(1), name("kept", "s"))];
    store.apply(&WriteBatch::new(ops.drain(..))).unwrap();
    let (_, kept) = fill(&store, 1, &[(5, 10)]);
    let before = contents();
    store
        .apply(&WriteBatch::new([
            WriteOp::PutChannel(channel("gone")),
            WriteOp::PutLog(LogNo(2), name("gone", "s")),
            WriteOp::RaiseFloor(LogNo(2), 3),
        ]))
        .unwrap();
    fill(&store, 2, &[(5, 10), (1, 9000), (40, 100)]);
    store.apply(&WriteBatch::new([WriteOp::RemoveChannel(channel("gone").id)])).unwrap();
    assert_eq!(contents(), before);
    assert_eq!(whole(&store, 1, 1000, false), Run::join(&kept));
    // Created and removed within one batch.
    let run = run_after(None, 1, 10);
    store
        .apply(&WriteBatch::new([
            WriteOp::PutChannel(channel("brief")),
            WriteOp::PutLog(LogNo(3), name("brief", "s")),
            append(3, &line_after(None, &run), &run),
            WriteOp::RaiseFloor(LogNo(3), 1),
            WriteOp::RemoveChannel(channel("brief").id),
        ]))
        .unwrap();
    assert_eq!(contents(), before);
    store.apply(&WriteBatch::new([WriteOp::Wipe])).unwrap();
    assert_eq!(contents().len(), 1, "only the format is left");
    let fresh = PackedStore::open(disk.clone(), [6; 32], &PLACE).unwrap();
    assert_ne!(fresh.identity().node(), store.identity().node());
    assert_eq!(contents().len(), all.len());
}

#[test]
fn a_flipped_bit_anywhere_in_a_value_is_reported_and_never_read_as_data() {
    let disk = MapBacking::new(1024);
    let store = open(&disk);
    let key = SnapshotKey {
        channel: channel("c").id,
        stream: StreamId::new("s").unwrap(),
        name: "n".into(),
        version: 1,
    };
    let state = SnapshotRecord {
        position: VersionVector::START,
        last: None,
        refused: 0,
        state: vec![7; 3000].into(),
    };
    store
        .apply(&WriteBatch::new([
            WriteOp::PutChannel(channel("c")),
            WriteOp::PutLog(LogNo(1), name("c", "s")),
            WriteOp::PutPeer(PeerRecord {
                node: NodeId::from_bytes([1; 32]),
                label: "x".into(),
                addresses: Vec::new(),
                incarnation: 0,
            }),
            WriteOp::PutNode(NodeRecord { incarnation: 3 }),
            WriteOp::PutSnapshot(key.clone(), state),
        ]))
        .unwrap();
    fill(&store, 1, &[(3, 20), (1, 5000), (2, 10)]);
    let head = Head::sign(&LogKey::from_bytes([1; 32]), Tip::START, &store.identity());
    store.apply(&WriteBatch::new([WriteOp::PutBlockHead(LogNo(1), LineNo(0), head)])).unwrap();
    store.sync().unwrap();
    let everything = |store: &PackedStore<MapBacking>| -> Result<(), StoreError> {
        store.logs()?;
        store.channels()?;
        store.peers()?;
        store.node()?;
        store.snapshot(&key)?;
        store.block_heads(LogNo(1), LineNo(0), 0..=9, 9)?;
        let mut from = 1;
        while let Some(run) = store.read(LogNo(1), LineNo(0), from..=u64::MAX, 10_000, false)? {
            from = run.last() + 1;
        }
        Ok(())
    };
    everything(&store).unwrap();
    for (at, value) in disk.contents() {
        for byte in (0..value.len()).step_by(value.len() / 40 + 1) {
            let broken = disk.crashed();
            broken.tamper(&at, |value| value[byte] ^= 0x10);
            let outcome = PackedStore::open(broken, [5; 32], &PLACE).and_then(|store| everything(&store));
            assert!(matches!(outcome, Err(StoreError::Corrupt(_))), "{at:02x?} byte {byte}: {outcome:?}");
        }
    }
    // A value written in the wrong place.
    let broken = disk.crashed();
    let chunks: Vec<_> = disk.contents().into_iter().filter(|(key, _)| key[0] == layout::CHUNKS).collect();
    broken.tamper(&chunks[0].0, |value| *value = chunks.last().unwrap().1.to_vec());
    let outcome = PackedStore::open(broken, [5; 32], &PLACE).and_then(|store| everything(&store));
    assert!(matches!(outcome, Err(StoreError::Corrupt(_))));
}

#[test]
fn i2_a_missing_chunk_or_piece_is_damage_and_not_a_shorter_line() {
    let disk = MapBacking::new(1024);
    let store = open(&disk);
    fill(&store, 1, &[(3, 20), (1, 5000), (2, 10), (2, 10)]);
    store.sync().unwrap();
    let keys: Vec<_> = disk.contents().into_keys().filter(|key| key[0] == layout::CHUNKS).collect();
    for key in &keys[1..keys.len() - 1] {
        let broken = disk.crashed();
        broken.apply(&Changes::from([(key.clone(), None)])).unwrap();
        let store = open(&broken);
        let outcome = store.read(LogNo(1), LineNo(0), 1..=99, 100_000, false).and_then(|_| {
            store.read(LogNo(1), LineNo(0), 4..=99, 100_000, false)?;
            store.read(LogNo(1), LineNo(0), 5..=99, 100_000, false)
        });
        assert!(matches!(outcome, Err(StoreError::Corrupt(_))), "{key:02x?}: {outcome:?}");
    }
}

#[test]
fn a_read_gives_at_least_one_entry_and_only_what_the_range_holds() {
    let disk = MapBacking::new(2048);
    let store = open(&disk);
    let (_, runs) = fill(&store, 1, &[(10, 100), (1, 9000), (20, 3)]);
    let all = Run::join(&runs).unwrap();
    for (from, to) in [(1, 31), (3, 7), (5, 5), (9, 12), (11, 11), (12, 40), (25, 28)] {
        for max in [0, 150, 1000, 100_000] {
            for backward in [false, true] {
                let got = store.read(LogNo(1), LineNo(0), from..=to, max, backward).unwrap().unwrap();
                assert_eq!(all.slice(got.first(), got.last()).unwrap(), got);
                assert!(got.first() >= from && got.last() <= to.min(31));
                assert!(if backward { got.last() == to.min(31) } else { got.first() == from });
                assert!(got.len() == 1 || got.body().len() <= max);
            }
        }
    }
    for (log, range) in [(1, 32..=99), (2, 1..=9), (1, 0..=0)] {
        assert_eq!(store.read(LogNo(log), LineNo(0), range, 99, false).unwrap(), None);
    }
    #[expect(clippy::reversed_empty_ranges, reason = "an empty range is what is tested")]
    let empty = 5..=4;
    assert_eq!(store.read(LogNo(1), LineNo(0), empty, 99, true).unwrap(), None);
}

#[test]
fn merging_leaves_few_chunks_and_a_line_that_was_marked_is_merged_after_a_restart() {
    let disk = MapBacking::new(4096);
    let store = open(&disk);
    let (_, runs) = fill(&store, 1, &vec![(1, 50); 500]);
    let count = |disk: &MapBacking| disk.contents().keys().filter(|key| key[0] == layout::CHUNKS).count();
    let marks = |disk: &MapBacking| disk.contents().keys().filter(|key| key[0] == layout::MARKS).count();
    assert_eq!((count(&disk), marks(&disk)), (500, 1));
    store.sync().unwrap();
    let copy = disk.crashed();
    let later = open(&copy);
    merge_all(&later);
    merge_all(&store);
    for (store, disk) in [(&store, &disk), (&later, &copy)] {
        assert!(count(disk) < 40, "{} chunks", count(disk));
        assert_eq!(marks(disk), 0);
        assert_eq!(whole(store, 1, 3000, false), Run::join(&runs));
    }
}

#[test]
fn one_small_append_per_session_is_merged_too() {
    let disk = MapBacking::new(4096);
    let (mut line, mut last) = (None, None::<Run>);
    for _ in 0..100 {
        let store = open(&disk);
        register(&store, 1);
        let run = run_after(last.as_ref(), 1, 20);
        line = Some(line_after(line.as_ref(), &run));
        store.apply(&WriteBatch::new([append(1, line.as_ref().unwrap(), &run)])).unwrap();
        last = Some(run);
        merge_all(&store);
    }
    let chunks = disk.contents().keys().filter(|key| key[0] == layout::CHUNKS).count();
    assert!(chunks < 32, "{chunks} chunks");
    assert_eq!(whole(&open(&disk), 1, 3000, false).unwrap().len(), 100);
}

#[test]
fn an_entry_is_copied_few_times_however_often_merging_runs() {
    let disk = MapBacking::new(64 * 1024);
    let store = open(&disk);
    let (mut line, mut last, mut written) = (None, None::<Run>, 0);
    for _ in 0..2000 {
        register(&store, 1);
        let run = run_after(last.as_ref(), 1, 20);
        line = Some(line_after(line.as_ref(), &run));
        store.apply(&WriteBatch::new([append(1, line.as_ref().unwrap(), &run)])).unwrap();
        last = Some(run);
        let before = disk.contents();
        merge_all(&store);
        let news = disk.contents().into_iter().filter(|(key, value)| before.get(key) != Some(value));
        written += news.map(|(_, value)| value.len()).sum::<usize>();
    }
    let payload = 2000 * (20 + 2 + 32);
    assert!(written < 8 * payload, "{written} bytes rewritten for {payload}");
}

#[test]
fn a_batch_that_breaks_a_rule_changes_nothing_and_the_store_goes_on() {
    let disk = MapBacking::new(4096);
    let store = open(&disk);
    let (line, runs) = fill(&store, 1, &[(3, 10)]);
    let gap = {
        let skipped = run_after(runs.last(), 1, 10);
        let after = run_after(Some(&skipped), 1, 10);
        append(1, &line_after(Some(&line_after(Some(&line), &skipped)), &after), &after)
    };
    let next = run_after(runs.last(), 1, 10);
    let fitting = append(1, &line_after(Some(&line), &next), &next);
    let head = Head::sign(&LogKey::from_bytes([1; 32]), Tip::START, &store.identity());
    let nobody = ChannelId::from_bytes([0; 32]);
    let before = disk.contents();
    for broken in [
        gap,
        append(1, &line, &runs[0]),
        append(1, &line, &next),
        append(2, &line, &runs[0]),
        WriteOp::PutLine(LogNo(1), line_after(Some(&line), &next)),
        WriteOp::PutBlockHead(LogNo(1), LineNo(1), head),
        WriteOp::PutLog(LogNo(1), name("c", "other")),
        WriteOp::PutLog(LogNo(2), name("unknown", "s")),
        WriteOp::RaiseFloor(LogNo(2), 1),
        WriteOp::SetSeen(nobody, Timestamp::new(1, 1)),
    ] {
        let batch = WriteBatch::new([WriteOp::PutNode(NodeRecord { incarnation: 9 }), broken]);
        let refused = store.apply(&batch);
        assert!(matches!(refused, Err(StoreError::Misuse(_))), "{refused:?} {batch:?}");
        assert_eq!(disk.contents(), before);
    }
    store.apply(&WriteBatch::new([fitting])).unwrap();
}

#[test]
fn a_full_device_changes_nothing_and_holds_back_what_builds_on_the_lost_batch() {
    let disk = MapBacking::new(4096);
    let store = open(&disk);
    let (line, runs) = fill(&store, 1, &[(1, 10)]);
    let big = run_after(runs.last(), 1, 3000);
    let big_line = line_after(Some(&line), &big);
    let small = run_after(Some(&big), 1, 10);
    let small_line = line_after(Some(&big_line), &small);
    let before = disk.contents();
    disk.set_fault(Fault::FullAbove(1000));
    let full = |op: WriteOp| matches!(store.apply(&WriteBatch::new([op])), Err(StoreError::Full));
    assert!(full(append(1, &big_line, &big)));
    assert!(full(append(1, &small_line, &small)), "it would leave a hole");
    assert_eq!(disk.contents(), before);
    store.apply(&WriteBatch::new([WriteOp::PutNode(NodeRecord { incarnation: 1 })])).unwrap();
    disk.set_fault(Fault::None);
    store.apply(&WriteBatch::new([append(1, &big_line, &big)])).unwrap();
    store.apply(&WriteBatch::new([append(1, &small_line, &small)])).unwrap();
    assert_eq!(whole(&store, 1, 100, false).unwrap().len(), 3);
}

#[test]
fn the_bytes_on_disk_are_pinned() {
    let disk = MapBacking::new(160);
    let store = open(&disk);
    let run = run_after(None, 2, 50);
    let mut line = line_after(None, &run);
    line.set_head(Head {
        tip: run.tip(),
        signature: crate::domain::identity::Signature::from_bytes([4; 64]),
    });
    let key = SnapshotKey {
        channel: channel("notes").id,
        stream: StreamId::new("today").unwrap(),
        name: "tally".into(),
        version: 1,
    };
    let mut position = VersionVector::START;
    position.set(NodeId::from_bytes([2; 32]), [run.tip()]);
    let members = std::collections::BTreeSet::from([NodeId::from_bytes([3; 32])]);
    let closed =
        ChannelRecord { admission: crate::domain::channel::Admission::Members(members), ..channel("closed") };
    store
        .apply(&WriteBatch::new([
            WriteOp::PutChannel(channel("notes")),
            WriteOp::PutChannel(closed),
            WriteOp::SetSeen(channel("notes").id, Timestamp::new(1, 2)),
            WriteOp::PutLog(LogNo(3), name("notes", "today")),
            WriteOp::RaiseFloor(LogNo(3), 1),
            append(3, &line, &run),
            WriteOp::PutBlockHead(LogNo(3), LineNo(0), line.head().unwrap()),
            WriteOp::PutPeer(PeerRecord {
                node: NodeId::from_bytes([8; 32]),
                label: "ben".into(),
                addresses: vec![crate::application::ports::PeerAddr::new("192.0.2.1:7700")],
                incarnation: 4,
            }),
            WriteOp::PutNode(NodeRecord { incarnation: 300 }),
            WriteOp::PutSnapshot(
                key,
                SnapshotRecord {
                    position,
                    last: run.entries(NodeId::from_bytes([2; 32])).last().map(|entry| entry.order()),
                    refused: 1,
                    state: Bytes::from_static(b"state"),
                },
            ),
        ]))
        .unwrap();
    fill(&store, 4, &vec![(1, 1); 16]);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines = disk.contents().into_iter().map(|(key, value)| format!("{} {}\n", hex(&key), hex(&value)));
    let found: String = lines.collect();
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/src/infrastructure/packed/fixtures/format-1.hex");
    if std::env::var_os("ANABRANCH_WRITE_FIXTURES").is_some() {
        std::fs::write(fixture, &found).unwrap();
    }
    let pinned = include_str!("../fixtures/format-1.hex");
    for (found, pinned) in found.lines().zip(pinned.lines()) {
        assert_eq!(found, pinned);
    }
    assert_eq!(found.lines().count(), pinned.lines().count());
    // And what is pinned reads back, forever.
    let unhex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let old = MapBacking::new(160);
    for (key, value) in pinned.lines().filter_map(|line| line.split_once(' ')) {
        old.tamper(&unhex(key), |content| *content = unhex(value));
    }
    let old = open(&old);
    assert_eq!(old.logs().unwrap(), store.logs().unwrap());
    assert_eq!(old.channels().unwrap(), store.channels().unwrap());
    assert_eq!(whole(&old, 3, 100, false), Some(run));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn i2_any_mix_of_appends_merges_and_crashes_leaves_a_contiguous_prefix_with_all_that_was_synced(
        steps in prop::collection::vec((0..10u8, 1..6usize, 0..700usize), 1..120),
    ) {
        let mut disk = MapBacking::new(2048);
        let mut store = open(&disk);
        let (mut line, mut runs, mut synced) = (None::<Line>, Vec::<Run>::new(), 0);
        for (what, count, len) in steps {
            match what {
                0..=5 => {
                    register(&store, 1);
                    let run = run_after(runs.last(), count, len);
                    let next = line_after(line.as_ref(), &run);
                    store.apply(&WriteBatch::new([append(1, &next, &run)])).unwrap();
                    line = Some(next);
                    runs.push(run);
                }
                6 | 7 => { for _ in 0..len % 7 { store.merge_step().unwrap(); } }
                8 => { store.sync().unwrap(); synced = runs.len(); }
                _ => {
                    disk = disk.crashed();
                    store = open(&disk);
                    runs.truncate(synced);
                    line = None;
                    for run in &runs { line = Some(line_after(line.as_ref(), run)); }
                }
            }
            let expected = Run::join(&runs);
            prop_assert_eq!(whole(&store, 1, 1500, false), expected.clone());
            prop_assert_eq!(whole(&store, 1, 1500, true), expected);
        }
    }
}
