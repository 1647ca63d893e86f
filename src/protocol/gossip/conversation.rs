//! What the engine knows about one session: shares, runs under way in both directions, pace.
//!
//! State without decisions; gone with the session. Part of the gossip engine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::cells::{Decoder, Encoder, Salt};
use super::compare::ShortIndex;
use super::pace::Pace;
use super::packing::Habit;
use super::spread::Spread;
use crate::domain::id::{ChannelId, LogKey, NodeId};
use crate::domain::log::LineNo;
use crate::domain::time::Instant;
use crate::protocol::agenda::{Agenda, HasDeadline};
use crate::protocol::session::Lane;
use crate::protocol::wire::{ChannelRef, Marker, MessageVersion, ShareTag, TipMark};

/// State of one session.
pub(super) struct Conversation {
    pub(super) peer: NodeId,
    pub(super) binding: [u8; 32],
    /// Makes the marks that stand for tips in this session.
    pub(super) marker: Marker,
    /// Largest message that both ends take, in bytes.
    pub(super) max_message: usize,
    /// How the peer is written to.
    pub(super) version: MessageVersion,
    /// The channels whose tags we announced, by reference.
    pub(super) our_refs: Vec<ChannelId>,
    pub(super) their_tags: Vec<ShareTag>,
    /// What their references mean, as far as we know the channels.
    pub(super) their_refs: Vec<Option<ChannelId>>,
    pub(super) shares: Agenda<ChannelId, Share>,
    /// Lines that the peer lacks the end of.
    pub(super) outgoing: BTreeMap<(ChannelId, LogKey, LineNo), Outgoing>,
    /// Where the round robin over `outgoing` stands.
    pub(super) turn: Option<(ChannelId, LogKey, LineNo)>,
    /// Reads under way for `outgoing`.
    pub(super) reads: usize,
    /// Body bytes that they may find.
    pub(super) reading_bytes: usize,
    /// Lines whose next run is too large for what is under way.
    pub(super) waiting: Vec<(ChannelId, LogKey, LineNo)>,
    /// Runs sent that the peer is not done with.
    pub(super) sent: VecDeque<Sent>,
    pub(super) sent_bytes: usize,
    /// Those of them that were pushed.
    pub(super) pushed_bytes: usize,
    /// How many bytes may be under way.
    pub(super) pace: Pace,
    /// Runs that the peer is done with, per lane.
    pub(super) acknowledged: [u64; 2],
    pub(super) received: [Received; 2],
    /// Bytes of runs received that are not stored yet.
    pub(super) incoming_bytes: usize,
    /// When the peer is to be told what we are done with.
    pub(super) done_due: Option<Instant>,
    /// When it was told so last.
    pub(super) done_told: Instant,
    /// Channels of runs we are done with since then.
    pub(super) done_of: BTreeSet<ChannelId>,
    /// Bytes of runs we are done with since the peer was told.
    pub(super) done_bytes: usize,
    /// Searches under way on the peer's behalf.
    pub(super) searches: usize,
    pub(super) peer_paused: bool,
    /// The peer reads packed runs.
    pub(super) packs: bool,
    pub(super) packing: Habit,
    /// The peer was told that its clock leads ours.
    pub(super) clock_told: bool,
    /// When the session came to stand: what the peer says in the same turn, it says without having heard from us.
    pub(super) since: Instant,
}

/// A channel between this node and one peer.
pub(super) struct Share {
    /// How we refer to it, if we announced it.
    pub(super) ours: Option<ChannelRef>,
    /// How the peer refers to it, if it announced it.
    pub(super) theirs: Option<ChannelRef>,
    /// The channel's count of changes when we announced it.
    pub(super) announced: u64,
    /// When to compare next.
    pub(super) next_compare: Instant,
    /// Time to the comparison after that.
    pub(super) interval: Duration,
    /// Number of our latest comparison.
    pub(super) round: u32,
    /// Our comparison under way, and when to give it up.
    pub(super) asking: Option<Asking>,
    /// Our latest comparison that found differences: what comes about them uses its short keys.
    pub(super) asked: Option<Asked>,
    /// What the peer's latest comparison was salted with, and our list if it asked for cells.
    pub(super) answering: Option<Answering>,
    /// When the peer may have the next answer that costs a look at all logs.
    pub(super) next_answer: Instant,
    /// Comparisons put off in a row because something was under way.
    pub(super) put_off: u32,
    /// The latest comparison found both sides equal, and nothing came since.
    pub(super) synced: bool,
    /// A comparison ran to its end, or the peer's was answered: fresh entries may be pushed.
    pub(super) compared: bool,
    /// The peer knows nothing of our own logs that we do not.
    pub(super) own_confirmed: bool,
    /// Logs asked for and not yet seen.
    pub(super) wanted: u64,
    /// Logs asked for again because a run came too early.
    pub(super) pulled: BTreeSet<LogKey>,
    /// What the peer said that it holds, and we did not hold so far.
    pub(super) theirs_holding: Option<[u8; 8]>,
    /// The channel's count of changes when the peer was last told what we hold.
    pub(super) told: Option<u64>,
    /// Whatever changed here since both held the same, somebody is to have told the peer.
    pub(super) explained: bool,
    /// The peer was told what we hold since then, and asked to say the same.
    pub(super) sounded: bool,
    /// When a comparison last found both sides equal.
    pub(super) judged: Instant,
    /// How fresh entries go between the two.
    pub(super) spread: Spread,
    /// Logs left out between the two, because one of them does not take their entries.
    pub(super) parked: BTreeSet<LogKey>,
}

/// A comparison that we started.
pub(super) struct Asking {
    pub(super) round: u32,
    pub(super) until: Instant,
    pub(super) salt: Salt,
    pub(super) decoder: Option<Box<Decoder>>,
    /// The channel's count of changes when it was started.
    pub(super) changes: u64,
}

/// A comparison of ours that found differences.
pub(super) struct Asked {
    pub(super) round: u32,
    /// The logs that differ and that we hold, by short key.
    pub(super) keys: BTreeMap<u32, LogKey>,
}

/// A comparison that the peer started.
pub(super) struct Answering {
    pub(super) round: u32,
    pub(super) salt: Salt,
    pub(super) encoder: Option<Encoder>,
    /// Our logs by short key, once the peer used one.
    pub(super) index: Option<ShortIndex>,
}

/// A line on its way to the peer.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Sequence of the last entry that the peer holds, or that was sent to it.
    pub(super) after: u64,
    /// The peer said that this is its one tip: whether it is on this line has to be seen, and then the peer
    /// need not be told it again.
    pub(super) check: Option<TipMark>,
    /// How the next run names the log.
    pub(super) naming: Naming,
    /// A read for it is under way.
    pub(super) reading: bool,
}

/// How a run names its log to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// In full: the peer may hold nothing of it.
    Name,
    /// By key: the peer holds it.
    Key,
    /// By short key in a comparison of ours.
    Asked(u32, u32),
    /// By short key in a comparison of the peer's.
    Answered(u32, u32),
}

/// A run that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) channel: ChannelId,
    pub(super) key: LogKey,
    pub(super) lane: Lane,
    pub(super) bytes: usize,
    pub(super) at: Instant,
}

/// Runs received on one lane.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// How many came.
    pub(super) count: u64,
    /// How many of the first we are done with, without a gap.
    pub(super) done: u64,
    /// Those beyond the gap.
    pub(super) early: BTreeSet<u64>,
    /// How many the peer was told of.
    pub(super) reported: u64,
}

impl Received {
    /// We are done with the run of this index.
    pub(super) fn finish(&mut self, index: u64) {
        self.early.insert(index);
        while self.early.remove(&self.done) {
            self.done += 1;
        }
    }
}

pub(super) fn lane_index(lane: Lane) -> usize {
    match lane {
        Lane::Control => 0,
        Lane::Bulk => 1,
    }
}

impl HasDeadline for Conversation {
    fn next_deadline(&mut self) -> Option<Instant> {
        [self.shares.earliest(), self.done_due].into_iter().flatten().min()
    }
}

impl HasDeadline for Share {
    fn next_deadline(&mut self) -> Option<Instant> {
        let compare = self.asking.as_ref().map_or(self.next_compare, |asking| asking.until);
        let compare = Some(compare).filter(|_| self.is_active());
        [compare, self.spread.next_deadline()].into_iter().flatten().min()
    }
}

impl Conversation {
    pub(super) fn new(
        peer: NodeId,
        binding: [u8; 32],
        max_message: usize,
        window: usize,
        since: Instant,
    ) -> Self {
        Self {
            since,
            peer,
            binding,
            marker: Marker::new(&binding),
            max_message,
            version: if mutant!(VersionOfPeerIgnored) { MessageVersion::NEWEST } else { MessageVersion::V1 },
            our_refs: Vec::new(),
            their_tags: Vec::new(),
            their_refs: Vec::new(),
            shares: Agenda::new(),
            outgoing: BTreeMap::new(),
            turn: None,
            reads: 0,
            reading_bytes: 0,
            waiting: Vec::new(),
            sent: VecDeque::new(),
            sent_bytes: 0,
            pushed_bytes: 0,
            pace: Pace::new(window),
            acknowledged: [0; 2],
            received: [Received::default(), Received::default()],
            incoming_bytes: 0,
            done_due: None,
            done_told: Instant::ZERO,
            done_of: BTreeSet::new(),
            done_bytes: 0,
            searches: 0,
            peer_paused: false,
            packs: false,
            packing: Habit::default(),
            clock_told: false,
        }
    }

    pub(super) fn is_quiescent(&self) -> bool {
        self.outgoing.is_empty()
            && self.sent.is_empty()
            && self.shares.values().filter(|share| share.is_active()).all(|share| share.synced)
    }

    /// Whether entries of the channel are on their way to the peer.
    pub(super) fn is_sending(&self, channel: &ChannelId) -> bool {
        self.sent.iter().any(|sent| sent.channel == *channel)
            || self.outgoing.keys().any(|(of, _, _)| of == channel)
    }

    /// Whether a line of this log is on its way to the peer, or a bulk run of it not acknowledged.
    pub(super) fn is_sending_log(&self, channel: &ChannelId, key: &LogKey) -> bool {
        let first = (*channel, *key, LineNo(0));
        let last = (*channel, *key, LineNo(u16::MAX));
        self.outgoing.range(first..=last).next().is_some()
    }

    pub(super) fn has_bulk_under_way(&self, key: &LogKey) -> bool {
        self.sent.iter().any(|sent| sent.lane == Lane::Bulk && sent.key == *key)
    }
}

impl Share {
    pub(super) fn new(now: Instant, interval: Duration) -> Self {
        Self {
            ours: None,
            theirs: None,
            announced: 0,
            next_compare: now,
            interval,
            round: 0,
            asking: None,
            asked: None,
            answering: None,
            next_answer: now,
            put_off: 0,
            synced: false,
            compared: false,
            own_confirmed: false,
            wanted: 0,
            pulled: BTreeSet::new(),
            theirs_holding: None,
            told: None,
            explained: false,
            sounded: false,
            judged: now,
            spread: Spread::new(),
            parked: BTreeSet::new(),
        }
    }

    /// Both sides announced the channel.
    pub(super) fn is_active(&self) -> bool {
        self.ours.is_some() && self.theirs.is_some()
    }
}
