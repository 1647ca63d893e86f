//! One line of a log in memory: sealed packed chunks and a small growing tail.
//!
//! Chunks are never changed once sealed, so a reader gets them without a copy. The tail is copied for each
//! reader that wants some of it, so it is kept small, and what it sealed is merged when enough has gathered.
//! Nothing here checks whether an append is allowed: the store does that before.

use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::application::ports::StoreError;
use crate::domain::entry::EntryHash;
use crate::domain::head::Head;
use crate::domain::log::Line;
use crate::domain::run::{Run, RunJoiner};

/// Body bytes of a merged chunk, at most: what a reader asks for at a time, so that chunks are handed out whole.
const CHUNK_BYTES: usize = 64 * 1024;
/// Body bytes at which the tail is sealed: bounds the copy that a reader at the tip pays (about 1 us).
const TAIL_BYTES: usize = 8 * 1024;
/// A run with a body of at least this many bytes becomes a chunk as it is, sharing the caller's memory. Smaller
/// ones are copied, so that what a run pins besides itself (a frame it was cut from) stays in proportion.
const ADOPT_BYTES: usize = 32 * 1024;
/// The first run of a line stays as one allocation up to this many bytes: most logs of a node with many peers
/// and streams hold an entry or two.
const TINY_BYTES: usize = 1024;

/// A line with its entries.
#[derive(Debug)]
pub(super) struct LineStore {
    /// Shared with whoever wrote it.
    record: Line,
    tail: Tail,
    sealed: Option<Box<Sealed>>,
}

/// The unfinished end of a line.
#[derive(Debug)]
enum Tail {
    Empty,
    /// All the entries of a line that was appended to once.
    Tiny {
        count: u32,
        /// Their hashes, but for the last, which is that of the tip; then the body.
        bytes: Box<[u8]>,
    },
    Growing(Box<RunJoiner>),
}

/// What only lines have that outgrew their tail.
#[derive(Debug, Clone, Default)]
struct Sealed {
    chunks: Vec<Run>,
    block_heads: Vec<Head>,
}

impl LineStore {
    /// A line without entries, which `run` and its like are appended to.
    pub(super) fn new(line: Line) -> Self {
        Self { record: line, tail: Tail::Empty, sealed: None }
    }

    /// The line's record.
    pub(super) fn record(&self) -> &Line {
        &self.record
    }

    /// Replaces the line's record; base and tip are those already held.
    pub(super) fn set_record(&mut self, line: Line) {
        self.record = line;
    }

    /// Appends `run`, which continues the line, and takes over `line`. Returns the bytes that were added.
    pub(super) fn append(&mut self, line: &Line, run: &Run) -> usize {
        let size = run.size();
        if matches!(self.tail, Tail::Tiny { .. })
            && let Some(held) = self.tail_run()
        {
            self.tail = Tail::Growing(Box::new(RunJoiner::new(&held)));
        }
        // Only now: what is tiny takes its last hash from the record.
        self.record = line.clone();
        let body = run.body().len();
        if let Tail::Growing(joiner) = &mut self.tail
            && joiner.body_len() + body <= TAIL_BYTES
            && joiner.push(run).is_some()
        {
            return size;
        }
        if size <= TINY_BYTES && matches!(self.tail, Tail::Empty) && self.sealed_chunks().is_empty() {
            let hashes = &run.hashes()[..(run.len() - 1) * EntryHash::LEN];
            let bytes = [hashes, &run.body()[..]].concat().into();
            self.tail = Tail::Tiny { count: run.len() as u32, bytes };
            return size;
        }
        self.seal_tail();
        match body {
            ADOPT_BYTES.. => self.push_chunk(run.clone()),
            TAIL_BYTES.. => self.push_chunk(RunJoiner::new(run).finish()),
            _ => self.tail = Tail::Growing(Box::new(RunJoiner::new(run))),
        }
        size
    }

    /// Keeps the head of a block end, in the place of an earlier one of the same sequence. Returns the bytes
    /// that were added.
    pub(super) fn put_block_head(&mut self, head: Head) -> usize {
        let heads = &mut self.sealed.get_or_insert_default().block_heads;
        match heads.binary_search_by_key(&head.tip.sequence, |held| held.tip.sequence) {
            Ok(at) => {
                heads[at] = head;
                0
            }
            Err(at) => {
                heads.insert(at, head);
                size_of::<Head>()
            }
        }
    }

    /// The block heads at sequences in `range`, ascending, at most `limit`.
    pub(super) fn block_heads(&self, range: RangeInclusive<u64>, limit: usize) -> Vec<Head> {
        let heads = self.sealed.as_ref().map_or(&[][..], |sealed| &sealed.block_heads);
        let from = heads.partition_point(|head| head.tip.sequence < *range.start());
        let within = heads[from..].iter().take_while(|head| head.tip.sequence <= *range.end());
        within.take(limit).copied().collect()
    }

    /// Part of the line as a packed run, as `EntryRepository::read` has it.
    pub(super) fn read(
        &self,
        range: RangeInclusive<u64>,
        max_bytes: usize,
        backward: bool,
    ) -> Result<Option<Run>, StoreError> {
        let first = self.record.base().sequence.saturating_add(1).max(*range.start());
        let last = self.record.tip.sequence.min(*range.end());
        if first > last {
            return Ok(None);
        }
        let at = if backward { last } else { first };
        let chunks = self.sealed_chunks();
        let run = match chunks.get(chunks.partition_point(|chunk| chunk.last() < at)) {
            Some(chunk) => chunk.part(first..=last, max_bytes, backward),
            None => self.tail_run().and_then(|tail| tail.part(first..=last, max_bytes, backward)),
        };
        match run {
            Some(run) => Ok(Some(run)),
            None => Err(StoreError::Corrupt("a line in memory has a hole".into())),
        }
    }

    /// Bytes that entries and block heads occupy.
    pub(super) fn size(&self) -> usize {
        let tail = match &self.tail {
            Tail::Empty => 0,
            Tail::Tiny { bytes, .. } => bytes.len() + EntryHash::LEN,
            Tail::Growing(joiner) => {
                joiner.body_len() + (joiner.last() + 1 - joiner.first()) as usize * EntryHash::LEN
            }
        };
        let sealed = self.sealed.as_ref().map_or(0, |sealed| {
            sealed.chunks.iter().map(Run::size).sum::<usize>() + sealed.block_heads.len() * size_of::<Head>()
        });
        tail + sealed
    }

    /// An independent copy that shares the sealed chunks.
    pub(super) fn duplicate(&self) -> Self {
        let tail = match &self.tail {
            Tail::Empty => Tail::Empty,
            Tail::Tiny { count, bytes } => Tail::Tiny { count: *count, bytes: bytes.clone() },
            Tail::Growing(joiner) => Tail::Growing(Box::new(RunJoiner::new(&joiner.snapshot()))),
        };
        Self { record: self.record.clone(), tail, sealed: self.sealed.clone() }
    }

    fn sealed_chunks(&self) -> &[Run] {
        self.sealed.as_ref().map_or(&[], |sealed| &sealed.chunks)
    }

    /// A copy of the tail.
    fn tail_run(&self) -> Option<Run> {
        match &self.tail {
            Tail::Empty => None,
            Tail::Tiny { count, bytes } => {
                let (hashes, body) = bytes.split_at((*count as usize - 1) * EntryHash::LEN);
                let bytes = Bytes::from([hashes, self.record.tip.hash.as_bytes(), body].concat());
                let (hashes, body) = (hashes.len() + EntryHash::LEN, bytes.len());
                let (hashes, body) = (bytes.slice(..hashes), bytes.slice(hashes..body));
                let run =
                    Run::from_parts(self.record.base().sequence + 1, self.record.base().hash, body, hashes);
                Some(run.expect("a tiny tail is a run that was taken apart"))
            }
            Tail::Growing(joiner) => Some(joiner.snapshot()),
        }
    }

    /// Turns the tail into a chunk: a copy of the exact size, where the joiner's buffers may be twice as large.
    fn seal_tail(&mut self) {
        if let Some(run) = self.tail_run() {
            self.tail = Tail::Empty;
            self.push_chunk(run);
        }
    }

    /// Adds a chunk; merges the small ones before it once there is enough for a full one.
    fn push_chunk(&mut self, run: Run) {
        let chunks = &mut self.sealed.get_or_insert_default().chunks;
        let small = chunks.iter().rev().take_while(|chunk| chunk.body().len() < ADOPT_BYTES);
        let (count, bytes) =
            small.fold((0, 0), |(count, bytes), chunk| (count + 1, bytes + chunk.body().len()));
        let from = chunks.len() - count;
        if count > 1
            && bytes + run.body().len() > CHUNK_BYTES
            && let Some(merged) = Run::join(&chunks[from..])
        {
            chunks.truncate(from);
            chunks.push(merged);
        }
        chunks.push(run);
    }
}
