//! A log and its lines.
//!
//! The log of an honest author is one line. A device restored from a backup continues from an old tip, and
//! its log becomes a tree: each further [`Line`] starts at an entry of another one. All lines are kept and
//! merged alike. Line numbers are local to a store and never leave it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::block::BlockPhase;
use super::entry::EntryHash;
use super::head::Head;
use super::id::{ChannelId, LogKey, NodeId, StreamId};
use super::identity::Signature;
use super::run::Run;
use super::time::Timestamp;
use super::version::{Tip, Tips};

/// Local number of a log in one store: short keys on disk and in memory. Never reused, never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct LogNo(pub u32);

/// Local number of a line within its log; the first is 0. Never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct LineNo(pub u16);

/// What names a log: channel, stream and author, and the key derived from them.
///
/// Cheap to clone: all who deal with a log share its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogName(Arc<NameParts>);

/// The parts of a [`LogName`], which derefs to them.
#[derive(Debug, PartialEq, Eq)]
pub struct NameParts {
    /// The channel.
    pub channel: ChannelId,
    /// The stream.
    pub stream: StreamId,
    /// The author.
    pub author: NodeId,
    /// Derived from the three.
    pub key: LogKey,
}

impl LogName {
    /// The log of `author` in `stream` of `channel`.
    pub fn new(channel: ChannelId, stream: StreamId, author: NodeId) -> Self {
        let key = LogKey::derive(&channel, &stream, &author);
        Self(Arc::new(NameParts { channel, stream, author, key }))
    }
}

impl Deref for LogName {
    type Target = NameParts;

    fn deref(&self) -> &NameParts {
        &self.0
    }
}

/// One line of a log as a store holds it: contiguous from just after its base to its tip (I2).
///
/// Cheap to clone: store, readers and engine share it as long as it is the same for all. Whoever changes one changes a
/// copy of its own.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "LineRecord", into = "LineRecord")]
pub struct Line(Arc<LineParts>);

/// The parts of a [`Line`], which derefs to them.
#[derive(Clone, PartialEq, Eq)]
pub struct LineParts {
    /// Its local number.
    pub no: LineNo,
    /// The last entry held.
    pub tip: Tip,
    /// Stamp of the last entry held.
    pub stamp: Timestamp,
    /// How far the block at the tip has grown.
    pub phase: BlockPhase,
    /// The author's, of the tip: all of a head that the line does not know itself.
    signature: Option<Box<Signature>>,
    odd: Option<Box<Odd>>,
}

/// What few lines have.
#[derive(Clone, PartialEq, Eq)]
struct Odd {
    /// Where the line begins, other than at the start of its log.
    base: Tip,
    /// The newest head, of an entry before the tip.
    head: Option<Head>,
}

impl Odd {
    fn boxed(base: Tip, head: Option<Head>) -> Option<Box<Self>> {
        (base != Tip::START || head.is_some()).then(|| Box::new(Self { base, head }))
    }
}

/// A line as it is stored.
#[derive(serde::Serialize, serde::Deserialize)]
struct LineRecord {
    no: LineNo,
    base: Tip,
    tip: Tip,
    stamp: Timestamp,
    phase: BlockPhase,
    head: Option<Head>,
}

impl From<LineRecord> for Line {
    fn from(record: LineRecord) -> Self {
        let LineRecord { no, base, tip, stamp, phase, head } = record;
        let odd = Odd::boxed(base, None);
        let mut line = Self(Arc::new(LineParts { no, tip, stamp, phase, signature: None, odd }));
        if let Some(head) = head {
            line.set_head(head);
        }
        line
    }
}

impl From<Line> for LineRecord {
    fn from(line: Line) -> Self {
        let LineParts { no, tip, stamp, phase, .. } = *line;
        Self { no, base: line.base(), tip, stamp, phase, head: line.head() }
    }
}

impl Deref for Line {
    type Target = LineParts;

    fn deref(&self) -> &LineParts {
        &self.0
    }
}

impl Line {
    /// An empty line after `base`, which is at a block end.
    pub fn empty(no: LineNo, base: Tip, stamp: Timestamp, phase: BlockPhase) -> Self {
        let odd = Odd::boxed(base, None);
        Self(Arc::new(LineParts { no, tip: base, stamp, phase, signature: None, odd }))
    }

    /// Replaces the newest head known.
    pub fn set_head(&mut self, head: Head) {
        let parts = Arc::make_mut(&mut self.0);
        let at_tip = head.tip == parts.tip;
        parts.signature = at_tip.then(|| Box::new(head.signature));
        parts.odd = Odd::boxed(parts.base(), (!at_tip).then_some(head));
    }

    /// The parts, a copy if others share them. Nothing checks what is made of them: for those who try what a store refuses.
    pub fn parts_mut(&mut self) -> &mut LineParts {
        Arc::make_mut(&mut self.0)
    }

    /// The line after `run` was appended, and the block ends that it passed.
    ///
    /// `None` if the run does not continue the line, or its stamps do not.
    pub fn extended(&self, run: &Run) -> Option<(Self, Vec<u64>)> {
        let first_stamp = run.first_stamp();
        let follows = run.first() == self.tip.sequence + 1 && run.previous() == self.tip.hash;
        if !follows || (first_stamp <= self.stamp && self.tip.sequence > 0) {
            return None;
        }
        let mut ends = Vec::new();
        let phase = run.walk_blocks(self.phase, |at| ends.push(at));
        let odd = Odd::boxed(self.base(), self.head());
        let (no, tip, stamp) = (self.no, run.tip(), run.last_stamp());
        Some((Self(Arc::new(LineParts { no, tip, stamp, phase, signature: None, odd })), ends))
    }
}

impl LineParts {
    /// Just before the first entry held; compaction brings it up to the floor.
    pub fn base(&self) -> Tip {
        self.odd.as_ref().map_or(Tip::START, |odd| odd.base)
    }

    /// The newest head known: for foreign lines always that of the tip.
    pub fn head(&self) -> Option<Head> {
        match &self.signature {
            Some(signature) => Some(Head { tip: self.tip, signature: **signature }),
            None => self.odd.as_ref()?.head,
        }
    }

    /// Whether the two are the same line at the same entry, whatever was signed of it.
    pub fn differs_in_head_only(&self, other: &Self) -> bool {
        let but_head = |of: &Self| (of.no, of.base(), of.tip, of.stamp, of.phase);
        but_head(self) == but_head(other)
    }

    /// Whether the line holds the entry at `sequence`, or it is the line's base.
    pub fn reaches(&self, sequence: u64) -> bool {
        (self.base().sequence..=self.tip.sequence).contains(&sequence)
    }

    /// The hash at `sequence`, where the line itself knows it: at base and tip.
    pub fn known_hash(&self, sequence: u64) -> Option<EntryHash> {
        if sequence == self.tip.sequence {
            Some(self.tip.hash)
        } else if sequence == self.base().sequence {
            Some(self.base().hash)
        } else {
            None
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({}: {:?}..{:?})", self.no.0, self.base(), self.tip)
    }
}

/// A log: its lines by local number, and its floor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Log {
    floor: u64,
    lines: Lines,
}

/// By number. Nearly every log has one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lines {
    One(Line),
    Others(Box<[Line]>),
}

impl Default for Lines {
    fn default() -> Self {
        Self::Others(Box::default())
    }
}

impl From<Vec<Line>> for Lines {
    fn from(lines: Vec<Line>) -> Self {
        match <[Line; 1]>::try_from(lines) {
            Ok([line]) => Self::One(line),
            Err(lines) => Self::Others(lines.into()),
        }
    }
}

/// Where a run belongs in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// It continues this line.
    Extends(LineNo),
    /// The log is empty and the run starts it.
    Starts,
    /// It starts within this line: only the hashes there tell whether it repeats, overlaps or forks it.
    Within(LineNo),
    /// Entries before it are missing.
    Gap,
    /// It starts at or below the floor: only what of it is above may be placed again, if anything is.
    BelowFloor,
}

impl Log {
    /// The log with this floor, 0 for none, and these lines, in the order of their numbers.
    pub fn new(floor: u64, lines: impl IntoIterator<Item = Line>) -> Self {
        let mut lines: Vec<Line> = lines.into_iter().collect();
        lines.sort_by_key(|line| line.no);
        Self { floor, lines: lines.into() }
    }

    /// Compacted up to this sequence by decision, on all lines; 0 if never. Entries at or below it are not
    /// accepted any more; those still held stay readable until they are dropped.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Raises the floor; it never sinks (I4).
    pub fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
    }

    /// All lines.
    pub fn lines(&self) -> &[Line] {
        match &self.lines {
            Lines::One(line) => std::slice::from_ref(line),
            Lines::Others(lines) => lines,
        }
    }

    /// The line of this number.
    pub fn line(&self, no: LineNo) -> Option<&Line> {
        self.lines().iter().find(|line| line.no == no)
    }

    /// Adds the line, or replaces the one of its number.
    pub fn put(&mut self, line: Line) {
        let lines = match &mut self.lines {
            Lines::One(held) => std::slice::from_mut(held),
            Lines::Others(lines) => lines,
        };
        match lines.iter_mut().find(|held| held.no == line.no) {
            Some(held) => *held = line,
            None => self.lines = lines.iter().cloned().chain([line]).collect::<Vec<Line>>().into(),
        }
    }

    /// The number of the next line to be added.
    pub fn next_line(&self) -> Option<LineNo> {
        self.lines().last().map_or(Some(LineNo(0)), |last| last.no.0.checked_add(1).map(LineNo))
    }

    /// The tips of all lines that hold an entry, sorted.
    pub fn tips(&self) -> Tips {
        let held = self.lines().iter().filter(|line| line.tip.sequence > 0);
        let mut tips: Tips = held.map(|line| line.tip).collect();
        tips.sort_unstable();
        tips.dedup();
        tips
    }

    /// Whether the log has more than one line.
    pub fn is_forked(&self) -> bool {
        self.lines().len() > 1
    }

    /// Number of entries held.
    pub fn len(&self) -> u64 {
        self.lines().iter().map(|line| line.tip.sequence - line.base().sequence).sum()
    }

    /// Whether no entry is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where a run belongs that starts at sequence `first` after the entry hashed `previous`.
    pub fn place(&self, first: u64, previous: EntryHash) -> Placement {
        if first <= self.floor {
            return Placement::BelowFloor;
        }
        let before = Tip { sequence: first - 1, hash: previous };
        let continues = |line: &Line| {
            line.tip == before || (mutant!(ExtendsAnyLine) && line.tip.sequence == before.sequence)
        };
        if let Some(line) = self.lines().iter().find(|line| continues(line)) {
            return Placement::Extends(line.no);
        }
        if self.lines().is_empty() && before == Tip::START {
            return Placement::Starts;
        }
        let within = self.lines().iter().find(|line| {
            line.reaches(before.sequence)
                && line.known_hash(before.sequence).is_none_or(|hash| hash == previous)
        });
        within.map_or(Placement::Gap, |line| Placement::Within(line.no))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::run::RunBuilder;

    fn run_after(tip: Tip, times: std::ops::Range<u64>, payload: &[u8]) -> Run {
        let mut builder = RunBuilder::new(LogKey::from_bytes([1; 32]), tip, 0, 0);
        for time in times {
            builder.push(Timestamp::new(0, time), payload);
        }
        builder.finish().unwrap()
    }

    fn log_of(run: &Run) -> Log {
        let empty = Line::empty(LineNo(0), Tip::START, Timestamp::ZERO, BlockPhase::START);
        Log::new(0, vec![empty.extended(run).unwrap().0])
    }

    #[test]
    fn a_run_is_placed_by_the_entry_before_it() {
        let run = run_after(Tip::START, 1..6, b"a");
        let log = log_of(&run);
        let next = run_after(run.tip(), 10..12, b"b");
        assert_eq!(Log::default().place(1, EntryHash::ZERO), Placement::Starts);
        assert_eq!(Log::default().place(6, run.tip().hash), Placement::Gap);
        assert_eq!(log.place(next.first(), next.previous()), Placement::Extends(LineNo(0)));
        assert_eq!(log.place(3, run.hash_at(2).unwrap()), Placement::Within(LineNo(0)));
        assert_eq!(log.place(8, next.tip().hash), Placement::Gap);
        assert_eq!(log.place(6, EntryHash::from_bytes([9; 32])), Placement::Gap);
    }

    #[test]
    fn i4_what_starts_at_or_below_the_floor_has_no_place_even_where_it_would_fit() {
        let run = run_after(Tip::START, 1..6, b"a");
        let mut log = log_of(&run);
        log.raise_floor(4);
        assert_eq!(log.place(1, EntryHash::ZERO), Placement::BelowFloor);
        assert_eq!(log.place(4, run.hash_at(3).unwrap()), Placement::BelowFloor);
        assert_eq!(log.place(5, run.hash_at(4).unwrap()), Placement::Within(LineNo(0)));
        assert_eq!(log.place(6, run.tip().hash), Placement::Extends(LineNo(0)));
        log.raise_floor(6);
        assert_eq!(log.place(6, run.tip().hash), Placement::BelowFloor);
        assert_eq!(log.place(7, EntryHash::ZERO), Placement::Gap);
        assert_eq!(Log::new(1, Vec::new()).place(1, EntryHash::ZERO), Placement::BelowFloor);
    }

    proptest! {
        #[test]
        fn i4_a_floor_only_rises_and_refuses_exactly_what_starts_at_or_below_it(
            floors in prop::collection::vec(0..20u64, 1..8),
            held in 0..12u64,
            first in 1..24u64,
        ) {
            let run = run_after(Tip::START, 1..24, b"a");
            let mut log = run.slice(1, held).map_or_else(Log::default, |held| log_of(&held));
            let previous = if first == 1 { EntryHash::ZERO } else { run.hash_at(first - 1).unwrap() };
            let unbounded = log.place(first, previous);
            for floor in floors {
                let before = log.floor();
                log.raise_floor(floor);
                prop_assert_eq!(log.floor(), before.max(floor));
                let below = first <= log.floor();
                let expected = if below { Placement::BelowFloor } else { unbounded };
                prop_assert_eq!(log.place(first, previous), expected);
            }
        }
    }

    #[test]
    fn a_line_refuses_a_run_whose_stamps_go_back() {
        let run = run_after(Tip::START, 5..8, b"a");
        let log = log_of(&run);
        assert!(log.lines()[0].extended(&run_after(run.tip(), 7..9, b"b")).is_none());
        assert!(log.lines()[0].extended(&run_after(run.tip(), 8..9, b"b")).is_some());
    }

    #[test]
    fn a_line_survives_serialization_wherever_it_begins_and_is_signed() {
        let run = run_after(Tip::START, 1..4, b"a");
        let later = run_after(run.tip(), 4..6, b"b");
        let mut bytes = [7; 64];
        bytes[63] = 1;
        let head = Head { tip: run.tip(), signature: Signature::from_bytes(bytes) };
        for base in [Tip::START, Tip { sequence: 3, hash: EntryHash::from_bytes([5; 32]) }] {
            let stamp = Timestamp::ZERO;
            let mut line = Line::empty(LineNo(2), base, stamp, BlockPhase::START);
            assert_eq!((line.base(), line.head()), (base, None));
            if base == Tip::START {
                line = line.extended(&run).unwrap().0;
                line.set_head(head);
            }
            let grown = line.extended(&later).map_or_else(|| line.clone(), |(grown, _)| grown);
            for line in [line, grown] {
                assert_eq!(
                    line.head(),
                    (base == Tip::START).then_some(head),
                    "a head stays that of its entry"
                );
                let stored = postcard::to_allocvec(&line).unwrap();
                assert_eq!(postcard::from_bytes::<Line>(&stored), Ok(line));
            }
        }
    }

    #[test]
    fn who_changes_a_shared_line_changes_a_copy() {
        let run = run_after(Tip::START, 1..4, b"a");
        let line = log_of(&run).lines()[0].clone();
        let mut signed = line.clone();
        signed.set_head(Head { tip: run.tip(), signature: Signature::from_bytes([7; 64]) });
        assert!(line.head().is_none() && signed.head().is_some() && line.differs_in_head_only(&signed));
    }
}
