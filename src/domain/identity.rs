//! The secret half of a node, and what signing and checking a statement means.
//!
//! The only place that sees a secret key. Every signed statement starts with a prefix of its own, so that none can pass
//! for another.

use std::fmt;
use std::sync::{Arc, Mutex};

use ed25519_dalek::{SigningKey, Verifier as _, VerifyingKey};

use zeroize::Zeroizing;

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
}

/// A secret key, ready to sign.
pub trait Signer: Send + Sync {
    /// The public half.
    fn node(&self) -> NodeId;
    /// Signs `message`.
    fn sign(&self, message: &[u8]) -> Signature;
    /// A secret that only this node and `peer` can compute. Schemes without key agreement have none.
    fn agree(&self, _peer: &NodeId) -> Option<Zeroizing<[u8; 32]>> {
        None
    }
}

impl Signer for SigningKey {
    fn node(&self) -> NodeId {
        NodeId::from_bytes(self.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(ed25519_dalek::Signer::sign(self, message).to_bytes())
    }

    /// X25519 (RFC 7748) between the Montgomery forms of both keys. One key for both uses is sound as long as what
    /// is derived and what is signed carry contexts of their own (Thormarker, "On using the same key pair for
    /// Ed25519 and an X25519 based KEM", 2021).
    fn agree(&self, peer: &NodeId) -> Option<Zeroizing<[u8; 32]>> {
        let theirs = VerifyingKey::from_bytes(peer.as_bytes()).ok()?.to_montgomery();
        let scalar = Zeroizing::new(self.to_scalar_bytes());
        let shared = Zeroizing::new(theirs.mul_clamped(*scalar).to_bytes());
        // A key of small order gives zero: a secret that everybody knows.
        (*shared != [0; 32]).then_some(shared)
    }
}

/// Authors whose decompressed keys are remembered, in places chosen by a byte of the key: those of a busy group. 200 bytes
/// each.
const REMEMBERED_KEYS: usize = 64;

/// The eight points of small order, as the curve's only canonical encodings of them.
const SMALL_ORDER: [[u8; 32]; 8] = {
    const fn filled(first: u8, middle: u8, last: u8) -> [u8; 32] {
        let mut bytes = [middle; 32];
        bytes[0] = first;
        bytes[31] = last;
        bytes
    }
    const fn signed(mut bytes: [u8; 32]) -> [u8; 32] {
        bytes[31] |= 0x80;
        bytes
    }
    const EIGHTH: [u8; 32] = [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ];
    const OTHER: [u8; 32] = [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ];
    [
        filled(1, 0, 0),
        filled(0xec, 0xff, 0x7f),
        filled(0, 0, 0),
        filled(0, 0, 0x80),
        EIGHTH,
        signed(EIGHTH),
        OTHER,
        signed(OTHER),
    ]
};

/// Ed25519 (RFC 8032) with strict verification: small-order keys and malleable signatures are refused, so
/// all nodes agree on what is valid.
///
/// Accepts exactly what `verify_strict` of ed25519-dalek does, for a fifth to a quarter less: keys are decompressed once, and R is compared with
/// the eight encodings that strictness forbids instead of being decompressed. The equation leaves only canonical encodings.
#[derive(Debug, Default)]
pub struct Ed25519 {
    recent: RecentKeys,
}

/// Keys that were checked against lately and are of full order.
#[derive(Debug)]
struct RecentKeys(Box<[Mutex<Option<VerifyingKey>>]>);

impl Default for RecentKeys {
    fn default() -> Self {
        Self((0..REMEMBERED_KEYS).map(|_| Mutex::default()).collect())
    }
}

impl RecentKeys {
    fn get(&self, node: &NodeId) -> Option<VerifyingKey> {
        let bytes = node.as_bytes();
        let mut place = self.0[usize::from(bytes[0]) % REMEMBERED_KEYS].lock().ok()?;
        if let Some(key) = place.filter(|key| key.as_bytes() == bytes) {
            return Some(key);
        }
        let key = VerifyingKey::from_bytes(bytes).ok().filter(|key| !key.is_weak())?;
        *place = Some(key);
        Some(key)
    }
}

impl SignatureScheme for Ed25519 {
    fn signer(&self, secret: &[u8; 32]) -> Arc<dyn Signer> {
        Arc::new(SigningKey::from_bytes(secret))
    }

    fn verify(&self, node: &NodeId, message: &[u8], signature: &Signature) -> bool {
        let (r, _) = signature.0.split_at(32);
        if SMALL_ORDER.iter().any(|point| point == r) {
            return false;
        }
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        self.recent.get(node).is_some_and(|key| key.verify(message, &signature).is_ok())
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
    fn a_small_order_key_signs_nothing() {
        // The identity point: without strict checks, signatures under it hold for every message.
        let mut key = [0; 32];
        key[0] = 1;
        assert!(!Ed25519::default().verify(&NodeId::from_bytes(key), b"any", &Signature([0; 64])));
    }

    #[test]
    fn the_list_of_small_order_points_is_complete_and_canonical() {
        let points: std::collections::BTreeSet<_> = SMALL_ORDER.iter().collect();
        assert_eq!(points.len(), 8, "the torsion subgroup has eight elements");
        for bytes in points {
            let key = VerifyingKey::from_bytes(bytes).unwrap();
            assert!(key.is_weak());
            assert_eq!(key.to_edwards().compress().as_bytes(), bytes);
        }
    }

    proptest::proptest! {
        #[test]
        fn verification_agrees_with_the_strict_one_of_the_crate(
            secret: [u8; 32],
            message: Vec<u8>,
            flip in proptest::option::of(0..512_usize),
            point in proptest::option::of(0..8_usize),
            add_order: bool,
        ) {
            let ana = Identity::from_secret(secret);
            let mut bytes = *ana.sign(&message).as_bytes();
            if let Some(bit) = flip {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            if let Some(point) = point {
                bytes[..32].copy_from_slice(&SMALL_ORDER[point]);
            }
            if add_order {
                // The order of the base point, 2^252 + 277…493, little-endian: s + l solves the equation as s does.
                let order = hex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
                let mut carry = 0;
                for (byte, add) in bytes[32..].iter_mut().zip(order) {
                    let sum = u16::from(*byte) + u16::from(add) + carry;
                    (*byte, carry) = (sum as u8, sum >> 8);
                }
            }
            let strict = VerifyingKey::from_bytes(ana.node().as_bytes()).unwrap();
            let expected = strict.verify_strict(&message, &ed25519_dalek::Signature::from_bytes(&bytes)).is_ok();
            let scheme = Ed25519::default();
            for _ in 0..2 {
                proptest::prop_assert_eq!(scheme.verify(&ana.node(), &message, &Signature(bytes)), expected);
            }
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
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
