//! What a peer costs that reads slowly or not at all: memory of the node that serves it, and the latency that others see.
//!
//! On TCP the rude peer is a process of its own, so that its memory is its own; on the memory port its queue is in this
//! process, and counts. It wants everything that the node holds, and reads nothing of it, or 10 KB/s. Meanwhile the node
//! appends at a steady pace, and a polite peer listens. The same without the rude peer comes before and after.
//!
//! With it goes a question about one polite peer: how much longer an entry takes while a bulk transfer of another stream is
//! under way, in frames of a link of limited bandwidth, in virtual time.

use std::process::{Child, Command};
use std::time::Duration;

use anabranch::infrastructure::link_profile::{Delay, LinkProfile};

use crate::measure::{allocated, load, peak, quantile, reset_peak};
use crate::nodes::{Device, Outcome, World, pause, until};
use crate::options::{Options, Port};
use crate::port::Reading;
use crate::row::{Measures, Row, mb};
use crate::simulated;
use crate::work::live;

/// What a rude peer reads at once: enough for the session and the first comparison, whatever its frames.
const AT_FIRST: u64 = 16 << 10;
/// What a slow peer reads per second.
const SLOW: u64 = 10_000;

pub(crate) async fn run(options: &Options) -> Outcome<()> {
    if let Some((reading, address)) = &options.rude {
        return be_rude(options, reading, address).await;
    }
    for entries in &options.entries {
        for rate in &options.rates {
            for reading in [None, Some("slow"), Some("never"), None] {
                once(options, *entries, *rate, reading).await?;
            }
        }
    }
    Ok(())
}

fn how(reading: &str) -> Reading {
    match reading {
        "slow" => Reading::Slowly { after: AT_FIRST, bytes_per_second: SLOW },
        _ => Reading::Never { after: AT_FIRST },
    }
}

/// What the child process does, until it is ended.
async fn be_rude(options: &Options, reading: &str, address: &str) -> Outcome<()> {
    let mut world = World::new(options)?.apart();
    let rude = world.rude(how(reading)).await?;
    rude.node.meet(address).await?;
    std::future::pending().await
}

/// Ends the child when dropped.
struct Rude(Child);

impl Drop for Rude {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _unknown = self.0.wait();
    }
}

async fn once(options: &Options, entries: usize, rate: usize, reading: Option<&str>) -> Outcome<()> {
    let mut pair = live::Pair::new(World::capped(options)?, options).await?;
    let feed = pair.meet("s").await?;
    let (writer, reader) = (&pair.writer, &pair.reader);
    writer.append("bulk", entries).await?;
    until("the polite peer", || reader.merged() > entries as u64).await?;
    pause(Duration::from_millis(500)).await;
    let (held, before) = (reset_peak(), writer.bytes_sent());
    let (mut child, mut inside) = (None, None);
    match (reading, options.port) {
        (Some(reading), Port::Tcp) => child = Some(spawn(reading, writer)?),
        (Some(reading), Port::Memory) => {
            let rude = pair.world.rude(how(reading)).await?;
            rude.node.meet(writer.address.clone()).await?;
            inside = Some(rude);
        }
        (None, _) => {}
    }
    if reading.is_some() {
        until("the rude peer", || writer.bytes_sent() > before + AT_FIRST).await?;
        pause(Duration::from_secs(2)).await;
    }
    // What it costs is what is allocated once nothing moves any more, and at most.
    let (standing, most) = (allocated().saturating_sub(held), peak().saturating_sub(held));
    let appends = rate * options.seconds as usize;
    let mut latencies = pair.latencies("s", feed, appends, rate).await?;
    let measures = Measures { entries: appends as u64, peak_mb: mb(most), ..Measures::default() };
    Row::new("slowpeer")
        .measures(&measures)
        .text("rude_peer", reading.unwrap_or("none"))
        .figure("standing_mb", mb(standing), 2)
        .figure("p50_us", quantile(&mut latencies, 0.5), 1)
        .figure("p99_us", quantile(&mut latencies, 0.99), 1)
        .count("rate", rate as u64)
        .text("port", options.port.name())
        .figure("load", load(), 1)
        .print(options.json);
    drop(child);
    if let Some(rude) = inside {
        rude.node.close().await?;
    }
    pair.close().await
}

fn spawn(reading: &str, writer: &Device) -> Outcome<Rude> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["slowpeer", "--port", "tcp", "--rude", reading, writer.address.as_str()]);
    Ok(Rude(command.spawn()?))
}

/// How much longer entries of one stream take while another stream is transferred in bulk.
pub(crate) fn fairness(options: &Options) -> Outcome<()> {
    let bandwidth = 2_000_000;
    let frame = 64 << 10;
    let profile = LinkProfile {
        delay: Delay::fixed(Duration::from_millis(10)),
        bandwidth: Some(bandwidth),
        max_frame: frame,
        ..LinkProfile::perfect()
    }
    .reliable();
    let period = Duration::from_millis(50);
    let frame_us = frame as f64 / bandwidth as f64 * 1e6;
    let mut alone = simulated::live(profile, 100, period, 0)?.latencies;
    let mut beside = simulated::live(profile, 100, period, 200_000)?.latencies;
    let (least, most) = (quantile(&mut alone, 0.5), quantile(&mut beside, 1.0));
    Row::new("slowpeer")
        .measures(&Measures { entries: 100, ..Measures::default() })
        .text("what", "beside a bulk transfer")
        .figure("alone_us", least, 1)
        .figure("p50_us", quantile(&mut beside, 0.5), 1)
        .figure("p99_us", quantile(&mut beside, 0.99), 1)
        .figure("delay_in_frames", (most - least) / frame_us, 2)
        .print(options.json);
    Ok(())
}
