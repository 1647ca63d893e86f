//! Which channels two nodes share: each announces salted tags, and shares what both announced.
//!
//! A tag tells nothing to those who do not know the channel, and neither does the fingerprint beside it, which tells
//! those who do whether anything needs comparing at all (ADR 27). Part of the gossip engine.

use std::collections::BTreeMap;

use super::conversation::{Conversation, Share};
use super::engine::{Count, Effect, GossipEngine, SessionId};
use super::packing::ZSTD;
use super::spread::Spread;
use crate::domain::event::Fault;
use crate::domain::id::ChannelId;
use crate::protocol::wire::{Announcement, ChannelRef, KeyRef, Message, MessageVersion, ShareTag};

/// Tags that one peer may announce in a session, 12 bytes of ours each.
const MAX_TAGS: usize = 16_384;
/// Logs that may be left out between two peers.
pub(super) const MAX_PARKED: usize = 65_536;

impl GossipEngine {
    pub(super) fn session_up(&mut self, session: SessionId, conversation: Conversation) {
        self.conversations.insert(session, conversation);
        if self.config.version > MessageVersion::V1 {
            let (oldest, newest) = (MessageVersion::V1.number(), self.config.version.number());
            self.control(session, &Message::Speaks { oldest, newest });
        }
        if self.paused {
            self.control(session, &Message::Paused(true));
        }
        if self.config.compress {
            self.control(session, &Message::Packs(ZSTD));
        }
        self.announce(session);
    }

    /// The peer reads messages of these versions.
    pub(super) fn on_speaks(&mut self, session: SessionId, oldest: u8, newest: u8) {
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        match self.config.version.common(oldest, newest) {
            Some(version) => conversation.version = version,
            None => {
                let fault = Fault::UnknownVersion { peer: conversation.peer, version: oldest };
                self.effects.push(Effect::Count(Count::BadMessage));
                self.effects.push(Effect::Fault("version", conversation.peer, fault));
            }
        }
    }

    /// Announces to every peer what it is newly admitted to, withdraws what it no longer is, and looks whether
    /// its own announcements mean something now.
    pub(super) fn announce_shares(&mut self) {
        let sessions: Vec<SessionId> = self.conversations.keys().copied().collect();
        for session in sessions {
            let Some(conversation) = self.conversations.get(&session) else { continue };
            let peer = conversation.peer;
            let announced: Vec<ChannelId> = conversation.our_refs.clone();
            for id in announced {
                let admitted = self.channels.get(&id).is_some_and(|held| held.admission.admits(&peer));
                if !admitted {
                    self.withdraw(session, &id);
                }
            }
            self.announce(session);
            self.resolve_tags(session, 0);
        }
    }

    fn announce(&mut self, session: SessionId) {
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        let (now, interval) = (self.now, self.config.interval);
        let mut announced = Vec::new();
        for (id, held) in &mut self.channels {
            let known = conversation.shares.get(id).is_some_and(|share| share.ours.is_some());
            if known || !held.admission.admits(&conversation.peer) {
                continue;
            }
            let share = conversation.shares.get_or_insert_with(*id, || Share::new(now, interval));
            share.ours = Some(ChannelRef(conversation.our_refs.len() as u32));
            conversation.our_refs.push(*id);
            let tag = ShareTag::new(id, &conversation.binding, &self.identity.node());
            share.announced = held.changes;
            let fingerprint = held.announced(share, &self.identity.node(), &conversation.binding, id);
            announced.push(Announcement { tag, fingerprint });
        }
        if !announced.is_empty() {
            self.control(session, &Message::Share(announced));
        }
    }

    /// Takes back that we share the channel.
    pub(super) fn withdraw(&mut self, session: SessionId, id: &ChannelId) {
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        conversation.outgoing.retain(|(of, _, _), _| of != id);
        let Some(share) = conversation.shares.get_mut(id) else { return };
        let Some(ours) = share.ours.take() else { return };
        (share.asking, share.answering, share.synced) = (None, None, false);
        (share.theirs_holding, share.told) = (None, None);
        share.parked.clear();
        share.pulled.clear();
        share.spread = Spread::new();
        self.company += 1;
        self.control(session, &Message::Unshare(ours));
    }

    /// What is taken of a channel changed: what was left out so far is looked at anew. Sharing the channel once
    /// more tells the peer.
    pub(super) fn reconsider(&mut self, id: &ChannelId) {
        let left_out = |conversation: &Conversation| {
            conversation.shares.get(id).is_some_and(|share| share.ours.is_some() && !share.parked.is_empty())
        };
        let sessions: Vec<SessionId> = self
            .conversations
            .iter()
            .filter(|(_, conversation)| left_out(conversation))
            .map(|(session, _)| *session)
            .collect();
        for session in sessions {
            self.withdraw(session, id);
            self.announce(session);
            self.news(session, Some(id));
        }
    }

    pub(super) fn on_share(&mut self, session: SessionId, announced: Vec<Announcement>) {
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        let known = conversation.their_tags.len();
        if known + announced.len() > MAX_TAGS {
            self.bad(session, "too many channels announced");
            return;
        }
        conversation.their_refs.resize(known + announced.len(), None);
        conversation.their_tags.extend(announced.iter().map(|announcement| announcement.tag));
        for (at, id) in self.resolve_tags(session, known) {
            self.settle_announced(session, id, announced[at - known].fingerprint);
        }
    }

    /// Looks which of the peer's tags, from one on, name a channel that we announced to it; their positions with the
    /// channels.
    fn resolve_tags(&mut self, session: SessionId, from: usize) -> Vec<(usize, ChannelId)> {
        let Some(conversation) = self.conversations.get_mut(&session) else { return Vec::new() };
        let (binding, peer) = (conversation.binding, conversation.peer);
        let waiting =
            conversation.shares.iter().filter(|(_, share)| share.ours.is_some() && share.theirs.is_none());
        let expected: BTreeMap<ShareTag, ChannelId> =
            waiting.map(|(id, _)| (ShareTag::new(id, &binding, &peer), *id)).collect();
        let mut activated = Vec::new();
        for (at, tag) in conversation.their_tags.iter().enumerate().skip(from) {
            let Some(id) = expected.get(tag) else { continue };
            conversation.their_refs[at] = Some(*id);
            if let Some(share) = conversation.shares.get_mut(id) {
                share.theirs = Some(ChannelRef(at as u32));
                activated.push((at, *id));
            }
        }
        // One side starts at once; the other only if nothing comes. Whoever hears of the channel with the session itself
        // is ahead of the other side, which has yet to hear from it.
        let first = self.identity.node() < peer || conversation.since == self.now;
        let wait = self.jittered(self.config.interval);
        let next = if first { self.now } else { self.now + wait };
        if let Some(conversation) = self.conversations.get_mut(&session) {
            for (_, id) in &activated {
                if let Some(share) = conversation.shares.get_mut(id) {
                    share.next_compare = next;
                }
            }
        }
        for (_, id) in &activated {
            self.begin_spread(session, id);
        }
        activated
    }

    pub(super) fn on_unshare(&mut self, session: SessionId, channel: ChannelRef) {
        let Some((id, _)) = self.resolve(session, channel) else { return };
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        conversation.outgoing.retain(|(of, _, _), _| *of != id);
        // The tag is spent: sharing again takes a new announcement.
        conversation.their_refs[channel.0 as usize] = None;
        conversation.their_tags[channel.0 as usize] = ShareTag([0; _]);
        if let Some(share) = conversation.shares.get_mut(&id) {
            (share.theirs, share.asking, share.answering, share.synced) = (None, None, None, false);
            (share.theirs_holding, share.told) = (None, None);
            share.parked.clear();
            share.pulled.clear();
            share.spread = Spread::new();
            self.company += 1;
        }
    }

    pub(super) fn on_parked(&mut self, session: SessionId, channel: ChannelRef, key: KeyRef) {
        let Some((id, share)) = self.resolve(session, channel) else { return };
        if share.parked.len() >= MAX_PARKED {
            self.bad(session, "too many logs parked");
            return;
        }
        let Some((key, _)) = self.channels.get(&id).and_then(|held| held.by_ref(&key)) else { return };
        let key = *key;
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        conversation.outgoing.retain(|(of, log, _), _| !(*of == id && *log == key));
        if let Some(share) = conversation.shares.get_mut(&id) {
            share.parked.insert(key);
        }
    }

    pub(super) fn on_paused(&mut self, session: SessionId, paused: bool) {
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        conversation.peer_paused = paused || (conversation.peer_paused && mutant!(PauseForever));
        if paused {
            // What is lacking shows again in a comparison.
            conversation.outgoing.clear();
        } else {
            self.news(session, None);
        }
    }
}
