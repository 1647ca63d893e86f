//! `bench`: how much faster than real time one core simulates.

use std::time::Duration;

use anabranch::infrastructure::link_profile::LinkProfile;
use anabranch_sim::notes::{self, Notes, Setting};
use anabranch_sim::{FaultProfile, Seed, World};

use crate::arguments::Arguments;
use crate::run::now;
use crate::{Usage, json};

/// Real time that one case should take at least.
const LONG_ENOUGH: f64 = 2.0;
/// Virtual time that a case starts with; it doubles until the case takes long enough.
const FIRST: Duration = Duration::from_secs(60);

struct Case {
    name: &'static str,
    nodes: usize,
    period: Duration,
    gossip: Duration,
    real: bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "5 nodes, 1/s, gossip 200 ms",
        nodes: 5,
        period: Duration::from_secs(1),
        gossip: Duration::from_millis(200),
        real: false,
    },
    Case {
        name: "5 nodes, 0.1/s, gossip 1 s",
        nodes: 5,
        period: Duration::from_secs(10),
        gossip: Duration::from_secs(1),
        real: false,
    },
    Case {
        name: "50 nodes, 0.1/s, gossip 1 s",
        nodes: 50,
        period: Duration::from_secs(10),
        gossip: Duration::from_secs(1),
        real: false,
    },
    Case {
        name: "5 nodes, 1/s, gossip 200 ms, ed25519",
        nodes: 5,
        period: Duration::from_secs(1),
        gossip: Duration::from_millis(200),
        real: true,
    },
];

pub(crate) fn command(arguments: &Arguments) -> Result<bool, Usage> {
    let mut cases = Vec::new();
    let mut well = true;
    for case in &CASES {
        let mut time = FIRST;
        let (wall, events, simulated) = loop {
            let began = now();
            let (seed, report) = Seed::new(1).reported();
            let mut world = World::<Notes>::new(seed);
            world.faults(FaultProfile::Calm).network(LinkProfile::loopback());
            world.proven_links(true).real_signatures(case.real);
            let setting = Setting {
                nodes: case.nodes,
                profile: FaultProfile::Calm,
                time,
                period: case.period,
                // The shortest is the configured one; equal nodes back off as in real life.
                gossip: Some((case.gossip, case.gossip.max(Duration::from_secs(1)))),
                plain: true,
                heavy: false,
                board: false,
                converge: Duration::from_secs(60),
                quiet: Duration::ZERO,
            };
            if let Err(failure) = notes::play(&mut world, &setting) {
                println!("{}: {failure}", case.name);
                well = false;
            }
            drop(world);
            let wall = began.elapsed().as_secs_f64();
            let report = report.borrow();
            if wall >= LONG_ENOUGH || !well {
                break (wall, report.events, report.virtual_nanos as f64 / 1e9);
            }
            time *= 2;
        };
        println!(
            "{:<40} {:>8.0} times real time, {:>9.0} events/s, {:>6.1} events per virtual second",
            case.name,
            simulated / wall,
            events as f64 / wall,
            events as f64 / simulated
        );
        cases.push((
            case.name,
            json::object([
                ("speedup", json::number(simulated / wall)),
                ("events_per_second", json::number(events as f64 / wall)),
                ("virtual_seconds", json::number(simulated)),
                ("wall_seconds", json::number(wall)),
            ]),
        ));
    }
    if arguments.switch("json") {
        println!("{}", json::object(cases));
    }
    Ok(well)
}
