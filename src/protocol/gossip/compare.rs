//! Who lacks what: comparisons by fingerprint, cells and lists, and the tips of logs that differ.
//!
//! A comparison costs a constant number of bytes when both sides hold the same (I8). When they do not, the
//! side that was asked answers with cells, the asking side decodes which logs differ and says what it holds
//! of each; whoever is ahead sends runs. Cells that do not decode fall back to a paged list in key order, so
//! that every comparison ends (I7).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::cells::{
    CELL_BYTES, Cell, Decoder, Difference, Encoder, MAX_CELLS, Progress, Salt, cells_for, cells_for_at_most,
};
use super::conversation::{Answering, Asked, Asking, Naming, Outgoing, Share};
use super::engine::{Count, Effect, GossipEngine, HeldChannel, HeldLog, Pending, SessionId, Ticket};
use super::estimate::{COUNTER_BYTES, Counters};
use super::fingerprint::LogDigest;
use crate::domain::id::{ChannelId, LogKey, NodeId, StreamId};
use crate::domain::log::LineNo;
use crate::domain::version::{Tip, Tips};
use crate::protocol::wire::{
    ChannelRef, Details, Guess, HaveItem, KeyRef, ListItem, LogRef, Marker, Message, TipMark, Version,
};

/// How long a comparison may stay unanswered before it is given up: several round trips of any link in use.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Comparisons put off in a row before one is made regardless: a peer that is sent fresh entries all the time
/// must still learn what else it lacks (I7).
const MAX_PUT_OFF: u32 = 3;
/// How soon peers are asked after entries came from somebody else: time for the author's own push to arrive.
const RELAY_DELAY: Duration = Duration::from_millis(40);
/// Logs on one page of a list: 24 bytes each, so that a page is a few frames.
const LIST_PAGE: usize = 1024;
/// Logs in one `Have`.
const HAVE_PAGE: usize = 512;
/// Least time between two answers to one peer that cost a look at all logs of a channel, per log: such a look
/// takes about a tenth of it.
const ANSWER_PAUSE: Duration = Duration::from_micros(1);
/// Differing logs that are assumed when nothing tells: a little more than the first cells carry anyway.
const UNKNOWN_DIFFERENCE: u32 = 8;
/// Searches that a peer may have under way here.
const MAX_SEARCHES: usize = 64;
/// The number that salts the fingerprint beside an announced channel; comparisons count from 1.
const ANNOUNCED: u32 = 0;
/// Peers that are compared with within the longest interval; with more, each waits longer.
const COMPARED_IN_INTERVAL: usize = 8;

impl GossipEngine {
    /// Starts the comparisons that are due.
    pub(super) fn fire_compares(&mut self, session: SessionId) {
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        let mut due = Vec::new();
        for id in conversation.shares.due(self.now) {
            let Some(share) = conversation.shares.get_mut(&id) else { continue };
            if share.asking.as_ref().is_some_and(|asking| asking.until <= self.now) {
                share.asking = None;
                share.next_compare = share.next_compare.max(self.now);
            }
            if share.is_active() && share.asking.is_none() && share.next_compare <= self.now {
                due.push(id);
            }
        }
        for id in due {
            self.compare(session, id);
        }
    }

    fn compare(&mut self, session: SessionId, id: ChannelId) {
        if self.say_calmly(session, &id) || self.sound(session, &id) {
            return;
        }
        let wait = self.jittered(self.config.interval);
        let common = self.conversations.get(&session).and_then(|to| self.common(to.peer, id));
        let (Some(conversation), Some(held)) =
            (self.conversations.get_mut(&session), self.channels.get_mut(&id))
        else {
            return;
        };
        let (busy, peer, binding) = (conversation.is_sending(&id), conversation.peer, conversation.binding);
        let Some(share) = conversation.shares.get_mut(&id) else { return };
        if busy && share.put_off < MAX_PUT_OFF {
            share.put_off += 1;
            share.next_compare = self.now + wait;
            return;
        }
        let Some(channel) = share.ours else { return };
        share.put_off = 0;
        (share.theirs_holding, share.told) = (None, Some(held.changes));
        share.round = share.round.wrapping_add(1);
        let salt = salt(share.round, &self.identity.node(), &binding, &id);
        let view = held.view(share, &salt);
        let unchanged = common == Some(held.changes) && share.parked.is_empty();
        let details = (!unchanged).then(|| Details {
            guess: match common {
                Some(common) => Guess::Changed(held.changed_since(common)),
                None => Guess::Counters(view.counters.to_bytes().to_vec()),
            },
            yours: held.author_digest(&peer),
        });
        let (round, logs) = (share.round, view.logs);
        let message = Message::Compare { channel, round, fingerprint: view.fingerprint, logs, details };
        let until = self.now + ANSWER_TIMEOUT;
        share.asking = Some(Asking { round, until, salt, decoder: None, changes: held.changes });
        self.effects.push(Effect::Count(Count::Compared));
        self.control(session, &message);
    }

    pub(super) fn on_compare(
        &mut self,
        session: SessionId,
        channel: ChannelRef,
        round: u32,
        fingerprint: [u8; 8],
        logs: u32,
        details: Option<Details>,
    ) {
        let Some((id, _)) = self.resolve(session, channel) else { return };
        let (counters, changed) = match details.as_ref().map(|details| &details.guess) {
            None => (None, 0),
            Some(Guess::Changed(changed)) => (None, *changed),
            Some(Guess::Counters(counters)) => match <[u8; COUNTER_BYTES]>::try_from(&counters[..]) {
                Ok(counters) => (Some(Counters::from_bytes(&counters)), 0),
                Err(_) => return self.bad(session, "counters of the wrong length"),
            },
        };
        let merging = self.is_merging(session, &id);
        let own = self.identity.node();
        let common = self.conversations.get(&session).and_then(|to| self.common(to.peer, id));
        let (now, wait) = (self.now, self.jittered(self.config.interval));
        let (Some(conversation), Some(held)) =
            (self.conversations.get_mut(&session), self.channels.get_mut(&id))
        else {
            return;
        };
        let (busy, peer, binding) =
            (conversation.is_sending(&id) || merging, conversation.peer, conversation.binding);
        let Some(share) = conversation.shares.get_mut(&id).filter(|share| share.is_active()) else { return };
        let Some(ours) = share.ours else { return };
        if share.asking.as_ref().is_some_and(|asking| asking.decoder.is_none()) {
            // Both asked at once. One comparison tells both sides all: that of the smaller id goes on.
            if own < peer {
                return;
            }
            share.asking = None;
        }
        share.next_compare = share.next_compare.max(now + wait);
        let salt = salt(round, &peer, &binding, &id);
        let view = held.view(share, &salt);
        let owns_known = details.is_some_and(|details| held.author_digest(&own) == details.yours);
        let equal = (mutant!(CountDecides) || view.fingerprint == fingerprint) && view.logs == logs;
        if equal {
            share.answering = None;
            let changes = held.changes;
            self.control(session, &Message::Same { channel: ours, round });
            self.found_equal(session, id, changes);
        } else if now < share.next_answer || (busy && share.put_off < MAX_PUT_OFF) {
            share.put_off += u32::from(busy);
            self.control(session, &Message::Later { channel: ours, round });
        } else {
            share.next_answer = now + ANSWER_PAUSE * view.logs;
            share.put_off = 0;
            share.synced = false;
            // The peer will ask for what it lacks as of now; what comes from now on can be pushed. Waiting for a
            // comparison of our own would leave fresh entries to the next interval, and to the one after that
            // while either side is busy.
            share.compared = true;
            share.spread.differs();
            let distance = view.logs.abs_diff(logs);
            let cells = match (counters, common) {
                (Some(counters), _) => cells_for(view.counters.distance(&counters).max(distance)),
                // What differs changed on either side since we were last equal.
                (None, Some(common)) => {
                    cells_for_at_most(held.changed_since(common).saturating_add(changed).max(distance))
                }
                (None, None) => cells_for(UNKNOWN_DIFFERENCE.max(changed).max(distance)),
            };
            let list_bytes = view.logs as usize * (size_of::<KeyRef>() + size_of::<Version>());
            if (cells as usize) * CELL_BYTES < list_bytes && cells < MAX_CELLS {
                let encoder = Encoder::new(held.items(share, &salt));
                let bytes = encoder.cells(0..cells).into_iter().flat_map(Cell::to_bytes).collect();
                share.answering = Some(Answering { round, salt, encoder: Some(encoder), index: None });
                self.control(session, &Message::Cells { channel: ours, round, start: 0, cells: bytes });
            } else {
                share.answering = Some(Answering { round, salt, encoder: None, index: None });
                self.send_list(session, id, ours, round, None);
            }
        }
        if owns_known && !equal {
            self.confirm_own_logs(session, &id);
        }
    }

    /// The peer announced what it holds along with the channel: if we hold just that, nothing is left to compare.
    pub(super) fn settle_announced(&mut self, session: SessionId, id: ChannelId, fingerprint: [u8; 8]) {
        let now = self.now;
        let (Some(conversation), Some(held)) =
            (self.conversations.get_mut(&session), self.channels.get_mut(&id))
        else {
            return;
        };
        let (peer, binding) = (conversation.peer, conversation.binding);
        let Some(share) = conversation.shares.get_mut(&id) else { return };
        let changes = held.changes;
        if held.announced(share, &peer, &binding, &id) == fingerprint {
            self.effects.push(Effect::Count(Count::Equal));
            self.found_equal(session, id, changes);
        } else if share.announced != changes {
            // The peer may take both for equal by what we announced, and leave it at that.
            share.next_compare = now;
        }
    }

    /// The fingerprints of both sides are the same, at our present count of `changes`.
    fn found_equal(&mut self, session: SessionId, id: ChannelId, changes: u64) {
        let now = self.now;
        if let Some(share) = self.share_mut(session, &id) {
            (share.judged, share.theirs_holding, share.told) = (now, None, Some(changes));
        }
        self.mark_synced(session, id, changes);
        self.confirm_own_logs(session, &id);
    }

    /// The peer knows of no entry of our own logs in the channel that we lack: once that holds in every channel
    /// that it shares with us, it told us all that we may have forgotten.
    pub(super) fn confirm_own_logs(&mut self, session: SessionId, id: &ChannelId) {
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        if let Some(share) = conversation.shares.get_mut(id) {
            share.own_confirmed = true;
        }
        let mut shared = conversation.shares.values().filter(|share| share.is_active());
        if shared.all(|share| share.own_confirmed) {
            self.effects.push(Effect::OwnLogsConfirmed);
        }
    }

    pub(super) fn on_same(&mut self, session: SessionId, channel: ChannelRef, round: u32) {
        if let Some(id) = self.answered(session, channel, round) {
            let now = self.now;
            let asking = self.share_mut(session, &id).and_then(|share| {
                share.judged = now;
                share.asking.take()
            });
            self.effects.push(Effect::Count(Count::Equal));
            self.confirm_own_logs(session, &id);
            if let Some(asking) = asking {
                self.mark_synced(session, id, asking.changes);
            }
        }
    }

    pub(super) fn on_later(&mut self, session: SessionId, channel: ChannelRef, round: u32) {
        let Some(id) = self.answered(session, channel, round) else { return };
        self.end_asking(session, &id);
        let next = self.now + self.jittered(self.config.interval);
        if let Some(share) = self.share_mut(session, &id) {
            share.next_compare = next;
        }
    }

    pub(super) fn on_cells(
        &mut self,
        session: SessionId,
        channel: ChannelRef,
        round: u32,
        start: u32,
        cells: &[u8],
    ) {
        let Some(id) = self.answered(session, channel, round) else { return };
        let until = self.now + ANSWER_TIMEOUT;
        let (Some(conversation), Some(held)) =
            (self.conversations.get_mut(&session), self.channels.get_mut(&id))
        else {
            return;
        };
        let Some(share) = conversation.shares.get_mut(&id) else { return };
        let (Some(ours), Some(mut asking)) = (share.ours, share.asking.take()) else { return };
        asking.until = until;
        let mut decoder = asking.decoder.take().unwrap_or_else(|| {
            let own = Encoder::new(held.items(share, &asking.salt));
            Box::new(Decoder::new(&asking.salt, own))
        });
        let parsed: Option<Vec<Cell>> = cells
            .chunks(CELL_BYTES)
            .map(|bytes| Cell::from_bytes(<[u8; CELL_BYTES]>::try_from(bytes).ok()?))
            .collect();
        let progress = match parsed {
            Some(parsed) if start == decoder.received() && !parsed.is_empty() => decoder.push(&parsed).ok(),
            _ => None,
        };
        match progress {
            Some(Progress::Done(differences)) => {
                let keys = held.keys_of(&differences, &asking.salt);
                let salt = asking.salt.clone();
                share.asking = Some(asking);
                self.finish_compare(session, &id);
                self.act_on(session, id, round, &differences, keys, &salt);
            }
            Some(Progress::NeedMore(count)) => {
                let start = decoder.received();
                asking.decoder = Some(decoder);
                share.asking = Some(asking);
                self.control(session, &Message::MoreCells { channel: ours, round, start, count });
            }
            None => {
                share.asking = Some(asking);
                self.control(session, &Message::ListFrom { channel: ours, round, after: None });
            }
        }
    }

    pub(super) fn on_more_cells(
        &mut self,
        session: SessionId,
        channel: ChannelRef,
        round: u32,
        start: u32,
        count: u32,
    ) {
        let Some((id, share)) = self.resolve(session, channel) else { return };
        let (Some(ours), Some(answering)) = (share.ours, &share.answering) else { return };
        let end = start.saturating_add(count).min(MAX_CELLS);
        let cells = match &answering.encoder {
            Some(encoder) if answering.round == round && start < end => encoder.cells(start..end),
            _ => Vec::new(),
        };
        if cells.is_empty() {
            return self.send_list(session, id, ours, round, None);
        }
        let cells = cells.into_iter().flat_map(Cell::to_bytes).collect();
        self.control(session, &Message::Cells { channel: ours, round, start, cells });
    }

    pub(super) fn on_list_from(
        &mut self,
        session: SessionId,
        channel: ChannelRef,
        round: u32,
        after: Option<KeyRef>,
    ) {
        let Some((id, share)) = self.resolve(session, channel) else { return };
        if let Some(ours) = share.ours {
            self.send_list(session, id, ours, round, after);
        }
    }

    fn send_list(
        &mut self,
        session: SessionId,
        id: ChannelId,
        ours: ChannelRef,
        round: u32,
        after: Option<KeyRef>,
    ) {
        let Some((held, share)) = self.held_share(session, &id) else { return };
        let mut logs = held.after(after, share);
        let items: Vec<ListItem> = logs
            .by_ref()
            .take(LIST_PAGE)
            .filter_map(|(key, log)| Some(ListItem { key: KeyRef::of(key), version: version_of(log)? }))
            .collect();
        let more = logs.next().is_some();
        drop(logs);
        self.control(session, &Message::List { channel: ours, round, after, items, more });
    }

    pub(super) fn on_list(
        &mut self,
        session: SessionId,
        channel: ChannelRef,
        round: u32,
        after: Option<KeyRef>,
        items: &[ListItem],
        more: bool,
    ) {
        let Some(id) = self.answered(session, channel, round) else { return };
        let rising = items.windows(2).all(|pair| pair[0].key < pair[1].key);
        let follows = items.first().is_none_or(|first| after.is_none_or(|after| after < first.key));
        if !rising || !follows || (more && items.is_empty()) {
            self.end_asking(session, &id);
            return self.bad(session, "a list out of order");
        }
        let until = self.now + ANSWER_TIMEOUT;
        let Some(marker) = self.marker(session) else { return };
        let Some((held, share)) = self.held_share(session, &id) else { return };
        let Some(ours) = share.ours else { return };
        let last = items.last().map(|item| item.key);
        let theirs: BTreeMap<KeyRef, Version> = items.iter().map(|item| (item.key, item.version)).collect();
        let mut asked = Vec::new();
        let mut offered = Vec::new();
        let mut seen = Vec::new();
        for (key, log) in held
            .after(after, share)
            .take_while(|(key, _)| !more || last.is_some_and(|last| KeyRef::of(key) <= last))
        {
            let reference = KeyRef::of(key);
            match theirs.get(&reference) {
                None => offered.push(*key),
                Some(version) if version_of(log) == Some(*version) => {}
                Some(_) => {
                    let tips = marker.marks(&log.log.tips());
                    asked.push(HaveItem { log: LogRef::Key(reference), tips });
                }
            }
            seen.push(reference);
        }
        let parked = |key: &KeyRef| share.parked.iter().any(|parked| KeyRef::of(parked) == *key);
        let unknown = theirs.keys().filter(|key| seen.binary_search(key).is_err() && !parked(key));
        let unknown = unknown.skip(usize::from(mutant!(ListEntryLost)));
        offered.drain(..offered.len().min(usize::from(mutant!(ListEntryLost))));
        asked.extend(unknown.map(|key| HaveItem { log: LogRef::Key(*key), tips: Vec::new() }));
        self.ask(session, id, round, asked);
        for key in offered {
            self.offer_all(session, id, key);
        }
        if let (true, Some(last)) = (more, last) {
            self.control(session, &Message::ListFrom { channel: ours, round, after: Some(last) });
            if let Some(asking) = self.share_mut(session, &id).and_then(|share| share.asking.as_mut()) {
                asking.until = until;
            }
        } else {
            self.finish_compare(session, &id);
        }
        self.pump(session);
    }

    /// Acts on decoded differences: sends what the peer does not know at all or is seen to lack, and says what
    /// we hold of the others. `keys` are the differing logs that we hold, by short key.
    fn act_on(
        &mut self,
        session: SessionId,
        id: ChannelId,
        round: u32,
        differences: &[Difference],
        keys: BTreeMap<u32, LogKey>,
        salt: &Salt,
    ) {
        let Some(marker) = self.marker(session) else { return };
        let mut asked = Vec::new();
        for difference in differences {
            let short = difference.key.get();
            match (difference.ours.and(keys.get(&short)), difference.theirs) {
                (Some(key), None) => self.offer_all(session, id, *key),
                (Some(key), Some(theirs)) => {
                    let Some(held) = self.channels.get(&id).and_then(|held| held.logs.get(key)) else {
                        continue;
                    };
                    let has = |tip: &&Tip| {
                        let digest = LogDigest::of(key, std::slice::from_ref(tip));
                        salt.version(difference.key, &digest) == theirs
                    };
                    let line = held.log.lines().first().filter(|_| held.log.lines().len() == 1);
                    if let (Some(line), Some(tip)) = (line, held.recent().iter().rev().find(has)) {
                        let (no, check) = (line.no, Some(marker.mark(tip)));
                        let naming = Naming::Asked(round, short);
                        let outgoing = Outgoing { after: tip.sequence, check, naming, reading: false };
                        self.send_after(session, id, *key, no, outgoing);
                    } else {
                        let tips = marker.marks(&held.log.tips());
                        asked.push(HaveItem { log: LogRef::Short(short), tips });
                    }
                }
                (None, Some(_)) => asked.push(HaveItem { log: LogRef::Short(short), tips: Vec::new() }),
                (None, None) => {}
            }
        }
        if let Some(share) = self.share_mut(session, &id) {
            share.asked = Some(Asked { round, keys });
        }
        self.ask(session, id, round, asked);
        self.pump(session);
    }

    /// Puts a line on its way to the peer, unless something of the log is or must not be.
    fn send_after(
        &mut self,
        session: SessionId,
        id: ChannelId,
        key: LogKey,
        line: LineNo,
        outgoing: Outgoing,
    ) {
        let left = self.leaves_to_tree(session, &id, &key);
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        let parked = conversation.shares.get(&id).is_none_or(|share| share.parked.contains(&key));
        if !conversation.peer_paused && !parked && !left && !conversation.is_sending_log(&id, &key) {
            conversation.outgoing.insert((id, key, line), outgoing);
        }
    }

    fn ask(&mut self, session: SessionId, id: ChannelId, round: u32, mut logs: Vec<HaveItem>) {
        let Some(share) = self.share_mut(session, &id) else { return };
        let Some(channel) = share.ours else { return };
        share.wanted = share.wanted.saturating_add(logs.len() as u64);
        while !logs.is_empty() {
            let rest = logs.split_off(logs.len().min(HAVE_PAGE));
            self.control(session, &Message::Have { channel, round, logs, answer: false });
            logs = rest;
        }
    }

    /// The decoded comparison is over; what it found is under way.
    fn finish_compare(&mut self, session: SessionId, id: &ChannelId) {
        let next = self.now + self.jittered(self.config.interval);
        let interval = self.config.interval;
        if let Some(share) = self.share_mut(session, id) {
            (share.compared, share.synced) = (true, false);
            (share.interval, share.next_compare) = (interval, next);
            (share.asking, share.asked) = (None, None);
            share.spread.differs();
        }
    }

    /// Both sides hold the same, as of our count of `changes`.
    pub(super) fn mark_synced(&mut self, session: SessionId, id: ChannelId, changes: u64) {
        let jittered = |engine: &mut Self, share_interval| engine.jittered(share_interval);
        let Some(share) = self.share_mut(session, &id) else { return };
        let was = std::mem::replace(&mut share.synced, true);
        (share.compared, share.explained, share.sounded) = (true, true, false);
        (share.wanted, share.put_off) = (0, 0);
        share.pulled.clear();
        let interval = share.interval;
        let wait = jittered(self, interval);
        // The more peers a node compares with, the less often each: what silence costs does not grow with the group.
        let several =
            u32::try_from(self.conversations.len().div_ceil(COMPARED_IN_INTERVAL)).unwrap_or(u32::MAX);
        let (now, longest) = (self.now, self.config.interval_max * several.max(1));
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        let peer = conversation.peer;
        let mut complete = false;
        if let Some(share) = conversation.shares.get_mut(&id) {
            share.next_compare = now + wait;
            share.interval = (interval * 3 / 2).min(longest);
            complete = share.parked.is_empty();
        }
        if complete {
            self.set_common(peer, id, changes);
        }
        self.judge_spread(session, &id);
        if !was {
            self.effects.push(Effect::Synced(id, peer));
        }
    }

    /// Something changed: compare soon, with all shares of the session or one.
    pub(super) fn news(&mut self, session: SessionId, only: Option<&ChannelId>) {
        let next = self.now + self.jittered(RELAY_DELAY);
        let interval = self.config.interval;
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        let hasten = |share: &mut Share| {
            (share.synced, share.explained) = (false, false);
            share.interval = interval;
            share.next_compare = share.next_compare.min(next);
        };
        match only {
            Some(id) => conversation.shares.get_mut(id).into_iter().for_each(hasten),
            None => conversation.shares.values_mut().for_each(hasten),
        }
    }

    /// Entries came from `source`: others may lack them.
    pub(super) fn news_from(&mut self, source: SessionId, name: &crate::domain::log::LogName) {
        let others: Vec<SessionId> =
            self.conversations.keys().copied().filter(|session| *session != source).collect();
        for session in others {
            self.news(session, Some(&name.channel));
        }
        self.came_from(source, name);
    }

    /// Entries came from `source`: what was asked of it may have come, and it may have more.
    pub(super) fn came_from(&mut self, source: SessionId, name: &crate::domain::log::LogName) {
        let next = self.now + self.jittered(self.config.interval);
        if let Some(share) = self.share_mut(source, &name.channel) {
            share.wanted = share.wanted.saturating_sub(1);
            share.pulled.remove(&name.key);
            share.synced = false;
            share.next_compare = share.next_compare.min(next);
        }
    }

    pub(super) fn on_have(
        &mut self,
        session: SessionId,
        channel: ChannelRef,
        round: u32,
        logs: Vec<HaveItem>,
        answer: bool,
    ) {
        let Some((id, share)) = self.resolve(session, channel) else { return };
        let Some(ours) = share.ours else { return };
        let short = |item: &HaveItem| matches!(item.log, LogRef::Short(_));
        if !answer && logs.iter().any(short) && !self.index_answered(session, &id, round) {
            // About a comparison that is over: the next one finds what is left of it.
            return;
        }
        let mut replies = Vec::new();
        for HaveItem { log, tips } in logs {
            let naming = match log {
                LogRef::Short(short) if answer => Naming::Asked(round, short),
                LogRef::Short(short) => Naming::Answered(round, short),
                _ => Naming::Key,
            };
            let Some(key) = self.find(session, &id, &log, naming) else {
                if !answer {
                    replies.push(HaveItem { log, tips: Vec::new() });
                }
                continue;
            };
            if let Some(reply) = self.compare_log(session, id, key, naming, &tips)
                && !answer
            {
                replies.push(HaveItem { log, tips: reply });
            }
        }
        if !replies.is_empty() {
            self.control(session, &Message::Have { channel: ours, round, logs: replies, answer: true });
        }
        self.pump(session);
    }

    /// Compares our tips of a log with the peer's: sends what it lacks, and returns our tips if it is ahead.
    fn compare_log(
        &mut self,
        session: SessionId,
        id: ChannelId,
        key: LogKey,
        naming: Naming,
        theirs: &[TipMark],
    ) -> Option<Vec<TipMark>> {
        let held = self.channels.get(&id)?.logs.get(&key)?;
        let conversation = self.conversations.get(&session)?;
        let ours = conversation.marker.marks(&held.log.tips());
        if ours[..] == *theirs
            || conversation.is_sending_log(&id, &key)
            || conversation.shares.get(&id)?.parked.contains(&key)
        {
            return None;
        }
        if theirs.is_empty() {
            self.offer_all(session, id, key);
            return None;
        }
        match (held.log.lines(), theirs) {
            ([line], [tip]) if tip.sequence < line.tip.sequence && tip.sequence >= line.base().sequence => {
                let outgoing = Outgoing { after: tip.sequence, check: Some(*tip), naming, reading: false };
                self.send_after(session, id, key, line.no, outgoing);
                None
            }
            ([] | [_], [tip]) if ours.iter().all(|own| own.sequence < tip.sequence) => Some(ours),
            _ => {
                self.locate(session, id, key, false);
                None
            }
        }
    }

    /// Sends all lines of a log that the peer does not know.
    fn offer_all(&mut self, session: SessionId, id: ChannelId, key: LogKey) {
        let left = self.leaves_to_tree(session, &id, &key);
        let Some(held) = self.channels.get(&id).and_then(|held| held.logs.get(&key)) else { return };
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        let parked = conversation.shares.get(&id).is_none_or(|share| share.parked.contains(&key));
        if conversation.peer_paused
            || parked
            || left
            || conversation.is_sending_log(&id, &key)
            || mutant!(OfferForgotten)
        {
            return;
        }
        for line in held.log.lines() {
            let (after, naming) = (line.base().sequence, Naming::Name);
            let outgoing = Outgoing { after, check: None, naming, reading: false };
            conversation.outgoing.insert((id, key, line.no), outgoing);
        }
    }

    /// Tells the peer hashes along our lines, so that it can find where its lines part from them.
    pub(super) fn locate(&mut self, session: SessionId, channel: ChannelId, key: LogKey, answer: bool) {
        let Some(no) = self.channels.get(&channel).and_then(|held| held.logs.get(&key)).map(|held| held.no)
        else {
            return;
        };
        if self.may_search(session) {
            let ticket = self.ticket(Pending::Locators { session, channel, key, answer });
            self.effects.push(Effect::Locators(ticket, no));
        }
    }

    fn may_search(&mut self, session: SessionId) -> bool {
        let Some(conversation) = self.conversations.get_mut(&session) else { return false };
        // A search that is not made now is made after the next comparison.
        let may = conversation.searches < MAX_SEARCHES;
        conversation.searches += usize::from(may);
        may
    }

    pub(super) fn locators_made(&mut self, ticket: Ticket, locators: Vec<Tip>) {
        let Some(Pending::Locators { session, channel, key, answer }) = self.tickets.remove(&ticket) else {
            return;
        };
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        conversation.searches -= 1;
        let Some(ours) = conversation.shares.get(&channel).and_then(|share| share.ours) else { return };
        let message = Message::Locate { channel: ours, key: KeyRef::of(&key), locators, answer };
        self.control(session, &message);
    }

    pub(super) fn on_locate(
        &mut self,
        session: SessionId,
        channel: ChannelRef,
        key: KeyRef,
        locators: Vec<Tip>,
        answer: bool,
    ) {
        let Some((id, _)) = self.resolve(session, channel) else { return };
        let Some((key, held)) = self.channels.get(&id).and_then(|held| held.by_ref(&key)) else { return };
        let (key, no) = (*key, held.no);
        if self.may_search(session) {
            let ticket = self.ticket(Pending::Match { session, channel: id, key, answer });
            self.effects.push(Effect::Match(ticket, no, locators));
        }
    }

    pub(super) fn matched(&mut self, ticket: Ticket, starts: Vec<(LineNo, Tip)>) {
        let Some(Pending::Match { session, channel, key, answer }) = self.tickets.remove(&ticket) else {
            return;
        };
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        conversation.searches -= 1;
        let parked = conversation.shares.get(&channel).is_none_or(|share| share.parked.contains(&key));
        if !conversation.peer_paused && !parked && !conversation.is_sending_log(&channel, &key) {
            for (line, after) in starts {
                let (after, naming) = (after.sequence, Naming::Key);
                let outgoing = Outgoing { after, check: None, naming, reading: false };
                conversation.outgoing.insert((channel, key, line), outgoing);
            }
        }
        if !answer {
            self.locate(session, channel, key, true);
        }
        self.pump(session);
    }

    /// The channel of an answer to our comparison `round`.
    fn answered(&self, session: SessionId, channel: ChannelRef, round: u32) -> Option<ChannelId> {
        let (id, share) = self.resolve(session, channel)?;
        share.asking.as_ref().filter(|asking| asking.round == round).map(|_| id)
    }

    fn end_asking(&mut self, session: SessionId, id: &ChannelId) {
        if let Some(share) = self.share_mut(session, id) {
            share.asking = None;
        }
    }

    pub(super) fn share_mut(&mut self, session: SessionId, id: &ChannelId) -> Option<&mut Share> {
        self.conversations.get_mut(&session)?.shares.get_mut(id)
    }

    fn held_share(&self, session: SessionId, id: &ChannelId) -> Option<(&HeldChannel, &Share)> {
        Some((self.channels.get(id)?, self.conversations.get(&session)?.shares.get(id)?))
    }

    fn is_merging(&self, session: SessionId, id: &ChannelId) -> bool {
        self.tickets.values().any(|pending| {
            matches!(pending, Pending::Merge { session: from, of, .. } if *from == session && of.0.channel == *id)
        })
    }

    pub(super) fn tips(&self, id: &ChannelId, key: &LogKey) -> Tips {
        let held = self.channels.get(id).and_then(|held| held.logs.get(key));
        held.map(|held| held.log.tips()).unwrap_or_default()
    }

    pub(super) fn marker(&self, session: SessionId) -> Option<Marker> {
        self.conversations.get(&session).map(|conversation| conversation.marker.clone())
    }

    /// Prepares our logs by short key; whether the peer refers to the comparison that we answered last.
    pub(super) fn index_answered(&mut self, session: SessionId, id: &ChannelId, round: u32) -> bool {
        let (Some(conversation), Some(held)) = (self.conversations.get_mut(&session), self.channels.get(id))
        else {
            return false;
        };
        let answering = conversation.shares.get_mut(id).and_then(|share| share.answering.as_mut());
        let Some(answering) = answering.filter(|answering| answering.round == round) else { return false };
        answering.index.get_or_insert_with(|| ShortIndex::new(held, &answering.salt));
        true
    }

    /// The log that a reference of a peer names, if it is held. Short references are those of `naming`.
    fn find(&self, session: SessionId, id: &ChannelId, log: &LogRef, naming: Naming) -> Option<LogKey> {
        let held = self.channels.get(id)?;
        match log {
            LogRef::Key(key) => held.by_ref(key).map(|(key, _)| *key),
            LogRef::Short(_) => self.find_short(session, id, naming),
            LogRef::Name(stream, author) => {
                let key = LogKey::derive(id, &StreamId::new(stream).ok()?, author);
                held.logs.contains_key(&key).then_some(key)
            }
        }
    }

    /// The log of a short key in a comparison that we asked for or answered, if it is held.
    pub(super) fn find_short(&self, session: SessionId, id: &ChannelId, naming: Naming) -> Option<LogKey> {
        let (held, share) = self.held_share(session, id)?;
        match naming {
            Naming::Asked(round, short) => {
                share.asked.as_ref().filter(|asked| asked.round == round)?.keys.get(&short).copied()
            }
            Naming::Answered(round, short) => {
                let answering = share.answering.as_ref().filter(|answering| answering.round == round)?;
                answering.index.as_ref()?.find(held, &answering.salt, short)
            }
            Naming::Name | Naming::Key => None,
        }
    }
}

/// The logs of a channel by their short keys in one comparison: 16 bytes each.
pub(super) struct ShortIndex(Vec<(u32, u64)>);

impl ShortIndex {
    fn new(held: &HeldChannel, salt: &Salt) -> Self {
        let mut all: Vec<(u32, u64)> =
            held.logs.keys().map(|key| (salt.key(key).get(), key_prefix(key))).collect();
        all.sort_unstable();
        Self(all)
    }

    fn find(&self, held: &HeldChannel, salt: &Salt, short: u32) -> Option<LogKey> {
        let first = self.0.partition_point(|(of, _)| *of < short);
        let (_, prefix) = self.0[first..].first().filter(|(of, _)| *of == short)?;
        let mut from = [0; 32];
        from[..8].copy_from_slice(&prefix.to_be_bytes());
        let logs = held.logs.range(LogKey::from_bytes(from)..).map(|(key, _)| key);
        let mut same = logs.take_while(|key| key_prefix(key) == *prefix);
        same.find(|key| salt.key(key).get() == short).copied()
    }
}

/// The first bytes of a key, so that they sort as the keys do.
fn key_prefix(key: &LogKey) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&key.as_bytes()[..8]);
    u64::from_be_bytes(bytes)
}

/// What one side of a comparison says about itself.
struct View {
    fingerprint: [u8; 8],
    logs: u32,
    counters: Counters,
}

impl HeldChannel {
    /// All logs that hold an entry, but for those left out in `share`.
    fn view(&mut self, share: &Share, salt: &Salt) -> View {
        let parked = share.parked.iter().filter_map(|key| Some((key, self.logs.get(key)?.digest?)));
        let parked: Vec<_> = parked.collect();
        let (mut counters, logs) = (self.counters, self.filled - parked.len() as u32);
        let settled = self.fingerprint.settled();
        if parked.is_empty() {
            let fingerprint = settled.salted(salt.for_fingerprint()).0;
            return View { fingerprint, logs, counters };
        }
        let mut fingerprint = settled.clone();
        for (key, digest) in &parked {
            fingerprint.remove(digest);
            counters.remove(key, digest);
        }
        View { fingerprint: fingerprint.salted(salt.for_fingerprint()).0, logs, counters }
    }

    /// What `sender` says that it holds when it announces the channel, if it holds what we hold.
    pub(super) fn announced(
        &mut self,
        share: &Share,
        sender: &NodeId,
        binding: &[u8; 32],
        id: &ChannelId,
    ) -> [u8; 8] {
        self.view(share, &salt(ANNOUNCED, sender, binding, id)).fingerprint
    }

    fn filled<'a>(&'a self, share: &'a Share) -> impl Iterator<Item = (&'a LogKey, &'a HeldLog)> {
        let logs = self.logs.iter().map(|(key, log)| (key, &**log));
        logs.filter(|(key, log)| log.digest.is_some() && !share.parked.contains(key))
    }

    fn after<'a>(
        &'a self,
        after: Option<KeyRef>,
        share: &'a Share,
    ) -> impl Iterator<Item = (&'a LogKey, &'a HeldLog)> {
        let mut from = [0; 32];
        if let Some(after) = after {
            from[..16].copy_from_slice(&after.0);
        }
        let logs = self.logs.range(LogKey::from_bytes(from)..).map(|(key, log)| (key, &**log));
        logs.filter(move |(key, log)| {
            log.digest.is_some()
                && !share.parked.contains(key)
                && after.is_none_or(|after| KeyRef::of(key) > after)
        })
    }

    fn items<'a>(
        &'a self,
        share: &'a Share,
        salt: &'a Salt,
    ) -> impl Iterator<Item = super::cells::Item> + 'a {
        self.filled(share).filter_map(|(key, log)| Some(salt.item(key, &log.digest?)))
    }

    /// Which logs these differences are about, as far as we hold them.
    fn keys_of(&self, differences: &[Difference], salt: &Salt) -> BTreeMap<u32, LogKey> {
        let wanted: BTreeSet<u32> = differences.iter().map(|difference| difference.key.get()).collect();
        let keyed = self.logs.keys().map(|key| (salt.key(key).get(), *key));
        keyed.filter(|(short, _)| wanted.contains(short)).collect()
    }

    /// Number of logs that changed since the channel's count of changes was this; more, at most two, where it is about few.
    fn changed_since(&self, changes: u64) -> u32 {
        let since = self.changes.saturating_sub(changes);
        if since <= 2 {
            return since as u32;
        }
        self.logs.values().filter(|log| log.changed > changes).count() as u32
    }

    fn author_digest(&self, author: &NodeId) -> [u8; 8] {
        self.authors.get(author).copied().unwrap_or_default().to_le_bytes()
    }
}

fn version_of(log: &HeldLog) -> Option<Version> {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&log.digest?.as_bytes()[..8]);
    Some(Version(bytes))
}

/// The salt of a comparison that `asker` started: its round and itself on one side, the session on the other.
fn salt(round: u32, asker: &NodeId, binding: &[u8; 32], channel: &ChannelId) -> Salt {
    let mut nonce = [0; 36];
    nonce[..4].copy_from_slice(&round.to_le_bytes());
    nonce[4..].copy_from_slice(asker.as_bytes());
    Salt::new(&nonce, binding, channel)
}
