//! The systems, one module each, behind one interface.

mod anabranch;
mod automerge;
#[cfg(feature = "iroh")]
mod iroh;
#[cfg(feature = "iroh")]
mod iroh_live;
#[cfg(feature = "loro")]
mod loro;
mod negentropy;
#[cfg(feature = "p2panda")]
mod p2panda;
mod yrs;

use std::error::Error;

use tokio::runtime::Handle;

use crate::stage::Measure;

/// What can go wrong in any of them.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Bytes of payload of every entry.
pub(crate) const PAYLOAD: usize = 100;

/// What went between the two sides.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    /// Serialised messages, both directions.
    pub(crate) bytes: u64,
    /// Round trips until the side that fetches has everything and knows it, where this run counted them: messages that need
    /// the one before them, by two.
    pub(crate) trips: Option<f64>,
}

/// Two replicas: entries are appended to the first, and the second fetches them.
pub(crate) trait System {
    /// Appends entries of an author to the first replica: of each stream so many.
    fn append(&mut self, author: usize, parts: &[(usize, usize)]) -> Outcome<()>;
    /// Brings everything to the second replica.
    fn sync(&mut self) -> Outcome<Traffic>;
    /// Entries in the second replica.
    fn held(&mut self) -> Outcome<u64>;
}

/// Makes a system for so many authors and streams. The flag says that only round trips matter in this run.
pub(crate) type Make = fn(Handle, usize, usize, bool) -> Outcome<Box<dyn System>>;
/// Measures the latency of so many entries, appended so many per second.
pub(crate) type Live = fn(&Handle, usize, usize) -> Outcome<Vec<Measure>>;

/// A system, as it is listed.
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    /// The package whose version is measured.
    package: &'static str,
    pub(crate) make: Make,
    /// Round trips are counted in a run of their own, over a link with delay.
    pub(crate) trips_apart: bool,
    pub(crate) live: Option<Live>,
    /// What it does, and does not do, on this work.
    pub(crate) omits: &'static str,
}

/// All systems, in the order in which they run.
pub(crate) const SYSTEMS: &[Spec] = &[
    anabranch::SPEC,
    #[cfg(feature = "p2panda")]
    p2panda::SPEC,
    #[cfg(feature = "iroh")]
    iroh::SPEC,
    negentropy::SPEC,
    automerge::SPEC,
    #[cfg(feature = "loro")]
    loro::SPEC,
    yrs::SPEC,
];

impl Spec {
    /// The version that this program was built with.
    pub(crate) fn version(&self) -> String {
        let name = format!("name = \"{}\"", self.package);
        let mut lines = include_str!("../../Cargo.lock").lines().skip_while(|line| *line != name).skip(1);
        lines.next().and_then(|line| line.split('"').nth(1)).unwrap_or("?").to_owned()
    }
}

/// A payload that differs from all others, and cannot be compressed: some of the systems do that, others do not.
pub(crate) fn payload(author: usize, stream: usize, number: u64) -> Vec<u8> {
    let mut payload = vec![0; PAYLOAD];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    payload[8..16].copy_from_slice(&(author as u64).to_le_bytes());
    payload[16..24].copy_from_slice(&(stream as u64).to_le_bytes());
    let mut noise = blake3::Hasher::new().update(&payload).finalize_xof();
    noise.fill(&mut payload[24..]);
    payload
}

/// How many entries each author has in each stream.
pub(crate) struct Counts(Vec<Vec<u64>>);

impl Counts {
    pub(crate) fn new(authors: usize, streams: usize) -> Self {
        Self(vec![vec![0; streams]; authors])
    }

    /// The number of the next entry of a log.
    pub(crate) fn next(&mut self, author: usize, stream: usize) -> u64 {
        let count = &mut self.0[author][stream];
        *count += 1;
        *count - 1
    }
}
