//! Meetings: connecting to addresses, on request and again after a peer was lost.
//!
//! Never believes an address: who is there is what the session proves. Called by the driver.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt as _;
use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::links::{LinkKey, REDIAL_GRACE};
use super::{Done, Loop, MEET_TIMEOUT, MeetError, NodeState};
use crate::application::ports::{LinkId, PeerAddr, PortError};
use crate::domain::id::NodeId;
use crate::domain::time::Instant;
use crate::protocol::session::CloseReason;
use crate::protocol::swim::{Incarnation, Input};

/// First wait before a lost peer is dialled again; doubles up to the configured longest.
const REDIAL_FIRST: Duration = Duration::from_millis(500);

/// Lost or learned peers that are dialled at a time.
const MAX_DIALS: usize = 64;

/// Seeds kept: more than any group has ways in.
const MAX_SEEDS: usize = 64;

/// Numbers meetings. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MeetId(u64);

/// An address on its way to becoming a session.
pub(super) struct Meet {
    address: PeerAddr,
    /// The link, once the port made it.
    pub(super) link: Option<LinkKey>,
    pub(super) until: Instant,
    /// Who is expected there, if a lost peer is dialled again.
    pub(super) expected: Option<NodeId>,
    reply: Option<oneshot::Sender<Result<NodeId, MeetError>>>,
}

impl Meet {
    pub(super) fn fail(self, error: MeetError) {
        if let Some(reply) = self.reply {
            // Whoever asked may have given up.
            let _ = reply.send(Err(error));
        }
    }
}

/// Peers to be dialled again.
#[derive(Debug, Default)]
pub(super) struct Dials(BTreeMap<NodeId, Dial>);

#[derive(Debug)]
struct Dial {
    next: Instant,
    wait: Duration,
    under_way: bool,
}

impl Dials {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.room() == 0 {
            // The end of one of those under way comes first.
            return None;
        }
        self.0.values().filter(|dial| !dial.under_way).map(|dial| dial.next).min()
    }

    /// How many more may be under way.
    fn room(&self) -> usize {
        MAX_DIALS.saturating_sub(self.0.values().filter(|dial| dial.under_way).count())
    }

    pub(super) fn reached(&mut self, peer: &NodeId) {
        self.0.remove(peer);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Addresses that lead to the group, tried while nobody answers.
#[derive(Debug, Default)]
pub(super) struct Seeds {
    addresses: Vec<PeerAddr>,
    next: Option<Instant>,
    wait: Duration,
}

impl Seeds {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.next
    }

    /// The next try comes at `at`, if there is anything to try.
    pub(super) fn hasten(&mut self, at: Instant) {
        self.next = self.next.map(|next| next.min(at));
        self.wait = REDIAL_FIRST;
    }
}

impl Loop {
    /// Tries these addresses, now and whenever nobody answers, for ever.
    pub(super) fn join(&mut self, mut seeds: Vec<PeerAddr>) {
        seeds.truncate(MAX_SEEDS);
        let next = (!seeds.is_empty()).then_some(self.now);
        self.seeds = Seeds { addresses: seeds, next, wait: REDIAL_FIRST };
    }

    fn seed_deadline(&mut self) {
        if self.seeds.next.is_none_or(|next| next > self.now) {
            return;
        }
        let longest = self.replica.config.redial_interval_max;
        if self.sessions_stand() || *self.state.borrow() == NodeState::Stopped {
            // No haste before the next isolation or start.
            self.seeds.wait = longest;
        }
        if *self.state.borrow() != NodeState::Stopped {
            // Among others, a seed that is none of them may lead to another part of the group.
            let met: BTreeSet<PeerAddr> = self.reachable_addresses().into_iter().collect();
            for address in self.seeds.addresses.clone() {
                if !met.contains(&address) && !self.meets.values().any(|meet| meet.address == address) {
                    self.start_meet(address, None, None);
                }
            }
        }
        let wait = self.jittered(self.seeds.wait, &self.replica.node());
        self.seeds.next = Some(self.now + wait);
        self.seeds.wait = (self.seeds.wait * 2).min(longest);
    }

    fn sessions_stand(&self) -> bool {
        self.links.values().any(|link| link.peer.is_some())
    }

    fn reachable_addresses(&self) -> Vec<PeerAddr> {
        let peers = self.peers.list().into_iter().filter(|peer| peer.reachable);
        peers.flat_map(|peer| peer.addresses).collect()
    }

    /// A session ended: if it was the last, the seeds are tried soon.
    pub(super) fn perhaps_alone(&mut self) {
        if !self.sessions_stand() {
            self.seeds.hasten(self.now + REDIAL_FIRST);
        }
    }

    /// Dials a peer that seems to be there, soon: its address was just learned, or others hear it.
    pub(super) fn dial_soon(&mut self, peer: NodeId) {
        if *self.state.borrow() == NodeState::Stopped || self.address_of(&peer).is_none() {
            return;
        }
        let next = self.now + self.jittered(REDIAL_FIRST, &peer);
        let dial = self.dials.0.entry(peer).or_insert(Dial { next, wait: REDIAL_FIRST, under_way: false });
        (dial.next, dial.wait) = (dial.next.min(next), REDIAL_FIRST);
    }

    /// The network is back, perhaps: all lost peers are dialled soon, whatever they waited for.
    pub(super) fn hasten_dials(&mut self) {
        let peers: Vec<NodeId> = self.dials.0.keys().copied().collect();
        for peer in peers {
            self.dial_soon(peer);
        }
    }

    /// Where a peer was met, or else said to be.
    fn address_of(&self, peer: &NodeId) -> Option<PeerAddr> {
        let met = self.peers.get(peer).and_then(|peer| peer.addresses.first().cloned());
        met.or_else(|| self.swim.member(peer)?.address)
    }

    /// Makes all peers known to the liveness engine.
    pub(super) fn swim_known(&mut self) {
        for peer in self.peers.list() {
            let address = peer.addresses.first().cloned();
            self.swim(Input::Introduce(peer.node, address, Incarnation(peer.incarnation)));
        }
    }

    pub(super) fn meet(
        &mut self,
        address: PeerAddr,
        reply: Option<oneshot::Sender<Result<NodeId, MeetError>>>,
    ) {
        self.start_meet(address, None, reply);
    }

    fn start_meet(
        &mut self,
        address: PeerAddr,
        expected: Option<NodeId>,
        reply: Option<oneshot::Sender<Result<NodeId, MeetError>>>,
    ) {
        let meet = Meet { address, link: None, until: self.now + MEET_TIMEOUT, expected, reply };
        if *self.state.borrow() == NodeState::Stopped {
            return meet.fail(MeetError::Stopped);
        }
        let id = MeetId(self.next_meet);
        self.next_meet += 1;
        let address = meet.address.clone();
        self.meets.insert(id, meet);
        self.try_port(id, address, 0);
    }

    /// Connects through the first port, from `first` on, that is still open.
    fn try_port(&mut self, id: MeetId, address: PeerAddr, first: usize) {
        let next = self.ports.iter().enumerate().skip(first).find_map(|(at, port)| Some((at, port.clone()?)));
        let Some((at, port)) = next else {
            let error = MeetError::NoPort(address);
            return self.meet_over(id, Err(error));
        };
        let span = tracing::debug_span!(target: "anabranch::meet", "connect", %address);
        self.work.push(
            async move { Done::Connected { meet: id, port: at, result: port.connect(&address).await } }
                .instrument(span)
                .boxed(),
        );
    }

    pub(super) fn connected(&mut self, id: MeetId, port: usize, result: Result<LinkId, PortError>) {
        let Some(meet) = self.meets.get_mut(&id) else { return };
        match result {
            Ok(link) => {
                let key = (port, link);
                meet.link = Some(key);
                // The link may have come up, stood, and even gone, before this was heard.
                if let Some(state) = self.links.get_mut(&key) {
                    state.meet = Some(id);
                    if let Some(peer) = state.peer {
                        let address = self.meet_done(key, peer);
                        self.note_peer(peer, address);
                    }
                }
            }
            Err(PortError::BadAddress(address)) => self.try_port(id, address, port + 1),
            Err(error) => self.meet_over(id, Err(error.into())),
        }
    }

    /// A session stands on the link; the address that led there, if a meeting did.
    pub(super) fn meet_done(&mut self, key: LinkKey, peer: NodeId) -> Option<PeerAddr> {
        let id = *self.meets.iter().find(|(_, meet)| meet.link == Some(key))?.0;
        let address = self.meets.get(&id)?.address.clone();
        self.meet_over(id, Ok(peer));
        Some(address)
    }

    pub(super) fn meet_failed(&mut self, key: LinkKey, reason: CloseReason) {
        let error = match reason {
            CloseReason::OwnNode => MeetError::Oneself,
            reason => MeetError::Session(format!("{reason:?}").into()),
        };
        self.fail_on(key, error);
    }

    pub(super) fn meet_lost(&mut self, key: LinkKey, reason: &str) {
        self.fail_on(key, MeetError::Session(reason.into()));
    }

    fn fail_on(&mut self, key: LinkKey, error: MeetError) {
        let id = self.meets.iter().find(|(_, meet)| meet.link == Some(key)).map(|(id, _)| *id);
        if let Some(id) = id {
            self.meet_over(id, Err(error));
        }
    }

    fn meet_over(&mut self, id: MeetId, result: Result<NodeId, MeetError>) {
        let Some(mut meet) = self.meets.remove(&id) else { return };
        if let Some(reply) = meet.reply.take() {
            // Whoever asked may have given up.
            let _ = reply.send(result.clone());
        }
        if let Some(expected) = meet.expected
            && result.as_ref().ok() != Some(&expected)
        {
            self.back_off(expected);
        }
    }

    pub(super) fn meet_deadlines(&mut self) {
        self.seed_deadline();
        let late: Vec<MeetId> =
            self.meets.iter().filter(|(_, meet)| meet.until <= self.now).map(|(id, _)| *id).collect();
        for id in late {
            self.meet_over(id, Err(MeetError::Session(Arc::from("no answer in time"))));
        }
        let due: Vec<NodeId> = self
            .dials
            .0
            .iter()
            .filter(|(_, dial)| !dial.under_way && dial.next <= self.now)
            .map(|(peer, _)| *peer)
            .take(self.dials.room())
            .collect();
        for peer in due {
            let Some(address) = self.address_of(&peer) else {
                self.dials.reached(&peer);
                continue;
            };
            if let Some(dial) = self.dials.0.get_mut(&peer) {
                dial.under_way = true;
            }
            self.start_meet(address, Some(peer), None);
        }
    }

    /// Dials every peer whose address is known, soon.
    pub(super) fn dial_known(&mut self) {
        for (peer, addresses) in self.peers.addresses() {
            if !addresses.is_empty() {
                let dial = Dial { next: self.now, wait: REDIAL_FIRST, under_way: false };
                self.dials.0.entry(peer).or_insert(dial);
            }
        }
    }

    /// A peer was lost: dial it again, later if its port does so by itself.
    pub(super) fn redial(&mut self, peer: NodeId, port_redials: bool) {
        if *self.state.borrow() == NodeState::Stopped {
            return;
        }
        if self.address_of(&peer).is_some() && !mutant!(RedialLost) {
            let wait = if port_redials { REDIAL_GRACE } else { REDIAL_FIRST };
            let next = self.now + self.jittered(wait, &peer);
            let dial = Dial { next, wait: REDIAL_FIRST, under_way: false };
            self.dials.0.insert(peer, dial);
        }
    }

    fn back_off(&mut self, peer: NodeId) {
        let longest = self.replica.config.redial_interval_max;
        let Some(dial) = self.dials.0.get_mut(&peer) else { return };
        dial.under_way = false;
        dial.wait = (dial.wait * 2).min(longest);
        let wait = dial.wait;
        let next = self.now + self.jittered(wait, &peer);
        if let Some(dial) = self.dials.0.get_mut(&peer) {
            dial.next = next;
        }
    }

    /// `wait` give or take a quarter, so that dialling does not fall into step with whatever else is periodic.
    fn jittered(&self, wait: Duration, peer: &NodeId) -> Duration {
        let mut hasher = blake3::Hasher::new_keyed(&self.seed);
        hasher.update(b"redial");
        hasher.update(peer.as_bytes());
        hasher.update(&self.next_meet.to_le_bytes());
        let share = hasher.finalize().as_bytes()[0];
        wait * 3 / 4 + wait / 2 * u32::from(share) / 255
    }
}
