//! Liveness alone, through the facade only: by hand in one thread and virtual time, and driven over the in-memory port.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anabranch::infrastructure::link_profile::{Chance, Delay, LinkProfile};
use anabranch::infrastructure::prng::Prng;
use anabranch::testing::ManualTimer;
use anabranch::{
    FrameRefused, Identity, Incarnation, Instant, Liveness, LivenessBuilder, LivenessDriver, LivenessError,
    LivenessEvent, LivenessHandle, LivenessOutput, MemoryNetwork, MessageKind, Metadata, MetadataRefused,
    NodeId, NodeStatus, PeerAddr, Status, SwimConfig, TimerPort,
};
use bytes::Bytes;
use futures::future::{BoxFuture, Either, select};
use futures::{FutureExt as _, StreamExt as _};

const LATENCY: Duration = Duration::from_millis(5);

fn identity(n: u8) -> Identity {
    Identity::from_secret([n; 32])
}

fn id(n: u8) -> NodeId {
    identity(n).node()
}

/// Nodes driven by hand in one thread. Addresses are numbers.
#[derive(Default)]
struct Hand {
    now: Instant,
    nodes: BTreeMap<u8, Liveness>,
    kept: BTreeMap<u8, Incarnation>,
    events: BTreeMap<u8, Vec<LivenessEvent>>,
    /// When a frame arrives, from where, where to.
    wire: VecDeque<(Instant, u8, u8, Bytes)>,
    refused: Vec<FrameRefused>,
}

impl Hand {
    /// Five that were told to join through the first, and know each other.
    fn group() -> Self {
        let mut hand = Self::default();
        hand.start(1, |builder| builder);
        (2..=5).for_each(|n| hand.start(n, |builder| builder.join(["1"])));
        hand.run(10);
        for n in 1..=5 {
            assert_eq!(hand.nodes[&n].members().alive().len(), 4, "as {n} sees it");
        }
        hand
    }

    fn start(&mut self, n: u8, more: impl FnOnce(LivenessBuilder) -> LivenessBuilder) {
        let kept = self.kept.get(&n).copied().unwrap_or_default();
        let builder = Liveness::builder(identity(n)).incarnation(kept).seed(n.into());
        let builder = builder.metadata(Metadata::default().name(&format!("node {n}")));
        self.nodes.insert(n, more(builder).by_hand(self.now).unwrap());
    }

    fn crash(&mut self, n: u8) {
        self.nodes.remove(&n);
    }

    /// Calls a node, and takes what it has to send, to keep and to tell.
    fn call<T>(
        &mut self,
        n: u8,
        call: impl FnOnce(&mut Liveness, Instant, &mut dyn FnMut(LivenessOutput)) -> T,
    ) -> T {
        let (now, mut out) = (self.now, Vec::new());
        let result = call(self.nodes.get_mut(&n).unwrap(), now, &mut |output| out.push(output));
        for output in out {
            match output {
                LivenessOutput::Send(to, frame) => {
                    self.wire.push_back((now + LATENCY, n, to.as_str().parse().unwrap(), frame));
                }
                LivenessOutput::Keep(incarnation) => drop(self.kept.insert(n, incarnation)),
                LivenessOutput::Event(event) => self.events.entry(n).or_default().push(event),
            }
        }
        result
    }

    fn frame(&mut self, from: u8, to: u8, frame: Bytes) -> Result<(), FrameRefused> {
        let from = PeerAddr::new(from.to_string());
        self.call(to, |node, now, mut sink| node.handle(Some(from), frame, now, &mut sink))
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            self.step();
        }
    }

    fn step(&mut self) {
        while let Some((at, ..)) = self.wire.front()
            && *at <= self.now
        {
            let (_, from, to, frame) = self.wire.pop_front().unwrap();
            if self.nodes.contains_key(&to)
                && let Err(refused) = self.frame(from, to, frame)
            {
                self.refused.push(refused);
            }
        }
        let all: Vec<u8> = self.nodes.keys().copied().collect();
        for n in all {
            if self.nodes[&n].next_deadline().is_some_and(|due| due <= self.now) {
                self.call(n, |node, now, mut sink| node.tick(now, &mut sink));
            }
        }
        self.now = self.now + LATENCY;
    }

    /// The words for one node in the eyes of another, in order.
    fn story(&self, of: u8, by: u8) -> Vec<(String, String)> {
        let words = |status| NodeStatus::from(status).to_string();
        let events = self.events.get(&by).into_iter().flatten();
        events
            .filter_map(|event| match event {
                LivenessEvent::Status { node, old, new, .. } if *node == id(of) => {
                    Some((words(*old), words(*new)))
                }
                _ => None,
            })
            .collect()
    }
}

#[test]
fn five_by_hand_learn_of_each_other_through_one_and_say_so_in_order() {
    let hand = Hand::group();
    for (of, by) in [(2, 1), (1, 2), (5, 4)] {
        let story = hand.story(of, by);
        assert_eq!((story[0].0.as_str(), story.last().unwrap().1.as_str()), ("UNKNOWN", "ONLINE"));
        assert!(
            story.windows(2).all(|pair| pair[0].1 == pair[1].0),
            "each old status was the new one before"
        );
    }
    assert!(hand.events[&2].contains(&LivenessEvent::Met("1".into(), id(1))));
    assert_eq!(hand.refused, []);
}

#[test]
fn a_failed_node_recovers_where_libgossip_never_let_it() {
    let mut hand = Hand::group();
    hand.crash(3);
    hand.run(20);
    assert_eq!(hand.nodes[&1].status(&id(3)), Some(Status::Unreachable));
    let before = hand.kept[&3];
    // It is told nothing: the others try it without end.
    hand.start(3, |builder| builder);
    hand.run(90);
    for n in [1, 2, 4, 5] {
        let story: Vec<String> = hand.story(3, n).into_iter().map(|(_, new)| new).collect();
        assert_eq!(story[story.len() - 3..], ["SUSPECT", "FAILED", "ONLINE"], "as {n} sees it");
    }
    assert_eq!(hand.nodes[&3].members().alive().len(), 4);
    assert!(hand.nodes[&1].member(&id(3)).unwrap().incarnation > before);
}

#[test]
fn a_node_that_did_not_keep_its_incarnation_comes_back_all_the_same() {
    let mut hand = Hand::group();
    hand.crash(3);
    hand.run(20);
    hand.kept.clear();
    hand.start(3, |builder| builder.join(["1"]));
    hand.run(60);
    for n in [1, 2, 4, 5] {
        assert_eq!(hand.nodes[&n].status(&id(3)), Some(Status::Alive), "as {n} sees it");
    }
}

#[test]
fn a_leave_is_sent_and_believed_at_once_and_the_next_life_brings_the_node_back() {
    let mut hand = Hand::group();
    hand.call(4, |node, now, mut sink| node.leave(now, &mut sink));
    let words = |node: &Liveness| node.stats().sent(MessageKind::Leave);
    assert_eq!((words(&hand.nodes[&4]), hand.nodes[&4].next_deadline()), (4, None));
    assert_eq!(hand.events[&4].last(), Some(&LivenessEvent::Left));
    hand.run(1);
    for n in [1, 2, 3, 5] {
        assert_eq!(hand.nodes[&n].status(&id(4)), Some(Status::Left), "as {n} sees it");
        assert_eq!(hand.story(4, n).last().unwrap(), &("ONLINE".into(), "FAILED".into()));
        assert_eq!(hand.nodes[&n].stats().received(MessageKind::Leave), 1);
    }
    assert_eq!(hand.frame(1, 4, Bytes::from_static(b"too late")), Err(FrameRefused::Left));
    hand.start(4, |builder| builder.join(["1"]));
    hand.run(10);
    assert!((1..=5).all(|n| hand.nodes[&n].members().alive().len() == 4));
}

#[test]
fn metadata_spread_to_all_and_select_nodes() {
    let mut hand = Hand::group();
    let told = Metadata::default().name("five").role("relay").region("eu").tag("sync").pair("rack", "7");
    hand.call(5, |node, now, mut sink| node.set_metadata(told.clone(), now, &mut sink)).unwrap();
    hand.run(5);
    for n in 1..=4 {
        let members = || hand.nodes[&n].members();
        let found = members().with_role("relay").in_region("eu").with_tag("sync").with_pair("rack", "7");
        let found: Vec<NodeId> = found.alive().iter().map(|member| member.node).collect();
        assert_eq!(found, [id(5)]);
        assert!(members().with_role("phone").is_empty() && members().with_pair("rack", "8").is_empty());
        assert!(members().with_status(Status::Unreachable).is_empty());
        assert!(hand.events[&n].contains(&LivenessEvent::Metadata(id(5))));
    }
    let large = Metadata::default().pair("key", &"v".repeat(1100));
    let refused = hand.call(5, |node, now, mut sink| node.set_metadata(large, now, &mut sink)).unwrap_err();
    assert_eq!(refused.most, 1024);
    assert_eq!(hand.nodes[&5].metadata(), &told);
}

#[test]
fn metadata_that_no_frame_has_room_for_is_refused() {
    let mut config = SwimConfig::default();
    config.max_frame = 512;
    let build = |bytes: usize| {
        let metadata = Metadata::default().name(&"x".repeat(bytes));
        Liveness::builder(identity(1)).config(config.clone()).metadata(metadata).by_hand(Instant::ZERO)
    };
    assert!(build(320).is_ok());
    let refused = MetadataRefused { bytes: 407, most: 336 };
    assert_eq!(build(400).unwrap_err(), refused.into());
}

#[test]
fn seeds_are_tried_for_ever_until_one_is_there() {
    let mut hand = Hand::default();
    hand.start(2, |builder| builder.join(["1"]));
    hand.run(1800);
    let tries = hand.nodes[&2].stats().sent(MessageKind::Meet);
    assert!((20..60).contains(&tries), "{tries} greetings in half an hour");
    hand.start(1, |builder| builder);
    hand.run(90);
    assert_eq!(hand.nodes[&2].status(&id(1)), Some(Status::Alive));
    // And again after total isolation.
    hand.crash(1);
    hand.run(1800);
    hand.start(1, |builder| builder);
    hand.run(90);
    assert_eq!(hand.nodes[&2].status(&id(1)), Some(Status::Alive));
}

#[test]
fn meeting_nobody_fails_and_meeting_somebody_says_who_it_is() {
    let mut hand = Hand::default();
    hand.start(1, |builder| builder);
    hand.start(2, |builder| builder);
    hand.call(1, |node, now, mut sink| node.meet("9", now, &mut sink));
    hand.call(1, |node, now, mut sink| node.meet("2", now, &mut sink));
    hand.run(30);
    assert!(hand.events[&1].contains(&LivenessEvent::MeetFailed("9".into())));
    assert!(hand.events[&1].contains(&LivenessEvent::Met("2".into(), id(2))));
    assert_eq!(hand.nodes[&2].status(&id(1)), Some(Status::Alive));
}

#[test]
fn hooks_see_their_kinds_only_and_a_panicking_one_is_lost_alone() {
    let mut hand = Hand::default();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (noted, timer) = (seen.clone(), ManualTimer::new());
    hand.start(1, |builder| {
        let builder = builder.timer(timer).on_message([MessageKind::Leave], |_| panic!("a faulty hook"));
        builder.on_message([MessageKind::Meet, MessageKind::Join], move |message| {
            noted.lock().unwrap().push((message.kind, message.sent, message.node));
        })
    });
    hand.start(2, |builder| builder.join(["1"]));
    hand.run(5);
    assert_eq!(
        *seen.lock().unwrap(),
        [(MessageKind::Meet, false, None), (MessageKind::Join, true, Some(id(2)))]
    );
    hand.call(2, |node, now, mut sink| node.leave(now, &mut sink));
    hand.run(1);
    let stats = hand.nodes[&1].stats();
    assert_eq!((stats.hooks_lost, stats.known_nodes, stats.online_nodes), (1, 1, 0));
    assert_eq!(stats.last_tick, Some(Duration::ZERO));
    assert_eq!(hand.nodes[&2].stats().last_tick, None);
    let by_kind = |count: &dyn Fn(MessageKind) -> u64| MessageKind::ALL.map(count).iter().sum::<u64>();
    assert_eq!(by_kind(&|kind| stats.sent(kind)), stats.sent_messages);
    assert_eq!(by_kind(&|kind| stats.received(kind)), stats.received_messages);
    assert!(stats.sent(MessageKind::Pong) > 0 && stats.received(MessageKind::Ping) > 0);
    assert_eq!(stats.received(MessageKind::Leave), 1);
}

#[test]
fn i9_bad_frames_are_typed_counted_and_without_effect() {
    let mut hand = Hand::group();
    let genuine = loop {
        let found = hand.wire.iter().position(|(_, from, to, _)| (*from, *to) == (2, 1));
        match found {
            Some(place) => break hand.wire.remove(place).unwrap().3,
            None => hand.step(),
        }
    };
    let mut forged = genuine.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    // A greeting in the name of its receiver: version 1, greeting, id, nonce, padding.
    let mut oneself = [&[1, 0][..], id(1).as_bytes(), &[7; 4]].concat();
    oneself.resize(192, 0);
    let other_version = [&[2][..], &genuine[1..]].concat();
    let bad: [(Vec<u8>, FrameRefused); 6] = [
        (forged, FrameRefused::Forged),
        (vec![1; 1201], FrameRefused::TooLarge { bytes: 1201, most: 1200 }),
        (other_version, FrameRefused::UnknownVersion(2)),
        (oneself, FrameRefused::OwnIdentity),
        (vec![1, 9, 9], FrameRefused::Malformed),
        (Vec::new(), FrameRefused::Malformed),
    ];
    hand.wire.clear();
    let (members, before) = (hand.nodes[&1].members(), hand.nodes[&1].stats());
    let told = hand.events[&1].len();
    for (frame, why) in &bad {
        // Nothing is due meanwhile: what follows, follows from the frame.
        assert_eq!(hand.frame(6, 1, frame.clone().into()), Err(*why));
    }
    let after = hand.nodes[&1].stats();
    assert_eq!(hand.nodes[&1].members(), members);
    assert_eq!((hand.wire.len(), hand.events[&1].len()), (0, told), "nothing was sent or told");
    assert_eq!((after.refused - before.refused, after.too_large, after.unknown_version), (6, 1, 1));
    let engine = (after.engine.forged, after.engine.own_id_claimed, after.engine.malformed);
    assert_eq!(engine, (1, 1, 2));
    assert_eq!(after.received_messages, before.received_messages);
    // The genuine one is believed, once.
    assert_eq!(hand.frame(2, 1, genuine.clone()), Ok(()));
    assert_eq!(hand.frame(2, 1, genuine), Err(FrameRefused::Repeated));
}

#[test]
fn i6_arbitrary_and_damaged_frames_never_panic_and_change_nobody() {
    let mut hand = Hand::group();
    let mut genuine = Vec::new();
    while genuine.len() < 40 {
        hand.step();
        genuine.extend(hand.wire.iter().filter(|(_, _, to, _)| *to == 1).map(|(.., frame)| frame.clone()));
    }
    let statuses = |hand: &Hand| -> Vec<_> {
        hand.nodes[&1]
            .members()
            .iter()
            .map(|member| (member.node, member.status, member.incarnation))
            .collect()
    };
    let before = statuses(&hand);
    let mut dice = Prng::new(1);
    for round in 0..20_000 {
        let frame: Vec<u8> = match round % 2 {
            0 => (0..dice.below(300)).map(|_| dice.next_u64() as u8).collect(),
            _ => {
                let mut frame = genuine[dice.below(genuine.len() as u64) as usize].to_vec();
                let place = dice.below(frame.len() as u64) as usize;
                frame[place] ^= 1 << dice.below(8);
                frame
            }
        };
        assert!(hand.frame(6, 1, frame.into()).is_err());
        hand.wire.clear();
    }
    assert_eq!(statuses(&hand), before);
    assert!(hand.nodes[&1].stats().refused >= 20_000);
}

#[test]
fn an_incarnation_is_kept_before_a_frame_carries_it() {
    let mut node = Liveness::builder(identity(1)).incarnation(Incarnation(41)).join(["2"]);
    let mut order = Vec::new();
    let mut sink = |output| {
        order.push(match output {
            LivenessOutput::Keep(incarnation) => Some(incarnation),
            _ => None,
        });
    };
    node = node.metadata(Metadata::default().name("ana"));
    let mut node = node.by_hand(Instant::ZERO).unwrap();
    assert_eq!(node.next_deadline(), Some(Instant::ZERO), "there is something to keep and to send");
    node.tick(Instant::ZERO, &mut sink);
    assert_eq!(order, [Some(Incarnation(42)), Some(Incarnation(43)), None]);
    assert_eq!(node.incarnation(), Incarnation(43));
}

#[test]
fn another_group_is_a_stranger_to_this_one() {
    let mut hand = Hand::default();
    hand.start(1, |builder| builder.group([1; 32]));
    hand.start(2, |builder| builder.group([2; 32]).join(["1"]));
    hand.run(30);
    assert_eq!(hand.nodes[&1].stats().known_nodes + hand.nodes[&2].stats().known_nodes, 0);
    assert!(hand.refused.contains(&FrameRefused::Forged));
}

#[test]
fn a_node_that_meets_itself_is_told() {
    let mut hand = Hand::default();
    hand.start(1, |builder| builder.join(["1"]));
    hand.run(5);
    assert!(hand.refused.contains(&FrameRefused::OwnIdentity));
    assert_eq!(hand.nodes[&1].stats().known_nodes, 0);
}

// --- Driven over a port ---

/// Nodes on in-memory links of 5 ms, all in one thread and virtual time.
struct World {
    timer: ManualTimer,
    network: MemoryNetwork,
    kept: Arc<Mutex<BTreeMap<u8, Incarnation>>>,
    drivers: BTreeMap<u8, LivenessDriver>,
}

impl World {
    fn new() -> Self {
        Self::over(LinkProfile { delay: Delay::fixed(LATENCY), ..LinkProfile::perfect() })
    }

    fn over(profile: LinkProfile) -> Self {
        let timer = ManualTimer::new();
        let network = MemoryNetwork::with_model(profile, 1, Arc::new(timer.clone()));
        Self { timer, network, kept: Arc::default(), drivers: BTreeMap::new() }
    }

    fn start(&mut self, n: u8, more: impl FnOnce(LivenessBuilder) -> LivenessBuilder) -> LivenessHandle {
        let (port, kept) = (self.network.port(&format!("node {n}")), self.kept.clone());
        let last = kept.lock().unwrap().get(&n).copied().unwrap_or_default();
        let builder = Liveness::builder(identity(n)).seed(n.into()).timer(self.timer.clone());
        let builder = builder.advertise(port.address()).incarnation(last).keep(move |incarnation| {
            kept.lock().unwrap().insert(n, incarnation);
            Ok(())
        });
        let (handle, driver) = more(builder).drive(port).unwrap();
        self.drivers.insert(n, driver);
        handle
    }

    fn group(&mut self) -> Vec<LivenessHandle> {
        let handles: Vec<_> =
            (1..=5).map(|n| self.start(n, |builder| builder.join(["node 1", "node 2"]))).collect();
        self.run(10);
        for handle in &handles {
            assert_eq!(self.statuses(handle), [Some(Status::Alive); 4]);
        }
        handles
    }

    /// Runs all drivers until `future` is done.
    fn until<T>(&mut self, future: impl Future<Output = T>) -> T {
        let drivers = std::mem::take(&mut self.drivers);
        let mut running: BTreeMap<u8, LivenessDriver> = drivers;
        let result = self.timer.run(async {
            let all = futures::future::poll_fn(|context| {
                running.retain(|_, driver| driver.poll_unpin(context).is_pending());
                std::task::Poll::<()>::Pending
            });
            futures::pin_mut!(future);
            match select(future, all).await {
                Either::Left((result, _)) => result,
                Either::Right(_) => unreachable!("drivers never end this way"),
            }
        });
        self.drivers = running;
        result
    }

    fn run(&mut self, seconds: u64) {
        let timer = self.timer.clone();
        let end = timer.now() + Duration::from_secs(seconds);
        self.until(async move { timer.sleep_until(end).await });
    }

    /// What all others are held for.
    fn statuses(&mut self, handle: &LivenessHandle) -> Vec<Option<Status>> {
        let members = self.until(handle.members()).unwrap();
        members.iter().map(|member| Some(member.status)).collect()
    }

    fn status(&mut self, of: u8, by: &LivenessHandle) -> Option<Status> {
        self.until(by.member(id(of))).unwrap().map(|member| member.status)
    }
}

#[test]
fn five_over_a_port_know_each_other_notice_a_crash_and_a_return() {
    let mut world = World::new();
    let handles = world.group();
    let mut news = handles[0].events();
    world.drivers.remove(&4);
    world.run(15);
    for handle in handles.iter().filter(|handle| handle.node() != id(4)) {
        assert_eq!(world.status(4, handle), Some(Status::Unreachable));
    }
    assert_eq!(world.until(handles[3].members()), Err(LivenessError::Closed));
    let before = world.kept.lock().unwrap()[&4];
    let again = world.start(4, |builder| builder.join(["node 1"]));
    world.run(15);
    for handle in handles.iter().filter(|handle| handle.node() != id(4)) {
        assert_eq!(world.status(4, handle), Some(Status::Alive));
    }
    assert_eq!(world.statuses(&again), [Some(Status::Alive); 4]);
    assert!(world.until(again.incarnation()).unwrap() > before);
    let mut story = Vec::new();
    while let Some(Some(event)) = news.next().now_or_never() {
        if let LivenessEvent::Status { node, new, .. } = event
            && node == id(4)
        {
            story.push(new.unwrap());
        }
    }
    assert_eq!(story, [Status::Suspect, Status::Unreachable, Status::Alive]);
}

#[test]
fn over_a_port_a_leave_is_known_at_once_and_metadata_spread() {
    let mut world = World::new();
    let handles = world.group();
    let relay = Metadata::default().role("relay").tag("sync");
    world.until(handles[1].set_metadata(relay.clone())).unwrap();
    assert_eq!(world.until(handles[1].metadata()), Ok(relay));
    world.run(3);
    let found = world.until(handles[4].members()).unwrap().with_role("relay").with_tag("sync").alive();
    assert_eq!(found.iter().map(|member| member.node).collect::<Vec<_>>(), [id(2)]);
    let mut last = handles[1].events();
    world.until(handles[1].leave()).unwrap();
    assert_eq!(world.until(last.next()), Some(LivenessEvent::Left));
    assert_eq!(world.until(last.next()), None);
    world.run(1);
    for handle in handles.iter().filter(|handle| handle.node() != id(2)) {
        assert_eq!(world.status(2, handle), Some(Status::Left));
    }
    let large = Metadata::default().name(&"x".repeat(2000));
    assert!(matches!(world.until(handles[0].set_metadata(large)), Err(LivenessError::Metadata(_))));
}

#[test]
fn meeting_over_a_port_says_who_is_there_or_that_nobody_is() {
    let mut world = World::new();
    let ana = world.start(1, |builder| builder);
    let ben = world.start(2, |builder| builder);
    assert_eq!(world.until(ana.meet("node 2")), Ok(ben.node()));
    assert_eq!(world.until(ana.meet("nowhere")), Err(LivenessError::Unanswered("nowhere".into())));
    let oneself = world.until(ana.meet("node 1"));
    assert_eq!(oneself, Err(LivenessError::Unanswered("node 1".into())));
    world.run(2);
    assert_eq!(world.statuses(&ben), [Some(Status::Alive)]);
}

#[test]
fn a_node_that_nobody_can_dial_is_reached_over_the_links_that_it_opened() {
    let mut world = World::new();
    let handles = world.group();
    // It does not say where it is: what `start` said is taken back.
    let mut hidden = SwimConfig::default();
    hidden.advertise = None;
    let hidden = world.start(6, |builder| builder.config(hidden).join(["node 1"]));
    world.run(60);
    assert_eq!(world.statuses(&hidden), [Some(Status::Alive); 5]);
    for handle in &handles {
        assert_eq!(world.status(6, handle), Some(Status::Alive));
    }
}

#[test]
fn i6_more_links_than_allowed_are_given_up_and_nobody_is_lost() {
    let mut world = World::new();
    let handles: Vec<_> =
        (1..=5).map(|n| world.start(n, |builder| builder.max_links(3).join(["node 1"]))).collect();
    world.run(120);
    for handle in &handles {
        assert_eq!(world.statuses(handle), [Some(Status::Alive); 4]);
    }
}

#[test]
fn frames_of_512_bytes_of_which_a_tenth_is_lost_lose_nobody() {
    let loss = Chance::new(0.1);
    let mut world = World::over(LinkProfile { loss, max_frame: 512, ..LinkProfile::wifi() });
    let handles: Vec<_> =
        (1..=5).map(|n| world.start(n, |builder| builder.join(["node 1", "node 2"]))).collect();
    world.run(30);
    let mut news = handles[2].events();
    let large = Metadata::default().name(&"x".repeat(310));
    world.until(handles[4].set_metadata(large.clone())).unwrap();
    world.run(600);
    while let Some(Some(event)) = news.next().now_or_never() {
        let lost = matches!(event, LivenessEvent::Status { new: Some(Status::Unreachable), .. });
        assert!(!lost, "{event:?}");
    }
    for handle in &handles[..4] {
        assert_eq!(world.statuses(handle), [Some(Status::Alive); 4]);
        let seen = world.until(handle.member(id(5))).unwrap().unwrap();
        assert_eq!(*seen.metadata, large);
    }
}

#[test]
fn a_partition_heals_without_the_application() {
    let mut world = World::new();
    let handles = world.group();
    let network = world.network.clone();
    let between = |change: &dyn Fn(&str, &str)| {
        for a in ["node 1", "node 2"] {
            ["node 3", "node 4", "node 5"].iter().for_each(|b| change(a, b));
        }
    };
    between(&|a, b| network.partition_and_disconnect(a, b));
    world.run(120);
    assert_eq!(world.status(5, &handles[0]), Some(Status::Unreachable));
    assert_eq!(world.status(1, &handles[4]), Some(Status::Unreachable));
    between(&|a, b| network.heal(a, b));
    world.run(70);
    for handle in &handles {
        assert_eq!(world.statuses(handle), [Some(Status::Alive); 4]);
    }
}

#[test]
fn an_incarnation_that_cannot_be_kept_is_told_and_stops_nothing() {
    let mut world = World::new();
    let failing = |builder: LivenessBuilder| builder.keep(|_| Err(std::io::Error::other("disk full")));
    let ana = world.start(1, failing);
    let mut news = ana.events();
    let ben = world.start(2, |builder| builder.join(["node 1"]));
    assert_eq!(world.until(news.next()), Some(LivenessEvent::KeepFailed("disk full".into())));
    world.run(5);
    assert_eq!(world.statuses(&ben), [Some(Status::Alive)]);
}

#[test]
fn a_port_that_closes_ends_the_driver_and_says_so() {
    let mut world = World::new();
    let ana = world.start(1, |builder| builder);
    let mut news = ana.events();
    world.run(1);
    // Another port of the same name takes its place.
    let _other = world.network.port("node 1");
    let last: BoxFuture<'_, Option<LivenessEvent>> = news.next().boxed();
    assert!(matches!(world.until(last), Some(LivenessEvent::PortFailed(_))));
    assert_eq!(world.until(ana.stats()), Err(LivenessError::Closed));
}
