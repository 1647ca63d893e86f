//! Clauses about everything that is not an entry: channels, peers, the node, snapshots.

use super::script::{AUTHOR, channel, channel_record, snapshot};
use super::{StoreFixture, Subject, must, same};
use crate::application::ports::{
    ChannelRepository as _, EntryRepository as _, NodeRecord, NodeRepository as _, PeerAddr, PeerRecord,
    PeerRepository as _, Residence, SnapshotRepository as _, WriteOp,
};
use crate::domain::channel::Admission;
use crate::domain::id::NodeId;
use crate::domain::time::Timestamp;

pub(super) async fn a_fresh_store_is_empty<X: StoreFixture>(mut subject: Subject<X>) {
    for _ in 0..2 {
        let store = &*subject.store;
        same("a fresh store", must("logs", "logs are read", store.logs().await), vec![], "logs");
        same(
            "a fresh store",
            must("channels", "channels are read", store.channels().await),
            vec![],
            "channels",
        );
        same("a fresh store", must("peers", "peers are read", store.peers().await), vec![], "peers");
        let node = must("node", "the node is read", store.node().await);
        same("a fresh store", node, NodeRecord::default(), "the node's record");
        let found = must("snapshot", "a snapshot is read", store.snapshot(&snapshot(1, 1, b"").0).await);
        same("a fresh store", found, None, "a snapshot");
        same("a fresh store", store.residence(), Residence::Same, "residence");
        subject.restart().await;
    }
}

pub(super) async fn channels<X: StoreFixture>(mut subject: Subject<X>) {
    let replaced = crate::domain::channel::ChannelRecord {
        label: "another".into(),
        admission: Admission::Open,
        seen: Timestamp::new(3, 9),
        ..channel_record(2)
    };
    let puts = [3, 1, 2].map(|no| WriteOp::PutChannel(channel_record(no)));
    subject.write(puts).await;
    subject.write([WriteOp::PutChannel(replaced.clone())]).await;
    let expected = vec![channel_record(1), replaced, channel_record(3)];
    for _ in 0..2 {
        let found = must("channels", "channels are read", subject.store.channels().await);
        same("PutChannel", found, expected.clone(), "channels by rising id, the second one replaced");
        subject.restart().await;
    }
}

pub(super) async fn seen_only_rises<X: StoreFixture>(mut subject: Subject<X>) {
    let (low, high) = (Timestamp::new(1, 5), Timestamp::new(1, 90));
    subject.write([WriteOp::PutChannel(channel_record(1))]).await;
    subject.write([WriteOp::SetSeen(channel(1), high)]).await;
    for late in [WriteOp::SetSeen(channel(1), low), WriteOp::PutChannel(channel_record(1))] {
        subject.write([late]).await;
        let found = must("channels", "channels are read", subject.store.channels().await);
        same("SetSeen only rises", found[0].seen, high, "seen");
        subject.restart().await;
    }
    subject.write([WriteOp::SetSeen(channel(1), Timestamp::new(2, 1))]).await;
    subject.restart().await;
    let found = must("channels", "channels are read", subject.store.channels().await);
    same("SetSeen", found[0].seen, Timestamp::new(2, 1), "seen");
}

pub(super) async fn peers<X: StoreFixture>(mut subject: Subject<X>) {
    let peer = |no: u8, addresses: &[&str]| PeerRecord {
        node: NodeId::from_bytes([no; 32]),
        label: format!("peer {no}"),
        addresses: addresses.iter().map(PeerAddr::new).collect(),
        incarnation: u64::from(no),
    };
    let first = [peer(9, &[]), peer(4, &["192.168.1.20:7700"]), peer(6, &["a", "b"])];
    subject.write(first.map(WriteOp::PutPeer)).await;
    let gone = NodeId::from_bytes([9; 32]);
    subject
        .write([WriteOp::PutPeer(peer(4, &["c"])), WriteOp::RemovePeer(gone), WriteOp::RemovePeer(AUTHOR)])
        .await;
    for _ in 0..2 {
        let found = must("peers", "peers are read", subject.store.peers().await);
        let expected = vec![peer(4, &["c"]), peer(6, &["a", "b"])];
        same("PutPeer and RemovePeer", found, expected, "peers by rising id, one replaced and one removed");
        subject.restart().await;
    }
}

pub(super) async fn node<X: StoreFixture>(mut subject: Subject<X>) {
    for incarnation in [1, 2, u64::MAX] {
        subject.write([WriteOp::PutNode(NodeRecord { incarnation })]).await;
        subject.restart().await;
        let found = must("node", "the node is read", subject.store.node().await);
        same("PutNode", found, NodeRecord { incarnation }, "the node's record");
    }
}

pub(super) async fn snapshots<X: StoreFixture>(mut subject: Subject<X>) {
    let (key, first) = snapshot(1, 1, b"first");
    let (_, second) = snapshot(1, 1, &[0xa5; 300_000]);
    let (other_key, other) = snapshot(1, 2, b"other version");
    subject.write([WriteOp::PutChannel(channel_record(1)), WriteOp::PutSnapshot(key.clone(), first)]).await;
    subject.write([WriteOp::PutSnapshot(other_key.clone(), other.clone())]).await;
    subject.write([WriteOp::PutSnapshot(key.clone(), second.clone())]).await;
    for _ in 0..2 {
        let found = must("snapshot", "a snapshot is read", subject.store.snapshot(&key).await);
        same("PutSnapshot", found == Some(second.clone()), true, "the state put last is found");
        let found = must("snapshot", "a snapshot is read", subject.store.snapshot(&other_key).await);
        same("PutSnapshot", found, Some(other.clone()), "the state of another version");
        subject.restart().await;
    }
    let unknown = snapshot(1, 77, b"").0;
    subject.write([WriteOp::RemoveSnapshot(key.clone()), WriteOp::RemoveSnapshot(unknown)]).await;
    for _ in 0..2 {
        let found = must("snapshot", "a snapshot is read", subject.store.snapshot(&key).await);
        same("RemoveSnapshot", found, None, "the state removed");
        let found = must("snapshot", "a snapshot is read", subject.store.snapshot(&other_key).await);
        same("RemoveSnapshot", found, Some(other.clone()), "the state of another version");
        subject.restart().await;
    }
}
