//! The figures.

use std::time::Duration;

use anabranch::{Arrival, Cursor};

use super::measure::{Clocks, median, peak_mb};
use super::nodes::{Device, Outcome, World, until};
use super::options::{Options, Work};

/// Measures what was asked for.
pub(crate) async fn run(options: &Options) -> Outcome<()> {
    for _ in 0..options.rounds {
        match options.work {
            Work::Catchup => catchup(options).await?,
            Work::Difference => difference(options).await?,
            Work::Live => live(options).await?,
        }
    }
    Ok(())
}

/// A node that holds `entries` of `authors` in `streams`, fetched from their authors.
async fn library(world: &mut World, options: &Options) -> Outcome<Device> {
    let library = world.device().await?;
    let number = world.last();
    let per_log = options.entries / (options.authors * options.streams);
    let mut expected = 0;
    for _ in 0..options.authors {
        let author = world.helper().await?;
        for stream in 0..options.streams {
            author.append(&format!("stream-{stream}"), per_log).await?;
        }
        expected += (per_log * options.streams) as u64;
        author.node.meet(World::memory_address(number)).await?;
        until("preparation", || library.entries() >= expected).await?;
        author.node.close().await?;
    }
    Ok(library)
}

async fn catchup(options: &Options) -> Outcome<()> {
    let mut world = World::new(options.port, options.store)?;
    let library = library(&mut world, options).await?;
    let total = library.entries();
    let reader = world.device().await?;
    let before = library.node.metrics();
    let clocks = Clocks::now();
    reader.node.meet(library.address.clone()).await?;
    until("catch-up", || reader.entries() >= total).await?;
    let (wall, cpu) = clocks.elapsed();
    let after = (library.node.metrics(), reader.node.metrics());
    let bytes = after.0.bytes_sent - before.bytes_sent + after.1.bytes_sent;
    let payload = after.0.run_bytes_sent - before.run_bytes_sent;
    let overhead = bytes as f64 / total as f64 - super::nodes::PAYLOAD as f64;
    if options.json {
        println!(
            "{{\"work\":\"catchup\",\"system\":\"anabranch\",\"version\":\"{}\",\"entries\":{total},\"cpu_seconds\":{cpu:.3},\
             \"bytes\":{bytes},\"rounds\":2,\"peak_mb\":{:.1},\"entries_per_cpu_second\":{:.0}}}",
            env!("CARGO_PKG_VERSION"),
            peak_mb(),
            total as f64 / cpu
        );
    } else {
        println!(
            "catch-up of {total} entries: {:.3} s, {cpu:.2} CPU s, {:.0} entries per CPU s, {bytes} bytes \
             ({payload} packed), {overhead:.2} bytes of overhead per entry, peak {:.0} MB",
            wall.as_secs_f64(),
            total as f64 / cpu,
            peak_mb()
        );
    }
    reader.node.close().await?;
    library.node.close().await?;
    Ok(())
}

async fn difference(options: &Options) -> Outcome<()> {
    let mut world = World::new(options.port, options.store)?;
    let library = library(&mut world, options).await?;
    let reader = world.device().await?;
    reader.node.meet(library.address.clone()).await?;
    let total = library.entries();
    until("first sync", || reader.entries() >= total).await?;
    reader.node.stop().await?;
    for n in 0..options.changed {
        library.append(&format!("stream-{}", n % options.streams), 1).await?;
    }
    let changed = options.changed.min(options.streams);
    let before = (library.node.metrics(), reader.node.metrics());
    let clocks = Clocks::now();
    reader.node.start().await?;
    let total = library.entries();
    until("difference", || reader.entries() >= total).await?;
    until("agreement", || {
        reader.node.metrics().comparisons_equal + library.node.metrics().comparisons_equal
            > before.0.comparisons_equal + before.1.comparisons_equal
    })
    .await?;
    let (wall, cpu) = clocks.elapsed();
    let after = (library.node.metrics(), reader.node.metrics());
    let bytes = after.0.bytes_sent + after.1.bytes_sent - before.0.bytes_sent - before.1.bytes_sent;
    let entry_bytes = after.0.run_bytes_sent - before.0.run_bytes_sent + 64 * changed as u64;
    if options.json {
        println!(
            "{{\"work\":\"difference\",\"system\":\"anabranch\",\"version\":\"{}\",\"entries\":{total},\"changed\":{changed},\
             \"cpu_seconds\":{cpu:.3},\"bytes\":{bytes},\"entry_bytes\":{entry_bytes},\"peak_mb\":{:.1}}}",
            env!("CARGO_PKG_VERSION"),
            peak_mb()
        );
    } else {
        println!(
            "{changed} logs changed among {total} entries: {:.3} s, {cpu:.2} CPU s, {bytes} bytes in all, \
             {entry_bytes} of them entries and heads",
            wall.as_secs_f64()
        );
    }
    reader.node.close().await?;
    library.node.close().await?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a benchmark paces itself in real time")]
async fn live(options: &Options) -> Outcome<()> {
    let mut world = World::new(options.port, options.store)?;
    let (writer, reader) = (world.device().await?, world.device().await?);
    let (there, here) = (writer.stream("s").await?, reader.stream("s").await?);
    writer.node.meet(reader.address.clone()).await?;
    there.append("first").await?;
    until("first entry", || reader.entries() >= 1).await?;
    let mut feed = here.subscribe(Cursor::START);
    let entries = options.entries;
    let start = std::time::Instant::now();
    let clocks = Clocks::now();
    let listening = tokio::spawn(async move {
        let mut latencies = Vec::with_capacity(entries);
        while latencies.len() < entries {
            let Some(Ok(Arrival::Entry { entry, .. })) = feed.next().await else { break };
            let Ok(sent) = <[u8; 8]>::try_from(&entry.payload()[..8.min(entry.payload().len())]) else {
                continue;
            };
            let sent = Duration::from_nanos(u64::from_le_bytes(sent));
            latencies.push((start.elapsed().saturating_sub(sent)).as_secs_f64() * 1e6);
        }
        latencies
    });
    let mut pace = tokio::time::interval(Duration::from_nanos(1_000_000_000 / options.rate));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for _ in 0..entries {
        pace.tick().await;
        let mut payload = vec![0; super::nodes::PAYLOAD];
        payload[..8].copy_from_slice(&(start.elapsed().as_nanos() as u64).to_le_bytes());
        there.append(payload).await?;
    }
    let mut latencies = listening.await?;
    let (_, cpu) = clocks.elapsed();
    latencies.sort_by(f64::total_cmp);
    let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or(0.0);
    let p50 = median(latencies);
    if options.json {
        println!(
            "{{\"work\":\"live\",\"system\":\"anabranch\",\"version\":\"{}\",\"entries\":{entries},\"cpu_seconds\":{cpu:.3},\
             \"p50_us\":{p50:.1},\"p99_us\":{p99:.1}}}",
            env!("CARGO_PKG_VERSION")
        );
    } else {
        println!("live, {} per second: p50 {p50:.0} us, p99 {p99:.0} us, {cpu:.2} CPU s", options.rate);
    }
    writer.node.close().await?;
    reader.node.close().await?;
    Ok(())
}
