//! One node fetches everything that another holds.
//!
//! Twice: first as fast as it goes, which gives CPU, bytes and memory; then, on the memory port, by another node over
//! a link of some delay, whose extra time gives the round trips. Memory is looked at every millisecond: what is
//! allocated beyond what was before, less what the reader's store holds by then.

use std::time::Duration;

use crate::measure::{Clocks, allocated, load};
use crate::nodes::{Device, Outcome, PAYLOAD, World, library, pause, until};
use crate::options::{Options, Port, Store};
use crate::row::{Measures, Row, mb};

/// One way, in the pass that counts round trips: much above what anything else takes.
const DELAY: Duration = Duration::from_millis(100);

pub(crate) async fn run(options: &Options) -> Outcome<()> {
    for entries in &options.entries {
        for streams in &options.streams {
            once(options, *entries, *streams).await?;
        }
    }
    Ok(())
}

async fn once(options: &Options, entries: usize, streams: usize) -> Outcome<()> {
    let mut world = World::new(options)?;
    let per_log = (entries / (options.authors * streams)).max(1);
    let (library, authors) = library(&mut world, options.authors, streams, per_log).await?;
    for author in authors {
        author.node.close().await?;
    }
    let total = library.merged();
    let reader = world.device().await?;
    let (runs, sent) = (library.node.metrics().run_bytes_sent, library.bytes_sent());
    // What was held for the preparation is given back by tasks that may still have to run.
    pause(Duration::from_millis(300)).await;
    let held = allocated();
    let mut extra = 0;
    let clocks = Clocks::now();
    reader.node.meet(library.address.clone()).await?;
    until("catch-up", || {
        let kept = match options.store {
            Store::Sled => 0,
            Store::Memory | Store::Packed => reader.node.resource_usage().store_bytes as usize,
        };
        extra = extra.max(allocated().saturating_sub(held + kept));
        reader.merged() >= total
    })
    .await?;
    let (wall, cpu) = clocks.elapsed();
    let bytes = library.bytes_sent() - sent + reader.bytes_sent();
    let packed = library.node.metrics().run_bytes_sent - runs;
    let rounds = match options.port {
        Port::Memory => rounds(&mut world, &library, total, wall).await?,
        Port::Tcp => 0.0,
    };
    let measures = Measures { entries: total, cpu_seconds: cpu, bytes, rounds, peak_mb: mb(extra) };
    Row::new("catchup")
        .measures(&measures)
        .text("port", options.port.name())
        .text("store", options.store.name())
        .count("authors", options.authors as u64)
        .count("streams", streams as u64)
        .count("frame", options.frame as u64)
        .count("packed_bytes", packed)
        .figure("overhead_per_entry", bytes as f64 / total as f64 - PAYLOAD as f64, 2)
        .figure("wall_seconds", wall.as_secs_f64(), 3)
        .figure("load", load(), 1)
        .print(options.json);
    reader.node.close().await?;
    library.node.close().await?;
    Ok(())
}

/// Round trips of the same work: the time that a delayed link adds, in units of its delay there and back.
async fn rounds(world: &mut World, library: &Device, total: u64, without: Duration) -> Outcome<f64> {
    let reader = world.device().await?;
    world.delay(&reader, library, DELAY)?;
    let clocks = Clocks::now();
    reader.node.meet(library.address.clone()).await?;
    until("catch-up", || reader.merged() >= total).await?;
    let (wall, _) = clocks.elapsed();
    reader.node.close().await?;
    Ok(wall.saturating_sub(without).as_secs_f64() / (2.0 * DELAY.as_secs_f64()))
}
