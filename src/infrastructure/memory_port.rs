//! A transport inside one process: ports with names, joined by links of a [`LinkModel`].
//!
//! For tests, examples and applications that hold several nodes in one process. It needs no runtime and no
//! thread: delays pass because somebody awaits [`recv`](MessagePort::recv) on some port of the network, which
//! sleeps on the network's timer. It never touches a real network and never waits on anything while sending.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::select;
use tokio::sync::Notify;

use super::link_model::{Endpoint, LinkCounters, LinkEnd, LinkEvent, LinkModel, SendOutcome};
use super::link_profile::LinkProfile;
use crate::application::ports::{
    LinkId, MIN_FRAME_BYTES, MessagePort, PeerAddr, PortError, PortEvent, PortProfile, Priority, SendError,
    TimerPort,
};
use crate::domain::id::NodeId;
use crate::domain::time::Instant;

/// Longest name of a port, in bytes.
pub const MAX_PORT_NAME_BYTES: usize = 64;

/// A network without a timer was asked for something that takes time. Nothing changed. A fault of the caller:
/// make the network with [`MemoryNetwork::with_model`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this in-memory network has no timer: delays and schedules need MemoryNetwork::with_model")]
pub struct NoTimer;

/// Ports with names, and the links between them. Clones are the same network.
///
/// ```
/// use anabranch::application::ports::{MessagePort, PortEvent, Priority};
/// use anabranch::infrastructure::memory_port::MemoryNetwork;
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let network = MemoryNetwork::new();
/// let (ana, ben) = (network.port("ana"), network.port("ben"));
/// let link = ana.connect(&"ben".into()).await?;
/// let Ok(PortEvent::Up { link: at_ben, dialed: false, .. }) = ben.recv().await else { panic!() };
/// let _ = ana.try_send(link, "hello".into(), Priority::Normal);
/// assert_eq!(ben.recv().await?, PortEvent::Frame { link: at_ben, frame: "hello".into() });
/// # Ok::<_, anabranch::application::ports::PortError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct MemoryNetwork {
    shared: Arc<Shared>,
}

struct Shared {
    profile: PortProfile,
    timer: Option<Arc<dyn TimerPort>>,
    net: Mutex<Net>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryNetwork").field("profile", &self.profile).finish_non_exhaustive()
    }
}

struct Net {
    model: LinkModel,
    /// Stay assigned for the life of the network, so that partitions outlast a restart.
    names: BTreeMap<Arc<str>, Endpoint>,
    ports: BTreeMap<Endpoint, PortState>,
}

/// What the network keeps of an open port.
struct PortState {
    node: Option<NodeId>,
    inbox: VecDeque<Arrived>,
    links: BTreeSet<LinkEnd>,
    wake: Arc<Notify>,
}

/// An event with the room it takes on its link until it is read.
struct Arrived {
    event: PortEvent,
    cost: usize,
}

impl Default for MemoryNetwork {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryNetwork {
    /// A network of perfect, reliable links without delay, which needs no timer.
    pub fn new() -> Self {
        Self::build(LinkProfile::perfect().reliable(), 0, None)
    }

    /// A network whose links behave like `profile`, with faults drawn from `seed`, in the time of `timer`.
    ///
    /// Its ports declare the profile's frame limit (at least [`MIN_FRAME_BYTES`]) and its reliability.
    pub fn with_model(profile: LinkProfile, seed: u64, timer: Arc<dyn TimerPort>) -> Self {
        Self::build(profile, seed, Some(timer))
    }

    fn build(profile: LinkProfile, seed: u64, timer: Option<Arc<dyn TimerPort>>) -> Self {
        let profile = LinkProfile { max_frame: profile.max_frame.max(MIN_FRAME_BYTES), ..profile };
        let declared = PortProfile::unauthenticated(profile.max_frame);
        let declared = if profile.reliable { declared.reliable() } else { declared };
        let net =
            Net { model: LinkModel::new(seed, profile), names: BTreeMap::new(), ports: BTreeMap::new() };
        Self { shared: Arc::new(Shared { profile: declared, timer, net: Mutex::new(net) }) }
    }

    /// A network of perfect, reliable links whose frames are at most `max_frame` bytes.
    pub fn with_frame_limit(max_frame: usize) -> Self {
        Self::build(LinkProfile { max_frame, ..LinkProfile::perfect() }.reliable(), 0, None)
    }

    /// Opens the port called `name`, which is also its address. If a port of that name is open, it is closed
    /// first, as a restarted process takes over the address of its predecessor.
    pub fn port(&self, name: &str) -> MemoryPort {
        self.open(name, None)
    }

    /// Opens the port called `name`, for whose links the network vouches that `node` is there: other ports get
    /// it as proven, so that no session is needed. Only for tests: nobody checks it.
    pub fn proven_port(&self, name: &str, node: NodeId) -> MemoryPort {
        self.open(name, Some(node))
    }

    fn open(&self, name: &str, node: Option<NodeId>) -> MemoryPort {
        let now = self.shared.now();
        let wake = Arc::new(Notify::new());
        let mut net = self.shared.lock();
        let endpoint = net.endpoint(name);
        net.close_port(now, endpoint);
        let state = PortState { node, inbox: VecDeque::new(), links: BTreeSet::new(), wake: wake.clone() };
        net.ports.insert(endpoint, state);
        drop(net);
        MemoryPort { shared: self.shared.clone(), name: name.into(), endpoint, wake }
    }

    /// Makes both directions between two ports behave like `profile`, now and in future. The reliability that
    /// the ports declared stays, and so does their frame limit unless the profile's is lower.
    ///
    /// # Errors
    /// [`NoTimer`] if the profile has delays and the network has no timer.
    pub fn set_profile(&self, a: &str, b: &str, profile: LinkProfile) -> Result<(), NoTimer> {
        self.set_profile_one_way(a, b, profile)?;
        self.set_profile_one_way(b, a, profile)
    }

    /// Like [`set_profile`](Self::set_profile), for one direction.
    ///
    /// # Errors
    /// [`NoTimer`] if the profile has delays and the network has no timer.
    pub fn set_profile_one_way(&self, from: &str, to: &str, profile: LinkProfile) -> Result<(), NoTimer> {
        let declared = self.shared.profile;
        let max_frame = profile.max_frame.min(declared.max_frame);
        let profile = LinkProfile { reliable: declared.reliable, max_frame, ..profile };
        // A reliable link turns even pure losses into delay.
        if self.shared.timer.is_none() && !profile.is_instant() {
            return Err(NoTimer);
        }
        self.shared.change(|net, now| {
            let (from, to) = (net.endpoint(from), net.endpoint(to));
            net.model.set_profile(now, from, to, profile);
        });
        Ok(())
    }

    /// Silently swallows everything between two ports until healed (a reliable link holds it instead); new
    /// links between them are unreachable. Links stay up: nobody is told.
    pub fn partition(&self, a: &str, b: &str) {
        self.between(a, b, LinkModel::partition);
    }

    /// Like [`partition`](Self::partition), and takes their links down.
    pub fn partition_and_disconnect(&self, a: &str, b: &str) {
        self.between(a, b, |model, now, a, b| {
            model.partition(now, a, b);
            model.cut(now, a, b);
        });
    }

    /// Swallows everything from one port to another until healed.
    pub fn block(&self, from: &str, to: &str) {
        self.between(from, to, LinkModel::block);
    }

    /// Lets everything pass for `open`, then nothing for `closed`, and so on, until healed.
    ///
    /// # Errors
    /// [`NoTimer`] if the network has no timer.
    pub fn flip_flop(&self, a: &str, b: &str, open: Duration, closed: Duration) -> Result<(), NoTimer> {
        self.shared.timer.as_ref().ok_or(NoTimer)?;
        self.between(a, b, |model, now, a, b| model.flip_flop(now, a, b, open, closed));
        Ok(())
    }

    /// Ends partitions, blocks and flip-flops between two ports.
    pub fn heal(&self, a: &str, b: &str) {
        self.between(a, b, LinkModel::heal);
    }

    /// Ends all partitions, blocks and flip-flops.
    pub fn heal_all(&self) {
        self.shared.change(|net, now| {
            let endpoints: Vec<_> = net.names.values().copied().collect();
            for (index, a) in endpoints.iter().enumerate() {
                endpoints[index + 1..].iter().for_each(|b| net.model.heal(now, *a, *b));
            }
        });
    }

    /// Takes the links between two ports down; what is under way is lost. They may connect again at once.
    pub fn cut(&self, a: &str, b: &str) {
        self.between(a, b, LinkModel::cut);
    }

    /// What happened so far to frames on all links.
    pub fn counters(&self) -> LinkCounters {
        self.shared.lock().model.counters()
    }

    /// What happened so far to frames from one port to another.
    pub fn counters_between(&self, from: &str, to: &str) -> LinkCounters {
        let mut net = self.shared.lock();
        let (from, to) = (net.endpoint(from), net.endpoint(to));
        net.model.counters_between(from, to)
    }

    fn between(&self, a: &str, b: &str, change: impl FnOnce(&mut LinkModel, Instant, Endpoint, Endpoint)) {
        self.shared.change(|net, now| {
            let (a, b) = (net.endpoint(a), net.endpoint(b));
            change(&mut net.model, now, a, b);
        });
    }
}

impl Shared {
    fn now(&self) -> Instant {
        self.timer.as_ref().map_or(Instant::ZERO, |timer| timer.now())
    }

    fn lock(&self) -> MutexGuard<'_, Net> {
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the network and wakes whom it concerns.
    fn change<R>(&self, change: impl FnOnce(&mut Net, Instant) -> R) -> R {
        let now = self.now();
        let mut net = self.lock();
        let before = net.model.next_deadline();
        let result = change(&mut net, now);
        net.pump(now);
        let after = net.model.next_deadline();
        if after.is_some() && before.is_none_or(|before| after < Some(before)) {
            // Whoever sleeps until a later deadline has to look again.
            net.ports.values().for_each(|port| port.wake.notify_one());
        }
        result
    }
}

impl Net {
    fn endpoint(&mut self, name: &str) -> Endpoint {
        if let Some(endpoint) = self.names.get(name) {
            return *endpoint;
        }
        let endpoint = Endpoint(u32::try_from(self.names.len()).unwrap_or(u32::MAX));
        self.names.insert(name.into(), endpoint);
        endpoint
    }

    /// Moves what happened up to `now` into the inboxes.
    fn pump(&mut self, now: Instant) {
        while let Some(event) = self.model.poll(now) {
            match event {
                LinkEvent::Frame { to, end, frame, cost } => {
                    self.push(to, PortEvent::Frame { link: LinkId(end.number()), frame }, cost);
                }
                LinkEvent::Writable { to, end } => {
                    self.push(to, PortEvent::Writable { link: LinkId(end.number()) }, 0);
                }
                LinkEvent::Down { to, end } => {
                    self.push_down(to, end, "the other side or the network cut it")
                }
            }
        }
    }

    fn push(&mut self, to: Endpoint, event: PortEvent, cost: usize) {
        if let Some(port) = self.ports.get_mut(&to) {
            port.inbox.push_back(Arrived { event, cost });
            port.wake.notify_one();
        }
    }

    fn push_down(&mut self, to: Endpoint, end: LinkEnd, reason: &str) {
        if self.ports.get_mut(&to).is_some_and(|port| port.links.remove(&end)) {
            self.push(to, PortEvent::Down { link: LinkId(end.number()), reason: reason.into() }, 0);
        }
    }

    fn close_port(&mut self, now: Instant, endpoint: Endpoint) {
        if let Some(port) = self.ports.remove(&endpoint) {
            port.links.iter().for_each(|end| self.model.close(now, *end));
            port.wake.notify_one();
            self.pump(now);
        }
    }
}

/// One port of a [`MemoryNetwork`]. Its address is its name. Dropping it closes it.
#[derive(Debug)]
pub struct MemoryPort {
    shared: Arc<Shared>,
    name: Arc<str>,
    endpoint: Endpoint,
    /// Also tells this port from a later one of the same name.
    wake: Arc<Notify>,
}

impl MemoryPort {
    /// Where others reach it: its name.
    pub fn address(&self) -> PeerAddr {
        PeerAddr::new(&self.name)
    }

    /// The state of this port, unless it is closed or was taken over.
    fn state<'net>(&self, net: &'net mut Net) -> Option<&'net mut PortState> {
        net.ports.get_mut(&self.endpoint).filter(|port| Arc::ptr_eq(&port.wake, &self.wake))
    }

    fn close_now(&self) {
        self.shared.change(|net, now| {
            if self.state(net).is_some() {
                net.close_port(now, self.endpoint);
            }
        });
    }

    /// The next event if there is one, else when to look again.
    fn next(&self) -> Result<Result<PortEvent, Option<Instant>>, PortError> {
        let now = self.shared.now();
        let mut net = self.shared.lock();
        net.pump(now);
        let port = self.state(&mut net).ok_or(PortError::Closed)?;
        let Some(Arrived { event, cost }) = port.inbox.pop_front() else {
            return Ok(Err(net.model.next_deadline()));
        };
        if let PortEvent::Frame { link, .. } = &event {
            net.model.release(now, LinkEnd::from_number(link.0), cost);
            net.pump(now);
        }
        Ok(Ok(event))
    }
}

impl Drop for MemoryPort {
    fn drop(&mut self) {
        self.close_now();
    }
}

#[async_trait]
impl MessagePort for MemoryPort {
    fn profile(&self) -> PortProfile {
        self.shared.profile
    }

    fn try_send(&self, to: LinkId, frame: Bytes, priority: Priority) -> Result<(), SendError> {
        self.shared.change(|net, now| {
            let end = LinkEnd::from_number(to.0);
            // Also keeps a port from sending on links of another one.
            if !self.state(net).ok_or(SendError::Closed)?.links.contains(&end) {
                return Err(SendError::LinkDown);
            }
            match net.model.send(now, end, frame, priority) {
                SendOutcome::Queued => Ok(()),
                SendOutcome::Full => Err(SendError::Full),
                SendOutcome::TooLarge => Err(SendError::TooLarge),
                SendOutcome::NoLink => Err(SendError::LinkDown),
            }
        })
    }

    async fn connect(&self, address: &PeerAddr) -> Result<LinkId, PortError> {
        let name = address.as_str();
        self.shared.change(|net, now| {
            let (here, node) = (self.endpoint, self.state(net).ok_or(PortError::Closed)?.node);
            if name.is_empty() || name.len() > MAX_PORT_NAME_BYTES {
                return Err(PortError::BadAddress(address.clone()));
            }
            let unreachable = |reason: &str| {
                Err(PortError::Unreachable { address: address.clone(), reason: reason.into() })
            };
            let found = net.names.get(name).and_then(|there| Some((*there, net.ports.get(there)?.node)));
            let Some((there, node_there)) = found else { return unreachable("no open port of this name") };
            if there == here {
                return unreachable("a port does not connect to itself");
            }
            if !net.model.passes(now, here, there) || !net.model.passes(now, there, here) {
                return unreachable("partitioned");
            }
            let (end_here, end_there) = net.model.open(now, here, there);
            for (at, end, proven, dialed) in
                [(here, end_here, node_there, true), (there, end_there, node, false)]
            {
                if let Some(port) = net.ports.get_mut(&at) {
                    port.links.insert(end);
                }
                net.push(at, PortEvent::Up { link: LinkId(end.number()), proven, dialed }, 0);
            }
            Ok(LinkId(end_here.number()))
        })
    }

    async fn recv(&self) -> Result<PortEvent, PortError> {
        loop {
            let deadline = match self.next()? {
                Ok(event) => return Ok(event),
                Err(deadline) => deadline,
            };
            let woken = pin!(self.wake.notified());
            match (&self.shared.timer, deadline) {
                (Some(timer), Some(deadline)) => drop(select(woken, timer.sleep_until(deadline)).await),
                _ => woken.await,
            }
        }
    }

    fn disconnect(&self, link: LinkId) {
        self.shared.change(|net, now| {
            let end = LinkEnd::from_number(link.0);
            if self.state(net).is_some_and(|port| port.links.contains(&end)) {
                net.model.close(now, end);
                net.push_down(self.endpoint, end, "disconnected here");
            }
        });
    }

    async fn close(&self) {
        self.close_now();
    }
}

#[cfg(test)]
#[path = "memory_port_tests.rs"]
mod tests;
