//! A batch on its way to becoming changes of a backing: the rules of [`WriteOp`] and the cutting into chunks.
//!
//! Rules are checked against what the backing holds and what the batch did to it so far; nothing is kept in
//! memory per log. Called by [`PackedStore::apply`] only.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::backing::{Backing, Changes};
use super::layout;
use super::store::PackedStore;
use crate::application::ports::{StoreError, WriteOp};
use crate::domain::id::ChannelId;
use crate::domain::log::{Line, LineNo, LogNo};
use crate::domain::run::Run;
use crate::domain::time::Timestamp;

/// A batch on its way to becoming changes.
pub(super) struct Staged<'a, B> {
    pub(super) store: &'a PackedStore<B>,
    pub(super) changes: Changes,
    /// Lines that the batch changes; not among `changes` before [`settle`](Self::settle).
    pub(super) lines: BTreeMap<(LogNo, LineNo), StagedLine>,
    pub(super) seen: BTreeMap<ChannelId, Option<Timestamp>>,
    pub(super) wiped: bool,
}

/// A line on its way.
pub(super) struct StagedLine {
    pub(super) line: Line,
    /// What is appended, run by run; once settled, chunk by chunk.
    pub(super) runs: Vec<Run>,
}

impl<B: Backing> Staged<'_, B> {
    /// Adds one change, checking the rules of [`WriteOp`].
    pub(super) fn stage(
        &mut self,
        seen: &BTreeMap<ChannelId, Timestamp>,
        op: &WriteOp,
    ) -> Result<(), StoreError> {
        match op {
            WriteOp::PutChannel(record) => {
                let key = layout::id_key(layout::CHANNELS, record.id.as_bytes());
                let value = layout::record_value(&key, record)?;
                self.changes.insert(key, Some(value));
                self.raise_seen(seen, record.id, record.seen);
            }
            WriteOp::RemoveChannel(id) => self.remove_channel(id)?,
            WriteOp::SetSeen(id, stamp) => {
                require(self.has_channel(id)?, "SetSeen: no such channel")?;
                self.raise_seen(seen, *id, *stamp);
            }
            WriteOp::PutLog(log, name) => {
                let key = layout::log_key(layout::LOGS, *log);
                let removed = self.current(&layout::log_key(layout::REMOVED_LOGS, *log))?;
                let unused = removed.is_none() && self.current(&key)?.is_none();
                require(unused, "PutLog: the number was used before")?;
                require(self.has_channel(&name.channel)?, "PutLog: no such channel")?;
                let value = layout::log_name_value(&key, name)?;
                self.changes.insert(key, Some(value));
            }
            WriteOp::RaiseFloor(log, floor) => {
                let name = self.current(&layout::log_key(layout::LOGS, *log))?;
                require(name.is_some(), "RaiseFloor: no such log")?;
                let key = layout::log_key(layout::FLOORS, *log);
                let held = self.current(&key)?.map(|value| layout::parse_floor(&key, &value)).transpose()?;
                if held.unwrap_or(0) < *floor {
                    let value = layout::floor_value(&key, *floor);
                    self.changes.insert(key, Some(value));
                }
            }
            WriteOp::Append { log, line, run } => {
                let held = self.line(*log, line.no)?;
                if held.is_none() {
                    let name = self.current(&layout::log_key(layout::LOGS, *log))?;
                    require(name.is_some(), "Append: no such log")?;
                }
                check_append(held.as_ref(), line, run)?;
                let runs = self.lines.remove(&(*log, line.no)).map(|staged| staged.runs);
                let mut runs = runs.unwrap_or_default();
                runs.push(run.clone());
                self.lines.insert((*log, line.no), StagedLine { line: line.clone(), runs });
            }
            WriteOp::PutLine(log, line) => {
                let held = self.line(*log, line.no)?;
                let ends = |line: &Line| (line.base(), line.tip, line.stamp);
                let same = held.is_some_and(|held| ends(&held) == ends(line));
                require(same, "PutLine: no such line, or its base, tip or stamp would change")?;
                let runs = self.lines.remove(&(*log, line.no)).map(|staged| staged.runs);
                let staged = StagedLine { line: line.clone(), runs: runs.unwrap_or_default() };
                self.lines.insert((*log, line.no), staged);
            }
            WriteOp::PutBlockHead(log, line, head) => {
                let known = self.line(*log, *line)?.is_some();
                require(known, "PutBlockHead: no such line")?;
                let key = layout::sequence_key(layout::BLOCK_HEADS, *log, *line, head.tip.sequence);
                let value = layout::head_value(&key, head);
                self.changes.insert(key, Some(value));
            }
            WriteOp::PutPeer(peer) => {
                let key = layout::id_key(layout::PEERS, peer.node.as_bytes());
                let value = layout::record_value(&key, peer)?;
                self.changes.insert(key, Some(value));
            }
            WriteOp::RemovePeer(node) => {
                self.changes.insert(layout::id_key(layout::PEERS, node.as_bytes()), None);
            }
            WriteOp::PutNode(record) => {
                let value = layout::record_value(&layout::NODE_KEY, record)?;
                self.changes.insert(layout::NODE_KEY.to_vec(), Some(value));
            }
            WriteOp::PutSnapshot(key, record) => {
                let at = layout::snapshot_key(key)?;
                self.remove(&at)?;
                let value = layout::record_value(&at, &(key, record))?;
                put_long(&mut self.changes, at, value, self.store.backing().value_bytes())?;
            }
            WriteOp::RemoveSnapshot(key) => self.remove(&layout::snapshot_key(key)?)?,
            WriteOp::Wipe => {
                self.remove_range(&layout::IDENTITY_KEY, &layout::END)?;
                self.lines.clear();
                self.seen.clear();
                self.wiped = true;
            }
        }
        Ok(())
    }

    /// The value of `key` as this batch leaves it so far.
    fn current(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.changes.get(key) {
            Some(staged) => Ok(staged.as_deref().map(Bytes::copy_from_slice)),
            None => self.store.backing().get(key),
        }
    }

    fn has_channel(&self, id: &ChannelId) -> Result<bool, StoreError> {
        Ok(self.current(&layout::id_key(layout::CHANNELS, id.as_bytes()))?.is_some())
    }

    fn line(&self, log: LogNo, line: LineNo) -> Result<Option<Line>, StoreError> {
        if let Some(staged) = self.lines.get(&(log, line)) {
            return Ok(Some(staged.line.clone()));
        }
        let key = layout::line_key(layout::LOGS, log, line);
        self.current(&key)?.map(|value| layout::parse_record(&key, &value)).transpose()
    }

    fn raise_seen(&mut self, held: &BTreeMap<ChannelId, Timestamp>, id: ChannelId, stamp: Timestamp) {
        let before = match self.seen.get(&id) {
            Some(staged) => *staged,
            None if self.wiped => None,
            None => held.get(&id).copied(),
        };
        if before.is_none_or(|before| before < stamp) {
            let key = layout::id_key(layout::SEEN, id.as_bytes());
            let value = layout::seen_value(&key, stamp);
            self.changes.insert(key, Some(value));
            self.seen.insert(id, Some(stamp));
        }
    }

    /// Turns the staged lines into changes, with as few chunks as the backing likes.
    pub(super) fn settle(&mut self) -> Result<(), StoreError> {
        let limit = self.store.backing().value_bytes();
        for (&(log, no), staged) in &mut self.lines {
            let key = layout::line_key(layout::LOGS, log, no);
            let value = layout::record_value(&key, &staged.line)?;
            if !(mutant!(LineRecordStale) && no > LineNo(0)) {
                self.changes.insert(key, Some(value));
            }
            staged.runs = chunked(&staged.runs, limit);
            for run in &staged.runs {
                let first = run.first() + u64::from(mutant!(ChunkMisplaced));
                let key = layout::sequence_key(layout::CHUNKS, log, no, first);
                let value = layout::chunk_value(&key, run);
                put_long(&mut self.changes, key, value, limit)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, prefix: &[u8]) -> Result<(), StoreError> {
        self.remove_range(prefix, &layout::behind(prefix))
    }

    fn remove_range(&mut self, start: &[u8], end: &[u8]) -> Result<(), StoreError> {
        for (_, value) in self.changes.range_mut(start.to_vec()..end.to_vec()) {
            *value = None;
        }
        let changes = &mut self.changes;
        self.store.backing().scan(start..end, false, &mut |key, _| {
            changes.insert(key.to_vec(), None);
            ControlFlow::Continue(())
        })
    }

    fn remove_channel(&mut self, id: &ChannelId) -> Result<(), StoreError> {
        // The names on disk, as this batch leaves them so far.
        let mut names: BTreeMap<Vec<u8>, Option<Bytes>> = BTreeMap::new();
        self.store.each(&[layout::LOGS], |key, value| {
            if key.len() == layout::LOG_KEY {
                names.insert(key.to_vec(), Some(value));
            }
            Ok(())
        })?;
        for (key, value) in self.changes.range(vec![layout::LOGS]..vec![layout::LOGS + 1]) {
            if key.len() == layout::LOG_KEY {
                names.insert(key.clone(), value.clone().map(Bytes::from));
            }
        }
        for (key, value) in names {
            let Some(value) = value else { continue };
            if layout::parse_log_name(&key, &value)?.channel != *id {
                continue;
            }
            let log = layout::log_of(&key)?;
            self.lines.retain(|(other, _), _| *other != log);
            let tombstone = layout::log_key(layout::REMOVED_LOGS, log);
            let value = layout::bytes_value(&tombstone, &[]);
            self.changes.insert(tombstone, Some(value));
            let prefixes = [layout::LOGS, layout::FLOORS, layout::CHUNKS, layout::BLOCK_HEADS, layout::MARKS];
            for prefix in prefixes {
                self.remove(&layout::log_key(prefix, log))?;
            }
        }
        for prefix in [layout::CHANNELS, layout::SEEN, layout::SNAPSHOTS] {
            self.remove(&layout::id_key(prefix, id.as_bytes()))?;
        }
        self.seen.insert(*id, None);
        Ok(())
    }
}

/// The same entries in chunks of at most `limit` bytes, an entry larger than that alone.
fn chunked(runs: &[Run], limit: usize) -> Vec<Run> {
    let (mut chunks, mut group, mut size) = (Vec::new(), Vec::<Run>::new(), layout::CHUNK_HEADER);
    let close = |group: &mut Vec<Run>, chunks: &mut Vec<Run>| match Run::join(group) {
        Some(joined) => {
            chunks.push(joined);
            group.clear();
        }
        // Not to be joined: the runs go in as they are.
        None => chunks.append(group),
    };
    for run in runs {
        if size + run.size() > limit {
            close(&mut group, &mut chunks);
            size = layout::CHUNK_HEADER;
        }
        if layout::chunk_size(run) > limit {
            chunks.extend(run.parts(limit.saturating_sub(layout::CHUNK_HEADER)));
        } else {
            size += run.size();
            group.push(run.clone());
        }
    }
    close(&mut group, &mut chunks);
    chunks
}

/// Whether `run` may be appended to the line `held`, or to a new one, giving `line` (I2).
fn check_append(held: Option<&Line>, line: &Line, run: &Run) -> Result<(), StoreError> {
    let (base, tip) = held.map_or((line.base(), line.base()), |held| (held.base(), held.tip));
    let follows = tip.sequence + 1 == run.first() && tip.hash == run.previous();
    require(follows, "Append: the run does not start where the line ends")?;
    let increases = held.is_none_or(|held| tip == base || held.stamp < run.first_stamp());
    require(increases, "Append: the stamps do not increase")?;
    require(base == line.base(), "Append: the base of a line does not move with its tip")?;
    let ends = line.tip == run.tip() && line.stamp == run.last_stamp();
    require(ends, "Append: the line's record does not end with the run")
}

fn require(holds: bool, rule: &'static str) -> Result<(), StoreError> {
    if holds { Ok(()) } else { Err(StoreError::Misuse(rule.into())) }
}

/// Cuts a long value over the keys that follow `key`.
fn put_long(changes: &mut Changes, key: Vec<u8>, mut value: Vec<u8>, piece: usize) -> Result<(), StoreError> {
    if value.len() > piece {
        let rest = value.split_off(piece);
        if rest.len().div_ceil(piece) > usize::from(u16::MAX) {
            return Err(StoreError::Io(Arc::from("a value is too long for this store: nothing was written")));
        }
        for (number, part) in rest.chunks(piece).enumerate() {
            changes.insert([&key[..], &(number as u16 + 1).to_be_bytes()].concat(), Some(part.to_vec()));
        }
    }
    changes.insert(key, Some(value));
    Ok(())
}
