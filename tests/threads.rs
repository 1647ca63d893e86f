//! Many threads at one node, over stores with threads of their own: what the simulator, with its one thread, cannot see.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
#[path = "common/threads.rs"]
mod threads;

use std::time::Duration;

use anabranch::Durability;
use anabranch::infrastructure::packed::{MapBacking, PackedStore};
use anabranch::infrastructure::threaded_store::ThreadedStore;
use bytes::Bytes;
use common::PATIENCE;
use threads::everything_at_once;

/// Opens the store on `disk`.
async fn packed(disk: &MapBacking) -> ThreadedStore<MapBacking> {
    let disk = disk.clone();
    let open = move || PackedStore::open(disk, [5; 32], &Bytes::from_static(b"here"));
    ThreadedStore::open("memory", open).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_many_threads_append_is_read_at_once_in_full_and_only_once() {
    let disk = MapBacking::new(4096);
    everything_at_once(async || packed(&disk).await, Durability::Immediate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_many_threads_append_is_read_at_once_though_it_is_synced_later() {
    let disk = MapBacking::new(4096);
    everything_at_once(async || packed(&disk).await, Durability::Interval(Duration::from_millis(5))).await;
}
