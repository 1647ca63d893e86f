//! `swim`: what liveness costs, how often it errs, and how soon it knows.

use std::time::Duration;

use anabranch_sim::swim::{Measured, Ours, Plan, Scenario, Trouble, measure, trouble};

use crate::arguments::Arguments;
use crate::{Usage, json};

/// Nodes at most: each knows all others, which takes memory in the square of them.
const MOST_NODES: usize = 4_096;
/// Crashes per seed, unless told otherwise.
const CRASHES: u64 = 3;

pub(crate) fn command(arguments: &Arguments) -> Result<bool, Usage> {
    let nodes = *arguments.nodes_up_to(MOST_NODES)?.end();
    let loss = match arguments.text("loss") {
        Some(text) => {
            let bad = || Usage(format!("--loss: not a share or percentage: {text:?}"));
            let (number, percent) = text.strip_suffix('%').map_or((text, false), |number| (number, true));
            let share: f64 = number.parse().map_err(|_| bad())?;
            let share = if percent { share / 100.0 } else { share };
            if (0.0..1.0).contains(&share) { share } else { return Err(bad()) }
        }
        None => 0.0,
    };
    if let Some(name) = arguments.text("scenario") {
        return in_trouble(arguments, name, nodes, loss);
    }
    let seeds = arguments.seeds(3)?;
    let plan = Plan {
        nodes,
        loss,
        seed: *seeds.start(),
        time: Duration::from_secs(arguments.count("minutes", 10)?.saturating_mul(60)),
        pause: Duration::from_secs(arguments.number("pause", 0)?),
        crashes: usize::try_from(arguments.number("crashes", CRASHES)?).unwrap_or(usize::MAX),
    };
    let run = match arguments.text("engine").unwrap_or("anabranch") {
        "anabranch" => measure::<Ours>,
        #[cfg(feature = "foca")]
        "foca" => measure::<anabranch_sim::swim::Baseline>,
        other => return Err(Usage(format!("--engine: anabranch, or foca with that feature, not {other:?}"))),
    };
    let mut total = Measured::default();
    for seed in seeds {
        let one = run(&Plan { seed, ..plan });
        if !arguments.switch("json") {
            say!(
                "seed {seed}: joined in {:.1} s, {:.3} messages and {:.1} bytes per node and second, {} false, all knew after {:?} s",
                one.joined,
                one.frames as f64 / one.node_seconds,
                one.bytes as f64 / one.node_seconds,
                one.false_unreachable,
                one.all
            );
        }
        total.frames += one.frames;
        total.bytes += one.bytes;
        total.node_seconds += one.node_seconds;
        total.false_unreachable += one.false_unreachable;
        total.processor += one.processor;
        total.joined = total.joined.max(one.joined);
        total.first.extend(one.first);
        total.all.extend(one.all);
    }
    say!(
        "{}",
        json::object([
            ("nodes", nodes.to_string()),
            ("loss", json::number(loss)),
            ("messages_per_node_s", json::number(total.frames as f64 / total.node_seconds)),
            ("bytes_per_node_s", json::number(total.bytes as f64 / total.node_seconds)),
            ("false_unreachable", total.false_unreachable.to_string()),
            ("detect_first_s", json::number(median(&mut total.first))),
            ("detect_all_s", json::number(median(&mut total.all))),
            ("cpu_us_per_node_s", json::number(total.processor * 1e6 / total.node_seconds)),
        ])
    );
    Ok(total.joined.is_finite())
}

/// Groups in trouble of one kind.
fn in_trouble(arguments: &Arguments, name: &str, nodes: usize, loss: f64) -> Result<bool, Usage> {
    let known = Scenario::ALL.iter().find(|(other, _)| *other == name);
    let Some((_, scenario)) = known else {
        let names: Vec<&str> = Scenario::ALL.iter().map(|(name, _)| *name).collect();
        return Err(Usage(format!("--scenario: one of {}, not {name:?}", names.join(", "))));
    };
    let run: fn(Scenario, usize, f64, u64) -> Trouble = match arguments.text("engine").unwrap_or("anabranch")
    {
        "anabranch" => trouble::<Ours>,
        #[cfg(feature = "foca")]
        "foca" => trouble::<anabranch_sim::swim::Baseline>,
        other => return Err(Usage(format!("--engine: anabranch, or foca with that feature, not {other:?}"))),
    };
    let (mut verdicts, mut flips, mut healed) = (0, 0.0f64, Vec::new());
    for seed in arguments.seeds(3)? {
        let one = run(*scenario, nodes, loss, seed);
        verdicts += one.false_unreachable;
        flips = flips.max(one.flips_per_minute);
        healed.push(one.healed);
    }
    let worst = healed.iter().copied().fold(0.0, f64::max);
    say!(
        "{}",
        json::object([
            ("scenario", json::text(name)),
            ("nodes", nodes.to_string()),
            ("loss", json::number(loss)),
            ("false_unreachable", verdicts.to_string()),
            ("flips_per_minute", json::number(flips)),
            ("healed_s", json::number(median(&mut healed))),
            ("healed_worst_s", json::number(worst)),
        ])
    );
    Ok(worst.is_finite())
}

/// The middle value; not a number if there is none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
