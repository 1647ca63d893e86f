//! I7 progress: once faults have ended, connected nodes come to hold the same.

use super::Invariant;
use crate::core::{Facts, Seen};

/// I7. See the module.
#[derive(Debug, Default)]
pub struct Progress;

impl Invariant for Progress {
    fn name(&self) -> &'static str {
        "I7 progress"
    }

    fn see(&mut self, _: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Stuck { difference } => Err((*difference).to_owned()),
            _ => Ok(()),
        }
    }
}
