//! Putting a node together.
//!
//! The only place that names `infrastructure`, for defaults. Spawns the driver, and nothing else, if asked to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::coordinator::{Coordinator, Node};
use crate::application::config::{AcceptPeers, Config, ConfigError};
use crate::application::driver::{Driver, NodeState, Parts};
use crate::application::peers::PeerBook;
use crate::application::ports::{
    Durability, MIN_FRAME_BYTES, MessagePort, NodeRecord, Residence, Store, StoreError, TimerPort,
    WriteBatch, WriteOp,
};
use crate::application::replica::Replica;
use crate::domain::event::Event;
use crate::infrastructure::entropy::system_seed;
use crate::protocol::swim::{Incarnation, Metadata, MetadataTooLarge};

/// Incarnations set aside for a life of a node, durably and before it speaks. Those that it reaches are written without
/// waiting, and a crash or a failed store may take that back: the next life has to begin above them all the same. A node
/// denies at most twice per second, so they last for nine hours of accusations over a store that takes nothing.
const INCARNATIONS_PER_LIFE: u64 = 1 << 16;

/// A node cannot be built. The store is as it was.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The configuration cannot work: a fault of the caller.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The metadata is too large: a fault of the caller.
    #[error(transparent)]
    Metadata(#[from] MetadataTooLarge),
    /// Without the feature `tokio` a timer has to be given: a fault of the caller.
    #[error("no timer: give one, or enable the feature `tokio`")]
    NoTimer,
    /// A port's frame limit is below what sessions need: a fault of the port.
    #[error("a port allows frames of {0} bytes, at least {MIN_FRAME_BYTES} are needed")]
    FrameLimit(usize),
    /// `start` was called outside a tokio runtime: a fault of the caller.
    #[error("not inside a tokio runtime")]
    NoRuntime,
    /// The system gave no randomness.
    #[error("the system gave no randomness: {0}")]
    Randomness(Arc<str>),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes a [`Coordinator`]; see [`Coordinator::builder`].
pub struct CoordinatorBuilder {
    store: Arc<dyn Store>,
    ports: Vec<Arc<dyn MessagePort>>,
    timer: Option<Arc<dyn TimerPort>>,
    seed: Option<[u8; 32]>,
    config: Config,
    metadata: Option<Metadata>,
}

impl CoordinatorBuilder {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, ports: Vec::new(), timer: None, seed: None, config: Config::default(), metadata: None }
    }

    /// Adds a transport. A node may have several, or none for local use only.
    #[must_use]
    pub fn port(self, port: impl MessagePort) -> Self {
        self.shared_port(Arc::new(port))
    }

    /// Adds a transport that somebody else holds on to as well.
    #[must_use]
    pub fn shared_port(mut self, port: Arc<dyn MessagePort>) -> Self {
        self.ports.push(port);
        self
    }

    /// Where time comes from. Default: the system's clocks on tokio timers.
    #[must_use]
    pub fn timer(mut self, timer: impl TimerPort) -> Self {
        self.timer = Some(Arc::new(timer));
        self
    }

    /// What all randomness is drawn from: secret outside simulations. Default: the system's.
    #[must_use]
    pub fn seed(mut self, seed: [u8; 32]) -> Self {
        self.seed = Some(seed);
        self
    }

    /// How the node behaves.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// When `append` returns.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.config.durability = durability;
        self
    }

    /// Who may become a peer.
    #[must_use]
    pub fn accept_peers(mut self, accept: AcceptPeers) -> Self {
        self.config.accept_peers = accept;
        self
    }

    /// What the node tells about itself: at most 1 KiB, see [`Metadata`].
    #[must_use]
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Builds the node and spawns its driver on the current tokio runtime.
    ///
    /// # Errors
    /// [`BuildError`]; [`BuildError::NoRuntime`] outside a runtime.
    #[cfg(feature = "tokio")]
    pub async fn start(self) -> Result<Coordinator, BuildError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let (node, driver) = self.build().await?;
        runtime.spawn(driver);
        Ok(node)
    }

    /// Builds the node and hands its driver over: poll it on any executor.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn build(self) -> Result<(Coordinator, Driver), BuildError> {
        let Self { store, ports, timer, seed, mut config, metadata } = self;
        config.check()?;
        let metadata = metadata.map(|metadata| metadata.encode()).transpose()?;
        let narrow = ports.iter().map(|port| port.profile().max_frame).find(|max| *max < MIN_FRAME_BYTES);
        if let Some(max) = narrow {
            return Err(BuildError::FrameLimit(max));
        }
        let timer = timer.or_else(default_timer).ok_or(BuildError::NoTimer)?;
        let seed = match seed {
            Some(seed) => seed,
            None => system_seed().map_err(|error| BuildError::Randomness(error.to_string().into()))?,
        };
        // Without a port nobody could tell the node what it forgot: it need not wait.
        let moved = store.residence() == Residence::Moved && !ports.is_empty();
        if ports.is_empty() {
            config.amnesia_wait = Duration::ZERO;
        }
        let amnesia_wait = config.amnesia_wait;
        let record = store.node().await?;
        let incarnation = record.incarnation.saturating_add(INCARNATIONS_PER_LIFE);
        let next = NodeRecord { incarnation };
        store.submit(WriteBatch::new([WriteOp::PutNode(next)])).durable().await?;
        let peers = Arc::new(PeerBook::load(store.peers().await?, config.max_strangers));
        let (replica, news) = Replica::load(store, timer, config, !moved).await?;
        if moved {
            replica.notices.event(Event::ResidenceChanged(amnesia_wait));
        }
        let (sender, commands) = mpsc::unbounded_channel();
        let state = Arc::new(watch::channel(NodeState::Running).0);
        let watched = ports.iter().map(Arc::downgrade).collect();
        let parts = Parts {
            replica: Arc::clone(&replica),
            ports,
            peers: Arc::clone(&peers),
            commands,
            news,
            state: Arc::clone(&state),
            seed,
            incarnation: Incarnation(incarnation),
            metadata,
        };
        let node = Node { replica, peers, commands: sender, state, ports: watched };
        Ok((Coordinator(Arc::new(node)), Driver::new(parts)))
    }
}

impl std::fmt::Debug for CoordinatorBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CoordinatorBuilder")
            .field("ports", &self.ports.len())
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "tokio")]
#[expect(clippy::unnecessary_wraps, reason = "without tokio there is no default")]
fn default_timer() -> Option<Arc<dyn TimerPort>> {
    Some(Arc::new(crate::infrastructure::system_timer::SystemTimer::new()))
}

#[cfg(not(feature = "tokio"))]
fn default_timer() -> Option<Arc<dyn TimerPort>> {
    None
}
