//! What liveness alone counts.

use std::time::Duration;

use super::event::{FrameRefused, MessageKind};
use crate::protocol::swim::SwimStats;

/// Statistics, as of the call that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LivenessStats {
    /// Nodes known, in whatever status, but the own one.
    pub known_nodes: usize,
    /// Of these, alive or suspect.
    pub online_nodes: usize,
    /// Messages sent.
    pub sent_messages: u64,
    /// Messages received and believed.
    pub received_messages: u64,
    /// How long the last tick took, by the timer that was given; `None` without one.
    pub last_tick: Option<Duration>,
    /// Frames received that were not believed, for whatever reason.
    pub refused: u64,
    /// Of these, larger than allowed.
    pub too_large: u64,
    /// Of these, of an unknown version.
    pub unknown_version: u64,
    /// Frames not sent: nobody knows where to, or the transport had no room or no link.
    pub unsent: u64,
    /// Hooks that panicked and are called no more.
    pub hooks_lost: u64,
    /// What the engine counts: why frames were refused, probes, suspicions, denials.
    pub engine: SwimStats,
    pub(super) sent: [u64; 6],
    pub(super) received: [u64; 6],
}

impl LivenessStats {
    /// Messages of a kind sent.
    pub fn sent(&self, kind: MessageKind) -> u64 {
        self.sent[kind as usize]
    }

    /// Messages of a kind received and believed.
    pub fn received(&self, kind: MessageKind) -> u64 {
        self.received[kind as usize]
    }

    pub(super) fn count(&mut self, kind: MessageKind, sent: bool) {
        let (total, of_kind) = match sent {
            true => (&mut self.sent_messages, &mut self.sent),
            false => (&mut self.received_messages, &mut self.received),
        };
        *total += 1;
        of_kind[kind as usize] += 1;
    }
}

/// Why the engine did not believe a frame, read off its counters. A frame that was believed may carry something that was
/// not: that is counted, too, but refuses nothing.
pub(super) fn refused(before: &SwimStats, after: &SwimStats) -> Option<FrameRefused> {
    if after.received != before.received {
        return None;
    }
    let rose = |counter: fn(&SwimStats) -> u64| counter(after) > counter(before);
    [
        (rose(|stats| stats.own_id_claimed), FrameRefused::OwnIdentity),
        (rose(|stats| stats.forged), FrameRefused::Forged),
        (rose(|stats| stats.malformed), FrameRefused::Malformed),
        (rose(|stats| stats.repeated), FrameRefused::Repeated),
        (rose(|stats| stats.unknown_senders), FrameRefused::UnknownSender),
        (rose(|stats| stats.strangers_deferred), FrameRefused::TooManyStrangers),
    ]
    .into_iter()
    .find_map(|(rose, why)| rose.then_some(why))
}
