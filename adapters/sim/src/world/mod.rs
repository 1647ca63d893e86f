//! The world: nodes, a network, disks, clocks, a workload and faults, all functions of one seed.
//!
//! Time is virtual and jumps to the next event. Everything runs on the calling thread.

mod acts;
mod checks;
mod converge;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anabranch::domain::identity::SignatureScheme;
use anabranch::infrastructure::link_model::LinkModel;
use anabranch::infrastructure::link_profile::LinkProfile;
use anabranch::infrastructure::prng::Prng;
use anabranch::{MessageVersion, PeerAddr, PortProfile};
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;

use crate::core::{
    Clock, Core, Device, Due, Kind, NodeFacts, PortState, Shared, Trace, TraceHash, Violation,
};
use crate::cx::{NodeCx, Watched};
use crate::disk::{Image, SimDisk};
use crate::exec::{Executor, TaskId};
use crate::faults::{Action, FaultKind, FaultProfile, Planned, Planner};
use crate::hostile::{self, Hostile};
use crate::invariants::{self, Invariant};
use crate::panics::{self, PANIC};
use crate::ports::SimPort;
use crate::scheme::KeyedScheme;
use crate::seed::Seed;
use crate::store::SimStore;

/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// Tasks run at one moment after which it is called a livelock.
const MAX_STEPS_AT_ONCE: u64 = 300_000;
/// Frames of a link that takes larger ones are not limited by what a datagram may hold, in bytes.
const LARGE_FRAME: usize = 16 * 1024;
/// Longest time that a world runs at once: what it keeps looking at would otherwise take for ever.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);
/// Time between two looks at what nodes hold back.
const CENSUS: u64 = 5 * SECOND;
/// One in this many seeds runs on real ed25519 signatures.
const REAL_SIGNATURES: u64 = 16;
/// First part of the seed that nodes draw from.
const NODE_PARTS: u64 = 1 << 32;

/// A run that failed: which rule was broken, how, and when.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed} broke {:?} after {:.3} s: {}", .violation.rule, .violation.at as f64 / 1e9, .violation.what)]
pub struct Failure {
    /// The seed's number.
    pub seed: u64,
    /// What happened.
    pub violation: Violation,
    /// Hash of the run up to there.
    pub hash: TraceHash,
}

/// An error of the code that starts a node.
pub type BootError = Box<dyn std::error::Error>;

type Boot<A> = Rc<dyn Fn(NodeCx) -> LocalBoxFuture<'static, Result<A, BootError>>>;
type Worker<A> = Rc<dyn Fn(Tick, Rc<A>) -> LocalBoxFuture<'static, ()>>;

/// What a workload's act is told.
#[derive(Debug, Clone)]
pub struct Tick {
    /// The node that acts.
    pub node: usize,
    /// Number of the act, over all nodes and workloads.
    pub number: u64,
    /// Draws for this act.
    pub random: Prng,
}

/// What an act of a workload came to: nothing, or a result whose errors are counted and expected under faults.
pub trait Outcome {
    /// Whether it failed.
    fn failed(&self) -> bool;
}

impl Outcome for () {
    fn failed(&self) -> bool {
        false
    }
}

impl<T, E> Outcome for Result<T, E> {
    fn failed(&self) -> bool {
        self.is_err()
    }
}

pub(crate) struct Work<A> {
    period: u64,
    worker: Worker<A>,
}

/// How devices differ in what the world expects of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Added by the test.
    Node,
    /// Copied from a node by a fault: it writes and syncs, and ends when faults end.
    Clone,
    /// Means harm.
    Hostile,
}

struct Body<A> {
    boot: Boot<A>,
    role: Role,
    store: Option<SimStore>,
    backups: Vec<Image>,
    /// Tasks that are ready while the device is held.
    parked: Vec<TaskId>,
    /// It would not start: its store refused.
    broken: bool,
    sync_broken: bool,
}

/// Many devices under one seed. See the [crate](crate).
pub struct World<A> {
    seed: Seed,
    shared: Shared,
    exec: Executor,
    bodies: Vec<Body<A>>,
    apps: Rc<RefCell<Vec<Option<Rc<A>>>>>,
    boot_errors: Rc<RefCell<Vec<(usize, String)>>>,
    watched: Rc<RefCell<Vec<Option<Watched>>>>,
    /// Since when nodes do not run.
    ended: BTreeMap<anabranch::NodeId, u64>,
    works: Vec<Work<A>>,
    /// How many acts went well, and how many failed.
    acts: Rc<RefCell<[u64; 2]>>,
    /// Acts that have begun and not ended.
    under_way: Rc<()>,
    work_number: u64,
    working: bool,
    plan: Vec<Planned>,
    profile: FaultProfile,
    kinds: Vec<(FaultKind, u64)>,
    base: LinkProfile,
    scheme: Option<Arc<dyn SignatureScheme>>,
    draws: Prng,
    next_group: u32,
    /// Up to when faults were drawn.
    planned_to: u64,
    started: bool,
    /// How it failed: a world that did goes no further.
    failed: Option<Failure>,
    /// When faults were ended.
    healed: Vec<u64>,
    /// Nobody said how links are.
    drawn_links: bool,
    names: Rc<RefCell<BTreeMap<String, usize>>>,
}

impl<A: 'static> World<A> {
    /// An empty world. Everything in it will be a function of `seed`.
    pub fn new(seed: impl Into<Seed>) -> Self {
        let seed = seed.into();
        let number = seed.number();
        let mut draws = Prng::part(number, 1);
        let base = match draws.below(6) {
            0 => LinkProfile::loopback(),
            1 => LinkProfile::wifi(),
            2 => LinkProfile::mobile(),
            3 => LinkProfile::ble(),
            4 => LinkProfile::wifi().reliable(),
            _ => LinkProfile::loopback().reliable(),
        };
        let proven = draws.below(3) > 0;
        let real = draws.below(REAL_SIGNATURES) == 0;
        let trace = Trace::new(seed.record, seed.print);
        let chance = seed.cut.chance_of(number);
        let mut core = Core::new(chance, LinkModel::new(chance, base), trace);
        core.proven = proven;
        core.invariants = invariants::standard();
        let scheme: Option<Arc<dyn SignatureScheme>> =
            if real { None } else { Some(Arc::new(KeyedScheme::new(number))) };
        let profile = FaultProfile::Swarm;
        Self {
            kinds: profile.draw(number),
            seed,
            shared: Shared::new(core),
            exec: Executor::new(),
            bodies: Vec::new(),
            apps: Rc::default(),
            boot_errors: Rc::default(),
            watched: Rc::default(),
            ended: BTreeMap::new(),
            works: Vec::new(),
            acts: Rc::default(),
            under_way: Rc::new(()),
            work_number: 0,
            working: true,
            plan: Vec::new(),
            profile,
            base,
            scheme,
            draws,
            next_group: 0,
            planned_to: 0,
            started: false,
            failed: None,
            healed: Vec::new(),
            drawn_links: true,
            names: Rc::default(),
        }
    }

    /// Which faults this world has. Default: [`FaultProfile::Swarm`]. Before nodes are added. In a calm one, links that
    /// were drawn lose nothing; links that were chosen are as they were chosen.
    pub fn faults(&mut self, profile: FaultProfile) -> &mut Self {
        self.kinds = profile.draw(self.seed.number());
        if profile == FaultProfile::Calm && self.drawn_links {
            self.base = self.base.reliable();
            let chance = self.seed.cut.chance_of(self.seed.number());
            self.shared.lock().model = LinkModel::new(chance, self.base);
        }
        self.profile = profile;
        self
    }

    /// How links behave where no fault says otherwise. Default: drawn. Before nodes are added.
    pub fn network(&mut self, base: LinkProfile) -> &mut Self {
        self.base = base;
        self.drawn_links = false;
        let mut core = self.shared.lock();
        core.model = LinkModel::new(self.seed.cut.chance_of(self.seed.number()), base);
        drop(core);
        self
    }

    /// Whether links prove who is there, as TLS with client certificates does; otherwise nodes run their own
    /// encrypted sessions. Default: drawn, two of three do.
    pub fn proven_links(&mut self, proven: bool) -> &mut Self {
        self.shared.lock().proven = proven;
        self
    }

    /// Whether nodes sign with ed25519 rather than with a cheap stand-in. Default: drawn, one in 16 does. Before
    /// nodes are added.
    pub fn real_signatures(&mut self, real: bool) -> &mut Self {
        self.scheme = if real { None } else { Some(Arc::new(KeyedScheme::new(self.seed.number()))) };
        self
    }

    /// Adds an invariant to the standard ones.
    pub fn invariant(&mut self, invariant: impl Invariant + 'static) -> &mut Self {
        self.shared.lock().invariants.push(Box::new(invariant));
        self
    }

    /// Replaces all invariants.
    pub fn invariants(&mut self, invariants: Vec<Box<dyn Invariant>>) -> &mut Self {
        self.shared.lock().invariants = invariants;
        self
    }

    /// Adds a node: `boot` builds it, when the world begins and again at each restart, from the ports that it is handed. In a world
    /// that runs already it starts at once. The name is its address.
    ///
    /// # Panics
    /// If another node has this name.
    pub fn node<F>(&mut self, name: &str, boot: impl Fn(NodeCx) -> F + 'static) -> usize
    where
        F: Future<Output = Result<A, BootError>> + 'static,
    {
        let boot: Boot<A> = Rc::new(move |cx| boot(cx).boxed_local());
        let node = self.device(name, boot, Role::Node);
        self.boot_again(node);
        if self.started && self.working {
            for work in 0..self.works.len() {
                self.schedule_act(work, node);
            }
        }
        node
    }

    /// Adds a device that means harm, besides those that faults add: it dials every node and is admitted wherever
    /// anybody is. It ends when faults end.
    ///
    /// # Panics
    /// If another node has this name.
    pub fn hostile(&mut self, name: &str, kind: Hostile) -> usize {
        let device = self.device(name, Rc::new(hostile::boot(kind)), Role::Hostile);
        self.boot_again(device);
        device
    }

    fn device(&mut self, name: &str, boot: Boot<A>, role: Role) -> usize {
        let index = self.bodies.len();
        let mut prng = Prng::part(self.seed.number(), NODE_PARTS + index as u64);
        let skewed = self.kinds.iter().any(|(kind, _)| *kind == FaultKind::ClockSkew);
        let skew = if skewed { [1, 100, 4_000, 400_000][prng.below(4) as usize] } else { 0 };
        let skew = Duration::from_millis(prng.below(skew * 1_000 + 1));
        let clock = Clock::new(skew, prng.below(2) == 0, 0);
        let mixed = self.kinds.iter().any(|(kind, _)| *kind == FaultKind::OldVersion);
        let version = if mixed && prng.below(2) == 0 { MessageVersion::V1 } else { MessageVersion::NEWEST };
        let namesake = self.names.borrow_mut().insert(name.to_owned(), index);
        assert!(namesake.is_none(), "two devices are called {name:?}, and names are addresses");
        self.bodies.push(Body {
            boot,
            role,
            store: None,
            backups: Vec::new(),
            parked: Vec::new(),
            broken: false,
            sync_broken: false,
        });
        self.apps.borrow_mut().push(None);
        self.watched.borrow_mut().push(None);
        let mut core = self.shared.lock();
        if !skew.is_zero() {
            core.fault("clock_skew", 1);
        }
        if version < MessageVersion::NEWEST {
            core.fault("old_version", 1);
        }
        core.devices.push(Device {
            name: name.into(),
            clock,
            incarnation: 0,
            starts: 0,
            up: false,
            node: None,
            port: PortState::default(),
            disk: SimDisk::default(),
            place: index as u64,
            held_until: None,
            step_cost: 0,
            disk_delay: 0,
            version,
        });
        core.facts.nodes.push(NodeFacts { hostile: role == Role::Hostile, ..NodeFacts::default() });
        drop(core);
        index
    }

    /// Lets every node do something again and again, each at its own phase.
    ///
    /// # Panics
    /// If the period is zero: then time would never pass.
    pub fn every<F>(&mut self, period: Duration, work: impl Fn(Tick, Rc<A>) -> F + 'static) -> &mut Self
    where
        F: Future + 'static,
        F::Output: Outcome,
    {
        assert!(!period.is_zero(), "acts without time between them");
        let acts = Rc::clone(&self.acts);
        let worker: Worker<A> = Rc::new(move |tick, app| {
            let act = work(tick, app);
            let acts = Rc::clone(&acts);
            async move {
                let failed = act.await.failed();
                acts.borrow_mut()[usize::from(failed)] += 1;
            }
            .boxed_local()
        });
        self.works.push(Work { period: nanos(period), worker });
        if self.started && self.working {
            self.schedule_work(self.works.len() - 1);
        }
        self
    }

    /// Scripts a fault, besides those of the profile. One that names a node that is not there when it happens fails the run.
    pub fn at(&mut self, after: Duration, action: Action) -> &mut Self {
        let group = self.next_group;
        self.next_group += 1;
        if !self.seed.cut.faults.contains(&group) {
            self.enter_plan([Planned { at: nanos(after), group, action }]);
        }
        self
    }

    fn enter_plan(&mut self, planned: impl IntoIterator<Item = Planned>) {
        let mut core = self.shared.lock();
        for planned in planned {
            core.schedule(planned.at, Due::Act(self.plan.len()));
            self.plan.push(planned);
        }
    }

    /// The seed's number.
    pub fn seed(&self) -> u64 {
        self.seed.number()
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.shared.lock().now)
    }

    /// Says that an interesting situation was reached; reports count them.
    pub fn sometimes(&self, situation: &str) {
        self.shared.lock().sometimes(situation);
    }

    /// As [`sometimes`](Self::sometimes) if it is `reached`, and otherwise says that it might have been: over all seeds,
    /// the report names those that never were.
    pub fn sometimes_if(&self, situation: &str, reached: bool) {
        let mut core = self.shared.lock();
        match reached {
            true => core.sometimes(situation),
            false => core.possible(situation),
        }
    }

    /// The application on a node, if it is up.
    pub fn app(&self, node: usize) -> Option<Rc<A>> {
        self.apps.borrow().get(node)?.clone()
    }

    /// Indices of the nodes that were added by hand. Those that are left out of a run to make it smaller are not there.
    pub fn nodes(&self) -> Vec<usize> {
        self.added().into_iter().filter(|node| !self.seed.cut.nodes.contains(node)).collect()
    }

    /// As [`nodes`](Self::nodes), with those that are left out: what is drawn for the others must not depend on them.
    fn added(&self) -> Vec<usize> {
        added(&self.bodies)
    }

    fn start(&mut self) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        self.note_setting();
        for kind in hostile::kinds(&self.kinds).iter() {
            let mut name = kind.name().to_owned();
            while self.names.borrow().contains_key(&name) {
                name.push_str("-drawn");
            }
            self.device(&name, Rc::new(hostile::boot(*kind)), Role::Hostile);
        }
        for node in 0..self.bodies.len() {
            if !self.seed.cut.nodes.contains(&node) {
                self.boot(node);
            }
        }
        for work in 0..self.works.len() {
            self.schedule_work(work);
        }
        let now = self.shared.lock().now;
        self.shared.lock().schedule(now + CENSUS, Due::Census);
    }

    /// Which of the settings that are drawn this world has, for the report.
    fn note_setting(&self) {
        let mut core = self.shared.lock();
        let profiles = [
            ("links like loopback", LinkProfile::loopback()),
            ("links like Wi-Fi", LinkProfile::wifi()),
            ("links like a mobile network", LinkProfile::mobile()),
            ("links like Bluetooth Low Energy", LinkProfile::ble()),
        ];
        let alike = |(_, profile): &(&str, LinkProfile)| {
            profile.delay == self.base.delay && profile.loss == self.base.loss
        };
        if let Some((name, _)) = profiles.into_iter().find(alike) {
            core.sometimes(name);
        }
        if self.base.reliable {
            core.sometimes("links that lose nothing");
        } else if self.base.max_frame < LARGE_FRAME {
            core.fault("frame_size_limit", 1);
        }
        let proven = core.proven;
        core.sometimes(match proven {
            true => "links that prove who is there",
            false => "sessions that are encrypted and authenticated by the library",
        });
        if self.scheme.is_none() {
            core.sometimes("real ed25519 signatures");
        }
    }

    fn schedule_work(&mut self, work: usize) {
        for node in self.added() {
            self.schedule_act(work, node);
        }
    }

    fn schedule_act(&mut self, work: usize, node: usize) {
        let phase = self.draws.below(self.works[work].period);
        let mut core = self.shared.lock();
        let at = core.now + phase;
        core.schedule(at, Due::Work(work, node));
    }

    /// Runs the world for a time, at most ten years at once: the safety phase, with workload and faults. After
    /// [`heal`](Self::heal) another one begins, with both.
    ///
    /// # Errors
    /// [`Failure`]: an invariant was broken, now or before, or the time is longer than that.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Failure> {
        self.not_for_ever("run_for", time)?;
        self.start();
        if !std::mem::replace(&mut self.working, true) {
            for work in 0..self.works.len() {
                self.schedule_work(work);
            }
        }
        let now = self.shared.lock().now;
        let to = now.saturating_add(nanos(time)).min(self.seed.cut.stop.unwrap_or(u64::MAX)).max(now);
        self.draw_plan(now.saturating_add(nanos(time)));
        self.advance(to)
    }

    /// Runs the world until `done` says so, at most for `limit`, which is at most ten years; it is asked after every event. In a
    /// safety phase, which is until faults are [ended](Self::heal), faults are drawn for as long as `limit`; those that did not happen yet
    /// happen in what follows.
    ///
    /// # Errors
    /// [`Failure`]: an invariant was broken, or the time is up.
    pub fn run_until(&mut self, limit: Duration, done: impl FnMut(&Self) -> bool) -> Result<(), Failure> {
        self.not_for_ever("run_until", limit)?;
        self.start();
        if self.working {
            let now = self.shared.lock().now;
            self.draw_plan(now.saturating_add(nanos(limit)));
        }
        if self.wait(limit, done)? {
            return Ok(());
        }
        Err(self.fail("run_until", format!("what was waited for did not happen within {limit:?}")))
    }

    fn not_for_ever(&mut self, rule: &str, time: Duration) -> Result<(), Failure> {
        match time > LONGEST {
            true => Err(self.fail(rule, format!("{time:?} is longer than ten years"))),
            false => Ok(()),
        }
    }

    /// Lets time pass until `done`, at most for `limit`; whether it came to that.
    fn wait(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> Result<bool, Failure> {
        self.start();
        let until = self.shared.lock().now.saturating_add(nanos(limit));
        loop {
            self.settle()?;
            if done(self) {
                return Ok(true);
            }
            if !self.jump(until)? {
                return Ok(false);
            }
        }
    }

    /// Draws faults from now, or from where they were drawn to, up to a moment.
    fn draw_plan(&mut self, to: u64) {
        let from = self.planned_to.max(self.shared.lock().now);
        if to <= from {
            return;
        }
        self.planned_to = to;
        let mut planner = Planner {
            seed: self.seed.number(),
            nodes: self.added().len(),
            from,
            to,
            base: self.base,
            damage: !self.shared.lock().proven,
            next_group: self.next_group,
            plan: Vec::new(),
        };
        if planner.nodes == 0 {
            return;
        }
        for (kind, strength) in &self.kinds {
            planner.add(*kind, *strength);
        }
        self.next_group = planner.next_group;
        let mut plan = planner.plan;
        plan.retain(|planned| !self.seed.cut.faults.contains(&planned.group));
        plan.sort_by_key(|planned| planned.at);
        self.enter_plan(plan);
    }

    /// Runs one future on the world's own account, while time passes.
    ///
    /// # Errors
    /// [`Failure`]: an invariant was broken, or `limit` has passed.
    pub fn run<T: 'static>(
        &mut self,
        limit: Duration,
        future: impl Future<Output = T> + 'static,
    ) -> Result<T, Failure> {
        let value = self.answer(limit, future)?;
        value.ok_or_else(|| self.fail("run", format!("the future did not end within {limit:?}")))
    }

    /// As [`run`](Self::run); `None` if `limit` has passed.
    fn answer<T: 'static>(
        &mut self,
        limit: Duration,
        future: impl Future<Output = T> + 'static,
    ) -> Result<Option<T>, Failure> {
        let slot: Rc<RefCell<Option<T>>> = Rc::default();
        let filled = Rc::clone(&slot);
        let task = async move {
            let value = future.await;
            *filled.borrow_mut() = Some(value);
        };
        self.exec.spawner.spawn(None, task.boxed_local());
        self.wait(limit, |_| slot.borrow().is_some())?;
        let value = slot.borrow_mut().take();
        Ok(value)
    }

    fn advance(&mut self, until: u64) -> Result<(), Failure> {
        loop {
            self.settle()?;
            if !self.jump(until)? {
                return Ok(());
            }
        }
    }

    /// Runs all tasks that can run now.
    fn settle(&mut self) -> Result<(), Failure> {
        if let Some(failure) = &self.failed {
            return Err(failure.clone());
        }
        let mut steps = 0_u64;
        loop {
            while let Some((id, owner)) = {
                let shared = &self.shared;
                self.exec.next(|n| shared.lock().prng.below(n as u64) as usize)
            } {
                steps += 1;
                if let Some((device, _)) = owner {
                    let mut core = self.shared.lock();
                    let now = core.now;
                    let held = core.devices[device].held_until.is_some_and(|until| until > now);
                    if held {
                        drop(core);
                        self.bodies[device].parked.push(id);
                        continue;
                    }
                    let cost = core.devices[device].step_cost;
                    if cost > 0 {
                        let until = now.saturating_add(cost);
                        core.devices[device].held_until = Some(until);
                        core.schedule(until, Due::Release(device));
                    }
                }
                let polled = panics::caught(|| self.exec.poll(id));
                if let Err(text) = polled {
                    let whose = owner.map_or("the world".to_owned(), |(node, _)| format!("node {node}"));
                    return Err(self.fail(PANIC, format!("a task of {whose} panicked: {text}")));
                }
                if steps > MAX_STEPS_AT_ONCE {
                    return Err(self.fail("livelock", "tasks run for ever at one moment".into()));
                }
            }
            // What became of starts counts now: a moment later, faults may have ended.
            if !self.check_boots()? && !self.shared.lock().deliver() {
                break;
            }
        }
        let violation = self.shared.lock().violation.clone();
        match violation {
            Some(violation) => Err(self.failure(violation)),
            None => Ok(()),
        }
    }

    /// Goes to the next event at or before `until` and lets it happen. `false`: there is none, and it is `until`.
    fn jump(&mut self, until: u64) -> Result<bool, Failure> {
        let due = {
            let mut core = self.shared.lock();
            let network = core.model.next_deadline().map(anabranch::Instant::as_nanos);
            let other = core.due.first_key_value().map(|(key, _)| key.0);
            let next = network.into_iter().chain(other).min().filter(|at| *at <= until);
            let Some(at) = next else {
                core.now = core.now.max(until);
                return Ok(false);
            };
            core.now = core.now.max(at);
            if network.is_some_and(|network| network <= core.now) {
                core.deliver();
            }
            let now = core.now;
            match core.due.first_entry() {
                Some(entry) if entry.key().0 <= now => entry.remove(),
                _ => return Ok(true),
            }
        };
        match due {
            Due::Wake(node, waker) => {
                self.shared.lock().event(node, Kind::Timer, &[], String::new);
                waker.wake();
            }
            Due::Disk(store, job) => store.run(job),
            Due::Release(device) => self.release(device),
            Due::Act(at) => self.act(at),
            Due::Work(work, node) => self.work(work, node),
            Due::Census => self.census(),
        }
        Ok(true)
    }

    fn release(&mut self, device: usize) {
        let mut core = self.shared.lock();
        let now = core.now;
        if core.devices[device].held_until.is_some_and(|until| until > now) {
            return;
        }
        core.devices[device].held_until = None;
        drop(core);
        let parked = std::mem::take(&mut self.bodies[device].parked);
        self.exec.put_back(parked);
    }

    fn work(&mut self, work: usize, node: usize) {
        if !self.working {
            return;
        }
        let number = self.work_number;
        self.work_number += 1;
        {
            let mut core = self.shared.lock();
            let at = core.now.saturating_add(self.works[work].period);
            core.schedule(at, Due::Work(work, node));
        }
        if self.seed.cut.work.contains(&number) {
            return;
        }
        let Some(app) = self.app(node) else { return };
        let random = Prng::part(self.seed.number() ^ NODE_PARTS, number);
        let owner = {
            let mut core = self.shared.lock();
            core.event(Some(node), Kind::Work, &number.to_le_bytes(), || format!("act {number}"));
            Some((node, core.devices[node].incarnation))
        };
        let act = (self.works[work].worker)(Tick { node, number, random }, app);
        let guard = Rc::clone(&self.under_way);
        self.exec.spawner.spawn(owner, act.map(move |_| drop(guard)).boxed_local());
    }

    fn boot(&mut self, node: usize) {
        let (seed, incarnation, starts) = {
            let mut core = self.shared.lock();
            if core.devices[node].up {
                return;
            }
            let device = &mut core.devices[node];
            device.up = true;
            device.incarnation += 1;
            device.starts += 1;
            device.held_until = None;
            device.step_cost = 0;
            device.port.open = true;
            device.port.inbox.clear();
            let (incarnation, starts) = (device.incarnation, device.starts);
            core.facts.nodes[node].frames_taken = 0;
            core.event(Some(node), Kind::Boot, &starts.to_le_bytes(), || format!("start {starts}"));
            (self.seed.number(), incarnation, starts)
        };
        let secret = derive(seed, node, 0, "identity");
        let store = match SimStore::open(&self.shared, node, secret, self.scheme.clone()) {
            Ok(store) => store,
            Err(error) => {
                self.boot_errors.borrow_mut().push((node, error.to_string()));
                return;
            }
        };
        self.bodies[node].store = Some(store.clone());
        let profile = PortProfile::unauthenticated(self.base.max_frame);
        let profile = if self.base.reliable { profile.reliable() } else { profile };
        let port = SimPort { shared: self.shared.clone(), node, incarnation, profile };
        let owner = Some((node, incarnation));
        let (name, peers) = {
            let core = self.shared.lock();
            let others = (0..core.devices.len())
                .filter(|at| *at != node && self.bodies[*at].role == Role::Node)
                .filter(|at| !self.seed.cut.nodes.contains(at));
            let peers: Rc<[PeerAddr]> = others.map(|at| PeerAddr::new(&*core.devices[at].name)).collect();
            (Rc::from(&*core.devices[node].name), peers)
        };
        let cx = NodeCx {
            index: node,
            starts,
            name,
            store,
            port,
            seed: derive(seed, node, incarnation, "seed"),
            spawner: self.exec.spawner.clone(),
            owner,
            shared: self.shared.clone(),
            watched: Rc::clone(&self.watched),
            peers,
        };
        let boot = (self.bodies[node].boot)(cx);
        let (apps, errors) = (Rc::clone(&self.apps), Rc::clone(&self.boot_errors));
        let task = async move {
            match boot.await {
                Ok(app) => apps.borrow_mut()[node] = Some(Rc::new(app)),
                Err(error) => errors.borrow_mut().push((node, error.to_string())),
            }
        };
        self.exec.spawner.spawn(owner, task.boxed_local());
    }

    /// What became of starts: one that fails though nothing was done to its disk is a failure of the run. Whether any did.
    fn check_boots(&mut self) -> Result<bool, Failure> {
        if self.boot_errors.borrow().is_empty() {
            return Ok(false);
        }
        let errors = std::mem::take(&mut *self.boot_errors.borrow_mut());
        for (node, error) in errors {
            let mut core = self.shared.lock();
            core.event(Some(node), Kind::BootFailed, error.as_bytes(), || error.clone());
            let full = core.devices[node].disk.is_limited();
            let expected = core.facts.nodes[node].damaged || self.bodies[node].sync_broken || full;
            core.sometimes("a node did not start");
            drop(core);
            if !expected {
                return Err(self.fail("start", format!("node {node} did not start: {error}")));
            }
            // A full disk is emptied when faults end, and then the node starts.
            self.bodies[node].broken = !full && !self.bodies[node].sync_broken;
            self.stop(node, false);
        }
        Ok(true)
    }

    /// Ends a node as a crash does.
    fn stop(&mut self, node: usize, silent: bool) {
        let owner = {
            let mut core = self.shared.lock();
            if !core.devices[node].up {
                return;
            }
            core.devices[node].up = false;
            core.event(Some(node), Kind::Crash, &[u8::from(silent)], String::new);
            Some((node, core.devices[node].incarnation))
        };
        self.exec.end(owner);
        self.apps.borrow_mut()[node] = None;
        self.watched.borrow_mut()[node] = None;
        self.bodies[node].parked.clear();
        if let Some(store) = self.bodies[node].store.take() {
            store.kill();
        }
        let mut core = self.shared.lock();
        core.unplug(node, silent);
        // No port of the past incarnation answers any more, whoever holds it.
        core.devices[node].incarnation += 1;
        let disk = core.devices[node].disk.clone();
        disk.crash(&mut core.prng);
        self.bodies[node].sync_broken = false;
    }

    fn fail(&mut self, rule: &str, what: String) -> Failure {
        let at = self.shared.lock().now;
        self.failure(Violation { rule: rule.to_owned(), what, at })
    }

    fn failure(&mut self, violation: Violation) -> Failure {
        let hash = self.shared.lock().trace.hash();
        let failure = Failure { seed: self.seed.number(), violation, hash };
        self.failed.get_or_insert(failure).clone()
    }
}

impl<A> Drop for World<A> {
    fn drop(&mut self) {
        for store in self.bodies.iter_mut().filter_map(|body| body.store.take()) {
            store.kill();
        }
        self.watched.borrow_mut().clear();
        self.apps.borrow_mut().clear();
        // What is due refers to stores, and they to the core: without this the world would never be freed.
        let due = std::mem::take(&mut self.shared.lock().due);
        drop(due);
        let threads = self.exec.saw_threads();
        self.exec = Executor::new();
        if let Some(report) = &self.seed.report {
            let mut core = self.shared.lock();
            let counters = core.model.counters();
            // That links take time and can be full is how they are: no fault where there are none.
            let calm = self.profile == FaultProfile::Calm && self.plan.is_empty();
            for (name, count) in [
                ("loss", counters.lost),
                ("duplicate", counters.duplicated),
                ("corrupt", counters.corrupted),
                ("truncate", counters.truncated),
                ("reorder", counters.reordered),
                ("delay", if calm { 0 } else { counters.delayed }),
                ("blocked", counters.blocked + counters.held),
                ("full_link", if calm { 0 } else { counters.refused_full }),
            ] {
                core.fault(name, count);
            }
            for at in 0..core.devices.len() {
                let hits = core.devices[at].disk.take_hits();
                core.fault("unsynced_lost", hits.lost);
                core.fault("unsynced_kept", hits.survived);
                core.fault("torn_write", hits.torn);
                core.fault("refused_by_full_disk", hits.full);
                core.fault("failed_sync", hits.sync_failed);
                core.fault("failed_write", hits.write_failed);
            }
            if !self.works.is_empty() {
                let [well, failed] = *self.acts.borrow();
                core.situations.insert("an act of the workload went well".to_owned(), well);
                core.situations.insert("an act of the workload failed".to_owned(), failed);
            }
            if threads {
                core.sometimes("WARNING: another thread woke a task; the run is not a function of its seed");
            }
            let mut report = report.borrow_mut();
            report.events += core.trace.events();
            for (kind, count) in core.trace.kinds() {
                *report.kinds.entry(kind).or_default() += count;
            }
            report.virtual_nanos += core.now;
            report.hash.combine(core.trace.hash());
            for (name, count) in &core.faults {
                *report.faults.entry(name).or_default() += count;
            }
            for (name, count) in &core.situations {
                *report.situations.entry(name.clone()).or_default() += count;
            }
            report.trace.extend(core.trace.list().iter().cloned());
            report.plan.append(&mut self.plan);
            report.healed.append(&mut self.healed);
            report.work += self.work_number;
            report.added = added(&self.bodies);
            report.nodes = core.devices.iter().map(|device| device.name.to_string()).collect();
        }
    }
}

fn added<A>(bodies: &[Body<A>]) -> Vec<usize> {
    (0..bodies.len()).filter(|at| bodies[*at].role == Role::Node).collect()
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn derive(seed: u64, node: usize, incarnation: u32, what: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("anabranch-sim 1 node");
    hasher.update(what.as_bytes());
    hasher.update(&seed.to_le_bytes());
    hasher.update(&(node as u64).to_le_bytes());
    hasher.update(&incarnation.to_le_bytes());
    *hasher.finalize().as_bytes()
}

impl<A> std::fmt::Debug for World<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("seed", &self.seed.number()).finish_non_exhaustive()
    }
}
