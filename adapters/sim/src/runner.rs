//! Running many seeds in a plain test.
//!
//! - `SIM_SEED=7` runs seed 7 only; `SIM_CUT='n=2 f=0-4'` leaves something out of it, as a replay line says.
//! - `SIM_SEEDS=1000` runs so many; `SIM_START=5000` begins there.
//! - `SIM_TWICE=1` runs every seed twice and compares; otherwise that is done with the first.
//! - `SIM_LOG=1` says what was reached and what never was, also where a seed fails; `SIM_LOG=2` prints every event.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::core::Kind;
use crate::determinism;
use crate::faults::FAULTS;
use crate::seed::{Cut, RunReport, Seed};
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
    let mut reached = Reached::default();
    let mut failed = None;
    for at in start..=last {
        let seed = Seed::new(at).cut(cut.clone());
        if (twice || at == start)
            && let Err(divergence) = determinism::check(&seed, &run)
        {
            failed = Some(divergence.to_string());
            break;
        }
        let (result, report) = attempt(seed.printed(log >= 2), &run);
        if log >= 1 {
            eprintln!("seed {at}: {} events, trace {}", report.events, report.hash);
        }
        reached.add(report);
        if let Err(failure) = result {
            // What a replay line says was made smaller before.
            let time = if cut == Cut::default() { SHRINK_TIME } else { Duration::ZERO };
            let shrunk = shrink(&failure, &cut, &run, time);
            failed = Some(describe(&failure, &shrunk, &replay()));
            break;
        }
    }
    if log >= 1 {
        eprintln!("{}", reached.text(start));
    }
    if let Some(what) = failed {
        panic!("{what}");
    }
}

/// What the runs so far came across.
#[derive(Default)]
struct Reached {
    seeds: u64,
    faults: BTreeMap<&'static str, u64>,
    situations: BTreeMap<String, u64>,
}

impl Reached {
    fn add(&mut self, report: RunReport) {
        self.seeds += 1;
        for (name, count) in report.faults {
            *self.faults.entry(name).or_default() += count;
        }
        for (name, count) in report.situations {
            *self.situations.entry(name).or_default() += count;
        }
    }

    /// Names the kinds of faults that never happened only if most did: a test that asks for a few kinds misses the
    /// other fifty.
    fn text(&self, start: u64) -> String {
        let Self { seeds, faults, situations } = self;
        let never: Vec<&String> =
            situations.iter().filter(|(_, times)| **times == 0).map(|(name, _)| name).collect();
        let missed: Vec<&str> = FAULTS.iter().copied().filter(|name| !faults.contains_key(name)).collect();
        let missed = match missed.len() * 2 < FAULTS.len() && !missed.is_empty() {
            true => format!("\nfaults that never happened: {}", missed.join(", ")),
            false => String::new(),
        };
        format!(
            "{seeds} seeds from {start}\nfaults: {faults:#?}{missed}\nsituations: {situations:#?}\nnever: {never:#?}"
        )
    }
}

/// What runs this test or program again, and no other.
fn replay() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    again(&program, variable("CARGO_PKG_NAME").as_deref(), std::thread::current().name())
}

/// The line that has cargo run `program` again, which it has put in `PROFILE/`, `PROFILE/examples/` or, with a hash
/// behind its name, `PROFILE/deps/`. A thread with a name is a test's. Without a package nobody but the user called it.
fn again(program: &Path, package: Option<&str>, thread: Option<&str>) -> String {
    let test = thread.filter(|name| *name != "main");
    let Some(package) = package else {
        let program = program.display();
        return match test {
            Some(test) => format!("{program} {test} --exact --include-ignored --nocapture"),
            None => program.to_string(),
        };
    };
    let folders: Vec<&str> = program.ancestors().skip(1).map(name).collect();
    let folder = |up: usize| folders.get(up).copied().unwrap_or_default();
    let inner = ["deps", "examples"].contains(&folder(0));
    let release = if folder(usize::from(inner)) == "release" { "--release " } else { "" };
    let file = name(program);
    let file = file.strip_suffix(std::env::consts::EXE_SUFFIX).unwrap_or(file);
    match (test, folder(0)) {
        (Some(test), _) => {
            format!("cargo test {release}-p {package} {test} -- --exact --include-ignored --nocapture")
        }
        (None, "deps") => {
            let target = file.rsplit_once('-').map_or(file, |(target, _)| target);
            format!("cargo test {release}-p {package} --test {target}")
        }
        (None, "examples") => format!("cargo run {release}-p {package} --example {file}"),
        (None, folder) if folder.starts_with("rustdoctest") => format!("cargo test -p {package} --doc"),
        (None, _) => format!("cargo run {release}-p {package} --bin {file}"),
    }
}

/// The last part of a path.
fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_that_never_happened_are_named_where_most_did() {
        let mut reached = Reached::default();
        reached.faults.insert("crash", 1);
        assert!(!reached.text(0).contains("never happened"));
        reached.faults.extend(FAULTS.map(|name| (name, 1)));
        assert!(!reached.text(0).contains("never happened"));
        reached.faults.retain(|name, _| !["full_link", "downgrade"].contains(name));
        assert!(reached.text(0).contains("never happened: full_link, downgrade\n"));
    }

    #[test]
    fn a_replay_line_runs_the_same_program_again() {
        for (program, thread, line) in [
            ("/t/debug/app", "main", "cargo run -p app --bin app"),
            ("/t/release/app", "main", "cargo run --release -p app --bin app"),
            ("/t/debug/examples/ex", "main", "cargo run -p app --example ex"),
            ("/t/x86_64/release/examples/ex", "main", "cargo run --release -p app --example ex"),
            ("/t/debug/deps/own-harness-0123456789abcdef", "main", "cargo test -p app --test own-harness"),
            (
                "/t/debug/deps/app-0123456789abcdef",
                "tests::a",
                "cargo test -p app tests::a -- --exact --include-ignored --nocapture",
            ),
            (
                "/t/release/examples/ex-0123456789abcdef",
                "tests::a",
                "cargo test --release -p app tests::a -- --exact --include-ignored --nocapture",
            ),
            ("/tmp/rustdoctestAbC/rust_out", "main", "cargo test -p app --doc"),
        ] {
            assert_eq!(again(Path::new(program), Some("app"), Some(thread)), line);
        }
        assert_eq!(again(Path::new("/bin/app"), None, Some("main")), "/bin/app");
    }
}
