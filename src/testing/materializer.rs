//! Conformance suite of [`StateMaterializer`]: whether a fold keeps what it promises, on payloads of the application.
//!
//! ```
//! # use anabranch::{FoldError, LogEntry, StateMaterializer};
//! # struct Sum;
//! # impl StateMaterializer for Sum {
//! #     const NAME: &'static str = "sum";
//! #     const VERSION: u32 = 1;
//! #     const COMMUTATIVE: bool = true;
//! #     type State = u64;
//! #     fn initial(&self) -> u64 { 0 }
//! #     fn fold(&self, state: &mut u64, entry: &LogEntry) -> Result<(), FoldError> {
//! #         *state += std::str::from_utf8(entry.payload())?.parse::<u64>()?;
//! #         Ok(())
//! #     }
//! # }
//! anabranch::testing::materializer::conformance(&Sum, ["1", "20", "not a number"]);
//! ```
//!
//! It panics at the first clause that does not hold, names it, and shows the fewest payloads with which it does not. What it
//! cannot show: what payloads do that it was not given. Give it everything that the application may write, nonsense too.

use std::fmt::Debug;

use bytes::Bytes;

use crate::domain::entry::{EntryHash, LogEntry};
use crate::domain::id::{LogKey, NodeId};
use crate::domain::materializer::StateMaterializer;
use crate::domain::time::Timestamp;
use crate::infrastructure::prng::Prng;

/// Authors of the entries, in turn.
const AUTHORS: u8 = 3;
/// Orders that a commutative fold is tried in, besides the reverse.
const ORDERS: u64 = 64;
/// What draws these orders.
const SEED: u64 = 1;

/// Runs every clause on entries with these payloads, written in turn by three authors. Takes some 70 folds of all of them.
///
/// # Panics
/// If a clause does not hold, or the materializer panics.
pub fn conformance<M>(materializer: &M, payloads: impl IntoIterator<Item = impl Into<Bytes>>)
where
    M: StateMaterializer,
    M::State: PartialEq + Debug,
{
    type Clause<M> = fn(&M, &[LogEntry]) -> Result<(), String>;
    let clauses: [(&str, Clause<M>); 4] = [
        ("the same entries give the same state", the_same_entries_give_the_same_state),
        ("a refused entry leaves no trace", a_refused_entry_leaves_no_trace),
        ("a commutative fold gives the same state in any order", any_order_gives_the_same_state),
        ("a saved state is loaded as it was", a_saved_state_is_loaded_as_it_was),
    ];
    let entries = entries(payloads);
    for (clause, holds) in clauses {
        if holds(materializer, &entries).is_err() {
            let fewest = fewest(entries, |entries| holds(materializer, entries).is_err());
            let problem = holds(materializer, &fewest).err().unwrap_or_default();
            let payloads: Vec<&Bytes> = fewest.iter().map(LogEntry::payload).collect();
            panic!("materializer {:?} breaks \"{clause}\" with {payloads:?}: {problem}", M::NAME);
        }
    }
}

fn entries(payloads: impl IntoIterator<Item = impl Into<Bytes>>) -> Vec<LogEntry> {
    let mut previous = [EntryHash::ZERO; AUTHORS as usize];
    let payloads = (0_u64..).zip(payloads);
    let entries = payloads.map(|(at, payload)| {
        let (number, sequence) = ((at % u64::from(AUTHORS)) as u8, at / u64::from(AUTHORS) + 1);
        let (author, timestamp) = (NodeId::from_bytes([number + 1; 32]), Timestamp::new(0, (at + 1) << 32));
        let (log, payload) = (LogKey::from_bytes([number; 32]), payload.into());
        let last = &mut previous[usize::from(number)];
        *last = EntryHash::of(&log, sequence, timestamp, last, &payload);
        LogEntry { author, sequence, timestamp, payload, hash: *last }
    });
    entries.collect()
}

/// The state after these entries, and which of them were refused, by their time.
fn folded<'a, M: StateMaterializer>(
    materializer: &M,
    mut state: M::State,
    entries: impl IntoIterator<Item = &'a LogEntry>,
) -> (M::State, Vec<Timestamp>) {
    let mut refused = Vec::new();
    for entry in entries {
        if materializer.fold(&mut state, entry).is_err() {
            refused.push(entry.timestamp());
        }
    }
    refused.sort_unstable();
    (state, refused)
}

fn the_same_entries_give_the_same_state<M>(materializer: &M, entries: &[LogEntry]) -> Result<(), String>
where
    M: StateMaterializer,
    M::State: PartialEq + Debug,
{
    let [first, second] = [(); 2].map(|()| folded(materializer, materializer.initial(), entries));
    same("once", &first, "and once more", &second)
}

fn a_refused_entry_leaves_no_trace<M>(materializer: &M, entries: &[LogEntry]) -> Result<(), String>
where
    M: StateMaterializer,
    M::State: PartialEq + Debug,
{
    let mut state = materializer.initial();
    for entry in entries {
        let before = state.clone();
        if let Err(error) = materializer.fold(&mut state, entry)
            && state != before
        {
            let payload = entry.payload();
            return Err(format!(
                "{payload:?} is refused ({}), but {before:?} became {state:?}",
                error.message()
            ));
        }
    }
    Ok(())
}

fn any_order_gives_the_same_state<M>(materializer: &M, entries: &[LogEntry]) -> Result<(), String>
where
    M: StateMaterializer,
    M::State: PartialEq + Debug,
{
    if !M::COMMUTATIVE {
        return Ok(());
    }
    let expected = folded(materializer, materializer.initial(), entries);
    let mut order: Vec<&LogEntry> = entries.iter().rev().collect();
    for number in 0..=ORDERS {
        let found = folded(materializer, materializer.initial(), order.iter().copied());
        let shown: Vec<&Bytes> = order.iter().map(|entry| entry.payload()).collect();
        same("in this order", &expected, &format!("in the order {shown:?}"), &found)?;
        let mut random = Prng::part(SEED, number);
        for at in (1..order.len()).rev() {
            order.swap(at, random.below(at as u64 + 1) as usize);
        }
    }
    Ok(())
}

fn a_saved_state_is_loaded_as_it_was<M>(materializer: &M, entries: &[LogEntry]) -> Result<(), String>
where
    M: StateMaterializer,
    M::State: PartialEq + Debug,
{
    let (whole, _) = folded(materializer, materializer.initial(), entries);
    // Before the first entry, after the first, second, fourth, …, and at the end.
    let powers = (0..usize::BITS).map(|shift| 1 << shift).take_while(|at| *at < entries.len());
    for at in powers.chain([0, entries.len()]) {
        let (before, after) = entries.split_at(at);
        let (state, _) = folded(materializer, materializer.initial(), before);
        let Some(saved) = materializer.save(&state) else { continue };
        let Some(loaded) = materializer.load(&saved) else {
            return Err(format!("{state:?} was saved and is not loaded"));
        };
        if loaded != state {
            return Err(format!("{state:?} was saved and {loaded:?} loaded"));
        }
        let (from_there, _) = folded(materializer, loaded, after);
        if from_there != whole {
            return Err(format!("{whole:?}, but {from_there:?} from what was saved after {at} entries"));
        }
    }
    Ok(())
}

fn same<S: PartialEq + Debug>(
    how: &str,
    (state, refused): &(S, Vec<Timestamp>),
    other_how: &str,
    (other, refused_there): &(S, Vec<Timestamp>),
) -> Result<(), String> {
    if state != other {
        return Err(format!("{state:?} {how}, {other:?} {other_how}"));
    }
    if refused != refused_there {
        let (here, there) = (refused.len(), refused_there.len());
        return Err(format!("{here} refused {how}, {there} or others {other_how}"));
    }
    Ok(())
}

/// As few of the entries as fail by themselves: none of them can be left out.
fn fewest(mut entries: Vec<LogEntry>, fails: impl Fn(&[LogEntry]) -> bool) -> Vec<LogEntry> {
    let mut stretch = entries.len() / 2;
    while stretch > 0 {
        let mut at = 0;
        while at < entries.len() {
            let mut fewer = entries.clone();
            fewer.drain(at..(at + stretch).min(entries.len()));
            if fails(&fewer) {
                entries = fewer;
            } else {
                at += stretch;
            }
        }
        stretch /= 2;
    }
    entries
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::domain::materializer::FoldError;

    /// A sum of numbers, with one thing wrong with it.
    struct Sum<const COMMUTES: bool> {
        wrong: &'static str,
        calls: AtomicU64,
    }

    impl<const COMMUTES: bool> Sum<COMMUTES> {
        fn with(wrong: &'static str) -> Self {
            Self { wrong, calls: AtomicU64::new(0) }
        }
    }

    impl<const COMMUTES: bool> StateMaterializer for Sum<COMMUTES> {
        const NAME: &'static str = "sum";
        const VERSION: u32 = 1;
        const COMMUTATIVE: bool = COMMUTES;
        type State = u64;

        fn initial(&self) -> u64 {
            0
        }

        fn fold(&self, sum: &mut u64, entry: &LogEntry) -> Result<(), FoldError> {
            let calls = self.calls.fetch_add(1, Ordering::Relaxed);
            let text = std::str::from_utf8(entry.payload())?;
            match self.wrong {
                "ambient" if text == "7" => *sum += calls,
                "trace" if text == "x" => *sum += 1,
                "order" if text == "0" => *sum = 0,
                "refusal" if text == "5" && *sum > 4 => return Err(FoldError::new("too much")),
                _ => {}
            }
            *sum += text.parse::<u64>()?;
            Ok(())
        }

        fn save(&self, sum: &u64) -> Option<Bytes> {
            (self.wrong != "no saving").then(|| sum.to_string().into())
        }

        fn load(&self, saved: &[u8]) -> Option<u64> {
            let digits = if self.wrong == "one digit" { saved.get(..1)? } else { saved };
            std::str::from_utf8(digits).ok()?.parse().ok()
        }
    }

    const PAYLOADS: [&str; 9] = ["3", "x", "1", "7", "0", "4", "5", "y", "2"];

    fn complaint<const COMMUTES: bool>(wrong: &'static str) -> String {
        let run = || conformance(&Sum::<COMMUTES>::with(wrong), PAYLOADS);
        let panic = std::panic::catch_unwind(run).expect_err("nothing was wrong");
        panic.downcast_ref::<String>().cloned().unwrap_or_default()
    }

    #[test]
    fn folds_that_keep_their_promises_pass() {
        conformance(&Sum::<true>::with("nothing"), PAYLOADS);
        conformance(&Sum::<false>::with("order"), PAYLOADS);
        conformance(&Sum::<true>::with("no saving"), PAYLOADS);
        conformance(&Sum::<true>::with("nothing"), [""; 0]);
    }

    #[test]
    fn a_broken_promise_is_named_with_the_fewest_payloads_that_break_it() {
        assert!(complaint::<false>("ambient").contains(r#"the same state" with [b"7"]"#));
        assert!(complaint::<false>("trace").contains(r#"no trace" with [b"x"]"#));
        let order = complaint::<true>("order");
        assert!(order.contains("in any order\" with [b\""), "{order}");
        assert!(order.matches("b\"").count() == 4, "two payloads in two orders: {order}");
        let refusal = complaint::<true>("refusal");
        assert!(refusal.contains(r#"b"5"]"#) || refusal.contains(r#"[b"5""#), "{refusal}");
        assert!(complaint::<false>("one digit").contains("loaded as it was"));
    }
}
