//! The rules of `WriteOp`, checked before anything is changed, so that a batch is applied whole or not at all.
//!
//! Checks what a store must know to keep its own shape. Never looks into hashes, signatures or admission:
//! the library has checked those.

use std::collections::BTreeMap;

use super::line::LineStore;
use super::shelf::{Shelf, Slot};
use crate::application::ports::{StoreError, WriteOp};
use crate::domain::id::ChannelId;
use crate::domain::log::{Line, LineNo, LogName, LogNo};
use crate::domain::run::Run;
use crate::domain::time::Timestamp;
use crate::domain::version::Tip;

/// Where a line begins and ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    base: Tip,
    tip: Tip,
    stamp: Timestamp,
}

impl From<&LineStore> for Ends {
    fn from(line: &LineStore) -> Self {
        line.record().into()
    }
}

impl From<&Line> for Ends {
    fn from(line: &Line) -> Self {
        Self { base: line.base(), tip: line.tip, stamp: line.stamp }
    }
}

/// Whether `run` may be appended to the line that ends as `held`, or to none, giving `line`.
pub(super) fn check_append(held: Option<Ends>, line: &Line, run: &Run) -> Result<(), StoreError> {
    let before = Tip { sequence: run.first() - 1, hash: run.previous() };
    let held = held.unwrap_or(Ends { base: line.base(), tip: line.base(), stamp: Timestamp::ZERO });
    let is_first = held.tip == held.base;
    require(held.tip == before, "Append: the run does not start where the line ends")?;
    require(is_first || held.stamp < run.first_stamp(), "Append: the stamps do not increase")?;
    require(held.base == line.base(), "Append: the base of a line does not move with its tip")?;
    let ends = line.tip == run.tip() && line.stamp == run.last_stamp();
    require(ends, "Append: the line's record does not end with the run")
}

/// Whether all of `ops` may be applied to `shelf`, one after the other.
pub(super) fn check(shelf: &Shelf, ops: &[WriteOp]) -> Result<(), StoreError> {
    let mut plan = Plan {
        shelf,
        wiped: false,
        channels: BTreeMap::new(),
        logs: BTreeMap::new(),
        lines: BTreeMap::new(),
    };
    ops.iter().try_for_each(|op| plan.step(op))
}

/// The shelf as it would be after the changes so far: only what the rules ask about.
struct Plan<'a> {
    shelf: &'a Shelf,
    wiped: bool,
    channels: BTreeMap<ChannelId, bool>,
    /// The channel of a new log; `None` for one that was removed.
    logs: BTreeMap<LogNo, Option<ChannelId>>,
    lines: BTreeMap<(LogNo, LineNo), Ends>,
}

impl Plan<'_> {
    fn step(&mut self, op: &WriteOp) -> Result<(), StoreError> {
        match op {
            WriteOp::PutChannel(record) => {
                self.channels.insert(record.id, true);
            }
            WriteOp::RemoveChannel(id) => self.remove_channel(*id),
            WriteOp::SetSeen(id, _) => require(self.has_channel(id), "SetSeen: no such channel")?,
            WriteOp::PutLog(no, name) => self.put_log(*no, name)?,
            WriteOp::RaiseFloor(log, _) => require(self.has_log(*log), "RaiseFloor: no such log")?,
            WriteOp::Append { log, line, run } => {
                require(self.has_log(*log), "Append: no such log")?;
                check_append(self.ends(*log, line.no), line, run)?;
                self.lines.insert((*log, line.no), line.into());
            }
            WriteOp::PutLine(log, line) => {
                require(self.has_log(*log), "PutLine: no such log")?;
                let same = self.ends(*log, line.no).is_some_and(|held| {
                    (held.base, held.tip, held.stamp) == (line.base(), line.tip, line.stamp)
                });
                require(same, "PutLine: no such line, or its base, tip or stamp would change")?;
            }
            WriteOp::PutBlockHead(log, line, _) => {
                let known = self.has_log(*log) && self.ends(*log, *line).is_some();
                require(known, "PutBlockHead: no such line")?;
            }
            WriteOp::Wipe => {
                *self = Plan {
                    wiped: true,
                    channels: BTreeMap::new(),
                    logs: BTreeMap::new(),
                    lines: BTreeMap::new(),
                    ..*self
                };
            }
            WriteOp::PutPeer(_)
            | WriteOp::RemovePeer(_)
            | WriteOp::PutNode(_)
            | WriteOp::PutSnapshot(..)
            | WriteOp::RemoveSnapshot(_) => {}
        }
        Ok(())
    }

    fn has_channel(&self, id: &ChannelId) -> bool {
        let planned = self.channels.get(id).copied();
        planned.unwrap_or_else(|| !self.wiped && self.shelf.channels.contains_key(id))
    }

    fn has_log(&self, no: LogNo) -> bool {
        match self.logs.get(&no) {
            Some(channel) => channel.is_some(),
            None => !self.wiped && self.shelf.log(no).is_some(),
        }
    }

    fn ends(&self, log: LogNo, line: LineNo) -> Option<Ends> {
        if let Some(planned) = self.lines.get(&(log, line)) {
            return Some(*planned);
        }
        // A log that this batch made has no lines but those planned.
        if self.wiped || self.logs.contains_key(&log) {
            return None;
        }
        let lines = self.shelf.log(log)?.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lines.get(line).map(Ends::from)
    }

    fn put_log(&mut self, no: LogNo, name: &LogName) -> Result<(), StoreError> {
        let used = !self.wiped && !matches!(self.shelf.slot(no), Slot::NeverUsed);
        require(!used && !self.logs.contains_key(&no), "PutLog: the number was used before")?;
        require(self.has_channel(&name.channel), "PutLog: no such channel")?;
        self.logs.insert(no, Some(name.channel));
        Ok(())
    }

    fn remove_channel(&mut self, id: ChannelId) {
        self.channels.insert(id, false);
        let planned = self.logs.values_mut().filter(|channel| **channel == Some(id));
        planned.for_each(|channel| *channel = None);
        if !self.wiped {
            self.logs.extend(self.shelf.logs_of(id).into_iter().map(|no| (no, None)));
        }
    }
}

fn require(holds: bool, rule: &'static str) -> Result<(), StoreError> {
    if holds { Ok(()) } else { Err(misuse(rule)) }
}

/// The error for a broken rule.
#[cold]
pub(super) fn misuse(rule: &'static str) -> StoreError {
    StoreError::Misuse(rule.into())
}
