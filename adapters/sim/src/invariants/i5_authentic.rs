//! I5 authentic: no node takes an entry that its author did not write.

use super::Invariant;
use crate::core::{Facts, Seen};

/// I5. See the module.
#[derive(Debug, Default)]
pub struct Authentic;

impl Invariant for Authentic {
    fn name(&self) -> &'static str {
        "I5 authentic"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Written { node, log, run, .. } = seen else { return Ok(()) };
        let author = facts.author(&log.author);
        if facts.nodes[*node].id == Some(log.author) || author.hostile {
            return Ok(());
        }
        match facts.known(log, run) {
            Some(_) => Ok(()),
            None => Err(format!(
                "node {node} took entries {}..={} that {:?} never wrote",
                run.first(),
                run.last(),
                log.author
            )),
        }
    }
}
