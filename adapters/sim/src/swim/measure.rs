//! One measurement: a quiet stretch, then crashes.
//!
//! Rates and false verdicts count from the moment at which everybody knew everybody for a while; what joining costs is
//! reported apart.

use std::time::Duration;

use anabranch::infrastructure::prng::Prng;

use super::group::{Engine, Group, Network, View};

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Nodes.
    pub nodes: usize,
    /// Share of frames lost.
    pub loss: f64,
    /// The seed.
    pub seed: u64,
    /// Length of the quiet stretch.
    pub time: Duration,
    /// Each minute one node does not run for this long, if it is not zero.
    pub pause: Duration,
    /// Crashes after the quiet stretch, one at a time.
    pub crashes: usize,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Frames sent in the quiet stretch.
    pub frames: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Nodes times seconds of the quiet stretch.
    pub node_seconds: f64,
    /// Verdicts against nodes that ran, by anybody.
    pub false_unreachable: u64,
    /// Per crash: seconds until the first knew.
    pub first: Vec<f64>,
    /// Per crash: seconds until all knew; infinite if some did not within two minutes.
    pub all: Vec<f64>,
    /// Processor time of the quiet stretch in seconds, simulator included.
    pub processor: f64,
    /// Seconds until everybody knew everybody; infinite if that never came.
    pub joined: f64,
}

/// Longest wait until all know each other.
const JOIN_LIMIT: Duration = Duration::from_secs(300);
/// After that, before counting begins: news of the joining dies down.
const SETTLE: Duration = Duration::from_secs(60);
/// Longest wait for all to know of a crash.
const CRASH_LIMIT: Duration = Duration::from_secs(120);

/// Runs a plan.
pub fn measure<E: Engine>(plan: &Plan) -> Measured {
    let mut group = Group::<E>::new(plan.nodes, plan.seed, Network::new(plan.loss));
    let mut prng = Prng::part(plan.seed, 2);
    for node in 1..plan.nodes {
        let seeds = if node < 3 { vec![0] } else { vec![0, 1, 2] };
        group.join(node, &seeds);
    }
    let joined = group.run_while(JOIN_LIMIT, |group| group.estranged() > 0);
    group.run(SETTLE);
    let mut measured =
        Measured { joined: joined.map_or(f64::INFINITY, |time| time.as_secs_f64()), ..Measured::default() };
    let (frames, bytes, verdicts) = (group.frames, group.bytes, group.false_verdicts.len());
    let began = processor();
    let end = group.now() + plan.time.as_nanos() as u64;
    while group.now() < end {
        if !plan.pause.is_zero() {
            let node = prng.below(plan.nodes as u64) as usize;
            group.pause(node, plan.pause);
        }
        let left = Duration::from_nanos(end - group.now());
        group.run(left.min(Duration::from_secs(60)));
    }
    measured.processor = processor() - began;
    measured.frames = group.frames - frames;
    measured.bytes = group.bytes - bytes;
    measured.node_seconds = plan.nodes as f64 * plan.time.as_secs_f64();
    measured.false_unreachable = (group.false_verdicts.len() - verdicts) as u64;
    // Whoever was unjustly given up is back by now, or nothing that follows would mean anything.
    let mut victims: Vec<usize> = (0..plan.nodes).collect();
    for _ in 0..plan.crashes {
        if victims.len() < 3 {
            break;
        }
        let victim = victims.swap_remove(prng.below(victims.len() as u64) as usize);
        group.run(Duration::from_nanos(prng.below(1_000_000_000)));
        let crashed = group.now();
        group.crash(victim);
        let survivors: Vec<usize> = victims.clone();
        let knows =
            |group: &Group<E>| survivors.iter().filter(|node| group.view(**node, victim) != View::Up).count();
        let _ = group.run_while(CRASH_LIMIT, |group| knows(group) < survivors.len());
        let complete = knows(&group) == survivors.len();
        let times = group.flips.iter().filter(|(_, of, at, down)| *of == victim && *at >= crashed && *down);
        let times: Vec<f64> = times.map(|(_, _, at, _)| (*at - crashed) as f64 / 1e9).collect();
        measured.first.push(times.iter().copied().fold(f64::INFINITY, f64::min));
        let last = times.iter().copied().fold(0.0, f64::max);
        measured.all.push(if complete { last } else { f64::INFINITY });
        group.run(Duration::from_secs(20));
    }
    measured
}

/// Seconds that this thread ran, as far as the system tells; else as the wall says.
fn processor() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|told| told.split_whitespace().next()?.parse::<u64>().ok());
    #[allow(clippy::disallowed_methods, reason = "a measurement of real time, outside the simulation")]
    let wall = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    nanos.map_or_else(|| wall().as_secs_f64(), |nanos| nanos as f64 / 1e9)
}
