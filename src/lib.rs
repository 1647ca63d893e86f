//! Offline-first event-stream sync: append locally, meet over any transport, end with the same events in the
//! same order and the same derived state.
#![forbid(unsafe_code)]

pub mod application;
pub mod domain;
mod facade;
pub mod infrastructure;
pub mod protocol;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;

pub use application::config::{AcceptPeers, Config, ConfigError};
pub use application::driver::{Driver, MeetError, NodeState};
pub use application::notices::{Events, Faults, Metrics};
pub use application::peers::{Peer, PeerMetrics};
pub use application::ports::{
    Durability, LinkId, MessagePort, PeerAddr, PortError, PortEvent, PortProfile, Priority, Residence,
    SendError, Store, StoreError, TimerPort,
};
pub use domain::channel::Admission;
pub use domain::entry::{EntryHash, EntryId, LogEntry, OrderKey};
pub use domain::event::{Event, Fault, Refusal};
pub use domain::fork::ForkProof;
pub use domain::id::{ChannelId, IdError, NodeId, StreamId};
pub use domain::identity::Identity;
pub use domain::time::{Instant, Timestamp, WallTime};
pub use domain::version::{Cursor, Tip, VersionVector};
pub use facade::{
    AppendError, AppendRefusal, Appended, Arrival, BuildError, Channel, ChannelSpec, Coordinator,
    CoordinatorBuilder, Entries, EventStream, Explanation, FoldError, Health, NodeError, PeerSync, Query,
    ReadError, ResourceUsage, StateChanges, StateError, StateHandle, StateMaterializer, Subscription,
    SyncStatus,
};
pub use infrastructure::memory_port::{MemoryNetwork, MemoryPort};
pub use infrastructure::memory_store::MemoryStore;
#[cfg(feature = "tokio")]
pub use infrastructure::system_timer::SystemTimer;
