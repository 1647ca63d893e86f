//! Restored backups, cloned disks, forgotten entries and wrong clocks: nothing is lost, and everybody agrees.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use anabranch::{
    Arrival, Coordinator, Cursor, Event, EventStream, Fault, Identity, Instant, MemoryNetwork, MemoryStore,
    NodeId, Query, SystemTimer, TimerPort, WallTime,
};
use async_trait::async_trait;
use common::{
    Device, PATIENCE, agree, all, converge, devices, eventually, is_forked, next_where, quick, quiescent,
    rash, share, stream_of, text, texts, write,
};
use futures::FutureExt as _;

/// Ana, who went on from a backup, and ben, who holds what she forgot. They have yet to meet again.
struct Fork {
    network: MemoryNetwork,
    ana: Device,
    ben: Device,
    /// Ana's stream, with the common entries and "second"; ben's, with the common ones and "first".
    streams: [EventStream; 2],
    /// What both held at the backup.
    common: Cursor,
}

async fn fork(common: usize, first: usize, second: usize) -> Fork {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    write(&streams[0], "common", common).await;
    converge(&streams).await;
    let (backup, common) = (ana.store.backup(), streams[1].version());
    write(&streams[0], "first", first).await;
    converge(&streams).await;
    ana.close().await.unwrap();
    network.partition("ana", "ben");
    let ana = Device::on(backup.restore().unwrap(), &network, "ana", rash()).await;
    let again = stream_of(&ana).await;
    write(&again, "second", second).await;
    Fork { network, ana, ben, streams: [again, streams[1].clone()], common }
}

#[tokio::test]
async fn i3_both_lines_of_a_restored_backup_are_kept_everywhere_and_the_fork_is_proven() {
    let network = MemoryNetwork::new();
    let [ana, ben, cleo] = devices(&network, ["ana", "ben", "cleo"]).await;
    let streams = share(&[&ana, &ben, &cleo]).await;
    let author = ana.node();
    ana.meet_device(&ben).await;
    write(&streams[0], "common", 10).await;
    converge(&streams[..2]).await;
    let backup = ana.store.backup();
    write(&streams[0], "first", 300).await;
    converge(&streams[..2]).await;
    ana.close().await.unwrap();
    // The device comes back from its backup, and writes before it meets anybody.
    network.partition_and_disconnect("ana", "ben");
    let ana = Device::on(backup.restore().unwrap(), &network, "ana", rash()).await;
    let again = stream_of(&ana).await;
    assert_eq!((ana.node(), again.len()), (author, 10));
    write(&again, "second", 5).await;
    let mut events = [ana.events(), ben.events(), cleo.events()];
    let mut feed = streams[1].subscribe(streams[1].version());
    network.heal_all();
    ben.meet_device(&cleo).await;
    let streams = [again, streams[1].clone(), streams[2].clone()];
    let entries = agree(&streams).await;
    assert_eq!(entries.len(), 315);
    assert_eq!(streams[0].version().tips(&author).len(), 2);
    let texts = BTreeSet::from_iter(texts(&entries));
    assert_eq!(texts.len(), 315, "nothing is there twice, and nothing is missing");
    for events in &mut events {
        let event = next_where(events, "word of the fork", is_forked).await;
        let Event::Forked { author: whose, at, proof, .. } = event else { unreachable!() };
        assert_eq!((whose, at.sequence), (author, 10));
        let proof = proof.expect("two signed heads are known");
        assert!(proof.verify(&*Identity::from_secret([1; 32]).scheme()), "anybody can check the proof");
        assert_eq!(proof.at, at);
    }
    // The subscriber is told of the new line before its entries.
    match tokio::time::timeout(PATIENCE, feed.next()).await.unwrap() {
        Some(Ok(Arrival::Forked { author: whose, at })) => assert_eq!((whose, at.sequence), (author, 10)),
        other => panic!("{other:?}"),
    }
    for n in 0..5 {
        match tokio::time::timeout(PATIENCE, feed.next()).await.unwrap() {
            Some(Ok(Arrival::Entry { entry, .. })) => assert_eq!(text(&entry), format!("second{n}")),
            other => panic!("{other:?}"),
        }
    }
    // The author goes on, on the line of its last append; no third line comes of it.
    streams[0].append("after").await.unwrap();
    assert_eq!(agree(&streams).await.len(), 316);
    assert_eq!(streams[2].version().tips(&author).len(), 2);
}

#[tokio::test]
async fn i8_a_forked_log_is_as_quiet_as_any_other() {
    let Fork { network, ana, ben, streams, .. } = fork(3, 3, 3).await;
    network.heal_all();
    agree(&streams).await;
    quiescent(&ana).await;
    quiescent(&ben).await;
    let runs = ana.metrics().run_bytes_sent + ben.metrics().run_bytes_sent;
    let equal = ana.metrics().comparisons_equal + ben.metrics().comparisons_equal;
    eventually("a few more comparisons", async || {
        ana.metrics().comparisons_equal + ben.metrics().comparisons_equal >= equal + 5
    })
    .await;
    assert_eq!(ana.metrics().run_bytes_sent + ben.metrics().run_bytes_sent, runs, "entries were sent again");
    assert_eq!((ana.metrics().forks, ben.metrics().forks), (1, 1));
    // The fork outlasts a restart of either side.
    let (ana, ben) = (ana.restart().await, ben.restart().await);
    let streams = [stream_of(&ana).await, stream_of(&ben).await];
    assert_eq!(agree(&streams).await.len(), 9);
    ana.meet_device(&ben).await;
    streams[0].append("after").await.unwrap();
    assert_eq!(agree(&streams).await.len(), 10);
    assert_eq!(ben.metrics().forks, 0);
}

#[tokio::test]
async fn i3_a_cloned_device_and_its_original_lose_nothing_through_a_third() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    write(&streams[0], "common", 5).await;
    converge(&streams).await;
    let clone = Device::on(ana.store.backup().restore().unwrap(), &network, "clone", rash()).await;
    assert_eq!(clone.node(), ana.node());
    let cloned = stream_of(&clone).await;
    write(&cloned, "clone", 20).await;
    write(&streams[0], "original", 20).await;
    let all_streams = [streams[0].clone(), streams[1].clone(), cloned];
    let everywhere = async || all_streams.iter().all(|stream| stream.len() == 45);
    // Two devices of one identity take turns at a peer: both get their turn.
    eventually("both lines on all three", async || {
        for device in [&ana, &clone] {
            let _ = device.meet("ben").await;
        }
        everywhere().await
    })
    .await;
    agree(&all_streams).await;
}

#[tokio::test]
async fn a_clone_that_is_met_is_recognised_as_the_own_node() {
    let network = MemoryNetwork::new();
    let ana = Device::new(&network, "ana").await;
    let clone = Device::on(ana.store.backup().restore().unwrap(), &network, "clone", rash()).await;
    assert!(matches!(clone.meet("ana").await, Err(anabranch::MeetError::Oneself)));
}

#[tokio::test]
async fn a_moved_store_waits_for_a_peer_and_goes_on_with_the_line_that_it_forgot() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    write(&streams[0], "kept", 5).await;
    converge(&streams).await;
    let backup = ana.store.backup();
    write(&streams[0], "forgotten", 5).await;
    converge(&streams).await;
    ana.close().await.unwrap();
    network.partition_and_disconnect("ana", "ben");
    let ana = Device::on(backup.restore().unwrap(), &network, "ana", quick()).await;
    let again = stream_of(&ana).await;
    assert!(ana.health().awaiting_peer);
    let append = again.append("new");
    futures::pin_mut!(append);
    assert!(append.as_mut().now_or_never().is_none(), "an append did not wait");
    network.heal_all();
    let id = tokio::time::timeout(PATIENCE, append).await.expect("the peer is there").unwrap();
    assert_eq!(id.sequence, 11);
    assert!(!ana.health().awaiting_peer);
    let entries = agree(&[again.clone(), streams[1].clone()]).await;
    assert_eq!(entries.len(), 11);
    assert_eq!(again.version().tips(&ana.node()).len(), 1, "nothing forked");
}

#[tokio::test]
async fn a_moved_store_recovers_every_channel_before_it_writes_in_any() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let mut pairs = Vec::new();
    for n in 0..8 {
        let mut pair = Vec::new();
        for device in [&ana, &ben] {
            let channel = device.channel(&*format!("channel {n}")).await.unwrap();
            channel.add_member(ana.node()).await.unwrap();
            channel.add_member(ben.node()).await.unwrap();
            pair.push(channel.stream("s").await.unwrap());
        }
        write(&pair[0], "kept", 2).await;
        pairs.push(pair);
    }
    ana.meet_device(&ben).await;
    for pair in &pairs {
        converge(pair).await;
    }
    let backup = ana.store.backup();
    // Only one channel of them moved on since the backup.
    let moved_on = &pairs[5];
    let large: Vec<Vec<u8>> = (0..2000).map(|_| vec![7; 1000]).collect();
    moved_on[0].append_batch(large).await.unwrap();
    converge(moved_on).await;
    ana.close().await.unwrap();
    let ana = Device::on(backup.restore().unwrap(), &network, "ana", quick()).await;
    let again = ana.channel("channel 5").await.unwrap().stream("s").await.unwrap();
    let id = tokio::time::timeout(PATIENCE, again.append("new")).await.unwrap().unwrap();
    assert_eq!(id.sequence, 2003, "an append did not wait for what was forgotten in its channel");
    agree(&[again, moved_on[1].clone()]).await;
}

#[tokio::test]
async fn a_moved_store_that_nobody_tells_writes_after_the_configured_time() {
    let network = MemoryNetwork::new();
    let ana = Device::new(&network, "ana").await;
    let stream = ana.today([]).await;
    write(&stream, "a", 2).await;
    let store: MemoryStore = ana.store.backup().restore().unwrap();
    let mut config = quick();
    config.amnesia_wait = Duration::from_millis(50);
    let moved = Device::on(store, &network, "moved", config).await;
    let id = stream_of(&moved).await.append("new").await.unwrap();
    assert_eq!(id.sequence, 3);
}

#[tokio::test]
async fn a_moved_store_without_ports_does_not_wait() {
    let network = MemoryNetwork::new();
    let ana = Device::new(&network, "ana").await;
    write(&ana.today([]).await, "a", 2).await;
    let store = ana.store.backup().restore().unwrap();
    let node = Coordinator::builder(store).config(quick()).start().await.unwrap();
    let stream = node.channel("notes").await.unwrap().stream("today").await.unwrap();
    assert_eq!(stream.append("new").await.unwrap().sequence, 3);
}

/// The system's clock, so far ahead.
struct AheadBy(SystemTimer, Duration);

#[async_trait]
impl TimerPort for AheadBy {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn wall(&self) -> WallTime {
        WallTime::from_unix(self.0.wall().to_unix() + self.1)
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.0.sleep_until(deadline).await;
    }
}

const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[tokio::test]
async fn i1_a_channel_that_is_made_again_goes_on_above_what_was_ever_sent_from_it() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    let channel = ana.channel("notes").await.unwrap().id();
    ana.meet_device(&ben).await;
    write(&streams[0], "sent", 5).await;
    write(&streams[1], "of ben", 2).await;
    converge(&streams).await;
    quiescent(&ana).await;
    network.partition_and_disconnect("ana", "ben");
    ana.remove_channel(&channel).await.unwrap();
    // Made again and removed once more, with a restart before, between and after.
    let ana = ana.restart().await;
    ana.today([ben.node()]).await;
    let ana = ana.restart().await;
    ana.remove_channel(&channel).await.unwrap();
    let ana = ana.restart().await;
    let again = ana.today([ben.node()]).await;
    assert_eq!(again.len(), 0);
    let append = again.append("new");
    futures::pin_mut!(append);
    assert!(append.as_mut().now_or_never().is_none(), "an append did not wait");
    // Other streams do not wait, nor does a channel of which nothing was sent.
    write(&ana.channel("notes").await.unwrap().stream("other").await.unwrap(), "other", 1).await;
    let own = ana.channel("own").await.unwrap();
    write(&own.stream("s").await.unwrap(), "own", 3).await;
    ana.remove_channel(&own.id()).await.unwrap();
    write(&ana.channel("own").await.unwrap().stream("s").await.unwrap(), "own", 1).await;
    network.heal_all();
    let id = tokio::time::timeout(PATIENCE, append).await.expect("the peer returns the entries").unwrap();
    assert_eq!(id.sequence, 6);
    let entries = agree(&[again.clone(), streams[1].clone()]).await;
    assert_eq!(entries.len(), 8);
    for stream in [&again, &streams[1]] {
        assert_eq!(stream.version().tips(&ana.node()).len(), 1, "nothing forked");
    }
}

#[tokio::test]
async fn a_channel_that_is_made_again_and_whose_entries_nobody_returns_is_written_to_after_the_configured_time()
 {
    let network = MemoryNetwork::new();
    let ana = Device::with(&network, "ana", rash()).await;
    let ben = Device::new(&network, "ben").await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    write(&streams[0], "sent", 5).await;
    converge(&streams).await;
    network.partition_and_disconnect("ana", "ben");
    ana.remove_channel(&ana.channel("notes").await.unwrap().id()).await.unwrap();
    let again = ana.today([ben.node()]).await;
    let written = tokio::time::timeout(PATIENCE, again.append("new")).await.expect("the wait ends").unwrap();
    assert_eq!(written.sequence, 1);
    network.heal_all();
    assert_eq!(agree(&[again, streams[1].clone()]).await.len(), 6, "both lines are kept");
}

async fn ahead(network: &MemoryNetwork, store: MemoryStore, name: &str, by: Duration) -> Coordinator {
    let timer = AheadBy(SystemTimer::new(), by);
    let builder = Coordinator::builder(store).port(network.port(name)).timer(timer).config(quick());
    builder.start().await.unwrap()
}

async fn shared(node: &Coordinator, members: &[NodeId]) -> EventStream {
    let channel = node.channel("notes").await.unwrap();
    for member in members {
        channel.add_member(*member).await.unwrap();
    }
    channel.stream("today").await.unwrap()
}

#[tokio::test]
async fn i4_a_clock_ten_years_ahead_leads_nobody_else_astray() {
    let network = MemoryNetwork::new();
    let store = MemoryStore::ephemeral().unwrap();
    let fast = ahead(&network, store.clone(), "fast", TEN_YEARS).await;
    let ben = Device::new(&network, "ben").await;
    let members = [fast.node(), ben.node()];
    let streams = [shared(&fast, &members).await, shared(&ben, &members).await];
    let mut faults = ben.errors();
    fast.meet("ben").await.unwrap();
    streams[0].append("from the future").await.unwrap();
    agree(&streams).await;
    let ahead_by = |fault: &Fault| matches!(fault, Fault::ClockAhead { author, by } if *author == fast.node() && *by > TEN_YEARS / 2);
    next_where(&mut faults, "a report of the clock", ahead_by).await;
    // Whoever has a right clock sorts after it, and stamps by its own clock.
    streams[1].append("answer").await.unwrap();
    let entries = agree(&streams).await;
    assert_eq!(texts(&entries), ["from the future", "answer"]);
    let wall = SystemTimer::new().wall().to_unix();
    assert!(entries[1].timestamp().to_unix() < wall + Duration::from_secs(3600));
    // Causal order holds on, whoever writes.
    streams[0].append("again").await.unwrap();
    agree(&streams).await;
    streams[1].append("and again").await.unwrap();
    let entries = agree(&streams).await;
    assert_eq!(texts(&entries), ["from the future", "answer", "again", "and again"]);
    // Repaired, the clock leads no more.
    fast.close().await.unwrap();
    let repaired = ahead(&network, store.reopen().unwrap(), "fast", Duration::ZERO).await;
    let stream = shared(&repaired, &members).await;
    repaired.meet("ben").await.unwrap();
    stream.append("repaired").await.unwrap();
    let entries = agree(&[stream, streams[1].clone()]).await;
    assert_eq!(text(&entries[4]), "repaired");
    assert!(entries[4].timestamp().to_unix() < wall + Duration::from_secs(3600));
}

#[tokio::test]
async fn i9_whoever_has_the_wrong_clock_is_told() {
    let network = MemoryNetwork::new();
    let fast = ahead(&network, MemoryStore::ephemeral().unwrap(), "fast", TEN_YEARS).await;
    let ben = Device::new(&network, "ben").await;
    let members = [fast.node(), ben.node()];
    let streams = [shared(&fast, &members).await, shared(&ben, &members).await];
    let mut faults = fast.errors();
    fast.meet("ben").await.unwrap();
    streams[0].append("from the future").await.unwrap();
    let told = |fault: &Fault| matches!(fault, Fault::OwnClockAhead { peer, .. } if *peer == ben.node());
    next_where(&mut faults, "word of the own clock", told).await;
}

#[tokio::test]
async fn i4_stamps_never_go_back_across_restarts_with_a_clock_that_does() {
    let network = MemoryNetwork::new();
    let store = MemoryStore::ephemeral().unwrap();
    let mut stamps = Vec::new();
    for hours in [5, 0, 3, 0] {
        let opened = store.reopen().unwrap_or_else(|_| store.clone());
        let node = ahead(&network, opened, "ana", Duration::from_secs(hours * 3600)).await;
        let stream = shared(&node, &[]).await;
        write(&stream, "x", 3).await;
        stamps = stream.entries(Query::all()).collect().await.unwrap();
        node.close().await.unwrap();
    }
    assert_eq!(stamps.len(), 12);
    assert!(stamps.windows(2).all(|pair| pair[0].timestamp() < pair[1].timestamp()));
    assert!(stamps.iter().map(|entry| entry.sequence()).eq(1..=12));
}

#[tokio::test]
async fn a_subscriber_that_starts_at_a_fork_sees_both_lines_once() {
    let Fork { network, ana: _ana, ben: _ben, streams, common } = fork(4, 4, 4).await;
    network.heal_all();
    agree(&streams).await;
    let since = streams[1].entries(Query::all().since(common)).collect().await.unwrap();
    assert_eq!(since.len(), 8);
    let mut feed = streams[1].subscribe(Cursor::START);
    let mut seen = BTreeSet::new();
    while seen.len() < 12 {
        match tokio::time::timeout(PATIENCE, feed.next()).await.unwrap() {
            Some(Ok(Arrival::Entry { entry, .. })) => assert!(seen.insert(entry.id()), "handed out twice"),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(feed.cursor(), streams[1].version());
    assert_eq!(all(&streams[1]).await.len(), 12);
}

#[tokio::test]
async fn a_cursor_on_one_line_means_the_same_where_another_line_came_first() {
    let Fork { network, ana: _ana, ben: _ben, streams, .. } = fork(10, 4, 4).await;
    // Whoever read here knows the common part and the second line only.
    let cursor = streams[0].version();
    network.heal_all();
    agree(&streams).await;
    for stream in &streams {
        let since = stream.entries(Query::all().since(cursor.clone())).collect().await.unwrap();
        assert_eq!(texts(&since), ["first0", "first1", "first2", "first3"]);
    }
}
