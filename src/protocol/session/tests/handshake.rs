//! Who is there, over bad links and with bad company.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::handshake::{Noise, Offer};
use super::super::*;
use super::pipe::*;
use crate::domain::time::Instant;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn two_sessions_establish_over_a_storm_whoever_dialled(draw: u64, ana: bool, ben: bool) {
        let draw = draw >> 2;
        let config = SessionConfig::default();
        let sessions =
            [session(1, &config, lossy(512), ana, 2 * draw), session(2, &config, lossy(512), ben, 2 * draw + 1)];
        let mut pipe = Pipe::new(sessions, STORM, draw);
        prop_assert!(pipe.run_until(10 * SECOND, Pipe::is_established));
        prop_assert!(pipe.run(60 * SECOND), "established sessions go on talking");
        prop_assert_eq!(pipe.sides[0].session.peer(), Some(node(2)));
        prop_assert_eq!(pipe.sides[1].session.peer(), Some(node(1)));
        prop_assert_eq!(pipe.binding(0), pipe.binding(1));
        prop_assert_eq!(pipe.binding(0).len(), 1);
        for side in &pipe.sides {
            prop_assert!(side.sent.iter().all(|frame| frame.len() <= 512));
        }
    }
}

#[test]
fn a_run_is_a_function_of_its_seed_and_two_seeds_share_no_binding() {
    let run = |draw| {
        let mut pipe = Pipe::dialled(lossy(512), &SessionConfig::default(), STORM, draw);
        pipe.plan(0, Lane::Bulk, messages(&mut Dice(1), 20, 2000));
        pipe.run(60 * SECOND);
        (pipe.sides[0].sent.clone(), pipe.binding(0))
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).1, run(2).1);
}

#[test]
fn meeting_oneself_closes_both_ends() {
    let config = SessionConfig::default();
    let sessions = [session(1, &config, lossy(512), true, 1), session(1, &config, lossy(512), false, 2)];
    let mut pipe = Pipe::new(sessions, FINE, 1);
    pipe.run(SECOND);
    assert_eq!(pipe.closed(0), Some(CloseReason::OwnNode));
    assert_eq!(pipe.closed(1), Some(CloseReason::OwnNode));
}

#[test]
fn a_reflected_handshake_is_refused() {
    let ana = session(1, &SessionConfig::default(), lossy(512), true, 1);
    let mut pipe = Pipe::new([ana, session(2, &SessionConfig::default(), lossy(512), false, 2)], FINE, 1);
    let (first, _) = pipe.sides[0].session.poll_transmit(pipe.now).unwrap();
    let mut events = Vec::new();
    pipe.sides[0].session.handle_frame(first, pipe.now, &mut events);
    assert_eq!(events, [SessionEvent::Fault(SessionFault::Reflected)]);
    assert!(pipe.run_until(SECOND, Pipe::is_established), "the true peer still passes");
}

#[test]
fn nobody_there_is_a_timeout() {
    let config = SessionConfig::default();
    for dialed in [true, false] {
        let sessions =
            [session(1, &config, lossy(512), dialed, 1), session(2, &config, lossy(512), false, 2)];
        let mut pipe = Pipe::new(sessions, Weather { loss: 100, ..FINE }, 1);
        assert!(pipe.run(60 * SECOND));
        assert_eq!(pipe.closed(0), Some(CloseReason::Timeout));
        assert!(pipe.now <= Instant::ZERO + 10 * SECOND);
        assert!(pipe.sides[0].sent.len() < 30);
    }
}

#[test]
fn a_man_in_the_middle_who_swaps_keys_gets_no_session_in_the_name_of_another() {
    // Mallory speaks Noise with both ends and passes on what they say inside; only the proofs resist.
    let config = SessionConfig::default();
    let mut ana = session(1, &config, lossy(1200), true, 1);
    let mut ben = session(2, &config, lossy(1200), false, 2);
    let offer = Offer { credit: [1 << 20; 2], max_message: 1 << 20 };
    let towards_ben = Noise::new(identity(9), offer, seed(3));
    let mut towards_ana = Noise::new(identity(9), offer, seed(4));
    let (now, mut events) = (Instant::ZERO, Vec::new());
    // As herself she may connect: that is what admission is for.
    let (first, _) = ana.poll_transmit(now).unwrap();
    let answer = towards_ana.answer(first[1..].try_into().unwrap()).unwrap();
    ana.handle_frame(answer, now, &mut events);
    assert_eq!(ana.peer(), Some(node(9)));
    // Ben's true answer to her is no answer to Ana.
    let mut ana = session(1, &config, lossy(1200), true, 1);
    let (_, hers) = towards_ben.initiate().unwrap();
    ben.handle_frame(hers, now, &mut Vec::new());
    let (answer, _) = ben.poll_transmit(now).unwrap();
    let (first, _) = ana.poll_transmit(now).unwrap();
    let mut forged = answer.to_vec();
    forged[1..5].copy_from_slice(&first[1..5]);
    let mut events = Vec::new();
    ana.handle_frame(forged.into(), now, &mut events);
    assert_eq!(events, [SessionEvent::Fault(SessionFault::Unauthentic)]);
    assert_eq!(ana.peer(), None);
}

#[test]
fn a_node_that_claims_to_be_another_is_refused_and_the_true_one_still_passes() {
    use crate::domain::identity::Signer;
    // A liar that uses its own key under another's name.
    #[derive(Debug)]
    struct Liar;
    struct LyingSigner(std::sync::Arc<dyn Signer>);
    impl Signer for LyingSigner {
        fn node(&self) -> crate::domain::id::NodeId {
            node(2)
        }
        fn sign(&self, message: &[u8]) -> crate::domain::identity::Signature {
            self.0.sign(message)
        }
        fn agree(&self, peer: &crate::domain::id::NodeId) -> Option<zeroize::Zeroizing<[u8; 32]>> {
            self.0.agree(peer)
        }
    }
    impl crate::domain::identity::SignatureScheme for Liar {
        fn signer(&self, secret: &[u8; 32]) -> std::sync::Arc<dyn Signer> {
            let signer = crate::domain::identity::Ed25519::default().signer(secret);
            if *secret == [9; 32] { std::sync::Arc::new(LyingSigner(signer)) } else { signer }
        }
        fn verify(
            &self,
            _: &crate::domain::id::NodeId,
            _: &[u8],
            _: &crate::domain::identity::Signature,
        ) -> bool {
            true
        }
    }
    let config = SessionConfig::default();
    let liar = || crate::domain::identity::Identity::with_scheme([9; 32], std::sync::Arc::new(Liar));
    let lying =
        |dialed| Session::new(config.clone(), liar(), lossy(1200), None, dialed, seed(7), Instant::ZERO);
    // As the one that answers.
    let mut ana = session(1, &config, lossy(1200), true, 1);
    let (mut liar, now) = (lying(false), Instant::ZERO);
    let (first, _) = ana.poll_transmit(now).unwrap();
    liar.handle_frame(first, now, &mut Vec::new());
    let mut events = Vec::new();
    ana.handle_frame(liar.poll_transmit(now).unwrap().0, now, &mut events);
    assert_eq!(events, [SessionEvent::Fault(SessionFault::Unauthentic)]);
    let mut pipe = Pipe::new([ana, session(2, &config, lossy(1200), false, 2)], FINE, 1);
    assert!(pipe.run_until(SECOND, Pipe::is_established));
    // As the one that begins.
    let mut pipe = Pipe::new([lying(true), session(1, &config, lossy(1200), false, 3)], FINE, 1);
    pipe.run(3 * SECOND);
    assert_eq!(pipe.sides[1].session.peer(), None);
    assert!(pipe.sides[1].session.stats().dropped(SessionFault::Unauthentic) > 0);
}

#[test]
fn a_key_with_a_part_of_small_order_is_refused_although_its_owner_can_agree_with_it() {
    use crate::domain::id::NodeId;
    use crate::domain::identity::{Ed25519, Identity, Signature, SignatureScheme, Signer};
    // The point of order eight, which clamped scalars do not see, added to the true key.
    #[derive(Debug)]
    struct Alias;
    struct AliasSigner(std::sync::Arc<dyn Signer>);
    impl Signer for AliasSigner {
        fn node(&self) -> NodeId {
            let mut small = [0; 32];
            small.copy_from_slice(&[
                0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
                0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
                0xfc, 0x05,
            ]);
            let point =
                |bytes: &[u8; 32]| ed25519_dalek::VerifyingKey::from_bytes(bytes).unwrap().to_edwards();
            NodeId::from_bytes((point(self.0.node().as_bytes()) + point(&small)).compress().to_bytes())
        }
        fn sign(&self, message: &[u8]) -> Signature {
            self.0.sign(message)
        }
        fn agree(&self, peer: &NodeId) -> Option<zeroize::Zeroizing<[u8; 32]>> {
            self.0.agree(peer)
        }
    }
    impl SignatureScheme for Alias {
        fn signer(&self, secret: &[u8; 32]) -> std::sync::Arc<dyn Signer> {
            let signer = Ed25519::default().signer(secret);
            if *secret == [9; 32] { std::sync::Arc::new(AliasSigner(signer)) } else { signer }
        }
        fn verify(&self, _: &NodeId, _: &[u8], _: &Signature) -> bool {
            true
        }
    }
    let config = SessionConfig::default();
    for dialed in [true, false] {
        let alias = Identity::with_scheme([9; 32], std::sync::Arc::new(Alias));
        let alias = Session::new(config.clone(), alias, lossy(1200), None, dialed, seed(7), Instant::ZERO);
        let mut pipe = Pipe::new([alias, session(1, &config, lossy(1200), !dialed, 3)], FINE, 1);
        pipe.run(SECOND);
        assert_eq!(pipe.sides[1].session.peer(), None);
        assert!(pipe.sides[1].session.stats().dropped(SessionFault::BadIdentity) > 0);
    }
}

#[test]
fn a_finish_carries_what_is_said_first_and_a_finish_of_long_ago_is_of_no_use() {
    let mut pipe = Pipe::dialled(lossy(512), &SessionConfig::default(), FINE, 1);
    pipe.plan(0, Lane::Control, [Bytes::from_static(b"hello")]);
    assert!(pipe.run_until(SECOND, |pipe| !pipe.sides[1].got[0].is_empty()));
    assert_eq!(pipe.sides[0].sent.len(), 2, "an initiate and a finish");
    assert!(pipe.run(SECOND));
    let finish = pipe.sides[0].sent[1].clone();
    pipe.inject(1, finish);
    assert!(pipe.run(SECOND));
    assert_eq!(pipe.sides[1].got[0].len(), 1, "said once");
}

#[test]
fn strangers_who_begin_meanwhile_do_not_push_out_a_handshake_under_way() {
    let mut ben = session(2, &SessionConfig::default(), lossy(512), false, 1);
    let mut ana = session(1, &SessionConfig::default(), lossy(512), true, 2);
    let (now, mut events) = (Instant::ZERO, Vec::new());
    ben.handle_frame(ana.poll_transmit(now).unwrap().0, now, &mut events);
    let answer = ben.poll_transmit(now).unwrap().0;
    for n in 0..1000u64 {
        ben.handle_frame([&[0x21][..], &seed(n)].concat().into(), now, &mut Vec::new());
        while ben.poll_transmit(now).is_some() {}
    }
    ana.handle_frame(answer, now, &mut events);
    let later = now + SECOND;
    ben.handle_frame(ana.poll_transmit(later).unwrap().0, later, &mut events);
    assert_eq!((ana.peer(), ben.peer()), (Some(node(2)), Some(node(1))));
}

#[test]
fn on_a_proven_link_that_loses_nothing_one_greeting_each_is_all_there_is_to_it() {
    let config = SessionConfig::default();
    let profile = lossy(512).reliable();
    let side = |n: u8, peer: u8| {
        Session::new(
            config.clone(),
            identity(n),
            profile,
            Some(node(peer)),
            n == 1,
            seed(n.into()),
            Instant::ZERO,
        )
    };
    let mut pipe = Pipe::new([side(1, 2), side(2, 1)], FINE, 1);
    for at in 0..2 {
        pipe.plan(at, Lane::Control, [Bytes::from_static(b"hello")]);
    }
    assert!(pipe.run_until(SECOND, |pipe| pipe.sides.iter().all(|side| !side.got[0].is_empty())));
    assert_eq!(pipe.binding(0), pipe.binding(1));
    for side in &pipe.sides {
        let sizes: Vec<usize> = side.sent.iter().map(Bytes::len).collect();
        assert_eq!(sizes, [15, 15]);
    }
}

#[test]
fn a_node_that_restarts_on_the_same_link_is_met_again_and_another_node_is_not() {
    for weather in [FINE, STORM] {
        for dialed in [true, false] {
            let config = SessionConfig::default();
            let mut pipe = Pipe::dialled(lossy(1200), &config, weather.clone(), 1);
            assert!(pipe.run_until(10 * SECOND, Pipe::is_established));
            pipe.run(60 * SECOND);
            pipe.in_flight.clear();
            let fresh = |n, draw, now| {
                Session::new(config.clone(), identity(n), lossy(1200), None, dialed, seed(draw), now)
            };
            pipe.sides[0].session = fresh(1, 77, pipe.now);
            assert!(pipe.run_until(10 * SECOND, |pipe| pipe.binding(1).len() == 2));
            assert!(pipe.run_until(10 * SECOND, Pipe::is_established));
            pipe.plan(1, Lane::Bulk, [Bytes::from_static(b"welcome back")]);
            pipe.run(60 * SECOND);
            assert_eq!(pipe.binding(0)[1], pipe.binding(1)[1]);
            assert_eq!(pipe.sides[0].got[1], ["welcome back"]);
            pipe.sides[0].session = fresh(3, 78, pipe.now);
            pipe.run(30 * SECOND);
            assert_eq!(pipe.binding(1).len(), 2);
            assert!(pipe.sides[1].session.stats().dropped(SessionFault::ForeignNode) > 0);
        }
    }
}

#[test]
fn a_node_that_restarts_on_a_proven_link_is_met_again() {
    for draw in 0..20 {
        let weather = Weather { corruption: 0, ..STORM };
        let side = |n: u8, peer, now, draw| {
            let config = SessionConfig::default();
            Session::new(config, identity(n), lossy(1200), Some(node(peer)), n == 1, seed(draw), now)
        };
        let sessions = [side(1, 2, Instant::ZERO, 3 * draw), side(2, 1, Instant::ZERO, 3 * draw + 1)];
        let mut pipe = Pipe::new(sessions, weather, draw);
        assert!(pipe.run_until(10 * SECOND, Pipe::is_established));
        assert!(pipe.run(60 * SECOND));
        let old = pipe.sides[0].sent.clone();
        pipe.sides[0].session = side(1, 2, pipe.now, 3 * draw + 2);
        pipe.run_until(10 * SECOND, |pipe| pipe.binding(1).len() == 2);
        pipe.plan(1, Lane::Bulk, [Bytes::from_static(b"welcome back")]);
        assert!(pipe.run(60 * SECOND));
        assert_eq!(pipe.binding(0)[1], pipe.binding(1)[1]);
        assert_eq!(pipe.sides[0].got[1], ["welcome back"]);
        for frame in old {
            pipe.inject(1, frame);
        }
        assert!(pipe.run(60 * SECOND));
        assert_eq!(pipe.binding(1).len(), 2, "old greetings began a session");
    }
}

#[test]
fn i6_a_flood_of_first_messages_costs_a_few_answers() {
    let mut ben = session(2, &SessionConfig::default(), lossy(512), false, 1);
    let mut answers = 0;
    for n in 0..1000u64 {
        let frame = [&[0x21][..], &seed(n)].concat();
        ben.handle_frame(frame.into(), Instant::ZERO, &mut Vec::new());
        answers += usize::from(ben.poll_transmit(Instant::ZERO).is_some());
    }
    assert!(answers <= 16, "{answers} answers");
    assert!(ben.stats().dropped(SessionFault::Flood) > 900);
}

#[test]
fn a_close_tells_the_peer_why() {
    let mut pipe = Pipe::dialled(lossy(512), &SessionConfig::default(), FINE, 1);
    assert!(pipe.run(SECOND));
    pipe.sides[0].session.close(CloseReason::Redundant);
    assert!(pipe.sides[0].session.is_closed());
    assert!(pipe.run(SECOND));
    assert_eq!(pipe.closed(1), Some(CloseReason::ByPeer(PeerReason::Redundant)));
    assert!(pipe.sides[1].session.send(Lane::Bulk, Bytes::new()).is_err());
}

#[test]
fn the_bytes_of_the_handshake_are_fixed() {
    let offer = Offer { credit: [1 << 20, 2 << 20], max_message: 17 << 20 };
    let ana = Noise::new(identity(1), offer, [3; 32]);
    let mut ben = Noise::new(identity(2), Offer::USUAL, [4; 32]);
    let (first, initiate) = ana.initiate().unwrap();
    let answer = ben.answer(&first).unwrap();
    let answered = ana.on_answer(&answer[1..]).unwrap().unwrap();
    let (agreed, (finish, keys)) = (answered.agreed, answered.finish(b"body").unwrap());
    assert_eq!(ben.named(finish[1..5].try_into().unwrap()), [first]);
    let (other, others, body) = ben.on_finish(&first, &finish[5..]).unwrap();
    assert_eq!((agreed.binding, keys[0], keys[1]), (other.binding, others[1], others[0]));
    assert_eq!((agreed.peer, other.peer, &body[..]), (node(2), node(1), &b"body"[..]));
    assert_eq!((agreed.offer, other.offer), (Offer::USUAL, offer));
    assert_eq!([initiate.len(), answer.len(), finish.len()], [33, 102, 69 + 21 + 4]);
    let shown = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let all = blake3::hash(&[&initiate[..], &answer, &finish, &agreed.binding].concat());
    assert_eq!(shown(&initiate), "2191391a5d3b836ec7cd7645e65600c38f65076465fc5d6f4cb00f8108196fde4f");
    assert_eq!(shown(all.as_bytes()), "6a31d047d6204d7de8874f5108f39b57d365a1cffc0bd8508135e97cde99a9b3");
}
