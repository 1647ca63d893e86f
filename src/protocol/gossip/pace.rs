//! How many bytes may be under way to a peer: as many as it takes without a queue building up.
//!
//! After LEDBAT (RFC 6817) and TCP Vegas (Brakmo and Peterson, 1995): what a run takes until the peer is done with
//! it, beyond the least that runs took lately, is time spent in queues, of this node, of the link or of the peer's
//! store. While that is short the window grows by what is acknowledged; when it is long the window shrinks. So a
//! bulk transfer leaves the link nearly free for fresh entries of other streams, and a peer that is slow or takes
//! nothing costs little memory here. One [`Pace`] per session; the engine calls it with what it sends and hears.

use std::time::Duration;

use crate::domain::time::Instant;

/// Smallest window: one frame of a stream transport.
const LEAST: usize = 64 * 1024;
/// Window of a peer that has not shown yet how fast it is.
const FIRST: usize = 128 * 1024;
/// Time in queues up to which the window grows: about what a person does not notice, several times what a store
/// takes to sync.
const SHORT: Duration = Duration::from_millis(30);
/// Time in queues beyond which it shrinks.
const LONG: Duration = Duration::from_millis(60);
/// The least time is that of the present and the last period of this length: links change (RFC 6817 has minutes).
const PERIOD: Duration = Duration::from_secs(10);

/// The window to one peer.
#[derive(Debug)]
pub(super) struct Pace {
    window: usize,
    most: usize,
    /// Least time that a run took in this period and in the last one.
    least: [Option<Duration>; 2],
    period_ends: Instant,
    /// It shrinks once per time that a run takes.
    shrinks_from: Instant,
}

impl Pace {
    /// For a new session; the window never exceeds `most`.
    pub(super) fn new(most: usize) -> Self {
        let least = [None; 2];
        Self { window: FIRST.min(most), most, least, period_ends: Instant::ZERO, shrinks_from: Instant::ZERO }
    }

    /// Bytes that may be under way.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// The peer is done with `bytes`, that took `time` since they were sent, while `under_way` were under way.
    pub(super) fn done(&mut self, now: Instant, bytes: usize, time: Duration, under_way: usize) {
        if now >= self.period_ends {
            self.least = [None, self.least[0]];
            self.period_ends = now + PERIOD;
        }
        self.least[0] = Some(self.least[0].map_or(time, |least| least.min(time)));
        let least = self.least.iter().flatten().min().copied().unwrap_or(time);
        let queued = time.saturating_sub(least);
        if queued > LONG && now >= self.shrinks_from {
            self.window = (self.window / 4 * 3).max(LEAST.min(self.most));
            self.shrinks_from = now + time;
        } else if queued <= SHORT && under_way * 2 >= self.window {
            self.window = (self.window + bytes).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 4 << 20;

    /// Keeps a peer busy that takes `rate` bytes per second after a delay of `delay`, for ten seconds of its time
    /// from `start` on; the window at the end.
    fn feed(pace: &mut Pace, start: u64, delay: Duration, rate: f64) -> usize {
        let run = 32 * 1024;
        let begin = Instant::ZERO + Duration::from_secs(start);
        let (mut free, mut now) = (begin, begin);
        let mut sent: std::collections::VecDeque<(Instant, Instant)> = Default::default();
        while now.since(begin) < Duration::from_secs(10) {
            while (sent.len() + 1) * run <= pace.window() {
                free = free.max(now) + Duration::from_secs_f64(run as f64 / rate);
                sent.push_back((now, free + delay));
            }
            let under_way = sent.len() * run;
            let (at, done) = sent.pop_front().unwrap();
            now = now.max(done);
            pace.done(now, run, now.since(at), under_way);
        }
        pace.window()
    }

    #[test]
    fn a_fast_peer_gets_all_that_is_allowed() {
        assert_eq!(feed(&mut Pace::new(MOST), 0, Duration::from_micros(100), 400e6), MOST);
    }

    #[test]
    fn a_fast_peer_far_away_does_too() {
        assert!(feed(&mut Pace::new(MOST), 0, Duration::from_millis(100), 400e6) >= MOST / 2);
    }

    #[test]
    fn a_slow_peer_has_a_few_frames_under_way() {
        for rate in [10e3, 100e3, 2e6] {
            let window = feed(&mut Pace::new(MOST), 0, Duration::from_millis(10), rate);
            assert!(window <= 4 * LEAST, "{rate}: {window}");
        }
    }

    #[test]
    fn a_link_that_became_longer_or_faster_is_filled_again() {
        let mut pace = Pace::new(MOST);
        feed(&mut pace, 0, Duration::from_millis(5), 1e6);
        feed(&mut pace, 10, Duration::from_millis(150), 100e6);
        feed(&mut pace, 20, Duration::from_millis(150), 100e6);
        assert!(feed(&mut pace, 30, Duration::from_millis(150), 100e6) >= MOST / 2);
    }

    #[test]
    fn a_small_limit_is_kept() {
        let mut pace = Pace::new(1000);
        assert_eq!(pace.window(), 1000);
        for _ in 0..100 {
            pace.done(Instant::ZERO + PERIOD, 1000, SHORT, 1000);
            pace.done(Instant::ZERO + PERIOD, 1000, LONG * 10, 1000);
            assert_eq!(pace.window(), 1000);
        }
    }
}
