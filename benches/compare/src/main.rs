//! Anabranch and its peers on identical work, in one run, in turn, several rounds.
//!
//! `cargo run --release -- [--json] [--entries N] [--over N] [--changed N] [--authors N] [--streams N] [--rate N,N]
//! [--live-entries N] [--rounds N] [--only NAME[,NAME…]] [--works NAME[,NAME…]]` in this directory. What is measured, and how,
//! is in the README beside it; what each system does *not* do on this work is printed below the table.
//!
//! Every system runs each round in a process of its own, which this program starts from itself: so processor time and memory
//! are those of that system alone. [`stage`] is what such a process does, [`report`] what is printed.

mod report;
mod stage;
mod systems;

use std::process::{Command, ExitCode, Stdio};

use report::Series;
use systems::{Outcome, SYSTEMS, Spec};

/// The argument that makes this program a process that measures one system.
const STAGE: &str = "--stage";

/// What is run, from the command line.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    json: bool,
    /// Entries of the catch-up.
    entries: usize,
    /// Entries that both sides hold already when the difference is fetched.
    over: usize,
    /// Entries of the difference.
    changed: usize,
    authors: usize,
    /// Streams of the difference: so many logs per author.
    streams: usize,
    /// Appends per second.
    rates: Vec<usize>,
    live_entries: usize,
    rounds: usize,
    only: Vec<String>,
    works: Vec<String>,
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let stage = if words.first().is_some_and(|word| word == STAGE) { Some(words.split_off(4)) } else { None };
    let options = match parse(stage.as_ref().unwrap_or(&words).iter().cloned()) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let outcome = match &stage {
        Some(_) => stage::run(&options, &words[1], &words[2], words[3] == "yes"),
        None => compare(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        json: false,
        entries: 50_000,
        over: 100_000,
        changed: 100,
        authors: 10,
        streams: 100,
        rates: vec![100, 1_000],
        live_entries: 1_000,
        rounds: 3,
        only: Vec::new(),
        works: Vec::new(),
    };
    while let Some(word) = words.next() {
        if word == "--json" {
            options.json = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = |value: &str| value.parse::<usize>().map_err(|_| format!("{value} is not a number"));
        let names = || value.split(',').map(str::to_owned).collect::<Vec<_>>();
        match word.as_str() {
            "--entries" => options.entries = number(&value)?,
            "--over" => options.over = number(&value)?,
            "--changed" => options.changed = number(&value)?,
            // The keys of authors are made from one byte.
            "--authors" => options.authors = number(&value)?.clamp(1, 200),
            "--streams" => options.streams = number(&value)?.max(1),
            "--rate" => options.rates = value.split(',').map(number).collect::<Result<_, _>>()?,
            "--live-entries" => options.live_entries = number(&value)?.max(1),
            "--rounds" => options.rounds = number(&value)?.max(1),
            "--only" => options.only = names(),
            "--works" => options.works = names(),
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(options)
}

fn compare(options: &Options) -> Outcome<()> {
    let mut all: Vec<Series> = Vec::new();
    let chosen: Vec<&Spec> = SYSTEMS
        .iter()
        .filter(|spec| options.only.is_empty() || options.only.iter().any(|name| name == spec.name))
        .collect();
    let wanted = |work: &str| options.works.is_empty() || options.works.iter().any(|name| name == work);
    for round in 0..options.rounds {
        for stage in stage::STAGES.iter().filter(|stage| wanted(stage)) {
            for spec in chosen.iter().filter(|spec| *stage != stage::LIVE || spec.live.is_some()) {
                report::take(&mut all, spec, &apart(options, spec, stage, false)?)?;
                if round == 0 && spec.trips_apart && *stage != stage::LIVE {
                    report::take(&mut all, spec, &apart(options, spec, stage, true)?)?;
                }
            }
        }
    }
    report::print(options, &all, &chosen);
    Ok(())
}

/// What a process prints that measures one system.
fn apart(options: &Options, spec: &Spec, stage: &str, trips: bool) -> Outcome<String> {
    let number = |number: usize| number.to_string();
    let rates: Vec<String> = options.rates.iter().map(|rate| number(*rate)).collect();
    let output = Command::new(std::env::current_exe()?)
        .args([STAGE, spec.name, stage, if trips { "yes" } else { "no" }])
        .args(["--entries", &number(options.entries), "--over", &number(options.over)])
        .args(["--changed", &number(options.changed), "--authors", &number(options.authors)])
        .args(["--streams", &number(options.streams), "--rate", &rates.join(",")])
        .args(["--live-entries", &number(options.live_entries)])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{} failed at {stage}", spec.name).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
