//! From append on one node to the entry on all others, in simulated groups of up to thousands.
//!
//! Links of 10 to 50 ms. Up to a hundred nodes each knows every other; above that, each dials a few others at random
//! (`--degree`), because nobody runs half a million sessions. What a node sends of payload is counted as it says itself
//! (`run_bytes_sent`), in units of what one transmission of the entry takes.

use std::time::Duration;

use anabranch::PeerAddr;
use anabranch::infrastructure::link_profile::{Chance, Delay, LinkProfile};
use anabranch::infrastructure::prng::Prng;
use anabranch_sim::Action;

use crate::measure::{Clocks, quantile};
use crate::nodes::Outcome;
use crate::options::Options;
use crate::row::{Measures, Row};
use crate::simulated::{self, Member};

/// Groups up to this size are connected in full.
const FULL: usize = 100;
/// Time between two appends: what one stirs up is over by then.
const APART: Duration = Duration::from_secs(2);
/// Longest time that an entry may take to reach all.
const LIMIT: Duration = Duration::from_secs(600);
/// Appends from which the group learns its tree, before those that are measured: the first ones go over more links.
const LEARNING: usize = 5;
/// How long a group stays split.
const SPLIT: Duration = Duration::from_secs(60);

pub(crate) fn run(options: &Options) -> Outcome<()> {
    for nodes in &options.nodes {
        for entries in &options.entries {
            once(options, *nodes, *entries, options.seed)?;
        }
    }
    Ok(())
}

fn dials(node: usize, nodes: usize, degree: usize, prng: &mut Prng) -> Vec<PeerAddr> {
    let name = |at: usize| PeerAddr::new(format!("n{at}"));
    if nodes <= FULL {
        return (0..node).map(name).collect();
    }
    // A ring keeps it connected; the rest is drawn.
    let mut peers = vec![name((node + 1) % nodes)];
    while peers.len() < degree {
        let other = prng.below(nodes as u64) as usize;
        if other != node && !peers.contains(&name(other)) {
            peers.push(name(other));
        }
    }
    peers
}

fn once(options: &Options, nodes: usize, entries: usize, seed: u64) -> Outcome<()> {
    let clocks = Clocks::now();
    let profile = LinkProfile {
        loss: Chance::new(options.loss.unwrap_or_default()),
        delay: Delay::Uniform { min: Duration::from_millis(10), max: Duration::from_millis(50) },
        ..LinkProfile::perfect()
    };
    let profile = if options.loss.is_some() { profile } else { profile.reliable() };
    let mut world = simulated::world(seed, profile, true, false);
    let mut prng = Prng::new(seed);
    let mut connected = std::collections::BTreeSet::new();
    for node in 0..nodes {
        let dial = dials(node, nodes, options.degree, &mut prng);
        connected.extend(dial.iter().map(|peer| (format!("n{node}"), peer.as_str().to_owned())));
        simulated::add(&mut world, &format!("n{node}"), dial, Duration::ZERO);
    }
    simulated::settle(&mut world)?;
    let members = simulated::members(&world);
    if members.len() != nodes {
        return Err("a simulated node did not start".into());
    }
    let (_, prepared) = clocks.elapsed();
    let clocks = Clocks::now();
    let (mut times, mut copies, mut bytes, mut wire) = (Vec::new(), Vec::new(), 0, 0);
    let (mut first, mut after_split) = (Vec::new(), Vec::new());
    let appends = LEARNING + entries;
    let splits_at = options.split.then_some(LEARNING + entries / 2);
    for n in 0..appends {
        let learning = n < LEARNING;
        let split = splits_at == Some(n);
        if split {
            divide(&mut world, nodes, Action::Partition);
            world.run_for(SPLIT)?;
        }
        let author = &members[(n * 7_919) % nodes];
        let held: Vec<u64> = members.iter().map(|member| member.stream.len()).collect();
        let (runs, frames) = (run_bytes(&members), simulated::bytes_sent(&members));
        let from = world.now();
        let note = std::rc::Rc::clone(author).note(from.as_nanos() as u64);
        if !world.run(LIMIT, note)? {
            return Err("an append failed".into());
        }
        let (from, apart) = if split {
            world.run_for(SPLIT)?;
            divide(&mut world, nodes, Action::Heal);
            (world.now(), run_bytes(&members) - runs)
        } else {
            (from, 0)
        };
        let mut at = 0;
        world.run_until(LIMIT, |_| {
            while at < nodes && members[at].stream.len() > held[at] {
                at += 1;
            }
            at == nodes
        })?;
        let took = (world.now() - from).as_secs_f64() * 1e3;
        if !(split || learning) {
            times.push(took);
        }
        // Copies that are still under way count, too.
        world.run_for(APART)?;
        let sent = run_bytes(&members) - runs;
        let per_node = |sent: u64| sent as f64 / (ENCODED * (nodes - 1)) as f64;
        let copied = per_node(sent);
        if learning {
            first.push(copied);
            continue;
        }
        if split {
            Row::new("spread")
                .measures(&Measures { entries: 1, ..Measures::default() })
                .count("nodes", nodes as u64)
                .text("what", "appended in a split, everywhere after it")
                .figure("all_ms", took, 1)
                .figure("transmissions_per_node", copied, 3)
                .figure("transmissions_after_healing", per_node(sent - apart), 3)
                .count("seed", seed)
                .print(options.json);
        }
        bytes += simulated::bytes_sent(&members) - frames;
        wire += sent;
        if !split {
            copies.push(copied);
        }
        if splits_at.is_some_and(|at| n > at) {
            after_split.push(copied);
        }
    }
    let (_, cpu) = clocks.elapsed();
    let links = connected.len();
    let measures =
        Measures { entries: (entries * nodes) as u64, cpu_seconds: cpu, bytes, rounds: 0.0, peak_mb: 0.0 };
    let mean = |figures: &[f64]| figures.iter().sum::<f64>() / figures.len().max(1) as f64;
    let row = Row::new("spread")
        .measures(&measures)
        .count("nodes", nodes as u64)
        .figure("all_ms", quantile(&mut times, 1.0), 1)
        .figure("transmissions_per_node", mean(&copies), 3)
        .figure("all_ms_median", quantile(&mut times, 0.5), 1)
        .figure("transmissions_most", quantile(&mut copies, 1.0), 3)
        .figure("transmissions_while_learning", mean(&first), 3)
        .count("appends", entries as u64)
        .count("links", links as u64)
        .count("seed", seed)
        .count("run_bytes", wire)
        .figure("loss", options.loss.unwrap_or_default(), 3)
        .figure("preparation_cpu_seconds", prepared, 2);
    let row =
        if options.split { row.figure("transmissions_after_a_split", mean(&after_split), 3) } else { row };
    row.print(options.json);
    Ok(())
}

/// Bytes of one entry of the usual payload as it is sent alone: its stamp in full.
const ENCODED: usize = crate::nodes::PAYLOAD + 11;

fn run_bytes(members: &[std::rc::Rc<Member>]) -> u64 {
    members.iter().map(|member| member.node.metrics().run_bytes_sent).sum()
}

/// Does something to every pair across the middle.
fn divide(world: &mut anabranch_sim::World<Member>, nodes: usize, action: impl Fn(usize, usize) -> Action) {
    for a in 0..nodes / 2 {
        for b in nodes / 2..nodes {
            world.fault(&action(a, b));
        }
    }
}
