use super::super::link_profile::{Chance, Delay};
use super::*;

const ANA: Endpoint = Endpoint(0);
const BEN: Endpoint = Endpoint(1);
const MS: Duration = Duration::from_millis(1);

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn model(profile: LinkProfile) -> (LinkModel, LinkEnd, LinkEnd) {
    let mut model = LinkModel::new(42, profile);
    let (ana, ben) = model.open(Instant::ZERO, ANA, BEN);
    (model, ana, ben)
}

fn send(model: &mut LinkModel, now: Instant, from: LinkEnd, frame: impl Into<Bytes>) {
    assert_eq!(model.send(now, from, frame.into(), Priority::Normal), SendOutcome::Queued);
}

/// Everything that happens until nothing is due any more, reading each frame at once.
fn run(model: &mut LinkModel) -> Vec<(Instant, LinkEvent)> {
    let mut events = Vec::new();
    while let Some(now) = model.next_deadline() {
        while let Some(event) = model.poll(now) {
            if let LinkEvent::Frame { end, cost, .. } = event {
                model.release(now, end, cost);
            }
            events.push((now, event));
        }
    }
    events
}

fn frames(events: &[(Instant, LinkEvent)]) -> Vec<Bytes> {
    let frame = |event: &LinkEvent| match event {
        LinkEvent::Frame { frame, .. } => Some(frame.clone()),
        _ => None,
    };
    events.iter().filter_map(|(_, event)| frame(event)).collect()
}

fn numbered(n: u32) -> Bytes {
    n.to_le_bytes().to_vec().into()
}

#[test]
fn a_perfect_link_delivers_in_the_call_that_sends() {
    let (mut model, ana, ben) = model(LinkProfile::perfect());
    send(&mut model, at(5), ana, "hello");
    let cost = 5 + FRAME_COST;
    let frame = LinkEvent::Frame { to: BEN, end: ben, frame: "hello".into(), cost };
    assert_eq!((model.poll(at(5)), model.poll(at(5)), model.next_deadline()), (Some(frame), None, None));
}

#[test]
fn one_seed_gives_one_history_and_another_seed_another() {
    let history = |seed| {
        let mut model = LinkModel::new(seed, LinkProfile::mobile());
        let (ana, ben) = model.open(Instant::ZERO, ANA, BEN);
        for n in 0..200 {
            send(&mut model, at(u64::from(n)), if n % 3 == 0 { ben } else { ana }, numbered(n));
        }
        (run(&mut model), model.counters())
    };
    assert_eq!(history(1), history(1));
    assert_ne!(history(1), history(2));
}

#[test]
fn traffic_on_one_link_moves_no_fault_on_another() {
    let fates = |other_frames: u32| {
        let (mut model, ana, ben) = model(LinkProfile { loss: Chance::new(0.5), ..LinkProfile::perfect() });
        let (noise, _) = model.open(Instant::ZERO, ANA, Endpoint(2));
        (0..other_frames).for_each(|n| send(&mut model, at(0), noise, numbered(n)));
        (0..50).for_each(|n| send(&mut model, at(1), ana, numbered(n)));
        let events = run(&mut model);
        events
            .into_iter()
            .filter(|(_, e)| matches!(e, LinkEvent::Frame { end, .. } if *end == ben))
            .collect::<Vec<_>>()
    };
    assert_eq!(frames(&fates(0)), frames(&fates(77)));
}

#[test]
fn each_fault_happens_as_often_as_asked_and_is_counted() {
    const FRAMES: u32 = 2_000;
    let tenth = Chance::new(0.1);
    let profile = LinkProfile {
        loss: tenth,
        duplicate: tenth,
        corrupt: tenth,
        truncate: tenth,
        reorder: tenth,
        reorder_by: 3 * MS,
        delay: Delay::Uniform { min: MS, max: 2 * MS },
        ..LinkProfile::perfect()
    };
    let (mut model, ana, _) = model(profile);
    (0..FRAMES).for_each(|n| send(&mut model, at(u64::from(n)), ana, numbered(n)));
    let arrived = frames(&run(&mut model));
    let c = model.counters_between(ANA, BEN);
    for (fault, count) in [
        ("lost", c.lost),
        ("duplicated", c.duplicated),
        ("corrupted", c.corrupted),
        ("truncated", c.truncated),
        ("reordered", c.reordered),
    ] {
        assert!((140..260).contains(&count), "{fault}: {count}");
    }
    assert_eq!(c.sent, u64::from(FRAMES));
    assert_eq!(c.delivered, c.sent - c.lost + c.duplicated);
    assert_eq!(arrived.len() as u64, c.delivered);
    assert!(arrived.iter().any(|frame| frame.len() < 4));
    assert!(arrived.windows(2).any(|pair| pair[0] > pair[1]));
    assert_eq!(model.counters_between(BEN, ANA), LinkCounters::default());
}

#[test]
fn jitter_alone_does_not_reorder() {
    let (mut model, ana, _) =
        model(LinkProfile { delay: Delay::Uniform { min: MS, max: 50 * MS }, ..LinkProfile::perfect() });
    (0..100u8).for_each(|n| send(&mut model, at(u64::from(n)), ana, vec![n]));
    let events = run(&mut model);
    assert!(frames(&events).windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(model.counters().delayed, 100);
}

#[test]
fn a_reliable_link_turns_faults_into_delay() {
    let half = Chance::new(0.5);
    let profile =
        LinkProfile { loss: half, duplicate: half, corrupt: half, reorder: half, ..LinkProfile::perfect() };
    let (mut model, ana, _) = model(profile.reliable());
    (0..100).for_each(|n| send(&mut model, at(0), ana, vec![n as u8]));
    let events = run(&mut model);
    assert_eq!(frames(&events), (0..100u8).map(|n| Bytes::from(vec![n])).collect::<Vec<_>>());
    let c = model.counters();
    assert!(c.repaired > 50 && (c.lost, c.duplicated, c.corrupted, c.reordered) == (0, 0, 0, 0));
}

#[test]
fn bandwidth_spreads_frames_over_time_and_lets_urgent_ones_pass() {
    let (mut model, ana, _) = model(LinkProfile { bandwidth: Some(1_000_000), ..LinkProfile::perfect() });
    (0..4u8).for_each(|n| send(&mut model, at(0), ana, vec![n; 10_000]));
    assert_eq!(model.send(at(0), ana, "urgent".into(), Priority::High), SendOutcome::Queued);
    let events = run(&mut model);
    let firsts: Vec<u8> = frames(&events).iter().map(|frame| frame[0]).collect();
    assert_eq!(firsts, [0, b'u', 1, 2, 3]);
    assert_eq!(events.last().map(|(now, _)| now.as_nanos()), Some(40_006_000));
}

#[test]
fn i6_a_peer_that_never_reads_costs_one_queue_and_reading_gives_one_writable() {
    let (mut model, ana, ben) = model(LinkProfile { queue_bytes: 1_000, ..LinkProfile::perfect() });
    let mut taken = 0;
    while model.send(at(0), ana, vec![0; 36].into(), Priority::Normal) == SendOutcome::Queued {
        taken += 1;
    }
    assert_eq!(taken, 10, "36 bytes cost 100");
    assert_eq!(model.send(at(0), ana, vec![0; 36].into(), Priority::High), SendOutcome::Full);
    let events = run(&mut model);
    let writable =
        events.iter().filter(|(_, event)| *event == LinkEvent::Writable { to: ANA, end: ana }).count();
    assert_eq!((frames(&events).len(), writable, model.counters().refused_full), (10, 1, 2));
    let (other, _) = model.open(at(0), ANA, BEN);
    send(&mut model, at(1), other, "other links go on");
    let _ = ben;
}

#[test]
fn room_comes_back_also_for_frames_that_were_lost() {
    let (mut model, ana, _) = model(LinkProfile {
        queue_bytes: 200,
        loss: Chance::ALWAYS,
        delay: Delay::fixed(MS),
        ..LinkProfile::perfect()
    });
    (0..100).for_each(|n| send(&mut model, at(n), ana, vec![0; 100]));
    assert_eq!((run(&mut model).len(), model.counters().lost), (0, 100));
}

#[test]
fn an_idle_link_takes_a_frame_larger_than_its_queue_but_none_above_its_limit() {
    let (mut model, ana, _) =
        model(LinkProfile { queue_bytes: 10, max_frame: 512, ..LinkProfile::perfect() });
    send(&mut model, at(0), ana, vec![0; 512]);
    assert_eq!(model.send(at(0), ana, vec![0; 513].into(), Priority::Normal), SendOutcome::TooLarge);
    assert_eq!(model.counters().refused_too_large, 1);
}

#[test]
fn a_one_way_block_swallows_one_direction_only() {
    let (mut model, ana, ben) = model(LinkProfile::perfect());
    model.block(at(0), ANA, BEN);
    send(&mut model, at(0), ana, "lost");
    send(&mut model, at(0), ben, "heard");
    assert_eq!(frames(&run(&mut model)), [Bytes::from("heard")]);
    assert_eq!((model.counters().blocked, model.passes(at(0), BEN, ANA)), (1, true));
    model.heal(at(1), ANA, BEN);
    send(&mut model, at(1), ana, "again");
    assert_eq!(frames(&run(&mut model)), [Bytes::from("again")]);
}

#[test]
fn a_partition_catches_frames_that_are_under_way() {
    let (mut model, ana, _) = model(LinkProfile { delay: Delay::fixed(10 * MS), ..LinkProfile::perfect() });
    send(&mut model, at(0), ana, "under way");
    model.partition(at(5), ANA, BEN);
    assert_eq!((run(&mut model), model.counters().blocked), (vec![], 1));
}

#[test]
fn a_reliable_link_holds_frames_during_a_partition_and_keeps_their_order() {
    let (mut model, ana, _) =
        model(LinkProfile { delay: Delay::fixed(2 * MS), ..LinkProfile::perfect() }.reliable());
    model.partition(at(0), ANA, BEN);
    (0..5u8).for_each(|n| send(&mut model, at(u64::from(n)), ana, vec![n]));
    assert_eq!(model.poll(at(4)), None);
    model.heal(at(5), ANA, BEN);
    send(&mut model, at(5), ana, vec![5]);
    let firsts: Vec<u8> = frames(&run(&mut model)).iter().map(|frame| frame[0]).collect();
    assert_eq!((firsts, model.counters().blocked), (vec![0, 1, 2, 3, 4, 5], 0));
    assert!(model.counters().held > 0);
}

#[test]
fn a_flip_flop_follows_its_schedule() {
    for reliable in [false, true] {
        let (mut model, ana, _) = model(LinkProfile { reliable, ..LinkProfile::perfect() });
        model.flip_flop(at(0), ANA, BEN, 10 * MS, 5 * MS);
        (0..30u8).for_each(|ms| send(&mut model, at(u64::from(ms)), ana, vec![ms]));
        let events = run(&mut model);
        let arrived: Vec<u8> = frames(&events).iter().map(|frame| frame[0]).collect();
        if reliable {
            assert_eq!(arrived, (0..30).collect::<Vec<u8>>());
            assert_eq!(events.last().map(|(now, _)| *now), Some(at(30)));
        } else {
            assert_eq!(arrived, (0..10).chain(15..25).collect::<Vec<u8>>());
        }
    }
}

#[test]
fn closing_lets_the_other_side_have_what_is_under_way_and_then_down() {
    let (mut model, ana, ben) =
        model(LinkProfile { delay: Delay::fixed(MS), bandwidth: Some(1_000), ..LinkProfile::perfect() });
    (0..3u8).for_each(|n| send(&mut model, at(0), ana, vec![n; 10]));
    send(&mut model, at(0), ben, "nobody will read this");
    model.close(at(1), ana);
    model.close(at(1), ana);
    assert_eq!(model.send(at(1), ana, Bytes::new(), Priority::Normal), SendOutcome::NoLink);
    let events = run(&mut model);
    assert_eq!(frames(&events).len(), 3);
    assert_eq!(events.last(), Some(&(at(31), LinkEvent::Down { to: BEN, end: ben })));
    assert_eq!(model.send(at(40), ben, Bytes::new(), Priority::Normal), SendOutcome::NoLink);
    assert_eq!(model.counters().lost_with_link, 1);
}

#[test]
fn a_cut_tells_both_sides_once_and_loses_what_is_under_way() {
    let (mut model, ana, ben) = model(LinkProfile { delay: Delay::fixed(MS), ..LinkProfile::perfect() });
    send(&mut model, at(0), ana, "lost");
    model.cut(at(0), BEN, ANA);
    model.cut(at(0), ANA, BEN);
    let events: Vec<_> = run(&mut model).into_iter().map(|(_, event)| event).collect();
    assert_eq!(events, [LinkEvent::Down { to: ANA, end: ana }, LinkEvent::Down { to: BEN, end: ben }]);
    assert_eq!(model.send(at(0), ben, Bytes::new(), Priority::Normal), SendOutcome::NoLink);
    assert_ne!(model.open(at(1), ANA, BEN), (ana, ben), "ends are never reused");
}

#[test]
fn a_profile_changed_at_run_time_holds_for_links_that_exist() {
    let (mut model, ana, _) = model(LinkProfile { bandwidth: Some(10), ..LinkProfile::perfect() });
    (0..3_000u32).for_each(|n| send(&mut model, at(0), ana, numbered(n)));
    model.set_profile(at(0), ANA, BEN, LinkProfile::perfect());
    assert_eq!(model.profile(ANA, BEN), LinkProfile::perfect());
    let arrived = frames(&run(&mut model));
    assert!(arrived.into_iter().eq((0..3_000).map(numbered)), "lost or reordered");
}
