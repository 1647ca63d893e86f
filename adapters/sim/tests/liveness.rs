//! Liveness under what the field knows: pauses, loss, cuts, restarts, floods, lies.
//!
//! Each of the seventeen troubles that users of such layers reported is a test here, named by its number in
//! `docs/liveness.md`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use anabranch::domain::identity::Signature;
use anabranch::protocol::swim::{
    Accusation, Body, Incarnation, Input, Metadata, Packet, ShortId, Statement, Status, SwimConfig,
    SwimEngine, Update,
};
use anabranch::{Instant, PeerAddr};
use anabranch_sim::swim::{Engine as _, Group, Network, Ours, View};

const SECOND: u64 = 1_000_000_000;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A group in which everybody knows everybody.
fn group(nodes: usize, seed: u64, loss: f64) -> Group<Ours> {
    let mut group = Group::new(nodes, seed, Network::new(loss));
    for node in 1..nodes {
        group.join(node, &[0]);
    }
    group.run_while(secs(60), |group| group.estranged() > 0).expect("all know each other");
    group.run(secs(2));
    group
}

/// Every other 20 seconds.
fn is_down(now: u64) -> bool {
    (now / SECOND / 20).is_multiple_of(2)
}

fn stats(group: &Group<Ours>, node: usize) -> &anabranch::protocol::swim::SwimStats {
    group.engine(node).unwrap().engine.stats()
}

fn incarnation(group: &Group<Ours>, node: usize) -> u64 {
    group.engine(node).unwrap().engine.incarnation().0
}

/// Ends nodes and starts them again, joining through one of them.
fn restart(group: &mut Group<Ours>, nodes: impl Iterator<Item = usize> + Clone) {
    nodes.clone().for_each(|node| group.crash(node));
    nodes.clone().for_each(|node| group.start(node));
    nodes.for_each(|node| group.join(node, &[0, 1]));
}

#[test]
fn an_idle_group_costs_two_messages_per_node_and_second_whatever_its_size() {
    for nodes in [2, 3, 10, 30] {
        let mut group = group(nodes, 1, 0.0);
        group.run(secs(30));
        let (frames, bytes) = (group.frames, group.bytes);
        group.run(secs(60));
        let rate = (group.frames - frames) as f64 / (nodes * 60) as f64;
        let bytes = (group.bytes - bytes) as f64 / (nodes * 60) as f64;
        assert!(rate <= 2.1 && bytes <= 120.0, "{nodes} nodes: {rate} messages, {bytes} bytes");
    }
}

#[test]
fn a_crash_is_known_to_all_in_seconds_and_nobody_else_is_blamed() {
    let mut group = group(20, 2, 0.0);
    group.crash(7);
    group.run_while(secs(8), |group| group.believers(7) > 0).expect("all know within 8 s");
    group.run(secs(60));
    assert_eq!((group.false_verdicts.len(), group.estranged()), (0, 0));
}

#[test]
fn a_fifth_of_all_frames_lost_makes_nobody_unreachable() {
    let mut group = group(20, 3, 0.2);
    group.run(secs(300));
    assert_eq!(group.false_verdicts, []);
}

#[test]
fn a_node_that_was_paused_accuses_nobody_when_it_wakes() {
    for pause in [1, 2, 5, 17, 60] {
        let mut group = group(10, pause, 0.0);
        group.pause(3, secs(pause));
        group.run(secs(pause));
        group.run(secs(30));
        let by_sleeper = group.flips.iter().filter(|(by, _, _, down)| *by == 3 && *down).count();
        assert_eq!(
            (by_sleeper, group.false_verdicts.len(), group.estranged()),
            (0, 0, 0),
            "pause of {pause} s"
        );
    }
}

#[test]
fn a_fifth_of_the_nodes_paused_together_leaves_the_others_stable() {
    let mut group = group(30, 4, 0.0);
    (0..6).for_each(|node| group.pause(node, secs(20)));
    group.run(secs(20));
    group.run(secs(20));
    assert_eq!((group.false_verdicts.len(), group.estranged()), (0, 0));
}

#[test]
fn a_one_way_link_is_bridged_by_third_parties_and_changes_no_status() {
    let mut group = group(6, 5, 0.0);
    group.network.cut = Box::new(|from, to, _| (from, to) == (1, 2));
    group.run(secs(180));
    assert_eq!(group.flips, []);
    assert!(stats(&group, 1).sent[anabranch::protocol::swim::Kind::PingReq as usize] > 0);
}

#[test]
fn links_that_flip_every_20_s_change_no_status_and_a_node_that_does_at_most_once_per_minute() {
    let mut link = group(6, 6, 0.0);
    link.network.cut = Box::new(|from, to, now| is_down(now) && from.min(to) == 1 && from.max(to) == 2);
    link.run(secs(300));
    assert_eq!(link.flips, [], "a link");
    for one_way in [true, false] {
        let mut node = group(6, 7, 0.0);
        node.network.cut =
            Box::new(move |from, to, now| is_down(now) && (to == 1 || (!one_way && from == 1)));
        node.run(secs(600));
        let most = (0..6)
            .filter(|by| *by != 1)
            .map(|by| node.flips.iter().filter(|(other, of, _, _)| (*other, *of) == (by, 1)).count());
        assert!(most.max().unwrap() <= 10, "{:?}", node.flips);
        let others = node.flips.iter().filter(|(by, of, _, _)| *by != 1 && *of != 1).count();
        assert_eq!(others, 0, "of the others");
    }
}

#[test]
fn a_split_of_an_hour_heals_within_five_seconds() {
    let mut group = group(20, 8, 0.0);
    group.network.cut = Box::new(|from, to, _| (from < 10) != (to < 10));
    group.run(secs(3600));
    assert_eq!(group.estranged(), 200);
    group.network.cut = Box::new(|_, _, _| false);
    group.run_while(secs(5), |group| group.estranged() > 0).expect("healed within 5 s");
}

#[test]
fn many_nodes_that_leave_and_return_are_known_again() {
    let mut group = group(30, 9, 0.0);
    (10..30).for_each(|node| group.leave(node));
    group
        .run_while(secs(5), |group| (10..30).any(|node| group.believers(node) > 0))
        .expect("all know who left");
    assert!((0..10).all(|by| (10..30).all(|of| group.view(by, of) == View::Left)), "left, not lost");
    (10..30).for_each(|node| group.start(node));
    (10..30).for_each(|node| group.join(node, &[0, 1]));
    group.run_while(secs(10), |group| group.estranged() > 0).expect("all are back");
}

#[test]
fn an_update_reaches_everybody_in_a_logarithmic_number_of_rounds() {
    let mut group = group(60, 10, 0.0);
    let told = Metadata::default().name("Ana").role("relay").pair("k", &"v".repeat(900));
    group.with(5, |ours, now, out| ours.input(SwimEngine::metadata_input(&told).unwrap(), now, out));
    let id = Ours::identity(5).node();
    let knows = |group: &Group<Ours>, by: usize| {
        by == 5 || *group.engine(by).unwrap().engine.member(&id).unwrap().metadata == told
    };
    group.run_while(secs(5), |group| !(0..60).all(|by| knows(group, by))).expect("all know within 5 s");
}

// --- The seventeen ---

#[test]
fn trouble_01_memberlist_311_a_node_that_lost_its_incarnation_is_alive_again() {
    let mut group = group(5, 11, 0.0);
    group.with(2, |ours, now, _| ours.configure(SwimConfig::default(), 900_000, 1, now));
    group.join(2, &[0]);
    group.run(secs(10));
    group.crash(2);
    group.run_while(secs(20), |group| group.believers(2) > 0).unwrap();
    // The store is gone: it starts where it once began.
    group.start(2);
    group.with(2, |ours, now, _| ours.configure(SwimConfig::default(), 1, 2, now));
    group.join(2, &[0]);
    group.run_while(secs(10), |group| group.believers(2) < 4).expect("all hold it alive");
    assert!(incarnation(&group, 2) > 900_000);
}

#[test]
fn trouble_01_two_hundred_nodes_restart_at_once_and_all_are_alive_within_ten_seconds() {
    let (nodes, seeds) = if cfg!(debug_assertions) { (60, 4) } else { (200, 10) };
    for seed in 12..12 + seeds {
        let mut group = group(nodes, seed, 0.0);
        restart(&mut group, 0..nodes);
        group.run_while(secs(10), |group| group.estranged() > 0).expect("all know each other within 10 s");
    }
}

#[test]
fn trouble_02_memberlist_253_records_of_those_who_left_are_bounded_and_forgotten() {
    let mut group = group(2, 13, 0.0);
    let config = {
        let mut config = SwimConfig::default();
        config.max_gone = 20;
        config
    };
    group.with(0, |ours, now, _| ours.configure(config, 5000, 1, now));
    group.join(0, &[1]);
    group.run(secs(5));
    for stranger in 100..200 {
        let left = Statement::sign(&Ours::identity(stranger), &[0; 32], Incarnation(1), false, false);
        gossip(&mut group, 1, 0, &[Update::Statement(left, None)]);
        let left = Statement::sign(&Ours::identity(stranger), &[0; 32], Incarnation(1), true, false);
        gossip(&mut group, 1, 0, &[Update::Statement(left, None)]);
    }
    let engine = &group.engine(0).unwrap().engine;
    assert!(engine.count(Status::Left) <= 20, "{}", engine.count(Status::Left));
    assert!(engine.stats().members_forgotten >= 80);
}

#[test]
fn trouble_03_memberlist_157_a_node_keeps_its_identity_when_its_address_changes() {
    let mut group = group(3, 14, 0.0);
    let id = Ours::identity(2).node();
    // Its next frame comes from elsewhere.
    let frame = seal(&mut group, 2, 0);
    group.inject(77, 0, frame);
    let member = group.engine(0).unwrap().engine.member(&id).unwrap();
    assert_eq!((member.status, member.address), (Status::Alive, Some(PeerAddr::new("77"))));
}

#[test]
fn trouble_04_memberlist_222_after_total_isolation_nodes_find_back_by_themselves() {
    let mut group = group(5, 15, 0.0);
    group.network.cut = Box::new(|_, _, _| true);
    group.run(secs(1800));
    assert_eq!(group.estranged(), 20);
    group.network.cut = Box::new(|_, _, _| false);
    group.run_while(secs(60), |group| group.estranged() > 0).expect("found back");
}

#[test]
fn trouble_05_memberlist_80_a_node_rejoins_after_leaving_and_after_a_crash() {
    let mut group = group(4, 16, 0.0);
    for round in 0..4 {
        if round % 2 == 0 {
            group.leave(3)
        } else {
            group.crash(3)
        }
        group.run(secs(if round < 2 { 10 } else { 1 }));
        group.start(3);
        group.join(3, &[0]);
        group.run_while(secs(10), |group| group.estranged() > 0).expect("back");
        group.run(secs(5));
    }
}

#[test]
fn trouble_06_serf_269_an_idle_group_never_suspects_nor_flaps() {
    let mut group = group(20, 17, 0.0);
    group.run(secs(600));
    let suspicions: u64 = (0..20).map(|node| stats(&group, node).suspicions).sum();
    assert_eq!((suspicions, group.flips.len()), (0, 0));
}

#[test]
fn trouble_07_consul_2430_two_nodes_with_one_identity_cost_a_bounded_number_of_messages() {
    let mut group = group(6, 18, 0.0);
    let before = group.frames;
    // The identity of node 5 also lives at node 4's address.
    group.with(4, |ours, now, _| *ours = Ours::new(5, 6, 7, 9, now));
    group.join(4, &[0]);
    group.run(secs(120));
    let rate = (group.frames - before) as f64 / (6.0 * 120.0);
    assert!(rate < 30.0, "{rate} messages per node and second");
    assert!(stats(&group, 4).own_identity_seen + stats(&group, 5).own_identity_seen > 0, "it is visible");
}

#[test]
fn trouble_08_foca_19_the_backlog_of_updates_drains() {
    let mut group = group(20, 19, 0.0);
    restart(&mut group, 5..20);
    group.run(secs(40));
    assert!((0..20).all(|node| group.engine(node).unwrap().engine.backlog() == 0));
}

#[test]
fn trouble_09_foca_25_telling_nodes_that_they_are_held_dead_ends() {
    let mut group = group(6, 20, 0.0);
    group.network.cut = Box::new(|from, to, _| from == 3 || to == 3);
    group.run(secs(120));
    let (frames, begin) = (group.frames, group.now());
    group.run(secs(120));
    let rate = (group.frames - frames) as f64 / 6.0 / ((group.now() - begin) / SECOND) as f64;
    assert!(rate < 2.5, "{rate}");
    // It left, but still talks: it is told so, and either returns or falls silent.
    group.network.cut = Box::new(|_, _, _| false);
    group.run(secs(60));
    assert_eq!(group.estranged(), 0);
}

#[test]
fn trouble_10_foca_26_timers_in_any_order_and_none_at_all_are_tolerated() {
    let mut group = group(4, 21, 0.0);
    for _ in 0..1000 {
        group.with(1, |ours, now, out| {
            ours.input(Input::Timeout, now.saturating_sub(5 * SECOND), out);
            ours.input(Input::Timeout, now, out);
        });
        group.run(Duration::from_millis(20));
    }
    assert_eq!((group.false_verdicts.len(), group.estranged()), (0, 0));
}

#[test]
fn trouble_11_iroh_gossip_131_metadata_over_the_limit_is_an_error_and_what_fits_goes_in_one_frame() {
    assert!(SwimEngine::metadata_input(&Metadata::default().pair("k", &"v".repeat(1100))).is_err());
    let mut group = group(4, 22, 0.0);
    let most = Metadata::default().pair("k", &"v".repeat(1010));
    group.with(0, |ours, now, out| {
        let before = out.sends.len();
        ours.input(SwimEngine::metadata_input(&most).unwrap(), now, out);
        assert_eq!(out.sends.len(), before);
    });
    group.run(secs(5));
    let id = Ours::identity(0).node();
    assert!((1..4).all(|by| *group.engine(by).unwrap().engine.member(&id).unwrap().metadata == most));
}

#[test]
fn trouble_12_iroh_gossip_47_a_burst_of_a_hundred_thousand_frames_stops_nothing() {
    let mut group = group(4, 23, 0.0);
    let frame = seal(&mut group, 2, 0);
    for n in 0..100_000u32 {
        let mut junk = frame.to_vec();
        let at = n as usize % junk.len();
        junk[at] ^= 1 + (n % 250) as u8;
        group.inject(9, 0, junk.into());
    }
    group.run(secs(30));
    assert_eq!((group.false_verdicts.len(), group.estranged()), (0, 0));
    let seen = stats(&group, 0);
    assert!(
        seen.forged + seen.malformed + seen.unknown_senders + seen.repeated + seen.strangers_deferred
            >= 99_000
    );
}

#[test]
fn trouble_13_chitchat_161_dead_incarnations_are_not_gossiped_for_ever_and_bring_nobody_back() {
    let mut group = group(6, 24, 0.0);
    let old = Statement::sign(&Ours::identity(5), &[0; 32], Incarnation(1000), false, false);
    group.crash(5);
    group.run_while(secs(20), |group| group.believers(5) > 0).unwrap();
    group.run(secs(30));
    assert!((0..5).all(|node| group.engine(node).unwrap().engine.backlog() == 0));
    let id = Ours::identity(5).node();
    group.with(0, |ours, now, out| ours.input(Input::Forget(id), now, out));
    gossip(&mut group, 1, 0, &[Update::Statement(old, None)]);
    group.run(secs(40));
    assert_eq!((group.believers(5), group.engine(0).unwrap().engine.status(&id)), (0, None));
}

#[test]
fn trouble_14_quickwit_6653_and_16_cortex_4327_a_state_of_any_size_reaches_a_newcomer() {
    let mut group = Group::<Ours>::new(3, 25, Network::new(0.0));
    group.join(1, &[0]);
    group.run(secs(5));
    // Node 0 hears of 700 others; with their metadata the state is a thousand times a frame.
    for others in (100..800).collect::<Vec<_>>().chunks(8) {
        let said = others.iter().map(|n| {
            Update::Statement(
                Statement::sign(&Ours::identity(*n), &[0; 32], Incarnation(1), false, false),
                None,
            )
        });
        gossip(&mut group, 1, 0, &said.collect::<Vec<_>>());
    }
    group.join(2, &[0]);
    group.run(secs(20));
    let engine = &group.engine(2).unwrap().engine;
    assert!(engine.count(Status::Alive) + engine.count(Status::Unreachable) >= 600, "{engine:?}");
    assert!(stats(&group, 0).malformed == 0 && group.bytes / group.frames <= 1200);
}

#[test]
fn trouble_15_chitchat_88_rejoining_takes_seconds_and_always_succeeds() {
    for seed in 0..5 {
        let mut group = group(8, 100 + seed, 0.1);
        restart(&mut group, 4..8);
        group.run_while(secs(15), |group| group.estranged() > 0).expect("all are back");
    }
}

#[test]
fn trouble_17_memberlist_350_in_a_group_of_three_no_turn_is_skipped() {
    let mut group = group(3, 26, 0.0);
    let probes = |group: &Group<Ours>| (0..3).map(|node| stats(group, node).probes_answered).sum::<u64>();
    let before = probes(&group);
    let mut silence = Duration::ZERO;
    for _ in 0..2000 {
        group.run(Duration::from_millis(100));
        let now = Instant::from_nanos(group.now());
        for (a, b) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
            let member = group.engine(a).unwrap().engine.member(&Ours::identity(b).node()).unwrap();
            silence = silence.max(now.since(member.heard.unwrap()));
        }
    }
    let made = probes(&group) - before;
    assert!((597..=603).contains(&made), "{made} probes in 600 turns");
    // Two turns of one member are less than two passes apart.
    assert!(silence < secs(4), "{silence:?}");
}

// --- Lies ---

/// An authentic frame of `from` to `to` with any packet.
fn forge(group: &mut Group<Ours>, from: usize, to: usize, packet: &Packet) -> bytes::Bytes {
    let (id, mut frame) = (Ours::identity(to).node(), None);
    group.with(from, |ours, _, _| frame = ours.engine.forge(&id, &packet.encode()));
    frame.expect("it knows the other")
}

fn packet(group: &Group<Ours>, from: usize, updates: &[Update]) -> Packet {
    Packet {
        incarnation: Incarnation(incarnation(group, from)),
        body: Body::Gossip,
        updates: updates.to_vec(),
    }
}

/// `from` tells `to` something.
fn gossip(group: &mut Group<Ours>, from: usize, to: usize, news: &[Update]) {
    let packet = packet(group, from, news);
    let frame = forge(group, from, to, &packet);
    group.inject(from, to, frame);
}

/// A frame of `from` to `to` that says nothing.
fn seal(group: &mut Group<Ours>, from: usize, to: usize) -> bytes::Bytes {
    let packet = packet(group, from, &[]);
    forge(group, from, to, &packet)
}

fn accusation(of: usize, by: usize, incarnation: u64, age: u8) -> Update {
    let short = |node: usize| ShortId::from(&Ours::identity(node).node());
    let incarnation = Incarnation(incarnation);
    Update::Accusation(Accusation { subject: short(of), incarnation, accuser: short(by), age })
}

#[test]
fn an_accuser_that_accuses_everybody_in_everybodys_name_makes_nobody_unreachable() {
    let mut group = group(12, 30, 0.0);
    for _ in 0..60 {
        for (of, by, to) in (1..12).flat_map(|of| (0..12).map(move |by| (of, by, (of + by) % 12))) {
            if to != 0 && of != by {
                gossip(&mut group, 0, to, &[accusation(of, by, incarnation_of(of), 255)]);
            }
        }
        group.run(secs(1));
    }
    assert_eq!((group.false_verdicts.len(), group.estranged()), (0, 0));
    let ignored: u64 = (1..12).map(|node| stats(&group, node).accusations_ignored).sum();
    assert!(ignored > 0);
    let highest = (1..12).map(|node| incarnation(&group, node)).max().unwrap();
    assert!(highest < 1000 + 200, "denials are paced: {highest}");

    fn incarnation_of(_: usize) -> u64 {
        u64::MAX
    }
}

#[test]
fn an_accusation_in_the_present_incarnation_is_denied_and_forgotten() {
    let mut group = group(12, 31, 0.0);
    for round in 0..30 {
        let of = 1 + round % 11;
        let present = incarnation(&group, of);
        (1..12)
            .filter(|to| *to != of)
            .for_each(|to| gossip(&mut group, 0, to, &[accusation(of, 0, present, 50)]));
        group.run(secs(1));
    }
    group.run(secs(10));
    assert_eq!((group.false_verdicts.len(), group.estranged()), (0, 0));
    assert!((1..12).map(|node| stats(&group, node).denials).sum::<u64>() > 5);
}

#[test]
fn the_largest_incarnation_and_a_forged_farewell_are_refused_and_counted() {
    let mut group = group(5, 32, 0.0);
    let victim = Ours::identity(3).node();
    let signature = Signature::from_bytes([9; 64]);
    for (incarnation, left) in [(u64::MAX, false), (5000, true), (1000, true)] {
        let said = Statement {
            node: victim,
            incarnation: Incarnation(incarnation),
            left,
            low_power: false,
            signature,
        };
        (0..5)
            .filter(|to| *to != 2 && *to != 3)
            .for_each(|to| gossip(&mut group, 2, to, &[Update::Statement(said, None)]));
    }
    let bad: u64 = (0..5).map(|node| stats(&group, node).bad_signatures).sum();
    assert_eq!((bad, group.estranged(), incarnation(&group, 3)), (9, 0, 1000));
    // Its own last incarnation harms itself only.
    let said = Statement::sign(&Ours::identity(2), &[0; 32], Incarnation(u64::MAX), false, false);
    gossip(&mut group, 2, 0, &[Update::Statement(said, None)]);
    group.run(secs(30));
    assert_eq!((group.false_verdicts.len(), group.estranged()), (0, 0));
}

#[test]
fn a_flood_of_invented_nodes_is_bounded_and_pushes_nobody_out() {
    let mut group = group(6, 33, 0.0);
    let config = {
        let mut config = SwimConfig::default();
        config.max_members = 64;
        config
    };
    group.with(0, |ours, now, _| ours.configure(config, 5000, 1, now));
    group.join(0, &[1]);
    group.run(secs(10));
    for invented in (100..600).collect::<Vec<_>>().chunks(8) {
        let said = |n: &usize| Statement::sign(&Ours::identity(*n), &[0; 32], Incarnation(1), false, false);
        let news: Vec<Update> = invented.iter().map(|n| Update::Statement(said(n), None)).collect();
        gossip(&mut group, 2, 0, &news);
    }
    let engine = &group.engine(0).unwrap().engine;
    assert!(engine.members().count() <= 64 && engine.stats().members_refused > 0);
    assert!((1..6).all(|of| group.view(0, of) == View::Up));
    // Nobody answers to the invented names; the real ones still fail and are found out.
    group.crash(4);
    group.run_while(secs(60), |group| group.believers(4) > 0).expect("a real crash is noticed");
    assert_eq!(group.false_verdicts, []);
}

#[test]
fn frames_of_yesterday_bring_nobody_back() {
    let mut group = group(5, 34, 0.0);
    let old: Vec<bytes::Bytes> = (0..20).map(|_| seal(&mut group, 4, 0)).collect();
    group.inject(4, 0, old[19].clone());
    group.crash(4);
    group.run_while(secs(20), |group| group.believers(4) > 0).unwrap();
    // To a node that remembers, and to one that forgot everything.
    group.start(0);
    group.join(0, &[1]);
    group.run(secs(5));
    old.iter().for_each(|frame| group.inject(4, 0, frame.clone()));
    old.iter().for_each(|frame| group.inject(4, 1, frame.clone()));
    group.run(secs(10));
    assert_eq!(group.believers(4), 0);
    assert!(stats(&group, 1).forged >= 20, "sealed for another receiver");
}

#[test]
fn nobody_speaks_in_anothers_name() {
    let mut group = group(4, 35, 0.0);
    let mut frame = seal(&mut group, 1, 0).to_vec();
    // Node 1 claims to be node 2.
    frame[2..34].copy_from_slice(Ours::identity(2).node().as_bytes());
    let forged = stats(&group, 0).forged;
    group.inject(1, 0, frame.into());
    assert_eq!(stats(&group, 0).forged, forged + 1);
}

#[test]
fn one_version_of_metadata_has_one_value_everywhere_and_survives_restarts_of_others() {
    let mut group = group(10, 36, 0.05);
    for round in 0..5 {
        let told = Metadata::default().name(&format!("name {round}"));
        group.with(3, |ours, now, out| ours.input(SwimEngine::metadata_input(&told).unwrap(), now, out));
        group.run(Duration::from_millis(300));
    }
    restart(&mut group, 5..7);
    group.run(secs(20));
    let id = Ours::identity(3).node();
    let name = |by: usize| group.engine(by).unwrap().engine.member(&id).unwrap().metadata.name.clone();
    assert!((0..10).filter(|by| *by != 3).all(|by| name(by) == "name 4"));
}

#[test]
fn incarnations_only_rise_and_nobody_holds_itself_for_anything() {
    let mut group = group(8, 37, 0.1);
    let mut before = [[0; 8]; 8];
    for round in 0..60 {
        if round % 20 == 10 {
            group.pause(round / 20, secs(12));
        }
        group.run(secs(1));
        for (by, row) in before.iter_mut().enumerate() {
            let engine = &group.engine(by).unwrap().engine;
            assert_eq!(engine.member(&engine.node()), None);
            for (of, highest) in row.iter_mut().enumerate() {
                let known =
                    engine.member(&Ours::identity(of).node()).map_or(0, |member| member.incarnation.0);
                assert!(known >= *highest && known <= incarnation(&group, of));
                *highest = known;
            }
            assert!(engine.backlog() <= 4096);
        }
    }
}

#[test]
fn a_phone_wakes_its_radio_in_batches_and_is_not_taken_for_lost() {
    let mut group = group(6, 38, 0.0);
    group.with(5, |ours, now, _| ours.configure(SwimConfig::default().low_power(), 5000, 3, now));
    group.join(5, &[0]);
    group.run(secs(60));
    let before = stats(&group, 5).frames_out + stats(&group, 5).frames_in;
    let mut wakes = 0;
    for _ in 0..6000 {
        let seen = stats(&group, 5).frames_out + stats(&group, 5).frames_in;
        group.run(Duration::from_millis(100));
        wakes += u32::from(stats(&group, 5).frames_out + stats(&group, 5).frames_in > seen);
    }
    let frames = stats(&group, 5).frames_out + stats(&group, 5).frames_in - before;
    assert!(frames < 600, "{frames} frames in ten minutes");
    assert!(wakes < 200, "{wakes} wakes in ten minutes");
    assert_eq!(group.false_verdicts, []);
    group.crash(5);
    group.run_while(secs(60), |group| group.believers(5) > 0).expect("its end is noticed all the same");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut group = group(8, seed, 0.1);
        group.pause(2, secs(5));
        group.run(secs(60));
        (group.frames, group.bytes, group.flips.clone())
    };
    assert_eq!(run(40), run(40));
    assert_ne!(run(40).1, run(41).1);
}
