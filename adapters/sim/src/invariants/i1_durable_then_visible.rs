//! I1 durable-then-visible: nothing leaves a node before it is durable there, what was durable survives, and a
//! sequence is not reused.

use super::Invariant;
use crate::core::{Facts, Seen};

/// I1. See the module.
#[derive(Debug, Default)]
pub struct DurableThenVisible;

impl Invariant for DurableThenVisible {
    fn name(&self) -> &'static str {
        "I1 durable-then-visible"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Written { node, log, run, .. } if facts.nodes[*node].id != Some(log.author) => {
                match facts.known(log, run) {
                    Some(false) if !facts.author(&log.author).hostile => Err(format!(
                        "node {node} took entries {}..={} of {:?} that are not durable at their author",
                        run.first(),
                        run.last(),
                        log.author
                    )),
                    // What nobody wrote is a matter of I5.
                    _ => Ok(()),
                }
            }
            Seen::Durable { node, log, run, .. } if facts.nodes[*node].id == Some(log.author) => {
                let author = facts.author(&log.author);
                let Some(book) = facts.logs.get(&log.key).filter(|_| !author.tampered && !author.hostile)
                else {
                    return Ok(());
                };
                for sequence in run.first()..=run.last() {
                    let known = run.hash_at(sequence).and_then(|hash| book.known(sequence, &hash));
                    if known != Some(true) && book.durable_at(sequence) > 0 {
                        return Err(format!(
                            "node {node} reused sequence {sequence} of its log in {:?}",
                            log.stream
                        ));
                    }
                }
                Ok(())
            }
            Seen::Booted { node, lines, .. } if !facts.nodes[*node].damaged => {
                for (key, durable) in &facts.nodes[*node].lines {
                    for (no, line) in durable {
                        let found = lines.iter().find(|(name, found)| name.key == *key && found.no == *no);
                        let kept = found.is_some_and(|(_, found)| found.tip.sequence >= line.tip.sequence);
                        if !kept {
                            return Err(format!(
                                "node {node} lost durable entries of line {no:?} up to {}",
                                line.tip.sequence
                            ));
                        }
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
