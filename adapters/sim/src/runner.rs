//! Running many seeds in a plain test.
//!
//! - `SIM_SEED=7` runs seed 7 only; `SIM_CUT='n=2 f=0-4'` leaves something out of it, as a replay line says.
//! - `SIM_SEEDS=1000` runs so many; `SIM_START=5000` begins there.
//! - `SIM_TWICE=1` runs every seed twice and compares; otherwise that is done with the first.
//! - `SIM_LOG=1` says what was reached and what never was; `SIM_LOG=2` prints every event.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::Kind;
use crate::determinism;
use crate::seed::{Cut, Seed};
use crate::shrink::{Shrunk, attempt, shrink};
use crate::world::Failure;

/// Seeds that a test runs unless told otherwise.
const DEFAULT_SEEDS: u64 = 20;
/// Real time for making a failing run smaller.
const SHRINK_TIME: Duration = Duration::from_secs(45);
/// Events shown of a failing run: the last ones.
const SHOWN_EVENTS: usize = 40;
/// Faults, starts and acts shown of a failing run: more than a small one has.
const SHOWN_STEPS: usize = 60;

#[allow(clippy::disallowed_methods, reason = "how a test is run is said from outside")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    let text = variable(name)?;
    Some(text.trim().parse().unwrap_or_else(|_| panic!("{name}: {text:?} is no number from 0 to 2^64 - 1")))
}

/// Runs a test under many seeds. On a failure: makes it smaller, prints seed, trace and the line that replays it,
/// and panics. The first seed is run twice: a run that is not a function of its seed cannot be replayed.
///
/// # Panics
/// If a seed fails, if two runs of one seed differ, or if an environment variable says nothing sensible.
pub fn seeds(run: impl Fn(Seed) -> Result<(), Failure>) {
    let log = number("SIM_LOG").unwrap_or(0);
    let only = number("SIM_SEED");
    let start = only.or_else(|| number("SIM_START")).unwrap_or(0);
    let count = if only.is_some() { 1 } else { number("SIM_SEEDS").unwrap_or(DEFAULT_SEEDS) };
    let twice = number("SIM_TWICE").is_some_and(|twice| twice > 0);
    assert!(count > 0, "SIM_SEEDS: no seed proves nothing");
    let last =
        start.checked_add(count - 1).unwrap_or_else(|| panic!("{count} seeds from {start} end beyond 2^64"));
    let cut: Cut = match variable("SIM_CUT").map(|text| text.parse()) {
        Some(Ok(cut)) => cut,
        Some(Err(bad)) => panic!("SIM_CUT: {bad}"),
        None => Cut::default(),
    };
    let mut faults: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut situations: BTreeMap<String, u64> = BTreeMap::new();
    for at in start..=last {
        let seed = Seed::new(at).cut(cut.clone());
        if (twice || at == start)
            && let Err(divergence) = determinism::check(&seed, &run)
        {
            panic!("{divergence}");
        }
        let (result, report) = attempt(seed.printed(log >= 2), &run);
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
            // What a replay line says was made smaller before.
            let time = if cut == Cut::default() { SHRINK_TIME } else { Duration::ZERO };
            let shrunk = shrink(&failure, &cut, &run, time);
            panic!("{}", describe(&failure, &shrunk, &replay()));
        }
    }
    if log >= 1 {
        let never: Vec<&String> =
            situations.iter().filter(|(_, times)| **times == 0).map(|(name, _)| name).collect();
        eprintln!(
            "{count} seeds from {start}\nfaults: {faults:#?}\nsituations: {situations:#?}\nnever: {never:#?}"
        );
    }
}

/// What runs this test again, and no other.
fn replay() -> String {
    let package = variable("CARGO_PKG_NAME").map(|name| format!("-p {name} ")).unwrap_or_default();
    match std::thread::current().name().filter(|name| *name != "main") {
        Some(test) => format!("cargo test {package}{test} -- --exact --nocapture"),
        None => format!("cargo run {package}").trim_end().to_owned(),
    }
}

fn describe(failure: &Failure, shrunk: &Shrunk, replay: &str) -> String {
    let trace = &shrunk.report.trace;
    let skipped = trace.len().saturating_sub(SHOWN_EVENTS);
    let shown: Vec<String> = trace[skipped..].iter().map(ToString::to_string).collect();
    let is_step =
        |kind| matches!(kind, Kind::Boot | Kind::BootFailed | Kind::Crash | Kind::Fault | Kind::Work);
    let steps: Vec<String> =
        trace.iter().filter(|event| is_step(event.kind)).map(ToString::to_string).collect();
    let more = steps.len().saturating_sub(SHOWN_STEPS);
    format!(
        "{failure}\n\nmade smaller in {} runs to {} nodes, {} faults, {} acts: {}\n\
         what was done:\n{}{}\n\nthe last {} of {} events:\n{}\n\nreplay the whole run:\n  SIM_SEED={} {replay}\n\
         replay the smaller one:\n  SIM_SEED={} SIM_CUT='{}' {replay}\n",
        shrunk.runs,
        shrunk.nodes,
        shrunk.faults,
        shrunk.work,
        shrunk.failure,
        steps[..steps.len() - more].join("\n"),
        if more > 0 { format!("\nand {more} more") } else { String::new() },
        shown.len(),
        trace.len(),
        shown.join("\n"),
        failure.seed,
        failure.seed,
        shrunk.cut,
    )
}
