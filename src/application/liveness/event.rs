//! What liveness alone tells, and in which words.
//!
//! Plain values. Made by [`Liveness`](super::Liveness), read by applications.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::domain::id::NodeId;
use crate::domain::link::PeerAddr;
use crate::protocol::swim::{Incarnation, Kind, Status};

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LivenessEvent {
    /// A node is held for something else; `None` stands for unknown. [`NodeStatus`] has libgossip's word for each.
    Status {
        /// Who.
        node: NodeId,
        /// What it was.
        old: Option<Status>,
        /// What it is.
        new: Option<Status>,
        /// In which incarnation.
        incarnation: Incarnation,
    },
    /// A node's metadata changed.
    Metadata(NodeId),
    /// Who lives at an address that was to be met, or that is a seed.
    Met(PeerAddr, NodeId),
    /// Nobody answered at an address that was to be met.
    MeetFailed(PeerAddr),
    /// This node was accused of being gone, and denied it in this incarnation.
    Denied(Incarnation),
    /// This node said goodbye. The last event.
    Left,
    /// The incarnation could not be kept: the next life may have to be told by others where it was.
    KeepFailed(Arc<str>),
    /// The transport is closed or failed for good. The last event.
    PortFailed(Arc<str>),
    /// This listener was too slow for so many events.
    Missed(u64),
}

/// Where sends and events go when liveness is driven by hand. Closures over [`LivenessOutput`] are sinks, too.
pub trait LivenessSink {
    /// Send a frame to an address. It may be lost.
    fn send(&mut self, to: &PeerAddr, frame: Bytes);
    /// Keep the own incarnation across restarts, before anything that follows is sent. The next life of this node starts
    /// from it: [`LivenessBuilder::incarnation`](crate::LivenessBuilder::incarnation).
    fn keep(&mut self, incarnation: Incarnation);
    /// Something happened.
    fn event(&mut self, event: LivenessEvent);
}

/// What a [`LivenessSink`] takes, as one value for closures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LivenessOutput {
    /// [`LivenessSink::send`].
    Send(PeerAddr, Bytes),
    /// [`LivenessSink::keep`].
    Keep(Incarnation),
    /// [`LivenessSink::event`].
    Event(LivenessEvent),
}

impl<F: FnMut(LivenessOutput)> LivenessSink for F {
    fn send(&mut self, to: &PeerAddr, frame: Bytes) {
        self(LivenessOutput::Send(to.clone(), frame));
    }

    fn keep(&mut self, incarnation: Incarnation) {
        self(LivenessOutput::Keep(incarnation));
    }

    fn event(&mut self, event: LivenessEvent) {
        self(LivenessOutput::Event(event));
    }
}

/// A status in the words of libgossip. Here, unlike there, `FAILED` is no end: a node that left or is unreachable comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeStatus {
    /// Not known, or forgotten.
    Unknown,
    /// [`Status::Joining`].
    Joining,
    /// [`Status::Alive`].
    Online,
    /// [`Status::Suspect`].
    Suspect,
    /// [`Status::Unreachable`] or [`Status::Left`].
    Failed,
}

impl From<Option<Status>> for NodeStatus {
    fn from(status: Option<Status>) -> Self {
        match status {
            None => Self::Unknown,
            Some(Status::Joining) => Self::Joining,
            Some(Status::Alive) => Self::Online,
            Some(Status::Suspect) => Self::Suspect,
            Some(Status::Unreachable | Status::Left) => Self::Failed,
        }
    }
}

impl From<Status> for NodeStatus {
    fn from(status: Status) -> Self {
        Some(status).into()
    }
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "UNKNOWN",
            Self::Joining => "JOINING",
            Self::Online => "ONLINE",
            Self::Suspect => "SUSPECT",
            Self::Failed => "FAILED",
        })
    }
}

/// What a message is for, in the words of libgossip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageKind {
    /// Are you there, or: ask another whether it is there.
    Ping,
    /// Yes; also for another, or "it did not answer me".
    Pong,
    /// A greeting to an address, by `meet` or by `join`.
    Meet,
    /// The answer to a greeting: the greeter may join.
    Join,
    /// The last word of a node that leaves.
    Leave,
    /// News of the group: statuses, metadata, state in brief or in full.
    Update,
}

impl MessageKind {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [Self::Ping, Self::Pong, Self::Meet, Self::Join, Self::Leave, Self::Update];
}

impl From<Kind> for MessageKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Ping | Kind::PingReq => Self::Ping,
            Kind::Ack | Kind::IndirectAck | Kind::Nack => Self::Pong,
            Kind::Meet => Self::Meet,
            Kind::Welcome => Self::Join,
            Kind::Gossip | Kind::Sync | Kind::Stale => Self::Update,
        }
    }
}

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ping => "PING",
            Self::Pong => "PONG",
            Self::Meet => "MEET",
            Self::Join => "JOIN",
            Self::Leave => "LEAVE",
            Self::Update => "UPDATE",
        })
    }
}

/// A message that was sent, or received and believed, as hooks see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageSeen {
    /// What it is for.
    pub kind: MessageKind,
    /// It was sent by this node; else received.
    pub sent: bool,
    /// The other end, unless it is only known by its address yet.
    pub node: Option<NodeId>,
    /// Where the other end is, as far as known.
    pub address: Option<PeerAddr>,
    /// Bytes of the frame.
    pub bytes: usize,
}

/// A frame was not believed. Nothing changed but a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameRefused {
    /// Larger than frames of this group may be: the sender's fault.
    #[error("a frame of {bytes} bytes, at most {most} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// [`SwimConfig::max_frame`](crate::protocol::swim::SwimConfig::max_frame).
        most: usize,
    },
    /// Of another version of the protocol, or nothing of ours: whoever sent it speaks something else.
    #[error("a frame of version {0}, which is not known here")]
    UnknownVersion(u8),
    /// Not a frame, though of the known version: the sender's fault.
    #[error("malformed")]
    Malformed,
    /// It claims to be from this node itself: this node met itself, or somebody copied or claims its identity.
    #[error("claims to be from this node itself")]
    OwnIdentity,
    /// Its tag does not hold: not from whom it claims to be from, altered, or of another group.
    #[error("not from whom it claims to be from")]
    Forged,
    /// It came before, or is from an earlier life of its sender.
    #[error("came before")]
    Repeated,
    /// In the short form, of nobody known here. Whoever it is will introduce itself.
    #[error("from a node that is not known here")]
    UnknownSender,
    /// Too many strangers at once: this one is not looked at. It will try again.
    #[error("too many strangers at once")]
    TooManyStrangers,
    /// This node has left, and hears nothing any more.
    #[error("this node has left")]
    Left,
}
