//! When room is short: full disks, quotas, large payloads, callers who do not wait.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch::application::ports::StoreUsage;
use anabranch::domain::head::Head;
use anabranch::infrastructure::packed::{Backing, Changes, MapBacking, PackedStore};
use anabranch::infrastructure::threaded_store::ThreadedStore;
use anabranch::{Coordinator, EntryHash, Identity, MemoryNetwork, NodeError, StoreError, Timestamp, Tip};
use bytes::Bytes;
use common::mallory::{Mallory, key, run};
use common::*;
use futures::{FutureExt as _, StreamExt as _};

/// A disk that can be made full or slow.
#[derive(Default)]
struct Knobs {
    full: AtomicU64,
    millis: AtomicU64,
}
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
async fn disk(secret: u8) -> (ThreadedStore<Disk>, Arc<Knobs>) {
    let knobs = Arc::new(Knobs::default());
    let inner = Arc::clone(&knobs);
    let open = move || {
        PackedStore::open(Disk(MapBacking::new(4096), inner), [secret; 32], &Bytes::from_static(b"here"))
    };
    (ThreadedStore::open("disk", open).await.unwrap(), knobs)
}

#[tokio::test]
async fn i6_runs_with_a_gap_make_no_streams() {
    let network = MemoryNetwork::new();
    let mut config = quick();
    config.max_logs = 8;
    let ana = Device::with(&network, "ana", config).await;
    let id = Identity::from_secret([3; 32]);
    let _ = ana.today([id.node()]).await;
    let channel = ana.channel("notes").await.unwrap();
    let mut m = Mallory::connect(&network, id.clone(), "ana").await;
    m.share(&channel.id());
    for n in 0..300 {
        let name = format!("phantom{n}");
        let k = key(&channel.id(), &name, id.node());
        let r = run(
            k,
            Tip { sequence: 5, hash: EntryHash::from_bytes([9; 32]) },
            &[(Timestamp::new(0, 1 << 32), "x")],
        );
        m.run(&name, id.node(), &r, &[Head::sign(&k, r.tip(), &id)]);
        if n % 20 == 0 {
            m.done().await;
        }
    }
    m.done().await;
    assert!(channel.streams().len() <= 9);
}

#[tokio::test]
async fn i9_a_refused_first_run_of_a_log_is_reported() {
    let network = MemoryNetwork::new();
    let ana = Device::new(&network, "ana").await;
    let id = Identity::from_secret([3; 32]);
    let _ = ana.today([id.node()]).await;
    let channel = ana.channel("notes").await.unwrap();
    let mut faults = ana.errors();
    let mut m = Mallory::connect(&network, id.clone(), "ana").await;
    m.share(&channel.id());
    let entries: Vec<_> = (1..=300u64).map(|n| (Timestamp::new(0, n << 32), "entry")).collect();
    let k = key(&channel.id(), "fresh", id.node());
    let r = run(k, Tip::START, &entries);
    m.run("fresh", id.node(), &r, &[Head::sign(&k, r.tip(), &id)]);
    m.done().await;
    nap().await;
    let f = faults.next().now_or_never();
    assert!(ana.metrics().runs_refused >= 1 && f.is_some());
}

#[tokio::test]
async fn a_stream_whose_creation_met_a_full_disk_works_when_there_is_room() {
    let (store, knobs) = disk(5).await;
    let node = Coordinator::builder(store).config(quick()).start().await.unwrap();
    let channel = node.channel("notes").await.unwrap();
    knobs.full.store(1, Ordering::SeqCst);
    assert!(channel.stream("today").await.is_err());
    knobs.full.store(0, Ordering::SeqCst);
    let s = channel.stream("today").await.unwrap();
    s.append("x").await.unwrap();
}

#[tokio::test]
async fn i7_a_log_whose_first_merge_met_a_full_disk_comes_when_there_is_room() {
    let (store, knobs) = disk(5).await;
    let network = MemoryNetwork::new();
    let ana = Coordinator::builder(store).config(quick()).port(network.port("ana")).start().await.unwrap();
    let ben = Device::new(&network, "ben").await;
    let channel = ana.channel("notes").await.unwrap();
    channel.add_member(ben.node()).await.unwrap();
    let s = channel.stream("today").await.unwrap();
    let theirs = ben.today([ana.node()]).await;
    write(&theirs, "a", 3).await;
    ana.meet("ben").await.unwrap();
    // the merge is the first write that meets the full disk, whichever it is
    knobs.full.store(0, Ordering::SeqCst);
    converge(&[s.clone(), theirs.clone()]).await;
    let second = ben.channel("notes").await.unwrap().stream("second").await.unwrap();
    knobs.full.store(1, Ordering::SeqCst);
    second.append("b").await.unwrap();
    for _ in 0..1000 {
        nap().await;
        if knobs.full.load(Ordering::SeqCst) == 0 {
            break;
        }
    }
    knobs.full.store(0, Ordering::SeqCst);
    let mut got = 0;
    for _ in 0..1500 {
        nap().await;
        got = channel.streams().iter().find(|x| x.id().as_str() == "second").map_or(0, |x| x.len());
        if got > 0 {
            break;
        }
    }
    assert!(got > 0);
}

#[tokio::test]
async fn nobody_can_be_left_out_of_an_open_channel() {
    let network = MemoryNetwork::new();
    let ana = Device::new(&network, "ana").await;
    let channel = ana.channel("notes").await.unwrap();
    channel.open_to_all().await.unwrap();
    let bad = Identity::from_secret([3; 32]).node();
    let r = channel.remove_member(&bad).await;
    assert!(matches!(r, Err(NodeError::OpenChannel)));
}

#[tokio::test]
async fn a_member_is_served_even_if_nobody_waited_for_its_admission() {
    let (store, knobs) = disk(6).await;
    let network = MemoryNetwork::new();
    let ana = Coordinator::builder(store).config(quick()).port(network.port("ana")).start().await.unwrap();
    let ben = Device::new(&network, "ben").await;
    let channel = ana.channel("notes").await.unwrap();
    let s = channel.stream("today").await.unwrap();
    s.append("x").await.unwrap();
    let there = ben.today([ana.node()]).await;
    knobs.millis.store(200, Ordering::SeqCst);
    let _ = tokio::time::timeout(Duration::from_millis(20), channel.add_member(ben.node())).await;
    ana.meet("ben").await.unwrap();
    knobs.millis.store(0, Ordering::SeqCst);
    for _ in 0..1000 {
        nap().await;
        if !there.is_empty() {
            break;
        }
    }
    assert_eq!(there.len(), 1);
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
    for _ in 0..20_000 {
        nap().await;
        if ben.resource_usage().entries == 5 {
            return;
        }
    }
    panic!("{} of 5 arrived", ben.resource_usage().entries);
}
