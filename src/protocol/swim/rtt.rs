//! Round-trip estimates per peer, after RFC 6298.
//!
//! Only answers that name the very ping they answer are samples (Karn's algorithm comes for free: each ping has a
//! nonce of its own). Called by the engine.

use std::time::Duration;

/// Smoothed round-trip time and its variation, in microseconds; both 0 before the first sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rtt {
    smoothed: u32,
    variation: u32,
}

impl Rtt {
    /// Takes a sample (RFC 6298, 2.2 and 2.3: alpha 1/8, beta 1/4).
    pub fn sample(&mut self, took: Duration) {
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX / 8).clamp(1, u32::MAX / 8);
        if self.smoothed == 0 {
            (self.smoothed, self.variation) = (took, took / 2);
        } else {
            self.variation = (self.variation / 4) * 3 + self.smoothed.abs_diff(took) / 4;
            self.smoothed = ((u64::from(self.smoothed) * 7 + u64::from(took)) / 8).max(1) as u32;
        }
    }

    /// The smoothed round-trip time, if there was a sample.
    pub fn smoothed(&self) -> Option<Duration> {
        (self.smoothed > 0).then(|| Duration::from_micros(u64::from(self.smoothed)))
    }

    /// How long an answer may take (RFC 6298, 2.3: SRTT + 4 RTTVAR), if there was a sample.
    pub fn timeout(&self) -> Option<Duration> {
        let timeout = u64::from(self.smoothed) + 4 * u64::from(self.variation);
        (self.smoothed > 0).then(|| Duration::from_micros(timeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6298_the_first_sample_gives_three_times_its_length() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), None);
        rtt.sample(Duration::from_millis(100));
        assert_eq!(rtt.timeout(), Some(Duration::from_millis(300)));
    }

    #[test]
    fn rfc_6298_a_steady_link_gets_a_tight_timeout_and_an_absurd_sample_does_no_harm() {
        let mut rtt = Rtt::default();
        for _ in 0..100 {
            rtt.sample(Duration::from_millis(20));
        }
        assert!(rtt.timeout().unwrap() < Duration::from_millis(22));
        rtt.sample(Duration::MAX);
        assert!(rtt.timeout().unwrap() < Duration::from_secs(1000));
    }
}
