//! Many threads at one node over a store in a directory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../../tests/common/threads.rs"]
mod threads;

use std::sync::Barrier;
use std::time::Duration;

use anabranch::{Durability, Store as _, StoreError};
use anabranch_sled::SledStore;
use futures::executor::block_on;
use threads::everything_at_once;

/// How long all of it may take: far above what an idle machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_many_threads_append_is_read_at_once_in_full_and_only_once() {
    let path = std::env::temp_dir().join(format!("anabranch-threads-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    everything_at_once(async || SledStore::open(&path).await.unwrap(), Durability::Immediate).await;
    std::fs::remove_dir_all(&path).unwrap();
}

#[test]
fn of_those_who_make_a_store_in_one_place_at_once_one_gets_it_and_the_others_hear_that_it_is_in_use() {
    let path = std::env::temp_dir().join(format!("anabranch-made-at-once-{}", std::process::id()));
    for _ in 0..30 {
        let _ = std::fs::remove_dir_all(&path);
        let together = Barrier::new(3);
        let open = || {
            together.wait();
            let opened = block_on(SledStore::open(&path));
            together.wait();
            match opened {
                Ok(store) => block_on(store.close()).map(|()| true),
                Err(StoreError::InUse(_)) => Ok(false),
                Err(other) => Err(other),
            }
        };
        let outcomes = std::thread::scope(|scope| {
            let threads = [(); 3].map(|()| scope.spawn(open));
            threads.map(|thread| thread.join().unwrap().unwrap())
        });
        assert_eq!(outcomes.iter().filter(|is_ours| **is_ours).count(), 1);
    }
    std::fs::remove_dir_all(&path).unwrap();
}
