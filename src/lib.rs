//! Offline-first event-stream sync: append locally, meet over any transport, end with the same events in the
//! same order and the same derived state.
//!
//! # When would I use this?
//!
//! When an application runs on several devices that are often apart (phones, desktops, field devices, edge boxes, a relay
//! server), and what matters to it can be told as events: a note was added, a sensor read, a move made, a CRDT
//! updated. Each device appends to its own log, offline, at the speed of its disk. Devices that meet exchange
//! what they lack. Everybody reads the same merged stream, and folds the same state out of it.
//!
//! Not when one server is always there and in charge (use its database), when data is a set of current values that
//! nobody wants the history of (use a replicated key-value store), or when events have to be agreed on before they
//! count (use consensus).
//!
//! # How it looks
//!
//! [`Coordinator`] is the entrance. It is put together from a [`Store`], any number of [`MessagePort`]s and a [`Config`]:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use anabranch::{Arrival, Coordinator, Cursor, MemoryNetwork, MemoryStore};
//!
//! let network = MemoryNetwork::new();
//! let node = Coordinator::builder(MemoryStore::ephemeral()?).port(network.port("ana")).start().await?;
//! let today = node.channel("notes").await?.stream("today").await?;
//! today.append("buy milk").await?;
//!
//! let mut feed = today.subscribe(Cursor::START);
//! let Some(Arrival::Entry { entry, late }) = feed.next().await.transpose()? else { panic!("no entry") };
//! assert!(entry.author() == node.node() && &entry.payload()[..] == b"buy milk" && !late);
//! node.close().await?;
//! # Ok(()) }
//! ```
//!
//! The README has two devices that meet, a transport, and a materializer, each in one screen.
//!
//! # What you may assume
//!
//! - **Durable, then visible.** A write that returned `Ok` under [`Durability::Immediate`] survives a crash, and no byte of
//!   an entry leaves the node before it would.
//! - **One order.** Nodes with the same entries read the same sequence, however the entries arrived.
//! - **Authentic.** An entry is accepted only under its author's signature and the channel's [`Admission`]. Who carries it does
//!   not matter.
//! - **Bounded.** What a peer can make a node hold or do is bounded by [`Config`].
//! - **Nothing silent.** What is refused, dropped or fails is a typed [`Fault`], a counter in [`Metrics`], or an error that says
//!   whose fault it is and whether anything changed.
//!
//! `ARCHITECTURE.md` lists all invariants, and the tests that show each.
//!
//! # Where things are
//!
//! Everything that an application needs is at the root of the crate. The modules are for those who write ports, or drive
//! the engines themselves:
//!
//! | module | what is in it | who needs it |
//! |---|---|---|
//! | [`domain`] | entries, runs, logs, versions, time: pure values | writers of stores |
//! | [`protocol`] | sans-IO engines: sessions, anti-entropy, probes, wire format | second implementations, simulators |
//! | [`application`] | the ports and their contracts, configuration, the driver | writers of stores and transports |
//! | [`infrastructure`] | memory store, packed store over any ordered map, in-memory port, system timer | writers of stores, tests |
//! | `testing` | conformance suites for every port (feature `test-util`) | writers of stores and transports |
//!
//! # Features
//!
//! - `tokio` (default): [`CoordinatorBuilder::start`] and [`SystemTimer`]. Without it, [`CoordinatorBuilder::build`] hands over the
//!   driver as a future for any executor, and takes a [`TimerPort`].
//! - `test-util`: the module `testing`.
#![forbid(unsafe_code)]

#[macro_use]
pub mod mutants;

pub mod application;
pub mod domain;
mod facade;
pub mod infrastructure;
pub mod protocol;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;

pub use application::config::{AcceptPeers, Config, ConfigError};
pub use application::driver::{Driver, MeetError, NodeState};
pub use application::liveness::driver::LivenessDriver;
pub use application::liveness::{
    FrameRefused, Liveness, LivenessEvent, LivenessOutput, LivenessSink, LivenessStats, MessageKind,
    MessageSeen, MetadataRefused, NodeStatus,
};
pub use application::notices::{Events, Faults, Metrics};
pub use application::peers::{Peer, PeerMetrics};
pub use application::ports::{
    Durability, LinkId, MessagePort, PeerAddr, PortError, PortEvent, PortProfile, Priority, Residence,
    SendError, Store, StoreError, TimerPort,
};
pub use application::selection::{Members, Peers, Selectable, Selection};
pub use domain::channel::Admission;
pub use domain::entry::{EntryHash, EntryId, LogEntry, OrderKey};
pub use domain::event::{Event, Fault, Refusal};
pub use domain::fork::ForkProof;
pub use domain::id::{ChannelId, IdError, NodeId, StreamId};
pub use domain::identity::Identity;
pub use domain::peer::Status;
pub use domain::time::{Instant, Timestamp, WallTime};
pub use domain::version::{Cursor, Tip, VersionVector};
pub use facade::{
    AppendError, AppendRefusal, Appended, Arrival, BuildError, Channel, ChannelSpec, Coordinator,
    CoordinatorBuilder, Entries, EventStream, Explanation, FoldError, Health, LivenessBuildError,
    LivenessBuilder, LivenessError, LivenessEvents, LivenessHandle, NodeError, PeerSync, Query, ReadError,
    ResourceUsage, StateChanges, StateError, StateHandle, StateMaterializer, Subscription, SyncStatus,
};
pub use infrastructure::memory_port::{MemoryNetwork, MemoryPort};
pub use infrastructure::memory_store::MemoryStore;
#[cfg(feature = "tokio")]
pub use infrastructure::system_timer::SystemTimer;
pub use protocol::swim::{Incarnation, MemberView, Metadata, MetadataTooLarge, SwimConfig};
pub use protocol::wire::MessageVersion;

/// Compiles and runs the code of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
