//! Getting to know: greetings to addresses, seeds, and coming back after total isolation.
//!
//! A greeting proves nothing and costs its receiver one key derivation, at a bounded pace. Its answer proves the receiver;
//! the answer to that proves the greeter. Then both exchange their state.

use std::time::Duration;

use super::auth::{PairKeys, Sender, TAG_BYTES, meet_frame, put_envelope};
use super::config::FrameAuth;
use super::engine::{Effect, SwimEngine, Timer};
use super::member::{Index, Member, Status};
use super::wire::{Body, Kind, Nonce, Update};
use crate::domain::id::NodeId;
use crate::domain::link::PeerAddr;
use crate::domain::time::Instant;

/// First wait for the answer to a greeting; doubles.
const GREETING_WAIT: Duration = Duration::from_millis(500);
/// Greetings to one address before it counts as not answering.
const GREETINGS: u32 = 5;
/// First wait between two rounds of seeds; grows by half each time.
const FIRST_JOIN: Duration = Duration::from_secs(1);
/// Seeds greeted at a time.
const SEEDS_AT_ONCE: usize = 2;
/// Addresses being met at a time, seeds included; and greetings answered but not yet confirmed.
const MAX_MEETINGS: usize = 256;

/// An address that is being met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meeting {
    address: PeerAddr,
    tries: u32,
    due: Instant,
    seed: bool,
}

impl SwimEngine {
    pub(super) fn meet(&mut self, address: PeerAddr) {
        if self.config.auth == FrameAuth::Caller || self.meetings.len() >= MAX_MEETINGS {
            self.effects.push(Effect::MeetFailed(address));
            return;
        }
        self.greet(address, false);
    }

    fn greet(&mut self, address: PeerAddr, seed: bool) {
        let nonce = self.nonce();
        self.meetings.insert(nonce, Meeting { address, tries: 0, due: self.now, seed });
        self.greet_again(nonce);
    }

    pub(super) fn greet_again(&mut self, nonce: Nonce) {
        let most = self.meetings.get(&nonce).map_or(0, |meeting| if meeting.seed { 1 } else { GREETINGS });
        let Some(meeting) = self.meetings.get_mut(&nonce) else { return };
        if meeting.tries >= most {
            if let Some(meeting) = self.meetings.remove(&nonce)
                && !meeting.seed
            {
                self.effects.push(Effect::MeetFailed(meeting.address));
            }
            return;
        }
        meeting.due = self.now + GREETING_WAIT * (1 << meeting.tries) * if meeting.seed { 4 } else { 1 };
        meeting.tries += 1;
        let (due, address) = (meeting.due, meeting.address.clone());
        self.arm(due, Timer::Meet(nonce));
        let frame = meet_frame(&self.own, nonce);
        self.stats.frames_out += 1;
        self.stats.bytes_out += frame.len() as u64;
        self.stats.sent[Kind::Meet as usize] += 1;
        self.effects.push(Effect::Greet(address, frame.into()));
    }

    pub(super) fn join(&mut self, seeds: Vec<PeerAddr>) {
        self.seeds = seeds;
        self.seeds.truncate(MAX_MEETINGS);
        if let Some((at, _)) = self.join.take() {
            self.disarm(at, Timer::Join);
        }
        if !self.seeds.is_empty() {
            self.join = Some((self.now, FIRST_JOIN));
            self.arm(self.now, Timer::Join);
        }
    }

    /// Nobody is left: the seeds are asked again, soon.
    pub(super) fn join_soon(&mut self) {
        if let Some((at, _)) = self.join.take() {
            self.disarm(at, Timer::Join);
            let at = self.now + self.dice.within(FIRST_JOIN);
            self.join = Some((at, FIRST_JOIN));
            self.arm(at, Timer::Join);
        }
    }

    /// Greets seeds while nobody answers; else, rarely, one that is not among those who do: it may lead to another part of
    /// the group.
    pub(super) fn join_round(&mut self) {
        let Some((_, wait)) = self.join else { return };
        let alone = self.table.up() == 0;
        let missing: Vec<PeerAddr> = match alone {
            true => self.seeds.clone(),
            false => {
                let up = |seed: &PeerAddr| {
                    self.table
                        .iter()
                        .any(|(_, member)| member.is_up() && member.address.as_ref() == Some(seed))
                };
                self.seeds.iter().filter(|seed| !up(seed)).cloned().collect()
            }
        };
        let several = if alone { SEEDS_AT_ONCE } else { 1 };
        let start = self.dice.below(missing.len());
        for step in 0..several.min(missing.len()) {
            if self.meetings.len() < MAX_MEETINGS && self.config.auth == FrameAuth::PairKey {
                self.greet(missing[(start + step) % missing.len()].clone(), true);
            }
        }
        let longest = self.config.join_interval_max.max(FIRST_JOIN);
        let next = if alone { wait } else { longest };
        let at = self.now + self.dice.jittered(next);
        self.join = Some((at, (wait + wait / 2).min(longest)));
        self.arm(at, Timer::Join);
    }

    /// Somebody greets: whoever it is, it gets a proof of this node at the address that it wrote from, or on the link if
    /// the transport knows no address.
    pub(super) fn greeted(&mut self, node: NodeId, nonce: Nonce, from: Option<PeerAddr>) {
        if node == self.own {
            self.stats.own_id_claimed += 1;
            return;
        }
        if !self.allowances.strangers.take(self.now) {
            self.stats.strangers_deferred += 1;
            return;
        }
        self.stats.received[Kind::Meet as usize] += 1;
        let answer = self.nonce();
        if self.welcomes.len() >= MAX_MEETINGS {
            self.welcomes.pop_front();
        }
        self.welcomes.push_back((answer, node));
        let body = Body::Welcome { meet: nonce, nonce: answer };
        let mut frame = Vec::with_capacity(224);
        if let Some(index) = self.table.find(&node) {
            // The full form: whoever greets may have forgotten this node.
            if self.begin(index, true, &mut frame).is_some() {
                body.encode(self.incarnation, &mut frame);
                self.finish(index, from, frame, Kind::Welcome);
            }
            return;
        }
        let Some(keys) = PairKeys::derive(&self.identity, &self.config.group, &node) else { return };
        // Number 0 is for this: a member's frames begin at 1.
        put_envelope(&mut frame, Sender::Full(self.own), self.epoch(), 0);
        body.encode(self.incarnation, &mut frame);
        debug_assert!(frame.len() + TAG_BYTES <= super::auth::MEET_BYTES);
        keys.seal(&mut frame);
        self.emit(node, from, frame, Kind::Welcome);
    }

    /// Whether a frame answers a greeting of this node.
    pub(super) fn is_met(&mut self, index: Index, nonce: Nonce) -> bool {
        let Some(meeting) = self.meetings.remove(&nonce) else { return false };
        self.disarm(meeting.due, Timer::Meet(nonce));
        let Some(member) = self.table.get_mut(index) else { return false };
        member.address = Some(meeting.address.clone());
        let node = member.node;
        self.effects.push(Effect::Met(meeting.address, node));
        true
    }

    /// Whether an answer confirms a greeting that this node answered.
    pub(super) fn is_welcomed(&mut self, index: Index, nonce: Nonce) -> bool {
        let Some(node) = self.table.get(index).map(|member| member.node) else { return false };
        let found = self.welcomes.iter().position(|welcome| *welcome == (nonce, node));
        found.is_some_and(|place| self.welcomes.remove(place).is_some())
    }

    /// This node was welcomed: it proves itself, and compares its state.
    pub(super) fn welcomed(&mut self, index: Index, nonce: Nonce) {
        if let Some(member) = self.table.get_mut(index) {
            // It has no record of this node perhaps.
            (member.knows_us, member.doubted) = (false, true);
        }
        let news = [self.own_update()];
        self.send(index, Body::Ack { nonce, held: None }, &news);
        self.send_digest(index);
        self.sync_within(self.now, Duration::from_secs(1));
    }

    /// A session stands: whoever is there is heard, and gets this node's own word, once what the session was made for had
    /// its turn.
    pub(super) fn connected(&mut self, node: NodeId) {
        if node == self.own {
            return;
        }
        let found = self.table.find(&node);
        let index = found.or_else(|| self.admit(Member::new(node, Status::Joining, self.now)));
        let Some(index) = index else { return };
        let Some(member) = self.table.get_mut(index) else { return };
        member.introduced = true;
        let known = member.incarnation;
        self.heard(index, known);
        let half = self.config.base_interval() / 2;
        let at = self.now + half + self.dice.within(half);
        self.arm(at, Timer::Welcome(index));
    }

    /// Greets a member with which a session stands: the own word, and what the state of the group looks like from here.
    pub(super) fn welcome(&mut self, index: Index) {
        self.tell_own(index);
        if self.config.learn_peers {
            self.send_digest(index);
        }
    }

    /// Says to one member what this node says of itself.
    pub(super) fn tell_own(&mut self, index: Index) {
        let own = self.own_update();
        self.send(index, Body::Gossip, &[own]);
        if let Some(metadata) = self.metadata.clone() {
            self.send(index, Body::Gossip, &[Update::Metadata(metadata)]);
        }
    }

    /// A member takes frames of this node only above an epoch: this node lost its memory.
    pub(super) fn behind(&mut self, index: Index, epoch: u64) {
        if let Some(member) = self.table.get_mut(index) {
            member.epoch = member.epoch.max(epoch.saturating_add(1));
        }
    }
}
