//! Merging the small chunks that single appends leave behind into large ones.
//!
//! An append writes one small record, because rewriting a growing chunk each time would cost far more. So the
//! end of a busy line is many small chunks; this module finds and joins them, a bounded step at a time, when
//! the owner has nothing better to do. A line's neighbours are joined once they fill a large chunk, or at
//! its end once [`FANIN`] have gathered: there only those are taken whose newer neighbours outweigh them, so
//! that an entry is copied a logarithmic number of times (the size-tiered merge of O'Neil et al., "The
//! log-structured merge-tree", 1996).
//!
//! Each step is one atomic change: the joined chunk takes the key of the first and the others vanish with it.
//! Lines with work to do carry a mark on disk, so that the work goes on after a restart.

use std::collections::BTreeMap;

use super::backing::{Backing, Changes};
use super::layout::{self, corrupt};
use super::store::PackedStore;
use crate::application::ports::StoreError;
use crate::domain::log::{Line, LineNo, LogNo};
use crate::domain::run::Run;

/// Small chunks at the end of a line that make it worth merging: sixteen durable appends for one rewrite.
const FANIN: u32 = 16;
/// Small chunks of a line at which merging no longer waits for an idle moment: some 100 KB that reads would have
/// to gather piece by piece. Few enough that a backing with a journal of its own still holds them there, so that
/// what single appends leave is merged before it reaches the database.
const OVERDUE: u32 = 1024;
/// Chunks that one step looks at: keeps a step to a few milliseconds.
const STEP_CHUNKS: usize = 512;
/// Lines remembered: a bound for stores with a great many logs (48 B each). Forgotten ones are found again at
/// their next append.
const MAX_TAILS: usize = 1 << 16;

type LineKey = (LogNo, LineNo);

/// What a [`PackedStore::merge_step`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeStep {
    /// There may be more to merge.
    More,
    /// Nothing is worth merging.
    Idle,
}

/// The small chunks at the end of one line.
#[derive(Debug, Clone, Copy)]
struct Tail {
    /// First sequence of the earliest of them that is known.
    from: u64,
    /// How many are known.
    pieces: u32,
    /// Whether nothing small precedes `from`.
    found: bool,
    /// Whether the line is marked on disk.
    marked: bool,
}

impl Tail {
    fn is_due(&self) -> bool {
        !self.found || self.pieces >= FANIN
    }
}

/// Which lines have small chunks.
#[derive(Debug, Default)]
pub(super) struct Merger {
    tails: BTreeMap<LineKey, Tail>,
    /// Lines that a step has something to do for.
    due: BTreeMap<LineKey, ()>,
    /// Lines with [`OVERDUE`] pieces or more.
    overdue: usize,
}

/// Chunks up to half the limit are small: two of them fit into one.
fn is_small(size: usize, limit: usize) -> bool {
    size <= limit / 2
}

impl Merger {
    /// Takes up a line that was marked before a restart.
    pub(super) fn resume(&mut self, line: LineKey) {
        self.tails.insert(line, Tail { from: u64::MAX, pieces: FANIN, found: false, marked: true });
        self.due.insert(line, ());
    }

    /// The mark to be written with the append of `run`, if it makes the line worth merging.
    pub(super) fn would_mark(&self, at: LineKey, run: &Run, limit: usize) -> Option<Vec<u8>> {
        let tail = self.tails.get(&at)?;
        let due = tail.pieces + 1 >= FANIN && is_small(layout::chunk_size(run), limit);
        (due && !tail.marked).then(|| layout::line_key(layout::MARKS, at.0, at.1))
    }

    /// Counts an append that was applied.
    pub(super) fn appended(&mut self, at: LineKey, line: &Line, run: &Run, limit: usize) {
        if !is_small(layout::chunk_size(run), limit) {
            // A large chunk closes the tail. What is worth merging before it stays worth it.
            if self.tails.get(&at).is_some_and(|tail| tail.pieces < FANIN) {
                self.tails.remove(&at);
                self.due.remove(&at);
            }
            return;
        }
        let starts = line.base().sequence + 1 == run.first();
        let tail = self.tails.entry(at).or_insert(Tail {
            from: run.first(),
            pieces: 0,
            found: starts,
            marked: false,
        });
        tail.pieces += 1;
        tail.marked |= tail.pieces >= FANIN;
        let (due, overdue) = (tail.is_due(), tail.pieces == OVERDUE);
        if due {
            self.due.insert(at, ());
        }
        self.overdue += usize::from(overdue);
        if self.tails.len() > MAX_TAILS {
            self.tails.retain(|_, tail| tail.is_due());
        }
    }

    pub(super) fn overdue(&self) -> bool {
        self.overdue > 0
    }

    /// Does a bounded piece of work for one line.
    pub(super) fn step<B: Backing>(&mut self, store: &PackedStore<B>) -> Result<MergeStep, StoreError> {
        let at = match self.tails.iter().find(|(_, tail)| self.overdue > 0 && tail.pieces >= OVERDUE) {
            Some((at, _)) => *at,
            None => match self.due.first_key_value() {
                Some((at, ())) => *at,
                None => return Ok(MergeStep::Idle),
            },
        };
        let Some(tail) = self.tails.get(&at).copied() else {
            self.due.remove(&at);
            return Ok(MergeStep::More);
        };
        let stepped = if tail.found { merge(store, at, tail) } else { find(store, at, tail).map(Some) };
        match stepped {
            Ok(Some(after)) => self.replace(at, tail, Some(after)),
            Ok(None) => self.replace(at, tail, None),
            // Nothing changed. A damaged line is left alone; for want of space the step is tried again later.
            Err(error @ StoreError::Corrupt(_)) => {
                self.replace(at, tail, None);
                return Err(error);
            }
            Err(other) => return Err(other),
        }
        Ok(if self.due.is_empty() { MergeStep::Idle } else { MergeStep::More })
    }

    fn replace(&mut self, at: LineKey, before: Tail, after: Option<Tail>) {
        let was = before.pieces >= OVERDUE;
        let is = after.is_some_and(|tail| tail.pieces >= OVERDUE);
        self.overdue = self.overdue + usize::from(is) - usize::from(was).min(self.overdue);
        match after {
            Some(tail) => {
                self.tails.insert(at, tail);
                if !tail.is_due() {
                    self.due.remove(&at);
                }
            }
            None => {
                self.tails.remove(&at);
                self.due.remove(&at);
            }
        }
    }
}

/// Walks back from the known small chunks of a line to where they begin.
fn find<B: Backing>(store: &PackedStore<B>, at: LineKey, mut tail: Tail) -> Result<Tail, StoreError> {
    let limit = store.merge_limit();
    if tail.from == u64::MAX {
        // Resumed after a restart: nothing is known but that there is something.
        tail.pieces = 0;
    }
    for _ in 0..STEP_CHUNKS {
        let before = match tail.from.checked_sub(1) {
            Some(before) => store.chunk_before(at.0, at.1, before)?,
            None => None,
        };
        let Some(first) = before else {
            tail.found = true;
            break;
        };
        let mut size = 0;
        store.chunks(at.0, at.1, first, &mut |run| {
            size = layout::chunk_size(&run);
            Ok(false)
        })?;
        if !is_small(size, limit) {
            tail.found = true;
            break;
        }
        tail.from = first;
        tail.pieces = tail.pieces.saturating_add(1);
    }
    settle(store, at, tail)
}

/// Joins what can be joined from the beginning of the small chunks on. `None` if the line is gone.
fn merge<B: Backing>(
    store: &PackedStore<B>,
    at: LineKey,
    mut tail: Tail,
) -> Result<Option<Tail>, StoreError> {
    let limit = store.merge_limit();
    let (mut group, mut sum, mut open) = (Vec::<Run>::new(), layout::CHUNK_HEADER, true);
    store.chunks(at.0, at.1, tail.from, &mut |run| {
        let size = run.size();
        if !group.is_empty() && (sum + size > limit || group.len() == STEP_CHUNKS) {
            open = false;
            return Ok(false);
        }
        sum += size;
        group.push(run);
        Ok(true)
    })?;
    let Some(first) = group.first() else {
        // The channel was removed meanwhile; a mark may be left.
        return unmark(store, at, tail).map(|_| None);
    };
    tail.from = first.first();
    if open {
        // The end of the line: take those whose newer neighbours outweigh them.
        let (mut newer, mut start) = (0, group.len() - 1);
        for (index, run) in group.iter().enumerate().rev() {
            if index + 1 < group.len() && run.size() > newer {
                break;
            }
            start = index;
            newer += run.size();
        }
        let kept = start as u32;
        if group.len() - start >= 2 && group.len() as u32 >= FANIN {
            join(store, at, &group[start..])?;
            tail.pieces = kept + 1;
        } else {
            tail.pieces = (group.len() as u32).min(FANIN - 1);
        }
        return settle(store, at, tail).map(Some);
    }
    let joined = group.len() as u32;
    if joined >= 2 {
        join(store, at, &group)?;
    }
    let last = group.last().map_or(tail.from, Run::last);
    if joined >= 2 && is_small(sum, limit) {
        // Very small entries: still small after a whole step.
        tail.pieces = tail.pieces.saturating_sub(joined - 1).max(FANIN);
    } else {
        tail.from = last + 1;
        tail.pieces = tail.pieces.saturating_sub(joined);
        if tail.pieces < FANIN {
            // Appends may have been counted roughly; the next step sees the true number.
            tail.pieces = FANIN;
        }
    }
    Ok(Some(tail))
}

/// Removes the mark of a line that is not worth merging any more.
fn settle<B: Backing>(store: &PackedStore<B>, at: LineKey, tail: Tail) -> Result<Tail, StoreError> {
    if tail.found && tail.pieces < FANIN { unmark(store, at, tail) } else { Ok(tail) }
}

fn unmark<B: Backing>(store: &PackedStore<B>, at: LineKey, mut tail: Tail) -> Result<Tail, StoreError> {
    if tail.marked {
        store.enter(&Changes::from([(layout::line_key(layout::MARKS, at.0, at.1), None)]))?;
        tail.marked = false;
    }
    Ok(tail)
}

fn join<B: Backing>(store: &PackedStore<B>, at: LineKey, group: &[Run]) -> Result<(), StoreError> {
    let key = |run: &Run| layout::sequence_key(layout::CHUNKS, at.0, at.1, run.first());
    let kept = if mutant!(MergeLosesEntries) { &group[..group.len() - 1] } else { group };
    let Some(whole) = Run::join(kept) else {
        return Err(corrupt(&key(&group[0]), "does not continue the chunk before it"));
    };
    let mut changes: Changes = group.iter().map(|run| (key(run), None)).collect();
    let first = key(&whole);
    let value = layout::chunk_value(&first, &whole);
    debug_assert!(value.len() <= store.backing().value_bytes(), "a joined chunk is never cut");
    changes.insert(first, Some(value));
    store.enter(&changes)
}
