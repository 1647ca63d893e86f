//! The clocks of one simulated device, as functions of the world's true time.
//!
//! The monotonic clock runs at a rate of its own and never goes back. The wall clock follows it at an offset
//! that faults change, and may stand still. Plain arithmetic; the timer port and the invariants ask it.

use std::time::Duration;

use anabranch::{Instant, WallTime};

/// Where true time starts on the wall: 2026-01-01 00:00:00 UTC, in seconds since the Unix epoch.
const WALL_START_SECONDS: i128 = 1_767_225_600;
/// Nanoseconds in a second.
const SECOND: i128 = 1_000_000_000;
/// Parts in a million.
const MILLION: u128 = 1_000_000;
/// Fastest deviation of a crystal that is modelled: 10 %, far beyond any real one.
const MAX_PPM: i64 = 100_000;
/// The latest second that a wall clock can show (2106).
const LAST_SECOND: i128 = u32::MAX as i128;

/// The clocks of one device.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    local_base: u64,
    true_base: u64,
    ppm: i64,
    wall_offset: i128,
    frozen: Option<WallTime>,
}

impl Clock {
    pub(crate) fn new(skew: Duration, behind: bool, ppm: i64) -> Self {
        let skew = i128::try_from(skew.as_nanos()).unwrap_or(i128::MAX);
        let wall_offset = WALL_START_SECONDS * SECOND + if behind { -skew } else { skew };
        Self { local_base: 0, true_base: 0, ppm: ppm.clamp(-MAX_PPM, MAX_PPM), wall_offset, frozen: None }
    }

    fn rate(&self) -> u128 {
        u128::try_from(MILLION as i128 + i128::from(self.ppm)).unwrap_or(MILLION)
    }

    /// The monotonic clock at a true time.
    pub(crate) fn monotonic(&self, now: u64) -> Instant {
        let passed = u128::from(now.saturating_sub(self.true_base));
        let local = if self.ppm == 0 { passed } else { passed * self.rate() / MILLION };
        Instant::from_nanos(self.local_base.saturating_add(u64::try_from(local).unwrap_or(u64::MAX)))
    }

    /// The first true time at which the monotonic clock shows at least `local`, at the present rate.
    pub(crate) fn true_time(&self, local: Instant) -> u64 {
        let ahead = u128::from(local.as_nanos().saturating_sub(self.local_base));
        let passed = if self.ppm == 0 { ahead } else { (ahead * MILLION).div_ceil(self.rate()) };
        self.true_base.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// The wall clock at a true time.
    pub(crate) fn wall(&self, now: u64) -> WallTime {
        if let Some(frozen) = self.frozen {
            return frozen;
        }
        let nanos = i128::from(self.monotonic(now).as_nanos()) + self.wall_offset;
        let nanos = nanos.clamp(0, LAST_SECOND * SECOND);
        WallTime::from_unix(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Changes the rate from `now` on; time goes on from where it is.
    pub(crate) fn set_drift(&mut self, now: u64, ppm: i64) {
        self.local_base = self.monotonic(now).as_nanos();
        self.true_base = now;
        self.ppm = ppm.clamp(-MAX_PPM, MAX_PPM);
    }

    /// Moves the wall clock by so many seconds.
    pub(crate) fn jump(&mut self, seconds: i64) {
        self.wall_offset += i128::from(seconds) * SECOND;
    }

    /// Stops the wall clock, or lets it go on from where it would be.
    pub(crate) fn freeze(&mut self, now: u64, freeze: bool) {
        self.frozen = None;
        if freeze {
            self.frozen = Some(self.wall(now));
        }
    }

    /// Ends everything that a fault did: true rate, true wall time.
    pub(crate) fn repair(&mut self, now: u64) {
        self.set_drift(now, 0);
        self.frozen = None;
        let shown = i128::from(self.local_base);
        self.wall_offset = WALL_START_SECONDS * SECOND + i128::from(now) - shown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drifting_clock_never_goes_back_and_its_deadlines_are_met() {
        let mut clock = Clock::new(Duration::from_secs(5), true, 300);
        let mut last = Instant::ZERO;
        for step in 0..1_000_u64 {
            let now = step * 7_777_777;
            if step % 100 == 0 {
                clock.set_drift(now, step as i64 - 500);
            }
            let shown = clock.monotonic(now);
            assert!(shown >= last);
            let due = clock.true_time(shown + Duration::from_millis(3));
            assert!(clock.monotonic(due) >= shown + Duration::from_millis(3));
            last = shown;
        }
    }

    #[test]
    fn a_wall_clock_jumps_stands_still_and_is_repaired() {
        let mut clock = Clock::new(Duration::ZERO, false, 0);
        let before = clock.wall(0).to_unix();
        clock.jump(-315_360_000);
        assert!(clock.wall(0).to_unix() < before);
        clock.freeze(10, true);
        assert_eq!(clock.wall(10), clock.wall(1 << 40));
        clock.repair(1_000_000_000);
        assert_eq!(clock.wall(1_000_000_000).to_unix().as_secs(), before.as_secs() + 1);
    }
}
