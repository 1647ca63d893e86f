//! Frames that prove who sent them without a handshake.
//!
//! A frame is a packet in an envelope: who sends it, a boot epoch, a counter, and a tag under a key that sender and
//! receiver derive from their node keys (static X25519, then blake3) for this direction. At a thousand nodes two of them
//! meet once in a quarter of an hour: a handshake per meeting would cost more than the meeting. The price is that frames
//! are not encrypted and that there is no forward secrecy; neither matters for what they say, which every member hears
//! anyhow.
//!
//! A frame is taken once: the receiver keeps the newest epoch and counter of each sender, with a window. What a receiver
//! forgot by restarting could be repeated to it, so a pair is *fresh* only after an answer to an own nonce: until then a
//! frame proves who wrote it, not when, and brings nobody back. Called by the engine.

use zeroize::{Zeroize as _, Zeroizing};

use super::codec::{Malformed, Reader, put_varint};
use super::statement::Incarnation;
use super::wire::{Nonce, Proof, ShortId, VERSION};
use crate::domain::id::NodeId;
use crate::domain::identity::Identity;

/// Bytes of a tag: 128 bits, as Poly1305 has.
pub(super) const TAG_BYTES: usize = 16;
/// Bytes of a greeting, more than the answer has: nobody is hit harder by way of us than directly.
pub(super) const MEET_BYTES: usize = 192;

const PAIR_CONTEXT: &str = "anabranch 1 liveness pair key";
const MEET: u8 = 0;
const SHORT: u8 = 1;
const FULL: u8 = 2;

/// The keys of two nodes, one per direction.
#[derive(Clone)]
pub(super) struct PairKeys {
    send: [u8; 32],
    receive: [u8; 32],
}

impl Drop for PairKeys {
    fn drop(&mut self) {
        self.send.zeroize();
        self.receive.zeroize();
    }
}

impl PairKeys {
    /// The keys between this node and `peer`; `None` if its id is no usable key.
    pub(super) fn derive(identity: &Identity, group: &[u8; 32], peer: &NodeId) -> Option<Self> {
        let shared = identity.agree(peer)?;
        let direction = |from: &NodeId, to: &NodeId| {
            let mut hasher = blake3::Hasher::new_derive_key(PAIR_CONTEXT);
            hasher.update(&*shared).update(group).update(from.as_bytes()).update(to.as_bytes());
            *hasher.finalize().as_bytes()
        };
        let own = identity.node();
        Some(Self { send: direction(&own, peer), receive: direction(peer, &own) })
    }

    /// Appends the tag of what is in `frame`.
    pub(super) fn seal(&self, frame: &mut Vec<u8>) {
        let tag = Zeroizing::new(*blake3::keyed_hash(&self.send, frame).as_bytes());
        frame.extend_from_slice(&tag[..TAG_BYTES]);
    }

    /// Whether the other end wrote `frame`, whose last bytes are the tag.
    pub(super) fn opens(&self, frame: &[u8]) -> bool {
        let Some((said, tag)) = frame.split_last_chunk::<TAG_BYTES>() else { return false };
        same(tag, &blake3::keyed_hash(&self.receive, said).as_bytes()[..TAG_BYTES])
    }

    /// Shows the other end that this one answered its relayed ping.
    pub(super) fn prove(&self, nonce: Nonce, incarnation: Incarnation) -> Proof {
        proof(&self.send, nonce, incarnation)
    }

    /// Whether the other end answered a relayed ping.
    pub(super) fn proves(&self, nonce: Nonce, incarnation: Incarnation, shown: &Proof) -> bool {
        same(shown, &proof(&self.receive, nonce, incarnation))
    }
}

fn proof(key: &[u8; 32], nonce: Nonce, incarnation: Incarnation) -> Proof {
    let mut said = [0; 25];
    said[..13].copy_from_slice(b"relayed ping\0");
    said[13..17].copy_from_slice(&nonce.0.to_le_bytes());
    said[17..].copy_from_slice(&incarnation.0.to_le_bytes());
    let hash = blake3::keyed_hash(key, &said);
    let mut proof = [0; 8];
    proof.copy_from_slice(&hash.as_bytes()[..8]);
    proof
}

/// Compares without saying by its duration where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

/// Who a frame says it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// To those who know the node.
    Short(ShortId),
    /// To those who perhaps do not.
    Full(NodeId),
}

/// What surrounds a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Envelope<'a> {
    pub(super) sender: Sender,
    pub(super) epoch: u64,
    pub(super) counter: u64,
    pub(super) packet: &'a [u8],
}

/// A frame whose sender has not been believed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outer<'a> {
    /// A greeting: proves nothing.
    Meet(NodeId, Nonce),
    /// A sealed frame.
    Sealed(Envelope<'a>),
}

impl<'a> Outer<'a> {
    pub(super) fn decode(frame: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(frame);
        let [version, kind] = reader.array()?;
        if version != VERSION {
            return Err(Malformed);
        }
        let sender = match kind {
            MEET if frame.len() == MEET_BYTES => {
                let node = NodeId::from_bytes(reader.array()?);
                return Ok(Self::Meet(node, Nonce(u32::from_le_bytes(reader.array()?))));
            }
            SHORT => Sender::Short(ShortId(u64::from_le_bytes(reader.array()?))),
            FULL => Sender::Full(NodeId::from_bytes(reader.array()?)),
            _ => return Err(Malformed),
        };
        let (epoch, counter) = (reader.varint()?, reader.varint()?);
        let (packet, _) = reader.rest().split_last_chunk::<TAG_BYTES>().ok_or(Malformed)?;
        Ok(Self::Sealed(Envelope { sender, epoch, counter, packet }))
    }
}

/// Starts a frame; the packet and [`PairKeys::seal`] follow.
pub(super) fn put_envelope(out: &mut Vec<u8>, sender: Sender, epoch: u64, counter: u64) {
    match sender {
        Sender::Short(short) => {
            out.extend_from_slice(&[VERSION, SHORT]);
            out.extend_from_slice(&short.0.to_le_bytes());
        }
        Sender::Full(node) => {
            out.extend_from_slice(&[VERSION, FULL]);
            out.extend_from_slice(node.as_bytes());
        }
    }
    put_varint(out, epoch);
    put_varint(out, counter);
}

/// A greeting to an address of which nobody knows who lives there.
pub(super) fn meet_frame(node: &NodeId, nonce: Nonce) -> Vec<u8> {
    let mut frame = vec![VERSION, MEET];
    frame.extend_from_slice(node.as_bytes());
    frame.extend_from_slice(&nonce.0.to_le_bytes());
    frame.resize(MEET_BYTES, 0);
    frame
}

/// What was received from one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Received {
    epoch: u64,
    top: u64,
    /// Which of the 64 counters up to `top` came, `top` at the lowest bit; 0 before the first.
    window: u64,
    /// An answer to an own nonce tied this state to the present.
    pub(super) fresh: bool,
}

/// What the numbers of an authentic frame say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    New,
    Repeated,
    /// Of an earlier life of the sender, or one that forgot later ones; the epoch reached.
    Stale(u64),
}

impl Received {
    /// Takes a frame's numbers. Only for frames that are authentic.
    pub(super) fn take(&mut self, epoch: u64, counter: u64) -> Arrival {
        if self.window == 0 || epoch > self.epoch {
            // A later life of a sender that was fresh stays fresh: nobody but it can seal a higher epoch.
            *self = Self { epoch, top: counter, window: 1, fresh: self.fresh };
            return Arrival::New;
        }
        if epoch < self.epoch {
            return Arrival::Stale(self.epoch);
        }
        if counter > self.top {
            let ahead = counter - self.top;
            self.window = if ahead < 64 { self.window << ahead } else { 0 } | 1;
            self.top = counter;
            return Arrival::New;
        }
        let behind = self.top - counter;
        if behind >= 64 || self.window & (1 << behind) != 0 {
            return Arrival::Repeated;
        }
        self.window |= 1 << behind;
        Arrival::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_opens_for_its_receiver_in_its_group_and_unchanged_only() {
        let [ana, ben, eve] = [1, 2, 3].map(|n| Identity::from_secret([n; 32]));
        let keys = |own: &Identity, peer: &Identity, group| PairKeys::derive(own, &[group; 32], &peer.node());
        let mut frame = Vec::new();
        put_envelope(&mut frame, Sender::Short(ShortId::from(&ana.node())), 3, 300);
        frame.extend_from_slice(b"packet");
        keys(&ana, &ben, 0).unwrap().seal(&mut frame);
        assert!(keys(&ben, &ana, 0).unwrap().opens(&frame));
        assert!(!keys(&ben, &ana, 1).unwrap().opens(&frame), "another group");
        assert!(!keys(&eve, &ana, 0).unwrap().opens(&frame), "another receiver");
        assert!(!keys(&ana, &ben, 0).unwrap().opens(&frame), "sent back to its author");
        let Ok(Outer::Sealed(envelope)) = Outer::decode(&frame) else { panic!("not sealed") };
        assert_eq!((envelope.epoch, envelope.counter, envelope.packet), (3, 300, &b"packet"[..]));
        frame[12] ^= 1;
        assert!(!keys(&ben, &ana, 0).unwrap().opens(&frame));
    }

    #[test]
    fn a_proof_is_readable_by_the_origin_and_for_its_nonce_only() {
        let [ana, ben] = [1, 2].map(|n| Identity::from_secret([n; 32]));
        let ana_keys = PairKeys::derive(&ana, &[0; 32], &ben.node()).unwrap();
        let ben_keys = PairKeys::derive(&ben, &[0; 32], &ana.node()).unwrap();
        let proof = ben_keys.prove(Nonce(9), Incarnation(1));
        assert!(ana_keys.proves(Nonce(9), Incarnation(1), &proof));
        assert!(!ana_keys.proves(Nonce(8), Incarnation(1), &proof));
        assert!(!ana_keys.proves(Nonce(9), Incarnation(2), &proof));
        assert!(!ben_keys.proves(Nonce(9), Incarnation(1), &proof));
    }

    #[test]
    fn each_frame_is_taken_once_in_any_order_within_the_window() {
        let mut received = Received::default();
        assert_eq!(received.take(5, 10), Arrival::New);
        assert_eq!(received.take(5, 10), Arrival::Repeated);
        assert_eq!(received.take(5, 12), Arrival::New);
        assert_eq!(received.take(5, 11), Arrival::New);
        assert_eq!(received.take(5, 11), Arrival::Repeated);
        assert_eq!(received.take(5, 200), Arrival::New);
        assert_eq!(received.take(5, 12), Arrival::Repeated);
        assert_eq!(received.take(6, 0), Arrival::New);
        assert_eq!(received.take(5, 201), Arrival::Stale(6));
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused() {
        let mut dice = crate::protocol::swim::rng::Dice::new(1);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..dice.below(260)).map(|_| dice.next() as u8).collect();
            let _ = Outer::decode(&bytes);
        }
    }
}
