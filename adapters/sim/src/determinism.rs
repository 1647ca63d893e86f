//! Whether a run is a function of its seed.
//!
//! [`check_determinism`](crate::check_determinism) runs a seed twice and names the first event in which the two differ: code that asks a clock or a random
//! number generator other than those that it was handed, that walks over a map without order, or that uses threads,
//! shows there. What is the same twice in one process and differs between processes or builds does not show; the tool's
//! `check-determinism` compares those, for its own application. [`seeds`](crate::seeds) checks the first seed of every
//! test.

use std::fmt;

use crate::core::TraceEvent;
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
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show =
            |event: &Option<TraceEvent>| event.as_ref().map_or("the end".to_owned(), ToString::to_string);
        let [one, other] = &self.next;
        write!(
            f,
            "two runs of seed {} part after {} events. Something in them is not a function of the seed: a clock, \
             randomness, a thread, the order of a hash map\n  in common: {}\n  first run: {}\n  second run: {}",
            self.seed,
            self.common,
            show(&self.last),
            show(one),
            show(other),
        )
    }
}

impl std::error::Error for Divergence {}

/// Runs a seed twice and compares the two, event by event and in what they come to.
///
/// # Errors
/// [`Divergence`]: where they part.
pub fn check(seed: &Seed, run: &dyn Fn(Seed) -> Result<(), Failure>) -> Result<(), Box<Divergence>> {
    let [one, other] = [(); 2].map(|()| attempt(seed.clone().recorded(true), run));
    let alike = one.0.as_ref().err().map(|failure| &failure.violation)
        == other.0.as_ref().err().map(|failure| &failure.violation);
    let (one, other) = (one.1, other.1);
    if alike && one.hash == other.hash {
        return Ok(());
    }
    let common = one.trace.iter().zip(&other.trace).take_while(|(one, other)| one.hash == other.hash).count();
    let last = common.checked_sub(1).and_then(|at| one.trace.get(at)).cloned();
    let next = [&one, &other].map(|report| report.trace.get(common).cloned());
    Err(Box::new(Divergence { seed: seed.number(), common, last, next }))
}
