//! Worlds as a user makes them: they converge, repeat, and find what is wrong.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anabranch::MessageVersion;
use anabranch_sim::notes::{self, Notes, Setting};
use anabranch_sim::{Action, FaultProfile, Seed, World, attempt, shrink};

fn calm(seed: u64) -> Setting {
    let mut setting = Setting::draw(seed, 3..=3, FaultProfile::Calm);
    setting.time = Duration::from_secs(5);
    setting.quiet = Duration::from_secs(10);
    setting
}

#[test]
fn nodes_without_faults_converge_and_are_quiet() {
    for seed in 0..3 {
        if let Err(failure) = notes::run(seed, &calm(seed)) {
            panic!("{failure}");
        }
    }
}

#[test]
fn a_seed_gives_the_same_run_again_and_another_seed_another_one() {
    let hash = |seed| attempt(Seed::new(seed), &|seed: Seed| notes::run(seed, &calm(1))).1.hash;
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}

#[test]
fn i1_a_scripted_power_failure_loses_nothing_that_was_acknowledged() {
    let mut world = World::<Notes>::new(5);
    world.faults(FaultProfile::Calm);
    world.at(Duration::from_secs(2), Action::Crash { node: 0, silent: true });
    world.at(Duration::from_secs(3), Action::Boot(0));
    if let Err(failure) = notes::play(&mut world, &calm(5)) {
        panic!("{failure}");
    }
}

#[test]
fn i7_scripted_updates_in_the_middle_of_a_group_of_two_versions_lose_nothing() {
    let run = |seed: Seed| {
        let mut world = World::<Notes>::new(seed);
        world.faults(FaultProfile::Calm);
        world.at(Duration::ZERO, Action::Install(0, MessageVersion::V1));
        world.at(Duration::ZERO, Action::Install(1, MessageVersion::V1));
        world.at(Duration::from_secs(2), Action::Install(0, MessageVersion::V2));
        world.at(Duration::from_secs(4), Action::Install(2, MessageVersion::V1));
        notes::play(&mut world, &calm(6))
    };
    let (result, report) = attempt(Seed::new(6), &run);
    if let Err(failure) = result {
        panic!("{failure}");
    }
    let counted = |name: &str| report.faults.get(name).copied().unwrap_or_default();
    assert_eq!((counted("upgrade"), counted("downgrade")), (1, 3));
}

#[test]
fn a_failing_run_is_made_smaller_and_fails_alike() {
    let run = |seed: Seed| {
        let mut world = World::<()>::new(seed);
        world.faults(FaultProfile::Only(vec![anabranch_sim::FaultKind::Crash]));
        for name in ["a", "b", "c", "d"] {
            world.node(name, |_| async { Ok(()) });
        }
        let acts = Rc::new(Cell::new(0));
        let counted = Rc::clone(&acts);
        world.every(Duration::from_millis(500), move |_, _| {
            counted.set(counted.get() + 1);
            async {}
        });
        world.run_for(Duration::from_secs(30))?;
        world.check("three acts", acts.get() < 3, || "the planted bug".to_owned())
    };
    let (result, _) = attempt(Seed::new(3), &run);
    let Err(failure) = result else { panic!("the planted bug was not found") };
    let shrunk = shrink(&failure, &Default::default(), &run, Duration::from_secs(20));
    assert_eq!(shrunk.failure.violation.rule, "three acts");
    assert!(shrunk.nodes <= 3 && shrunk.faults == 0 && shrunk.work == 3, "{shrunk:?}");
}
