//! Who is there: Noise XX with the node keys on links that nobody has proven, a greeting on proven ones.
//!
//! Everything here is a function of the session's seed and of the messages: answering the same message again
//! gives the same bytes, and a half-open handshake occupies no memory but the names of the first messages that were
//! answered. Timers, roles and retransmission are the business of [`Session`](super::Session), the only caller.

use std::collections::VecDeque;

use blake3::OutputReader;
use bytes::Bytes;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::SessionFault;
use super::protect::first_byte;
use crate::domain::id::NodeId;
use crate::domain::identity::Identity;

/// Frame kinds of the handshake.
pub(crate) const INITIATE: u8 = 0x01;
pub(crate) const ANSWER: u8 = 0x02;
pub(crate) const FINISH: u8 = 0x03;
pub(crate) const GREETING: u8 = 0x04;

const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_BLAKE2s";
/// What both sides mix in first: another protocol or version fails at the first check, and so does one that writes keys
/// in another form.
const PROLOGUE: &[u8] = b"anabranch 1 session, node keys\0";
const SEED_CONTEXT: &str = "anabranch 1 session seed";
const BINDING_CONTEXT: &str = "anabranch 1 session binding";

/// Bytes of a key.
const KEY: usize = 32;
/// Bytes by which an answer or a finish names the first message it belongs to.
pub(crate) const REFERENCE: usize = 4;
/// Bytes of a ChaCha20-Poly1305 tag.
const TAG: usize = 16;
/// What a finish has around its payload: kind, reference, encrypted key, tag.
pub(crate) const FINISH_OVERHEAD: usize = 1 + REFERENCE + KEY + TAG + TAG;
/// First messages that are remembered after they were answered: all that the budget for handshakes allows in two seconds,
/// so that strangers do not push out the one that is meant.
const REMEMBERED: usize = 64;
/// Bytes of the nonce in a greeting: two sessions of a pair share a binding once in 2^96, and nobody foresees one.
const NONCE: usize = 12;

/// What one side is willing to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Stream bytes of each lane that may be sent at first.
    pub(crate) credit: [u64; 2],
    /// Largest message in bytes.
    pub(crate) max_message: u32,
}

impl Offer {
    /// What the defaults offer: one byte says it.
    pub(crate) const USUAL: Self = Self { credit: [1 << 20; 2], max_message: 17 << 20 };
    /// Bytes of any other offer after that byte.
    const SPELLED: usize = 8 + 8 + 4;
    /// Most bytes of an offer.
    pub(crate) const MAX_BYTES: usize = 1 + Self::SPELLED;

    fn encode(self, out: &mut Vec<u8>) {
        out.push(u8::from(self != Self::USUAL));
        if self != Self::USUAL {
            out.extend_from_slice(&self.credit[0].to_le_bytes());
            out.extend_from_slice(&self.credit[1].to_le_bytes());
            out.extend_from_slice(&self.max_message.to_le_bytes());
        }
    }

    /// The offer at the start of `bytes`, and what follows it.
    fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), SessionFault> {
        match bytes {
            [0, rest @ ..] => Ok((Self::USUAL, rest)),
            [1, rest @ ..] => {
                let (spelled, rest) =
                    rest.split_first_chunk::<{ Self::SPELLED }>().ok_or(SessionFault::Malformed)?;
                let [a, b, c, d, e, f, g, h, tail @ ..] = *spelled;
                let [i, j, k, l, m, n, o, p, tail @ ..] = tail;
                let credit = [
                    u64::from_le_bytes([a, b, c, d, e, f, g, h]),
                    u64::from_le_bytes([i, j, k, l, m, n, o, p]),
                ];
                Ok((Self { credit, max_message: u32::from_le_bytes(tail) }, rest))
            }
            _ => Err(SessionFault::Malformed),
        }
    }
}

/// Keys to send and to receive with.
pub(crate) type Keys = Zeroizing<[[u8; 32]; 2]>;

/// A handshake that ended well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Agreed {
    pub(crate) peer: NodeId,
    pub(crate) offer: Offer,
    /// The same on both sides, on no other session.
    pub(crate) binding: [u8; 32],
}

/// The initiator's side after a good answer: what is left is to say who it is.
pub(crate) struct Answered {
    /// The first message.
    pub(crate) first: [u8; KEY],
    pub(crate) agreed: Agreed,
    offer: Offer,
    state: Box<HandshakeState>,
}

impl Answered {
    /// The frame with which the other side is done, and the keys; `body` are the first chunks that the other side gets.
    pub(crate) fn finish(mut self, body: &[u8]) -> Result<(Bytes, Keys), snow::Error> {
        let mut payload = Vec::with_capacity(Offer::MAX_BYTES + body.len());
        self.offer.encode(&mut payload);
        payload.extend_from_slice(body);
        let mut message = vec![0; KEY + TAG + payload.len() + TAG];
        let len = self.state.write_message(&payload, &mut message)?;
        let (initiator, responder) = self.state.dangerously_get_raw_split();
        let finish = frame(FINISH, &[&self.first[..REFERENCE], &message[..len]]);
        Ok((finish, Zeroizing::new([initiator, responder])))
    }
}

/// Bytes drawn from a seed, and never from the system.
struct SeededRandom(OutputReader);

impl SeededRandom {
    fn new(seed: &[u8; 32], purpose: u8, attempt: u32, context: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(SEED_CONTEXT);
        hasher.update(seed).update(&[purpose]).update(&attempt.to_le_bytes()).update(context);
        Self(hasher.finalize_xof())
    }

    fn bytes<const N: usize>(mut self) -> [u8; N] {
        let mut bytes = [0; N];
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

/// Key agreement as nodes do it: X25519 with keys written as node ids are, so that the key that Noise proves *is* the node,
/// sign bit and all.
struct NodeDh {
    key: Identity,
    public: [u8; KEY],
}

impl NodeDh {
    fn new(key: Identity) -> Self {
        Self { public: *key.node().as_bytes(), key }
    }
}

impl Dh for NodeDh {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY
    }

    fn priv_len(&self) -> usize {
        KEY
    }

    fn set(&mut self, privkey: &[u8]) {
        let mut secret = Zeroizing::new([0; KEY]);
        secret.copy_from_slice(privkey);
        *self = Self::new(self.key.with_secret(*secret));
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut secret = Zeroizing::new([0; KEY]);
        rng.try_fill_bytes(&mut *secret)?;
        *self = Self::new(self.key.with_secret(*secret));
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.key.secret()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        // The library hands over a buffer for the largest key it knows.
        let theirs = pubkey.first_chunk::<KEY>().ok_or(snow::Error::Dh)?;
        let shared = self.key.agree(&NodeId::from_bytes(*theirs)).ok_or(snow::Error::Dh)?;
        out[..KEY].copy_from_slice(&*shared);
        Ok(())
    }
}

struct SeededResolver {
    random: OutputReader,
    identity: Identity,
}

impl CryptoResolver for SeededResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(self.random.clone())))
    }

    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(NodeDh::new(self.identity.clone())))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// What each purpose draws from the seed.
const INITIATOR_KEY: u8 = 1;
const RESPONDER_KEY: u8 = 2;
const GREETING_NONCE: u8 = 3;
pub(crate) const TIMING: u8 = 4;

/// A number drawn from the seed, below `below`.
pub(crate) fn draw(seed: &[u8; 32], purpose: u8, below: u64) -> u64 {
    u64::from_le_bytes(SeededRandom::new(seed, purpose, 0, &[]).bytes()) % below.max(1)
}

/// The Noise half: proves the node keys of both ends to each other.
pub(crate) struct Noise {
    identity: Identity,
    offer: Offer,
    seed: Zeroizing<[u8; 32]>,
    /// Rises with every handshake that ended well, so that none can be replayed.
    attempt: u32,
    /// The first messages answered, the latest last.
    answered: VecDeque<[u8; KEY]>,
    /// The last answer given, to give it again cheaply.
    answer: Option<Bytes>,
}

impl Noise {
    pub(crate) fn new(identity: Identity, offer: Offer, seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        Self { identity, offer, seed, attempt: 0, answered: VecDeque::new(), answer: None }
    }

    /// Forgets every handshake under way: from here on their messages prove nothing.
    pub(crate) fn next_attempt(&mut self) {
        self.attempt += 1;
        self.answered.clear();
        self.answer = None;
    }

    /// The message and the frame that begin a handshake, always the same until the next attempt.
    pub(crate) fn initiate(&self) -> Result<([u8; KEY], Bytes), snow::Error> {
        let (_, first) = self.initiator()?;
        Ok((first, frame(INITIATE, &[&first])))
    }

    /// The answer to the first message `first` of the other side.
    pub(crate) fn answer(&mut self, first: &[u8; KEY]) -> Result<Bytes, SessionFault> {
        if let Some(answer) = self.answer.as_ref().filter(|_| self.has_answered(first)) {
            return Ok(answer.clone());
        }
        let (_, second) = self.responder(first)?;
        let answer = frame(ANSWER, &[&first[..REFERENCE], &second]);
        self.answered.retain(|known| known != first);
        if self.answered.len() == REMEMBERED {
            self.answered.pop_front();
        }
        self.answered.push_back(*first);
        self.answer = Some(answer.clone());
        Ok(answer)
    }

    /// Whether `first` was answered last, so that answering it again costs nothing.
    pub(crate) fn has_answered(&self, first: &[u8; KEY]) -> bool {
        self.answered.back() == Some(first)
    }

    /// The first messages answered that a finish may belong to, the latest first.
    pub(crate) fn named(&self, reference: &[u8; REFERENCE]) -> Vec<[u8; KEY]> {
        let named = self.answered.iter().rev().filter(|first| first[..REFERENCE] == *reference);
        named.copied().collect()
    }

    /// Reads the body of an answer. `None` if it answers something else.
    pub(crate) fn on_answer(&self, body: &[u8]) -> Result<Option<Answered>, SessionFault> {
        let (reference, second) = body.split_at_checked(REFERENCE).ok_or(SessionFault::Malformed)?;
        let (mut state, first) = self.initiator().map_err(|_| SessionFault::Unauthentic)?;
        if first[..REFERENCE] != *reference {
            return Ok(None);
        }
        let payload = read(&mut state, second)?;
        let (offer, rest) = Offer::decode(&payload)?;
        if !rest.is_empty() {
            return Err(SessionFault::Malformed);
        }
        let peer = self.remote(&state)?;
        let binding = binding(state.get_handshake_hash(), &self.identity.node());
        let agreed = Agreed { peer, offer, binding };
        Ok(Some(Answered { first, agreed, offer: self.offer, state: Box::new(state) }))
    }

    /// Reads the message of a finish that belongs to the first message `first`: what was agreed on, the keys, and the first
    /// chunks of the other side.
    pub(crate) fn on_finish(
        &self,
        first: &[u8; KEY],
        third: &[u8],
    ) -> Result<(Agreed, Keys, Bytes), SessionFault> {
        let (mut state, _) = self.responder(first)?;
        let mut hash = [0; 32];
        hash.copy_from_slice(state.get_handshake_hash());
        let payload = Bytes::from(read(&mut state, third)?);
        let (offer, body) = Offer::decode(&payload)?;
        let body = payload.slice_ref(body);
        let peer = self.remote(&state)?;
        let (initiator, responder) = state.dangerously_get_raw_split();
        let agreed = Agreed { peer, offer, binding: binding(&hash, &peer) };
        Ok((agreed, Zeroizing::new([responder, initiator]), body))
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
        let mut payload = Vec::with_capacity(Offer::MAX_BYTES);
        self.offer.encode(&mut payload);
        let mut second = vec![0; KEY + KEY + TAG + payload.len() + TAG];
        let len = state.write_message(&payload, &mut second).map_err(|_| SessionFault::Unauthentic)?;
        second.truncate(len);
        Ok((state, second))
    }

    fn builder(&self, random: SeededRandom) -> Result<Builder<'_>, snow::Error> {
        let resolver = SeededResolver { random: random.0, identity: self.identity.clone() };
        Builder::with_resolver(pattern()?, Box::new(resolver))
            .local_private_key(self.identity.secret())?
            .prologue(PROLOGUE)
    }

    /// The node whose key the other side has just proven.
    fn remote(&self, state: &HandshakeState) -> Result<NodeId, SessionFault> {
        let key = state.get_remote_static().and_then(|key| key.first_chunk::<KEY>());
        let node = NodeId::from_bytes(*key.ok_or(SessionFault::Unauthentic)?);
        if self.identity.is_key(&node) { Ok(node) } else { Err(SessionFault::BadIdentity) }
    }
}

/// Reads a message whose key and payload are encrypted.
fn read(state: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, SessionFault> {
    let mut payload = vec![0; message.len()];
    let len = state.read_message(message, &mut payload).map_err(|_| SessionFault::Unauthentic)?;
    payload.truncate(len);
    Ok(payload)
}

fn pattern() -> Result<NoiseParams, snow::Error> {
    PATTERN.parse()
}

/// What names the session: everything said up to the answer, and who began. The finish need not be in it, and may therefore
/// carry what is made with it.
fn binding(hash: &[u8], initiator: &NodeId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(BINDING_CONTEXT);
    hasher.update(hash).update(initiator.as_bytes());
    *hasher.finalize().as_bytes()
}

fn frame(kind: u8, parts: &[&[u8]]) -> Bytes {
    let mut frame = vec![first_byte(kind)];
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame.into()
}

/// The nonce of one side of a session on a proven link.
pub(crate) type GreetingNonce = [u8; NONCE];

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
    pub(crate) nonce: GreetingNonce,
    /// The other side's nonce, if it is known.
    pub(crate) echo: Option<GreetingNonce>,
    /// How far the sender is.
    pub(crate) stage: GreetingStage,
    pub(crate) offer: Offer,
}

/// Set beside the stage if an echo follows.
const ECHOES: u8 = 4;

impl Greeting {
    /// The nonce of this side's `attempt`th session on the link.
    pub(crate) fn nonce(seed: &[u8; 32], attempt: u32) -> GreetingNonce {
        SeededRandom::new(seed, GREETING_NONCE, attempt, &[]).bytes()
    }

    pub(crate) fn encode(&self) -> Bytes {
        let echoes = if self.echo.is_some() { ECHOES } else { 0 };
        let mut offer = Vec::new();
        self.offer.encode(&mut offer);
        let echo = self.echo.as_ref().map_or(&[][..], |echo| &echo[..]);
        frame(GREETING, &[&[self.stage as u8 | echoes], &self.nonce, echo, &offer])
    }

    /// Reads what follows the kind.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, SessionFault> {
        let (&first, rest) = body.split_first().ok_or(SessionFault::Malformed)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>().ok_or(SessionFault::Malformed)?;
        let (echo, rest) = match first & ECHOES {
            0 => (None, rest),
            _ => {
                let (echo, rest) = rest.split_first_chunk::<NONCE>().ok_or(SessionFault::Malformed)?;
                (Some(*echo), rest)
            }
        };
        let (offer, rest) = Offer::decode(rest)?;
        let stage = match first & !ECHOES {
            _ if !rest.is_empty() => return Err(SessionFault::Malformed),
            0 => GreetingStage::Greeting,
            1 => GreetingStage::Established,
            2 => GreetingStage::Confirmed,
            _ => return Err(SessionFault::Malformed),
        };
        Ok(Self { nonce: *nonce, echo, stage, offer })
    }
}

/// The binding of a session on a proven link: the nonces of both ends, the smaller one first.
pub(crate) fn greeting_binding(ours: &GreetingNonce, theirs: &GreetingNonce) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(BINDING_CONTEXT);
    hasher.update(ours.min(theirs)).update(ours.max(theirs));
    *hasher.finalize().as_bytes()
}
