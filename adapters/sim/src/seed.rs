//! One run: its number, and what is left out of it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::core::{Kind, TraceEvent, TraceHash};
use crate::faults::Planned;

/// What is left out of a run to make it smaller. The default leaves out nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    /// Nodes that are never started, by index.
    pub nodes: BTreeSet<usize>,
    /// Faults that do not happen, by group.
    pub faults: BTreeSet<u32>,
    /// Acts of the workload that do not happen, by number.
    pub work: BTreeSet<u64>,
    /// Safety phases end after this time, in nanoseconds.
    pub stop: Option<u64>,
    /// Which of many courses chance takes: the order of tasks, the time of disks, the luck of frames. 0 is the seed's
    /// own; workload and faults are the same in all of them.
    pub chance: u64,
}

/// Odd, so that no two of its first 2^64 multiples are alike: 2^64 divided by the golden ratio.
pub(crate) const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Cut {
    /// What the draws of chance start from in the run of this number.
    pub(crate) fn chance_of(&self, number: u64) -> u64 {
        number.wrapping_add(self.chance.wrapping_mul(ODD))
    }
}

/// What a run came to, for those who did not make its world.
#[derive(Debug, Clone, Default)]
pub struct RunReport {
    /// Events.
    pub events: u64,
    /// Events by kind.
    pub kinds: BTreeMap<Kind, u64>,
    /// Virtual nanoseconds.
    pub virtual_nanos: u64,
    /// Hash of all events.
    pub hash: TraceHash,
    /// Faults that happened, by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Situations that were reached, by name.
    pub situations: BTreeMap<String, u64>,
    /// The events, if they were recorded.
    pub trace: Vec<TraceEvent>,
    /// The faults planned.
    pub plan: Vec<Planned>,
    /// When all faults were ended, in virtual nanoseconds.
    pub healed: Vec<u64>,
    /// Number of acts of the workload.
    pub work: u64,
    /// Names of the nodes.
    pub nodes: Vec<String>,
    /// Which of them were added by hand, by index.
    pub added: Vec<usize>,
}

/// A run: everything in a world is a function of it.
///
/// Equal numbers with equal cuts give equal runs, on every platform and in every build.
#[derive(Debug, Clone, Default)]
pub struct Seed {
    number: u64,
    pub(crate) cut: Cut,
    pub(crate) record: bool,
    pub(crate) print: bool,
    pub(crate) report: Option<Rc<RefCell<RunReport>>>,
}

impl Seed {
    /// The whole run of this number.
    pub fn new(number: u64) -> Self {
        Self { number, ..Self::default() }
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The same run with this left out.
    #[must_use]
    pub fn cut(mut self, cut: Cut) -> Self {
        self.cut = cut;
        self
    }

    /// The same run, keeping a list of its events.
    #[must_use]
    pub fn recorded(mut self, record: bool) -> Self {
        self.record = record;
        self
    }

    /// The same run, printing its events as they happen.
    #[must_use]
    pub fn printed(mut self, print: bool) -> Self {
        self.print = print;
        self
    }

    /// The same run, and where its world leaves its report when it is dropped.
    #[must_use]
    pub fn reported(mut self) -> (Self, Rc<RefCell<RunReport>>) {
        let report = Rc::new(RefCell::new(RunReport::default()));
        self.report = Some(Rc::clone(&report));
        (self, report)
    }
}

impl From<u64> for Seed {
    fn from(number: u64) -> Self {
        Self::new(number)
    }
}
