//! Frames and packets from others.
//!
//! A frame is believed when its tag holds and its number is new. It is a sign of life when, besides, an answer to an own
//! nonce tied the pair to the present.

use bytes::Bytes;

use super::auth::{Arrival, Envelope, Outer, PairKeys, Received, Sender};
use super::config::FrameAuth;
use super::engine::{Effect, KNOWN_AFTER, SwimEngine};
use super::member::{Index, Member, Status};
use super::probing::held;
use super::statement::Incarnation;
use super::wire::{Body, Nonce, Packet, ShortId, Update};
use crate::domain::id::NodeId;
use crate::domain::link::PeerAddr;

impl SwimEngine {
    pub(super) fn frame(&mut self, frame: &[u8], from: Option<PeerAddr>) {
        self.stats.frames_in += 1;
        self.stats.bytes_in += frame.len() as u64;
        if self.config.auth != FrameAuth::PairKey {
            self.stats.forged += 1;
            return;
        }
        match Outer::decode(frame) {
            Err(_) => self.stats.malformed += 1,
            Ok(Outer::Meet(node, nonce)) => self.greeted(node, nonce, from),
            Ok(Outer::Sealed(envelope)) => self.sealed(envelope, frame, from),
        }
    }

    fn sealed(&mut self, envelope: Envelope<'_>, frame: &[u8], from: Option<PeerAddr>) {
        let index = match envelope.sender {
            Sender::Full(node) if node == self.own => {
                self.stats.own_id_claimed += 1;
                return;
            }
            Sender::Short(short) => match self.table.find_short(short) {
                Some(index) => index,
                None => {
                    self.stats.unknown_senders += 1;
                    return;
                }
            },
            Sender::Full(node) => match self.table.find(&node) {
                Some(index) => index,
                None => return self.stranger(node, envelope, frame, from),
            },
        };
        if self.ensure_keys(index).is_none() {
            self.stats.forged += 1;
            return;
        }
        let Some(member) = self.table.get_mut(index) else { return };
        if !member.keys.as_ref().is_some_and(|keys| keys.opens(frame)) {
            self.stats.forged += 1;
            return;
        }
        match member.received.take(envelope.epoch, envelope.counter) {
            Arrival::New => {}
            Arrival::Repeated => {
                self.stats.repeated += 1;
                return;
            }
            Arrival::Stale(epoch) => {
                self.stats.repeated += 1;
                // Or it lost its store, or somebody copied it: then it has to learn where it was, where it is.
                if self.allowances.stale.take(self.now) {
                    let (body, mut answer) = (Body::Stale { epoch }, Vec::with_capacity(64));
                    if self.begin(index, true, &mut answer).is_some() {
                        body.encode(self.incarnation, &mut answer);
                        self.finish(index, from, answer, body.kind());
                    }
                }
                return;
            }
        }
        let heard_at = from.is_some();
        if heard_at {
            // The identity is the key: wherever it moves, it stays the same member.
            member.address = from;
        }
        self.opened(index, envelope.packet, heard_at);
    }

    /// An authentic frame of somebody who is not known: it becomes a member that has to show that it is there.
    fn stranger(&mut self, node: NodeId, envelope: Envelope<'_>, frame: &[u8], from: Option<PeerAddr>) {
        if !self.allowances.strangers.take(self.now) {
            self.stats.strangers_deferred += 1;
            return;
        }
        let keys = PairKeys::derive(&self.identity, &self.config.group, &node);
        let Some(keys) = keys.filter(|keys| keys.opens(frame)) else {
            self.stats.forged += 1;
            return;
        };
        let mut member = Member::new(node, Status::Joining, self.now);
        let (mut received, heard_at) = (Received::default(), from.is_some());
        let _ = received.take(envelope.epoch, envelope.counter);
        (member.keys, member.received, member.address) = (Some(Box::new(keys)), received, from);
        if let Some(index) = self.admit(member) {
            self.opened(index, envelope.packet, heard_at);
        }
    }

    pub(super) fn proven_packet(&mut self, peer: NodeId, packet: &Bytes) {
        self.stats.frames_in += 1;
        self.stats.bytes_in += packet.len() as u64;
        if peer == self.own || self.config.auth != FrameAuth::Caller {
            self.stats.forged += 1;
            return;
        }
        let found = self.table.find(&peer);
        let index = found.or_else(|| self.admit(Member::new(peer, Status::Joining, self.now)));
        let Some(index) = index else { return };
        if let Some(member) = self.table.get_mut(index) {
            member.received.fresh = true;
        }
        self.opened(index, packet, true);
    }

    /// `heard_at`: the transport knows where it came from, or need not.
    fn opened(&mut self, index: Index, packet: &[u8], heard_at: bool) {
        let Ok(Packet { incarnation, body, updates }) = Packet::decode(packet) else {
            self.stats.malformed += 1;
            return;
        };
        self.stats.received[body.kind() as usize] += 1;
        let answers = match &body {
            Body::Ack { nonce, .. } => self.is_answer(index, *nonce) || self.is_welcomed(index, *nonce),
            Body::Welcome { meet, .. } => self.is_met(index, *meet),
            _ => false,
        };
        let Some(member) = self.table.get_mut(index) else { return };
        let node = member.node;
        // What a session delivers is never from the past: even a late answer shows that this node is known.
        let answers = answers || (self.config.auth == FrameAuth::Caller && matches!(body, Body::Ack { .. }));
        if answers {
            (member.received.fresh, member.knows_us, member.doubted) = (true, true, false);
        }
        let fresh = member.received.fresh;
        self.effects.push(Effect::Received(node, body.kind()));
        let paged = matches!(body, Body::Page { .. });
        let mut news = 0;
        for update in updates {
            news += usize::from(match update {
                Update::Statement(statement, hint) => {
                    if statement.node == node && !heard_at {
                        self.says_where(index, hint.clone(), fresh);
                    }
                    self.stated(statement, hint, !paged)
                }
                Update::Metadata(metadata) => self.told(metadata, !paged),
                // Also from a frame of unknown age: all that it can do is make this node look for itself.
                Update::Accusation(accusation) => {
                    self.accused(accusation);
                    false
                }
            });
        }
        if fresh {
            self.heard(index, incarnation);
        } else if self.table.get(index).is_some_and(|member| !member.is_up()) {
            // Authentic, but perhaps old: it may show that it is there.
            self.knock(index);
        }
        self.act(index, incarnation, body, fresh, news);
    }

    /// A member says itself where it can be reached, and the transport does not know better. A frame of unknown age only
    /// fills a gap.
    fn says_where(&mut self, index: Index, hint: Option<PeerAddr>, fresh: bool) {
        let Some(member) = self.table.get_mut(index) else { return };
        if hint.is_some() && (fresh || member.address.is_none()) {
            member.address = hint;
        }
    }

    fn act(&mut self, index: Index, incarnation: Incarnation, body: Body, fresh: bool, news: usize) {
        match body {
            Body::Ping { nonce, held } => {
                self.answer(index, incarnation, nonce);
                self.held_by_other(held, fresh);
            }
            Body::Ack { held, .. } => self.held_by_other(held, fresh),
            Body::PingReq { nonce, subject } => self.asked_to_relay(index, nonce, subject),
            Body::RelayPing { nonce, origin } => self.answer_relayed(index, nonce, origin),
            Body::RelayAck { nonce, origin, proof } => {
                self.relay_answered(index, incarnation, nonce, origin, proof);
            }
            Body::IndirectAck { nonce, subject, incarnation, proof } => {
                self.indirect_answer(nonce, subject, incarnation, proof);
            }
            Body::Nack { nonce } => self.nacked(nonce),
            Body::Gossip => {}
            Body::Digest { buckets } => self.compared(index, &buckets, fresh),
            Body::Page { want } => self.paged(index, want, fresh, news),
            Body::Stale { epoch } => self.behind(index, epoch),
            Body::Welcome { nonce, .. } => self.welcomed(index, nonce),
        }
    }

    /// Answers a ping. Who seems not to know its own past is shown its own word.
    fn answer(&mut self, index: Index, theirs: Incarnation, nonce: Nonce) {
        let mut news = self.introduction(index);
        let Some(member) = self.table.get(index) else { return };
        if let Some(said) = member.statement
            && (said.incarnation > theirs || (said.left && said.incarnation == theirs))
        {
            news.push(Update::Statement(said, None));
        }
        let held = held(member.status, member.incarnation);
        self.send(index, Body::Ack { nonce, held }, &news);
    }

    fn answer_relayed(&mut self, helper: Index, nonce: Nonce, origin: NodeId) {
        if origin == self.own {
            return;
        }
        let known = self.table.find(&origin);
        let keys = match known {
            Some(index) => {
                let _ = self.ensure_keys(index);
                self.table.get(index).and_then(|member| member.keys.clone())
            }
            // A helper vouches for nobody: keys for strangers are derived at their pace.
            None if self.allowances.strangers.take(self.now) => {
                PairKeys::derive(&self.identity, &self.config.group, &origin).map(Box::new)
            }
            None => {
                self.stats.strangers_deferred += 1;
                None
            }
        };
        let Some(keys) = keys else { return };
        let proof = keys.prove(nonce, self.incarnation);
        self.send(helper, Body::RelayAck { nonce, origin: ShortId::from(&origin), proof }, &[]);
    }

    /// Somebody says that it does not hold this node alive.
    fn held_by_other(&mut self, held: Option<Incarnation>, fresh: bool) {
        match held {
            Some(incarnation) if fresh => self.deny(incarnation),
            _ => {}
        }
    }

    /// A sign of life that is authentic and of now.
    pub(super) fn heard(&mut self, index: Index, incarnation: Incarnation) {
        let now = self.now;
        let Some(member) = self.table.get_mut(index) else { return };
        if member.status == Status::Left && incarnation <= member.incarnation {
            // It said goodbye in this life; what it is told in answers makes it raise its incarnation.
            return;
        }
        let status = member.status;
        member.heard = now;
        self.known_from.get_or_insert(now + KNOWN_AFTER);
        let compares = std::mem::take(&mut member.compares);
        if !member.verified {
            member.verified = true;
            if member.in_ring {
                member.in_ring = false;
                self.rings[1].remove(index);
                self.place_in_ring(index);
            }
        }
        let Some(member) = self.table.get_mut(index) else { return };
        if incarnation > member.incarnation {
            member.incarnation = incarnation;
        }
        if member.probe.is_some() {
            self.probe_answered(index);
        }
        match status {
            Status::Alive => {}
            Status::Suspect => {
                self.end_suspicion(index);
                self.set_status(index, Status::Alive);
            }
            Status::Joining | Status::Unreachable | Status::Left => self.came_back(index, status),
        }
        if compares {
            self.send_digest(index);
        }
    }

    /// A member is up that was not.
    pub(super) fn came_back(&mut self, index: Index, before: Status) {
        self.stop_knocking(index);
        self.queue.acquit(index);
        self.set_status(index, Status::Alive);
        match before {
            Status::Unreachable => {
                self.returned(index);
                self.wave();
            }
            Status::Joining => self.pass_on(index),
            _ => {}
        }
    }
}
