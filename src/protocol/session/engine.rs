//! The session itself: roles and timers of the handshake, then frames between keys and delivery.
//!
//! One state machine, kept in one file: every input is a short method, and what they share is the phase.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::handshake::{
    ANSWER, Agreed, Answered, FINISH, FINISH_OVERHEAD, GREETING, Greeting, GreetingNonce, GreetingStage,
    INITIATE, Noise, Offer, REFERENCE, TIMING, draw, greeting_binding,
};
use super::protect::{DATA, PLAIN, Protection, SEALED, kind_of};
use super::{
    CloseReason, DatagramTooLarge, LaneFull, SessionConfig, SessionEvent, SessionFault, SessionStats,
};
use crate::domain::id::NodeId;
use crate::domain::identity::Identity;
use crate::domain::link::{MIN_FRAME_BYTES, PortProfile, Priority};
use crate::domain::time::Instant;
use crate::protocol::delivery::{Arrived, Delivery, Lane, Limits, Refused};

/// A handshake message goes out again after this time on a lossy link; then the pause doubles.
const FIRST_RESEND: Duration = Duration::from_millis(200);
/// The longest pause between two handshake messages: 20 tries in 10 s pass a link that loses half.
const LAST_RESEND: Duration = Duration::from_millis(500);
/// The pause on a link that promises to lose nothing: the other side may have come to life later.
const RELIABLE_RESEND: Duration = Duration::from_secs(2);
/// A side that did not dial begins by itself after this time and up to as much again.
const PATIENCE: Duration = Duration::from_millis(300);
/// Handshake messages of the peer that cost public-key operations: so many at once (a guess) …
const HANDSHAKE_BURST: u32 = 16;
/// … and one more per this time.
const HANDSHAKE_REFILL: Duration = Duration::from_millis(50);
/// Handshake frames that wait to be sent; a further one is not queued, for it is repeated anyway.
const MAX_OUTBOX: usize = 4;
/// Smallest window: less would not fill a frame.
const MIN_WINDOW: usize = 4096;
/// Largest finish in bytes: what does not fit follows in sealed frames. A finish is repeated whole while it is not heard.
const MAX_FINISH: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Resend {
    at: Instant,
    pause: Duration,
}

#[derive(Debug)]
enum Phase {
    /// Did not dial: begins at this time if the other side does not.
    Waiting {
        begin: Instant,
    },
    /// Sent the first message `first`, frame and all.
    Initiating {
        first: [u8; 32],
        frame: Bytes,
        resend: Resend,
    },
    /// Answered a first message and waits for the finish.
    Answering,
    /// On a proven link: sent a greeting and waits for its echo.
    Greeting {
        theirs: Option<GreetingNonce>,
        resend: Resend,
    },
    /// Established as the one that began; the finish leaves with the first frame.
    Finishing,
    /// Established; the other side may not know yet, so `frame` goes out until it shows that it does.
    Unconfirmed {
        frame: Bytes,
        resend: Resend,
    },
    /// Established on both sides.
    Open,
    Closed,
}

/// The connection over one link. See the [module](super).
pub struct Session {
    config: SessionConfig,
    reliable: bool,
    node: NodeId,
    proven: Option<NodeId>,
    seed: Zeroizing<[u8; 32]>,
    noise: Noise,
    offer: Offer,
    limits: Limits,
    phase: Phase,
    deadline: Instant,
    outbox: VecDeque<Bytes>,
    delivery: Delivery,
    protection: Option<Protection>,
    peer: Option<NodeId>,
    max_message: usize,
    /// The finish to be written, once it is known what it carries.
    finishing: Option<Answered>,
    /// The first message of the handshake that established the session.
    settled_first: Option<[u8; 32]>,
    /// On a proven link, the other side's nonce, and which of our nonces counts.
    greeted: Option<GreetingNonce>,
    attempt: u32,
    /// When the handshake message left whose answer tells the round-trip time; `None` once it was repeated.
    timed: Option<Instant>,
    handshakes_left: u32,
    refilled: Instant,
    farewell: Option<CloseReason>,
    retransmitted: u64,
    paused: [bool; 2],
    arrived: Vec<Arrived>,
    stats: SessionStats,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            Phase::Waiting { .. } => "waiting",
            Phase::Initiating { .. } => "initiating",
            Phase::Answering => "answering",
            Phase::Greeting { .. } => "greeting",
            Phase::Finishing => "finishing",
            Phase::Unconfirmed { .. } => "unconfirmed",
            Phase::Open => "open",
            Phase::Closed => "closed",
        };
        f.debug_struct("Session").field("phase", &phase).field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Session {
    /// A session on a link that just came up.
    ///
    /// `proven` is who is there if the transport itself has proven it: then there is no encryption. `dialed`
    /// says that this side opened the link and begins; if both or neither did, they still agree. `seed` is
    /// secret, and unique to this session: everything random is drawn from it.
    pub fn new(
        config: SessionConfig,
        identity: Identity,
        profile: PortProfile,
        proven: Option<NodeId>,
        dialed: bool,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let window = config.window.max(MIN_WINDOW);
        let max_message = config.max_message.min(u32::MAX as usize);
        let offer = Offer { credit: [window as u64; 2], max_message: max_message as u32 };
        let limits = Limits {
            reliable: profile.reliable,
            max_frame: profile.max_frame.max(MIN_FRAME_BYTES),
            max_message,
            window,
            max_window: config.max_window.max(window),
            queue: config.queue,
        };
        let node = identity.node();
        let noise = Noise::new(identity, offer, seed);
        let mut session = Self {
            reliable: profile.reliable,
            node,
            proven,
            noise,
            offer,
            limits,
            phase: Phase::Answering,
            deadline: now + config.handshake_timeout,
            outbox: VecDeque::new(),
            delivery: Delivery::new(limits),
            protection: None,
            peer: None,
            max_message,
            finishing: None,
            settled_first: None,
            greeted: None,
            attempt: 0,
            timed: None,
            handshakes_left: HANDSHAKE_BURST,
            refilled: now,
            farewell: None,
            retransmitted: 0,
            paused: [false; 2],
            arrived: Vec::new(),
            stats: SessionStats::default(),
            seed: Zeroizing::new(seed),
            config,
        };
        if proven.is_some() {
            session.greet(now);
        } else if dialed {
            session.initiate(now);
        } else {
            let patience = PATIENCE + Duration::from_nanos(draw(&seed, TIMING, PATIENCE.as_nanos() as u64));
            session.phase = Phase::Waiting { begin: now + patience };
        }
        session
    }

    /// Takes a frame that arrived on the link, whatever it is.
    pub fn handle_frame(&mut self, frame: Bytes, now: Instant, out: &mut Vec<SessionEvent>) {
        self.stats.frames_in += 1;
        self.stats.bytes_in += frame.len() as u64;
        if matches!(self.phase, Phase::Closed) {
            self.stats.stale += 1;
            return;
        }
        let handled = match frame.first().map(|first| kind_of(*first)) {
            Some(Some(kind)) => self.dispatch(kind, frame, now, out),
            Some(None) => Err(SessionFault::UnknownVersion),
            None => Err(SessionFault::Malformed),
        };
        if let Err(fault) = handled {
            self.fault(fault, out);
        }
        self.tell_room(out);
    }

    fn dispatch(
        &mut self,
        kind: u8,
        frame: Bytes,
        now: Instant,
        out: &mut Vec<SessionEvent>,
    ) -> Result<(), SessionFault> {
        match (kind, self.proven) {
            (INITIATE, None) => self.on_initiate(&frame[1..], now),
            (ANSWER, None) => self.on_answer(&frame[1..], now, out),
            (FINISH, None) => self.on_finish(&frame[1..], now, out),
            (GREETING, Some(peer)) => self.on_greeting(peer, &frame[1..], now, out),
            _ if kind & DATA == SEALED || kind & DATA == PLAIN => self.on_data(frame, now, out),
            _ => Err(SessionFault::UnknownKind),
        }
    }

    /// Runs what is due. Call at or after [`next_deadline`](Self::next_deadline), then poll for frames.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Vec<SessionEvent>) {
        if self.proven == Some(self.node) && !matches!(self.phase, Phase::Closed) {
            self.end(CloseReason::OwnNode, out);
        }
        if !matches!(self.phase, Phase::Open | Phase::Closed) && self.deadline <= now {
            self.end(CloseReason::Timeout, out);
        }
        let last = if self.reliable { RELIABLE_RESEND } else { LAST_RESEND };
        let again = match &mut self.phase {
            Phase::Waiting { begin } if *begin <= now => {
                self.initiate(now);
                None
            }
            Phase::Initiating { frame, resend, .. } | Phase::Unconfirmed { frame, resend } => {
                resend.is_due(now, last).then(|| frame.clone())
            }
            Phase::Greeting { theirs, resend } => {
                let theirs = *theirs;
                resend.is_due(now, last).then(|| self.greeting(theirs, GreetingStage::Greeting))
            }
            _ => None,
        };
        if let Some(frame) = again {
            self.timed = None;
            self.queue(frame);
        }
        if self.protection.is_some() {
            self.delivery.handle_timeout(now);
        }
        self.tell_room(out);
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called; `None` while there is nothing to wait
    /// for, as on an open session without traffic. May lie in the past: then at once.
    pub fn next_deadline(&self) -> Option<Instant> {
        let handshake = match &self.phase {
            Phase::Closed => return None,
            Phase::Open => None,
            _ if self.proven == Some(self.node) => Some(Instant::ZERO),
            Phase::Waiting { begin } => Some(self.deadline.min(*begin)),
            Phase::Answering | Phase::Finishing => Some(self.deadline),
            Phase::Initiating { resend, .. }
            | Phase::Unconfirmed { resend, .. }
            | Phase::Greeting { resend, .. } => Some(self.deadline.min(resend.at)),
        };
        let delivery = self.protection.as_ref().and_then(|_| self.delivery.next_deadline());
        let room = self.delivery.has_room_news().then_some(Instant::ZERO);
        [handshake, delivery, room].into_iter().flatten().min()
    }

    /// The next frame for the port, `None` if nothing is to be sent now. Call until `None` after every other
    /// call. A frame that the port refused as full must be handed over later: it will not come again by itself
    /// on a reliable link. Of frames with the same priority, the port must see the earlier first.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(Bytes, Priority)> {
        let (frame, priority) = match (self.outbox.pop_front(), self.finishing.take()) {
            (Some(frame), finishing) => {
                self.finishing = finishing;
                (frame, Priority::High)
            }
            (None, Some(answered)) => (self.finish(answered, now)?, Priority::High),
            (None, None) => self.next_data(now)?,
        };
        self.stats.frames_out += 1;
        self.stats.bytes_out += frame.len() as u64;
        Some((frame, priority))
    }

    /// The finish, with what there is to say as frame 0 of the control lane. From here on there are keys.
    fn finish(&mut self, answered: Answered, now: Instant) -> Option<Bytes> {
        let limit = self.limits.max_frame.min(MAX_FINISH) - FINISH_OVERHEAD - Offer::MAX_BYTES;
        let mut body = Vec::new();
        match self.farewell.take() {
            Some(reason) => self.delivery.write_close(reason.code(), &mut body),
            None => self.delivery.write(Lane::Control, now, limit, &mut body),
        }
        let (frame, keys) = answered.finish(&body).ok()?;
        self.protection = Some(Protection::sealed(&keys[0], &keys[1], self.config.epoch_frames));
        if matches!(self.phase, Phase::Finishing) {
            self.phase = Phase::Unconfirmed { frame: frame.clone(), resend: self.first_resend(now) };
        }
        Some(frame)
    }

    fn next_data(&mut self, now: Instant) -> Option<(Bytes, Priority)> {
        let protection = self.protection.as_mut()?;
        let farewell = self.farewell.take();
        if farewell.is_none() && matches!(self.phase, Phase::Closed) {
            return None;
        }
        let lane = if farewell.is_some() { Lane::Control } else { self.delivery.next_lane(now)? };
        let number = self.delivery.next_number(lane);
        let (head, tail) = (protection.head(), protection.tail());
        let estimate = self.delivery.body_estimate(lane).saturating_add(head + tail);
        let mut frame = Vec::with_capacity(estimate.min(self.limits.max_frame));
        protection.begin(lane, number, &mut frame);
        match farewell {
            Some(reason) => self.delivery.write_close(reason.code(), &mut frame),
            None => self.delivery.write(lane, now, self.limits.max_frame - tail, &mut frame),
        }
        let priority = match lane {
            Lane::Control => Priority::High,
            Lane::Bulk => Priority::Normal,
        };
        Some((protection.finish(lane, number, frame), priority))
    }

    /// Queues a message; it may be sent before the session is established and then waits.
    ///
    /// # Errors
    /// [`LaneFull`] gives the message back if the lane's queue has no room, if the message is larger than
    /// [`max_message`](Self::max_message), or if the session is closed.
    pub fn send(&mut self, lane: Lane, message: Bytes) -> Result<(), LaneFull> {
        let len = message.len();
        if len > self.max_message || matches!(self.phase, Phase::Closed) {
            return Err(LaneFull(message));
        }
        self.delivery.push(lane, message).map_err(LaneFull)?;
        self.stats.payload_out += len as u64;
        Ok(())
    }

    /// Sends `datagram` once, in one frame, as soon as the session is established. It may be lost, and is if
    /// many wait.
    ///
    /// # Errors
    /// [`DatagramTooLarge`] if it does not fit a frame.
    pub fn send_datagram(&mut self, datagram: Bytes) -> Result<(), DatagramTooLarge> {
        let (len, max) = (datagram.len(), self.max_datagram());
        if len > max {
            return Err(DatagramTooLarge { len, max });
        }
        self.stats.payload_out += len as u64;
        self.delivery.push_datagram(datagram);
        Ok(())
    }

    /// Largest datagram in bytes.
    pub fn max_datagram(&self) -> usize {
        self.delivery.max_datagram(Protection::MAX_OVERHEAD)
    }

    /// Largest message in bytes that both ends take; what this end takes until the session is established.
    pub fn max_message(&self) -> usize {
        self.max_message
    }

    /// Bytes of message that [`send`](Self::send) would take now.
    pub fn room(&self, lane: Lane) -> usize {
        match self.delivery.room(lane) {
            _ if matches!(self.phase, Phase::Closed) => 0,
            None => self.max_message,
            Some(room) => usize::try_from(room).unwrap_or(usize::MAX).min(self.max_message),
        }
    }

    /// While a lane is paused, no message of it comes out, and the peer may send one window more and then has to
    /// wait. For an application that cannot keep up; frames that arrive are still to be handed over.
    pub fn set_paused(&mut self, lane: Lane, paused: bool, out: &mut Vec<SessionEvent>) {
        self.paused[lane.index()] = paused;
        self.delivery.set_paused(lane, paused, &mut self.arrived);
        self.hand_out(out);
    }

    /// Who is there, once established.
    pub fn peer(&self) -> Option<NodeId> {
        self.peer
    }

    /// Whether the session is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Smoothed round-trip time (RFC 6298), once something was acknowledged.
    pub fn rtt(&self) -> Option<Duration> {
        self.delivery.rtt()
    }

    /// Bytes of memory held for incoming data that is not complete, or not taken because its lane is paused.
    pub fn held(&self) -> usize {
        self.delivery.held()
    }

    /// Ends the session; what waits is dropped. If it was established,
    /// [`poll_transmit`](Self::poll_transmit) has a last frame that tells the peer, who may miss it.
    pub fn close(&mut self, reason: CloseReason) {
        if !matches!(self.phase, Phase::Closed) {
            let established = self.protection.is_some() || self.finishing.is_some();
            self.farewell = established.then_some(reason);
            self.phase = Phase::Closed;
            // A finish under way lets the peer read the farewell; nothing else matters any more.
            self.outbox.truncate(usize::from(self.farewell.is_some()));
        }
    }

    /// The counters.
    pub fn stats(&self) -> SessionStats {
        SessionStats { retransmitted: self.retransmitted + self.delivery.retransmitted(), ..self.stats }
    }

    // ---- handshake on unproven links

    fn initiate(&mut self, now: Instant) {
        let (first, frame) = self.noise.initiate().expect("the first message needs nothing but the seed");
        self.timed = Some(now);
        self.queue(frame.clone());
        self.phase = Phase::Initiating { first, frame, resend: self.first_resend(now) };
    }

    fn on_initiate(&mut self, body: &[u8], now: Instant) -> Result<(), SessionFault> {
        let first: [u8; 32] = body.try_into().map_err(|_| SessionFault::Malformed)?;
        match &self.phase {
            Phase::Initiating { first: ours, .. } if *ours == first => return Err(SessionFault::Reflected),
            // Both began: the smaller message counts. The other side may have missed ours.
            Phase::Initiating { first: ours, frame, .. } if *ours < first => {
                let frame = frame.clone();
                if !self.reliable {
                    self.queue(frame);
                }
                self.stats.stale += 1;
                return Ok(());
            }
            // Our own attempt goes on: the smaller message may be somebody else's.
            Phase::Initiating { .. } => {}
            Phase::Waiting { .. } | Phase::Answering => {}
            // The peer may have begun anew. What it proves decides, not this message.
            Phase::Open if self.settled_first != Some(first) => {}
            _ => {
                self.stats.stale += 1;
                return Ok(());
            }
        }
        if self.noise.has_answered(&first) {
            self.timed = None;
        } else {
            self.spend(now)?;
            self.timed = Some(now);
        }
        let answer = self.noise.answer(&first)?;
        self.queue(answer);
        if matches!(self.phase, Phase::Waiting { .. }) {
            self.phase = Phase::Answering;
        }
        Ok(())
    }

    fn on_answer(
        &mut self,
        body: &[u8],
        now: Instant,
        out: &mut Vec<SessionEvent>,
    ) -> Result<(), SessionFault> {
        match &self.phase {
            Phase::Initiating { .. } => {}
            Phase::Unconfirmed { frame, .. } => {
                // The other side still waits.
                let frame = frame.clone();
                self.queue(frame);
                self.stats.stale += 1;
                return Ok(());
            }
            _ => {
                self.stats.stale += 1;
                return Ok(());
            }
        }
        self.spend(now)?;
        let Some(answered) = self.noise.on_answer(body)? else {
            self.stats.stale += 1;
            return Ok(());
        };
        self.outbox.clear();
        self.phase = Phase::Finishing;
        let (first, agreed) = (answered.first, answered.agreed);
        self.finishing = Some(answered);
        self.establish(first, agreed, None, now, out);
        Ok(())
    }

    fn on_finish(
        &mut self,
        body: &[u8],
        now: Instant,
        out: &mut Vec<SessionEvent>,
    ) -> Result<(), SessionFault> {
        let (reference, third) = body.split_first_chunk::<REFERENCE>().ok_or(SessionFault::Malformed)?;
        match self.phase {
            Phase::Open if self.settled_first.is_some_and(|first| first[..REFERENCE] == *reference) => {
                // The other side did not hear that we are done.
                self.delivery.nudge();
                self.stats.stale += 1;
                return Ok(());
            }
            Phase::Finishing | Phase::Unconfirmed { .. } => {
                self.stats.stale += 1;
                return Ok(());
            }
            _ => {}
        }
        let mut fault = None;
        for first in self.noise.named(reference) {
            self.spend(now)?;
            match self.noise.on_finish(&first, third) {
                Ok((agreed, _, _)) if self.peer.is_some_and(|peer| peer != agreed.peer) => {
                    return Err(SessionFault::ForeignNode);
                }
                Ok((agreed, keys, body)) => {
                    self.phase = Phase::Open;
                    let mut protection = Protection::sealed(&keys[0], &keys[1], self.config.epoch_frames);
                    protection.came_with_handshake();
                    self.establish(first, agreed, Some(protection), now, out);
                    self.delivery.nudge();
                    let read = self.delivery.read(Lane::Control, 0, &body, now, &mut self.arrived);
                    self.hand_out(out);
                    return read.map_err(fault_of);
                }
                Err(refused) => fault = Some(refused),
            }
        }
        // None that was answered lately: an old one, or it took very long.
        self.stats.stale += u64::from(fault.is_none());
        fault.map_or(Ok(()), Err)
    }

    fn establish(
        &mut self,
        first: [u8; 32],
        agreed: Agreed,
        protection: Option<Protection>,
        now: Instant,
        out: &mut Vec<SessionEvent>,
    ) {
        // From here on, no message of this handshake proves anything again.
        self.noise.next_attempt();
        self.settled_first = Some(first);
        self.open(protection, agreed.peer, agreed.offer, agreed.binding, out);
        if let Some(timed) = self.timed.take() {
            self.delivery.seed_rtt(now.since(timed));
        }
        if agreed.peer == self.node {
            self.end(CloseReason::OwnNode, out);
        }
    }

    fn spend(&mut self, now: Instant) -> Result<(), SessionFault> {
        let refills = now.since(self.refilled).as_nanos() / HANDSHAKE_REFILL.as_nanos();
        if refills > 0 {
            let refills = u32::try_from(refills).unwrap_or(u32::MAX);
            self.handshakes_left = self.handshakes_left.saturating_add(refills).min(HANDSHAKE_BURST);
            self.refilled = now;
        }
        self.handshakes_left = self.handshakes_left.checked_sub(1).ok_or(SessionFault::Flood)?;
        Ok(())
    }

    // ---- greeting on proven links

    fn greet(&mut self, now: Instant) {
        let greeting = self.greeting(None, GreetingStage::Greeting);
        self.queue(greeting);
        self.timed = Some(now);
        self.phase = Phase::Greeting { theirs: None, resend: self.first_resend(now) };
    }

    fn greeting(&self, theirs: Option<GreetingNonce>, stage: GreetingStage) -> Bytes {
        self.greeting_of(self.attempt, theirs, stage)
    }

    fn greeting_of(&self, attempt: u32, theirs: Option<GreetingNonce>, stage: GreetingStage) -> Bytes {
        let nonce = Greeting::nonce(&self.seed, attempt);
        Greeting { nonce, echo: theirs, stage, offer: self.offer }.encode()
    }

    fn on_greeting(
        &mut self,
        peer: NodeId,
        body: &[u8],
        now: Instant,
        out: &mut Vec<SessionEvent>,
    ) -> Result<(), SessionFault> {
        let greeting = Greeting::decode(body)?;
        let ours = Greeting::nonce(&self.seed, self.attempt);
        if greeting.nonce == ours {
            return Err(SessionFault::Reflected);
        }
        let theirs = Some(greeting.nonce);
        let known = self.greeted == theirs;
        if known && self.protection.is_some() {
            if greeting.stage >= GreetingStage::Established && greeting.echo == Some(ours) {
                self.phase = Phase::Open;
            }
            self.answer_greeting(&greeting);
            self.stats.stale += 1;
            return Ok(());
        }
        // A nonce that is new on an open session: the peer began anew, or this is an old frame. Only one who
        // echoes our next nonce is there now.
        let attempt = self.attempt + u32::from(self.protection.is_some());
        let current = ours;
        let ours = Greeting::nonce(&self.seed, attempt);
        // Where nothing is lost, repeated or late, a first greeting is of now, and the other side has ours or will.
        let prompt = self.reliable && self.protection.is_none() && greeting.echo.is_none();
        if greeting.echo != Some(ours) && !prompt {
            if self.protection.is_some() && greeting.echo.is_some_and(|echo| echo != current) {
                // An answer to a greeting of ours that was replayed: nobody begins anew.
                self.stats.stale += 1;
                return Ok(());
            }
            if let Phase::Greeting { theirs: heard, .. } = &mut self.phase {
                *heard = theirs;
            }
            if greeting.stage != GreetingStage::Confirmed {
                let answer = self.greeting_of(attempt, theirs, GreetingStage::Greeting);
                self.queue(answer);
            }
            return Ok(());
        }
        self.attempt = attempt;
        self.greeted = theirs;
        self.phase = if greeting.stage >= GreetingStage::Established {
            Phase::Open
        } else {
            let frame = self.greeting(theirs, GreetingStage::Established);
            Phase::Unconfirmed { frame, resend: self.first_resend(now) }
        };
        let binding = greeting_binding(&ours, &greeting.nonce);
        self.open(Some(Protection::plain(&binding)), peer, greeting.offer, binding, out);
        let timed = self.timed.take();
        if prompt {
            // The first frame of the session says that this greeting was heard.
            return Ok(());
        }
        if let Some(timed) = timed {
            self.delivery.seed_rtt(now.since(timed));
        }
        self.answer_greeting(&greeting);
        Ok(())
    }

    fn answer_greeting(&mut self, greeting: &Greeting) {
        if greeting.stage != GreetingStage::Confirmed {
            let confirmed = matches!(self.phase, Phase::Open);
            let stage = if confirmed { GreetingStage::Confirmed } else { GreetingStage::Established };
            let answer = self.greeting(Some(greeting.nonce), stage);
            self.queue(answer);
        }
    }

    // ---- open sessions

    fn open(
        &mut self,
        protection: Option<Protection>,
        peer: NodeId,
        offer: Offer,
        binding: [u8; 32],
        out: &mut Vec<SessionEvent>,
    ) {
        if self.protection.is_some() {
            self.retransmitted += self.delivery.retransmitted();
            self.delivery = Delivery::new(self.limits);
            for lane in Lane::ALL {
                self.delivery.set_paused(lane, self.paused[lane.index()], &mut self.arrived);
            }
        }
        self.protection = protection;
        self.peer = Some(peer);
        self.max_message = self.limits.max_message.min(offer.max_message as usize);
        for lane in Lane::ALL {
            self.delivery.raise_credit(lane, offer.credit[lane.index()]);
        }
        out.push(SessionEvent::Established { peer, binding });
    }

    fn on_data(
        &mut self,
        frame: Bytes,
        now: Instant,
        out: &mut Vec<SessionEvent>,
    ) -> Result<(), SessionFault> {
        let Some(protection) = &mut self.protection else {
            // Overtook the handshake, or is of an earlier session.
            self.stats.stale += 1;
            return Ok(());
        };
        let opened = protection.open(frame)?;
        if matches!(self.phase, Phase::Unconfirmed { .. }) {
            self.phase = Phase::Open;
        }
        let read = self.delivery.read(opened.lane, opened.number, &opened.body, now, &mut self.arrived);
        self.hand_out(out);
        read.map_err(fault_of)
    }

    fn hand_out(&mut self, out: &mut Vec<SessionEvent>) {
        let mut arrived = std::mem::take(&mut self.arrived);
        for event in arrived.drain(..) {
            match event {
                _ if matches!(self.phase, Phase::Closed) => break,
                Arrived::Message(lane, message) => {
                    self.stats.payload_in += message.len() as u64;
                    out.push(SessionEvent::Message { lane, message });
                }
                Arrived::Datagram(datagram) => {
                    self.stats.payload_in += datagram.len() as u64;
                    out.push(SessionEvent::Datagram(datagram));
                }
                Arrived::Closed(code) => {
                    self.phase = Phase::Closed;
                    out.push(SessionEvent::Closed(CloseReason::by_peer(code)));
                }
                Arrived::TooLarge => self.end(CloseReason::Violation, out),
                Arrived::Gap => self.end(CloseReason::LinkLost, out),
            }
        }
        self.arrived = arrived;
    }

    fn end(&mut self, reason: CloseReason, out: &mut Vec<SessionEvent>) {
        self.close(reason);
        out.push(SessionEvent::Closed(reason));
    }

    fn fault(&mut self, fault: SessionFault, out: &mut Vec<SessionEvent>) {
        let count = &mut self.stats.dropped[fault as usize];
        *count += 1;
        if *count == 1 {
            out.push(SessionEvent::Fault(fault));
        }
    }

    fn tell_room(&mut self, out: &mut Vec<SessionEvent>) {
        if !matches!(self.phase, Phase::Closed) {
            let lanes = Lane::ALL.into_iter().filter(|lane| self.delivery.take_room_news(*lane));
            out.extend(lanes.map(SessionEvent::Room));
        }
    }

    fn queue(&mut self, frame: Bytes) {
        if self.outbox.len() < MAX_OUTBOX && !self.outbox.contains(&frame) {
            self.outbox.push_back(frame);
        }
    }

    fn first_resend(&self, now: Instant) -> Resend {
        let pause = if self.reliable { RELIABLE_RESEND } else { FIRST_RESEND };
        Resend { at: now + pause, pause }
    }
}

fn fault_of(refused: Refused) -> SessionFault {
    match refused {
        Refused::Malformed => SessionFault::Malformed,
        Refused::AbsurdAck => SessionFault::AbsurdAck,
        Refused::OverCredit => SessionFault::OverCredit,
    }
}

impl Resend {
    /// Whether it is time; if so, the next time is set.
    fn is_due(&mut self, now: Instant, last: Duration) -> bool {
        let due = self.at <= now;
        if due {
            self.pause = (2 * self.pause).min(last);
            self.at = now + self.pause;
        }
        due
    }
}
