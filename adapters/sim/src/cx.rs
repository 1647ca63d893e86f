//! What the world hands to the code that starts a node.

use std::cell::RefCell;
use std::rc::Rc;

use anabranch::infrastructure::prng::Prng;
use anabranch::{Coordinator, MessageVersion, PeerAddr};
use futures::FutureExt as _;

use crate::core::Shared;
use crate::exec::{Owner, Spawner};
use crate::ports::{SimPort, SimTimer};
use crate::store::SimStore;

/// A node that the world may look into.
pub(crate) struct Watched {
    pub(crate) node: Coordinator,
    pub(crate) faults: anabranch::Faults,
}

/// The ports of one incarnation of one node, and what else its code needs instead of a runtime.
#[derive(Clone)]
pub struct NodeCx {
    pub(crate) index: usize,
    pub(crate) starts: u32,
    pub(crate) name: Rc<str>,
    pub(crate) store: SimStore,
    pub(crate) port: SimPort,
    pub(crate) seed: [u8; 32],
    pub(crate) spawner: Spawner,
    pub(crate) owner: Owner,
    pub(crate) shared: Shared,
    pub(crate) watched: Rc<RefCell<Vec<Option<Watched>>>>,
    pub(crate) peers: Rc<[PeerAddr]>,
}

impl NodeCx {
    /// The node's store. Every clone is the same store.
    pub fn store(&self) -> SimStore {
        self.store.clone()
    }

    /// The node's transport. Every clone is the same port.
    pub fn port(&self) -> SimPort {
        self.port.clone()
    }

    /// The node's clocks.
    pub fn timer(&self) -> SimTimer {
        SimTimer { shared: self.shared.clone(), node: self.index }
    }

    /// What the node's randomness is drawn from: another for each start.
    pub fn seed(&self) -> [u8; 32] {
        self.seed
    }

    /// Randomness for the application.
    pub fn random(&self) -> Prng {
        let mut number = [0; 8];
        number.copy_from_slice(&self.seed[24..]);
        Prng::new(u64::from_le_bytes(number))
    }

    /// Runs a task until it ends or the node crashes.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawner.spawn(self.owner, task.boxed_local());
    }

    /// Lets the world read this node's streams and counters: the invariants I3 and I9 need that.
    pub fn watch(&self, node: &Coordinator) {
        let watched = Watched { node: node.clone(), faults: node.errors() };
        self.watched.borrow_mut()[self.index] = Some(watched);
    }

    /// The node's name, which is its address too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's number, in the order in which nodes were added.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How often the node was started, this start included.
    pub fn incarnation(&self) -> u32 {
        self.starts
    }

    /// What the build that is installed on this device speaks, for [`Config::message_version`](anabranch::Config): the newest,
    /// unless the faults of this world include devices that were not updated yet.
    pub fn message_version(&self) -> MessageVersion {
        self.shared.lock().devices[self.index].version
    }

    /// The addresses of all other nodes that were added by hand.
    pub fn peers(&self) -> &[PeerAddr] {
        &self.peers
    }

    /// Fails the run, if nothing failed it before: `rule` is broken, and `what` says how.
    pub fn violate(&self, rule: &str, what: impl Into<String>) {
        self.shared.lock().violate(rule, what);
    }

    /// Whether the node's disk was ever replaced by an older copy, or copied: what it wrote may be forgotten, and
    /// its logs may fork.
    pub fn is_tampered(&self) -> bool {
        let core = self.shared.lock();
        let id = core.facts.nodes[self.index].id;
        id.is_some_and(|id| core.facts.author(&id).tampered)
    }

    /// Counts a fault that the node itself is.
    pub(crate) fn fault(&self, name: &'static str) {
        self.shared.lock().fault(name, 1);
    }

    /// The channels that admit `node`, as far as anybody has them.
    pub(crate) fn open_channels(&self, node: &anabranch::NodeId) -> Vec<anabranch::ChannelId> {
        let core = self.shared.lock();
        let all = core.facts.nodes.iter().flat_map(|facts| &facts.channels);
        let mut open: Vec<_> =
            all.filter(|(_, admission)| admission.admits(node)).map(|(id, _)| *id).collect();
        open.sort_unstable();
        open.dedup();
        open
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
}

impl std::fmt::Debug for NodeCx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeCx").field("name", &self.name).finish_non_exhaustive()
    }
}
