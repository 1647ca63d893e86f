//! What a late entry costs a materialized state, against its lateness and against the length of the stream.
//!
//! A stream of the own node's entries is folded; then entries of other authors are merged one by one whose stamps make
//! them late by so many entries. What is measured is the `get` that folds each in: reading from the store, rewinding,
//! folding again.

use anabranch::{
    Coordinator, EventStream, FoldError, Identity, LogEntry, MemoryStore, Query, StateHandle,
    StateMaterializer, Timestamp,
};
use futures::executor::block_on;

use crate::measure::{Clocks, quantile};
use crate::nodes::{Outcome, PAYLOAD};
use crate::options::Options;
use crate::row::{Measures, Row};

/// Late entries per figure; each is another author's, and so another line to read.
const SAMPLES: usize = 30;
/// Entries of a batch while the stream is made.
const BATCH: usize = 1_000;

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
    _node: (Coordinator, anabranch::Driver),
    stream: EventStream,
    state: StateHandle<Mix>,
    stamps: Vec<Timestamp>,
    authors: u32,
}

pub(crate) fn run(options: &Options) -> Outcome<()> {
    for entries in &options.entries {
        for lateness in options.lateness.iter().filter(|lateness| *lateness < entries) {
            let mut device = block_on(Device::with(*entries))?;
            let mut each = Vec::new();
            for _ in 0..SAMPLES {
                block_on(device.arrive(*lateness))?;
                let clocks = Clocks::now();
                block_on(device.state.get())?;
                each.push(clocks.elapsed().1);
            }
            let total: f64 = each.iter().sum();
            let (median, p90) = (quantile(&mut each, 0.5), quantile(&mut each, 0.9));
            let measures = Measures {
                entries: *entries as u64,
                cpu_seconds: total / SAMPLES as f64,
                ..Measures::default()
            };
            Row::new("late")
                .measures(&measures)
                .count("lateness", *lateness as u64)
                .count("samples", SAMPLES as u64)
                .figure("median_us", median * 1e6, 1)
                .figure("p90_us", p90 * 1e6, 1)
                .figure("ns_per_entry_of_lateness", median * 1e9 / *lateness as f64, 1)
                .print(options.json);
        }
        let device = block_on(Device::with(*entries))?;
        let whole = block_on(device.stream.materialize(Mix))?;
        let clocks = Clocks::now();
        block_on(whole.get())?;
        let (_, cpu) = clocks.elapsed();
        let measures = Measures { entries: *entries as u64, cpu_seconds: cpu, ..Measures::default() };
        Row::new("late").measures(&measures).text("what", "whole stream in order").print(options.json);
    }
    Ok(())
}

impl Device {
    async fn with(entries: usize) -> Outcome<Self> {
        let store = MemoryStore::new(Identity::from_secret([1; 32]));
        // The driver is never polled: nothing here needs the network.
        let (node, driver) = Coordinator::builder(store).build().await?;
        let stream = node.channel("bench").await?.stream("late").await?;
        let mut left = entries;
        while left > 0 {
            let batch = left.min(BATCH);
            stream.append_batch((0..batch).map(|_| vec![0x5a; PAYLOAD])).await?;
            left -= batch;
        }
        let mut all = stream.entries(Query::all());
        let mut stamps = Vec::with_capacity(entries);
        while let Some(entry) = all.next().await {
            stamps.push(entry?.timestamp());
        }
        let state = stream.materialize(Mix).await?;
        state.get().await?;
        Ok(Self { _node: (node, driver), stream, state, stamps, authors: 0 })
    }

    /// Merges an entry that sorts before the last `lateness` of the own ones.
    async fn arrive(&mut self, lateness: usize) -> Outcome<()> {
        self.authors += 1;
        let mut secret = [2; 32];
        secret[..4].copy_from_slice(&self.authors.to_le_bytes());
        let stamp = self.stamps[self.stamps.len() - lateness - 1];
        let taken = self.stream.arrive(&Identity::from_secret(secret), stamp, &[0x5a; PAYLOAD]).await;
        if taken { Ok(()) } else { Err("a late entry was not taken".into()) }
    }
}
