//! What the library asks of the outside world: one trait per file, with its contract.
//!
//! Every implementation, ours or a user's, runs the conformance suite of its port
//! (`anabranch::testing`, feature `test-util`).

mod channel_repository;
mod entry_repository;
mod message_port;
mod node_repository;
mod peer_repository;
mod receipt;
mod snapshot_repository;
mod store;
mod timer_port;

pub use channel_repository::ChannelRepository;
pub use entry_repository::{EntryRepository, StoredLog};
pub use message_port::{LinkId, MessagePort, PortError, PortEvent, SendError};
pub use node_repository::{NodeRecord, NodeRepository, Residence};
pub use peer_repository::{PeerRecord, PeerRepository};
pub use receipt::{Completer, Receipt};
pub use snapshot_repository::{SnapshotKey, SnapshotRecord, SnapshotRepository};
pub use store::{Durability, Store, StoreError, StoreUsage, WriteBatch, WriteOp};
pub use timer_port::TimerPort;

pub use crate::domain::link::{MIN_FRAME_BYTES, PeerAddr, PortProfile, Priority};
