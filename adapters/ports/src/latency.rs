//! How long sending takes, and how long links stay full.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anabranch::{Instant, LinkId, MessagePort, PortError, PortEvent, Priority, SendError, TimerPort};
use async_trait::async_trait;
use bytes::Bytes;
use hdrhistogram::Histogram;

use crate::layer::Layer;

/// Digits that a histogram keeps: an error of one in a hundred, in 20 KiB at most for what a duration can be.
const DIGITS: u8 = 2;
/// Longest duration told apart, in nanoseconds: an hour.
const LONGEST: u64 = 3_600_000_000_000;

/// Durations in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencySnapshot {
    /// How many.
    pub count: u64,
    /// Half of them took at most so long.
    pub p50: Duration,
    /// All but one in a hundred took at most so long.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl LatencySnapshot {
    fn of(histogram: &Histogram<u64>) -> Self {
        let nanos = |value| if histogram.is_empty() { Duration::ZERO } else { Duration::from_nanos(value) };
        Self {
            count: histogram.len(),
            p50: nanos(histogram.value_at_quantile(0.5)),
            p99: nanos(histogram.value_at_quantile(0.99)),
            max: nanos(histogram.max()),
        }
    }
}

struct State {
    sends: Histogram<u64>,
    stalls: Histogram<u64>,
    full: u64,
    /// Since when links are full.
    since: BTreeMap<LinkId, Instant>,
}

/// Measures `try_send`, and the time from `Full` to `Writable`. See [`PortExt::measured`](crate::PortExt::measured).
pub struct Latency {
    timer: Arc<dyn TimerPort>,
    state: Mutex<State>,
}

impl Latency {
    /// Nothing measured yet.
    pub fn new(timer: &Arc<dyn TimerPort>) -> Self {
        let histogram = || {
            Histogram::new_with_max(LONGEST, DIGITS)
                .expect("the bounds are constants within the crate's limits")
        };
        let state = State { sends: histogram(), stalls: histogram(), full: 0, since: BTreeMap::new() };
        Self { timer: Arc::clone(timer), state: Mutex::new(state) }
    }

    /// How long `try_send` took, refusals included: the port promises not to wait.
    pub fn sends(&self) -> LatencySnapshot {
        LatencySnapshot::of(&self.state().sends)
    }

    /// How long links were full, as far as they have room again.
    pub fn stalls(&self) -> LatencySnapshot {
        LatencySnapshot::of(&self.state().stalls)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Layer for Latency {
    fn try_send(
        &self,
        port: &dyn MessagePort,
        to: LinkId,
        frame: Bytes,
        priority: Priority,
    ) -> Result<(), SendError> {
        let began = self.timer.now();
        let outcome = port.try_send(to, frame, priority);
        let ended = self.timer.now();
        let mut state = self.state();
        state.sends.saturating_record(nanos(ended.since(began)));
        if outcome == Err(SendError::Full) {
            state.full += 1;
            state.since.entry(to).or_insert(ended);
        }
        outcome
    }

    async fn recv(&self, port: &dyn MessagePort) -> Result<PortEvent, PortError> {
        let event = port.recv().await?;
        let mut state = self.state();
        match &event {
            PortEvent::Writable { link } => {
                if let Some(since) = state.since.remove(link) {
                    state.stalls.saturating_record(nanos(self.timer.now().since(since)));
                }
            }
            PortEvent::Down { link, .. } => drop(state.since.remove(link)),
            _ => {}
        }
        drop(state);
        Ok(event)
    }

    fn figures(&self) -> BTreeMap<&'static str, u64> {
        let (sends, stalls) = (self.sends(), self.stalls());
        BTreeMap::from([
            ("latency.sends", sends.count),
            ("latency.send_p50_ns", nanos(sends.p50)),
            ("latency.send_p99_ns", nanos(sends.p99)),
            ("latency.send_max_ns", nanos(sends.max)),
            ("latency.full", self.state().full),
            ("latency.stalls", stalls.count),
            ("latency.stall_p50_ns", nanos(stalls.p50)),
            ("latency.stall_p99_ns", nanos(stalls.p99)),
            ("latency.stall_max_ns", nanos(stalls.max)),
        ])
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl std::fmt::Debug for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Latency").field("sends", &self.sends()).finish_non_exhaustive()
    }
}
