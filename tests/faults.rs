//! Links that lose, repeat, reorder, damage and cut frames cost time and nothing else.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use anabranch::infrastructure::link_profile::{Chance, Delay, LinkProfile};
use anabranch::{Event, Fault, MemoryNetwork};
use common::{Device, agree, converge, devices, eventually, faulty, next_where, quick, share, write};

/// Two devices that write on both sides, before they meet and while connected, over links of this profile.
async fn converge_over(profile: LinkProfile, seed: u64) -> (MemoryNetwork, [Device; 2]) {
    let network = faulty(profile, seed);
    let devices = devices(&network, ["ana", "ben"]).await;
    let streams = share(&devices.each_ref()).await;
    for stream in &streams {
        let batch: Vec<Vec<u8>> = (0..300u32).map(|n| vec![n as u8; 40 + (n % 60) as usize]).collect();
        stream.append_batch(batch).await.unwrap();
    }
    // A handshake can fail over such links; the next succeeds.
    eventually("a session", async || devices[0].meet("ben").await.is_ok()).await;
    for n in 0..30 {
        streams[n % 2].append(format!("live {n}")).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(agree(&streams).await.len(), 630);
    (network, devices)
}

fn rough() -> LinkProfile {
    LinkProfile {
        delay: Delay::Uniform { min: Duration::from_micros(100), max: Duration::from_millis(2) },
        max_frame: 1200,
        ..LinkProfile::perfect()
    }
}

#[tokio::test]
async fn i7_a_link_that_loses_a_fifth_of_all_frames_still_converges() {
    let profile = LinkProfile { loss: Chance::new(0.2), ..rough() };
    let (network, _devices) = converge_over(profile, 1).await;
    assert!(network.counters().lost > 0, "nothing was lost: the test shows nothing");
}

#[tokio::test]
async fn frames_that_arrive_twice_are_counted_once() {
    let profile = LinkProfile { duplicate: Chance::new(0.5), ..rough() };
    let (network, devices) = converge_over(profile, 2).await;
    assert!(network.counters().duplicated > 0);
    for device in &devices {
        assert_eq!(device.resource_usage().entries, 630);
        assert_eq!(device.metrics().entries_merged, 315);
    }
}

#[tokio::test]
async fn frames_that_overtake_each_other_are_put_in_order() {
    let profile = LinkProfile { reorder: Chance::new(0.4), reorder_by: Duration::from_millis(4), ..rough() };
    let (network, _devices) = converge_over(profile, 3).await;
    assert!(network.counters().reordered > 0);
}

#[tokio::test]
async fn i9_damaged_and_shortened_frames_are_dropped_counted_and_reported() {
    let network = faulty(LinkProfile { corrupt: Chance::new(0.1), truncate: Chance::new(0.1), ..rough() }, 4);
    let devices = devices(&network, ["ana", "ben"]).await;
    let streams = share(&devices.each_ref()).await;
    let mut faults = devices[1].errors();
    write(&streams[0], "some entry that needs a few frames to travel ", 500).await;
    eventually("a session", async || devices[0].meet("ben").await.is_ok()).await;
    assert_eq!(agree(&streams).await.len(), 500);
    // Until the damage hit this side, there is something to say.
    let bad = async || {
        let _ = streams[0].append("more").await;
        devices[1].metrics().frames_bad > 0
    };
    eventually("a damaged frame", bad).await;
    next_where(&mut faults, "a report of it", |fault| matches!(fault, Fault::BadFrame { .. })).await;
    converge(&streams).await;
}

#[tokio::test]
async fn i7_everything_at_once_over_frames_of_512_bytes() {
    let profile = LinkProfile {
        loss: Chance::new(0.05),
        duplicate: Chance::new(0.05),
        corrupt: Chance::new(0.02),
        truncate: Chance::new(0.02),
        reorder: Chance::new(0.1),
        reorder_by: Duration::from_millis(2),
        max_frame: 512,
        ..rough()
    };
    converge_over(profile, 5).await;
}

#[tokio::test]
async fn payloads_of_many_frames_travel_over_frames_of_512_bytes() {
    let network = MemoryNetwork::with_frame_limit(512);
    let devices = devices(&network, ["ana", "ben"]).await;
    let streams = share(&devices.each_ref()).await;
    streams[0].append(vec![1; 300_000]).await.unwrap();
    devices[0].meet_device(&devices[1]).await;
    streams[1].append(vec![2; 100_000]).await.unwrap();
    let entries = agree(&streams).await;
    assert_eq!(entries.iter().map(|entry| entry.payload().len()).collect::<Vec<_>>(), [300_000, 100_000]);
}

#[tokio::test]
async fn a_stream_of_many_authors_travels_over_a_bad_radio() {
    let profile = LinkProfile { loss: Chance::new(0.1), max_frame: 512, ..rough() };
    let network = faulty(profile, 6);
    let devices = devices(&network, ["a", "b", "c", "d"]).await;
    let streams = share(&devices.each_ref()).await;
    for (at, stream) in streams.iter().enumerate() {
        write(stream, &format!("{at}-"), 40).await;
    }
    for pair in devices.windows(2) {
        eventually("a session", async || pair[0].meet(&pair[1].name).await.is_ok()).await;
    }
    assert_eq!(agree(&streams).await.len(), 160);
}

#[tokio::test]
async fn i7_a_link_that_comes_and_goes_gets_everything_across() {
    let network = faulty(rough(), 7);
    let mut config = quick();
    config.probe_interval = Duration::from_millis(60);
    config.probe_failures = 3;
    config.redial_interval_max = Duration::from_millis(500);
    let ana = Device::with(&network, "ana", config.clone()).await;
    let ben = Device::with(&network, "ben", config).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    network.flip_flop("ana", "ben", Duration::from_millis(600), Duration::from_millis(300)).unwrap();
    for round in 0..3 {
        let batch: Vec<Vec<u8>> = (0..10).map(|n| vec![n; 1000]).collect();
        streams[round % 2].append_batch(batch).await.unwrap();
        network.cut("ana", "ben");
        converge(&streams).await;
    }
    assert_eq!(agree(&streams).await.len(), 30);
}

#[tokio::test]
async fn i9_the_loss_and_the_return_of_a_peer_are_events() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    share(&[&ana, &ben]).await;
    let mut events = ana.events();
    ana.meet_device(&ben).await;
    next_where(&mut events, "a new peer", |event| *event == Event::PeerAdded(ben.node())).await;
    next_where(&mut events, "it answers", |event| *event == Event::PeerReachable(ben.node(), true)).await;
    network.partition_and_disconnect("ana", "ben");
    next_where(&mut events, "it is gone", |event| *event == Event::PeerReachable(ben.node(), false)).await;
    assert!(ana.reachable_peers().is_empty() && ana.peers().len() == 1);
    network.heal_all();
    next_where(&mut events, "it is back", |event| *event == Event::PeerReachable(ben.node(), true)).await;
}
