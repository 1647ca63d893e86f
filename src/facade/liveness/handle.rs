//! The handle of liveness that is driven by a runtime.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::application::liveness::driver::Command;
use crate::application::liveness::{LivenessEvent, LivenessStats, MetadataRefused};
use crate::application::selection::Members;
use crate::domain::id::NodeId;
use crate::domain::link::PeerAddr;
use crate::protocol::swim::{Incarnation, MemberView, Metadata};

/// A call on a [`LivenessHandle`] failed. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LivenessError {
    /// The node left, its port is closed, or its driver was dropped.
    #[error("the node has left or its driver is gone")]
    Closed,
    /// Nobody answered at the address.
    #[error("nobody answers at {0}")]
    Unanswered(PeerAddr),
    /// The metadata is too large: a fault of the caller.
    #[error(transparent)]
    Metadata(#[from] MetadataRefused),
}

/// A node of a group in which everybody knows who answers, driven by the runtime over any
/// [`MessagePort`](crate::MessagePort). Cheap to clone, for any task on any thread. Made by
/// [`LivenessBuilder::spawn`](super::LivenessBuilder::spawn) or [`drive`](super::LivenessBuilder::drive).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use anabranch::{Identity, Liveness, LivenessEvent, MemoryNetwork, Metadata, Status};
/// use futures::StreamExt as _;
///
/// let network = MemoryNetwork::new(); // in production: a TCP port, or a transport of your own
/// let ana = Liveness::builder(Identity::from_secret([1; 32]))
///     .advertise("ana") // where others reach this node
///     .metadata(Metadata::default().name("Ana").role("relay"))
///     .spawn(network.port("ana"))?;
/// let ben = Liveness::builder(Identity::from_secret([2; 32]))
///     .advertise("ben")
///     .join(["ana"]) // tried until it answers, and again whenever nobody does
///     .spawn(network.port("ben"))?;
/// let mut news = ben.events();
/// while let Some(event) = news.next().await {
///     if let LivenessEvent::Metadata(node) = event {
///         assert_eq!(node, ana.node());
///         break;
///     }
/// }
/// assert_eq!(ben.members().await?.with_role("relay").alive()[0].metadata.name, "Ana");
/// ana.leave().await?; // the others know at once
/// while let Some(event) = news.next().await {
///     if matches!(event, LivenessEvent::Status { new: Some(Status::Left), .. }) { break }
/// }
/// # Ok(()) }
/// ```
///
/// Calls that return a future send their question first, and answer when the driver did; dropping the future withdraws
/// nothing.
#[derive(Debug, Clone)]
pub struct LivenessHandle {
    node: NodeId,
    commands: mpsc::UnboundedSender<Command>,
    events: broadcast::WeakSender<LivenessEvent>,
}

impl LivenessHandle {
    pub(super) fn new(
        node: NodeId,
        commands: mpsc::UnboundedSender<Command>,
        events: &broadcast::Sender<LivenessEvent>,
    ) -> Self {
        Self { node, commands, events: events.downgrade() }
    }

    /// The own node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Makes the acquaintance of whoever lives at an address, and says who that is.
    ///
    /// # Errors
    /// [`LivenessError::Unanswered`] after some 15 s, [`LivenessError::Closed`].
    pub async fn meet(&self, address: impl Into<PeerAddr>) -> Result<NodeId, LivenessError> {
        let address = address.into();
        let met = self.ask(|reply| Command::Meet(address.clone(), reply)).await?;
        met.ok_or(LivenessError::Unanswered(address))
    }

    /// Addresses to try now and whenever nobody answers, with growing pauses, for ever. Replaces those of an earlier call.
    ///
    /// # Errors
    /// [`LivenessError::Closed`].
    pub fn join<A: Into<PeerAddr>>(&self, seeds: impl IntoIterator<Item = A>) -> Result<(), LivenessError> {
        self.tell(Command::Join(seeds.into_iter().map(Into::into).collect()))
    }

    /// Changes what this node tells about itself. Others learn of it within seconds.
    ///
    /// # Errors
    /// [`LivenessError::Metadata`], [`LivenessError::Closed`].
    pub async fn set_metadata(&self, metadata: Metadata) -> Result<(), LivenessError> {
        Ok(self.ask(|reply| Command::Metadata(metadata, reply)).await??)
    }

    /// What this node tells about itself.
    ///
    /// # Errors
    /// [`LivenessError::Closed`].
    pub async fn metadata(&self) -> Result<Metadata, LivenessError> {
        Ok(self.ask(Command::Own).await?.1)
    }

    /// The own incarnation.
    ///
    /// # Errors
    /// [`LivenessError::Closed`].
    pub async fn incarnation(&self) -> Result<Incarnation, LivenessError> {
        Ok(self.ask(Command::Own).await?.0)
    }

    /// All known nodes but the own one, to be narrowed down by selectors.
    ///
    /// # Errors
    /// [`LivenessError::Closed`].
    pub async fn members(&self) -> Result<Members, LivenessError> {
        self.ask(Command::Members).await
    }

    /// One known node.
    ///
    /// # Errors
    /// [`LivenessError::Closed`].
    pub async fn member(&self, node: NodeId) -> Result<Option<MemberView>, LivenessError> {
        self.ask(|reply| Command::Member(node, reply)).await
    }

    /// Statistics.
    ///
    /// # Errors
    /// [`LivenessError::Closed`].
    pub async fn stats(&self) -> Result<LivenessStats, LivenessError> {
        self.ask(Command::Stats).await
    }

    /// What the port counts about itself, by name: [`MessagePort::figures`](crate::MessagePort::figures).
    ///
    /// # Errors
    /// [`LivenessError::Closed`].
    pub async fn port_figures(&self) -> Result<BTreeMap<&'static str, u64>, LivenessError> {
        self.ask(Command::PortFigures).await
    }

    /// Events since this call; ends with the driver. A slow listener finds [`LivenessEvent::Missed`] in place of what it
    /// missed.
    pub fn events(&self) -> LivenessEvents {
        let Some(sender) = self.events.upgrade() else {
            return LivenessEvents(futures::stream::empty().boxed());
        };
        let receiver = sender.subscribe();
        let news = futures::stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(event) => Some((event, receiver)),
                Err(RecvError::Lagged(missed)) => Some((LivenessEvent::Missed(missed), receiver)),
                Err(RecvError::Closed) => None,
            }
        });
        LivenessEvents(news.boxed())
    }

    /// Names a node that is known from elsewhere: it is tried at once.
    ///
    /// # Errors
    /// [`LivenessError::Closed`].
    pub fn introduce(&self, node: NodeId, address: Option<PeerAddr>) -> Result<(), LivenessError> {
        self.tell(Command::Introduce(node, address))
    }

    /// Forgets a node. If it is there, it comes back with its next incarnation.
    ///
    /// # Errors
    /// [`LivenessError::Closed`].
    pub fn forget(&self, node: NodeId) -> Result<(), LivenessError> {
        self.tell(Command::Forget(node))
    }

    /// The network changed or came back: everybody who is unreachable is tried now.
    ///
    /// # Errors
    /// [`LivenessError::Closed`].
    pub fn network_changed(&self) -> Result<(), LivenessError> {
        self.tell(Command::NetworkChanged)
    }

    /// Says goodbye and closes the port. The others hold this node for left, at once; to come back, build it anew with the
    /// incarnation that was kept.
    ///
    /// # Errors
    /// [`LivenessError::Closed`].
    pub async fn leave(&self) -> Result<(), LivenessError> {
        self.ask(Command::Leave).await
    }

    fn tell(&self, command: Command) -> Result<(), LivenessError> {
        self.commands.send(command).map_err(|_| LivenessError::Closed)
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, LivenessError> {
        let (reply, answer) = oneshot::channel();
        self.tell(question(reply))?;
        answer.await.map_err(|_| LivenessError::Closed)
    }
}

/// Events of a [`LivenessHandle`].
pub struct LivenessEvents(BoxStream<'static, LivenessEvent>);

impl Stream for LivenessEvents {
    type Item = LivenessEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<LivenessEvent>> {
        self.0.poll_next_unpin(context)
    }
}

impl std::fmt::Debug for LivenessEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LivenessEvents")
    }
}
