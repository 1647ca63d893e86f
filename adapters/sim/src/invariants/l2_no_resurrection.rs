//! L2 no resurrection: who does not run does not become alive again in anybody's eyes without a newer word of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch::{NodeId, Status};

use super::Invariant;
use crate::core::{Facts, Seen};

/// Frames of a node that ended may be under way for this long.
const UNDER_WAY: Duration = Duration::from_secs(120);

/// L2. See the module.
#[derive(Debug, Default)]
pub struct NoResurrection {
    /// By device, as of its last census in its present life.
    seen: BTreeMap<usize, BTreeMap<NodeId, (Status, u64)>>,
}

impl Invariant for NoResurrection {
    fn name(&self) -> &'static str {
        "L2 no resurrection"
    }

    fn see(&mut self, _: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Booted { node, .. } => {
                self.seen.remove(node);
                Ok(())
            }
            Seen::Peers { node, peers, gone } => {
                let now: BTreeMap<NodeId, (Status, u64)> =
                    peers.iter().map(|peer| (peer.node, (peer.status, peer.incarnation))).collect();
                let before = self.seen.insert(*node, now.clone()).unwrap_or_default();
                for (peer, (status, incarnation)) in &now {
                    let Some((was, last)) = before.get(peer) else { continue };
                    let down = matches!(was, Status::Unreachable | Status::Left);
                    let ended = gone.get(peer).is_some_and(|time| *time > UNDER_WAY);
                    if down && ended && *status == Status::Alive && incarnation <= last {
                        return Err(format!(
                            "node {node} holds {peer:?} alive, which ended long ago in incarnation {last}"
                        ));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
