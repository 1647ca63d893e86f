//! How late small messages of the control lane arrive over a link that loses frames: two engines and a link in virtual time.
//! Tests only.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::{Arrived, Delivery, Lane, Limits};
use crate::domain::time::Instant;

const ONE_WAY: Duration = Duration::from_millis(20);
const ROUND_TRIP: Duration = Duration::from_millis(40);
/// A lost frame can be missed when the next one is acknowledged and an eighth of a round trip is over by which frames may
/// overtake each other, or where the next one is later than that, when it is not acknowledged.
const NOTICEABLE: Duration = Duration::from_millis(50);
/// About what a fresh entry of 100 bytes takes with its signature.
const MESSAGE_BYTES: usize = 230;
const MAX_FRAME: usize = 1_200;

/// Two ends of a link; the first one sends messages.
struct World {
    ends: [Delivery; 2],
    dice: u64,
    now: Instant,
    /// Frames on their way: by arrival and order of departure, to whom, and what.
    air: BTreeMap<(Instant, u64), (usize, Lane, u64, Bytes)>,
    departed: u64,
    lost_per_mille: u64,
    /// Bytes of all frames in both directions.
    bytes: u64,
    appended: Vec<Instant>,
    latencies: Vec<Duration>,
}

impl World {
    fn new(seed: u64, lost_per_mille: u64) -> Self {
        let end = || {
            let limits = Limits {
                reliable: false,
                max_frame: MAX_FRAME,
                max_message: 1 << 20,
                window: 1 << 20,
                max_window: 1 << 20,
                queue: 1 << 20,
            };
            let mut end = Delivery::new(limits);
            end.seed_rtt(ROUND_TRIP);
            Lane::ALL.into_iter().for_each(|lane| end.raise_credit(lane, 1 << 20));
            end
        };
        Self {
            ends: [end(), end()],
            dice: seed,
            now: Instant::ZERO,
            air: BTreeMap::new(),
            departed: 0,
            lost_per_mille,
            bytes: 0,
            appended: Vec::new(),
            latencies: Vec::new(),
        }
    }

    /// SplitMix64 again, as everywhere where a seed is enough.
    fn roll(&mut self, bound: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.dice ^ (self.dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// What the ends have to send goes on its way.
    fn flush(&mut self) {
        for from in 0..2 {
            while let Some(lane) = self.ends[from].next_lane(self.now) {
                let (number, mut body) = (self.ends[from].next_number(lane), Vec::new());
                self.ends[from].write(lane, self.now, MAX_FRAME, &mut body);
                self.bytes += body.len() as u64;
                self.departed += 1;
                if self.roll(1000) >= self.lost_per_mille {
                    let arrival = (self.now + ONE_WAY, self.departed);
                    self.air.insert(arrival, (1 - from, lane, number, body.into()));
                }
            }
        }
    }

    fn append(&mut self) {
        let mut message = vec![0; MESSAGE_BYTES];
        message[..8].copy_from_slice(&(self.appended.len() as u64).to_le_bytes());
        self.appended.push(self.now);
        self.ends[0].push(Lane::Control, message.into()).unwrap();
        self.flush();
    }

    /// Lets time pass until `end`.
    fn run_until(&mut self, end: Instant) {
        loop {
            let frame = self.air.first_key_value().map(|(&(at, _), _)| at);
            let deadline = self.ends.iter().filter_map(Delivery::next_deadline).min();
            let Some(next) = frame.into_iter().chain(deadline).min().filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            while let Some(entry) = self.air.first_entry()
                && entry.key().0 <= self.now
            {
                let (to, lane, number, body) = entry.remove();
                let mut arrived = Vec::new();
                self.ends[to].read(lane, number, &body, self.now, &mut arrived).unwrap();
                for arrived in arrived {
                    let Arrived::Message(_, message) = arrived else { panic!("{arrived:?}") };
                    let index = u64::from_le_bytes(message[..8].try_into().unwrap()) as usize;
                    assert_eq!(index, self.latencies.len(), "out of order");
                    self.latencies.push(self.now.since(self.appended[index]));
                }
                self.flush();
            }
            for end in &mut self.ends {
                if end.next_deadline().is_some_and(|at| at <= self.now) {
                    end.handle_timeout(self.now);
                }
            }
            self.flush();
        }
        self.now = end;
    }
}

/// `count` messages, one each `period`.
fn stream(seed: u64, lost_per_mille: u64, count: usize, period: Duration) -> World {
    let mut world = World::new(seed, 0);
    for _ in 0..CALM {
        world.append();
        world.run_until(world.now + period);
    }
    world.lost_per_mille = lost_per_mille;
    for _ in 0..count {
        world.append();
        world.run_until(world.now + period);
    }
    world.run_until(world.now + 100 * ROUND_TRIP);
    assert_eq!(world.latencies.len(), count + CALM);
    world
}

/// Messages of which none is lost, before the loss begins: the round trip is known then.
const CALM: usize = 50;

/// With a tenth of the frames lost, of `count` messages per seed: how many came later than two round trips after their loss
/// could be noticed, and how many times the bytes were sent that it takes without loss.
fn late_and_bytes(seeds: u64, count: usize, period: Duration) -> (usize, f64) {
    let clean = stream(0, 0, count, period).bytes;
    let (mut late, mut bytes) = (0, 0);
    for seed in 0..seeds {
        let world = stream(seed, 100, count, period);
        late += world.latencies.iter().filter(|latency| **latency > NOTICEABLE + 2 * ROUND_TRIP).count();
        bytes += world.bytes;
    }
    (late, bytes as f64 / seeds as f64 / clean as f64)
}

#[test]
fn of_ten_thousand_fresh_messages_one_may_come_later_than_two_round_trips_after_its_loss_could_be_noticed() {
    for period in [10, 20, 50] {
        let (late, bytes) = late_and_bytes(20, 2_000, Duration::from_millis(period));
        assert!(late * 10_000 <= 20 * 2_000, "{late} late, one each {period} ms");
        assert!(bytes < 1.9, "{bytes} times the bytes, one each {period} ms");
    }
}

#[test]
fn without_loss_nothing_is_sent_again() {
    for period in [1, 10, 50, 500] {
        let world = stream(0, 0, 500, Duration::from_millis(period));
        assert_eq!(world.ends[0].retransmitted(), 0);
        assert!(world.latencies.iter().all(|latency| *latency == ONE_WAY));
    }
}

#[test]
fn a_link_that_went_silent_is_told_each_fresh_message_a_few_times_and_not_for_ever() {
    let mut world = World::new(0, 1_000);
    for _ in 0..10 {
        world.append();
        world.run_until(world.now + Duration::from_millis(10));
    }
    world.run_until(world.now + 10 * ROUND_TRIP);
    let early = world.departed;
    world.run_until(world.now + Duration::from_secs(60));
    // Each probe is two frames, one each five seconds in the end.
    assert!(early <= 60 && world.departed - early <= 60, "{early} at once, {} later", world.departed - early);
}
