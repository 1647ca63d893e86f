//! Liveness alone over real sockets: a crash is noticed, a return too, and a leave is told.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, in real time")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anabranch::{Identity, Incarnation, Liveness, LivenessHandle, Metadata, NodeId, Status, SwimConfig};
use anabranch_tcp::TcpPort;

/// How long what has to happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

type Kept = Arc<Mutex<Incarnation>>;

async fn start(n: u8, address: &str, seed: Option<&str>, kept: &Kept) -> (LivenessHandle, String) {
    // Liveness dials whom it needs: the port need not dial again by itself.
    let port = TcpPort::options().no_redial().bind(address).await.unwrap();
    let address = port.local_addr().unwrap().to_string();
    let mut config = SwimConfig::default();
    config.probe_interval = Duration::from_millis(200);
    config.unreachable_interval_max = Duration::from_secs(1);
    let (last, kept) = (*kept.lock().unwrap(), kept.clone());
    let handle = Liveness::builder(Identity::from_secret([n; 32]))
        .config(config)
        .advertise(address.clone())
        .metadata(Metadata::default().name(&format!("node {n}")))
        .incarnation(last)
        .keep(move |incarnation| {
            *kept.lock().unwrap() = incarnation;
            Ok(())
        })
        .join(seed)
        .spawn(port)
        .unwrap();
    (handle, address)
}

async fn until(by: &LivenessHandle, of: NodeId, status: Status) {
    let seen = async {
        while by.member(of).await.unwrap().is_none_or(|member| member.status != status) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, seen).await;
    assert!(waited.is_ok(), "{of:?} is not {status:?} as {:?} sees it", by.node());
}

#[test]
fn a_crash_a_return_and_a_leave_are_known_over_tcp() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(scenario());
}

async fn scenario() {
    let kept: [Kept; 3] = Default::default();
    let (ana, seed) = start(1, "127.0.0.1:0", None, &kept[0]).await;
    let (ben, _) = start(2, "127.0.0.1:0", Some(&seed), &kept[1]).await;
    let (eve, address) = start(3, "127.0.0.1:0", Some(&seed), &kept[2]).await;
    for (by, of) in [(&ana, &ben), (&ana, &eve), (&ben, &eve), (&eve, &ben)] {
        until(by, of.node(), Status::Alive).await;
    }
    let told = ben.members().await.unwrap().matching(|member| member.metadata.name == "node 3");
    assert!(told.iter().all(|member| member.node == eve.node()));

    let (who, before) = (eve.node(), *kept[2].lock().unwrap());
    // The last handle goes: the driver ends without a goodbye, and its sockets with it.
    drop(eve);
    until(&ana, who, Status::Unreachable).await;
    until(&ben, who, Status::Unreachable).await;

    let (eve, _) = start(3, &address, None, &kept[2]).await;
    until(&ana, who, Status::Alive).await;
    until(&ben, who, Status::Alive).await;
    assert!(eve.incarnation().await.unwrap() > before);

    eve.leave().await.unwrap();
    until(&ana, who, Status::Left).await;
    until(&ben, who, Status::Left).await;
    let stats = ana.stats().await.unwrap();
    assert!(stats.known_nodes == 2 && stats.online_nodes == 1 && stats.last_tick.is_some(), "{stats:?}");
}
