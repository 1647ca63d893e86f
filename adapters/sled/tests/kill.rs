//! I1, I2: what a store acknowledged survives the death of its process at any moment.
//!
//! A child process (this test binary, started again) appends to two logs in batches that belong together, and
//! prints what was acknowledged; the parent kills it without warning, reopens the store and looks.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anabranch::application::ports::{
    EntryRepository as _, NodeRecord, NodeRepository as _, Receipt, Residence, Store as _, WriteBatch,
    WriteOp,
};
use anabranch::domain::block::BlockPhase;
use anabranch::domain::channel::{Admission, ChannelRecord};
use anabranch::domain::entry::EntryHash;
use anabranch::domain::id::{ChannelId, NodeId, StreamId};
use anabranch::domain::log::{Line, LineNo, LogName, LogNo};
use anabranch::domain::run::RunBuilder;
use anabranch::domain::time::Timestamp;
use anabranch::domain::version::Tip;
use anabranch_sled::SledStore;
use futures::executor::block_on;

const ROUNDS: u64 = 24;
const SEED: u64 = 0x5eed_0001;
const CHILD: &str = "ANABRANCH_KILL_CHILD";
const TEST: &str = "i1_i2_acknowledged_entries_survive_a_kill_at_any_moment_and_batches_stay_whole";
/// Batches in flight, as of an application that does not wait for each.
const WINDOW: usize = 4;

fn random(seed: &mut u64) -> u64 {
    // xorshift64* (Vigna, 2016).
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    seed.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

fn name(log: u32) -> LogName {
    let channel = ChannelId::well_known("kill").unwrap();
    LogName::new(channel, StreamId::new(&log.to_string()).unwrap(), NodeId::from_bytes([1; 32]))
}

/// The payload of an entry is a function of its place, so that anybody can check it. Some are large.
fn payload(log: u32, sequence: u64) -> Vec<u8> {
    let len = if sequence % 501 == 500 { 150_000 } else { (sequence * 37 % 300) as usize };
    (0..len).map(|at| (at as u64 * 31 + sequence + u64::from(log)) as u8).collect()
}

#[allow(clippy::disallowed_methods, reason = "kills a real process at a real time")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Appends for ever: `count` entries to both logs and the node record with the number of the batch.
fn child(path: &Path, mut seed: u64) -> ! {
    let store = block_on(SledStore::open(path)).unwrap();
    let held = block_on(store.logs()).unwrap();
    if held.is_empty() {
        let channel = ChannelRecord {
            id: name(0).channel,
            label: String::new(),
            admission: Admission::Open,
            seen: Timestamp::ZERO,
        };
        let logs = (0..2).map(|log| WriteOp::PutLog(LogNo(log), name(log)));
        let ops = std::iter::once(WriteOp::PutChannel(channel)).chain(logs);
        block_on(store.submit(WriteBatch::new(ops)).durable()).unwrap();
    }
    let empty = Line::empty(LineNo(0), Tip::START, Timestamp::ZERO, BlockPhase::START);
    let line = |log: usize| held.get(log).and_then(|log| log.lines.first().cloned()).unwrap_or(empty.clone());
    let mut lines = [line(0), line(1)];
    let mut number = block_on(store.node()).unwrap().incarnation;
    let mut flying: Vec<(u64, u64, Receipt)> = Vec::new();
    loop {
        number += 1;
        let count = if random(&mut seed).is_multiple_of(3) { random(&mut seed) % 60 + 1 } else { 1 };
        let mut ops = vec![WriteOp::PutNode(NodeRecord { incarnation: number })];
        for (log, line) in (0..).zip(&mut lines) {
            let mut builder = RunBuilder::new(name(log).key, line.tip, 0, 0);
            for sequence in line.tip.sequence + 1..=line.tip.sequence + count {
                builder.push(Timestamp::new(0, sequence), &payload(log, sequence));
            }
            let run = builder.finish().unwrap();
            *line = line.extended(&run).unwrap().0;
            ops.push(WriteOp::Append { log: LogNo(log), line: line.clone(), run });
        }
        flying.push((number, lines[0].tip.sequence, store.submit(WriteBatch::new(ops))));
        if flying.len() > WINDOW {
            let (number, sequence, receipt) = flying.remove(0);
            block_on(receipt.durable()).unwrap();
            println!("ack {number} {sequence}");
        }
        // Now and then long enough for the store to merge small chunks.
        if random(&mut seed).is_multiple_of(20) {
            pause(Duration::from_millis(30));
        }
    }
}

/// What the store holds: batches and entries of each log, everything checked.
fn inspect(store: &SledStore) -> (u64, u64) {
    let number = block_on(store.node()).unwrap().incarnation;
    let mut tips = Vec::new();
    for log in block_on(store.logs()).unwrap() {
        let key = name(log.no.0).key;
        let (mut next, mut previous) = (1, EntryHash::ZERO);
        while let Some(run) =
            block_on(store.read(log.no, LineNo(0), next..=u64::MAX, 256 * 1024, false)).unwrap()
        {
            assert_eq!((run.first(), run.previous()), (next, previous));
            for entry in run.entries(NodeId::from_bytes([1; 32])) {
                let expected = payload(log.no.0, entry.sequence());
                assert!(entry.payload() == &expected, "entry {} of log {:?}", entry.sequence(), log.no);
                previous = EntryHash::of(&key, entry.sequence(), entry.timestamp(), &previous, &expected);
                assert_eq!(entry.hash(), previous);
            }
            next = run.last() + 1;
        }
        let line = log.lines.first().map_or(Tip::START, |line| line.tip);
        assert_eq!(
            (line.sequence, line.hash),
            (next - 1, previous),
            "the line's record and its entries agree"
        );
        tips.push(line.sequence);
    }
    assert!(tips.windows(2).all(|pair| pair[0] == pair[1]), "part of a batch: {tips:?}");
    (number, tips.first().copied().unwrap_or_default())
}

#[test]
#[allow(clippy::disallowed_methods, reason = "kills a real process at a real time")]
fn i1_i2_acknowledged_entries_survive_a_kill_at_any_moment_and_batches_stay_whole() {
    let mut seed = SEED;
    if let Some(path) = std::env::var_os(CHILD) {
        let round: u64 = std::env::var("ANABRANCH_KILL_ROUND").unwrap().parse().unwrap();
        child(&PathBuf::from(path), SEED ^ ((round + 1) << 20));
    }
    let dir = std::env::temp_dir().join(format!("anabranch-kill-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let started = Instant::now();
    let (mut node, mut acknowledged, mut total) = (None, (0, 0), 0);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env(CHILD, &dir)
            .env("ANABRANCH_KILL_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        // Every fourth round also while the store is being opened; else from the first acknowledgement on.
        let mut lines = String::new();
        if round % 4 != 3 {
            while !lines.contains("ack") && output.read_line(&mut lines).unwrap() > 0 {}
        }
        pause(Duration::from_micros(random(&mut seed) % 60_000));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        output.read_to_string(&mut lines).unwrap();
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert!(status.code().is_none(), "the child ended by itself: {lines}{errors}");
        // A line that the kill cut off was acknowledged too, but nobody can say what it said.
        let whole = &lines[..lines.rfind('\n').map_or(0, |end| end + 1)];
        for ack in whole.lines().filter_map(|line| line.split_once("ack ")) {
            let (number, sequence) = ack.1.split_once(' ').unwrap();
            acknowledged = (number.parse().unwrap(), sequence.parse().unwrap());
            total += 1;
        }
        let store = block_on(SledStore::open(&dir)).unwrap();
        assert_eq!(*node.get_or_insert(store.identity().node()), store.identity().node());
        assert_eq!(store.residence(), Residence::Same);
        let held = inspect(&store);
        assert!(held >= acknowledged, "round {round}: acknowledged {acknowledged:?}, held {held:?}");
        block_on(store.close()).unwrap();
    }
    println!("{total} acknowledged batches, {acknowledged:?}, {ROUNDS} kills in {:?}", started.elapsed());
    assert!(total > ROUNDS, "the children got to work");
    let _ = std::fs::remove_dir_all(&dir);
}
