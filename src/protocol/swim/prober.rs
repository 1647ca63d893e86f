//! Direct probes of one session.
//!
//! Never judges by a single silence, nor by its own sleep. Called through `swim` by the driver.

use std::time::Duration;

use crate::domain::time::Instant;

/// Probes the other end of a session when it is silent.
///
/// Anything authentic that is heard counts as a sign of life. After a long pause of this process the first poll
/// only probes: a node that slept must not take its own silence for that of others.
#[derive(Debug)]
pub struct Prober {
    heard: Instant,
    probed: Instant,
    unanswered: u32,
    number: u64,
    /// Since when something else that was sent waits for an answer.
    asked: Option<Instant>,
}

/// What [`Prober::poll`] wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Nothing is due.
    Nothing,
    /// Send a probe with this number.
    Send(u64),
    /// The other end did not answer: give the session up.
    Lost,
}

impl Prober {
    /// A session that was heard from `now`.
    pub fn new(now: Instant) -> Self {
        Self { heard: now, probed: now, unanswered: 0, number: 0, asked: None }
    }

    /// Something authentic came.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.unanswered = 0;
        self.asked = None;
    }

    /// Something was sent that a healthy peer answers at once.
    pub fn asked(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    /// When [`poll`](Self::poll) has something to do: after `patience` of silence, or `interval` after something was
    /// asked, and then after each `interval`.
    pub fn next_deadline(&self, patience: Duration, interval: Duration) -> Instant {
        let quiet = self.heard.max(self.probed);
        let patience = if self.unanswered == 0 { patience } else { interval };
        let asked = self.asked.map(|asked| asked.max(self.probed) + interval);
        asked.map_or(quiet + patience, |asked| asked.min(quiet + patience))
    }

    /// Looks at the time: probes when [`next_deadline`](Self::next_deadline) says so, and gives up when `failures`
    /// probes in a row went unanswered.
    pub fn poll(&mut self, now: Instant, patience: Duration, interval: Duration, failures: u32) -> Probe {
        if now < self.next_deadline(patience, interval) {
            return Probe::Nothing;
        }
        if self.unanswered >= failures {
            return Probe::Lost;
        }
        self.unanswered += 1;
        self.number += 1;
        self.probed = now;
        Probe::Send(self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(secs: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(secs)
    }

    #[test]
    fn a_peer_that_answers_is_never_lost() {
        let mut prober = Prober::new(at(0));
        for second in 1..100 {
            assert_eq!(prober.poll(at(second), SECOND, SECOND, 3), Probe::Send(second));
            prober.heard(at(second));
        }
    }

    #[test]
    fn a_silent_peer_is_lost_after_the_configured_probes() {
        let mut prober = Prober::new(at(0));
        let probes: Vec<Probe> = (1..=4).map(|second| prober.poll(at(second), SECOND, SECOND, 3)).collect();
        assert_eq!(probes, [Probe::Send(1), Probe::Send(2), Probe::Send(3), Probe::Lost]);
    }

    #[test]
    fn a_silent_link_is_left_in_peace_until_something_goes_unanswered() {
        let mut prober = Prober::new(at(0));
        let patience = SECOND * 100;
        assert_eq!(prober.poll(at(99), patience, SECOND, 3), Probe::Nothing);
        prober.asked(at(99));
        assert_eq!(prober.next_deadline(patience, SECOND), at(100));
        prober.heard(at(99));
        assert_eq!(prober.next_deadline(patience, SECOND), at(199));
        prober.asked(at(100));
        prober.asked(at(101));
        let probes: Vec<Probe> =
            (101..=104).map(|second| prober.poll(at(second), patience, SECOND, 3)).collect();
        assert_eq!(probes, [Probe::Send(1), Probe::Send(2), Probe::Send(3), Probe::Lost]);
    }

    #[test]
    fn a_node_that_slept_for_a_week_asks_before_it_gives_anybody_up() {
        let mut prober = Prober::new(at(0));
        assert_eq!(prober.poll(at(600_000), SECOND, SECOND, 3), Probe::Send(1));
        assert_eq!(prober.poll(at(600_000), SECOND, SECOND, 3), Probe::Nothing);
    }
}
