//! One log as all tasks of the node share it: where it ends, what waits for the store, what is fresh.
//!
//! Appenders and the merge use case are the only writers; both go through [`LogCell::lock`], which is never
//! held across an await. Readers take a copy of the visible lines. The driver takes what became durable.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use smallvec::SmallVec;
use tokio::sync::Notify;

use super::ports::{Receipt, StoreError};
use crate::domain::log::{Line, LineNo, Log, LogName, LogNo};
use crate::domain::run::Run;
use crate::domain::version::Tip;

/// Bytes of fresh entries that are handed to the driver along with the news, so that a live push need not
/// read them back: one frame of a stream transport.
const FRESH_BYTES: usize = 64 * 1024;

/// The line on which the own node appends: the first, and so the one of its last append.
pub(crate) const OWN_LINE: LineNo = LineNo(0);

/// Says "look again" to the readers of a stream.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    version: AtomicU64,
    notify: Notify,
}

impl Changed {
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn bump(&self) {
        self.raise();
        self.wake();
    }

    /// Whoever compares versions looks again. Part of the change itself, under the same lock: what one thread sees of a
    /// log, another must not find to be as old as before.
    fn raise(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Wakes those who wait for the version to be raised.
    pub(crate) fn wake(&self) {
        if !mutant!(WakeLost) {
            self.notify.notify_waiters();
        }
    }

    /// Returns once the version differs from `known`. Cancel-safe.
    pub(crate) async fn past(&self, known: u64) {
        loop {
            let notified = self.notify.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.version() != known {
                return;
            }
            notified.await;
        }
    }
}

/// A log and the changes on their way into the store.
#[derive(Debug)]
pub(crate) struct LogCell {
    pub(crate) no: LogNo,
    pub(crate) name: LogName,
    pub(crate) changed: Arc<Changed>,
    state: Mutex<LogState>,
}

/// What [`LogCell`] guards.
#[derive(Debug, Default)]
pub(crate) struct LogState {
    /// What readers see.
    visible: Log,
    /// Of logs that change; most do not.
    moving: Option<Box<Moving>>,
    /// The store knows the log's name and number.
    pub(crate) registered: bool,
    /// That is on stable storage: a failed write does not take it back.
    pub(crate) stored: bool,
    /// The driver was told and has not looked yet.
    pub(crate) announced: bool,
    /// The driver waits for the newest pending receipt.
    pub(crate) watched: bool,
    /// Its channel was removed: nothing more is written, and nothing that is still on its way counts.
    pub(crate) removed: bool,
}

/// What is on its way through a log.
#[derive(Debug, Default)]
struct Moving {
    /// Submitted and not yet durable, oldest first; each with what its line was before, if there was one.
    pending: VecDeque<(Pending, Option<Line>)>,
    /// How many of those, from the oldest on, readers see already.
    shown: usize,
    /// Bytes of all of those.
    bytes: usize,
    /// Durable and not yet taken by the driver.
    fresh: SmallVec<[Fresh; 1]>,
    /// The log's name, submitted by itself, as long as nobody saw what became of it.
    naming: Option<Receipt>,
    /// The store failed under this log: nothing can be appended until it is reopened.
    poisoned: Option<StoreError>,
}

impl Moving {
    fn is_over(&self) -> bool {
        let Self { pending, fresh, naming, poisoned, shown: _, bytes: _ } = self;
        pending.is_empty() && fresh.is_empty() && naming.is_none() && poisoned.is_none()
    }

    /// Drops the oldest change that readers do not see, which a full disk refused. What was built on it was refused with
    /// it; other lines were not.
    fn forget_refused(&mut self) {
        let behind = self.pending.split_off(self.shown);
        let refused = behind.front().map(|(pending, _)| pending.line.no);
        self.pending.extend(behind.into_iter().filter(|(other, _)| Some(other.line.no) != refused));
        self.bytes = self.pending.iter().map(|(pending, _)| pending.run.size()).sum();
    }
}

/// A submitted change of one line.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) line: Line,
    pub(crate) run: Run,
    /// Block ends that the run passed, for the author to sign; empty on merged runs.
    pub(crate) ends: Vec<Tip>,
    pub(crate) origin: Origin,
    pub(crate) receipt: Receipt,
}

/// Where entries came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Appended here.
    Own,
    /// Merged from a peer's session.
    Session(u64),
}

/// What became durable of one line since the driver last looked.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) line: Line,
    pub(crate) origin: Origin,
    /// Sequence of the first fresh entry.
    pub(crate) first: u64,
    /// The entries, if they are few enough to be pushed without reading them back.
    pub(crate) runs: Vec<Run>,
    pub(crate) ends: Vec<Tip>,
    bytes: usize,
}

impl Fresh {
    /// Entries that became durable.
    pub(crate) fn count(&self) -> u64 {
        self.line.tip.sequence + 1 - self.first
    }
}

/// What [`LogState::settle`] found.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Entries that became visible.
    pub(crate) shown: u64,
    /// The store failed.
    pub(crate) failed: Option<StoreError>,
}

impl LogCell {
    pub(crate) fn new(no: LogNo, name: LogName, lines: Log, registered: bool, changed: Arc<Changed>) -> Self {
        let state = LogState { visible: lines, registered, stored: registered, ..LogState::default() };
        Self { no, name, changed, state: Mutex::new(state) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().expect("no code that can panic runs under the log's lock")
    }

    /// The lines that readers see.
    pub(crate) fn visible(&self) -> Log {
        self.lock().visible.clone()
    }
}

impl LogState {
    fn pending(&self) -> impl DoubleEndedIterator<Item = &Pending> {
        self.moving.iter().flat_map(|moving| &moving.pending).map(|(pending, _)| pending)
    }

    /// The log as it is on stable storage.
    pub(crate) fn durable(&self) -> Log {
        let pending = || self.moving.iter().flat_map(|moving| &moving.pending);
        let durable = |line: &Line| match pending().find(|(pending, _)| pending.line.no == line.no) {
            Some((_, before)) => before.clone(),
            None => Some(line.clone()),
        };
        Log::new(self.visible.floor(), self.visible.lines().iter().filter_map(durable))
    }

    /// The store failed under this log: nothing can be appended until it is reopened.
    pub(crate) fn poisoned(&self) -> Option<&StoreError> {
        self.moving.as_ref()?.poisoned.as_ref()
    }

    /// The line as it will be when everything submitted is written.
    pub(crate) fn submitted_line(&self, no: LineNo) -> Option<&Line> {
        let pending = self.pending().rev().map(|pending| &pending.line);
        pending.into_iter().find(|line| line.no == no).or_else(|| self.visible.line(no))
    }

    /// The log as it will be when everything submitted is written.
    pub(crate) fn submitted(&self) -> Log {
        let mut log = self.visible.clone();
        for pending in self.pending() {
            log.put(pending.line.clone());
        }
        log
    }

    /// Readers see everything that was submitted. Only this tells whether they do: the store settles receipts while nobody
    /// looks, and what it settled is shown when somebody looks.
    pub(crate) fn is_shown(&self) -> bool {
        self.pending().next().is_none()
    }

    /// Bytes that wait for the store.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.moving.as_ref().map_or(0, |moving| moving.bytes)
    }

    /// Entries that readers see.
    pub(crate) fn visible_entries(&self) -> u64 {
        self.visible.len()
    }

    /// The receipt of the oldest pending change.
    pub(crate) fn oldest(&self) -> Option<Receipt> {
        self.pending().next().map(|pending| pending.receipt.clone())
    }

    /// The receipt of the newest pending change.
    pub(crate) fn newest(&self) -> Option<Receipt> {
        self.pending().next_back().map(|pending| pending.receipt.clone())
    }

    /// Settles, and names the newest receipt that the store has yet to settle: `None` means that nothing is pending.
    ///
    /// Never one that is settled: behind one that a full disk refused, earlier ones may wait for their sync, and whoever
    /// watched it would be woken at once, again and again. The store settles receipts while this looks at them; what it
    /// does between two looks is looked at again.
    pub(crate) fn settle_and_watch(&mut self, changed: &Changed) -> (Settled, Option<Receipt>) {
        let mut all = Settled::default();
        loop {
            let settled = self.settle(changed);
            all.shown += settled.shown;
            all.failed = all.failed.or(settled.failed);
            let mut open = self.pending().rev().map(|pending| &pending.receipt);
            let newest = open.find(|receipt| receipt.settled().is_none()).cloned();
            if newest.is_some() || self.newest().is_none() {
                return (all, newest);
            }
        }
    }

    /// Takes a submitted change. What the store wrote at once passes without waiting in line; the number of
    /// entries that readers see at once.
    pub(crate) fn push(&mut self, pending: Pending, changed: &Changed) -> u64 {
        if self.is_shown() && matches!(pending.receipt.settled(), Some(Ok(()))) {
            let shown = self.show(&pending.line, changed);
            self.keep_fresh(pending);
            return shown;
        }
        let before = self.submitted_line(pending.line.no).cloned();
        let moving = self.moving.get_or_insert_default();
        moving.bytes += pending.run.size();
        moving.pending.push_back((pending, before));
        0
    }

    /// What became durable since the last call.
    pub(crate) fn take_fresh(&mut self) -> SmallVec<[Fresh; 1]> {
        let Some(moving) = &mut self.moving else { return SmallVec::new() };
        let fresh = std::mem::take(&mut moving.fresh);
        self.moving.take_if(|moving| moving.is_over());
        fresh
    }

    /// The store was told of the log's name alone.
    pub(crate) fn name(&mut self, naming: Receipt) {
        self.registered = true;
        self.moving.get_or_insert_default().naming = Some(naming);
    }

    /// Looks what became of the log's name. Nobody may have waited for it.
    pub(crate) fn settle_name(&mut self) {
        let Some(moving) = &mut self.moving else { return };
        let Some(named) = moving.naming.as_ref().and_then(Receipt::settled) else { return };
        moving.naming = None;
        self.moving.take_if(|moving| moving.is_over());
        self.stored |= named.is_ok();
        // What did not get in comes with the next append, once those are settled that built on it or brought it.
        self.registered = self.stored || !self.is_shown();
    }

    /// Takes over the head of `signed`, a line as the author signed it. Returns the line as submitted: written after
    /// everything pending, it is the line's record. `None` if the log has no such line, or was removed: then its marks are
    /// taken, and the head must not leave.
    pub(crate) fn set_head(&mut self, signed: &Line) -> Option<Line> {
        let head = signed.head().filter(|_| !self.removed)?;
        let set = |line: &mut Line| {
            // Nearly always nothing came since: then all share one line.
            if line.differs_in_head_only(signed) {
                line.clone_from(signed);
            } else {
                line.set_head(head);
            }
        };
        let mut line = self.visible.line(signed.no)?.clone();
        set(&mut line);
        self.visible.put(line);
        for (pending, _) in self.moving.iter_mut().flat_map(|moving| &mut moving.pending) {
            if pending.line.no == signed.no {
                set(&mut pending.line);
            }
        }
        self.submitted_line(signed.no).cloned()
    }

    /// Looks what became of the oldest pending changes; raises `changed`, that of the log, with what readers see.
    pub(crate) fn settle(&mut self, changed: &Changed) -> Settled {
        self.settle_name();
        let mut settled = Settled::default();
        let settled_of = |pending: &Pending| match pending.receipt.settled() {
            None if mutant!(PublishedBeforeDurable) && pending.receipt.is_visible() => Some(Ok(())),
            settled => settled,
        };
        let mut look = true;
        while std::mem::take(&mut look) {
            while let Some(moving) = self.moving.as_deref_mut()
                && let Some((front, _)) = moving.pending.front()
            {
                match settled_of(front) {
                    Some(Ok(())) => {
                        let (pending, _) = moving.pending.pop_front().expect("a front was just seen");
                        moving.bytes -= pending.run.size();
                        moving.shown = moving.shown.saturating_sub(1);
                        settled.shown += self.show(&pending.line, changed);
                        self.keep_fresh(pending);
                    }
                    // What readers saw was written: a device that was full only then left it nobody knows how.
                    Some(Err(error))
                        if mutant!(LinesFailTogether)
                            || moving.shown > 0
                            || !matches!(error, StoreError::Full) =>
                    {
                        (moving.bytes, moving.shown) = (0, 0);
                        moving.pending.clear();
                        moving.poisoned = (!mutant!(LinesFailTogether)).then(|| error.clone());
                        self.registered = self.stored;
                        settled.failed = Some(error);
                    }
                    _ => break,
                }
            }
            while let Some(moving) = self.moving.as_deref_mut()
                && let Some((next, _)) = moving.pending.get(moving.shown)
            {
                if next.receipt.is_visible() {
                    let line = next.line.clone();
                    moving.shown += 1;
                    settled.shown += self.show(&line, changed);
                } else if matches!(next.receipt.settled(), Some(Err(StoreError::Full))) {
                    moving.forget_refused();
                    // What was submitted before it brought the log's name along.
                    self.registered = self.stored || moving.shown > 0 || moving.naming.is_some();
                    settled.failed = Some(StoreError::Full);
                    // What waited behind it may be durable already.
                    look = true;
                } else {
                    break;
                }
            }
        }
        settled
    }

    /// Makes `line` visible; the number of entries that readers did not see before.
    fn show(&mut self, line: &Line, changed: &Changed) -> u64 {
        let before = self.visible.line(line.no).map_or(line.base().sequence, |held| held.tip.sequence);
        if line.tip.sequence <= before {
            return 0;
        }
        self.visible.put(line.clone());
        changed.raise();
        line.tip.sequence - before
    }

    fn keep_fresh(&mut self, pending: Pending) {
        (self.registered, self.stored) = (true, true);
        let Pending { line, run, ends, origin, receipt: _ } = pending;
        let (first, size) = (run.first(), run.size());
        let all_fresh = &mut self.moving.get_or_insert_default().fresh;
        // Only with the latest of its line: what came by turns from two sessions is told in the order of the line.
        let latest = all_fresh.iter_mut().rfind(|fresh| fresh.line.no == line.no);
        match latest.filter(|fresh| fresh.origin == origin) {
            Some(fresh) => {
                fresh.line = line;
                fresh.ends.extend(ends);
                fresh.bytes += size;
                if fresh.bytes <= FRESH_BYTES {
                    fresh.runs.push(run);
                } else {
                    fresh.runs.clear();
                }
            }
            None => {
                let runs = if size <= FRESH_BYTES { vec![run] } else { Vec::new() };
                all_fresh.push(Fresh { line, origin, first, runs, ends, bytes: size });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::block::BlockPhase;
    use crate::domain::id::{ChannelId, LogKey, NodeId, StreamId};
    use crate::domain::run::RunBuilder;
    use crate::domain::time::Timestamp;
    use crate::infrastructure::prng::Prng;

    fn pending(line: &mut Line, receipt: Receipt) -> Pending {
        let mut builder = RunBuilder::new(LogKey::from_bytes([1; 32]), line.tip, 1, 1);
        builder.push(Timestamp::new(0, line.tip.sequence + 1), b"x");
        let run = builder.finish().unwrap();
        *line = line.extended(&run).unwrap().0;
        Pending { line: line.clone(), run, ends: Vec::new(), origin: Origin::Own, receipt }
    }

    #[test]
    fn i2_a_line_that_fitted_is_kept_when_the_full_disk_refused_another() {
        let mut line = Line::empty(OWN_LINE, Tip::START, Timestamp::ZERO, BlockPhase::START);
        let (mut state, changed) = (LogState::default(), Changed::default());
        let (first, refused) = Receipt::pending();
        let (second, fitted) = Receipt::pending();
        let mut fork = Line::empty(LineNo(1), Tip::START, Timestamp::ZERO, BlockPhase::START);
        state.push(pending(&mut line, first), &changed);
        state.push(pending(&mut fork, second), &changed);
        refused.done(Err(StoreError::Full));
        assert!(state.settle(&changed).failed.is_some());
        assert_eq!(state.submitted_line(LineNo(1)).map(|line| line.tip), Some(fork.tip));
        fitted.done(Ok(()));
        assert_eq!(state.settle(&changed).shown, 1);
        assert!(state.submitted_line(OWN_LINE).is_none());
    }

    #[test]
    fn i7_what_two_sessions_brought_by_turns_is_told_in_the_order_of_the_line() {
        let mut line = Line::empty(OWN_LINE, Tip::START, Timestamp::ZERO, BlockPhase::START);
        let (mut state, changed) = (LogState::default(), Changed::default());
        for session in [1, 2, 1, 1] {
            let receipt = Receipt::ready(Ok(()));
            state.push(Pending { origin: Origin::Session(session), ..pending(&mut line, receipt) }, &changed);
        }
        let fresh = state.take_fresh();
        let told = fresh.iter().map(|fresh| (fresh.origin, fresh.first, fresh.line.tip.sequence));
        let sessions = [1, 2, 1].map(Origin::Session);
        assert!(told.eq([(sessions[0], 1, 1), (sessions[1], 2, 2), (sessions[2], 3, 4)]), "{fresh:?}");
    }

    #[test]
    fn the_version_is_raised_while_what_it_stands_for_is_still_locked() {
        let mut line = Line::empty(OWN_LINE, Tip::START, Timestamp::ZERO, BlockPhase::START);
        let channel = ChannelId::well_known("notes").unwrap();
        let name = LogName::new(channel, StreamId::new("today").unwrap(), NodeId::from_bytes([1; 32]));
        let log = LogCell::new(LogNo(0), name, Log::default(), true, Arc::default());
        let mut state = log.lock();
        state.push(pending(&mut line, Receipt::ready(Ok(()))), &log.changed);
        assert_eq!(log.changed.version(), 1);
        let (receipt, completer) = Receipt::pending();
        state.push(pending(&mut line, receipt), &log.changed);
        assert_eq!((state.settle(&log.changed).shown, log.changed.version()), (0, 1));
        completer.done(Ok(()));
        assert_eq!((state.settle(&log.changed).shown, log.changed.version()), (1, 2));
    }

    #[test]
    fn who_waits_for_a_log_is_not_woken_by_a_refusal_that_overtook_a_sync() {
        let mut line = Line::empty(OWN_LINE, Tip::START, Timestamp::ZERO, BlockPhase::START);
        let (mut state, changed) = (LogState::default(), Changed::default());
        let (first, written) = Receipt::pending();
        let (second, refused) = Receipt::pending();
        state.push(pending(&mut line, first), &changed);
        state.push(pending(&mut line, second), &changed);
        refused.done(Err(StoreError::Full));
        let (settled, watched) = state.settle_and_watch(&changed);
        assert!(settled.failed.is_none() && watched.is_some_and(|receipt| receipt.settled().is_none()));
        written.done(Ok(()));
        let (settled, watched) = state.settle_and_watch(&changed);
        assert_eq!((settled.shown, settled.failed.is_some(), watched.is_some()), (1, true, false));
    }

    #[test]
    fn what_a_full_disk_refused_does_not_hide_what_fitted_though_earlier_changes_still_wait_for_their_sync() {
        let mut line = Line::empty(OWN_LINE, Tip::START, Timestamp::ZERO, BlockPhase::START);
        let (mut state, changed) = (LogState::default(), Changed::default());
        let [(first, written), (second, refused), (third, built_on_it), (fourth, fitted)] =
            std::array::from_fn(|_| Receipt::pending());
        state.push(pending(&mut line, first), &changed);
        let mut doomed = line.clone();
        state.push(pending(&mut doomed, second), &changed);
        state.push(pending(&mut doomed, third), &changed);
        let mut fork = Line::empty(LineNo(1), Tip::START, Timestamp::ZERO, BlockPhase::START);
        state.push(pending(&mut fork, fourth), &changed);
        written.visible();
        refused.done(Err(StoreError::Full));
        built_on_it.done(Err(StoreError::Full));
        fitted.visible();
        assert_eq!(state.settle(&changed).shown, 2);
        assert_eq!(state.submitted_line(OWN_LINE).map(|line| line.tip), Some(line.tip));
        assert_eq!(state.visible.line(LineNo(1)).map(|line| line.tip), Some(fork.tip));
        assert!(state.durable().is_empty());
        written.done(Ok(()));
        assert_eq!((state.settle(&changed).shown, state.durable().len()), (0, 1));
        fitted.done(Ok(()));
        state.settle(&changed);
        assert!(state.is_shown() && state.pending_bytes() == 0 && state.durable() == state.visible);
    }

    #[test]
    fn a_store_that_was_full_after_readers_saw_the_change_failed_and_nobody_looks_for_ever() {
        let mut line = Line::empty(OWN_LINE, Tip::START, Timestamp::ZERO, BlockPhase::START);
        let (mut state, changed) = (LogState::default(), Changed::default());
        let (receipt, completer) = Receipt::pending();
        state.push(pending(&mut line, receipt), &changed);
        completer.visible();
        assert_eq!(state.settle(&changed).shown, 1);
        completer.done(Err(StoreError::Full));
        let (settled, watched) = state.settle_and_watch(&changed);
        assert!(settled.failed.is_some() && watched.is_none() && state.poisoned().is_some());
    }

    /// What a store made of a change.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Fate {
        Queued,
        Visible,
        Durable,
        Refused,
    }

    /// A change that was submitted.
    #[derive(Debug)]
    struct Submitted {
        line: Line,
        size: usize,
        /// The change that it builds on, if there was one.
        on: Option<usize>,
        fate: Fate,
    }

    /// Nothing will ever come of a change that builds on a refused one.
    fn is_doomed(all: &[Submitted], at: usize) -> bool {
        all[at].on.is_some_and(|on| all[on].fate == Fate::Refused || is_doomed(all, on))
    }

    /// Against a model that keeps every change ever submitted, and what a store made of them, in order.
    #[test]
    fn what_readers_and_peers_see_of_a_log_is_what_the_store_made_of_it_whatever_came_when() {
        let mut dice = Prng::new(7);
        for _ in 0..3000 {
            let (mut state, changed) = (LogState::default(), Changed::default());
            let (mut all, mut shown) = (Vec::<Submitted>::new(), 0);
            let mut completers = BTreeMap::new();
            for _ in 0..40 {
                match dice.below(7) {
                    0..=2 => {
                        let no = LineNo(dice.below(3) as u16);
                        let own = state.visible.line(OWN_LINE).filter(|_| no != OWN_LINE);
                        let base = own.map_or(Tip::START, |line| line.tip);
                        let empty = Line::empty(no, base, Timestamp::ZERO, BlockPhase::START);
                        let known = state.submitted_line(no).cloned();
                        let is_on = |of: &Submitted| {
                            known.as_ref().is_some_and(|on| (on.no, on.tip) == (of.line.no, of.line.tip))
                        };
                        let on = all.iter().rposition(is_on);
                        let mut line = known.unwrap_or(empty);
                        let (receipt, completer) = Receipt::pending();
                        let pending = pending(&mut line, receipt);
                        completers.insert(all.len(), completer);
                        all.push(Submitted { line, size: pending.run.size(), on, fate: Fate::Queued });
                        shown += state.push(pending, &changed);
                    }
                    step @ (3 | 4) => {
                        let Some(at) = all.iter().position(|of| of.fate == Fate::Queued) else { continue };
                        if step == 3 && !is_doomed(&all, at) {
                            completers[&at].visible();
                            all[at].fate = Fate::Visible;
                        } else {
                            completers.remove(&at).unwrap().done(Err(StoreError::Full));
                            all[at].fate = Fate::Refused;
                        }
                    }
                    5 => {
                        let Some(at) = all.iter().position(|of| of.fate == Fate::Visible) else { continue };
                        completers.remove(&at).unwrap().done(Ok(()));
                        all[at].fate = Fate::Durable;
                    }
                    _ => {}
                }
                let log_of = |fates: &[Fate]| {
                    let mut log = Log::default();
                    let kept = all.iter().filter(|of| fates.contains(&of.fate));
                    kept.for_each(|of| log.put(of.line.clone()));
                    Log::new(0, log.lines().to_vec())
                };
                let durable = log_of(&[Fate::Durable]);
                for line in state.durable().lines() {
                    let held = durable.line(line.no).map(|held| held.tip.sequence);
                    assert!(held >= Some(line.tip.sequence), "{line:?} is not durable: {all:?}");
                }
                if dice.below(2) == 0 {
                    continue;
                }
                shown += state.settle(&changed).shown;
                let visible = Log::new(0, state.visible.lines().to_vec());
                assert_eq!(visible, log_of(&[Fate::Visible, Fate::Durable]), "{all:?}");
                assert_eq!((shown, state.durable()), (state.visible_entries(), durable), "{all:?}");
                let waits = |at: &usize| {
                    matches!(all[*at].fate, Fate::Queued | Fate::Visible) && !is_doomed(&all, *at)
                };
                let waiting: Vec<usize> = (0..all.len()).filter(waits).collect();
                assert_eq!(state.pending_bytes(), waiting.iter().map(|at| all[*at].size).sum::<usize>());
                assert_eq!(state.is_shown(), waiting.is_empty(), "{all:?}");
            }
        }
    }

    /// A store settles on a thread of its own: what it settles while a log is looked at must not be left lying.
    #[test]
    fn i7_a_receipt_that_settles_while_it_is_looked_at_is_not_forgotten() {
        /// A race of a few instructions: code that looks once loses it within these.
        const ROUNDS: usize = 20_000;
        let (hand_over, queue) = std::sync::mpsc::sync_channel::<crate::application::ports::Completer>(1);
        let store =
            std::thread::spawn(move || queue.into_iter().for_each(|completer| completer.done(Ok(()))));
        let mut line = Line::empty(OWN_LINE, Tip::START, Timestamp::ZERO, BlockPhase::START);
        let (mut state, changed) = (LogState::default(), Changed::default());
        for _ in 0..ROUNDS {
            let (receipt, completer) = Receipt::pending();
            state.push(pending(&mut line, receipt), &changed);
            hand_over.send(completer).unwrap();
            let (_, watched) = state.settle_and_watch(&changed);
            assert!(watched.is_some() || state.newest().is_none());
        }
        drop(hand_over);
        store.join().unwrap();
    }
}
