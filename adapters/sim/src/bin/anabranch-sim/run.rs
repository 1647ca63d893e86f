//! `run`: many seeds.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
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
/// A run that takes longer than this in real time may be one that never ends: it is named, and again after as long.
const LONG: Duration = Duration::from_secs(60);
/// Long runs that one line names.
const MOST_NAMED: usize = 5;
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
    let running = Running::default();
    let (done, results) = mpsc::channel();
    let job = |done: mpsc::Sender<_>| {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return;
            }
            let seed = start + at;
            let setting = Setting::draw(seed, nodes.clone(), profile.clone());
            running.begins(seed);
            let (result, report) = attempt(Seed::new(seed), &|seed| notes::run(seed, &setting));
            running.ends(seed);
            if done.send((seed, result, report)).is_err() {
                return;
            }
        }
    };
    let mut total = Total::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (job, done) = (&job, done.clone());
            scope.spawn(move || job(done));
        }
        drop(done);
        let pause = if std::io::stderr().is_terminal() { PROGRESS } else { PROGRESS_LINES };
        let (mut shown, mut named) = (began, began);
        loop {
            let wait = pause.saturating_sub(shown.elapsed()).min(LONG.saturating_sub(named.elapsed()));
            match results.recv_timeout(wait) {
                Ok((seed, result, report)) => {
                    if let Err(failure) = &result {
                        erase();
                        say!("{failure}\n  {}", replay_line(arguments, seed));
                    }
                    total.add(seed, result, report);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if named.elapsed() >= LONG {
                named = now();
                if let Some(line) = running.long(named) {
                    erase();
                    eprintln!("{line}");
                }
            }
            if shown.elapsed() >= pause {
                shown = now();
                progress(&total, count, began.elapsed());
            }
        }
    });
    erase();
    report(arguments, &total, count, began.elapsed(), required);
    Ok(total.failures() == 0 && missing(&total, required).is_empty())
}

/// The seeds that run right now, and since when.
#[derive(Default)]
struct Running(Mutex<BTreeMap<u64, Instant>>);

impl Running {
    fn begins(&self, seed: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(seed, now());
    }

    fn ends(&self, seed: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&seed);
    }

    /// Names the seeds that have been running for long, the longest first.
    fn long(&self, now: Instant) -> Option<String> {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let times = running.iter().map(|(seed, since)| (now.duration_since(*since), *seed));
        let mut long: Vec<(Duration, u64)> = times.filter(|(time, _)| *time > LONG).collect();
        long.sort_by_key(|(time, seed)| (std::cmp::Reverse(*time), *seed));
        let named = long.iter().take(MOST_NAMED);
        let named: Vec<String> =
            named.map(|(time, seed)| format!("seed {seed} ({} s)", time.as_secs())).collect();
        let more = long.len() - named.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!named.is_empty()).then(|| format!("running for more than a minute: {}{more}", named.join(", ")))
    }
}

/// Kinds of faults that were reached less often than is required.
fn missing(total: &Total, required: u64) -> Vec<(&'static str, u64)> {
    let reached = |name: &&'static str| (*name, total.faults.get(name).copied().unwrap_or(0));
    FAULTS.iter().map(reached).filter(|(_, reached)| *reached < required).collect()
}

/// The command that runs a seed again, with every option that decides what it does.
pub(crate) fn replay_line(arguments: &Arguments, seed: u64) -> String {
    let mutant = arguments.text("mutant").map(|name| format!(" --mutant {name}")).unwrap_or_default();
    format!(
        "anabranch-sim replay --seed {seed} --nodes {} --profile {}{mutant}",
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

fn report(arguments: &Arguments, total: &Total, count: u64, elapsed: Duration, required: u64) {
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
    // Calm runs have none.
    let least = u64::from(arguments.profile_name() != "calm");
    for (name, _) in missing(total, least) {
        say!("       NEVER  {name}");
    }
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
    for (name, reached) in missing(total, required) {
        say!("the fault {name:?} was reached {reached} times: fewer than --require {required}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_line_has_every_option_that_decides_the_run() {
        let words = "--nodes 4 --profile disk --mutant StampsRepeat --seeds 9 --jobs 2 --json";
        let Ok(arguments) = Arguments::parse(words.split(' ').map(str::to_owned)) else { panic!("{words}") };
        let line = "anabranch-sim replay --seed 7 --nodes 4 --profile disk --mutant StampsRepeat";
        assert_eq!(replay_line(&arguments, 7), line);
    }

    #[test]
    fn seeds_that_run_for_long_are_named_the_longest_first() {
        let running = Running::default();
        let began = now();
        let later = began + LONG * 3;
        running.begins(7);
        running.ends(7);
        assert_eq!(running.long(later), None);
        let after = |seed: u64| if seed == 6 { Duration::ZERO } else { LONG };
        running.0.lock().unwrap().extend((0..7).map(|seed| (seed, began + after(seed))));
        running.0.lock().unwrap().insert(8, later - LONG);
        let line = "running for more than a minute: seed 6 (180 s), seed 0 (120 s), seed 1 (120 s), seed 2 (120 s), \
                    seed 3 (120 s) and 2 more";
        assert_eq!(running.long(later).as_deref(), Some(line));
    }
}
