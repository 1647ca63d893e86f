//! The tool as it is called: what it refuses, and what a calm run counts.

#![allow(clippy::unwrap_used, reason = "a call either goes as planned or the test has nothing to say")]

use std::process::{Command, Output, Stdio};

fn tool(words: &str) -> Command {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_anabranch-sim"));
    tool.args(words.split(' '));
    tool
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "it began: {output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_wrong_command_line_is_refused_with_what_is_wrong() {
    for (words, what) in [
        ("run --seeds 0", "--seeds: at least 1"),
        ("check-determinism --seeds 0", "--seeds: at least 1"),
        ("swim --seeds 0", "--seeds: at least 1"),
        ("run --jobs 0", "--jobs: at least 1"),
        ("run --jobs 257", "at most 256"),
        ("run --start 18446744073709551614 --seeds 5", "no such seeds"),
        ("check-determinism --start 18446744073709551614 --seeds 5", "no such seeds"),
        ("run --nodes 99999999", "--nodes 99999999: at most 256"),
        ("replay --seed 1 --nodes 0", "--nodes"),
        ("swim --nodes 99999999", "at most 4096"),
        ("bench --case 99", "--case: 1 to 4"),
        ("bench --case 0", "--case: at least 1"),
        ("bench --seconds 0", "--seconds: at least 1"),
        ("mutants --only StampsRepeat,Nobody", "no such planted bug: \"Nobody\""),
        ("mutants --seconds 0", "--seconds: at least 1"),
        ("replay", "--seed"),
        ("replay --seed", "--seed needs a value"),
        ("run --sedes 5", "run has no option --sedes"),
        ("run --profile stormy", "no such profile"),
        ("run --seeds 3 --seeds 4", "--seeds was given twice"),
        ("run --seeds=3 --seeds 4", "--seeds was given twice"),
        ("run --seeds= --jobs 2", "--seeds: not a number"),
        ("run --seeds --json", "--seeds needs a value"),
        ("run --json=yes", "--json takes no value"),
        ("run 5", "options begin with --"),
        ("walk --seeds 3", "no such command: \"walk\""),
        ("replay --seed 1 --cut w=0-18446744073709551615", "not a cut"),
        ("replay --seed 1 --cut w=5-3", "not a cut"),
    ] {
        let said = refused(&tool(words).output().unwrap());
        assert!(said.contains(what) && said.trim_end().lines().count() == 1, "{words}: {said}");
    }
}

#[test]
fn help_is_printed_where_it_is_asked_for_and_where_nothing_is() {
    let help = tool("help").output().unwrap();
    assert!(help.status.success() && help.stdout.starts_with(b"anabranch-sim COMMAND"), "{help:?}");
    for words in ["--help", "-h", "run --help", "replay -h", "bench --json --help", "help run"] {
        let output = tool(words).output().unwrap();
        assert_eq!((output.status.code(), &output.stdout), (Some(0), &help.stdout), "{words}");
    }
    let nothing = Command::new(env!("CARGO_BIN_EXE_anabranch-sim")).output().unwrap();
    assert_eq!(refused(&nothing).as_bytes(), help.stdout);
}

#[test]
fn the_last_seed_of_all_can_be_run() {
    let output = tool("run --start=18446744073709551615 --seeds=1 --profile=calm --hashes").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.starts_with(b"seed 18446744073709551615 trace "));
}

#[test]
fn faults_that_were_never_reached_are_named_before_the_object_that_ends_the_output() {
    let output = tool("run --seeds 1 --profile clock --require 1 --json").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("NEVER  torn_write\n"), "{said}");
    assert!(
        said.contains("the fault \"torn_write\" was reached 0 times: fewer than --require 1\n"),
        "{said}"
    );
    let last = said.lines().last().unwrap();
    assert!(last.starts_with('{') && last.ends_with('}') && last.contains("\"trace_hash\":"), "{last}");
}

#[test]
fn what_builds_from_source_says_so_outside_of_it() {
    for command in ["check-determinism", "mutants"] {
        let said = refused(&tool(command).current_dir(std::env::temp_dir()).output().unwrap());
        assert!(said.contains("source checkout"), "{said}");
    }
}

#[test]
fn it_ends_quietly_where_nobody_reads_on() {
    let mut tool = tool("replay --seed 1 --events");
    let mut child = tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(3), ""));
}

#[test]
fn a_calm_run_counts_no_fault() {
    let output = tool("run --seeds 24 --profile calm --json").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.lines().last().unwrap().contains("\"faults\":{},"), "{said}");
    let faults = said.split("faults:\n").nth(1).and_then(|rest| rest.split("situations:").next());
    assert_eq!(faults, Some(""), "nothing to expect, nothing to miss");
}

#[test]
fn the_page_of_a_replay_is_written_where_it_was_asked_for() {
    let path = std::env::temp_dir().join(format!("anabranch-sim-page-{}.html", std::process::id()));
    let output = tool("replay --seed 12 --profile process --timeline").arg(&path).output().unwrap();
    let page = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(page.starts_with("<!doctype html>") && page.contains("const D={\"seed\":12,"));
}
