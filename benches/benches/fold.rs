//! What a late entry costs a materialized state: in proportion to its lateness, flat in the length of the stream.
//!
//! A stream of the own node's entries is folded; then one entry of another author is merged whose stamp makes it
//! late by so many entries, and the measured call is the `get` that folds it in: reading from the memory store,
//! rewinding, folding again. The state is small, so the folds are what is seen.

use std::cell::Cell;

use anabranch::{
    Coordinator, EventStream, FoldError, Identity, LogEntry, MemoryStore, Query, StateHandle,
    StateMaterializer, Timestamp,
};
use divan::Bencher;
use divan::counter::ItemsCount;
use futures::executor::block_on;

/// Payload of an entry, in bytes: the size for which the targets are stated.
const PAYLOAD: [u8; 100] = [0x5a; 100];
/// Entries of a batch while the stream is made.
const BATCH: usize = 1_000;
/// Length of the stream for which lateness is varied: as in the targets.
const LONG: usize = 1_000_000;
/// Lateness for which the length is varied.
const LATE: usize = 1_000;
/// Late entries per figure; each is another author's, and so another line to read.
const SAMPLES: u32 = 30;

fn main() {
    divan::main();
}

/// Counts entries and mixes their hashes, so that the order matters.
struct Mix;

impl StateMaterializer for Mix {
    const NAME: &'static str = "mix";
    const VERSION: u32 = 1;
    type State = (u64, u64);

    fn initial(&self) -> (u64, u64) {
        (0, 0)
    }

    fn fold(&self, (count, mix): &mut (u64, u64), entry: &LogEntry) -> Result<(), FoldError> {
        *count += 1;
        let head = entry.hash().as_bytes()[..8].try_into()?;
        *mix = mix.rotate_left(5) ^ u64::from_le_bytes(head);
        Ok(())
    }
}

struct Device {
    _node: Coordinator,
    stream: EventStream,
    state: StateHandle<Mix>,
    stamps: Vec<Timestamp>,
    authors: Cell<u32>,
}

impl Device {
    fn with(entries: usize) -> Self {
        block_on(async {
            let store = MemoryStore::new(Identity::from_secret([1; 32]));
            // Never polled: nothing here needs the network.
            let (node, _driver) = Coordinator::builder(store).build().await.expect("a memory store opens");
            let stream =
                node.channel("bench").await.expect("a short name").stream("late").await.expect("likewise");
            for _ in 0..entries / BATCH {
                stream.append_batch([&PAYLOAD[..]; BATCH]).await.expect("memory takes it");
            }
            let mut all = stream.entries(Query::all());
            let mut stamps = Vec::with_capacity(entries);
            while let Some(entry) = all.next().await {
                stamps.push(entry.expect("memory reads").timestamp());
            }
            let state = stream.materialize(Mix).await.expect("nothing is saved");
            state.get().await.expect("the fold refuses nothing");
            Self { _node: node, stream, state, stamps, authors: Cell::new(0) }
        })
    }

    /// Merges an entry that sorts before the last `lateness` of the own ones.
    fn arrive(&self, lateness: usize) {
        let author = self.authors.get() + 1;
        self.authors.set(author);
        let mut secret = [2; 32];
        secret[..4].copy_from_slice(&author.to_le_bytes());
        let stamp = self.stamps[self.stamps.len() - lateness - 1];
        let taken = block_on(self.stream.arrive(&Identity::from_secret(secret), stamp, &PAYLOAD));
        assert!(taken, "a first entry is always taken");
    }

    fn fold(&self) -> u64 {
        block_on(self.state.get()).expect("the fold refuses nothing").0
    }
}

fn late(bencher: Bencher<'_, '_>, length: usize, lateness: usize) {
    let device = Device::with(length);
    bencher
        .counter(ItemsCount::new(lateness))
        .with_inputs(|| device.arrive(lateness))
        .bench_local_values(|()| device.fold());
    assert_eq!(
        device.fold(),
        length as u64 + u64::from(device.authors.get()),
        "each entry is in the state once"
    );
}

#[divan::bench(args = [1, 10, 100, 1_000, 10_000, 100_000], sample_count = SAMPLES, sample_size = 1)]
fn by_lateness(bencher: Bencher<'_, '_>, lateness: usize) {
    late(bencher, LONG, lateness);
}

#[divan::bench(args = [10_000, 100_000, 1_000_000], sample_count = SAMPLES, sample_size = 1)]
fn by_length(bencher: Bencher<'_, '_>, length: usize) {
    late(bencher, length, LATE);
}

/// The same fold of a whole stream in order, for comparison: the time per entry is what lateness multiplies.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn in_order(bencher: Bencher<'_, '_>) {
    let device = Device::with(LONG);
    bencher
        .counter(ItemsCount::new(LONG))
        .with_inputs(|| block_on(device.stream.materialize(Mix)).expect("nothing is saved"))
        .bench_local_values(|state| block_on(state.get()).expect("the fold refuses nothing").0);
}
