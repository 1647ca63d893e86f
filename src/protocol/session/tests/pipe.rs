//! Two sessions and the link between them: seeded loss, duplication, reordering, corruption and delay.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::super::*;
use crate::domain::id::NodeId;
use crate::domain::identity::Identity;
use crate::domain::link::{PortProfile, Priority};
use crate::domain::time::Instant;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// Splitmix64: enough to decide the fate of frames.
#[derive(Debug, Clone)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    pub(super) fn percent(&mut self, share: u64) -> bool {
        self.roll(100) < share
    }
}

/// Shares in percent.
#[derive(Debug, Clone)]
pub(super) struct Weather {
    pub(super) loss: u64,
    pub(super) duplication: u64,
    pub(super) corruption: u64,
    pub(super) delay: Duration,
    /// Up to this much more delay, drawn for each frame: this is what reorders.
    pub(super) jitter: Duration,
    /// How much longer frames of normal priority take: urgent ones overtake them.
    pub(super) queue: Duration,
}

pub(super) const FINE: Weather = Weather {
    loss: 0,
    duplication: 0,
    corruption: 0,
    delay: MS,
    jitter: Duration::ZERO,
    queue: Duration::ZERO,
};
pub(super) const STORM: Weather = Weather {
    loss: 30,
    duplication: 10,
    corruption: 5,
    delay: Duration::from_millis(10),
    jitter: Duration::from_millis(15),
    queue: Duration::from_millis(2),
};

pub(super) struct Side {
    pub(super) session: Session,
    pub(super) events: Vec<SessionEvent>,
    /// Messages per lane that this side got.
    pub(super) got: [Vec<Bytes>; 2],
    /// Messages per lane that still have to be queued here.
    pub(super) plan: [VecDeque<Bytes>; 2],
    /// Every frame it sent.
    pub(super) sent: Vec<Bytes>,
    pub(super) most_held: usize,
}

pub(super) struct Pipe {
    pub(super) sides: [Side; 2],
    pub(super) now: Instant,
    pub(super) weather: Weather,
    pub(super) dice: Dice,
    pub(super) in_flight: BTreeMap<(Instant, u64), (usize, Bytes)>,
    counter: u64,
}

pub(super) fn identity(n: u8) -> Identity {
    Identity::from_secret([n; 32])
}

pub(super) fn node(n: u8) -> NodeId {
    identity(n).node()
}

pub(super) fn seed(n: u64) -> [u8; 32] {
    *blake3::hash(&n.to_le_bytes()).as_bytes()
}

pub(super) fn lossy(max_frame: usize) -> PortProfile {
    PortProfile::unauthenticated(max_frame)
}

pub(super) fn session(
    n: u8,
    config: &SessionConfig,
    profile: PortProfile,
    dialed: bool,
    draw: u64,
) -> Session {
    Session::new(config.clone(), identity(n), profile, None, dialed, seed(draw), Instant::ZERO)
}

impl Pipe {
    pub(super) fn new(sessions: [Session; 2], weather: Weather, dice: u64) -> Self {
        let side = |session| Side {
            session,
            events: Vec::new(),
            got: Default::default(),
            plan: Default::default(),
            sent: Vec::new(),
            most_held: 0,
        };
        Self {
            sides: sessions.map(side),
            now: Instant::ZERO,
            weather,
            dice: Dice(dice),
            in_flight: BTreeMap::new(),
            counter: 0,
        }
    }

    /// Ana (node 1) dialled Ben (node 2).
    pub(super) fn dialled(profile: PortProfile, config: &SessionConfig, weather: Weather, draw: u64) -> Self {
        let sessions =
            [session(1, config, profile, true, 2 * draw), session(2, config, profile, false, 2 * draw + 1)];
        Self::new(sessions, weather, draw)
    }

    pub(super) fn plan(&mut self, side: usize, lane: Lane, messages: impl IntoIterator<Item = Bytes>) {
        self.sides[side].plan[lane.index()].extend(messages);
    }

    /// Hands `frame` to the link.
    pub(super) fn inject(&mut self, to: usize, frame: Bytes) {
        self.arrive(to, frame, Duration::ZERO);
    }

    fn arrive(&mut self, to: usize, frame: Bytes, queue: Duration) {
        let extra = self.dice.roll(self.weather.jitter.as_nanos() as u64 + 1);
        let at = self.now + queue + self.weather.delay + Duration::from_nanos(extra);
        self.counter += 1;
        self.in_flight.insert((at, self.counter), (to, frame));
    }

    fn send(&mut self, from: usize, frame: Bytes, priority: Priority) {
        let queue = if priority == Priority::Normal { self.weather.queue } else { Duration::ZERO };
        self.sides[from].sent.push(frame.clone());
        let copies = u64::from(!self.dice.percent(self.weather.loss))
            + u64::from(self.dice.percent(self.weather.duplication));
        for _ in 0..copies {
            if self.dice.percent(self.weather.corruption) {
                let mut broken = frame.to_vec();
                let at = self.dice.roll(broken.len() as u64) as usize;
                broken[at] ^= 1 << self.dice.roll(8);
                self.arrive(1 - from, broken.into(), queue);
            } else {
                self.arrive(1 - from, frame.clone(), queue);
            }
        }
    }

    /// Queues what is planned and fits, and sends what is to be sent.
    pub(super) fn pump(&mut self) {
        for index in 0..2 {
            let side = &mut self.sides[index];
            for lane in Lane::ALL {
                while let Some(message) = side.plan[lane.index()].pop_front() {
                    if let Err(LaneFull(message)) = side.session.send(lane, message) {
                        side.plan[lane.index()].push_front(message);
                        break;
                    }
                }
            }
            while let Some((frame, priority)) = self.sides[index].session.poll_transmit(self.now) {
                self.send(index, frame, priority);
            }
        }
    }

    fn take(&mut self, index: usize, events: Vec<SessionEvent>) {
        let side = &mut self.sides[index];
        side.most_held = side.most_held.max(side.session.held());
        for event in events {
            match event {
                SessionEvent::Message { lane, message } => side.got[lane.index()].push(message),
                event => side.events.push(event),
            }
        }
    }

    /// The next thing that happens, if anything ever does.
    pub(super) fn step(&mut self) -> bool {
        self.pump();
        let arrival = self.in_flight.keys().next().map(|key| key.0);
        let deadlines = [0, 1].map(|index| self.sides[index].session.next_deadline());
        let Some(next) = arrival.into_iter().chain(deadlines.into_iter().flatten()).min() else {
            return false;
        };
        self.now = self.now.max(next);
        for index in 0..2 {
            let mut events = Vec::new();
            if self.sides[index].session.next_deadline().is_some_and(|deadline| deadline <= self.now) {
                self.sides[index].session.handle_timeout(self.now, &mut events);
                self.take(index, events);
            }
        }
        while let Some(entry) = self.in_flight.first_entry()
            && entry.key().0 <= self.now
        {
            let (to, frame) = entry.remove();
            let mut events = Vec::new();
            self.sides[to].session.handle_frame(frame, self.now, &mut events);
            self.take(to, events);
            self.pump();
        }
        self.pump();
        true
    }

    /// Runs until nothing more will happen, or for `time`. Says which.
    pub(super) fn run(&mut self, time: Duration) -> bool {
        let end = self.now + time;
        while self.now < end {
            if !self.step() {
                return true;
            }
        }
        false
    }

    pub(super) fn run_until(&mut self, time: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + time;
        while !done(self) {
            if self.now >= end || !self.step() {
                return done(self);
            }
        }
        true
    }

    pub(super) fn is_established(&self) -> bool {
        self.sides.iter().all(|side| side.session.peer().is_some())
    }

    pub(super) fn binding(&self, side: usize) -> Vec<[u8; 32]> {
        let events = self.sides[side].events.iter();
        events
            .filter_map(|event| match event {
                SessionEvent::Established { binding, .. } => Some(*binding),
                _ => None,
            })
            .collect()
    }

    pub(super) fn closed(&self, side: usize) -> Option<CloseReason> {
        self.sides[side].events.iter().find_map(|event| match event {
            SessionEvent::Closed(reason) => Some(*reason),
            _ => None,
        })
    }
}

/// `count` messages of up to `most` bytes whose content tells them apart.
pub(super) fn messages(dice: &mut Dice, count: usize, most: u64) -> Vec<Bytes> {
    (0..count)
        .map(|index| {
            let len = dice.roll(most + 1) as usize;
            (0..len).map(|at| (index * 31 + at * 7 + at / 251) as u8).collect::<Vec<u8>>().into()
        })
        .collect()
}
