//! Reading a stream in order: the lines of all logs, merged as they are read.
//!
//! Lines are sorted (stamps increase along them), so the stream's order is their merge: no index is kept and no
//! stream is ever loaded whole. A reader holds one chunk per line, and less the more lines there are.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::log_cell::LogCell;
use super::ports::{Store, StoreError};
use super::replica::{Replica, StreamCell};
use crate::domain::entry::{LogEntry, OrderKey};
use crate::domain::id::NodeId;
use crate::domain::log::{Line, LineNo, LogNo};
use crate::domain::run::RunEntries;
use crate::domain::version::{Cursor, Tip, VersionVector};

/// Body bytes that a reader holds at most, over all lines.
const READER_BYTES: usize = 4 << 20;
/// Body bytes read of one line at once, at most: more gains nothing.
const CHUNK_BYTES: usize = 256 * 1024;
/// Body bytes read of one line at once, at least.
const MIN_CHUNK_BYTES: usize = 4 * 1024;

/// The part of one line that is to be read: after `from`, up to and including `to`.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) log: LogNo,
    pub(crate) author: NodeId,
    pub(crate) line: LineNo,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// What a stream held at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) logs: Vec<(Arc<LogCell>, Vec<Line>)>,
}

impl Snapshot {
    /// What readers see of the stream now.
    pub(crate) fn of(stream: &StreamCell) -> Self {
        let logs = stream.logs().into_iter().map(|log| {
            let lines = log.visible().lines().to_vec();
            (log, lines)
        });
        Self { logs: logs.filter(|(_, lines)| !lines.is_empty()).collect() }
    }

    pub(crate) fn version(&self) -> VersionVector {
        let mut version = VersionVector::START;
        for (log, lines) in &self.logs {
            version.set(log.name.author, lines.iter().map(|line| line.tip));
        }
        version
    }

    /// Everything.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.lines().map(|(log, line)| span(log, line, line.base().sequence)).collect()
    }

    /// Everything after the positions given, lines that are not named from their start.
    pub(crate) fn spans_after(&self, positions: &Positions) -> Vec<Span> {
        let from = |log: &LogCell, line: &Line| {
            let ahead = u64::from(mutant!(VersionOffByOne));
            let known = positions.get(&(log.no, line.no)).map_or(0, |tip| tip.sequence + ahead);
            known.clamp(line.base().sequence, line.tip.sequence)
        };
        self.lines().map(|(log, line)| span(log, line, from(log, line))).collect()
    }

    /// The positions that a cursor means: for each line the last entry of it that the cursor covers.
    pub(crate) async fn resolve(&self, replica: &Replica, cursor: &Cursor) -> Result<Positions, StoreError> {
        let mut positions = Positions::new();
        for (log, lines) in &self.logs {
            for line in lines {
                let mut known = line.base();
                for tip in cursor.tips(&log.name.author) {
                    let within = tip.sequence > known.sequence && line.reaches(tip.sequence);
                    if within && replica.runs_through(log, line, *tip).await? {
                        known = *tip;
                    }
                }
                positions.insert((log.no, line.no), known);
            }
            // Whoever stands on a line has what that line shares with those that it parted from.
            for line in lines.iter().rev().filter(|line| line.base().sequence > 0) {
                if positions.get(&(log.no, line.no)) == Some(&line.base()) {
                    continue;
                }
                for older in lines.iter().filter(|older| older.no < line.no) {
                    let known = positions.get(&(log.no, older.no)).map_or(0, |tip| tip.sequence);
                    if known < line.base().sequence && replica.runs_through(log, older, line.base()).await? {
                        positions.insert((log.no, older.no), line.base());
                    }
                }
            }
        }
        Ok(positions)
    }

    fn lines(&self) -> impl Iterator<Item = (&LogCell, &Line)> {
        self.logs.iter().flat_map(|(log, lines)| lines.iter().map(|line| (&**log, line)))
    }
}

/// How far each line was read.
pub(crate) type Positions = BTreeMap<(LogNo, LineNo), Tip>;

fn span(log: &LogCell, line: &Line, from: u64) -> Span {
    Span { log: log.no, author: log.name.author, line: line.no, from, to: line.tip.sequence }
}

/// Merges spans into the stream's order, or against it.
pub(crate) struct OrderedReader {
    store: Arc<dyn Store>,
    sources: Vec<Source>,
    backward: bool,
    chunk: usize,
    /// The source that has the next entry, and the order of the best of the others: while the source stays
    /// below that, no other need be looked at.
    current: Option<(usize, Option<OrderKey>)>,
}

struct Source {
    span: Span,
    chunk: Chunk,
    next: Option<LogEntry>,
}

enum Chunk {
    Forward(RunEntries),
    Backward(Vec<LogEntry>),
    Empty,
}

impl OrderedReader {
    pub(crate) fn new(store: Arc<dyn Store>, spans: Vec<Span>, backward: bool) -> Self {
        let spans: Vec<Span> = spans.into_iter().filter(|span| span.from < span.to).collect();
        let chunk = (READER_BYTES / spans.len().max(1)).clamp(MIN_CHUNK_BYTES, CHUNK_BYTES);
        let sources =
            spans.into_iter().map(|span| Source { span, chunk: Chunk::Empty, next: None }).collect();
        Self { store, sources, backward, chunk, current: None }
    }

    /// The next entry if it is at hand; otherwise [`fill`](Self::fill) has to read first.
    pub(crate) fn ready(&mut self) -> Ready {
        loop {
            let Some((at, bound)) = &self.current else {
                if self.sources.iter().any(Source::wants_fill) {
                    return Ready::Fill;
                }
                self.sources.retain(|source| source.next.is_some());
                match self.choose() {
                    Some(current) => self.current = Some(current),
                    None => return Ready::End,
                }
                continue;
            };
            let source = &mut self.sources[*at];
            let beyond = match (&source.next, bound) {
                (None, _) => true,
                (Some(next), Some(bound)) => (next.order() > *bound) != self.backward,
                (Some(_), None) => false,
            };
            if beyond {
                self.current = None;
                continue;
            }
            let of = (source.span.log, source.span.line);
            let entry = source.next.take();
            source.advance();
            return entry.map_or(Ready::Fill, |entry| Ready::Entry(entry, of));
        }
    }

    /// Reads what [`ready`](Self::ready) asked for. Cancel-safe.
    pub(crate) async fn fill(&mut self) -> Result<(), StoreError> {
        for at in 0..self.sources.len() {
            if !self.sources[at].wants_fill() {
                continue;
            }
            let Span { log, line, from, to, author } = self.sources[at].span.clone();
            let run = self.store.read(log, line, from + 1..=to, self.chunk, self.backward).await?;
            let Some(run) = run else {
                return Err(StoreError::Corrupt("entries of a line are missing".into()));
            };
            let source = &mut self.sources[at];
            if self.backward {
                source.span.to = run.first() - 1;
                source.chunk = Chunk::Backward(run.entries(author).collect());
            } else {
                source.span.from = run.last();
                source.chunk = Chunk::Forward(run.entries(author));
            }
            source.advance();
        }
        Ok(())
    }

    /// The next entry and its line. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<(LogEntry, (LogNo, LineNo))>, StoreError> {
        loop {
            match self.ready() {
                Ready::Entry(entry, of) => return Ok(Some((entry, of))),
                Ready::End => return Ok(None),
                Ready::Fill => self.fill().await?,
            }
        }
    }

    /// The source with the next entry, and the order of the next best.
    fn choose(&self) -> Option<(usize, Option<OrderKey>)> {
        let before = |a: &OrderKey, b: &OrderKey| (a < b) != self.backward;
        let mut best: Option<(usize, OrderKey)> = None;
        let mut second: Option<OrderKey> = None;
        for (at, source) in self.sources.iter().enumerate() {
            let Some(order) = source.next.as_ref().map(LogEntry::order) else { continue };
            match &best {
                Some((_, leading)) if mutant!(OrderByArrival) || !before(&order, leading) => {
                    if second.as_ref().is_none_or(|second| before(&order, second)) {
                        second = Some(order);
                    }
                }
                _ => second = best.replace((at, order)).map(|(_, order)| order),
            }
        }
        best.map(|(at, _)| (at, second))
    }
}

/// What [`OrderedReader::ready`] has.
pub(crate) enum Ready {
    Entry(LogEntry, (LogNo, LineNo)),
    Fill,
    End,
}

impl Source {
    fn advance(&mut self) {
        self.next = match &mut self.chunk {
            Chunk::Forward(entries) => entries.next(),
            Chunk::Backward(entries) => entries.pop(),
            Chunk::Empty => None,
        };
        if self.next.is_none() {
            self.chunk = Chunk::Empty;
        }
    }

    /// More of the line is to be read and nothing is at hand.
    fn wants_fill(&self) -> bool {
        self.next.is_none() && self.span.from < self.span.to
    }
}

/// Narrows spans to one author.
pub(crate) fn of_author(spans: Vec<Span>, author: &NodeId) -> Vec<Span> {
    spans.into_iter().filter(|span| span.author == *author).collect()
}

/// Narrows spans to a range of sequences.
pub(crate) fn within(spans: Vec<Span>, first: Bound<u64>, last: Bound<u64>) -> Vec<Span> {
    let from = match first {
        Bound::Included(first) => first.saturating_sub(1),
        Bound::Excluded(before) => before,
        Bound::Unbounded => 0,
    };
    let to = match last {
        Bound::Included(last) => last,
        Bound::Excluded(after) => after.saturating_sub(1),
        Bound::Unbounded => u64::MAX,
    };
    let narrow = |span: Span| Span { from: span.from.max(from), to: span.to.min(to), ..span };
    spans.into_iter().map(narrow).filter(|span| span.from < span.to).collect()
}
