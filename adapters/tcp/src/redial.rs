//! How long to wait before dialling again.

use std::time::Duration;

use anabranch::infrastructure::prng::Prng;

/// Pauses that double, each shortened by up to half at random ("equal jitter", M. Brooker, "Exponential Backoff And
/// Jitter", AWS Architecture Blog, 2015).
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    prng: Prng,
}

impl Backoff {
    pub(crate) fn new((first, longest): (Duration, Duration), prng: Prng) -> Self {
        Self { first, longest, next: first, prng }
    }

    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        let half = u64::try_from(pause.as_nanos() / 2).unwrap_or(u64::MAX);
        pause - Duration::from_nanos(self.prng.below(half.saturating_add(1)))
    }

    /// A link that lived for `life` was lost. One that outlived the longest pause starts the pauses afresh; one
    /// that was dropped as soon as it came up does not, or a full server would be dialled without pause.
    pub(crate) fn lost(&mut self, life: Duration) {
        if life >= self.longest {
            self.next = self.first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_up_to_the_longest_and_differ_between_seeds() {
        let pauses = |seed| {
            let mut backoff = Backoff::new((100 * MS, 1_000 * MS), Prng::new(seed));
            std::array::from_fn::<_, 6, _>(|_| backoff.pause())
        };
        for (pause, full) in pauses(1).into_iter().zip([100, 200, 400, 800, 1_000, 1_000]) {
            assert!(pause <= full * MS && pause >= full * MS / 2, "{pause:?} of {full} ms");
        }
        assert_ne!(pauses(1), pauses(2));
    }

    #[test]
    fn only_a_link_that_lived_starts_the_pauses_afresh() {
        let mut backoff = Backoff::new((100 * MS, 1_000 * MS), Prng::new(1));
        for _ in 0..5 {
            backoff.pause();
        }
        backoff.lost(999 * MS);
        assert!(backoff.pause() >= 500 * MS);
        backoff.lost(1_000 * MS);
        assert!(backoff.pause() <= 100 * MS);
    }
}
