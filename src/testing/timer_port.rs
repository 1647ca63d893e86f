//! Conformance suite of [`TimerPort`]: one check per clause of its contract.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use anabranch::testing::{ManualTimer, timer_port};
//! let timer = ManualTimer::new();
//! timer.run(timer_port::conformance(Arc::new(timer.clone()), Duration::from_millis(20)));
//! ```

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, join_all, select};
use futures::{FutureExt as _, join};

use crate::application::ports::TimerPort;
use crate::domain::time::Instant;

/// How often the clock is read in search of a step back.
const READINGS: usize = 10_000;
/// Threads that read the clock at once.
const THREADS: usize = 4;

/// Runs every check. `step` is the length of the short waits: long enough that the system's scheduler cannot
/// hide a wait that ends early, e.g. 20 ms. Takes about eight steps.
///
/// # Panics
/// If the timer breaks a clause; the message names it.
pub async fn conformance(timer: Arc<dyn TimerPort>, step: Duration) {
    let timer = &*timer;
    now_never_goes_back(timer);
    all_threads_see_one_clock(timer);
    a_deadline_in_the_past_returns_at_once(timer).await;
    a_wait_ends_at_or_after_its_deadline(timer, step).await;
    waits_end_in_the_order_of_their_deadlines(timer, step).await;
    a_dropped_wait_disturbs_no_other(timer, step).await;
    never_is_a_deadline_too(timer, step).await;
    the_wall_clock_is_readable(timer);
}

fn now_never_goes_back(timer: &dyn TimerPort) {
    let mut last = timer.now();
    for _ in 0..READINGS {
        let now = timer.now();
        assert!(now >= last, "`now` went back from {last:?} to {now:?}");
        last = now;
    }
}

fn all_threads_see_one_clock(timer: &dyn TimerPort) {
    let before = timer.now();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| assert!(timer.now() >= before, "another thread reads an earlier `now`"));
        }
    });
}

async fn a_deadline_in_the_past_returns_at_once(timer: &dyn TimerPort) {
    for deadline in [Instant::ZERO, timer.now()] {
        let ended = timer.sleep_until(deadline).now_or_never();
        assert!(ended.is_some(), "a wait for {deadline:?}, which has passed, did not return at once");
    }
}

async fn a_wait_ends_at_or_after_its_deadline(timer: &dyn TimerPort, step: Duration) {
    for wait in [Duration::from_nanos(1), step / 7, step] {
        let deadline = timer.now() + wait;
        timer.sleep_until(deadline).await;
        let now = timer.now();
        assert!(now >= deadline, "a wait ended {:?} early", deadline.since(now));
    }
}

async fn waits_end_in_the_order_of_their_deadlines(timer: &dyn TimerPort, step: Duration) {
    let (start, order) = (timer.now(), std::sync::Mutex::new(Vec::new()));
    let order = &order;
    let waits = [3, 1, 2].map(|steps| async move {
        timer.sleep_until(start + step * steps).await;
        if let Ok(mut order) = order.lock() {
            order.push(steps);
        }
    });
    join_all(waits).await;
    let order = order.lock().map(|order| order.clone()).unwrap_or_default();
    assert_eq!(order, [1, 2, 3], "waits, a step apart, ended in the wrong order");
}

async fn a_dropped_wait_disturbs_no_other(timer: &dyn TimerPort, step: Duration) {
    let deadline = timer.now() + step;
    let mut dropped = timer.sleep_until(deadline);
    let other = timer.sleep_until(deadline);
    assert!((&mut dropped).now_or_never().is_none(), "a wait of a step returned at once");
    let dropper = async move { drop(dropped) };
    join!(other, dropper);
    assert!(timer.now() >= deadline, "dropping a wait ended another one early");
}

async fn never_is_a_deadline_too(timer: &dyn TimerPort, step: Duration) {
    let never = pin!(timer.sleep_until(Instant::from_nanos(u64::MAX)));
    match select(never, timer.sleep_until(timer.now() + step)).await {
        Either::Left(_) => panic!("a wait for the end of the clock returned"),
        Either::Right(_) => (),
    }
}

fn the_wall_clock_is_readable(timer: &dyn TimerPort) {
    let unix = timer.wall().to_unix();
    assert!(!unix.is_zero(), "the wall clock reads the Unix epoch: it is not connected to anything");
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::super::ManualTimer;
    use super::*;
    use crate::domain::time::WallTime;

    const STEP: Duration = Duration::from_millis(20);

    #[test]
    fn the_manual_timer_conforms() {
        let timer = ManualTimer::new();
        timer.run(conformance(Arc::new(timer.clone()), STEP));
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn the_system_timer_conforms() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let timer = crate::infrastructure::system_timer::SystemTimer::new();
        runtime.block_on(conformance(Arc::new(timer), STEP));
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Fault {
        GoesBack,
        ReturnsEarly,
        PastWaits,
        NeverReturns,
        NoWallClock,
    }

    struct Broken {
        timer: ManualTimer,
        fault: Fault,
        readings: std::sync::atomic::AtomicU64,
    }

    #[async_trait]
    impl TimerPort for Broken {
        fn now(&self) -> Instant {
            let readings = self.readings.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let back = if self.fault == Fault::GoesBack { readings % 2 } else { 0 };
            Instant::from_nanos((self.timer.now().as_nanos() + 1) - back)
        }

        fn wall(&self) -> WallTime {
            if self.fault == Fault::NoWallClock { WallTime::EPOCH } else { self.timer.wall() }
        }

        async fn sleep_until(&self, deadline: Instant) {
            let (now, hour) = (self.timer.now(), Duration::from_secs(3600));
            let deadline = match self.fault {
                Fault::ReturnsEarly => now + deadline.since(now) / 2,
                Fault::PastWaits => (now + Duration::from_nanos(1)).max(deadline),
                Fault::NeverReturns if deadline > now + hour => now,
                _ => deadline,
            };
            self.timer.sleep_until(deadline).await;
        }
    }

    #[test]
    fn every_planted_fault_is_found() {
        use Fault::*;
        for fault in [GoesBack, ReturnsEarly, PastWaits, NeverReturns, NoWallClock] {
            let timer = ManualTimer::new();
            timer.advance(Duration::from_secs(1));
            let broken = Arc::new(Broken { timer: timer.clone(), fault, readings: Default::default() });
            let run = std::panic::AssertUnwindSafe(|| timer.run(conformance(broken, STEP)));
            assert!(std::panic::catch_unwind(run).is_err(), "{fault:?} went unnoticed");
        }
    }
}
