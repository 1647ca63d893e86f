//! Peers that lie, break the protocol or flood: what they send is counted, reported once, and harms nobody.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use anabranch::domain::head::Head;
use anabranch::protocol::wire::{
    ChannelRef, Details, Guess, KeyRef, Message, MessageVersion, RunMessage, RunRef,
};
use anabranch::{
    AppendError, AppendRefusal, Channel, ChannelId, EntryHash, EventStream, Fault, Faults, Identity, LinkId,
    MemoryNetwork, MessagePort as _, NodeId, Priority, Refusal, Timestamp, Tip,
};
use common::mallory::{Mallory, first, key, run};
use common::{Device, agree, all, eventually, next_where, quick, share, texts, write};
use futures::{FutureExt as _, StreamExt as _};

/// A device, a stream in a channel that admits mallory and one more, and mallory in a session with it.
struct Scene {
    network: MemoryNetwork,
    ana: Device,
    channel: Channel,
    stream: EventStream,
    ben: Identity,
    mallory: Mallory,
    faults: Faults,
}

impl Scene {
    async fn new(config: anabranch::Config) -> Self {
        let network = MemoryNetwork::new();
        let ana = Device::with(&network, "ana", config).await;
        let (ben, identity) = (Identity::from_secret([2; 32]), Identity::from_secret([3; 32]));
        let stream = ana.today([ben.node(), identity.node()]).await;
        write(&stream, "own", 1).await;
        let channel = ana.channel("notes").await.unwrap();
        let faults = ana.errors();
        let mut mallory = Mallory::connect(&network, identity, "ana").await;
        mallory.share(&channel.id());
        Self { network, ana, channel, stream, ben, mallory, faults }
    }

    fn id(&self) -> ChannelId {
        self.channel.id()
    }

    /// The node works on: it takes what mallory properly signs, and syncs with an honest device.
    async fn lives_on(mut self) {
        let (author, signer) = (self.mallory.identity.node(), self.mallory.identity.clone());
        let stream = "proper";
        let (run, heads) = first(key(&self.id(), stream, author), &signer, "proper");
        self.mallory.run(stream, author, &run, &heads);
        self.mallory.until("anything", |_| true).await;
        let before = self.ana.resource_usage().entries;
        loop {
            self.mallory.turn().await;
            if self.ana.resource_usage().entries > before || self.mallory.closed {
                break;
            }
        }
        assert!(!self.mallory.closed, "the session did not survive");
        self.serves_others().await;
    }

    async fn serves_others(&self) {
        let cleo = Device::new(&self.network, "cleo").await;
        self.channel.add_member(cleo.node()).await.unwrap();
        let there = cleo.today([self.ana.node(), self.mallory.identity.node(), self.ben.node()]).await;
        there.append("honest").await.unwrap();
        cleo.meet_device(&self.ana).await;
        agree(&[self.stream.clone(), there]).await;
    }
}

#[tokio::test]
async fn i5_a_run_signed_by_somebody_else_is_refused_and_reported_once() {
    let mut scene = Scene::new(quick()).await;
    let author = scene.ben.node();
    let (run, heads) = first(key(&scene.id(), "today", author), &scene.mallory.identity, "forged");
    for _ in 0..3 {
        scene.mallory.run("today", author, &run, &heads);
    }
    scene.mallory.done().await;
    let fault = next_where(&mut scene.faults, "a report", |_| true).await;
    match fault {
        Fault::RunRefused { peer, author: of, reason: Refusal::Invalid(_), .. } => {
            assert_eq!((peer, of), (scene.mallory.identity.node(), author));
        }
        other => panic!("{other:?}"),
    }
    assert!(scene.faults.next().now_or_never().is_none(), "reported more than once");
    assert_eq!(scene.ana.metrics().runs_refused, 3);
    assert_eq!(texts(&all(&scene.stream).await), ["own0"]);
    scene.lives_on().await;
}

#[tokio::test]
async fn i5_a_genuine_entry_is_worthless_in_another_stream_channel_or_place() {
    let mut scene = Scene::new(quick()).await;
    let author = scene.ben.node();
    let other_channel = ChannelId::well_known("other").unwrap();
    // What ben really signed: in another stream, and in another channel.
    for genuine in [key(&scene.id(), "elsewhere", author), key(&other_channel, "today", author)] {
        let (run, heads) = first(genuine, &scene.ben, "genuine");
        scene.mallory.run("today", author, &run, &heads);
    }
    // A head over another place of the same log.
    let log = key(&scene.id(), "today", author);
    let (genuine, _) = first(log, &scene.ben, "genuine");
    let elsewhere = Head::sign(&log, Tip { sequence: 2, ..genuine.tip() }, &scene.ben);
    let moved = Head { tip: genuine.tip(), ..elsewhere };
    scene.mallory.run("today", author, &genuine, &[moved]);
    scene.mallory.done().await;
    assert_eq!(scene.ana.metrics().runs_refused, 3);
    assert_eq!(scene.stream.len(), 1);
    // The genuine one in its place is taken, whoever brings it.
    let (run, heads) = first(log, &scene.ben, "genuine");
    scene.mallory.run("today", author, &run, &heads);
    scene.mallory.done().await;
    assert_eq!(scene.stream.len(), 2);
}

#[tokio::test]
async fn i5_unsigned_and_altered_entries_are_refused() {
    let mut scene = Scene::new(quick()).await;
    let author = scene.ben.node();
    let log = key(&scene.id(), "today", author);
    let (genuine, heads) = first(log, &scene.ben, "genuine");
    scene.mallory.run("today", author, &genuine, &[]);
    let (altered, _) = first(log, &scene.ben, "altered");
    scene.mallory.run("today", author, &altered, &heads);
    // More entries than the head covers.
    let stamps = [(Timestamp::new(0, 1 << 32), "genuine"), (Timestamp::new(0, 2 << 32), "appended")];
    let start = Tip { sequence: 0, hash: EntryHash::ZERO };
    scene.mallory.run("today", author, &run(log, start, &stamps), &heads);
    scene.mallory.done().await;
    assert_eq!(scene.ana.metrics().runs_refused, 3);
    assert_eq!(scene.stream.len(), 1);
    scene.lives_on().await;
}

#[tokio::test]
async fn i9_an_author_who_is_not_admitted_is_parked_and_the_sender_told() {
    let mut scene = Scene::new(quick()).await;
    let eve = Identity::from_secret([9; 32]);
    let log = key(&scene.id(), "today", eve.node());
    let (run, heads) = first(log, &eve, "uninvited");
    scene.mallory.run("today", eve.node(), &run, &heads);
    let parked =
        |message: &Message| matches!(message, Message::Parked { key, .. } if *key == KeyRef::of(&log));
    scene.mallory.until("the parking", |mallory| mallory.heard.iter().any(parked)).await;
    let fault = next_where(&mut scene.faults, "a report", |_| true).await;
    assert!(matches!(fault, Fault::RunRefused { reason: Refusal::NotAdmitted, .. }), "{fault:?}");
    assert_eq!(scene.stream.len(), 1);
    scene.lives_on().await;
}

#[tokio::test]
async fn a_run_that_is_sent_again_is_a_duplicate_and_changes_nothing() {
    let mut scene = Scene::new(quick()).await;
    let author = scene.ben.node();
    let (run, heads) = first(key(&scene.id(), "today", author), &scene.ben, "once");
    for _ in 0..4 {
        scene.mallory.run("today", author, &run, &heads);
    }
    scene.mallory.done().await;
    assert_eq!(scene.stream.len(), 2);
    let metrics = scene.ana.metrics();
    assert_eq!((metrics.entries_merged, metrics.runs_duplicate), (1, 3));
    scene.lives_on().await;
}

#[tokio::test]
async fn i9_messages_that_mean_nothing_are_counted_and_reported_once_per_cause() {
    let mut scene = Scene::new(quick()).await;
    for _ in 0..3 {
        scene.mallory.say_bytes(vec![99, 1, 2, 3]);
    }
    let whole = Message::Share(vec![]).encode(MessageVersion::V1);
    scene.mallory.say_bytes(whole.slice(..whole.len() - 1));
    scene.mallory.say_bytes(vec![1]);
    scene.mallory.say_bytes(vec![1, 1, 250, 255, 255, 255, 255]);
    scene.mallory.say_bytes(vec![0x10, 7, 7, 7]);
    scene.mallory.say_bytes(vec![1, 200, 0]);
    // References to channels that were never announced, and absurd numbers.
    let channel = ChannelRef(1234);
    scene.mallory.say(&Message::Same { channel, round: 1 });
    scene.mallory.say(&Message::Unshare(channel));
    scene.mallory.say(&Message::Done { control: u64::MAX, bulk: u64::MAX });
    let channel = ChannelRef(0);
    scene.mallory.say(&Message::MoreCells { channel, round: 7, start: u32::MAX, count: u32::MAX });
    scene.mallory.say(&Message::Cells { channel, round: 7, start: 3, cells: vec![1; 13] });
    let details = Some(Details { guess: Guess::Counters(vec![0; 3]), yours: [0; 8] });
    let fingerprint = [0; 8];
    scene.mallory.say(&Message::Compare { channel, round: 1, fingerprint, logs: u32::MAX, details });
    let mallory = &mut scene.mallory;
    let ana = &scene.ana;
    mallory.until("the counting", |_| ana.metrics().messages_bad >= 8).await;
    let mut reports = Vec::new();
    while let Some(Some(fault)) = scene.faults.next().now_or_never() {
        assert!(matches!(fault, Fault::BadMessage { .. } | Fault::UnknownVersion { .. }), "{fault:?}");
        reports.push(fault);
    }
    assert!(!reports.is_empty());
    let distinct = reports.iter().filter(|fault| reports.iter().filter(|other| other == fault).count() == 1);
    assert_eq!(distinct.count(), reports.len(), "a cause was reported twice: {reports:?}");
    scene.lives_on().await;
}

#[tokio::test]
async fn i9_frames_that_cannot_be_believed_are_counted_and_the_session_goes_on() {
    let mut scene = Scene::new(quick()).await;
    scene.mallory.until("traffic", |mallory| !mallory.heard.is_empty()).await;
    for frame in [vec![], vec![0], vec![9, 9, 9], vec![1], vec![1, 250, 0, 0], vec![1; 60], vec![0xff; 512]] {
        for _ in 0..3 {
            scene.mallory.frame(frame.clone());
        }
    }
    let (mallory, ana) = (&mut scene.mallory, &scene.ana);
    mallory.until("the counting", |_| ana.metrics().frames_bad >= 21).await;
    let mut reports = Vec::new();
    while let Some(Some(fault)) = scene.faults.next().now_or_never() {
        assert!(matches!(fault, Fault::BadFrame { .. }), "{fault:?}");
        reports.push(format!("{fault:?}"));
    }
    let total = reports.len();
    reports.sort();
    reports.dedup();
    assert!(total >= 2 && reports.len() == total, "{reports:?}");
    scene.lives_on().await;
}

#[tokio::test]
async fn i9_garbage_on_a_link_that_never_proves_anything_is_dropped() {
    let network = MemoryNetwork::new();
    let [ana, ben] = common::devices(&network, ["ana", "ben"]).await;
    let streams = share(&[&ana, &ben]).await;
    let mut faults = ana.errors();
    let raw = network.port("raw");
    let link: LinkId = raw.connect(&"ana".into()).await.unwrap();
    for n in 0..200u8 {
        let frame: Vec<u8> = (0..=n).map(|at| at.wrapping_mul(n)).collect();
        let _ = raw.try_send(link, frame.into(), Priority::Normal);
        let _ = raw.try_send(link, vec![1, n, 1, 2, 3, 4].into(), Priority::High);
    }
    next_where(&mut faults, "a report", |fault| matches!(fault, Fault::BadFrame { peer: None, .. })).await;
    eventually("the counting", async || ana.metrics().frames_bad >= 300).await;
    assert!(ana.peers().is_empty());
    ana.meet_device(&ben).await;
    write(&streams[1], "b", 3).await;
    assert_eq!(agree(&streams).await.len(), 3);
}

#[tokio::test]
async fn i6_links_that_never_prove_anything_are_bounded() {
    let network = MemoryNetwork::new();
    let mut config = quick();
    config.max_half_open = 4;
    let ana = Device::with(&network, "ana", config).await;
    let ben = Device::new(&network, "ben").await;
    let streams = share(&[&ana, &ben]).await;
    let raw = network.port("raw");
    let mut refused = 0;
    for _ in 0..20 {
        raw.connect(&"ana".into()).await.unwrap();
    }
    let down = async {
        while refused < 16 {
            if let Ok(anabranch::PortEvent::Down { .. }) = raw.recv().await {
                refused += 1;
            }
        }
    };
    tokio::time::timeout(common::PATIENCE, down).await.expect("16 of 20 are hung up on");
    // Who is dialled is not counted among them.
    ana.meet_device(&ben).await;
    write(&streams[0], "a", 1).await;
    assert_eq!(agree(&streams).await.len(), 1);
}

#[tokio::test]
async fn i6_a_member_cannot_create_more_logs_than_the_quota() {
    let mut config = quick();
    config.max_logs = 4;
    let mut scene = Scene::new(config).await;
    let (author, signer) = (scene.mallory.identity.node(), scene.mallory.identity.clone());
    for n in 0..10 {
        let stream = format!("stream {n}");
        let (run, heads) = first(key(&scene.id(), &stream, author), &signer, "spam");
        scene.mallory.run(&stream, author, &run, &heads);
    }
    scene.mallory.done().await;
    let fault = next_where(&mut scene.faults, "a report", |_| true).await;
    assert!(matches!(fault, Fault::RunRefused { reason: Refusal::TooManyLogs, .. }), "{fault:?}");
    assert_eq!(scene.ana.resource_usage().entries, 4, "one own log and three of the member");
    assert_eq!(scene.ana.metrics().runs_refused, 7);
    assert_eq!(scene.channel.streams().len(), 4, "a refused run left a stream behind");
}

#[tokio::test]
async fn i6_an_author_cannot_fork_more_often_than_the_quota() {
    let mut config = quick();
    config.max_lines = 3;
    let mut scene = Scene::new(config).await;
    let (author, signer) = (scene.mallory.identity.node(), scene.mallory.identity.clone());
    let log = key(&scene.id(), "today", author);
    for n in 0..8 {
        let (run, heads) = first(log, &signer, &format!("line {n}"));
        scene.mallory.run("today", author, &run, &heads);
        scene.mallory.done().await;
    }
    assert_eq!(scene.stream.version().tips(&author).len(), 3);
    assert_eq!(scene.ana.metrics().forks, 2);
    let refused = |fault: &Fault| matches!(fault, Fault::RunRefused { reason: Refusal::TooManyLines, .. });
    next_where(&mut scene.faults, "a report", refused).await;
    scene.serves_others().await;
}

#[tokio::test]
async fn i4_a_stamp_at_the_end_of_time_stops_nobody_but_is_reported() {
    let mut scene = Scene::new(quick()).await;
    let (author, signer) = (scene.mallory.identity.node(), scene.mallory.identity.clone());
    let log = key(&scene.id(), "today", author);
    let start = Tip { sequence: 0, hash: EntryHash::ZERO };
    let last_era = run(log, start, &[(Timestamp::new(u32::MAX, u64::MAX - 1000), "late")]);
    let head = Head::sign(&log, last_era.tip(), &signer);
    scene.mallory.run("today", author, &last_era, &[head]);
    scene.mallory.done().await;
    assert_eq!(scene.stream.len(), 2, "no entry is refused for its stamp");
    // Eras are used up: time goes on in the last one, and it is said.
    scene.stream.append("after").await.unwrap();
    next_where(&mut scene.faults, "a report", |fault| matches!(fault, Fault::EraSaturated(_))).await;
    let all_entries = all(&scene.stream).await;
    assert_eq!(texts(&all_entries), ["own0", "late", "after"]);
    // Time itself used up is a typed error, in this channel only.
    let end = run(log, last_era.tip(), &[(Timestamp::new(u32::MAX, u64::MAX), "end")]);
    let head = Head::sign(&log, end.tip(), &signer);
    scene.mallory.run("today", author, &end, &[head]);
    scene.mallory.done().await;
    let refused = scene.stream.append("too late").await;
    assert!(matches!(refused, Err(AppendError::Unchanged(AppendRefusal::Time(_)))), "{refused:?}");
    let other = scene.ana.channel("other").await.unwrap().stream("s").await.unwrap();
    other.append("fine").await.unwrap();
}

#[tokio::test]
async fn a_run_whose_predecessors_are_missing_is_asked_for_from_where_it_is_known() {
    let mut scene = Scene::new(quick()).await;
    let (author, signer) = (scene.mallory.identity.node(), scene.mallory.identity.clone());
    let log = key(&scene.id(), "today", author);
    let (one, heads) = first(log, &signer, "one");
    let two = run(log, one.tip(), &[(Timestamp::new(0, 2 << 32), "two")]);
    let head = Head::sign(&log, two.tip(), &signer);
    scene.mallory.run("today", author, &two, &[head]);
    let pull = |message: &Message| matches!(message, Message::Have { logs, .. } if logs.iter().any(|item| item.tips.is_empty()));
    scene.mallory.until("the pull", |mallory| mallory.heard.iter().any(pull)).await;
    assert_eq!(scene.stream.len(), 1);
    assert!(scene.ana.metrics().runs_gap >= 1);
    scene.mallory.run("today", author, &one, &heads);
    scene.mallory.run("today", author, &two, &[head]);
    scene.mallory.done().await;
    assert_eq!(scene.stream.len(), 3);
}

#[tokio::test]
async fn i6_a_compressed_run_that_is_unasked_or_claims_too_much_ends_the_session() {
    let packed = |bytes| {
        let run = RunMessage {
            channel: ChannelRef(0),
            log: RunRef::Name("bomb".to_owned(), NodeId::from_bytes([9; 32])),
            first: 1,
            previous: None,
            heads: Vec::new(),
            body: vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0].into(),
        };
        Message::PackedRun(run, bytes)
    };
    for (bytes, compress) in
        [(300, false), (u32::MAX, cfg!(feature = "compression")), (300, cfg!(feature = "compression"))]
    {
        let mut config = quick();
        config.compress = compress;
        let mut scene = Scene::new(config).await;
        scene.mallory.say(&packed(bytes));
        scene.mallory.until("the end", |mallory| mallory.closed).await;
        scene.serves_others().await;
    }
}
