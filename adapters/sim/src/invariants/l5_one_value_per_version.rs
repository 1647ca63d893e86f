//! L5 one value per version: all that hold the same version of a node's metadata hold the same metadata.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch::{Metadata, NodeId};

use super::Invariant;
use crate::core::{Facts, Seen};

/// L5. See the module.
#[derive(Debug, Default)]
pub struct OneValuePerVersion {
    seen: BTreeMap<(NodeId, u64), Arc<Metadata>>,
}

impl Invariant for OneValuePerVersion {
    fn name(&self) -> &'static str {
        "L5 one value per version"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Peers { node, peers, .. } = seen else { return Ok(()) };
        for peer in peers.iter() {
            // Two devices with one identity each have values of their own, and who means harm says what it likes.
            let author = facts.author(&peer.node);
            if author.tampered || author.hostile || peer.metadata_version == 0 {
                continue;
            }
            let version = peer.metadata_version;
            let value = self.seen.entry((peer.node, version)).or_insert_with(|| Arc::clone(&peer.metadata));
            if *value != peer.metadata {
                let name = &peer.metadata.name;
                return Err(format!("node {node} holds {name:?} in version {version} of {:?}", peer.node));
            }
        }
        Ok(())
    }
}
