//! Replays a recorded collaboration on devices that go offline, come back and meet.
//!
//! `cargo run --release --example collaborate` takes a real session, three authors and 23,136 keystrokes typed
//! at the same time (`data/README.md`), and gives each author a device. Read in this order: `trace.rs` (the
//! recording), `text.rs` (edits become payloads, entries become text), `plan.rs` (who is offline when, who may
//! write next), `replay.rs` (the run and the comparison), `display.rs` (what is shown).
//!
//! Exit code 0 if every text matches, 1 if not, 2 if the input cannot be used: one line says why, and nothing
//! was written.
#![allow(dead_code, reason = "run, display and the lossy port await the devices")]

mod display;
mod lossy;
mod options;
mod plan;
mod replay;
mod rng;
mod text;
mod trace;

use std::process::ExitCode;

use clap::Parser as _;

use crate::options::{DataDir, DataDirError, Options};
use crate::plan::{Plan, Script};
use crate::text::{Document, OutsideDocument};
use crate::trace::{Trace, TraceError};

/// The input was fine, but the result is not what was recorded.
const EXIT_MISMATCH: u8 = 1;
/// The input cannot be used.
const EXIT_BAD_INPUT: u8 = 2;

/// The input cannot be used. Nothing was written.
#[derive(Debug, thiserror::Error)]
enum BadInput {
    #[error("{0}: {1}")]
    Trace(String, #[source] TraceError),
    #[error("{0}: {1}")]
    Positions(String, #[source] OutsideDocument),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

fn main() -> ExitCode {
    let options = Options::parse();
    match replay(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_MISMATCH),
        Err(fault) => {
            eprintln!("collaborate: {fault}");
            ExitCode::from(EXIT_BAD_INPUT)
        }
    }
}

/// Whether the result is what was recorded.
fn replay(options: &Options) -> Result<bool, BadInput> {
    let shown = || options.trace.display().to_string();
    let trace = Trace::read(&options.trace).map_err(|fault| BadInput::Trace(shown(), fault))?;
    let payloads = text::record(&trace).map_err(|fault| BadInput::Positions(shown(), fault))?;
    let _dir = DataDir::claim(options.data_dir.as_deref())?;
    let script = Script::new(&trace);
    let _plan = Plan::new(options.seed, &script);
    let mut document = Document::new(&trace.start);
    let refused = payloads.iter().flatten().filter(|payload| document.apply(payload).is_err()).count();
    let matches = refused == 0 && document.text() == trace.end;
    println!(
        "{} entries on one device: the text {}",
        script.entries(),
        if matches { "matches" } else { "differs" }
    );
    Ok(matches)
}
