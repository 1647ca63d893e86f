//! Whether a run is a function of its seed.
//!
//! [`check_determinism`](crate::check_determinism) runs a seed twice and names the first event in which the two differ: code that asks a clock or a random
//! number generator other than those that it was handed, that walks over a map without order, or that uses threads,
//! shows there. What is the same twice in one process and differs between processes or builds does not show; the tool's
//! `check-determinism` compares those, for its own application. [`seeds`](crate::seeds) checks the first seed of every
//! test.

use std::fmt;

use crate::core::{TraceEvent, Violation};
use crate::seed::Seed;
use crate::shrink::attempt;
use crate::world::Failure;

/// Two runs of one seed that are not alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// The seed's number.
    pub seed: u64,
    /// How many events the runs have in common.
    pub common: usize,
    /// The last of those.
    pub last: Option<TraceEvent>,
    /// What came next in each run; `None` if it ended there.
    pub next: [Option<TraceEvent>; 2],
    /// What each run came to; `None` if it went well.
    pub results: [Option<Violation>; 2],
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WHY: &str = "Something in them is not a function of the seed: a clock, randomness, a thread, the order \
                           of a hash map";
        let Self { seed, common, .. } = self;
        let event =
            |event: &Option<TraceEvent>| event.as_ref().map_or("the end".to_owned(), ToString::to_string);
        let result = |result: &Option<Violation>| match result {
            // To the nanosecond: that may be all that differs.
            Some(Violation { rule, what, at }) => {
                format!("broke {rule:?} after {:.9} s: {what}", *at as f64 / 1e9)
            }
            None => "all is well".to_owned(),
        };
        let ended = self.next == [None, None];
        let [one, other] =
            if ended { self.results.each_ref().map(result) } else { self.next.each_ref().map(event) };
        if ended {
            write!(
                f,
                "two runs of seed {seed} have the same {common} events and differ in what they come to. {WHY}"
            )?;
        } else {
            let last = event(&self.last);
            write!(f, "two runs of seed {seed} part after {common} events. {WHY}\n  in common: {last}")?;
        }
        write!(f, "\n  first run: {one}\n  second run: {other}")
    }
}

impl std::error::Error for Divergence {}

/// Runs a seed twice and compares the two, event by event and in what they come to.
///
/// # Errors
/// [`Divergence`]: where they part.
pub fn check(seed: &Seed, run: &dyn Fn(Seed) -> Result<(), Failure>) -> Result<(), Box<Divergence>> {
    let [one, other] = [(); 2].map(|()| attempt(seed.clone().recorded(true), run));
    let results = [one.0, other.0].map(|result| result.err().map(|failure| failure.violation));
    let (one, other) = (one.1, other.1);
    if results[0] == results[1] && one.hash == other.hash {
        return Ok(());
    }
    let common = one.trace.iter().zip(&other.trace).take_while(|(one, other)| one.hash == other.hash).count();
    let last = common.checked_sub(1).and_then(|at| one.trace.get(at)).cloned();
    let next = [&one, &other].map(|report| report.trace.get(common).cloned());
    Err(Box::new(Divergence { seed: seed.number(), common, last, next, results }))
}
