//! Replays a recorded collaboration on devices that go offline, come back and meet.
//!
//! `cargo run --release --example collaborate` takes a real session, three authors and 23,136 keystrokes typed
//! at the same time (`data/README.md`), and gives each author a device. Read in this order: `trace.rs` (the
//! recording), `text.rs` (edits become payloads, entries become text), `plan.rs` (who is offline when, who may
//! write next), `device.rs` (what the library does), `replay.rs` (the run and the comparison), `display.rs` (what
//! is shown).
//!
//! Exit code 0 if every text matches, 1 if not, 2 if the input cannot be used: one line says why, and nothing
//! was overwritten.
#[cfg(test)]
mod bad_input;
mod device;
mod display;
mod lossy;
mod options;
mod plan;
mod replay;
mod rng;
mod text;
mod trace;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anabranch::MemoryStore;
use clap::Parser as _;

use crate::device::{Common, Directory, Place};
use crate::display::Display;
use crate::options::{DataDir, DataDirError, Options, StoreKind};
use crate::replay::{DeviceFault, Report};
use crate::text::OutsideDocument;
use crate::trace::{Trace, TraceError};

/// Everything matched.
const EXIT_GOOD: u8 = 0;
/// The input was fine, but the result is not what was recorded.
const EXIT_MISMATCH: u8 = 1;
/// The input cannot be used.
const EXIT_BAD_INPUT: u8 = 2;
/// A run in which nothing new comes for so long has failed: longer than any back-off of the library in a group
/// of devices on one computer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The input cannot be used. Nothing that was there was changed.
#[derive(Debug, thiserror::Error)]
enum BadInput {
    #[error("{0}: {1}")]
    Trace(String, #[source] TraceError),
    #[error("{0}: {1}")]
    Positions(String, #[source] OutsideDocument),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("cannot open the devices: {0}")]
    Devices(DeviceFault),
}

fn main() -> ExitCode {
    ExitCode::from(play(&Options::parse()))
}

/// Does what was asked, says how it went, and returns the exit code.
fn play(options: &Options) -> u8 {
    let report = match run(options) {
        Ok(report) => report,
        Err(fault) => {
            eprintln!("collaborate: {fault}");
            return EXIT_BAD_INPUT;
        }
    };
    if let Some(fault) = &report.fault {
        eprintln!("collaborate: {fault}");
    }
    let Report { outcome, devices, fault } = report;
    let text = if options.json { outcome.json() } else { outcome.table(&devices) };
    // Whoever closed the pipe does not want to read it; the exit code says it all.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    if fault.is_none() && outcome.is_good() { EXIT_GOOD } else { EXIT_MISMATCH }
}

/// Checks everything that can be checked, then plays.
fn run(options: &Options) -> Result<Report, BadInput> {
    let shown = || options.trace.display().to_string();
    let trace = Trace::read(&options.trace).map_err(|fault| BadInput::Trace(shown(), fault))?;
    let payloads = text::record(&trace).map_err(|fault| BadInput::Positions(shown(), fault))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|fault| BadInput::Devices(fault.into()))?;
    let dir = match (options.store, options.data_dir.as_deref()) {
        (StoreKind::Memory, None) => None,
        (_, given) => Some(DataDir::claim(given)?),
    };
    runtime.block_on(async {
        let places = places(options.store, trace.agents, dir.as_ref().map(DataDir::path));
        let directory = Arc::new(Directory::default());
        let common = Common { start: trace.start.as_str().into(), loss: options.loss, seed: options.seed };
        let devices = match places {
            Ok(places) => device::open_all(places, &common, &directory).await,
            Err(fault) => Err(fault),
        };
        let mut devices = devices.map_err(BadInput::Devices)?;
        let display = Display::new(trace.agents, trace.entries(), options.json);
        let report = replay::conduct(&trace, &payloads, options.seed, &mut devices, &display, PATIENCE).await;
        if report.fault.is_some() || !report.outcome.is_good() {
            directory.faults().iter().for_each(|fault| eprintln!("collaborate: {fault}"));
        }
        Ok(report)
    })
}

/// A place for each of `devices`.
fn places(kind: StoreKind, devices: usize, dir: Option<&Path>) -> Result<Vec<Place>, DeviceFault> {
    let place = |number| match (kind, dir) {
        (StoreKind::Sled, Some(dir)) => Ok(Place::Sled(dir.join(format!("device-{number}")))),
        _ => Ok(Place::Memory(MemoryStore::ephemeral()?)),
    };
    (1..=devices).map(place).collect()
}
