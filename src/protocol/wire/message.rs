//! The messages: what they say, and their bytes.
//!
//! Frozen per version; see `docs/protocol.md`. Encoded and decoded by the gossip engine only.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::version::MessageVersion;
use crate::domain::entry::EntryHash;
use crate::domain::id::{ChannelId, LogKey, NodeId};
use crate::domain::identity::Signature;
use crate::domain::version::Tip;

/// The upper half of the byte that leads every message is its version, the lower half the form of the rest.
const FORM_BITS: u8 = 4;
const FORM_MASK: u8 = (1 << FORM_BITS) - 1;
/// Marks a message whose tail is the raw body of a run: it follows the postcard part unencoded, so that it is
/// copied once and parsed in place.
const RUN_TAG: u8 = 0;
/// As [`RUN_TAG`], with a body that is compressed: its length before follows the run's head.
const PACKED_TAG: u8 = 2;
/// Marks a message that is postcard throughout.
const PLAIN_TAG: u8 = 1;
/// Marks what a node says of the versions that it reads: the same in every version but the first, whatever the upper half is.
const SPEAKS_TAG: u8 = 15;
/// Bytes that most messages fit, bodies and heads of runs aside.
const USUAL: usize = 128;
/// Bytes of a head in a run.
const HEAD_ROOM: usize = 80;
/// Bytes of a tag. Whoever does not know a channel hits one of all tags that fit a session (2^14) once in 2^82 sessions.
const SHARE_TAG_BYTES: usize = 12;
const TAG_CONTEXT: &str = "anabranch 1 share";
const MARK_CONTEXT: &str = "anabranch 1 tip mark";

/// Shows that its sender knows a channel, to somebody who knows it too, and tells others nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShareTag(pub [u8; SHARE_TAG_BYTES]);

impl ShareTag {
    /// The tag with which `sender` names `channel` in the session with this binding.
    pub fn new(channel: &ChannelId, binding: &[u8; 32], sender: &NodeId) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(TAG_CONTEXT);
        hasher.update(channel.as_bytes());
        hasher.update(binding);
        hasher.update(sender.as_bytes());
        let mut tag = [0; SHARE_TAG_BYTES];
        hasher.finalize_xof().fill(&mut tag);
        Self(tag)
    }
}

/// A channel that the sender would share, and what it holds of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Which channel.
    pub tag: ShareTag,
    /// Salted fingerprint of all logs that the sender holds, as in a comparison of its own with number 0.
    pub fingerprint: [u8; 8],
}

/// A channel, as the position of its tag among all tags that the sender of the message has announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChannelRef(pub u32);

/// The first 16 bytes of a log key: names a log of a channel to somebody who may not know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyRef(pub [u8; 16]);

impl KeyRef {
    /// The reference to the log of this key.
    pub fn of(key: &LogKey) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&key.as_bytes()[..16]);
        Self(bytes)
    }
}

/// Short digest of the tips of a log, for lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version(pub [u8; 8]);

/// One log of a list in key order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListItem {
    /// Which log.
    pub key: KeyRef,
    /// What the sender holds of it.
    pub version: Version,
}

/// How a message names a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogRef {
    /// To somebody who holds it, or asked for it by this reference.
    Key(KeyRef),
    /// To anybody: the stream and the author.
    Name(String, NodeId),
    /// By its short key in the comparison under way.
    Short(u32),
}

/// A tip, as the two ends of one session name it: a quarter of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TipMark {
    /// Sequence of the tip.
    pub sequence: u64,
    /// Stands for its hash in this session.
    pub mark: [u8; 8],
}

/// Makes the marks of one session. Nobody who writes entries can choose two with one mark, as the session is
/// not yet there when they are written.
#[derive(Clone)]
pub struct Marker([u8; 32]);

impl Marker {
    /// The marker of the session with this binding.
    pub fn new(binding: &[u8; 32]) -> Self {
        Self(blake3::derive_key(MARK_CONTEXT, binding))
    }

    /// The mark of a tip.
    pub fn mark(&self, tip: &Tip) -> TipMark {
        let mut input = [0; 40];
        input[..8].copy_from_slice(&tip.sequence.to_le_bytes());
        input[8..].copy_from_slice(tip.hash.as_bytes());
        let mut mark = [0; 8];
        mark.copy_from_slice(&blake3::keyed_hash(&self.0, &input).as_bytes()[..8]);
        TipMark { sequence: tip.sequence, mark }
    }

    /// What stands for all that is held of a channel: so many logs, and the sum of their digests.
    pub fn holding(&self, channel: &ChannelId, sum: u128, logs: u32) -> [u8; 8] {
        // 52 bytes, where a mark covers 40.
        let mut input = [0; 52];
        input[..16].copy_from_slice(&sum.to_le_bytes());
        input[16..48].copy_from_slice(channel.as_bytes());
        input[48..].copy_from_slice(&logs.to_le_bytes());
        let mut short = [0; 8];
        short.copy_from_slice(&blake3::keyed_hash(&self.0, &input).as_bytes()[..8]);
        short
    }

    /// The marks of the tips of a log, in their order.
    pub fn marks(&self, tips: &[Tip]) -> Vec<TipMark> {
        tips.iter().map(|tip| self.mark(tip)).collect()
    }
}

/// What the sender holds of one log: "send me what comes after".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaveItem {
    /// Which log.
    pub log: LogRef,
    /// Its tips; empty if the sender holds nothing.
    pub tips: Vec<TipMark>,
}

/// How a run names its log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunRef {
    /// To somebody who holds it, or asked for it by this reference.
    Key(KeyRef),
    /// To anybody: the stream and the author.
    Name(String, NodeId),
    /// By its short key in a comparison that the sender of the run started, with the number of that.
    Asked(u32, u32),
    /// By its short key in a comparison that the receiver of the run started, with the number of that.
    Answered(u32, u32),
}

/// A run of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMessage {
    /// The channel.
    pub channel: ChannelRef,
    /// The log.
    pub log: RunRef,
    /// Sequence of the first entry.
    pub first: u64,
    /// Hash of the entry before it; `None` if there is none, or if that is the one tip of the log that the
    /// receiver said it holds.
    pub previous: Option<EntryHash>,
    /// The author's signatures, by rising sequence; the last at the last entry.
    pub heads: Vec<(u64, Signature)>,
    /// Packed entries.
    pub body: Bytes,
}

/// What tells the other side of a comparison how many logs may differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guess {
    /// Counters, for an estimate.
    Counters(Vec<u8>),
    /// So many logs changed at the sender since the two last held the same.
    Changed(u32),
}

/// What a comparison says besides whether anything differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// How many logs may differ.
    pub guess: Guess,
    /// Digest of what the sender holds of the receiver's own logs.
    pub yours: [u8; 8],
}

/// Why a node says what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Beside something else.
    Passing,
    /// Nothing changed here since both held the same.
    Calm,
    /// To hear the same, if it is so.
    Asking,
}

/// Everything one node says to another once a session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The sender would share these channels.
    Share(Vec<Announcement>),
    /// The sender no longer shares this channel.
    Unshare(ChannelRef),
    /// "Do we hold the same?"
    Compare {
        /// The channel.
        channel: ChannelRef,
        /// Number of the comparison, rising; salts it.
        round: u32,
        /// Salted fingerprint of all logs the sender holds.
        fingerprint: [u8; 8],
        /// Number of logs the sender holds.
        logs: u32,
        /// What tells how much differs, and about the receiver's own logs; left out while the sender holds what
        /// it held when the two were last equal.
        details: Option<Details>,
    },
    /// "We do."
    Same {
        /// The channel.
        channel: ChannelRef,
        /// The comparison answered.
        round: u32,
    },
    /// "Something between us is under way: ask again."
    Later {
        /// The channel.
        channel: ChannelRef,
        /// The comparison answered.
        round: u32,
    },
    /// "We do not: these cells tell what differs."
    Cells {
        /// The channel.
        channel: ChannelRef,
        /// The comparison answered.
        round: u32,
        /// Position of the first cell.
        start: u32,
        /// The cells, 8 bytes each.
        cells: Vec<u8>,
    },
    /// "More cells": the ones that came did not suffice.
    MoreCells {
        /// The channel, as the sender refers to it.
        channel: ChannelRef,
        /// The comparison meant.
        round: u32,
        /// Position of the first cell wanted.
        start: u32,
        /// How many are wanted.
        count: u32,
    },
    /// "Give me the list": the cells did not do.
    ListFrom {
        /// The channel.
        channel: ChannelRef,
        /// The comparison meant.
        round: u32,
        /// Logs after this one in key order.
        after: Option<KeyRef>,
    },
    /// One page of all logs that the sender holds, in key order.
    List {
        /// The channel.
        channel: ChannelRef,
        /// The comparison answered.
        round: u32,
        /// The page starts after this log.
        after: Option<KeyRef>,
        /// The logs.
        items: Vec<ListItem>,
        /// Whether logs follow after the last one listed.
        more: bool,
    },
    /// What the sender holds of some logs.
    Have {
        /// The channel.
        channel: ChannelRef,
        /// The comparison that short references belong to.
        round: u32,
        /// The logs.
        logs: Vec<HaveItem>,
        /// This answers a `Have`, and is not to be answered by another.
        answer: bool,
    },
    /// Entries.
    Run(RunMessage),
    /// Entries whose body is compressed, and its length before.
    PackedRun(RunMessage, u32),
    /// The sender reads packed runs of this algorithm: 1 is zstd.
    Packs(u8),
    /// "I am done with so many of your runs", on each lane, since the session began.
    Done {
        /// Runs of the control lane.
        control: u64,
        /// Runs of the bulk lane.
        bulk: u64,
    },
    /// Hashes along the lines of a log that the two sides hold differently, to find where they part.
    Locate {
        /// The channel.
        channel: ChannelRef,
        /// The log.
        key: KeyRef,
        /// Entries of the sender at distance 0, 1, 2, 4, … from its tips down to its bases.
        locators: Vec<Tip>,
        /// This answers a `Locate`, and is not to be answered by another.
        answer: bool,
    },
    /// "Leave this log out between us": the sender takes no (more) entries of it.
    Parked {
        /// The channel.
        channel: ChannelRef,
        /// The log.
        key: KeyRef,
    },
    /// The sender takes no entries for the time being, or does again.
    Paused(bool),
    /// "Your stamps are ahead of my clock", by so many milliseconds.
    ClockAhead(u64),
    /// "Push fresh entries to me at once", or "only say that there are some": both sides keep to it.
    Eager {
        /// The channel.
        channel: ChannelRef,
        /// Which of the two.
        eager: bool,
    },
    /// "There are fresh entries": logs, and the sequences of their tips.
    Notes {
        /// The channel.
        channel: ChannelRef,
        /// The logs.
        notes: Vec<(KeyRef, u64)>,
    },
    /// "I hold just this."
    Holding {
        /// The channel.
        channel: ChannelRef,
        /// What stands for it in this session: [`Marker::holding`].
        sum: [u8; 8],
        /// Why it is said.
        why: Why,
    },
    /// "Fresh entries of mine go straight to these": the others with whom the sender shares the channel, if they
    /// are few.
    Reach {
        /// The channel.
        channel: ChannelRef,
        /// First bytes of their ids.
        nodes: Vec<[u8; 8]>,
    },
    /// [`Done`](Self::Done), and what the sender now holds of the channels of these runs. Since version 2.
    DoneHolding {
        /// Runs of the control lane.
        control: u64,
        /// Runs of the bulk lane.
        bulk: u64,
        /// Channels, each with what stands for what is held of it: [`Marker::holding`].
        holdings: Vec<(ChannelRef, [u8; 8])>,
    },
    /// "I read messages of these versions." Since version 2; who reads only the first drops it.
    Speaks {
        /// The oldest.
        oldest: u8,
        /// The newest.
        newest: u8,
    },
}

/// What travels as postcard: every message but for the body of a run. The order is frozen; append only.
#[derive(Serialize, Deserialize)]
enum Plain {
    Share(Vec<Announcement>),
    Unshare(ChannelRef),
    Compare(ChannelRef, u32, [u8; 8], u32, Option<Details>),
    Same(ChannelRef, u32),
    Later(ChannelRef, u32),
    Cells(ChannelRef, u32, u32, Vec<u8>),
    MoreCells(ChannelRef, u32, u32, u32),
    ListFrom(ChannelRef, u32, Option<KeyRef>),
    List(ChannelRef, u32, Option<KeyRef>, Vec<ListItem>, bool),
    Have(ChannelRef, u32, Vec<HaveItem>, bool),
    Done(u64, u64),
    Locate(ChannelRef, KeyRef, Vec<Tip>, bool),
    Parked(ChannelRef, KeyRef),
    Paused(bool),
    ClockAhead(u64),
    Eager(ChannelRef, bool),
    Notes(ChannelRef, Vec<(KeyRef, u64)>),
    Packs(u8),
    Holding(ChannelRef, [u8; 8], Why),
    Reach(ChannelRef, Vec<[u8; 8]>),
    DoneHolding(u64, u64, Vec<(ChannelRef, [u8; 8])>),
}

type RunHead = (ChannelRef, RunRef, u64, Option<EntryHash>, Vec<(u64, Signature)>);

/// A message cannot be read: its sender's fault. It is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It is of a version that this node does not speak.
    #[error("message version {0} is unknown")]
    Version(u8),
    /// Its bytes are not a message.
    #[error("malformed message")]
    Malformed,
}

impl Message {
    /// The version that it came with.
    fn since(&self) -> MessageVersion {
        match self {
            Self::DoneHolding { .. } | Self::Speaks { .. } => MessageVersion::V2,
            _ => MessageVersion::V1,
        }
    }

    /// The bytes of the message in `version`, or in the first that has such a message.
    pub fn encode(&self, version: MessageVersion) -> Bytes {
        let version = version.max(self.since());
        if let Self::Run(run) = self {
            return encode_run(version, run, None);
        }
        let plain = match self.clone() {
            Self::Run(run) => return encode_run(version, &run, None),
            Self::PackedRun(run, bytes) => return encode_run(version, &run, Some(bytes)),
            Self::Speaks { oldest, newest } => {
                return vec![version.number() << FORM_BITS | SPEAKS_TAG, oldest, newest].into();
            }
            Self::Share(announced) => Plain::Share(announced),
            Self::Unshare(channel) => Plain::Unshare(channel),
            Self::Compare { channel, round, fingerprint, logs, details } => {
                Plain::Compare(channel, round, fingerprint, logs, details)
            }
            Self::Same { channel, round } => Plain::Same(channel, round),
            Self::Later { channel, round } => Plain::Later(channel, round),
            Self::Cells { channel, round, start, cells } => Plain::Cells(channel, round, start, cells),
            Self::MoreCells { channel, round, start, count } => {
                Plain::MoreCells(channel, round, start, count)
            }
            Self::ListFrom { channel, round, after } => Plain::ListFrom(channel, round, after),
            Self::List { channel, round, after, items, more } => {
                Plain::List(channel, round, after, items, more)
            }
            Self::Have { channel, round, logs, answer } => Plain::Have(channel, round, logs, answer),
            Self::Done { control, bulk } => Plain::Done(control, bulk),
            Self::Locate { channel, key, locators, answer } => Plain::Locate(channel, key, locators, answer),
            Self::Parked { channel, key } => Plain::Parked(channel, key),
            Self::Paused(paused) => Plain::Paused(paused),
            Self::ClockAhead(millis) => Plain::ClockAhead(millis),
            Self::Eager { channel, eager } => Plain::Eager(channel, eager),
            Self::Notes { channel, notes } => Plain::Notes(channel, notes),
            Self::Packs(algorithm) => Plain::Packs(algorithm),
            Self::Holding { channel, sum, why } => Plain::Holding(channel, sum, why),
            Self::Reach { channel, nodes } => Plain::Reach(channel, nodes),
            Self::DoneHolding { control, bulk, holdings } => Plain::DoneHolding(control, bulk, holdings),
        };
        let bytes = postcard::to_extend(&plain, begun(version, PLAIN_TAG)).expect(ENCODES);
        bytes.into()
    }

    /// Reads a message, as a node does that knows versions up to `newest`. The body of a run shares the memory of `bytes`.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(bytes: &Bytes, newest: MessageVersion) -> Result<Self, MessageError> {
        let (&first, rest) = bytes.split_first().ok_or(MessageError::Malformed)?;
        let (number, form) = (first >> FORM_BITS, first & FORM_MASK);
        if form == SPEAKS_TAG && number > MessageVersion::V1.number() && newest > MessageVersion::V1 {
            // What later versions have to say beyond these two is theirs.
            let &[oldest, newest, ..] = rest else { return Err(MessageError::Malformed) };
            return Ok(Self::Speaks { oldest, newest });
        }
        let version = newest.common(number, number).ok_or(MessageError::Version(number))?;
        let message = Self::read(form, rest, bytes)?;
        if message.since() <= version { Ok(message) } else { Err(MessageError::Malformed) }
    }

    fn read(form: u8, rest: &[u8], bytes: &Bytes) -> Result<Self, MessageError> {
        match form {
            RUN_TAG => {
                let (head, body) = take::<RunHead>(rest)?;
                Ok(Self::Run(run_message(head, bytes.slice_ref(body))))
            }
            PACKED_TAG => {
                let ((head, length), body) = take::<(RunHead, u32)>(rest)?;
                Ok(Self::PackedRun(run_message(head, bytes.slice_ref(body)), length))
            }
            PLAIN_TAG => match postcard::take_from_bytes::<Plain>(rest) {
                Ok((plain, [])) => Ok(plain.into()),
                _ => Err(MessageError::Malformed),
            },
            _ => Err(MessageError::Malformed),
        }
    }
}

const ENCODES: &str = "plain data always encodes into a growing buffer";

fn take<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), MessageError> {
    postcard::take_from_bytes(bytes).map_err(|_| MessageError::Malformed)
}

fn run_message((channel, log, first, previous, heads): RunHead, body: Bytes) -> RunMessage {
    RunMessage { channel, log, first, previous, heads, body }
}

fn encode_run(version: MessageVersion, run: &RunMessage, unpacked: Option<u32>) -> Bytes {
    let head: RunHead = (run.channel, run.log.clone(), run.first, run.previous, run.heads.clone());
    let mut begun = begun(version, if unpacked.is_some() { PACKED_TAG } else { RUN_TAG });
    begun.reserve(run.body.len() + run.heads.len() * HEAD_ROOM);
    let head = match unpacked {
        None => postcard::to_extend(&head, begun),
        Some(bytes) => postcard::to_extend(&(head, bytes), begun),
    };
    let mut bytes = head.expect(ENCODES);
    bytes.extend_from_slice(&run.body);
    bytes.into()
}

/// Version and form, with room for what most messages have behind them.
fn begun(version: MessageVersion, tag: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL);
    bytes.push(version.number() << FORM_BITS | tag);
    bytes
}

impl From<Plain> for Message {
    fn from(plain: Plain) -> Self {
        match plain {
            Plain::Share(announced) => Self::Share(announced),
            Plain::Unshare(channel) => Self::Unshare(channel),
            Plain::Compare(channel, round, fingerprint, logs, details) => {
                Self::Compare { channel, round, fingerprint, logs, details }
            }
            Plain::Same(channel, round) => Self::Same { channel, round },
            Plain::Later(channel, round) => Self::Later { channel, round },
            Plain::Cells(channel, round, start, cells) => Self::Cells { channel, round, start, cells },
            Plain::MoreCells(channel, round, start, count) => {
                Self::MoreCells { channel, round, start, count }
            }
            Plain::ListFrom(channel, round, after) => Self::ListFrom { channel, round, after },
            Plain::List(channel, round, after, items, more) => {
                Self::List { channel, round, after, items, more }
            }
            Plain::Have(channel, round, logs, answer) => Self::Have { channel, round, logs, answer },
            Plain::Done(control, bulk) => Self::Done { control, bulk },
            Plain::Locate(channel, key, locators, answer) => Self::Locate { channel, key, locators, answer },
            Plain::Parked(channel, key) => Self::Parked { channel, key },
            Plain::Paused(paused) => Self::Paused(paused),
            Plain::ClockAhead(millis) => Self::ClockAhead(millis),
            Plain::Eager(channel, eager) => Self::Eager { channel, eager },
            Plain::Notes(channel, notes) => Self::Notes { channel, notes },
            Plain::Packs(algorithm) => Self::Packs(algorithm),
            Plain::Holding(channel, sum, why) => Self::Holding { channel, sum, why },
            Plain::Reach(channel, nodes) => Self::Reach { channel, nodes },
            Plain::DoneHolding(control, bulk, holdings) => Self::DoneHolding { control, bulk, holdings },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MessageVersion::{V1, V2};
    use proptest::prelude::*;

    fn samples() -> Vec<Message> {
        let (channel, round, key) = (ChannelRef(3), 7, KeyRef([9; 16]));
        let tip = Tip { sequence: 300, hash: EntryHash::from_bytes([8; 32]) };
        let mark = Marker::new(&[1; 32]).mark(&tip);
        let run = |log, previous| {
            Message::Run(RunMessage {
                channel,
                log,
                first: 301,
                previous,
                heads: vec![(301, Signature::from_bytes([7; 64]))],
                body: Bytes::from_static(b"body"),
            })
        };
        let Message::Run(plain) = run(RunRef::Key(key), None) else { unreachable!() };
        let packed = Message::PackedRun(plain, 300);
        vec![
            Message::Share(vec![Announcement { tag: ShareTag([1; SHARE_TAG_BYTES]), fingerprint: [2; 8] }]),
            Message::Unshare(channel),
            Message::Compare {
                channel,
                round,
                fingerprint: [2; 8],
                logs: 5,
                details: Some(Details { guess: Guess::Counters(vec![4; 40]), yours: [6; 8] }),
            },
            Message::Compare { channel, round, fingerprint: [2; 8], logs: 5, details: None },
            Message::Compare {
                channel,
                round,
                fingerprint: [2; 8],
                logs: 5,
                details: Some(Details { guess: Guess::Changed(300), yours: [6; 8] }),
            },
            Message::Same { channel, round },
            Message::Later { channel, round },
            Message::Cells { channel, round, start: 12, cells: vec![1; 16] },
            Message::MoreCells { channel, round, start: 12, count: 24 },
            Message::ListFrom { channel, round, after: Some(key) },
            Message::List {
                channel,
                round,
                after: None,
                items: vec![ListItem { key, version: Version([3; 8]) }],
                more: true,
            },
            Message::Have {
                channel,
                round,
                logs: vec![
                    HaveItem { log: LogRef::Short(77), tips: vec![mark] },
                    HaveItem { log: LogRef::Key(key), tips: vec![] },
                ],
                answer: false,
            },
            run(RunRef::Name("today".into(), NodeId::from_bytes([5; 32])), Some(tip.hash)),
            run(RunRef::Key(key), Some(tip.hash)),
            run(RunRef::Asked(round, 77), None),
            run(RunRef::Answered(round, 77), None),
            Message::Done { control: 1, bulk: 300 },
            Message::Locate { channel, key, locators: vec![tip], answer: true },
            Message::Parked { channel, key },
            Message::Paused(true),
            Message::ClockAhead(5000),
            Message::Eager { channel, eager: true },
            Message::Notes { channel, notes: vec![(key, 300)] },
            Message::Packs(1),
            packed,
            Message::Holding { channel, sum: [6; 8], why: Why::Calm },
            Message::Reach { channel, nodes: vec![[4; 8], [5; 8]] },
        ]
    }

    /// What version 2 has besides.
    fn samples_of_2() -> Vec<Message> {
        vec![
            Message::DoneHolding { control: 1, bulk: 300, holdings: vec![(ChannelRef(3), [6; 8])] },
            Message::Speaks { oldest: 1, newest: 2 },
        ]
    }

    #[test]
    fn every_message_reads_back_as_written() {
        for message in samples() {
            for (written, read) in [(V1, V1), (V1, V2), (V2, V2)] {
                assert_eq!(Message::decode(&message.encode(written), read), Ok(message.clone()));
            }
        }
        for message in samples_of_2() {
            assert_eq!(Message::decode(&message.encode(V2), V2), Ok(message));
        }
    }

    #[test]
    fn the_bytes_of_every_message_are_pinned() {
        let digest = |messages: &[Message], version| {
            let all: Vec<u8> = messages.iter().flat_map(|message| message.encode(version).to_vec()).collect();
            blake3::hash(&all).to_hex()[..16].to_owned()
        };
        let changed = "the wire format changed: that needs a new version, not a new digest";
        assert_eq!(digest(&samples(), V1), GOLDEN_1, "{changed}");
        assert_eq!(digest(&[samples(), samples_of_2()].concat(), V2), GOLDEN_2, "{changed}");
    }

    /// Digest of the bytes of [`samples`], in version 1.
    const GOLDEN_1: &str = "483174aca5d01c07";
    /// Digest of all bytes in version 2.
    const GOLDEN_2: &str = "ed13a27a07abefac";

    #[test]
    fn who_reads_the_first_version_only_reads_no_other() {
        for message in [samples(), samples_of_2()].concat() {
            assert_eq!(Message::decode(&message.encode(V2), V1), Err(MessageError::Version(2)));
        }
    }

    #[test]
    fn a_message_is_written_in_no_version_that_does_not_have_it() {
        for message in samples_of_2() {
            let mut bytes = message.encode(V1).to_vec();
            assert_eq!(bytes[0] >> FORM_BITS, 2);
            bytes[0] = 1 << FORM_BITS | bytes[0] & FORM_MASK;
            assert_eq!(Message::decode(&bytes.into(), V2), Err(MessageError::Malformed));
        }
    }

    #[test]
    fn what_a_later_version_says_of_itself_is_understood() {
        for leading in [0x3f, 0xff] {
            let bytes = Bytes::from(vec![leading, 1, 3, 7, 7]);
            assert_eq!(Message::decode(&bytes, V2), Ok(Message::Speaks { oldest: 1, newest: 3 }));
            assert_eq!(Message::decode(&bytes.slice(..2), V2), Err(MessageError::Malformed));
            assert_eq!(Message::decode(&bytes, V1), Err(MessageError::Version(leading >> FORM_BITS)));
        }
    }

    #[test]
    fn trailing_bytes_and_unknown_versions_are_refused() {
        let mut bytes = Message::Paused(true).encode(V1).to_vec();
        bytes.push(0);
        assert_eq!(Message::decode(&bytes.clone().into(), V2), Err(MessageError::Malformed));
        for unknown in [0, 3, 15] {
            bytes[0] = unknown << FORM_BITS | PLAIN_TAG;
            assert_eq!(Message::decode(&bytes.clone().into(), V2), Err(MessageError::Version(unknown)));
        }
    }

    #[test]
    fn a_holding_is_of_one_session_one_channel_and_all_that_is_held() {
        let (notes, board) =
            (ChannelId::well_known("notes").unwrap(), ChannelId::well_known("board").unwrap());
        let (here, there) = (Marker::new(&[1; 32]), Marker::new(&[2; 32]));
        let holding = here.holding(&notes, 5, 2);
        assert_eq!(holding, here.holding(&notes, 5, 2));
        for other in [
            there.holding(&notes, 5, 2),
            here.holding(&board, 5, 2),
            here.holding(&notes, 6, 2),
            here.holding(&notes, 5, 3),
        ] {
            assert_ne!(holding, other);
        }
    }

    #[test]
    fn a_tag_means_nothing_in_another_session_or_from_another_sender() {
        let channel = ChannelId::well_known("notes").unwrap();
        let (ana, ben) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let tag = ShareTag::new(&channel, &[0; 32], &ana);
        assert_ne!(tag, ShareTag::new(&channel, &[1; 32], &ana));
        assert_ne!(tag, ShareTag::new(&channel, &[0; 32], &ben));
    }

    proptest! {
        #[test]
        fn runs_and_tips_of_any_shape_read_back_as_written(
            reference in any::<u32>(),
            key in any::<[u8; 16]>(),
            stream in "[a-z]{1,64}",
            first in any::<u64>(),
            hash in any::<[u8; 32]>(),
            sequences in prop::collection::vec(any::<u64>(), 0..20),
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let channel = ChannelRef(reference);
            let hash = EntryHash::from_bytes(hash);
            let heads = sequences.iter().map(|at| (*at, Signature::from_bytes([7; 64]))).collect();
            let tips: Vec<Tip> = sequences.iter().map(|sequence| Tip { sequence: *sequence, hash }).collect();
            let author = NodeId::from_bytes([1; 32]);
            let marks = Marker::new(hash.as_bytes()).marks(&tips);
            let logs = vec![HaveItem { log: LogRef::Name(stream.clone(), author), tips: marks }];
            let (log, previous) = (RunRef::Name(stream, author), Some(hash));
            let messages = [
                Message::Run(RunMessage { channel, log, first, previous, heads, body: body.into() }),
                Message::Have { channel, round: reference, logs, answer: true },
                Message::Locate { channel, key: KeyRef(key), locators: tips, answer: false },
            ];
            for message in messages {
                prop_assert_eq!(Message::decode(&message.encode(V2), V2), Ok(message));
            }
        }

        #[test]
        fn i6_arbitrary_bytes_are_refused_or_read_but_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let first = bytes.first().copied().unwrap_or(0);
            let mut framed = vec![((1 + first % 2) << FORM_BITS) | (first / 2 % 3)];
            framed.extend(bytes);
            let _ = Message::decode(&framed.into(), V2);
        }
    }
}
