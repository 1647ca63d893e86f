//! I2 contiguous: per line a node holds exactly what lies between its base and its tip.

use super::Invariant;
use crate::core::{Facts, Seen};

/// I2. See the module.
#[derive(Debug, Default)]
pub struct Contiguous;

impl Invariant for Contiguous {
    fn name(&self) -> &'static str {
        "I2 contiguous"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Written { node, log, line, run, .. } => {
                let held = facts.nodes[*node].submitted.get(&log.key).and_then(|lines| lines.get(&line.no));
                let before = held.map_or(line.base(), |tip| *tip);
                let follows = (before.sequence + 1, before.hash) == (run.first(), run.previous());
                // A batch that a full disk refused is submitted again from further back.
                let again = before.sequence >= run.first();
                if (follows || again) && line.tip == run.tip() {
                    return Ok(());
                }
                Err(format!(
                    "node {node} wrote {}..={} after {} to line {:?} of {:?}, whose tip is then {}",
                    run.first(),
                    run.last(),
                    before.sequence,
                    line.no,
                    log.author,
                    line.tip.sequence
                ))
            }
            Seen::Booted { node, intact: Err(what), .. } if !facts.nodes[*node].damaged => {
                Err(format!("node {node} does not hold what it says: {what}"))
            }
            _ => Ok(()),
        }
    }
}
