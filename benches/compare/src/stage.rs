//! One system on one stage of the work, in a process of its own; prints a line of [`Measure`] for each work.
//!
//! Processor time is that of all threads of the process, so of both sides, between the request to synchronise and its end: what
//! prepares the entries is not in it. Memory is the resident set of the process as the kernel counts it, at its highest during
//! that time, because C libraries (SQLite) do not allocate through Rust; the highest mark is reset before. Called by
//! `main` when the program is started with a hidden argument.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Handle};

use crate::Options;
use crate::systems::{Make, Outcome, SYSTEMS, System};

/// Each is a process of its own.
pub(crate) const STAGES: &[&str] = &["catchup", "difference", LIVE];
/// The stage that only systems with a network have.
pub(crate) const LIVE: &str = "live";

/// What one work came to. What was not measured is left out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measure {
    pub(crate) work: String,
    /// What of the system is measured, where there are several: empty, or words for its name.
    pub(crate) variant: String,
    /// Appends per second, where they come at a pace.
    pub(crate) rate: Option<usize>,
    pub(crate) entries: u64,
    pub(crate) cpu: Option<f64>,
    pub(crate) bytes: Option<u64>,
    pub(crate) trips: Option<f64>,
    /// Highest resident set, and how much above that at the beginning, in MB.
    pub(crate) peak_mb: Option<f64>,
    pub(crate) grown_mb: Option<f64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
}

pub(crate) fn run(options: &Options, name: &str, stage: &str, trips: bool) -> Outcome<()> {
    let spec = SYSTEMS.iter().find(|spec| spec.name == name).ok_or("no such system")?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let handle = runtime.handle();
    match (stage, spec.live) {
        ("catchup", _) => catchup(options, handle, spec.make, trips),
        ("difference", _) => difference(options, handle, spec.make, trips),
        (LIVE, Some(live)) => {
            for rate in &options.rates {
                for measure in live(handle, options.live_entries, *rate)? {
                    Measure { rate: Some(*rate), ..measure }.print();
                }
            }
            Ok(())
        }
        _ => Err("no such stage".into()),
    }
}

fn catchup(options: &Options, runtime: &Handle, make: Make, trips: bool) -> Outcome<()> {
    let mut system = make(runtime.clone(), options.authors, 1, trips)?;
    for author in 0..options.authors {
        system.append(author, &[(0, share(options.entries, author, options.authors))])?;
    }
    sync(&mut *system, "catchup", options.entries as u64, trips)
}

fn difference(options: &Options, runtime: &Handle, make: Make, trips: bool) -> Outcome<()> {
    let logs = options.authors * options.streams;
    let mut system = make(runtime.clone(), options.authors, options.streams, trips)?;
    for author in 0..options.authors {
        let parts: Vec<_> = (0..options.streams)
            .map(|stream| (stream, share(options.over, author * options.streams + stream, logs)))
            .collect();
        system.append(author, &parts)?;
    }
    sync(&mut *system, "catchup_many_logs", options.over as u64, trips)?;
    // Spread over all logs; more than there are logs begin again at the first one.
    let step = (logs / options.changed.max(1)).max(1);
    for author in 0..options.authors {
        let parts: Vec<_> = (0..options.changed)
            .map(|n| (n * step) % logs)
            .filter(|log| log / options.streams == author)
            .map(|log| (log % options.streams, 1))
            .collect();
        system.append(author, &parts)?;
    }
    sync(&mut *system, "difference", options.changed as u64, trips)?;
    sync(&mut *system, "nothing", 0, trips)
}

/// The share of one of so many.
fn share(all: usize, one: usize, of: usize) -> usize {
    all / of + usize::from(one < all % of)
}

fn sync(system: &mut dyn System, work: &str, entries: u64, trips: bool) -> Outcome<()> {
    let expected = system.held()? + entries;
    let probe = Probe::begin();
    let traffic = system.sync()?;
    let mut measure = probe.end(work, entries);
    measure.trips = traffic.trips;
    measure.bytes = Some(traffic.bytes);
    let after = system.held()?;
    if after != expected {
        return Err(format!("{work}: {after} entries held, expected {expected}").into());
    }
    if trips {
        // Only the round trips of this run are those of the work: its links have a delay.
        measure = Measure { work: work.into(), entries, trips: measure.trips, ..Measure::default() };
    }
    measure.print();
    Ok(())
}

/// Clocks and memory at the beginning of a work.
pub(crate) struct Probe {
    cpu: f64,
    resident: Option<f64>,
}

impl Probe {
    pub(crate) fn begin() -> Self {
        // Resets the highest mark; where that is not allowed, the mark is that of the whole process.
        let _refused_perhaps = std::fs::write("/proc/self/clear_refs", "5");
        Self { cpu: cpu_seconds(), resident: resident("VmRSS:") }
    }

    pub(crate) fn end(&self, work: &str, entries: u64) -> Measure {
        let cpu = cpu_seconds() - self.cpu;
        let peak = resident("VmHWM:");
        Measure {
            work: work.into(),
            entries,
            cpu: Some(cpu),
            peak_mb: peak,
            grown_mb: peak.zip(self.resident).map(|(peak, before)| (peak - before).max(0.0)),
            ..Measure::default()
        }
    }
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn resident(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

/// When an entry was written, as its first eight bytes say.
pub(crate) fn stamp(since: Instant, payload: &mut [u8]) {
    payload[..8].copy_from_slice(&(since.elapsed().as_nanos() as u64).to_le_bytes());
}

/// Microseconds since the stamp of a payload.
pub(crate) fn micros(since: Instant, payload: &[u8]) -> Option<f64> {
    let stamp = u64::from_le_bytes(payload.get(..8)?.try_into().ok()?);
    Some((since.elapsed().as_nanos() as u64).saturating_sub(stamp) as f64 / 1e3)
}

impl Measure {
    /// Puts in what so many latencies came to.
    pub(crate) fn latencies(mut self, mut micros: Vec<f64>) -> Self {
        micros.sort_by(f64::total_cmp);
        let at = |share: f64| {
            micros.get(((micros.len() as f64 * share) as usize).min(micros.len().max(1) - 1)).copied()
        };
        (self.p50_us, self.p99_us) = (at(0.5), at(0.99));
        self
    }

    fn print(&self) {
        fn word<T: Display>(value: Option<T>) -> String {
            value.map_or("-".into(), |value| value.to_string())
        }
        println!(
            "{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}",
            self.work,
            self.variant,
            word(self.rate),
            self.entries,
            word(self.cpu),
            word(self.bytes),
            word(self.trips),
            word(self.peak_mb),
            word(self.grown_mb),
            word(self.p50_us),
            word(self.p99_us)
        );
    }

    /// Reads a line that [`Self::print`] wrote.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        fn value<T: FromStr>(word: &str) -> Option<T> {
            word.parse().ok()
        }
        let words: Vec<&str> = line.split('|').collect();
        let [work, variant, rate, entries, cpu, bytes, trips, peak, grown, p50, p99] = words[..] else {
            return None;
        };
        Some(Self {
            work: work.into(),
            variant: variant.into(),
            rate: value(rate),
            entries: value(entries)?,
            cpu: value(cpu),
            bytes: value(bytes),
            trips: value(trips),
            peak_mb: value(peak),
            grown_mb: value(grown),
            p50_us: value(p50),
            p99_us: value(p99),
        })
    }
}
