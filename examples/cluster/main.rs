//! Ten nodes over TCP on loopback, in one terminal: who sees whom, live. Keys 0 to 9 kill and revive a node, q quits.
//!
//! `cargo run --release --example cluster` shows the table. With `--json` or `--seconds N`, or without a terminal, a script runs
//! instead: it kills a node, waits until all know, revives it, and waits until all know that. Exit code 0 if it came to its
//! end in time, 1 if not, 2 if the nodes could not be started.
//!
//! Each node is a [`Liveness`](anabranch::Liveness) over a [`TcpPort`](anabranch_tcp::TcpPort): no channels, no stores. To kill one is to drop it
//! without a word, as a process that dies.

mod nodes;
mod screen;
mod script;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser;

use self::nodes::Cluster;

/// Nodes that tell each other who answers, over TCP on loopback.
///
/// In a terminal: a live table; 0 to 9 kill and revive a node, q quits. Else, or with --json or --seconds: a script that kills
/// one and revives it. Exit code 0 if all nodes came to know both in time, 1 if not, 2 if they could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "cluster")]
struct Options {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u8).range(2..=10))]
    nodes: u8,
    /// Run the script, and print nothing but one JSON object
    #[arg(long)]
    json: bool,
    /// Run the script, and give up after so many seconds [default: 60]
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    ExitCode::from(play(&Options::parse()).await)
}

/// Does what was asked, says how it went, and returns the exit code.
async fn play(options: &Options) -> u8 {
    let cluster = match Cluster::start(options.nodes).await {
        Ok(cluster) => cluster,
        Err(error) => {
            let _nobody_reads = writeln!(std::io::stderr(), "cluster: {error}");
            return 2;
        }
    };
    let scripted = options.json || options.seconds.is_some() || !std::io::stdout().is_terminal();
    if scripted {
        return u8::from(!script::run(cluster, options).await);
    }
    match screen::run(cluster).await {
        Ok(()) => 0,
        Err(error) => {
            let _nobody_reads = writeln!(std::io::stderr(), "cluster: {error}");
            2
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use clap::Parser as _;

    use super::{Options, play};

    /// Set in the process that is to be the example.
    const SCRIPT: &str = "ANABRANCH_CLUSTER_SCRIPT";

    #[test]
    fn the_example_in_a_process_of_its_own() {
        let Ok(arguments) = std::env::var(SCRIPT) else { return };
        let options = Options::parse_from(["cluster"].into_iter().chain(arguments.split(' ')));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        std::process::exit(i32::from(runtime.block_on(play(&options))));
    }

    fn run(arguments: &str) -> (Option<i32>, String) {
        let mut example = Command::new(std::env::current_exe().unwrap());
        let example = example.args(["--exact", "tests::the_example_in_a_process_of_its_own", "--nocapture"]);
        let output = example.env(SCRIPT, arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn the_script_kills_one_revives_it_and_all_come_to_know() {
        let (code, printed) = run("--json --seconds 120");
        assert_eq!(code, Some(0), "{printed}");
        let report = printed.lines().rev().find(|line| line.starts_with('{')).expect("a report");
        let report: serde_json::Value = serde_json::from_str(report).unwrap();
        assert_eq!((report["nodes"].as_u64(), report["ok"].as_bool()), (Some(10), Some(true)));
        for time in ["joined_s", "detected_s", "recovered_s"] {
            assert!(report[time].as_f64().is_some_and(|seconds| seconds > 0.0), "{printed}");
        }
    }

    #[test]
    fn a_script_that_is_given_no_time_says_so_by_its_exit_code() {
        let (code, printed) = run("--nodes 3 --json --seconds 0");
        assert_eq!(code, Some(1), "{printed}");
        assert!(printed.contains(r#""ok":false"#), "{printed}");
    }
}
