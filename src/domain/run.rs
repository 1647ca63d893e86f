//! Runs: contiguous stretches of one line, packed.
//!
//! The body of a run is the same in memory, on disk and on the wire. Per entry:
//!
//! | part | bytes |
//! |---|---|
//! | head | varint: payload length * 8 + flags |
//! | stamp, flag 1 set | era varint, time u64 little-endian |
//! | stamp, flag 1 clear | varint: time minus the previous entry's time, at least 1; same era |
//! | payload | as many bytes as the head says |
//!
//! Flags 2 (payload redacted) and 4 (other kinds) are reserved and refused. The first entry of a body has
//! flag 1, so that a body stands alone. Sequences are implied. Stamps increase along a line; a body in which
//! they do not is malformed, which is what lets readers merge lines without sorting them.
//!
//! A [`Run`] carries the hash of each of its entries beside the body; only verification or the author's own
//! append computes them.

use std::ops::RangeInclusive;

use bytes::{Buf as _, Bytes};
use smallvec::SmallVec;

use super::block::{BlockEnd, BlockPhase};
use super::entry::{EntryHash, EntryHeader, LogEntry};
use super::head::Head;
use super::id::{LogKey, NodeId};
use super::identity::{Signature, SignatureScheme};
use super::payload_hash::{HASH_LANES, payload_hashes};
use super::time::Timestamp;
use super::version::Tip;

const FLAG_EXPLICIT_STAMP: u64 = 1;
const FLAG_BITS: u32 = 3;
/// Largest payload that the format can carry: its length is hashed as a u32. Configuration sets a lower cap.
pub const MAX_PAYLOAD_BYTES: usize = u32::MAX as usize >> FLAG_BITS;

/// Why a body of packed entries cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedRun {
    /// It holds no entry.
    #[error("an empty run")]
    Empty,
    /// It ends in the middle of an entry.
    #[error("the run ends inside an entry")]
    Truncated,
    /// An entry has flags that this version does not know.
    #[error("unknown entry flags")]
    UnknownFlags,
    /// A number is not in its shortest form or out of range.
    #[error("a number out of range")]
    Number,
    /// A stamp does not increase along the line.
    #[error("timestamps do not increase")]
    Stamps,
    /// Body and hashes count different numbers of entries.
    #[error("the number of entries and hashes differ")]
    Count,
    /// The sequence would pass the end of u64.
    #[error("sequence out of range")]
    Sequence,
}

/// A contiguous stretch of one line with the hash of every entry. Never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Run {
    first: u64,
    count: u32,
    previous: EntryHash,
    last_stamp: Timestamp,
    body: Bytes,
    hashes: Bytes,
}

impl Run {
    /// Puts a run together from parts that a store kept, checking their shape but not the hashes.
    ///
    /// # Errors
    /// [`MalformedRun`]: what was stored is not a run.
    pub fn from_parts(
        first: u64,
        previous: EntryHash,
        body: Bytes,
        hashes: Bytes,
    ) -> Result<Self, MalformedRun> {
        let mut reader = BodyReader::new(&body);
        let mut count = 0u32;
        while reader.next_entry()?.is_some() {
            count += 1;
        }
        if count == 0 {
            return Err(MalformedRun::Empty);
        }
        if hashes.len() != count as usize * EntryHash::LEN {
            return Err(MalformedRun::Count);
        }
        check_sequences(first, count)?;
        Ok(Self { first, count, previous, last_stamp: reader.stamp, body, hashes })
    }

    /// Sequence of the first entry.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Sequence of the last entry.
    pub fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }

    /// Number of entries.
    #[expect(clippy::len_without_is_empty, reason = "a run is never empty")]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Hash of the entry before the first.
    pub fn previous(&self) -> EntryHash {
        self.previous
    }

    /// The entry before the first one.
    pub fn before(&self) -> Tip {
        Tip { sequence: self.first() - 1, hash: self.previous() }
    }

    /// The last entry.
    pub fn tip(&self) -> Tip {
        Tip { sequence: self.last(), hash: self.hash_at(self.last()).expect("a run is never empty") }
    }

    /// Stamp of the first entry, the smallest of the run.
    pub fn first_stamp(&self) -> Timestamp {
        BodyReader::new(&self.body).skip_to(0).stamp
    }

    /// Stamp of the last entry, the largest of the run.
    pub fn last_stamp(&self) -> Timestamp {
        self.last_stamp
    }

    /// The packed entries.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The hashes of all entries, 32 bytes each.
    pub fn hashes(&self) -> &Bytes {
        &self.hashes
    }

    /// Bytes that the run occupies.
    pub fn size(&self) -> usize {
        self.body.len() + self.hashes.len()
    }

    /// Hash of the entry at `sequence`, or of the one before the first.
    pub fn hash_at(&self, sequence: u64) -> Option<EntryHash> {
        if sequence + 1 == self.first {
            return Some(self.previous);
        }
        let index = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        let bytes = self.hashes.get(index * EntryHash::LEN..(index + 1) * EntryHash::LEN)?;
        Some(EntryHash::from_bytes(bytes.try_into().ok()?))
    }

    /// The entries, in sequence order, payloads sharing the memory of the run.
    pub fn entries(&self, author: NodeId) -> RunEntries {
        RunEntries { run: self.clone(), author, at: 0, index: 0, stamp: Timestamp::ZERO }
    }

    /// The part from `first` to `last`, both included; `None` if they are not within the run.
    pub fn slice(&self, first: u64, last: u64) -> Option<Self> {
        if first < self.first || last > self.last() || first > last {
            return None;
        }
        if first == self.first && last == self.last() {
            return Some(self.clone());
        }
        let mut reader = BodyReader::new(&self.body);
        let start = reader.skip_to(first - self.first);
        let end = if first == last { start.end() } else { reader.skip_to(last - first - 1).end() };
        Some(self.cut(first, start, last, end))
    }

    /// What a reader of `range` gets from this run: the part of it that lies in the range, cut to what fits
    /// into `max_bytes` of body, but at least one entry. It starts at the start of the range, or with
    /// `backward` stops at its end. `None` if the range and the run do not meet.
    pub fn part(&self, range: RangeInclusive<u64>, max_bytes: usize, backward: bool) -> Option<Self> {
        let (first, last) = (self.first.max(*range.start()), self.last().min(*range.end()));
        if first > last {
            return None;
        }
        if self.body.len() <= max_bytes && (first, last) == (self.first, self.last()) {
            return Some(self.clone());
        }
        let mut reader = BodyReader::new(&self.body);
        if backward {
            let end = reader.skip_to(last - self.first).end();
            let mut reader = BodyReader::new(&self.body);
            let mut start = reader.skip_to(first - self.first);
            for first in first..last {
                if start.size_until(end) <= max_bytes {
                    return Some(self.cut(first, start, last, end));
                }
                start = reader.skip_to(0);
            }
            return Some(self.cut(last, start, last, end));
        }
        let start = reader.skip_to(first - self.first);
        let whole = End { at: self.body.len(), stamp: self.last_stamp };
        if last == self.last() && start.size_until(whole) <= max_bytes {
            return Some(self.cut(first, start, last, whole));
        }
        let (mut stop, mut end) = (first, start.end());
        while stop < last {
            let next = reader.skip_to(0).end();
            if start.size_until(next) > max_bytes {
                break;
            }
            (stop, end) = (stop + 1, next);
        }
        Some(self.cut(first, start, stop, end))
    }

    /// The run in consecutive parts, each as long as fits into `max_bytes` of body and hashes, but at least one entry. One
    /// walk, and nothing of the run is copied twice.
    pub fn parts(&self, max_bytes: usize) -> Vec<Self> {
        let mut reader = BodyReader::new(&self.body);
        let mut start = reader.skip_to(0);
        let (mut parts, mut first, mut end) = (Vec::new(), self.first, start.end());
        for sequence in self.first + 1..=self.last() {
            let next = reader.skip_to(0);
            let hashes = (sequence - first + 1) as usize * EntryHash::LEN;
            if start.size_until(next.end()) + hashes > max_bytes {
                parts.push(self.cut(first, start, sequence - 1, end));
                (first, start) = (sequence, next);
            }
            end = next.end();
        }
        parts.push(self.cut(first, start, self.last(), end));
        parts
    }

    /// The run of the entries `first` (at `start`) to `last` (which stops at `end`).
    fn cut(&self, first: u64, start: PackedEntry<'_>, last: u64, end: End) -> Self {
        let body = if first == self.first {
            self.body.slice(..end.at)
        } else {
            let mut body = Vec::with_capacity(end.at - start.payload_at + MAX_ENTRY_HEAD);
            put_entry_head(&mut body, start.payload.len(), None, start.stamp);
            body.extend_from_slice(&self.body[start.payload_at..end.at]);
            body.into()
        };
        let (from, to) = ((first - self.first) as usize, (last - self.first + 1) as usize);
        Self {
            first,
            count: (to - from) as u32,
            previous: self.hash_at(first - 1).expect("first lies within the run"),
            last_stamp: end.stamp,
            body,
            hashes: self.hashes.slice(from * EntryHash::LEN..to * EntryHash::LEN),
        }
    }

    /// Walks the blocks of this run, the line being at `phase` before it: calls `at_end` with the sequence of
    /// each block end and returns the phase after the run. A block that ended just before the run counts.
    pub fn walk_blocks(&self, mut phase: BlockPhase, mut at_end: impl FnMut(u64)) -> BlockPhase {
        let mut reader = BodyReader::new(&self.body);
        for sequence in self.first..=self.last() {
            let entry = reader.next_entry().expect(WELL_FORMED).expect(WELL_FORMED);
            let end = phase.push(entry.payload.len());
            if matches!(end, BlockEnd::Before | BlockEnd::Both) {
                at_end(sequence - 1);
            }
            if matches!(end, BlockEnd::After | BlockEnd::Both) {
                at_end(sequence);
            }
        }
        phase
    }

    /// Joins runs that follow one another in one line, so that small writes become one packed run.
    ///
    /// `None` if `runs` is empty or one does not continue the one before it.
    pub fn join(runs: &[Self]) -> Option<Self> {
        let (first, rest) = runs.split_first()?;
        if rest.is_empty() {
            return Some(first.clone());
        }
        let mut joined = RunJoiner::new(first);
        for run in rest {
            joined.push(run)?;
        }
        Some(joined.finish())
    }

    /// Bytes of payload in this run.
    pub fn payload_bytes(&self) -> u64 {
        let mut reader = BodyReader::new(&self.body);
        let mut sum = 0;
        while let Some(entry) = reader.next_entry().expect(WELL_FORMED) {
            sum += entry.payload.len() as u64;
        }
        sum
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Run({}..={}, {} B)", self.first, self.last(), self.body.len())
    }
}

/// Grows a packed run at its end; what a store keeps for the unfinished end of a line.
#[derive(Debug)]
pub struct RunJoiner {
    first: u64,
    count: u32,
    previous: EntryHash,
    stamp: Timestamp,
    body: Vec<u8>,
    hashes: Vec<u8>,
}

impl RunJoiner {
    /// Starts with a copy of `run`.
    pub fn new(run: &Run) -> Self {
        Self {
            first: run.first,
            count: run.count,
            previous: run.previous,
            stamp: run.last_stamp,
            body: run.body.to_vec(),
            hashes: run.hashes.to_vec(),
        }
    }

    /// Appends a copy of `run`; `None`, and nothing changed, if it does not continue what is here.
    pub fn push(&mut self, run: &Run) -> Option<()> {
        let tail = &self.hashes[self.hashes.len() - EntryHash::LEN..];
        if run.first != self.first + u64::from(self.count)
            || run.previous.as_bytes() != tail
            || self.count.checked_add(run.count).is_none()
        {
            return None;
        }
        let mut reader = BodyReader::new(&run.body);
        let entry = reader.next_entry().expect(WELL_FORMED).expect(WELL_FORMED);
        if entry.stamp <= self.stamp {
            return None;
        }
        put_entry_head(&mut self.body, entry.payload.len(), Some(self.stamp), entry.stamp);
        self.body.extend_from_slice(&run.body[entry.payload_at..]);
        self.hashes.extend_from_slice(&run.hashes);
        self.stamp = run.last_stamp;
        self.count += run.count;
        Some(())
    }

    /// Sequence of the first entry.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Sequence of the last entry.
    pub fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }

    /// Bytes of the packed entries so far.
    pub fn body_len(&self) -> usize {
        self.body.len()
    }

    /// A copy of what is here.
    pub fn snapshot(&self) -> Run {
        self.with(Bytes::copy_from_slice(&self.body), Bytes::copy_from_slice(&self.hashes))
    }

    /// The joined run.
    pub fn finish(mut self) -> Run {
        let (body, hashes) = (std::mem::take(&mut self.body).into(), std::mem::take(&mut self.hashes).into());
        self.with(body, hashes)
    }

    fn with(&self, body: Bytes, hashes: Bytes) -> Run {
        let Self { first, count, previous, stamp, .. } = *self;
        Run { first, count, previous, last_stamp: stamp, body, hashes }
    }
}

/// A new run of up to this many bytes keeps body and hashes in one allocation: what single appends would pay for two
/// is more than the copy.
const ONE_PIECE_BYTES: usize = 1024;

const WELL_FORMED: &str = "a Run's body was checked when it was made";

/// The entries of a [`Run`], made by [`Run::entries`].
#[derive(Debug, Clone)]
pub struct RunEntries {
    run: Run,
    author: NodeId,
    at: usize,
    index: u32,
    stamp: Timestamp,
}

impl Iterator for RunEntries {
    type Item = LogEntry;

    fn next(&mut self) -> Option<LogEntry> {
        let mut reader =
            BodyReader { bytes: &self.run.body, at: self.at, stamp: self.stamp, first: self.at == 0 };
        let entry = reader.next_entry().expect(WELL_FORMED)?;
        let payload = self.run.body.slice(entry.payload_at..entry.payload_at + entry.payload.len());
        (self.at, self.stamp) = (reader.at, reader.stamp);
        let sequence = self.run.first + u64::from(self.index);
        self.index += 1;
        let hash = self.run.hash_at(sequence).expect("one hash per entry");
        Some(LogEntry { author: self.author, sequence, timestamp: self.stamp, payload, hash })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.run.count - self.index) as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for RunEntries {}

/// Packs entries that the local author appends.
#[derive(Debug)]
pub struct RunBuilder {
    key: LogKey,
    first: u64,
    count: u32,
    previous: EntryHash,
    tip: Tip,
    stamp: Option<Timestamp>,
    body: Vec<u8>,
    /// Those of a single entry need no memory of their own.
    hashes: SmallVec<[u8; EntryHash::LEN]>,
}

impl RunBuilder {
    /// A run of the log `key` after `tip`, with room for `bytes` of body and `entries` entries.
    pub fn new(key: LogKey, tip: Tip, entries: usize, bytes: usize) -> Self {
        let (body, hashes) = (bytes + entries * MAX_ENTRY_HEAD, entries * EntryHash::LEN);
        let one_piece = if body + hashes <= ONE_PIECE_BYTES { hashes } else { 0 };
        Self {
            key,
            first: tip.sequence + 1,
            count: 0,
            previous: tip.hash,
            tip,
            stamp: None,
            body: Vec::with_capacity(body + one_piece),
            hashes: SmallVec::with_capacity(hashes),
        }
    }

    /// Appends one entry and returns it as the new tip. `stamp` is greater than that of the entry before.
    pub fn push(&mut self, stamp: Timestamp, payload: &[u8]) -> Tip {
        self.push_hashed(payload, EntryHeader::of(stamp, payload))
    }

    /// As [`push`](Self::push), for a payload that was hashed already: `header` is its header.
    pub fn push_hashed(&mut self, payload: &[u8], header: EntryHeader) -> Tip {
        let stamp = header.stamp;
        debug_assert!(self.stamp.is_none_or(|last| last < stamp), "stamps increase along a line");
        let sequence = self.tip.sequence + 1;
        let hash = header.hash(&self.key, sequence, &self.tip.hash);
        put_entry_head(&mut self.body, payload.len(), self.stamp, stamp);
        self.body.extend_from_slice(payload);
        self.hashes.extend_from_slice(hash.as_bytes());
        self.stamp = Some(stamp);
        self.count += 1;
        self.tip = Tip { sequence, hash };
        self.tip
    }

    /// The run, `None` if nothing was pushed.
    pub fn finish(self) -> Option<Run> {
        let Self { first, count, previous, stamp, mut body, hashes, .. } = self;
        let last_stamp = stamp?;
        let (body, hashes) = if body.len() + hashes.len() <= ONE_PIECE_BYTES {
            let body_len = body.len();
            body.extend_from_slice(&hashes);
            let mut hashes = Bytes::from(body);
            (hashes.split_to(body_len), hashes)
        } else {
            (body.into(), hashes.into_vec().into())
        };
        Some(Run { first, count, previous, last_stamp, body, hashes })
    }
}

/// A run as it came from a peer: nothing about it is believed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedRun {
    /// Claimed sequence of the first entry.
    pub first: u64,
    /// Claimed hash of the entry before.
    pub previous: EntryHash,
    /// Packed entries.
    pub body: Bytes,
    /// Claimed signatures of the author, by rising sequence; the last at the last entry.
    pub heads: Vec<(u64, Signature)>,
}

/// Why a run from a peer was refused. All of it is the sender's fault (or its source's): nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunFault {
    /// Not a run at all.
    #[error("malformed run: {0}")]
    Malformed(#[from] MalformedRun),
    /// It does not end at a signed head, so its end could never be proven to anybody.
    #[error("the run does not end at a signed head")]
    NotAtHead,
    /// A signature is not the author's.
    #[error("a head is not signed by the author")]
    BadSignature,
    /// An entry is larger than the configured cap.
    #[error("an entry exceeds the payload cap")]
    PayloadTooLarge,
}

/// A run whose chain was recomputed, while nobody has looked yet whether its heads are signed.
///
/// [`verify_all`](Self::verify_all) turns many of them into [`VerifiedRun`]s for less than they cost alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainedRun {
    key: LogKey,
    author: NodeId,
    run: Run,
    heads: Vec<Head>,
}

/// A run whose chain and heads were checked against its author's key: the only thing that may be merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRun {
    run: Run,
    heads: Vec<Head>,
}

impl UnverifiedRun {
    /// Recomputes the chain and checks every head.
    ///
    /// Costs one hash per entry and one signature check per head; allocates 32 bytes per entry.
    ///
    /// # Errors
    /// [`RunFault`]: what is wrong with it.
    pub fn verify(
        self,
        key: &LogKey,
        author: &NodeId,
        scheme: &dyn SignatureScheme,
        max_payload: usize,
    ) -> Result<VerifiedRun, RunFault> {
        let chained = self.chain(key, author, max_payload)?;
        if chained.is_signed(scheme) { Ok(chained.signed()) } else { Err(RunFault::BadSignature) }
    }

    /// Recomputes the chain, and leaves the signatures for later.
    ///
    /// # Errors
    /// [`RunFault`]: what is wrong with it.
    pub fn chain(self, key: &LogKey, author: &NodeId, max_payload: usize) -> Result<ChainedRun, RunFault> {
        let mut reader = BodyReader::new(&self.body);
        let mut hashes = Vec::new();
        let (mut count, mut last) = (0u32, self.previous);
        let mut heads = Vec::with_capacity(self.heads.len().min(self.body.len() / 64 + 1));
        let mut claimed = self.heads.iter().peekable();
        loop {
            let mut group = SmallVec::<[PackedEntry<'_>; HASH_LANES]>::new();
            while group.len() < HASH_LANES
                && let Some(entry) = reader.next_entry()?
            {
                if entry.payload.len() > max_payload {
                    return Err(RunFault::PayloadTooLarge);
                }
                group.push(entry);
            }
            if group.is_empty() {
                break;
            }
            let payloads: SmallVec<[&[u8]; HASH_LANES]> = group.iter().map(|entry| entry.payload).collect();
            for (entry, payload_hash) in group.iter().zip(payload_hashes(&payloads)) {
                let sequence = self.first.checked_add(u64::from(count)).ok_or(MalformedRun::Sequence)?;
                let header = EntryHeader::with(entry.stamp, entry.payload, payload_hash);
                last = header.hash(key, sequence, &last);
                hashes.extend_from_slice(last.as_bytes());
                count += 1;
                if let Some((_, signature)) = claimed.next_if(|(at, _)| *at == sequence) {
                    heads.push(Head { tip: Tip { sequence, hash: last }, signature: *signature });
                }
            }
        }
        if count == 0 {
            return Err(MalformedRun::Empty.into());
        }
        check_sequences(self.first, count)?;
        let tip = Tip { sequence: self.first + u64::from(count) - 1, hash: last };
        let at_head = mutant!(UnsignedTailTaken) || heads.last().is_some_and(|head| head.tip == tip);
        if claimed.next().is_some() || !at_head {
            return Err(RunFault::NotAtHead);
        }
        let run = Run {
            first: self.first,
            count,
            previous: self.previous,
            last_stamp: reader.stamp,
            body: self.body,
            hashes: hashes.into(),
        };
        Ok(ChainedRun { key: *key, author: *author, run, heads })
    }
}

impl ChainedRun {
    /// Checks the heads of all `runs`, together as long as they hold and else one run at a time, so that the fault is found
    /// where it is. In their order.
    pub fn verify_all(runs: Vec<Self>, scheme: &dyn SignatureScheme) -> Vec<Result<VerifiedRun, RunFault>> {
        let (all_signed, alone) = (Self::are_signed(&runs, scheme), runs.len() == 1);
        let one = |run: Self| match all_signed || (!alone && run.is_signed(scheme)) {
            true => Ok(run.signed()),
            false => Err(RunFault::BadSignature),
        };
        runs.into_iter().map(one).collect()
    }

    fn is_signed(&self, scheme: &dyn SignatureScheme) -> bool {
        Self::are_signed(std::slice::from_ref(self), scheme)
    }

    fn are_signed(runs: &[Self], scheme: &dyn SignatureScheme) -> bool {
        let trusted = |run: &Self| mutant!(SignatureSkippedOnPull) && run.run.first > 1;
        let runs = runs.iter().filter(|run| !trusted(run));
        let heads = runs.flat_map(|run| run.heads.iter().map(|head| (&run.key, &run.author, head)));
        Head::verify_all(heads, scheme)
    }

    fn signed(self) -> VerifiedRun {
        VerifiedRun { run: self.run, heads: self.heads }
    }
}

impl VerifiedRun {
    /// The entries.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The heads, by rising sequence; the last is at the last entry.
    pub fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// Drops the entries before `first`; `None` if none would be left.
    pub fn after(&self, sequence: u64) -> Option<Self> {
        if sequence < self.run.first {
            return Some(self.clone());
        }
        let run = self.run.slice(sequence.checked_add(1)?, self.run.last())?;
        let heads = self.heads.iter().filter(|head| head.tip.sequence > sequence).copied().collect();
        Some(Self { run, heads })
    }

    /// Run and heads.
    pub fn into_parts(self) -> (Run, Vec<Head>) {
        (self.run, self.heads)
    }
}

/// Longest head and stamp of an entry: varint of 32 bits, varint of 32 bits, 8 bytes.
const MAX_ENTRY_HEAD: usize = 5 + 5 + 8;

fn check_sequences(first: u64, count: u32) -> Result<(), MalformedRun> {
    // u64::MAX stays free, so that "the sequence after" always exists.
    match first.checked_add(u64::from(count)) {
        Some(_) if first > 0 => Ok(()),
        _ => Err(MalformedRun::Sequence),
    }
}

fn put_entry_head(body: &mut Vec<u8>, payload_len: usize, last: Option<Timestamp>, stamp: Timestamp) {
    let len = (payload_len as u64) << FLAG_BITS;
    match last {
        Some(last) if last.era() == stamp.era() => {
            put_varint(body, len);
            put_varint(body, stamp.time() - last.time());
        }
        _ => {
            put_varint(body, len | FLAG_EXPLICIT_STAMP);
            put_varint(body, u64::from(stamp.era()));
            body.extend_from_slice(&stamp.time().to_le_bytes());
        }
    }
}

#[derive(Clone, Copy)]
struct PackedEntry<'a> {
    stamp: Timestamp,
    payload: &'a [u8],
    payload_at: usize,
}

/// Where an entry stops within its body, and its stamp.
#[derive(Clone, Copy)]
struct End {
    at: usize,
    stamp: Timestamp,
}

impl PackedEntry<'_> {
    fn end(&self) -> End {
        End { at: self.payload_at + self.payload.len(), stamp: self.stamp }
    }

    /// Bytes of a body from this entry, with its stamp written out, to `end`.
    fn size_until(&self, end: End) -> usize {
        let len = (self.payload.len() as u64) << FLAG_BITS | FLAG_EXPLICIT_STAMP;
        varint_len(len) + varint_len(u64::from(self.stamp.era())) + size_of::<u64>() + end.at
            - self.payload_at
    }
}

/// Parses a body entry by entry; total, allocates nothing.
struct BodyReader<'a> {
    bytes: &'a [u8],
    at: usize,
    stamp: Timestamp,
    first: bool,
}

impl<'a> BodyReader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, stamp: Timestamp::ZERO, first: true }
    }

    /// Skips `count` entries of a body that is known to hold more, and returns the one after them.
    fn skip_to(&mut self, count: u64) -> PackedEntry<'a> {
        for _ in 0..count {
            self.next_entry().expect(WELL_FORMED);
        }
        self.next_entry().expect(WELL_FORMED).expect(WELL_FORMED)
    }

    fn next_entry(&mut self) -> Result<Option<PackedEntry<'a>>, MalformedRun> {
        let mut rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let head = get_varint(&mut rest)?;
        let stamp = match head & ((1 << FLAG_BITS) - 1) {
            FLAG_EXPLICIT_STAMP => {
                let era = u32::try_from(get_varint(&mut rest)?).map_err(|_| MalformedRun::Number)?;
                let time = rest.try_get_u64_le().map_err(|_| MalformedRun::Truncated)?;
                Timestamp::new(era, time)
            }
            0 if !self.first => {
                let delta = get_varint(&mut rest)?;
                let time = self.stamp.time().checked_add(delta).ok_or(MalformedRun::Number)?;
                Timestamp::new(self.stamp.era(), time)
            }
            0 => return Err(MalformedRun::Stamps),
            _ => return Err(MalformedRun::UnknownFlags),
        };
        if !self.first && stamp <= self.stamp {
            return Err(MalformedRun::Stamps);
        }
        let len = usize::try_from(head >> FLAG_BITS).map_err(|_| MalformedRun::Number)?;
        if len > MAX_PAYLOAD_BYTES {
            return Err(MalformedRun::Number);
        }
        let payload = rest.get(..len).ok_or(MalformedRun::Truncated)?;
        let payload_at = self.bytes.len() - rest.len();
        (self.at, self.stamp, self.first) = (payload_at + len, stamp, false);
        Ok(Some(PackedEntry { stamp, payload, payload_at }))
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn get_varint(bytes: &mut &[u8]) -> Result<u64, MalformedRun> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(MalformedRun::Truncated)?;
        *bytes = rest;
        let low = u64::from(byte & 0x7f);
        if low << shift >> shift != low || (*byte == 0 && shift > 0) {
            return Err(MalformedRun::Number);
        }
        value |= low << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(MalformedRun::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::Identity;
    use proptest::prelude::*;

    const KEY: LogKey = LogKey::from_bytes([5; 32]);

    fn build(after: Tip, entries: &[(Timestamp, Vec<u8>)]) -> Run {
        let mut builder = RunBuilder::new(KEY, after, entries.len(), 0);
        for (stamp, payload) in entries {
            builder.push(*stamp, payload);
        }
        builder.finish().unwrap()
    }

    fn some_entries() -> impl Strategy<Value = Vec<(Timestamp, Vec<u8>)>> {
        let entry = (0u8..20, 1u64..1 << 40, prop::collection::vec(any::<u8>(), 0..300));
        prop::collection::vec(entry, 1..40).prop_map(|steps| {
            let (mut era, mut time) = (0, 1 << 50);
            steps
                .into_iter()
                .map(|(new_era, delta, payload)| {
                    if new_era == 0 {
                        (era, time) = (era + 1, 1 << 49);
                    } else {
                        time += delta;
                    }
                    (Timestamp::new(era, time), payload)
                })
                .collect()
        })
    }

    fn unverified(run: &Run, author: &Identity) -> UnverifiedRun {
        UnverifiedRun {
            first: run.first(),
            previous: run.previous(),
            body: run.body().clone(),
            heads: vec![(run.last(), Head::sign(&KEY, run.tip(), author).signature)],
        }
    }

    proptest! {
        #[test]
        fn a_run_reads_back_what_was_pushed_and_any_slice_of_it_too(
            entries in some_entries(), start in 0u64..1000, cut in (0usize..40, 0usize..40),
        ) {
            let author = NodeId::from_bytes([1; 32]);
            let after = Tip { sequence: start, hash: EntryHash::from_bytes([3; 32]) };
            let run = build(after, &entries);
            let read: Vec<LogEntry> = run.entries(author).collect();
            prop_assert_eq!(read.len(), entries.len());
            for (entry, (stamp, payload)) in read.iter().zip(&entries) {
                prop_assert_eq!((entry.timestamp(), &entry.payload()[..]), (*stamp, &payload[..]));
            }
            let (a, b) = (cut.0 % entries.len(), cut.1 % entries.len());
            let (a, b) = (a.min(b), a.max(b));
            let slice = run.slice(start + 1 + a as u64, start + 1 + b as u64).unwrap();
            prop_assert_eq!(slice.entries(author).collect::<Vec<_>>(), read[a..=b].to_vec());
            let again = Run::from_parts(slice.first(), slice.previous(), slice.body().clone(), slice.hashes().clone());
            prop_assert_eq!(again, Ok(slice));
        }

        #[test]
        fn a_part_is_the_longest_slice_that_fits_at_its_end_of_the_range(
            entries in some_entries(), range in (0u64..60, 0u64..60), max_bytes in 0usize..3000, backward: bool,
        ) {
            let after = Tip { sequence: 9, hash: EntryHash::from_bytes([3; 32]) };
            let run = build(after, &entries);
            let part = run.part(range.0..=range.1, max_bytes, backward);
            let (first, last) = (range.0.max(run.first()), range.1.min(run.last()));
            prop_assert_eq!(part.is_some(), first <= last);
            let Some(part) = part else { return Ok(()) };
            prop_assert!(part.len() == 1 || part.body().len() <= max_bytes);
            let (end, longer) = if backward {
                (part.last() == last, (part.first() > first).then(|| run.slice(part.first() - 1, last)))
            } else {
                (part.first() == first, (part.last() < last).then(|| run.slice(first, part.last() + 1)))
            };
            prop_assert!(end && longer.flatten().is_none_or(|longer| longer.body().len() > max_bytes));
            prop_assert_eq!(run.slice(part.first(), part.last()), Some(part));
        }

        #[test]
        fn the_parts_of_a_run_are_as_long_as_fits_and_make_up_the_run(entries in some_entries(), max_bytes in 0usize..3000) {
            let run = build(Tip { sequence: 9, hash: EntryHash::from_bytes([3; 32]) }, &entries);
            let parts = run.parts(max_bytes);
            for part in &parts {
                prop_assert!(part.len() == 1 || part.size() <= max_bytes);
                let longer = run.slice(part.first(), part.last() + 1);
                prop_assert!(longer.is_none_or(|longer| longer.size() > max_bytes));
                let slice = run.slice(part.first(), part.last());
                prop_assert_eq!(slice.as_ref(), Some(part));
            }
            prop_assert_eq!(Run::join(&parts), Some(run));
        }

        #[test]
        fn i5_a_run_verifies_as_built_and_with_no_bit_changed(entries in some_entries(), at: u32, bit in 0u8..8) {
            let author = Identity::from_secret([1; 32]);
            let run = build(Tip::START, &entries);
            let good = unverified(&run, &author);
            let scheme = author.scheme();
            let verified = good.clone().verify(&KEY, &author.node(), &*scheme, 1 << 20).unwrap();
            prop_assert_eq!(verified.run(), &run);
            let mut bytes = good.body.to_vec();
            let at = at as usize % bytes.len();
            bytes[at] ^= 1 << bit;
            let bad = UnverifiedRun { body: bytes.into(), ..good };
            prop_assert!(bad.verify(&KEY, &author.node(), &*scheme, 1 << 20).is_err());
        }

        #[test]
        fn i6_arbitrary_bytes_are_refused_or_read_but_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = BodyReader::new(&bytes);
            while let Ok(Some(_)) = reader.next_entry() {}
        }
    }

    #[test]
    fn joined_runs_are_the_run_packed_at_once() {
        let entries: Vec<_> =
            (1..=50).map(|n| (Timestamp::new((n / 20) as u32, n * 1000), vec![n as u8; 10])).collect();
        let run = build(Tip::START, &entries);
        let singles: Vec<Run> = (1..=50).map(|n| run.slice(n, n).unwrap()).collect();
        assert_eq!(Run::join(&singles), Some(run));
        assert_eq!(Run::join(&[singles[3].clone(), singles[5].clone()]), None);
    }

    #[test]
    fn a_run_that_does_not_end_at_a_head_is_refused() {
        let author = Identity::from_secret([1; 32]);
        let entries: Vec<_> = (1..4).map(|n| (Timestamp::new(0, n), vec![0; 3])).collect();
        let run = build(Tip::START, &entries);
        let mut short = unverified(&run.slice(1, 2).unwrap(), &author);
        short.body = run.body().clone();
        let scheme = author.scheme();
        assert_eq!(short.verify(&KEY, &author.node(), &*scheme, 100), Err(RunFault::NotAtHead));
    }

    #[test]
    fn a_sequence_at_the_end_of_its_range_is_refused() {
        let author = Identity::from_secret([1; 32]);
        let run = build(Tip::START, &[(Timestamp::new(0, 1), vec![])]);
        for first in [0, u64::MAX] {
            let bad = UnverifiedRun { first, ..unverified(&run, &author) };
            let scheme = author.scheme();
            assert!(bad.verify(&KEY, &author.node(), &*scheme, 100).is_err());
        }
    }

    #[test]
    fn block_ends_are_the_same_however_the_line_is_cut() {
        let entries: Vec<_> =
            (1..=700).map(|n| (Timestamp::new(0, n), vec![0; (n as usize % 7) * 500])).collect();
        let run = build(Tip::START, &entries);
        let mut whole = Vec::new();
        let phase = run.walk_blocks(BlockPhase::START, |at| whole.push(at));
        let (mut parts, mut part_phase) = (Vec::new(), BlockPhase::START);
        for (first, last) in [(1, 255), (256, 256), (257, 700)] {
            part_phase = run.slice(first, last).unwrap().walk_blocks(part_phase, |at| parts.push(at));
        }
        assert!(!whole.is_empty());
        assert_eq!((whole, phase), (parts, part_phase));
    }
}
