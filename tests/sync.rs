//! Devices that meet end with the same entries in the same order, whoever met whom, and when.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use anabranch::protocol::wire::{ChannelRef, Message};
use anabranch::{
    AppendError, AppendRefusal, Config, Event, Explanation, Fault, Identity, MemoryNetwork, NodeId,
    NodeState, Query, Refusal, StreamId,
};
use common::mallory::Mallory;
use common::{
    Device, PATIENCE, agree, all, converge, devices, eventually, next_where, quick, quiescent, share,
    stream_of, text, texts, write,
};

#[tokio::test]
async fn i3_two_devices_that_meet_hold_the_same_in_the_same_order() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    for n in 0..100 {
        streams[0].append(format!("a{n}")).await.unwrap();
        streams[1].append(format!("b{n}")).await.unwrap();
    }
    ana.meet_device(&ben).await;
    converge(&streams).await;
    streams[0].append("live").await.unwrap();
    assert_eq!(agree(&streams).await.len(), 201);
}

#[tokio::test]
async fn i3_entries_travel_along_a_chain() {
    let network = MemoryNetwork::new();
    let chain = devices(&network, ["a", "b", "c", "d", "e"]).await;
    let streams = share(&chain.each_ref()).await;
    for (at, stream) in streams.iter().enumerate() {
        write(stream, &format!("{at}-"), 10).await;
    }
    for pair in chain.windows(2) {
        pair[0].meet_device(&pair[1]).await;
    }
    assert_eq!(agree(&streams).await.len(), 50);
    streams[4].append("from the far end").await.unwrap();
    assert_eq!(text(agree(&streams).await.last().unwrap()), "from the far end");
}

#[tokio::test]
async fn i3_a_star_agrees_through_its_centre() {
    let network = MemoryNetwork::new();
    let star = devices(&network, ["centre", "a", "b", "c", "d", "e"]).await;
    let streams = share(&star.each_ref()).await;
    for (leaf, stream) in star[1..].iter().zip(&streams[1..]) {
        leaf.meet_device(&star[0]).await;
        write(stream, &leaf.name, 20).await;
    }
    assert_eq!(agree(&streams).await.len(), 100);
}

#[tokio::test]
async fn i3_a_ring_in_which_all_write_at_once_agrees() {
    let network = MemoryNetwork::new();
    let ring = devices(&network, ["a", "b", "c", "d", "e"]).await;
    let streams = share(&ring.each_ref()).await;
    for at in 0..ring.len() {
        ring[at].meet_device(&ring[(at + 1) % ring.len()]).await;
    }
    for n in 0..20 {
        for stream in &streams {
            stream.append(format!("round {n}")).await.unwrap();
        }
    }
    assert_eq!(agree(&streams).await.len(), 100);
}

#[tokio::test]
async fn i3_what_was_written_after_reading_sorts_after_it() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    for n in 0..20 {
        streams[n % 2].append(format!("{n:02}")).await.unwrap();
        converge(&streams).await;
    }
    let expected: Vec<String> = (0..20).map(|n| format!("{n:02}")).collect();
    assert_eq!(texts(&agree(&streams).await), expected);
}

#[tokio::test]
async fn i3_two_halves_write_on_while_parted_and_agree_when_healed() {
    let network = MemoryNetwork::new();
    let four = devices(&network, ["a", "b", "c", "d"]).await;
    let streams = share(&four.each_ref()).await;
    for pair in four.windows(2) {
        pair[0].meet_device(&pair[1]).await;
    }
    write(&streams[0], "before", 5).await;
    converge(&streams).await;
    network.partition_and_disconnect("b", "c");
    for (at, stream) in streams.iter().enumerate() {
        write(stream, &format!("apart{at}-"), 10).await;
    }
    let both = BTreeSet::from([four[0].node(), four[1].node()]);
    converge(&streams[..2]).await;
    converge(&streams[2..]).await;
    let here = all(&streams[0]).await;
    assert_eq!(here.len(), 25);
    assert!(here.iter().all(|entry| both.contains(&entry.author())));
    network.heal_all();
    assert_eq!(agree(&streams).await.len(), 45);
}

#[tokio::test]
async fn a_silent_partition_is_noticed_and_survived() {
    let network = MemoryNetwork::new();
    let mut config = quick();
    config.probe_interval = Duration::from_millis(50);
    config.probe_failures = 3;
    let ana = Device::with(&network, "ana", config.clone()).await;
    let ben = Device::with(&network, "ben", config).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    write(&streams[0], "a", 1).await;
    converge(&streams).await;
    let mut events = ben.events();
    network.partition("ana", "ben");
    let lost = |event: &Event| matches!(event, Event::PeerReachable(_, false));
    next_where(&mut events, "the loss of a silent peer", lost).await;
    write(&streams[0], "a-apart", 3).await;
    write(&streams[1], "b-apart", 3).await;
    network.heal_all();
    assert_eq!(agree(&streams).await.len(), 7);
}

#[tokio::test]
async fn a_device_that_was_offline_for_long_catches_up_both_ways() {
    let network = MemoryNetwork::new();
    let [ana, ben, cleo] = devices(&network, ["ana", "ben", "cleo"]).await;
    let streams = share(&[&ana, &ben, &cleo]).await;
    ana.meet_device(&ben).await;
    cleo.meet_device(&ana).await;
    write(&streams[2], "before", 3).await;
    converge(&streams).await;
    cleo.stop().await.unwrap();
    for round in 0..20 {
        for (at, stream) in streams.iter().enumerate() {
            let batch: Vec<String> = (0..100).map(|n| format!("{at}-{round}-{n}")).collect();
            stream.append_batch(batch).await.unwrap();
        }
    }
    converge(&streams[..2]).await;
    assert_eq!(streams[2].len(), 2003);
    cleo.start().await.unwrap();
    assert_eq!(agree(&streams).await.len(), 6003);
}

#[tokio::test]
async fn a_stream_that_appears_late_is_learned_with_everything_in_it() {
    let network = MemoryNetwork::new();
    let [ana, ben, cleo] = devices(&network, ["ana", "ben", "cleo"]).await;
    let streams = share(&[&ana, &ben, &cleo]).await;
    ana.meet_device(&ben).await;
    ben.meet_device(&cleo).await;
    write(&streams[0], "a", 1).await;
    converge(&streams).await;
    let mut events = cleo.events();
    let late = ana.channel("notes").await.unwrap().stream("late").await.unwrap();
    write(&late, "late", 300).await;
    let channel = cleo.channel("notes").await.unwrap();
    let id = StreamId::new("late").unwrap();
    next_where(&mut events, "the new stream", |event| {
        *event == Event::StreamCreated(channel.id(), id.clone())
    })
    .await;
    let there = channel.get_stream(&id).unwrap();
    assert_eq!(agree(&[late, there.clone()]).await.len(), 300);
    let names: Vec<String> = channel.streams().iter().map(|stream| stream.id().to_string()).collect();
    assert_eq!(names, ["late", "today"]);
    // Whoever learned a stream writes in it like everybody else.
    there.append("answer").await.unwrap();
    eventually("the answer", async || {
        ana.channel("notes").await.unwrap().get_stream(&id).unwrap().len() == 301
    })
    .await;
}

#[tokio::test]
async fn i9_a_node_that_learns_no_streams_says_so_and_syncs_the_others() {
    let network = MemoryNetwork::new();
    let mut config = quick();
    config.learn_streams = false;
    let ana = Device::new(&network, "ana").await;
    let ben = Device::with(&network, "ben", config).await;
    let streams = share(&[&ana, &ben]).await;
    let late = ana.channel("notes").await.unwrap().stream("late").await.unwrap();
    let mut faults = ben.errors();
    write(&late, "late", 3).await;
    ana.meet_device(&ben).await;
    let refused =
        next_where(&mut faults, "a refusal", |fault| matches!(fault, Fault::RunRefused { .. })).await;
    assert!(matches!(refused, Fault::RunRefused { reason: Refusal::UnknownStream, .. }), "{refused:?}");
    write(&streams[0], "today", 3).await;
    assert_eq!(agree(&streams).await.len(), 3);
    let explained = ana.explain(&ben.node(), &late).await.unwrap();
    assert_eq!(explained, Explanation::Parked);
    let channel = ben.channel("notes").await.unwrap();
    assert_eq!(channel.streams().len(), 1);
    // Once the application creates it, it is taken.
    let wanted = channel.stream("late").await.unwrap();
    assert_eq!(agree(&[late, wanted]).await.len(), 3);
}

#[tokio::test]
async fn i7_a_device_that_restarts_again_and_again_still_gets_everything() {
    let network = MemoryNetwork::new();
    let [ana, mut ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    let batch: Vec<Vec<u8>> =
        (0..4000u32).map(|n| [n.to_le_bytes().to_vec(), vec![7; 500]].concat()).collect();
    streams[0].append_batch(batch).await.unwrap();
    let mut written = 0;
    for round in 0..8 {
        ben.meet_device(&ana).await;
        let own = ben.today([ana.node()]).await;
        own.append(format!("b{round}")).await.unwrap();
        written += 1;
        let held = own.len();
        // At a different point of the transfer each time: closed in order, or as by a power cut.
        for _ in 0..round * 50 {
            tokio::task::yield_now().await;
        }
        ben = if round % 2 == 0 { ben.restart().await } else { ben.crash().await };
        let again = ben.today([ana.node()]).await;
        assert!(again.len() >= held, "what was held is held after a restart");
        assert_eq!(again.entries(Query::all().by(ben.node())).collect().await.unwrap().len(), written);
    }
    ben.meet_device(&ana).await;
    let there = ben.today([ana.node()]).await;
    assert_eq!(agree(&[streams[0].clone(), there]).await.len(), 4000 + written);
}

#[tokio::test]
async fn a_restarted_device_dials_its_peers_by_itself() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    write(&streams[0], "a", 3).await;
    converge(&streams).await;
    let ana = ana.restart().await;
    let again = ana.today([ben.node()]).await;
    again.append("after").await.unwrap();
    assert_eq!(agree(&[again, streams[1].clone()]).await.len(), 4);
}

#[tokio::test]
async fn a_paused_node_serves_and_accepts_nothing_until_it_resumes() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    write(&streams[0], "before", 1).await;
    converge(&streams).await;
    ben.pause().await.unwrap();
    assert_eq!(ben.state(), NodeState::Paused);
    write(&streams[0], "missed", 5).await;
    write(&streams[1], "served", 5).await;
    eventually("what the paused node wrote", async || streams[0].len() == 11).await;
    assert_eq!(streams[1].len(), 6, "a paused node took something");
    ben.resume().await.unwrap();
    assert_eq!(agree(&streams).await.len(), 11);
}

#[tokio::test]
async fn a_stopped_node_is_used_on_and_syncs_when_it_starts() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    write(&streams[0], "a", 1).await;
    converge(&streams).await;
    ben.stop().await.unwrap();
    assert!(matches!(ben.meet("ana").await, Err(anabranch::MeetError::Stopped)));
    eventually("the peer to notice", async || ana.reachable_peers().is_empty()).await;
    write(&streams[0], "a-apart", 3).await;
    write(&streams[1], "b-apart", 3).await;
    assert_eq!((streams[0].len(), streams[1].len()), (4, 4));
    ben.start().await.unwrap();
    assert_eq!(agree(&streams).await.len(), 7);
}

#[tokio::test]
async fn i7_thousands_of_streams_are_learned_and_kept_up_to_date() {
    const STREAMS: usize = 2000;
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    share(&[&ana, &ben]).await;
    let (here, there) = (ana.channel("notes").await.unwrap(), ben.channel("notes").await.unwrap());
    for n in 0..STREAMS {
        let stream = here.stream(&*format!("stream {n}")).await.unwrap();
        stream.append(format!("{n}")).await.unwrap();
    }
    ana.meet_device(&ben).await;
    let held = async |count: u64| {
        eventually("all entries", async || ben.resource_usage().entries == count).await;
    };
    held(STREAMS as u64).await;
    quiescent(&ben).await;
    // One changed stream among thousands.
    let one = StreamId::new("stream 1234").unwrap();
    here.get_stream(&one).unwrap().append("more").await.unwrap();
    held(STREAMS as u64 + 1).await;
    let other = there.get_stream(&one).unwrap();
    assert_eq!(texts(&all(&other).await), ["1234", "more"]);
    // All changed while apart, on both sides.
    ben.stop().await.unwrap();
    for channel in [&here, &there] {
        for n in 0..STREAMS / 4 {
            let id = StreamId::new(&format!("stream {n}")).unwrap();
            channel.get_stream(&id).unwrap().append("apart").await.unwrap();
        }
    }
    ben.start().await.unwrap();
    let total = (STREAMS + 1 + STREAMS / 2) as u64;
    held(total).await;
    eventually("all entries back", async || ana.resource_usage().entries == total).await;
}

#[tokio::test]
async fn payloads_up_to_the_cap_travel_whole_and_larger_ones_are_refused() {
    const CAP: usize = 16 << 20;
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    let large: Vec<u8> = (0..CAP).map(|n| ((n * 31) >> 3) as u8).collect();
    streams[0].append(large.clone()).await.unwrap();
    streams[0].append("small").await.unwrap();
    match streams[0].append(vec![0; CAP + 1]).await {
        Err(AppendError::Unchanged(AppendRefusal::PayloadTooLarge { len, max })) => {
            assert_eq!((len, max), (CAP + 1, CAP));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(streams[0].len(), 2);
    ana.meet_device(&ben).await;
    let entries = agree(&streams).await;
    assert!(entries[0].payload()[..] == large[..] && text(&entries[1]) == "small");
    // One while connected.
    streams[1].append(large[..1 << 20].to_vec()).await.unwrap();
    assert_eq!(agree(&streams).await.len(), 3);
}

#[tokio::test]
async fn channels_with_the_same_name_and_different_secrets_never_mix() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let shared = share(&[&ana, &ben]).await;
    let mut apart = Vec::new();
    for (device, secret) in [(&ana, b"ours"), (&ben, b"hers")] {
        let spec = anabranch::ChannelSpec::secret("notes", secret).unwrap();
        let channel = device.channel(spec).await.unwrap();
        channel.open_to_all().await.unwrap();
        apart.push(channel.stream("today").await.unwrap());
    }
    write(&apart[0], "ours", 2).await;
    write(&apart[1], "hers", 3).await;
    ana.meet_device(&ben).await;
    write(&shared[0], "a", 1).await;
    converge(&shared).await;
    quiescent(&ana).await;
    assert_eq!((apart[0].len(), apart[1].len()), (2, 3));
}

#[tokio::test]
async fn entries_are_merged_once_however_many_ways_they_come() {
    let network = MemoryNetwork::new();
    let mesh = devices(&network, ["a", "b", "c", "d"]).await;
    let streams = share(&mesh.each_ref()).await;
    for (at, one) in mesh.iter().enumerate() {
        for other in &mesh[at + 1..] {
            one.meet_device(other).await;
        }
    }
    write(&streams[0], "a", 50).await;
    assert_eq!(agree(&streams).await.len(), 50);
    for (device, stream) in mesh.iter().zip(&streams) {
        assert_eq!(device.resource_usage().entries, 50);
        let authors: BTreeSet<NodeId> = all(stream).await.iter().map(anabranch::LogEntry::author).collect();
        assert_eq!(authors, BTreeSet::from([mesh[0].node()]));
    }
    assert!(mesh[1..].iter().all(|device| device.metrics().entries_merged == 50));
}

#[tokio::test]
async fn i7_a_payload_above_the_cap_of_the_receiver_is_refused_and_stops_nothing_else() {
    let network = MemoryNetwork::new();
    let mut config = quick();
    config.max_payload = 1000;
    let ana = Device::new(&network, "ana").await;
    let ben = Device::with(&network, "ben", config).await;
    let streams = share(&[&ana, &ben]).await;
    let (mut faults, mut own_faults) = (ben.errors(), ana.errors());
    let channel = ana.channel("notes").await.unwrap();
    // Above the cap; and so far above it that it does not even fit a message to the receiver.
    for (name, len) in [("large", 5000), ("huge", 3 << 20)] {
        channel.stream(name).await.unwrap().append(vec![1; len]).await.unwrap();
    }
    ana.meet_device(&ben).await;
    next_where(&mut faults, "a refusal", |fault| matches!(fault, Fault::RunRefused { .. })).await;
    let too_large = |fault: &Fault| matches!(fault, Fault::TooLargeForPeer { .. });
    next_where(&mut own_faults, "word that it does not fit", too_large).await;
    write(&streams[0], "a", 3).await;
    write(&streams[1], "b", 3).await;
    assert_eq!(agree(&streams).await.len(), 6);
    quiescent(&ana).await;
    quiescent(&ben).await;
    assert_eq!(ben.resource_usage().entries, 6);
}

#[tokio::test]
async fn what_is_under_way_is_explained_as_being_sent() {
    let network = MemoryNetwork::new();
    let mut config = quick();
    // Nobody notices the partition, so what is sent stays under way.
    config.probe_interval = PATIENCE;
    let ana = Device::with(&network, "ana", config.clone()).await;
    let ben = Device::with(&network, "ben", config).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    write(&streams[0], "a", 1).await;
    let other = ana.channel("notes").await.unwrap().stream("other").await.unwrap();
    write(&other, "b", 1).await;
    converge(&streams).await;
    eventually("the other stream", async || ben.resource_usage().entries == 2).await;
    quiescent(&ana).await;
    network.partition("ana", "ben");
    streams[0].append("under way").await.unwrap();
    let sending = Explanation::Sending { entries: 0, in_flight: 1 };
    eventually("it is being sent", async || ana.explain(&ben.node(), &streams[0]).await.unwrap() == sending)
        .await;
    assert_eq!(ana.explain(&ben.node(), &other).await.unwrap(), Explanation::Comparing, "of another stream");
    let status = ana.sync_status().await.unwrap();
    assert!(!status.quiescent && status.peers.len() == 1);
    assert_eq!((status.peers[0].in_flight, status.peers[0].synced), (1, false));
    network.heal_all();
    assert_eq!(agree(&streams).await.len(), 2);
    quiescent(&ana).await;
    assert_eq!(ana.explain(&ben.node(), &streams[0]).await.unwrap(), Explanation::Same);
}

/// Nobody compares but at the start of a session.
fn silent() -> Config {
    let mut config = quick();
    config.gossip_interval = PATIENCE * 10;
    config.gossip_interval_max = PATIENCE * 10;
    config
}

fn identity_where(is_wanted: impl Fn(NodeId) -> bool) -> Identity {
    let mut identities = (1..=u8::MAX).map(|secret| Identity::from_secret([secret; 32]));
    identities.find(|identity| is_wanted(identity.node())).unwrap()
}

#[tokio::test]
async fn who_answered_a_comparison_pushes_what_it_writes_then_without_waiting_for_one_of_its_own() {
    let network = MemoryNetwork::new();
    // No second comparison helps out.
    let ana = Device::with(&network, "ana", silent()).await;
    // The node with the smaller id asks at once; the other only if nothing comes.
    let identity = identity_where(|peer| peer > ana.node.node());
    let stream = ana.today([identity.node()]).await;
    write(&stream, "before", 1).await;
    let mut peer = Mallory::connect(&network, identity, "ana").await;
    let channel = ChannelRef(0);
    peer.share(&ana.channel("notes").await.unwrap().id());
    let asked = |message: &Message| match message {
        Message::Compare { round, .. } => Some(*round),
        _ => None,
    };
    peer.until("a comparison", |peer| peer.heard.iter().any(|message| asked(message).is_some())).await;
    // The peer is too busy to be asked, but asks itself.
    let round = peer.heard.iter().find_map(asked).unwrap();
    peer.say(&Message::Later { channel, round });
    peer.say(&Message::Compare { channel, round: 1, fingerprint: [1; 8], logs: 0, details: None });
    let answer = |message: &Message| matches!(message, Message::Cells { .. } | Message::List { .. });
    peer.until("an answer", |peer| peer.heard.iter().any(answer)).await;
    stream.append("fresh").await.unwrap();
    let fresh = |message: &Message| matches!(message, Message::Run(run) if run.first == 2);
    peer.until("the fresh entry", |peer| peer.heard.iter().any(fresh)).await;
}

#[tokio::test]
async fn devices_that_hold_the_same_know_it_from_what_they_announce() {
    let network = MemoryNetwork::new();
    let ana = Device::with(&network, "ana", silent()).await;
    let ben = Device::with(&network, "ben", silent()).await;
    let cleo = Device::with(&network, "cleo", silent()).await;
    share(&[&ana, &ben, &cleo]).await;
    write(&stream_of(&ana).await, "a", 3).await;
    for (from, to) in [(&ana, &ben), (&ben, &cleo)] {
        from.meet_device(to).await;
        let there = stream_of(to).await;
        eventually("the entries", async || there.len() == 3).await;
        from.node.stop().await.unwrap();
    }
    let metrics = || [&ana, &cleo].map(|device| device.node.metrics());
    let before = metrics();
    ana.node.start().await.unwrap();
    // The two never met.
    ana.meet_device(&cleo).await;
    let more = || {
        metrics().into_iter().zip(&before).map(|(now, then)| {
            (now.comparisons - then.comparisons, now.comparisons_equal - then.comparisons_equal)
        })
    };
    eventually("both know", async || more().all(|(_, equal)| equal == 1)).await;
    assert!(more().all(|(made, _)| made == 0), "nothing was left to compare");
}

#[tokio::test]
async fn an_entry_written_between_announcing_and_hearing_is_not_left_to_the_next_interval() {
    let network = MemoryNetwork::new();
    let ana = Device::with(&network, "ana", silent()).await;
    // The peer with the smaller id would ask, had it not found both equal by what ana announced.
    let identity = identity_where(|peer| peer < ana.node.node());
    let stream = ana.today([identity.node()]).await;
    let mut peer = Mallory::connect(&network, identity, "ana").await;
    let announced = |message: &Message| matches!(message, Message::Share(_));
    peer.until("an announcement", |peer| peer.heard.iter().any(announced)).await;
    write(&stream, "fresh", 1).await;
    peer.share(&ana.channel("notes").await.unwrap().id());
    let asked = |message: &Message| matches!(message, Message::Compare { .. });
    peer.until("a comparison", |peer| peer.heard.iter().any(asked)).await;
}

#[tokio::test]
async fn what_differs_after_a_time_apart_is_sent_once_whoever_asks() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    share(&[&ana, &ben]).await;
    let (ana_notes, ben_notes) = (ana.channel("notes").await.unwrap(), ben.channel("notes").await.unwrap());
    let both = |at: usize| {
        let (ana_notes, ben_notes) = (ana_notes.clone(), ben_notes.clone());
        async move {
            let name = format!("s{at}");
            [ana_notes.stream(name.as_str()).await.unwrap(), ben_notes.stream(name.as_str()).await.unwrap()]
        }
    };
    for at in 0..30 {
        for stream in both(at).await {
            stream.append("first").await.unwrap();
        }
    }
    ana.meet_device(&ben).await;
    for at in 0..30 {
        converge(&both(at).await).await;
    }
    for round in 0..4 {
        network.partition_and_disconnect("ana", "ben");
        let before = ana.metrics().entries_merged + ben.metrics().entries_merged;
        // Whoever asks is ahead in one round and behind in the next.
        for at in [3, 9, 21] {
            both(at).await[round % 2].append(format!("{round}")).await.unwrap();
        }
        network.heal_all();
        for at in 0..30 {
            converge(&both(at).await).await;
        }
        assert_eq!(ana.metrics().entries_merged + ben.metrics().entries_merged, before + 3);
    }
    for node in [&ana, &ben] {
        let metrics = node.metrics();
        assert_eq!((metrics.runs_gap, metrics.runs_duplicate), (0, 0), "{metrics:?}");
    }
}
