//! What a test does wrong is said: runs that are not functions of their seed, scripts about nodes that are not there,
//! code that never ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use anabranch_sim::{Action, Failure, FaultProfile, Kind, NodeCx, Seed, World, attempt, check_determinism};

const SECOND: Duration = Duration::from_secs(1);

/// Two calm nodes that do what `node` does.
fn world<F>(seed: impl Into<Seed>, node: impl Fn(NodeCx) -> F + Clone + 'static) -> World<()>
where
    F: Future<Output = ()> + 'static,
{
    let mut world = World::new(seed);
    world.faults(FaultProfile::Calm);
    for name in ["a", "b"] {
        let node = node.clone();
        world.node(name, move |cx| {
            let started = node(cx);
            async move {
                started.await;
                Ok(())
            }
        });
    }
    world
}

fn broken(result: Result<(), Failure>) -> (String, String) {
    let violation = result.expect_err("the run went well").violation;
    (violation.rule, violation.what)
}

fn panics(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("no panic");
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Sleeps as long as the first of some numbers says, in the order of a map whose order is nobody's.
#[allow(clippy::disallowed_types, reason = "this is the bug")]
fn by_hash_order(seed: Seed) -> Result<(), Failure> {
    let node = |cx: NodeCx| async move {
        for number in (1..50_u64).collect::<std::collections::HashSet<_>>() {
            cx.timer().sleep(Duration::from_millis(number)).await;
        }
    };
    world(seed, node).run_for(SECOND * 5)
}

#[test]
fn a_run_that_follows_the_order_of_a_hash_map_is_reported_with_the_first_event_that_differs() {
    let divergence = check_determinism(&Seed::new(3), &by_hash_order).expect_err("nobody noticed");
    assert_eq!(divergence.seed, 3);
    let [Some(one), Some(other)] = &divergence.next else { panic!("{divergence}") };
    assert!(one.kind == Kind::Timer && (one.at, one.node) != (other.at, other.node), "{divergence}");
    assert!(panics(|| anabranch_sim::seeds(by_hash_order)).contains("part after"));
}

#[test]
fn a_run_that_comes_to_something_else_at_the_same_events_is_reported_too() {
    let times = std::cell::Cell::new(0);
    let run = |seed: Seed| {
        let mut world = world(seed, |_| async {});
        world.run_for(SECOND)?;
        times.set(times.get() + 1);
        world.check("once", times.get() < 2, || "twice".to_owned())
    };
    let said = check_determinism(&Seed::new(1), &run).expect_err("nobody noticed").to_string();
    let shown = [
        "events and differ in what they come to",
        "first run: all is well",
        "second run: broke \"once\" after 1.000000000 s: twice",
    ];
    assert!(shown.iter().all(|part| said.contains(part)), "{said}");
}

/// The run that the next test looks at from outside.
#[test]
#[should_panic(expected = "broke \"first\"")]
fn the_second_seed_fails() {
    anabranch_sim::seeds(|seed| {
        let first = seed.number() == 0;
        let mut world = world(seed, |_| async {});
        world.run_for(SECOND)?;
        world.sometimes_if("it was the first", first);
        world.sometimes_if("it rained", false);
        world.check("first", first, String::new)
    });
}

#[test]
fn a_failing_seed_is_reported_after_what_was_reached_before_and_with_the_line_that_runs_this_test_again() {
    let own = std::env::current_exe().unwrap();
    let words = ["the_second_seed_fails", "--exact", "--nocapture"];
    let variables = [("SIM_LOG", "1"), ("CARGO_PKG_NAME", "anabranch-sim")];
    let mut child = std::process::Command::new(own);
    // What runs this test may say which seeds.
    for name in ["SIM_SEED", "SIM_SEEDS", "SIM_START", "SIM_CUT", "SIM_TWICE"] {
        child.env_remove(name);
    }
    let said = child.args(words).envs(variables).output().unwrap().stderr;
    let said = String::from_utf8(said).unwrap();
    let release = if cfg!(debug_assertions) { "" } else { "--release " };
    let again = format!(
        "SIM_SEED=1 cargo test {release}-p anabranch-sim the_second_seed_fails -- --exact --include-ignored --nocapture"
    );
    let parts = [
        "2 seeds from 0\n",
        "\"it was the first\": 1",
        "never: [\n    \"it rained\",\n]",
        "seed 1 broke",
        &again,
    ];
    let places = parts.map(|part| said.find(part));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}: {said}");
}

#[test]
fn a_run_that_is_a_function_of_its_seed_is_not_blamed() {
    let run = |seed: Seed| {
        world(seed, |cx: NodeCx| async move { cx.timer().sleep(SECOND).await }).run_for(SECOND * 2)
    };
    assert_eq!(check_determinism(&Seed::new(1), &run), Ok(()));
}

#[test]
fn a_fault_that_names_a_node_that_is_not_there_fails_the_run() {
    let (hold, day) = (SECOND, SECOND * 86_400);
    for action in [
        Action::Boot(9),
        Action::Crash { node: 2, silent: true },
        Action::Pause(9, hold),
        Action::ClockJump(9, 1),
        Action::BitRot(9),
        Action::Restore { node: 9, noticed: true },
        Action::Clone { node: 9, noticed: true },
        Action::Partition(0, 9),
        Action::OneWay(7, 1),
        Action::FlipFlop { a: 0, b: 8, open: hold, closed: hold },
        Action::Slow(usize::MAX, day),
    ] {
        let mut world = world(1, |_| async {});
        world.at(SECOND, action.clone());
        let (rule, what) = broken(world.run_for(SECOND * 2));
        assert!(rule == "script" && what.contains("there are 2"), "{action:?}: {rule}: {what}");
    }
}

#[test]
fn delays_without_end_are_no_overflow() {
    for action in
        [Action::Slow(0, Duration::MAX), Action::DiskSlow(0, Duration::MAX), Action::Pause(0, Duration::MAX)]
    {
        let mut world = world(1, |cx: NodeCx| async move { cx.timer().sleep(SECOND).await });
        world.at(SECOND / 2, action);
        assert_eq!(world.run_for(SECOND * 3), Ok(()));
    }
}

#[test]
fn a_start_that_never_ends_is_no_convergence() {
    let mut world = world(1, |_| std::future::pending());
    world.run_for(SECOND).expect("a start may take its time");
    let (_, what) = broken(world.heal_and_converge(SECOND * 5));
    assert!(what.contains("node 0 is still starting"), "{what}");
}

#[test]
fn a_world_that_failed_goes_no_further() {
    let mut world = World::<()>::new(1);
    world.faults(FaultProfile::Calm).node("a", |_| async { Err("not today".into()) });
    let first = world.run_for(SECOND);
    assert_eq!(broken(first.clone()).0, "start");
    assert_eq!(world.run_for(SECOND), first);
    assert_eq!(world.heal_and_converge(SECOND), first);
}

#[test]
fn tasks_that_sleep_for_no_time_again_and_again_are_called_a_livelock() {
    let node = |cx: NodeCx| async move {
        loop {
            cx.timer().sleep(Duration::ZERO).await;
        }
    };
    assert_eq!(broken(world(1, node).run_for(SECOND)).0, "livelock");
}

#[test]
fn ten_thousand_tasks_of_one_node_run_in_their_time() {
    let node = |cx: NodeCx| async move {
        for n in 0..10_000_u64 {
            let timer = cx.timer();
            cx.spawn(async move {
                for _ in 0..5 {
                    timer.sleep(Duration::from_millis(1 + n % 100)).await;
                }
            });
        }
    };
    let (result, report) = attempt(Seed::new(1), &|seed| world(seed, node).run_for(SECOND));
    assert_eq!(result, Ok(()));
    assert_eq!(report.kinds.get(&Kind::Timer), Some(&100_000));
}

#[test]
fn what_cannot_be_meant_is_refused_at_once() {
    let same_name = || {
        world(1, |_| async {}).node("a", |_| async { Ok(()) });
    };
    assert!(panics(same_name).contains("names are addresses"));
    let no_time = || {
        world(1, |_| async {}).every(Duration::ZERO, |_, _| async {});
    };
    assert!(panics(no_time).contains("without time"));
    assert_eq!(broken(World::<()>::new(1).run_for(Duration::MAX)).0, "run_for");
}

#[test]
fn a_situation_that_is_never_reached_is_in_the_report() {
    let run = |seed: Seed| {
        let world = world(seed, |_| async {});
        world.sometimes_if("it rained", false);
        world.sometimes_if("it shone", true);
        world.sometimes_if("it shone", false);
        Ok(())
    };
    let situations = attempt(Seed::new(1), &run).1.situations;
    assert_eq!((situations.get("it rained"), situations.get("it shone")), (Some(&0), Some(&1)));
}
