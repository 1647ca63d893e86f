//! Liveness alone: who answers, without channels and stores.
//!
//! [`Liveness`] is the engine of `protocol::swim` under an interface for applications, driven by hand: whoever owns it
//! brings the time and the frames, and takes the sends and events. [`driver`] does that over a [`MessagePort`](super::ports::MessagePort)
//! and a timer. Neither reads a clock of its own, starts a thread or spawns. Built by the facade's `LivenessBuilder`.

pub(crate) mod driver;
mod event;
mod routes;
mod stats;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

pub use event::{
    FrameRefused, LivenessEvent, LivenessOutput, LivenessSink, MessageKind, MessageSeen, NodeStatus,
};
pub use stats::LivenessStats;

use super::ports::TimerPort;
use crate::application::selection::Members;
use crate::domain::id::NodeId;
use crate::domain::identity::Identity;
use crate::domain::link::PeerAddr;
use crate::domain::time::Instant;
use crate::protocol::swim::{
    Effect, Incarnation, Input, Kind, MAX_METADATA_BYTES, MemberView, Metadata, Status, SwimConfig,
    SwimEngine, VERSION,
};

/// Bytes of a frame that its metadata cannot have: envelope, head, signature and tag, at incarnations below 2^21.
const BESIDES_METADATA: usize = 176;

/// Metadata that cannot travel: a fault of the caller. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("metadata of {bytes} bytes, at most {most} are possible with this frame limit")]
pub struct MetadataRefused {
    /// Their size, encoded.
    pub bytes: usize,
    /// The limit: [`MAX_METADATA_BYTES`], or what frames have room for.
    pub most: usize,
}

/// Called for messages of some kinds.
pub(crate) struct Hook {
    pub(crate) kinds: Vec<MessageKind>,
    pub(crate) call: Box<dyn FnMut(&MessageSeen) + Send>,
}

/// What a [`Liveness`] is made of.
pub(crate) struct Parts {
    pub(crate) identity: Identity,
    pub(crate) incarnation: Incarnation,
    pub(crate) config: SwimConfig,
    pub(crate) seed: u64,
    pub(crate) metadata: Metadata,
    pub(crate) seeds: Vec<PeerAddr>,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) timer: Option<Arc<dyn TimerPort>>,
}

/// Who answers, driven by hand: no channels, no store, no runtime, no thread.
///
/// Call [`tick`](Self::tick) at least when [`next_deadline`](Self::next_deadline) says so (every 100 ms does, too), and
/// [`handle`](Self::handle) with every frame that arrives. What there is to send, to keep and to tell goes to the
/// [`LivenessSink`] that each call is given. The same with the runtime doing all that:
/// [`LivenessBuilder::spawn`](crate::LivenessBuilder::spawn).
///
/// ```
/// use anabranch::{Identity, Instant, Liveness, LivenessOutput, Metadata, NodeStatus};
/// use std::{collections::VecDeque, time::Duration};
///
/// let mut now = Instant::ZERO;
/// let mut nodes: Vec<Liveness> = (1..=3)
///     .map(|n| {
///         let metadata = Metadata::default().role(if n == 1 { "relay" } else { "phone" });
///         Liveness::builder(Identity::from_secret([n; 32])).metadata(metadata).join(["0"]).by_hand(now)
///     })
///     .collect::<Result<_, _>>()?;
/// let mut wire = VecDeque::new(); // any transport of yours: here addresses are places in `nodes`
/// for _ in 0..50 {
///     for (at, node) in nodes.iter_mut().enumerate() {
///         node.tick(now, &mut |output| {
///             if let LivenessOutput::Send(to, frame) = output { wire.push_back((at, to, frame)) }
///         });
///     }
///     while let Some((from, to, frame)) = wire.pop_front() {
///         let at: usize = to.as_str().parse()?;
///         let _why_not = nodes[at].handle(Some(from.to_string().into()), frame, now, &mut |output| {
///             if let LivenessOutput::Send(to, frame) = output { wire.push_back((at, to, frame)) }
///         });
///     }
///     now = now + Duration::from_millis(100);
/// }
/// let relays = nodes[2].members().with_role("relay").alive();
/// assert_eq!((nodes[2].members().len(), relays[0].node), (2, nodes[0].node()));
/// assert_eq!(NodeStatus::from(relays[0].status).to_string(), "ONLINE");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// # Coming from libgossip
///
/// | there | here |
/// |---|---|
/// | `gossip_core(self, sender, handler)` | [`Liveness::builder`] and a sink per call |
/// | `tick()`, `handle_message(msg, time)` | [`tick`](Self::tick), [`handle`](Self::handle): bytes, authenticated |
/// | `meet(node)`, `join(node)`, `leave(id)` | [`meet`](Self::meet), [`join`](Self::join): retried for ever, [`leave`](Self::leave): sent, of the node itself |
/// | `get_nodes()`, `find_node(id)` | [`members`](Self::members) with selectors, [`member`](Self::member) |
/// | `role`, `region`, `metadata` of a view | [`set_metadata`](Self::set_metadata): signed, and it spreads |
/// | `node_status`, `message_type` | [`NodeStatus`], [`MessageKind`] |
/// | `get_stats()` | [`stats`](Self::stats) |
/// | `cleanup_expired(timeout)` | by itself, after `SwimConfig::unreachable_retention`; or [`forget`](Self::forget) |
///
/// A panic in the sink goes through to the caller; one in a hook ends that hook, and is counted.
pub struct Liveness {
    engine: SwimEngine,
    max_frame: usize,
    advertise: Option<PeerAddr>,
    metadata: Metadata,
    hooks: Vec<Hook>,
    timer: Option<Arc<dyn TimerPort>>,
    counts: LivenessStats,
    left: bool,
    /// What followed from the start, for the first sink.
    pending: Vec<Effect>,
}

impl Liveness {
    pub(crate) fn new(parts: Parts, now: Instant) -> Result<Self, MetadataRefused> {
        let Parts { identity, incarnation, config, seed, metadata, seeds, hooks, timer } = parts;
        let (max_frame, advertise) = (config.max_frame, config.advertise.clone());
        // This life is above every earlier one, and kept before anybody hears of it.
        let incarnation = incarnation.next();
        let engine = SwimEngine::new(config, identity, incarnation, seed, now);
        let mut liveness = Self {
            engine,
            max_frame,
            advertise,
            metadata: Metadata::default(),
            hooks,
            timer,
            counts: LivenessStats::default(),
            left: false,
            pending: vec![Effect::Persist(incarnation)],
        };
        if metadata != Metadata::default() {
            let effects = liveness.change_metadata(metadata, now)?;
            liveness.pending.extend(effects);
        }
        if !seeds.is_empty() {
            let effects = liveness.seek(seeds, now);
            liveness.pending.extend(effects);
        }
        Ok(liveness)
    }

    /// The time passes: probes, suspicions, gossip and retries that are due. Times must not go back.
    pub fn tick(&mut self, now: Instant, sink: &mut impl LivenessSink) {
        let effects = self.ticked(now);
        deliver(effects, &mut self.counts, sink);
    }

    /// A frame arrived, from where the transport says: the address to which answers go. Without one, a known sender is
    /// answered where it says it can be reached, and a stranger's greeting not at all.
    ///
    /// # Errors
    /// [`FrameRefused`]: it was not believed. It is counted, and had no effect.
    pub fn handle(
        &mut self,
        from: Option<PeerAddr>,
        frame: Bytes,
        now: Instant,
        sink: &mut impl LivenessSink,
    ) -> Result<(), FrameRefused> {
        let (effects, refused) = self.received(from, frame, now);
        deliver(effects, &mut self.counts, sink);
        refused.map_or(Ok(()), Err)
    }

    /// When to [`tick`](Self::tick) next; `None` after leaving.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.pending.is_empty() { self.engine.next_deadline() } else { Some(Instant::ZERO) }
    }

    /// Makes the acquaintance of whoever lives at an address. [`LivenessEvent::Met`] or [`LivenessEvent::MeetFailed`]
    /// follows.
    pub fn meet(&mut self, address: impl Into<PeerAddr>, now: Instant, sink: &mut impl LivenessSink) {
        self.input(Input::Meet(address.into()), now, sink);
    }

    /// Addresses to try now and whenever nobody answers, with growing pauses, for ever. Replaces those of an earlier call.
    /// Once others answer, those that do not are still tried, rarely: they may lead to another part of the group.
    pub fn join<A: Into<PeerAddr>>(
        &mut self,
        seeds: impl IntoIterator<Item = A>,
        now: Instant,
        sink: &mut impl LivenessSink,
    ) {
        let effects = self.seek(seeds.into_iter().map(Into::into).collect(), now);
        deliver(effects, &mut self.counts, sink);
    }

    /// Says goodbye: the others hold this node for left, at once, without suspecting it first. Afterwards it is silent; to come
    /// back, build it anew with the incarnation that was kept.
    pub fn leave(&mut self, now: Instant, sink: &mut impl LivenessSink) {
        let had_left = self.left;
        let effects = self.goodbye(now);
        deliver(effects, &mut self.counts, sink);
        if !had_left {
            sink.event(LivenessEvent::Left);
        }
    }

    /// What this node tells about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Changes what this node tells about itself. Others learn of it within seconds.
    ///
    /// # Errors
    /// [`MetadataRefused`].
    pub fn set_metadata(
        &mut self,
        metadata: Metadata,
        now: Instant,
        sink: &mut impl LivenessSink,
    ) -> Result<(), MetadataRefused> {
        let effects = self.change_metadata(metadata, now)?;
        deliver(effects, &mut self.counts, sink);
        Ok(())
    }

    /// Names a node that is known from elsewhere, e.g. from a list of an earlier life: it is tried at once.
    pub fn introduce(
        &mut self,
        node: NodeId,
        address: Option<PeerAddr>,
        now: Instant,
        sink: &mut impl LivenessSink,
    ) {
        self.input(Input::Introduce(node, address, Incarnation::default()), now, sink);
    }

    /// Forgets a node. If it is there, it comes back with its next incarnation.
    pub fn forget(&mut self, node: NodeId, now: Instant, sink: &mut impl LivenessSink) {
        self.input(Input::Forget(node), now, sink);
    }

    /// The network changed or came back: everybody who is unreachable is tried now.
    pub fn network_changed(&mut self, now: Instant, sink: &mut impl LivenessSink) {
        self.input(Input::NetworkChanged, now, sink);
    }

    /// The own node.
    pub fn node(&self) -> NodeId {
        self.engine.node()
    }

    /// The own incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.engine.incarnation()
    }

    /// Whether this node said goodbye.
    pub fn has_left(&self) -> bool {
        self.left
    }

    /// All known nodes but the own one, to be narrowed down by selectors.
    pub fn members(&self) -> Members {
        self.engine.members().collect()
    }

    /// One known node.
    pub fn member(&self, node: &NodeId) -> Option<MemberView> {
        self.engine.member(node)
    }

    /// What a node is held for; `None` if it is not known.
    pub fn status(&self, node: &NodeId) -> Option<Status> {
        self.engine.status(node)
    }

    /// Statistics.
    pub fn stats(&self) -> LivenessStats {
        let known = [Status::Joining, Status::Alive, Status::Suspect, Status::Unreachable, Status::Left];
        let engine = *self.engine.stats();
        LivenessStats {
            known_nodes: known.map(|status| self.engine.count(status)).iter().sum(),
            online_nodes: self.engine.count(Status::Alive) + self.engine.count(Status::Suspect),
            engine,
            ..self.counts
        }
    }

    fn input(&mut self, input: Input, now: Instant, sink: &mut impl LivenessSink) {
        let effects = self.take(input, now);
        deliver(effects, &mut self.counts, sink);
    }

    // --- For whoever routes frames by node: the driver. ---

    pub(crate) fn take(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        let leaving = input == Input::Leave;
        let effects = self.engine.handle(input, now);
        self.note(&effects, leaving, 0, None);
        self.after_pending(effects)
    }

    /// One tick, measured if there is a timer.
    pub(crate) fn ticked(&mut self, now: Instant) -> Vec<Effect> {
        let began = self.timer.as_ref().map(|timer| timer.now());
        let effects = self.take(Input::Timeout, now);
        self.counts.last_tick = self.timer.as_ref().zip(began).map(|(timer, began)| timer.now().since(began));
        effects
    }

    /// A frame, and why it was not believed.
    pub(crate) fn received(
        &mut self,
        from: Option<PeerAddr>,
        frame: Bytes,
        now: Instant,
    ) -> (Vec<Effect>, Option<FrameRefused>) {
        let (bytes, most) = (frame.len(), self.max_frame);
        let refused = if self.left {
            Some(FrameRefused::Left)
        } else if bytes > most {
            self.counts.too_large += 1;
            Some(FrameRefused::TooLarge { bytes, most })
        } else if let Some(version) = frame.first().copied().filter(|version| *version != VERSION) {
            self.counts.unknown_version += 1;
            Some(FrameRefused::UnknownVersion(version))
        } else {
            None
        };
        if refused.is_some() {
            self.counts.refused += 1;
            return (std::mem::take(&mut self.pending), refused);
        }
        let before = *self.engine.stats();
        let effects = self.engine.handle(Input::Frame(frame, from.clone()), now);
        let after = self.engine.stats();
        let refused = stats::refused(&before, after);
        self.counts.refused += u64::from(refused.is_some());
        if after.received[Kind::Meet as usize] > before.received[Kind::Meet as usize] {
            // A greeting: whoever wrote it has not proven anything.
            let address = from.clone();
            self.seen(MessageSeen { kind: MessageKind::Meet, sent: false, node: None, address, bytes });
        }
        self.note(&effects, false, bytes, from.as_ref());
        (self.after_pending(effects), refused)
    }

    pub(crate) fn seek(&mut self, mut seeds: Vec<PeerAddr>, now: Instant) -> Vec<Effect> {
        // All nodes of a group may be given the same list.
        seeds.retain(|seed| Some(seed) != self.advertise.as_ref());
        self.take(Input::Join(seeds), now)
    }

    pub(crate) fn goodbye(&mut self, now: Instant) -> Vec<Effect> {
        if self.left {
            return Vec::new();
        }
        let effects = self.take(Input::Leave, now);
        self.left = true;
        effects
    }

    pub(crate) fn change_metadata(
        &mut self,
        metadata: Metadata,
        now: Instant,
    ) -> Result<Vec<Effect>, MetadataRefused> {
        let most = MAX_METADATA_BYTES.min(self.max_frame.saturating_sub(BESIDES_METADATA));
        let encoded = match metadata.encode() {
            Ok(encoded) if encoded.len() <= most => encoded,
            Ok(encoded) => return Err(MetadataRefused { bytes: encoded.len(), most }),
            Err(error) => return Err(MetadataRefused { bytes: error.0, most }),
        };
        self.metadata = metadata;
        Ok(self.take(Input::Metadata(encoded), now))
    }

    pub(crate) fn unsent(&mut self, frames: u64) {
        self.counts.unsent += frames;
    }

    /// What followed from the start goes first.
    fn after_pending(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut all = std::mem::take(&mut self.pending);
        all.extend(effects);
        all
    }

    /// Counts the messages among the effects of an input, and shows them to the hooks. `bytes` and `from` are those of the
    /// frame that came, if one did.
    fn note(&mut self, effects: &[Effect], leaving: bool, bytes: usize, from: Option<&PeerAddr>) {
        for effect in effects {
            let seen = match effect {
                Effect::Send { to, address, frame, kind } => MessageSeen {
                    kind: if leaving { MessageKind::Leave } else { (*kind).into() },
                    sent: true,
                    node: Some(*to),
                    address: address.clone(),
                    bytes: frame.len(),
                },
                Effect::Greet(address, frame) => MessageSeen {
                    kind: MessageKind::Meet,
                    sent: true,
                    node: None,
                    address: Some(address.clone()),
                    bytes: frame.len(),
                },
                Effect::Received(node, kind) => {
                    let left = |effect: &Effect| match effect {
                        Effect::Changed { node: who, new, .. } => who == node && *new == Some(Status::Left),
                        _ => false,
                    };
                    let goodbye = *kind == Kind::Gossip && effects.iter().any(left);
                    MessageSeen {
                        kind: if goodbye { MessageKind::Leave } else { (*kind).into() },
                        sent: false,
                        node: Some(*node),
                        address: from.cloned(),
                        bytes,
                    }
                }
                _ => continue,
            };
            self.seen(seen);
        }
    }

    fn seen(&mut self, seen: MessageSeen) {
        self.counts.count(seen.kind, seen.sent);
        let before = self.hooks.len();
        self.hooks.retain_mut(|hook| {
            !hook.kinds.contains(&seen.kind) || catch_unwind(AssertUnwindSafe(|| (hook.call)(&seen))).is_ok()
        });
        self.counts.hooks_lost += (before - self.hooks.len()) as u64;
    }
}

/// What an effect tells, if it tells something.
pub(crate) fn told(effect: Effect) -> Option<LivenessEvent> {
    Some(match effect {
        Effect::Changed { node, old, new, incarnation } => {
            LivenessEvent::Status { node, old, new, incarnation }
        }
        Effect::Metadata(node) => LivenessEvent::Metadata(node),
        Effect::Met(address, node) => LivenessEvent::Met(address, node),
        Effect::MeetFailed(address) => LivenessEvent::MeetFailed(address),
        Effect::Denied(incarnation) => LivenessEvent::Denied(incarnation),
        _ => return None,
    })
}

fn deliver(effects: Vec<Effect>, counts: &mut LivenessStats, sink: &mut impl LivenessSink) {
    for effect in effects {
        match effect {
            Effect::Send { address: Some(address), frame, .. } | Effect::Greet(address, frame) => {
                sink.send(&address, frame);
            }
            Effect::Send { address: None, .. } => counts.unsent += 1,
            Effect::Persist(incarnation) => sink.keep(incarnation),
            effect => {
                if let Some(event) = told(effect) {
                    sink.event(event);
                }
            }
        }
    }
}

impl std::fmt::Debug for Liveness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Liveness").field("engine", &self.engine).finish_non_exhaustive()
    }
}
