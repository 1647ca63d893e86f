//! No more than so much per second on each link.
//!
//! `governor`'s GCRA decides, on the time of the timer. What this module adds is the contract: a refusal is `Full`, and exactly one
//! `Writable` follows it, whoever refused, the limit or the port.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anabranch::{Instant, LinkId, MessagePort, PortError, PortEvent, Priority, SendError, TimerPort};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{Either, select};
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::Notify;

use crate::layer::Layer;

/// The highest rate: one unit per nanosecond is what the algorithm tells apart.
const MOST_PER_SECOND: u32 = 1_000_000_000;

/// How much per second, on each link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    per_second: u32,
    burst: u32,
    bytes: bool,
}

impl RateLimit {
    /// So many bytes per second, up to 10^9, in bursts of as many: a link that was idle may send a second's worth at once.
    pub const fn bytes_per_second(bytes: u32) -> Self {
        let per_second = match bytes {
            0 => 1,
            1..MOST_PER_SECOND => bytes,
            _ => MOST_PER_SECOND,
        };
        Self { per_second, burst: per_second, bytes: true }
    }

    /// So many frames per second, in bursts of as many.
    pub const fn frames_per_second(frames: u32) -> Self {
        Self { bytes: false, ..Self::bytes_per_second(frames) }
    }

    /// How much a link that was idle may send at once. Never less than one frame of the port's largest size.
    #[must_use]
    pub fn burst(self, burst: u32) -> Self {
        Self { burst: burst.max(1), ..self }
    }
}

/// The timer, as `governor` wants it: time since its start.
#[derive(Clone)]
struct PortClock(Arc<dyn TimerPort>);

impl Clock for PortClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.now().since(Instant::ZERO)
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, PortClock, NoOpMiddleware<Duration>>;

/// A link that is up.
struct Link {
    limiter: Limiter,
    owed: Owed,
}

/// The `Writable` that a link is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    Nothing,
    /// By the limit, at this time.
    At(Instant),
    /// By the port within.
    ByPort,
}

/// Sends no faster than it may. See [`PortExt::rate_limited`](crate::PortExt::rate_limited).
///
/// A frame that the port within then refuses has used up its share. Both priorities count and wait alike.
pub struct RateLimited {
    timer: Arc<dyn TimerPort>,
    quota: Quota,
    bytes: bool,
    max_frame: usize,
    state: Mutex<State>,
    /// Something is owed, perhaps sooner than `recv` thinks.
    news: Notify,
}

#[derive(Default)]
struct State {
    links: BTreeMap<LinkId, Link>,
    refused: u64,
}

impl RateLimited {
    /// A limit for a port whose frames are at most `max_frame` bytes.
    pub fn new(timer: &Arc<dyn TimerPort>, limit: RateLimit, max_frame: usize) -> Self {
        let one = if limit.bytes { u32::try_from(max_frame).unwrap_or(u32::MAX) } else { 1 };
        let positive = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(positive(limit.per_second)).allow_burst(positive(limit.burst.max(one)));
        let (state, news) = (Mutex::default(), Notify::new());
        Self { timer: Arc::clone(timer), quota, bytes: limit.bytes, max_frame, state, news }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `Writable` that is due, or when the next one will be.
    fn due(&self) -> Result<PortEvent, Option<Instant>> {
        let now = self.timer.now();
        let mut state = self.state();
        let mut first = None;
        for (link, Link { owed, .. }) in &mut state.links {
            match *owed {
                Owed::At(at) if at <= now => {
                    *owed = Owed::Nothing;
                    return Ok(PortEvent::Writable { link: *link });
                }
                Owed::At(at) => first = Some(first.map_or(at, |first: Instant| first.min(at))),
                _ => {}
            }
        }
        Err(first)
    }

    /// Whether the application gets to see an event of the port within.
    fn passes(&self, event: &PortEvent) -> bool {
        let mut state = self.state();
        match event {
            PortEvent::Up { link, .. } => {
                let limiter = RateLimiter::direct_with_clock(self.quota, PortClock(Arc::clone(&self.timer)));
                state.links.insert(*link, Link { limiter, owed: Owed::Nothing });
                true
            }
            PortEvent::Down { link, .. } => {
                state.links.remove(link);
                true
            }
            PortEvent::Writable { link } => match state.links.get_mut(link) {
                // It follows when the limit allows: one is enough.
                Some(Link { owed: Owed::At(_), .. }) => false,
                Some(link) => {
                    link.owed = Owed::Nothing;
                    true
                }
                None => true,
            },
            PortEvent::Frame { .. } => true,
        }
    }
}

#[async_trait]
impl Layer for RateLimited {
    fn try_send(
        &self,
        port: &dyn MessagePort,
        to: LinkId,
        frame: Bytes,
        priority: Priority,
    ) -> Result<(), SendError> {
        if frame.len() > self.max_frame {
            return Err(SendError::TooLarge);
        }
        let cost = if self.bytes { u32::try_from(frame.len()).unwrap_or(u32::MAX) } else { 1 };
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(link) = state.links.get_mut(&to) else {
            drop(guard);
            // Not up as far as was told: the port within knows what to say.
            return port.try_send(to, frame, priority);
        };
        if let Some(cost) = NonZeroU32::new(cost)
            && let Ok(Err(not_until)) = link.limiter.check_n(cost)
        {
            state.refused += 1;
            if link.owed == Owed::Nothing {
                let now = self.timer.now();
                link.owed = Owed::At(now + not_until.wait_time_from(now.since(Instant::ZERO)));
                self.news.notify_one();
            }
            return Err(SendError::Full);
        }
        // Under the lock, so that the port's own `Writable` cannot overtake what is noted here.
        let outcome = port.try_send(to, frame, priority);
        if outcome == Err(SendError::Full) {
            link.owed = Owed::ByPort;
        }
        outcome
    }

    async fn recv(&self, port: &dyn MessagePort) -> Result<PortEvent, PortError> {
        loop {
            let due = match self.due() {
                Ok(writable) => return Ok(writable),
                Err(due) => due,
            };
            let waited = async {
                let news = std::pin::pin!(self.news.notified());
                match due {
                    Some(due) => drop(select(news, self.timer.sleep_until(due)).await),
                    None => news.await,
                }
            };
            // Dropping the wait of the port within loses nothing: its contract.
            let event = match select(port.recv(), std::pin::pin!(waited)).await {
                Either::Left((event, _)) => event?,
                Either::Right(_) => continue,
            };
            if self.passes(&event) {
                return Ok(event);
            }
        }
    }

    fn figures(&self) -> BTreeMap<&'static str, u64> {
        let state = self.state();
        let waiting = state.links.values().filter(|link| matches!(link.owed, Owed::At(_))).count();
        BTreeMap::from([("rate_limit.refused", state.refused), ("rate_limit.waiting", waiting as u64)])
    }
}

impl std::fmt::Debug for RateLimited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RateLimited").field("quota", &self.quota).finish_non_exhaustive()
    }
}
