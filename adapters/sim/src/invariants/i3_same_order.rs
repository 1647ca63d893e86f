//! I3 same set, same order: equal versions of a stream read as equal sequences, sorted by the order of the design.

use std::collections::BTreeMap;

use anabranch::domain::id::LogKey;
use anabranch::{ChannelId, LogEntry, StreamId, VersionVector};

use super::Invariant;
use crate::core::{Facts, Seen};

/// Versions remembered; beyond it the oldest are forgotten, so that long runs need no more memory than short ones.
const REMEMBERED: usize = 4_096;

/// I3. See the module.
#[derive(Debug, Default)]
pub struct SameOrder {
    sequences: BTreeMap<[u8; 32], [u8; 32]>,
}

impl Invariant for SameOrder {
    fn name(&self) -> &'static str {
        "I3 same set, same order"
    }

    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Read { node, channel, stream, version, entries } = seen else { return Ok(()) };
        if facts.nodes[*node].damaged {
            return Ok(());
        }
        if let Some(at) = entries.windows(2).position(|pair| pair[0].order() >= pair[1].order()) {
            let [before, after] = [&entries[at], &entries[at + 1]].map(LogEntry::order);
            let log = LogKey::derive(channel, stream, &after.author);
            let lines = facts.nodes[*node].lines.get(&log);
            let lines = lines.map(|lines| lines.values().collect::<Vec<_>>());
            return Err(format!(
                "node {node} read {stream:?} out of order: {before:?} before {after:?}, lines of the log: {lines:?}"
            ));
        }
        let mut hasher = blake3::Hasher::new();
        for entry in *entries {
            hasher.update(entry.author().as_bytes());
            hasher.update(&entry.sequence().to_le_bytes());
            hasher.update(entry.hash().as_bytes());
            hasher.update(entry.payload());
        }
        let read = *hasher.finalize().as_bytes();
        let key = version_key(channel, stream, version);
        if self.sequences.len() >= REMEMBERED {
            self.sequences.pop_first();
        }
        match self.sequences.insert(key, read) {
            Some(before) if before != read => Err(format!(
                "node {node} read {stream:?} differently from another node with the same entries"
            )),
            _ => Ok(()),
        }
    }
}

fn version_key(channel: &ChannelId, stream: &StreamId, version: &VersionVector) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(channel.as_bytes());
    hasher.update(&(stream.as_str().len() as u64).to_le_bytes());
    hasher.update(stream.as_str().as_bytes());
    for (author, tips) in version.iter() {
        hasher.update(author.as_bytes());
        hasher.update(&(tips.len() as u64).to_le_bytes());
        for tip in tips {
            hasher.update(&tip.sequence.to_le_bytes());
            hasher.update(tip.hash.as_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}
