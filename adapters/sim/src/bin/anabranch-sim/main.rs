//! The simulator as a tool: many seeds, replays with a timeline, determinism, speed.
//!
//! `anabranch-sim help` lists the commands. Exit codes: 0 all is well, 1 a run failed, 2 the command line is wrong, 3 nobody
//! read the output to its end.

/// As `println!`, but ends the tool where nobody reads on, as in `replay --events | head`.
macro_rules! say {
    ($($text:tt)*) => {
        crate::say(format_args!($($text)*))
    };
}

mod arguments;
mod bench;
mod checkout;
mod determinism;
mod json;
mod mutants;
mod replay;
mod run;
mod swim;
mod timeline;

use std::fmt::Arguments as Text;
use std::io::Write as _;
use std::process::ExitCode;

use arguments::Arguments;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
anabranch-sim COMMAND [OPTIONS]

Options are --name value or --name=value, each at most once. help prints this.

  run                 many seeds; one line for each that fails
      --seeds N         how many (100)
      --start S         the first (0)
      --nodes A..B      nodes per run, drawn (3..5), at most 256
      --profile NAME    swarm, calm, all, network, process, disk, clock, identity,
                        hostile (swarm)
      --jobs N          threads, one run each at a time (1), at most 256
      --hashes          print the hash of each run
      --require N       fail unless every kind of fault was reached so often
      --json            the last line is one object
  replay              one seed, in detail
      --seed S          which (must be given)
      --cut TEXT        what to leave out, as a replay line says
      --nodes, --profile as for run
      --events          print every event
      --shrink          make it smaller first, if it fails
      --timeline FILE   write a page that shows it: states, frames, faults
      --mutant NAME     with this planted bug, as for run (needs --cfg anabranch_mutants)
  check-determinism   each seed twice in separate processes, and in the other build
      --seeds N (20), --start S, --nodes, --profile
      --no-build        do not build what is missing (to build it, call this in the checkout)
  mutants             would it find a bug? plants them one at a time (call this in the checkout)
      --seconds N       real time for each (600)
      --only A,B        these only
      --state FILE      what was found out so far; goes on from there
      --start S, --nodes, --profile as for run, --json
  bench               speed, per core
      --case N (all), --seconds S of virtual time (as long as takes two of real time)
      --json            the last line is one object
  swim                liveness alone: what it costs, how often it errs, how soon it knows
      --nodes N (5, at most 4096), --loss P (0; also 10%), --seeds K (3), --start S, --minutes M (10)
      --crashes C       per seed, after the quiet stretch (3)
      --pause SECONDS   each minute one node does not run for so long
      --scenario NAME   instead: pause, one-way, flip-link, flip-node, restart, split
      --engine NAME     anabranch, or foca if built with that feature
      --json            print nothing but the last line, which is one object in any case
";

/// Which options each command has.
const OPTIONS: [(&str, &str); 6] = [
    ("run", "seeds start nodes profile jobs hashes require json mutant"),
    ("replay", "seed cut nodes profile events shrink timeline mutant"),
    ("check-determinism", "seeds start nodes profile no-build"),
    ("mutants", "seconds only state start nodes profile json"),
    ("bench", "case seconds json"),
    ("swim", "nodes loss seeds start minutes crashes pause scenario engine json"),
];

/// A mistake of whoever called.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

/// Exit code where nobody reads on: what was not read may be a failure.
const NOT_READ: i32 = 3;

fn say(text: Text<'_>) {
    if writeln!(std::io::stdout().lock(), "{text}").is_err() {
        std::process::exit(NOT_READ);
    }
}

fn main() -> ExitCode {
    match called() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(Usage(what)) => {
            eprintln!("{what}");
            ExitCode::from(2)
        }
    }
}

fn called() -> Result<bool, Usage> {
    let words = std::env::args_os()
        .skip(1)
        .map(|word| word.into_string().map_err(|word| Usage(format!("not UTF-8: {word:?}"))));
    let words: Vec<String> = words.collect::<Result<_, _>>()?;
    let Some((command, words)) = words.split_first() else {
        return Err(Usage(HELP.trim_end().to_owned()));
    };
    if ["help", "--help", "-h"].contains(&command.as_str()) {
        return help();
    }
    let arguments = Arguments::parse(words.iter().cloned())?;
    if arguments.switch("help") {
        return help();
    }
    mutants::plant(&arguments)?;
    dispatch(command, &arguments)
}

fn help() -> Result<bool, Usage> {
    say!("{}", HELP.trim_end());
    Ok(true)
}

fn dispatch(command: &str, arguments: &Arguments) -> Result<bool, Usage> {
    if let Some((_, known)) = OPTIONS.iter().find(|(name, _)| *name == command) {
        arguments.only(command, known)?;
    }
    match command {
        "run" => run::command(arguments),
        "replay" => replay::command(arguments),
        "check-determinism" => determinism::command(arguments),
        "mutants" => mutants::command(arguments),
        "bench" => bench::command(arguments),
        "swim" => swim::command(arguments),
        other => Err(Usage(format!("no such command: {other:?}; anabranch-sim help lists them"))),
    }
}
