//! What nodes say in passing: that they hold the same, beside what they send each other anyhow.

#![allow(clippy::unwrap_used, reason = "a run either goes as planned or the test has nothing to say")]

use std::time::Duration;

use anabranch::infrastructure::link_profile::LinkProfile;
use anabranch_sim::notes::{self, Notes, Setting};
use anabranch_sim::{FaultProfile, Kind, Seed, World};

/// Five nodes, all connected, that write once per `period`; how many frames they send in a virtual second.
fn frames_per_second(period: Duration, time: Duration) -> f64 {
    let (seed, report) = Seed::new(7).reported();
    let mut world = World::<Notes>::new(seed);
    world.faults(FaultProfile::Calm).network(LinkProfile::loopback().reliable()).proven_links(true);
    let setting = Setting {
        nodes: 5,
        profile: FaultProfile::Calm,
        time,
        period,
        gossip: Some((Duration::from_millis(200), Duration::from_secs(30))),
        plain: true,
        heavy: false,
        dials: None,
        board: false,
        converge: Duration::from_secs(60),
        quiet: Duration::ZERO,
    };
    notes::play(&mut world, &setting).unwrap();
    drop(world);
    let report = report.borrow();
    report.kinds[&Kind::Sent] as f64 / (report.virtual_nanos as f64 / 1e9)
}

/// Each append costs a frame to each of four peers, and an acknowledgement; what tells that all hold the same goes
/// with them. Comparisons of each pair after each append would be 40 frames more per append.
#[test]
fn i8_nodes_that_push_to_each_other_say_little_besides_their_entries() {
    let frames = frames_per_second(Duration::from_secs(1), Duration::from_secs(120));
    assert!(frames < 60.0, "{frames} frames a second, of which 20 carry entries and 20 acknowledge them");
}

/// Ten pairs that hold the same: probes, and now and then a holding.
#[test]
fn i8_nodes_that_stopped_writing_fall_nearly_silent() {
    let frames = frames_per_second(Duration::from_secs(600), Duration::from_secs(590));
    assert!(frames < 50.0, "{frames} frames a second of ten idle pairs");
}
