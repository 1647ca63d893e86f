//! What an application pays per append and per entry read, through the facade, on a memory store.

use std::future::Future;

use anabranch::{Coordinator, EventStream, MemoryStore, Query};
use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;

const ENTRIES: usize = 100_000;
const BATCH: usize = 1_000;
/// Bytes of payload: the size that the peers were measured with.
const PAYLOAD: usize = 100;

fn main() {
    divan::main();
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

/// A stream of a node whose driver nobody runs: the append lane does not need it.
fn stream() -> (EventStream, anabranch::Driver, Coordinator) {
    block_on(async {
        let store = MemoryStore::ephemeral().expect("the system has randomness");
        let (node, driver) = Coordinator::builder(store).build().await.expect("the defaults are sound");
        let stream = node.channel("bench").await.expect("open").stream("s").await.expect("open");
        (stream, driver, node)
    })
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn append_one_by_one(bencher: Bencher<'_, '_>) {
    let payload = Bytes::from(vec![7; PAYLOAD]);
    bencher.counter(ItemsCount::new(ENTRIES)).with_inputs(stream).bench_local_values(
        |(stream, driver, node)| {
            block_on(async {
                for _ in 0..ENTRIES {
                    stream.append(payload.clone()).await.expect("appended");
                }
            });
            (driver, node)
        },
    );
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn append_in_batches(bencher: Bencher<'_, '_>) {
    let payload = Bytes::from(vec![7; PAYLOAD]);
    bencher.counter(ItemsCount::new(ENTRIES)).with_inputs(stream).bench_local_values(
        |(stream, driver, node)| {
            block_on(async {
                for _ in 0..ENTRIES / BATCH {
                    let batch = std::iter::repeat_n(payload.clone(), BATCH);
                    stream.append_batch(batch).await.expect("appended");
                }
            });
            (driver, node)
        },
    );
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn scan_in_order(bencher: Bencher<'_, '_>) {
    let (stream, _driver, _node) = stream();
    let payload = Bytes::from(vec![7; PAYLOAD]);
    block_on(async {
        for _ in 0..ENTRIES / BATCH {
            stream.append_batch(std::iter::repeat_n(payload.clone(), BATCH)).await.expect("appended");
        }
    });
    bencher.counter(ItemsCount::new(ENTRIES)).bench_local(|| {
        block_on(async {
            let mut entries = stream.entries(Query::all());
            let mut bytes = 0;
            while let Some(entry) = entries.next().await {
                bytes += entry.expect("read").payload().len();
            }
            bytes
        })
    });
}
