//! Devices that meet end with the same entries in the same order.

use std::time::Duration;

use anabranch::{Channel, Coordinator, EventStream, MemoryNetwork, MemoryStore, Query};

async fn node(network: &MemoryNetwork, name: &str) -> Coordinator {
    let store = MemoryStore::ephemeral().unwrap();
    Coordinator::builder(store).port(network.port(name)).start().await.unwrap()
}

async fn shared(nodes: &[&Coordinator]) -> Vec<EventStream> {
    let mut streams = Vec::new();
    for node in nodes {
        let channel: Channel = node.channel("notes").await.unwrap();
        for other in nodes {
            channel.add_member(other.node()).await.unwrap();
        }
        streams.push(channel.stream("today").await.unwrap());
    }
    streams
}

async fn converge(streams: &[EventStream]) {
    for _ in 0..1000 {
        let first = streams[0].version();
        if streams.iter().all(|stream| stream.version() == first) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no convergence: {:#?}", streams.iter().map(|stream| stream.version()).collect::<Vec<_>>());
}

#[tokio::test]
async fn i3_two_devices_that_meet_hold_the_same_in_the_same_order() {
    let network = MemoryNetwork::new();
    let (ana, ben) = (node(&network, "ana").await, node(&network, "ben").await);
    let streams = shared(&[&ana, &ben]).await;
    for n in 0..100 {
        streams[0].append(format!("a{n}")).await.unwrap();
        streams[1].append(format!("b{n}")).await.unwrap();
    }
    assert_eq!(ana.meet("ben").await.unwrap(), ben.node());
    converge(&streams).await;
    streams[0].append("live").await.unwrap();
    converge(&streams).await;
    let ours = streams[0].entries(Query::all()).collect().await.unwrap();
    let theirs = streams[1].entries(Query::all()).collect().await.unwrap();
    assert_eq!(ours.len(), 201);
    assert_eq!(ours, theirs);
    assert!(ours.is_sorted());
}
