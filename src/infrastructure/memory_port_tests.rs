use futures::FutureExt as _;

use super::*;

fn next(port: &MemoryPort) -> Option<PortEvent> {
    port.recv().now_or_never().map(|event| event.expect("the port is open"))
}

fn joined(network: &MemoryNetwork) -> (MemoryPort, MemoryPort, LinkId, LinkId) {
    let (ana, ben) = (network.port("ana"), network.port("ben"));
    let at_ana = ana.connect(&"ben".into()).now_or_never().expect("ready").expect("connected");
    assert_eq!(next(&ana), Some(PortEvent::Up { link: at_ana, proven: None, dialed: true }));
    let Some(PortEvent::Up { link: at_ben, proven: None, dialed: false }) = next(&ben) else {
        panic!("no Up")
    };
    (ana, ben, at_ana, at_ben)
}

#[test]
fn a_frame_is_there_when_try_send_returns() {
    let (ana, ben, at_ana, at_ben) = joined(&MemoryNetwork::new());
    ana.try_send(at_ana, "hello".into(), Priority::Normal).unwrap();
    assert_eq!(next(&ben), Some(PortEvent::Frame { link: at_ben, frame: "hello".into() }));
    assert_eq!((next(&ben), next(&ana)), (None, None));
}

#[test]
fn the_network_vouches_for_nodes_only_where_it_was_told_to() {
    let network = MemoryNetwork::new();
    let node = NodeId::from_bytes([7; 32]);
    let (ana, ben) = (network.proven_port("ana", node), network.port("ben"));
    ben.connect(&ana.address()).now_or_never().unwrap().unwrap();
    assert!(
        matches!(next(&ben), Some(PortEvent::Up { proven: Some(proven), dialed: true, .. }) if proven == node)
    );
    assert!(matches!(next(&ana), Some(PortEvent::Up { proven: None, dialed: false, .. })));
}

#[test]
fn a_port_cannot_send_on_the_link_of_another_one() {
    let (ana, _ben, _, at_ben) = joined(&MemoryNetwork::new());
    assert_eq!(ana.try_send(at_ben, Bytes::new(), Priority::Normal), Err(SendError::LinkDown));
}

#[test]
fn a_partition_that_disconnects_takes_links_down_and_refuses_new_ones_until_healed() {
    let network = MemoryNetwork::new();
    let (ana, ben, at_ana, at_ben) = joined(&network);
    network.partition_and_disconnect("ana", "ben");
    assert!(matches!(next(&ana), Some(PortEvent::Down { link, .. }) if link == at_ana));
    assert!(matches!(next(&ben), Some(PortEvent::Down { link, .. }) if link == at_ben));
    let refused = ana.connect(&"ben".into()).now_or_never();
    assert!(matches!(refused, Some(Err(PortError::Unreachable { .. }))));
    network.heal_all();
    assert!(matches!(ana.connect(&"ben".into()).now_or_never(), Some(Ok(link)) if link != at_ana));
}

#[test]
fn a_silent_partition_holds_frames_of_a_reliable_network_until_it_heals() {
    let network = MemoryNetwork::new();
    let (ana, ben, at_ana, _) = joined(&network);
    network.partition("ana", "ben");
    ana.try_send(at_ana, "later".into(), Priority::Normal).unwrap();
    assert_eq!((next(&ana), next(&ben), network.counters().held), (None, None, 1));
    network.heal("ben", "ana");
    assert!(matches!(next(&ben), Some(PortEvent::Frame { frame, .. }) if frame == "later"));
}

#[test]
fn a_port_of_the_same_name_takes_over_and_the_old_one_is_closed() {
    let network = MemoryNetwork::new();
    let (ana, ben, ..) = joined(&network);
    let reborn = network.port("ana");
    assert!(matches!(ana.recv().now_or_never(), Some(Err(PortError::Closed))));
    assert!(matches!(next(&ben), Some(PortEvent::Down { .. })));
    drop(ana);
    assert!(
        matches!(ben.connect(&reborn.address()).now_or_never(), Some(Ok(_))),
        "the old one closes only itself"
    );
}

#[test]
fn dropping_a_port_takes_its_links_down_behind_its_last_frames() {
    let (ana, ben, at_ana, _) = joined(&MemoryNetwork::new());
    ana.try_send(at_ana, "bye".into(), Priority::Normal).unwrap();
    drop(ana);
    assert!(matches!(next(&ben), Some(PortEvent::Frame { frame, .. }) if frame == "bye"));
    assert!(matches!(next(&ben), Some(PortEvent::Down { .. })));
}

#[test]
fn what_needs_time_is_refused_without_a_timer() {
    let network = MemoryNetwork::new();
    assert_eq!(network.set_profile("ana", "ben", LinkProfile::wifi()), Err(NoTimer));
    assert_eq!(network.flip_flop("ana", "ben", Duration::from_secs(1), Duration::from_secs(1)), Err(NoTimer));
    assert_eq!(network.set_profile("ana", "ben", LinkProfile::perfect()), Ok(()));
}

/// Run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods, reason = "measures real time")]
fn cost_of_a_frame_of_64_kib() {
    const FRAMES: u32 = 1_000_000;
    let (ana, ben, at_ana, _) = joined(&MemoryNetwork::new());
    let frame = Bytes::from(vec![7; 64 << 10]);
    let began = std::time::Instant::now();
    for _ in 0..FRAMES {
        ana.try_send(at_ana, frame.clone(), Priority::Normal).unwrap();
        assert!(matches!(next(&ben), Some(PortEvent::Frame { .. })));
    }
    println!("{:?} per frame", began.elapsed() / FRAMES);
}
