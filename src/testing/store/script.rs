//! What the suite writes, and what it expects to read back.

use std::ops::RangeInclusive;

use super::{StoreFixture, Subject, check, must, same};
use crate::application::ports::{
    EntryRepository as _, SnapshotKey, SnapshotRecord, Store, StoredLog, WriteOp,
};
use crate::domain::block::BlockPhase;
use crate::domain::channel::{Admission, ChannelRecord};
use crate::domain::entry::LogEntry;
use crate::domain::id::{ChannelId, NodeId, StreamId};
use crate::domain::log::{Line, LineNo, LogName, LogNo};
use crate::domain::run::{Run, RunBuilder};
use crate::domain::time::Timestamp;
use crate::domain::version::{Tip, VersionVector};

/// The author of all entries that the suite writes.
pub(super) const AUTHOR: NodeId = NodeId::from_bytes([7; 32]);

/// Channel number `no` of the suite.
pub(super) fn channel(no: u8) -> ChannelId {
    ChannelId::from_bytes([no; 32])
}

pub(super) fn channel_record(no: u8) -> ChannelRecord {
    let label = format!("channel {no}");
    ChannelRecord { id: channel(no), label, admission: Admission::only(AUTHOR), seen: Timestamp::ZERO }
}

pub(super) fn log_name(channel_no: u8, stream: &str) -> LogName {
    let stream = StreamId::new(stream).expect("the suite's names are short");
    LogName::new(channel(channel_no), stream, AUTHOR)
}

pub(super) fn snapshot(channel_no: u8, version: u32, state: &[u8]) -> (SnapshotKey, SnapshotRecord) {
    let stream = StreamId::new("state").expect("the suite's names are short");
    let key = SnapshotKey { channel: channel(channel_no), stream, name: "tally".into(), version };
    let mut position = VersionVector::START;
    position.set(AUTHOR, [Tip { sequence: 3, hash: crate::domain::entry::EntryHash::from_bytes([5; 32]) }]);
    let last = Some(crate::domain::entry::OrderKey {
        timestamp: Timestamp::new(1, 2),
        author: AUTHOR,
        sequence: 3,
        hash: crate::domain::entry::EntryHash::from_bytes([5; 32]),
    });
    (key, SnapshotRecord { position, last, refused: 4, state: state.to_vec().into() })
}

/// The ops that make channel 1 with one log of the number `log`.
pub(super) fn one_log(log: LogNo) -> [WriteOp; 2] {
    [WriteOp::PutChannel(channel_record(1)), WriteOp::PutLog(log, log_name(1, "stream"))]
}

/// A line as the suite writes it, remembering everything.
#[derive(Clone)]
pub(super) struct Script {
    pub(super) log: LogNo,
    pub(super) line: Line,
    /// What the line holds.
    pub(super) entries: Vec<LogEntry>,
    clock: u64,
}

impl Script {
    /// The first line of `log`, from its start.
    pub(super) fn new(log: LogNo) -> Self {
        Self::after(log, LineNo(0), Tip::START, Timestamp::ZERO)
    }

    /// A line that starts after `base`, whose stamp is `stamp`.
    pub(super) fn after(log: LogNo, no: LineNo, base: Tip, stamp: Timestamp) -> Self {
        let line = Line::empty(no, base, stamp, BlockPhase::START);
        Self { log, line, entries: Vec::new(), clock: stamp.time() }
    }

    /// Writes one entry per payload length and returns them as one run.
    pub(super) fn run(&mut self, payload_lens: &[usize]) -> Run {
        let key = log_name(1, "stream").key;
        let mut builder = RunBuilder::new(key, self.line.tip, payload_lens.len(), 0);
        for (at, len) in payload_lens.iter().enumerate() {
            let no = self.entries.len() + at;
            // Steps of different sizes, and a new era now and then: every shape of a packed stamp.
            self.clock += 1 + (no as u64 % 5) * 1000;
            let payload: Vec<u8> = (0..*len).map(|byte| (byte * 31 + no) as u8).collect();
            builder.push(Timestamp::new((no / 50) as u32, self.clock), &payload);
        }
        let run = builder.finish().expect("the suite writes at least one entry");
        self.line = self.line.extended(&run).expect("the run continues the line").0;
        self.entries.extend(run.entries(AUTHOR));
        run
    }

    /// Writes entries of these lengths: the op that appends them.
    pub(super) fn append(&mut self, payload_lens: &[usize]) -> WriteOp {
        let run = self.run(payload_lens);
        WriteOp::Append { log: self.log, line: self.line.clone(), run }
    }

    /// Checks one read against what was written.
    pub(super) async fn check_read(
        &self,
        store: &impl Store,
        range: RangeInclusive<u64>,
        max_bytes: usize,
        backward: bool,
    ) -> Option<Run> {
        let what = format!("{range:?}, {max_bytes} bytes, backward {backward}");
        let read = store.read(self.log, self.line.no, range.clone(), max_bytes, backward).await;
        let run = must("read", "entries are read", read);
        let base = self.line.base().sequence;
        let first = (base + 1).max(*range.start());
        let last = self.line.tip.sequence.min(*range.end());
        check("read", run.is_some() || first > last, format_args!("nothing where there are entries: {what}"));
        let run = run?;
        check("read", first <= last, format_args!("entries where there are none: {what}"));
        check("read within the range", run.first() >= first && run.last() <= last, &what);
        if backward {
            same("read backward", run.last(), last, format_args!("stops at the end of the range: {what}"));
        } else {
            same(
                "read forward",
                run.first(),
                first,
                format_args!("starts at the start of the range: {what}"),
            );
        }
        let fits = run.len() == 1 || run.body().len() <= max_bytes;
        check("max_bytes", fits, format_args!("{} bytes: {what}", run.body().len()));
        let (from, to) = ((run.first() - base - 1) as usize, (run.last() - base) as usize);
        let held: Vec<LogEntry> = run.entries(AUTHOR).collect();
        check(
            "read",
            held == self.entries[from..to],
            format_args!("other entries than were written: {what}"),
        );
        let before = if from == 0 { self.line.base().hash } else { self.entries[from - 1].hash() };
        check("read", run.previous() == before, format_args!("another hash before the first entry: {what}"));
        Some(run)
    }

    /// Reads the whole line in pages, forward and backward.
    pub(super) async fn check_pages(&self, store: &impl Store, max_bytes: usize) {
        let (mut first, end) = (0, self.line.tip.sequence);
        while let Some(run) = self.check_read(store, first..=u64::MAX, max_bytes, false).await {
            first = run.last() + 1;
        }
        check(
            "read forward",
            first > end || self.entries.is_empty(),
            "pages stop before the end of the line",
        );
        let mut last = u64::MAX;
        while let Some(run) = self.check_read(store, 0..=last, max_bytes, true).await {
            last = run.first() - 1;
        }
    }

    /// Checks the record of the line and all of its entries.
    pub(super) async fn check_all<X: StoreFixture>(&self, subject: &Subject<X>) {
        let store = &*subject.store;
        let logs = must("logs", "logs are read", store.logs().await);
        let line = logs.iter().find(|log| log.no == self.log).and_then(|log| find(log, self.line.no));
        same("logs", line, Some(&self.line), "the record of the line");
        self.check_pages(store, 64 * 1024).await;
        self.check_pages(store, usize::MAX).await;
    }
}

pub(super) fn find(log: &StoredLog, no: LineNo) -> Option<&Line> {
    log.lines.iter().find(|line| line.no == no)
}
