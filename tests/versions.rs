//! Devices that were not updated yet, among those that were: they sync, and each is written to in what it reads.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use anabranch::protocol::wire::Message;
use anabranch::{Channel, Config, EventStream, Fault, Identity, MemoryNetwork, MessageVersion};
use common::mallory::{Mallory, first, key};
use common::{Device, agree, next_where, quick, share, stream_of, write};
use futures::{FutureExt as _, StreamExt as _};

/// As a build from before version 2.
fn old() -> Config {
    let mut config = quick();
    config.message_version = MessageVersion::V1;
    config
}

/// A device of today with one entry, and a member in a session with it that is spoken for by hand.
async fn scene() -> (Device, Channel, EventStream, Mallory) {
    let network = MemoryNetwork::new();
    let ana = Device::new(&network, "ana").await;
    let identity = Identity::from_secret([3; 32]);
    let stream = ana.today([identity.node()]).await;
    write(&stream, "own", 1).await;
    let channel = ana.channel("notes").await.unwrap();
    let mut mallory = Mallory::connect(&network, identity, "ana").await;
    mallory.share(&channel.id());
    (ana, channel, stream, mallory)
}

/// Sends an entry, and waits until the node says that it has stored it.
async fn exchange(channel: &Channel, mallory: &mut Mallory) {
    let author = mallory.identity.node();
    let (run, heads) = first(key(&channel.id(), "today", author), &mallory.identity.clone(), "sent");
    mallory.run("today", author, &run, &heads);
    let done = |message: &Message| matches!(message, Message::Done { .. } | Message::DoneHolding { .. });
    mallory.until("an acknowledgement", |mallory| mallory.heard.iter().any(done)).await;
}

fn versions(mallory: &Mallory) -> Vec<u8> {
    let heard = mallory.heard.iter().zip(&mallory.leading);
    heard
        .filter(|(message, _)| !matches!(message, Message::Speaks { .. }))
        .map(|(_, first)| first >> 4)
        .collect()
}

#[tokio::test]
async fn who_says_nothing_of_versions_is_written_to_in_the_first() {
    let (_ana, channel, _stream, mut mallory) = scene().await;
    exchange(&channel, &mut mallory).await;
    assert_eq!(mallory.heard[0], Message::Speaks { oldest: 1, newest: 2 });
    assert!(versions(&mallory).iter().all(|version| *version == 1), "{:?}", mallory.heard);
    assert!(!mallory.heard.iter().any(|message| matches!(message, Message::DoneHolding { .. })));
}

#[tokio::test]
async fn who_reads_more_is_written_to_in_the_newest_version_of_both() {
    let (_ana, channel, _stream, mut mallory) = scene().await;
    mallory.say(&Message::Speaks { oldest: 1, newest: 9 });
    exchange(&channel, &mut mallory).await;
    assert_eq!(versions(&mallory).last(), Some(&2), "{:?}", mallory.heard);
    let told = |message: &Message| matches!(message, Message::DoneHolding { control: 1, .. });
    assert!(mallory.heard.iter().any(told), "{:?}", mallory.heard);
}

#[tokio::test]
async fn i9_a_peer_that_reads_no_version_of_this_node_is_reported_and_harms_nobody() {
    let (ana, channel, _stream, mut mallory) = scene().await;
    let mut faults = ana.errors();
    for _ in 0..3 {
        mallory.say(&Message::Speaks { oldest: 3, newest: 9 });
    }
    exchange(&channel, &mut mallory).await;
    let fault = next_where(&mut faults, "a report", |_| true).await;
    assert_eq!(fault, Fault::UnknownVersion { peer: mallory.identity.node(), version: 3 });
    assert!(faults.next().now_or_never().is_none(), "reported more than once");
    assert!(versions(&mallory).iter().all(|version| *version == 1));
}

#[tokio::test]
async fn i7_devices_of_two_versions_sync_and_relay_for_each_other() {
    let network = MemoryNetwork::new();
    // Each version has to pass on what comes from the other.
    let ana = Device::with(&network, "ana", old()).await;
    let ben = Device::new(&network, "ben").await;
    let cleo = Device::with(&network, "cleo", old()).await;
    let dana = Device::new(&network, "dana").await;
    let streams = share(&[&ana, &ben, &cleo, &dana]).await;
    let mut faults = ana.errors();
    for (stream, name) in streams.iter().zip(["ana", "ben", "cleo", "dana"]) {
        write(stream, name, 50).await;
    }
    ana.meet_device(&ben).await;
    ben.meet_device(&cleo).await;
    cleo.meet_device(&dana).await;
    assert_eq!(agree(&streams).await.len(), 200);
    for stream in &streams {
        write(stream, "more", 5).await;
    }
    assert_eq!(agree(&streams).await.len(), 220);
    // All that an old build makes of a new one.
    let heard = next_where(&mut faults, "a report of what it cannot read", |_| true).await;
    assert_eq!(heard, Fault::UnknownVersion { peer: ben.node(), version: 2 });
    assert_eq!(ben.metrics().messages_bad + dana.metrics().messages_bad, 0);
}

#[tokio::test]
async fn i7_an_update_and_the_way_back_lose_nothing() {
    let network = MemoryNetwork::new();
    let mut ana = Device::with(&network, "ana", old()).await;
    let ben = Device::new(&network, "ben").await;
    let streams = share(&[&ana, &ben]).await;
    write(&streams[0], "before", 10).await;
    ana.meet_device(&ben).await;
    agree(&streams).await;
    for (config, entries) in [(quick(), 20), (old(), 30)] {
        ana.config = config;
        ana = ana.restart().await;
        let stream = stream_of(&ana).await;
        write(&stream, "ana", 5).await;
        write(&streams[1], "ben", 5).await;
        assert_eq!(agree(&[stream, streams[1].clone()]).await.len(), entries);
    }
}
