//! What happened in a run, as a hash, and on request as a list.
//!
//! Two runs of one seed are the same run if their hashes are equal. The hash is quick and mixes well; it is
//! not meant to withstand somebody who looks for collisions.

use std::fmt;

/// Odd constants with even bit counts, from the digits of the golden ratio and of the square root of three.
const MIX: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbb67_ae85_84ca_a73b];

/// What kind of event it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// A node was started.
    Boot,
    /// A node's start failed.
    BootFailed,
    /// A node's tasks ended, by a crash or at the end.
    Crash,
    /// A link came up.
    Up,
    /// A frame was handed to a link.
    Sent,
    /// A frame arrived.
    Frame,
    /// A full link has room again.
    Writable,
    /// A link went down.
    Down,
    /// A deadline of a node came.
    Timer,
    /// A batch was written.
    Written,
    /// What was written became durable.
    Synced,
    /// A fault began or ended.
    Fault,
    /// The workload did something.
    Work,
    /// The test said something.
    Note,
}

impl Kind {
    /// In the order of their numbers.
    const ALL: [Self; 14] = [
        Self::Boot,
        Self::BootFailed,
        Self::Crash,
        Self::Up,
        Self::Sent,
        Self::Frame,
        Self::Writable,
        Self::Down,
        Self::Timer,
        Self::Written,
        Self::Synced,
        Self::Fault,
        Self::Work,
        Self::Note,
    ];
}

/// One event of a recorded run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEvent {
    /// True time, in nanoseconds since the start.
    pub at: u64,
    /// Which node; `None` for the world.
    pub node: Option<usize>,
    /// What kind.
    pub kind: Kind,
    /// The other node concerned, if any.
    pub other: Option<usize>,
    /// Length of the bytes that belong to it.
    pub len: usize,
    /// Sum over those bytes: a frame has the same where it is sent and where it arrives undamaged.
    pub sum: u64,
    /// Entries that the node holds durably from here on, where that may have changed.
    pub holds: Option<u64>,
    /// For people.
    pub text: String,
    /// The hash of the run up to here.
    pub hash: TraceHash,
}

impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>14.6} s ", self.at as f64 / 1e9)?;
        match self.node {
            Some(node) => write!(f, "node {node} ")?,
            None => write!(f, "world  ")?,
        }
        write!(f, "{:?}", self.kind)?;
        if let Some(other) = self.other {
            write!(f, " node {other}")?;
        }
        if self.len > 0 {
            write!(f, " {} bytes", self.len)?;
        }
        if !self.text.is_empty() {
            write!(f, " {}", self.text)?;
        }
        write!(f, " [{}]", self.hash)
    }
}

/// A hash of 128 bits over all events of a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TraceHash([u64; 2]);

impl TraceHash {
    /// Combines the hashes of several runs, in order.
    pub fn combine(&mut self, other: Self) {
        self.word(other.0[0]);
        self.word(other.0[1]);
    }

    fn word(&mut self, word: u64) {
        let [a, b] = &mut self.0;
        *a = (*a ^ word).wrapping_mul(MIX[0]).rotate_left(29) ^ *b;
        *b = b.wrapping_add(word ^ a.rotate_left(17)).wrapping_mul(MIX[1]).rotate_left(37);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
        let rest = chunks.remainder();
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(word) ^ (bytes.len() as u64) << 56);
    }
}

impl fmt::Display for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}

impl fmt::Debug for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Collects the events of one run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: TraceHash,
    /// By kind.
    kinds: [u64; Kind::ALL.len()],
    /// Kept if the run is recorded.
    list: Option<Vec<TraceEvent>>,
    print: bool,
}

impl Trace {
    pub(crate) fn new(record: bool, print: bool) -> Self {
        Self { list: record.then(Vec::new), print, ..Self::default() }
    }

    pub(crate) fn add(
        &mut self,
        at: u64,
        node: Option<usize>,
        kind: Kind,
        other: Option<usize>,
        bytes: &[u8],
        text: impl FnOnce() -> String,
    ) {
        self.kinds[kind as usize] += 1;
        let number = |node: Option<usize>| node.map_or(0, |node| node as u64 + 1);
        self.hash.word(at);
        self.hash.word(number(node) << 32 | number(other) << 8 | kind as u64);
        self.hash.bytes(bytes);
        if self.list.is_none() && !self.print {
            return;
        }
        let (hash, mut sum) = (self.hash, TraceHash::default());
        sum.bytes(bytes);
        let (len, sum, text) = (bytes.len(), sum.0[0] ^ sum.0[1], text());
        let event = TraceEvent { at, node, kind, other, len, sum, holds: None, text, hash };
        if self.print {
            eprintln!("{event}");
        }
        if let Some(list) = &mut self.list {
            list.push(event);
        }
    }

    /// Notes what a node holds from the last event on, if that is its own and the run is recorded.
    pub(crate) fn holds(&mut self, node: usize, entries: impl FnOnce() -> u64) {
        let last = self.list.as_mut().and_then(|list| list.last_mut());
        if let Some(event) = last.filter(|event| event.node == Some(node)) {
            event.holds = Some(entries());
        }
    }

    pub(crate) fn hash(&self) -> TraceHash {
        self.hash
    }

    pub(crate) fn events(&self) -> u64 {
        self.kinds.iter().sum()
    }

    /// Events by kind, those that happened.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        let counted = Kind::ALL.into_iter().map(|kind| (kind, self.kinds[kind as usize]));
        counted.filter(|(_, count)| *count > 0)
    }

    pub(crate) fn list(&self) -> &[TraceEvent] {
        self.list.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(events: &[(u64, Option<usize>, Kind, &[u8])]) -> TraceHash {
        let mut trace = Trace::default();
        for (at, node, kind, bytes) in events {
            trace.add(*at, *node, *kind, None, bytes, String::new);
        }
        trace.hash()
    }

    #[test]
    fn every_part_of_an_event_and_their_order_enter_the_hash() {
        let one = (1, Some(0), Kind::Frame, &b"abc"[..]);
        let base = hash(&[one]);
        assert_eq!(base, hash(&[one]));
        for other in [
            (2, Some(0), Kind::Frame, &b"abc"[..]),
            (1, Some(1), Kind::Frame, b"abc"),
            (1, None, Kind::Frame, b"abc"),
            (1, Some(0), Kind::Sent, b"abc"),
            (1, Some(0), Kind::Frame, b"abd"),
            (1, Some(0), Kind::Frame, b"abc\0"),
        ] {
            assert_ne!(base, hash(&[other]));
            assert_ne!(hash(&[one, other]), hash(&[other, one]));
        }
    }
}
