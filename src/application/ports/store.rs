//! The store: all repositories of one backing, written through one door.
//!
//! Called by the append lane and the merge use case (`submit`), and when a node is built and closed. A store keeps and
//! returns; it judges nothing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::node_repository::NodeRecord;
use super::peer_repository::PeerRecord;
use super::receipt::Receipt;
use super::snapshot_repository::{SnapshotKey, SnapshotRecord};
use super::{ChannelRepository, EntryRepository, NodeRepository, PeerRepository, SnapshotRepository};
use crate::domain::channel::ChannelRecord;
use crate::domain::head::Head;
use crate::domain::id::{ChannelId, NodeId};
use crate::domain::log::{Line, LineNo, LogName, LogNo};
use crate::domain::run::Run;
use crate::domain::time::Timestamp;

/// When a write counts as done for the one who waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// On stable storage.
    #[default]
    Immediate,
    /// Visible in this process; on stable storage at most this much later, or earlier when a peer waits.
    Interval(Duration),
}

/// A store cannot do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process, or another handle in this one, has the store open. Nothing changed.
    #[error("the store at {0} is open elsewhere")]
    InUse(Arc<str>),
    /// The caller named a place where no store can be opened or made: a file, a directory of something else,
    /// a parent that does not exist. Nothing there was touched.
    #[error("no store can be opened at {0}")]
    Location(Arc<str>),
    /// The store was written by a newer version of the library. It was not touched.
    #[error("the store has format {found}, this version reads up to {supported}: it was not touched")]
    NewerFormat {
        /// Format on disk.
        found: u32,
        /// Newest format this version knows.
        supported: u32,
    },
    /// The device is full. The batch was not written; reads go on.
    #[error("the device is full: the batch was not written")]
    Full,
    /// An earlier write or sync failed, so what is on disk is not known: reopen the store.
    #[error("an earlier write failed ({0}): reopen the store")]
    Poisoned(Arc<str>),
    /// What was read is not what was written.
    #[error("stored data is damaged: {0}")]
    Corrupt(Arc<str>),
    /// The batch breaks a rule of [`WriteOp`]: the caller's fault. Nothing changed, and the store goes on.
    #[error("the batch breaks the rules of the store: {0}")]
    Misuse(Arc<str>),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The backing failed.
    #[error("the store failed: {0}")]
    Io(Arc<str>),
}

/// What a store occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreUsage {
    /// Bytes on disk, or in memory for a memory store; as of the last write, cheap to ask.
    pub bytes: u64,
}

/// One change, applied together with the others of its [`WriteBatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteOp {
    /// Creates the channel or replaces its record, except that a larger `seen` than the given one stays (I4).
    PutChannel(ChannelRecord),
    /// Removes the channel with all its logs, floors, lines, entries, heads and snapshots.
    RemoveChannel(ChannelId),
    /// Raises the channel's largest seen stamp; a smaller one than stored is ignored. The channel exists.
    SetSeen(ChannelId, Timestamp),
    /// Registers a log of an existing channel under a number that was never used in this store.
    PutLog(LogNo, LogName),
    /// Raises the floor of a registered log; one not above the stored one is ignored (I4). Lines and entries stay.
    RaiseFloor(LogNo, u64),
    /// Appends `run` to a line of a registered log, which is new or ends just before the run, and replaces the
    /// line's record by one that ends with the run.
    Append {
        /// The log.
        log: LogNo,
        /// The line as it is after the append.
        line: Line,
        /// The entries.
        run: Run,
    },
    /// Replaces the record of an existing line without appending: a newer head. Base and tip stay.
    PutLine(LogNo, Line),
    /// Keeps the head of a block end of an existing line.
    PutBlockHead(LogNo, LineNo, Head),
    /// Creates or replaces what is known of a peer.
    PutPeer(PeerRecord),
    /// Forgets a peer; unknown ones are ignored.
    RemovePeer(NodeId),
    /// Replaces the node's own record.
    PutNode(NodeRecord),
    /// Keeps a materializer's state, replacing the one of the same key.
    PutSnapshot(SnapshotKey, SnapshotRecord),
    /// Forgets a materializer's state; unknown ones are ignored.
    RemoveSnapshot(SnapshotKey),
    /// Removes everything, the identity included: the next open makes a new one.
    Wipe,
}

/// Changes that are written together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteBatch {
    /// The changes, applied in this order.
    pub ops: smallvec::SmallVec<[WriteOp; 1]>,
    /// When the writer is content.
    pub durability: Durability,
}

impl WriteBatch {
    /// A batch with these changes, to be durable at once.
    pub fn new(ops: impl IntoIterator<Item = WriteOp>) -> Self {
        Self { ops: ops.into_iter().collect(), durability: Durability::Immediate }
    }
}

/// Everything one node keeps, in one backing.
///
/// # Contract
/// - **Atomic**: after a crash at any point, a batch is there in full or not at all.
/// - **Ordered**: batches become visible and durable in the order of submission; one failure fails all later
///   ones with [`StoreError::Poisoned`], except [`StoreError::Full`], after which the store takes smaller
///   batches again, provided that nothing was submitted in between that builds on the failed one.
/// - **Durable**: once a receipt says `durable`, the batch survives a crash of the process, and on systems
///   and devices that honour a sync, of the machine.
/// - **Never blocks**: [`submit`](Self::submit) queues and returns. Bounding what is in flight is the caller's part.
/// - **Reads** see every batch whose receipt is visible, and never half of one.
/// - **Exclusive**: a second open of the same backing is [`StoreError::InUse`].
///
/// The library checks what it writes: a store need not verify chains, order of stamps or admission.
#[async_trait]
pub trait Store:
    EntryRepository + ChannelRepository + PeerRepository + NodeRepository + SnapshotRepository
{
    /// Queues a batch. Never blocks.
    fn submit(&self, batch: WriteBatch) -> Receipt;

    /// Asks that everything submitted so far becomes durable soon, whatever interval it was given.
    fn hasten(&self) {}

    /// What the store occupies.
    fn usage(&self) -> StoreUsage;

    /// Makes everything submitted durable, then releases the backing, so that it can be opened again, even
    /// while this handle lives. Later calls return [`StoreError::Closed`]; closing again is fine.
    ///
    /// # Errors
    /// What the last writes came to.
    async fn close(&self) -> Result<(), StoreError>;
}
