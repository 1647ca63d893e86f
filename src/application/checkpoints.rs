//! Folding in order, and going back when something comes late.
//!
//! [`Checkpoints`] holds a state, the position up to which it was folded, and earlier states at distances that
//! grow exponentially. An entry that sorts before the last one folded makes it return to the newest checkpoint
//! before that entry, from where its caller folds again. So a late entry costs work in proportion to how late it
//! is, and a stream of n entries keeps about log2(n) states.
//!
//! Pure and synchronous: it never reads, waits or reports. The handles of the facade feed it from a reader and
//! contain the panics of user code.

use std::sync::Arc;

use super::reader::Positions;
use crate::domain::entry::{LogEntry, OrderKey};
use crate::domain::log::{LineNo, LogNo};
use crate::domain::materializer::{FoldError, StateMaterializer};
use crate::domain::version::Tip;

/// Entries between two checkpoints, at the end of the stream. A late entry costs up to twice as many folds, and
/// each costs a 64th of a clone of the state: guesses at equal weight, for states of some kilobytes.
pub(crate) const CHUNK: u64 = 64;
/// Checkpoints kept per power of two of distance: with two, there is always one at most four times as far back
/// as any entry.
const PER_LEVEL: u64 = 2;
/// Entries that may be folded ahead without a checkpoint because none would be kept in the end. Bounds what is
/// lost when a long fold is dropped underway and something late comes before it goes on.
const LOOKAHEAD: u64 = 1 << 16;

/// A state and what was folded into it.
#[derive(Debug)]
pub(crate) struct Checkpoint<S> {
    pub(crate) state: Arc<S>,
    pub(crate) positions: Positions,
    /// The largest place in the stream's order among the folded entries.
    pub(crate) last: Option<OrderKey>,
    /// Entries folded, refused ones included.
    pub(crate) folded: u64,
    /// Entries refused.
    pub(crate) refused: u64,
    /// Never thinned out: the beginning, and what was loaded.
    anchor: bool,
}

impl<S> Checkpoint<S> {
    /// Before the first entry.
    pub(crate) fn origin(state: S) -> Self {
        let state = Arc::new(state);
        Self { state, positions: Positions::new(), last: None, folded: 0, refused: 0, anchor: true }
    }

    /// A state that was saved.
    pub(crate) fn loaded(
        state: S,
        positions: Positions,
        last: Option<OrderKey>,
        folded: u64,
        refused: u64,
    ) -> Self {
        Self { state: Arc::new(state), positions, last, folded, refused, anchor: true }
    }

    fn copy(&self, anchor: bool) -> Self {
        let Self { state, positions, last, folded, refused, .. } = self;
        let (state, positions) = (Arc::clone(state), positions.clone());
        Self { state, positions, last: *last, folded: *folded, refused: *refused, anchor }
    }

    /// Whether it is among the last of its level when `now` entries are folded. Its level is the largest power
    /// of two that divides its place.
    fn is_wanted_at(&self, now: u64) -> bool {
        let place = self.folded / CHUNK;
        let level = place.trailing_zeros().min(63);
        self.anchor || ((now / CHUNK) >> level) - (place >> level) < PER_LEVEL
    }
}

/// What became of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It is in the state.
    Folded,
    /// It is skipped.
    Refused(FoldError),
    /// It sorts before what was folded: go on reading after the positions of the new head.
    Late,
}

/// A state with its past.
#[derive(Debug)]
pub(crate) struct Checkpoints<S> {
    head: Checkpoint<S>,
    /// Oldest first, the first before the first entry. None is ahead of the head.
    kept: Vec<Checkpoint<S>>,
    /// Rises with every change of the state.
    changes: u64,
}

impl<S: Clone> Checkpoints<S> {
    pub(crate) fn new(initial: S) -> Self {
        let origin = Checkpoint::origin(initial);
        Self { head: origin.copy(false), kept: vec![origin], changes: 0 }
    }

    /// Starts from a saved state; late entries from before it are folded from the beginning.
    pub(crate) fn load(&mut self, loaded: Checkpoint<S>) {
        self.kept.truncate(1);
        self.head = loaded.copy(false);
        self.kept.push(loaded);
        self.changes += 1;
    }

    /// Forgets everything folded.
    pub(crate) fn restart(&mut self, initial: S) {
        let origin = Checkpoint::origin(initial);
        self.head = origin.copy(false);
        self.kept = vec![origin];
        self.changes += 1;
    }

    /// The state as folded so far.
    pub(crate) fn head(&self) -> &Checkpoint<S> {
        &self.head
    }

    /// How often the state changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Takes the entry that a reader found next after the head's positions, with `left` more behind it.
    ///
    /// If `fold` panics, the state is not to be used before [`restart`](Self::restart).
    pub(crate) fn offer<M: StateMaterializer<State = S>>(
        &mut self,
        materializer: &M,
        entry: &LogEntry,
        line: (LogNo, LineNo),
        left: u64,
    ) -> Offered {
        let order = entry.order();
        if !M::COMMUTATIVE && self.head.last.is_some_and(|last| order < last) {
            self.rewind(&order);
            return Offered::Late;
        }
        let folded = materializer.fold(Arc::make_mut(&mut self.head.state), entry);
        let tip = Tip { sequence: entry.sequence(), hash: entry.hash() };
        self.head.positions.insert(line, tip);
        self.head.last = self.head.last.max(Some(order));
        self.head.folded += 1;
        if folded.is_err() {
            self.head.refused += 1;
        } else {
            self.changes += 1;
        }
        if !M::COMMUTATIVE {
            self.keep(left);
        }
        folded.map_or_else(Offered::Refused, |()| Offered::Folded)
    }

    /// Keeps the head as a checkpoint if it is time for one that will be of use `left` entries later.
    fn keep(&mut self, left: u64) {
        // A checkpoint copies a position per line: many lines make it dearer, so it is made less often.
        let lines = self.head.positions.len() as u64;
        let stride = CHUNK.max(lines.next_power_of_two());
        let now = self.head.folded;
        if now.is_multiple_of(stride) && self.head.is_wanted_at(now + left.min(LOOKAHEAD)) {
            self.kept.retain(|checkpoint| checkpoint.is_wanted_at(now));
            self.kept.push(self.head.copy(false));
        }
    }

    /// Returns to the newest checkpoint before `order`.
    fn rewind(&mut self, order: &OrderKey) {
        while self.kept.len() > 1 && self.kept.last().is_some_and(|newest| newest.last.as_ref() > Some(order))
        {
            if mutant!(CheckpointKept) {
                break;
            }
            self.kept.pop();
        }
        if let Some(checkpoint) = self.kept.last() {
            self.head = checkpoint.copy(false);
            self.changes += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::entry::EntryHash;
    use crate::domain::id::NodeId;
    use crate::domain::time::Timestamp;

    /// Remembers what it was offered, in order; refuses payloads that start with 0; counts its folds.
    #[derive(Default)]
    struct History(Mutex<u64>);

    impl StateMaterializer for History {
        const NAME: &'static str = "history";
        const VERSION: u32 = 1;
        type State = Vec<OrderKey>;

        fn initial(&self) -> Self::State {
            Vec::new()
        }

        fn fold(&self, state: &mut Self::State, entry: &LogEntry) -> Result<(), FoldError> {
            *self.0.lock().unwrap() += 1;
            if entry.payload().first() == Some(&0) {
                return Err(FoldError::new("zero"));
            }
            state.push(entry.order());
            Ok(())
        }
    }

    /// Only counts, so that states cost nothing.
    #[derive(Default)]
    struct Work(Mutex<u64>);

    impl StateMaterializer for Work {
        const NAME: &'static str = "work";
        const VERSION: u32 = 1;
        type State = u64;

        fn initial(&self) -> u64 {
            0
        }

        fn fold(&self, state: &mut u64, _: &LogEntry) -> Result<(), FoldError> {
            *self.0.lock().unwrap() += 1;
            *state += 1;
            Ok(())
        }
    }

    /// A line of entries after `base`, and how many of them are held.
    #[derive(Debug, Clone)]
    struct Held {
        line: (LogNo, LineNo),
        base: u64,
        entries: Vec<LogEntry>,
        held: usize,
    }

    fn entry(author: u8, line: u8, sequence: u64, time: u64, payload: u8) -> LogEntry {
        let mut hash = [author; 32];
        hash[0] = line;
        hash[24..].copy_from_slice(&sequence.to_be_bytes());
        LogEntry {
            author: NodeId::from_bytes([author; 32]),
            sequence,
            timestamp: Timestamp::new(0, time),
            payload: Bytes::copy_from_slice(&[payload]),
            hash: EntryHash::from_bytes(hash),
        }
    }

    /// What a reader does: everything held after the head's positions, in order, again after each rewind.
    fn catch_up<M: StateMaterializer>(folded: &mut Checkpoints<M::State>, fold: &M, lines: &[Held]) {
        'pass: loop {
            let mut unread: Vec<_> = Vec::new();
            for line in lines {
                let from = folded.head().positions.get(&line.line).map_or(line.base, |tip| tip.sequence);
                let unread_of =
                    &line.entries[(from - line.base) as usize..line.held.max((from - line.base) as usize)];
                unread.extend(unread_of.iter().map(|entry| (entry, line.line)));
            }
            unread.sort_by_key(|(entry, _)| entry.order());
            let mut left = unread.len() as u64;
            for (entry, line) in unread {
                left -= 1;
                if folded.offer(fold, entry, line, left) == Offered::Late {
                    continue 'pass;
                }
            }
            return;
        }
    }

    fn held_in_order(lines: &[Held]) -> Vec<&LogEntry> {
        let mut all: Vec<_> = lines.iter().flat_map(|line| &line.entries[..line.held]).collect();
        all.sort();
        all
    }

    /// Lines of several authors; a second line of an author forks off its first.
    fn lines() -> impl Strategy<Value = Vec<Held>> {
        let line = (proptest::collection::vec((1u64..50, any::<u8>()), 0..250), any::<bool>(), 0usize..250);
        proptest::collection::vec(line, 1..6).prop_map(|specs| {
            let mut lines: Vec<Held> = Vec::new();
            for (no, (steps, forks, at)) in specs.into_iter().enumerate() {
                let parent = lines.last().filter(|parent| forks && parent.line.1 == LineNo(0)).cloned();
                let (log, line, base, mut time) = match &parent {
                    Some(parent) => {
                        let at = at.min(parent.entries.len());
                        let time = at.checked_sub(1).map_or(0, |at| parent.entries[at].timestamp.time());
                        (parent.line.0, LineNo(1), at as u64, time)
                    }
                    None => (LogNo(no as u32), LineNo(0), 0, 0),
                };
                let entries = steps.into_iter().enumerate().map(|(n, (step, payload))| {
                    time += step;
                    entry(log.0 as u8, line.0 as u8, base + n as u64 + 1, time, payload % 8)
                });
                lines.push(Held { line: (log, line), base, entries: entries.collect(), held: 0 });
            }
            lines
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn i3_any_arrival_order_folds_to_the_same_state_as_one_pass_over_all(
            mut lines in lines(),
            arrivals in proptest::collection::vec((any::<prop::sample::Index>(), 1usize..120), 1..30),
        ) {
            let fold = History::default();
            let mut folded = Checkpoints::new(fold.initial());
            for (line, portion) in arrivals {
                let line = line.index(lines.len());
                lines[line].held = (lines[line].held + portion).min(lines[line].entries.len());
                catch_up(&mut folded, &fold, &lines);
                let all = held_in_order(&lines);
                let expected: Vec<OrderKey> =
                    all.iter().filter(|entry| entry.payload[0] != 0).map(|entry| entry.order()).collect();
                prop_assert_eq!(&*folded.head().state, &expected);
                prop_assert_eq!(folded.head().folded, all.len() as u64);
                prop_assert_eq!(folded.head().refused, (all.len() - expected.len()) as u64);
            }
        }
    }

    /// `n` entries of one author at even times, and a second line that takes late entries at odd ones.
    fn long(n: u64) -> (Vec<Held>, Work, Checkpoints<u64>) {
        let entries = (1..=n).map(|at| entry(0, 0, at, at * 2, 1)).collect();
        let ana = Held { line: (LogNo(0), LineNo(0)), base: 0, entries, held: n as usize };
        let ben = Held { line: (LogNo(1), LineNo(0)), base: 0, entries: Vec::new(), held: 0 };
        let (work, lines) = (Work::default(), vec![ana, ben]);
        let mut folded = Checkpoints::new(0);
        catch_up(&mut folded, &work, &lines);
        (lines, work, folded)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_late_entry_costs_at_most_four_times_its_lateness_and_two_chunks(
            n in 1u64..30_000, growth in 0u64..300, lateness in 0.0f64..1.0,
        ) {
            let (mut lines, work, mut folded) = long(n);
            for at in n + 1..=n + growth {
                lines[0].entries.push(entry(0, 0, at, at * 2, 1));
                lines[0].held += 1;
                catch_up(&mut folded, &work, &lines);
            }
            let n = n + growth;
            // Small latenesses as often as large ones.
            let late = (n as f64).powf(lateness) as u64;
            lines[1].entries.push(entry(1, 0, 1, (n - late) * 2 + 1, 1));
            lines[1].held = 1;
            let before = *work.0.lock().unwrap();
            catch_up(&mut folded, &work, &lines);
            let folds = *work.0.lock().unwrap() - before;
            prop_assert!(folds <= 4 * late + 2 * CHUNK + 1, "{folds} folds for an entry late by {late} of {n}");
            prop_assert_eq!(*folded.head().state, n + 1);
        }
    }

    #[test]
    fn checkpoints_are_few_however_long_the_stream() {
        for n in [1_000, 100_000, 300_000] {
            let (_, _, folded) = long(n);
            let levels = u64::from((n / CHUNK).ilog2()) + 1;
            assert!(folded.kept.len() as u64 <= 2 * levels + 2, "{} for {n}", folded.kept.len());
        }
    }

    #[test]
    fn a_commutative_fold_never_goes_back_and_keeps_no_checkpoints() {
        struct Sum(Mutex<u64>);
        impl StateMaterializer for Sum {
            const NAME: &'static str = "sum";
            const VERSION: u32 = 1;
            const COMMUTATIVE: bool = true;
            type State = u64;
            fn initial(&self) -> u64 {
                0
            }
            fn fold(&self, state: &mut u64, entry: &LogEntry) -> Result<(), FoldError> {
                *self.0.lock().unwrap() += 1;
                *state += u64::from(entry.payload()[0]);
                Ok(())
            }
        }
        let (mut lines, _, _) = long(1_000);
        let fold = Sum(Mutex::new(0));
        let mut folded = Checkpoints::new(0);
        catch_up(&mut folded, &fold, &lines);
        lines[1].entries.push(entry(1, 0, 1, 1, 5));
        lines[1].held = 1;
        catch_up(&mut folded, &fold, &lines);
        assert_eq!((*folded.head().state, *fold.0.lock().unwrap()), (1_005, 1_001));
        assert_eq!(folded.kept.len(), 1);
    }

    #[test]
    fn a_state_that_was_loaded_serves_late_entries_after_it() {
        let (mut lines, work, folded) = long(10_001);
        let Checkpoint { state, positions, last, folded: count, .. } = folded.head.copy(false);
        let mut again = Checkpoints::new(0);
        again.load(Checkpoint::loaded(*state, positions, last, count, 0));
        for at in 10_002..=10_500 {
            lines[0].entries.push(entry(0, 0, at, at * 2, 1));
            lines[0].held += 1;
            catch_up(&mut again, &work, &lines);
        }
        // Each by an author of its own, as times along a line rise.
        for (author, late, most) in [(2, 10_003, 1_000), (3, 5_000, 10_502)] {
            let entries = vec![entry(author, 0, 1, late * 2 + 1, 1)];
            lines.push(Held { line: (LogNo(author.into()), LineNo(0)), base: 0, entries, held: 1 });
            let before = *work.0.lock().unwrap();
            catch_up(&mut again, &work, &lines);
            assert!(*work.0.lock().unwrap() - before <= most);
        }
        assert_eq!(*again.head().state, 10_502);
    }
}
