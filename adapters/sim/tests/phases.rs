//! Phases of a world in any order and length, faults in them, questions, and what a smaller run may leave out.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anabranch_sim::{
    Action, Cut, Failure, FaultKind, FaultProfile, Hostile, RunReport, Seed, World, attempt, shrink,
};

const SECOND: Duration = Duration::from_secs(1);
const BUDGET: Duration = Duration::from_secs(30);

/// A world of nodes that only are there.
fn world(seed: Seed, faults: FaultProfile, nodes: &[&str]) -> World<()> {
    let mut world = World::new(seed);
    world.faults(faults);
    for name in nodes {
        world.node(name, |_| async { Ok(()) });
    }
    world
}

fn calm(seed: u64, nodes: &[&str]) -> World<()> {
    world(Seed::new(seed), FaultProfile::Calm, nodes)
}

fn planned(run: impl Fn(&mut World<()>) -> Result<(), Failure>) -> Vec<RunReport> {
    let run = |seed: Seed| {
        let faults = FaultProfile::Only(vec![FaultKind::Partition, FaultKind::Crash, FaultKind::ClockJump]);
        run(&mut world(seed, faults, &["ana", "ben", "cleo"]))
    };
    (0..40).map(|seed| attempt(Seed::new(seed), &run).1).collect()
}

#[test]
fn faults_are_drawn_however_time_is_cut_into_phases() {
    let count = |reports: Vec<RunReport>| reports.iter().map(|report| report.plan.len()).sum::<usize>();
    let whole = count(planned(|world| world.run_for(20 * SECOND)));
    let seconds = count(planned(|world| (0..20).try_for_each(|_| world.run_for(SECOND))));
    let tenths = count(planned(|world| (0..200).try_for_each(|_| world.run_for(SECOND / 10))));
    let until = count(planned(|world| world.run_until(20 * SECOND, |world| world.now() >= 19 * SECOND)));
    for cut in [seconds, tenths, until] {
        assert!(cut * 2 > whole && cut < whole * 2, "{whole} in one, {seconds}, {tenths}, {until}");
    }
}

#[test]
fn a_second_phase_has_faults_of_its_own() {
    for report in planned(|world| world.run_for(30 * SECOND).and_then(|()| world.run_for(30 * SECOND))) {
        let half = 30_000_000_000;
        let (first, second): (Vec<_>, Vec<_>) =
            report.plan.into_iter().partition(|planned| planned.at < half);
        let moved: Vec<_> = second.into_iter().map(|planned| (planned.at - half, planned.action)).collect();
        let first: Vec<_> = first.into_iter().map(|planned| (planned.at, planned.action)).collect();
        assert!(first.is_empty() || first != moved, "the same again: {first:?}");
    }
}

#[test]
fn waiting_for_something_twice_draws_no_faults_twice() {
    let once = planned(|world| world.run_until(20 * SECOND, |world| world.now() >= SECOND));
    let twice = planned(|world| {
        world.run_until(20 * SECOND, |world| world.now() >= SECOND)?;
        world.run_until(10 * SECOND, |world| world.now() >= 2 * SECOND)
    });
    for (once, twice) in once.iter().zip(&twice) {
        assert_eq!(once.plan, twice.plan);
    }
}

#[test]
fn a_workload_goes_on_after_faults_were_ended_and_reaches_nodes_that_came_later() {
    let mut world = calm(1, &["ana"]);
    let acts = Rc::new(RefCell::new([0; 2]));
    let counted = Rc::clone(&acts);
    world.every(SECOND, move |tick, _| {
        counted.borrow_mut()[tick.node] += 1;
        async {}
    });
    world.run_for(10 * SECOND).unwrap();
    world.heal_and_converge(10 * SECOND).unwrap();
    assert_eq!(*acts.borrow(), [10, 0]);
    world.node("ben", |_| async { Ok(()) });
    world.run_for(10 * SECOND).unwrap();
    assert!(world.app(1).is_some());
    assert_eq!(*acts.borrow(), [20, 10]);
    world.heal();
    world.every(SECOND, |_, _| async { Err::<(), _>("in vain") });
    world.run_for(10 * SECOND).unwrap();
    assert_eq!(*acts.borrow(), [30, 20]);
}

#[test]
fn a_workload_that_only_fails_is_seen_in_the_report() {
    let run = |seed: Seed| {
        let mut world = world(seed, FaultProfile::Calm, &["ana"]);
        world.every(SECOND, |_, _| async { Err::<(), _>("in vain") });
        world.run_for(5 * SECOND)
    };
    let (result, report) = attempt(Seed::new(1), &run);
    assert_eq!(result, Ok(()));
    assert_eq!(report.situations.get("an act of the workload went well"), Some(&0));
    assert_eq!(report.situations.get("an act of the workload failed"), Some(&5));
}

#[test]
fn starts_are_counted_one_by_one() {
    let mut world = World::<()>::new(1);
    world.faults(FaultProfile::Calm);
    let starts = Rc::new(RefCell::new(Vec::new()));
    let counted = Rc::clone(&starts);
    world.node("ana", move |cx| {
        counted.borrow_mut().push(cx.incarnation());
        async { Ok(()) }
    });
    for at in [1, 2] {
        world.at(at * SECOND, Action::Crash { node: 0, silent: true });
        world.at(at * SECOND, Action::Boot(0));
    }
    world.run_for(5 * SECOND).unwrap();
    assert_eq!(*starts.borrow(), [1, 2, 3]);
}

#[test]
fn a_restore_without_a_backup_is_a_mistake_of_the_script() {
    let mut world = calm(1, &["ana"]);
    world.at(SECOND, Action::Backup(0));
    world.at(2 * SECOND, Action::Restore { node: 0, noticed: true });
    world.at(3 * SECOND, Action::Restore { node: 0, noticed: true });
    let failure = world.run_for(5 * SECOND).unwrap_err();
    assert_eq!(failure.violation.rule, "script");
    assert!(failure.violation.what.contains("no backup left"), "{failure}");
}

#[test]
fn names_of_devices_that_mean_harm_are_free_for_others() {
    let kinds = vec![FaultKind::Flood, FaultKind::NeverReads];
    let mut world = world(Seed::new(3), FaultProfile::Only(kinds), &["ana", "never-reads"]);
    world.hostile("flood", Hostile::Flood);
    world.run_for(SECOND).unwrap();
}

#[test]
fn a_disk_may_be_filled_up_to_any_size_and_time_may_not_be_without_end() {
    let mut world = calm(1, &["ana"]);
    world.fault(&Action::DiskFull(0, Some(u64::MAX)));
    world.run_for(SECOND).unwrap();
    let failure = world.run_until(Duration::MAX, |_| false).unwrap_err();
    assert!(failure.violation.what.contains("ten years"), "{failure}");
}

#[test]
fn questions_that_nobody_answers_fail_by_name() {
    let mut empty = calm(1, &[]);
    let failure = empty.each(|_, _| async { Ok(()) }).unwrap_err();
    assert!(failure.violation.what.contains("no node to ask"), "{failure}");
    let mut silent = calm(1, &["ana", "ben"]);
    let failure = silent
        .each(|node, _| async move { if node == 1 { std::future::pending().await } else { Ok(()) } })
        .unwrap_err();
    assert_eq!(failure.violation.rule, "each");
    assert!(failure.violation.what.contains("node 1 gave no answer"), "{failure}");
}

/// Five nodes and a device that means harm. It breaks whenever node 1 is there and has acted.
fn broken(
    seed: Seed,
    quiet: bool,
    fail: impl Fn(&mut World<()>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let names = ["ana", "ben", "cleo", "dana", "eve"];
    let mut world = world(seed, FaultProfile::Only(vec![FaultKind::Crash]), &names);
    world.hostile("mallory", Hostile::Flood);
    for at in 0..10 {
        world.at(at * SECOND, Action::ClockJump(0, 60));
    }
    let acted = Rc::new(Cell::new(false));
    let noted = Rc::clone(&acted);
    world.every(SECOND, move |tick, _| {
        noted.set(noted.get() || tick.node == 1);
        async {}
    });
    world.run_for(20 * SECOND)?;
    world.heal_and_converge(60 * SECOND)?;
    if quiet {
        world.stay_quiet(10 * SECOND)?;
    }
    if acted.get() { fail(&mut world) } else { Ok(()) }
}

fn smallest(run: &dyn Fn(Seed) -> Result<(), Failure>) -> anabranch_sim::Shrunk {
    let failure = attempt(Seed::new(5), run).0.unwrap_err();
    shrink(&failure, &Cut::default(), run, BUDGET)
}

#[test]
fn a_run_shrinks_past_quiet_and_past_what_was_scripted() {
    let run = |seed: Seed| broken(seed, true, |world| world.check("planted", false, String::new));
    let shrunk = smallest(&run);
    assert_eq!((shrunk.nodes, shrunk.faults, shrunk.work), (1, 0, 1), "{}", shrunk.cut);
    assert!(!shrunk.report.faults.contains_key("clock_jump"), "{:?}", shrunk.report.faults);
}

#[test]
fn a_panic_of_the_test_itself_shrinks_to_the_same_panic() {
    let run = |seed: Seed| {
        if seed.number() != 5 {
            panic!("another one");
        }
        broken(seed, true, |_| panic!("planted"))
    };
    let shrunk = smallest(&run);
    let what = &shrunk.failure.violation.what;
    assert!(what.contains("planted") && what.contains("phases.rs:"), "{what}");
    assert!(shrunk.failure.violation.at > 0 && shrunk.nodes == 1 && shrunk.work == 1, "{}", shrunk.cut);
}

#[test]
fn a_smaller_run_is_never_one_without_nodes() {
    let run = |seed: Seed| {
        let mut world = world(seed, FaultProfile::Calm, &["ana", "ben", "cleo"]);
        world.run_for(SECOND)?;
        let there = world.app(1).is_some() && world.nodes().contains(&1);
        world.check("planted", false, || format!("node 1 is there: {there}"))
    };
    let shrunk = smallest(&run);
    assert_eq!(shrunk.nodes, 1, "{}", shrunk.cut);
}
