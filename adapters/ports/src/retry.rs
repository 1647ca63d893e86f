//! Repeated `connect` with growing pauses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch::{LinkId, MessagePort, PeerAddr, PortError, TimerPort};
use async_trait::async_trait;
use backon::{BackoffBuilder as _, ExponentialBuilder};

use crate::layer::Layer;

/// How often, and after which pauses. Each pause is up to twice as long at random, so that many do not dial in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    times: usize,
    first: Duration,
    longest: Duration,
    seed: u64,
}

impl Default for Retry {
    /// Three further attempts, after 100 ms, 200 ms and 400 ms (guess: a restart of the other end, a change of network).
    fn default() -> Self {
        Self { times: 3, first: Duration::from_millis(100), longest: Duration::from_secs(30), seed: 0 }
    }
}

impl Retry {
    /// Attempts after the first one.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// The first pause; each further one is twice as long.
    #[must_use]
    pub fn first(self, pause: Duration) -> Self {
        Self { first: pause, ..self }
    }

    /// The longest pause, 30 s by default.
    #[must_use]
    pub fn longest(self, pause: Duration) -> Self {
        Self { longest: pause, ..self }
    }

    /// Seed of the random part of pauses. Give each node another one.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }
}

/// Repeats a `connect` that found nobody ([`PortError::Unreachable`]); what repeating cannot cure is returned at once. See
/// [`PortExt::retrying`](crate::PortExt::retrying).
pub struct Retrying {
    timer: Arc<dyn TimerPort>,
    how: Retry,
    /// Also tells the jitter of one series of attempts from that of the next.
    series: AtomicU64,
    again: AtomicU64,
    recovered: AtomicU64,
    given_up: AtomicU64,
}

impl Retrying {
    /// Attempts as `how` says.
    pub fn new(timer: &Arc<dyn TimerPort>, how: Retry) -> Self {
        let zero = || AtomicU64::new(0);
        let timer = Arc::clone(timer);
        Self { timer, how, series: zero(), again: zero(), recovered: zero(), given_up: zero() }
    }
}

#[async_trait]
impl Layer for Retrying {
    async fn connect(&self, port: &dyn MessagePort, address: &PeerAddr) -> Result<LinkId, PortError> {
        let series = self.series.fetch_add(1, Ordering::Relaxed);
        let mut pauses = ExponentialBuilder::new()
            .with_min_delay(self.how.first)
            .with_max_delay(self.how.longest)
            .with_max_times(self.how.times)
            .with_jitter()
            .with_jitter_seed(self.how.seed.wrapping_add(series))
            .build();
        let mut repeated = false;
        loop {
            let error = match port.connect(address).await {
                Err(error @ PortError::Unreachable { .. }) => error,
                outcome => {
                    if repeated && outcome.is_ok() {
                        self.recovered.fetch_add(1, Ordering::Relaxed);
                    }
                    return outcome;
                }
            };
            let Some(pause) = pauses.next() else {
                self.given_up.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            };
            repeated = true;
            self.again.fetch_add(1, Ordering::Relaxed);
            self.timer.sleep_until(self.timer.now() + pause).await;
        }
    }

    fn figures(&self) -> BTreeMap<&'static str, u64> {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BTreeMap::from([
            ("retry.attempts_again", value(&self.again)),
            ("retry.recovered", value(&self.recovered)),
            ("retry.given_up", value(&self.given_up)),
        ])
    }
}

impl std::fmt::Debug for Retrying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retrying").field("how", &self.how).finish_non_exhaustive()
    }
}
