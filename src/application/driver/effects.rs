//! What the gossip engine wants done.
//!
//! Starts effects and never awaits one: reads and receipts become futures beside the loop, whose outcome is an input
//! of a later turn. Called by the driver at the end of a turn.

use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt as _;

use super::{Done, Loop};
use crate::application::log_cell::{Fresh, LogCell, Origin};
use crate::application::ports::{Durability, WriteBatch, WriteOp};
use crate::application::replica::{Merge, Replica};
use crate::application::store_work;
use crate::domain::event::{Event, Refusal};
use crate::domain::head::Head;
use crate::domain::id::LogKey;
use crate::domain::log::{Line, LineNo, LogName, LogNo};
use crate::domain::run::VerifiedRun;
use crate::protocol::gossip::{Count, DurableRun, Effect, Input, MergeOutcome, SessionId, Ticket};
use crate::protocol::swim::Input as SwimInput;

/// How late a head that was signed may become durable. One that a crash took is signed again, so it need not cost
/// a sync of its own beside that of the entries it covers.
const HEADS_WITHIN: Duration = Duration::from_secs(1);

impl Loop {
    /// Hands the engine an input; its effects run at the end of the turn.
    pub(super) fn feed(&mut self, input: Input) {
        let effects = self.gossip.handle(input, self.now);
        self.effects.extend(effects);
    }

    pub(super) fn run_effects(&mut self) {
        while let Some(effect) = self.effects.pop_front() {
            self.run_effect(effect);
        }
    }

    fn run_effect(&mut self, effect: Effect) {
        let store = Arc::clone(&self.replica.store);
        match effect {
            Effect::Send(session, lane, message) => self.send(session, lane, message),
            Effect::Merge { ticket, session, name, run } => self.merge(ticket, session, &name, run),
            Effect::Read { ticket, log, line, after, heads, max_bytes } => self.work.push(
                async move {
                    let found = store_work::provable_run(&*store, log, &line, after, &heads, max_bytes).await;
                    Done::Read(ticket, found)
                }
                .boxed(),
            ),
            Effect::FindEnds(ticket, log, line) => self.work.push(
                async move { Done::Ends(ticket, store_work::unsigned_ends(&*store, log, &line).await) }
                    .boxed(),
            ),
            Effect::StoreHeads { log, key, line, blocks } => self.store_heads(log, key, &line, blocks),
            Effect::Locators(ticket, log) => {
                let Some(log) = self.logs.get(log).cloned() else { return };
                self.work.push(
                    async move { Done::Locators(ticket, store_work::locators(&*store, &log).await) }.boxed(),
                );
            }
            Effect::Match(ticket, log, locators) => {
                let Some(log) = self.logs.get(log).cloned() else { return };
                let replica = Arc::clone(&self.replica);
                self.work.push(
                    async move {
                        Done::Matched(ticket, store_work::match_locators(&replica, &log, &locators).await)
                    }
                    .boxed(),
                );
            }
            Effect::Fault(cause, peer, fault) => self.replica.notices.fault_once(cause, Some(peer), || fault),
            Effect::Count(count) => self.count(count),
            Effect::Synced(channel, peer) => self.replica.notices.event(Event::Synced(channel, peer)),
            Effect::OwnLogsConfirmed => {
                if self.residence_until.take().is_some() {
                    self.replica.resident.set();
                }
            }
            Effect::Drop(session, reason) => self.drop_session(session, reason),
        }
    }

    fn count(&self, count: Count) {
        let counters = &self.replica.notices.counters;
        match count {
            Count::Duplicate => counters.runs_duplicate.add(1),
            Count::Gap => counters.runs_gap.add(1),
            Count::Refused => counters.runs_refused.add(1),
            Count::Paused => counters.runs_paused.add(1),
            Count::Compared => counters.comparisons.add(1),
            Count::Equal => counters.comparisons_equal.add(1),
            Count::RunSent(bytes) => counters.run_bytes_sent.add(bytes as u64),
            Count::RunPacked(bytes) => counters.run_bytes_saved.add(bytes as u64),
            Count::RunReceived(bytes) => counters.run_bytes_received.add(bytes as u64),
            Count::BadMessage => counters.messages_bad.add(1),
        }
    }

    fn merge(&mut self, ticket: Ticket, session: SessionId, name: &LogName, run: VerifiedRun) {
        let _span = tracing::trace_span!(
            target: "anabranch::merge", "merge", stream = %name.stream, author = %name.author.short(),
            first = run.run().first(), entries = run.run().len()
        )
        .entered();
        let channel = self.replica.channel(&name.channel);
        let held = channel.as_ref().and_then(|channel| channel.stream(&name.stream)?.log(&name.author));
        if held.is_none()
            && name.author != self.replica.node()
            && let Some(refused) = Replica::refuses_start(&run)
        {
            let outcome = match refused {
                Merge::Refused(reason) => MergeOutcome::Refused(reason),
                _ => MergeOutcome::Gap,
            };
            return self.feed(Input::Merged(ticket, outcome));
        }
        let opened = channel
            .as_ref()
            .and_then(|channel| self.replica.open_log(channel, &name.stream, &name.author).ok());
        let (Some(channel), Some((_, log, _))) = (channel, opened) else {
            return self.feed(Input::Merged(ticket, MergeOutcome::Refused(Refusal::UnknownStream)));
        };
        self.logs.know(&log);
        let (stamp, wall) = (run.run().last_stamp(), self.replica.timer.wall());
        if let Some(by) = stamp.ahead_of(wall, self.replica.config.drift) {
            self.feed(Input::ClockAhead(session, name.author, by));
        }
        let origin = Origin::Session(session.0);
        match self.replica.merge(&channel, &log, run.clone(), origin) {
            Merge::Within => {
                let replica = Arc::clone(&self.replica);
                self.work.push(
                    async move {
                        let merge = replica.merge_within(channel, Arc::clone(&log), run, origin).await;
                        Done::Within { log, ticket, merge }
                    }
                    .boxed(),
                );
            }
            merge => self.merge_outcome(log, ticket, merge),
        }
    }

    pub(super) fn merge_outcome(&mut self, log: Arc<LogCell>, ticket: Ticket, merge: Merge) {
        let outcome = match merge {
            Merge::Queued(receipt) => {
                if receipt.settled().is_none() {
                    self.work.push(
                        async move {
                            let result = receipt.durable().await;
                            Done::Merged { log, ticket, result }
                        }
                        .boxed(),
                    );
                    return;
                }
                self.look_at(&log);
                if receipt.is_visible() { MergeOutcome::Stored } else { MergeOutcome::Failed }
            }
            Merge::Duplicate => MergeOutcome::Duplicate,
            // A line that grew while it was looked at: the next comparison sorts it out.
            Merge::Gap | Merge::Within => MergeOutcome::Gap,
            Merge::Refused(reason) => MergeOutcome::Refused(reason),
            Merge::Failed(error) => {
                self.or_report::<()>(Err(error));
                MergeOutcome::Failed
            }
        };
        self.feed(Input::Merged(ticket, outcome));
    }

    /// Takes what became durable of a log, and sees to it that the rest is taken in time.
    pub(super) fn look_at(&mut self, log: &Arc<LogCell>) {
        let (settled, fresh, watch, is_removed) = {
            let mut state = log.lock();
            state.announced = false;
            let (settled, open) = state.settle_and_watch(&log.changed);
            self.replica.count(&state, settled.shown);
            let watch = open.filter(|_| !state.watched);
            state.watched |= watch.is_some();
            (settled, state.take_fresh(), watch, state.removed)
        };
        self.replica.take_note(log, settled);
        if let Some(receipt) = watch {
            if !self.links.is_empty() {
                self.replica.store.hasten();
            }
            let log = Arc::clone(log);
            self.work.push(
                async move {
                    // Whatever it came to, the log's own queue knows.
                    let _ = receipt.durable().await;
                    Done::Receipt(log)
                }
                .boxed(),
            );
        }
        if !fresh.is_empty() && !is_removed {
            self.logs.know(log);
        }
        for fresh in fresh {
            self.publish(log, fresh, is_removed);
        }
    }

    fn publish(&mut self, log: &Arc<LogCell>, fresh: Fresh, is_removed: bool) {
        let (channel, stream, author) = (log.name.channel, log.name.stream.clone(), log.name.author);
        let (count, tip) = (fresh.count(), fresh.line.tip);
        if self.swim.is_calm() {
            self.swim(SwimInput::Busy);
        }
        let counters = &self.replica.notices.counters;
        let from = match fresh.origin {
            Origin::Own => {
                counters.entries_appended.add(count);
                self.replica.notices.event(Event::EntriesAppended { channel, stream, count, tip });
                None
            }
            Origin::Session(session) => {
                counters.entries_merged.add(count);
                self.replica.notices.event(Event::EntriesMerged { channel, stream, author, count, tip });
                Some(SessionId(session))
            }
        };
        if is_removed {
            // A channel of this id may have been made again: the engine must not take this log for one of that.
            return;
        }
        let line = fresh.line.no;
        if line > LineNo(0) && fresh.first == fresh.line.base().sequence + 1 {
            let (replica, log) = (Arc::clone(&self.replica), Arc::clone(log));
            self.work
                .push(async move { Done::Forked(store_work::fork_event(replica, log, line).await) }.boxed());
        }
        let Fresh { line, first, runs, ends, .. } = fresh;
        let durable = DurableRun { no: log.no, name: log.name.clone(), line, first, runs, ends, from };
        self.feed(Input::Durable(Box::new(durable)));
    }

    fn store_heads(&mut self, log: LogNo, key: LogKey, line: &Line, blocks: Vec<Head>) {
        let Some(cell) = self.logs.get(log) else { return };
        let mut ops: Vec<WriteOp> =
            blocks.into_iter().map(|head| WriteOp::PutBlockHead(log, line.no, head)).collect();
        let receipt = {
            // Submitted under the log's lock: the record must not overtake an append that it includes.
            let mut state = cell.lock();
            let Some(record) = state.set_head(line) else { return };
            ops.push(WriteOp::PutLine(log, record));
            let batch = WriteBatch { durability: Durability::Interval(HEADS_WITHIN), ..WriteBatch::new(ops) };
            self.replica.store.submit(batch)
        };
        self.work.push(async move { Done::HeadsStored(key, receipt.visible().await) }.boxed());
    }
}
