//! Very many streams of one entry each: what they cost at rest, at first contact, when opened, and when one of them
//! grows.

use std::time::Duration;

use crate::measure::{Clocks, allocated, load};
use crate::nodes::{Device, Outcome, World, pause, stream_name, until};
use crate::options::{Options, Store};
use crate::row::{Measures, Row, mb};

/// Fresh entries whose cost is averaged.
const FRESH: usize = 200;

pub(crate) async fn run(options: &Options) -> Outcome<()> {
    for streams in &options.streams {
        once(options, *streams).await?;
    }
    Ok(())
}

async fn once(options: &Options, streams: usize) -> Outcome<()> {
    let row = |what: &'static str, measures: &Measures| {
        Row::new("streams")
            .measures(measures)
            .text("what", what)
            .count("streams", streams as u64)
            .text("port", options.port.name())
            .text("store", options.store.name())
    };
    let mut world = World::new(options)?;
    let library = world.device().await?;
    let held = allocated();
    let clocks = Clocks::now();
    for stream in 0..streams {
        library.append(&stream_name(stream), 1).await?;
    }
    let (_, cpu) = clocks.elapsed();
    let memory = allocated().saturating_sub(held);
    let measures =
        Measures { entries: streams as u64, cpu_seconds: cpu, peak_mb: mb(memory), ..Measures::default() };
    row("make", &measures).count("bytes_per_stream", (memory / streams) as u64).print(options.json);

    let reader = world.device().await?;
    let sent = library.bytes_sent();
    let clocks = Clocks::now();
    reader.node.meet(library.address.clone()).await?;
    until("first contact", || reader.merged() >= streams as u64).await?;
    let (wall, cpu) = clocks.elapsed();
    let bytes = library.bytes_sent() - sent + reader.bytes_sent();
    let memory = allocated().saturating_sub(held);
    let measures = Measures {
        entries: streams as u64,
        cpu_seconds: cpu,
        bytes,
        peak_mb: mb(memory),
        ..Measures::default()
    };
    row("first_contact", &measures)
        .count("bytes_per_stream_of_both", (memory / streams) as u64)
        .figure("wall_seconds", wall.as_secs_f64(), 3)
        .print(options.json);

    let settled = equal(&reader, &library) + 2;
    until("agreement", || equal(&reader, &library) >= settled).await?;
    let (sent, compared) = ((reader.bytes_sent(), library.bytes_sent()), equal(&reader, &library));
    let clocks = Clocks::now();
    while equal(&reader, &library) < compared + 4 {
        pause(Duration::from_millis(50)).await;
    }
    let ((wall, cpu), comparisons) = (clocks.elapsed(), equal(&reader, &library) - compared);
    let bytes = (reader.bytes_sent() - sent.0) + (library.bytes_sent() - sent.1);
    let measures = Measures {
        entries: 0,
        cpu_seconds: cpu / comparisons as f64,
        bytes: bytes / comparisons,
        rounds: 1.0,
        peak_mb: 0.0,
    };
    row("idle", &measures).figure("cpu_per_second", cpu / wall.as_secs_f64(), 5).print(options.json);

    fresh(options, &library, &reader, streams, row).await?;
    reader.node.close().await?;
    library.node.close().await?;
    if options.store == Store::Sled {
        open(options, streams, row).await?;
    }
    Ok(())
}

fn equal(reader: &Device, library: &Device) -> u64 {
    reader.node.metrics().comparisons_equal + library.node.metrics().comparisons_equal
}

/// New entries in some of the streams, one at a time.
async fn fresh(
    options: &Options,
    library: &Device,
    reader: &Device,
    streams: usize,
    row: impl Fn(&'static str, &Measures) -> Row,
) -> Outcome<()> {
    let sent = (reader.bytes_sent(), library.bytes_sent());
    let mut some = Vec::new();
    for n in 0..FRESH {
        some.push(library.stream(&stream_name(n * streams / FRESH)).await?);
    }
    let clocks = Clocks::now();
    for stream in &some {
        let merged = reader.merged();
        stream.append(vec![9; crate::nodes::PAYLOAD]).await?;
        until("a fresh entry", || reader.merged() > merged).await?;
    }
    let (wall, cpu) = clocks.elapsed();
    let bytes = (reader.bytes_sent() - sent.0) + (library.bytes_sent() - sent.1);
    let measures = Measures { entries: FRESH as u64, cpu_seconds: cpu, bytes, rounds: 0.5, peak_mb: 0.0 };
    row("fresh", &measures)
        .count("bytes_per_entry", bytes / FRESH as u64)
        .figure("cpu_us_per_entry", cpu * 1e6 / FRESH as f64, 1)
        .figure("wall_seconds", wall.as_secs_f64(), 3)
        .figure("load", load(), 1)
        .print(options.json);
    Ok(())
}

/// A store of its own is made, closed, and opened again.
async fn open(
    options: &Options,
    streams: usize,
    row: impl Fn(&'static str, &Measures) -> Row,
) -> Outcome<()> {
    let mut world = World::new(options)?;
    let device = world.device().await?;
    let directory = world.directory();
    for stream in 0..streams {
        device.append(&stream_name(stream), 1).await?;
    }
    device.node.close().await?;
    pause(Duration::from_millis(200)).await;
    let clocks = Clocks::now();
    let store = anabranch_sled::SledStore::open(directory).await?;
    let node = anabranch::Coordinator::builder(store).start().await?;
    let (wall, cpu) = clocks.elapsed();
    let entries = node.resource_usage().entries;
    let measures = Measures { entries, cpu_seconds: cpu, ..Measures::default() };
    row("open", &measures)
        .figure("wall_seconds", wall.as_secs_f64(), 3)
        .figure("load", load(), 1)
        .print(options.json);
    node.close().await?;
    Ok(())
}
