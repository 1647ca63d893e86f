//! Ed25519 (RFC 8032), alone and in batches, by one rule of validity.
//!
//! Many signatures are checked as one equation for little more than a third of what they cost alone. That must never decide
//! otherwise than single checks do, or an author could make an entry that some nodes take and others refuse, by the
//! company it arrives in. RFC 8032 leaves room for just that: whether the equation is multiplied by the cofactor. Here it
//! is, always, and encodings are judged by their bytes. The rule: a signature (R, s) of the key A over a message holds if
//!
//! 1. R and A are canonical encodings of curve points that are not of small order,
//! 2. s is below the order of the base point B,
//! 3. `8 s B = 8 R + 8 h A`, h being the SHA-512 of R, A and the message.
//!
//! A batch sums its equations under coefficients of 128 bits. Each equation lives in the group of prime order, where a
//! sum with one that does not hold is zero by chance in 1 of 2^128 choices; if all hold, it always is. The coefficients
//! are a hash of the whole batch, so nobody can choose a signature after them, and a run is a function of its inputs.
//! Chalkias, Garillot and Nikolaenko, "Taming the many EdDSAs" (2020), show why neither works without the cofactor.
//!
//! Signs and keeps keys through `ed25519-dalek`, and never handles a secret itself. Called by [`Identity`](super::identity).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{IsIdentity as _, VartimeMultiscalarMul as _};
use ed25519_dalek::{SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha512};
use zeroize::Zeroizing;

use super::id::NodeId;
use super::identity::{Signature, SignatureScheme, Signer, Statement};

/// Authors whose decompressed keys are remembered, in places chosen by a byte of the key: those of a busy group. 200 bytes
/// each.
const REMEMBERED_KEYS: usize = 64;
/// Signatures in one equation: more gain little, and what is under way is bounded.
const MAX_BATCH: usize = 512;
/// Context of the coefficients' hash (blake3 derive-key mode).
const BATCH_CONTEXT: &str = "anabranch 1 signature batch";

/// The y coordinates of the eight points of small order, canonical; with either sign of x all are refused.
const SMALL_ORDER_Y: [[u8; 32]; 5] = {
    const fn filled(first: u8, middle: u8, last: u8) -> [u8; 32] {
        let mut bytes = [middle; 32];
        bytes[0] = first;
        bytes[31] = last;
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
    [filled(1, 0, 0), filled(0xec, 0xff, 0x7f), filled(0, 0, 0), EIGHTH, OTHER]
};

/// Whether these bytes may encode a key, or the point of a signature: a canonical y, and not that of a point of small order.
fn is_acceptable(bytes: &[u8; 32]) -> bool {
    let mut y = *bytes;
    y[31] &= 0x7f;
    // The field has 2^255 - 19 elements: only these encodings, and 2^255 - 1 at most, are out of range.
    let out_of_range = y[0] >= 0xed && y[1..31].iter().all(|byte| *byte == 0xff) && y[31] == 0x7f;
    !out_of_range && !SMALL_ORDER_Y.contains(&y)
}

/// Ed25519 by the rule of `docs/protocol.md`: all nodes agree on what is valid, however it reaches them.
///
/// Accepts all that `verify_strict` of ed25519-dalek does, and besides what differs from that by points of small order, which
/// only the owner of a key can make.
#[derive(Debug, Default)]
pub struct Ed25519 {
    recent: RecentKeys,
}

/// A key that signatures may hold under.
#[derive(Debug, Clone, Copy)]
struct CheckingKey {
    bytes: [u8; 32],
    /// The negative of its point, as the equation has it.
    minus: EdwardsPoint,
}

/// Keys that were checked against lately.
#[derive(Debug)]
struct RecentKeys(Box<[Mutex<Option<CheckingKey>>]>);

impl Default for RecentKeys {
    fn default() -> Self {
        Self((0..REMEMBERED_KEYS).map(|_| Mutex::default()).collect())
    }
}

impl RecentKeys {
    fn get(&self, node: &NodeId) -> Option<CheckingKey> {
        let bytes = node.as_bytes();
        let mut place = self.0[usize::from(bytes[0]) % REMEMBERED_KEYS].lock().ok()?;
        if let Some(key) = place.filter(|key| key.bytes == *bytes) {
            return Some(key);
        }
        let point = is_acceptable(bytes).then(|| CompressedEdwardsY(*bytes).decompress()).flatten()?;
        let key = CheckingKey { bytes: *bytes, minus: -point };
        *place = Some(key);
        Some(key)
    }
}

/// A signature that passed the first two parts of the rule, but for R being on the curve.
struct Shaped {
    r: CompressedEdwardsY,
    s: Scalar,
    h: Scalar,
}

impl Shaped {
    fn of(statement: &Statement<'_>) -> Option<Self> {
        let (r, s) = statement.signature.as_bytes().split_at(32);
        let (r, s) = (<[u8; 32]>::try_from(r).ok()?, <[u8; 32]>::try_from(s).ok()?);
        let s: Option<Scalar> = Scalar::from_canonical_bytes(s).into();
        let s = s.filter(|_| is_acceptable(&r))?;
        let hash = Sha512::new().chain_update(r).chain_update(statement.node.as_bytes());
        let hash: [u8; 64] = hash.chain_update(statement.message).finalize().into();
        Some(Self { r: CompressedEdwardsY(r), s, h: Scalar::from_bytes_mod_order_wide(&hash) })
    }
}

impl Ed25519 {
    fn holds(&self, statement: &Statement<'_>) -> Option<bool> {
        let (shaped, key) = (Shaped::of(statement)?, self.recent.get(statement.node)?);
        let expected = EdwardsPoint::vartime_double_scalar_mul_basepoint(&shaped.h, &key.minus, &shaped.s);
        // Nearly all signatures that hold do so without the cofactor: what it is multiplied by is zero.
        if expected.compress() == shaped.r {
            return Some(true);
        }
        Some((expected - shaped.r.decompress()?).mul_by_cofactor().is_identity())
    }

    /// One equation for all. `None` if one of them has the wrong shape.
    fn all_hold(&self, statements: &[Statement<'_>]) -> Option<bool> {
        let shaped: Vec<Shaped> = statements.iter().map(Shaped::of).collect::<Option<_>>()?;
        let mut hasher = blake3::Hasher::new_derive_key(BATCH_CONTEXT);
        for (statement, Shaped { h, .. }) in statements.iter().zip(&shaped) {
            // h stands for R, key and message.
            hasher
                .update(statement.signature.as_bytes())
                .update(statement.node.as_bytes())
                .update(h.as_bytes());
        }
        let mut coefficients = hasher.finalize_xof();
        let mut base = Scalar::ZERO;
        // Signatures of one author share the term of its key.
        let mut keys: BTreeMap<&NodeId, (EdwardsPoint, Scalar)> = BTreeMap::new();
        let (mut scalars, mut points) = (Vec::with_capacity(shaped.len()), Vec::with_capacity(shaped.len()));
        for (statement, Shaped { r, s, h }) in statements.iter().zip(&shaped) {
            let mut coefficient = [0; 16];
            coefficients.fill(&mut coefficient);
            let coefficient = Scalar::from(u128::from_le_bytes(coefficient));
            base += coefficient * s;
            let of_key = match keys.get_mut(statement.node) {
                Some((_, of_key)) => of_key,
                None => {
                    let minus = self.recent.get(statement.node)?.minus;
                    &mut keys.entry(statement.node).or_insert((minus, Scalar::ZERO)).1
                }
            };
            *of_key += coefficient * h;
            scalars.push(coefficient);
            points.push(-r.decompress()?);
        }
        let keys = keys.into_values().map(|(minus, scalar)| (scalar, minus));
        let (more, others): (Vec<Scalar>, Vec<EdwardsPoint>) =
            keys.chain([(base, ED25519_BASEPOINT_POINT)]).unzip();
        scalars.extend(more);
        points.extend(others);
        Some(EdwardsPoint::vartime_multiscalar_mul(scalars, points).mul_by_cofactor().is_identity())
    }
}

impl SignatureScheme for Ed25519 {
    fn signer(&self, secret: &[u8; 32]) -> Arc<dyn Signer> {
        Arc::new(SigningKey::from_bytes(secret))
    }

    fn verify(&self, node: &NodeId, message: &[u8], signature: &Signature) -> bool {
        self.holds(&Statement { node, message, signature }).unwrap_or(false)
    }

    fn verify_all(&self, statements: &[Statement<'_>]) -> bool {
        statements.chunks(MAX_BATCH).all(|batch| match batch {
            [alone] => self.holds(alone).unwrap_or(false),
            batch => self.all_hold(batch).unwrap_or(false),
        })
    }

    /// A key as above and without a part of small order: with one it would agree on the same secrets as without. (Its negative
    /// does, too; but whoever knows the one's secret knows the other's.)
    fn is_key(&self, node: &NodeId) -> bool {
        self.recent.get(node).is_some_and(|key| key.minus.is_torsion_free())
    }
}

impl Signer for SigningKey {
    fn node(&self) -> NodeId {
        NodeId::from_bytes(self.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature::from_bytes(ed25519_dalek::Signer::sign(self, message).to_bytes())
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

#[cfg(test)]
mod tests;
