//! I4 monotone: what is held never shrinks, own stamps only rise, are above all seen, and lead
//! the wall clock by no more than the bound.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch::domain::id::LogKey;
use anabranch::{NodeId, Timestamp};

use super::Invariant;
use crate::core::{Facts, Seen};

/// The drift bound that nodes have unless they are configured otherwise.
const DRIFT: Duration = Duration::from_secs(3600);

/// I4. See the module.
#[derive(Debug)]
pub struct Monotone {
    drift: Duration,
    stamps: BTreeMap<(LogKey, NodeId), Timestamp>,
}

impl Default for Monotone {
    fn default() -> Self {
        Self::with_drift(DRIFT)
    }
}

impl Monotone {
    /// For nodes configured with this drift bound.
    pub fn with_drift(drift: Duration) -> Self {
        Self { drift, stamps: BTreeMap::new() }
    }
}

impl Invariant for Monotone {
    fn name(&self) -> &'static str {
        "I4 monotone"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Written { node, log, run, fresh: true, wall, .. } => {
                if let Some(by) = run.last_stamp().ahead_of(*wall, self.drift) {
                    return Err(format!("node {node} stamped {by:?} ahead of its wall clock"));
                }
                let seen = facts.nodes[*node].seen.get(&log.channel).copied().unwrap_or(Timestamp::ZERO);
                if run.first_stamp() <= seen {
                    let first = run.first_stamp();
                    return Err(format!("node {node} stamped {first:?} though it had seen {seen:?}"));
                }
                let last = self.stamps.get(&(log.key, log.author)).copied().unwrap_or(Timestamp::ZERO);
                if run.first_stamp() <= last && !facts.author(&log.author).tampered {
                    return Err(format!(
                        "node {node} stamped {:?} after {last:?} in {:?}",
                        run.first_stamp(),
                        log.stream
                    ));
                }
                Ok(())
            }
            Seen::Durable { node, log, line, run } => {
                if facts.nodes[*node].id == Some(log.author) {
                    let last = self.stamps.entry((log.key, log.author)).or_insert(Timestamp::ZERO);
                    *last = run.last_stamp().max(*last);
                }
                let held = facts.nodes[*node].lines.get(&log.key).and_then(|lines| lines.get(&line.no));
                match held {
                    Some(held) if held.tip.sequence > line.tip.sequence => {
                        Err(format!("line {:?} of node {node} went back to {}", line.no, line.tip.sequence))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
