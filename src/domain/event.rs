//! What the library tells the application: things that happened, and things that went wrong.
//!
//! Both are values. [`Event`]s are news about data and peers; [`Fault`]s say what was refused, dropped or
//! failed, whose doing it was, and that the node goes on (I9).

use std::sync::Arc;
use std::time::Duration;

use super::id::{ChannelId, NodeId, StreamId};
use super::peer::Status;
use super::run::RunFault;
use super::version::Tip;

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A channel was created here.
    ChannelCreated(ChannelId),
    /// A channel and all its contents were removed here.
    ChannelRemoved(ChannelId),
    /// A member was admitted to a channel, in the eyes of this node.
    MemberAdded(ChannelId, NodeId),
    /// A member was removed from a channel, in the eyes of this node.
    MemberRemoved(ChannelId, NodeId),
    /// A stream appeared, created here or learned from a peer.
    StreamCreated(ChannelId, StreamId),
    /// Own entries became durable; consecutive appends share one event.
    EntriesAppended {
        /// The channel.
        channel: ChannelId,
        /// The stream.
        stream: StreamId,
        /// How many.
        count: u64,
        /// The last of them.
        tip: Tip,
    },
    /// Entries from a peer became durable.
    EntriesMerged {
        /// The channel.
        channel: ChannelId,
        /// The stream.
        stream: StreamId,
        /// Who wrote them.
        author: NodeId,
        /// How many.
        count: u64,
        /// The last of them.
        tip: Tip,
    },
    /// An author's log has more than one line: the author restored a backup, was cloned, or lies. All lines
    /// are kept.
    Forked {
        /// The channel.
        channel: ChannelId,
        /// The stream.
        stream: StreamId,
        /// Whose log.
        author: NodeId,
        /// The last entry that the lines share.
        at: Tip,
        /// Two signed heads and what ties them to the fork, to show to others; `None` until heads of both
        /// lines are known.
        proof: Option<Arc<super::fork::ForkProof>>,
    },
    /// A peer became known: met, or accepted.
    PeerAdded(NodeId),
    /// A peer was forgotten.
    PeerRemoved(NodeId),
    /// A peer answers now, or does not any more.
    PeerReachable(NodeId, bool),
    /// A peer is held for something else now, by what it and others say; see
    /// [`Status`].
    PeerStatus(NodeId, Status),
    /// A peer's metadata changed.
    PeerMetadata(NodeId),
    /// This node and the peer hold the same in the channel, after they did not.
    Synced(ChannelId, NodeId),
    /// The store moved since it was last open: own entries may have been forgotten. The first append waits
    /// for a peer, at most this long.
    ResidenceChanged(Duration),
    /// The event queue overflowed: this many events were dropped before this one.
    Lagged(u64),
}

/// Something went wrong; the node goes on. Repeated causes are reported once per cause and peer and counted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A peer sent something that is not a valid message. Dropped.
    BadMessage {
        /// Who.
        peer: NodeId,
        /// What was wrong.
        reason: Arc<str>,
    },
    /// A peer writes messages of a version that this build does not read: what it said in it was dropped. Both go on in a version
    /// that both read, if there is one; an old build reports this once of each peer that was updated. If nothing
    /// comes from the peer, one of the two has to be updated.
    UnknownVersion {
        /// Who.
        peer: NodeId,
        /// Which version of messages.
        version: u8,
    },
    /// A frame on a link could not be believed: corrupted, replayed, forged, of an unknown version. Dropped.
    BadFrame {
        /// Who, as far as proven.
        peer: Option<NodeId>,
        /// What was wrong.
        reason: Arc<str>,
    },
    /// A session could not be set up, or ended.
    SessionFailed {
        /// Who, as far as proven.
        peer: Option<NodeId>,
        /// Why.
        reason: Arc<str>,
    },
    /// An authenticated stranger was turned away.
    StrangerRefused(NodeId),
    /// Entries were refused. Nothing of them was kept.
    RunRefused {
        /// Who sent them.
        peer: NodeId,
        /// The channel.
        channel: ChannelId,
        /// Whose log.
        author: NodeId,
        /// Why.
        reason: Refusal,
    },
    /// Entries are larger than the peer takes: their log is left out between the two.
    TooLargeForPeer {
        /// Who does not take them.
        peer: NodeId,
        /// The channel.
        channel: ChannelId,
        /// Whose log.
        author: NodeId,
    },
    /// Stamps are ahead of the own clock by more than the drift bound. The entries are kept.
    ClockAhead {
        /// Who wrote them.
        author: NodeId,
        /// By how much.
        by: Duration,
    },
    /// A peer says that the own clock is ahead of its clock by more than its drift bound.
    OwnClockAhead {
        /// Who says so.
        peer: NodeId,
        /// By how much.
        by: Duration,
    },
    /// The era of a channel cannot rise any more: stamps now lead the clock.
    EraSaturated(ChannelId),
    /// The store failed.
    Store(Arc<str>),
    /// A transport failed and delivers nothing more.
    Transport(Arc<str>),
    /// A materializer refused an entry; it is skipped, on every node alike.
    FoldRefused {
        /// The materializer.
        name: &'static str,
        /// What it said.
        reason: Arc<str>,
    },
    /// A materializer panicked; its state is unavailable until it is reset.
    FoldPanicked {
        /// The materializer.
        name: &'static str,
    },
    /// The fault queue overflowed: this many were dropped before this one.
    Lagged(u64),
}

/// Why entries of a peer were not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// They do not verify.
    #[error(transparent)]
    Invalid(#[from] RunFault),
    /// Their author is not admitted to the channel here.
    #[error("the author is not admitted to the channel")]
    NotAdmitted,
    /// The log has as many lines as configured.
    #[error("the log has forked more often than the quota allows")]
    TooManyLines,
    /// The channel has as many logs as configured.
    #[error("the channel has as many logs as the quota allows")]
    TooManyLogs,
    /// The stream is unknown here and the configuration says not to create streams.
    #[error("the stream does not exist here")]
    UnknownStream,
    /// Their stamps do not continue the line.
    #[error("timestamps do not increase along the line")]
    Stamps,
    /// Block ends within them carry no head.
    #[error("a block end is not signed")]
    UnsignedBlock,
    /// They are at or below the floor of the log here, or hang on such entries only. Nobody's fault: counted,
    /// not reported.
    #[error("the log was compacted beyond them here")]
    BelowFloor,
}
