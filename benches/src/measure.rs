//! Time, CPU time and memory of this process.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    wall: Instant,
    cpu: f64,
}

impl Clocks {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
    pub(crate) fn now() -> Self {
        Self { wall: Instant::now(), cpu: cpu_seconds() }
    }

    /// Wall time and CPU seconds since, of all threads.
    pub(crate) fn elapsed(self) -> (Duration, f64) {
        let now = Self::now();
        (now.wall - self.wall, now.cpu - self.cpu)
    }
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Bytes allocated at this moment.
pub(crate) fn allocated() -> usize {
    crate::HEAP.current_usage()
}

/// Forgets the peak so far; bytes allocated at this moment.
pub(crate) fn reset_peak() -> usize {
    crate::HEAP.reset_peak_usage();
    allocated()
}

/// The most bytes allocated at once since [`reset_peak`].
pub(crate) fn peak() -> usize {
    crate::HEAP.peak_usage()
}

/// Processes that wanted to run, averaged over a minute: figures in wall time mean little when it is high.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// The figure below which `share` of the figures are.
pub(crate) fn quantile(figures: &mut [f64], share: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    let at = ((figures.len() as f64 * share) as usize).min(figures.len().saturating_sub(1));
    figures.get(at).copied().unwrap_or(0.0)
}
