//! The shipped store and the shipped transport together, as an application uses them: through the facade only.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::time::Duration;

use anabranch::{
    AppendError, ChannelSpec, Coordinator, EventStream, LogEntry, NodeError, NodeId, Query, StoreError,
};
use anabranch_sled::SledStore;
use anabranch_tcp::TcpPort;

/// How long two devices may take to agree: far above what an idle machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node on a sled store, reachable over TCP on loopback.
struct Device {
    node: Coordinator,
    stream: EventStream,
    address: String,
}

async fn open(path: &Path) -> Device {
    let port = TcpPort::bind("127.0.0.1:0").await.unwrap();
    let address = port.local_addr().unwrap().to_string();
    let store = SledStore::open(path).await.unwrap();
    let node = Coordinator::builder(store).port(port).start().await.unwrap();
    let notes = ChannelSpec::secret("notes", b"correct horse battery staple").unwrap();
    let stream = node.channel(notes).await.unwrap().stream("today").await.unwrap();
    Device { node, stream, address }
}

impl Device {
    async fn admit(&self, member: NodeId) {
        let notes = ChannelSpec::secret("notes", b"correct horse battery staple").unwrap();
        self.node.channel(notes).await.unwrap().add_member(member).await.unwrap();
    }

    async fn write(&self, prefix: &str, count: usize) {
        self.stream.append_batch((0..count).map(|n| format!("{prefix} {n}"))).await.unwrap();
    }

    async fn entries(&self) -> Vec<LogEntry> {
        self.stream.entries(Query::all()).collect().await.unwrap()
    }
}

#[allow(clippy::disallowed_methods, reason = "two devices on real sockets run in real time")]
async fn nap() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Waits until both hold `count` entries, and checks that they show them alike.
async fn agree(ana: &Device, ben: &Device, count: usize) -> Vec<LogEntry> {
    let all_there = async {
        while ana.stream.version() != ben.stream.version() || ana.stream.len() != count as u64 {
            nap().await;
        }
    };
    tokio::time::timeout(PATIENCE, all_there).await.expect("the two agree");
    let (here, there) = (ana.entries().await, ben.entries().await);
    assert_eq!(here.len(), count);
    assert!(here == there && here.is_sorted(), "the same entries in another order");
    here
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_two_devices_on_sled_agree_over_tcp_and_hold_the_same_when_they_are_opened_again() {
    let place = tempfile::TempDir::new().unwrap();
    let paths = [place.path().join("ana"), place.path().join("ben")];
    let (ana, ben) = (open(&paths[0]).await, open(&paths[1]).await);
    ana.admit(ben.node.node()).await;
    ben.admit(ana.node.node()).await;
    // Apart, each for itself; then together, while both go on.
    ana.write("ana apart", 700).await;
    ben.write("ben apart", 300).await;
    assert_eq!(ana.node.meet(ben.address.as_str()).await.unwrap(), ben.node.node());
    ana.write("ana together", 10).await;
    ben.write("ben together", 10).await;
    let before = agree(&ana, &ben, 1020).await;
    let nodes = [ana.node.node(), ben.node.node()];

    // The store is taken as long as its node lives, and free when it was closed, handles or not.
    assert!(matches!(SledStore::open(&paths[0]).await, Err(StoreError::InUse(_))));
    ana.node.close().await.unwrap();
    ben.node.close().await.unwrap();
    assert!(matches!(ana.stream.append("too late").await, Err(AppendError::Unchanged(_))));
    assert!(matches!(ana.node.channel("notes").await, Err(NodeError::Closed)));

    let (ana, ben) = (open(&paths[0]).await, open(&paths[1]).await);
    assert_eq!([ana.node.node(), ben.node.node()], nodes);
    assert!(agree(&ana, &ben, 1020).await == before, "what was closed is what is opened");
    ana.write("ana again", 5).await;
    ben.node.meet(ana.address.as_str()).await.unwrap();
    let after = agree(&ana, &ben, 1025).await;
    assert!(before.iter().all(|entry| after.binary_search(entry).is_ok()), "nothing went away");
    ana.node.close().await.unwrap();
    ben.node.close().await.unwrap();
}
