//! Groups in trouble: what becomes of statuses, and how soon all is well again.
//!
//! Called by `anabranch-sim swim --scenario`. Knows no engine.

use std::time::Duration;

use super::group::{Engine, Group, Network, View};

const SECOND: u64 = 1_000_000_000;
/// Longest wait until all know each other, at the beginning and after the trouble.
const LIMIT: Duration = Duration::from_secs(300);

/// A kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// A fifth of all nodes does not run for 30 s.
    Pause,
    /// Nothing passes from one node to another for ten minutes; all else does.
    OneWay,
    /// The link of two nodes comes and goes every 20 s, for ten minutes.
    FlipLink,
    /// All links of one node do.
    FlipNode,
    /// All nodes restart in the same moment.
    Restart,
    /// Half of the nodes hears nothing of the other half for an hour.
    Split,
}

impl Scenario {
    /// All of them, with the names that they are called by.
    pub const ALL: [(&str, Self); 6] = [
        ("pause", Self::Pause),
        ("one-way", Self::OneWay),
        ("flip-link", Self::FlipLink),
        ("flip-node", Self::FlipNode),
        ("restart", Self::Restart),
        ("split", Self::Split),
    ];
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trouble {
    /// Verdicts against nodes that nothing was done to, by nodes that nothing was done to.
    pub false_unreachable: u64,
    /// Changes of status per minute, of whoever changed most often in one node's eyes.
    pub flips_per_minute: f64,
    /// Seconds until everybody knew everybody, once the trouble was over; infinite if that took minutes.
    pub healed: f64,
}

fn is_closed(now: u64) -> bool {
    (now / SECOND / 20).is_multiple_of(2)
}

/// Gets a group of `nodes` into trouble and out of it.
pub fn trouble<E: Engine>(scenario: Scenario, nodes: usize, loss: f64, seed: u64) -> Trouble {
    let mut group = Group::<E>::new(nodes, seed, Network::new(loss));
    for node in 1..nodes {
        group.join(node, &[0]);
    }
    let _ = group.run_while(LIMIT, |group| group.estranged() > 0);
    group.run(Duration::from_secs(30));
    let (verdicts, flips) = (group.false_verdicts.len(), group.flips.len());
    let began = group.now();
    let mut lasts = Duration::from_secs(600);
    match scenario {
        Scenario::Pause => {
            lasts = Duration::from_secs(30);
            (0..nodes / 5).for_each(|node| group.pause(node, lasts));
        }
        Scenario::OneWay => group.network.cut = Box::new(|from, to, _| (from, to) == (1, 2)),
        Scenario::FlipLink => {
            group.network.cut =
                Box::new(|from, to, now| is_closed(now) && from.min(to) == 1 && from.max(to) == 2);
        }
        Scenario::FlipNode => {
            group.excused[1] = true;
            group.network.cut = Box::new(|from, to, now| is_closed(now) && (from == 1 || to == 1));
        }
        Scenario::Restart => {
            lasts = Duration::ZERO;
            (0..nodes).for_each(|node| group.crash(node));
            (0..nodes).for_each(|node| group.start(node));
            (0..nodes).for_each(|node| group.join(node, &[0, 1, 2]));
        }
        Scenario::Split => {
            lasts = Duration::from_secs(3600);
            let half = nodes / 2;
            group.excused.fill(true);
            group.network.cut = Box::new(move |from, to, _| (from < half) != (to < half));
        }
    }
    group.run(lasts);
    let minutes = ((group.now() - began) as f64 / SECOND as f64 / 60.0).max(1.0);
    let mut changes = std::collections::BTreeMap::new();
    for (by, of, _, _) in &group.flips[flips..] {
        *changes.entry((*by, *of)).or_insert(0u32) += 1;
    }
    let most = changes.values().copied().max().unwrap_or(0);
    group.network.cut = Box::new(|_, _, _| false);
    let up = |group: &Group<E>| {
        let all = 0..group.len();
        all.clone().all(|a| all.clone().all(|b| a == b || group.view(a, b) == View::Up))
    };
    let healed = group.run_while(LIMIT, |group| !up(group));
    Trouble {
        false_unreachable: (group.false_verdicts.len() - verdicts) as u64,
        flips_per_minute: f64::from(most) / minutes,
        healed: healed.map_or(f64::INFINITY, |time| time.as_secs_f64()),
    }
}
