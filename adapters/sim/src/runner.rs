//! Running many seeds in a plain test.
//!
//! - `SIM_SEED=7` runs seed 7 only; `SIM_CUT='n=2 f=0-4'` leaves something out of it, as a replay line says.
//! - `SIM_SEEDS=1000` runs so many; `SIM_START=5000` begins there.
//! - `SIM_LOG=1` says what was reached; `SIM_LOG=2` prints every event.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::seed::{Cut, Seed};
use crate::shrink::{Shrunk, attempt, shrink};
use crate::world::Failure;

/// Seeds that a test runs unless told otherwise.
const DEFAULT_SEEDS: u64 = 20;
/// Real time for making a failing run smaller.
const SHRINK_TIME: Duration = Duration::from_secs(45);
/// Events shown of a failing run: the last ones.
const SHOWN_EVENTS: usize = 40;

#[allow(clippy::disallowed_methods, reason = "how a test is run is said from outside")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    variable(name)?.parse().ok()
}

/// Runs a test under many seeds. On a failure: makes it smaller, prints seed, trace and the line that replays it,
/// and panics.
///
/// # Panics
/// If a seed fails.
pub fn seeds(run: impl Fn(Seed) -> Result<(), Failure>) {
    let log = number("SIM_LOG").unwrap_or(0);
    let only = number("SIM_SEED");
    let start = only.or_else(|| number("SIM_START")).unwrap_or(0);
    let count = if only.is_some() { 1 } else { number("SIM_SEEDS").unwrap_or(DEFAULT_SEEDS) };
    let cut: Cut = match variable("SIM_CUT").map(|text| text.parse()) {
        Some(Ok(cut)) => cut,
        Some(Err(bad)) => panic!("SIM_CUT: {bad}"),
        None => Cut::default(),
    };
    let mut faults: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut situations: BTreeMap<String, u64> = BTreeMap::new();
    for at in start..start.saturating_add(count) {
        let seed = Seed::new(at).cut(cut.clone()).printed(log >= 2);
        let (result, report) = attempt(seed, &run);
        if log >= 1 {
            eprintln!("seed {at}: {} events, trace {}", report.events, report.hash);
        }
        for (name, count) in report.faults {
            *faults.entry(name).or_default() += count;
        }
        for (name, count) in report.situations {
            *situations.entry(name).or_default() += count;
        }
        if let Err(failure) = result {
            let shrunk = shrink(&failure, &cut, &run, SHRINK_TIME);
            let test = std::thread::current().name().unwrap_or("TEST").to_owned();
            panic!("{}", describe(&failure, &shrunk, &test));
        }
    }
    if log >= 1 {
        eprintln!("{count} seeds from {start}\nfaults: {faults:#?}\nsituations: {situations:#?}");
    }
}

fn describe(failure: &Failure, shrunk: &Shrunk, test: &str) -> String {
    let trace = &shrunk.report.trace;
    let skipped = trace.len().saturating_sub(SHOWN_EVENTS);
    let shown: Vec<String> = trace[skipped..].iter().map(ToString::to_string).collect();
    format!(
        "{failure}\n\nmade smaller in {} runs to {} nodes, {} faults, {} acts: {}\n\
         the last {} of {} events:\n{}\n\nreplay the whole run:\n  SIM_SEED={} cargo test {test}\n\
         replay the smaller one:\n  SIM_SEED={} SIM_CUT='{}' cargo test {test}\n",
        shrunk.runs,
        shrunk.nodes,
        shrunk.faults,
        shrunk.work,
        shrunk.failure,
        shown.len(),
        trace.len(),
        shown.join("\n"),
        failure.seed,
        failure.seed,
        shrunk.cut,
    )
}
