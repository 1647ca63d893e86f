//! A radio link like Bluetooth low energy: frames of 512 bytes, 20 KB/s, 5 % loss, in virtual time, with the library's own
//! sessions and real signatures.

use std::rc::Rc;
use std::time::Duration;

use anabranch::infrastructure::link_profile::LinkProfile;

use crate::measure::Clocks;
use crate::nodes::{Outcome, PAYLOAD};
use crate::options::Options;
use crate::row::{Measures, Row};
use crate::simulated;

/// When the reader dials: the library is filled by then.
const DIAL: Duration = Duration::from_secs(5);
/// After the catch-up, before and while the idle traffic is looked at.
const REST: Duration = Duration::from_secs(600);

pub(crate) fn run(options: &Options) -> Outcome<()> {
    for entries in &options.entries {
        once(options, *entries)?;
    }
    Ok(())
}

fn once(options: &Options, entries: usize) -> Outcome<()> {
    let profile = LinkProfile::ble();
    let bandwidth = profile.bandwidth.unwrap_or(1) as f64;
    let clocks = Clocks::now();
    let mut world = simulated::world(1, profile, false, true);
    let library = simulated::add(&mut world, "library", Vec::new(), Duration::ZERO);
    let reader = simulated::add(&mut world, "reader", vec!["library".into()], DIAL);
    world.run_for(Duration::from_secs(1))?;
    let (Some(library), Some(reader)) = (world.app(library), world.app(reader)) else {
        return Err("a simulated node did not start".into());
    };
    let filler = Rc::clone(&library);
    let filled = async move {
        let batch = (0..entries).map(|n| vec![n as u8; PAYLOAD]);
        filler.stream.append_batch(batch).await.is_ok()
    };
    if !world.run(DIAL / 2, filled)? {
        return Err("the library could not be filled".into());
    }
    world
        .run_until(Duration::from_secs(36_000), |_| reader.node.metrics().entries_merged >= entries as u64)?;
    let (_, cpu) = clocks.elapsed();
    let took = (world.now() - DIAL).as_secs_f64();
    let there = library.node.metrics().bytes_sent;
    let back = reader.node.metrics().bytes_sent;
    let payload = (entries * PAYLOAD) as f64;
    world.run_for(REST)?;
    let nodes = [Rc::clone(&library), Rc::clone(&reader)];
    let before = simulated::bytes_sent(&nodes);
    world.run_for(REST)?;
    let idle = (simulated::bytes_sent(&nodes) - before) as f64 / REST.as_secs_f64();
    let measures = Measures {
        entries: entries as u64,
        cpu_seconds: cpu,
        bytes: there + back,
        rounds: 0.0,
        peak_mb: 0.0,
    };
    Row::new("ble")
        .measures(&measures)
        .figure("payload_share", payload / (bandwidth * took), 4)
        .figure("payload_share_of_bytes_sent", payload / there as f64, 4)
        .figure("link_busy", there as f64 / (bandwidth * took), 4)
        .figure("virtual_seconds", took, 2)
        .count("bytes_back", back)
        .figure("idle_bytes_per_second", idle, 2)
        .print(options.json);
    Ok(())
}
