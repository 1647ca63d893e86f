//! How much may be under way on a link that loses frames: NewReno as in RFC 9002 section 7.
//!
//! Links that are reliable bring their own and do without.

use crate::domain::time::Instant;

/// Frames in the first window (RFC 9002: ten).
const INITIAL_FRAMES: u64 = 10;
/// Frames that may always be under way: three after a loss reveal it without a timeout.
const MIN_FRAMES: u64 = 4;
/// Upper bound of the window in bytes: no link this is meant for holds more.
const MAX_WINDOW: u64 = 64 << 20;

/// The congestion window, in bytes.
#[derive(Debug, Clone)]
pub(crate) struct Congestion {
    frame: u64,
    window: u64,
    threshold: u64,
    in_flight: u64,
    /// Losses of frames sent before this moment belong to one event.
    recovery: Option<Instant>,
}

impl Congestion {
    pub(crate) fn new(max_frame: usize) -> Self {
        let frame = max_frame as u64;
        Self { frame, window: INITIAL_FRAMES * frame, threshold: u64::MAX, in_flight: 0, recovery: None }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.in_flight < self.window
    }

    pub(crate) fn on_sent(&mut self, size: u64) {
        self.in_flight += size;
    }

    /// `limited`: the window was what held the sender back.
    pub(crate) fn on_acked(&mut self, size: u64, sent: Instant, limited: bool) {
        self.in_flight = self.in_flight.saturating_sub(size);
        if !limited || self.recovery.is_some_and(|recovery| sent <= recovery) {
            return;
        }
        let grown = if self.window < self.threshold { size } else { self.frame * size / self.window.max(1) };
        self.window = (self.window + grown).min(MAX_WINDOW);
    }

    pub(crate) fn on_lost(&mut self, size: u64, sent: Instant, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(size);
        if self.recovery.is_none_or(|recovery| sent > recovery) {
            self.recovery = Some(now);
            self.window = (self.window / 2).max(MIN_FRAMES * self.frame);
            self.threshold = self.window;
        }
    }

    /// The fate of a frame does not matter any more.
    pub(crate) fn forget(&mut self, size: u64) {
        self.in_flight = self.in_flight.saturating_sub(size);
    }

    /// Nothing came back for several probe timeouts: start over.
    pub(crate) fn collapse(&mut self) {
        self.window = MIN_FRAMES * self.frame;
        self.recovery = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_window_doubles_per_round_then_halves_once_per_loss_event_and_keeps_four_frames() {
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        let mut congestion = Congestion::new(1000);
        for _ in 0..10 {
            congestion.on_sent(1000);
        }
        assert!(!congestion.has_room());
        for _ in 0..10 {
            congestion.on_acked(1000, at(1), true);
        }
        assert_eq!(congestion.window, 20_000);
        for _ in 0..5 {
            congestion.on_sent(1000);
            congestion.on_lost(1000, at(2), at(3));
        }
        assert_eq!(congestion.window, 10_000);
        congestion.on_sent(1000);
        congestion.on_acked(1000, at(4), true);
        assert_eq!(congestion.window, 10_100);
        for round in 5..20 {
            congestion.on_lost(0, at(2 * round), at(2 * round + 1));
        }
        assert_eq!(congestion.window, 4000);
        assert_eq!(congestion.in_flight, 0);
    }
}
