//! `check-determinism`: the same seeds in separate processes and in the other build, event by event.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::arguments::Arguments;
use crate::{Usage, checkout};

struct Runner<'a> {
    arguments: &'a Arguments,
    program: PathBuf,
    name: &'static str,
}

impl Runner<'_> {
    fn call(&self, words: &[String]) -> Result<String, Usage> {
        let mut command = Command::new(&self.program);
        command.args(words);
        for option in ["nodes", "profile"] {
            if let Some(value) = self.arguments.text(option) {
                command.arg(format!("--{option}")).arg(value);
            }
        }
        let output = command.output();
        let output =
            output.map_err(|error| Usage(format!("cannot run {}: {error}", self.program.display())))?;
        if output.status.code().is_none_or(|code| code > 1) {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Usage(format!("{} failed: {said}", self.program.display())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn hashes(&self, start: u64, seeds: u64) -> Result<Vec<String>, Usage> {
        let words = ["run", "--hashes", "--start", &start.to_string(), "--seeds", &seeds.to_string()];
        let said = self.call(&words.map(str::to_owned))?;
        Ok(said
            .lines()
            .filter(|line| line.starts_with("seed ") && line.contains(" trace "))
            .map(str::to_owned)
            .collect())
    }

    fn events(&self, seed: u64) -> Result<Vec<String>, Usage> {
        let said = self.call(&["replay", "--events", "--seed", &seed.to_string()].map(str::to_owned))?;
        Ok(said.lines().map(str::to_owned).collect())
    }
}

pub(crate) fn command(arguments: &Arguments) -> Result<bool, Usage> {
    let seeds = arguments.seeds(20)?;
    let (start, seeds) = (*seeds.start(), seeds.end() - seeds.start() + 1);
    arguments.nodes()?;
    arguments.profile()?;
    let build = !arguments.switch("no-build");
    if build {
        checkout::needed("check-determinism", ", or with --no-build to compare what is built")?;
    }
    let own = std::env::current_exe().map_err(|error| Usage(error.to_string()))?;
    let runner = |program: PathBuf, name| Runner { arguments, program, name };
    let first = runner(own.clone(), "this build");
    let mut others = vec![runner(own.clone(), "this build, again")];
    if let Some(other) = other_build(&own, build)? {
        others.push(runner(other, "the other build"));
    }
    let expected = first.hashes(start, seeds)?;
    let mut equal = expected.len() as u64 == seeds;
    for other in &others {
        let found = other.hashes(start, seeds)?;
        let differing = expected.iter().zip(&found).position(|(a, b)| a != b);
        match differing {
            None if found.len() == expected.len() => say!("{}: {seeds} seeds alike", other.name),
            differing => {
                equal = false;
                let seed = start + differing.unwrap_or_default() as u64;
                say!("{}: seed {seed} differs", other.name);
                first_difference(&first, other, seed)?;
            }
        }
    }
    if others.len() < 2 {
        say!("the other build is missing: compared within this one only");
    }
    Ok(equal)
}

fn first_difference(a: &Runner<'_>, b: &Runner<'_>, seed: u64) -> Result<(), Usage> {
    let (of_a, of_b) = (a.events(seed)?, b.events(seed)?);
    let at = of_a.iter().zip(&of_b).position(|(a, b)| a != b).unwrap_or(of_a.len().min(of_b.len()));
    let show = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "(nothing)".to_owned());
    say!(
        "  first diverging event, number {at}\n  {}: {}\n  {}: {}",
        a.name,
        show(&of_a),
        b.name,
        show(&of_b)
    );
    Ok(())
}

/// The same program from the debug build if this is the release build, and the other way round.
fn other_build(own: &Path, build: bool) -> Result<Option<PathBuf>, Usage> {
    let (Some(directory), Some(name)) = (own.parent(), own.file_name()) else { return Ok(None) };
    let release = directory.file_name().is_some_and(|name| name == "release");
    let Some(target) = directory.parent() else { return Ok(None) };
    let other = target.join(if release { "debug" } else { "release" }).join(name);
    if build {
        eprintln!(
            "building the {} build, to compare with: this takes minutes if it is not there yet",
            if release { "debug" } else { "release" }
        );
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--quiet", "-p", "anabranch-sim", "--bin", "anabranch-sim"]);
        if cfg!(feature = "compression") {
            // Whether nodes compress is part of what a seed decides.
            cargo.args(["--features", "compression"]);
        }
        if !release {
            cargo.arg("--release");
        }
        let status = cargo.env("CARGO_TARGET_DIR", target).status();
        let status = status.map_err(|error| Usage(format!("cannot run cargo: {error}")))?;
        if !status.success() {
            return Err(Usage("the other build failed".to_owned()));
        }
    }
    Ok(other.exists().then_some(other))
}
