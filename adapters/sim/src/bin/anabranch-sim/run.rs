//! `run`: many seeds.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anabranch_sim::notes::{self, Setting};
use anabranch_sim::{FAULTS, Failure, RunReport, Seed, TraceHash, attempt};

use crate::arguments::Arguments;
use crate::{Usage, json};

/// Pause between two updates of the progress bar.
const PROGRESS: Duration = Duration::from_millis(500);
/// Pause between two lines of progress where nobody looks on.
const PROGRESS_LINES: Duration = Duration::from_secs(60);
/// Threads at most: more than any machine has processors for.
const MOST_JOBS: u64 = 256;
/// Width of the progress bar, in characters.
const WIDTH: u64 = 30;

/// What all runs came to.
#[derive(Default)]
struct Total {
    results: BTreeMap<u64, (TraceHash, Option<Failure>)>,
    events: u64,
    virtual_nanos: u64,
    faults: BTreeMap<&'static str, u64>,
    situations: BTreeMap<String, u64>,
}

impl Total {
    fn add(&mut self, seed: u64, result: Result<(), Failure>, report: RunReport) {
        self.results.insert(seed, (report.hash, result.err()));
        self.events += report.events;
        self.virtual_nanos += report.virtual_nanos;
        for (name, count) in report.faults {
            *self.faults.entry(name).or_default() += count;
        }
        for (name, count) in report.situations {
            *self.situations.entry(name).or_default() += count;
        }
    }

    fn failures(&self) -> usize {
        self.results.values().filter(|(_, failure)| failure.is_some()).count()
    }
}

#[allow(clippy::disallowed_methods, reason = "speed is measured in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn command(arguments: &Arguments) -> Result<bool, Usage> {
    let seeds = arguments.seeds(100)?;
    let (start, count) = (*seeds.start(), seeds.end() - seeds.start() + 1);
    let (nodes, profile) = (arguments.nodes()?, arguments.profile()?);
    let jobs = arguments.count("jobs", 1)?;
    if jobs > MOST_JOBS {
        return Err(Usage(format!("--jobs {jobs}: at most {MOST_JOBS}")));
    }
    let required = arguments.number("require", 0)?;
    let began = now();
    let next = AtomicU64::new(0);
    let total = Mutex::new(Total::default());
    let shown = Mutex::new(began);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    let seed = start + at;
                    let setting = Setting::draw(seed, nodes.clone(), profile.clone());
                    let (result, report) = attempt(Seed::new(seed), &|seed| notes::run(seed, &setting));
                    if let Err(failure) = &result {
                        erase();
                        say!("{failure}\n  {}", replay_line(arguments, seed));
                    }
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    total.add(seed, result, report);
                    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                    let pause = if std::io::stderr().is_terminal() { PROGRESS } else { PROGRESS_LINES };
                    if shown.elapsed() > pause {
                        *shown = now();
                        progress(&total, count, began.elapsed());
                    }
                }
            });
        }
    });
    erase();
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    report(arguments, &total, count, began.elapsed());
    let missing = missing(&total, required);
    for (name, reached) in &missing {
        say!("the fault {name:?} was reached {reached} times only");
    }
    Ok(total.failures() == 0 && missing.is_empty())
}

/// Kinds of faults that were reached less often than is required.
fn missing(total: &Total, required: u64) -> Vec<(&'static str, u64)> {
    let reached = |name: &&'static str| (*name, total.faults.get(name).copied().unwrap_or(0));
    FAULTS.iter().map(reached).filter(|(_, reached)| *reached < required).collect()
}

pub(crate) fn replay_line(arguments: &Arguments, seed: u64) -> String {
    format!(
        "anabranch-sim replay --seed {seed} --nodes {} --profile {}",
        arguments.text("nodes").unwrap_or("3..5"),
        arguments.profile_name()
    )
}

fn erase() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

fn progress(total: &Total, count: u64, elapsed: Duration) {
    let done = total.results.len() as u64;
    let speed = done as f64 / elapsed.as_secs_f64();
    if !std::io::stderr().is_terminal() {
        eprintln!("{done}/{count} seeds, {speed:.1}/s, {} failed", total.failures());
        return;
    }
    let filled = (done * WIDTH / count.max(1)) as usize;
    let bar: String = "=".repeat(filled) + &" ".repeat(WIDTH as usize - filled);
    eprint!("\r\x1b[K[{bar}] {done}/{count} seeds, {speed:.1}/s, {} failed", total.failures());
    let _ = std::io::stderr().flush();
}

fn report(arguments: &Arguments, total: &Total, count: u64, elapsed: Duration) {
    let mut hash = TraceHash::default();
    for (seed, (trace, _)) in &total.results {
        hash.combine(*trace);
        if arguments.switch("hashes") {
            say!("seed {seed} trace {trace}");
        }
    }
    let (wall, simulated) = (elapsed.as_secs_f64(), total.virtual_nanos as f64 / 1e9);
    say!(
        "{count} seeds, {} failed, in {wall:.1} s: {:.1} seeds/s, {} events, {:.0} events/s, {:.0} times real time",
        total.failures(),
        count as f64 / wall,
        total.events,
        total.events as f64 / wall,
        simulated / wall,
    );
    say!("trace {hash}\nfaults:");
    for (name, count) in &total.faults {
        say!("  {count:>10}  {name}");
    }
    say!("situations:");
    for name in notes::SITUATIONS.iter().filter(|name| !total.situations.contains_key(**name)) {
        say!("       NEVER  {name}");
    }
    for (name, count) in &total.situations {
        say!("  {count:>10}  {name}");
    }
    if arguments.switch("json") {
        let counts = |(name, count): (&str, &u64)| (name.to_owned(), count.to_string());
        say!(
            "{}",
            json::object([
                ("seeds", count.to_string()),
                ("failures", total.failures().to_string()),
                ("events", total.events.to_string()),
                ("events_per_second", json::number(total.events as f64 / wall)),
                ("virtual_seconds", json::number(simulated)),
                ("wall_seconds", json::number(wall)),
                ("speedup", json::number(simulated / wall)),
                ("trace_hash", json::text(&hash.to_string())),
                ("faults", json::object(total.faults.iter().map(|(name, count)| counts((name, count))))),
                (
                    "situations",
                    json::object(total.situations.iter().map(|(name, count)| counts((name, count))))
                ),
            ])
        );
    }
}
