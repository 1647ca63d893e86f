//! How fresh entries reach everybody at once: eager push to all in small groups, along a tree in large ones.
//!
//! After Plumtree (Leitão, Pereira and Rodrigues, "Epidemic Broadcast Trees", SRDS 2007), per channel, over the
//! sessions that are there. A link between two nodes is *eager* or *lazy*. Fresh entries go on at once over eager
//! links, as soon as they are durable here (I1); over lazy ones goes a note, a little later, that they exist. Who
//! gets entries twice turns the later link lazy; who hears of entries that do not come turns the link eager that
//! the note came over, and asks. So the eager links become a tree, and grow together again where one breaks.
//!
//! An author with few peers pushes to all of them whatever the links are: one hop beats a tree. What came over a
//! lazy link like that (*aside*) leaves the tree alone: it is passed on when the copy of the tree arrives, and that
//! copy turns no link lazy. Entries that come in bulk are not passed on from here: comparisons find them. Nothing
//! here is needed for completeness, which is what comparisons are for; a peer that lies about what it has costs one
//! question per note. Part of the gossip engine.

use std::collections::BTreeMap;
use std::time::Duration;

use super::conversation::{Conversation, Naming, Outgoing, Share};
use super::engine::{GossipEngine, HeldChannel, SessionId};
use crate::domain::id::{ChannelId, LogKey, NodeId};
use crate::domain::log::{LineNo, LogName};
use crate::domain::run::{Run, VerifiedRun};
use crate::domain::time::Instant;
use crate::protocol::session::Lane;
use crate::protocol::wire::{ChannelRef, HaveItem, KeyRef, LogRef, Message};

/// Bytes pushed to one peer that may be under way beside what the window allows: one frame of a stream transport. What bulk
/// is under way does not hold back fresh entries of other logs; a peer that takes nothing holds them back.
const PUSHED_BYTES: usize = 64 * 1024;
/// Peers of a channel up to which an author pushes to all of them. Beyond, its uplink would be the bottleneck.
const SMALL_GROUP: usize = 8;
/// Links of a channel that begin eager at one node; those beyond begin lazy. The tree that remains uses about two. The more
/// there are, the flatter is that tree and the more copies the first entries cost: with 8 a hundred nodes in full mesh took up
/// to 481 ms and 1.4 copies each of the first five entries, with 12 it is 316 to 358 ms and 1.8, with 24 it is 295 ms and 3.7.
const MAX_EAGER: usize = 12;
/// How long notes about fresh entries wait for company: longer than a link usually takes, so that what the tree
/// brings meanwhile costs no note to be answered.
const NOTE_DELAY: Duration = Duration::from_millis(80);
/// How long entries that a note told of may take to come by themselves: the paths of a tree differ by a few links.
const NOTE_PATIENCE: Duration = Duration::from_millis(320);
/// Logs of a channel that something was passed on of, about 80 bytes each; beyond, all are forgotten, and some entry
/// is passed on twice.
const MAX_PASSED: usize = 4096;
/// Logs that wait in notes to one peer, about 24 bytes each on the wire; with more, a comparison tells better.
const MAX_NOTED: usize = 256;
/// Peers per channel whose link is remembered after their session ended, 48 bytes each; links to others begin anew when
/// they come back.
const MAX_PARTED: usize = 1024;
/// Nodes that a peer may name as its own reach.
const MAX_REACH: usize = 64;
/// How soon a peer is asked that the author says it reaches itself: time for something of theirs to show that it did.
const REACHED_DELAY: Duration = Duration::from_secs(2);

/// A link between two nodes, for one channel.
#[derive(Debug)]
pub(super) struct Spread {
    /// Fresh entries go over this link at once, in both directions.
    eager: bool,
    /// It was eager when the last session with the peer ended, and something came since: whether it is needed, the first
    /// comparison tells.
    doubtful: bool,
    /// What the peer will be told of, with the tips' sequences, and when.
    notes: BTreeMap<LogKey, u64>,
    notes_due: Option<Instant>,
    /// What the peer told of and did not come yet: sequence, and until when.
    missing: BTreeMap<KeyRef, (u64, Instant)>,
    /// Whom the peer says that its fresh entries go straight to.
    reach: Vec<[u8; 8]>,
    /// At which change of our company the peer was told of our own reach, and whether that is anybody.
    reach_told: (u64, bool),
}

impl Spread {
    pub(super) fn new() -> Self {
        Self {
            eager: true,
            doubtful: false,
            notes: BTreeMap::new(),
            notes_due: None,
            missing: BTreeMap::new(),
            reach: Vec::new(),
            reach_told: (0, false),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.missing.values().map(|(_, until)| *until).chain(self.notes_due).min()
    }

    /// The peer does not hold what we hold: the link may be the only way.
    pub(super) fn differs(&mut self) {
        self.doubtful = false;
    }

    /// The peer holds what we hold.
    pub(super) fn forget_notes(&mut self) {
        (self.notes_due, self.notes) = (None, BTreeMap::new());
    }

    /// The peer has a log up to there.
    fn forget_note(&mut self, key: &LogKey, to: u64) {
        if self.notes.get(key).is_some_and(|noted| *noted <= to) {
            self.notes.remove(key);
        }
        if self.notes.is_empty() {
            self.notes_due = None;
        }
    }
}

/// What the link to a peer was when its session ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Parted {
    /// Eager, at this count of changes of the channel.
    Eager(u64),
    /// Lazy.
    Lazy,
}

/// A pushed run that is being merged.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) run: VerifiedRun,
    /// It came over an eager link.
    pub(super) tree: bool,
}

/// What a peer gets of fresh entries.
enum Portion {
    /// The entries.
    Run,
    /// The entries, as soon as what is under way to it allows.
    Later,
    /// Nothing from here.
    Nothing,
}

impl GossipEngine {
    /// Sends fresh own entries to those who share the channel and are up to date otherwise.
    pub(super) fn spread_own(&mut self, name: &LogName, line: LineNo, first: u64, runs: &[Run]) {
        let run = Run::join(runs).filter(|run| run.first() == first);
        let to_all = self.is_small(&name.channel);
        let tip = self.tip_of(name, line).map_or(first, |tip| tip.sequence);
        let naming = if first == 1 { Naming::Name } else { Naming::Key };
        let note_due = self.note_due();
        self.leave_to_tree(name);
        let sessions: Vec<SessionId> = self.conversations.keys().copied().collect();
        for session in sessions {
            let share = self.share_of_fresh(session, name, tip, to_all, note_due);
            self.tell_reach(session, &name.channel, to_all);
            let pushed = match share {
                Portion::Nothing => continue,
                Portion::Later => None,
                Portion::Run => run.clone(),
            };
            match (pushed, self.seal(&name.channel, &name.key, line)) {
                (Some(run), Some(block_heads)) if self.tip_of(name, line) == Some(run.tip()) => {
                    let heads = self.heads_within(name, line, &run, &block_heads);
                    self.send_run(session, Lane::Control, name, naming, false, &run, &heads);
                    self.say_holding(session, &name.channel);
                }
                _ => self.send_later(session, name, line, first - 1, naming),
            }
        }
    }

    /// Whether a pushed run came along the tree. Only authors push past it; anybody else takes the link for eager.
    pub(super) fn came_by_tree(&mut self, session: SessionId, name: &LogName) -> bool {
        let Some(conversation) = self.conversations.get_mut(&session) else { return false };
        let aside = conversation.peer == name.author;
        let Some(share) = conversation.shares.get_mut(&name.channel) else { return false };
        share.spread.eager |= !aside;
        share.spread.eager
    }

    /// A pushed run was merged (`fresh`), or repeats what is held: passes it on along the tree, once. Whatever came
    /// first by another way is not passed on before the tree brings it.
    pub(super) fn pushed(&mut self, source: SessionId, name: &LogName, push: &Push, fresh: bool) {
        let last = push.run.run().tip().sequence;
        let own = name.author == self.identity.node();
        if let Some(share) = self.share_mut(source, &name.channel) {
            share.spread.forget_note(&name.key, last);
        }
        if !push.tree {
            if fresh {
                self.note_to_others(source, name, last);
            }
            return;
        }
        let Some(held) = self.channels.get_mut(&name.channel) else { return };
        if !own && held.mark_passed(name.key, last) {
            self.pass_on(source, name, push);
        } else if self.eager_links(&name.channel) > 1 {
            // The link is one too many.
            self.set_eager(source, &name.channel, false);
        }
    }

    fn pass_on(&mut self, source: SessionId, name: &LogName, push: &Push) {
        let (run, heads) = (push.run.run(), push.run.heads());
        let naming = if run.first() == 1 { Naming::Name } else { Naming::Key };
        let sessions: Vec<SessionId> =
            self.conversations.keys().copied().filter(|to| *to != source).collect();
        let (reach, note_due) = (self.reach_of(name), self.note_due());
        self.leave_to_tree(name);
        for session in sessions {
            if self.is_reached(session, name, &reach) && self.has_nobody_else(session, name, &reach) {
                self.hasten_reached(session, &name.channel);
                continue;
            }
            match self.share_of_fresh(session, name, run.tip().sequence, false, note_due) {
                Portion::Run => {
                    self.send_run(session, Lane::Control, name, naming, false, run, heads);
                    self.say_holding(session, &name.channel);
                }
                Portion::Later => self.news(session, Some(&name.channel)),
                Portion::Nothing => {}
            }
        }
    }

    fn note_to_others(&mut self, source: SessionId, name: &LogName, tip: u64) {
        let due = self.note_due();
        self.leave_to_tree(name);
        let sessions: Vec<SessionId> =
            self.conversations.keys().copied().filter(|to| *to != source).collect();
        let reach = self.reach_of(name);
        for session in sessions {
            if self.is_reached(session, name, &reach) {
                self.hasten_reached(session, &name.channel);
            } else if let Some(share) = self.share_mut(session, &name.channel) {
                share.note(name.key, tip, due);
            }
        }
    }

    /// The latest entries of a log go along the tree, and all other peers are told of them.
    fn leave_to_tree(&mut self, name: &LogName) {
        if let Some(held) = self.channels.get_mut(&name.channel) {
            held.fresh.leave(name.key, self.now);
        }
    }

    /// Whether a comparison over a lazy link leaves a log to the tree for the time being; then the peer is told of it.
    pub(super) fn leaves_to_tree(&mut self, session: SessionId, id: &ChannelId, key: &LogKey) -> bool {
        let (now, due) = (self.now, self.note_due());
        let Some(held) = self.channels.get(id) else { return false };
        if !held.fresh.is_left(key, now) {
            return false;
        }
        let tip = held.logs.get(key).and_then(|held| held.log.tips().iter().map(|tip| tip.sequence).max());
        let (Some(tip), Some(share)) = (tip, self.share_mut(session, id)) else { return false };
        if share.spread.eager {
            return false;
        }
        share.note(*key, tip, due);
        true
    }

    /// When notes about entries that came now go out: over all lazy links in the same turn.
    fn note_due(&mut self) -> Instant {
        self.now + self.jittered(NOTE_DELAY)
    }

    /// What a peer gets of fresh entries that end at `tip`; notes them for `note_due` where its link is lazy.
    fn share_of_fresh(
        &mut self,
        session: SessionId,
        name: &LogName,
        tip: u64,
        to_all: bool,
        note_due: Instant,
    ) -> Portion {
        let interval = self.config.interval;
        let next = self.now + self.jittered(interval);
        let Some(conversation) = self.conversations.get_mut(&session) else { return Portion::Nothing };
        let is_sending = conversation.is_sending_log(&name.channel, &name.key);
        let bulk = conversation.has_bulk_under_way(&name.key);
        let (paused, full) = (conversation.peer_paused, conversation.pushed_bytes >= PUSHED_BYTES);
        let Some(share) = conversation.shares.get_mut(&name.channel) else { return Portion::Nothing };
        share.synced = false;
        if !share.is_active() || share.parked.contains(&name.key) || paused {
            return Portion::Nothing;
        }
        share.next_compare = share.next_compare.min(next);
        if !share.compared || is_sending {
            // A first comparison will find them, and one line is sent in one place only.
            self.pump(session);
            Portion::Nothing
        } else if !to_all && !share.spread.eager {
            share.note(name.key, tip, note_due);
            Portion::Nothing
        } else if bulk || full {
            Portion::Later
        } else {
            Portion::Run
        }
    }

    /// Puts fresh own entries on their way behind what is under way.
    fn send_later(&mut self, session: SessionId, name: &LogName, line: LineNo, after: u64, naming: Naming) {
        let outgoing = Outgoing { after, check: None, naming, reading: false };
        if let Some(conversation) = self.conversations.get_mut(&session) {
            conversation.outgoing.insert((name.channel, name.key, line), outgoing);
        }
        self.pump(session);
    }

    /// Whether an author pushes to everybody.
    fn is_small(&self, channel: &ChannelId) -> bool {
        let shares = self.conversations.values().filter_map(|to| to.shares.get(channel));
        shares.filter(|share| share.is_active()).take(SMALL_GROUP + 1).count() <= SMALL_GROUP
    }

    /// Few entries came from `source` in bulk: the tree may not bring them, so everybody is told of them, and whoever lacks
    /// them asks one who told.
    pub(super) fn note_bulk(&mut self, source: SessionId, name: &LogName, tip: u64) {
        let (now, later) = (self.now, self.note_due());
        let interval = self.config.interval;
        self.leave_to_tree(name);
        let held = self.channels.get_mut(&name.channel);
        let asked = held.as_ref().is_some_and(|held| held.asked.contains_key(&KeyRef::of(&name.key)));
        if let Some(held) = held.filter(|_| !asked) {
            // A comparison found them: here begins the tree for those who lack them too, and this link is where it hangs.
            held.mark_passed(name.key, tip);
            self.set_eager(source, &name.channel, true);
        }
        let sessions: Vec<SessionId> =
            self.conversations.keys().copied().filter(|to| *to != source).collect();
        for session in sessions {
            let next = now + self.jittered(interval);
            let Some(share) = self.share_mut(session, &name.channel).filter(|share| share.is_active()) else {
                continue;
            };
            share.synced = false;
            share.next_compare = share.next_compare.min(next);
            let due = if share.spread.eager { now } else { later };
            share.note(name.key, tip, due);
        }
        self.came_from(source, name);
    }

    /// Tells a peer whom our own entries go straight to, if that changed.
    fn tell_reach(&mut self, session: SessionId, id: &ChannelId, to_all: bool) {
        let company = self.company;
        let others = self.conversations.iter().filter(|(to, _)| to_all && **to != session);
        let others = others.filter(|(_, to)| to.shares.get(id).is_some_and(Share::is_active));
        let told = self.conversations.get(&session).and_then(|to| to.shares.get(id));
        let Some(told) = told.filter(|share| share.is_active()).map(|share| share.spread.reach_told) else {
            return;
        };
        if told.0 == company {
            return;
        }
        let nodes: Vec<[u8; 8]> = others.map(|(_, to)| short(&to.peer)).collect();
        let is_news = told.1 || !nodes.is_empty();
        let Some(share) = self.share_mut(session, id) else { return };
        share.spread.reach_told = (company, !nodes.is_empty());
        if let Some(channel) = share.ours.filter(|_| is_news) {
            self.control(session, &Message::Reach { channel, nodes });
        }
    }

    pub(super) fn on_reach(&mut self, session: SessionId, channel: ChannelRef, nodes: Vec<[u8; 8]>) {
        let Some((id, _)) = self.resolve(session, channel) else { return };
        if nodes.len() > MAX_REACH {
            return self.bad(session, "too many nodes reached");
        }
        if let Some(share) = self.share_mut(session, &id) {
            share.spread.reach = nodes;
        }
    }

    /// Whom the author of a log said that its fresh entries go straight to; nobody if it is no peer.
    fn reach_of(&self, name: &LogName) -> Vec<[u8; 8]> {
        let author = self.conversations.values().find(|to| to.peer == name.author);
        let share = author.and_then(|author| author.shares.get(&name.channel));
        share.map(|share| share.spread.reach.clone()).unwrap_or_default()
    }

    fn is_reached(&self, session: SessionId, name: &LogName, reach: &[[u8; 8]]) -> bool {
        let peer = self.conversations.get(&session).map(|to| to.peer);
        peer.is_some_and(|peer| peer == name.author || reach.contains(&short(&peer)))
    }

    /// Whether a peer said that all whom it reaches are the author and those whom the author reaches: nobody waits for
    /// it to pass entries on.
    fn has_nobody_else(&self, session: SessionId, name: &LogName, reach: &[[u8; 8]]) -> bool {
        let share = self.conversations.get(&session).and_then(|to| to.shares.get(&name.channel));
        let Some(theirs) = share.map(|share| &share.spread.reach) else { return false };
        let (own, author) = (short(&self.identity.node()), short(&name.author));
        let is_served = |node: &[u8; 8]| *node == own || *node == author || reach.contains(node);
        !theirs.is_empty() && theirs.iter().all(is_served)
    }

    /// The author says that it serves this peer itself: that is looked into, but not at once.
    fn hasten_reached(&mut self, session: SessionId, id: &ChannelId) {
        let next = self.now + self.jittered(REACHED_DELAY.max(self.config.interval));
        if let Some(share) = self.share_mut(session, id) {
            share.synced = false;
            share.next_compare = share.next_compare.min(next);
        }
    }

    /// Both sides announced the channel: the link begins eager, unless there are enough of them or it was lazy before.
    pub(super) fn begin_spread(&mut self, session: SessionId, channel: &ChannelId) {
        self.company += 1;
        let peer = self.conversations.get(&session).map(|to| to.peer);
        let held = self.channels.get_mut(channel);
        let was = held.and_then(|held| Some((held.parted.remove(&peer?)?, held.changes)));
        if let (Some((Parted::Eager(then), now)), Some(share)) = (was, self.share_mut(session, channel)) {
            share.spread.doubtful = now > then;
        }
        let was_lazy = matches!(was, Some((Parted::Lazy, _)));
        let eager = self.eager_links(channel);
        if eager > MAX_EAGER || (was_lazy && eager > 1) {
            self.set_eager(session, channel, false);
        }
    }

    fn eager_links(&self, channel: &ChannelId) -> usize {
        let shares = self.conversations.values().filter_map(|to| to.shares.get(channel));
        shares.filter(|share| share.is_active() && share.spread.eager).count()
    }

    /// The session is gone that this was a link of: what it was is remembered, so that a tree that was parted grows
    /// together as it was.
    pub(super) fn end_spread(&mut self, peer: NodeId, channel: &ChannelId, share: &Share) {
        let eager = share.spread.eager;
        if let Some(held) = self.channels.get_mut(channel)
            && held.parted.len() < MAX_PARTED
        {
            held.parted.insert(peer, if eager { Parted::Eager(held.changes) } else { Parted::Lazy });
        }
        if eager {
            self.keep_one_eager(channel);
        }
    }

    /// The peer holds what we hold. If it just came back, and has what we got meanwhile, it gets it by another way: the
    /// link would be one too many.
    pub(super) fn judge_spread(&mut self, session: SessionId, channel: &ChannelId) {
        let Some(share) = self.conversations.get(&session).and_then(|to| to.shares.get(channel)) else {
            return;
        };
        if !share.spread.doubtful {
            return;
        }
        if let Some(share) = self.share_mut(session, channel) {
            share.spread.doubtful = false;
        }
        if self.eager_links(channel) > 1 {
            self.set_eager(session, channel, false);
        }
    }

    /// Without an eager link, all that is fresh would come late: one of the lazy ones, drawn, becomes eager.
    fn keep_one_eager(&mut self, channel: &ChannelId) {
        let of =
            |to: &Conversation| Some(to.shares.get(channel).filter(|share| share.is_active())?.spread.eager);
        let mut links = Vec::new();
        for (session, to) in self.conversations.iter() {
            match of(to) {
                Some(true) => return,
                Some(false) => links.push(*session),
                None => {}
            }
        }
        if !links.is_empty() {
            let drawn = self.drawn(links.len());
            self.set_eager(links[drawn], channel, true);
        }
    }

    /// Turns the link, and tells the other end.
    fn set_eager(&mut self, session: SessionId, channel: &ChannelId, eager: bool) {
        let Some(share) = self.share_mut(session, channel) else { return };
        if std::mem::replace(&mut share.spread.eager, eager) == eager {
            return;
        }
        if let Some(channel) = share.ours {
            self.control(session, &Message::Eager { channel, eager });
        }
    }

    pub(super) fn on_eager(&mut self, session: SessionId, channel: ChannelRef, eager: bool) {
        let Some((id, _)) = self.resolve(session, channel) else { return };
        if let Some(share) = self.share_mut(session, &id) {
            share.spread.eager = eager;
        }
        if !eager {
            self.keep_one_eager(&id);
        }
    }

    /// A peer has entries that it does not push.
    pub(super) fn on_notes(&mut self, session: SessionId, channel: ChannelRef, notes: &[(KeyRef, u64)]) {
        let (now, until) = (self.now, self.now + self.jittered(NOTE_PATIENCE));
        let Some((id, share)) = self.resolve(session, channel) else { return };
        if notes.len() > MAX_NOTED {
            return self.bad(session, "too many notes at once");
        }
        let Some(held) = self.channels.get(&id) else { return };
        let known: Vec<(LogKey, u64)> =
            notes.iter().filter_map(|(key, to)| Some((*held.by_ref(key)?.0, *to))).collect();
        let parked = |key: &KeyRef| held.by_ref(key).is_some_and(|(key, _)| share.parked.contains(key));
        let news = notes.iter().filter(|(key, to)| !held.reaches(key, *to) && !parked(key));
        // Over an eager link nothing else will come, and one peer is asked at a time.
        let until = if share.spread.eager { now } else { until };
        let until = |key: &KeyRef| held.asked.get(key).map_or(until, |asked| until.max(*asked));
        let news: Vec<(KeyRef, u64, Instant)> = news.map(|(key, to)| (*key, *to, until(key))).collect();
        let Some(share) = self.share_mut(session, &id) else { return };
        for (key, to) in known {
            share.spread.forget_note(&key, to);
        }
        for (key, to, until) in news {
            if share.spread.missing.len() < MAX_NOTED {
                share.spread.missing.entry(key).or_insert((to, until)).0 = to;
            }
        }
    }

    /// Sends the notes that are due, and asks for what did not come by itself.
    pub(super) fn fire_spread(&mut self, session: SessionId) {
        let now = self.now;
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        for id in conversation.shares.due(now) {
            self.send_notes(session, &id);
            self.ask_for_missing(session, &id);
        }
    }

    fn send_notes(&mut self, session: SessionId, id: &ChannelId) {
        let now = self.now;
        let Some(share) = self.share_mut(session, id) else { return };
        if share.spread.notes_due.is_none_or(|due| due > now) {
            return;
        }
        share.spread.notes_due = None;
        let notes = std::mem::take(&mut share.spread.notes);
        let Some(channel) = share.ours.filter(|_| share.is_active()) else { return };
        if notes.len() >= MAX_NOTED {
            share.next_compare = now;
            return;
        }
        let notes: Vec<(KeyRef, u64)> = notes.iter().map(|(key, to)| (KeyRef::of(key), *to)).collect();
        if !notes.is_empty() {
            self.control(session, &Message::Notes { channel, notes });
            self.say_holding(session, id);
        }
    }

    fn ask_for_missing(&mut self, session: SessionId, id: &ChannelId) {
        let (now, patience) = (self.now, self.jittered(NOTE_PATIENCE));
        let Some(marker) = self.marker(session) else { return };
        let (Some(conversation), Some(held)) =
            (self.conversations.get_mut(&session), self.channels.get_mut(id))
        else {
            return;
        };
        let Some(share) = conversation.shares.get_mut(id) else { return };
        share.spread.missing.retain(|key, (to, _)| !held.reaches(key, *to));
        let late = share.spread.missing.iter().filter(|(_, (_, until))| *until <= now);
        let late: Vec<KeyRef> = late.map(|(key, _)| *key).collect();
        let Some(channel) = share.ours.filter(|_| !late.is_empty()) else { return };
        share.spread.missing.retain(|_, (_, until)| *until > now);
        let have = |key: &KeyRef| {
            let tips = held.by_ref(key).map(|(_, log)| marker.marks(&log.log.tips())).unwrap_or_default();
            HaveItem { log: LogRef::Key(*key), tips }
        };
        let logs: Vec<HaveItem> = late.iter().map(have).collect();
        held.asked.retain(|_, until| *until > now);
        held.asked.extend(late.iter().map(|key| (*key, now + patience)));
        share.wanted = share.wanted.saturating_add(logs.len() as u64);
        // Others who told of them are asked if this one does not deliver.
        for other in self.conversations.values_mut() {
            let Some(share) = other.shares.get_mut(id) else { continue };
            for key in &late {
                if let Some((_, until)) = share.spread.missing.get_mut(key) {
                    *until = (*until).max(now + patience);
                }
            }
        }
        self.set_eager(session, id, true);
        self.control(session, &Message::Have { channel, round: 0, logs, answer: false });
    }
}

impl HeldChannel {
    /// Entries up to there go on along the tree; whether they did not before.
    fn mark_passed(&mut self, key: LogKey, to: u64) -> bool {
        if self.passed_on.len() >= MAX_PASSED {
            self.passed_on.clear();
        }
        let passed_on = self.passed_on.entry(key).or_default();
        let is_new = to > *passed_on;
        *passed_on = to.max(*passed_on);
        is_new
    }
}

/// How peers name a node to others who know it.
fn short(node: &NodeId) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&node.as_bytes()[..8]);
    bytes
}

impl Share {
    /// Tells the peer of a log later.
    fn note(&mut self, key: LogKey, tip: u64, due: Instant) {
        if self.spread.notes.len() < MAX_NOTED {
            self.spread.notes.insert(key, tip);
        }
        self.spread.notes_due.get_or_insert(due);
    }
}
