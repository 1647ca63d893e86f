//! The transport: frames over links.
//!
//! Called by the driver only. A port knows nothing of nodes, channels or entries; what frames mean, and that they are
//! protected, is the business of sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::id::NodeId;
use crate::domain::link::{PeerAddr, PortProfile, Priority};

/// One path to one remote endpoint, named by the port that made it. Never reused by that port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Why a frame was not taken. The frame was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The link's queue is full; [`PortEvent::Writable`] tells when to try again.
    #[error("the link's queue is full")]
    Full,
    /// The frame is larger than the port's limit: a fault of the caller.
    #[error("the frame exceeds the port's limit")]
    TooLarge,
    /// The link is down or was never up.
    #[error("the link is down")]
    LinkDown,
    /// The port was closed.
    #[error("the port is closed")]
    Closed,
}

/// A port cannot do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// The address is not one of this transport.
    #[error("not an address of this transport: {0}")]
    BadAddress(PeerAddr),
    /// Nobody answers there.
    #[error("{address} is unreachable: {reason}")]
    Unreachable {
        /// The address tried.
        address: PeerAddr,
        /// What the transport said.
        reason: Arc<str>,
    },
    /// The port was closed.
    #[error("the port is closed")]
    Closed,
    /// The port broke and will deliver nothing more.
    #[error("the transport failed: {0}")]
    Failed(Arc<str>),
}

/// What a port reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortEvent {
    /// A link is usable. Exactly once per link, before anything else about it, and also for links that
    /// [`MessagePort::connect`] made.
    Up {
        /// The link.
        link: LinkId,
        /// Who is there, if the transport itself has proven possession of the node key. `None` makes the
        /// library run its own session. Never take this from what a frame claims.
        proven: Option<NodeId>,
        /// This side opened the link. Decides who starts the session; both or neither may claim it.
        dialed: bool,
    },
    /// A frame arrived.
    Frame {
        /// On this link.
        link: LinkId,
        /// The bytes that the other side handed to `try_send`.
        frame: Bytes,
    },
    /// A link that answered [`SendError::Full`] has room again.
    Writable {
        /// The link.
        link: LinkId,
    },
    /// The link is gone. Exactly once, the last event about it.
    Down {
        /// The link.
        link: LinkId,
        /// For people.
        reason: Arc<str>,
    },
}

/// Moves frames over links. The port is the only place that queues bytes for a link, and its queue is capped.
///
/// # Contract
/// - **Best effort**: frames may be lost, duplicated, reordered or delayed. They are never altered in length
///   on purpose, and never delivered on another link.
/// - **Sends never wait**: [`try_send`](Self::try_send) queues or refuses, in bounded time, from any thread.
///   After [`SendError::Full`] exactly one [`PortEvent::Writable`] follows once there is room.
/// - **Bounded**: a link whose other end never reads costs one full queue and nothing else; other links go on.
/// - **Links**: `Up` comes first, `Down` last, each once. A `LinkId` is never reused.
/// - **Closing** drops all links; `recv` then reports `Closed`, and so does `try_send`.
///
/// An error or panic in a port method counts as the loss of the frame, link or port concerned; the node goes on.
#[async_trait]
pub trait MessagePort: Send + Sync + 'static {
    /// What the port can do.
    fn profile(&self) -> PortProfile;

    /// Queues `frame` on the link `to`, or refuses at once.
    ///
    /// # Errors
    /// [`SendError`]; the frame was not queued.
    fn try_send(&self, to: LinkId, frame: Bytes, priority: Priority) -> Result<(), SendError>;

    /// Opens a link to `address`. Cancel-safe: a dropped future leaves at most an idle link behind, which `Up`
    /// reports.
    ///
    /// # Errors
    /// [`PortError::BadAddress`], [`PortError::Unreachable`], [`PortError::Closed`].
    async fn connect(&self, address: &PeerAddr) -> Result<LinkId, PortError>;

    /// The next event. Cancel-safe: a dropped future loses no event. Called by one task at a time.
    ///
    /// # Errors
    /// [`PortError::Closed`] after `close`; [`PortError::Failed`] if the transport broke. Both are final.
    async fn recv(&self) -> Result<PortEvent, PortError>;

    /// Drops the link, if it is up: `Down` follows. A port that redials does not dial this link again.
    fn disconnect(&self, _link: LinkId) {}

    /// Drops all links and stops listening. Idempotent.
    async fn close(&self) {}

    /// What the port counts about itself, by name; decorators add theirs to those of the port within. Cheap, from any
    /// thread, and no part of what the library relies on.
    fn figures(&self) -> BTreeMap<&'static str, u64> {
        BTreeMap::new()
    }
}
