//! Who is there: Noise XX bound to the node keys on links that nobody has proven, a greeting on proven ones.
//!
//! Everything here is a function of the session's seed and of the messages: answering the same message again
//! gives the same bytes, and a half-open handshake occupies no memory. Timers, roles and retransmission are
//! the business of [`Session`](super::Session), the only caller.

use blake3::OutputReader;
use bytes::Bytes;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::{SessionFault, WIRE_VERSION};
use crate::domain::id::NodeId;
use crate::domain::identity::{Identity, Signature};

/// Frame kinds of the handshake.
pub(crate) const INITIATE: u8 = 0x01;
pub(crate) const ANSWER: u8 = 0x02;
pub(crate) const FINISH: u8 = 0x03;
pub(crate) const GREETING: u8 = 0x04;

const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_BLAKE2s";
/// What both sides mix in first: another protocol or version fails at the first check.
const PROLOGUE: &[u8] = b"anabranch 1 session\0";
/// What a node signs starts like this.
const SIGNED_PREFIX: &[u8] = b"anabranch 1 session\0";
const SEED_CONTEXT: &str = "anabranch 1 session seed";
const BINDING_CONTEXT: &str = "anabranch 1 session binding";

/// Bytes of a Curve25519 key.
const KEY: usize = 32;
/// Bytes of an answer's reference to the message it answers.
const REFERENCE: usize = 8;
/// Bytes of a ChaCha20-Poly1305 tag.
const TAG: usize = 16;
/// Encoded [`Offer`].
const OFFER: usize = 8 + 8 + 4;
/// What each side proves under encryption: node, signature, offer.
const PROOF: usize = 32 + Signature::LEN + OFFER;
/// Ephemeral key, encrypted static key, encrypted proof.
const ANSWER_NOISE: usize = KEY + KEY + TAG + PROOF + TAG;
/// Encrypted static key, encrypted proof.
const FINISH_NOISE: usize = KEY + TAG + PROOF + TAG;
/// Nonce, the other side's nonce, stage, offer.
const GREETING_BODY: usize = 32 + 32 + 1 + OFFER;

/// What one side is willing to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Stream bytes of each lane that may be sent at first.
    pub(crate) credit: [u64; 2],
    /// Largest message in bytes.
    pub(crate) max_message: u32,
}

impl Offer {
    fn encode(self) -> [u8; OFFER] {
        let mut bytes = [0; OFFER];
        bytes[..8].copy_from_slice(&self.credit[0].to_le_bytes());
        bytes[8..16].copy_from_slice(&self.credit[1].to_le_bytes());
        bytes[16..].copy_from_slice(&self.max_message.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; OFFER]) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = *bytes;
        let [i, j, k, l, m, n, o, p, rest @ ..] = rest;
        Self {
            credit: [
                u64::from_le_bytes([a, b, c, d, e, f, g, h]),
                u64::from_le_bytes([i, j, k, l, m, n, o, p]),
            ],
            max_message: u32::from_le_bytes(rest),
        }
    }
}

/// A handshake that ended well.
pub(crate) struct Agreed {
    pub(crate) peer: NodeId,
    pub(crate) offer: Offer,
    /// The same on both sides, on no other session.
    pub(crate) binding: [u8; 32],
    /// Keys to send and to receive with.
    pub(crate) keys: Zeroizing<[[u8; 32]; 2]>,
    /// The frame that lets the other side finish, if it still has to.
    pub(crate) finish: Option<Bytes>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Initiator,
    Responder,
}

/// Bytes drawn from a seed, and never from the system.
struct SeededRandom(OutputReader);

impl SeededRandom {
    fn new(seed: &[u8; 32], purpose: u8, attempt: u32, context: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(SEED_CONTEXT);
        hasher.update(seed).update(&[purpose]).update(&attempt.to_le_bytes()).update(context);
        Self(hasher.finalize_xof())
    }

    fn bytes(mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.0.fill(&mut bytes);
        bytes
    }
}

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(dest);
        Ok(())
    }
}

struct SeededResolver(OutputReader);

impl CryptoResolver for SeededResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(self.0.clone())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// What each purpose draws from the seed.
const STATIC_KEY: u8 = 0;
const INITIATOR_KEY: u8 = 1;
const RESPONDER_KEY: u8 = 2;
const GREETING_NONCE: u8 = 3;
pub(crate) const TIMING: u8 = 4;

/// A number drawn from the seed, below `below`.
pub(crate) fn draw(seed: &[u8; 32], purpose: u8, below: u64) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = SeededRandom::new(seed, purpose, 0, &[]).bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h]) % below.max(1)
}

/// The Noise half: proves the node keys of both ends to each other.
pub(crate) struct Noise {
    identity: Identity,
    offer: Offer,
    seed: Zeroizing<[u8; 32]>,
    static_private: Zeroizing<Vec<u8>>,
    static_public: [u8; KEY],
    /// Rises with every handshake that ended well, so that none can be replayed.
    attempt: u32,
    /// The last answer given, to give it again cheaply.
    answered: Option<([u8; KEY], Bytes)>,
}

impl Noise {
    pub(crate) fn new(identity: Identity, offer: Offer, seed: [u8; 32]) -> Result<Self, snow::Error> {
        let random = SeededRandom::new(&seed, STATIC_KEY, 0, &[]);
        let pair =
            Builder::with_resolver(pattern()?, Box::new(SeededResolver(random.0))).generate_keypair()?;
        let mut noise = Self::unused(identity, offer, seed);
        noise.static_public.copy_from_slice(&pair.public);
        noise.static_private = Zeroizing::new(pair.private);
        Ok(noise)
    }

    /// For a link that proves who is there: there is no handshake, so no keys are made.
    pub(crate) fn unused(identity: Identity, offer: Offer, seed: [u8; 32]) -> Self {
        let (static_private, static_public) = (Zeroizing::new(vec![0; KEY]), [0; KEY]);
        let seed = Zeroizing::new(seed);
        Self { identity, offer, seed, static_private, static_public, attempt: 0, answered: None }
    }

    /// Forgets every handshake under way: from here on their messages prove nothing.
    pub(crate) fn next_attempt(&mut self) {
        self.attempt += 1;
        self.answered = None;
    }

    /// The message and the frame that begin a handshake, always the same until the next attempt.
    pub(crate) fn initiate(&self) -> Result<([u8; KEY], Bytes), snow::Error> {
        let (_, first) = self.initiator()?;
        Ok((first, frame(INITIATE, &[&first])))
    }

    /// The answer to the first message `first` of the other side.
    pub(crate) fn answer(&mut self, first: &[u8; KEY]) -> Result<Bytes, SessionFault> {
        if let Some((answered, answer)) = &self.answered
            && answered == first
        {
            return Ok(answer.clone());
        }
        let (_, second) = self.responder(first)?;
        let answer = frame(ANSWER, &[&first[..REFERENCE], &second]);
        self.answered = Some((*first, answer.clone()));
        Ok(answer)
    }

    /// Whether `first` was answered last, so that answering it again costs nothing.
    pub(crate) fn has_answered(&self, first: &[u8; KEY]) -> bool {
        self.answered.as_ref().is_some_and(|(answered, _)| answered == first)
    }

    /// Reads the body of an answer: also returns our first message. `None` if it answers something else.
    pub(crate) fn on_answer(&self, body: &[u8]) -> Result<Option<([u8; KEY], Agreed)>, SessionFault> {
        let (reference, second) = body.split_at_checked(REFERENCE).ok_or(SessionFault::Malformed)?;
        if second.len() != ANSWER_NOISE {
            return Err(SessionFault::Malformed);
        }
        let (mut state, first) = self.initiator().map_err(|_| SessionFault::Unauthentic)?;
        if first[..REFERENCE] != *reference {
            return Ok(None);
        }
        let (peer, offer) = self.read_proof(&mut state, Role::Responder, second)?;
        let third = self.write_proof(&mut state, Role::Initiator).map_err(|_| SessionFault::Unauthentic)?;
        let finish = frame(FINISH, &[&first, &third]);
        Ok(Some((first, agreed(state, Role::Initiator, peer, offer, Some(finish)))))
    }

    /// Reads the body of a finish, which names the first message it belongs to.
    pub(crate) fn on_finish(&self, first: &[u8; KEY], third: &[u8]) -> Result<Agreed, SessionFault> {
        if third.len() != FINISH_NOISE {
            return Err(SessionFault::Malformed);
        }
        let (mut state, _) = self.responder(first)?;
        let (peer, offer) = self.read_proof(&mut state, Role::Initiator, third)?;
        Ok(agreed(state, Role::Responder, peer, offer, None))
    }

    fn initiator(&self) -> Result<(HandshakeState, [u8; KEY]), snow::Error> {
        let random = SeededRandom::new(&self.seed, INITIATOR_KEY, self.attempt, &[]);
        let mut state = self.builder(random)?.build_initiator()?;
        // The library wants room for a tag, although nothing is encrypted yet.
        let mut message = [0; KEY + TAG];
        state.write_message(&[], &mut message)?;
        let mut first = [0; KEY];
        first.copy_from_slice(&message[..KEY]);
        Ok((state, first))
    }

    fn responder(&self, first: &[u8; KEY]) -> Result<(HandshakeState, Vec<u8>), SessionFault> {
        let random = SeededRandom::new(&self.seed, RESPONDER_KEY, self.attempt, first);
        let built = self.builder(random).and_then(Builder::build_responder);
        let mut state = built.map_err(|_| SessionFault::Unauthentic)?;
        state.read_message(first, &mut []).map_err(|_| SessionFault::Unauthentic)?;
        let second = self.write_proof(&mut state, Role::Responder).map_err(|_| SessionFault::Unauthentic)?;
        Ok((state, second))
    }

    fn builder(&self, random: SeededRandom) -> Result<Builder<'_>, snow::Error> {
        Builder::with_resolver(pattern()?, Box::new(SeededResolver(random.0)))
            .local_private_key(&self.static_private)?
            .prologue(PROLOGUE)
    }

    /// Writes the message in which this side, in `role`, proves its node key.
    fn write_proof(&self, state: &mut HandshakeState, role: Role) -> Result<Vec<u8>, snow::Error> {
        let signature = self.identity.sign(&statement(role, state.get_handshake_hash(), &self.static_public));
        let proof =
            [&self.identity.node().as_bytes()[..], signature.as_bytes(), &self.offer.encode()].concat();
        let mut message = vec![0; ANSWER_NOISE + TAG];
        let len = state.write_message(&proof, &mut message)?;
        message.truncate(len);
        Ok(message)
    }

    /// Reads the message in which the other side, in `role`, proves its node key.
    fn read_proof(
        &self,
        state: &mut HandshakeState,
        role: Role,
        message: &[u8],
    ) -> Result<(NodeId, Offer), SessionFault> {
        let mut hash = [0; 32];
        hash.copy_from_slice(state.get_handshake_hash());
        let mut proof = [0; PROOF];
        let len = state.read_message(message, &mut proof).map_err(|_| SessionFault::Unauthentic)?;
        let remote = state.get_remote_static().ok_or(SessionFault::Unauthentic)?;
        let (node, rest) = proof.split_first_chunk::<32>().ok_or(SessionFault::Malformed)?;
        let (signature, rest) =
            rest.split_first_chunk::<{ Signature::LEN }>().ok_or(SessionFault::Malformed)?;
        let offer: &[u8; OFFER] = rest.try_into().map_err(|_| SessionFault::Malformed)?;
        if len != PROOF {
            return Err(SessionFault::Malformed);
        }
        let node = NodeId::from_bytes(*node);
        let signature = Signature::from_bytes(*signature);
        if !self.identity.verify(&node, &statement(role, &hash, remote), &signature) {
            return Err(SessionFault::BadIdentity);
        }
        Ok((node, Offer::decode(offer)))
    }
}

fn pattern() -> Result<NoiseParams, snow::Error> {
    PATTERN.parse()
}

/// What a node signs: its role, everything said before, and the Noise key it speaks with.
fn statement(role: Role, hash: &[u8], static_public: &[u8]) -> Vec<u8> {
    let role: &[u8] = match role {
        Role::Initiator => &[1],
        Role::Responder => &[2],
    };
    [SIGNED_PREFIX, role, hash, static_public].concat()
}

fn agreed(
    mut state: HandshakeState,
    role: Role,
    peer: NodeId,
    offer: Offer,
    finish: Option<Bytes>,
) -> Agreed {
    let mut binding = [0; 32];
    binding.copy_from_slice(state.get_handshake_hash());
    let (initiator, responder) = state.dangerously_get_raw_split();
    let keys = match role {
        Role::Initiator => [initiator, responder],
        Role::Responder => [responder, initiator],
    };
    Agreed { peer, offer, binding, keys: Zeroizing::new(keys), finish }
}

fn frame(kind: u8, parts: &[&[u8]]) -> Bytes {
    let mut frame = vec![WIRE_VERSION, kind];
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame.into()
}

/// How far one side of a proven link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GreetingStage {
    /// It has not seen its nonce echoed.
    Greeting,
    /// It has, but does not know that the other side has, too. Wants an answer.
    Established,
    /// It knows. Wants no answer.
    Confirmed,
}

/// A greeting on a proven link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// Drawn anew for each session.
    pub(crate) nonce: [u8; 32],
    /// The other side's nonce; zeros while it is not known.
    pub(crate) echo: [u8; 32],
    /// How far the sender is.
    pub(crate) stage: GreetingStage,
    pub(crate) offer: Offer,
}

impl Greeting {
    /// The nonce of this side's `attempt`th session on the link.
    pub(crate) fn nonce(seed: &[u8; 32], attempt: u32) -> [u8; 32] {
        SeededRandom::new(seed, GREETING_NONCE, attempt, &[]).bytes()
    }

    pub(crate) fn encode(&self) -> Bytes {
        frame(GREETING, &[&self.nonce, &self.echo, &[self.stage as u8], &self.offer.encode()])
    }

    /// Reads what follows version and kind.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, SessionFault> {
        let body: &[u8; GREETING_BODY] = body.try_into().map_err(|_| SessionFault::Malformed)?;
        let (nonce, rest) = body.split_first_chunk::<32>().ok_or(SessionFault::Malformed)?;
        let (echo, rest) = rest.split_first_chunk::<32>().ok_or(SessionFault::Malformed)?;
        let (stage, offer) = rest.split_first_chunk::<1>().ok_or(SessionFault::Malformed)?;
        let offer: &[u8; OFFER] = offer.try_into().map_err(|_| SessionFault::Malformed)?;
        let stage = match stage {
            [0] => GreetingStage::Greeting,
            [1] => GreetingStage::Established,
            [2] => GreetingStage::Confirmed,
            _ => return Err(SessionFault::Malformed),
        };
        Ok(Self { nonce: *nonce, echo: *echo, stage, offer: Offer::decode(offer) })
    }
}

/// The binding of a session on a proven link: the nonces of both ends, the smaller one first.
pub(crate) fn greeting_binding(ours: &[u8; 32], theirs: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(BINDING_CONTEXT);
    hasher.update(ours.min(theirs)).update(ours.max(theirs));
    *hasher.finalize().as_bytes()
}
