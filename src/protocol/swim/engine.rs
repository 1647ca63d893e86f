//! The liveness engine: inputs with the time in, effects out.
//!
//! Owns the state and the timers, and hands each input to the part that knows it: `receiving` (frames), `probing`,
//! `suspecting`, `news` (statements, metadata, records), `syncing`, `joining`. Reads no clock, draws no randomness but
//! from its seed, sends nothing itself. Called by the driver of a node, by [`Liveness`](crate::Liveness), or by
//! simulators.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::auth::{PairKeys, Sender, TAG_BYTES, put_envelope};
use super::config::{FrameAuth, SwimConfig};
use super::dissemination::{Queue, Topic};
use super::joining::Meeting;
use super::member::{Index, Ring, Status, Table, bucket, digest};
use super::metadata::{Metadata, MetadataTooLarge, SignedMetadata};
use super::probing::Relay;
use super::rng::Dice;
use super::statement::{Incarnation, Statement};
use super::stats::{Allowance, SwimStats};
use super::syncing::SOON;
use super::wire::{BUCKETS, Body, Kind, Nonce, ShortId, Update};
use crate::domain::id::NodeId;
use crate::domain::identity::Identity;
use crate::domain::link::PeerAddr;
use crate::domain::time::Instant;

/// Time between two rounds of gossip while there is news (Lifeguard's evaluation: 200 ms).
const GOSSIP_INTERVAL: Duration = Duration::from_millis(200);
/// Members that a round of gossip goes to (3 in deployed systems; probes carry news besides).
const GOSSIP_FANOUT: usize = 2;
/// Time between two looks for records that are too old.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Members told directly by one that leaves: enough to be heard when half of the group leaves at once.
const FAREWELLS: usize = 32;
/// After this time among others, news of this node has reached everybody (measured: 5 s at 1,000 nodes).
pub(super) const KNOWN_AFTER: Duration = Duration::from_secs(10);
/// Shortest time between two denials: accusers cannot make a node chatter.
const DENIAL_INTERVAL: Duration = Duration::from_millis(500);
/// Updates under way at most.
pub(super) const MAX_UPDATES: usize = 4096;

/// What the engine is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A frame came that proves itself ([`FrameAuth::PairKey`]), from where the transport says.
    Frame(Bytes, Option<PeerAddr>),
    /// A packet came from a node that the caller has proven ([`FrameAuth::Caller`]).
    Packet(NodeId, Bytes),
    /// Something else that is authentic came from the node: a sign of life.
    Heard(NodeId),
    /// The deadline passed.
    Timeout,
    /// Make the acquaintance of whoever lives at an address.
    Meet(PeerAddr),
    /// Addresses to try whenever nobody answers, for ever.
    Join(Vec<PeerAddr>),
    /// A node is known from elsewhere, e.g. from a store: try to reach it.
    Introduce(NodeId, Option<PeerAddr>, Incarnation),
    /// A session with the node stands now ([`FrameAuth::Caller`]): a sign of life, and soon a greeting in return.
    Connected(NodeId),
    /// The caller has been busy with more than liveness: probes keep their full pace.
    Busy,
    /// Forget a node.
    Forget(NodeId),
    /// Forget a node that others spoke of, and take no notice of it until [`Input::Reconsider`], or until it is met.
    Ignore(NodeId),
    /// Who was ignored may be of interest now.
    Reconsider,
    /// The network changed or came back: try everybody now.
    NetworkChanged,
    /// What this node tells about itself, encoded.
    Metadata(Bytes),
    /// Say goodbye to all and fall silent.
    Leave,
    /// Come back after [`Leave`](Self::Leave), in a higher incarnation.
    Return,
}

/// What the engine wants done, or tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send a frame, or a packet under [`FrameAuth::Caller`], to a node; it may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// Where it is, as far as known.
        address: Option<PeerAddr>,
        /// What.
        frame: Bytes,
        /// What it is for.
        kind: Kind,
    },
    /// Send a greeting to an address.
    Greet(PeerAddr, Bytes),
    /// Keep the own incarnation across restarts. The next life starts with a higher one.
    Persist(Incarnation),
    /// A node is held for something else; `None` is for unknown.
    Changed {
        /// Who.
        node: NodeId,
        /// What it was.
        old: Option<Status>,
        /// What it is.
        new: Option<Status>,
        /// In which incarnation.
        incarnation: Incarnation,
    },
    /// A node's metadata changed.
    Metadata(NodeId),
    /// Who lives at an address that was to be met.
    Met(PeerAddr, NodeId),
    /// Nobody answered at an address that was to be met.
    MeetFailed(PeerAddr),
    /// This node was accused and denied it.
    Denied(Incarnation),
    /// An authentic message came, if the configuration asks for these.
    Received(NodeId, Kind),
}

/// A known node, as of now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberView {
    /// Who.
    pub node: NodeId,
    /// What it is held for.
    pub status: Status,
    /// In which incarnation.
    pub incarnation: Incarnation,
    /// What it tells about itself.
    pub metadata: Arc<Metadata>,
    /// In which version: 0 if it tells nothing.
    pub metadata_version: u64,
    /// Where it was heard, or said to be.
    pub address: Option<PeerAddr>,
    /// Smoothed round-trip time, if it was probed.
    pub rtt: Option<Duration>,
    /// When this node itself last heard it; `None` if never.
    pub heard: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Period,
    Probe(Index),
    Suspicion(Index),
    Retry(Index),
    Relay(u64),
    Gossip,
    Sync,
    Join,
    Meet(Nonce),
    Welcome(Index),
    Sweep,
}

/// Budgets against floods; what they defer is counted.
pub(super) struct Allowances {
    /// Keys derived for strangers: 40 microseconds each.
    pub(super) strangers: Allowance,
    /// Probes of unreachable nodes.
    pub(super) knocks: Allowance,
    /// Probes on hearsay.
    pub(super) looks: Allowance,
    /// Indirect probes for others.
    pub(super) relays: Allowance,
    /// Answers to frames of an earlier life.
    pub(super) stale: Allowance,
    /// New nodes passed on that were not heard here.
    pub(super) hearsay: Allowance,
    /// State sent in full.
    pub(super) pages: Allowance,
}

impl Allowances {
    fn new(now: Instant) -> Self {
        Self {
            strangers: Allowance::new(256, 64, now),
            knocks: Allowance::new(128, 32, now),
            looks: Allowance::new(64, 16, now),
            relays: Allowance::new(256, 128, now),
            stale: Allowance::new(32, 8, now),
            hearsay: Allowance::new(256, 32, now),
            pages: Allowance::new(64, 32, now),
        }
    }
}

/// The liveness of a group as one node sees it.
pub struct SwimEngine {
    pub(super) config: SwimConfig,
    pub(super) identity: Identity,
    pub(super) own: NodeId,
    pub(super) incarnation: Incarnation,
    /// Names this life in frame numbers.
    epoch: u64,
    pub(super) statement: Statement,
    pub(super) metadata: Option<SignedMetadata>,
    pub(super) leaving: bool,
    /// From when on the group has heard of this node.
    pub(super) known_from: Option<Instant>,
    pub(super) denied: Instant,
    pub(super) table: Table,
    /// Those heard here, and those known by hearsay: the latter never take more than every second turn.
    pub(super) rings: [Ring; 2],
    pub(super) turn: usize,
    pub(super) queue: Queue,
    timers: BTreeSet<(Instant, Timer)>,
    pub(super) period: Instant,
    /// Periods in a row in which nothing happened.
    pub(super) calm: u32,
    gossip: Option<Instant>,
    pub(super) sync: Instant,
    /// Exchanges of digests that come soon, because nodes were heard of that were not known.
    pub(super) settling: u8,
    /// Longest wait for the next exchange of digests while states differ.
    pub(super) sync_wait: Duration,
    pub(super) join: Option<(Instant, Duration)>,
    pub(super) seeds: Vec<PeerAddr>,
    pub(super) meetings: BTreeMap<Nonce, Meeting>,
    /// Greetings answered and not yet confirmed.
    pub(super) welcomes: VecDeque<(Nonce, NodeId)>,
    pub(super) relays: BTreeMap<u64, Relay>,
    pub(super) next_relay: u64,
    /// In which incarnation forgotten nodes were last seen, and when they were forgotten.
    pub(super) graves: BTreeMap<NodeId, (Incarnation, Instant)>,
    /// Nodes that are of no interest to the caller.
    pub(super) ignored: BTreeSet<NodeId>,
    pub(super) probes: usize,
    /// Lifeguard's local health: 0 is healthy.
    pub(super) health: u32,
    /// Share of first pings that went unanswered though their target was there, in thousandths.
    pub(super) loss: u32,
    pub(super) wave: Instant,
    pub(super) allowances: Allowances,
    pub(super) dice: Dice,
    pub(super) stats: SwimStats,
    pub(super) effects: Vec<Effect>,
    pub(super) now: Instant,
    pub(super) nobody: Arc<Metadata>,
}

impl SwimEngine {
    /// A node that knows nobody. `incarnation` must be above that of every earlier life of this node: raise what was
    /// persisted before each start. `seed` feeds the order of probes and must be unpredictable outside simulations.
    pub fn new(
        config: SwimConfig,
        identity: Identity,
        incarnation: Incarnation,
        seed: u64,
        now: Instant,
    ) -> Self {
        let low_power = config.wake_interval.is_some();
        let statement = Statement::sign(&identity, &config.group, incarnation, false, low_power);
        let mut dice = Dice::new(seed);
        let period = now + dice.within(config.probe_interval);
        let sync = now + dice.within(config.sync_interval);
        let mut engine = Self {
            own: identity.node(),
            identity,
            incarnation,
            epoch: incarnation.0,
            statement,
            metadata: None,
            leaving: false,
            known_from: None,
            denied: Instant::ZERO,
            table: Table::default(),
            rings: [Ring::default(), Ring::default()],
            turn: 0,
            queue: Queue::default(),
            timers: BTreeSet::new(),
            period,
            calm: 0,
            gossip: None,
            sync,
            settling: 0,
            sync_wait: SOON,
            join: None,
            seeds: Vec::new(),
            meetings: BTreeMap::new(),
            welcomes: VecDeque::new(),
            relays: BTreeMap::new(),
            next_relay: 0,
            graves: BTreeMap::new(),
            ignored: BTreeSet::new(),
            probes: 0,
            health: 0,
            loss: 0,
            wave: Instant::ZERO,
            allowances: Allowances::new(now),
            dice,
            stats: SwimStats::default(),
            effects: Vec::new(),
            now,
            nobody: Arc::default(),
            config,
        };
        engine.arm(period, Timer::Period);
        engine.arm(sync, Timer::Sync);
        engine.arm(now + SWEEP_INTERVAL, Timer::Sweep);
        if engine.config.auth == FrameAuth::PairKey {
            // Over sessions, each peer is told when its session stands.
            engine.announce();
        }
        engine
    }

    /// Takes an input at a time, and says what follows. Times must not go back.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        let now = now.max(self.now);
        self.notice_pause(now);
        self.now = now;
        if self.leaving && input == Input::Return {
            self.come_back();
        } else if !self.leaving {
            self.input(input);
            self.run_timers();
        }
        std::mem::take(&mut self.effects)
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Frame(frame, from) => self.frame(&frame, from),
            Input::Packet(peer, packet) => self.proven_packet(peer, &packet),
            Input::Heard(node) => {
                if let Some(index) = self.table.find(&node) {
                    let known = self.table.get(index).map(|member| member.incarnation).unwrap_or_default();
                    self.heard(index, known);
                }
            }
            Input::Timeout | Input::Return => {}
            Input::Connected(node) => self.connected(node),
            Input::Busy => self.quicken(),
            Input::Meet(address) => self.meet(address),
            Input::Join(seeds) => self.join(seeds),
            Input::Introduce(node, address, incarnation) => self.introduce(node, address, incarnation),
            Input::Forget(node) => {
                if let Some(index) = self.table.find(&node) {
                    self.forget(index);
                }
            }
            Input::Ignore(node) => self.ignore(node),
            Input::Reconsider => {
                self.ignored.clear();
                self.sync_within(self.now, SOON);
            }
            Input::NetworkChanged => self.knock_at_all(),
            Input::Metadata(bytes) => self.set_metadata(bytes),
            Input::Leave => self.leave(),
        }
    }

    /// When to call [`handle`](Self::handle) with [`Input::Timeout`]; `None` after leaving.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.leaving {
            return None;
        }
        let due = self.timers.first()?.0;
        // The radio is on while an answer is awaited; everything else waits for the next common wake.
        Some(if self.probes == 0 { self.wake_after(due) } else { due })
    }

    /// The common wake at or after `due`, for a node that sleeps; else `due`.
    pub fn wake_after(&self, due: Instant) -> Instant {
        let Some(wake) = self.config.wake_interval else { return due };
        let wake = u64::try_from(wake.as_nanos()).unwrap_or(u64::MAX).max(1);
        Instant::from_nanos(due.as_nanos().div_ceil(wake).saturating_mul(wake))
    }

    /// Whether probes come apart, or are about to, because nothing happens: then [`Input::Busy`] makes a difference.
    pub fn is_calm(&self) -> bool {
        self.calm > 0
    }

    /// Time between two probes of this node as things stand.
    pub fn pace(&self) -> Duration {
        self.config.probe_interval * self.stretch()
    }

    /// The own node.
    pub fn node(&self) -> NodeId {
        self.own
    }

    /// What names this life in frame numbers.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The own incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// All known nodes but the own one, by id.
    pub fn members(&self) -> impl Iterator<Item = MemberView> + '_ {
        self.table.iter().map(|(_, member)| self.view(member))
    }

    /// One known node.
    pub fn member(&self, node: &NodeId) -> Option<MemberView> {
        Some(self.view(self.table.get(self.table.find(node)?)?))
    }

    /// What a node is held for.
    pub fn status(&self, node: &NodeId) -> Option<Status> {
        Some(self.table.get(self.table.find(node)?)?.status)
    }

    /// In which incarnation a node was last known.
    pub fn incarnation_of(&self, node: &NodeId) -> Option<Incarnation> {
        Some(self.table.get(self.table.find(node)?)?.incarnation)
    }

    /// Whether a node says that it sleeps between wakes.
    pub fn sleeps(&self, node: &NodeId) -> bool {
        self.table
            .find(node)
            .and_then(|index| self.table.get(index))
            .is_some_and(super::member::Member::is_low_power)
    }

    /// How many nodes are known and held for `status`.
    pub fn count(&self, status: Status) -> usize {
        self.table.count(status)
    }

    /// All counters.
    pub fn stats(&self) -> &SwimStats {
        &self.stats
    }

    /// Lifeguard's local health: 0 is healthy, intervals and timeouts are stretched by one more than it.
    pub fn local_health(&self) -> u32 {
        self.health
    }

    /// Updates that wait to be sent.
    pub fn backlog(&self) -> usize {
        self.queue.len()
    }

    /// An authentic frame from this node to a known one with any packet: what a member that lies would send.
    #[cfg(any(test, feature = "test-util"))]
    pub fn forge(&mut self, to: &NodeId, packet: &[u8]) -> Option<Bytes> {
        let index = self.table.find(to)?;
        let mut frame = Vec::new();
        self.begin(index, true, &mut frame)?;
        frame.extend_from_slice(packet);
        self.table.get(index)?.keys.as_ref()?.seal(&mut frame);
        Some(frame.into())
    }

    fn view(&self, member: &super::member::Member) -> MemberView {
        MemberView {
            node: member.node,
            status: member.status,
            incarnation: member.incarnation,
            metadata: member
                .metadata
                .as_ref()
                .map_or_else(|| Arc::clone(&self.nobody), |(_, told)| Arc::clone(told)),
            metadata_version: member.metadata_version(),
            address: member.address.clone(),
            rtt: member.rtt.smoothed(),
            heard: (member.heard > Instant::ZERO).then_some(member.heard),
        }
    }

    // --- Timers ---

    pub(super) fn arm(&mut self, at: Instant, timer: Timer) {
        self.timers.insert((at, timer));
    }

    pub(super) fn disarm(&mut self, at: Instant, timer: Timer) {
        self.timers.remove(&(at, timer));
    }

    fn run_timers(&mut self) {
        while let Some((due, timer)) = self.timers.first().copied() {
            if due > self.now {
                return;
            }
            self.timers.pop_first();
            match timer {
                Timer::Period => self.next_period(),
                Timer::Probe(index) => self.next_step(index),
                Timer::Suspicion(index) => self.weigh(index),
                Timer::Retry(index) => self.knock_again(index),
                Timer::Relay(id) => self.relay_failed(id),
                Timer::Gossip => self.gossip_round(),
                Timer::Sync => self.sync_round(),
                Timer::Join => self.join_round(),
                Timer::Meet(nonce) => self.greet_again(nonce),
                Timer::Welcome(index) => self.welcome(index),
                Timer::Sweep => {
                    self.sweep();
                    self.arm(self.now + SWEEP_INTERVAL, Timer::Sweep);
                }
            }
        }
    }

    /// A process that did not run must not take its own silence for that of others: what it waited for starts over.
    fn notice_pause(&mut self, now: Instant) {
        let Some(due) = self.next_deadline() else { return };
        if now <= due + self.config.pause_tolerance {
            return;
        }
        self.stats.pauses += 1;
        self.health = (self.health + 1).min(self.config.health_max);
        let paused = now.since(due);
        let waiting: Vec<(Instant, Timer)> = self
            .timers
            .iter()
            .filter(|(_, timer)| {
                matches!(timer, Timer::Probe(_) | Timer::Suspicion(_) | Timer::Relay(_) | Timer::Period)
            })
            .copied()
            .collect();
        for (at, timer) in waiting {
            self.timers.remove(&(at, timer));
            let later = at + paused;
            match timer {
                Timer::Probe(index) => {
                    self.abandon_probe(index);
                    let Some(member) = self.table.get_mut(index) else { continue };
                    if let Some(suspicion) = &mut member.suspicion {
                        (suspicion.failed_looks, suspicion.wake) = (0, later);
                        suspicion.since = suspicion.since + paused;
                        suspicion.look_at = later;
                        self.arm(later, Timer::Suspicion(index));
                    } else {
                        self.schedule_knock(index);
                    }
                }
                Timer::Suspicion(index) => {
                    let Some(member) = self.table.get_mut(index) else { continue };
                    let Some(suspicion) = &mut member.suspicion else { continue };
                    suspicion.since = suspicion.since + paused;
                    suspicion.failed_looks = 0;
                    suspicion.wake = later;
                    suspicion.look_at = suspicion.look_at + paused;
                    self.arm(later, timer);
                }
                Timer::Relay(id) => {
                    self.relays.remove(&id);
                }
                _ => {
                    self.period = now + self.dice.within(self.config.probe_interval / 2);
                    self.arm(self.period, Timer::Period);
                }
            }
        }
        // Much may have happened meanwhile.
        self.sync_within(now, SOON);
    }

    // --- Sending ---

    /// Sends a packet to a member, with `news` first and then whatever is on its way.
    pub(super) fn send(&mut self, to: Index, body: Body, news: &[Update]) {
        let kind = body.kind();
        let mut packet = Vec::with_capacity(128);
        let Some(limit) = self.begin(to, false, &mut packet) else { return };
        body.encode(self.incarnation, &mut packet);
        for update in news {
            let before = packet.len();
            update.encode(&mut packet);
            if packet.len() > limit {
                packet.truncate(before);
            }
        }
        let transmissions = self.config.transmissions(self.table.up() + 1);
        self.queue.fill(&mut packet, limit, transmissions, Some(to));
        self.finish(to, None, packet, kind);
    }

    /// Starts a frame to a member: the envelope, if frames prove themselves. Up to which length updates may fill it.
    pub(super) fn begin(&mut self, to: Index, full: bool, frame: &mut Vec<u8>) -> Option<usize> {
        if self.config.auth == FrameAuth::Caller {
            return Some(self.config.max_frame);
        }
        self.ensure_keys(to)?;
        let (own, epoch) = (self.own, self.epoch);
        let sender = match full || self.introduces(to) {
            true => Sender::Full(own),
            false => Sender::Short(ShortId::from(&own)),
        };
        let member = self.table.get_mut(to)?;
        member.sent += 1;
        put_envelope(frame, sender, epoch.max(member.epoch), member.sent);
        Some(self.config.max_frame - TAG_BYTES)
    }

    /// Whether a member may not know this node: frames to it carry the full id, and pings the own statement.
    pub(super) fn introduces(&self, to: Index) -> bool {
        let known = self.known_from.is_some_and(|from| self.now >= from);
        self.table.get(to).is_some_and(|member| !(member.knows_us || (known && !member.doubted)))
    }

    /// Seals a frame to a member and hands it out, to another address than its own if one is given.
    pub(super) fn finish(&mut self, to: Index, address: Option<PeerAddr>, mut frame: Vec<u8>, kind: Kind) {
        let Some(member) = self.table.get(to) else { return };
        if self.config.auth == FrameAuth::PairKey {
            let Some(keys) = &member.keys else { return };
            keys.seal(&mut frame);
        }
        let (to, address) = (member.node, address.or_else(|| member.address.clone()));
        self.emit(to, address, frame, kind);
    }

    pub(super) fn emit(&mut self, to: NodeId, address: Option<PeerAddr>, frame: Vec<u8>, kind: Kind) {
        self.stats.frames_out += 1;
        self.stats.bytes_out += frame.len() as u64;
        self.stats.sent[kind as usize] += 1;
        self.effects.push(Effect::Send { to, address, frame: frame.into(), kind });
    }

    /// Derives the keys shared with a member, once; `None` if its id is no usable key.
    pub(super) fn ensure_keys(&mut self, index: Index) -> Option<()> {
        let member = self.table.get_mut(index)?;
        if member.keys.is_none() {
            member.keys = Some(Box::new(PairKeys::derive(&self.identity, &self.config.group, &member.node)?));
        }
        Some(())
    }

    pub(super) fn nonce(&mut self) -> Nonce {
        Nonce(self.dice.next() as u32)
    }

    /// Puts an update on its way.
    pub(super) fn spread(&mut self, topic: Topic, update: &Update) {
        let mut bytes = Vec::with_capacity(112);
        update.encode(&mut bytes);
        self.queue.put(topic, bytes.into(), MAX_UPDATES);
        if self.gossip.is_none() {
            let at = self.now + self.dice.within(GOSSIP_INTERVAL);
            self.gossip = Some(at);
            self.arm(at, Timer::Gossip);
        }
    }

    /// While there is news, it does not wait for the next probe.
    fn gossip_round(&mut self) {
        self.gossip = None;
        if self.queue.len() == 0 || self.table.up() == 0 {
            // Probes carry what is left, once there is somebody to probe.
            return;
        }
        for _ in 0..GOSSIP_FANOUT.min(self.table.up()) {
            let from = self.dice.below(self.table.places());
            if let Some(to) = self.table.pick(from, |_, member| member.is_up())
                && self.queue.len() > 0
            {
                self.send(to, Body::Gossip, &[]);
            }
        }
        if self.queue.len() > 0 {
            let at = self.now + GOSSIP_INTERVAL;
            self.gossip = Some(at);
            self.arm(at, Timer::Gossip);
        }
    }

    // --- The own word ---

    /// Puts the own statement and metadata on their way.
    pub(super) fn announce(&mut self) {
        let own = self.own_update();
        self.spread(Topic::Statement(None), &own);
        if let Some(metadata) = self.metadata.clone() {
            self.spread(Topic::Metadata(None), &Update::Metadata(metadata));
        }
    }

    /// Rises above `other` and says so.
    pub(super) fn rise_above(&mut self, other: Incarnation) {
        self.rise(other);
        self.spread(Topic::Statement(None), &self.own_update());
    }

    fn rise(&mut self, other: Incarnation) {
        self.incarnation = self.incarnation.max(other).next();
        let low_power = self.config.wake_interval.is_some();
        self.statement =
            Statement::sign(&self.identity, &self.config.group, self.incarnation, false, low_power);
        self.effects.push(Effect::Persist(self.incarnation));
    }

    /// The own statement, and where this node says it can be reached.
    pub(super) fn own_update(&self) -> Update {
        Update::Statement(self.statement, self.config.advertise.clone())
    }

    /// This node was accused in its present incarnation: it rises above it (SWIM, section 4.2), at a bounded pace.
    pub(super) fn deny(&mut self, accused: Incarnation) {
        if accused != self.incarnation || self.now < self.denied {
            return;
        }
        self.denied = self.now + DENIAL_INTERVAL;
        self.stats.denials += 1;
        // Lifeguard, section 4.1: who is suspected wrongly may be slow itself.
        self.health = (self.health + 1).min(self.config.health_max);
        self.rise_above(accused);
        self.effects.push(Effect::Denied(self.incarnation));
    }

    fn set_metadata(&mut self, bytes: Bytes) {
        // A version per value: the incarnation rises with each.
        self.rise_above(self.incarnation);
        let signed = SignedMetadata::sign(&self.identity, &self.config.group, self.incarnation.0, bytes);
        self.metadata = Some(signed);
        self.announce();
        if !self.config.learn_peers {
            // Nobody passes it on.
            let up: Vec<Index> =
                self.table.iter().filter(|(_, member)| member.is_up()).map(|(index, _)| index).collect();
            for index in up {
                self.tell_own(index);
            }
        }
    }

    /// Encodes metadata for [`Input::Metadata`].
    ///
    /// # Errors
    /// [`MetadataTooLarge`].
    pub fn metadata_input(metadata: &Metadata) -> Result<Input, MetadataTooLarge> {
        Ok(Input::Metadata(metadata.encode()?))
    }

    /// The digest of all that are held alive, this node included.
    pub(super) fn buckets(&self) -> [u32; BUCKETS] {
        let mut buckets = *self.table.buckets();
        let version = self.metadata.as_ref().map_or(0, |metadata| metadata.version);
        buckets[bucket(&self.own)] ^= digest(&self.own, self.incarnation, version);
        buckets
    }

    fn leave(&mut self) {
        let low_power = self.config.wake_interval.is_some();
        self.statement =
            Statement::sign(&self.identity, &self.config.group, self.incarnation, true, low_power);
        let farewell = [Update::Statement(self.statement, None)];
        let up: Vec<Index> =
            self.table.iter().filter(|(_, member)| member.is_up()).map(|(index, _)| index).collect();
        // Where nobody passes it on, everybody is told.
        let several = if self.config.learn_peers { FAREWELLS.min(up.len()) } else { up.len() };
        let start = self.dice.below(up.len());
        for step in 0..several {
            self.send(up[(start + step) % up.len()], Body::Gossip, &farewell);
        }
        let busy: Vec<Index> = self
            .table
            .iter()
            .filter(|(_, member)| member.probe.is_some() || member.suspicion.is_some())
            .map(|(index, _)| index)
            .collect();
        for index in busy {
            self.abandon_probe(index);
            self.end_suspicion(index);
        }
        self.relays.clear();
        self.leaving = true;
        self.timers.clear();
        self.gossip = None;
    }

    /// Back after a goodbye: the timers run again, and the higher incarnation undoes the goodbye.
    fn come_back(&mut self) {
        self.leaving = false;
        self.rise(self.incarnation);
        if self.config.auth == FrameAuth::PairKey {
            self.announce();
        }
        self.calm = 0;
        self.period = self.now + self.dice.within(self.config.probe_interval);
        self.sync = self.now + self.dice.within(self.config.sync_interval);
        self.arm(self.period, Timer::Period);
        self.arm(self.sync, Timer::Sync);
        self.arm(self.now + SWEEP_INTERVAL, Timer::Sweep);
        // Whoever was under suspicion gets a fair trial.
        let suspects: Vec<Index> = self
            .table
            .iter()
            .filter(|(_, member)| member.status == Status::Suspect)
            .map(|(index, _)| index)
            .collect();
        for index in suspects {
            self.set_status(index, Status::Alive);
        }
        for (_, member) in self.table.iter_mut() {
            member.retry = None;
        }
        self.knock_at_all();
        if self.join.take().is_some() {
            self.join(self.seeds.clone());
        }
    }

    /// A member is held for something else now.
    pub(super) fn set_status(&mut self, index: Index, new: Status) {
        let now = self.now;
        let Some(old) = self.table.update(index, |member| {
            let old = member.status;
            if old != new {
                (member.status, member.since) = (new, now);
            }
            old
        }) else {
            return;
        };
        self.place_in_ring(index);
        if old != new
            && let Some(member) = self.table.get(index)
        {
            let (node, incarnation) = (member.node, member.incarnation);
            self.effects.push(Effect::Changed { node, old: Some(old), new: Some(new), incarnation });
        }
    }

    /// Whoever is up has turns: in the first ring if it was heard here.
    pub(super) fn place_in_ring(&mut self, index: Index) {
        let Some(member) = self.table.get_mut(index) else { return };
        let (up, ring, was_in) = (member.is_up(), usize::from(!member.verified), member.in_ring);
        if up && !was_in {
            member.in_ring = true;
            let dice = &mut self.dice;
            self.rings[ring].insert(index, |bound| dice.below(bound));
        } else if !up && was_in {
            member.in_ring = false;
            self.rings[ring].remove(index);
        }
    }
}

impl std::fmt::Debug for SwimEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SwimEngine")
            .field("node", &self.own)
            .field("incarnation", &self.incarnation)
            .field("known", &self.table.len())
            .finish_non_exhaustive()
    }
}
