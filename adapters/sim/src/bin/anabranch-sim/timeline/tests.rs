//! What the page has to show, on a run that has one of each.

use std::time::Duration;

use anabranch::infrastructure::link_profile::LinkProfile;
use anabranch_sim::notes::{self, Notes, Setting};
use anabranch_sim::{
    Action, Failure, FaultProfile, Kind, RunReport, Seed, TraceEvent, TraceHash, World, attempt,
};

use super::story::{State, Story};
use super::{MOST_EVENTS, page};

const SECOND: u64 = 1_000_000_000;

/// Three nodes on lossy links: one is paused, cut off for a while, and then one crashes and starts again. In the end
/// a rule is broken.
fn eventful() -> (RunReport, Failure) {
    let run = |seed: Seed| {
        let mut setting = Setting::draw(5, 3..=3, FaultProfile::Calm);
        (setting.time, setting.quiet) = (Duration::from_secs(9), Duration::from_secs(1));
        // What not everybody may have, not everybody holds.
        setting.board = false;
        let mut world = World::<Notes>::new(seed);
        world.faults(FaultProfile::Calm).network(LinkProfile::wifi());
        let script = [
            (1, Action::Pause(0, Duration::from_secs(2))),
            (4, Action::Partition(0, 1)),
            (4, Action::Partition(0, 2)),
            (6, Action::Heal(0, 1)),
            (6, Action::Heal(0, 2)),
            (7, Action::Crash { node: 1, silent: true }),
            (8, Action::Boot(1)),
        ];
        for (at, action) in script {
            world.at(Duration::from_secs(at), action);
        }
        notes::play(&mut world, &setting)?;
        world.check("a <planted> rule", false, || "on purpose".to_owned())
    };
    let (result, report) = attempt(Seed::new(5).recorded(true), &run);
    let Err(failure) = result else { panic!("the planted rule holds") };
    (report, failure)
}

#[test]
fn a_node_is_up_paused_cut_off_and_down_while_it_is() {
    let (report, _) = eventful();
    let states = Story::of(&report, 3).states;
    for (node, from, to, what) in [(0, 1, 3, "paused"), (0, 4, 6, "cut off"), (1, 7, 8, "down")] {
        let state = State { node, from: from * SECOND, to: to * SECOND, what };
        assert!(states.contains(&state), "{state:?} is not among {states:#?}");
    }
    for node in 0..3 {
        let of_node = states.iter().filter(|state| state.node == node);
        let ends = of_node.fold(0, |at, state| {
            assert_eq!(state.from, at, "a gap or an overlap before {state:?}");
            state.to
        });
        assert_eq!(ends, report.virtual_nanos);
    }
}

#[test]
fn faults_last_until_they_are_healed_resumed_or_the_node_starts_again() {
    let (report, _) = eventful();
    let spans: Vec<_> = Story::of(&report, 3)
        .faults
        .into_iter()
        .map(|span| (span.name, span.from / SECOND, span.to / SECOND, span.nodes))
        .collect();
    let expected = [
        ("pause", 1, 3, vec![0]),
        ("partition", 4, 6, vec![0, 1]),
        ("partition", 4, 6, vec![0, 2]),
        ("power_failure", 7, 8, vec![1]),
    ];
    assert_eq!(spans, expected);
}

#[test]
fn frames_go_from_their_sender_to_where_they_arrive_and_lost_ones_do_not() {
    let (report, _) = eventful();
    let flights = Story::of(&report, 3).flights;
    let arrived = flights.iter().filter(|flight| flight.arrived.is_some()).count() as u64;
    assert_eq!(arrived, report.kinds[&Kind::Frame]);
    let lost = flights.iter().filter(|flight| flight.arrived.is_none()).count() as u64;
    assert!(lost >= report.faults["loss"], "{lost} lost of {}", report.faults["loss"]);
    // The shortest way of these links takes two milliseconds.
    let soon = |sent: u64, arrived: u64| arrived < sent + 2_000_000;
    assert!(!flights.iter().any(|flight| flight.arrived.is_some_and(|arrived| soon(flight.sent, arrived))));
}

#[test]
fn what_nodes_hold_changes_and_ends_alike() {
    let (report, _) = eventful();
    let held = Story::of(&report, 3).held;
    let last = |node| held.iter().rev().find(|(of, _, _)| *of == node).map(|(_, _, count)| *count);
    assert!(held.len() > 10 && last(0) > Some(2), "{held:?}");
    assert_eq!((last(0), last(1)), (last(1), last(2)));
}

#[test]
fn the_page_stands_alone_marks_the_failure_and_tells_of_every_event() {
    let (report, failure) = eventful();
    let page = page(5, 3, &report, Some(&failure));
    for fetched in ["src=", "href=", "http:", "https:", "url(", "@import"] {
        assert!(!page.contains(fetched), "the page has {fetched}");
    }
    for part in [
        "\"paused\"",
        "\"cut off\"",
        "\"down\"",
        "\"pause n0\"",
        "\"partition n0–n1\"",
        "\"did not arrive\"",
        "\"rule\":\"a \\u003cplanted> rule\"",
        "\"what\":\"on purpose\"",
    ] {
        assert!(page.contains(part), "the page has no {part}");
    }
    let empty = page.lines().filter(|line| line.contains("\"Written\"") || line.contains("\"Synced\""));
    assert_eq!(empty.filter(|line| line.contains(",\"\"]")).count(), 0);
    let at = page.split("\"event\":").nth(1).and_then(|rest| rest.split(['}', ',']).next());
    assert!(at.is_some_and(|at| at.parse::<usize>().is_ok()), "the failing event is {at:?}");
}

#[test]
fn of_a_long_run_the_end_is_written() {
    let event = |at| TraceEvent {
        at,
        node: Some(0),
        kind: Kind::Work,
        other: None,
        len: 0,
        sum: 0,
        holds: Some(at),
        text: format!("act {at}"),
        hash: TraceHash::default(),
    };
    let trace: Vec<TraceEvent> = (0..200_000).map(event).collect();
    let report = RunReport {
        trace,
        nodes: vec!["a".to_owned()],
        virtual_nanos: 200_000,
        events: 200_000,
        ..RunReport::default()
    };
    let page = page(1, 1, &report, None);
    assert_eq!(page.matches("\"Work\"").count(), MOST_EVENTS);
    assert!(page.contains("act 199999") && !page.contains("act 139999;"));
    assert!(page.len() < 6_000_000, "{} bytes", page.len());
}
