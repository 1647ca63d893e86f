//! One probe: a ping, a second one, indirect ones through others, and a last of both.
//!
//! SWIM, section 3.1, with Lifeguard's nacks (4.1). A probe ends with the first authentic sign of life of its target; only
//! one that ran through all its steps failed, and each step takes its time while this process runs. Pure values. Called
//! by the engine.

use std::time::Duration;

use smallvec::SmallVec;

use super::wire::Nonce;
use crate::domain::time::Instant;

/// Why a member is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// It is its turn.
    Round,
    /// It is under suspicion, by this node.
    Look,
    /// It is under suspicion, by others: helpers have been asked before.
    Hearsay,
    /// It is unreachable, or not known to be fresh: two pings, for whose failure nobody pays.
    Knock,
}

/// What to send at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) ping: bool,
    pub(super) helpers: bool,
    /// Until the next step, or the end.
    pub(super) wait: Duration,
}

/// A probe under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) purpose: Purpose,
    pub(super) step: u8,
    /// When the next step is due.
    pub(super) due: Instant,
    pub(super) timeout: Duration,
    /// Pings that may be answered, and when each was sent; indirect ones share one.
    pub(super) nonces: SmallVec<[(Nonce, Instant); 3]>,
    pub(super) indirect: Option<Nonce>,
    /// Helpers asked, and those that said that they are there.
    pub(super) asked: u32,
    pub(super) nacks: u32,
}

impl Probe {
    /// The step number `step` of a probe with this purpose; `None` after the last.
    ///
    /// With round trips of 10 ms the steps start after 0, 50, 150 and 350 ms, and the probe fails after 550 ms: within one
    /// period (SWIM demands a period of three round trips at least).
    pub(super) fn step(purpose: Purpose, step: u8, timeout: Duration, helpers: bool) -> Option<Step> {
        let direct = |factor: u32| Some(Step { ping: true, helpers: false, wait: timeout * factor });
        match (purpose, step) {
            (_, 0) => direct(1),
            (_, 1) => direct(2),
            (Purpose::Round | Purpose::Look, 2) => Some(Step { ping: !helpers, helpers, wait: timeout * 4 }),
            (Purpose::Round | Purpose::Look, 3) => Some(Step { ping: true, helpers, wait: timeout * 4 }),
            (Purpose::Hearsay, 2) => direct(4),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(purpose: Purpose, helpers: bool) -> Vec<Step> {
        (0..9).map_while(|n| Probe::step(purpose, n, Duration::from_millis(50), helpers)).collect()
    }

    #[test]
    fn swim_3_1_helpers_are_asked_when_direct_pings_fail() {
        let round = steps(Purpose::Round, true);
        let asked: Vec<_> = round.iter().map(|step| (step.ping, step.helpers)).collect();
        assert_eq!(asked, [(true, false), (true, false), (false, true), (true, true)]);
        assert_eq!(round.iter().map(|step| step.wait).sum::<Duration>(), Duration::from_millis(550));
    }

    #[test]
    fn without_helpers_every_step_pings() {
        assert!(steps(Purpose::Round, false).iter().all(|step| step.ping && !step.helpers));
        assert_eq!((steps(Purpose::Knock, true).len(), steps(Purpose::Hearsay, true).len()), (2, 3));
    }
}
