//! Two reliable, ordered lanes of messages over frames that may be lost, duplicated or reordered.
//!
//! Each lane is a stream of bytes (messages with their lengths) cut into fragments, with frame numbers of its
//! own, so that a port may let urgent frames overtake bulk without looking like loss. The engine decides
//! what goes into the next frame and what a received frame means; it never sees keys, and
//! [`Session`](crate::protocol::session::Session) is its only caller.
//!
//! On a reliable link nothing is kept for retransmission and no timer runs.

mod chunk;
mod congestion;
#[cfg(test)]
mod fresh_under_loss;
mod incoming;
mod outgoing;
mod ranges;
mod rtt;
mod space;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use self::chunk::{Chunk, MalformedChunk};
use self::congestion::Congestion;
use self::incoming::{LaneIn, MessageTooLarge, Taken};
use self::outgoing::LaneOut;
use self::rtt::Rtt;
use self::space::{Patience, Sent, Space};
use crate::domain::time::Instant;

/// An acknowledgement waits at most this long for company (RFC 9002 allows 25 ms; sync is chattier).
const ACK_DELAY: Duration = Duration::from_millis(5);
/// Bytes received on a reliable link between two acknowledgements: they only measure the round trip there.
const RELIABLE_ACK_BYTES: usize = 64 * 1024;
/// Time between two acknowledgements on a reliable link that keep other frames company.
const RELIABLE_ACK_PAUSE: Duration = Duration::from_secs(1);
/// Frames received on a lossy link between two acknowledgements (RFC 9000 recommends two).
const ACK_FRAMES: u32 = 2;
/// Of the control lane, what was lost goes out in two frames if it is no more than this, in bytes. Who waits for a fresh entry
/// would wait a round trip more for each repetition that is lost, too; of ten lost frames in a hundred, that was one. Frames with no
/// more than this are also doubted by the clock, see [`Patience`].
const REPEATED_TWICE: u64 = 1024;
/// Frames that a probe timeout sends beyond the congestion window (RFC 9002: one or two).
const PROBE_FRAMES: u32 = 2;
/// Vain probe timeouts in a row after which the congestion window starts over (RFC 9002 section 7.6).
const PERSISTENT_PROBES: u32 = 3;
/// Datagrams that wait to be sent; a further one pushes the oldest out.
const MAX_DATAGRAMS: usize = 64;
/// Largest delay that a peer may blame on itself, on a reliable link where nothing hastens it.
const MAX_PEER_DELAY: Duration = Duration::from_millis(100);

/// One of the two message sequences of a connection. Each is reliable and ordered in itself; neither waits for
/// the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Small messages that steer: sent first, fragment by fragment.
    Control,
    /// Everything else.
    Bulk,
}

impl Lane {
    pub(crate) const ALL: [Self; 2] = [Self::Control, Self::Bulk];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Bulk => 1,
        }
    }
}

/// What bounds a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) reliable: bool,
    /// Bytes in a frame, all told.
    pub(crate) max_frame: usize,
    pub(crate) max_message: usize,
    pub(crate) window: usize,
    /// What the window of the bulk lane may grow to.
    pub(crate) max_window: usize,
    pub(crate) queue: usize,
}

/// Why a received frame body was dropped whole. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Malformed,
    AbsurdAck,
    OverCredit,
}

impl From<MalformedChunk> for Refused {
    fn from(_: MalformedChunk) -> Self {
        Self::Malformed
    }
}

/// What a received frame brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arrived {
    Message(Lane, Bytes),
    Datagram(Bytes),
    /// The peer closed, with this code.
    Closed(u8),
    /// A message longer than allowed was announced: the lane cannot go on.
    TooLarge,
    /// A link that promised not to lose frames lost one: the lane would wait for ever.
    Gap,
}

/// The delivery engine of one connection.
#[derive(Debug)]
pub(crate) struct Delivery {
    limits: Limits,
    spaces: [Space; 2],
    rtt: Rtt,
    congestion: Congestion,
    /// Probe timeouts since the last acknowledgement.
    probes: u32,
    /// Frames that may be sent beyond the congestion window now.
    extra: u32,
    last_sent: Instant,
    datagrams: VecDeque<Bytes>,
    /// A frame is to go out even if it is empty.
    nudge: bool,
    retransmitted: u64,
    messages: Vec<Bytes>,
}

impl Delivery {
    pub(crate) fn new(limits: Limits) -> Self {
        let space = |most| {
            Space::new(LaneOut::new(limits.queue), LaneIn::new(limits.window, most, limits.max_message))
        };
        Self {
            limits,
            // What steers is small: it waits for nothing but the link.
            spaces: [space(limits.window), space(limits.max_window)],
            rtt: Rtt::default(),
            congestion: Congestion::new(limits.max_frame),
            probes: 0,
            extra: 0,
            last_sent: Instant::ZERO,
            datagrams: VecDeque::new(),
            nudge: false,
            retransmitted: 0,
            messages: Vec::new(),
        }
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt.smoothed()
    }

    /// A first estimate of the round trip, from before the first frame.
    pub(crate) fn seed_rtt(&mut self, sample: Duration) {
        if self.rtt.smoothed().is_none() {
            self.rtt.sample(sample, Duration::ZERO);
        }
    }

    /// Fragments sent again, in bytes.
    pub(crate) fn retransmitted(&self) -> u64 {
        self.retransmitted
    }

    pub(crate) fn push(&mut self, lane: Lane, message: Bytes) -> Result<(), Bytes> {
        self.spaces[lane.index()].out.push(message)
    }

    pub(crate) fn room(&self, lane: Lane) -> Option<u64> {
        self.spaces[lane.index()].out.room()
    }

    pub(crate) fn has_room_news(&self) -> bool {
        self.spaces.iter().any(|space| space.out.has_room_news())
    }

    pub(crate) fn take_room_news(&mut self, lane: Lane) -> bool {
        self.spaces[lane.index()].out.take_room_news()
    }

    /// Largest datagram that fits a frame with `overhead` bytes around the body.
    pub(crate) fn max_datagram(&self, overhead: usize) -> usize {
        self.limits.max_frame - overhead - chunk::DATAGRAM_HEAD
    }

    pub(crate) fn push_datagram(&mut self, datagram: Bytes) {
        if self.datagrams.len() == MAX_DATAGRAMS {
            self.datagrams.pop_front();
        }
        self.datagrams.push_back(datagram);
    }

    /// The peer takes stream bytes of `lane` below `limit`.
    pub(crate) fn raise_credit(&mut self, lane: Lane, limit: u64) {
        self.spaces[lane.index()].out.raise_credit(limit);
    }

    /// Sends a frame soon even if there is nothing to say.
    pub(crate) fn nudge(&mut self) {
        self.nudge = true;
    }

    pub(crate) fn set_paused(&mut self, lane: Lane, paused: bool, arrived: &mut Vec<Arrived>) {
        let incoming = &mut self.spaces[lane.index()].incoming;
        incoming.set_paused(paused);
        let drained = incoming.drain(&mut self.messages);
        arrived.extend(self.messages.drain(..).map(|message| Arrived::Message(lane, message)));
        if drained.is_err() {
            arrived.push(Arrived::TooLarge);
        }
    }

    /// Bytes of memory that incoming data occupies.
    pub(crate) fn held(&self) -> usize {
        self.spaces.iter().map(|space| space.incoming.held()).sum()
    }

    fn may_send(&self) -> bool {
        self.limits.reliable || self.extra > 0 || self.congestion.has_room()
    }

    /// Which lane's next frame should be sent now, if any. Acknowledgements, credits and datagrams count as
    /// control.
    pub(crate) fn next_lane(&self, now: Instant) -> Option<Lane> {
        let urgent = |space: &Space| space.ack.is_due(now) || space.is_credit_due();
        let ready = |lane: Lane| {
            let space = &self.spaces[lane.index()];
            space.is_ready() && self.may_send() && space.may_track()
        };
        if self.nudge || !self.datagrams.is_empty() || self.spaces.iter().any(urgent) || ready(Lane::Control)
        {
            return Some(Lane::Control);
        }
        ready(Lane::Bulk).then_some(Lane::Bulk)
    }

    /// The number of the lane's next frame.
    pub(crate) fn next_number(&self, lane: Lane) -> u64 {
        self.spaces[lane.index()].next_number
    }

    /// About how many bytes the lane's next body will have, so that its buffer need not grow.
    pub(crate) fn body_estimate(&self, lane: Lane) -> usize {
        let ready = self.spaces[lane.index()].out.ready_bytes();
        let datagrams: usize =
            if lane == Lane::Control { self.datagrams.iter().map(Bytes::len).sum() } else { 0 };
        usize::try_from(ready).unwrap_or(usize::MAX).saturating_add(datagrams).saturating_add(256)
    }

    /// Appends the chunks of the lane's next frame to `frame`, up to `limit` bytes in all.
    pub(crate) fn write(&mut self, lane: Lane, now: Instant, limit: usize, frame: &mut Vec<u8>) {
        let mut named = [None; 2];
        for acked in Lane::ALL {
            let space = &mut self.spaces[acked.index()];
            let wanted = !self.limits.reliable || space.ack.is_of_use(now);
            if wanted && let Some(delay) = space.ack.take(now) {
                let ranges = !self.limits.reliable;
                named[acked.index()] = chunk::put_ack(acked, &space.received, delay, ranges, frame);
            }
        }
        let mut credit = [false; 2];
        if lane == Lane::Control {
            self.nudge = false;
            let round_trip = self.rtt.smoothed();
            for lane in Lane::ALL {
                let space = &mut self.spaces[lane.index()];
                if space.is_credit_due() {
                    space.credit_lost = false;
                    credit[lane.index()] = true;
                    chunk::put_credit(lane, space.incoming.advertise(now, round_trip), frame);
                }
            }
            while let Some(datagram) = self.datagrams.front()
                && frame.len() + chunk::DATAGRAM_HEAD + datagram.len() <= limit
                && let Some(datagram) = self.datagrams.pop_front()
            {
                chunk::put_datagram(&datagram, frame);
            }
        }
        let may_send = self.may_send();
        let space = &mut self.spaces[lane.index()];
        let mut fragments = SmallVec::new();
        let (mut repeated, mut second, mut twin) = (0, SmallVec::new(), false);
        if may_send {
            for (start, end) in std::mem::take(&mut space.second) {
                // Some of it may have arrived meanwhile.
                let Some((start, end)) = space.out.unacked(start, end) else { continue };
                let fits = frame.len() as u64 + chunk::FRAGMENT_HEAD as u64 + end - start <= limit as u64;
                if fits {
                    chunk::put_fragment_head(lane, start, end - start, frame);
                    space.out.copy(start, end, frame);
                    self.retransmitted += end - start;
                    fragments.push((start, end));
                    twin = true;
                }
            }
        }
        while may_send
            && let Some(max) = limit.checked_sub(frame.len() + chunk::FRAGMENT_HEAD)
            && let Some((start, end, again)) = space.out.take(max as u64)
        {
            chunk::put_fragment_head(lane, start, end - start, frame);
            space.out.copy(start, end, frame);
            if again {
                self.retransmitted += end - start;
                repeated += end - start;
                second.push((start, end));
            }
            fragments.push((start, end));
            if self.limits.reliable {
                space.out.on_acked(start, end);
            }
        }
        let number = space.next_number;
        let small = fragments.iter().map(|(start, end)| end - start).sum::<u64>() <= REPEATED_TWICE;
        if lane == Lane::Control && !self.limits.reliable && !twin && small && !fragments.is_empty() {
            space.may_doubt(number, now, &second);
        }
        let once = repeated > 0 && std::mem::take(&mut space.once);
        if lane == Lane::Control && repeated <= REPEATED_TWICE && !once && !space.out.has_lost() {
            space.second = second;
        }
        space.next_number += 1;
        let eliciting = !fragments.is_empty() || credit != [false; 2];
        if self.limits.reliable {
            if !fragments.is_empty() || credit != [false; 2] {
                space.time_frame(number, now);
            }
        } else if eliciting {
            let size = frame.len() as u64;
            self.congestion.on_sent(size);
            self.extra = self.extra.saturating_sub(1);
            self.last_sent = now;
            space.sent.push_back(Sent { number, at: now, size, fragments, credit, named, settled: false });
        }
    }

    /// What the body of frame `number` of `lane` says. The frame is authentic and new.
    pub(crate) fn read(
        &mut self,
        lane: Lane,
        number: u64,
        body: &Bytes,
        now: Instant,
        arrived: &mut Vec<Arrived>,
    ) -> Result<(), Refused> {
        self.check(body)?;
        let (mut at, mut eliciting, mut stored, mut closed) = (0, false, true, None);
        while let Some((chunk, next)) = chunk::read(body, at)? {
            at = next;
            match chunk {
                Chunk::Ack { lane, ack } => self.on_ack(lane, &ack, body, now),
                Chunk::Credit { lane, limit } => {
                    eliciting = true;
                    self.raise_credit(lane, limit);
                }
                Chunk::Datagram { data } => arrived.push(Arrived::Datagram(body.slice(data))),
                Chunk::Close { code } => closed = Some(code),
                Chunk::Fragment { lane, offset, data } => {
                    eliciting = true;
                    let incoming = &mut self.spaces[lane.index()].incoming;
                    let taken = incoming.accept(offset, body.slice(data), body.len(), &mut self.messages);
                    let gap = self.limits.reliable && incoming.has_gap();
                    arrived.extend(self.messages.drain(..).map(|message| Arrived::Message(lane, message)));
                    match taken {
                        Ok(Taken::Yes) => {}
                        Ok(Taken::No) => stored = false,
                        Err(MessageTooLarge) => arrived.push(Arrived::TooLarge),
                    }
                    if gap {
                        arrived.push(Arrived::Gap);
                    }
                }
            }
        }
        if stored {
            let space = &mut self.spaces[lane.index()];
            space.on_received(number, body.len(), eliciting, self.limits.reliable, now);
        }
        arrived.extend(closed.map(Arrived::Closed));
        Ok(())
    }

    /// Refuses a body with anything wrong in it, so that a frame counts whole or not at all.
    fn check(&self, body: &Bytes) -> Result<(), Refused> {
        let mut at = 0;
        while let Some((chunk, next)) = chunk::read(body, at)? {
            at = next;
            match chunk {
                Chunk::Ack { lane, ack } if ack.largest >= self.next_number(lane) => {
                    return Err(Refused::AbsurdAck);
                }
                Chunk::Fragment { lane, offset, data } => {
                    let end = offset.checked_add(data.len() as u64).ok_or(Refused::OverCredit)?;
                    if !self.spaces[lane.index()].incoming.permits(end) {
                        return Err(Refused::OverCredit);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// On a reliable link acknowledgements measure the round trip and nothing else.
    fn on_timing(&mut self, lane: Lane, ack: &chunk::Ack, now: Instant) {
        let space = &mut self.spaces[lane.index()];
        let timed = space.sent.partition_point(|sent| sent.number <= ack.largest);
        let Some(last) = space.sent.drain(..timed).next_back() else { return };
        let delay = Duration::from_micros(ack.delay_micros);
        // The delay was counted from the arrival of the highest frame: for another one the sample is a guess.
        let exact = last.number == ack.largest && delay <= MAX_PEER_DELAY;
        if exact || self.rtt.smoothed().is_none() {
            self.rtt.sample(now.since(last.at), delay);
        }
    }

    fn on_ack(&mut self, lane: Lane, ack: &chunk::Ack, body: &[u8], now: Instant) {
        if self.limits.reliable {
            return self.on_timing(lane, ack, now);
        }
        let limited = !self.congestion.has_room();
        let (mut timed, mut news) = (None, false);
        let mut named = SmallVec::<[[Option<u64>; 2]; 4]>::new();
        let space = &mut self.spaces[lane.index()];
        for (start, end) in ack.ranges(body) {
            let from = space.sent.partition_point(|sent| sent.number < start);
            for sent in space.sent.range_mut(from..).take_while(|sent| sent.number < end) {
                if std::mem::replace(&mut sent.settled, true) {
                    continue;
                }
                news = true;
                if sent.number == ack.largest {
                    timed = Some(sent.at);
                }
                self.congestion.on_acked(sent.size, sent.at, limited);
                for &(start, end) in &sent.fragments {
                    space.out.on_acked(start, end);
                }
                if sent.named != [None; 2] {
                    named.push(sent.named);
                }
            }
        }
        space.largest_acked = space.largest_acked.max(Some(ack.largest));
        if let Some(at) = timed {
            self.rtt.sample(now.since(at), Duration::from_micros(ack.delay_micros).min(2 * ACK_DELAY));
        }
        if news {
            (self.probes, self.extra) = (0, 0);
        }
        self.declare_lost(lane, now);
        for highs in named {
            for (space, high) in self.spaces.iter_mut().zip(highs) {
                // The peer heard of everything up to here: no need to say it again.
                space.received.remove(0, high.unwrap_or(0));
            }
        }
    }

    /// Takes frames of `lane` for lost that were overtaken for too long: what they carried goes out again.
    fn declare_lost(&mut self, lane: Lane, now: Instant) {
        let mut renew = [false; 2];
        let space = &mut self.spaces[lane.index()];
        space.declare_lost(now, self.rtt.overtaken_timeout(), |sent| {
            self.congestion.on_lost(sent.size, sent.at, now);
            renew = [renew[0] | sent.credit[0], renew[1] | sent.credit[1]];
        });
        space.forget_settled();
        self.renew_credit(renew);
    }

    /// When the first overtaken frame counts as lost.
    fn lost_at(&self) -> Option<Instant> {
        let timeout = self.rtt.overtaken_timeout();
        let waiting = self.spaces.iter().filter(|_| !self.limits.reliable);
        waiting.filter_map(|space| space.lost_at(timeout)).min()
    }

    /// Credits of these lanes were lost: the next control frame tells them again.
    fn renew_credit(&mut self, lanes: [bool; 2]) {
        for (space, renew) in self.spaces.iter_mut().zip(lanes) {
            space.credit_lost |= renew;
        }
    }

    fn probe_at(&self) -> Option<Instant> {
        let waiting = !self.limits.reliable && self.spaces.iter().any(|space| !space.sent.is_empty());
        waiting.then(|| self.last_sent + self.rtt.probe_timeout(ACK_DELAY, self.probes))
    }

    /// How soon small frames of the control lane are in doubt. The probe timeout counts from the last frame, so that on a lane
    /// where one follows the other it does not notice what several of them and their acknowledgements lost.
    fn patience(&self) -> Patience {
        Patience { fresh: self.rtt.overtaken_timeout() + ACK_DELAY, again: self.rtt.repetition_timeout() }
    }

    /// When the first frame of the control lane is in doubt.
    fn doubted_at(&self) -> Option<Instant> {
        self.spaces[Lane::Control.index()].doubted_at(self.patience())
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called. `None` while idle.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let acks = self.spaces.iter().filter_map(|space| space.ack.deadline());
        acks.chain(self.probe_at()).chain(self.lost_at()).chain(self.doubted_at()).min()
    }

    /// Runs what is due at `now`.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for space in &mut self.spaces {
            space.ack.on_timeout(now);
        }
        if self.lost_at().is_some_and(|at| at <= now) {
            Lane::ALL.into_iter().for_each(|lane| self.declare_lost(lane, now));
        }
        if self.doubted_at().is_some_and(|at| at <= now) {
            let patience = self.patience();
            self.spaces[Lane::Control.index()].doubt(now, patience);
        }
        if self.probe_at().is_none_or(|at| at > now) {
            return;
        }
        self.probes = self.probes.saturating_add(1);
        self.extra = PROBE_FRAMES;
        self.last_sent = now;
        if self.probes >= PERSISTENT_PROBES {
            self.congestion.collapse();
        }
        let mut left = PROBE_FRAMES;
        let mut renew = [false; 2];
        for space in &mut self.spaces {
            space.once = false;
            for sent in space.sent.iter_mut().filter(|sent| !sent.settled) {
                if sent.credit == [false; 2]
                    && sent.fragments.iter().all(|&(start, end)| space.out.is_acked(start, end))
                {
                    // All of it arrived in other frames meanwhile.
                    sent.settled = true;
                    self.congestion.forget(sent.size);
                } else if left > 0 {
                    left -= 1;
                    let credit = std::mem::take(&mut sent.credit);
                    renew = [renew[0] | credit[0], renew[1] | credit[1]];
                    for &(start, end) in &sent.fragments {
                        space.out.on_lost(start, end);
                    }
                }
            }
            space.forget_settled();
        }
        self.renew_credit(renew);
    }

    /// Appends a close with `code`, the whole body of the next control frame.
    pub(crate) fn write_close(&mut self, code: u8, frame: &mut Vec<u8>) {
        chunk::put_close(code, frame);
        self.spaces[Lane::Control.index()].next_number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const ROUND_TRIP: Duration = Duration::from_millis(40);

    fn engine() -> Delivery {
        let limits = Limits {
            reliable: false,
            max_frame: 1_200,
            max_message: 1 << 20,
            window: 1 << 16,
            max_window: 1 << 16,
            queue: 1 << 20,
        };
        let mut engine = Delivery::new(limits);
        engine.seed_rtt(ROUND_TRIP);
        for _ in 0..50 {
            engine.rtt.sample(ROUND_TRIP, Duration::ZERO);
        }
        Lane::ALL.into_iter().for_each(|lane| engine.raise_credit(lane, 1 << 16));
        engine
    }

    /// The next frame, if one is due.
    fn frame(engine: &mut Delivery, now: Instant) -> Option<(Lane, u64, Bytes)> {
        let lane = engine.next_lane(now)?;
        let (number, mut body) = (engine.next_number(lane), Vec::new());
        engine.write(lane, now, 1_200, &mut body);
        Some((lane, number, body.into()))
    }

    fn send(engine: &mut Delivery, message: &'static [u8], now: Instant) -> (Lane, u64, Bytes) {
        engine.push(Lane::Bulk, Bytes::from_static(message)).unwrap();
        frame(engine, now).unwrap()
    }

    /// Two engines, of which one has received a frame of the other already.
    fn pair() -> (Delivery, Delivery, Vec<Arrived>) {
        let (mut here, mut there) = (engine(), engine());
        let (lane, number, body) = send(&mut here, b"zeroth", Instant::ZERO);
        there.read(lane, number, &body, Instant::ZERO + ROUND_TRIP / 2, &mut Vec::new()).unwrap();
        (here, there, Vec::new())
    }

    #[test]
    fn a_lost_frame_is_missed_when_the_next_one_is_acknowledged_a_round_trip_after_it() {
        let at = |ms: u32| Instant::ZERO + Duration::from_secs(1) + ms * MS;
        let (mut here, mut there, mut arrived) = pair();
        let _lost = send(&mut here, b"first", at(0));
        let (lane, number, body) = send(&mut here, b"second", at(10));
        there.read(lane, number, &body, at(30), &mut arrived).unwrap();
        let (lane, number, ack) = frame(&mut there, at(30)).unwrap();
        here.read(lane, number, &ack, at(50), &mut arrived).unwrap();
        let (lane, number, again) =
            frame(&mut here, at(50)).expect("sent again without waiting for two frames more");
        assert!(here.retransmitted() > 0 && arrived.is_empty());
        there.read(lane, number, &again, at(70), &mut arrived).unwrap();
        let message = |text: &'static [u8]| Arrived::Message(Lane::Bulk, Bytes::from_static(text));
        assert_eq!(arrived, [message(b"first"), message(b"second")]);
    }

    #[test]
    fn what_was_lost_of_the_control_lane_goes_out_in_two_frames_so_that_one_may_be_lost_too() {
        let at = |ms: u32| Instant::ZERO + Duration::from_secs(1) + ms * MS;
        let (mut here, mut there, mut arrived) = (engine(), engine(), Vec::new());
        here.push(Lane::Control, Bytes::from_static(b"fresh")).unwrap();
        let _lost = frame(&mut here, at(0)).unwrap();
        let deadline = here.next_deadline().unwrap();
        here.handle_timeout(deadline);
        let _lost_too = frame(&mut here, deadline).expect("a probe repeats it");
        let (lane, number, twin) = frame(&mut here, deadline).expect("and again");
        assert!(frame(&mut here, deadline).is_none(), "but no third time");
        let there_at = deadline + ROUND_TRIP / 2;
        there.read(lane, number, &twin, there_at, &mut arrived).unwrap();
        assert_eq!(arrived, [Arrived::Message(Lane::Control, Bytes::from_static(b"fresh"))]);
        let later = there_at + ACK_DELAY;
        let (lane, number, ack) = frame(&mut there, later).unwrap();
        here.read(lane, number, &ack, later + ROUND_TRIP / 2, &mut arrived).unwrap();
        assert!(frame(&mut here, at(1_000)).is_none(), "what arrived once is not repeated");
    }

    #[test]
    fn of_what_was_to_go_out_twice_only_that_goes_which_did_not_arrive_meanwhile() {
        let at = |ms: u32| Instant::ZERO + Duration::from_secs(1) + ms * MS;
        let (mut here, mut there, mut arrived) = (engine(), engine(), Vec::new());
        here.push(Lane::Control, Bytes::from_static(b"late")).unwrap();
        let (lane, number, late) = frame(&mut here, at(0)).unwrap();
        here.push(Lane::Control, Bytes::from_static(b"lost")).unwrap();
        let _lost = frame(&mut here, at(0)).unwrap();
        let deadline = here.next_deadline().unwrap();
        here.handle_timeout(deadline);
        let _both_again = frame(&mut here, deadline).expect("a probe repeats both");
        there.read(lane, number, &late, deadline, &mut arrived).unwrap();
        let (lane, number, ack) = frame(&mut there, deadline + ACK_DELAY).unwrap();
        here.read(lane, number, &ack, deadline + ACK_DELAY, &mut arrived).unwrap();
        let (lane, number, twin) = frame(&mut here, deadline + ACK_DELAY).expect("the second of them again");
        there.read(lane, number, &twin, deadline + 2 * ACK_DELAY, &mut arrived).unwrap();
        let both =
            [&b"late"[..], b"lost"].map(|text| Arrived::Message(Lane::Control, Bytes::from_static(text)));
        assert_eq!(arrived, both);
    }

    #[test]
    fn a_repetition_that_is_not_acknowledged_in_a_round_trip_and_an_eighth_goes_out_again_without_backing_off_once()
     {
        let (mut here, mut frames) = (engine(), Vec::new());
        here.push(Lane::Control, Bytes::from_static(b"fresh")).unwrap();
        let _lost = frame(&mut here, Instant::ZERO).unwrap();
        for _ in 0..5 {
            let deadline = here.next_deadline().unwrap();
            here.handle_timeout(deadline);
            let sent = std::iter::from_fn(|| frame(&mut here, deadline)).count();
            frames.extend((sent > 0).then_some((deadline, sent)));
        }
        let (first, again) = (frames[0], frames[1]);
        assert!(first.1 == 1 || first.1 == 2, "{frames:?}");
        assert!(again.0.since(first.0) <= ROUND_TRIP * 9 / 8 + MS && again.1 == 2, "{frames:?}");
        assert!(
            frames[3].0.since(frames[2].0) > frames[2].0.since(again.0),
            "then the probes back off: {frames:?}"
        );
    }

    #[test]
    fn bulk_that_was_lost_goes_out_once() {
        let at = |ms: u32| Instant::ZERO + Duration::from_secs(1) + ms * MS;
        let mut here = engine();
        let _lost = send(&mut here, b"much", at(0));
        let deadline = here.next_deadline().unwrap();
        here.handle_timeout(deadline);
        assert!(frame(&mut here, deadline).is_some() && frame(&mut here, deadline).is_none());
    }

    #[test]
    fn a_frame_that_was_overtaken_just_now_is_waited_for_and_then_sent_again_by_the_clock() {
        let at = |ms: u32| Instant::ZERO + Duration::from_secs(1) + ms * MS;
        let (mut here, mut there, mut arrived) = pair();
        let _late = send(&mut here, b"first", at(0));
        let (lane, number, body) = send(&mut here, b"second", at(1));
        there.read(lane, number, &body, at(21), &mut arrived).unwrap();
        let (lane, number, ack) = frame(&mut there, at(21)).unwrap();
        here.read(lane, number, &ack, at(41), &mut arrived).unwrap();
        assert!(frame(&mut here, at(41)).is_none(), "it may be under way still");
        let deadline = here.next_deadline().unwrap();
        assert!(deadline > at(41) && deadline < at(50), "{deadline:?}");
        here.handle_timeout(deadline);
        assert!(frame(&mut here, deadline).is_some() && here.retransmitted() > 0);
    }
}
