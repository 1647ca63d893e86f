//! Opening, pausing, closing and destroying nodes; appending under all circumstances; what a node says of itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use anabranch::infrastructure::packed::{MapBacking, PackedStore};
use anabranch::infrastructure::threaded_store::ThreadedStore;
use anabranch::{
    AppendError, AppendRefusal, BuildError, ChannelId, ChannelSpec, Config, ConfigError, Coordinator, Cursor,
    Durability, Event, Explanation, IdError, MeetError, MemoryNetwork, MemoryStore, NodeError, NodeState,
    Query, ReadError, StoreError,
};
use bytes::Bytes;
use common::{
    Device, PATIENCE, agree, all, converge, devices, eventually, next_where, quick, quiescent, share,
    stream_of, texts, write,
};
use futures::{FutureExt as _, StreamExt as _};
use tokio::task::JoinSet;

/// A store with a disk under it that can be looked at as after a power cut.
async fn on_disk(disk: &MapBacking) -> ThreadedStore<MapBacking> {
    let backing = disk.clone();
    let open = move || PackedStore::open(backing, [5; 32], &Bytes::from_static(b"here"));
    ThreadedStore::open("test-store", open).await.unwrap()
}

async fn lonely(store: MemoryStore) -> Coordinator {
    Coordinator::builder(store).start().await.unwrap()
}

#[tokio::test]
async fn every_step_of_the_life_of_a_node_may_be_taken_twice() {
    let network = MemoryNetwork::new();
    let node = Device::new(&network, "ana").await;
    let mut states = node.state_changes();
    assert_eq!(states.next().await, Some(NodeState::Running));
    for _ in 0..2 {
        node.start().await.unwrap();
        assert_eq!(node.state(), NodeState::Running);
    }
    for _ in 0..2 {
        node.pause().await.unwrap();
        assert_eq!(node.state(), NodeState::Paused);
    }
    assert_eq!(states.next().await, Some(NodeState::Paused));
    for _ in 0..2 {
        node.resume().await.unwrap();
        assert_eq!(node.state(), NodeState::Running);
    }
    for _ in 0..2 {
        node.stop().await.unwrap();
        assert_eq!(node.state(), NodeState::Stopped);
    }
    assert!(!node.health().is_healthy());
    for _ in 0..2 {
        node.close().await.unwrap();
        assert_eq!(node.state(), NodeState::Closed);
    }
    next_where(&mut states, "the end", |state| *state == NodeState::Closed).await;
}

#[tokio::test]
async fn handles_of_a_closed_node_say_so_and_change_nothing() {
    let network = MemoryNetwork::new();
    let ana = Device::new(&network, "ana").await;
    let channel = ana.channel("notes").await.unwrap();
    let stream = channel.stream("today").await.unwrap();
    write(&stream, "a", 3).await;
    let mut open_read = stream.entries(Query::all());
    ana.close().await.unwrap();
    // The store is free although all these handles live.
    let again = lonely(ana.store.reopen().unwrap()).await;
    assert!(matches!(ana.channel("more").await, Err(NodeError::Closed)));
    assert!(matches!(channel.stream("more").await, Err(NodeError::Closed)));
    assert!(matches!(channel.add_member(ana.node()).await, Err(NodeError::Closed)));
    assert!(matches!(channel.open_to_all().await, Err(NodeError::Closed)));
    assert!(matches!(ana.remove_channel(&channel.id()).await, Err(NodeError::Closed)));
    assert!(matches!(
        ana.add_peer(anabranch::NodeId::from_bytes([3; 32]), "x").await,
        Err(NodeError::Closed)
    ));
    assert!(matches!(ana.remove_peer(&anabranch::NodeId::from_bytes([3; 32])).await, Err(NodeError::Closed)));
    assert!(matches!(ana.start().await, Err(NodeError::Closed)));
    assert!(matches!(ana.pause().await, Err(NodeError::Closed)));
    assert!(matches!(ana.sync_status().await, Err(NodeError::Closed)));
    assert!(matches!(ana.meet("ben").await, Err(MeetError::Closed)));
    assert!(matches!(ana.destroy().await, Err(NodeError::Closed)));
    assert!(matches!(stream.append("late").await, Err(AppendError::Unchanged(AppendRefusal::Closed))));
    assert!(matches!(open_read.next().await, Some(Err(ReadError::Closed))));
    assert!(matches!(stream.entries(Query::all()).next().await, Some(Err(ReadError::Closed))));
    assert!(stream.subscribe(Cursor::START).next().await.is_none());
    assert_eq!(stream_of(&again).await.len(), 3);
}

#[tokio::test]
async fn a_store_is_opened_once() {
    let store = MemoryStore::ephemeral().unwrap();
    let node = lonely(store.clone()).await;
    assert!(matches!(store.reopen(), Err(StoreError::InUse(_))));
    node.close().await.unwrap();
    let reopened = lonely(store.reopen().unwrap()).await;
    assert_eq!(reopened.node(), node.node());
}

#[tokio::test]
async fn a_destroyed_node_comes_back_as_another_one_with_nothing() {
    let network = MemoryNetwork::new();
    let ana = Device::new(&network, "ana").await;
    write(&ana.today([]).await, "a", 3).await;
    ana.destroy().await.unwrap();
    assert_eq!(ana.state(), NodeState::Closed);
    let again = lonely(ana.store.reopen().unwrap()).await;
    assert_ne!(again.node(), ana.node.node());
    assert!(again.channels().is_empty() && again.peers().is_empty());
    assert_eq!(again.resource_usage().entries, 0);
}

#[tokio::test]
async fn i1_what_was_appended_is_there_after_every_kind_of_end() {
    let network = MemoryNetwork::new();
    let mut ana = Device::new(&network, "ana").await;
    for round in 0..6 {
        let stream = ana.today([]).await;
        assert_eq!(stream.len(), round * 10);
        write(&stream, &format!("{round}-"), 10).await;
        ana = if round % 2 == 0 { ana.crash().await } else { ana.restart().await };
    }
    let entries = all(&ana.today([]).await).await;
    assert!(entries.iter().map(|entry| entry.sequence()).eq(1..=60));
}

#[tokio::test]
async fn i1_nothing_that_a_peer_holds_is_lost_by_its_author_in_a_power_cut() {
    let network = MemoryNetwork::new();
    let disk = MapBacking::new(4096);
    let mut config = quick();
    // Far beyond the test: only a waiting peer brings a sync forward.
    config.durability = Durability::Interval(Duration::from_secs(3600));
    let builder = Coordinator::builder(on_disk(&disk).await).port(network.port("ana")).config(config);
    let ana = builder.start().await.unwrap();
    let ben = Device::new(&network, "ben").await;
    let mut streams = Vec::new();
    for node in [&ana, &ben.node] {
        let channel = node.channel("notes").await.unwrap();
        channel.open_to_all().await.unwrap();
        streams.push(channel.stream("today").await.unwrap());
    }
    ana.meet("ben").await.unwrap();
    for round in 0..10 {
        let before = ben.resource_usage().entries;
        for n in 0..20 {
            let id = streams[0].append(format!("{round}-{n}")).await.unwrap();
            // Local readers see it at once.
            assert!(streams[0].contains(&id).await.unwrap());
        }
        eventually("the next entries", async || ben.resource_usage().entries > before).await;
        let held = streams[1].len();
        let node = lonely_on(&disk.crashed()).await;
        assert!(stream_of(&node).await.len() >= held, "a peer holds what its author lost");
        node.close().await.unwrap();
    }
    agree(&streams).await;
    ana.close().await.unwrap();
    // Closing makes durable what an interval left open.
    let node = lonely_on(&disk.crashed()).await;
    assert_eq!(stream_of(&node).await.len(), 200);
}

async fn lonely_on(disk: &MapBacking) -> Coordinator {
    Coordinator::builder(on_disk(disk).await).start().await.unwrap()
}

#[tokio::test]
async fn i1_an_immediate_append_returns_when_it_survives_a_power_cut() {
    let disk = MapBacking::new(4096);
    let node = lonely_on(&disk).await;
    let stream = stream_of(&node).await;
    for n in 1..=20u64 {
        stream.append(format!("{n}")).await.unwrap();
        let after = lonely_on(&disk.crashed()).await;
        assert_eq!(stream_of(&after).await.len(), n);
        after.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_append_changes_nothing_before_it_is_submitted_and_withdraws_nothing_after() {
    let disk = MapBacking::new(4096);
    let node = lonely_on(&disk).await;
    let stream = stream_of(&node).await;
    drop(stream.append("never polled"));
    // Polled once, it is submitted, whether or not it is durable yet.
    let _ = stream.append("submitted").now_or_never();
    stream.append("last").await.unwrap();
    assert_eq!(texts(&all(&stream).await), ["submitted", "last"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i2_many_tasks_append_at_once_and_each_entry_gets_its_place() {
    const TASKS: u64 = 8;
    const EACH: u64 = 250;
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let stream = streams[0].clone();
        tasks.spawn(async move {
            let mut last = 0;
            for n in 0..EACH {
                let id = stream.append(format!("{task} {n:04}")).await.unwrap();
                assert!(id.sequence > last, "appends of one task keep their order");
                last = id.sequence;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(streams[0].len(), TASKS * EACH);
    let entries = agree(&streams).await;
    assert!(entries.iter().map(|entry| entry.sequence()).eq(1..=TASKS * EACH));
    for task in 0..TASKS {
        let prefix = format!("{task} ");
        let own: Vec<String> = texts(&entries).into_iter().filter(|text| text.starts_with(&prefix)).collect();
        assert!(own.len() as u64 == EACH && own.is_sorted());
    }
}

#[tokio::test]
async fn a_full_append_window_makes_appenders_wait_and_loses_nothing() {
    let disk = MapBacking::new(4096);
    let mut config = Config::default();
    config.append_window = 2000;
    let builder = Coordinator::builder(on_disk(&disk).await).config(config);
    let node = builder.start().await.unwrap();
    let stream = stream_of(&node).await;
    let appends = (0..200u8).map(|n| {
        let stream = stream.clone();
        async move { stream.append(vec![n; 500]).await.unwrap() }
    });
    let ids = tokio::time::timeout(PATIENCE, futures::future::join_all(appends)).await.unwrap();
    assert_eq!(ids.len(), 200);
    assert_eq!(stream.len(), 200);
}

#[tokio::test]
async fn a_batch_is_appended_as_one() {
    let node = lonely(MemoryStore::ephemeral().unwrap()).await;
    let stream = stream_of(&node).await;
    stream.append_slice(b"zero").await.unwrap();
    let appended = stream.append_batch(["one", "two", "three"]).await.unwrap();
    assert_eq!((appended.first, appended.last.sequence), (2, 4));
    assert_eq!(texts(&all(&stream).await), ["zero", "one", "two", "three"]);
    let empty = stream.append_batch(Vec::<Bytes>::new()).await;
    assert!(matches!(empty, Err(AppendError::Unchanged(AppendRefusal::EmptyBatch))));
    // One payload over the cap, and none is appended.
    let mixed = stream.append_batch([Bytes::from_static(b"x"), Bytes::from(vec![0; (16 << 20) + 1])]).await;
    assert!(matches!(mixed, Err(AppendError::Unchanged(AppendRefusal::PayloadTooLarge { .. }))));
    // An empty payload is a payload.
    stream.append("").await.unwrap();
    assert_eq!(stream.len(), 5);
}

#[tokio::test]
async fn names_out_of_range_are_refused() {
    let node = lonely(MemoryStore::ephemeral().unwrap()).await;
    let long = "x".repeat(65);
    for name in ["", &long] {
        let length = name.len();
        match node.channel(name).await {
            Err(NodeError::Id(error)) => assert_eq!(error, IdError::NameLength(length)),
            other => panic!("{other:?}"),
        }
        match node.channel("notes").await.unwrap().stream(name).await {
            Err(NodeError::Id(error)) => assert_eq!(error, IdError::NameLength(length)),
            other => panic!("{other:?}"),
        }
    }
    let edge = "x".repeat(64);
    node.channel(&*edge).await.unwrap().stream(&*edge).await.unwrap();
    assert_eq!(ChannelSpec::secret("n", &[0; 256]), Err(IdError::SecretLength(256)));
    assert_eq!(node.channels().len(), 2);
}

#[tokio::test]
async fn configurations_that_cannot_work_are_refused_before_anything_starts() {
    type Change = fn(&mut Config);
    let changes: [(&str, Change); 8] = [
        ("gossip_interval", |config| config.gossip_interval = Duration::ZERO),
        ("probe_interval", |config| config.probe_interval = Duration::ZERO),
        ("redial_interval_max", |config| config.redial_interval_max = Duration::ZERO),
        ("drift", |config| config.drift = Duration::ZERO),
        ("max_payload", |config| config.max_payload = 0),
        ("event_capacity", |config| config.event_capacity = 0),
        ("max_lines", |config| config.max_lines = 0),
        ("durability interval", |config| config.durability = Durability::Interval(Duration::ZERO)),
    ];
    let store = MemoryStore::ephemeral().unwrap();
    for (name, change) in changes {
        let mut config = Config::default();
        change(&mut config);
        let built = Coordinator::builder(store.clone()).config(config).build().await;
        match built {
            Err(BuildError::Config(ConfigError::Zero(field))) => assert_eq!(field, name),
            other => panic!("{name}: {:?}", other.map(|_| ())),
        }
    }
    let mut config = Config::default();
    config.gossip_interval_max = Duration::from_millis(1);
    let built = Coordinator::builder(store.clone()).config(config).build().await;
    assert!(matches!(built, Err(BuildError::Config(ConfigError::Interval))));
    lonely(store).await;
}

#[tokio::test]
async fn a_node_whose_driver_is_gone_says_so_and_is_used_on_locally() {
    let store = MemoryStore::ephemeral().unwrap();
    let (node, driver) = Coordinator::builder(store).build().await.unwrap();
    drop(driver);
    let stream = stream_of(&node).await;
    stream.append("local").await.unwrap();
    assert_eq!(stream.len(), 1);
    assert!(matches!(node.pause().await, Err(NodeError::NoDriver)));
    assert!(matches!(node.sync_status().await, Err(NodeError::NoDriver)));
    node.close().await.unwrap();
    assert!(matches!(node.pause().await, Err(NodeError::Closed)));
}

#[tokio::test]
async fn meeting_where_nobody_can_be_met_is_a_typed_error() {
    let network = MemoryNetwork::new();
    let ana = Device::new(&network, "ana").await;
    assert!(matches!(ana.meet("nobody").await, Err(MeetError::Port(_))));
    let local = lonely(MemoryStore::ephemeral().unwrap()).await;
    assert!(matches!(local.meet("ana").await, Err(MeetError::NoPort(_))));
    let two = Coordinator::builder(MemoryStore::ephemeral().unwrap());
    let two = two.port(network.port("one")).port(network.port("two")).start().await.unwrap();
    let met = two.meet("two").await;
    assert!(matches!(met, Err(MeetError::Oneself)), "{met:?}");
    assert!(matches!(ana.add_peer(ana.node(), "me").await, Err(NodeError::OwnNode)));
    assert!(ana.peers().is_empty() && two.peers().is_empty());
}

#[tokio::test]
async fn i9_a_listener_that_falls_behind_is_told_how_much_it_missed() {
    let mut config = Config::default();
    config.event_capacity = 4;
    let builder = Coordinator::builder(MemoryStore::ephemeral().unwrap()).config(config);
    let node = builder.start().await.unwrap();
    let mut events = node.events();
    for n in 0..20 {
        node.channel(&*format!("channel {n}")).await.unwrap();
    }
    let first = events.next().await.unwrap();
    assert_eq!(first, Event::Lagged(16));
    for n in 16..20 {
        let id = ChannelId::well_known(&format!("channel {n}")).unwrap();
        assert_eq!(events.next().await.unwrap(), Event::ChannelCreated(id));
    }
    assert!(events.next().now_or_never().is_none());
}

#[tokio::test]
async fn what_a_node_holds_is_counted_as_it_changes() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    write(&streams[0], "a", 10).await;
    write(&streams[1], "b", 20).await;
    ana.meet_device(&ben).await;
    converge(&streams).await;
    let other = ana.channel("other").await.unwrap();
    write(&other.stream("x").await.unwrap(), "x", 5).await;
    let usage = ana.resource_usage();
    assert_eq!((usage.peers, usage.channels, usage.streams, usage.entries), (1, 2, 2, 35));
    assert!(usage.logs >= 3 && usage.store_bytes > 0);
    let health = ana.health();
    assert!(health.is_healthy() && !health.awaiting_peer);
    assert_eq!((health.node, health.usage.entries), (ana.node(), 35));
    ana.remove_channel(&other.id()).await.unwrap();
    let usage = ana.resource_usage();
    assert_eq!((usage.channels, usage.streams, usage.entries), (1, 1, 30));
    // Counted the same after a restart, where it is counted from the store.
    let before = ana.resource_usage();
    let ana = ana.restart().await;
    let after = ana.resource_usage();
    assert_eq!((after.channels, after.streams, after.logs), (before.channels, before.streams, before.logs));
    assert_eq!((after.entries, after.peers), (before.entries, before.peers));
}

#[tokio::test]
async fn metrics_add_up() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    write(&streams[0], "a", 10).await;
    write(&streams[1], "b", 20).await;
    ana.meet_device(&ben).await;
    converge(&streams).await;
    quiescent(&ana).await;
    let (here, there) = (ana.metrics(), ben.metrics());
    assert_eq!((here.entries_appended, here.entries_merged), (10, 20));
    assert_eq!((there.entries_appended, there.entries_merged), (20, 10));
    assert!(here.sessions == 1 && here.bytes_sent > 0 && here.frames_received > 0);
    assert!(here.comparisons + there.comparisons > 0);
    assert!(here.run_bytes_sent > 0 && there.run_bytes_received >= here.run_bytes_sent);
    assert_eq!((here.frames_bad, here.messages_bad, here.runs_refused, here.faults), (0, 0, 0, 0));
    let peer = ana.peer(&ben.node()).unwrap();
    assert!(peer.reachable && peer.metrics.bytes_in > 0 && peer.metrics.bytes_out > 0);
    assert_eq!((peer.metrics.sessions, peer.addresses.len()), (1, 1));
    assert!(peer.metrics.last_heard.is_some());
}

#[tokio::test]
async fn why_two_nodes_differ_is_explained() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let stream = stream_of(&ana).await;
    let peer = ben.node();
    let explained = async |wanted: Explanation| {
        eventually(&format!("{wanted:?}"), async || ana.explain(&peer, &stream).await.unwrap() == wanted)
            .await;
    };
    explained(Explanation::UnknownPeer).await;
    ana.add_peer(peer, "Ben").await.unwrap();
    ben.add_peer(ana.node(), "Ana").await.unwrap();
    assert_eq!(ana.peer(&peer).unwrap().label, "Ben");
    explained(Explanation::Unreachable).await;
    ana.meet_device(&ben).await;
    explained(Explanation::NotAdmittedHere).await;
    let channel = ana.channel("notes").await.unwrap();
    channel.add_member(peer).await.unwrap();
    explained(Explanation::NotSharedThere).await;
    let theirs = ben.today([ana.node()]).await;
    write(&stream, "a", 3).await;
    explained(Explanation::Same).await;
    assert_eq!(theirs.len(), 3);
    quiescent(&ana).await;
    ben.pause().await.unwrap();
    stream.append("unwanted").await.unwrap();
    explained(Explanation::PeerPaused).await;
    ben.resume().await.unwrap();
    explained(Explanation::Same).await;
    ana.pause().await.unwrap();
    theirs.append("unwanted").await.unwrap();
    explained(Explanation::Paused).await;
    ana.resume().await.unwrap();
    explained(Explanation::Same).await;
    channel.remove_member(&peer).await.unwrap();
    explained(Explanation::NotAdmittedHere).await;
    channel.add_member(peer).await.unwrap();
    explained(Explanation::Same).await;
    ana.stop().await.unwrap();
    explained(Explanation::Stopped).await;
    ana.close().await.unwrap();
    assert!(matches!(ana.explain(&peer, &stream).await, Err(NodeError::Closed)));
}

#[tokio::test]
async fn a_removed_peer_is_hung_up_on_and_forgotten() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    ben.add_peer(ana.node(), "Ana").await.unwrap();
    ana.meet_device(&ben).await;
    let mut events = ana.events();
    ana.remove_peer(&ben.node()).await.unwrap();
    next_where(&mut events, "the removal", |event| *event == Event::PeerRemoved(ben.node())).await;
    assert!(ana.peers().is_empty());
    ana.remove_peer(&ben.node()).await.unwrap();
    eventually("the other side to notice", async || ben.reachable_peers().is_empty()).await;
    let ana = ana.restart().await;
    assert!(ana.peers().is_empty());
}

/// Bytes on the wire per comparison of two idle nodes that hold `streams` streams.
async fn bytes_per_exchange(streams: usize) -> u64 {
    const EXCHANGES: u64 = 20;
    let network = MemoryNetwork::new();
    let mut config = quick();
    config.gossip_interval = Duration::from_millis(4);
    config.gossip_interval_max = Duration::from_millis(8);
    config.probe_interval = PATIENCE;
    let ana = Device::with(&network, "ana", config.clone()).await;
    let ben = Device::with(&network, "ben", config).await;
    share(&[&ana, &ben]).await;
    let channel = ana.channel("notes").await.unwrap();
    for n in 0..streams {
        let stream = channel.stream(&*format!("stream {n}")).await.unwrap();
        stream.append_batch(vec!["x"; 5]).await.unwrap();
    }
    ana.meet_device(&ben).await;
    let entries = 5 * streams as u64;
    eventually("convergence", async || ben.resource_usage().entries == entries).await;
    quiescent(&ana).await;
    quiescent(&ben).await;
    let seen = || {
        let (here, there) = (ana.metrics(), ben.metrics());
        let equal = here.comparisons_equal + there.comparisons_equal;
        let all = here.comparisons + there.comparisons;
        (equal, all, here.bytes_sent + there.bytes_sent)
    };
    // Let what is left of the transfer (acknowledgements, heads) pass first.
    let (start, ..) = seen();
    eventually("quiet", async || seen().0 >= start + EXCHANGES).await;
    let (first, all, bytes) = seen();
    eventually("exchanges", async || seen().0 >= first + EXCHANGES).await;
    let (last, all_later, bytes_later) = seen();
    assert!(all_later - all <= last - first + 2, "idle nodes found differences");
    (bytes_later - bytes) / (last - first)
}

#[tokio::test]
async fn i8_two_converged_nodes_exchange_as_little_whatever_they_hold() {
    let little = bytes_per_exchange(1).await;
    let much = bytes_per_exchange(1000).await;
    assert!(little < 400, "{little} bytes per exchange");
    assert!(much.abs_diff(little) <= 40, "{little} bytes with one stream, {much} with a thousand");
}

#[tokio::test]
async fn i8_the_pace_of_idle_nodes_backs_off() {
    use anabranch::{SystemTimer, TimerPort as _};
    let network = MemoryNetwork::new();
    let mut config = quick();
    config.gossip_interval = Duration::from_millis(10);
    config.gossip_interval_max = PATIENCE;
    let ana = Device::with(&network, "ana", config.clone()).await;
    let ben = Device::with(&network, "ben", config).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    write(&streams[0], "a", 1).await;
    converge(&streams).await;
    quiescent(&ana).await;
    let equal = || ana.metrics().comparisons_equal + ben.metrics().comparisons_equal;
    let (timer, first) = (SystemTimer::new(), equal());
    let start = timer.now();
    eventually("more comparisons", async || equal() >= first + 8).await;
    // At a constant pace both sides together would make them within 8 intervals of 10 ms, or fewer. Each found
    // equal makes both sides wait half as long again: 10, 15, 22, … A slow machine only takes longer.
    let took = timer.now().since(start);
    assert!(took > Duration::from_millis(250), "8 comparisons within {took:?}");
    // News wakes them at once.
    streams[1].append("news").await.unwrap();
    converge(&streams).await;
}

#[tokio::test]
async fn a_channel_removed_before_a_restart_can_be_made_again_after_it() {
    let store = MemoryStore::ephemeral().unwrap();
    let node = lonely(store.clone()).await;
    for channel in ["kept", "gone"] {
        node.channel(channel).await.unwrap().stream("s").await.unwrap().append("x").await.unwrap();
    }
    assert!(node.remove_channel(&ChannelId::well_known("gone").unwrap()).await.unwrap());
    node.close().await.unwrap();
    let again = lonely(store.reopen().unwrap()).await;
    let stream = again.channel("gone").await.unwrap().stream("s").await.unwrap();
    stream.append("y").await.unwrap();
    assert_eq!(stream.len(), 1);
}
