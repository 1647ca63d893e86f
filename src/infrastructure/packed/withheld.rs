//! What a full device kept from being written, so that nothing is written on top of the gap.
//!
//! Writers submit ahead: when a batch fails because the device is full, others are under way that build on it.
//! A smaller one might fit and would leave a hole in a line (I2). [`Withheld`] remembers what is missing and
//! says which batches depend on it; the writer tries again from the missing piece on.

use std::collections::{BTreeMap, BTreeSet};

use crate::application::ports::{WriteBatch, WriteOp};
use crate::domain::id::ChannelId;
use crate::domain::log::{LineNo, LogNo};

/// Lines whose last write did not fit, and logs and channels whose first one did not.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    /// First sequence missing per line.
    lines: BTreeMap<(LogNo, LineNo), u64>,
    logs: BTreeSet<LogNo>,
    channels: BTreeSet<ChannelId>,
}

impl Withheld {
    /// Whether `batch` builds on something that was not written and that it does not itself write.
    pub(super) fn blocks(&self, batch: &WriteBatch) -> bool {
        if self.lines.is_empty() && self.logs.is_empty() && self.channels.is_empty() {
            return false;
        }
        let (mut logs, mut channels, mut lines) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut blocked = false;
        for op in &batch.ops {
            // Needs everything of its line up to just before this sequence.
            let needs = match op {
                WriteOp::Append { log, line, run } => {
                    // A line that starts here builds on nothing of its number: what did not fit was another, which never was.
                    let starts = line.base().sequence + 1 == run.first();
                    if starts || self.lines.get(&(*log, line.no)) == Some(&run.first()) {
                        lines.insert((*log, line.no));
                    }
                    Some((*log, line.no, run.first()))
                }
                WriteOp::PutLine(log, line) => Some((*log, line.no, line.tip.sequence + 1)),
                WriteOp::PutBlockHead(log, line, head) => Some((*log, *line, head.tip.sequence + 1)),
                WriteOp::PutLog(log, name) => {
                    logs.insert(*log);
                    blocked |= self.channels.contains(&name.channel) && !channels.contains(&name.channel);
                    None
                }
                WriteOp::RaiseFloor(log, _) => {
                    blocked |= self.logs.contains(log) && !logs.contains(log);
                    None
                }
                WriteOp::PutChannel(channel) => {
                    channels.insert(channel.id);
                    None
                }
                _ => None,
            };
            if let Some((log, line, before)) = needs {
                let gap = self.lines.get(&(log, line)).is_some_and(|missing| *missing < before);
                blocked |= gap && !lines.contains(&(log, line));
                blocked |= self.logs.contains(&log) && !logs.contains(&log);
            }
        }
        blocked
    }

    /// Remembers what `batch` would have written. Of channels that the store holds, only a change did not fit: nothing builds on
    /// that.
    pub(super) fn failed(&mut self, batch: &WriteBatch, holds: impl Fn(&ChannelId) -> bool) {
        for op in &batch.ops {
            match op {
                WriteOp::Append { log, line, run } => {
                    let missing = self.lines.entry((*log, line.no)).or_insert(u64::MAX);
                    *missing = run.first().min(*missing);
                }
                WriteOp::PutLog(log, _) => {
                    self.logs.insert(*log);
                }
                WriteOp::PutChannel(channel) if !holds(&channel.id) => {
                    self.channels.insert(channel.id);
                }
                _ => {}
            }
        }
    }

    /// Forgets what `batch` wrote after all.
    pub(super) fn written(&mut self, batch: &WriteBatch) {
        if self.lines.is_empty() && self.logs.is_empty() && self.channels.is_empty() {
            return;
        }
        for op in &batch.ops {
            match op {
                WriteOp::Append { log, line, .. } => {
                    self.lines.remove(&(*log, line.no));
                }
                WriteOp::PutLog(log, _) => {
                    self.logs.remove(log);
                }
                WriteOp::PutChannel(channel) => {
                    self.channels.remove(&channel.id);
                }
                WriteOp::Wipe => *self = Self::default(),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::block::BlockPhase;
    use crate::domain::channel::{Admission, ChannelRecord};
    use crate::domain::log::Line;
    use crate::domain::time::Timestamp;
    use crate::domain::version::Tip;
    use crate::infrastructure::packed::store::tests::{append, line_after, name, run_after};

    #[test]
    fn i2_a_batch_that_builds_on_one_that_did_not_fit_is_withheld_until_that_one_is_written() {
        let mut withheld = Withheld::default();
        let first = run_after(None, 5, 10);
        let second = run_after(Some(&first), 1, 10);
        let (a, b) = (append(7, &line_after(None, &first), &first), {
            let line = line_after(Some(&line_after(None, &first)), &second);
            append(7, &line, &second)
        });
        let (a, b) = (WriteBatch::new([a]), WriteBatch::new([b]));
        withheld.failed(&a, |_| true);
        assert!(withheld.blocks(&b) && !withheld.blocks(&a));
        let both = WriteBatch::new(a.ops.iter().chain(&b.ops).cloned());
        assert!(!withheld.blocks(&both));
        withheld.written(&a);
        assert!(!withheld.blocks(&b));
    }

    #[test]
    fn i7_a_change_of_a_channel_that_did_not_fit_withholds_nothing_and_a_new_channel_does() {
        let log = WriteBatch::new([WriteOp::PutLog(LogNo(7), name("c", "s"))]);
        let record = ChannelRecord {
            id: name("c", "s").channel,
            label: String::new(),
            admission: Admission::Open,
            seen: Timestamp::ZERO,
        };
        let put = WriteBatch::new([WriteOp::PutChannel(record)]);
        let mut withheld = Withheld::default();
        withheld.failed(&put, |_| true);
        assert!(!withheld.blocks(&log));
        withheld.failed(&put, |_| false);
        assert!(withheld.blocks(&log));
    }

    #[test]
    fn i7_a_line_that_starts_elsewhere_does_not_wait_for_one_of_its_number_that_did_not_fit() {
        let trunk = run_after(None, 5, 10);
        let fork = |at: u64| {
            let run = run_after(trunk.slice(1, at).as_ref(), 1, 10);
            let base = Tip { sequence: at, hash: run.previous() };
            let line = Line::empty(LineNo(1), base, Timestamp::ZERO, BlockPhase::START);
            WriteBatch::new([append(7, &line.extended(&run).unwrap().0, &run)])
        };
        let mut withheld = Withheld::default();
        withheld.failed(&fork(2), |_| true);
        assert!(!withheld.blocks(&fork(4)), "nobody may ever offer the other one again");
    }

    #[test]
    fn a_floor_of_a_log_that_did_not_fit_is_withheld_with_it() {
        let (put, floor) = (WriteOp::PutLog(LogNo(7), name("c", "s")), WriteOp::RaiseFloor(LogNo(7), 3));
        let mut withheld = Withheld::default();
        withheld.failed(&WriteBatch::new([put.clone()]), |_| true);
        assert!(withheld.blocks(&WriteBatch::new([floor.clone()])));
        assert!(!withheld.blocks(&WriteBatch::new([put, floor])));
    }
}
