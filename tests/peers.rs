//! Who answers, as an application sees it: statuses, seeds, exchange of peers, metadata, and what silence costs.
//!
//! Time is virtual: tokio's clock is paused and jumps from one deadline to the next, so hours pass in moments.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anabranch::infrastructure::link_profile::{Delay, LinkProfile};
use anabranch::protocol::swim::{
    AGE_GIVEN_UP, Accusation, Body, Incarnation, Packet, ShortId, Statement, SwimEngine, Update,
};
use anabranch::{
    Config, Coordinator, Event, EventStream, Events, Explanation, Identity, Instant, MemoryNetwork,
    MemoryStore, Metadata, NodeError, NodeId, Status, SystemTimer, TimerPort as _,
};
use common::Device;
use common::mallory::Mallory;
use futures::{FutureExt as _, StreamExt as _};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Links of 1 to 10 ms that lose nothing.
fn network() -> MemoryNetwork {
    let delay = Delay::Uniform { min: Duration::from_millis(1), max: Duration::from_millis(10) };
    let profile = LinkProfile { delay, max_frame: 1200, ..LinkProfile::perfect() };
    MemoryNetwork::with_model(profile, 5, Arc::new(SystemTimer::new()))
}

#[allow(clippy::disallowed_methods, reason = "the clock is virtual")]
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// How long it takes until `holds`, at most `limit`.
async fn within(limit: Duration, what: &str, holds: impl Fn() -> bool) -> Duration {
    let timer = SystemTimer::new();
    while !holds() {
        assert!(timer.now().since(Instant::ZERO) < limit, "not within {limit:?}: {what}");
        pass(Duration::from_millis(50)).await;
    }
    timer.now().since(Instant::ZERO)
}

fn status(of: &Coordinator, peer: &Coordinator) -> Option<Status> {
    of.peer(&peer.node()).map(|peer| peer.status)
}

/// Whether everybody holds everybody else for alive.
fn all_alive(nodes: &[Device]) -> bool {
    let pairs = nodes.iter().flat_map(|a| nodes.iter().map(move |b| (a, b)));
    pairs.filter(|(a, b)| a.name != b.name).all(|(a, b)| status(a, b) == Some(Status::Alive))
}

/// Everybody has a session with everybody.
fn all_reach(nodes: &[Device]) -> bool {
    nodes.iter().all(|node| node.reachable_peers().len() == nodes.len() - 1)
}

/// Nodes that all met each other.
async fn mesh(network: &MemoryNetwork, count: usize, config: &Config) -> Vec<Device> {
    let mut nodes: Vec<Device> = Vec::new();
    for n in 0..count {
        nodes.push(Device::with(network, &format!("n{n}"), config.clone()).await);
    }
    for a in &nodes {
        a.channel("notes").await.unwrap().open_to_all().await.unwrap();
        for b in nodes.iter().filter(|b| b.name != a.name) {
            a.add_peer(b.node(), "").await.unwrap();
        }
    }
    for (at, a) in nodes.iter().enumerate() {
        for b in &nodes[at + 1..] {
            a.meet_device(b).await;
        }
    }
    within(MINUTE, "the mesh", || all_alive(&nodes) && all_reach(&nodes)).await;
    nodes
}

async fn streams(nodes: &[Device]) -> Vec<EventStream> {
    let mut streams = Vec::new();
    for node in nodes {
        streams.push(node.channel("notes").await.unwrap().stream("today").await.unwrap());
    }
    streams
}

/// The verdicts among the events so far, and what they were about.
fn statuses(events: &mut Events) -> Vec<(NodeId, Status)> {
    let mut found = Vec::new();
    while let Some(Some(event)) = events.next().now_or_never() {
        match event {
            Event::PeerStatus(node, status) => found.push((node, status)),
            Event::Lagged(missed) => panic!("{missed} events missed"),
            _ => {}
        }
    }
    found
}

fn unreachable(statuses: &[(NodeId, Status)]) -> usize {
    statuses.iter().filter(|(_, status)| *status == Status::Unreachable).count()
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_becomes_suspect_then_unreachable_and_its_first_frame_revives_it() {
    let network = network();
    let nodes = mesh(&network, 2, &Config::default()).await;
    let mut events = nodes[0].events();
    network.partition("n0", "n1");
    let took =
        within(MINUTE, "a verdict", || status(&nodes[0], &nodes[1]) == Some(Status::Unreachable)).await;
    assert!(took < SECOND * 10, "{took:?}");
    let told: Vec<Status> = statuses(&mut events).into_iter().map(|(_, status)| status).collect();
    assert_eq!(told, [Status::Suspect, Status::Unreachable]);
    let stream = streams(&nodes).await.remove(0);
    within(MINUTE, "the end of the session", || nodes[0].reachable_peers().is_empty()).await;
    assert_eq!(nodes[0].explain(&nodes[1].node(), &stream).await.unwrap(), Explanation::Unreachable);
    assert!(nodes[0].metrics().peers_unreachable == 1 && nodes[0].metrics().peer_status_changes >= 2);
    // Tried ever more rarely, but without end.
    pass(MINUTE * 60).await;
    network.heal_all();
    let took = within(MINUTE * 2, "the return", || all_alive(&nodes) && all_reach(&nodes)).await;
    println!("back after {took:?}");
    assert_eq!(statuses(&mut events).last(), Some(&(nodes[1].node(), Status::Alive)));
}

/// The first two write, every ten seconds for so many times, and each time all hold it soon.
async fn write_and_receive(streams: &[EventStream], times: u64) {
    for n in 0..times {
        streams[0].append(format!("a{n}")).await.unwrap();
        streams[1].append(format!("b{n}")).await.unwrap();
        let took =
            within(SECOND * 20, "all entries", || streams.iter().all(|stream| stream.len() == 2 * (n + 1)))
                .await;
        pass((SECOND * 10).saturating_sub(took)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_one_way_link_changes_no_verdict_and_data_flow_through_a_third() {
    let network = network();
    let nodes = mesh(&network, 3, &Config::default()).await;
    let streams = streams(&nodes).await;
    let mut events: Vec<Events> = nodes.iter().map(|node| node.events()).collect();
    network.block("n0", "n1");
    write_and_receive(&streams, 30).await;
    for events in &mut events {
        assert_eq!(unreachable(&statuses(events)), 0);
    }
    assert!(all_alive(&nodes));
}

#[tokio::test(start_paused = true)]
async fn a_flip_flop_link_changes_a_status_at_most_once_per_minute_and_data_flow_through_a_third() {
    let network = network();
    let nodes = mesh(&network, 3, &Config::default()).await;
    let streams = streams(&nodes).await;
    let mut events: Vec<Events> = nodes.iter().map(|node| node.events()).collect();
    network.flip_flop("n0", "n1", SECOND * 20, SECOND * 20).unwrap();
    write_and_receive(&streams, 60).await;
    for events in &mut events {
        let told = statuses(events);
        assert_eq!(unreachable(&told), 0, "the third hears both");
        assert!(told.len() <= 10, "{} changes in ten minutes", told.len());
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_nodes_with_a_flip_flop_link_each_gives_the_other_up_at_most_once_per_minute() {
    let network = network();
    let nodes = mesh(&network, 2, &Config::default()).await;
    let mut events = nodes[0].events();
    network.flip_flop("n0", "n1", SECOND * 20, SECOND * 20).unwrap();
    pass(MINUTE * 20).await;
    let told = statuses(&mut events);
    let verdicts = told.iter().filter(|(_, status)| *status == Status::Unreachable).count();
    assert!(verdicts <= 10, "a verdict and its end are two changes: {verdicts} in twenty minutes");
}

#[tokio::test(start_paused = true)]
async fn after_total_isolation_a_node_finds_back_without_the_application() {
    let network = network();
    let nodes = mesh(&network, 4, &Config::default()).await;
    for other in ["n1", "n2", "n3"] {
        network.partition("n0", other);
    }
    let alone = |node: &Device| node.peers().alive().is_empty();
    within(MINUTE, "isolation", || alone(&nodes[0])).await;
    assert!(nodes[1..].iter().all(|node| status(node, &nodes[2]) != Some(Status::Unreachable)));
    pass(MINUTE * 15).await;
    network.heal_all();
    let took = within(MINUTE * 2, "the return", || all_alive(&nodes) && all_reach(&nodes)).await;
    println!("back after {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_split_of_an_hour_heals_by_itself_and_at_once_where_the_system_tells() {
    let network = network();
    let nodes = mesh(&network, 4, &Config::default()).await;
    for (told, minutes) in [(false, 60), (true, 5)] {
        for a in 0..2 {
            for b in 2..4 {
                network.partition(&format!("n{a}"), &format!("n{b}"));
            }
        }
        pass(MINUTE * minutes).await;
        assert_eq!(nodes[0].peers().alive().len(), 1);
        network.heal_all();
        if told {
            // As systems do: on each device that has a network again.
            nodes[..2].iter().for_each(|node| node.network_changed().unwrap());
        }
        let limit = if told { SECOND * 5 } else { MINUTE * 2 };
        let took = within(limit, "one group", || all_alive(&nodes)).await;
        println!("told: {told}, one group after {took:?}");
        within(MINUTE * 2, "all sessions", || all_reach(&nodes)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_has_left_at_once_and_returns_in_a_higher_incarnation() {
    let network = network();
    let mut nodes = mesh(&network, 3, &Config::default()).await;
    let stream = streams(&nodes).await.remove(0);
    let incarnation = |nodes: &[Device]| nodes[0].peer(&nodes[2].node()).unwrap().incarnation;
    let mut last = incarnation(&nodes);
    for close in [false, true] {
        if close {
            nodes[2].close().await.unwrap();
        } else {
            nodes[2].stop().await.unwrap();
        }
        let left = |node: &Device| status(node, &nodes[2]) == Some(Status::Left);
        let took = within(SECOND * 2, "the goodbye", || left(&nodes[0]) && left(&nodes[1])).await;
        assert!(took <= SECOND, "{took:?}");
        assert_eq!(nodes[0].explain(&nodes[2].node(), &stream).await.unwrap(), Explanation::Left);
        // Left is left: nobody accuses it, and old news does not bring it back.
        pass(MINUTE * 10).await;
        assert!(left(&nodes[0]) && left(&nodes[1]));
        if close {
            let gone = nodes.pop().unwrap();
            nodes.push(gone.restart().await);
        } else {
            nodes[2].start().await.unwrap();
        }
        within(MINUTE * 2, "the return", || all_alive(&nodes) && all_reach(&nodes)).await;
        within(SECOND * 5, "the incarnation", || incarnation(&nodes) > last).await;
        last = incarnation(&nodes);
    }
}

#[tokio::test(start_paused = true)]
async fn all_nodes_restart_at_once_and_are_alive_again_within_ten_seconds() {
    let network = network();
    let mut nodes = mesh(&network, 12, &Config::default()).await;
    pass(MINUTE).await;
    let before: Vec<u64> =
        nodes.iter().skip(1).map(|node| nodes[0].peer(&node.node()).unwrap().incarnation).collect();
    let mut crashed = Vec::new();
    for node in nodes.drain(..) {
        crashed.push(node.crash().await);
    }
    let nodes = crashed;
    let took = within(SECOND * 10, "everybody", || all_alive(&nodes)).await;
    println!("all alive after {took:?}");
    let risen = || {
        let after = nodes.iter().skip(1).map(|node| nodes[0].peer(&node.node()).unwrap().incarnation);
        after.zip(&before).all(|(after, before)| after > *before)
    };
    within(SECOND * 10, "higher incarnations", risen).await;
}

/// A driver that can be held, like a process whose machine sleeps.
#[derive(Clone, Default)]
struct Hold(Arc<(AtomicBool, Mutex<Option<Waker>>)>);

struct Held(Pin<Box<dyn Future<Output = ()> + Send>>, Hold);

impl Future for Held {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        *self.1.0.1.lock().unwrap() = Some(cx.waker().clone());
        if self.1.0.0.load(Ordering::SeqCst) { Poll::Pending } else { self.0.as_mut().poll(cx) }
    }
}

impl Hold {
    fn set(&self, held: bool) {
        self.0.0.store(held, Ordering::SeqCst);
        if let Some(waker) = self.0.1.lock().unwrap().take() {
            waker.wake();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_paused_accuses_nobody_when_it_wakes() {
    let network = network();
    let nodes = mesh(&network, 3, &Config::default()).await;
    let hold = Hold::default();
    let builder = Coordinator::builder(MemoryStore::ephemeral().unwrap()).port(network.port("sleepy"));
    let (sleepy, driver) = builder.build().await.unwrap();
    #[allow(clippy::disallowed_methods, reason = "a driver of our own")]
    tokio::spawn(Held(driver.boxed(), hold.clone()));
    sleepy.channel("notes").await.unwrap().open_to_all().await.unwrap();
    for node in &nodes {
        node.add_peer(sleepy.node(), "").await.unwrap();
        sleepy.meet(node.name.as_str()).await.unwrap();
    }
    for seconds in [1, 7, 60] {
        let calm = || {
            sleepy.peers().alive().len() == 3
                && nodes.iter().all(|node| status(node, &sleepy) == Some(Status::Alive))
        };
        within(MINUTE * 3, "calm", calm).await;
        pass(MINUTE * 5).await;
        let mut own = sleepy.events();
        let mut others: Vec<Events> = nodes.iter().map(|node| node.events()).collect();
        hold.set(true);
        pass(SECOND * seconds).await;
        hold.set(false);
        pass(SECOND * 20).await;
        assert_eq!(unreachable(&statuses(&mut own)), 0, "after {seconds} s");
        for events in &mut others {
            let told = statuses(events);
            assert!(told.iter().all(|(node, _)| *node == sleepy.node()), "after {seconds} s: {told:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn seeds_that_come_up_late_are_found_and_found_again_after_isolation() {
    let network = network();
    let ana = Device::with(&network, "ana", Config::default()).await;
    ana.channel("notes").await.unwrap().open_to_all().await.unwrap();
    ana.join(["nobody", "ben"]).unwrap();
    pass(MINUTE * 90).await;
    assert!(ana.peers().is_empty());
    let ben = Device::with(&network, "ben", Config::default()).await;
    ben.channel("notes").await.unwrap().open_to_all().await.unwrap();
    let took = within(MINUTE * 2, "the seed", || ana.peers().alive().len() == 1).await;
    println!("found after {took:?}");
    // Even if the peer is not known any more.
    ana.remove_peer(&ben.node()).await.unwrap();
    within(MINUTE * 2, "the seed again", || ana.peers().alive().len() == 1).await;
    ben.close().await.unwrap();
    assert!(matches!(ben.join(["ana"]), Err(NodeError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn peers_of_shared_channels_are_learned_from_peers_and_others_are_not() {
    let network = network();
    let config = |name: &str, exchange: bool| {
        let mut config = Config::default();
        config.exchange_peers = exchange;
        config.address = Some(name.into());
        config
    };
    let seed = Device::with(&network, "seed", config("seed", true)).await;
    let mut nodes = Vec::new();
    for name in ["n1", "n2", "n3", "stranger", "private"] {
        nodes.push(Device::with(&network, name, config(name, name != "private")).await);
    }
    let [n1, n2, n3, stranger, private] = [0, 1, 2, 3, 4].map(|at: usize| &nodes[at]);
    let notes = [&seed, n1, n2, n3, private];
    for node in notes {
        node.today(notes.map(|other| other.node())).await;
    }
    for node in [&seed, stranger] {
        let channel = node.channel("other").await.unwrap();
        channel.add_member(seed.node()).await.unwrap();
        channel.add_member(stranger.node()).await.unwrap();
    }
    for node in &nodes {
        node.join(["seed"]).unwrap();
    }
    let knows = |a: &Device, b: &Device| a.peer(&b.node()).is_some_and(|peer| peer.reachable);
    within(MINUTE, "the exchange", || {
        [n1, n2, n3].iter().all(|a| [n1, n2, n3].iter().all(|b| a.name == b.name || knows(a, b)))
    })
    .await;
    pass(MINUTE * 5).await;
    assert!([n1, n2, n3].iter().all(|node| node.peer(&stranger.node()).is_none()));
    assert_eq!(stranger.peers().len(), 1, "the seed");
    assert_eq!(private.reachable_peers().iter().filter(|peer| peer.node == seed.node()).count(), 1);
    // Without the seed they still have each other.
    seed.close().await.unwrap();
    let stream = n1.today([]).await;
    stream.append("still here").await.unwrap();
    let theirs = n3.today([]).await;
    within(SECOND * 5, "the entry", || theirs.len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn metadata_spread_to_peers_and_selectors_find_them() {
    let network = network();
    let mut nodes = mesh(&network, 3, &Config::default()).await;
    let relay = Metadata::default().name("Relay").role("relay").region("eu").tag("store").pair("rack", "7");
    nodes[1].set_metadata(&relay).unwrap();
    let told = |node: &Device| *node.peer(&nodes[1].node()).unwrap().metadata == relay;
    let took = within(SECOND * 5, "the metadata", || told(&nodes[0]) && told(&nodes[2])).await;
    println!("told after {took:?}");
    let relays = nodes[0].peers().with_role("relay").alive();
    assert_eq!(relays.iter().map(|peer| peer.node).collect::<Vec<_>>(), [nodes[1].node()]);
    assert_eq!(nodes[0].peers().in_region("eu").with_tag("store").with_pair("rack", "7").len(), 1);
    assert!(nodes[0].peers().with_role("none").is_empty());
    // A later version wins, also from a node that restarted.
    let moved = relay.clone().region("us");
    nodes[1].set_metadata(&moved).unwrap();
    within(SECOND * 5, "the move", || nodes[2].peers().in_region("us").len() == 1).await;
    nodes[1].close().await.unwrap();
    within(SECOND * 5, "the goodbye", || nodes[2].peers().in_region("us").alive().is_empty()).await;
    let store = nodes[1].store.reopen().unwrap();
    let builder = Coordinator::builder(store).port(network.port("n1"));
    let again = builder.metadata(relay.clone()).start().await.unwrap();
    within(MINUTE, "the new value", || nodes[2].peers().in_region("eu").alive().len() == 1).await;
    assert!(nodes[2].peers().in_region("us").is_empty());
    assert_eq!(again.node(), nodes[1].node.node());
    let large = Metadata::default().pair("k", &"v".repeat(2000));
    assert!(matches!(nodes[2].set_metadata(&large), Err(NodeError::Metadata(_))));
    // Whoever comes later is told, too.
    let late = Device::with(&network, "late", Config::default()).await;
    late.channel("notes").await.unwrap().open_to_all().await.unwrap();
    late.meet("n1").await.unwrap();
    within(SECOND * 5, "the newcomer", || late.peers().with_role("relay").len() == 1).await;
    nodes.pop();
}

#[tokio::test(start_paused = true)]
async fn accusations_by_one_peer_in_any_name_make_nobody_unreachable() {
    let network = network();
    let nodes = mesh(&network, 4, &Config::default()).await;
    let identity = Identity::from_secret([66; 32]);
    nodes[0].add_peer(identity.node(), "mallory").await.unwrap();
    let mut mallory = Mallory::connect(&network, identity, "n0").await;
    let mut events: Vec<Events> = nodes.iter().map(|node| node.events()).collect();
    let victim = nodes[1].node();
    for round in 0..200u64 {
        let highest = nodes[0].peer(&victim).unwrap().incarnation;
        let mut updates = Vec::new();
        let accusers = nodes.iter().map(|node| node.node()).chain([mallory.identity.node()]);
        for accuser in accusers {
            for incarnation in [highest, highest + 1, u64::MAX] {
                let accusation = Accusation {
                    subject: ShortId::from(&victim),
                    incarnation: Incarnation(incarnation),
                    accuser: ShortId::from(&accuser),
                    age: if round % 2 == 0 { AGE_GIVEN_UP } else { 30 },
                };
                updates.push(Update::Accusation(accusation));
            }
        }
        let packet = Packet { incarnation: Incarnation(1), body: Body::Gossip, updates }.encode();
        mallory.datagram([&[3], &packet[..]].concat());
        mallory.turn().await;
        pass(Duration::from_millis(300)).await;
    }
    assert!(!mallory.closed);
    for events in &mut events {
        let told = statuses(events);
        assert_eq!(unreachable(&told), 0, "{told:?}");
    }
    pass(SECOND * 10).await;
    assert!(nodes.iter().all(|node| status(node, &nodes[1]).is_none_or(|status| status == Status::Alive)));
    let metrics = nodes[0].metrics();
    println!(
        "{} refused at n0, {} denied by the victim",
        metrics.liveness_refused,
        nodes[1].metrics().accusations_denied
    );
    assert!(metrics.liveness_refused > 100);
}

#[tokio::test(start_paused = true)]
async fn i6_invented_nodes_that_a_peer_speaks_of_are_bounded_and_push_nobody_out() {
    let network = network();
    let mut config = Config::default();
    (config.exchange_peers, config.max_strangers) = (true, 16);
    let nodes = mesh(&network, 2, &config).await;
    let identity = Identity::from_secret([66; 32]);
    nodes[0].add_peer(identity.node(), "mallory").await.unwrap();
    let mut mallory = Mallory::connect(&network, identity, "n0").await;
    for n in 0..300u32 {
        let mut secret = [9; 32];
        secret[..4].copy_from_slice(&n.to_le_bytes());
        let said = Statement::sign(&Identity::from_secret(secret), &[0; 32], Incarnation(7), false, false);
        let updates = vec![Update::Statement(said, Some(format!("nowhere-{n}").as_str().into()))];
        let packet = Packet { incarnation: Incarnation(1), body: Body::Gossip, updates }.encode();
        mallory.datagram([&[3], &packet[..]].concat());
        mallory.turn().await;
    }
    for _ in 0..200 {
        mallory.turn().await;
        pass(Duration::from_millis(200)).await;
        assert!(nodes[0].peers().len() <= 16 + 2, "{}", nodes[0].peers().len());
    }
    assert_eq!(status(&nodes[0], &nodes[1]), Some(Status::Alive));
    assert!(nodes[0].peer(&nodes[1].node()).unwrap().reachable);
}

#[tokio::test(start_paused = true)]
async fn who_shares_a_channel_later_is_learned_then() {
    let network = network();
    let mut nodes = Vec::new();
    for name in ["seed", "n1", "n2"] {
        let mut config = Config::default();
        (config.exchange_peers, config.address) = (true, Some(name.into()));
        nodes.push(Device::with(&network, name, config).await);
    }
    let [seed, n1, n2] = [0, 1, 2].map(|at: usize| &nodes[at]);
    seed.today([n1.node(), n2.node()]).await;
    n1.today([seed.node()]).await;
    n2.today([seed.node(), n1.node()]).await;
    n1.join(["seed"]).unwrap();
    n2.join(["seed"]).unwrap();
    pass(MINUTE * 5).await;
    assert!(n1.peer(&n2.node()).is_none(), "it is admitted to nothing of n1");
    n1.today([n2.node()]).await;
    within(MINUTE, "the other", || n1.peer(&n2.node()).is_some_and(|peer| peer.reachable)).await;
}

/// Frames and bytes that all ports sent in `time`, per node and second.
async fn rates(network: &MemoryNetwork, nodes: usize, time: Duration) -> (f64, f64) {
    let before = network.counters();
    pass(time).await;
    let after = network.counters();
    let per = nodes as f64 * time.as_secs_f64();
    ((after.sent - before.sent) as f64 / per, (after.sent_bytes - before.sent_bytes) as f64 / per)
}

#[tokio::test(start_paused = true)]
async fn an_idle_healthy_group_costs_the_same_per_node_whatever_its_size() {
    let mut measured = Vec::new();
    for count in [2, 6, 12] {
        let network = network();
        let nodes = mesh(&network, count, &Config::default()).await;
        pass(MINUTE * 4).await;
        let (frames, bytes) = rates(&network, count, MINUTE * 2).await;
        println!("{count} nodes: {frames:.2} frames and {bytes:.1} bytes per node and second");
        measured.push(bytes);
        assert!(frames < 3.0 && bytes < 200.0, "{frames} frames, {bytes} bytes");
        nodes[0].close().await.unwrap();
    }
    assert!(measured[2] < measured[1] * 1.3, "{measured:?}");
}

#[tokio::test(start_paused = true)]
async fn two_idle_nodes_on_a_radio_link_say_under_20_bytes_per_second() {
    let network = MemoryNetwork::with_model(LinkProfile::ble(), 5, Arc::new(SystemTimer::new()));
    let nodes = mesh(&network, 2, &Config::default()).await;
    let stream = streams(&nodes).await.remove(0);
    stream.append("something").await.unwrap();
    pass(MINUTE * 5).await;
    let (frames, bytes) = rates(&network, 1, MINUTE * 20).await;
    println!("{frames:.3} frames and {bytes:.1} bytes per second");
    assert!(bytes < 20.0, "{bytes}");
    // What it costs: a crash out of such silence is noticed later, by ten probe intervals at most: the longest of a dozen
    // runs took 21 s.
    network.partition("n0", "n1");
    let took =
        within(MINUTE, "a verdict", || status(&nodes[0], &nodes[1]) == Some(Status::Unreachable)).await;
    assert!(took < SECOND * 25, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_phone_in_low_power_wakes_its_radio_in_batches_and_is_not_taken_for_lost() {
    let network = network();
    let relay = Device::with(&network, "relay", Config::default()).await;
    let mut config = Config::default();
    config.low_power = true;
    let phone = Device::with(&network, "phone", config).await;
    for node in [&relay, &phone] {
        node.channel("notes").await.unwrap().open_to_all().await.unwrap();
        node.channel("more").await.unwrap().open_to_all().await.unwrap();
    }
    phone.join(["relay"]).unwrap();
    within(MINUTE, "the session", || relay.peers().alive().len() == 1).await;
    pass(MINUTE * 10).await;
    let mut events = relay.events();
    let mut own = phone.events();
    let (mut last, mut wakes) = (network.counters().sent, 0);
    let both = 600;
    for _ in 0..both {
        pass(SECOND).await;
        let sent = network.counters().sent;
        wakes += u32::from(sent > last);
        last = sent;
    }
    println!("frames in {wakes} of {both} seconds");
    assert!(wakes <= 90, "{wakes}");
    assert!(statuses(&mut events).is_empty() && statuses(&mut own).is_empty());
}

#[test]
fn metadata_fit_what_the_engine_takes() {
    let metadata = Metadata::default().name("Ana");
    assert!(SwimEngine::metadata_input(&metadata).is_ok());
}
