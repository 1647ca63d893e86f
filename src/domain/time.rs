//! Hybrid logical time with eras, and the two clocks the ports provide.
//!
//! A [`Timestamp`] orders entries so that whatever was written after reading something also sorts after
//! it (Kulkarni et al., "Logical Physical Clocks", 2014). The era is our addition: a device whose clock
//! runs ten years ahead must not drag everybody's time with it for ten years. Whoever sees a stamp more
//! than the drift bound ahead of its own wall clock opens the next era at its own wall time.

use std::fmt;
use std::time::Duration;

use uhlc::NTP64;

/// A moment of the node's monotonic clock: nanoseconds since an arbitrary start. Never persisted, never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);

    /// The moment `nanos` nanoseconds after the start of the clock.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the start of the clock.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`, zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;
    /// Saturates: a deadline beyond the end of the clock is "never".
    fn add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A reading of the wall clock: time since the Unix epoch in units of 2^-32 s (the NTP64 format).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallTime(u64);

impl WallTime {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// The wall time `since_epoch` after the Unix epoch, at most the year 2106.
    pub fn from_unix(since_epoch: Duration) -> Self {
        Self(to_ntp(since_epoch))
    }

    /// Time since the Unix epoch.
    pub fn to_unix(self) -> Duration {
        NTP64(self.0).to_duration()
    }
}

/// When an entry was written, in hybrid logical time. Ordered by era, then by time.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Timestamp {
    era: u32,
    time: u64,
}

/// The channel's hybrid time is used up: no later stamp exists. Nothing changed. Only a hostile member can
/// bring a channel here; move to a new channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the channel's hybrid time is exhausted: no later timestamp exists")]
pub struct TimeExhausted;

impl Timestamp {
    /// Before every stamp that an entry can carry.
    pub const ZERO: Self = Self { era: 0, time: 0 };

    /// The stamp with this era and this time in NTP64 bits.
    pub const fn new(era: u32, time: u64) -> Self {
        Self { era, time }
    }

    /// How often somebody had to abandon a runaway clock before this stamp.
    pub const fn era(self) -> u32 {
        self.era
    }

    /// The time in NTP64 bits: units of 2^-32 s since the Unix epoch.
    pub const fn time(self) -> u64 {
        self.time
    }

    /// The time since the Unix epoch that the author's clock claimed, within 2^-32 s.
    pub fn to_unix(self) -> Duration {
        NTP64(self.time).to_duration()
    }

    /// The stamp of the next entry after `seen`, the largest stamp seen or written in the channel.
    ///
    /// Within `drift` of the wall clock time just goes on; a `seen` further ahead than that is left behind
    /// in its era. The result is always greater than `seen`. Once the era cannot rise any more, time goes on
    /// in the last one ([`Stamped::era_saturated`]).
    ///
    /// # Errors
    /// [`TimeExhausted`] if no greater stamp exists.
    pub fn next(seen: Self, wall: WallTime, drift: Duration) -> Result<Stamped, TimeExhausted> {
        let in_era = |era| {
            let step = u64::from(!mutant!(StampsRepeat));
            let time = seen.time.checked_add(step).ok_or(TimeExhausted)?;
            Ok(Self { era, time: time.max(wall.0) })
        };
        if mutant!(DriftIgnored) || seen.time < wall.0.saturating_add(to_ntp(drift)) {
            return Ok(Stamped { stamp: in_era(seen.era)?, era_saturated: false });
        }
        match seen.era.checked_add(1) {
            Some(era) => Ok(Stamped { stamp: Self { era, time: wall.0 }, era_saturated: false }),
            None => Ok(Stamped { stamp: in_era(seen.era)?, era_saturated: true }),
        }
    }

    /// How far this stamp's time is ahead of `wall`, if by more than `drift`.
    pub fn ahead_of(self, wall: WallTime, drift: Duration) -> Option<Duration> {
        let bound = wall.0.saturating_add(to_ntp(drift));
        (self.time > bound).then(|| NTP64(self.time - wall.0).to_duration())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:.6}", self.era, self.to_unix().as_secs_f64())
    }
}

/// Result of [`Timestamp::next`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamped {
    /// The stamp to write.
    pub stamp: Timestamp,
    /// The era could not be raised although `seen` is beyond the drift bound: worth a report.
    pub era_saturated: bool,
}

fn to_ntp(duration: Duration) -> u64 {
    if duration.as_secs() > u64::from(u32::MAX) { u64::MAX } else { NTP64::from(duration).0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DRIFT: Duration = Duration::from_secs(3600);

    fn wall(secs: u64) -> WallTime {
        WallTime::from_unix(Duration::from_secs(secs))
    }

    #[test]
    fn time_follows_the_wall_clock_and_never_stands_still() {
        let first = Timestamp::next(Timestamp::ZERO, wall(100), DRIFT).unwrap().stamp;
        assert_eq!(first, Timestamp::new(0, wall(100).0));
        let second = Timestamp::next(first, wall(50), DRIFT).unwrap().stamp;
        assert_eq!(second, Timestamp::new(0, wall(100).0 + 1));
    }

    #[test]
    fn a_clock_ten_years_ahead_leads_only_until_an_honest_author_writes() {
        let ahead = Timestamp::new(0, wall(400_000_000).0);
        let honest = Timestamp::next(ahead, wall(100), DRIFT).unwrap().stamp;
        assert_eq!(honest, Timestamp::new(1, wall(100).0));
        assert!(honest > ahead);
    }

    #[test]
    fn a_saturated_era_goes_on_in_time_and_exhausted_time_is_an_error() {
        let last_era = Timestamp::new(u32::MAX, wall(400_000_000).0);
        let next = Timestamp::next(last_era, wall(100), DRIFT).unwrap();
        assert!(next.era_saturated && next.stamp > last_era);
        let end = Timestamp::new(u32::MAX, u64::MAX);
        assert_eq!(Timestamp::next(end, wall(100), DRIFT), Err(TimeExhausted));
    }

    proptest! {
        #[test]
        fn i4_a_new_stamp_is_greater_and_leaves_the_wall_clock_by_at_most_the_drift(
            era in 0..u32::MAX, time: u64, wall_secs in 0u64..4_000_000_000,
        ) {
            let (seen, wall) = (Timestamp::new(era, time), wall(wall_secs));
            let next = Timestamp::next(seen, wall, DRIFT).unwrap();
            prop_assert!(next.stamp > seen);
            prop_assert!(next.stamp.time <= wall.0.saturating_add(to_ntp(DRIFT)));
        }
    }
}
