//! What bounds a session.

use std::time::Duration;

/// Limits and timers of a session. Nodes with different ones understand each other, except where a field
/// says so.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionConfig {
    /// Largest message in bytes, at most `u32::MAX`. Default 17 MiB: a payload of 16 MiB with what surrounds it.
    /// The smaller one of both ends counts.
    pub max_message: usize,
    /// Bytes per lane that the peer may have under way to us, and that may be held here out of order. Default
    /// 1 MiB. A larger message streams through; while it does, it occupies up to its own size besides.
    pub window: usize,
    /// What `window` may grow to on the bulk lane, where the link is so long and so fast that it holds a transfer up.
    /// Default 4 MiB: 80 MB per second at a round trip of 50 ms.
    pub max_window: usize,
    /// Bytes per lane that wait to be sent or acknowledged before [`Session::send`](super::Session::send)
    /// refuses. Default 4 MiB. A message larger than that is taken if the lane is empty.
    pub queue: usize,
    /// How long the handshake may take. Default 10 s.
    pub handshake_timeout: Duration,
    /// Frames after which a lane changes its key. Default 2^20. Must be the same on both ends: part of the
    /// protocol, and smaller only in tests.
    pub epoch_frames: u64,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            max_message: 17 << 20,
            window: 1 << 20,
            max_window: 4 << 20,
            queue: 4 << 20,
            handshake_timeout: Duration::from_secs(10),
            epoch_frames: 1 << 20,
        }
    }
}
