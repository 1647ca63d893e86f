//! The packets of the liveness engine and their bytes.
//!
//! A packet is a version, a kind with flags, the sender's incarnation, a body, and updates up to its end. The format is
//! our own because every byte counts twice per second and node; golden bytes in the tests pin it. Decoding is total and
//! allocates no more than a constant times the bytes received. Called by the engine.

use bytes::Bytes;

use super::codec::{Malformed, Reader, put_bytes, put_varint};
use super::metadata::{MAX_METADATA_BYTES, SignedMetadata};
use super::statement::{Incarnation, Statement};
use crate::domain::id::NodeId;
use crate::domain::identity::Signature;
use crate::domain::link::PeerAddr;

/// First byte of packets and frames.
pub const VERSION: u8 = 1;
/// Parts into which the state is cut for digests. 32 of 4 bytes fit any frame; each covers a thirty-second of the nodes.
pub const BUCKETS: usize = 32;
/// Longest address hint in bytes.
pub const MAX_HINT_BYTES: usize = 64;

const HELD: u8 = 0x10;
const KIND: u8 = 0x0f;

/// The first eight bytes of a [`NodeId`]: names a node that both ends know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortId(pub u64);

impl From<&NodeId> for ShortId {
    fn from(node: &NodeId) -> Self {
        let bytes = node.as_bytes();
        Self(u64::from_le_bytes([
            bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
        ]))
    }
}

/// Names one ping. Unpredictable, so that an old answer answers nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub u32);

/// Shows that a node answered a relayed ping: a tag under the key that it shares with whoever asked.
pub type Proof = [u8; 8];

/// What a packet is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Are you there? `held`: the sender does not hold the receiver alive, in this incarnation.
    Ping {
        /// To be repeated in the answer.
        nonce: Nonce,
        /// The incarnation in which the receiver is held suspect, unreachable or left.
        held: Option<Incarnation>,
    },
    /// I am.
    Ack {
        /// Of the ping.
        nonce: Nonce,
        /// As in a ping.
        held: Option<Incarnation>,
    },
    /// Ping the subject for me (SWIM, section 3.1).
    PingReq {
        /// Of the indirect ping.
        nonce: Nonce,
        /// Whom.
        subject: ShortId,
    },
    /// A ping on behalf of the origin.
    RelayPing {
        /// Of the origin.
        nonce: Nonce,
        /// Who asked.
        origin: NodeId,
    },
    /// The answer to a ping on behalf of the origin.
    RelayAck {
        /// Of the origin.
        nonce: Nonce,
        /// Who asked.
        origin: ShortId,
        /// Readable by the origin only.
        proof: Proof,
    },
    /// The subject answered.
    IndirectAck {
        /// Of the origin.
        nonce: Nonce,
        /// Who answered.
        subject: ShortId,
        /// In which incarnation.
        incarnation: Incarnation,
        /// Of the subject.
        proof: Proof,
    },
    /// The subject did not answer, but this helper is there (Lifeguard, section 4.1).
    Nack {
        /// Of the origin.
        nonce: Nonce,
    },
    /// Updates only.
    Gossip,
    /// The state in brief, to be compared.
    Digest {
        /// One hash per part.
        buckets: [u32; BUCKETS],
    },
    /// State in full, of the parts that differ.
    Page {
        /// Parts that are wanted in return, one bit each.
        want: u32,
    },
    /// Frames of this boot epoch or lower cannot be told from repeated ones: the sender lost its memory.
    Stale {
        /// The highest epoch seen of the receiver.
        epoch: u64,
    },
    /// Answer to a greeting from an unproven address.
    Welcome {
        /// Of the greeting.
        meet: Nonce,
        /// To be answered as that of a ping.
        nonce: Nonce,
    },
}

/// Kinds of packets, for counting and filtering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Body::Ping`] and [`Body::RelayPing`].
    Ping,
    /// [`Body::Ack`] and [`Body::RelayAck`].
    Ack,
    /// [`Body::PingReq`].
    PingReq,
    /// [`Body::IndirectAck`].
    IndirectAck,
    /// [`Body::Nack`].
    Nack,
    /// [`Body::Gossip`].
    Gossip,
    /// [`Body::Digest`] and [`Body::Page`].
    Sync,
    /// [`Body::Stale`].
    Stale,
    /// A greeting from an unproven address.
    Meet,
    /// [`Body::Welcome`].
    Welcome,
}

impl Kind {
    /// How many there are.
    pub const COUNT: usize = 10;
}

impl Body {
    /// What it counts as.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Ping { .. } | Self::RelayPing { .. } => Kind::Ping,
            Self::Ack { .. } | Self::RelayAck { .. } => Kind::Ack,
            Self::PingReq { .. } => Kind::PingReq,
            Self::IndirectAck { .. } => Kind::IndirectAck,
            Self::Nack { .. } => Kind::Nack,
            Self::Gossip => Kind::Gossip,
            Self::Digest { .. } | Self::Page { .. } => Kind::Sync,
            Self::Stale { .. } => Kind::Stale,
            Self::Welcome { .. } => Kind::Welcome,
        }
    }

    /// Appends the head of a packet with this body; updates may follow.
    pub(super) fn encode(&self, incarnation: Incarnation, out: &mut Vec<u8>) {
        let (kind, held) = match self {
            Self::Ping { held, .. } => (1, *held),
            Self::Ack { held, .. } => (2, *held),
            Self::PingReq { .. } => (3, None),
            Self::RelayPing { .. } => (4, None),
            Self::RelayAck { .. } => (5, None),
            Self::IndirectAck { .. } => (6, None),
            Self::Nack { .. } => (7, None),
            Self::Gossip => (8, None),
            Self::Digest { .. } => (9, None),
            Self::Page { .. } => (10, None),
            Self::Stale { .. } => (11, None),
            Self::Welcome { .. } => (12, None),
        };
        out.extend_from_slice(&[VERSION, kind | if held.is_some() { HELD } else { 0 }]);
        put_varint(out, incarnation.0);
        match self {
            Self::Ping { nonce, .. } | Self::Ack { nonce, .. } | Self::Nack { nonce } => {
                put_nonce(out, *nonce)
            }
            Self::PingReq { nonce, subject } => {
                put_nonce(out, *nonce);
                out.extend_from_slice(&subject.0.to_le_bytes());
            }
            Self::RelayPing { nonce, origin } => {
                put_nonce(out, *nonce);
                out.extend_from_slice(origin.as_bytes());
            }
            Self::RelayAck { nonce, origin, proof } => {
                put_nonce(out, *nonce);
                out.extend_from_slice(&origin.0.to_le_bytes());
                out.extend_from_slice(proof);
            }
            Self::IndirectAck { nonce, subject, incarnation, proof } => {
                put_nonce(out, *nonce);
                out.extend_from_slice(&subject.0.to_le_bytes());
                put_varint(out, incarnation.0);
                out.extend_from_slice(proof);
            }
            Self::Gossip => {}
            Self::Digest { buckets } => {
                for bucket in buckets {
                    out.extend_from_slice(&bucket.to_le_bytes());
                }
            }
            Self::Page { want } => out.extend_from_slice(&want.to_le_bytes()),
            Self::Stale { epoch } => put_varint(out, *epoch),
            Self::Welcome { meet, nonce } => {
                put_nonce(out, *meet);
                put_nonce(out, *nonce);
            }
        }
        if let Some(held) = held {
            put_varint(out, held.0);
        }
    }
}

/// "I could not reach it": an accusation. Unsigned, for all it can do is make others look for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accusation {
    /// Who did not answer.
    pub subject: ShortId,
    /// In which incarnation.
    pub incarnation: Incarnation,
    /// Who says so.
    pub accuser: ShortId,
    /// How long ago the accuser began to suspect, in tenths of a second; [`AGE_GIVEN_UP`] if it gave the subject up.
    pub age: u8,
}

/// The age of an accusation whose accuser holds the subject unreachable.
pub const AGE_GIVEN_UP: u8 = u8::MAX;

/// News that travels with packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// A node's own word, and where it can perhaps be reached.
    Statement(Statement, Option<PeerAddr>),
    /// An accusation.
    Accusation(Accusation),
    /// A node's metadata.
    Metadata(SignedMetadata),
}

impl Update {
    /// Appends the update.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Statement(statement, hint) => {
                out.push(1);
                out.extend_from_slice(statement.node.as_bytes());
                put_varint(out, statement.incarnation.0);
                out.push(statement.flags());
                out.extend_from_slice(statement.signature.as_bytes());
                let hint = hint.as_ref().map_or(&[][..], |hint| hint.as_str().as_bytes());
                put_bytes(out, if hint.len() > MAX_HINT_BYTES { &[] } else { hint });
            }
            Self::Accusation(accusation) => {
                out.push(2);
                out.extend_from_slice(&accusation.subject.0.to_le_bytes());
                put_varint(out, accusation.incarnation.0);
                out.extend_from_slice(&accusation.accuser.0.to_le_bytes());
                out.push(accusation.age);
            }
            Self::Metadata(metadata) => {
                out.push(3);
                out.extend_from_slice(metadata.node.as_bytes());
                put_varint(out, metadata.version);
                put_bytes(out, &metadata.bytes);
                out.extend_from_slice(metadata.signature.as_bytes());
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match reader.byte()? {
            1 => {
                let node = NodeId::from_bytes(reader.array()?);
                let incarnation = Incarnation(reader.varint()?);
                let flags = reader.byte()?;
                if flags > 3 {
                    return Err(Malformed);
                }
                let signature = Signature::from_bytes(reader.array()?);
                let hint = reader.text()?;
                if hint.len() > MAX_HINT_BYTES {
                    return Err(Malformed);
                }
                let hint = (!hint.is_empty()).then(|| PeerAddr::new(hint));
                let (left, low_power) = (flags & 1 != 0, flags & 2 != 0);
                Self::Statement(Statement { node, incarnation, left, low_power, signature }, hint)
            }
            2 => Self::Accusation(Accusation {
                subject: ShortId(u64::from_le_bytes(reader.array()?)),
                incarnation: Incarnation(reader.varint()?),
                accuser: ShortId(u64::from_le_bytes(reader.array()?)),
                age: reader.byte()?,
            }),
            3 => {
                let node = NodeId::from_bytes(reader.array()?);
                let version = reader.varint()?;
                let bytes = reader.bytes()?;
                if bytes.len() > MAX_METADATA_BYTES {
                    return Err(Malformed);
                }
                let bytes = Bytes::copy_from_slice(bytes);
                let signature = Signature::from_bytes(reader.array()?);
                Self::Metadata(SignedMetadata { node, version, bytes, signature })
            }
            _ => return Err(Malformed),
        })
    }
}

/// A packet as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Of the sender.
    pub incarnation: Incarnation,
    /// What it is for.
    pub body: Body,
    /// What travels with it.
    pub updates: Vec<Update>,
}

impl Packet {
    /// Reads a packet. All or nothing.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let [version, kind] = reader.array()?;
        if version != VERSION || kind & !(KIND | HELD) != 0 {
            return Err(Malformed);
        }
        let incarnation = Incarnation(reader.varint()?);
        let is_held = kind & HELD != 0;
        let mut body = match kind & KIND {
            1 => Body::Ping { nonce: nonce(&mut reader)?, held: None },
            2 => Body::Ack { nonce: nonce(&mut reader)?, held: None },
            3 => Body::PingReq { nonce: nonce(&mut reader)?, subject: short(&mut reader)? },
            4 => Body::RelayPing { nonce: nonce(&mut reader)?, origin: NodeId::from_bytes(reader.array()?) },
            5 => Body::RelayAck {
                nonce: nonce(&mut reader)?,
                origin: short(&mut reader)?,
                proof: reader.array()?,
            },
            6 => Body::IndirectAck {
                nonce: nonce(&mut reader)?,
                subject: short(&mut reader)?,
                incarnation: Incarnation(reader.varint()?),
                proof: reader.array()?,
            },
            7 => Body::Nack { nonce: nonce(&mut reader)? },
            8 => Body::Gossip,
            9 => {
                let mut buckets = [0; BUCKETS];
                for bucket in &mut buckets {
                    *bucket = u32::from_le_bytes(reader.array()?);
                }
                Body::Digest { buckets }
            }
            10 => Body::Page { want: u32::from_le_bytes(reader.array()?) },
            11 => Body::Stale { epoch: reader.varint()? },
            12 => Body::Welcome { meet: nonce(&mut reader)?, nonce: nonce(&mut reader)? },
            _ => return Err(Malformed),
        };
        match &mut body {
            Body::Ping { held, .. } | Body::Ack { held, .. } if is_held => {
                *held = Some(Incarnation(reader.varint()?));
            }
            _ if is_held => return Err(Malformed),
            _ => {}
        }
        let mut updates = Vec::new();
        while !reader.is_empty() {
            updates.push(Update::decode(&mut reader)?);
        }
        Ok(Self { incarnation, body, updates })
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.body.encode(self.incarnation, &mut out);
        for update in &self.updates {
            update.encode(&mut out);
        }
        out
    }
}

fn put_nonce(out: &mut Vec<u8>, nonce: Nonce) {
    out.extend_from_slice(&nonce.0.to_le_bytes());
}

fn nonce(reader: &mut Reader<'_>) -> Result<Nonce, Malformed> {
    Ok(Nonce(u32::from_le_bytes(reader.array()?)))
}

fn short(reader: &mut Reader<'_>) -> Result<ShortId, Malformed> {
    Ok(ShortId(u64::from_le_bytes(reader.array()?)))
}
