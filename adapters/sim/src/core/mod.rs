//! What all parts of a world share: true time, what is due, the network, the devices, the books.
//!
//! One lock guards all of it; it is taken for one call at a time and never while a task runs. Wakers called
//! under it only mark tasks. The ports that nodes are handed are thin views of it.

mod clock;
mod facts;
mod trace;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use anabranch::infrastructure::link_model::{Endpoint, LinkEnd, LinkEvent, LinkModel};
use anabranch::infrastructure::prng::Prng;
use anabranch::{LinkId, MessageVersion, NodeId, PortEvent};

pub(crate) use self::clock::Clock;
pub use self::facts::{AuthorFacts, Facts, LogFacts, NodeFacts, Seen};
pub(crate) use self::trace::Trace;
pub use self::trace::{Kind, TraceEvent, TraceHash};
use crate::disk::SimDisk;
use crate::invariants::Invariant;
use crate::store::{Job, StoreInner};

/// Handle of the shared state.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<Core>>);

impl Shared {
    pub(crate) fn new(core: Core) -> Self {
        Self(Arc::new(Mutex::new(core)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happens at a set time.
pub(crate) enum Due {
    /// A task waits for it.
    Wake(Option<usize>, Waker),
    /// A store has something to do.
    Disk(Arc<StoreInner>, Job),
    /// A held node may run again.
    Release(usize),
    /// A fault begins or ends: its place in the plan.
    Act(usize),
    /// The workload number so and so on a node.
    Work(usize, usize),
    /// Look at everything.
    Census,
}

/// When something is due, and its number.
pub(crate) type DueKey = (u64, u64);

/// An invariant that did not hold, or another reason to call the run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant, or what kind of check.
    pub rule: String,
    /// What was seen.
    pub what: String,
    /// True time, in nanoseconds.
    pub at: u64,
}

/// One node's end of the network.
#[derive(Default)]
pub(crate) struct PortState {
    pub(crate) open: bool,
    pub(crate) inbox: VecDeque<Inbox>,
    pub(crate) waker: Option<Waker>,
    /// Ends of links of the present incarnation, with the node at the other end.
    pub(crate) links: BTreeMap<LinkEnd, usize>,
    /// Ends of links of incarnations that died without a word.
    pub(crate) ghosts: BTreeMap<LinkEnd, usize>,
}

pub(crate) enum Inbox {
    Event(PortEvent),
    Frame { end: LinkEnd, frame: bytes::Bytes, cost: usize },
}

/// One device.
pub(crate) struct Device {
    pub(crate) name: Arc<str>,
    pub(crate) clock: Clock,
    /// How often it was started.
    pub(crate) starts: u32,
    /// Rises with each start and each stop: what belongs to a past one counts no more.
    pub(crate) incarnation: u32,
    pub(crate) up: bool,
    pub(crate) node: Option<NodeId>,
    pub(crate) port: PortState,
    pub(crate) disk: SimDisk,
    /// Where the store thinks it is.
    pub(crate) place: u64,
    /// Its tasks do not run before then.
    pub(crate) held_until: Option<u64>,
    /// What each run of one of its tasks costs.
    pub(crate) step_cost: u64,
    /// What each write costs besides the usual.
    pub(crate) disk_delay: u64,
    /// What the build that is installed speaks.
    pub(crate) version: MessageVersion,
}

pub(crate) struct Core {
    pub(crate) now: u64,
    next_due: u64,
    pub(crate) due: BTreeMap<DueKey, Due>,
    pub(crate) model: LinkModel,
    pub(crate) devices: Vec<Device>,
    pub(crate) facts: Facts,
    pub(crate) invariants: Vec<Box<dyn Invariant>>,
    pub(crate) trace: Trace,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) situations: BTreeMap<String, u64>,
    pub(crate) violation: Option<Violation>,
    /// Draws that are not part of the plan: which task runs, how long a disk takes.
    pub(crate) prng: Prng,
    /// Links prove who is there.
    pub(crate) proven: bool,
    pub(crate) open_links: u64,
    /// A moment, and how many sleeps of no time ended at it.
    empty_sleeps: (u64, u32),
}

impl Core {
    pub(crate) fn new(seed: u64, model: LinkModel, trace: Trace) -> Self {
        Self {
            now: 0,
            next_due: 0,
            due: BTreeMap::new(),
            model,
            devices: Vec::new(),
            facts: Facts::default(),
            invariants: Vec::new(),
            trace,
            faults: BTreeMap::new(),
            situations: BTreeMap::new(),
            violation: None,
            prng: Prng::part(seed, 2),
            proven: false,
            open_links: 0,
            empty_sleeps: (0, 0),
        }
    }

    pub(crate) fn time(&self) -> anabranch::Instant {
        anabranch::Instant::from_nanos(self.now)
    }

    pub(crate) fn schedule(&mut self, at: u64, due: Due) -> DueKey {
        let key = (at.max(self.now), self.next_due);
        self.next_due += 1;
        self.due.insert(key, due);
        key
    }

    pub(crate) fn event(
        &mut self,
        node: Option<usize>,
        kind: Kind,
        bytes: &[u8],
        text: impl FnOnce() -> String,
    ) {
        self.trace.add(self.now, node, kind, None, bytes, text);
    }

    pub(crate) fn fault(&mut self, name: &'static str, count: u64) {
        if count > 0 {
            *self.faults.entry(name).or_default() += count;
        }
    }

    /// Counts a sleep of no time; whether there were more than `most` at this moment.
    pub(crate) fn is_one_of_many_empty_sleeps(&mut self, most: u32) -> bool {
        if self.empty_sleeps.0 != self.now {
            self.empty_sleeps = (self.now, 0);
        }
        self.empty_sleeps.1 = self.empty_sleeps.1.saturating_add(1);
        self.empty_sleeps.1 > most
    }

    /// Enters a situation that may be reached, so that reports can say that it never was.
    pub(crate) fn possible(&mut self, name: &str) {
        if !self.situations.contains_key(name) {
            self.situations.insert(name.to_owned(), 0);
        }
    }

    pub(crate) fn sometimes(&mut self, name: &str) {
        match self.situations.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                self.situations.insert(name.to_owned(), 1);
            }
        }
    }

    /// The run has failed; the first reason counts.
    pub(crate) fn violate(&mut self, rule: &str, what: impl Into<String>) {
        if self.violation.is_none() {
            let violation = Violation { rule: rule.to_owned(), what: what.into(), at: self.now };
            self.event(None, Kind::Note, &[], || {
                format!("violation of {}: {}", violation.rule, violation.what)
            });
            self.violation = Some(violation);
        }
    }

    /// Notes in the trace what a device holds after the event just added.
    pub(crate) fn note_holds(&mut self, node: usize) {
        let facts = &self.facts.nodes[node];
        self.trace.holds(node, || facts.entries());
    }

    /// Shows something to all invariants, then enters it in the books.
    pub(crate) fn see(&mut self, seen: &Seen<'_>) {
        let mut broken = None;
        for invariant in &mut self.invariants {
            if let Err(what) = invariant.see(&self.facts, seen) {
                broken = broken.or(Some((invariant.name(), what)));
            }
        }
        if let Some((rule, what)) = broken {
            self.violate(rule, what);
        }
        self.facts.enter(seen);
    }

    /// Opens a link between two devices whose ports are open, and tells both.
    pub(crate) fn open_link(&mut self, from: usize, to: usize) -> LinkId {
        let now = self.time();
        let (a, b) = self.model.open(now, endpoint(from), endpoint(to));
        self.open_links += 1;
        for (device, end, other, dialed) in [(from, a, to, true), (to, b, from, false)] {
            let proven = if self.proven { self.devices[other].node } else { None };
            self.event(Some(device), Kind::Up, &[u8::from(dialed)], || {
                format!("link {} {} node {other}", end.number() >> 1, if dialed { "to" } else { "from" })
            });
            let port = &mut self.devices[device].port;
            port.links.insert(end, other);
            let link = LinkId(end.number());
            port.inbox.push_back(Inbox::Event(PortEvent::Up { link, proven, dialed }));
            wake(port);
        }
        LinkId(a.number())
    }

    /// Delivers what the network has due by now; whether there was anything.
    pub(crate) fn deliver(&mut self) -> bool {
        let now = self.time();
        let mut any = false;
        while let Some(event) = self.model.poll(now) {
            any = true;
            match event {
                LinkEvent::Frame { to, end, frame, cost } => {
                    let at = to.0 as usize;
                    let from = self.devices[at].port.links.get(&end).copied();
                    let Some(from) = from else {
                        // Nobody is there any more.
                        self.model.release(now, end, cost);
                        continue;
                    };
                    self.trace.add(self.now, Some(at), Kind::Frame, Some(from), &frame, String::new);
                    self.see(&Seen::FrameIn { node: at, from, bytes: frame.len() });
                    let port = &mut self.devices[at].port;
                    port.inbox.push_back(Inbox::Frame { end, frame, cost });
                    wake(port);
                }
                LinkEvent::Writable { to, end } => {
                    let at = to.0 as usize;
                    let Some(other) = self.devices[at].port.links.get(&end).copied() else { continue };
                    self.event(Some(at), Kind::Writable, &[], || {
                        format!("the link to node {other} has room")
                    });
                    let port = &mut self.devices[at].port;
                    port.inbox.push_back(Inbox::Event(PortEvent::Writable { link: LinkId(end.number()) }));
                    wake(port);
                }
                LinkEvent::Down { to, end } => {
                    let at = to.0 as usize;
                    self.devices[at].port.ghosts.remove(&end);
                    let Some(other) = self.devices[at].port.links.remove(&end) else { continue };
                    self.event(Some(at), Kind::Down, &[], || format!("the link to node {other} went down"));
                    let port = &mut self.devices[at].port;
                    let reason = Arc::from("the link went down");
                    let link = LinkId(end.number());
                    port.inbox.push_back(Inbox::Event(PortEvent::Down { link, reason }));
                    wake(port);
                }
            }
        }
        any
    }

    /// Takes a device off the network: with `silent` nobody is told, as when its power fails.
    pub(crate) fn unplug(&mut self, device: usize, silent: bool) {
        let now = self.time();
        let port = std::mem::take(&mut self.devices[device].port);
        for item in port.inbox {
            if let Inbox::Frame { end, cost, .. } = item {
                self.model.release(now, end, cost);
            }
        }
        let mut ghosts = port.ghosts;
        for (end, other) in port.links {
            if silent {
                ghosts.insert(end, other);
            } else {
                self.model.close(now, end);
            }
        }
        self.devices[device].port.ghosts = ghosts;
    }
}

pub(crate) fn endpoint(device: usize) -> Endpoint {
    Endpoint(device as u32)
}

pub(crate) fn wake(port: &mut PortState) {
    if let Some(waker) = port.waker.take() {
        waker.wake();
    }
}
