//! What a hostile or slow peer can cost.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::*;
use super::pipe::*;

#[test]
fn i6_a_receiver_that_does_not_take_holds_one_window_and_goes_on_when_it_does() {
    for profile in [lossy(1200), lossy(65_536).reliable()] {
        let config = SessionConfig { window: 64 << 10, queue: 8 << 20, ..SessionConfig::default() };
        let mut pipe = Pipe::dialled(profile, &config, FINE, 1);
        pipe.sides[1].session.set_paused(Lane::Bulk, true, &mut Vec::new());
        let sent = messages(&mut Dice(1), 2000, 2000);
        pipe.plan(0, Lane::Bulk, sent.iter().cloned());
        pipe.plan(0, Lane::Control, [Bytes::from_static(b"still there?")]);
        assert!(pipe.run(60 * SECOND), "a blocked lane must be quiet");
        assert_eq!(pipe.sides[1].got[0].len(), 1, "the other lane goes on");
        assert!(pipe.sides[1].got[1].is_empty());
        let held = pipe.sides[1].most_held;
        assert!(held <= 64 << 10, "{held} bytes held");
        let mut events = Vec::new();
        pipe.sides[1].session.set_paused(Lane::Bulk, false, &mut events);
        let early: Vec<_> = events
            .into_iter()
            .filter_map(|event| match event {
                SessionEvent::Message { message, .. } => Some(message),
                _ => None,
            })
            .collect();
        assert!(pipe.run(600 * SECOND));
        let all = [early, pipe.sides[1].got[1].clone()].concat();
        assert!(all == sent);
    }
}

#[test]
fn a_full_lane_gives_the_message_back_and_tells_of_room() {
    let config = SessionConfig { queue: 10_000, ..SessionConfig::default() };
    let mut pipe = Pipe::dialled(lossy(1200).reliable(), &config, FINE, 2);
    let ana = &mut pipe.sides[0].session;
    ana.send(Lane::Bulk, vec![0; 50_000].into()).unwrap();
    assert_eq!(ana.room(Lane::Bulk), 0);
    assert_eq!(ana.send(Lane::Bulk, "more".into()), Err(LaneFull("more".into())));
    ana.send(Lane::Control, "the other lane".into()).unwrap();
    assert!(pipe.run(SECOND));
    let room = SessionEvent::Room(Lane::Bulk);
    assert_eq!(pipe.sides[0].events.iter().filter(|event| **event == room).count(), 1);
    assert!(pipe.sides[0].session.room(Lane::Bulk) > 10_000);
}

#[test]
fn a_message_over_the_limit_of_the_peer_is_refused_here() {
    let config = SessionConfig::default();
    let small = SessionConfig { max_message: 1000, ..config.clone() };
    let sessions = [session(1, &config, lossy(1200), true, 1), session(2, &small, lossy(1200), false, 2)];
    let mut pipe = Pipe::new(sessions, FINE, 3);
    assert!(pipe.run(SECOND));
    let ana = &mut pipe.sides[0].session;
    assert_eq!(ana.max_message(), 1000);
    assert!(ana.send(Lane::Bulk, vec![0; 1001].into()).is_err());
    ana.send(Lane::Bulk, vec![0; 1000].into()).unwrap();
    assert!(pipe.run(SECOND));
    assert_eq!(pipe.sides[1].got[1].len(), 1);
}

#[test]
fn a_peer_that_announces_a_message_over_the_limit_is_left() {
    let config = SessionConfig::default();
    let small = SessionConfig { max_message: 1000, ..config.clone() };
    let sessions = [session(1, &config, lossy(1200), true, 1), session(2, &small, lossy(1200), false, 2)];
    let mut pipe = Pipe::new(sessions, FINE, 3);
    // Queued before the peer's limit is known.
    pipe.sides[0].session.send(Lane::Bulk, vec![0; 1001].into()).unwrap();
    assert!(pipe.run(SECOND));
    assert_eq!(pipe.closed(1), Some(CloseReason::Violation));
    assert_eq!(pipe.closed(0), Some(CloseReason::ByPeer(PeerReason::Violation)));
}

#[test]
fn replayed_frames_of_this_and_of_an_older_session_have_no_effect() {
    let config = SessionConfig::default();
    let mut old = Pipe::dialled(lossy(512), &config, FINE, 1);
    old.plan(0, Lane::Control, messages(&mut Dice(1), 20, 900));
    assert!(old.run(SECOND));
    let mut pipe = Pipe::dialled(lossy(512), &config, FINE, 2);
    let sent = messages(&mut Dice(2), 20, 900);
    pipe.plan(0, Lane::Control, sent.iter().cloned());
    assert!(pipe.run(SECOND));
    let recorded: Vec<_> = [&old, &pipe]
        .into_iter()
        .flat_map(|pipe| [0, 1].map(|from| (from, pipe.sides[from].sent.clone())))
        .flat_map(|(from, frames)| frames.into_iter().map(move |frame| (from, frame)))
        .collect();
    let peers = [0, 1].map(|side| pipe.binding(side));
    for (from, frame) in recorded {
        pipe.inject(1 - from, frame.clone());
        pipe.inject(from, frame);
        pipe.run(SECOND / 10);
    }
    assert!(pipe.run(60 * SECOND));
    assert_eq!([0, 1].map(|side| pipe.binding(side)), peers);
    assert!(pipe.sides[1].got[0] == sent && pipe.sides[0].got[0].is_empty());
    let ben = pipe.sides[1].session.stats();
    assert!(ben.dropped(SessionFault::Replayed) > 0 && ben.dropped(SessionFault::Unauthentic) > 0);
    pipe.plan(0, Lane::Control, [Bytes::from_static(b"and on")]);
    assert!(pipe.run(SECOND));
    assert_eq!(pipe.sides[1].got[0].last().unwrap(), "and on");
}

#[test]
fn i9_each_fault_is_reported_once_and_counted_every_time() {
    let mut pipe = Pipe::dialled(lossy(512), &SessionConfig::default(), FINE, 1);
    assert!(pipe.run(SECOND));
    pipe.plan(0, Lane::Control, [Bytes::from_static(b"data")]);
    assert!(pipe.run(SECOND));
    let wrong = [
        (vec![0x50, 1, 2], SessionFault::UnknownVersion),
        (vec![0x2f], SessionFault::UnknownKind),
        (vec![], SessionFault::Malformed),
        (vec![0x30, 200, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6], SessionFault::Unauthentic),
        (pipe.sides[0].sent.last().unwrap().to_vec(), SessionFault::Replayed),
    ];
    for (frame, fault) in wrong {
        for count in 1..=3 {
            let mut events = Vec::new();
            let ben = &mut pipe.sides[1].session;
            ben.handle_frame(frame.clone().into(), pipe.now, &mut events);
            let reported = if count == 1 { vec![SessionEvent::Fault(fault)] } else { vec![] };
            assert_eq!(events, reported);
            assert_eq!(ben.stats().dropped(fault), count);
        }
    }
}

proptest! {
    #[test]
    fn i6_arbitrary_frames_never_panic_nor_end_a_session(
        frames in proptest::collection::vec(
            (prop_oneof![(0x21_u8..0x25), (0x30_u8..0x40), any::<u8>()],
            proptest::collection::vec(any::<u8>(), 0..300)), 0..60),
        established: bool,
    ) {
        let mut pipe = Pipe::dialled(lossy(1200), &SessionConfig::default(), FINE, 1);
        if established {
            prop_assert!(pipe.run(SECOND));
        }
        for (first, body) in frames {
            let frame = Bytes::from([&[first][..], &body].concat());
            for index in 0..2 {
                pipe.inject(index, frame.clone());
            }
            pipe.run(MS);
        }
        pipe.plan(0, Lane::Control, [Bytes::from_static(b"still here")]);
        prop_assert!(pipe.run_until(9 * SECOND, |pipe| !pipe.sides[1].got[0].is_empty()));
    }

    #[test]
    fn i6_an_authentic_peer_with_arbitrary_bodies_never_panics(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 1..40),
        reliable: bool,
    ) {
        use crate::protocol::delivery::{Delivery, Limits};
        use crate::domain::time::Instant;
        let limits = Limits {
            reliable, max_frame: 1200, max_message: 1 << 20, window: 4096, max_window: 8192, queue: 1 << 16,
        };
        let (mut delivery, mut now) = (Delivery::new(limits), Instant::ZERO);
        delivery.raise_credit(Lane::Bulk, 10_000);
        delivery.push(Lane::Bulk, vec![1; 20_000].into()).unwrap();
        for (number, body) in bodies.into_iter().enumerate() {
            let mut arrived = Vec::new();
            let _ = delivery.read(Lane::Bulk, number as u64, &body.into(), now, &mut arrived);
            while let Some(lane) = delivery.next_lane(now) {
                let mut frame = Vec::new();
                delivery.write(lane, now, 1200, &mut frame);
                prop_assert!(frame.len() <= 1200);
            }
            prop_assert!(delivery.held() <= (1 << 20) + 3 * 4096);
            now = now + SECOND / 5;
            delivery.handle_timeout(now);
        }
    }
}
