//! What nodes say in passing: eight bytes of all that is held of a channel, beside fresh entries and their
//! acknowledgements, so that nodes which push to each other need no comparisons to know that they hold the same.
//!
//! A *holding* is a sum over the digests of all logs, shortened under a key of the session. It costs a few bytes in
//! frames that leave anyhow, and nobody answers it: whoever holds the same knows then that both do. While nothing
//! changes, the two sides say it in turn instead of comparing. It never says what differs, and it is no proof: the
//! sum is cheap, and whoever writes entries for the purpose could make two sums meet. So it only puts comparisons
//! off, by [`JUDGED_WITHIN`] at most, and the fingerprint judges. Part of the gossip engine.

use std::time::Duration;

use super::conversation::Share;
use super::engine::{Count, Effect, GossipEngine, HeldChannel, SessionId};
use crate::domain::id::ChannelId;
use crate::protocol::wire::{ChannelRef, Marker, Message, Why};

/// Holdings stand in for comparisons for so long, or for [`JUDGED_AFTER`] intervals where those are long.
const JUDGED_WITHIN: Duration = Duration::from_secs(60);
/// See [`JUDGED_WITHIN`].
const JUDGED_AFTER: u32 = 8;
/// How soon a difference is looked into that is not explained by entries under way.
const UNEXPLAINED: Duration = Duration::from_millis(40);

impl GossipEngine {
    /// Tells the peer what we hold, unless it was told just this.
    pub(super) fn say_holding(&mut self, session: SessionId, id: &ChannelId) {
        if let Some((channel, sum)) = self.untold_holding(session, id) {
            self.control(session, &Message::Holding { channel, sum, why: Why::Passing });
        }
    }

    /// What the peer is to be told that we hold, unless it was told just this. It counts as told.
    pub(super) fn untold_holding(
        &mut self,
        session: SessionId,
        id: &ChannelId,
    ) -> Option<(ChannelRef, [u8; 8])> {
        let changes = self.channels.get(id)?.changes;
        self.share_mut(session, id).filter(|share| share.told != Some(changes))?;
        let (told, changes) = self.holding(session, id)?;
        self.share_mut(session, id)?.told = Some(changes);
        Some(told)
    }

    /// Says what we hold instead of comparing, if nothing changed since both sides held the same and a comparison
    /// showed it lately. Whether that was done.
    pub(super) fn say_calmly(&mut self, session: SessionId, id: &ChannelId) -> bool {
        let Some(conversation) = self.conversations.get(&session) else { return false };
        let common = self.common(conversation.peer, *id);
        let Some(share) = conversation.shares.get(id) else { return false };
        let is_fresh = self.now < judged_until(share);
        if !(share.synced && is_fresh) {
            return false;
        }
        let Some(((channel, sum), changes)) = self.holding(session, id) else { return false };
        if common != Some(changes) {
            return false;
        }
        let interval = (share.interval * 3 / 2).min(self.config.interval_max);
        // The next time it is the peer's turn.
        let next = self.now + self.jittered(interval * 2);
        if let Some(share) = self.share_mut(session, id) {
            (share.interval, share.told) = (interval, Some(changes));
            share.next_compare = next.min(judged_until(share));
        }
        self.effects.push(Effect::Count(Count::Compared));
        self.control(session, &Message::Holding { channel, sum, why: Why::Calm });
        true
    }

    /// Says what we hold, and wants to hear the same, where that is likely: something changed, and the peer is to have
    /// it by now. Whether that was done; a comparison follows if nothing comes.
    pub(super) fn sound(&mut self, session: SessionId, id: &ChannelId) -> bool {
        let Some(share) = self.conversations.get(&session).and_then(|to| to.shares.get(id)) else {
            return false;
        };
        if !share.explained || share.sounded || share.synced || self.now >= judged_until(share) {
            return false;
        }
        let Some(((channel, sum), changes)) = self.holding(session, id) else { return false };
        let next = self.now + self.jittered(self.config.interval);
        if let Some(share) = self.share_mut(session, id) {
            (share.sounded, share.told, share.next_compare) = (true, Some(changes), next);
        }
        self.effects.push(Effect::Count(Count::Compared));
        self.control(session, &Message::Holding { channel, sum, why: Why::Asking });
        true
    }

    /// What stands for all that we hold, with how we refer to the channel, as of our count of changes.
    fn holding(&self, session: SessionId, id: &ChannelId) -> Option<((ChannelRef, [u8; 8]), u64)> {
        let (conversation, held) = (self.conversations.get(&session)?, self.channels.get(id)?);
        let share = conversation.shares.get(id).filter(|share| share.is_active() && share.compared)?;
        let sum = held.short_sum(id, share, &conversation.marker);
        Some(((share.ours?, sum), held.changes))
    }

    pub(super) fn on_holding(&mut self, session: SessionId, channel: ChannelRef, sum: [u8; 8], why: Why) {
        let Some((id, share)) = self.resolve(session, channel) else { return };
        // What a first comparison is for, this does not decide.
        if !share.is_active() || !share.compared {
            return;
        }
        let delay = if why == Why::Calm { UNEXPLAINED } else { self.config.interval };
        let next = self.now + self.jittered(delay);
        if let Some(share) = self.share_mut(session, &id) {
            share.theirs_holding = Some(sum);
            if share.asking.is_none() {
                share.next_compare = share.next_compare.min(next);
            }
        }
        if self.settle_holding(session, &id) {
            if why == Why::Asking {
                self.say_holding(session, &id);
            }
        } else if let Some(share) = self.share_mut(session, &id) {
            share.synced = false;
        }
    }

    /// What we hold of a channel changed: peers may have said that they hold just this.
    pub(super) fn settle_holdings(&mut self, id: &ChannelId) {
        let says = |share: &Share| share.theirs_holding.is_some();
        let told = self.conversations.iter().filter(|(_, to)| to.shares.get(id).is_some_and(says));
        let told: Vec<SessionId> = told.map(|(session, _)| *session).collect();
        for session in told {
            self.settle_holding(session, id);
        }
    }

    /// Whether we hold what the peer said that it holds.
    fn settle_holding(&mut self, session: SessionId, id: &ChannelId) -> bool {
        let (Some(conversation), Some(held)) = (self.conversations.get_mut(&session), self.channels.get(id))
        else {
            return false;
        };
        let marker = conversation.marker.clone();
        let Some(share) = conversation.shares.get_mut(id) else { return false };
        if share.theirs_holding != Some(held.short_sum(id, share, &marker)) {
            return false;
        }
        share.theirs_holding = None;
        share.spread.forget_notes();
        let (changes, judged_until) = (held.changes, judged_until(share));
        self.effects.push(Effect::Count(Count::Equal));
        self.mark_synced(session, *id, changes);
        if let Some(share) = self.share_mut(session, id) {
            share.next_compare = share.next_compare.min(judged_until);
        }
        self.confirm_own_logs(session, id);
        true
    }
}

/// Until when holdings may stand in for comparisons.
fn judged_until(share: &Share) -> crate::domain::time::Instant {
    share.judged + JUDGED_WITHIN.max(share.interval * JUDGED_AFTER)
}

impl HeldChannel {
    /// All logs that hold an entry, but for those left out in `share`, as the two ends of a session name it.
    fn short_sum(&self, id: &ChannelId, share: &Share, marker: &Marker) -> [u8; 8] {
        let parked = share.parked.iter().filter_map(|key| self.logs.get(key)?.digest);
        let (sum, logs) = parked.fold((self.sum, self.filled), |(sum, logs), digest| {
            (sum.wrapping_sub(digest.wide()), logs.wrapping_sub(1))
        });
        marker.holding(id, sum, logs)
    }
}
