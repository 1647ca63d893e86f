//! Round-trip time, the probe timeout, and how long a frame may be overtaken (RFC 6298, RFC 9002 sections 5, 6.1.2 and 6.2).

use std::time::Duration;

/// Assumed before the first sample (RFC 9002 assumes 333 ms; the handshake has usually shown that it is less).
const INITIAL_RTT: Duration = Duration::from_millis(200);
/// Timers are not finer than this (RFC 9002 `kGranularity`).
const GRANULARITY: Duration = Duration::from_millis(1);
/// The longest probe timeout, however often it backed off: how late a healed link is noticed.
const MAX_PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// A frame that was overtaken is lost after the round-trip time and this share of it (RFC 9002 `kTimeThreshold`: 9/8).
const OVERTAKEN_SHARE: u32 = 8;
/// Back-off stops doubling here: 2^10 granules are beyond [`MAX_PROBE_TIMEOUT`] already.
const MAX_DOUBLINGS: u32 = 10;

/// Smoothed round-trip time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    least: Duration,
}

impl Rtt {
    /// A frame was acknowledged `sample` after it was sent, of which the peer says it waited `delay`.
    pub(crate) fn sample(&mut self, sample: Duration, delay: Duration) {
        let Some(smoothed) = self.smoothed else {
            (self.smoothed, self.variation, self.least) = (Some(sample), sample / 2, sample);
            return;
        };
        self.least = self.least.min(sample);
        let adjusted = match sample.checked_sub(delay) {
            Some(adjusted) if adjusted >= self.least => adjusted,
            _ => sample,
        };
        self.variation = (3 * self.variation + smoothed.abs_diff(adjusted)) / 4;
        self.smoothed = Some((7 * smoothed + adjusted) / 8);
    }

    /// The smoothed round-trip time, once there was a sample.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// How long after its departure a frame is lost that a later one overtook. Where round trips vary, frames overtake each
    /// other without loss: RFC 9002 has an eighth of the round trip for that, here it is at least the variation that the probe
    /// timeout allows for.
    pub(crate) fn overtaken_timeout(&self) -> Duration {
        let smoothed = self.smoothed.unwrap_or(INITIAL_RTT);
        smoothed + (smoothed / OVERTAKEN_SHARE).max(4 * self.variation).max(GRANULARITY)
    }

    /// How long after its departure a frame is doubted that carries what was lost once: its acknowledgement is not delayed, for
    /// it leaves a gap in the numbers or comes in two. Being wrong costs two small frames once.
    pub(crate) fn repetition_timeout(&self) -> Duration {
        let smoothed = self.smoothed.unwrap_or(INITIAL_RTT);
        smoothed + (smoothed / OVERTAKEN_SHARE).max(GRANULARITY)
    }

    /// How long to wait for an acknowledgement after `backoff` vain probes. The wait doubles from the third on (RFC 9002: from the
    /// second): where frames are lost one by one, the second probe is as likely to arrive as the first.
    pub(crate) fn probe_timeout(&self, ack_delay: Duration, backoff: u32) -> Duration {
        let base = match self.smoothed {
            Some(smoothed) => smoothed + (4 * self.variation).max(GRANULARITY),
            None => 3 * INITIAL_RTT,
        };
        ((base + ack_delay) * (1 << backoff.saturating_sub(1).min(MAX_DOUBLINGS))).min(MAX_PROBE_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_estimate_follows_the_samples_and_subtracts_the_peers_delay() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.probe_timeout(5 * MS, 0), 605 * MS);
        rtt.sample(100 * MS, 50 * MS);
        assert_eq!(rtt.smoothed(), Some(100 * MS), "the first sample is taken whole");
        for _ in 0..100 {
            rtt.sample(130 * MS, 30 * MS);
        }
        let smoothed = rtt.smoothed().unwrap();
        assert!(smoothed.abs_diff(100 * MS) < MS, "{smoothed:?}");
        assert!(rtt.probe_timeout(5 * MS, 0) < 110 * MS);
        assert_eq!(rtt.probe_timeout(5 * MS, 60), MAX_PROBE_TIMEOUT);
    }

    #[test]
    fn a_frame_may_be_overtaken_for_an_eighth_of_a_steady_round_trip_and_longer_on_an_unsteady_one() {
        let mut rtt = Rtt::default();
        for _ in 0..100 {
            rtt.sample(80 * MS, Duration::ZERO);
        }
        assert_eq!(rtt.overtaken_timeout(), 90 * MS);
        for round in 0..100 {
            rtt.sample(if round % 2 == 0 { 40 * MS } else { 120 * MS }, Duration::ZERO);
        }
        assert!(rtt.overtaken_timeout() > 120 * MS, "{:?}", rtt.overtaken_timeout());
    }

    #[test]
    fn a_peer_that_claims_an_absurd_delay_cannot_push_the_estimate_below_the_least_sample() {
        let mut rtt = Rtt::default();
        for _ in 0..100 {
            rtt.sample(100 * MS, 99 * MS);
        }
        assert_eq!(rtt.smoothed(), Some(100 * MS));
    }
}
