//! Who is let in, to the node and to a channel, and what becomes of those who are not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use anabranch::{
    AcceptPeers, Admission, AppendError, AppendRefusal, Config, Cursor, Event, Fault, MemoryNetwork,
    NodeError, Refusal,
};
use common::{
    Device, PATIENCE, agree, all, converge, devices, eventually, next_where, quick, quiescent, share, text,
    write,
};

fn accepting(accept: AcceptPeers) -> Config {
    let mut config = quick();
    config.accept_peers = accept;
    config
}

#[tokio::test]
async fn i9_a_stranger_is_turned_away_and_gets_nothing() {
    let network = MemoryNetwork::new();
    let [ana, eve] = devices(&network, ["ana", "eve"]).await;
    let stream = ana.today([]).await;
    write(&stream, "private", 5).await;
    let theirs = eve.today([ana.node()]).await;
    write(&theirs, "unwanted", 5).await;
    let mut faults = ana.errors();
    // Whether the meeting seems to succeed before the other side hangs up is a matter of timing.
    let _ = eve.meet("ana").await;
    let refused =
        next_where(&mut faults, "a refusal", |fault| matches!(fault, Fault::StrangerRefused(_))).await;
    assert_eq!(refused, Fault::StrangerRefused(eve.node()));
    for _ in 0..3 {
        let _ = eve.meet("ana").await;
    }
    eventually("all refusals", async || ana.metrics().strangers_refused >= 4).await;
    assert!(ana.peers().is_empty());
    assert_eq!((stream.len(), theirs.len()), (5, 5));
}

#[tokio::test]
async fn a_member_of_any_channel_is_accepted_without_being_known() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    ben.meet_device(&ana).await;
    write(&streams[1], "b", 1).await;
    converge(&streams).await;
    assert_eq!(ana.peers().len(), 1);
    assert_eq!(ana.channels_for_peer(&ben.node()).len(), 1);
}

#[tokio::test]
async fn a_node_that_accepts_known_peers_turns_away_members_that_it_does_not_know() {
    let network = MemoryNetwork::new();
    let ana = Device::with(&network, "ana", accepting(AcceptPeers::Known)).await;
    let ben = Device::new(&network, "ben").await;
    let streams = share(&[&ana, &ben]).await;
    write(&streams[0], "a", 3).await;
    let mut faults = ana.errors();
    let _ = ben.meet("ana").await;
    next_where(&mut faults, "a refusal", |fault| *fault == Fault::StrangerRefused(ben.node())).await;
    assert_eq!(streams[1].len(), 0);
    ana.add_peer(ben.node(), "Ben").await.unwrap();
    ben.meet_device(&ana).await;
    assert_eq!(agree(&streams).await.len(), 3);
    // Known once, known after a restart.
    ben.close().await.unwrap();
    let ana = ana.restart().await;
    assert_eq!(ana.peer(&ben.node()).unwrap().label, "Ben");
}

#[tokio::test]
async fn a_node_that_accepts_anyone_shows_a_stranger_only_open_channels() {
    let network = MemoryNetwork::new();
    let ana = Device::with(&network, "ana", accepting(AcceptPeers::Anyone)).await;
    let eve = Device::new(&network, "eve").await;
    let private = ana.today([]).await;
    write(&private, "private", 3).await;
    let public = ana.channel("news").await.unwrap();
    public.open_to_all().await.unwrap();
    let here = public.stream("today").await.unwrap();
    write(&here, "news", 3).await;
    let theirs = eve.today([ana.node()]).await;
    let there = eve.channel("news").await.unwrap();
    there.add_member(ana.node()).await.unwrap();
    let there = there.stream("today").await.unwrap();
    eve.meet_device(&ana).await;
    assert_eq!(agree(&[here.clone(), there.clone()]).await.len(), 3);
    there.append("comment").await.unwrap();
    assert_eq!(agree(&[here, there]).await.len(), 4);
    quiescent(&ana).await;
    assert_eq!(theirs.len(), 0);
}

#[tokio::test]
async fn whoever_does_not_know_a_secret_channel_gets_nothing_of_it() {
    let network = MemoryNetwork::new();
    let ana = Device::with(&network, "ana", accepting(AcceptPeers::Anyone)).await;
    let eve = Device::with(&network, "eve", accepting(AcceptPeers::Anyone)).await;
    let spec = |secret: &[u8]| anabranch::ChannelSpec::secret("plans", secret).unwrap();
    let ours = ana.channel(spec(b"right")).await.unwrap();
    ours.open_to_all().await.unwrap();
    write(&ours.stream("s").await.unwrap(), "plan", 3).await;
    let wrong = eve.channel(spec(b"wrong")).await.unwrap();
    wrong.open_to_all().await.unwrap();
    eve.meet_device(&ana).await;
    let shared = share(&[&ana, &eve]).await;
    write(&shared[0], "a", 1).await;
    converge(&shared).await;
    assert!(wrong.streams().is_empty());
    let right = eve.channel(spec(b"right")).await.unwrap();
    right.open_to_all().await.unwrap();
    eventually("the stream", async || right.streams().iter().any(|stream| stream.len() == 3)).await;
}

#[tokio::test]
async fn i5_entries_of_an_author_who_is_not_admitted_are_not_taken_from_anybody() {
    let network = MemoryNetwork::new();
    let [ana, ben, eve] = devices(&network, ["ana", "ben", "eve"]).await;
    // Ben admits eve, ana does not.
    let at_ben = ben.today([ana.node(), eve.node()]).await;
    let at_ana = ana.today([ben.node()]).await;
    let at_eve = eve.today([ben.node()]).await;
    eve.meet_device(&ben).await;
    write(&at_eve, "eve", 3).await;
    converge(&[at_ben.clone(), at_eve]).await;
    let mut faults = ana.errors();
    ana.meet_device(&ben).await;
    let refused =
        next_where(&mut faults, "a refusal", |fault| matches!(fault, Fault::RunRefused { .. })).await;
    match refused {
        Fault::RunRefused { peer, author, reason, .. } => {
            assert_eq!((peer, author, reason), (ben.node(), eve.node(), Refusal::NotAdmitted));
        }
        _ => unreachable!(),
    }
    write(&at_ben, "ben", 2).await;
    eventually("the entries of the one admitted", async || at_ana.len() == 2).await;
    assert!(all(&at_ana).await.iter().all(|entry| entry.author() == ben.node()));
    // The rest is equal, and stays quiet.
    quiescent(&ana).await;
    // Once admitted, the author's entries come.
    ana.channel("notes").await.unwrap().add_member(eve.node()).await.unwrap();
    eventually("the entries of the one admitted later", async || at_ana.len() == 5).await;
}

#[tokio::test]
async fn a_removed_member_is_served_no_more_and_its_new_entries_are_not_taken() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    write(&streams[0], "a", 2).await;
    write(&streams[1], "b", 2).await;
    assert_eq!(agree(&streams).await.len(), 4);
    let channel = ana.channel("notes").await.unwrap();
    let mut events = ana.events();
    channel.remove_member(&ben.node()).await.unwrap();
    let removed = Event::MemberRemoved(channel.id(), ben.node());
    next_where(&mut events, "the removal", |event| *event == removed).await;
    assert!(!channel.members().unwrap().contains(&ben.node()));
    write(&streams[0], "a-after", 2).await;
    write(&streams[1], "b-after", 2).await;
    // A channel that both still share shows that the two talk on.
    let mut other = Vec::new();
    for device in [&ana, &ben] {
        let channel = device.channel("other").await.unwrap();
        channel.open_to_all().await.unwrap();
        other.push(channel.stream("s").await.unwrap());
    }
    write(&other[0], "x", 1).await;
    converge(&other).await;
    assert_eq!((streams[0].len(), streams[1].len()), (6, 6));
    assert!(all(&streams[0]).await.iter().all(|entry| !text(entry).starts_with("b-after")));
    // Let in again, it catches up.
    channel.add_member(ben.node()).await.unwrap();
    assert_eq!(agree(&streams).await.len(), 8);
    assert!(matches!(channel.remove_member(&ana.node()).await, Err(NodeError::OwnNode)));
}

#[tokio::test]
async fn a_removed_channel_is_gone_here_only_and_comes_back_when_it_is_opened_again() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    write(&streams[0], "a", 4).await;
    write(&streams[1], "b", 4).await;
    agree(&streams).await;
    let channel = ben.channel("notes").await.unwrap();
    assert!(ben.remove_channel(&channel.id()).await.unwrap());
    assert!(!ben.remove_channel(&channel.id()).await.unwrap());
    assert!(ben.get_channel(&channel.id()).is_none() && ben.channels().is_empty());
    let late = streams[1].append("late").await;
    assert!(matches!(late, Err(AppendError::Unchanged(AppendRefusal::ChannelRemoved))));
    assert!(matches!(channel.stream("more").await, Err(NodeError::ChannelRemoved)));
    assert!(matches!(channel.add_member(ana.node()).await, Err(NodeError::ChannelRemoved)));
    assert!(streams[1].subscribe(Cursor::START).next().await.is_none());
    write(&streams[0], "a-alone", 2).await;
    assert_eq!(streams[0].len(), 10);
    let again = ben.today([ana.node()]).await;
    assert_eq!(agree(&[streams[0].clone(), again]).await.len(), 10);
}

#[tokio::test]
async fn the_admission_of_a_channel_outlasts_a_restart() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    ana.today([ben.node()]).await;
    let open = ana.channel("open").await.unwrap();
    open.open_to_all().await.unwrap();
    assert_eq!((open.label(), open.members()), ("open".to_owned(), None));
    let ana = ana.restart().await;
    let listed = ana.channel("notes").await.unwrap().members().unwrap();
    assert!(listed.contains(&ana.node()) && listed.contains(&ben.node()) && listed.len() == 2);
    assert_eq!(ana.channel("open").await.unwrap().admission(), Admission::Open);
    assert_eq!(ana.channels().len(), 2);
    assert_eq!(ana.channel("new").await.unwrap().members().unwrap().len(), 1, "only the own node");
}

#[tokio::test]
async fn a_channel_created_while_connected_is_shared_at_once() {
    let network = MemoryNetwork::new();
    let [ana, ben] = devices(&network, ["ana", "ben"]).await;
    share(&[&ana, &ben]).await;
    ana.meet_device(&ben).await;
    let mut synced = ana.events();
    let mut streams = Vec::new();
    for device in [&ana, &ben] {
        let channel = device.channel("later").await.unwrap();
        for node in [ana.node(), ben.node()] {
            channel.add_member(node).await.unwrap();
        }
        streams.push(channel.stream("s").await.unwrap());
        streams.last().unwrap().append(device.name.clone()).await.unwrap();
    }
    assert_eq!(agree(&streams).await.len(), 2);
    let event = Event::Synced(streams[0].channel_id(), ben.node());
    let wait = next_where(&mut synced, "both are equal", |news| *news == event);
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}
