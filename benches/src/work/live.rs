//! From append on one node to the event on another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anabranch::infrastructure::link_profile::{Chance, Delay, LinkProfile};
use anabranch::{Arrival, EventStream, Subscription};

use crate::measure::{Clocks, load, quantile};
use crate::nodes::{Device, Outcome, PAYLOAD, World, until};
use crate::options::Options;
use crate::row::{Measures, Row};
use crate::simulated;

/// How early the pacing thread stops sleeping: the resolution of the system's sleep.
const SPIN: Duration = Duration::from_micros(60);
/// One way, on the simulated link.
const DELAY: Duration = Duration::from_millis(20);

pub(crate) async fn run(options: &Options) -> Outcome<()> {
    for entries in &options.entries {
        for rate in &options.rates {
            once(options, *entries, *rate).await?;
        }
    }
    Ok(())
}

async fn once(options: &Options, entries: usize, rate: usize) -> Outcome<()> {
    let mut world = World::new(options)?;
    let (writer, reader) = (world.device().await?, world.device().await?);
    let feed = meet(&writer, &reader, "s").await?;
    let sent = (writer.bytes_sent(), reader.bytes_sent());
    let clocks = Clocks::now();
    let mut latencies = latencies(writer.stream("s").await?, feed, entries, rate).await?;
    let (wall, cpu) = clocks.elapsed();
    let bytes = writer.bytes_sent() + reader.bytes_sent() - sent.0 - sent.1;
    let measures = Measures { entries: entries as u64, cpu_seconds: cpu, bytes, rounds: 0.5, peak_mb: 0.0 };
    row(options, &measures, rate, &mut latencies)
        .figure("wall_seconds", wall.as_secs_f64(), 2)
        .figure("load", load(), 1)
        .print(options.json);
    writer.node.close().await?;
    reader.node.close().await?;
    Ok(())
}

fn row(options: &Options, measures: &Measures, rate: usize, latencies: &mut [f64]) -> Row {
    Row::new("live")
        .measures(measures)
        .figure("p50_us", quantile(latencies, 0.5), 1)
        .figure("p99_us", quantile(latencies, 0.99), 1)
        .figure("max_us", quantile(latencies, 1.0), 1)
        .count("rate", rate as u64)
        .text("port", options.port.name())
        .text("store", options.store.name())
        .count("threads", options.threads as u64)
}

/// Lets two nodes meet, and subscribes on the second one to what the first appends from now on.
pub(crate) async fn meet(writer: &Device, reader: &Device, stream: &str) -> Outcome<Subscription> {
    let here = reader.stream(stream).await?;
    writer.node.meet(reader.address.clone()).await?;
    let before = here.len();
    writer.stream(stream).await?.append("first").await?;
    until("the first entry", || here.len() > before).await?;
    // Late comparisons would otherwise fall into the measured time.
    crate::nodes::pause(Duration::from_millis(600)).await;
    Ok(here.subscribe(here.version()))
}

/// Appends at a steady pace from a thread of its own; how long each entry took to come out of `feed` in a task of the
/// runtime, in microseconds.
#[expect(clippy::disallowed_methods, reason = "a benchmark paces itself in real time")]
pub(crate) async fn latencies(
    stream: EventStream,
    mut feed: Subscription,
    entries: usize,
    rate: usize,
) -> Outcome<Vec<f64>> {
    let start = Instant::now();
    let failed = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&failed);
    let pacing = std::thread::spawn(move || {
        for n in 0..entries {
            let due = Duration::from_secs_f64(n as f64 / rate as f64);
            if let Some(sleep) = due.checked_sub(start.elapsed() + SPIN) {
                std::thread::sleep(sleep);
            }
            while start.elapsed() < due {
                std::hint::spin_loop();
            }
            let mut payload = vec![0; PAYLOAD];
            payload[..8].copy_from_slice(&(start.elapsed().as_nanos() as u64).to_le_bytes());
            if futures::executor::block_on(stream.append(payload)).is_err() {
                noted.store(true, Ordering::Relaxed);
                return;
            }
        }
    });
    let reading: tokio::task::JoinHandle<Outcome<Vec<f64>>> = tokio::spawn(async move {
        let mut latencies = Vec::with_capacity(entries);
        while latencies.len() < entries {
            match feed.next().await {
                Some(Ok(Arrival::Entry { entry, .. })) => {
                    let Ok(sent) = <[u8; 8]>::try_from(&entry.payload()[..8]) else { continue };
                    let sent = Duration::from_nanos(u64::from_le_bytes(sent));
                    latencies.push(start.elapsed().saturating_sub(sent).as_secs_f64() * 1e6);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Err("the subscription ended".into()),
            }
        }
        Ok(latencies)
    });
    let latencies = reading.await??;
    if pacing.join().is_err() || failed.load(Ordering::Relaxed) {
        return Err("an append failed".into());
    }
    Ok(latencies)
}

/// The same in virtual time over a link that loses frames.
pub(crate) fn lossy(options: &Options) -> Outcome<()> {
    let loss = options.loss.unwrap_or_default();
    for entries in &options.entries {
        for rate in &options.rates {
            let profile = LinkProfile {
                loss: Chance::new(loss),
                delay: Delay::fixed(DELAY),
                max_frame: 1_200,
                ..LinkProfile::perfect()
            };
            let period = Duration::from_secs_f64(1.0 / *rate as f64);
            let clocks = Clocks::now();
            let outcome = simulated::live(profile, *entries, period, 0)?;
            let (_, cpu) = clocks.elapsed();
            let mut latencies = outcome.latencies;
            let trips = 2.0 * DELAY.as_secs_f64() * 1e6;
            let late = latencies.iter().filter(|latency| **latency > 3.0 * trips).count();
            // The first acknowledgement that passes over the lost frame is that of the next one, and frames may overtake each
            // other by an eighth of a round trip; where the next entry is later than that, the probe timeout notices.
            let noticeable = trips * 9.0 / 8.0 + (period.as_secs_f64() * 1e6).min(trips / 8.0);
            let too_late = latencies.iter().filter(|latency| **latency > noticeable + 2.0 * trips).count();
            let measures = Measures {
                entries: *entries as u64,
                cpu_seconds: cpu,
                bytes: outcome.bytes,
                rounds: quantile(&mut latencies, 1.0) / trips,
                peak_mb: 0.0,
            };
            row(options, &measures, *rate, &mut latencies)
                .figure("loss", loss, 3)
                .figure("round_trip_us", trips, 0)
                .figure("p999_us", quantile(&mut latencies, 0.999), 1)
                .count("above_three_round_trips", late as u64)
                .figure("noticeable_us", noticeable, 0)
                .figure("p50_rounds", quantile(&mut latencies, 0.5) / trips, 2)
                .figure("p99_rounds", quantile(&mut latencies, 0.99) / trips, 2)
                .figure("p999_rounds", quantile(&mut latencies, 0.999) / trips, 2)
                .count("two_round_trips_after_noticeable", too_late as u64)
                .print(options.json);
        }
    }
    Ok(())
}
