//! Entries, their hash chain and their total order.
//!
//! What is hashed here is frozen: every signature stands on it. Called by runs, logs and readers.

use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;

use super::id::{LogKey, NodeId};
use super::payload_hash::payload_hash;
use super::time::Timestamp;

/// Bytes that the hash of an entry covers besides the key: kind, sequence, era, time, payload length,
/// previous hash, payload hash.
const HASHED_BYTES: usize = 1 + 8 + 4 + 8 + 4 + 32 + 32;
/// The kind of an ordinary entry. Other kinds are reserved.
const KIND_DATA: u8 = 0;

/// Hash of an entry: covers everything before it in its line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct EntryHash([u8; 32]);

impl EntryHash {
    /// What the first entry of a log names as its predecessor.
    pub const ZERO: Self = Self([0; 32]);
    /// Bytes of a hash.
    pub const LEN: usize = 32;

    /// The hash with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hash of the entry at `sequence` with this stamp and payload, after the entry hashed `previous`.
    ///
    /// Layout: blake3 keyed by the log key over kind u8, sequence u64, era u32, time u64, payload length u32,
    /// previous 32 B, blake3(payload) 32 B; integers little-endian. Hashing the payload's hash keeps an entry
    /// verifiable after its payload was redacted.
    pub fn of(log: &LogKey, sequence: u64, stamp: Timestamp, previous: &Self, payload: &[u8]) -> Self {
        EntryHeader::of(stamp, payload).hash(log, sequence, previous)
    }
}

/// All of an entry that its hash covers, but for its place: what is left when the payload is redacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHeader {
    /// When it was written.
    pub stamp: Timestamp,
    /// Length of the payload in bytes.
    pub payload_len: u32,
    /// blake3 of the payload.
    pub payload_hash: [u8; 32],
}

impl EntryHeader {
    /// The header of an entry with this stamp and payload.
    pub fn of(stamp: Timestamp, payload: &[u8]) -> Self {
        Self::with(stamp, payload, payload_hash(payload))
    }

    /// The header of an entry with this stamp and payload, which was hashed already.
    pub fn with(stamp: Timestamp, payload: &[u8], payload_hash: [u8; 32]) -> Self {
        Self { stamp, payload_len: payload.len() as u32, payload_hash }
    }

    /// The hash of the entry with this header at `sequence` of the log, after the entry hashed `previous`.
    pub fn hash(&self, log: &LogKey, sequence: u64, previous: &EntryHash) -> EntryHash {
        let mut input = [0u8; HASHED_BYTES];
        input[0] = KIND_DATA;
        input[1..9].copy_from_slice(&sequence.to_le_bytes());
        input[9..13].copy_from_slice(&self.stamp.era().to_le_bytes());
        input[13..21].copy_from_slice(&self.stamp.time().to_le_bytes());
        input[21..25].copy_from_slice(&self.payload_len.to_le_bytes());
        input[25..57].copy_from_slice(&previous.0);
        input[57..89].copy_from_slice(&self.payload_hash);
        EntryHash(*blake3::keyed_hash(log.as_bytes(), &input).as_bytes())
    }
}

impl fmt::Debug for EntryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}{:02x}", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// One appended event, as read from a stream.
///
/// The payload may share memory with its neighbours in the store: [`Bytes::copy_from_slice`] it to keep it
/// for long.
#[derive(Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub(crate) author: NodeId,
    pub(crate) sequence: u64,
    pub(crate) timestamp: Timestamp,
    pub(crate) payload: Bytes,
    pub(crate) hash: EntryHash,
}

impl LogEntry {
    /// Who wrote it.
    pub fn author(&self) -> NodeId {
        self.author
    }

    /// Its place in the author's log, from 1.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When it was written, in hybrid logical time.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// What the application appended.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Its hash.
    pub fn hash(&self) -> EntryHash {
        self.hash
    }

    /// Its identity within the stream.
    pub fn id(&self) -> EntryId {
        EntryId { author: self.author, sequence: self.sequence, hash: self.hash }
    }

    /// Its place in the stream's total order.
    pub fn order(&self) -> OrderKey {
        OrderKey { timestamp: self.timestamp, author: self.author, sequence: self.sequence, hash: self.hash }
    }
}

impl fmt::Debug for LogEntry {
    /// Without the payload: it may be private, and logs are read by many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogEntry")
            .field("author", &self.author)
            .field("sequence", &self.sequence)
            .field("timestamp", &self.timestamp)
            .field("payload_len", &self.payload.len())
            .field("hash", &self.hash)
            .finish()
    }
}

impl PartialOrd for LogEntry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LogEntry {
    /// The total order of a stream.
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

/// Identity of an entry within its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct EntryId {
    /// Who wrote it.
    pub author: NodeId,
    /// Its place in the author's log, from 1.
    pub sequence: u64,
    /// Its hash: tells the entries of a forked author apart.
    pub hash: EntryHash,
}

/// A place in the total order of a stream: era, time, author, sequence, hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct OrderKey {
    /// Era and time.
    pub timestamp: Timestamp,
    /// Decides between equal stamps.
    pub author: NodeId,
    /// Decides between equal stamps of one author.
    pub sequence: u64,
    /// Decides between the lines of a forked author.
    pub hash: EntryHash,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_entry() -> impl Strategy<Value = LogEntry> {
        (0..2u32, 0..3u64, 0..2u8, 1..3u64, 0..2u8).prop_map(|(era, time, author, sequence, hash)| LogEntry {
            author: NodeId::from_bytes([author; 32]),
            sequence,
            timestamp: Timestamp::new(era, time),
            payload: Bytes::new(),
            hash: EntryHash::from_bytes([hash; 32]),
        })
    }

    proptest! {
        #[test]
        fn i3_the_order_is_total_and_goes_by_era_time_author_sequence_and_hash(a in some_entry(), b in some_entry()) {
            let fields = |e: &LogEntry| (e.timestamp.era(), e.timestamp.time(), e.author, e.sequence, e.hash);
            prop_assert_eq!(a.cmp(&b), fields(&a).cmp(&fields(&b)));
            prop_assert_eq!(a.cmp(&b).reverse(), b.cmp(&a));
            prop_assert_eq!(a.cmp(&b).is_eq(), a == b);
        }
    }

    #[test]
    fn the_hash_of_an_entry_covers_every_field() {
        let key = LogKey::from_bytes([7; 32]);
        let previous = EntryHash::from_bytes([1; 32]);
        let stamp = Timestamp::new(1, 2);
        let hash = EntryHash::of(&key, 5, stamp, &previous, b"x");
        let others = [
            EntryHash::of(&LogKey::from_bytes([8; 32]), 5, stamp, &previous, b"x"),
            EntryHash::of(&key, 6, stamp, &previous, b"x"),
            EntryHash::of(&key, 5, Timestamp::new(2, 2), &previous, b"x"),
            EntryHash::of(&key, 5, Timestamp::new(1, 3), &previous, b"x"),
            EntryHash::of(&key, 5, stamp, &EntryHash::ZERO, b"x"),
            EntryHash::of(&key, 5, stamp, &previous, b"y"),
        ];
        assert!(others.iter().all(|other| *other != hash));
    }
}
