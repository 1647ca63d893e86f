//! A suspicion: who accuses, since when, and until when the subject may deny it.
//!
//! Lifeguard, section 4.2: it starts long and shrinks as independent nodes accuse too. Beyond Lifeguard, nobody is given
//! up on hearsay: each observer looks for itself before its verdict, so that any number of lies costs a few probes. Pure
//! values. Called by the engine.

use std::time::Duration;

use smallvec::SmallVec;

use super::wire::ShortId;
use crate::domain::time::Instant;

/// An open suspicion of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspicion {
    /// When the first accuser began to suspect, as far as known.
    pub(super) since: Instant,
    /// Distinct accusers; this node among them if its own probe failed.
    pub(super) accusers: SmallVec<[ShortId; 4]>,
    /// Own looks that failed since it began here.
    pub(super) failed_looks: u32,
    /// When this node looks for itself.
    pub(super) look_at: Instant,
    /// The timer that is set.
    pub(super) wake: Instant,
    /// An accuser gave the subject up.
    pub(super) given_up: bool,
}

/// How long a suspicion lasts with `confirmations` accusers besides the first, of `expected`.
///
/// `max - (max - min) * log(C + 1) / log(K + 1)` (Lifeguard, section 4.2).
pub(super) fn timeout(
    (shortest, longest): (Duration, Duration),
    confirmations: usize,
    expected: usize,
) -> Duration {
    if confirmations >= expected {
        return shortest;
    }
    let share = log2_milli(confirmations + 1) * 1000 / log2_milli(expected + 1).max(1);
    longest - (longest.saturating_sub(shortest)) * share / 1000
}

/// Thousandths of the binary logarithm of small numbers, the same on every platform.
fn log2_milli(number: usize) -> u32 {
    const TABLE: [u32; 9] = [0, 0, 1000, 1585, 2000, 2322, 2585, 2807, 3000];
    TABLE[number.min(TABLE.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifeguard_4_2_each_accuser_shortens_the_suspicion_and_the_first_ones_most() {
        let bounds = (Duration::from_secs(2), Duration::from_secs(4));
        let millis: Vec<_> = (0..5).map(|count| timeout(bounds, count, 3).as_millis()).collect();
        assert_eq!(millis, [4000, 3000, 2416, 2000, 2000]);
    }

    #[test]
    fn lifeguard_4_2_nobody_to_confirm_means_the_shortest() {
        let bounds = (Duration::from_secs(2), Duration::from_secs(4));
        assert_eq!(timeout(bounds, 0, 0), Duration::from_secs(2));
    }
}
