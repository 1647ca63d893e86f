//! I6 bounded: what a node holds back is bounded by configuration, whatever its peers do.

use super::Invariant;
use crate::core::{Facts, Seen};

/// Bytes of frames that a node may leave unread: what the queues of its links hold.
const UNREAD: usize = 64 << 20;
/// Bytes of batches that may wait for a store: the append windows of a few streams and the transfer windows of
/// a few peers.
const UNWRITTEN: usize = 128 << 20;

/// I6. See the module.
#[derive(Debug)]
pub struct Bounded {
    unread: usize,
    unwritten: usize,
}

impl Default for Bounded {
    fn default() -> Self {
        Self::with_limits(UNREAD, UNWRITTEN)
    }
}

impl Bounded {
    /// With these bounds, in bytes: of frames not read, and of batches not written.
    pub fn with_limits(unread: usize, unwritten: usize) -> Self {
        Self { unread, unwritten }
    }
}

impl Invariant for Bounded {
    fn name(&self) -> &'static str {
        "I6 bounded"
    }

    fn see(&mut self, _: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Census { node, unread_bytes, unwritten_bytes } = seen else { return Ok(()) };
        if *unread_bytes > self.unread {
            return Err(format!("node {node} holds {unread_bytes} bytes of frames"));
        }
        if *unwritten_bytes > self.unwritten {
            return Err(format!("node {node} holds {unwritten_bytes} bytes for its store"));
        }
        Ok(())
    }
}
