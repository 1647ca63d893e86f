//! The node: lifecycle, channels, peers, news and health.
//!
//! Local questions are answered from what all tasks share; what concerns the network is asked of the driver.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use futures::Stream;
use tokio::sync::{mpsc, oneshot, watch};

use super::builder::CoordinatorBuilder;
use super::channel::{Channel, ChannelSpec};
use super::error::NodeError;
use super::explain::{Explanation, SyncStatus, explain, sync_status};
use super::stream::EventStream;
use crate::application::driver::{Command, MeetError, NodeState};
use crate::application::notices::{Events, Faults, Metrics};
use crate::application::peers::{Peer, PeerBook};
use crate::application::ports::{MessagePort, PeerAddr, Store, StoreError};
use crate::application::replica::Replica;
use crate::application::selection::Peers;
use crate::domain::id::{ChannelId, NodeId};
use crate::protocol::swim::Metadata;

/// One node: the entrance to everything.
///
/// A cheap handle: clone it, share it, use it from any task. Dropping the last clone stops the network after the
/// driver's turn; [`close`](Self::close) does so in order and releases the store.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use anabranch::{Coordinator, MemoryStore, Query};
///
/// let node = Coordinator::builder(MemoryStore::ephemeral()?).start().await?;
/// let today = node.channel("notes").await?.stream("today").await?;
/// today.append("buy milk").await?;
/// let entry = today.entries(Query::all()).next().await.expect("one entry")?;
/// assert_eq!(&entry.payload()[..], b"buy milk");
/// node.close().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Coordinator(pub(super) Arc<Node>);

/// What all handles of a node share.
pub(super) struct Node {
    pub(super) replica: Arc<Replica>,
    pub(super) peers: Arc<PeerBook>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) state: Arc<watch::Sender<NodeState>>,
    /// As they were given. The driver owns them: a handle must not keep a closed port open.
    pub(super) ports: Vec<Weak<dyn MessagePort>>,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The node.
    pub node: NodeId,
    /// What it does about the network.
    pub state: NodeState,
    /// Peers that answer.
    pub reachable_peers: usize,
    /// The first append waits for a peer, because the store moved.
    pub awaiting_peer: bool,
    /// Faults since the node was opened.
    pub faults: u64,
    /// What it holds.
    pub usage: ResourceUsage,
}

impl Health {
    /// Serves and accepts.
    pub fn is_healthy(&self) -> bool {
        self.state == NodeState::Running
    }
}

/// What a node holds. Counted as it changes: asking costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ResourceUsage {
    /// Known peers.
    pub peers: usize,
    /// Channels.
    pub channels: usize,
    /// Streams of all channels.
    pub streams: usize,
    /// Logs of all streams.
    pub logs: usize,
    /// Entries of all logs.
    pub entries: u64,
    /// Bytes that the store occupies, as of its last write.
    pub store_bytes: u64,
    /// News about peers that wait to be passed on.
    pub liveness_updates: usize,
}

impl Coordinator {
    /// Starts putting a node together. The store holds the node's identity.
    pub fn builder(store: impl Store) -> CoordinatorBuilder {
        CoordinatorBuilder::new(Arc::new(store))
    }

    /// Who this node is.
    pub fn node(&self) -> NodeId {
        self.0.replica.node()
    }

    /// The channel, created with this node as its only member if it does not exist here.
    ///
    /// A name stands for the well-known channel of that name; see [`ChannelSpec`] for secret ones.
    ///
    /// # Errors
    /// [`NodeError::Id`] for a name of 0 or more than 64 bytes, [`NodeError::Closed`], [`NodeError::Store`].
    pub async fn channel<S>(&self, spec: S) -> Result<Channel, NodeError>
    where
        S: TryInto<ChannelSpec>,
        S::Error: Into<NodeError>,
    {
        let ChannelSpec { id, label } = spec.try_into().map_err(Into::into)?;
        self.check_open()?;
        let cell = self.0.replica.open_channel(id, &label).await?;
        Ok(Channel { node: self.0.clone(), cell })
    }

    /// The channel, if it exists here.
    pub fn get_channel(&self, id: &ChannelId) -> Option<Channel> {
        let cell = self.0.replica.channel(id)?;
        Some(Channel { node: self.0.clone(), cell })
    }

    /// All channels, by id.
    pub fn channels(&self) -> Vec<Channel> {
        let cells = self.0.replica.channels().into_iter();
        cells.map(|cell| Channel { node: self.0.clone(), cell }).collect()
    }

    /// The channels that admit `peer`, by id.
    pub fn channels_for_peer(&self, peer: &NodeId) -> Vec<Channel> {
        self.channels().into_iter().filter(|channel| channel.cell.state().admission.admits(peer)).collect()
    }

    /// Removes the channel with everything in it, here only; whether it existed.
    ///
    /// If the store was full ([`StoreError::Full`]), the channel is gone from this node, but not from the store: call this
    /// again when there is room, or find it back when the node is opened the next time.
    ///
    /// # Errors
    /// [`NodeError::Closed`], [`NodeError::Store`].
    pub async fn remove_channel(&self, id: &ChannelId) -> Result<bool, NodeError> {
        self.check_open()?;
        Ok(self.0.replica.remove_channel(id).await?)
    }

    /// Connects to an address and waits until whoever is there has proven who it is. It becomes a known peer, and
    /// is dialled again when it is lost.
    ///
    /// Dropping the future does not call the meeting off.
    ///
    /// # Errors
    /// [`MeetError`]; nothing changed.
    pub async fn meet(&self, address: impl Into<PeerAddr>) -> Result<NodeId, MeetError> {
        let (reply, answer) = oneshot::channel();
        self.0.commands.send(Command::Meet(address.into(), reply)).map_err(|_| MeetError::Closed)?;
        answer.await.map_err(|_| MeetError::Closed)?
    }

    /// Tries these addresses now, and again whenever no session stands, with growing pauses and for ever: after total
    /// isolation the node finds back without the application. Replaces the seeds of an earlier call; none ends it.
    ///
    /// # Errors
    /// [`NodeError::Closed`], [`NodeError::NoDriver`].
    pub fn join<A: Into<PeerAddr>>(&self, seeds: impl IntoIterator<Item = A>) -> Result<(), NodeError> {
        self.tell(Command::Join(seeds.into_iter().map(Into::into).collect()))
    }

    /// Tells the node that the network changed or came back, as operating systems do: whoever was lost is tried at once
    /// instead of after a pause.
    ///
    /// # Errors
    /// [`NodeError::Closed`], [`NodeError::NoDriver`].
    pub fn network_changed(&self) -> Result<(), NodeError> {
        self.tell(Command::NetworkChanged)
    }

    /// Changes what this node tells about itself; peers learn of it within seconds.
    ///
    /// # Errors
    /// [`NodeError::Metadata`] if it is larger than 1 KiB, [`NodeError::Closed`], [`NodeError::NoDriver`].
    pub fn set_metadata(&self, metadata: &Metadata) -> Result<(), NodeError> {
        self.tell(Command::Metadata(metadata.encode()?))
    }

    fn tell(&self, command: Command) -> Result<(), NodeError> {
        self.check_open()?;
        self.0.commands.send(command).map_err(|_| NodeError::NoDriver)
    }

    /// Makes a peer known without meeting it, under a local name: [`AcceptPeers::Known`](crate::AcceptPeers)
    /// then accepts it.
    ///
    /// # Errors
    /// [`NodeError::OwnNode`], [`NodeError::Closed`], [`NodeError::Store`].
    pub async fn add_peer(&self, peer: NodeId, label: &str) -> Result<(), NodeError> {
        if peer == self.node() {
            return Err(NodeError::OwnNode);
        }
        let Node { replica, peers, .. } = &*self.0;
        let named = replica.while_open(|| {
            peers.label(peer, label);
            peers.keep(&peer, &*replica.store)
        });
        Ok(named.ok_or(NodeError::Closed)?.durable().await?)
    }

    /// Forgets a peer: hangs up, and dials it no more. What it wrote stays.
    ///
    /// # Errors
    /// [`NodeError::NoDriver`], [`NodeError::Closed`].
    pub async fn remove_peer(&self, peer: &NodeId) -> Result<(), NodeError> {
        self.ask(|reply| Command::Forget(*peer, reply)).await
    }

    /// All known peers, by id.
    pub fn peers(&self) -> Peers {
        self.0.peers.list().into_iter().collect()
    }

    /// One known peer.
    pub fn peer(&self, node: &NodeId) -> Option<Peer> {
        self.0.peers.get(node)
    }

    /// The peers with which a session stands, by id.
    pub fn reachable_peers(&self) -> Vec<Peer> {
        self.peers().matching(|peer| peer.reachable).into_vec()
    }

    /// Turns the network on, if it is off. Idempotent.
    ///
    /// # Errors
    /// [`NodeError::Closed`], [`NodeError::NoDriver`].
    pub async fn start(&self) -> Result<(), NodeError> {
        self.set_state(NodeState::Running).await
    }

    /// Turns the network off: sessions end, nobody is dialled, local use goes on. Idempotent.
    ///
    /// # Errors
    /// [`NodeError::Closed`], [`NodeError::NoDriver`].
    pub async fn stop(&self) -> Result<(), NodeError> {
        self.set_state(NodeState::Stopped).await
    }

    /// Goes on serving peers, but accepts nothing from them and asks for nothing. Idempotent.
    ///
    /// # Errors
    /// [`NodeError::Closed`], [`NodeError::NoDriver`].
    pub async fn pause(&self) -> Result<(), NodeError> {
        self.set_state(NodeState::Paused).await
    }

    /// Accepts again after [`pause`](Self::pause). Idempotent.
    ///
    /// # Errors
    /// [`NodeError::Closed`], [`NodeError::NoDriver`].
    pub async fn resume(&self) -> Result<(), NodeError> {
        self.set_state(NodeState::Running).await
    }

    /// Leaves: says goodbye to peers, closes the ports, makes everything durable and releases the store, which can
    /// be opened again when this returns, even while handles live. They return `Closed` from then on. Idempotent.
    ///
    /// # Errors
    /// [`NodeError::Store`]: what the last writes came to. The node is closed all the same.
    pub async fn close(&self) -> Result<(), NodeError> {
        self.leave(false).await
    }

    /// Closes the node and wipes its store, the identity included: the next open makes a new node.
    ///
    /// # Errors
    /// [`NodeError::Store`], [`NodeError::Closed`] if it was closed before, or another call was first: then this one wiped
    /// nothing.
    pub async fn destroy(&self) -> Result<(), NodeError> {
        self.check_open()?;
        self.leave(true).await
    }

    async fn leave(&self, wipe: bool) -> Result<(), NodeError> {
        let (reply, answer) = oneshot::channel();
        // A refused command, with the reply in it, is dropped here: nobody would ever answer.
        let asked = self.0.commands.send(Command::Close { wipe, reply }).is_ok();
        match answer.await {
            Ok(result) if asked => Ok(result?),
            // Closed before, or the driver is gone: what is left is the store.
            _ => {
                self.0.state.send_replace(NodeState::Closed);
                match self.0.replica.release(wipe).await {
                    Err(StoreError::Closed) if wipe => Err(NodeError::Closed),
                    released => Ok(released?),
                }
            }
        }
    }

    async fn set_state(&self, state: NodeState) -> Result<(), NodeError> {
        self.check_open()?;
        self.ask(|reply| Command::SetState(state, reply)).await
    }

    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, NodeError> {
        let gone = || if self.0.replica.is_closed() { NodeError::Closed } else { NodeError::NoDriver };
        let (reply, answer) = oneshot::channel();
        self.0.commands.send(command(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    fn check_open(&self) -> Result<(), NodeError> {
        if self.0.replica.is_closed() { Err(NodeError::Closed) } else { Ok(()) }
    }

    /// What the node does about the network now.
    pub fn state(&self) -> NodeState {
        *self.0.state.borrow()
    }

    /// The present state and every one that follows; a slow listener sees the newest.
    pub fn state_changes(&self) -> impl Stream<Item = NodeState> + Send + Unpin + use<> {
        let receiver = self.0.state.subscribe();
        let states = futures::stream::unfold((receiver, true), |(mut receiver, first)| async move {
            if !first {
                receiver.changed().await.ok()?;
            }
            let state = *receiver.borrow_and_update();
            Some((state, (receiver, false)))
        });
        Box::pin(states)
    }

    /// News about data and peers, from now on.
    pub fn events(&self) -> Events {
        self.0.replica.notices.events()
    }

    /// What goes wrong, from now on. The node goes on.
    pub fn errors(&self) -> Faults {
        self.0.replica.notices.faults()
    }

    /// How the node is.
    pub fn health(&self) -> Health {
        Health {
            node: self.node(),
            state: self.state(),
            reachable_peers: self.0.peers.reachable(),
            awaiting_peer: !self.0.replica.resident.is_set(),
            faults: self.metrics().faults,
            usage: self.resource_usage(),
        }
    }

    /// What the node holds. Cheap, whatever that is: kept up to date, not counted.
    pub fn resource_usage(&self) -> ResourceUsage {
        let totals = &self.0.replica.totals;
        ResourceUsage {
            peers: self.0.peers.len(),
            channels: self.0.replica.channel_count(),
            streams: totals.streams.load(Ordering::Relaxed),
            logs: totals.logs.load(Ordering::Relaxed),
            entries: totals.entries.load(Ordering::Relaxed),
            store_bytes: self.0.replica.store.usage().bytes,
            liveness_updates: self.0.peers.updates(),
        }
    }

    /// All counters.
    pub fn metrics(&self) -> Metrics {
        self.0.replica.notices.counters.snapshot()
    }

    /// What each transport counts about itself, by name, in the order in which they were given to the builder: see
    /// [`MessagePort::figures`]. Empty for one that counts nothing, and once the node is closed.
    pub fn port_figures(&self) -> Vec<BTreeMap<&'static str, u64>> {
        let figures = |port: &Weak<dyn MessagePort>| port.upgrade().map(|port| port.figures());
        self.0.ports.iter().map(|port| figures(port).unwrap_or_default()).collect()
    }

    /// Who is behind whom by how much, and whether anything is under way.
    ///
    /// # Errors
    /// [`NodeError::Closed`], [`NodeError::NoDriver`].
    pub async fn sync_status(&self) -> Result<SyncStatus, NodeError> {
        sync_status(self).await
    }

    /// Why this node and `peer` do not hold the same of a stream, as far as this side can tell.
    ///
    /// # Errors
    /// [`NodeError::Closed`], [`NodeError::NoDriver`].
    pub async fn explain(&self, peer: &NodeId, stream: &EventStream) -> Result<Explanation, NodeError> {
        explain(self, peer, stream).await
    }
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coordinator").field("node", &self.node()).field("state", &self.state()).finish()
    }
}
