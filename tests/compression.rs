//! Compressed transfer through the facade: it saves, it changes nothing else, and nobody has to take part.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use anabranch::infrastructure::link_profile::{Chance, LinkProfile};
use anabranch::{Config, MemoryNetwork};
use common::{Device, agree, faulty, quick, share};

const ENTRIES: usize = 3_000;

fn compressing(compress: bool) -> Config {
    let mut config = quick();
    config.compress = compress;
    config
}

/// What a note-taking app writes: keys that repeat, words that do not.
fn note(number: usize) -> String {
    format!(
        r#"{{"kind":"note","list":"groceries","number":{number},"text":"item {} of {number}"}}"#,
        number * 7_919 % 1_000
    )
}

/// Two nodes of which one has written; their entries are compared byte by byte. What the writer sent, and what it saved.
async fn catch_up(network: &MemoryNetwork, ana: bool, ben: bool) -> (u64, u64) {
    let ana = Device::with(network, "ana", compressing(ana)).await;
    let ben = Device::with(network, "ben", compressing(ben)).await;
    let streams = share(&[&ana, &ben]).await;
    streams[0].append_batch((0..ENTRIES).map(note)).await.unwrap();
    ana.meet_device(&ben).await;
    assert_eq!(agree(&streams).await.len(), ENTRIES);
    let metrics = ana.metrics();
    (metrics.run_bytes_sent, metrics.run_bytes_saved)
}

#[tokio::test]
async fn i3_text_travels_in_less_than_half_its_bytes_and_arrives_the_same() {
    let (sent, saved) = catch_up(&MemoryNetwork::new(), true, true).await;
    assert!(saved * 2 > sent, "{saved} of {sent} bytes saved");
}

#[tokio::test]
async fn a_peer_that_does_not_want_it_is_sent_plain_runs() {
    for (ana, ben) in [(true, false), (false, true)] {
        assert_eq!(catch_up(&MemoryNetwork::new(), ana, ben).await.1, 0);
    }
}

#[tokio::test]
async fn i7_compressed_runs_survive_loss_and_tiny_frames() {
    let narrow = LinkProfile { max_frame: 512, loss: Chance::new(0.05), ..LinkProfile::perfect() };
    let (sent, saved) = catch_up(&faulty(narrow, 7), true, true).await;
    assert!(saved * 3 > sent, "{saved} of {sent} bytes saved");
}
