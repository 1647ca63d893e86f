//! Configuration, checked when a node is built.
//!
//! Plain values: every knob has its default and the reason for it here. Never changes while a node runs.

use std::time::Duration;

use super::ports::{Durability, PeerAddr};
use crate::domain::run::MAX_PAYLOAD_BYTES;
use crate::protocol::gossip::{CAN_PACK, MAX_INCOMING};
use crate::protocol::wire::MessageVersion;

/// Who may become a peer once it has proven who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AcceptPeers {
    /// Only nodes that this one met or added.
    Known,
    /// Also nodes that a channel of this node admits.
    #[default]
    Members,
    /// Everybody.
    Anyone,
}

/// How a node behaves. [`Config::default`] suits groups of a few devices.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// When `append` returns. Default: immediate.
    pub durability: Durability,
    /// Largest payload in bytes. Default 16 MiB: what fits in memory several times on a phone.
    pub max_payload: usize,
    /// How far a stamp may lead the wall clock before it is reported and its era abandoned. Default 1 h: above
    /// any honest clock error and wrong time zone step, below what confuses people.
    pub drift: Duration,
    /// Shortest time between two comparisons with one peer. Default 200 ms.
    pub gossip_interval: Duration,
    /// Longest time between two comparisons with one peer when nothing changes. Default 30 s.
    pub gossip_interval_max: Duration,
    /// Time between two probes of a peer that sent nothing. Default 1 s (SWIM).
    pub probe_interval: Duration,
    /// Unanswered probes after which a peer counts as unreachable. Default 5: at 10 % loss a false verdict
    /// once in 100,000 probes.
    pub probe_failures: u32,
    /// Learn peers of shared channels, with their addresses, from peers, and dial them. Then all peers of a node also
    /// learn of each other's ids, addresses and metadata, whatever channels they share. Default: no.
    pub exchange_peers: bool,
    /// Where others can reach this node, told to peers with everything else that it says of itself. It helps where peers
    /// are exchanged: who is dialled by everybody knows nobody's address. Default: nothing.
    pub address: Option<PeerAddr>,
    /// This device sleeps: whatever is due waits for the next common wake, every 10 s, and peers are told to probe it
    /// a tenth as often. Default: no.
    pub low_power: bool,
    /// Longest time between two probes while a node and its peers are healthy, silent and in agreement. Probes come
    /// apart by and by, and are back at their pace with the first news; a peer that vanishes from such silence is
    /// noticed later by as much. Default: 20 s with [`low_power`](Self::low_power), ten probe intervals over a port
    /// whose frames are at most 1 KiB, else the probe interval.
    pub idle_probe_interval: Option<Duration>,
    /// Longest time between two attempts to reach an unreachable peer. Default 60 s.
    pub redial_interval_max: Duration,
    /// Who may become a peer. Default: members.
    pub accept_peers: AcceptPeers,
    /// Create streams that a peer has in a shared channel. Default: yes.
    pub learn_streams: bool,
    /// Most logs that peers can create in one channel. Default 1,000,000.
    pub max_logs: usize,
    /// Most lines of one log that are kept; further ones are parked. Default 16.
    pub max_lines: u16,
    /// Bytes of appends that may wait for the store, per stream. Default 8 MiB.
    pub append_window: usize,
    /// Most bytes sent to a peer that it has not yet stored, at most 16 MiB. Default 4 MiB. It begins with 128 KiB
    /// and follows how fast the peer stores what it is sent.
    pub transfer_window: usize,
    /// Send runs compressed (zstd) to peers that also do: half the bytes for text. Whoever can watch the encrypted
    /// frames of a log and have its author add text of theirs to it can learn something about the rest from how long frames are; see
    /// CRIME (2012). Needs the feature `compression`. Default: no.
    pub compress: bool,
    /// Newest version of messages to speak: lower it to test how an app fares among devices that were not updated yet.
    /// Nodes write to each other in the newest version that both read. Default: the newest of this build.
    pub message_version: MessageVersion,
    /// Events and faults that wait for a slow listener. Default 1,024 each.
    pub event_capacity: usize,
    /// How long the first append waits for a peer: after the store moved, and in a channel that was removed and
    /// made again for the entries that were sent from it. Default 10 s.
    pub amnesia_wait: Duration,
    /// Most links whose peer has not proven itself yet. Default 64.
    pub max_half_open: usize,
    /// Most peers remembered that came by themselves: neither named nor dialled by this node. Beyond, the one
    /// unseen for longest is forgotten; those that are connected stay. Default 4,096: about 1 MB.
    pub max_strangers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            durability: Durability::Immediate,
            max_payload: 16 << 20,
            drift: Duration::from_secs(3600),
            gossip_interval: Duration::from_millis(200),
            gossip_interval_max: Duration::from_secs(30),
            probe_interval: Duration::from_secs(1),
            probe_failures: 5,
            exchange_peers: false,
            address: None,
            low_power: false,
            idle_probe_interval: None,
            redial_interval_max: Duration::from_secs(60),
            accept_peers: AcceptPeers::Members,
            learn_streams: true,
            max_logs: 1_000_000,
            max_lines: 16,
            append_window: 8 << 20,
            transfer_window: 4 << 20,
            compress: false,
            message_version: MessageVersion::NEWEST,
            event_capacity: 1024,
            amnesia_wait: Duration::from_secs(10),
            max_half_open: 64,
            max_strangers: 4096,
        }
    }
}

/// A configuration that cannot work: a fault of the caller. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// This interval or count must not be zero.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// This value is above what the format can carry.
    #[error("{0} is too large")]
    TooLarge(&'static str),
    /// This crate was built without the feature that it takes.
    #[error("this build has no feature `{0}`")]
    NotBuilt(&'static str),
    /// The longest interval is below the shortest.
    #[error("gossip_interval_max is below gossip_interval")]
    Interval,
}

impl Config {
    /// Whether a node can run like this.
    ///
    /// # Errors
    /// [`ConfigError`]: the first field that cannot work.
    pub fn check(&self) -> Result<(), ConfigError> {
        let durations = [
            ("gossip_interval", self.gossip_interval),
            ("probe_interval", self.probe_interval),
            ("redial_interval_max", self.redial_interval_max),
            ("drift", self.drift),
        ];
        if let Some((name, _)) = durations.iter().find(|(_, value)| value.is_zero()) {
            return Err(ConfigError::Zero(name));
        }
        let counts = [
            ("max_payload", self.max_payload),
            ("probe_failures", self.probe_failures as usize),
            ("max_logs", self.max_logs),
            ("max_lines", usize::from(self.max_lines)),
            ("append_window", self.append_window),
            ("transfer_window", self.transfer_window),
            ("event_capacity", self.event_capacity),
            ("max_half_open", self.max_half_open),
            ("max_strangers", self.max_strangers),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Zero(name));
        }
        if self.durability == Durability::Interval(Duration::ZERO) {
            return Err(ConfigError::Zero("durability interval"));
        }
        if self.max_payload > MAX_PAYLOAD_BYTES {
            return Err(ConfigError::TooLarge("max_payload"));
        }
        // More than that, a peer takes for an attack.
        if self.transfer_window > MAX_INCOMING {
            return Err(ConfigError::TooLarge("transfer_window"));
        }
        if self.compress && !CAN_PACK {
            return Err(ConfigError::NotBuilt("compression"));
        }
        if self.gossip_interval_max < self.gossip_interval {
            return Err(ConfigError::Interval);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_is_refused_by_a_build_that_lacks_it() {
        let wanted = Config { compress: true, ..Config::default() };
        let refused = Err(ConfigError::NotBuilt("compression"));
        assert_eq!(wanted.check(), if cfg!(feature = "compression") { Ok(()) } else { refused });
    }

    #[test]
    fn a_zero_interval_is_refused() {
        assert_eq!(Config::default().check(), Ok(()));
        let zero = Config { gossip_interval: Duration::ZERO, ..Config::default() };
        assert_eq!(zero.check(), Err(ConfigError::Zero("gossip_interval")));
        let zero = Config { durability: Durability::Interval(Duration::ZERO), ..Config::default() };
        assert_eq!(zero.check(), Err(ConfigError::Zero("durability interval")));
    }
}
