//! Cheap signatures for simulations.
//!
//! A keyed hash under a key that only the world holds stands in for ed25519. The type cannot be made outside
//! this crate, so no real node can be given it by mistake. A share of all seeds runs on real ed25519.

use std::fmt;
use std::sync::Arc;

use anabranch::NodeId;
use anabranch::domain::identity::{Signature, SignatureScheme, Signer};

const NODE_CONTEXT: &str = "anabranch-sim 1 node id";
const KEY_CONTEXT: &str = "anabranch-sim 1 signing key";

/// A stand-in for ed25519: as deterministic, several hundred times faster, and safe only against those who
/// do not hold it.
pub struct KeyedScheme {
    key: [u8; 32],
}

impl KeyedScheme {
    pub(crate) fn new(seed: u64) -> Self {
        Self { key: blake3::derive_key(KEY_CONTEXT, &seed.to_le_bytes()) }
    }
}

fn tag(key: &[u8; 32], node: &NodeId, message: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(node.as_bytes());
    hasher.update(message);
    *hasher.finalize().as_bytes()
}

impl fmt::Debug for KeyedScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyedScheme")
    }
}

/// Who signs with the world's key.
struct KeyedSigner {
    key: [u8; 32],
    node: NodeId,
}

impl Signer for KeyedSigner {
    fn node(&self) -> NodeId {
        self.node
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let tag = tag(&self.key, &self.node, message);
        let mut bytes = [0; Signature::LEN];
        bytes[..32].copy_from_slice(&tag);
        bytes[32..].copy_from_slice(&tag);
        Signature::from_bytes(bytes)
    }

    fn agree(&self, peer: &NodeId) -> Option<zeroize::Zeroizing<[u8; 32]>> {
        let (low, high) = if self.node < *peer { (&self.node, peer) } else { (peer, &self.node) };
        Some(zeroize::Zeroizing::new(tag(&self.key, low, high.as_bytes())))
    }
}

impl SignatureScheme for KeyedScheme {
    fn signer(&self, secret: &[u8; 32]) -> Arc<dyn Signer> {
        let node = NodeId::from_bytes(blake3::derive_key(NODE_CONTEXT, secret));
        Arc::new(KeyedSigner { key: self.key, node })
    }

    fn verify(&self, node: &NodeId, message: &[u8], signature: &Signature) -> bool {
        let tag = tag(&self.key, node, message);
        let (left, right) = signature.as_bytes().split_at(32);
        left == tag && right == tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyed_signature_holds_for_its_author_message_and_world_only() {
        let (here, there) = (KeyedScheme::new(1), KeyedScheme::new(2));
        let (ana, ben) = (here.signer(&[1; 32]), here.signer(&[2; 32]));
        let signature = ana.sign(b"hello");
        let (ana, ben) = (ana.node(), ben.node());
        assert!(here.verify(&ana, b"hello", &signature));
        assert!(!here.verify(&ana, b"hullo", &signature) && !here.verify(&ben, b"hello", &signature));
        assert!(!there.verify(&ana, b"hello", &signature));
    }
}
