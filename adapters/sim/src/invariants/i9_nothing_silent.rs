//! I9 nothing silent: every frame that a node was handed is in its counters, and nobody is accused who did no harm.

use super::Invariant;
use anabranch::{Fault, Refusal};

use crate::core::{Facts, Seen};

/// What a node only says of peers that break the rules.
fn is_accusation(fault: &Fault) -> bool {
    match fault {
        Fault::BadMessage { .. } => true,
        Fault::RunRefused { reason, .. } => {
            matches!(reason, Refusal::Invalid(_) | Refusal::Stamps | Refusal::UnsignedBlock)
        }
        _ => false,
    }
}

/// I9. See the module.
#[derive(Debug, Default)]
pub struct NothingSilent;

impl Invariant for NothingSilent {
    fn name(&self) -> &'static str {
        "I9 nothing silent"
    }

    fn see(&mut self, _: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Counters { node, metrics, frames_taken } if metrics.frames_received != *frames_taken => {
                let counted = metrics.frames_received;
                Err(format!("node {node} counted {counted} frames and was handed {frames_taken}"))
            }
            Seen::Reported { node, fault, harm: false } if is_accusation(fault) => {
                Err(format!("node {node} says {fault:?}, and there is nobody who does harm"))
            }
            _ => Ok(()),
        }
    }
}
