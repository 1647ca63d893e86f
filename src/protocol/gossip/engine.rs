//! The anti-entropy engine: what it holds, what goes in and what comes out.
//!
//! [`GossipEngine`] keeps the driver's copy of all durable logs and one conversation per session. Its
//! messages are handled in `compare` (who lacks what), `transfer` (runs) and `share` (which channels). It
//! never sees a repository: it asks for reads and merges by effects and is told the outcome by inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::conversation::{Conversation, Share};
use super::estimate::Counters;
use super::fingerprint::{LiveFingerprint, LogDigest};
use super::fresh::Fresh;
use super::packing::Packer;
use super::spread::{Parted, Push};
use crate::domain::channel::Admission;
use crate::domain::event::{Fault, Refusal};
use crate::domain::head::Head;
use crate::domain::id::{ChannelId, LogKey, NodeId, StreamId};
use crate::domain::identity::Identity;
use crate::domain::log::{Line, LineNo, Log, LogName, LogNo};
use crate::domain::run::{ChainedRun, Run, VerifiedRun};
use crate::domain::time::Instant;
use crate::domain::version::Tip;
use crate::protocol::agenda::Agenda;
use crate::protocol::session::Lane;
use crate::protocol::wire::{ChannelRef, KeyRef, Message, MessageError, MessageVersion, Why};

/// A session, as the driver numbers them. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Names an effect whose outcome comes back as an input. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the engine is configured with.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    /// Shortest time between two comparisons of one channel with one peer.
    pub interval: Duration,
    /// Longest time between two comparisons when nothing changes.
    pub interval_max: Duration,
    /// Bytes of runs sent to a peer that it is not done with.
    pub window: usize,
    /// Largest payload taken.
    pub max_payload: usize,
    /// Most logs of one channel that peers may create.
    pub max_logs: usize,
    /// Whether streams that are unknown here are taken.
    pub learn_streams: bool,
    /// Whether runs travel compressed to peers that also want it.
    pub compress: bool,
    /// Messages of later versions are neither written nor read.
    pub version: MessageVersion,
}

/// What happens to the engine.
#[derive(Debug)]
pub enum Input {
    /// A channel is held, or who it admits changed.
    Channel(ChannelId, Admission),
    /// A channel is held no longer.
    ChannelRemoved(ChannelId),
    /// A log as it was loaded.
    Loaded(LogNo, LogName, Log),
    /// A log was opened here; it may still be empty.
    Opened(LogNo, LogName),
    /// A line became durable up to its tip.
    Durable(Box<DurableRun>),
    /// A session stands.
    SessionUp {
        /// The session.
        session: SessionId,
        /// Who is there, proven.
        peer: NodeId,
        /// Unique per session, the same on both ends.
        binding: [u8; 32],
        /// Largest message that both ends take, in bytes.
        max_message: usize,
    },
    /// A session is gone.
    SessionDown(SessionId),
    /// Messages came, at once and in this order: the signatures of all their runs are checked together.
    Messages(SessionId, Vec<(Lane, Bytes)>),
    /// What became of a merge.
    Merged(Ticket, MergeOutcome),
    /// What a read found: a run that ends at one of the heads; `None` if there is nothing to send.
    Read(Ticket, Option<(Run, Vec<Head>)>),
    /// The unsigned block ends of an own line; `None` if the store could not tell.
    Ends(Ticket, Option<Vec<Tip>>),
    /// Locators of a log.
    Locators(Ticket, Vec<Tip>),
    /// For each line of a log, after which entry the peer lacks it; lines that it holds in full are left out.
    Matched(Ticket, Vec<(LineNo, Tip)>),
    /// Heads that were signed are stored.
    HeadsStored(LogKey),
    /// Stamps that came in a session, by this author, lead our clock by more than the drift bound.
    ClockAhead(SessionId, NodeId, Duration),
    /// Take no entries, or take them again.
    Pause(bool),
    /// Time passed: look at the deadlines.
    Timeout,
}

/// Fresh durable entries of one line.
#[derive(Debug)]
pub struct DurableRun {
    /// The log's local number.
    pub no: LogNo,
    /// Its name.
    pub name: LogName,
    /// The line as it is now.
    pub line: Line,
    /// Sequence of the first fresh entry.
    pub first: u64,
    /// The fresh entries, if few.
    pub runs: Vec<Run>,
    /// Block ends that the author has yet to sign.
    pub ends: Vec<Tip>,
    /// The session they came from; `None` for own appends.
    pub from: Option<SessionId>,
}

/// What became of a run that a peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeOutcome {
    /// Durable.
    Stored,
    /// Held already.
    Duplicate,
    /// Entries before it are missing.
    Gap,
    /// Not taken, now or later.
    Refused(Refusal),
    /// The store did not take it.
    Failed,
}

/// What the engine wants done.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Send a message.
    Send(SessionId, Lane, Bytes),
    /// Merge a verified run; answer with [`Input::Merged`].
    Merge {
        /// Names the merge.
        ticket: Ticket,
        /// Where it came from.
        session: SessionId,
        /// The log.
        name: LogName,
        /// The run.
        run: VerifiedRun,
    },
    /// Read a run of a line after an entry that ends at a head; answer with [`Input::Read`].
    Read {
        /// Names the read.
        ticket: Ticket,
        /// The log.
        log: LogNo,
        /// The line with its newest head.
        line: Line,
        /// Read what follows this sequence.
        after: u64,
        /// Block heads that may not be stored yet.
        heads: Vec<Head>,
        /// Bytes of body that suffice.
        max_bytes: usize,
    },
    /// Find the block ends of an own line that have no head yet; answer with [`Input::Ends`].
    FindEnds(Ticket, LogNo, Line),
    /// Keep heads that were signed; answer with [`Input::HeadsStored`].
    StoreHeads {
        /// The log.
        log: LogNo,
        /// Its key.
        key: LogKey,
        /// The line, with the head of its tip.
        line: Line,
        /// Heads of block ends.
        blocks: Vec<Head>,
    },
    /// Make locators of a log; answer with [`Input::Locators`].
    Locators(Ticket, LogNo),
    /// Find where a peer with these locators lacks each line; answer with [`Input::Matched`].
    Match(Ticket, LogNo, Vec<Tip>),
    /// Report a fault, once per cause and peer.
    Fault(&'static str, NodeId, Fault),
    /// Count something.
    Count(Count),
    /// A share came to hold the same on both sides.
    Synced(ChannelId, NodeId),
    /// A peer confirmed that nothing of the own logs is unknown here.
    OwnLogsConfirmed,
    /// The peer breaks the protocol in a way that costs: end the session.
    Drop(SessionId, &'static str),
}

/// Things that are only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// A run repeated what is held.
    Duplicate,
    /// A run came too early.
    Gap,
    /// A run was refused.
    Refused,
    /// A run was dropped because the node is paused.
    Paused,
    /// A comparison was started.
    Compared,
    /// A comparison found both sides equal.
    Equal,
    /// Bytes of a run were sent.
    RunSent(usize),
    /// Bytes that compression took off a run that was sent.
    RunPacked(usize),
    /// Bytes of a run were received.
    RunReceived(usize),
    /// A message could not be read.
    BadMessage,
}

/// Earlier tips remembered per log: what was appended in a few batches since a peer was last here. 160 bytes for
/// logs that change, none for others.
const MAX_RECENT: usize = 4;
/// Pairs of peer and channel whose last common state is remembered, 80 bytes each; beyond, all are forgotten and
/// their next comparisons say a few bytes more.
const MAX_COMMON: usize = 65_536;

/// The engine. See the module.
pub struct GossipEngine {
    pub(super) config: GossipConfig,
    pub(super) identity: Identity,
    pub(super) channels: BTreeMap<ChannelId, HeldChannel>,
    pub(super) conversations: Agenda<SessionId, Conversation>,
    pub(super) tickets: BTreeMap<Ticket, Pending>,
    /// The channel's count of changes when it was last equal to a peer's; survives sessions.
    common: BTreeMap<(NodeId, ChannelId), u64>,
    pub(super) packer: Packer,
    pub(super) paused: bool,
    pub(super) now: Instant,
    pub(super) effects: Vec<Effect>,
    /// Runs whose signatures are yet to be checked; never any between two inputs.
    pub(super) unchecked: Vec<(Arrival, ChainedRun)>,
    /// Rises whenever the peers of a channel change.
    pub(super) company: u64,
    next_ticket: u64,
    jitter: u64,
}

/// What an outstanding ticket is for.
#[derive(Debug)]
pub(super) enum Pending {
    Merge { session: SessionId, of: Box<(LogName, Option<Push>)>, lane: Lane, index: u64, bytes: usize },
    Read { session: SessionId, channel: ChannelId, key: LogKey, line: LineNo, bytes: usize },
    Ends { channel: ChannelId, key: LogKey },
    Locators { session: SessionId, channel: ChannelId, key: LogKey, answer: bool },
    Match { session: SessionId, channel: ChannelId, key: LogKey, answer: bool },
}

/// How a run came that is not believed yet.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) session: SessionId,
    pub(super) lane: Lane,
    /// Its number on the lane.
    pub(super) index: u64,
    /// Of its body, as counted against the window.
    pub(super) bytes: usize,
    pub(super) name: LogName,
    /// It was the first of its log to be counted as arriving.
    pub(super) is_first: bool,
}

/// A channel and its durable logs.
pub(super) struct HeldChannel {
    pub(super) admission: Admission,
    /// Boxed: the nodes of a tree are half empty, and there may be very many logs.
    pub(super) logs: BTreeMap<LogKey, Box<HeldLog>>,
    pub(super) fingerprint: LiveFingerprint,
    pub(super) counters: Counters,
    /// The sum of the digests of all logs.
    pub(super) sum: u128,
    /// Logs that hold an entry.
    pub(super) filled: u32,
    /// Rises whenever the tips of a log change.
    pub(super) changes: u64,
    /// Per author, the sum of the digests of its logs.
    pub(super) authors: BTreeMap<NodeId, u64>,
    /// The streams of all logs, where no others are taken: what is not asked for is not kept.
    streams: Option<BTreeSet<StreamId>>,
    /// Logs that are new here and on their way into the store: they count in the quota.
    pub(super) arriving: BTreeSet<LogKey>,
    /// Pushed runs on their way into the store: the session, and the last sequence.
    pub(super) pushed: BTreeMap<LogKey, (SessionId, u64)>,
    /// Logs that a peer was asked for that told of them, and until when nobody else is.
    pub(super) asked: BTreeMap<KeyRef, Instant>,
    /// Logs whose latest entries are left to the tree and the notes.
    pub(super) fresh: Fresh,
    /// What the links to peers were when their sessions ended.
    pub(super) parted: BTreeMap<NodeId, Parted>,
    /// Per log, up to where pushed entries of others were passed on.
    pub(super) passed_on: BTreeMap<LogKey, u64>,
}

/// A log as the engine knows it.
pub(super) struct HeldLog {
    pub(super) no: LogNo,
    pub(super) name: LogName,
    pub(super) log: Log,
    pub(super) digest: Option<LogDigest>,
    /// The channel's count of changes when this log last changed.
    pub(super) changed: u64,
    /// Tips that the log had before, the latest last, as far as it had one at a time: a peer that still has
    /// one of them is sent the rest without a question.
    pub(super) recent: Option<Box<Recent>>,
    pub(super) sealing: Option<Box<Sealing>>,
}

/// See [`HeldLog::recent`].
type Recent = SmallVec<[Tip; MAX_RECENT]>;

/// Block ends and heads of an own log that are not settled yet.
#[derive(Debug, Default)]
pub(super) struct Sealing {
    /// Block ends before the node started may lack a head: they have to be looked for.
    pub(super) unknown: bool,
    /// The search is under way.
    pub(super) searching: bool,
    /// Block ends without a head.
    pub(super) ends: Vec<Tip>,
    /// Heads that may not be stored yet.
    pub(super) unstored: Vec<Head>,
    /// Batches of heads on their way into the store.
    pub(super) storing: u32,
}

impl GossipEngine {
    /// An engine that holds nothing. `seed` feeds the jitter of its timers.
    pub fn new(config: GossipConfig, identity: Identity, seed: u64) -> Self {
        Self {
            config,
            identity,
            channels: BTreeMap::new(),
            conversations: Agenda::new(),
            tickets: BTreeMap::new(),
            common: BTreeMap::new(),
            packer: Packer::default(),
            paused: false,
            now: Instant::ZERO,
            effects: Vec::new(),
            unchecked: Vec::new(),
            company: 1,
            next_ticket: 0,
            jitter: seed,
        }
    }

    /// Takes one input; what is to be done about it.
    pub fn handle(&mut self, input: Input, now: Instant) -> std::vec::Drain<'_, Effect> {
        self.now = now;
        match input {
            Input::Channel(id, admission) => self.channel_changed(id, admission),
            Input::ChannelRemoved(id) => self.channel_removed(&id),
            Input::Loaded(no, name, log) => self.loaded(no, &name, log),
            Input::Opened(no, name) => self.opened(no, &name),
            Input::Durable(durable) => self.durable(*durable),
            Input::SessionUp { session, peer, binding, max_message } => {
                let window = self.config.window;
                self.session_up(session, Conversation::new(peer, binding, max_message, window, now));
            }
            Input::SessionDown(session) => self.session_down(session),
            Input::Messages(session, messages) => {
                for (lane, bytes) in messages {
                    self.message(session, lane, &bytes);
                }
                self.check_runs();
            }
            Input::Merged(ticket, outcome) => self.merged(ticket, outcome),
            Input::Read(ticket, found) => self.read_done(ticket, found),
            Input::Ends(ticket, ends) => self.ends_found(ticket, ends),
            Input::Locators(ticket, locators) => self.locators_made(ticket, locators),
            Input::Matched(ticket, starts) => self.matched(ticket, starts),
            Input::HeadsStored(key) => self.heads_stored(&key),
            Input::ClockAhead(session, author, by) => self.clock_ahead(session, author, by),
            Input::Pause(paused) => self.pause(paused),
            Input::Timeout => self.fire_deadlines(),
        }
        self.effects.drain(..)
    }

    /// When the engine wants [`Input::Timeout`].
    pub fn next_deadline(&mut self) -> Option<Instant> {
        self.conversations.earliest()
    }

    /// What stands between this node and `peer` about a channel, for `sync_status` and `explain`: what is to be
    /// sent and on its way of one stream, or of all.
    pub fn standing(
        &self,
        peer: &NodeId,
        channel: &ChannelId,
        stream: Option<&StreamId>,
    ) -> Option<Standing> {
        let conversation = self.conversations.values().find(|conversation| conversation.peer == *peer)?;
        let share = conversation.shares.get(channel)?;
        let held = self.channels.get(channel)?;
        let asked = |key: &LogKey| {
            stream.is_none_or(|asked| held.logs.get(key).is_some_and(|log| log.name.stream == *asked))
        };
        let owed = conversation.outgoing.iter().filter(|((of, key, _), _)| of == channel && asked(key));
        let owed = owed.filter_map(|((_, key, line), outgoing)| {
            let tip = held.logs.get(key)?.log.line(*line)?.tip.sequence;
            Some(tip.saturating_sub(outgoing.after))
        });
        let parked =
            share.parked.iter().filter_map(|key| held.logs.get(key)).map(|log| log.name.stream.clone());
        Some(Standing {
            theirs: share.theirs.is_some(),
            synced: share.synced,
            owed: owed.sum::<u64>(),
            unacknowledged: conversation
                .sent
                .iter()
                .filter(|sent| sent.channel == *channel && asked(&sent.key))
                .count() as u64,
            wanted: share.wanted,
            paused: conversation.peer_paused,
            parked: parked.collect(),
        })
    }

    /// Whether any conversation has something under way.
    pub fn is_quiescent(&self) -> bool {
        self.tickets.is_empty() && self.conversations.values().all(Conversation::is_quiescent)
    }

    fn fire_deadlines(&mut self) {
        for session in self.conversations.due(self.now) {
            self.fire_compares(session);
            self.fire_spread(session);
            self.flush_done(session);
        }
    }

    /// The count of changes at which the channel was last equal to the peer's.
    pub(super) fn common(&self, peer: NodeId, channel: ChannelId) -> Option<u64> {
        self.common.get(&(peer, channel)).copied()
    }

    /// The channel is equal to the peer's at this count of changes.
    pub(super) fn set_common(&mut self, peer: NodeId, channel: ChannelId, changes: u64) {
        if self.common.len() >= MAX_COMMON {
            self.common.clear();
        }
        self.common.insert((peer, channel), changes);
    }

    pub(super) fn ticket(&mut self, pending: Pending) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.tickets.insert(ticket, pending);
        ticket
    }

    /// `duration` give or take a quarter, so that nodes do not fall into step.
    pub(super) fn jittered(&mut self, duration: Duration) -> Duration {
        duration * 3 / 4 + (duration / 2).mul_f64(f64::from(self.random()) / f64::from(u32::MAX))
    }

    /// One of so many.
    pub(super) fn drawn(&mut self, from: usize) -> usize {
        self.random() as usize % from.max(1)
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn random(&mut self) -> u32 {
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }

    pub(super) fn send(&mut self, session: SessionId, lane: Lane, message: &Message) {
        let Some(conversation) = self.conversations.get(&session) else { return };
        self.effects.push(Effect::Send(session, lane, message.encode(conversation.version)));
    }

    pub(super) fn control(&mut self, session: SessionId, message: &Message) {
        self.send(session, Lane::Control, message);
    }

    fn channel_changed(&mut self, id: ChannelId, admission: Admission) {
        let any_stream = self.config.learn_streams;
        let held = self.channels.entry(id).or_insert_with(|| HeldChannel::empty(any_stream));
        held.admission = admission;
        self.reconsider(&id);
        self.announce_shares();
    }

    /// A log was opened, and with it perhaps a stream that was not taken before.
    fn opened(&mut self, no: LogNo, name: &LogName) {
        let Some(channel) = self.channels.get_mut(&name.channel) else { return };
        let known = channel.takes(&name.stream);
        channel.log(no, name);
        if !known {
            self.reconsider(&name.channel);
        }
    }

    fn channel_removed(&mut self, id: &ChannelId) {
        self.channels.remove(id);
        // Made anew, its changes are counted from the start.
        self.common.retain(|(_, channel), _| channel != id);
        let sessions: Vec<SessionId> = self.conversations.keys().copied().collect();
        for session in sessions {
            self.withdraw(session, id);
        }
    }

    fn loaded(&mut self, no: LogNo, name: &LogName, log: Log) {
        let Some(channel) = self.channels.get_mut(&name.channel) else { return };
        let own = name.author == self.identity.node();
        // A line that is longer than its open block has block ends; whether all are signed, the store knows.
        let ended = |line: &Line| {
            let open = line.phase.open_entries().map_or(0, |n| u64::from(n.get()));
            line.tip.sequence - line.base().sequence > open
        };
        // Other lines of the own log came from peers, and with them their heads.
        let unknown = own && log.line(LineNo(0)).is_some_and(ended);
        let held = channel.log(no, name);
        held.log = log;
        if unknown {
            held.sealing.get_or_insert_default().unknown = true;
        }
        channel.refresh(&name.key);
    }

    /// Takes over what became durable and passes it on.
    fn durable(&mut self, durable: DurableRun) {
        let DurableRun { no, name, line, first, runs, ends, from } = durable;
        let Some(channel) = self.channels.get_mut(&name.channel) else { return };
        let held = channel.log(no, &name);
        let (line_no, tip, mut line) = (line.no, line.tip.sequence, line);
        // A head that we signed meanwhile is newer than the one the line had when it was submitted.
        if let Some(known) = held.log.line(line_no).and_then(|line| line.head())
            && line.head().is_none_or(|head| head.tip.sequence < known.tip.sequence)
        {
            line.set_head(known);
        }
        if let [known] = held.log.lines()
            && known.no == line_no
        {
            held.remember(known.tip);
        }
        held.log.put(line);
        if !ends.is_empty() {
            held.sealing.get_or_insert_default().ends.extend(ends);
        }
        channel.refresh(&name.key);
        let pushed = channel.take_pushed(&name.key, first);
        match from {
            None => self.spread_own(&name, line_no, first, &runs),
            // Whoever is to have it gets it once the merge is settled.
            Some(source) if pushed == from => self.came_from(source, &name),
            Some(source) if !runs.is_empty() => self.note_bulk(source, &name, tip),
            Some(source) => self.news_from(source, &name),
        }
        self.settle_holdings(&name.channel);
    }

    fn session_down(&mut self, session: SessionId) {
        let ended = self.conversations.remove(&session);
        self.company += 1;
        if let Some(Conversation { peer, shares, .. }) = ended {
            for (id, share) in shares.iter().filter(|(_, share)| share.is_active()) {
                self.end_spread(peer, id, share);
            }
        }
        let channels = &mut self.channels;
        self.tickets.retain(|_, pending| match pending {
            Pending::Merge { session: from, of, .. } => {
                let name = &of.0;
                if let Some(held) = channels.get_mut(&name.channel).filter(|_| *from == session) {
                    held.arriving.remove(&name.key);
                    held.pushed.remove(&name.key);
                }
                *from != session
            }
            Pending::Read { session: of, .. }
            | Pending::Locators { session: of, .. }
            | Pending::Match { session: of, .. } => *of != session,
            Pending::Ends { .. } => true,
        });
    }

    fn message(&mut self, session: SessionId, lane: Lane, bytes: &Bytes) {
        let Some(conversation) = self.conversations.get(&session) else { return };
        let peer = conversation.peer;
        let message = match Message::decode(bytes, self.config.version) {
            Ok(message) => message,
            Err(error) => {
                self.effects.push(Effect::Count(Count::BadMessage));
                let (cause, fault) = match error {
                    MessageError::Version(version) => ("version", Fault::UnknownVersion { peer, version }),
                    MessageError::Malformed => {
                        ("message", Fault::BadMessage { peer, reason: error.to_string().into() })
                    }
                };
                self.effects.push(Effect::Fault(cause, peer, fault));
                return;
            }
        };
        if !matches!(message, Message::Run(_) | Message::PackedRun(..)) {
            // What was said after them is heard after them.
            self.check_runs();
        }
        match message {
            Message::Share(tags) => self.on_share(session, tags),
            Message::Unshare(channel) => self.on_unshare(session, channel),
            Message::Compare { channel, round, fingerprint, logs, details } => {
                self.on_compare(session, channel, round, fingerprint, logs, details);
            }
            Message::Same { channel, round } => self.on_same(session, channel, round),
            Message::Later { channel, round } => self.on_later(session, channel, round),
            Message::Cells { channel, round, start, cells } => {
                self.on_cells(session, channel, round, start, &cells)
            }
            Message::MoreCells { channel, round, start, count } => {
                self.on_more_cells(session, channel, round, start, count);
            }
            Message::ListFrom { channel, round, after } => self.on_list_from(session, channel, round, after),
            Message::List { channel, round, after, items, more } => {
                self.on_list(session, channel, round, after, &items, more);
            }
            Message::Have { channel, round, logs, answer } => {
                self.on_have(session, channel, round, logs, answer)
            }
            Message::Run(run) => self.on_run(session, lane, run),
            Message::PackedRun(run, bytes) => self.on_packed_run(session, lane, run, bytes),
            Message::Packs(algorithm) => self.on_packs(session, algorithm),
            Message::Done { control, bulk } => self.on_done(session, control, bulk),
            Message::DoneHolding { control, bulk, holdings } => {
                self.on_done(session, control, bulk);
                for (channel, sum) in holdings {
                    self.on_holding(session, channel, sum, Why::Passing);
                }
            }
            Message::Speaks { oldest, newest } => self.on_speaks(session, oldest, newest),
            Message::Locate { channel, key, locators, answer } => {
                self.on_locate(session, channel, key, locators, answer);
            }
            Message::Eager { channel, eager } => self.on_eager(session, channel, eager),
            Message::Notes { channel, notes } => self.on_notes(session, channel, &notes),
            Message::Holding { channel, sum, why } => self.on_holding(session, channel, sum, why),
            Message::Reach { channel, nodes } => self.on_reach(session, channel, nodes),
            Message::Parked { channel, key } => self.on_parked(session, channel, key),
            Message::Paused(paused) => self.on_paused(session, paused),
            Message::ClockAhead(millis) => {
                let fault = Fault::OwnClockAhead { peer, by: Duration::from_millis(millis) };
                self.effects.push(Effect::Fault("own clock", peer, fault));
            }
        }
    }

    /// Tells an author that its clock leads ours, once per session.
    fn clock_ahead(&mut self, session: SessionId, author: NodeId, by: Duration) {
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        if conversation.peer == author && !std::mem::replace(&mut conversation.clock_told, true) {
            let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            self.control(session, &Message::ClockAhead(millis));
        }
    }

    fn pause(&mut self, paused: bool) {
        if self.paused == paused {
            return;
        }
        self.paused = paused;
        let sessions: Vec<SessionId> = self.conversations.keys().copied().collect();
        for session in sessions {
            if paused || !mutant!(ResumeNotTold) {
                self.control(session, &Message::Paused(paused));
            }
            if !paused {
                self.news(session, None);
            }
        }
    }

    /// The share that a peer's reference names, if both sides share it.
    pub(super) fn resolve(&self, session: SessionId, channel: ChannelRef) -> Option<(ChannelId, &Share)> {
        let conversation = self.conversations.get(&session)?;
        let id = (*conversation.their_refs.get(channel.0 as usize)?)?;
        Some((id, conversation.shares.get(&id)?))
    }

    pub(super) fn bad(&mut self, session: SessionId, reason: &'static str) {
        if let Some(conversation) = self.conversations.get(&session) {
            let peer = conversation.peer;
            self.effects.push(Effect::Count(Count::BadMessage));
            self.effects.push(Effect::Fault(reason, peer, Fault::BadMessage { peer, reason: reason.into() }));
        }
    }
}

impl Sealing {
    /// Nothing is left to be done.
    pub(super) fn is_settled(&self) -> bool {
        let Self { unknown, searching, ends, unstored, storing } = self;
        !unknown && !searching && ends.is_empty() && unstored.is_empty() && *storing == 0
    }
}

impl HeldLog {
    /// The log had this one tip until now.
    fn remember(&mut self, tip: Tip) {
        if tip.sequence == 0 || self.recent().last() == Some(&tip) {
            return;
        }
        let recent = self.recent.get_or_insert_default();
        if recent.len() == MAX_RECENT {
            recent.remove(0);
        }
        recent.push(tip);
    }

    pub(super) fn recent(&self) -> &[Tip] {
        self.recent.as_deref().map_or(&[], |recent| recent)
    }
}

impl HeldChannel {
    fn empty(any_stream: bool) -> Self {
        Self {
            admission: Admission::Members(BTreeSet::new()),
            logs: BTreeMap::new(),
            fingerprint: LiveFingerprint::empty(),
            counters: Counters::empty(),
            sum: 0,
            filled: 0,
            changes: 0,
            authors: BTreeMap::new(),
            streams: (!any_stream).then(BTreeSet::new),
            arriving: BTreeSet::new(),
            pushed: BTreeMap::new(),
            asked: BTreeMap::new(),
            parted: BTreeMap::new(),
            fresh: Fresh::default(),
            passed_on: BTreeMap::new(),
        }
    }

    fn log(&mut self, no: LogNo, name: &LogName) -> &mut HeldLog {
        let streams = &mut self.streams;
        self.logs.entry(name.key).or_insert_with(|| {
            if let Some(streams) = streams {
                streams.insert(name.stream.clone());
            }
            Box::new(HeldLog {
                no,
                name: name.clone(),
                log: Log::default(),
                digest: None,
                changed: 0,
                recent: None,
                sealing: None,
            })
        })
    }

    /// Whether entries of this stream are taken.
    pub(super) fn takes(&self, stream: &StreamId) -> bool {
        self.streams.as_ref().is_none_or(|known| known.contains(stream))
    }

    /// Takes the present tips of a log into fingerprint, counters and sums.
    fn refresh(&mut self, key: &LogKey) {
        let Some(held) = self.logs.get_mut(key) else { return };
        let tips = held.log.tips();
        let after = (!tips.is_empty()).then(|| LogDigest::of(key, &tips));
        let before = std::mem::replace(&mut held.digest, after);
        if before != after {
            self.changes += 1;
            held.changed = self.changes;
        }
        self.fingerprint.update(key, before.filter(|_| !mutant!(FingerprintStale)), after);
        let sum = self.authors.entry(held.name.author).or_default();
        if let Some(before) = &before {
            self.counters.remove(key, before);
            if !mutant!(FingerprintStale) {
                self.sum = self.sum.wrapping_sub(before.wide());
            }
            *sum = sum.wrapping_sub(word(before));
            self.filled -= 1;
        }
        if let Some(after) = &after {
            self.counters.insert(key, after);
            self.sum = self.sum.wrapping_add(after.wide());
            *sum = sum.wrapping_add(word(after));
            self.filled += 1;
        }
    }

    /// The session that pushed what became durable from this sequence on, if somebody did.
    fn take_pushed(&mut self, key: &LogKey, first: u64) -> Option<SessionId> {
        let (session, last) = *self.pushed.get(key)?;
        let tips = self.logs.get(key)?.log.tips();
        if tips.iter().any(|tip| tip.sequence >= last) {
            self.pushed.remove(key);
        }
        (first <= last).then_some(session)
    }

    /// Whether the log of this reference is held up to a sequence, or about to be.
    pub(super) fn reaches(&self, key: &KeyRef, sequence: u64) -> bool {
        let Some((key, held)) = self.by_ref(key) else {
            return self.arriving.iter().any(|arriving| KeyRef::of(arriving) == *key);
        };
        let pushed = self.pushed.get(key).is_some_and(|(_, last)| *last >= sequence);
        pushed || held.log.tips().iter().any(|tip| tip.sequence >= sequence)
    }

    /// The log of this reference.
    pub(super) fn by_ref(&self, key: &KeyRef) -> Option<(&LogKey, &HeldLog)> {
        let mut from = [0; 32];
        from[..16].copy_from_slice(&key.0);
        let found = self.logs.range(LogKey::from_bytes(from)..).next();
        found.filter(|(found, _)| KeyRef::of(found) == *key).map(|(key, held)| (key, &**held))
    }
}

fn word(digest: &LogDigest) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

/// Where a share stands: see [`GossipEngine::standing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The peer shares the channel with us.
    pub theirs: bool,
    /// The last comparison found both sides equal, and nothing changed since.
    pub synced: bool,
    /// Entries that are to be sent.
    pub owed: u64,
    /// Runs sent that the peer is not done with.
    pub unacknowledged: u64,
    /// Logs of the channel that were asked for and have not come: of which stream, is known when they do.
    pub wanted: u64,
    /// The peer takes nothing for the time being.
    pub paused: bool,
    /// Streams of logs that are left out between the two.
    pub parked: Vec<StreamId>,
}

impl std::fmt::Debug for GossipEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GossipEngine")
            .field("channels", &self.channels.len())
            .field("conversations", &self.conversations.len())
            .finish_non_exhaustive()
    }
}
