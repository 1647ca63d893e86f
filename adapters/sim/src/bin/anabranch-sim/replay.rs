//! `replay`: one seed in detail.

use std::time::Duration;

use anabranch_sim::notes::{self, Setting};
use anabranch_sim::{Cut, Failure, Seed, attempt, shrink};

use crate::arguments::Arguments;
use crate::run::replay_line;
use crate::{Usage, timeline};

/// Real time for making a failing run smaller.
const SHRINK_TIME: Duration = Duration::from_secs(55);

pub(crate) fn command(arguments: &Arguments) -> Result<bool, Usage> {
    if arguments.text("seed").is_none() {
        return Err(Usage("replay needs --seed S: which run".to_owned()));
    }
    let seed = arguments.number("seed", 0)?;
    let setting = Setting::draw(seed, arguments.nodes()?, arguments.profile()?);
    let mut cut: Cut = match arguments.text("cut") {
        Some(text) => text.parse().map_err(|bad| Usage(format!("--cut: {bad}")))?,
        None => Cut::default(),
    };
    let run = |seed: Seed| -> Result<(), Failure> { notes::run(seed, &setting) };
    say!("seed {seed}: {setting:?}");
    if arguments.switch("shrink")
        && let (Err(failure), _) = attempt(Seed::new(seed).cut(cut.clone()), &run)
    {
        say!("{failure}");
        let shrunk = shrink(&failure, &cut, &run, SHRINK_TIME);
        say!(
            "made smaller in {} runs to {} nodes, {} faults, {} acts\n  {} --cut '{}'",
            shrunk.runs,
            shrunk.nodes,
            shrunk.faults,
            shrunk.work,
            replay_line(arguments, seed),
            shrunk.cut
        );
        cut = shrunk.cut;
    }
    let chosen = Seed::new(seed).cut(cut).recorded(true);
    let (result, report) = attempt(chosen, &run);
    if arguments.switch("events") {
        for event in &report.trace {
            say!("{event}");
        }
    }
    say!("{} events, {:.3} s, trace {}", report.events, report.virtual_nanos as f64 / 1e9, report.hash);
    for (name, count) in &report.faults {
        say!("  {count:>10}  {name}");
    }
    match &result {
        Ok(()) => say!("all is well"),
        Err(failure) => say!("{failure}"),
    }
    if let Some(path) = arguments.text("timeline") {
        let page = timeline::page(seed, setting.nodes, &report, result.as_ref().err());
        std::fs::write(path, page).map_err(|error| Usage(format!("cannot write {path}: {error}")))?;
        say!("timeline: {path}");
    }
    Ok(result.is_ok())
}
