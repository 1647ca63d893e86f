//! Making a failing run smaller: fewer nodes, fewer faults, less work, an earlier stop, the same rule broken.
//!
//! After Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002): leave out halves, then
//! quarters, and so on, of what remains, and keep what still fails. A bug that needs some luck would hide as soon as
//! something is left out and chance takes another course; so where one course does not fail, a few others are tried.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::core::Violation;
use crate::panics::{self, PANIC};
use crate::seed::{Cut, RunReport, Seed};
use crate::world::Failure;

/// Groups of so many nodes are tried alone: most bugs need no more.
const FEW_NODES: u32 = 3;
/// Worlds with more nodes have too many such groups.
const MOST_GROUPED: usize = 12;
/// Courses of chance tried for each such group.
const COURSES_FOR_FEW: u64 = 2;
/// Courses tried without one node.
const COURSES_FOR_NODES: u64 = 8;
/// Courses tried without a single fault or act.
const COURSES_FOR_ONE: u64 = 3;

/// A failing run made smaller.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// What is left out.
    pub cut: Cut,
    /// How the smaller run fails.
    pub failure: Failure,
    /// What it came to, with its trace.
    pub report: RunReport,
    /// Faults that are left, by group.
    pub faults: usize,
    /// Acts of the workload that are left.
    pub work: usize,
    /// Nodes that are left.
    pub nodes: usize,
    /// Runs that it took.
    pub runs: u64,
}

/// Runs a seed; a panic is a failure of the rule `panic`.
pub fn attempt(seed: Seed, run: &dyn Fn(Seed) -> Result<(), Failure>) -> (Result<(), Failure>, RunReport) {
    let number = seed.number();
    let (seed, report) = seed.reported();
    let result = panics::caught(|| run(seed));
    let report = report.borrow().clone();
    let result = result.unwrap_or_else(|what| {
        // Its world is gone, and left in the report how far it came.
        let violation = Violation { rule: PANIC.into(), what, at: report.virtual_nanos };
        Err(Failure { seed: number, violation, hash: report.hash })
    });
    (result, report)
}

#[allow(clippy::disallowed_methods, reason = "how long shrinking may take is a matter of real time")]
fn now() -> Instant {
    Instant::now()
}

struct Shrinker<'a> {
    number: u64,
    /// What failed at first.
    first: Violation,
    /// The nodes that were added by hand.
    added: Vec<usize>,
    run: &'a dyn Fn(Seed) -> Result<(), Failure>,
    best: Cut,
    failure: Failure,
    runs: u64,
    until: Instant,
}

impl Shrinker<'_> {
    fn over(&self) -> bool {
        now() >= self.until
    }

    /// Whether a run failed as the first one did: it broke the same rule, and a panic came from the same place.
    fn is_alike(&self, failure: &Failure) -> bool {
        let (first, found) = (&self.first, &failure.violation);
        first.rule == found.rule && (first.rule != PANIC || panics::are_alike(&first.what, &found.what))
    }

    /// Tries a smaller run on some courses of chance; keeps the first that fails alike. A run without nodes shows nothing.
    fn take(&mut self, cut: Cut, courses: u64) -> bool {
        let is_empty = !self.added.is_empty() && self.added.iter().all(|node| cut.nodes.contains(node));
        if cut == self.best || is_empty {
            return false;
        }
        for course in 0..courses {
            if self.over() {
                return false;
            }
            self.runs += 1;
            let cut = Cut { chance: cut.chance.wrapping_add(course), ..cut.clone() };
            let tried = panics::expected(|| attempt(Seed::new(self.number).cut(cut.clone()), self.run).0);
            if let Err(failure) = tried
                && self.is_alike(&failure)
            {
                (self.best, self.failure) = (cut, failure);
                return true;
            }
        }
        false
    }

    /// Looks for a handful of the `all` nodes that fail alone.
    fn keep_few(&mut self, all: usize) {
        let left = all - self.best.nodes.len();
        if all > MOST_GROUPED || left <= 1 {
            return;
        }
        for size in 1..=FEW_NODES.min(left as u32 - 1) {
            for group in (0..1_u32 << all).filter(|group| group.count_ones() == size) {
                let out: BTreeSet<usize> = (0..all).filter(|node| group & 1 << node == 0).collect();
                if out.is_superset(&self.best.nodes)
                    && self.take(Cut { nodes: out, ..self.best.clone() }, COURSES_FOR_FEW)
                {
                    return;
                }
            }
        }
    }

    /// Leaves out as many of `all` as possible; `put` says how a set of them is left out.
    fn minimize<T: Copy + Ord>(&mut self, all: &[T], put: impl Fn(&mut Cut, &BTreeSet<T>)) {
        let mut kept: Vec<T> = all.to_vec();
        let mut chunk = kept.len();
        while chunk > 0 && !kept.is_empty() && !self.over() {
            let mut at = 0;
            let mut any = false;
            while at < kept.len() {
                let end = (at + chunk).min(kept.len());
                let rest: Vec<T> = kept[..at].iter().chain(&kept[end..]).copied().collect();
                let left: BTreeSet<T> = rest.iter().copied().collect();
                let out: BTreeSet<T> = all.iter().copied().filter(|item| !left.contains(item)).collect();
                let mut cut = self.best.clone();
                put(&mut cut, &out);
                if self.take(cut, if chunk == 1 { COURSES_FOR_ONE } else { 1 }) {
                    kept = rest;
                    any = true;
                } else {
                    at = end;
                }
            }
            if chunk == 1 && !any {
                break;
            }
            chunk = if chunk == 1 { usize::from(any) } else { chunk.div_ceil(2) };
        }
    }
}

/// Makes a failing run smaller, for at most `budget` of real time.
pub fn shrink(
    failure: &Failure,
    cut: &Cut,
    run: &dyn Fn(Seed) -> Result<(), Failure>,
    budget: Duration,
) -> Shrunk {
    let number = failure.seed;
    let (_, whole) = panics::expected(|| attempt(Seed::new(number).cut(cut.clone()), run));
    let mut shrinker = Shrinker {
        number,
        first: failure.violation.clone(),
        added: whole.added.clone(),
        run,
        best: cut.clone(),
        failure: failure.clone(),
        runs: 1,
        until: now() + budget,
    };
    let groups: BTreeSet<u32> = whole.plan.iter().map(|planned| planned.group).collect();
    let work: Vec<u64> = (0..whole.work).collect();
    while !shrinker.over() {
        let before = shrinker.best.clone();
        // An earlier stop first: everything after it is gone at once. Then nodes: each makes the runs cheaper.
        let end = shrinker.best.stop.unwrap_or(shrinker.failure.violation.at);
        for share in [1, 2, 4, 8, 12, 15] {
            if shrinker.take(Cut { stop: Some(end / 16 * share), ..shrinker.best.clone() }, 1) {
                break;
            }
        }
        shrinker.keep_few(whole.nodes.len());
        for node in (0..whole.nodes.len()).rev() {
            let mut cut = shrinker.best.clone();
            if cut.nodes.insert(node) {
                shrinker.take(cut, COURSES_FOR_NODES);
            }
        }
        let had = shrinker.best.faults.clone();
        let groups: Vec<u32> = groups.iter().copied().filter(|group| !had.contains(group)).collect();
        shrinker.minimize(&groups, |cut, out| cut.faults = had.union(out).copied().collect());
        let had = shrinker.best.work.clone();
        let work: Vec<u64> = work.iter().copied().filter(|number| !had.contains(number)).collect();
        shrinker.minimize(&work, |cut, out| cut.work = had.union(out).copied().collect());
        if shrinker.best == before {
            break;
        }
    }
    let Shrinker { best, runs, .. } = shrinker;
    let (result, report) =
        panics::expected(|| attempt(Seed::new(number).cut(best.clone()).recorded(true), run));
    let failure = result.err().unwrap_or(shrinker.failure);
    let happened = |group: &u32| !best.faults.contains(group);
    let planned = report.plan.iter().filter(|planned| planned.at <= failure.violation.at);
    let faults: BTreeSet<u32> = planned.map(|planned| planned.group).filter(happened).collect();
    Shrunk {
        faults: faults.len(),
        work: (0..report.work).filter(|number| !best.work.contains(number)).count(),
        nodes: (0..report.nodes.len()).filter(|node| !best.nodes.contains(node)).count(),
        cut: best,
        failure,
        report,
        runs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of five nodes and ten acts that fails if node 1 is there, act 3 happens, and chance is kind: which course
    /// is kind changes with every node that is left out.
    fn lucky(seed: Seed) -> Result<(), Failure> {
        let Cut { nodes, work, chance, .. } = &seed.cut;
        let report = seed.report.as_ref().expect("attempts are reported");
        (report.borrow_mut().nodes, report.borrow_mut().work) = (vec![String::new(); 5], 10);
        if nodes.contains(&1) || work.contains(&3) || !(chance + nodes.len() as u64).is_multiple_of(3) {
            return Ok(());
        }
        let violation = Violation { rule: "luck".into(), what: String::new(), at: 1_000 };
        Err(Failure { seed: seed.number(), violation, hash: Default::default() })
    }

    #[test]
    fn a_failure_that_needs_luck_shrinks_on_other_courses_of_chance() {
        let failure = lucky(Seed::new(7).reported().0).unwrap_err();
        let shrunk = shrink(&failure, &Cut::default(), &lucky, Duration::from_secs(20));
        assert_eq!((shrunk.nodes, shrunk.work), (1, 1), "{shrunk:?}");
        assert_ne!(shrunk.cut.chance, 0);
    }
}
