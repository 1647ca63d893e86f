//! foca in the group, as its authors configure it for a local network.
//!
//! Identities are an IPv4 address with a generation; a join is repeated every second until somebody answered, as its
//! documentation tells applications to.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use foca::{
    AccumulatingRuntime, Config, Foca, Identity, NoCustomBroadcast, OwnedNotification, PostcardCodec, Timer,
};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::group::{Engine, Out, View};

/// An address with a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Id {
    address: Ipv4Addr,
    generation: u16,
}

impl Id {
    fn of(node: usize, life: u64) -> Self {
        Self {
            address: Ipv4Addr::from(u32::try_from(node).unwrap_or(u32::MAX)),
            generation: life as u16 * 100,
        }
    }

    fn number(&self) -> usize {
        u32::from(self.address) as usize
    }
}

impl Identity for Id {
    type Addr = Ipv4Addr;

    fn renew(&self) -> Option<Self> {
        Some(Self { address: self.address, generation: self.generation.wrapping_add(1) })
    }

    fn addr(&self) -> Ipv4Addr {
        self.address
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.generation > adversary.generation
    }
}

/// foca, driven by the group.
pub struct Baseline {
    foca: Foca<Id, PostcardCodec, SmallRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Id>,
    timers: BTreeMap<(u64, u64), Timer<Id>>,
    number: u64,
    seeds: Vec<usize>,
    next_join: Option<u64>,
}

impl Baseline {
    fn settle(&mut self, now: u64, out: &mut Out) {
        while let Some((to, frame)) = self.runtime.to_send() {
            out.sends.push((to.number(), frame));
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.number += 1;
            self.timers.insert((now + after.as_nanos() as u64, self.number), timer);
        }
        while let Some(notification) = self.runtime.to_notify() {
            match notification {
                OwnedNotification::MemberUp(who) => out.changes.push((who.number(), View::Up)),
                OwnedNotification::MemberDown(who) => out.changes.push((who.number(), View::Down)),
                OwnedNotification::Rename(_, who) => out.changes.push((who.number(), View::Up)),
                _ => {}
            }
        }
        if self.foca.num_members() > 0 {
            self.next_join = None;
        }
    }
}

impl Engine for Baseline {
    fn new(node: usize, nodes: usize, life: u64, seed: u64, _now: u64) -> Self {
        let size = NonZeroU32::new(u32::try_from(nodes).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let foca = Foca::new(
            Id::of(node, life),
            Config::new_lan(size),
            SmallRng::seed_from_u64(seed),
            PostcardCodec,
        );
        Self {
            foca,
            runtime: AccumulatingRuntime::new(),
            timers: BTreeMap::new(),
            number: 0,
            seeds: Vec::new(),
            next_join: None,
        }
    }

    fn frame(&mut self, _from: usize, frame: Bytes, now: u64, out: &mut Out) {
        // What it refuses it says, and goes on.
        let _ = self.foca.handle_data(&frame, &mut self.runtime);
        self.settle(now, out);
    }

    fn timeout(&mut self, now: u64, out: &mut Out) {
        if self.next_join.is_some_and(|at| at <= now) {
            let seeds = self.seeds.clone();
            self.join(&seeds, now, out);
        }
        while let Some(due) = self.timers.first_entry() {
            if due.key().0 > now {
                break;
            }
            let timer = due.remove();
            let _ = self.foca.handle_timer(timer, &mut self.runtime);
            self.settle(now, out);
        }
    }

    fn deadline(&self) -> Option<u64> {
        self.timers.keys().next().map(|(at, _)| *at).into_iter().chain(self.next_join).min()
    }

    fn join(&mut self, seeds: &[usize], now: u64, out: &mut Out) {
        self.seeds = seeds.to_vec();
        for seed in seeds {
            let _ = self
                .foca
                .announce(Id { address: Id::of(*seed, 0).address, generation: 0 }, &mut self.runtime);
        }
        self.next_join = Some(now + Duration::from_secs(1).as_nanos() as u64);
        self.settle(now, out);
    }

    fn leave(&mut self, now: u64, out: &mut Out) {
        let _ = self.foca.leave_cluster(&mut self.runtime);
        self.settle(now, out);
    }
}
