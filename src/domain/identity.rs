//! The secret half of a node, and what signing and checking a statement means.
//!
//! The only place that sees a secret key. Every signed statement starts with a prefix of its own, so that none can pass
//! for another.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

pub use super::ed25519::Ed25519;
use super::id::NodeId;

/// An ed25519 signature, or in simulations that of a [`SignatureScheme`] stand-in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature([u8; 64]);

impl Signature {
    /// Bytes of a signature.
    pub const LEN: usize = 64;

    /// The signature with these bytes; whether it holds shows when it is checked.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

impl serde::Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // serde knows arrays up to 32 elements.
        let (r, s) = self.0.split_at(32);
        (<[u8; 32]>::try_from(r).expect("half of 64"), <[u8; 32]>::try_from(s).expect("half of 64"))
            .serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (r, s) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&r);
        bytes[32..].copy_from_slice(&s);
        Ok(Self(bytes))
    }
}

/// The secret key of a node. Held by the store, wiped from memory on drop, never shown.
#[derive(Clone)]
pub struct Identity {
    secret: [u8; 32],
    node: NodeId,
    scheme: Arc<dyn SignatureScheme>,
    signer: Arc<dyn Signer>,
}

impl Identity {
    /// The identity whose ed25519 secret key is `secret`.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        Self::with_scheme(secret, Arc::new(Ed25519::default()))
    }

    /// The identity of `secret` under `scheme`. Simulations swap in a cheap scheme here.
    pub fn with_scheme(secret: [u8; 32], scheme: Arc<dyn SignatureScheme>) -> Self {
        let signer = scheme.signer(&secret);
        Self { secret, node: signer.node(), scheme, signer }
    }

    /// The public half.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        self.signer.sign(message)
    }

    /// Whether `signature` is `author`'s over `message`, under the scheme of this identity.
    pub fn verify(&self, author: &NodeId, message: &[u8], signature: &Signature) -> bool {
        self.scheme.verify(author, message, signature)
    }

    /// A secret that only this node and `peer` can compute, without a message between them; `None` if `peer` is no
    /// usable key or the scheme has no key agreement. Derive keys from it, never use it as one.
    pub fn agree(&self, peer: &NodeId) -> Option<Zeroizing<[u8; 32]>> {
        self.signer.agree(peer)
    }

    /// The identity of another secret under the same scheme, such as a key made for one session.
    pub(crate) fn with_secret(&self, secret: [u8; 32]) -> Self {
        if secret == self.secret { self.clone() } else { Self::with_scheme(secret, self.scheme()) }
    }

    /// Whether `node` is a key that a node may have: see [`SignatureScheme::is_key`].
    pub fn is_key(&self, node: &NodeId) -> bool {
        self.scheme.is_key(node)
    }

    /// The scheme, to check signatures without holding the secret.
    pub fn scheme(&self) -> Arc<dyn SignatureScheme> {
        Arc::clone(&self.scheme)
    }

    /// The 32 secret bytes, for a store to keep.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.secret);
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?}, ..)", self.node)
    }
}

/// How statements are signed. [`Ed25519`] is the only scheme outside simulations.
pub trait SignatureScheme: Send + Sync + fmt::Debug {
    /// Makes ready to sign with `secret`: what can be computed once is.
    fn signer(&self, secret: &[u8; 32]) -> Arc<dyn Signer>;
    /// Whether `signature` is that of `node` over `message`.
    fn verify(&self, node: &NodeId, message: &[u8], signature: &Signature) -> bool;

    /// Whether all of them hold: exactly if [`verify`](Self::verify) says so of each alone, though it may cost less.
    fn verify_all(&self, statements: &[Statement<'_>]) -> bool {
        statements.iter().all(|of| self.verify(of.node, of.message, of.signature))
    }

    /// Whether `node` is a key in its only form: key agreement alone would let one secret answer to several.
    fn is_key(&self, _node: &NodeId) -> bool {
        true
    }
}

/// What a signature claims.
#[derive(Debug, Clone, Copy)]
pub struct Statement<'a> {
    /// Whose signature it is said to be.
    pub node: &'a NodeId,
    /// What was signed.
    pub message: &'a [u8],
    /// The signature.
    pub signature: &'a Signature,
}

/// A secret key, ready to sign.
pub trait Signer: Send + Sync {
    /// The public half.
    fn node(&self) -> NodeId;
    /// Signs `message`.
    fn sign(&self, message: &[u8]) -> Signature;
    /// A secret that only this node and `peer` can compute. Schemes without key agreement have none, and no sessions on
    /// links that the transport does not prove: there it is what proves a key.
    fn agree(&self, _peer: &NodeId) -> Option<Zeroizing<[u8; 32]>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_author_and_message_only() {
        let (ana, ben) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
        let signature = ana.sign(b"hello");
        assert!(ben.verify(&ana.node(), b"hello", &signature));
        assert!(!ben.verify(&ana.node(), b"hullo", &signature));
        assert!(!ben.verify(&ben.node(), b"hello", &signature));
    }

    #[test]
    fn two_nodes_agree_on_a_secret_that_a_third_does_not_get() {
        let [ana, ben, eve] = [1, 2, 3].map(|n| Identity::from_secret([n; 32]));
        let ours = ana.agree(&ben.node()).unwrap();
        assert_eq!(ours, ben.agree(&ana.node()).unwrap());
        assert!(ours != eve.agree(&ana.node()).unwrap() && ours != eve.agree(&ben.node()).unwrap());
    }

    #[test]
    fn nobody_agrees_with_a_small_order_key() {
        let mut key = [0; 32];
        key[0] = 1;
        assert_eq!(Identity::from_secret([1; 32]).agree(&NodeId::from_bytes(key)), None);
    }

    #[test]
    fn the_debug_form_shows_no_secret() {
        let shown = format!("{:?}", Identity::from_secret([0xab; 32]));
        assert!(!shown.contains("171") && !shown.contains("ab, ab"));
    }
}
