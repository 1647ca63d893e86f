//! Heads: what an author signs about its log.
//!
//! One signature at a sequence vouches, through the hash chain, for everything before it. Authors sign when
//! they first send, and only what is on stable storage.

use super::entry::EntryHash;
use super::id::{LogKey, NodeId};
use super::identity::{Identity, Signature, SignatureScheme, Statement};
use super::version::Tip;

/// Prefix of the signed bytes: a head can never be mistaken for another statement of the same key.
const HEAD_PREFIX: &[u8; 17] = b"anabranch 1 head\0";
const HEAD_BYTES: usize = HEAD_PREFIX.len() + 32 + 8 + 32;

/// Signed statement of an author: "the entry of this log at `sequence` hashes to `hash`".
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Head {
    /// Where in the log.
    pub tip: Tip,
    /// The author's signature over prefix, log key, sequence and hash.
    pub signature: Signature,
}

impl Head {
    /// Signs the entry `tip` of the log `key` as `author`.
    pub fn sign(key: &LogKey, tip: Tip, author: &Identity) -> Self {
        Self { tip, signature: author.sign(&signed_bytes(key, tip)) }
    }

    /// Whether `author` signed this head for the log `key`.
    pub fn verify(&self, key: &LogKey, author: &NodeId, scheme: &dyn SignatureScheme) -> bool {
        scheme.verify(author, &signed_bytes(key, self.tip), &self.signature)
    }

    /// Whether all these heads are signed: exactly if [`verify`](Self::verify) says so of each, at less cost.
    pub fn verify_all<'a>(
        heads: impl IntoIterator<Item = (&'a LogKey, &'a NodeId, &'a Self)>,
        scheme: &dyn SignatureScheme,
    ) -> bool {
        let claims: Vec<_> = heads
            .into_iter()
            .map(|(key, author, head)| (author, signed_bytes(key, head.tip), head))
            .collect();
        let statements: Vec<Statement<'_>> = claims
            .iter()
            .map(|(node, message, head)| Statement { node, message, signature: &head.signature })
            .collect();
        scheme.verify_all(&statements)
    }
}

fn signed_bytes(key: &LogKey, tip: Tip) -> [u8; HEAD_BYTES] {
    let mut bytes = [0; HEAD_BYTES];
    bytes[..17].copy_from_slice(HEAD_PREFIX);
    bytes[17..49].copy_from_slice(key.as_bytes());
    bytes[49..57].copy_from_slice(&tip.sequence.to_le_bytes());
    bytes[57..].copy_from_slice(EntryHash::as_bytes(&tip.hash));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_of_one_log_is_worthless_in_another() {
        let author = Identity::from_secret([3; 32]);
        let tip = Tip { sequence: 4, hash: EntryHash::from_bytes([9; 32]) };
        let (key, other) = (LogKey::from_bytes([1; 32]), LogKey::from_bytes([2; 32]));
        let head = Head::sign(&key, tip, &author);
        let scheme = author.scheme();
        assert!(head.verify(&key, &author.node(), &*scheme));
        assert!(!head.verify(&other, &author.node(), &*scheme));
        let moved = Head { tip: Tip { sequence: 5, ..tip }, ..head };
        assert!(!moved.verify(&key, &author.node(), &*scheme));
    }
}
