//! Links: sessions on them, probes, and what waits for room.
//!
//! Moves frames between ports and sessions, and messages between sessions and the gossip engine. Decides who is
//! accepted as a peer. Never looks into a message. Called by the driver.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::liveness::SWIM_DATAGRAM;
use super::{Loop, NodeState};
use crate::application::config::AcceptPeers;
use crate::application::driver::meets::MeetId;
use crate::application::ports::{LinkId, PortError, PortEvent, Priority, SendError};
use crate::domain::event::{Event, Fault};
use crate::domain::id::NodeId;
use crate::domain::time::Instant;
use crate::protocol::agenda::HasDeadline;
use crate::protocol::gossip::{Input, SessionId};
use crate::protocol::session::{CloseReason, Lane, PeerReason, Session, SessionConfig, SessionEvent};
use crate::protocol::swim::{Input as SwimInput, Probe, Prober};

/// A link, and the port it belongs to.
pub(super) type LinkKey = (usize, LinkId);

/// Bytes of messages that may wait for a lane, besides what the session itself holds: a peer that asks and does
/// not read is hung up on.
const MAX_BACKLOG: usize = 8 << 20;
/// What surrounds the largest payload in a message: the log's name, the heads, the packing.
const MESSAGE_ROOM: usize = 1 << 20;
/// How long a link may stay after its session ended, so that the farewell arrives before the end of the link.
const LINGER: Duration = Duration::from_millis(500);
/// First byte of a probe's datagram.
const PROBE: u8 = 1;
/// First byte of the answer to a probe.
const PROBE_ANSWER: u8 = 2;

/// One link and the session on it.
pub(super) struct LinkState {
    pub(super) id: SessionId,
    session: Session,
    pub(super) peer: Option<NodeId>,
    prober: Option<Prober>,
    probe_interval: Duration,
    /// How long the link may be silent, as last asked.
    patience: Duration,
    /// A frame that the port had no room for.
    held: Option<(Bytes, Priority)>,
    /// Messages that a lane had no room for, per lane.
    backlog: [VecDeque<Bytes>; 2],
    backlog_bytes: usize,
    /// The session is over for the engines; the link is dropped then, so that the farewell may leave.
    linger: Option<Instant>,
    pub(super) meet: Option<MeetId>,
    dialed: bool,
    counted: (u64, u64, u64, u64, u64),
    /// When the liveness engine was last told that something came.
    pub(super) told: Instant,
}

impl HasDeadline for LinkState {
    fn next_deadline(&mut self) -> Option<Instant> {
        let probe =
            self.prober.as_ref().map(|prober| prober.next_deadline(self.patience, self.probe_interval));
        match self.linger {
            Some(until) => Some(until),
            None => [self.session.next_deadline(), probe].into_iter().flatten().min(),
        }
    }
}

impl LinkState {
    /// Something was sent that a healthy peer answers at once.
    pub(super) fn asked(&mut self, now: Instant) {
        if let Some(prober) = &mut self.prober {
            prober.asked(now);
        }
    }

    pub(super) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    pub(super) fn max_datagram(&self) -> usize {
        self.session.max_datagram()
    }

    /// Sends a datagram that may be lost; one that fits by [`max_datagram`](Self::max_datagram).
    pub(super) fn send_datagram(&mut self, datagram: Bytes) {
        let _ = self.session.send_datagram(datagram);
    }
}

impl Loop {
    pub(super) fn port_event(&mut self, index: usize, event: Result<PortEvent, PortError>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return self.port_failed(index, &error),
        };
        match event {
            PortEvent::Up { link, proven, dialed } => self.link_up((index, link), proven, dialed),
            PortEvent::Frame { link, frame } => self.frame((index, link), frame),
            PortEvent::Writable { link } => {
                // What waits for room leaves at the end of the turn.
                self.links.get_mut(&(index, link));
            }
            PortEvent::Down { link, reason } => self.link_down((index, link), &reason),
        }
    }

    fn port_failed(&mut self, index: usize, error: &PortError) {
        self.ports[index] = None;
        if !matches!(error, PortError::Closed) {
            self.replica.notices.fault(Fault::Transport(error.to_string().into()));
        }
        let links: Vec<LinkKey> = self.links.keys().filter(|(port, _)| *port == index).copied().collect();
        for key in links {
            self.link_down(key, "the transport failed");
        }
    }

    fn link_up(&mut self, key: LinkKey, proven: Option<NodeId>, dialed: bool) {
        let Some(port) = self.ports[key.0].clone() else { return };
        let half_open = self
            .links
            .values()
            .filter(|link| link.peer.is_none() && !link.dialed && link.linger.is_none())
            .count();
        if *self.state.borrow() == NodeState::Stopped
            || (!dialed && half_open >= self.replica.config.max_half_open)
        {
            port.disconnect(key.1);
            return;
        }
        let id = SessionId(self.next_session);
        self.next_session += 1;
        let config = SessionConfig {
            max_message: self.replica.config.max_payload + MESSAGE_ROOM,
            ..SessionConfig::default()
        };
        let seed = self.derive_seed(id);
        let identity = self.replica.identity.clone();
        let session = Session::new(config, identity, port.profile(), proven, dialed, seed, self.now);
        let meet = self.meets.iter().find(|(_, meet)| meet.link == Some(key)).map(|(id, _)| *id);
        let state = LinkState {
            id,
            session,
            peer: None,
            prober: None,
            probe_interval: self.replica.config.probe_interval,
            patience: self.replica.config.probe_interval,
            held: None,
            backlog: [VecDeque::new(), VecDeque::new()],
            backlog_bytes: 0,
            linger: None,
            meet,
            dialed,
            counted: (0, 0, 0, 0, 0),
            told: Instant::ZERO,
        };
        self.links.insert(key, state);
        self.sessions.insert(id, key);
    }

    fn derive_seed(&self, id: SessionId) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.seed);
        hasher.update(b"session");
        hasher.update(&id.0.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    fn frame(&mut self, key: LinkKey, frame: Bytes) {
        let counters = &self.replica.notices.counters;
        counters.frames_received.add(1);
        counters.bytes_received.add(frame.len() as u64);
        let Some(link) = self.links.get_mut(&key) else {
            counters.frames_stray.add(1);
            return;
        };
        if link.linger.is_some() {
            return;
        }
        let before = link.session.stats().dropped_total();
        let mut events = Vec::new();
        link.session.handle_frame(frame, self.now, &mut events);
        let bad = link.session.stats().dropped_total() - before;
        counters.frames_bad.add(bad);
        if bad == 0
            && let Some(prober) = &mut link.prober
        {
            prober.heard(self.now);
        }
        self.session_events(key, events);
        if bad == 0 {
            // After what the frame says, so that an answer is still awaited when it is looked at.
            self.swim_heard(key);
        }
    }

    /// Gossip that came at once is handed on at once, so that its signatures are checked together.
    fn session_events(&mut self, key: LinkKey, events: Vec<SessionEvent>) {
        let mut events = events.into_iter().peekable();
        while let Some(event) = events.next() {
            let Some(link) = self.links.get_mut(&key) else { return };
            let id = link.id;
            match event {
                // The end of the session follows.
                SessionEvent::Established { peer, .. } if peer == self.replica.node() => {}
                SessionEvent::Established { peer, binding } => self.established(key, peer, binding),
                SessionEvent::Message { lane, message } => match Self::swim_message(&message) {
                    Some(packet) => self.swim_packet(key, packet),
                    None => {
                        let mut messages = vec![(lane, message)];
                        while let Some(SessionEvent::Message { lane, message }) =
                            events.next_if(Self::is_gossip)
                        {
                            messages.push((lane, message));
                        }
                        self.feed(Input::Messages(id, messages));
                    }
                },
                SessionEvent::Datagram(datagram) => self.datagram(key, &datagram),
                SessionEvent::Room(lane) => self.drain_backlog(key, lane),
                SessionEvent::Fault(fault) => {
                    let peer = link.peer;
                    let reason = fault.to_string();
                    let report = || Fault::BadFrame { peer, reason: reason.as_str().into() };
                    self.replica.notices.fault_once(&reason, peer, report);
                }
                SessionEvent::Closed(reason) => self.session_closed(key, reason),
            }
        }
    }

    fn is_gossip(event: &SessionEvent) -> bool {
        matches!(event, SessionEvent::Message { message, .. } if Self::swim_message(message).is_none())
    }

    fn established(&mut self, key: LinkKey, peer: NodeId, binding: [u8; 32]) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&key) else { return };
        if let Some(old) = link.peer.take() {
            // The node at the other end restarted: this is a new session on the same link.
            let gone = std::mem::replace(&mut link.id, SessionId(self.next_session));
            self.next_session += 1;
            let id = link.id;
            (link.backlog, link.backlog_bytes) = ([VecDeque::new(), VecDeque::new()], 0);
            self.sessions.remove(&gone);
            self.sessions.insert(id, key);
            self.feed(Input::SessionDown(gone));
            self.peers.update(&old, |metrics| metrics.sessions = metrics.sessions.saturating_sub(1));
        }
        let Some(link) = self.links.get_mut(&key) else { return };
        // Asked for by the application, or the lost peer that was dialled again, and not who lives there now.
        let meet = link.meet.and_then(|id| self.meets.get(&id));
        let met = meet.is_some_and(|meet| meet.expected.is_none_or(|expected| expected == peer));
        let wanted = met || self.peers.contains(&peer);
        let accepted = wanted
            || match self.replica.config.accept_peers {
                AcceptPeers::Anyone => true,
                AcceptPeers::Known => false,
                AcceptPeers::Members => {
                    self.replica.channels().iter().any(|channel| channel.state().admission.admits(&peer))
                }
            };
        if !accepted {
            self.replica.notices.counters.strangers_refused.add(1);
            self.replica.notices.fault_once("stranger", Some(peer), || Fault::StrangerRefused(peer));
            return self.hang_up(key, CloseReason::NotAccepted);
        }
        let (id, max_message) = (link.id, link.session.max_message());
        link.peer = Some(peer);
        link.prober = Some(Prober::new(now));
        let address = self.meet_done(key, peer);
        self.note_peer(peer, address);
        self.replica.notices.counters.sessions.add(1);
        let mut sessions = 0;
        self.peers.update(&peer, |metrics| {
            metrics.sessions += 1;
            metrics.last_heard = Some(now);
            sessions = metrics.sessions;
        });
        if sessions == 1 {
            self.replica.notices.event(Event::PeerReachable(peer, true));
        }
        self.dials.reached(&peer);
        self.swim_session(peer);
        self.feed(Input::SessionUp { session: id, peer, binding, max_message });
        self.drop_duplicates(key, peer);
    }

    /// Of several sessions between two nodes one stays: the node with the smaller id keeps the newest.
    fn drop_duplicates(&mut self, newest: LinkKey, peer: NodeId) {
        if self.replica.node() > peer {
            return;
        }
        let others: Vec<LinkKey> = self
            .links
            .iter()
            .filter(|(key, link)| **key != newest && link.peer == Some(peer) && link.linger.is_none())
            .map(|(key, _)| *key)
            .collect();
        for key in others {
            self.hang_up(key, CloseReason::Redundant);
        }
    }

    pub(super) fn note_peer(&mut self, peer: NodeId, address: Option<crate::application::ports::PeerAddr>) {
        let noted = self.peers.note(peer, address);
        if noted.changed {
            self.keep_peer(&peer);
        }
        if noted.new {
            self.replica.notices.event(Event::PeerAdded(peer));
        }
        if let Some(dropped) = noted.dropped {
            self.swim(SwimInput::Forget(dropped));
            self.dials.reached(&dropped);
            self.keep_peer(&dropped);
            self.replica.notices.event(Event::PeerRemoved(dropped));
        }
    }

    fn session_closed(&mut self, key: LinkKey, reason: CloseReason) {
        let Some(link) = self.links.get(&key) else { return };
        if link.peer.is_none() {
            self.replica.notices.counters.sessions_failed.add(1);
        }
        let quiet = matches!(
            reason,
            CloseReason::Leaving
                | CloseReason::Redundant
                | CloseReason::NotAccepted
                | CloseReason::ByPeer(PeerReason::Leaving | PeerReason::Redundant)
        );
        if !quiet {
            let (peer, text) = (link.peer, format!("{reason:?}"));
            let report = || Fault::SessionFailed { peer, reason: text.as_str().into() };
            self.replica.notices.fault_once(&text, peer, report);
        }
        self.meet_failed(key, reason);
        self.drop_link(key);
    }

    pub(super) fn link_down(&mut self, key: LinkKey, reason: &str) {
        self.part(key, reason);
        self.links.remove(&key);
    }

    /// Takes a link away from engines and peers; it may linger to say goodbye.
    fn part(&mut self, key: LinkKey, reason: &str) {
        self.meet_lost(key, reason);
        let Some(link) = self.links.get_mut(&key) else { return };
        (link.backlog, link.prober) = ([VecDeque::new(), VecDeque::new()], None);
        let (id, peer, dialed) = (link.id, link.peer.take(), link.dialed);
        self.sessions.remove(&id);
        let Some(peer) = peer else { return };
        self.feed(Input::SessionDown(id));
        let mut left = 0;
        self.peers.update(&peer, |metrics| {
            metrics.sessions = metrics.sessions.saturating_sub(1);
            left = metrics.sessions;
        });
        if left == 0 {
            self.replica.notices.event(Event::PeerReachable(peer, false));
            let redials = self.ports[key.0].as_ref().is_some_and(|port| port.profile().redials);
            self.redial(peer, redials && dialed);
            self.perhaps_alone();
        }
    }

    /// Ends the session on a link and says so; the link is dropped when the other side does, or soon.
    pub(super) fn hang_up(&mut self, key: LinkKey, reason: CloseReason) {
        let until = self.now + LINGER;
        let Some(link) = self.links.get_mut(&key) else { return };
        link.session.close(reason);
        link.linger = Some(until);
        self.part(key, "hung up");
        self.transmit(key);
    }

    fn drop_link(&mut self, key: LinkKey) {
        if let Some(port) = &self.ports[key.0] {
            port.disconnect(key.1);
        }
        self.link_down(key, "dropped");
    }

    pub(super) fn hang_up_all(&mut self) {
        let links: Vec<LinkKey> = self.links.keys().copied().collect();
        for key in links {
            self.hang_up(key, CloseReason::Leaving);
        }
        self.dials.clear();
    }

    pub(super) fn drop_session(&mut self, session: SessionId, reason: &'static str) {
        let Some(key) = self.sessions.get(&session).copied() else { return };
        let peer = self.links.get(&key).and_then(|link| link.peer);
        let report = || Fault::SessionFailed { peer, reason: Arc::from(reason) };
        self.replica.notices.fault_once(reason, peer, report);
        self.hang_up(key, CloseReason::Violation);
    }

    /// Queues a message on a lane of a session.
    pub(super) fn send(&mut self, session: SessionId, lane: Lane, message: Bytes) {
        let Some(key) = self.sessions.get(&session).copied() else { return };
        let Some(link) = self.links.get_mut(&key) else { return };
        link.asked(self.now);
        let backlog = &mut link.backlog[lane as usize];
        let refused = match backlog.is_empty() {
            true => link.session.send(lane, message).err().map(|full| full.0),
            false => Some(message),
        };
        if let Some(message) = refused {
            link.backlog_bytes += message.len();
            backlog.push_back(message);
            // What the window allows may wait besides, and one message of the largest size.
            let config = &self.replica.config;
            if link.backlog_bytes > MAX_BACKLOG + config.transfer_window + config.max_payload {
                self.drop_session(session, "the peer does not read what it asked for");
            }
        }
    }

    fn drain_backlog(&mut self, key: LinkKey, lane: Lane) {
        let Some(link) = self.links.get_mut(&key) else { return };
        while let Some(message) = link.backlog[lane as usize].pop_front() {
            let len = message.len();
            if let Err(full) = link.session.send(lane, message) {
                link.backlog[lane as usize].push_front(full.0);
                return;
            }
            link.backlog_bytes -= len;
        }
    }

    fn datagram(&mut self, key: LinkKey, datagram: &[u8]) {
        let Some(link) = self.links.get_mut(&key) else { return };
        match datagram {
            [PROBE, number @ ..] if number.len() <= 8 => {
                let answer: Bytes = [&[PROBE_ANSWER], number].concat().into();
                // Eight bytes fit any frame.
                let _ = link.session.send_datagram(answer);
            }
            [PROBE_ANSWER, ..] => {}
            [SWIM_DATAGRAM, packet @ ..] => {
                let packet = Bytes::copy_from_slice(packet);
                self.swim_packet(key, packet);
            }
            _ => self.replica.notices.counters.messages_bad.add(1),
        }
    }

    pub(super) fn link_deadlines(&mut self) {
        for key in self.links.overdue(self.now) {
            let Some(link) = self.links.get_mut(&key) else { continue };
            if let Some(until) = link.linger {
                if until <= self.now {
                    self.drop_link(key);
                }
                continue;
            }
            if link.session.next_deadline().is_some_and(|due| due <= self.now) {
                let mut events = Vec::new();
                link.session.handle_timeout(self.now, &mut events);
                self.session_events(key, events);
            }
            let patience = self.link_patience(self.links.get(&key).and_then(|link| link.peer.as_ref()));
            let Some(link) = self.links.get_mut(&key) else { continue };
            let config = &self.replica.config;
            link.patience = patience;
            let Some(prober) = &mut link.prober else { continue };
            match prober.poll(self.now, patience, config.probe_interval, config.probe_failures) {
                Probe::Nothing => {}
                Probe::Send(number) => {
                    let probe: Bytes = [&[PROBE][..], &number.to_le_bytes()].concat().into();
                    let _ = link.session.send_datagram(probe);
                }
                Probe::Lost => self.hang_up(key, CloseReason::Timeout),
            }
        }
    }

    /// Sends what those sessions have to send that something happened to: nothing else gives one something to say.
    pub(super) fn flush(&mut self) {
        let mut keys: SmallVec<[LinkKey; 8]> = self.links.touched().collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().for_each(|key| self.transmit(key));
    }

    fn transmit(&mut self, key: LinkKey) {
        let Some(port) = self.ports[key.0].clone() else { return };
        let Some(link) = self.links.get_mut(&key) else { return };
        let counters = &self.replica.notices.counters;
        while let Some((frame, priority)) = link.held.take().or_else(|| link.session.poll_transmit(self.now))
        {
            let len = frame.len() as u64;
            match port.try_send(key.1, frame.clone(), priority) {
                Ok(()) => {
                    counters.frames_sent.add(1);
                    counters.bytes_sent.add(len);
                }
                Err(SendError::Full) => {
                    link.held = Some((frame, priority));
                    break;
                }
                // `Down` follows, or the port is gone; a frame that is too large is a fault of the port's profile.
                Err(_) => {
                    counters.frames_refused_by_port.add(1);
                    break;
                }
            }
        }
        if let Some(peer) = link.peer {
            let stats = link.session.stats();
            let now =
                (stats.frames_in, stats.frames_out, stats.bytes_in, stats.bytes_out, stats.retransmitted);
            let before = std::mem::replace(&mut link.counted, now);
            if before != now {
                let (rtt, heard) = (link.session.rtt(), now.0 > before.0);
                self.peers.update(&peer, |metrics| {
                    metrics.frames_in += now.0 - before.0;
                    metrics.frames_out += now.1 - before.1;
                    metrics.bytes_in += now.2 - before.2;
                    metrics.bytes_out += now.3 - before.3;
                    metrics.retransmitted += now.4 - before.4;
                    metrics.rtt = rtt;
                    if heard {
                        metrics.last_heard = Some(self.now);
                    }
                });
            }
        }
    }

    pub(super) fn forget(&mut self, node: &NodeId) {
        let links: Vec<LinkKey> =
            self.links.iter().filter(|(_, link)| link.peer == Some(*node)).map(|(key, _)| *key).collect();
        self.dials.reached(node);
        for key in links {
            self.hang_up(key, CloseReason::Leaving);
        }
        self.dials.reached(node);
        self.swim(SwimInput::Forget(*node));
        if self.peers.remove(node) {
            self.keep_peer(node);
            self.replica.notices.event(Event::PeerRemoved(*node));
        }
    }
}

/// How soon a port that redials by itself is helped.
pub(super) const REDIAL_GRACE: Duration = Duration::from_secs(10);
