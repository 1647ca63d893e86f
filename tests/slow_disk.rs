//! A disk that takes its time: what was submitted and is not yet written counts as held.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::ops::{ControlFlow, Range};
use std::time::Duration;

use anabranch::application::ports::StoreUsage;
use anabranch::domain::head::Head;
use anabranch::infrastructure::packed::{Backing, Changes, MapBacking, PackedStore};
use anabranch::infrastructure::threaded_store::ThreadedStore;
use anabranch::{Coordinator, Identity, MemoryNetwork, StoreError, Timestamp, Tip};
use bytes::Bytes;
use common::mallory::{Mallory, key, run};
use common::quick;

/// How long each write takes: several frames arrive meanwhile.
const WRITE_TIME: Duration = Duration::from_millis(60);

struct SlowDisk(MapBacking);

impl Backing for SlowDisk {
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
        std::thread::sleep(WRITE_TIME);
        self.0.apply(changes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.0.sync()
    }

    fn usage(&self) -> StoreUsage {
        self.0.usage()
    }
}

#[tokio::test]
async fn i3_a_run_that_repeats_entries_still_being_written_starts_no_second_line() {
    let open = || PackedStore::open(SlowDisk(MapBacking::new(4096)), [5; 32], &Bytes::from_static(b"here"));
    let store = ThreadedStore::open("slow", open).await.unwrap();
    let network = MemoryNetwork::new();
    let node = Coordinator::builder(store).port(network.port("ana")).config(quick()).start().await.unwrap();
    let (author, signer) = {
        let identity = Identity::from_secret([3; 32]);
        (identity.node(), identity)
    };
    let channel = node.channel("notes").await.unwrap();
    channel.add_member(author).await.unwrap();
    let stream = channel.stream("today").await.unwrap();
    let mut peer = Mallory::connect(&network, signer.clone(), "ana").await;
    peer.share(&channel.id());
    let log = key(&channel.id(), "today", author);
    let entries: Vec<_> = (1..=10u64).map(|n| (Timestamp::new(0, n << 32), "entry")).collect();
    let tips: Vec<Tip> = std::iter::once(Tip::START)
        .chain((1..=10).map(|n| run(log, Tip::START, &entries[..n]).tip()))
        .collect();
    let say = |peer: &mut Mallory, from: usize, to: usize| {
        let part = run(log, tips[from - 1], &entries[from - 1..to]);
        peer.run("today", author, &part, &[Head::sign(&log, part.tip(), &signer)]);
    };
    say(&mut peer, 1, 4);
    peer.done().await;
    // The second of them comes while the first is on its way to the disk.
    say(&mut peer, 5, 8);
    say(&mut peer, 3, 10);
    peer.done().await;
    assert_eq!(stream.version().tips(&author), [tips[10]]);
    assert_eq!((node.metrics().forks, stream.len()), (0, 10));
    node.close().await.unwrap();
}
