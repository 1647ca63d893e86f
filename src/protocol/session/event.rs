//! What a session tells the driver, and what it refuses.

use std::fmt;

use bytes::Bytes;

use crate::domain::id::NodeId;
use crate::protocol::delivery::Lane;

/// What happened in a session, in order.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The peer has proven who it is. A second one, with another binding, means that the same node began anew
    /// on the link (it restarted): what was queued or under way in either direction is gone.
    Established {
        /// Who is there.
        peer: NodeId,
        /// Unique to this session and the same on both ends.
        binding: [u8; 32],
    },
    /// A whole message arrived; per lane in the order of sending, each once. It may share its memory with the
    /// frame it came in.
    Message {
        /// On this lane.
        lane: Lane,
        /// The message.
        message: Bytes,
    },
    /// A datagram arrived.
    Datagram(Bytes),
    /// A lane that refused a message takes some again.
    Room(Lane),
    /// The peer, or whoever else writes on the link, sent something wrong. It was dropped and nothing else
    /// changed. Reported the first time per cause; [`SessionStats::dropped`] counts them all.
    Fault(SessionFault),
    /// The session is over. Nothing follows.
    Closed(CloseReason),
}

impl fmt::Debug for SessionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Established { peer, .. } => write!(f, "Established({peer:?})"),
            Self::Message { lane, message } => write!(f, "Message({lane:?}, {} bytes)", message.len()),
            Self::Datagram(datagram) => write!(f, "Datagram({} bytes)", datagram.len()),
            Self::Room(lane) => write!(f, "Room({lane:?})"),
            Self::Fault(fault) => write!(f, "Fault({fault:?})"),
            Self::Closed(reason) => write!(f, "Closed({reason:?})"),
        }
    }
}

/// Why a frame was dropped. The fault is the peer's or the link's; the session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SessionFault {
    /// The frame's version is not one we speak.
    #[error("a frame of an unknown version")]
    UnknownVersion,
    /// The frame's kind does not exist, or not on such a link.
    #[error("a frame of an unknown kind")]
    UnknownKind,
    /// The frame's bytes make no sense.
    #[error("a malformed frame")]
    Malformed,
    /// The frame was forged, corrupted, or belongs to another session.
    #[error("a frame that is not authentic")]
    Unauthentic,
    /// The frame was accepted before, or is too old to tell.
    #[error("a frame that was seen before")]
    Replayed,
    /// The other side proved a key that no node may have.
    #[error("a key that is no node's")]
    BadIdentity,
    /// Another node tried to take over the link of an open session.
    #[error("an attempt of another node to take over the link")]
    ForeignNode,
    /// Our own handshake came back to us.
    #[error("our own handshake, reflected")]
    Reflected,
    /// The peer acknowledged frames that were never sent.
    #[error("an acknowledgement of frames that were never sent")]
    AbsurdAck,
    /// The peer sent more than it was allowed to.
    #[error("more data than allowed")]
    OverCredit,
    /// More handshakes in a short time than an honest peer needs.
    #[error("too many handshakes")]
    Flood,
}

impl SessionFault {
    /// All causes, in order.
    pub const ALL: [Self; 11] = [
        Self::UnknownVersion,
        Self::UnknownKind,
        Self::Malformed,
        Self::Unauthentic,
        Self::Replayed,
        Self::BadIdentity,
        Self::ForeignNode,
        Self::Reflected,
        Self::AbsurdAck,
        Self::OverCredit,
        Self::Flood,
    ];
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// This node leaves.
    Leaving,
    /// The peer is not accepted here.
    NotAccepted,
    /// Another session with the same peer is kept instead.
    Redundant,
    /// The handshake did not end in time.
    Timeout,
    /// The other end is this very node.
    OwnNode,
    /// The peer broke the protocol in a way that the session cannot survive, such as a message over the limit.
    Violation,
    /// The port promised a reliable link and a frame was lost: the session would wait for ever.
    LinkLost,
    /// The peer closed.
    ByPeer(PeerReason),
}

/// Why the peer says it closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PeerReason {
    /// It leaves.
    Leaving,
    /// It does not accept us.
    NotAccepted,
    /// It keeps another session with us.
    Redundant,
    /// It says that we broke the protocol.
    Violation,
    /// It gave another reason.
    Other,
}

impl CloseReason {
    /// What the peer is told.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Leaving => 0,
            Self::NotAccepted => 1,
            Self::Redundant => 2,
            Self::Violation => 3,
            _ => 255,
        }
    }

    pub(crate) fn by_peer(code: u8) -> Self {
        Self::ByPeer(match code {
            0 => PeerReason::Leaving,
            1 => PeerReason::NotAccepted,
            2 => PeerReason::Redundant,
            3 => PeerReason::Violation,
            _ => PeerReason::Other,
        })
    }
}

/// The lane's queue has no room for this message: here it is back. Nothing changed. A
/// [`SessionEvent::Room`] follows, unless the message is over the limit and never fits.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("no room in the lane for a message of {} bytes", .0.len())]
pub struct LaneFull(pub Bytes);

impl fmt::Debug for LaneFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LaneFull({} bytes)", self.0.len())
    }
}

/// The datagram does not fit one frame of this link. Nothing changed; a fault of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a datagram of {len} bytes, at most {max} fit this link")]
pub struct DatagramTooLarge {
    /// Its length.
    pub len: usize,
    /// What fits.
    pub max: usize,
}

/// Counters of a session since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SessionStats {
    /// Frames handed to [`handle_frame`](super::Session::handle_frame).
    pub frames_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Frames handed out by [`poll_transmit`](super::Session::poll_transmit).
    pub frames_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Bytes of messages and datagrams that arrived.
    pub payload_in: u64,
    /// Bytes of messages and datagrams that were taken to be sent.
    pub payload_out: u64,
    /// Bytes of messages that were sent again.
    pub retransmitted: u64,
    /// Frames that were nobody's fault and of no use: repeated handshakes, or data that came before its keys.
    pub stale: u64,
    pub(super) dropped: [u64; SessionFault::ALL.len()],
}

impl SessionStats {
    /// Frames dropped for `fault`.
    pub fn dropped(&self, fault: SessionFault) -> u64 {
        self.dropped[fault as usize]
    }

    /// Frames dropped for any fault.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }
}
