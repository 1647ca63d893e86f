//! The safety net: digests of the whole state, and what differs in full.
//!
//! A digest costs 128 bytes whatever the size of the group. Parts that differ travel as pages of updates, so no state is too
//! large for a frame; what exceeds the budget of one exchange follows in the next.

use std::time::Duration;

use super::auth::TAG_BYTES;
use super::engine::{SwimEngine, Timer};
use super::member::{Index, Status, bucket};
use super::news::SETTLING;
use super::wire::{BUCKETS, Body, Kind, Update};

/// Longest wait for the next exchange after one that brought news.
pub(super) const SOON: Duration = Duration::from_secs(1);

impl SwimEngine {
    pub(super) fn sync_round(&mut self) {
        let interval = self.dice.jittered(self.config.sync_interval * self.stretch());
        self.sync = self.now + interval;
        self.arm(self.sync, Timer::Sync);
        if self.settling > 0 {
            self.settling -= 1;
            self.sync_within(self.now, SETTLING);
        }
        if self.table.up() == 0 || !self.config.learn_peers {
            return;
        }
        let from = self.dice.below(self.table.places());
        let fresh = self.table.pick(from, |_, member| member.status == Status::Alive && member.verified);
        if let Some(index) = fresh {
            self.send_digest(index);
        }
    }

    pub(super) fn send_digest(&mut self, index: Index) {
        let buckets = self.buckets();
        self.send(index, Body::Digest { buckets }, &[]);
    }

    /// Moves the next exchange up.
    pub(super) fn sync_within(&mut self, now: crate::domain::time::Instant, within: Duration) {
        let at = now + within / 2 + self.dice.within(within / 2);
        if at < self.sync {
            self.disarm(self.sync, Timer::Sync);
            self.sync = at;
            self.arm(at, Timer::Sync);
        }
    }

    /// Somebody's digest: what differs is sent, and asked for.
    pub(super) fn compared(&mut self, index: Index, theirs: &[u32; BUCKETS], fresh: bool) {
        if !self.config.learn_peers {
            // Third parties are not spoken of, so the two states need not agree.
            return;
        }
        let own = self.buckets();
        let differing = (0..BUCKETS).filter(|part| own[*part] != theirs[*part]);
        let differing = differing.fold(0u32, |mask, part| mask | 1 << part);
        if differing == 0 {
            self.sync_wait = SOON;
            return;
        }
        self.unsettled(0);
        if !fresh {
            // State goes to those that are there: nobody is flooded in another's name. Once it showed that, it is
            // asked to compare the other way round.
            if let Some(member) = self.table.get_mut(index) {
                member.compares = true;
                self.knock(index);
            }
            return;
        }
        if !self.allowances.pages.take(self.now) {
            return;
        }
        self.send_state(index, differing, differing);
    }

    /// A page: what it said is taken already.
    pub(super) fn paged(&mut self, index: Index, want: u32, fresh: bool, news: usize) {
        if want != 0 && fresh && self.config.learn_peers && self.allowances.pages.take(self.now) {
            self.send_state(index, want, 0);
        }
        self.unsettled(news);
    }

    /// States differ: the next exchange comes soon, and ever less soon while exchanges bring nothing.
    fn unsettled(&mut self, news: usize) {
        if news > 0 {
            self.sync_wait = SOON;
        }
        if self.now + self.sync_wait < self.sync {
            self.sync_within(self.now, self.sync_wait);
            self.sync_wait = (self.sync_wait * 2).min(self.config.sync_interval);
        }
    }

    /// Sends the state of some parts, as far as the budget goes, from a random place on.
    fn send_state(&mut self, to: Index, parts: u32, want: u32) {
        let wanted = |node: &crate::domain::id::NodeId| parts & (1 << bucket(node)) != 0;
        let mut updates = Vec::new();
        if wanted(&self.own) {
            updates.push((self.own_update(), self.metadata.clone()));
        }
        let places = self.table.places();
        let start = self.dice.below(places);
        for step in 0..places {
            let index = Index(((start + step) % places) as u32);
            let Some(member) = self.table.get(index) else { continue };
            if index == to || !wanted(&member.node) || !(member.is_up() || member.status == Status::Left) {
                continue;
            }
            let Some(said) = member.statement else { continue };
            let metadata = member.metadata.as_ref().map(|(signed, _)| signed.clone());
            updates.push((Update::Statement(said, member.address.clone()), metadata));
        }
        let mut budget = self.config.sync_bytes;
        let mut page = Vec::new();
        let mut want = Some(want);
        let room = self.config.max_frame.saturating_sub(TAG_BYTES + 64);
        for (statement, metadata) in updates {
            for update in std::iter::once(statement).chain(metadata.map(Update::Metadata)) {
                let before = page.len();
                update.encode(&mut page);
                if page.len() > room && before > 0 {
                    let rest = page.split_off(before);
                    budget = budget.saturating_sub(before);
                    self.send_page(to, want.take().unwrap_or(0), &page);
                    page = rest;
                }
            }
            if budget == 0 {
                break;
            }
        }
        if !page.is_empty() || want.is_some_and(|want| want != 0) {
            self.send_page(to, want.unwrap_or(0), &page);
        }
    }

    fn send_page(&mut self, to: Index, want: u32, updates: &[u8]) {
        let mut frame = Vec::with_capacity(updates.len() + 96);
        if self.begin(to, false, &mut frame).is_none() {
            return;
        }
        Body::Page { want }.encode(self.incarnation, &mut frame);
        frame.extend_from_slice(updates);
        self.finish(to, None, frame, Kind::Sync);
    }
}
