//! Time, CPU time and memory of this process.

use std::time::{Duration, Instant};

/// Ticks of `/proc/self/stat` per second: fixed on Linux.
const TICKS: f64 = 100.0;

/// Clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    wall: Instant,
    cpu: f64,
}

impl Clocks {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
    pub(crate) fn now() -> Self {
        Self { wall: Instant::now(), cpu: cpu_seconds().unwrap_or(0.0) }
    }

    /// Wall time and CPU seconds since.
    pub(crate) fn elapsed(self) -> (Duration, f64) {
        let now = Self::now();
        (now.wall - self.wall, now.cpu - self.cpu)
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name, in brackets, may contain anything: count fields after it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / TICKS)
}

/// Peak memory of this process so far, in MB.
pub(crate) fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = line.and_then(|line| line.split_whitespace().next()).and_then(|kb| kb.parse::<f64>().ok());
    kb.unwrap_or(0.0) / 1024.0
}

/// The middle of some figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}
