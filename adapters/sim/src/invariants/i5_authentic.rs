//! I5 authentic: no node takes an entry that its author did not write, or whose author it does not admit.

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
        let admission = facts.nodes[*node].admitting.get(&log.channel);
        if facts.nodes[*node].id != Some(log.author)
            && admission.is_none_or(|admission| !admission.admits(&log.author))
        {
            return Err(format!("node {node} took entries of {:?}, whom it does not admit", log.author));
        }
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
