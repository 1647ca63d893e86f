//! How far the own logs of a channel had been handed out when the channel was removed.
//!
//! A channel may be made again after it was removed, and others may still hold what this node wrote there. Before they
//! returned it, an append would give its numbers to other entries (I1). So the replica keeps, across the removal, how far
//! each own log was ever signed for others, and appends wait for that much. Decides nothing; written by the replica only,
//! as a state whose name no materializer bears.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::log_cell::LogState;
use super::ports::{SnapshotKey, SnapshotRecord, Store, StoreError, WriteOp};
use crate::domain::id::{ChannelId, StreamId};
use crate::domain::version::VersionVector;

/// Name of the state; the first character keeps it apart from what an application would choose.
const NAME: &str = "\u{0}handed out";
/// Version of its encoding: postcard of stream and sequence, by stream.
const VERSION: u32 = 1;
/// The stream under which it is kept: it belongs to all of the channel.
const STREAM: &str = "-";

/// The last sequence handed out of the own log of each stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marks(BTreeMap<StreamId, u64>);

impl Marks {
    /// What was kept when the channel was removed; nothing if it never was.
    pub(crate) async fn of(store: &dyn Store, channel: ChannelId) -> Result<Self, StoreError> {
        let Some(kept) = store.snapshot(&key(channel)).await? else { return Ok(Self::default()) };
        let damaged = |error: postcard::Error| StoreError::Corrupt(error.to_string().into());
        Ok(Self(postcard::from_bytes(&kept.state).map_err(damaged)?))
    }

    /// What keeps them, to come after the removal in the same batch; nothing if nothing was handed out.
    pub(crate) fn write(&self, channel: ChannelId) -> Option<WriteOp> {
        if self.0.is_empty() {
            return None;
        }
        let state = Bytes::from(postcard::to_allocvec(&self.0).expect("names and numbers can be encoded"));
        let record = SnapshotRecord { position: VersionVector::START, last: None, refused: 0, state };
        Some(WriteOp::PutSnapshot(key(channel), record))
    }

    /// Takes note of what was handed out of an own log since.
    pub(crate) fn raise(&mut self, stream: &StreamId, own: &LogState) {
        let own = own.submitted();
        let handed_out = own.lines().iter().filter_map(|line| Some(line.head()?.tip.sequence)).max();
        if let Some(sequence) = handed_out {
            let mark = self.0.entry(stream.clone()).or_default();
            *mark = sequence.max(*mark);
        }
    }

    /// Whether less of an own log is here than was handed out.
    pub(crate) fn lacks(&self, stream: &StreamId, own: &LogState) -> bool {
        let Some(mark) = self.0.get(stream) else { return false };
        !own.submitted().lines().iter().any(|line| line.tip.sequence >= *mark)
    }
}

fn key(channel: ChannelId) -> SnapshotKey {
    let stream = StreamId::new(STREAM).expect("one byte is a name");
    SnapshotKey { channel, stream, name: NAME.to_owned(), version: VERSION }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::executor::block_on;

    use super::*;
    use crate::application::ports::WriteBatch;
    use crate::domain::channel::{Admission, ChannelRecord};
    use crate::domain::id::NodeId;
    use crate::domain::time::Timestamp;
    use crate::infrastructure::memory_store::MemoryStore;
    use crate::infrastructure::packed::{MapBacking, PackedStore};
    use crate::infrastructure::threaded_store::ThreadedStore;

    #[test]
    fn marks_that_come_with_a_removal_outlast_it_and_the_next_creation() {
        let packed = block_on(ThreadedStore::open("marks", || {
            PackedStore::open(MapBacking::new(4096), [1; 32], &Bytes::from_static(b"here"))
        }));
        let stores: [Arc<dyn Store>; 2] =
            [Arc::new(MemoryStore::ephemeral().unwrap()), Arc::new(packed.unwrap())];
        let id = ChannelId::well_known("removed").unwrap();
        let admission = Admission::only(NodeId::from_bytes([1; 32]));
        let record = ChannelRecord { id, label: String::new(), admission, seen: Timestamp::ZERO };
        let marks = Marks(BTreeMap::from([(StreamId::new("s").unwrap(), 7)]));
        for store in stores {
            let write = |ops: Vec<WriteOp>| block_on(store.submit(WriteBatch::new(ops)).durable()).unwrap();
            let kept = || block_on(Marks::of(&*store, id)).unwrap();
            write(vec![WriteOp::PutChannel(record.clone())]);
            assert_eq!(kept(), Marks::default());
            write(vec![WriteOp::RemoveChannel(id), marks.write(id).unwrap()]);
            assert_eq!(kept(), marks);
            write(vec![WriteOp::PutChannel(record.clone())]);
            assert_eq!(kept(), marks);
            write(vec![WriteOp::RemoveChannel(id), marks.write(id).unwrap()]);
            assert_eq!(kept(), marks);
        }
        assert_eq!(Marks::default().write(id), None);
    }
}
