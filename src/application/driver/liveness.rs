//! Liveness of peers: the engine of `protocol::swim` over sessions.
//!
//! Packets travel as datagrams of sessions, in the frames of whatever else is being sent; what is too large for one goes as
//! a message. A session's own prober decides about its link only; who is there is the engine's verdict. Called by the
//! driver.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::links::LinkKey;
use super::{Loop, NodeState};
use crate::application::config::{AcceptPeers, Config};
use crate::application::ports::{NodeRecord, WriteOp};
use crate::domain::event::Event;
use crate::domain::id::NodeId;
use crate::domain::time::Instant;
use crate::protocol::session::Lane;
use crate::protocol::swim::{Effect, FrameAuth, Incarnation, Input, Kind, Status, SwimConfig};

/// First byte of a datagram that carries a packet of the liveness engine.
pub(super) const SWIM_DATAGRAM: u8 = 3;
/// First byte of a message that does; messages of gossip begin with their version.
const SWIM_MESSAGE: u8 = 0xf1;
/// Frames up to this size mean a link on which every byte counts.
pub(super) const NARROW_FRAME: usize = 1024;
/// Probe intervals between two probes at most, over such a link and in silence.
const NARROW_IDLE: u32 = 10;
/// Time between two probes at most, in silence, for a device that sleeps.
const LOW_POWER_IDLE: Duration = Duration::from_secs(20);
/// Silence of a peer that sleeps between wakes in which its link is not probed: three of its own probes.
const SLEEPERS_SILENCE: Duration = Duration::from_secs(60);
/// Shortest time between two waves of dialling because somebody came back.
const WAVE_PAUSE: Duration = Duration::from_secs(10);
/// Signs of life of one session that are passed on: one per this time is enough.
const HEARD_EVERY: Duration = Duration::from_millis(100);

/// What the engine is configured like for a node.
pub(super) fn swim_config(config: &Config, narrow: bool) -> SwimConfig {
    let mut swim = SwimConfig::default();
    if config.low_power {
        swim = swim.low_power();
    } else {
        swim.probe_interval = config.probe_interval;
    }
    let idle = match (config.low_power, narrow) {
        (true, _) => LOW_POWER_IDLE,
        (false, true) => config.probe_interval * NARROW_IDLE,
        (false, false) => config.probe_interval,
    };
    swim.idle_interval_max = config.idle_probe_interval.unwrap_or(idle);
    swim.auth = FrameAuth::Caller;
    swim.unreachable_interval_max = config.redial_interval_max;
    swim.learn_peers = config.exchange_peers;
    swim.advertise = config.address.clone();
    swim
}

impl Loop {
    /// Hands the liveness engine an input, and does what it wants.
    pub(super) fn swim(&mut self, input: Input) {
        let effects = self.swim.handle(input, self.now);
        for effect in effects {
            match effect {
                Effect::Send { to, frame, kind, .. } => self.send_packet(&to, &frame, kind),
                Effect::Persist(incarnation) => {
                    self.write(WriteOp::PutNode(NodeRecord { incarnation: incarnation.0 }));
                }
                Effect::Changed { node, old, new: Some(new), incarnation } => {
                    self.status_changed(node, old, new, incarnation);
                }
                Effect::Metadata(node) => self.metadata_changed(node),
                Effect::Denied(_) => self.replica.notices.counters.accusations_denied.add(1),
                // Addresses are met by the driver itself; greetings are for engines without sessions.
                Effect::Changed { new: None, .. }
                | Effect::Greet(..)
                | Effect::Met(..)
                | Effect::MeetFailed(_)
                | Effect::Received(..) => {}
            }
        }
        self.peers.set_updates(self.swim.backlog());
        let stats = self.swim.stats();
        let refused = stats.malformed + stats.bad_signatures + stats.accusations_ignored + stats.forged;
        let before = std::mem::replace(&mut self.swim_refused, refused);
        self.replica.notices.counters.liveness_refused.add(refused - before);
    }

    /// A session stands: whoever is there is a member.
    pub(super) fn swim_session(&mut self, peer: NodeId) {
        self.swim(Input::Connected(peer));
        let known = self.peers.get(&peer);
        let address = known.and_then(|peer| peer.addresses.first().cloned());
        if address.is_some() {
            self.swim(Input::Introduce(peer, address, Incarnation::default()));
        }
    }

    /// Says goodbye to everybody.
    pub(super) fn farewell(&mut self) {
        self.swim(Input::Leave);
        self.flush();
    }

    /// The application says that the network is back, or another one.
    pub(super) fn network_changed(&mut self) {
        self.swim(Input::NetworkChanged);
        self.seeds.hasten(self.now);
        self.hasten_dials();
        let addressed = self.peers.addresses();
        let sessions: BTreeSet<NodeId> = self.links.values().filter_map(|link| link.peer).collect();
        for (peer, _) in addressed {
            if !sessions.contains(&peer) {
                self.dial_soon(peer);
            }
        }
    }

    /// Something authentic came on a session.
    pub(super) fn swim_heard(&mut self, key: LinkKey) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&key) else { return };
        let Some(peer) = link.peer.filter(|_| now >= link.told + HEARD_EVERY) else { return };
        link.told = now;
        self.swim(Input::Heard(peer));
        let patience = self.link_patience(Some(&peer));
        if let Some(link) = self.links.get_mut(&key) {
            link.set_patience(patience);
        }
    }

    pub(super) fn swim_packet(&mut self, key: LinkKey, packet: Bytes) {
        let Some(peer) = self.links.get(&key).and_then(|link| link.peer) else { return };
        self.swim(Input::Packet(peer, packet));
        let Some(incarnation) = self.swim.incarnation_of(&peer) else { return };
        if self.peers.risen(&peer, incarnation.0) {
            self.keep_peer(&peer);
        }
    }

    /// The packet in a message, if it is one of the liveness engine.
    pub(super) fn swim_message(message: &Bytes) -> Option<Bytes> {
        (message.first() == Some(&SWIM_MESSAGE)).then(|| message.slice(1..))
    }

    fn send_packet(&mut self, to: &NodeId, packet: &[u8], kind: Kind) {
        let now = self.now;
        // Without a session the packet is lost, as on any link: others may relay.
        let Some(link) = self.link_to(to).and_then(|key| self.links.get_mut(&key)) else { return };
        if kind == Kind::Ping {
            // What goes unanswered says something about the link, whatever others say about the peer.
            link.asked(now);
        }
        let prefixed = |first: u8| Bytes::from([&[first], packet].concat());
        if packet.len() < link.max_datagram() {
            link.send_datagram(prefixed(SWIM_DATAGRAM));
        } else {
            let id = link.id;
            self.send(id, Lane::Control, prefixed(SWIM_MESSAGE));
        }
    }

    fn link_to(&self, peer: &NodeId) -> Option<LinkKey> {
        self.links.iter().find(|(_, link)| link.peer.as_ref() == Some(peer)).map(|(key, _)| *key)
    }

    fn status_changed(&mut self, node: NodeId, old: Option<Status>, new: Status, incarnation: Incarnation) {
        let Some((before, risen)) = self.peers.liveness(&node, new, incarnation.0) else {
            return self.learn_peer(node, new);
        };
        if risen {
            self.keep_peer(&node);
        }
        if before == new {
            return;
        }
        let patience = self.link_patience(Some(&node));
        if let Some(link) = self.link_to(&node).and_then(|key| self.links.get_mut(&key)) {
            link.set_patience(patience);
        }
        let counters = &self.replica.notices.counters;
        counters.peer_status_changes.add(1);
        counters.peers_unreachable.add(u64::from(new == Status::Unreachable));
        self.replica.notices.event(Event::PeerStatus(node, new));
        self.metadata_changed(node);
        if new == Status::Alive {
            if self.peers.get(&node).is_some_and(|peer| !peer.reachable) {
                self.dial_soon(node);
            }
            if old == Some(Status::Unreachable) && self.now >= self.next_wave {
                // One came back, so the network may have.
                self.next_wave = self.now + WAVE_PAUSE;
                self.hasten_dials();
            }
        }
    }

    fn metadata_changed(&mut self, node: NodeId) {
        let Some(member) = self.swim.member(&node) else { return };
        if self.peers.told(&node, member.metadata_version, Arc::clone(&member.metadata)) {
            self.replica.notices.event(Event::PeerMetadata(node));
        }
    }

    /// A peer spoke of somebody whom this node does not know: whoever shares a channel is met, if peers are exchanged.
    fn learn_peer(&mut self, node: NodeId, status: Status) {
        let config = &self.replica.config;
        if status != Status::Alive || !config.exchange_peers || *self.state.borrow() == NodeState::Stopped {
            return;
        }
        let shares = || self.replica.channels().iter().any(|channel| channel.state().admission.admits(&node));
        let wanted = match config.accept_peers {
            AcceptPeers::Known => false,
            AcceptPeers::Members => shares(),
            AcceptPeers::Anyone => true,
        };
        if !wanted {
            return self.swim(Input::Ignore(node));
        }
        let Some(incarnation) = self.swim.incarnation_of(&node) else { return };
        // Without the address: until it is met there, it is a stranger like others, of whom only so many are kept.
        self.note_peer(node, None);
        self.status_changed(node, None, status, incarnation);
    }

    /// How long a session's link may be silent before it is probed though nothing is asked. The engine asks each peer once
    /// per pass through all of them; that is left to it, but for peers that it does not hold alive.
    pub(super) fn link_patience(&self, peer: Option<&NodeId>) -> Duration {
        let Some(peer) = peer.filter(|peer| self.swim.status(peer) == Some(Status::Alive)) else {
            return self.replica.config.probe_interval;
        };
        let sessions = u32::try_from(self.sessions.len()).unwrap_or(u32::MAX);
        let patience = self.swim.pace() * PASSES.saturating_mul(sessions.max(1));
        if self.swim.sleeps(peer) { patience.max(SLEEPERS_SILENCE) } else { patience }
    }

    /// When gossip wants to run. A device that sleeps lets what is not under way wait for the common wake.
    pub(super) fn gossip_deadline(&mut self) -> Option<Instant> {
        let due = self.gossip.next_deadline()?;
        match self.replica.config.low_power && self.gossip.is_quiescent() {
            true => Some(self.swim.wake_after(due)),
            false => Some(due),
        }
    }

    pub(super) fn swim_deadline(&self) -> Option<Instant> {
        // Nobody to send to: what is due waits.
        self.swim.next_deadline().filter(|_| *self.state.borrow() != NodeState::Stopped)
    }
}

/// Passes through all peers that a silent link goes unprobed: a peer has a turn in each.
const PASSES: u32 = 3;
