//! Streams: appending, reading, subscribing.
//!
//! Appends go down the append lane, past the driver. A cheap handle that any number of tasks may use.

use std::sync::Arc;

use bytes::Bytes;

use super::coordinator::Node;
use super::entries::{Entries, Query};
use super::error::{AppendError, AppendRefusal, ReadError};
use super::state::{StateError, StateHandle, StateMaterializer};
use super::subscription::Subscription;
use crate::application::ports::{Durability, StoreError};
use crate::application::reader::Snapshot;
use crate::application::replica::{ChannelCell, NotSubmitted, StreamCell, Submitted};
use crate::domain::entry::EntryId;
use crate::domain::id::{ChannelId, StreamId};
use crate::domain::time::Instant;
use crate::domain::version::{Cursor, Tip, VersionVector};
#[cfg(any(test, feature = "test-util"))]
use crate::{
    application::log_cell::Origin,
    application::replica::Merge,
    domain::{
        head::Head,
        identity::Identity,
        run::{RunBuilder, UnverifiedRun},
        time::Timestamp,
    },
};

/// The merged events of all authors in one total order. A cheap handle.
#[derive(Clone)]
pub struct EventStream {
    pub(super) node: Arc<Node>,
    pub(super) channel: Arc<ChannelCell>,
    pub(super) cell: Arc<StreamCell>,
}

/// What an append came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Sequence of the first entry appended.
    pub first: u64,
    /// The last entry appended.
    pub last: EntryId,
}

impl EventStream {
    /// Its id.
    pub fn id(&self) -> &StreamId {
        &self.cell.id
    }

    /// Its channel.
    pub fn channel_id(&self) -> ChannelId {
        self.channel.id
    }

    /// Appends one event. When this returns, it is as durable as configured, and reads of this node see it.
    ///
    /// Dropping the future before it is submitted changes nothing; afterwards it withdraws nothing.
    ///
    /// # Errors
    /// [`AppendError`]: says whether anything changed.
    pub async fn append(&self, payload: impl Into<Bytes>) -> Result<EntryId, AppendError> {
        Ok(self.append_all(&[payload.into()]).await?.last)
    }

    /// Appends a copy of `payload`.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn append_slice(&self, payload: &[u8]) -> Result<EntryId, AppendError> {
        self.append(Bytes::copy_from_slice(payload)).await
    }

    /// Appends several events in one atomic write: after a crash all of them are there, or none.
    ///
    /// # Errors
    /// As [`append`](Self::append); [`AppendRefusal::EmptyBatch`] if there is none.
    pub async fn append_batch<P: Into<Bytes>>(
        &self,
        payloads: impl IntoIterator<Item = P>,
    ) -> Result<Appended, AppendError> {
        let payloads: Vec<Bytes> = payloads.into_iter().map(Into::into).collect();
        self.append_all(&payloads).await
    }

    async fn append_all(&self, payloads: &[Bytes]) -> Result<Appended, AppendError> {
        let replica = &self.node.replica;
        let max = replica.config.max_payload;
        if let Some(len) = payloads.iter().map(Bytes::len).find(|len| *len > max) {
            return Err(AppendError::Unchanged(AppendRefusal::PayloadTooLarge { len, max }));
        }
        if payloads.is_empty() {
            return Err(AppendError::Unchanged(AppendRefusal::EmptyBatch));
        }
        let Submitted { receipt, shown, log, first, last } = loop {
            if replica.is_closed() {
                return Err(AppendError::Unchanged(AppendRefusal::Closed));
            }
            if !replica.resident.is_set() {
                self.until_resident().await;
                continue;
            }
            let known = self.cell.changed.version();
            match replica.submit_append(&self.channel, &self.cell, payloads) {
                Ok(submitted) => break submitted,
                Err(NotSubmitted::NoRoom(oldest)) => {
                    // What it came to, its own appender is told.
                    let _ = oldest.durable().await;
                    if let Some(log) = self.cell.log(&replica.node()) {
                        replica.settle(&log);
                    }
                }
                Err(NotSubmitted::Forgotten(until)) => self.until_changed(known, until).await,
                Err(refused) => return Err(AppendError::Unchanged(refused.into())),
            }
        };
        let result = match replica.config.durability {
            Durability::Immediate if mutant!(AcknowledgedBeforeDurable) => receipt.visible().await,
            Durability::Immediate => receipt.durable().await,
            Durability::Interval(_) => receipt.visible().await,
        };
        if !shown {
            replica.settle(&log);
        }
        let author = replica.node();
        let id = |tip: Tip| EntryId { author, sequence: tip.sequence, hash: tip.hash };
        match result {
            Ok(()) => Ok(Appended { first: first.sequence, last: id(last) }),
            Err(error @ (StoreError::Full | StoreError::Misuse(_))) => {
                Err(AppendError::Unchanged(AppendRefusal::Store(error)))
            }
            Err(source) => Err(AppendError::Indeterminate { id: id(first), source }),
        }
    }

    /// Waits until a peer confirmed what we hold, the wait for one is over, or the node is closed.
    async fn until_resident(&self) {
        let mut resident = self.node.replica.resident.subscribe();
        let mut closed = self.node.replica.closed.subscribe();
        let resident = resident.wait_for(|resident| *resident);
        let closed = closed.wait_for(|closed| *closed);
        futures::pin_mut!(resident, closed);
        futures::future::select(resident, closed).await;
    }

    /// Waits until the stream differs from what it was at version `known`, `until` is reached, or the node is closed.
    async fn until_changed(&self, known: u64, until: Instant) {
        let mut closed = self.node.replica.closed.subscribe();
        let closed = closed.wait_for(|closed| *closed);
        let changed = self.cell.changed.past(known);
        let over = self.node.replica.timer.sleep_until(until);
        futures::pin_mut!(changed, over, closed);
        futures::future::select(futures::future::select(changed, over), closed).await;
    }

    /// Entries in stream order, as the stream is now; see [`Query`] for parts of it.
    pub fn entries(&self, query: Query) -> Entries {
        Entries::new(self, query)
    }

    /// What comes after `cursor`: first what is there, in stream order, then what arrives.
    ///
    /// Nothing is lost, however slow the subscriber: what it has not taken it reads from the store.
    pub fn subscribe(&self, cursor: Cursor) -> Subscription {
        Subscription::new(self, cursor)
    }

    /// The state that `materializer` folds from this stream. Several may be used side by side.
    ///
    /// # Errors
    /// [`StateError`]: the node is closed, the channel removed, a saved state cannot be read, or the
    /// materializer's `initial` panics.
    pub async fn materialize<M: StateMaterializer>(
        &self,
        materializer: M,
    ) -> Result<StateHandle<M>, StateError> {
        StateHandle::open(self, materializer).await
    }

    /// Takes the first entry of an author as though a peer had brought it; whether it was taken. For tests and
    /// benchmarks of what arrives late, without a network; admission is not asked.
    #[cfg(any(test, feature = "test-util"))]
    pub async fn arrive(&self, author: &Identity, stamp: Timestamp, payload: &[u8]) -> bool {
        let replica = &self.node.replica;
        let Ok((_, log, _)) = replica.open_log(&self.channel, self.id(), &author.node()) else {
            return false;
        };
        let mut run = RunBuilder::new(log.name.key, Tip::START, 1, payload.len());
        let tip = run.push(stamp, payload);
        let Some(run) = run.finish() else { return false };
        let signature = Head::sign(&log.name.key, tip, author).signature;
        let (body, heads) = (run.body().clone(), vec![(tip.sequence, signature)]);
        let run = UnverifiedRun { first: run.first(), previous: run.previous(), body, heads };
        let max = replica.config.max_payload;
        let Ok(run) = run.verify(&log.name.key, &author.node(), &*author.scheme(), max) else { return false };
        let Merge::Queued(receipt) = replica.merge(&self.channel, &log, run, Origin::Session(0)) else {
            return false;
        };
        let kept = receipt.durable().await.is_ok();
        replica.settle(&log);
        kept
    }

    /// Whether the entry is held.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn contains(&self, id: &EntryId) -> Result<bool, ReadError> {
        Ok(self.node.replica.contains(&self.cell, id).await?)
    }

    /// Number of entries held.
    pub fn len(&self) -> u64 {
        self.cell.logs().iter().map(|log| log.visible().len()).sum()
    }

    /// Whether no entry is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is held: for each author the tips of its log.
    pub fn version(&self) -> VersionVector {
        Snapshot::of(&self.cell).version()
    }
}

impl From<NotSubmitted> for AppendRefusal {
    fn from(refused: NotSubmitted) -> Self {
        match refused {
            NotSubmitted::Removed => Self::ChannelRemoved,
            NotSubmitted::Time(exhausted) => Self::Time(exhausted),
            NotSubmitted::Poisoned(error) => Self::Store(error),
            NotSubmitted::TooManyLogs => Self::TooManyLogs,
            // The caller waits for room instead.
            NotSubmitted::NoRoom(_) | NotSubmitted::Forgotten(_) => Self::Closed,
        }
    }
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("id", self.id()).field("channel", &self.channel.id).finish()
    }
}
