//! When room or time is short: full disks, slow disks, quotas, large payloads, callers who do not wait.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use anabranch::application::ports::StoreUsage;
use anabranch::domain::head::Head;
use anabranch::infrastructure::packed::{Backing, Changes, MapBacking, PackedStore};
use anabranch::infrastructure::threaded_store::ThreadedStore;
use anabranch::{
    Channel, Coordinator, EntryHash, Fault, Identity, MemoryNetwork, NodeError, Refusal, StoreError,
    Timestamp, Tip,
};
use bytes::Bytes;
use common::mallory::{Mallory, key, run};
use common::{Device, converge, devices, eventually, next_where, quick, write};
use futures::FutureExt as _;

/// How the disk behaves.
#[derive(Default)]
struct Knobs {
    /// Writes that it is too full for, from now on.
    full: AtomicU64,
    /// Milliseconds that each write takes.
    millis: AtomicU64,
}

/// A disk that can be made full or slow.
struct Disk(MapBacking, Arc<Knobs>);

impl Backing for Disk {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.0.get(key)
    }

    fn scan(
        &self,
        range: Range<&[u8]>,
        backward: bool,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.0.scan(range, backward, visit)
    }

    #[allow(clippy::disallowed_methods, reason = "a slow disk takes real time")]
    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        std::thread::sleep(Duration::from_millis(self.1.millis.load(Ordering::SeqCst)));
        if self.1.full.load(Ordering::SeqCst) > 0 {
            self.1.full.fetch_sub(1, Ordering::SeqCst);
            return Err(StoreError::Full);
        }
        self.0.apply(changes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.0.sync()
    }

    fn usage(&self) -> StoreUsage {
        self.0.usage()
    }
}

/// A node on such a disk, in the network as "ana", and the disk's knobs.
async fn on_disk(network: &MemoryNetwork) -> (Coordinator, Arc<Knobs>) {
    let knobs = Arc::new(Knobs::default());
    let inner = Arc::clone(&knobs);
    let open =
        move || PackedStore::open(Disk(MapBacking::new(4096), inner), [5; 32], &Bytes::from_static(b"here"));
    let store = ThreadedStore::open("disk", open).await.unwrap();
    let node = Coordinator::builder(store).config(quick()).port(network.port("ana")).start().await.unwrap();
    (node, knobs)
}

/// Somebody whom "notes" of `node` admits, in a session with it.
async fn member(network: &MemoryNetwork, node: &Coordinator) -> (Channel, Mallory) {
    let identity = Identity::from_secret([3; 32]);
    let channel = node.channel("notes").await.unwrap();
    channel.add_member(identity.node()).await.unwrap();
    let mut peer = Mallory::connect(network, identity, "ana").await;
    peer.share(&channel.id());
    (channel, peer)
}

/// Sends entries after `after` of the peer's own log, properly signed.
fn say(peer: &mut Mallory, channel: &Channel, stream: &str, after: Tip, entries: &[(Timestamp, &str)]) {
    let signer = peer.identity.clone();
    let log = key(&channel.id(), stream, signer.node());
    let run = run(log, after, entries);
    peer.run(stream, signer.node(), &run, &[Head::sign(&log, run.tip(), &signer)]);
}

/// As many entries, a second apart.
fn entries(count: u64) -> Vec<(Timestamp, &'static str)> {
    (1..=count).map(|n| (Timestamp::new(0, n << 32), "entry")).collect()
}

#[tokio::test]
async fn i6_runs_with_a_gap_make_no_streams() {
    let network = MemoryNetwork::new();
    let mut config = quick();
    config.max_logs = 8;
    let ana = Device::with(&network, "ana", config).await;
    let (channel, mut peer) = member(&network, &ana).await;
    let nowhere = Tip { sequence: 5, hash: EntryHash::from_bytes([9; 32]) };
    for n in 0..300 {
        say(&mut peer, &channel, &format!("phantom{n}"), nowhere, &entries(1));
        if n % 20 == 0 {
            peer.done().await;
        }
    }
    peer.done().await;
    assert_eq!(channel.streams().len(), 0);
}

#[tokio::test]
async fn i9_a_refused_first_run_of_a_log_is_reported() {
    let network = MemoryNetwork::new();
    let ana = Device::new(&network, "ana").await;
    let mut faults = ana.errors();
    let (channel, mut peer) = member(&network, &ana).await;
    // It passes the end of a block, which nobody signed.
    say(&mut peer, &channel, "fresh", Tip::START, &entries(300));
    peer.done().await;
    let refused = |fault: &Fault| matches!(fault, Fault::RunRefused { reason: Refusal::UnsignedBlock, .. });
    next_where(&mut faults, "a report", refused).await;
    assert_eq!(ana.metrics().runs_refused, 1);
}

/// Whoever wakes this waits until a store on a thread of its own has surely settled what it was handed before.
struct WokenLate;

impl std::task::Wake for WokenLate {
    #[allow(clippy::disallowed_methods, reason = "the store's thread runs in real time")]
    fn wake(self: Arc<Self>) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn what_an_append_returned_for_is_read_even_if_the_store_settled_it_while_it_was_handed_over() {
    let open = || PackedStore::open(MapBacking::new(4096), [5; 32], &Bytes::from_static(b"here"));
    let store = ThreadedStore::open("memory", open).await.unwrap();
    let (node, mut driver) = Coordinator::builder(store).build().await.unwrap();
    let stream = async { node.channel("notes").await.unwrap().stream("today").await.unwrap() };
    let stream = tokio::select! {
        stream = stream => stream,
        () = &mut driver => unreachable!("nobody closed the node"),
    };
    // An append wakes the driver once it is handed to the store, before it looks what became of it.
    let waker = Waker::from(Arc::new(WokenLate));
    for appended in 1..=5 {
        assert!(driver.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
        stream.append(format!("{appended}")).await.unwrap();
        assert_eq!(stream.len(), appended);
    }
}

#[tokio::test]
async fn a_stream_whose_creation_met_a_full_disk_works_when_there_is_room() {
    let (node, knobs) = on_disk(&MemoryNetwork::new()).await;
    let channel = node.channel("notes").await.unwrap();
    knobs.full.store(1, Ordering::SeqCst);
    assert!(matches!(channel.stream("today").await, Err(NodeError::Store(StoreError::Full))));
    let stream = channel.stream("today").await.unwrap();
    stream.append("there is room").await.unwrap();
}

#[tokio::test]
async fn i9_a_member_that_a_full_disk_did_not_take_is_not_admitted_and_the_channel_goes_on() {
    let network = MemoryNetwork::new();
    let (ana, knobs) = on_disk(&network).await;
    let ben = Device::new(&network, "ben").await;
    let channel = ana.channel("notes").await.unwrap();
    channel.add_member(ben.node()).await.unwrap();
    let stranger = Identity::from_secret([3; 32]).node();
    let before = channel.admission();
    knobs.full.store(1, Ordering::SeqCst);
    assert!(matches!(channel.add_member(stranger).await, Err(NodeError::Store(StoreError::Full))));
    assert_eq!(channel.admission(), before, "what an error was returned for did not happen");
    // There is room again: logs that are new here are taken, though nobody tried to admit the stranger again.
    let theirs = ben.today([ana.node()]).await;
    write(&theirs, "a", 3).await;
    ana.meet("ben").await.unwrap();
    let ours = channel.stream("today").await.unwrap();
    converge(&[ours, theirs]).await;
    channel.add_member(stranger).await.unwrap();
    assert!(channel.admission().admits(&stranger));
}

#[tokio::test]
async fn i7_a_log_whose_first_merge_met_a_full_disk_comes_when_there_is_room() {
    let network = MemoryNetwork::new();
    let (ana, knobs) = on_disk(&network).await;
    let ben = Device::new(&network, "ben").await;
    let channel = ana.channel("notes").await.unwrap();
    channel.add_member(ben.node()).await.unwrap();
    let first = channel.stream("today").await.unwrap();
    let theirs = ben.today([ana.node()]).await;
    write(&theirs, "a", 3).await;
    ana.meet("ben").await.unwrap();
    converge(&[first, theirs]).await;
    let second = ben.channel("notes").await.unwrap().stream("second").await.unwrap();
    // The merge is the first write that meets the full disk, or one of its neighbours is.
    knobs.full.store(1, Ordering::SeqCst);
    second.append("b").await.unwrap();
    eventually("a write that met the full disk", async || knobs.full.load(Ordering::SeqCst) == 0).await;
    eventually("the entry", async || {
        channel.streams().iter().any(|stream| stream.id().as_str() == "second" && stream.len() == 1)
    })
    .await;
}

#[tokio::test]
async fn i3_a_run_that_repeats_entries_still_being_written_starts_no_second_line() {
    let network = MemoryNetwork::new();
    let (node, knobs) = on_disk(&network).await;
    let (channel, mut peer) = member(&network, &node).await;
    let (stream, author) = (channel.stream("today").await.unwrap(), peer.identity.node());
    let log = key(&channel.id(), "today", author);
    let entries = entries(10);
    let tip = |count: usize| match count {
        0 => Tip::START,
        _ => run(log, Tip::START, &entries[..count]).tip(),
    };
    // Several frames arrive while one write is under way.
    knobs.millis.store(60, Ordering::SeqCst);
    say(&mut peer, &channel, "today", tip(0), &entries[..4]);
    peer.done().await;
    say(&mut peer, &channel, "today", tip(4), &entries[4..8]);
    say(&mut peer, &channel, "today", tip(2), &entries[2..]);
    peer.done().await;
    assert_eq!(stream.version().tips(&author), [tip(10)]);
    assert_eq!((node.metrics().forks, stream.len()), (0, 10));
    node.close().await.unwrap();
}

#[tokio::test]
async fn nobody_can_be_left_out_of_an_open_channel() {
    let ana = Device::new(&MemoryNetwork::new(), "ana").await;
    let channel = ana.channel("notes").await.unwrap();
    channel.open_to_all().await.unwrap();
    let removed = channel.remove_member(&Identity::from_secret([3; 32]).node()).await;
    assert!(matches!(removed, Err(NodeError::OpenChannel)));
}

#[tokio::test]
async fn a_member_is_served_even_if_nobody_waited_for_its_admission() {
    let network = MemoryNetwork::new();
    let (ana, knobs) = on_disk(&network).await;
    let ben = Device::new(&network, "ben").await;
    let channel = ana.channel("notes").await.unwrap();
    channel.stream("today").await.unwrap().append("x").await.unwrap();
    let there = ben.today([ana.node()]).await;
    knobs.millis.store(200, Ordering::SeqCst);
    let given_up = tokio::time::timeout(Duration::from_millis(20), channel.add_member(ben.node())).await;
    assert!(given_up.is_err(), "the disk was not slow enough");
    ana.meet("ben").await.unwrap();
    knobs.millis.store(0, Ordering::SeqCst);
    eventually("the entry", async || there.len() == 1).await;
}

#[tokio::test]
async fn i7_large_payloads_in_several_streams_arrive() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let channel = ana.channel("notes").await.unwrap();
    channel.add_member(ben.node()).await.unwrap();
    for n in 0..5u8 {
        let stream = channel.stream(format!("big{n}").as_str()).await.unwrap();
        stream.append(vec![n; 12 << 20]).await.unwrap();
    }
    ben.channel("notes").await.unwrap().add_member(ana.node()).await.unwrap();
    ana.meet_device(&ben).await;
    eventually("all five", async || ben.resource_usage().entries == 5).await;
}
