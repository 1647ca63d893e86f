//! What a node tells about itself besides being alive: name, role, region, version, tags, keys with values.
//!
//! At most 1 KiB, versioned and signed by its owner, spread with liveness. Pure values. Made by applications, checked
//! by the engine.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::codec::{Malformed, Reader, put_bytes};
use crate::domain::id::NodeId;
use crate::domain::identity::{Identity, Signature};

/// Most bytes of encoded metadata.
pub const MAX_METADATA_BYTES: usize = 1024;
const CONTEXT: &[u8] = b"anabranch 1 node metadata\0";

/// What a node tells about itself. Empty fields cost one byte each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Metadata {
    /// Name for people.
    pub name: String,
    /// What it does in the group, e.g. `relay`.
    pub role: String,
    /// Where it is.
    pub region: String,
    /// Of the application.
    pub version: String,
    /// Services it offers.
    pub tags: BTreeSet<String>,
    /// Anything else.
    pub pairs: BTreeMap<String, String>,
}

/// Metadata beyond [`MAX_METADATA_BYTES`]: a fault of the caller. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("metadata of {0} bytes, at most {MAX_METADATA_BYTES} are possible")]
pub struct MetadataTooLarge(pub usize);

impl Metadata {
    /// With this name for people.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// With this role.
    #[must_use]
    pub fn role(mut self, role: &str) -> Self {
        self.role = role.to_owned();
        self
    }

    /// In this region.
    #[must_use]
    pub fn region(mut self, region: &str) -> Self {
        self.region = region.to_owned();
        self
    }

    /// With this version of the application.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        self.version = version.to_owned();
        self
    }

    /// With one more service tag.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        self.tags.insert(tag.to_owned());
        self
    }

    /// With one more key and its value.
    #[must_use]
    pub fn pair(mut self, key: &str, value: &str) -> Self {
        self.pairs.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Its bytes: each text with its length before it, tags and pairs with their number before them.
    ///
    /// # Errors
    /// [`MetadataTooLarge`].
    pub fn encode(&self) -> Result<Bytes, MetadataTooLarge> {
        let mut out = Vec::new();
        for text in [&self.name, &self.role, &self.region, &self.version] {
            put_bytes(&mut out, text.as_bytes());
        }
        super::codec::put_varint(&mut out, self.tags.len() as u64);
        for tag in &self.tags {
            put_bytes(&mut out, tag.as_bytes());
        }
        super::codec::put_varint(&mut out, self.pairs.len() as u64);
        for (key, value) in &self.pairs {
            put_bytes(&mut out, key.as_bytes());
            put_bytes(&mut out, value.as_bytes());
        }
        if out.len() > MAX_METADATA_BYTES { Err(MetadataTooLarge(out.len())) } else { Ok(out.into()) }
    }

    /// The metadata with these bytes, if they are the only ones it could have.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_METADATA_BYTES {
            return Err(Malformed);
        }
        let mut reader = Reader::new(bytes);
        let [name, role, region, version] =
            [reader.text()?, reader.text()?, reader.text()?, reader.text()?].map(str::to_owned);
        let mut tags = BTreeSet::new();
        for _ in 0..reader.varint()? {
            tags.insert(reader.text()?.to_owned());
        }
        let mut pairs = BTreeMap::new();
        for _ in 0..reader.varint()? {
            pairs.insert(reader.text()?.to_owned(), reader.text()?.to_owned());
        }
        let metadata = Self { name, role, region, version, tags, pairs };
        let same = reader.is_empty() && metadata.encode().is_ok_and(|again| again == bytes);
        if same { Ok(metadata) } else { Err(Malformed) }
    }
}

/// Metadata as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedMetadata {
    /// Whose.
    pub node: NodeId,
    /// Its version: the owner's incarnation when it was set, so that it rises across restarts.
    pub version: u64,
    /// [`Metadata::encode`].
    pub bytes: Bytes,
    /// Of the owner, over all of it and the group.
    pub signature: Signature,
}

impl SignedMetadata {
    /// Signs metadata of `identity`.
    pub fn sign(identity: &Identity, group: &[u8; 32], version: u64, bytes: Bytes) -> Self {
        let node = identity.node();
        let signature = identity.sign(&message(group, &node, version, &bytes));
        Self { node, version, bytes, signature }
    }

    /// Whether its owner made it, for this group.
    pub(super) fn holds(&self, identity: &Identity, group: &[u8; 32]) -> bool {
        identity.verify(&self.node, &message(group, &self.node, self.version, &self.bytes), &self.signature)
    }
}

fn message(group: &[u8; 32], node: &NodeId, version: u64, bytes: &[u8]) -> Vec<u8> {
    [CONTEXT, group, node.as_bytes(), &version.to_le_bytes(), bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_survives_its_bytes() {
        let told =
            Metadata::default().name("Ana").role("relay").region("eu").version("1.2").tag("b").tag("a");
        let told = told.pair("rack", "7");
        assert_eq!(Metadata::decode(&told.encode().unwrap()), Ok(told));
        assert_eq!(Metadata::decode(&Metadata::default().encode().unwrap()), Ok(Metadata::default()));
    }

    #[test]
    fn metadata_over_one_kibibyte_is_refused_on_both_ends() {
        let large = Metadata::default().pair("k", &"v".repeat(1018));
        assert_eq!(large.encode(), Err(MetadataTooLarge(1028)));
        assert_eq!(Metadata::decode(&[0; 1025]), Err(Malformed));
    }

    #[test]
    fn bytes_in_another_order_are_not_the_same_metadata() {
        let twice = [0, 0, 0, 0, 2, 1, b'b', 1, b'a', 0];
        assert_eq!(Metadata::decode(&twice), Err(Malformed));
        // A count without what it counts.
        assert_eq!(Metadata::decode(&[0, 0, 0, 0, 200, 1]), Err(Malformed));
    }

    #[test]
    fn metadata_holds_for_its_owner_version_and_bytes_only() {
        let [ana, ben] = [1, 2].map(|n| Identity::from_secret([n; 32]));
        let bytes = Metadata::default().name("Ana").encode().unwrap();
        let signed = SignedMetadata::sign(&ana, &[0; 32], 4, bytes);
        assert!(signed.holds(&ben, &[0; 32]) && !signed.holds(&ben, &[1; 32]));
        assert!(!SignedMetadata { version: 5, ..signed.clone() }.holds(&ben, &[0; 32]));
        assert!(!SignedMetadata { node: ben.node(), ..signed }.holds(&ben, &[0; 32]));
    }
}
