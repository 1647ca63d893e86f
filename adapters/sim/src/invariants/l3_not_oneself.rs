//! L3 not oneself: no node is its own peer, and so none is ever unreachable to itself.

use super::Invariant;
use crate::core::{Facts, Seen};

/// L3. See the module.
#[derive(Debug)]
pub struct NotOneself;

impl Invariant for NotOneself {
    fn name(&self) -> &'static str {
        "L3 not oneself"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Peers { node, peers, .. } = seen else { return Ok(()) };
        match peers.iter().find(|peer| Some(peer.node) == facts.nodes[*node].id) {
            Some(peer) => Err(format!("node {node} holds itself for {:?}", peer.status)),
            None => Ok(()),
        }
    }
}
