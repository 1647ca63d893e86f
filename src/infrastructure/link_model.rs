//! A seeded model of links between endpoints: loss, delay, duplication, damage, reordering, bandwidth, partitions.
//!
//! Sans-IO: it has no clock, no task and no socket. Its owner hands in the time with each call, sleeps until
//! [`LinkModel::next_deadline`] and takes what [`LinkModel::poll`] yields. The same calls with the same seed give
//! the same events, on every platform. The [in-memory port](super::memory_port) and the simulator own one each.
//!
//! Every fault that happened is counted ([`LinkCounters`]), so that a test can prove that it tested something.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::link_profile::LinkProfile;
use super::prng::Prng;
use crate::application::ports::Priority;
use crate::domain::time::Instant;

/// What a queued frame costs besides its bytes: about the size of its queue slot. Bounds queues of empty frames.
pub const FRAME_COST: usize = 64;
/// Repairs of one frame after which a reliable link stops doubling the pause: 2^6 times 200 ms is 13 s.
const MAX_REPAIR_DOUBLINGS: u32 = 6;
/// Repairs of one frame after which a reliable link delivers it anyhow: a loss of 100 % is what partitions are for.
const MAX_REPAIRS: u32 = 64;
/// Most bits flipped in one corrupted frame.
const MAX_FLIPPED_BITS: u64 = 8;

/// One party of the model, numbered by its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint(pub u32);

/// One end of one link. Never reused within a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkEnd(u64);

impl LinkEnd {
    /// The end with this number: the inverse of [`number`](Self::number).
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// A number unique in the model.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The opposite end of the same link.
    pub const fn other(self) -> Self {
        Self(self.0 ^ 1)
    }

    const fn link(self) -> u64 {
        self.0 >> 1
    }

    const fn side(self) -> usize {
        (self.0 & 1) as usize
    }
}

/// What became of a frame handed to [`LinkModel::send`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum SendOutcome {
    /// Taken; whether it arrives is up to the profile.
    Queued,
    /// Not taken: too much is under way or unread. One [`LinkEvent::Writable`] follows.
    Full,
    /// Not taken: longer than the profile's frame limit.
    TooLarge,
    /// Not taken: this end is closed or never existed.
    NoLink,
}

/// What the owner has to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// A frame arrived. Its room stays taken until [`LinkModel::release`].
    Frame {
        /// Whose it is.
        to: Endpoint,
        /// The end at which it arrived.
        end: LinkEnd,
        /// The bytes, possibly damaged if the profile says so.
        frame: Bytes,
        /// What to hand to [`LinkModel::release`].
        cost: usize,
    },
    /// An end that answered [`SendOutcome::Full`] has room again.
    Writable {
        /// Whose it is.
        to: Endpoint,
        /// The end.
        end: LinkEnd,
    },
    /// The link is gone, because the other side closed it or somebody cut it. The last event of this end.
    Down {
        /// Whose it is.
        to: Endpoint,
        /// The end.
        end: LinkEnd,
    },
}

/// What happened to frames, in one direction between two endpoints or in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounters {
    /// Frames taken.
    pub sent: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// Frames handed to the receiver, copies included.
    pub delivered: u64,
    /// Bytes in them.
    pub delivered_bytes: u64,
    /// Frames lost by chance.
    pub lost: u64,
    /// Extra copies made.
    pub duplicated: u64,
    /// Frames with flipped bits.
    pub corrupted: u64,
    /// Frames cut short.
    pub truncated: u64,
    /// Frames held back so that others overtake them.
    pub reordered: u64,
    /// Frames that took longer than no time.
    pub delayed: u64,
    /// Frames swallowed by a partition.
    pub blocked: u64,
    /// Frames of reliable links that a partition held until it healed.
    pub held: u64,
    /// Losses and damages that a reliable link turned into delay.
    pub repaired: u64,
    /// Frames under way or unread when their link went down.
    pub lost_with_link: u64,
    /// Frames not taken because the link was full.
    pub refused_full: u64,
    /// Frames not taken because they were too large.
    pub refused_too_large: u64,
}

impl LinkCounters {
    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.sent_bytes += other.sent_bytes;
        self.delivered += other.delivered;
        self.delivered_bytes += other.delivered_bytes;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.corrupted += other.corrupted;
        self.truncated += other.truncated;
        self.reordered += other.reordered;
        self.delayed += other.delayed;
        self.blocked += other.blocked;
        self.held += other.held;
        self.repaired += other.repaired;
        self.lost_with_link += other.lost_with_link;
        self.refused_full += other.refused_full;
        self.refused_too_large += other.refused_too_large;
    }
}

/// From whom to whom.
type Route = (Endpoint, Endpoint);

/// Whether frames pass between two endpoints in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Gate {
    #[default]
    Open,
    Closed,
    FlipFlop {
        start: Instant,
        open: Duration,
        closed: Duration,
    },
}

/// How long a gate stays shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shut {
    Until(Instant),
    UntilHealed,
}

impl Gate {
    fn shut(self, now: Instant) -> Option<Shut> {
        match self {
            Self::Open => None,
            Self::Closed => Some(Shut::UntilHealed),
            Self::FlipFlop { start, open, closed } => {
                let (open, closed) = (open.as_nanos(), closed.as_nanos());
                let period = open + closed;
                let phase = now.since(start).as_nanos().checked_rem(period)?;
                let left = u64::try_from(period - phase).unwrap_or(u64::MAX);
                (phase >= open).then(|| Shut::Until(now + Duration::from_nanos(left)))
            }
        }
    }
}

/// A frame waiting for its turn on a link of limited bandwidth, or behind a partition.
#[derive(Debug)]
struct Waiting {
    frame: Bytes,
    cost: usize,
}

/// One direction of one link: what its sending end queued and what is under way.
#[derive(Debug)]
struct Direction {
    route: Route,
    profile: LinkProfile,
    gate: Gate,
    prng: Prng,
    high: VecDeque<Waiting>,
    normal: VecDeque<Waiting>,
    /// The sender is transmitting until then.
    busy_until: Instant,
    /// No frame may arrive before this one did, unless reordered.
    last_arrival: Instant,
    /// Frames of a reliable link that arrived at a shut gate, in order.
    held: VecDeque<Waiting>,
    /// What was taken and is neither lost nor released.
    outstanding: usize,
    wants_room: bool,
    /// The sending end closed the link; the receiver learns of it behind the last frame.
    closing: bool,
    counters: LinkCounters,
}

impl Direction {
    fn transmitting(&self, now: Instant) -> bool {
        self.busy_until > now || !self.high.is_empty() || !self.normal.is_empty()
    }
}

#[derive(Debug)]
struct Link {
    /// By the side that sends.
    directions: [Direction; 2],
    /// Ends that get no more events.
    gone: [bool; 2],
    /// Neither end can send any more, and what is under way is lost.
    cut: bool,
}

/// Something that happens at a set time. Ends are the sending ones.
#[derive(Debug)]
enum Due {
    Transmit(LinkEnd),
    Arrive { from: LinkEnd, frame: Bytes, cost: usize },
    Reopen(LinkEnd),
    Close(LinkEnd),
}

/// Links between endpoints, under a seed. See the [module](self).
///
/// ```
/// use std::time::Duration;
/// use anabranch::application::ports::Priority;
/// use anabranch::domain::time::Instant;
/// use anabranch::infrastructure::link_model::{Endpoint, LinkEvent, LinkModel};
/// use anabranch::infrastructure::link_profile::{Delay, LinkProfile};
///
/// let slow = LinkProfile { delay: Delay::fixed(Duration::from_millis(5)), ..LinkProfile::perfect() };
/// let mut model = LinkModel::new(1, slow);
/// let (ana, ben) = model.open(Instant::ZERO, Endpoint(0), Endpoint(1));
/// let _ = model.send(Instant::ZERO, ana, "hello".into(), Priority::Normal);
/// assert_eq!(model.poll(Instant::ZERO), None);
/// let due = model.next_deadline().expect("a frame is under way");
/// assert!(matches!(model.poll(due), Some(LinkEvent::Frame { end, .. }) if end == ben));
/// ```
#[derive(Debug)]
pub struct LinkModel {
    seed: u64,
    now: Instant,
    next_link: u64,
    next_due: u64,
    default: LinkProfile,
    profiles: BTreeMap<Route, LinkProfile>,
    gates: BTreeMap<Route, Gate>,
    links: BTreeMap<u64, Link>,
    /// By time, then in the order in which they were scheduled.
    due: BTreeMap<(Instant, u64), Due>,
    out: VecDeque<LinkEvent>,
    /// What the links that are gone counted.
    retired: BTreeMap<Route, LinkCounters>,
}

impl LinkModel {
    /// A model without links, whose links behave like `default` in both directions until told otherwise.
    pub fn new(seed: u64, default: LinkProfile) -> Self {
        Self {
            seed,
            now: Instant::ZERO,
            next_link: 0,
            next_due: 0,
            default,
            profiles: BTreeMap::new(),
            gates: BTreeMap::new(),
            links: BTreeMap::new(),
            due: BTreeMap::new(),
            out: VecDeque::new(),
            retired: BTreeMap::new(),
        }
    }

    /// A new link between two endpoints; the first end returned is that of `a`. Any number of links may join
    /// the same two. Opening takes no time and passes through partitions: ask [`passes`](Self::passes) first.
    pub fn open(&mut self, now: Instant, a: Endpoint, b: Endpoint) -> (LinkEnd, LinkEnd) {
        self.settle(now);
        let link = self.next_link;
        self.next_link += 1;
        let ends = (LinkEnd(link << 1), LinkEnd(link << 1 | 1));
        let directions = [self.direction((a, b), ends.0), self.direction((b, a), ends.1)];
        self.links.insert(link, Link { directions, gone: [false; 2], cut: false });
        ends
    }

    fn direction(&self, route: Route, from: LinkEnd) -> Direction {
        Direction {
            route,
            profile: self.profile(route.0, route.1),
            gate: self.gates.get(&route).copied().unwrap_or_default(),
            // A stream of draws per direction: traffic on one link moves no fault on another.
            prng: Prng::part(self.seed, from.0),
            high: VecDeque::new(),
            normal: VecDeque::new(),
            busy_until: self.now,
            last_arrival: self.now,
            held: VecDeque::new(),
            outstanding: 0,
            wants_room: false,
            closing: false,
            counters: LinkCounters::default(),
        }
    }

    /// Hands a frame to the link at its end `from`.
    pub fn send(&mut self, now: Instant, from: LinkEnd, frame: Bytes, priority: Priority) -> SendOutcome {
        self.settle(now);
        let now = self.now;
        let Some(link) = self.links.get_mut(&from.link()) else { return SendOutcome::NoLink };
        if link.cut || link.gone[from.side()] {
            return SendOutcome::NoLink;
        }
        let nobody_there = link.gone[from.other().side()];
        let direction = &mut link.directions[from.side()];
        if frame.len() > direction.profile.max_frame {
            direction.counters.refused_too_large += 1;
            return SendOutcome::TooLarge;
        }
        let cost = frame.len() + FRAME_COST;
        if direction.outstanding > 0 && direction.outstanding + cost > direction.profile.queue_bytes {
            direction.counters.refused_full += 1;
            direction.wants_room = true;
            return SendOutcome::Full;
        }
        direction.counters.sent += 1;
        direction.counters.sent_bytes += frame.len() as u64;
        if nobody_there {
            direction.counters.lost_with_link += 1;
            return SendOutcome::Queued;
        }
        direction.outstanding += cost;
        if direction.transmitting(now) {
            let queue = if priority == Priority::High { &mut direction.high } else { &mut direction.normal };
            queue.push_back(Waiting { frame, cost });
            return SendOutcome::Queued;
        }
        if direction.profile.is_instant() && direction.last_arrival <= now && direction.gate == Gate::Open {
            direction.counters.delivered += 1;
            direction.counters.delivered_bytes += frame.len() as u64;
            self.out.push_back(LinkEvent::Frame { to: direction.route.1, end: from.other(), frame, cost });
            return SendOutcome::Queued;
        }
        self.transmit(now, from, Waiting { frame, cost });
        SendOutcome::Queued
    }

    /// Gives back the room of a frame that its receiver took from its inbox; `end` and `cost` as in
    /// [`LinkEvent::Frame`]. Without it the link fills up, as a socket does whose other side does not read.
    pub fn release(&mut self, now: Instant, end: LinkEnd, cost: usize) {
        self.settle(now);
        self.give_room(end.other(), cost);
    }

    /// Closes the link at one end: that end gets no further event, the other one gets what is under way and
    /// then [`LinkEvent::Down`]. Closed and unknown ends are ignored.
    pub fn close(&mut self, now: Instant, end: LinkEnd) {
        self.settle(now);
        let now = self.now;
        let Some(link) = self.links.get_mut(&end.link()) else { return };
        if std::mem::replace(&mut link.gone[end.side()], true) {
            return;
        }
        if link.gone[end.other().side()] {
            return self.retire(end.link());
        }
        if link.cut {
            return;
        }
        let back = &mut link.directions[end.other().side()];
        let unsent =
            back.high.drain(..).count() + back.normal.drain(..).count() + back.held.drain(..).count();
        back.counters.lost_with_link += unsent as u64;
        let direction = &mut link.directions[end.side()];
        direction.closing = true;
        if !direction.transmitting(now) {
            let at = direction.last_arrival.max(now);
            self.schedule(at, Due::Close(end));
        }
    }

    /// Cuts the links between two endpoints: what is under way is lost, both sides get [`LinkEvent::Down`].
    pub fn cut(&mut self, now: Instant, a: Endpoint, b: Endpoint) {
        self.settle(now);
        for (number, link) in &mut self.links {
            let (from, to) = link.directions[0].route;
            if link.cut || ((from, to) != (a, b) && (from, to) != (b, a)) {
                continue;
            }
            link.cut = true;
            for (side, direction) in link.directions.iter_mut().enumerate() {
                let unsent = direction.high.drain(..).count()
                    + direction.normal.drain(..).count()
                    + direction.held.drain(..).count();
                direction.counters.lost_with_link += unsent as u64;
                if !link.gone[side] {
                    let end = LinkEnd(number << 1 | side as u64);
                    self.out.push_back(LinkEvent::Down { to: direction.route.0, end });
                }
            }
        }
    }

    /// Changes one direction, from now on and also for links that exist. Frames under way keep their fate.
    pub fn set_profile(&mut self, now: Instant, from: Endpoint, to: Endpoint, profile: LinkProfile) {
        self.settle(now);
        self.profiles.insert((from, to), profile);
        for direction in self.directions_mut((from, to)) {
            direction.profile = profile;
        }
    }

    /// The profile of one direction.
    pub fn profile(&self, from: Endpoint, to: Endpoint) -> LinkProfile {
        self.profiles.get(&(from, to)).copied().unwrap_or(self.default)
    }

    /// Lets nothing pass in either direction until healed. Links stay up: nobody is told.
    pub fn partition(&mut self, now: Instant, a: Endpoint, b: Endpoint) {
        self.block(now, a, b);
        self.block(now, b, a);
    }

    /// Lets nothing pass from one to the other until healed.
    pub fn block(&mut self, now: Instant, from: Endpoint, to: Endpoint) {
        self.set_gate(now, (from, to), Gate::Closed);
    }

    /// From now on lets frames pass for `open`, then nothing for `closed`, and so on, in both directions, until
    /// healed.
    pub fn flip_flop(&mut self, now: Instant, a: Endpoint, b: Endpoint, open: Duration, closed: Duration) {
        let gate = Gate::FlipFlop { start: self.now.max(now), open, closed };
        self.set_gate(now, (a, b), gate);
        self.set_gate(now, (b, a), gate);
    }

    /// Ends partitions, one-way blocks and flip-flops between two endpoints.
    pub fn heal(&mut self, now: Instant, a: Endpoint, b: Endpoint) {
        self.set_gate(now, (a, b), Gate::Open);
        self.set_gate(now, (b, a), Gate::Open);
    }

    /// Whether frames from one to the other pass at `now`.
    pub fn passes(&self, now: Instant, from: Endpoint, to: Endpoint) -> bool {
        self.gates.get(&(from, to)).is_none_or(|gate| gate.shut(now).is_none())
    }

    /// When [`poll`](Self::poll) will have something to do. `None`: only after another call.
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.out.is_empty() {
            return Some(self.now);
        }
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next event up to `now`, in order of time, then of cause. A `now` before an earlier one counts as that.
    pub fn poll(&mut self, now: Instant) -> Option<LinkEvent> {
        self.settle(now);
        loop {
            let event = self.out.pop_front()?;
            let (LinkEvent::Frame { end, .. }
            | LinkEvent::Writable { end, .. }
            | LinkEvent::Down { end, .. }) = &event;
            let end = *end;
            let Some(link) = self.links.get_mut(&end.link()) else { continue };
            if link.gone[end.side()] {
                continue;
            }
            if matches!(event, LinkEvent::Down { .. }) {
                link.gone[end.side()] = true;
                if link.gone[end.other().side()] {
                    self.retire(end.link());
                }
            }
            return Some(event);
        }
    }

    /// What happened so far, over all links.
    pub fn counters(&self) -> LinkCounters {
        self.sum(|_| true)
    }

    /// What happened so far to frames from one to the other.
    pub fn counters_between(&self, from: Endpoint, to: Endpoint) -> LinkCounters {
        self.sum(|route| route == (from, to))
    }

    fn sum(&self, wanted: impl Fn(Route) -> bool) -> LinkCounters {
        let mut total = LinkCounters::default();
        let live = self.links.values().flat_map(|link| &link.directions).map(|d| (d.route, &d.counters));
        let gone = self.retired.iter().map(|(route, counters)| (*route, counters));
        live.chain(gone).filter(|(route, _)| wanted(*route)).for_each(|(_, counters)| total.add(counters));
        total
    }

    fn schedule(&mut self, at: Instant, what: Due) {
        self.due.insert((at, self.next_due), what);
        self.next_due += 1;
    }

    /// Runs everything due up to `now`, each at its own time.
    fn settle(&mut self, now: Instant) {
        while let Some(entry) = self.due.first_entry() {
            let at = entry.key().0;
            if at > now {
                break;
            }
            self.now = self.now.max(at);
            match entry.remove() {
                Due::Transmit(from) => self.transmit_next(from),
                Due::Arrive { from, frame, cost } => self.arrive(from, Waiting { frame, cost }),
                Due::Reopen(from) => self.reopen(from),
                Due::Close(from) => self.deliver_close(from),
            }
        }
        self.now = self.now.max(now);
    }

    /// Puts a frame on the wire at `now`: it occupies the sender for as long as the bandwidth says, then travels.
    fn transmit(&mut self, now: Instant, from: LinkEnd, mut waiting: Waiting) {
        let Some(link) = self.links.get_mut(&from.link()) else { return };
        let direction = &mut link.directions[from.side()];
        let Direction { profile, prng, counters, .. } = direction;
        let mut at = now;
        if let Some(bandwidth) = profile.bandwidth {
            at = now + transmission_time(waiting.cost - FRAME_COST, bandwidth);
            direction.busy_until = at;
        }
        let mut delay = profile.delay.draw(prng);
        let (mut lost, mut copy_delay) = (false, None);
        if profile.reliable {
            let repairs = count_repairs(profile, prng);
            counters.repaired += u64::from(repairs);
            for repair in 0..repairs {
                delay = delay.saturating_add(profile.repair * (1 << repair.min(MAX_REPAIR_DOUBLINGS)));
            }
        } else {
            lost = profile.loss.hit(prng);
            if !lost {
                damage(profile, prng, counters, &mut waiting.frame);
                copy_delay = profile.duplicate.hit(prng).then(|| profile.delay.draw(prng));
            }
        }
        let reordered = !profile.reliable && !lost && profile.reorder.hit(prng);
        if lost {
            counters.lost += 1;
        }
        counters.duplicated += u64::from(copy_delay.is_some());
        counters.reordered += u64::from(reordered);
        counters.delayed += u64::from(!lost && !delay.is_zero());
        let mut arrival = (at + delay).max(direction.last_arrival);
        if reordered {
            arrival = arrival + profile.reorder_by;
        } else if !lost {
            direction.last_arrival = arrival;
        }
        let copy_arrival = copy_delay.map(|delay| (at + delay).max(arrival));
        let still_sending = direction.busy_until > now;
        let Waiting { frame, cost } = waiting;
        if lost {
            self.give_room(from, cost);
        } else if arrival > now {
            self.schedule(arrival, Due::Arrive { from, frame: frame.clone(), cost });
        } else {
            self.arrive(from, Waiting { frame: frame.clone(), cost });
        }
        if let Some(copy_arrival) = copy_arrival {
            // The copy takes no room of its own: a link owes its reader at most twice its queue.
            self.schedule(copy_arrival, Due::Arrive { from, frame, cost: 0 });
        }
        if still_sending {
            // Scheduled behind the arrival: with both due at once, the next frame may arrive at once too.
            self.schedule(at, Due::Transmit(from));
        }
    }

    /// The sender finished a frame: on to the next one, urgent ones first.
    fn transmit_next(&mut self, from: LinkEnd) {
        let now = self.now;
        loop {
            let Some(link) = self.links.get_mut(&from.link()) else { return };
            let direction = &mut link.directions[from.side()];
            if direction.busy_until > now {
                return; // and comes back here when that frame is out
            }
            if let Some(waiting) = direction.high.pop_front().or_else(|| direction.normal.pop_front()) {
                self.transmit(now, from, waiting);
                continue;
            }
            if direction.closing {
                let at = direction.last_arrival.max(now);
                self.schedule(at, Due::Close(from));
            }
            return;
        }
    }

    /// A frame reached the other end, or the partition before it.
    fn arrive(&mut self, from: LinkEnd, waiting: Waiting) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&from.link()) else { return };
        let direction = &mut link.directions[from.side()];
        if link.cut || link.gone[from.other().side()] {
            direction.counters.lost_with_link += 1;
            return;
        }
        let shut = direction.gate.shut(now);
        if direction.profile.reliable && (shut.is_some() || !direction.held.is_empty()) {
            direction.counters.held += 1;
            direction.held.push_back(waiting);
            if let (Some(Shut::Until(at)), 1) = (shut, direction.held.len()) {
                self.schedule(at, Due::Reopen(from));
            }
            return;
        }
        if shut.is_some() {
            direction.counters.blocked += 1;
            return self.give_room(from, waiting.cost);
        }
        Self::deliver(&mut self.out, direction, from, waiting);
    }

    fn deliver(out: &mut VecDeque<LinkEvent>, direction: &mut Direction, from: LinkEnd, waiting: Waiting) {
        let Waiting { frame, cost } = waiting;
        direction.counters.delivered += 1;
        direction.counters.delivered_bytes += frame.len() as u64;
        out.push_back(LinkEvent::Frame { to: direction.route.1, end: from.other(), frame, cost });
    }

    /// Delivers what a reliable link held, if the gate is open now.
    fn reopen(&mut self, from: LinkEnd) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&from.link()) else { return };
        let direction = &mut link.directions[from.side()];
        match direction.gate.shut(now) {
            None => {
                for waiting in std::mem::take(&mut direction.held) {
                    Self::deliver(&mut self.out, direction, from, waiting);
                }
            }
            Some(Shut::Until(at)) if !direction.held.is_empty() => self.schedule(at, Due::Reopen(from)),
            Some(_) => (),
        }
    }

    /// The receiver learns that the sender closed the link.
    fn deliver_close(&mut self, from: LinkEnd) {
        let Some(link) = self.links.get_mut(&from.link()) else { return };
        let direction = &mut link.directions[from.side()];
        direction.counters.lost_with_link += direction.held.drain(..).count() as u64;
        self.out.push_back(LinkEvent::Down { to: direction.route.1, end: from.other() });
    }

    /// Frees room at the sending end `from`; tells it once if it waits and half of its queue is free.
    fn give_room(&mut self, from: LinkEnd, cost: usize) {
        let Some(link) = self.links.get_mut(&from.link()) else { return };
        let direction = &mut link.directions[from.side()];
        direction.outstanding = direction.outstanding.saturating_sub(cost);
        if direction.wants_room && direction.outstanding <= direction.profile.queue_bytes / 2 {
            direction.wants_room = false;
            self.out.push_back(LinkEvent::Writable { to: direction.route.0, end: from });
        }
    }

    fn set_gate(&mut self, now: Instant, route: Route, gate: Gate) {
        self.settle(now);
        if gate == Gate::Open {
            self.gates.remove(&route);
        } else {
            self.gates.insert(route, gate);
        }
        let mut to_reopen = Vec::new();
        for (number, link) in &mut self.links {
            for (side, direction) in link.directions.iter_mut().enumerate() {
                if direction.route == route {
                    direction.gate = gate;
                    to_reopen.push(LinkEnd(number << 1 | side as u64));
                }
            }
        }
        to_reopen.into_iter().for_each(|from| self.reopen(from));
    }

    fn directions_mut(&mut self, route: Route) -> impl Iterator<Item = &mut Direction> {
        self.links.values_mut().flat_map(|link| &mut link.directions).filter(move |d| d.route == route)
    }

    /// Both ends are gone: keeps only what the link counted.
    fn retire(&mut self, link: u64) {
        let Some(link) = self.links.remove(&link) else { return };
        for direction in link.directions {
            self.retired.entry(direction.route).or_default().add(&direction.counters);
        }
    }
}

fn transmission_time(bytes: usize, bandwidth: u64) -> Duration {
    let nanos = (bytes as u128 * 1_000_000_000).checked_div(u128::from(bandwidth)).unwrap_or(u128::MAX);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How often a reliable link has to send a frame again.
fn count_repairs(profile: &LinkProfile, prng: &mut Prng) -> u32 {
    let mut repairs = 0;
    while repairs < MAX_REPAIRS
        && (profile.loss.hit(prng) || profile.corrupt.hit(prng) || profile.truncate.hit(prng))
    {
        repairs += 1;
    }
    repairs
}

fn damage(profile: &LinkProfile, prng: &mut Prng, counters: &mut LinkCounters, frame: &mut Bytes) {
    if profile.truncate.hit(prng) && !frame.is_empty() {
        frame.truncate(prng.below(frame.len() as u64) as usize);
        counters.truncated += 1;
    }
    if profile.corrupt.hit(prng) && !frame.is_empty() {
        let mut bytes = frame.to_vec();
        // Distinct neighbouring bits: two flips of the same one would undo each other.
        let bits = bytes.len() as u64 * 8;
        let (first, count) = (prng.below(bits), 1 + prng.below(MAX_FLIPPED_BITS));
        for bit in (first..first + count).map(|bit| bit % bits) {
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        *frame = bytes.into();
        counters.corrupted += 1;
    }
}

#[cfg(test)]
#[path = "link_model_tests.rs"]
mod tests;
