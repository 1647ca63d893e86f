//! How the liveness engine behaves. Every default names its source.
//!
//! Plain values. "SWIM" is Das, Gupta and Motivala, "SWIM: Scalable Weakly-consistent Infection-style Process Group
//! Membership Protocol" (DSN 2002); "Lifeguard" is Dadgar, Phillips and Currey, "Lifeguard: Local Health Awareness for
//! More Accurate Failure Detection" (2017, DSN-W 2018).

use std::time::Duration;

use crate::domain::link::PeerAddr;

/// How frames of the engine are known to be authentic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrameAuth {
    /// The caller proves who sent a packet (sessions of a node).
    Caller,
    /// Each frame carries a tag under a key that both ends derive from their node keys, without a handshake.
    PairKey,
}

/// How the engine behaves. The defaults suit 2 to 1,000 nodes on ordinary networks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SwimConfig {
    /// How frames are authenticated. Default: pair keys.
    pub auth: FrameAuth,
    /// What a group of nodes shares, mixed into all keys and signed statements: nodes with another value are
    /// strangers. Zeros by default; a secret makes the group closed.
    pub group: [u8; 32],
    /// Time between two probes of a node: the protocol period T' (SWIM, section 3.1; 1 s in Lifeguard's evaluation).
    pub probe_interval: Duration,
    /// Shortest wait for an answer. Default 50 ms: above the scheduling noise of ordinary systems.
    pub probe_timeout_min: Duration,
    /// Helpers asked for indirect probes, twice per probe. Default 3 (SWIM's k; 3 in Lifeguard's evaluation).
    pub indirect_probes: usize,
    /// Shortest suspicion, in thousandths of an interval, times log10 of the group's size (Lifeguard's alpha, 5 there).
    /// Default 1,500: nobody is given up on hearsay here, each observer looks for itself first.
    pub suspicion_min_milli: u32,
    /// Longest suspicion as a multiple of the shortest (Lifeguard's beta, 6 there). Default 2, for the same reason.
    pub suspicion_max_factor: u32,
    /// Independent accusers, besides the first, that bring a suspicion down to its shortest (Lifeguard's K, 3 there).
    pub suspicion_confirmations: usize,
    /// Each update is sent this many times log10 of the group's size (SWIM's lambda, section 4.1; 4 in deployed systems).
    pub retransmit_factor: u32,
    /// Time between two exchanges of digests of the whole state. Default 30 s, as in deployed systems.
    pub sync_interval: Duration,
    /// Bytes of state sent at most in answer to one digest. Default 64 KiB; the rest follows in later exchanges.
    pub sync_bytes: usize,
    /// Largest frame in bytes. Default 1,200: passes every IPv6 path in one piece with room for headers.
    pub max_frame: usize,
    /// Largest local health value: intervals and timeouts are stretched by one more than it (Lifeguard's S, 8 there).
    pub health_max: u32,
    /// Longest time between two probes of an unreachable node. Default 60 s.
    pub unreachable_interval_max: Duration,
    /// Shortest time between two verdicts against a node that came back, doubled for each further return. Default 60 s.
    pub flap_hold: Duration,
    /// A timer that fires this late means that the process was paused. Default 400 ms.
    pub pause_tolerance: Duration,
    /// Most nodes known at a time. Default 8,192.
    pub max_members: usize,
    /// Most records of unreachable or left nodes. Default 1,024.
    pub max_gone: usize,
    /// How long the record of an unreachable node is kept. Default 30 days: a device comes back from a holiday.
    pub unreachable_retention: Duration,
    /// How long it is remembered that a node left, and in which incarnation a forgotten one was last seen. Default 24 h.
    pub left_retention: Duration,
    /// Where others reach this node, told with its own word. Default: nowhere; others then pass on where they heard it,
    /// which suits datagrams. Over connections it has to be said: the other end of one leads nowhere for third parties.
    pub advertise: Option<PeerAddr>,
    /// Learn nodes from other nodes, and tell them of others. Default: yes. Without it only those are known that were met,
    /// or that called, each speaks for itself only, and no third party's id, address or metadata is passed on.
    pub learn_peers: bool,
    /// Longest time between two probes while nothing at all happens: no news, no suspicion, no work
    /// ([`Input::Busy`](super::Input::Busy)). A crash is noticed later by as much. Default: the probe interval.
    pub idle_interval_max: Duration,
    /// Longest time between two attempts to reach a seed while nobody answers. Default 60 s.
    pub join_interval_max: Duration,
    /// This node sleeps between wakes: see [`low_power`](Self::low_power).
    pub wake_interval: Option<Duration>,
}

impl Default for SwimConfig {
    fn default() -> Self {
        Self {
            auth: FrameAuth::PairKey,
            group: [0; 32],
            probe_interval: Duration::from_secs(1),
            probe_timeout_min: Duration::from_millis(50),
            indirect_probes: 3,
            suspicion_min_milli: 1500,
            suspicion_max_factor: 2,
            suspicion_confirmations: 3,
            retransmit_factor: 4,
            sync_interval: Duration::from_secs(30),
            sync_bytes: 64 << 10,
            max_frame: 1200,
            health_max: 8,
            unreachable_interval_max: Duration::from_secs(60),
            flap_hold: Duration::from_secs(60),
            pause_tolerance: Duration::from_millis(400),
            max_members: 8192,
            max_gone: 1024,
            unreachable_retention: Duration::from_secs(30 * 24 * 3600),
            left_retention: Duration::from_secs(24 * 3600),
            advertise: None,
            learn_peers: true,
            idle_interval_max: Duration::ZERO,
            join_interval_max: Duration::from_secs(60),
            wake_interval: None,
        }
    }
}

impl SwimConfig {
    /// For telephones: probes every 10 s, and whatever is due waits for the next wake, so that the radio is used once per
    /// 10 s at most, unless a probe is unanswered. Others are told, and probe this node a tenth as often.
    #[must_use]
    pub fn low_power(self) -> Self {
        let wake = Duration::from_secs(10);
        Self { probe_interval: wake, sync_interval: wake * 30, wake_interval: Some(wake), ..self }
    }

    /// The shortest and the longest suspicion in a group of `nodes`.
    pub(super) fn suspicion(&self, nodes: usize) -> (Duration, Duration) {
        let scale = log10_milli(nodes).max(1000);
        let scaled = u64::from(self.suspicion_min_milli) * scale / 1000;
        let shortest = self.base_interval() * u32::try_from(scaled).unwrap_or(u32::MAX) / 1000;
        (shortest, shortest * self.suspicion_max_factor.max(1))
    }

    /// What suspicions are measured in: a node that probes rarely must not suspect for as much longer.
    pub(super) fn base_interval(&self) -> Duration {
        self.probe_interval.min(Duration::from_secs(1))
    }

    /// How often each update is sent in a group of `nodes` (SWIM, section 4.1: lambda log n).
    pub(super) fn transmissions(&self, nodes: usize) -> u32 {
        let logarithm = log10_milli(nodes + 1).div_ceil(1000).max(1) as u32;
        (self.retransmit_factor * logarithm).max(1)
    }
}

/// Thousandths of the decimal logarithm, rounded down to that of the leading digit: the same on every platform.
pub(super) fn log10_milli(number: usize) -> u64 {
    const DIGITS: [u64; 9] = [0, 301, 477, 602, 699, 778, 845, 903, 954];
    let number = number.max(1);
    let power = number.ilog10();
    let leading = number / 10usize.pow(power);
    u64::from(power) * 1000 + DIGITS[leading.clamp(1, 9) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifeguard_4_2_suspicion_grows_with_the_logarithm_of_the_group() {
        let config = SwimConfig::default();
        let seconds = |nodes| config.suspicion(nodes).0.as_millis();
        assert_eq!([seconds(2), seconds(10), seconds(100), seconds(1000)], [1500, 1500, 3000, 4500]);
        assert_eq!(config.suspicion(10).1.as_millis(), 3000);
    }

    #[test]
    fn swim_4_1_an_update_is_sent_a_logarithmic_number_of_times() {
        let config = SwimConfig::default();
        let times = |nodes| config.transmissions(nodes);
        assert_eq!([times(1), times(9), times(100), times(1000)], [4, 4, 8, 12]);
    }
}
