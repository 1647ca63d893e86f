//! What is said about links: how large, how reliable, and who goes first.
//!
//! Plain values that transports, sessions and the driver share.

use std::fmt;
use std::sync::Arc;

/// Smallest frame limit a port may declare, in bytes: BLE with a large ATT MTU.
pub const MIN_FRAME_BYTES: usize = 512;

/// What a port can do. Constant over the life of the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortProfile {
    /// Largest frame in bytes, at least [`MIN_FRAME_BYTES`].
    pub max_frame: usize,
    /// While a link is up, frames that `try_send` accepted arrive in order, once, or the link goes down.
    /// Saves retransmission timers; wrong claims cost stalls.
    pub reliable: bool,
    /// The port dials again by itself when a link that it connected goes down.
    pub redials: bool,
}

impl PortProfile {
    /// A best-effort port (datagrams, radio) that proves nobody: the library runs its own session on each link.
    pub const fn unauthenticated(max_frame: usize) -> Self {
        Self { max_frame, reliable: false, redials: false }
    }

    /// The same port, but reliable while a link is up (TCP, WebSocket).
    pub const fn reliable(self) -> Self {
        Self { reliable: true, ..self }
    }

    /// The same port, dialling again by itself.
    pub const fn redialling(self) -> Self {
        Self { redials: true, ..self }
    }
}

/// Who goes first when a link is short of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Bulk transfer.
    Normal,
    /// Small and urgent: acknowledgements, probes, live entries.
    High,
}

/// Where a transport can reach somebody: opaque to the library, e.g. `192.168.1.20:7700`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct PeerAddr(Arc<str>);

impl PeerAddr {
    /// The address with this text.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(text.as_ref().into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: AsRef<str>> From<T> for PeerAddr {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
