//! I9 nothing silent: every frame that a node was handed is in its counters.

use super::Invariant;
use crate::core::{Facts, Seen};

/// I9. See the module.
#[derive(Debug, Default)]
pub struct NothingSilent;

impl Invariant for NothingSilent {
    fn name(&self) -> &'static str {
        "I9 nothing silent"
    }

    fn see(&mut self, _: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Counters { node, metrics, frames_taken } = seen else { return Ok(()) };
        if metrics.frames_received != *frames_taken {
            return Err(format!(
                "node {node} counted {} frames and was handed {frames_taken}",
                metrics.frames_received
            ));
        }
        Ok(())
    }
}
