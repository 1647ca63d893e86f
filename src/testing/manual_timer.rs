//! A clock that stands still until a test moves it.
//!
//! Tests hand it to whatever takes a [`TimerPort`]; [`ManualTimer::run`] drives a future on it and jumps over
//! every wait, so that a test of an hour takes no time. It never reads the system's clock.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use async_trait::async_trait;

use crate::application::ports::TimerPort;
use crate::domain::time::{Instant, WallTime};

/// Wall time of a new timer, in seconds since the Unix epoch: 2026-01-01, a date on which nothing is special.
const START_SECS: u64 = 1_767_225_600;

/// A [`TimerPort`] advanced by hand. Clones share the clock.
///
/// ```
/// use std::time::Duration;
/// use anabranch::{application::ports::TimerPort, testing::ManualTimer};
/// let timer = ManualTimer::new();
/// let start = timer.now();
/// timer.run(timer.sleep_until(start + Duration::from_secs(3600)));
/// assert_eq!(timer.now().since(start), Duration::from_secs(3600));
/// ```
#[derive(Debug, Clone, Default)]
pub struct ManualTimer {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    now: Instant,
    wall: Duration,
    next_sleeper: u64,
    /// By deadline, then in the order in which they fell asleep.
    sleepers: BTreeMap<(Instant, u64), Waker>,
}

impl Default for State {
    fn default() -> Self {
        let wall = Duration::from_secs(START_SECS);
        Self { now: Instant::ZERO, wall, next_sleeper: 0, sleepers: BTreeMap::new() }
    }
}

impl ManualTimer {
    /// A timer at the start of its clock, on 1 January 2026.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves both clocks on and wakes whoever's deadline was reached, the earliest first.
    pub fn advance(&self, by: Duration) {
        let target = self.now() + by;
        self.advance_to(target);
    }

    /// Moves both clocks on to `target` and wakes whoever's deadline was reached, the earliest first. A target
    /// in the past changes nothing.
    pub fn advance_to(&self, target: Instant) {
        loop {
            let mut state = self.lock();
            let Some(sleeper) = state.sleepers.first_entry().filter(|sleeper| sleeper.key().0 <= target)
            else {
                return state.move_to(target);
            };
            let deadline = sleeper.key().0;
            let waker = sleeper.remove();
            state.move_to(deadline);
            // A waker may run anything: not under our lock.
            drop(state);
            waker.wake();
        }
    }

    /// Moves both clocks on to the earliest deadline that somebody waits for. `false` if nobody waits.
    pub fn advance_to_next(&self) -> bool {
        let next = self.lock().sleepers.first_key_value().map(|((deadline, _), _)| *deadline);
        next.map(|deadline| self.advance_to(deadline)).is_some()
    }

    /// Sets the wall clock, as a user or a time server does. The monotonic clock does not notice.
    pub fn set_wall(&self, since_epoch: Duration) {
        self.lock().wall = since_epoch;
    }

    /// How many wait.
    pub fn sleepers(&self) -> usize {
        self.lock().sleepers.len()
    }

    /// Drives `future` to its end in this thread and moves the clock on whenever it only waits.
    ///
    /// # Panics
    /// If the future waits for something else than this timer and nothing wakes it: it would never end.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(flag.clone());
        loop {
            while flag.0.swap(false, Ordering::AcqRel) {
                if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return result;
                }
            }
            assert!(self.advance_to_next(), "the future waits for something that never happens");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn move_to(&mut self, target: Instant) {
        self.wall = self.wall.saturating_add(target.since(self.now));
        self.now = self.now.max(target);
    }
}

/// Remembers that somebody woke the future.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

#[async_trait]
impl TimerPort for ManualTimer {
    fn now(&self) -> Instant {
        self.lock().now
    }

    fn wall(&self) -> WallTime {
        WallTime::from_unix(self.lock().wall)
    }

    async fn sleep_until(&self, deadline: Instant) {
        Sleep { timer: self.clone(), deadline, place: None }.await;
    }
}

/// A wait, which gives up its place when dropped.
struct Sleep {
    timer: ManualTimer,
    deadline: Instant,
    place: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.clone();
        let mut state = timer.lock();
        if state.now >= self.deadline {
            return Poll::Ready(());
        }
        let place = *self.place.get_or_insert_with(|| {
            state.next_sleeper += 1;
            state.next_sleeper
        });
        state.sleepers.insert((self.deadline, place), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.timer.lock().sleepers.remove(&(self.deadline, place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleepers_wake_in_the_order_of_their_deadlines() {
        let timer = ManualTimer::new();
        let order = Mutex::new(Vec::new());
        let sleep = async |secs| {
            timer.sleep_until(Instant::ZERO + Duration::from_secs(secs)).await;
            order.lock().unwrap().push((secs, timer.now().since(Instant::ZERO).as_secs()));
        };
        timer.run(async { futures::join!(sleep(3), sleep(1), sleep(2)) });
        assert_eq!(*order.lock().unwrap(), [(1, 1), (2, 2), (3, 3)]);
    }

    #[test]
    fn a_dropped_sleep_gives_up_its_place() {
        let timer = ManualTimer::new();
        let mut sleep = timer.sleep_until(Instant::ZERO + Duration::from_secs(1));
        assert!(futures::FutureExt::now_or_never(&mut sleep).is_none());
        assert_eq!(timer.sleepers(), 1);
        drop(sleep);
        assert_eq!((timer.sleepers(), timer.advance_to_next()), (0, false));
    }

    #[test]
    fn the_wall_clock_can_jump_without_the_monotonic_one() {
        let timer = ManualTimer::new();
        timer.advance(Duration::from_secs(5));
        assert_eq!(timer.wall().to_unix(), Duration::from_secs(START_SECS + 5));
        timer.set_wall(Duration::from_secs(1));
        assert_eq!((timer.wall().to_unix(), timer.now().as_nanos()), (Duration::from_secs(1), 5_000_000_000));
    }

    #[test]
    #[should_panic(expected = "never happens")]
    fn a_future_that_can_never_end_is_reported() {
        ManualTimer::new().run(std::future::pending::<()>());
    }
}
