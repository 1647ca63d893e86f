//! Putting liveness together, by hand or over a port.
//!
//! Names `infrastructure` for the defaults of timer and seed, as the builder of nodes does. Spawns the driver, and nothing
//! else, if asked to.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};

use super::handle::LivenessHandle;
use crate::application::liveness::driver::{DriverParts, Keep, LivenessDriver};
use crate::application::liveness::{Hook, Liveness, MessageKind, MessageSeen, MetadataRefused, Parts};
use crate::application::ports::{MIN_FRAME_BYTES, MessagePort, TimerPort};
use crate::domain::identity::Identity;
use crate::domain::link::PeerAddr;
use crate::domain::time::Instant;
use crate::infrastructure::entropy::system_seed;
use crate::protocol::swim::{Incarnation, Metadata, SwimConfig};

/// Events that a listener may fall behind by.
const EVENT_QUEUE: usize = 1024;
/// Links held at a time, unless the builder says otherwise: a probe of everybody within five minutes needs no new link.
const MAX_LINKS: usize = 256;

/// Liveness cannot be built. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LivenessBuildError {
    /// The metadata is too large: a fault of the caller.
    #[error(transparent)]
    Metadata(#[from] MetadataRefused),
    /// The frame limit is below what liveness needs: a fault of the port, or of the caller.
    #[error("frames of {0} bytes, at least {MIN_FRAME_BYTES} are needed")]
    FrameLimit(usize),
    /// Without the feature `tokio` a timer has to be given: a fault of the caller.
    #[error("no timer: give one, or enable the feature `tokio`")]
    NoTimer,
    /// `spawn` was called outside a tokio runtime: a fault of the caller.
    #[error("not inside a tokio runtime")]
    NoRuntime,
    /// The system gave no randomness.
    #[error("the system gave no randomness: {0}")]
    Randomness(Arc<str>),
}

/// Makes a [`Liveness`], or the handle of one that a runtime drives; see [`Liveness::builder`].
pub struct LivenessBuilder {
    identity: Identity,
    incarnation: Incarnation,
    config: SwimConfig,
    metadata: Metadata,
    seeds: Vec<PeerAddr>,
    hooks: Vec<Hook>,
    seed: Option<u64>,
    timer: Option<Arc<dyn TimerPort>>,
    keep: Option<Keep>,
    max_links: usize,
}

impl Liveness {
    /// Starts to put a node together. `identity` is who it is; nothing else is needed.
    pub fn builder(identity: Identity) -> LivenessBuilder {
        LivenessBuilder {
            identity,
            incarnation: Incarnation::default(),
            config: SwimConfig::default(),
            metadata: Metadata::default(),
            seeds: Vec::new(),
            hooks: Vec::new(),
            seed: None,
            timer: None,
            keep: None,
            max_links: MAX_LINKS,
        }
    }
}

impl LivenessBuilder {
    /// The incarnation that was kept last, by [`keep`](Self::keep) or by the sink. The new life begins above it. Without it the node
    /// comes back all the same, but only after others told it where it was.
    #[must_use]
    pub fn incarnation(mut self, kept: Incarnation) -> Self {
        self.incarnation = kept;
        self
    }

    /// Keeps the incarnation across restarts: called in the driver's turn before anything that follows is sent, so it should
    /// be quick. An error is told as [`LivenessEvent::KeepFailed`](crate::LivenessEvent::KeepFailed); a panic ends the driver. By
    /// hand, the sink keeps it.
    #[must_use]
    pub fn keep(mut self, keep: impl FnMut(Incarnation) -> std::io::Result<()> + Send + 'static) -> Self {
        self.keep = Some(Box::new(keep));
        self
    }

    /// How the engine behaves. Call it before [`group`](Self::group) and [`advertise`](Self::advertise), which change it.
    #[must_use]
    pub fn config(mut self, config: SwimConfig) -> Self {
        self.config = config;
        self
    }

    /// Closes the group to those who share this secret; nodes with another one are strangers. In a group that is not closed
    /// anybody may become a member, and a member may name nodes and addresses that are not there: they are bounded, tried
    /// ever more rarely, and cost a few frames each.
    #[must_use]
    pub fn group(mut self, secret: [u8; 32]) -> Self {
        self.config.group = secret;
        self
    }

    /// Where others reach this node. Without it, nodes that do not dial each other find one another through third parties
    /// only, except over datagrams by hand, where everybody sees where a frame came from.
    #[must_use]
    pub fn advertise(mut self, address: impl Into<PeerAddr>) -> Self {
        self.config.advertise = Some(address.into());
        self
    }

    /// What this node tells about itself.
    #[must_use]
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Addresses to try from the start and whenever nobody answers; see [`Liveness::join`].
    #[must_use]
    pub fn join<A: Into<PeerAddr>>(mut self, seeds: impl IntoIterator<Item = A>) -> Self {
        self.seeds = seeds.into_iter().map(Into::into).collect();
        self
    }

    /// Calls `hook` for every message of these kinds that is sent, or received and believed, in the thread that drives.
    /// Several hooks are called in turn. One that panics is called no more.
    #[must_use]
    pub fn on_message(
        mut self,
        kinds: impl IntoIterator<Item = MessageKind>,
        hook: impl FnMut(&MessageSeen) + Send + 'static,
    ) -> Self {
        self.hooks.push(Hook { kinds: kinds.into_iter().collect(), call: Box::new(hook) });
        self
    }

    /// Where time comes from. Default over a port: the system's clocks on tokio timers. By hand it only measures ticks.
    #[must_use]
    pub fn timer(mut self, timer: impl TimerPort) -> Self {
        self.timer = Some(Arc::new(timer));
        self
    }

    /// What all randomness is drawn from: unpredictable outside simulations. Default: the system's.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Links held at a time over a port, 256 by default. Beyond, those go first on which nobody proved itself, then those
    /// unused for longest; they are dialled again when they are needed.
    #[must_use]
    pub fn max_links(mut self, links: usize) -> Self {
        self.max_links = links.max(1);
        self
    }

    /// A [`Liveness`] to be driven by hand, from `now` on.
    ///
    /// # Errors
    /// [`LivenessBuildError`].
    pub fn by_hand(self, now: Instant) -> Result<Liveness, LivenessBuildError> {
        let Self { identity, incarnation, mut config, metadata, seeds, hooks, seed, timer, .. } = self;
        if config.max_frame < MIN_FRAME_BYTES {
            return Err(LivenessBuildError::FrameLimit(config.max_frame));
        }
        // The caller of the engine's other mode has sessions; here frames prove themselves.
        config.auth = crate::protocol::swim::FrameAuth::PairKey;
        let seed = match seed {
            Some(seed) => seed,
            None => {
                let [a, b, c, d, e, f, g, h, ..] = system_seed()
                    .map_err(|error| LivenessBuildError::Randomness(error.to_string().into()))?;
                u64::from_le_bytes([a, b, c, d, e, f, g, h])
            }
        };
        let parts = Parts { identity, incarnation, config, seed, metadata, seeds, hooks, timer };
        Ok(Liveness::new(parts, now)?)
    }

    /// A node over a port, and its driver: poll that on any executor.
    ///
    /// # Errors
    /// [`LivenessBuildError`].
    pub fn drive(
        mut self,
        port: impl MessagePort,
    ) -> Result<(LivenessHandle, LivenessDriver), LivenessBuildError> {
        self.config.max_frame = self.config.max_frame.min(port.profile().max_frame);
        let timer = self.timer.clone().or_else(default_timer).ok_or(LivenessBuildError::NoTimer)?;
        self.timer = Some(Arc::clone(&timer));
        let (keep, max_links) = (self.keep.take(), self.max_links);
        let liveness = self.by_hand(timer.now())?;
        let (sender, commands) = mpsc::unbounded_channel();
        let events = broadcast::channel(EVENT_QUEUE).0;
        let handle = LivenessHandle::new(liveness.node(), sender, &events);
        let port = Arc::new(port);
        let parts = DriverParts { liveness, port, timer, keep, commands, events, max_links };
        Ok((handle, LivenessDriver::new(parts)))
    }

    /// A node over a port, driven by a task on the current tokio runtime.
    ///
    /// # Errors
    /// [`LivenessBuildError`]; [`LivenessBuildError::NoRuntime`] outside a runtime.
    #[cfg(feature = "tokio")]
    pub fn spawn(self, port: impl MessagePort) -> Result<LivenessHandle, LivenessBuildError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| LivenessBuildError::NoRuntime)?;
        let (handle, driver) = self.drive(port)?;
        runtime.spawn(driver);
        Ok(handle)
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

impl std::fmt::Debug for LivenessBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LivenessBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}
