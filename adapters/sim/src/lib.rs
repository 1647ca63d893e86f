//! Many devices in one process, under one seed.
//!
//! Write a test of your whole application: each node is built by your own code from the ports that a [`World`]
//! hands it, so the real coordinator, the real facade and your own code run, in virtual time, under faults of
//! network, processes, disks, clocks and identities. A failing seed replays exactly, on every machine.
#![forbid(unsafe_code)]

pub mod core;
mod cut_text;
mod cx;
mod determinism;
mod disk;
mod exec;
mod faults;
mod hostile;
pub mod invariants;
pub mod notes;
mod panics;
mod ports;
mod runner;
mod scheme;
mod seed;
mod shrink;
mod store;
pub mod swim;
mod world;

/// Compiles and runs the code of the guide.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/simulation.md")]
pub struct Guide;

/// Says to a [`World`] or a [`NodeCx`] that an interesting situation was reached, or whether it was: a report counts those that were, and
/// names those that never were.
///
/// ```
/// # let mut world = anabranch_sim::World::<()>::new(1);
/// # let retries = 0;
/// anabranch_sim::sometimes!(world, "a reply came late");
/// anabranch_sim::sometimes!(world, "something was tried twice", retries > 1);
/// ```
#[macro_export]
macro_rules! sometimes {
    ($to:expr, $situation:expr) => {
        $to.sometimes($situation)
    };
    ($to:expr, $situation:expr, $reached:expr) => {
        $to.sometimes_if($situation, $reached)
    };
}

pub use crate::core::{Kind, TraceEvent, TraceHash, Violation};
pub use crate::cut_text::BadCut;
pub use crate::cx::NodeCx;
pub use crate::determinism::{Divergence, check as check_determinism};
pub use crate::disk::SimDisk;
pub use crate::faults::{Action, FAULTS, FaultKind, FaultProfile, Planned};
pub use crate::hostile::Hostile;
pub use crate::ports::{SimPort, SimTimer};
pub use crate::runner::seeds;
pub use crate::scheme::KeyedScheme;
pub use crate::seed::{Cut, RunReport, Seed};
pub use crate::shrink::{Shrunk, attempt, shrink};
pub use crate::store::SimStore;
pub use crate::world::{BootError, Failure, Outcome, Tick, World};
