//! L1 incarnations rise: no node ever holds another for one of an earlier incarnation than before.

use std::collections::BTreeMap;

use anabranch::NodeId;

use super::Invariant;
use crate::core::{Facts, Seen};

/// L1. See the module.
#[derive(Debug, Default)]
pub struct IncarnationsRise {
    /// By device, as of its last census in its present life.
    seen: BTreeMap<usize, BTreeMap<NodeId, u64>>,
}

impl Invariant for IncarnationsRise {
    fn name(&self) -> &'static str {
        "L1 incarnations rise"
    }

    fn see(&mut self, _: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            // What was not durable yet may be forgotten in a crash.
            Seen::Booted { node, .. } => {
                self.seen.remove(node);
                Ok(())
            }
            Seen::Peers { node, peers, .. } => {
                let now: BTreeMap<NodeId, u64> =
                    peers.iter().map(|peer| (peer.node, peer.incarnation)).collect();
                let before = self.seen.insert(*node, now.clone()).unwrap_or_default();
                let fell = before.iter().find(|(peer, last)| now.get(peer).is_some_and(|now| now < last));
                match fell {
                    Some((peer, last)) => {
                        let now = now.get(peer);
                        Err(format!("node {node} holds {peer:?} for incarnation {now:?} after {last}"))
                    }
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
