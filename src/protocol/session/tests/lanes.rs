//! Messages over bad links: each once, in order, whatever happens to frames.

use proptest::prelude::*;

use super::super::*;
use super::pipe::*;
use crate::domain::link::{PortProfile, Priority};
use crate::domain::time::Instant;

fn deliver(pipe: &mut Pipe, count: usize, most: u64) {
    let mut dice = Dice(pipe.dice.0 ^ 1);
    let planned: Vec<_> = (0..4).map(|_| messages(&mut dice, count, most)).collect();
    for (index, planned) in planned.iter().enumerate() {
        pipe.plan(index / 2, Lane::ALL[index % 2], planned.iter().cloned());
    }
    let all = |pipe: &Pipe| {
        (0..4).all(|index| pipe.sides[1 - index / 2].got[index % 2].len() >= planned[index].len())
    };
    assert!(pipe.run_until(3600 * SECOND, all), "not everything arrived by {:?}", pipe.now);
    for (index, planned) in planned.iter().enumerate() {
        assert!(pipe.sides[1 - index / 2].got[index % 2] == *planned, "another sequence on lane {index}");
    }
    assert!(pipe.run(60 * SECOND), "two sessions with nothing to say still talk");
}

fn over_a_proven_link(draw: u64, max_frame: usize) {
    let draw = draw >> 2;
    let weather = Weather { corruption: 0, ..STORM };
    let side = |n: u8, peer| {
        let config = SessionConfig::default();
        let (node, seed) = (Some(node(peer)), seed(2 * draw + u64::from(n)));
        Session::new(config, identity(n), lossy(max_frame), node, n == 1, seed, Instant::ZERO)
    };
    let mut pipe = Pipe::new([side(1, 2), side(2, 1)], weather, draw);
    deliver(&mut pipe, 20, 5000);
    assert_eq!(pipe.binding(0), pipe.binding(1));
    assert_eq!(pipe.binding(0).len(), 1);
}

/// Frames whose bytes had all arrived in later ones, after a gap, used up every probe.
#[test]
fn i7_probes_carry_what_is_missing_and_not_what_arrived_beyond_a_gap() {
    over_a_proven_link(4_756_209_045_283_971_384, 10_409);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_message_arrives_once_and_in_order_over_a_storm(
        draw: u64, max_frame in prop_oneof![Just(512usize), 513usize..2000, Just(65_536)], count in 1usize..40,
    ) {
        let draw = draw >> 2;
        let mut pipe = Pipe::dialled(lossy(max_frame), &SessionConfig::default(), STORM, draw);
        deliver(&mut pipe, count, 3000);
        prop_assert!(pipe.sides.iter().all(|side| side.sent.iter().all(|frame| frame.len() <= max_frame)));
    }

    #[test]
    fn every_message_arrives_once_and_in_order_over_a_proven_link(draw: u64, max_frame in 512usize..70_000) {
        over_a_proven_link(draw, max_frame);
    }

    #[test]
    fn every_message_arrives_over_a_reliable_link_whose_port_lets_urgent_frames_overtake(
        draw: u64, max_frame in 512usize..70_000,
    ) {
        let draw = draw >> 2;
        let config = SessionConfig { queue: 20_000, ..SessionConfig::default() };
        let weather = Weather { queue: 20 * MS, ..FINE };
        let mut pipe = Pipe::dialled(lossy(max_frame).reliable(), &config, weather, draw);
        deliver(&mut pipe, 200, 3000);
        for side in &pipe.sides {
            prop_assert_eq!(side.session.stats().retransmitted, 0);
        }
    }
}

#[test]
fn a_message_of_the_largest_size_streams_through_a_window_of_a_mebibyte() {
    let big = messages(&mut Dice(1), 1, 0).pop().map(|_| vec![7u8; 17 << 20]).unwrap();
    for (profile, weather) in
        [(lossy(1200), Weather { loss: 1, ..FINE }), (lossy(65_536), STORM), (lossy(65_536).reliable(), FINE)]
    {
        let mut pipe = Pipe::dialled(profile, &SessionConfig::default(), weather, 5);
        pipe.plan(0, Lane::Bulk, [big.clone().into()]);
        assert!(pipe.run_until(3600 * SECOND, |pipe| !pipe.sides[1].got[1].is_empty()));
        assert!(pipe.sides[1].got[1][0] == big);
        let held = pipe.sides[1].most_held;
        assert!(held <= (17 << 20) + (1 << 20), "{held} bytes held");
    }
}

#[test]
fn control_overtakes_bulk_fragment_by_fragment() {
    let mut pipe = Pipe::dialled(lossy(1200).reliable(), &SessionConfig::default(), FINE, 1);
    assert!(pipe.run_until(SECOND, Pipe::is_established));
    let ana = &mut pipe.sides[0].session;
    ana.send(Lane::Bulk, vec![1; 100_000].into()).unwrap();
    let (_, priority) = ana.poll_transmit(pipe.now).unwrap();
    assert_eq!(priority, Priority::Normal);
    ana.send(Lane::Control, vec![2; 2000].into()).unwrap();
    let next: Vec<_> = (0..3).map(|_| ana.poll_transmit(pipe.now).unwrap().1).collect();
    assert_eq!(next, [Priority::High, Priority::High, Priority::Normal]);
}

#[test]
fn i8_an_idle_session_is_silent_and_has_no_deadline() {
    for profile in [lossy(512), lossy(65_536).reliable()] {
        let mut pipe = Pipe::dialled(profile, &SessionConfig::default(), FINE, 2);
        deliver(&mut pipe, 5, 1000);
        assert!(pipe.sides.iter().all(|side| side.session.next_deadline().is_none()));
        assert!(pipe.sides.iter().any(|side| side.session.rtt().is_some()));
        for side in &mut pipe.sides {
            assert!(side.session.poll_transmit(pipe.now + 3600 * SECOND).is_none());
        }
    }
}

#[test]
fn lanes_change_keys_under_a_storm_without_losing_anything() {
    let config = SessionConfig { epoch_frames: 16, ..SessionConfig::default() };
    let mut pipe = Pipe::dialled(lossy(512), &config, STORM, 3);
    deliver(&mut pipe, 60, 2000);
    assert!(pipe.sides[0].session.stats().frames_out > 160);
}

#[test]
fn a_datagram_arrives_at_most_once_and_one_that_does_not_fit_is_refused() {
    let mut pipe = Pipe::dialled(lossy(512), &SessionConfig::default(), FINE, 4);
    let max = pipe.sides[0].session.max_datagram();
    assert!(max >= 480);
    let ana = &mut pipe.sides[0].session;
    let refused = ana.send_datagram(vec![0; max + 1].into());
    assert_eq!(refused, Err(DatagramTooLarge { len: max + 1, max }));
    ana.send_datagram(vec![1; max].into()).unwrap();
    assert!(pipe.run(SECOND));
    let datagram = SessionEvent::Datagram(vec![1; max].into());
    assert_eq!(pipe.sides[1].events.iter().filter(|event| **event == datagram).count(), 1);
}

#[test]
fn a_link_that_heals_after_an_hour_goes_on_where_it_was() {
    let mut pipe = Pipe::dialled(lossy(1200), &SessionConfig::default(), FINE, 6);
    assert!(pipe.run_until(SECOND, Pipe::is_established));
    let sent = messages(&mut Dice(6), 100, 5000);
    pipe.plan(0, Lane::Bulk, sent.iter().cloned());
    pipe.weather.loss = 100;
    pipe.run(3600 * SECOND);
    let frames = pipe.sides[0].session.stats().frames_out;
    assert!(frames < 2000, "{frames} frames into the void");
    pipe.weather.loss = 0;
    assert!(pipe.run_until(30 * SECOND, |pipe| pipe.sides[1].got[1].len() == 100));
    assert!(pipe.sides[1].got[1] == sent);
}

#[test]
fn a_reliable_link_that_loses_a_frame_closes_the_session_instead_of_waiting_for_ever() {
    let profile = PortProfile::unauthenticated(1200).reliable();
    let mut pipe = Pipe::dialled(profile, &SessionConfig::default(), FINE, 7);
    assert!(pipe.run_until(SECOND, Pipe::is_established));
    let ana = &mut pipe.sides[0].session;
    ana.send(Lane::Bulk, vec![1; 3000].into()).unwrap();
    ana.poll_transmit(pipe.now).unwrap();
    assert!(pipe.run(SECOND));
    assert_eq!(pipe.closed(1), Some(CloseReason::LinkLost));
}
