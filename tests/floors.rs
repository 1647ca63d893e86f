//! Floors: what a node decided to be done with does not come back, and nobody is bothered by that.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use anabranch::application::ports::{EntryRepository as _, WriteBatch, WriteOp};
use anabranch::{Coordinator, Fault, MemoryNetwork, NodeId, Store as _};
use common::{
    Device, agree, all, converge, devices, eventually, quiescent, rash, share, stream_of, texts, write,
};
use futures::{FutureExt as _, StreamExt as _};

/// Closes the device, raises the floor of its log of `author`, and opens it again.
async fn with_floor(device: Device, network: &MemoryNetwork, author: NodeId, floor: u64) -> Device {
    device.close().await.unwrap();
    let store = device.store.reopen().unwrap();
    let logs = store.logs().await.unwrap();
    let log = logs.iter().find(|log| log.name.author == author).unwrap().no;
    store.submit(WriteBatch::new([WriteOp::RaiseFloor(log, floor)])).durable().await.unwrap();
    store.close().await.unwrap();
    Device::on(store.reopen().unwrap(), network, &device.name, rash()).await
}

/// Waits for some comparisons of both and checks that they find the nodes equal and move no entry (I8).
async fn stays_quiet(nodes: [&Coordinator; 2]) {
    let sum = |of: fn(&Coordinator) -> u64| nodes.iter().map(|node| of(node)).sum::<u64>();
    let equal = || sum(|node| node.metrics().comparisons_equal);
    let runs = || sum(|node| node.metrics().run_bytes_sent);
    for node in nodes {
        quiescent(node).await;
    }
    let (before, sent) = (equal(), runs());
    eventually("a few more comparisons", async || equal() >= before + 5).await;
    assert_eq!(runs(), sent, "entries were sent again");
}

#[tokio::test]
async fn i7_a_floor_at_or_below_the_tip_holds_nothing_up() {
    let network = MemoryNetwork::new();
    let [ana, mut ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    write(&streams[0], "old", 10).await;
    converge(&streams).await;
    for (floor, count) in [(4, 10), (10, 20), (20, 30)] {
        ben = with_floor(ben, &network, ana.node(), floor).await;
        ana.meet_device(&ben).await;
        let streams = [streams[0].clone(), stream_of(&ben).await];
        assert_eq!(agree(&streams).await.len(), count, "what was held stays readable");
        write(&streams[0], "new", 10).await;
        assert_eq!(agree(&streams).await.len(), count + 10);
        stays_quiet([&ana, &ben]).await;
        assert_eq!(ben.metrics().runs_refused, 0);
    }
}

#[tokio::test]
async fn i4_i8_what_lies_below_a_floor_is_not_taken_and_the_two_are_quiet_about_it() {
    // Ana goes on from a backup: below the floor, it would be a second line; above it, it is one.
    for (floor, tips) in [(8, 1), (5, 2), (4, 2)] {
        let network = MemoryNetwork::new();
        let [ana, ben] = devices(&network, ["ana", "ben"]).await;
        let streams = share(&[&ana, &ben]).await;
        let author = ana.node();
        ana.meet_device(&ben).await;
        write(&streams[0], "common", 5).await;
        converge(&streams).await;
        let backup = ana.store.backup();
        write(&streams[0], "first", 5).await;
        converge(&streams).await;
        ana.close().await.unwrap();
        let ben = with_floor(ben, &network, author, floor).await;
        network.partition_and_disconnect("ana", "ben");
        let ana = Device::on(backup.restore().unwrap(), &network, "ana", rash()).await;
        let again = stream_of(&ana).await;
        write(&again, "second", 10).await;
        let (mut faults, bens) = (ben.errors(), stream_of(&ben).await);
        network.heal_all();
        ana.meet_device(&ben).await;
        stays_quiet([&ana, &ben]).await;
        let held = texts(&all(&bens).await);
        assert_eq!(bens.version().tips(&author).len(), tips, "floor {floor}: {held:?}");
        assert_eq!(held.len(), if tips == 1 { 10 } else { 20 });
        assert_eq!(ben.metrics().runs_refused > 0, tips == 1, "what is refused is counted (I9)");
        while let Some(Some(fault)) = faults.next().now_or_never() {
            assert!(!matches!(fault, Fault::RunRefused { .. }), "nobody is to blame: {fault:?}");
        }
        // The rest goes on: another log of the same stream is not touched.
        bens.append("reply").await.unwrap();
        let node = ben.node();
        eventually("the reply", async || again.version().tips(&node).len() == 1).await;
    }
}

#[tokio::test]
async fn i4_i8_a_floor_above_all_that_is_held_leaves_the_log_out_for_good() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    write(&streams[0], "old", 3).await;
    converge(&streams).await;
    network.partition_and_disconnect("ana", "ben");
    write(&streams[0], "new", 17).await;
    let mut ben = with_floor(ben, &network, ana.node(), 10).await;
    network.heal_all();
    for _ in 0..2 {
        ana.meet_device(&ben).await;
        stays_quiet([&ana, &ben]).await;
        assert_eq!(stream_of(&ben).await.len(), 3, "nothing at or below the floor, and no gap (I2)");
        assert!(ben.metrics().runs_refused > 0);
        ben = ben.restart().await;
    }
}
