//! What a user sees who hands over something unusable: one line on standard error, exit code 2, nothing overwritten.
//!
//! Cargo builds an example under test as a test program only, so that program is run again as the example.

use std::fs;
use std::path::Path;
use std::process::Command;

use clap::Parser as _;
use tempfile::TempDir;

use crate::options::Options;

/// Set in the process that is to be the example: its arguments, one per line.
const ARGUMENTS: &str = "COLLABORATE_ARGUMENTS";

const SMALL_TRACE: &str = r#"{"endContent":"ab","numAgents":2,"txns":[
    {"parents":[],"agent":0,"patches":[[0,0,"a"]]},{"parents":[0],"agent":1,"patches":[[1,0,"b"]]}]}"#;

#[test]
fn the_example_in_a_process_of_its_own() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let options = Options::parse_from(["collaborate"].into_iter().chain(arguments.lines()));
    std::process::exit(i32::from(crate::play(&options)));
}

/// Exit code and lines on standard error.
fn collaborate(arguments: &[&str]) -> (Option<i32>, Vec<String>) {
    let mut example = Command::new(std::env::current_exe().unwrap());
    let example = example.args(["--exact", "bad_input::the_example_in_a_process_of_its_own", "--nocapture"]);
    let output = example.env(ARGUMENTS, arguments.join("\n")).output().unwrap();
    let lines = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), lines.lines().map(str::to_owned).collect())
}

/// Runs it, expects a refusal, and returns the line that says why.
fn refusal(arguments: &[&str]) -> String {
    let (code, mut lines) = collaborate(arguments);
    assert_eq!((code, lines.len()), (Some(2), 1), "{arguments:?}: {lines:#?}");
    lines.remove(0)
}

/// Every file below `dir` with its contents.
fn contents(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

#[test]
fn a_missing_or_broken_trace_is_named_in_one_line_and_no_directory_is_made() {
    let place = TempDir::new().unwrap();
    let trace = place.path().join("trace.json");
    let data = place.path().join("data");
    let arguments = ["--trace", trace.to_str().unwrap(), "--data-dir", data.to_str().unwrap(), "--json"];
    let why = refusal(&arguments);
    assert!(why.starts_with("collaborate: ") && why.contains("trace.json"), "{why}");
    let broken: [&[u8]; 6] = [
        b"",
        b"not a trace",
        b"{}",
        &SMALL_TRACE.as_bytes()[..60],
        b"\x1f\x8b\x08\x00not a gzip file",
        br#"{"endContent":"","numAgents":1,"txns":[{"parents":[],"agent":0,"patches":[[7,1,""]]}]}"#,
    ];
    for broken in broken {
        fs::write(&trace, broken).unwrap();
        let why = refusal(&arguments);
        assert!(why.starts_with("collaborate: ") && why.contains("trace.json"), "{why}");
    }
    assert!(!data.exists(), "nothing is made for an input that cannot be used");
}

#[test]
fn an_occupied_data_directory_stays_as_it_is_also_if_it_is_that_of_an_earlier_run() {
    let place = TempDir::new().unwrap();
    let (trace, data, file) =
        (place.path().join("trace.json"), place.path().join("data"), place.path().join("precious"));
    fs::write(&trace, SMALL_TRACE).unwrap();
    fs::write(&file, "do not touch").unwrap();
    let run = |data: &Path| {
        let (trace, data) = (trace.to_str().unwrap().to_owned(), data.to_str().unwrap().to_owned());
        ["--trace".to_owned(), trace, "--data-dir".to_owned(), data, "--json".to_owned()]
    };
    let (code, lines) = collaborate(&run(&data).each_ref().map(String::as_str));
    assert_eq!(code, Some(0), "{lines:#?}");
    let before = contents(place.path());
    assert!(before.iter().any(|(path, _)| path.starts_with(&data)), "the stores are kept");
    for occupied in [&data, &file, &place.path().to_owned()] {
        let arguments = run(occupied);
        let why = refusal(&arguments.each_ref().map(String::as_str));
        assert!(why.starts_with("collaborate: ") && why.contains(occupied.to_str().unwrap()), "{why}");
        assert!(contents(place.path()) == before, "something was changed");
    }
}
