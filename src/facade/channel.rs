//! Channels: specs, members, streams.
//!
//! A handle over what `application::replica` shares; survives the removal of its channel by saying so.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::coordinator::Node;
use super::error::NodeError;
use super::stream::EventStream;
use crate::application::replica::{ChannelCell, ChannelState};
use crate::domain::channel::Admission;
use crate::domain::event::Event;
use crate::domain::id::{ChannelId, IdError, NodeId, StreamId};
use crate::domain::time::Timestamp;

/// Which channel: its id and a local name for people.
///
/// ```
/// use anabranch::{ChannelId, ChannelSpec};
/// let public = ChannelSpec::try_from("notes")?;
/// let ours = ChannelSpec::secret("notes", b"correct horse battery staple")?;
/// assert_ne!(public.id, ours.id);
/// assert_eq!(public.id, ChannelId::well_known("notes")?);
/// # Ok::<(), anabranch::IdError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelSpec {
    /// The channel's id.
    pub id: ChannelId,
    /// Local name; never leaves the node.
    pub label: String,
}

impl ChannelSpec {
    /// The channel of those who share `secret`, under this name.
    ///
    /// # Errors
    /// [`IdError`] if name or secret are out of range.
    pub fn secret(name: &str, secret: &[u8]) -> Result<Self, IdError> {
        Ok(Self { id: ChannelId::secret(name, secret)?, label: name.to_owned() })
    }
}

impl TryFrom<&str> for ChannelSpec {
    type Error = IdError;

    /// The well-known channel of this name.
    fn try_from(name: &str) -> Result<Self, IdError> {
        Ok(Self { id: ChannelId::well_known(name)?, label: name.to_owned() })
    }
}

impl From<ChannelId> for ChannelSpec {
    fn from(id: ChannelId) -> Self {
        Self { id, label: String::new() }
    }
}

impl From<std::convert::Infallible> for NodeError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// A group of streams with an admission rule. A cheap handle.
#[derive(Clone)]
pub struct Channel {
    pub(super) node: Arc<Node>,
    pub(super) cell: Arc<ChannelCell>,
}

impl Channel {
    /// Its id.
    pub fn id(&self) -> ChannelId {
        self.cell.id
    }

    /// Its local name; empty if it was opened by id.
    pub fn label(&self) -> String {
        self.cell.state().label
    }

    /// Who may read and write it, in the eyes of this node.
    pub fn admission(&self) -> Admission {
        self.cell.state().admission
    }

    /// The members, if it has a list; `None` if it is open.
    pub fn members(&self) -> Option<BTreeSet<NodeId>> {
        match self.admission() {
            Admission::Members(members) => Some(members),
            Admission::Open => None,
        }
    }

    /// The largest stamp seen or written in the channel: whatever is appended next is stamped after it.
    pub fn clock(&self) -> Timestamp {
        self.cell.record().seen
    }

    /// Admits a node: it is served, and its entries are taken. On an open channel, starts a list of the own node
    /// and this one. Idempotent.
    ///
    /// # Errors
    /// [`NodeError::ChannelRemoved`], [`NodeError::Closed`], [`NodeError::Store`].
    pub async fn add_member(&self, member: NodeId) -> Result<(), NodeError> {
        let own = self.node.replica.node();
        self.change(|state| match &mut state.admission {
            Admission::Members(members) => {
                members.insert(member);
            }
            open @ Admission::Open => *open = Admission::Members(BTreeSet::from([own, member])),
        })
        .await?;
        self.node.replica.notices.event(Event::MemberAdded(self.id(), member));
        Ok(())
    }

    /// Admits a node no longer: it is not served, and its entries are not taken. What is held stays. Idempotent.
    ///
    /// # Errors
    /// [`NodeError::OwnNode`] for this node itself, [`NodeError::OpenChannel`] if everybody is admitted,
    /// [`NodeError::ChannelRemoved`], [`NodeError::Closed`], [`NodeError::Store`].
    pub async fn remove_member(&self, member: &NodeId) -> Result<(), NodeError> {
        if *member == self.node.replica.node() {
            return Err(NodeError::OwnNode);
        }
        if self.admission() == Admission::Open {
            return Err(NodeError::OpenChannel);
        }
        self.change(|state| {
            if let Admission::Members(members) = &mut state.admission {
                members.remove(member);
            }
        })
        .await?;
        self.node.replica.notices.event(Event::MemberRemoved(self.id(), *member));
        Ok(())
    }

    /// Admits every authenticated node that knows the channel's id.
    ///
    /// # Errors
    /// [`NodeError::ChannelRemoved`], [`NodeError::Closed`], [`NodeError::Store`].
    pub async fn open_to_all(&self) -> Result<(), NodeError> {
        self.change(|state| state.admission = Admission::Open).await
    }

    async fn change(&self, change: impl FnOnce(&mut ChannelState)) -> Result<(), NodeError> {
        if self.node.replica.is_closed() {
            return Err(NodeError::Closed);
        }
        match self.node.replica.change_channel(&self.id(), change).await? {
            true => Ok(()),
            false => Err(NodeError::ChannelRemoved),
        }
    }

    /// The stream, created if it does not exist here.
    ///
    /// # Errors
    /// [`NodeError::Id`] for a name of 0 or more than 64 bytes, [`NodeError::ChannelRemoved`],
    /// [`NodeError::TooManyLogs`], [`NodeError::Closed`], [`NodeError::Store`].
    pub async fn stream<S>(&self, id: S) -> Result<EventStream, NodeError>
    where
        S: TryInto<StreamId>,
        S::Error: Into<NodeError>,
    {
        let id = id.try_into().map_err(Into::into)?;
        if self.node.replica.is_closed() {
            return Err(NodeError::Closed);
        }
        let cell = self.node.replica.open_stream(&self.cell, &id).await??;
        Ok(EventStream { node: Arc::clone(&self.node), channel: Arc::clone(&self.cell), cell })
    }

    /// The stream, if it exists here.
    pub fn get_stream(&self, id: &StreamId) -> Option<EventStream> {
        let cell = self.cell.stream(id)?;
        Some(EventStream { node: Arc::clone(&self.node), channel: Arc::clone(&self.cell), cell })
    }

    /// All streams that exist here, created or learned from peers, by id.
    pub fn streams(&self) -> Vec<EventStream> {
        let cells = self.cell.streams().into_iter();
        cells
            .map(|cell| EventStream { node: Arc::clone(&self.node), channel: Arc::clone(&self.cell), cell })
            .collect()
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("id", &self.id()).field("label", &self.label()).finish()
    }
}
