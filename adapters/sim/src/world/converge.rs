//! The second phase: faults end, and nodes must come to hold the same, and then be quiet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anabranch::domain::id::LogKey;
use anabranch::{ChannelId, Tip};

use super::{Failure, Role, SECOND, World, nanos};
use crate::core::{Due, Seen, endpoint};
use crate::invariants::{Invariant as _, Quiet};

/// How often convergence is looked at.
const LOOK_EVERY: u64 = SECOND / 4;
/// How often quiet is waited for: slow links need minutes to drain what was queued on them.
const PATIENCE: u32 = 10;

impl<A: 'static> World<A> {
    /// Ends the workload and all faults: links as they were meant to be, all nodes up, clocks right, disks sound. What was drawn or
    /// scripted for later does not happen any more.
    pub fn heal(&mut self) {
        self.start();
        self.working = false;
        let now = self.shared.lock().now;
        self.healed.push(now);
        // Acts too: a further phase plans its own.
        self.shared.lock().due.retain(|_, due| !matches!(due, Due::Act(_) | Due::Work(..)));
        self.planned_to = now;
        for node in 0..self.bodies.len() {
            if self.bodies[node].role != Role::Node {
                self.stop(node, false);
            }
        }
        {
            let mut core = self.shared.lock();
            let now = core.time();
            let devices = core.devices.len();
            for a in 0..devices {
                for b in 0..devices {
                    core.model.set_profile(now, endpoint(a), endpoint(b), self.base);
                }
                for b in a + 1..devices {
                    core.model.heal(now, endpoint(a), endpoint(b));
                }
                let at = core.now;
                let device = &mut core.devices[a];
                device.clock.repair(at);
                device.step_cost = 0;
                device.disk_delay = 0;
                device.held_until = None;
                device.disk.set_capacity(None);
            }
        }
        for node in 0..self.bodies.len() {
            self.release(node);
            if self.bodies[node].sync_broken {
                self.stop(node, false);
            }
            if self.bodies[node].role == Role::Node {
                self.boot_again(node);
            }
        }
    }

    /// [Heals](Self::heal), then waits until all sound nodes hold the same of every channel that they share, checks
    /// the order of what they read, and that they are quiet.
    ///
    /// # Errors
    /// [`Failure`]: they did not converge within `limit`, or an invariant was broken.
    pub fn heal_and_converge(&mut self, limit: Duration) -> Result<(), Failure> {
        self.heal();
        self.not_for_ever("heal_and_converge", limit)?;
        let until = self.shared.lock().now.saturating_add(nanos(limit));
        loop {
            let now = self.shared.lock().now;
            self.advance((now + LOOK_EVERY).min(until))?;
            match self.unstarted().or_else(|| self.difference()) {
                None => break,
                Some(difference) if self.shared.lock().now >= until => {
                    let seen = Seen::Stuck { difference: &format!("after {limit:?}: {difference}") };
                    self.shared.lock().see(&seen);
                    return self.settle();
                }
                Some(_) => {}
            }
        }
        let shared = self.shares_a_channel();
        self.sometimes_if("nodes that converged shared a channel", shared);
        self.read_all()
    }

    /// Whether some channel is held by two sound nodes: otherwise there was nothing to converge.
    fn shares_a_channel(&self) -> bool {
        let sound = self.sound();
        let core = self.shared.lock();
        let mut seen = BTreeSet::new();
        let mut held = sound.into_iter().flat_map(|node| core.facts.nodes[node].channels.keys());
        held.any(|channel| !seen.insert(*channel))
    }

    /// Whose start has not ended.
    fn unstarted(&self) -> Option<String> {
        let apps = self.apps.borrow();
        let core = self.shared.lock();
        let node = self.nodes().into_iter().find(|node| core.devices[*node].up && apps[*node].is_none())?;
        Some(format!("node {node} is still starting"))
    }

    /// Lets converged nodes be for a while and checks that they say little (I8). What was under way when they
    /// converged may leave first: the check is made again, at most ten times, until they are quiet.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn stay_quiet(&mut self, time: Duration) -> Result<(), Failure> {
        self.not_for_ever("stay_quiet", time)?;
        if self.sound().len() < self.nodes().len() {
            // A node that cannot read its disk goes on asking for what it lacks.
            return Ok(());
        }
        for patience in (0..PATIENCE).rev() {
            let before = self.spoken();
            let now = self.shared.lock().now;
            self.advance(now.saturating_add(nanos(time)))?;
            let after = self.spoken();
            let nodes = self.sound().len() as u64;
            let bytes = after.1 - before.1;
            let seen = Seen::Quiet {
                pairs: nodes * nodes.saturating_sub(1) / 2,
                frames: after.0 - before.0,
                bytes,
                time,
                comparisons: after.2.saturating_sub(before.2),
            };
            let mut core = self.shared.lock();
            let loud = Quiet::default().see(&core.facts, &seen).is_err();
            if loud && patience > 0 {
                core.sometimes("converged nodes still had something to say");
                continue;
            }
            core.see(&seen);
            break;
        }
        self.settle()
    }

    fn spoken(&self) -> (u64, u64, u64) {
        let counters = self.shared.lock().model.counters();
        let watched = self.watched.borrow();
        let comparisons = watched.iter().flatten().map(|watched| watched.node.metrics().comparisons).sum();
        (counters.sent, counters.sent_bytes, comparisons)
    }

    /// How sound nodes differ in what their stores hold; `None` if they do not, and nobody is about to write more.
    pub fn difference(&self) -> Option<String> {
        let acts = std::rc::Rc::strong_count(&self.under_way) - 1;
        if acts > 0 {
            return Some(format!("{acts} acts of the workload have not ended"));
        }
        let sound = self.sound();
        let busy = |node: &&usize| {
            self.bodies[**node].store.as_ref().is_some_and(|store| store.has_entries_under_way())
        };
        if let Some(node) = sound.iter().find(busy) {
            return Some(format!("entries of node {node} are not durable yet"));
        }
        let core = self.shared.lock();
        let facts = &core.facts;
        let channels: BTreeSet<ChannelId> =
            sound.iter().flat_map(|node| facts.nodes[*node].channels.keys().copied()).collect();
        for channel in channels {
            let members = sound.iter().copied().filter(|node| {
                let mine = facts.nodes[*node].id;
                facts.nodes[*node].channels.contains_key(&channel)
                    && sound.iter().all(|other| {
                        let admission = facts.nodes[*other].channels.get(&channel);
                        admission.is_none_or(|admission| mine.is_some_and(|mine| admission.admits(&mine)))
                    })
            });
            // Entries of those whom one of them does not admit need not get everywhere.
            let everywhere = |log: &LogKey| {
                let author = facts.logs.get(log).map(|log| log.name.author);
                let admissions = sound.iter().filter_map(|node| facts.nodes[*node].channels.get(&channel));
                author.is_some_and(|author| admissions.into_iter().all(|admission| admission.admits(&author)))
            };
            let mut first: Option<(usize, BTreeMap<LogKey, BTreeSet<Tip>>)> = None;
            for node in members {
                let mut holdings = facts.holdings(node, &channel);
                holdings.retain(|log, _| everywhere(log));
                match &first {
                    None => first = Some((node, holdings)),
                    Some((other, expected)) if *expected != holdings => {
                        return Some(describe(*other, expected, node, &holdings));
                    }
                    Some(_) => {}
                }
            }
        }
        None
    }
}

fn describe(
    a: usize,
    of_a: &BTreeMap<LogKey, BTreeSet<Tip>>,
    b: usize,
    of_b: &BTreeMap<LogKey, BTreeSet<Tip>>,
) -> String {
    let keys: BTreeSet<&LogKey> = of_a.keys().chain(of_b.keys()).collect();
    let differing: Vec<&LogKey> = keys.into_iter().filter(|key| of_a.get(key) != of_b.get(key)).collect();
    let tips = |tips: Option<&BTreeSet<Tip>>| -> Vec<u64> {
        tips.map(|tips| tips.iter().map(|tip| tip.sequence).collect()).unwrap_or_default()
    };
    let shown: Vec<String> = differing
        .iter()
        .take(3)
        .map(|key| format!("{:?} against {:?}", tips(of_a.get(key)), tips(of_b.get(key))))
        .collect();
    format!("nodes {a} and {b} differ in {} logs: {}", differing.len(), shown.join(", "))
}
