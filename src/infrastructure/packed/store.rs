//! [`PackedStore`]: batches in, repositories' answers out.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};

use super::backing::{Backing, Changes};
use super::layout::{self, corrupt};
use super::merge::{MergeStep, Merger};
use super::staged::Staged;
use super::withheld::Withheld;
use crate::application::ports::{
    NodeRecord, PeerRecord, Residence, SnapshotKey, SnapshotRecord, StoreError, StoreUsage, StoredLog,
    WriteBatch,
};
use crate::domain::channel::ChannelRecord;
use crate::domain::head::Head;
use crate::domain::id::ChannelId;
use crate::domain::identity::Identity;
use crate::domain::log::{Line, LineNo, LogNo};
use crate::domain::run::Run;
use crate::domain::time::Timestamp;

/// A chunk with a body of this size is handed out as it lies on disk instead of being copied together with
/// its neighbours: beyond it, a copy costs more than another read.
const JOIN_BELOW: usize = 16 * 1024;

/// Everything one node keeps, over a [`Backing`].
///
/// One thread at a time writes ([`apply`](Self::apply), [`merge_step`](Self::merge_step)); any number read
/// meanwhile, and see whole batches only.
#[derive(Debug)]
pub struct PackedStore<B> {
    backing: B,
    identity: Identity,
    residence: Residence,
    /// Held for writing while a batch enters the backing, so that a reader's several steps see one state.
    gate: RwLock<()>,
    writer: Mutex<Writer>,
}

/// What the writer remembers between batches.
#[derive(Debug, Default)]
struct Writer {
    seen: BTreeMap<ChannelId, Timestamp>,
    merger: Merger,
    withheld: Withheld,
}

impl<B: Backing> PackedStore<B> {
    /// Opens what is in `backing`, or makes a new store in an empty one.
    ///
    /// `entropy` becomes the node's secret if there is none yet. `residence` describes the place (device, file,
    /// machine): where it differs from the one recorded, the store was moved or copied.
    ///
    /// # Errors
    /// [`StoreError::Location`] if the backing holds something else, [`StoreError::NewerFormat`]; it was not
    /// touched then. [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn open(backing: B, entropy: [u8; 32], residence: &Bytes) -> Result<Self, StoreError> {
        let mut changes = Changes::new();
        let found =
            backing.get(&layout::FORMAT_KEY)?.map(|value| layout::parse_format(&value)).transpose()?;
        match found {
            Some(found) if found > layout::FORMAT => {
                return Err(StoreError::NewerFormat { found, supported: layout::FORMAT });
            }
            Some(_) => {}
            None => {
                let mut empty = true;
                backing.scan(&[][..]..&layout::END[..], false, &mut |_, _| {
                    empty = false;
                    ControlFlow::Break(())
                })?;
                if !empty {
                    return Err(StoreError::Location("a database that holds something else".into()));
                }
                changes.insert(layout::FORMAT_KEY.to_vec(), Some(layout::format_value(layout::FORMAT)));
            }
        }
        let secret = match backing.get(&layout::IDENTITY_KEY)? {
            Some(value) => <[u8; 32]>::try_from(layout::parse_bytes(&layout::IDENTITY_KEY, &value)?)
                .map_err(|_| corrupt(&layout::IDENTITY_KEY, "wrong length"))?,
            None => {
                let value = layout::bytes_value(&layout::IDENTITY_KEY, &entropy);
                changes.insert(layout::IDENTITY_KEY.to_vec(), Some(value));
                entropy
            }
        };
        let recorded = backing.get(&layout::RESIDENCE_KEY)?;
        let recorded =
            recorded.as_ref().map(|value| layout::parse_bytes(&layout::RESIDENCE_KEY, value)).transpose()?;
        if recorded != Some(residence) {
            let value = layout::bytes_value(&layout::RESIDENCE_KEY, residence);
            changes.insert(layout::RESIDENCE_KEY.to_vec(), Some(value));
        }
        let moved = recorded.is_some_and(|recorded| recorded != residence);
        if !changes.is_empty() {
            backing.apply(&changes)?;
            backing.sync()?;
        }
        let store = Self {
            backing,
            identity: Identity::from_secret(secret),
            residence: if moved { Residence::Moved } else { Residence::Same },
            gate: RwLock::new(()),
            writer: Mutex::default(),
        };
        {
            let mut writer = store.writer();
            store.each(&[layout::SEEN], |key, value| {
                let id = <[u8; 32]>::try_from(&key[1..]).map_err(|_| corrupt(key, "wrong length"))?;
                writer.seen.insert(ChannelId::from_bytes(id), layout::parse_seen(key, &value)?);
                Ok(())
            })?;
            store.each(&[layout::MARKS], |key, value| {
                layout::parse_bytes(key, &value)?;
                writer.merger.resume(layout::line_of(key)?);
                Ok(())
            })?;
        }
        Ok(store)
    }

    /// The node's secret, as it was at open.
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Whether the store moved since it was last open.
    pub fn residence(&self) -> Residence {
        self.residence
    }

    /// Applies a batch: visible when this returns, durable after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`StoreError::Full`]: nothing changed, and batches that build on this one are refused alike until it
    /// is applied. [`StoreError::Misuse`]: nothing changed. After any other error the state on disk is not known.
    pub fn apply(&self, batch: &WriteBatch) -> Result<(), StoreError> {
        self.apply_together(&[batch])
    }

    /// Applies batches one after the other, as if they were one: all or none. What they append to one line
    /// becomes one chunk, so that many small batches under way cost little more than a large one.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), for the first of them that fails. Apply them singly then.
    pub fn apply_together(&self, batches: &[&WriteBatch]) -> Result<(), StoreError> {
        let writer = &mut *self.writer();
        let ops = || batches.iter().flat_map(|batch| &batch.ops);
        if !mutant!(WithheldForgotten) && batches.iter().any(|batch| writer.withheld.blocks(batch)) {
            if let [batch] = batches {
                writer.withheld.failed(batch, |channel| self.holds_channel(channel));
            }
            return Err(StoreError::Full);
        }
        let mut staged = Staged {
            store: self,
            changes: Changes::new(),
            lines: BTreeMap::new(),
            seen: BTreeMap::new(),
            wiped: false,
        };
        ops().try_for_each(|op| staged.stage(&writer.seen, op))?;
        staged.settle()?;
        let Staged { mut changes, lines, seen, wiped, .. } = staged;
        let limit = self.merge_limit();
        let appended =
            || lines.iter().flat_map(|(at, staged)| staged.runs.iter().map(move |run| (at, staged, run)));
        for (at, _, run) in appended() {
            if let Some(key) = writer.merger.would_mark(*at, run, limit) {
                let value = layout::bytes_value(&key, &[]);
                changes.insert(key, Some(value));
            }
        }
        match self.enter(&changes) {
            Ok(()) => {}
            Err(StoreError::Full) => {
                if let [batch] = batches {
                    writer.withheld.failed(batch, |channel| self.holds_channel(channel));
                }
                return Err(StoreError::Full);
            }
            Err(other) => return Err(other),
        }
        if wiped {
            writer.seen.clear();
            writer.merger = Merger::default();
        }
        for (channel, stamp) in seen {
            match stamp {
                Some(stamp) => writer.seen.insert(channel, stamp),
                None => writer.seen.remove(&channel),
            };
        }
        for (at, staged, run) in appended() {
            writer.merger.appended(*at, &staged.line, run, limit);
        }
        batches.iter().for_each(|batch| writer.withheld.written(batch));
        Ok(())
    }

    /// Whether the channel was ever written. If the store cannot tell, it was not.
    fn holds_channel(&self, channel: &ChannelId) -> bool {
        let key = layout::id_key(layout::CHANNELS, channel.as_bytes());
        matches!(self.backing.get(&key), Ok(Some(_)))
    }

    /// Makes everything applied so far durable.
    ///
    /// # Errors
    /// Whatever the backing says; what is on disk is not known then.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.backing.sync()
    }

    /// What the backing occupies.
    pub fn usage(&self) -> StoreUsage {
        self.backing.usage()
    }

    /// Merges some neighbouring small chunks of one line into a large one. Bounded work; entries read the same
    /// before and after. Call it when idle, while it says [`MergeStep::More`].
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Corrupt`]: nothing changed. After any other, the state on disk is
    /// not known.
    pub fn merge_step(&self) -> Result<MergeStep, StoreError> {
        let writer = &mut *self.writer();
        writer.merger.step(self)
    }

    /// Whether a line has so many small chunks that a [`merge_step`](Self::merge_step) should not wait for an
    /// idle moment.
    pub fn merge_overdue(&self) -> bool {
        self.writer().merger.overdue()
    }

    /// All logs with their lines, by rising number.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn logs(&self) -> Result<Vec<StoredLog>, StoreError> {
        let _gate = self.gate();
        let mut logs: Vec<StoredLog> = Vec::new();
        self.each(&[layout::LOGS], |key, value| {
            let no = layout::log_of(key)?;
            if key.len() == layout::LOG_KEY {
                let name = layout::parse_log_name(key, &value)?;
                logs.push(StoredLog { no, name, floor: 0, lines: Vec::new() });
                return Ok(());
            }
            let line: Line = layout::parse_record(key, &value)?;
            let log = logs.last_mut().filter(|log| log.no == no);
            log.ok_or_else(|| corrupt(key, "a line of a log without a name"))?.lines.push(line);
            Ok(())
        })?;
        self.each(&[layout::FLOORS], |key, value| {
            let log = layout::log_of(key)?;
            let at = logs.binary_search_by_key(&log, |log| log.no);
            let at = at.map_err(|_| corrupt(key, "a floor of a log without a name"))?;
            logs[at].floor = layout::parse_floor(key, &value)?;
            Ok(())
        })?;
        Ok(logs)
    }

    /// One above the largest number that a log ever had.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn next_log(&self) -> Result<LogNo, StoreError> {
        let _gate = self.gate();
        let mut next = 0;
        for prefix in [layout::LOGS, layout::REMOVED_LOGS] {
            self.each(&[prefix], |key, _| {
                next = next.max(layout::log_of(key)?.0.saturating_add(1));
                Ok(())
            })?;
        }
        Ok(LogNo(next))
    }

    /// Entries of a line, as [`EntryRepository::read`](crate::application::ports::EntryRepository::read) says.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn read(
        &self,
        log: LogNo,
        line: LineNo,
        range: RangeInclusive<u64>,
        max_bytes: usize,
        backward: bool,
    ) -> Result<Option<Run>, StoreError> {
        let (from, to) = (*range.start().max(&1), *range.end());
        if from > to {
            return Ok(None);
        }
        let _gate = self.gate();
        let mut taken = Taken { from, to, max_bytes, backward, runs: Vec::new(), bytes: 0 };
        if backward {
            let mut at = Some(to);
            while let Some(sequence) = at {
                let Some(first) = self.chunk_before(log, line, sequence)? else { break };
                let mut more = false;
                self.chunks(log, line, first, &mut |run| {
                    more = taken.push(run)?;
                    Ok(false)
                })?;
                at = if more { first.checked_sub(1) } else { None };
            }
            taken.runs.reverse();
        } else {
            let first = self.chunk_before(log, line, from)?.unwrap_or(from);
            self.chunks(log, line, first, &mut |run| taken.push(run))?;
        }
        if taken.runs.len() > 1 {
            let whole = Run::join(&taken.runs);
            let key = layout::sequence_key(layout::CHUNKS, log, line, taken.runs[0].first());
            return whole.map(Some).ok_or_else(|| corrupt(&key, "does not continue the chunk before it"));
        }
        Ok(taken.runs.pop())
    }

    /// Block heads of a line at sequences in `range`, ascending, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn block_heads(
        &self,
        log: LogNo,
        line: LineNo,
        range: RangeInclusive<u64>,
        limit: usize,
    ) -> Result<Vec<Head>, StoreError> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let start = layout::sequence_key(layout::BLOCK_HEADS, log, line, *range.start());
        let end = layout::behind(&layout::sequence_key(layout::BLOCK_HEADS, log, line, *range.end()));
        let mut heads = Vec::new();
        let _gate = self.gate();
        self.each_in(&start, &end, |key, value| {
            heads.push(layout::parse_head(key, &value)?);
            Ok(if heads.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(heads)
    }

    /// All channels, by rising id.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn channels(&self) -> Result<Vec<ChannelRecord>, StoreError> {
        let mut channels: Vec<ChannelRecord> = Vec::new();
        let _gate = self.gate();
        self.each(&[layout::CHANNELS], |key, value| {
            channels.push(layout::parse_record(key, &value)?);
            Ok(())
        })?;
        for channel in &mut channels {
            let key = layout::id_key(layout::SEEN, channel.id.as_bytes());
            if let Some(value) = self.backing.get(&key)? {
                channel.seen = layout::parse_seen(&key, &value)?;
            }
        }
        Ok(channels)
    }

    /// All peers, by rising id.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn peers(&self) -> Result<Vec<PeerRecord>, StoreError> {
        let mut peers = Vec::new();
        let _gate = self.gate();
        self.each(&[layout::PEERS], |key, value| {
            peers.push(layout::parse_record(key, &value)?);
            Ok(())
        })?;
        Ok(peers)
    }

    /// The node's own record.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn node(&self) -> Result<NodeRecord, StoreError> {
        let _gate = self.gate();
        let value = self.backing.get(&layout::NODE_KEY)?;
        value.map_or(Ok(NodeRecord::default()), |value| layout::parse_record(&layout::NODE_KEY, &value))
    }

    /// The state kept under `key`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn snapshot(&self, key: &SnapshotKey) -> Result<Option<SnapshotRecord>, StoreError> {
        let at = layout::snapshot_key(key)?;
        let mut pieces = Pieces::default();
        let _gate = self.gate();
        self.each(&at, |key, value| pieces.push(key, at.len(), value))?;
        let Some(value) = pieces.whole() else { return Ok(None) };
        let (stored, record): (SnapshotKey, SnapshotRecord) = layout::parse_record(&at, &value)?;
        if stored == *key { Ok(Some(record)) } else { Err(corrupt(&at, "the record of another key")) }
    }

    // ---- helpers ----

    pub(super) fn backing(&self) -> &B {
        &self.backing
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic of the backing left the maps as they were before the batch: they change only after it.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self) -> std::sync::RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `changes` into the backing while nobody reads.
    pub(super) fn enter(&self, changes: &Changes) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.backing.apply(changes)
    }

    /// Size of the chunks that small ones are merged into.
    pub(super) fn merge_limit(&self) -> usize {
        self.backing.value_bytes()
    }

    pub(super) fn each(
        &self,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.each_in(prefix, &layout::behind(prefix), |key, value| {
            visit(key, value).map(ControlFlow::Continue)
        })
    }

    fn each_in(
        &self,
        start: &[u8],
        end: &[u8],
        mut visit: impl FnMut(&[u8], Bytes) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        self.backing.scan(start..end, false, &mut |key, value| match visit(key, value) {
            Ok(flow) => flow,
            Err(error) => {
                outcome = Err(error);
                ControlFlow::Break(())
            }
        })?;
        outcome
    }

    /// First sequence of the last chunk that starts at or before `sequence`.
    pub(super) fn chunk_before(
        &self,
        log: LogNo,
        line: LineNo,
        sequence: u64,
    ) -> Result<Option<u64>, StoreError> {
        let start = layout::line_key(layout::CHUNKS, log, line);
        let end = layout::behind(&layout::sequence_key(layout::CHUNKS, log, line, sequence));
        let mut found = None;
        self.backing.scan(&start..&end, true, &mut |key, _| {
            found = Some(layout::sequence_of(key));
            ControlFlow::Break(())
        })?;
        found.transpose()
    }

    /// Visits the chunks of a line from the one that starts at or after `first` on, while `visit` says so.
    pub(super) fn chunks(
        &self,
        log: LogNo,
        line: LineNo,
        first: u64,
        visit: &mut dyn FnMut(Run) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let start = layout::sequence_key(layout::CHUNKS, log, line, first);
        let end = layout::behind(&layout::line_key(layout::CHUNKS, log, line));
        let (mut pieces, mut total, mut next) = (Pieces::default(), 0, None);
        self.each_in(&start, &end, |key, value| {
            if key.len() == layout::CHUNK_KEY {
                if pieces.bytes > 0 {
                    return Err(corrupt(key, "the chunk before it is cut off"));
                }
                total = layout::chunk_extent(key, &value)?.0;
            }
            pieces.push(key, layout::CHUNK_KEY, value)?;
            if pieces.bytes < total {
                return Ok(ControlFlow::Continue(()));
            }
            let whole = pieces.whole().ok_or_else(|| corrupt(key, "a piece without its chunk"))?;
            let run = layout::parse_chunk(&key[..layout::CHUNK_KEY], &whole)?;
            if next.is_some_and(|next| next != run.first()) {
                return Err(corrupt(key, "does not continue the chunk before it"));
            }
            next = Some(run.last() + 1);
            Ok(if visit(run)? { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        if pieces.bytes > 0 {
            return Err(corrupt(&start, "the line's last chunk is cut off"));
        }
        Ok(())
    }
}

/// Pieces of a long value, in the order of their keys.
#[derive(Default)]
struct Pieces {
    first: Option<Bytes>,
    rest: BytesMut,
    count: u16,
    bytes: usize,
}

impl Pieces {
    fn push(&mut self, key: &[u8], key_len: usize, value: Bytes) -> Result<(), StoreError> {
        self.bytes += value.len();
        if key.len() == key_len {
            (self.first, self.count) = (Some(value), 0);
            return Ok(());
        }
        self.count = self.count.wrapping_add(1);
        let Some(first) = self.first.as_ref().filter(|_| key[key_len..] == self.count.to_be_bytes()) else {
            return Err(corrupt(key, "a piece is missing before it"));
        };
        if self.rest.is_empty() {
            self.rest.extend_from_slice(first);
        }
        self.rest.extend_from_slice(&value);
        Ok(())
    }

    fn whole(&mut self) -> Option<Bytes> {
        self.bytes = 0;
        let first = self.first.take();
        if self.rest.is_empty() { first } else { Some(self.rest.split().freeze()) }
    }
}

/// Collects chunks until enough is there.
struct Taken {
    from: u64,
    to: u64,
    max_bytes: usize,
    backward: bool,
    runs: Vec<Run>,
    bytes: usize,
}

impl Taken {
    /// Takes what is wanted of `run`; whether the next chunk is worth a look.
    fn push(&mut self, run: Run) -> Result<bool, StoreError> {
        let (from, to) = (run.first().max(self.from), run.last().min(self.to));
        if from > to {
            // Just before the range: look on. Behind it: done.
            return Ok(!self.backward && run.last() < self.from);
        }
        let whole = from == run.first() && to == run.last();
        let body = run.body().len();
        if self.runs.is_empty() {
            let Some(part) = run.part(from..=to, self.max_bytes, self.backward) else { return Ok(false) };
            let reached = if self.backward { part.first() == from } else { part.last() == to };
            self.bytes = part.body().len();
            let edge = if self.backward { from > self.from } else { to < self.to };
            self.runs.push(part);
            return Ok(reached && edge && self.bytes < JOIN_BELOW.min(self.max_bytes));
        }
        if body >= JOIN_BELOW || self.bytes + body > self.max_bytes {
            return Ok(false);
        }
        let part = if whole { Some(run) } else { run.slice(from, to) };
        let Some(part) = part else { return Ok(false) };
        self.bytes += part.body().len();
        self.runs.push(part);
        let edge = if self.backward { from > self.from } else { to < self.to };
        Ok(whole && edge && self.bytes < self.max_bytes)
    }
}

#[cfg(test)]
pub(in crate::infrastructure) mod tests;
