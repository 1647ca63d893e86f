//! What the engine counts: nothing is dropped silently (I9).
//!
//! Plain numbers that only rise. Written by the engine, read by its callers.

use super::wire::Kind;

/// Counters since the engine was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SwimStats {
    /// Frames sent.
    pub frames_out: u64,
    /// Bytes of them.
    pub bytes_out: u64,
    /// Frames received, believed or not.
    pub frames_in: u64,
    /// Bytes of them.
    pub bytes_in: u64,
    /// Frames sent, by [`Kind`].
    pub sent: [u64; Kind::COUNT],
    /// Frames believed, by [`Kind`].
    pub received: [u64; Kind::COUNT],
    /// Probes that ended with a sign of life, of all probes of members held alive.
    pub probes_answered: u64,
    /// Probes that ended without one.
    pub probes_failed: u64,
    /// Suspicions begun here.
    pub suspicions: u64,
    /// Verdicts "unreachable".
    pub unreachable: u64,
    /// Accusations of this node that it denied.
    pub denials: u64,
    /// Pauses of this process that were noticed.
    pub pauses: u64,
    /// Frames that are no frames.
    pub malformed: u64,
    /// Frames whose tag or claimed sender does not hold.
    pub forged: u64,
    /// Frames and greetings that claim to be from this node itself: it met itself, or somebody copied its identity.
    pub own_id_claimed: u64,
    /// Frames that came before, or from an earlier life of their sender.
    pub repeated: u64,
    /// Frames in short form of senders that are not known.
    pub unknown_senders: u64,
    /// Greetings and strangers beyond the pace at which keys are derived.
    pub strangers_deferred: u64,
    /// Statements or metadata whose signature does not hold.
    pub bad_signatures: u64,
    /// Accusations without effect: of or by unknown nodes, void, contradicted by what was heard, or too many of one accuser.
    pub accusations_ignored: u64,
    /// Nodes that were not taken in because the table is full, or their statement older than what is remembered.
    pub members_refused: u64,
    /// Records dropped because there were too many or they were too old.
    pub members_forgotten: u64,
    /// Own metadata or statements that came back newer than ours: this identity lives elsewhere too, or lost its memory.
    pub own_identity_seen: u64,
}

/// At most so many events per time, with a reserve.
#[derive(Debug, Clone)]
pub(super) struct Allowance {
    reserve: u64,
    most: u64,
    per_second: u64,
    last: crate::domain::time::Instant,
}

/// A thousandth of an event.
const MILLI: u64 = 1000;

impl Allowance {
    pub(super) fn new(most: u64, per_second: u64, now: crate::domain::time::Instant) -> Self {
        Self { reserve: most * MILLI, most: most * MILLI, per_second, last: now }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: crate::domain::time::Instant) -> bool {
        let passed = u64::try_from(now.since(self.last).as_millis()).unwrap_or(u64::MAX);
        if passed > 0 {
            self.reserve = self.reserve.saturating_add(passed.saturating_mul(self.per_second)).min(self.most);
            self.last = now;
        }
        let enough = self.reserve >= MILLI;
        if enough {
            self.reserve -= MILLI;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Instant;
    use std::time::Duration;

    #[test]
    fn an_allowance_gives_its_reserve_at_once_and_the_rest_in_time() {
        let mut allowance = Allowance::new(3, 2, Instant::ZERO);
        let taken = |allowance: &mut Allowance, at| (0..9).filter(|_| allowance.take(at)).count();
        assert_eq!(taken(&mut allowance, Instant::ZERO), 3);
        assert_eq!(taken(&mut allowance, Instant::ZERO + Duration::from_secs(1)), 2);
        assert_eq!(taken(&mut allowance, Instant::ZERO + Duration::from_secs(1000)), 3);
    }
}
