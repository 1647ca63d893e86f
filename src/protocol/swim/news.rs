//! What nodes say about themselves, and the records kept of them.
//!
//! Signed words win by incarnation, whoever brings them. Records are bounded in number and age; of those forgotten, the
//! incarnation is remembered for a while, so that old news brings nobody back.

use std::time::Duration;

use super::dissemination::Topic;
use super::engine::{Effect, SwimEngine};
use super::member::{Index, Member, Status};
use super::metadata::{Metadata, SignedMetadata};
use super::statement::{Incarnation, Statement};
use super::wire::Update;
use crate::domain::id::NodeId;
use crate::domain::link::PeerAddr;
use crate::domain::time::Instant;

/// Longest wait for the next exchange of digests after a node was heard of that was not known.
pub(super) const SETTLING: Duration = Duration::from_secs(3);
/// Such exchanges after the last one: with others, for those who were compared with may lack the same (with one, a tenth of
/// all restarts of 200 nodes left somebody out until the next regular exchange).
const SETTLING_ROUNDS: u8 = 3;
/// How long a record of a node is kept that was never heard here.
const HEARSAY_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Forgotten nodes whose incarnation is remembered.
const MAX_GRAVES: usize = 4096;

impl SwimEngine {
    /// A node's word about itself; whether it was news.
    pub(super) fn stated(&mut self, said: Statement, hint: Option<PeerAddr>, relay: bool) -> bool {
        if said.node == self.own {
            self.own_word(said);
            return false;
        }
        match self.table.find(&said.node) {
            Some(index) => self.said_again(index, said, hint, relay),
            None => self.said_first(said, hint, relay),
        }
    }

    /// The own word came back. One that is newer than the present is from a life that was forgotten, or from a copy.
    fn own_word(&mut self, said: Statement) {
        if said.rank() <= self.statement.rank() || self.now < self.denied {
            return;
        }
        if !said.holds(&self.identity, &self.config.group) {
            self.stats.bad_signatures += 1;
            return;
        }
        self.stats.own_identity_seen += 1;
        self.denied = self.now + Duration::from_millis(500);
        self.rise_above(said.incarnation);
    }

    fn said_first(&mut self, said: Statement, hint: Option<PeerAddr>, relay: bool) -> bool {
        let buried = self.graves.get(&said.node).is_some_and(|(last, _)| said.incarnation <= *last);
        if said.left || !self.config.learn_peers || self.ignored.contains(&said.node) {
            return false;
        }
        if buried {
            self.stats.members_refused += 1;
            return false;
        }
        if !said.holds(&self.identity, &self.config.group) {
            self.stats.bad_signatures += 1;
            return false;
        }
        let mut member = Member::new(said.node, Status::Alive, self.now);
        (member.incarnation, member.statement) = (said.incarnation, Some(said));
        member.address = hint.clone();
        let Some(index) = self.admit(member) else { return false };
        // Where one joins others do, and rumours miss a few.
        self.settling = SETTLING_ROUNDS;
        self.sync_within(self.now, SETTLING);
        if relay && self.allowances.hearsay.take(self.now) {
            self.spread(Topic::Statement(Some(index)), &Update::Statement(said, hint));
        }
        true
    }

    fn said_again(&mut self, index: Index, said: Statement, hint: Option<PeerAddr>, relay: bool) -> bool {
        let Some(member) = self.table.get(index) else { return false };
        let rank = member.statement.as_ref().map(Statement::rank);
        if rank.is_some_and(|rank| said.rank() <= rank) || said.incarnation < member.incarnation {
            return false;
        }
        if !said.holds(&self.identity, &self.config.group) {
            self.stats.bad_signatures += 1;
            return false;
        }
        let (status, risen) = (member.status, said.incarnation > member.incarnation);
        self.table.update(index, |member| {
            (member.incarnation, member.statement) = (said.incarnation, Some(said));
            if member.address.is_none() {
                member.address = hint.clone();
            }
        });
        if said.left {
            self.end_suspicion(index);
            self.abandon_probe(index);
            self.stop_knocking(index);
            self.queue.acquit(index);
            self.set_status(index, Status::Left);
            self.bury_beyond_limit();
        } else if risen {
            self.queue.acquit(index);
            match status {
                Status::Alive => {}
                Status::Suspect => {
                    self.end_suspicion(index);
                    self.set_status(index, Status::Alive);
                }
                Status::Joining => {}
                Status::Unreachable | Status::Left => self.came_back(index, status),
            }
        }
        let hint = self.table.get(index).and_then(|member| member.address.clone());
        if relay && self.config.learn_peers {
            self.spread(Topic::Statement(Some(index)), &Update::Statement(said, hint));
        }
        true
    }

    /// A member that joined here is made known to others.
    pub(super) fn pass_on(&mut self, index: Index) {
        if !self.config.learn_peers {
            return;
        }
        let Some(member) = self.table.get(index) else { return };
        let Some(said) = member.statement else { return };
        let hint = member.address.clone();
        self.spread(Topic::Statement(Some(index)), &Update::Statement(said, hint));
    }

    /// Metadata of a node; whether it was news.
    pub(super) fn told(&mut self, told: SignedMetadata, relay: bool) -> bool {
        if told.node == self.own {
            let held = self.metadata.as_ref().map_or(0, |metadata| metadata.version);
            if told.version > held.max(self.incarnation.0) && told.holds(&self.identity, &self.config.group) {
                self.stats.own_identity_seen += 1;
                self.rise_above(Incarnation(told.version));
            }
            return false;
        }
        let Some(index) = self.table.find(&told.node) else { return false };
        if self.table.get(index).is_none_or(|member| told.version <= member.metadata_version()) {
            return false;
        }
        if !told.holds(&self.identity, &self.config.group) {
            self.stats.bad_signatures += 1;
            return false;
        }
        let Ok(metadata) = Metadata::decode(&told.bytes) else {
            self.stats.malformed += 1;
            return false;
        };
        if relay && self.config.learn_peers {
            self.spread(Topic::Metadata(Some(index)), &Update::Metadata(told.clone()));
        }
        self.effects.push(Effect::Metadata(told.node));
        self.table.update(index, |member| member.metadata = Some((told, metadata.into())));
        true
    }

    /// Takes a new member in, if there is room or somebody less useful to forget.
    pub(super) fn admit(&mut self, member: Member) -> Option<Index> {
        if self.table.len() >= self.config.max_members {
            let unheard = |(_, member): &(Index, &Member)| !member.is_up() && !member.verified;
            let found = self.table.iter().find(unheard).map(|(index, _)| index);
            match found.or_else(|| self.oldest_gone()) {
                Some(index) => self.forget(index),
                None => {
                    self.stats.members_refused += 1;
                    return None;
                }
            }
        }
        let (node, status, incarnation) = (member.node, member.status, member.incarnation);
        let Some(index) = self.table.insert(member) else {
            self.stats.members_refused += 1;
            return None;
        };
        self.effects.push(Effect::Changed { node, old: None, new: Some(status), incarnation });
        self.place_in_ring(index);
        if status == Status::Joining {
            self.schedule_knock(index);
        }
        Some(index)
    }

    /// Forgets a member, but for the incarnation in which it was last seen.
    pub(super) fn forget(&mut self, index: Index) {
        self.end_suspicion(index);
        self.abandon_probe(index);
        self.stop_knocking(index);
        self.queue.forget(index);
        if let Some(member) = self.table.get(index)
            && member.in_ring
        {
            let ring = usize::from(!member.verified);
            self.rings[ring].remove(index);
        }
        let Some(member) = self.table.remove(index) else { return };
        self.stats.members_forgotten += 1;
        if self.graves.len() >= MAX_GRAVES {
            let oldest = self.graves.iter().min_by_key(|(_, (_, when))| *when).map(|(node, _)| *node);
            if let Some(oldest) = oldest {
                self.graves.remove(&oldest);
            }
        }
        self.graves.insert(member.node, (member.incarnation, self.now));
        let (node, incarnation) = (member.node, member.incarnation);
        self.effects.push(Effect::Changed { node, old: Some(member.status), new: None, incarnation });
    }

    /// Forgets a member that is of no interest. Its record stays out, whoever speaks of it.
    pub(super) fn ignore(&mut self, node: NodeId) {
        if let Some(index) = self.table.find(&node) {
            self.forget(index);
            self.graves.remove(&node);
        }
        if self.ignored.len() >= MAX_GRAVES {
            // It costs a look at each of them once more.
            self.ignored.clear();
        }
        self.ignored.insert(node);
    }

    /// Forgets the oldest records of gone members beyond their limit.
    pub(super) fn bury_beyond_limit(&mut self) {
        while self.table.gone() > self.config.max_gone {
            match self.oldest_gone() {
                Some(index) => self.forget(index),
                None => return,
            }
        }
    }

    fn oldest_gone(&self) -> Option<Index> {
        let gone = self.table.iter().filter(|(_, member)| !member.is_up());
        gone.min_by_key(|(_, member)| (member.verified, member.since)).map(|(index, _)| index)
    }

    /// Forgets what is too old.
    pub(super) fn sweep(&mut self) {
        let (config, now) = (&self.config, self.now);
        let too_old = |member: &Member| {
            let age = now.since(member.since);
            match member.status {
                Status::Alive | Status::Suspect => false,
                Status::Left => age > config.left_retention,
                _ if member.verified || member.introduced => age > config.unreachable_retention,
                _ => age > HEARSAY_RETENTION,
            }
        };
        let old: Vec<Index> =
            self.table.iter().filter(|(_, member)| too_old(member)).map(|(index, _)| index).collect();
        for index in old {
            self.forget(index);
        }
        let retention = self.config.left_retention;
        self.graves.retain(|_, (_, when): &mut (Incarnation, Instant)| now.since(*when) <= retention);
    }

    /// The application knows a node from elsewhere.
    pub(super) fn introduce(&mut self, node: NodeId, address: Option<PeerAddr>, incarnation: Incarnation) {
        if node == self.own {
            return;
        }
        let index = match self.table.find(&node) {
            Some(index) => index,
            None => {
                let mut member = Member::new(node, Status::Joining, self.now);
                (member.incarnation, member.address, member.introduced) =
                    (incarnation, address.clone(), true);
                let Some(index) = self.admit(member) else { return };
                self.stop_knocking(index);
                self.knock(index);
                index
            }
        };
        if let Some(member) = self.table.get_mut(index) {
            member.introduced = true;
            member.address = address.or(member.address.take());
        }
    }
}
