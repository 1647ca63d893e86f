//! `bench`: how much faster than real time one core simulates, in time on the processor.

use std::time::Duration;

use anabranch::Config;
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
    /// How many others each node dials; `None`: all.
    dials: Option<usize>,
    period: Duration,
    gossip: Duration,
    real: bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "5 nodes, 1/s, gossip 200 ms",
        nodes: 5,
        dials: None,
        period: Duration::from_secs(1),
        gossip: Duration::from_millis(200),
        real: false,
    },
    Case {
        name: "5 nodes, 0.1/s, gossip 1 s",
        nodes: 5,
        dials: None,
        period: Duration::from_secs(10),
        gossip: Duration::from_secs(1),
        real: false,
    },
    Case {
        name: "50 nodes, 0.1/s, gossip 1 s, each dials 3",
        nodes: 50,
        dials: Some(3),
        period: Duration::from_secs(10),
        gossip: Duration::from_secs(1),
        real: false,
    },
    Case {
        name: "5 nodes, 1/s, gossip 200 ms, ed25519",
        nodes: 5,
        dials: None,
        period: Duration::from_secs(1),
        gossip: Duration::from_millis(200),
        real: true,
    },
];

/// Seconds that this process was on a processor, as far as the system says; otherwise seconds.
fn spent() -> f64 {
    let scheduled = std::fs::read_to_string("/proc/self/schedstat").ok();
    let nanos = scheduled.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    static BEGAN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    nanos.map_or_else(|| BEGAN.get_or_init(now).elapsed().as_secs_f64(), |nanos| nanos as f64 / 1e9)
}

pub(crate) fn command(arguments: &Arguments) -> Result<bool, Usage> {
    let mut cases = Vec::new();
    let mut well = true;
    let only = arguments.text("case").map(|_| arguments.count("case", 1)).transpose()?;
    if only.is_some_and(|only| only > CASES.len() as u64) {
        return Err(Usage(format!("--case: 1 to {}", CASES.len())));
    }
    let fixed = arguments.text("seconds").map(|_| arguments.count("seconds", 1)).transpose()?;
    let wanted = |at: u64| only.is_none_or(|only| at == only);
    for (_, case) in (1..).zip(&CASES).filter(|(at, _)| wanted(*at)) {
        let mut time = fixed.map_or(FIRST, Duration::from_secs);
        let (cpu, report) = loop {
            let began = spent();
            let (seed, report) = Seed::new(1).reported();
            let mut world = World::<Notes>::new(seed);
            world.faults(FaultProfile::Calm).network(LinkProfile::loopback().reliable());
            world.proven_links(true).real_signatures(case.real);
            let setting = Setting {
                nodes: case.nodes,
                profile: FaultProfile::Calm,
                time,
                period: case.period,
                // What an app gets that sets the interval: nodes that are equal back off as by default.
                gossip: Some((case.gossip, Config::default().gossip_interval_max)),
                plain: true,
                heavy: false,
                dials: case.dials,
                board: false,
                converge: Duration::from_secs(60),
                quiet: Duration::ZERO,
            };
            if let Err(failure) = notes::play(&mut world, &setting) {
                say!("{}: {failure}", case.name);
                well = false;
            }
            drop(world);
            let cpu = spent() - began;
            if cpu >= LONG_ENOUGH || fixed.is_some() || !well {
                break (cpu, report.take());
            }
            time *= 2;
        };
        let (events, simulated) = (report.events, report.virtual_nanos as f64 / 1e9);
        say!(
            "{:<40} {:>8.0} times real time, {:>9.0} events per CPU-second, {:>6.1} events per virtual second",
            case.name,
            simulated / cpu,
            events as f64 / cpu,
            events as f64 / simulated
        );
        let kinds = report.kinds.iter().map(|(kind, count)| (format!("{kind:?}"), *count as f64 / simulated));
        let kinds: Vec<(String, f64)> = kinds.collect();
        let shown: Vec<String> = kinds.iter().map(|(kind, rate)| format!("{kind} {rate:.1}")).collect();
        say!("    per virtual second: {}", shown.join(", "));
        cases.push((
            case.name,
            json::object([
                ("speedup", json::number(simulated / cpu)),
                ("events_per_second", json::number(events as f64 / cpu)),
                ("virtual_seconds", json::number(simulated)),
                ("cpu_seconds", json::number(cpu)),
                (
                    "events_per_virtual_second",
                    json::object(kinds.into_iter().map(|(kind, rate)| (kind, json::number(rate)))),
                ),
            ]),
        ));
    }
    if arguments.switch("json") {
        let build = json::text(if cfg!(debug_assertions) { "debug" } else { "release" });
        say!("{}", json::object([("build", build), ("cases", json::object(cases))]));
    }
    Ok(well)
}
