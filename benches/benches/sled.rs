//! The sled store under load: what it writes, reads and reopens per second.
//!
//! `cargo bench -p anabranch-bench --bench sled [filter]`. Prints wall time and CPU time (all threads, Linux only), since the disk
//! and the neighbours on a shared machine decide about the former.

mod received;

use std::collections::VecDeque;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anabranch::application::ports::{EntryRepository as _, Receipt, Store as _, WriteBatch, WriteOp};
use anabranch::domain::block::BlockPhase;
use anabranch::domain::channel::{Admission, ChannelRecord};
use anabranch::domain::entry::EntryHeader;
use anabranch::domain::id::{ChannelId, NodeId, StreamId};
use anabranch::domain::identity::Identity;
use anabranch::domain::log::{Line, LineNo, LogName, LogNo};
use anabranch::domain::payload_hash::{HASH_LANES, payload_hashes};
use anabranch::domain::run::RunBuilder;
use anabranch::domain::time::Timestamp;
use anabranch::domain::version::Tip;
use anabranch_sled::SledStore;
use futures::executor::block_on;

const LOGS: u32 = 20;
const PER_LOG: u64 = 50;
const PAYLOAD: [u8; 100] = [7; 100];
/// Batches under way at once, as of an appender that is bounded by some hundred KB in flight.
const WINDOW: usize = 8;

type Error = Box<dyn std::error::Error>;
type Case = fn() -> Result<(), Error>;

fn main() -> Result<(), Error> {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let cases: [(&str, Case); 5] = [
        ("batched", batched_and_scans),
        ("single", single),
        ("merge", merge),
        ("many_logs", many_logs),
        ("grown", grown),
    ];
    for (name, case) in cases {
        if name.contains(&filter) {
            case()?;
        }
    }
    Ok(())
}

/// Starts a measurement.
struct Watch(Instant, Duration);

#[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

impl Watch {
    fn start() -> Self {
        Self(now(), cpu())
    }

    fn report(&self, what: &str, items: u64) {
        let (wall, cpu) = (self.0.elapsed(), cpu().saturating_sub(self.1));
        let rate = |time: Duration| items as f64 / time.as_secs_f64().max(1e-9);
        println!(
            "{what:<44} {items:>9} in {:>8.1} ms: {:>10.0}/s, {:>10.0}/CPU-s",
            wall.as_secs_f64() * 1e3,
            rate(wall),
            rate(cpu)
        );
    }
}

/// CPU time of this process: user and system ticks of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn bytes(&self) -> u64 {
        fn below(path: &std::path::Path) -> u64 {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            let size = |entry: std::fs::DirEntry| match entry.metadata() {
                Ok(found) if found.is_dir() => below(&entry.path()),
                found => found.map_or(0, |found| found.len()),
            };
            entries.map(size).sum()
        }
        below(&self.0)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Logs of one author in one channel, and where each ends.
struct Writer {
    store: SledStore,
    names: Vec<LogName>,
    lines: Vec<Line>,
    time: u64,
}

impl Writer {
    fn new(dir: &Dir, logs: u32) -> Result<Self, Error> {
        let store = block_on(SledStore::open(&dir.0))?;
        let channel = ChannelId::well_known("bench")?;
        let admission = Admission::Open;
        let record = ChannelRecord { id: channel, label: String::new(), admission, seen: Timestamp::ZERO };
        let author = NodeId::from_bytes([1; 32]);
        let mut names = Vec::new();
        for log in 0..logs {
            names.push(LogName::new(channel, StreamId::new(&format!("stream {log}"))?, author));
        }
        block_on(store.submit(WriteBatch::new([WriteOp::PutChannel(record)])).durable())?;
        let empty = Line::empty(LineNo(0), Tip::START, Timestamp::ZERO, BlockPhase::START);
        Ok(Self { store, lines: vec![empty; names.len()], names, time: 0 })
    }

    /// Registers all logs that are not yet.
    fn register(&self) -> Result<(), Error> {
        let logs = (0..).zip(&self.names).map(|(no, name)| WriteOp::PutLog(LogNo(no), name.clone()));
        Ok(block_on(self.store.submit(WriteBatch::new(logs)).durable())?)
    }

    fn append(&mut self, log: usize, count: u64) -> Result<WriteOp, Error> {
        let line = &mut self.lines[log];
        let mut builder =
            RunBuilder::new(self.names[log].key, line.tip, count as usize, count as usize * PAYLOAD.len());
        // As the append lane does it: payloads hashed side by side.
        let payloads = vec![&PAYLOAD[..]; count as usize];
        for group in payloads.chunks(HASH_LANES) {
            for hash in &payload_hashes(group)[..group.len()] {
                self.time += 4_000_000;
                let header = EntryHeader::with(Timestamp::new(0, self.time), &PAYLOAD, *hash);
                builder.push_hashed(&PAYLOAD, header);
            }
        }
        let run = builder.finish().ok_or("an empty run")?;
        *line = line.extended(&run).ok_or("not a continuation")?.0;
        Ok(WriteOp::Append { log: LogNo(log as u32), line: line.clone(), run })
    }

    /// Batches over all logs, several in flight.
    fn batches(&mut self, batches: u64) -> Result<(), Error> {
        let mut flying: VecDeque<Receipt> = VecDeque::new();
        for _ in 0..batches {
            let mut ops = vec![WriteOp::SetSeen(self.names[0].channel, Timestamp::new(0, self.time))];
            for log in 0..self.lines.len() {
                ops.push(self.append(log, PER_LOG)?);
            }
            flying.push_back(self.store.submit(WriteBatch::new(ops)));
            if flying.len() >= WINDOW {
                block_on(flying.pop_front().ok_or("nothing in flight")?.durable())?;
            }
        }
        for receipt in flying {
            block_on(receipt.durable())?;
        }
        Ok(())
    }
}

/// Reads a line through the port with one read ahead, and counts what is in it.
async fn scan(store: &SledStore, log: u32, max_bytes: usize) -> Result<u64, Error> {
    let read = |from| store.read(LogNo(log), LineNo(0), from..=u64::MAX, max_bytes, false);
    let (mut entries, mut next) = (0, read(1).await?);
    while let Some(run) = next {
        let mut ahead = read(run.last() + 1);
        let polled = futures::poll!(&mut ahead);
        let payloads = run.entries(NodeId::from_bytes([1; 32])).map(|entry| entry.payload().len().min(1));
        entries += payloads.sum::<usize>() as u64;
        next = match polled {
            std::task::Poll::Ready(next) => next?,
            std::task::Poll::Pending => ahead.await?,
        };
    }
    Ok(entries)
}

fn batched_and_scans() -> Result<(), Error> {
    let dir = Dir::new("sled-batched");
    let mut writer = Writer::new(&dir, LOGS)?;
    writer.register()?;
    writer.batches(50)?;
    let batches = 600;
    for _ in 0..3 {
        let watch = Watch::start();
        writer.batches(batches / 3)?;
        watch.report("batched, 20 logs x 50 x 100 B, synced", batches / 3 * u64::from(LOGS) * PER_LOG);
    }
    let total = (batches + 50) * u64::from(LOGS) * PER_LOG;
    println!("{:<44} {:.2} x payload", "size on disk", dir.bytes() as f64 / (total * 100) as f64);
    scans(&writer.store, "as written")?;
    block_on(writer.store.close())?;
    let watch = Watch::start();
    let store = block_on(SledStore::open(&dir.0))?;
    let logs = block_on(store.logs())?;
    watch.report("reopen and load logs", logs.len() as u64);
    scans(&store, "cold")?;
    #[allow(clippy::disallowed_methods, reason = "waits for the merge that starts when the store is idle")]
    std::thread::sleep(Duration::from_secs(3));
    println!(
        "{:<44} {:.2} x payload",
        "size on disk after merging",
        dir.bytes() as f64 / (total * 100) as f64
    );
    scans(&store, "merged")?;
    Ok(())
}

fn scans(store: &SledStore, state: &str) -> Result<(), Error> {
    for max_bytes in [64 * 1024, 256 * 1024] {
        for _ in 0..2 {
            let watch = Watch::start();
            let mut entries = 0;
            for log in 0..LOGS {
                entries += block_on(scan(store, log, max_bytes))?;
            }
            watch.report(&format!("scan {state}, {} KiB reads, log by log", max_bytes / 1024), entries);
        }
        let watch = Watch::start();
        let all = futures::future::join_all((0..LOGS).map(|log| scan(store, log, max_bytes)));
        let entries = block_on(all).into_iter().sum::<Result<u64, Error>>()?;
        watch.report(&format!("scan {state}, {} KiB reads, all logs", max_bytes / 1024), entries);
    }
    Ok(())
}

fn single() -> Result<(), Error> {
    let dir = Dir::new("sled-single");
    let mut writer = Writer::new(&dir, 1)?;
    writer.register()?;
    for _ in 0..8 {
        // Neighbours on a shared disk decide about syncs: what the disk does at that moment stands beside it.
        raw_syncs(&dir.0.join("raw"), 500)?;
        let watch = Watch::start();
        for _ in 0..2500 {
            let seen = WriteOp::SetSeen(writer.names[0].channel, Timestamp::new(0, writer.time));
            let append = writer.append(0, 1)?;
            block_on(writer.store.submit(WriteBatch::new([append, seen])).durable())?;
        }
        watch.report("single durable appends, one writer", 2500);
    }
    println!("{:<44} {} KB", "size on disk", dir.bytes() / 1000);
    Ok(())
}

/// What the disk can do at most: writes of 512 bytes into a file that does not grow, each synced.
fn raw_syncs(path: &Path, count: u64) -> Result<(), Error> {
    const SIZE: u64 = 1024 * 1024;
    std::fs::write(path, vec![0; SIZE as usize])?;
    let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
    file.sync_all()?;
    let watch = Watch::start();
    for n in 0..count {
        file.seek(SeekFrom::Start(n * 512 % SIZE))?;
        file.write_all(&[n as u8; 512])?;
        file.sync_data()?;
    }
    watch.report("  raw: 512 B written and synced, no store", count);
    Ok(std::fs::remove_file(path)?)
}

/// Runs of 2,048 entries from a peer, verified and written with their block heads, durable.
fn merge() -> Result<(), Error> {
    for _ in 0..3 {
        let dir = Dir::new("sled-merge");
        let writer = Writer::new(&dir, 1)?;
        writer.register()?;
        let author = Identity::from_secret([2; 32]);
        let received = received::Received::new(writer.names[0].clone(), LogNo(0), author, 200_000);
        let watch = Watch::start();
        let mut flying: VecDeque<Receipt> = VecDeque::new();
        let mut outcome = Ok(());
        received.merge(|batch| {
            flying.push_back(writer.store.submit(batch));
            if flying.len() >= WINDOW
                && let Some(oldest) = flying.pop_front()
            {
                outcome = outcome.clone().and(block_on(oldest.durable()));
            }
        });
        outcome?;
        for receipt in flying {
            block_on(receipt.durable())?;
        }
        watch.report("merge of received runs of 2,048, synced", received.entries());
    }
    Ok(())
}

fn many_logs() -> Result<(), Error> {
    let dir = Dir::new("sled-many");
    let mut writer = Writer::new(&dir, 100_000)?;
    let watch = Watch::start();
    for first in (0..100_000).step_by(1000) {
        let mut ops = Vec::new();
        for log in first..first + 1000 {
            ops.push(WriteOp::PutLog(LogNo(log as u32), writer.names[log].clone()));
            ops.push(writer.append(log, 1)?);
        }
        block_on(writer.store.submit(WriteBatch::new(ops)).durable())?;
    }
    watch.report("one entry into each new log", 100_000);
    block_on(writer.store.close())?;
    for _ in 0..3 {
        let watch = Watch::start();
        let store = block_on(SledStore::open(&dir.0))?;
        let opened = Watch::start();
        let logs = block_on(store.logs())?;
        opened.report("  of which logs()", logs.len() as u64);
        watch.report("open with 100,000 logs", logs.len() as u64);
    }
    println!("{:<44} {} MB", "size on disk", dir.bytes() / 1_000_000);
    Ok(())
}

/// A line grown by single appends in groups, so that merging keeps up with a writer that never rests.
fn grown() -> Result<(), Error> {
    let dir = Dir::new("sled-grown");
    let mut writer = Writer::new(&dir, 1)?;
    writer.register()?;
    let watch = Watch::start();
    let mut flying: VecDeque<Receipt> = VecDeque::new();
    for _ in 0..60_000 {
        let append = writer.append(0, 1)?;
        flying.push_back(writer.store.submit(WriteBatch::new([append])));
        if flying.len() >= 64 {
            block_on(flying.pop_front().ok_or("nothing in flight")?.durable())?;
        }
    }
    for receipt in flying {
        block_on(receipt.durable())?;
    }
    watch.report("durable appends, 64 in flight", 60_000);
    let watch = Watch::start();
    let entries = block_on(scan(&writer.store, 0, 64 * 1024))?;
    watch.report("scan of them, merged under way", entries);
    println!("{:<44} {} KB", "size on disk", dir.bytes() / 1000);
    Ok(())
}
