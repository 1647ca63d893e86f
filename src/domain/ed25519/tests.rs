use curve25519_dalek::constants::{ED25519_BASEPOINT_TABLE, EIGHT_TORSION};
use proptest::prelude::*;

use super::*;
use crate::domain::identity::Identity;

/// What may be wrong, or odd, about a signature.
#[derive(Debug, Clone)]
enum Twist {
    Honest,
    FlippedBit(usize),
    FlippedKeyBit(usize),
    OtherAuthor,
    OtherMessage,
    /// s + l solves the equation as s does.
    AddedOrder,
    /// R of small order, by its encoding.
    SmallOrderPoint {
        torsion: usize,
        sign: bool,
    },
    /// The author signs properly, but with a point of small order added to R.
    TorsionInPoint(usize),
    /// The same in the key.
    TorsionInKey(usize),
    SmallOrderKey(usize),
    /// y + p, where that fits into 255 bits.
    NonCanonicalPoint(u8),
}

fn twist() -> impl Strategy<Value = Twist> {
    prop_oneof![
        4 => Just(Twist::Honest),
        1 => (0..512_usize).prop_map(Twist::FlippedBit),
        1 => (0..256_usize).prop_map(Twist::FlippedKeyBit),
        1 => Just(Twist::OtherAuthor),
        1 => Just(Twist::OtherMessage),
        1 => Just(Twist::AddedOrder),
        1 => (0..8_usize, any::<bool>()).prop_map(|(torsion, sign)| Twist::SmallOrderPoint { torsion, sign }),
        4 => (0..8_usize).prop_map(Twist::TorsionInPoint),
        4 => (0..8_usize).prop_map(Twist::TorsionInKey),
        1 => (0..8_usize).prop_map(Twist::SmallOrderKey),
        1 => (0..19_u8).prop_map(Twist::NonCanonicalPoint),
    ]
}

/// A claim that owns its parts.
#[derive(Debug, Clone)]
struct Claim {
    node: NodeId,
    message: Vec<u8>,
    signature: Signature,
}

impl Claim {
    fn statement(&self) -> Statement<'_> {
        Statement { node: &self.node, message: &self.message, signature: &self.signature }
    }
}

/// Signs as the owner of a key may who does not keep to the rules: with these points added to R and to the key.
fn sign_with(secret: &[u8; 32], message: &[u8], to_r: EdwardsPoint, to_key: EdwardsPoint) -> Claim {
    let scalar = SigningKey::from_bytes(secret).to_scalar();
    let public = (ED25519_BASEPOINT_TABLE * &scalar + to_key).compress();
    let nonce = Scalar::from_bytes_mod_order(*blake3::hash(message).as_bytes());
    let r = (ED25519_BASEPOINT_TABLE * &nonce + to_r).compress();
    let hash = Sha512::new().chain_update(r.as_bytes()).chain_update(public.as_bytes()).chain_update(message);
    let h = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
    let s = nonce + h * scalar;
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(r.as_bytes());
    bytes[32..].copy_from_slice(s.as_bytes());
    Claim {
        node: NodeId::from_bytes(*public.as_bytes()),
        message: message.to_vec(),
        signature: Signature::from_bytes(bytes),
    }
}

fn none() -> EdwardsPoint {
    EIGHT_TORSION[0]
}

fn claim(author: u8, message: &[u8], twist: &Twist) -> Claim {
    let identity = Identity::from_secret([author; 32]);
    let signature = identity.sign(message);
    let mut claim = Claim { node: identity.node(), message: message.to_vec(), signature };
    let (mut bytes, mut key) = (*signature.as_bytes(), *claim.node.as_bytes());
    match *twist {
        Twist::Honest => {}
        Twist::FlippedBit(bit) => bytes[bit / 8] ^= 1 << (bit % 8),
        Twist::FlippedKeyBit(bit) => key[bit / 8] ^= 1 << (bit % 8),
        Twist::OtherAuthor => key = *Identity::from_secret([author + 1; 32]).node().as_bytes(),
        Twist::OtherMessage => claim.message.push(0),
        Twist::AddedOrder => {
            let order = (-Scalar::ONE).to_bytes();
            let mut carry = 1;
            for (byte, add) in bytes[32..].iter_mut().zip(order) {
                let sum = u16::from(*byte) + u16::from(add) + carry;
                (*byte, carry) = (sum as u8, sum >> 8);
            }
        }
        Twist::SmallOrderPoint { torsion, sign } => {
            bytes[..32].copy_from_slice(EIGHT_TORSION[torsion].compress().as_bytes());
            bytes[31] |= if sign { 0x80 } else { 0 };
        }
        Twist::TorsionInPoint(torsion) => {
            return sign_with(&[author; 32], message, EIGHT_TORSION[torsion], none());
        }
        Twist::TorsionInKey(torsion) => {
            return sign_with(&[author; 32], message, none(), EIGHT_TORSION[torsion]);
        }
        Twist::SmallOrderKey(torsion) => key = *EIGHT_TORSION[torsion].compress().as_bytes(),
        Twist::NonCanonicalPoint(y) => {
            bytes[..32].fill(0xff);
            (bytes[0], bytes[31]) = (0xed + y.min(18), 0x7f);
        }
    }
    claim.node = NodeId::from_bytes(key);
    claim.signature = Signature::from_bytes(bytes);
    claim
}

/// Whether one equation over `claims` holds, several times over so that no cheaper check answers.
fn batched(claims: &[Claim]) -> bool {
    let statements: Vec<Statement<'_>> = claims.iter().map(Claim::statement).collect();
    Ed25519::default().all_hold(&statements).unwrap_or(false)
}

fn alone(claim: &Claim) -> bool {
    Ed25519::default().verify(&claim.node, &claim.message, &claim.signature)
}

proptest! {
    #[test]
    fn i5_a_batch_is_accepted_exactly_if_each_signature_alone_is(
        parts in prop::collection::vec((0..4_u8, prop::collection::vec(any::<u8>(), 0..40), twist()), 1..12),
    ) {
        let claims: Vec<Claim> =
            parts.iter().map(|(author, message, twist)| claim(*author, message, twist)).collect();
        let singles: Vec<bool> = claims.iter().map(alone).collect();
        prop_assert_eq!(batched(&claims), singles.iter().all(|holds| *holds));
        let scheme = Ed25519::default();
        let good: Vec<Claim> =
            claims.iter().zip(&singles).filter(|(_, holds)| **holds).map(|(claim, _)| claim.clone()).collect();
        let statements: Vec<Statement<'_>> = good.iter().map(Claim::statement).collect();
        prop_assert!(scheme.verify_all(&statements));
        // In a batch of one, and of two of the same, it is decided as alone.
        for (claim, holds) in claims.iter().zip(singles) {
            prop_assert_eq!(batched(std::slice::from_ref(claim)), holds);
            prop_assert_eq!(batched(&[claim.clone(), claim.clone()]), holds);
        }
    }

    #[test]
    fn i5_all_that_strict_verification_accepts_is_accepted_and_nothing_else_but_for_the_owner_of_the_key(
        message: Vec<u8>,
        twist in twist(),
    ) {
        let claim = claim(1, &message, &twist);
        let strict = VerifyingKey::from_bytes(claim.node.as_bytes()).is_ok_and(|key| {
            let signature = ed25519_dalek::Signature::from_bytes(claim.signature.as_bytes());
            key.verify_strict(&claim.message, &signature).is_ok()
        });
        let own = matches!(twist, Twist::TorsionInPoint(_) | Twist::TorsionInKey(_));
        prop_assert_eq!(alone(&claim), strict || own);
    }
}

#[test]
fn i5_the_owner_of_a_key_cannot_split_nodes_by_points_of_small_order() {
    for to_r in EIGHT_TORSION {
        for to_key in EIGHT_TORSION {
            let odd = sign_with(&[1; 32], b"m", to_r, to_key);
            let honest = claim(2, b"n", &Twist::Honest);
            assert!(alone(&odd));
            for _ in 0..8 {
                assert!(batched(&[odd.clone(), honest.clone()]) && batched(std::slice::from_ref(&odd)));
            }
        }
    }
}

#[test]
fn i5_two_wrong_signatures_do_not_make_up_for_each_other() {
    let (mut a, mut b) = (claim(1, b"a", &Twist::Honest), claim(1, b"b", &Twist::Honest));
    assert!(batched(&[a.clone(), b.clone()]));
    let add = |claim: &mut Claim, to_s: Scalar| {
        let mut bytes = *claim.signature.as_bytes();
        let s = Scalar::from_bytes_mod_order(bytes[32..].try_into().unwrap()) + to_s;
        bytes[32..].copy_from_slice(s.as_bytes());
        claim.signature = Signature::from_bytes(bytes);
    };
    add(&mut a, Scalar::ONE);
    add(&mut b, -Scalar::ONE);
    assert!(!batched(&[a.clone(), b.clone()]) && !alone(&a) && !alone(&b));
}

#[test]
fn i5_one_wrong_signature_spoils_batches_of_every_size() {
    let good: Vec<Claim> =
        (0..600_u32).map(|n| claim((n % 3) as u8, &n.to_le_bytes(), &Twist::Honest)).collect();
    let scheme = Ed25519::default();
    for size in [1, 2, 3, 189, 190, 500, 511, 512, 513, 600] {
        for spoiled in [0, size / 2, size - 1] {
            let mut claims = good[..size].to_vec();
            let statements: Vec<Statement<'_>> = claims.iter().map(Claim::statement).collect();
            assert!(scheme.verify_all(&statements));
            claims[spoiled].message.push(1);
            let statements: Vec<Statement<'_>> = claims.iter().map(Claim::statement).collect();
            assert!(!scheme.verify_all(&statements), "{spoiled} of {size}");
        }
    }
    assert!(scheme.verify_all(&[]));
}

#[test]
fn a_small_order_key_signs_nothing() {
    // The identity point: without strict checks, signatures under it hold for every message.
    let mut key = [0; 32];
    key[0] = 1;
    let signature = Signature::from_bytes([0; 64]);
    assert!(!Ed25519::default().verify(&NodeId::from_bytes(key), b"any", &signature));
}

#[test]
fn the_list_of_small_order_points_is_complete() {
    let mut found = std::collections::BTreeSet::new();
    for point in EIGHT_TORSION {
        let mut y = point.compress().to_bytes();
        assert!(!is_acceptable(&y));
        y[31] ^= 0x80;
        assert!(!is_acceptable(&y), "with the other sign neither");
        y[31] &= 0x7f;
        found.insert(y);
    }
    assert_eq!(found, SMALL_ORDER_Y.into_iter().collect());
}

#[test]
fn only_numbers_below_the_prime_are_canonical() {
    let mut y = [0xff; 32];
    y[31] = 0x7f;
    for first in 0..=255 {
        y[0] = first;
        // p - 1 is of small order.
        assert_eq!(is_acceptable(&y), first < 0xec);
        let mut with_sign = y;
        with_sign[31] = 0xff;
        assert_eq!(is_acceptable(&with_sign), first < 0xec);
    }
}

#[test]
fn a_key_with_a_part_of_small_order_is_no_nodes_although_it_agrees_like_the_one_without() {
    let (ana, ben) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
    assert!(ana.is_key(&ben.node()));
    let point = CompressedEdwardsY(*ben.node().as_bytes()).decompress().unwrap();
    for small in &EIGHT_TORSION[1..] {
        let alias = NodeId::from_bytes((point + small).compress().to_bytes());
        assert_eq!(ana.agree(&alias), ana.agree(&ben.node()));
        assert!(!ana.is_key(&alias));
        assert!(!ana.is_key(&NodeId::from_bytes(small.compress().to_bytes())));
    }
}
