//! Test vectors for `docs/protocol.md`: computed from fixed keys and compared with the committed file.
//!
//! A difference means that bytes on the wire or under a signature changed. That takes a new protocol version, not a
//! new file; only vectors that are *added* are written, with `ANABRANCH_WRITE_VECTORS=1 cargo test --test vectors`.

#![allow(clippy::unwrap_used, reason = "fixed inputs either work or the test has nothing to say")]

use std::fmt::Write as _;

use anabranch::domain::block::{BlockEnd, BlockPhase};
use anabranch::domain::head::Head;
use anabranch::domain::id::LogKey;
use anabranch::domain::identity::Signature;
use anabranch::domain::run::{RunBuilder, UnverifiedRun};
use anabranch::protocol::gossip::cells::{Encoder, Salt};
use anabranch::protocol::gossip::estimate::Counters;
use anabranch::protocol::gossip::fingerprint::{Fingerprint, LogDigest};
use anabranch::protocol::swim::{
    Accusation, Body, Incarnation, Nonce, Packet, ShortId, SignedMetadata, Statement, Update,
};
use anabranch::protocol::wire::{
    Announcement, ChannelRef, Details, Guess, HaveItem, KeyRef, ListItem, LogRef, Marker, Message,
    MessageVersion, RunMessage, RunRef, ShareTag, Version, Why,
};
use anabranch::{ChannelId, EntryHash, Identity, Metadata, StreamId, Timestamp, Tip};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol/vectors.txt");
/// 2023-11-14 22:13:20 UTC in units of 2^-32 s.
const TIME: u64 = 1_700_000_000 << 32;

#[derive(Default)]
struct Vectors(String);

impl Vectors {
    fn section(&mut self, title: &str) {
        writeln!(self.0, "\n# {title}").unwrap();
    }

    fn hex(&mut self, name: &str, bytes: &[u8]) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(self.0, "{name} = {hex}").unwrap();
    }

    fn text(&mut self, name: &str, value: impl std::fmt::Display) {
        writeln!(self.0, "{name} = {value}").unwrap();
    }
}

#[test]
fn the_bytes_of_the_protocol_are_as_documented() {
    let made = vectors();
    if std::env::var_os("ANABRANCH_WRITE_VECTORS").is_some() {
        std::fs::write(FILE, &made).unwrap();
    }
    let kept = std::fs::read_to_string(FILE).unwrap();
    for (made, kept) in made.lines().zip(kept.lines()) {
        assert_eq!(made, kept);
    }
    assert_eq!(made.lines().count(), kept.lines().count());
}

fn vectors() -> String {
    let mut out = Vectors::default();
    out.0.push_str(
        "# Test vectors of protocol version 1; docs/protocol.md says what they mean. Bytes in hex.\n",
    );

    out.section("identities: secret -> node id");
    let (ana, ben) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
    out.hex("ana.secret", &[1; 32]);
    out.hex("ana.node", ana.node().as_bytes());
    out.text("ana.shown", ana.node());
    out.hex("ben.secret", &[2; 32]);
    out.hex("ben.node", ben.node().as_bytes());

    out.section("channels and log keys");
    let public = ChannelId::well_known("notes").unwrap();
    let channel = ChannelId::secret("notes", b"correct horse battery staple").unwrap();
    out.hex("channel.well_known(notes)", public.as_bytes());
    out.hex("channel.secret(notes, correct horse battery staple)", channel.as_bytes());
    let (today, later) = (StreamId::new("today").unwrap(), StreamId::new("later").unwrap());
    let key = LogKey::derive(&channel, &today, &ana.node());
    let other = LogKey::derive(&channel, &later, &ben.node());
    out.hex("log.today.ana", key.as_bytes());
    out.hex("log.later.ben", other.as_bytes());

    out.section("three entries of today by ana: era, time, payload -> hash; then packed");
    let entries: [(Timestamp, &[u8]); 3] = [
        (Timestamp::new(0, TIME), b"buy milk"),
        (Timestamp::new(0, TIME + 300), b""),
        (Timestamp::new(1, TIME - 5), b"and bread"),
    ];
    let mut builder = RunBuilder::new(key, Tip::START, 3, 64);
    for (stamp, payload) in entries {
        let tip = builder.push(stamp, payload);
        let payload = String::from_utf8_lossy(payload);
        let name = format!("entry {} ({}, {}, {payload:?})", tip.sequence, stamp.era(), stamp.time());
        out.hex(&name, tip.hash.as_bytes());
    }
    let run = builder.finish().unwrap();
    out.hex("run.body", run.body());
    let tail = run.slice(2, 3).unwrap();
    out.hex("run.body of 2..=3", tail.body());

    out.section("head of entry 3, signed by ana");
    let head = Head::sign(&key, run.tip(), &ana);
    out.hex("head.signature", head.signature.as_bytes());
    let heads = vec![(3, head.signature)];
    let unverified =
        UnverifiedRun { first: 1, previous: EntryHash::ZERO, body: run.body().clone(), heads: heads.clone() };
    assert!(unverified.verify(&key, &ana.node(), &*ben.scheme(), 1024).is_ok());

    out.section("blocks: lengths of payloads -> sequences at which blocks end");
    out.text("600 of 100", ends(&[100; 600]));
    out.text("200000 100000 1000000 1000000 1", ends(&[200_000, 100_000, 1_000_000, 1_000_000, 1]));
    out.text("262144 0 131072 131072 1", ends(&[262_144, 0, 131_072, 131_072, 1]));

    out.section("digests of logs");
    let forked = Tip { sequence: 2, hash: EntryHash::from_bytes([9; 32]) };
    let ours = LogDigest::of(&key, &[run.tip()]);
    let theirs = LogDigest::of(&other, &[Tip { sequence: 7, hash: EntryHash::from_bytes([8; 32]) }]);
    out.hex("digest(log.today.ana, entry 3)", ours.as_bytes());
    out.hex("digest(log.today.ana, 2 09.., entry 3)", LogDigest::of(&key, &[forked, run.tip()]).as_bytes());
    out.hex("digest(log.later.ben, 7 08..)", theirs.as_bytes());

    out.section(
        "comparison 1, started by ana, session binding 07..; logs: today.ana at entry 3, later.ben at 7 08..",
    );
    let binding = [7; 32];
    let mut nonce = 1u32.to_le_bytes().to_vec();
    nonce.extend(ana.node().as_bytes());
    let salt = Salt::new(&nonce, &binding, &channel);
    out.hex("salt of the fingerprint", salt.for_fingerprint());
    let mut fingerprint = Fingerprint::empty();
    let mut counters = Counters::empty();
    out.hex("fingerprint of no log", &fingerprint.salted(salt.for_fingerprint()).0);
    for (key, digest) in [(&key, &ours), (&other, &theirs)] {
        fingerprint.insert(digest);
        counters.insert(key, digest);
    }
    let short = fingerprint.salted(salt.for_fingerprint()).0;
    out.hex("fingerprint of both", &short);
    out.hex("counters of both", &counters.to_bytes());
    out.text("key of today.ana", salt.key(&key).get());
    out.text("key of later.ben", salt.key(&other).get());
    let item = |key, digest| salt.item(key, digest);
    let one = Encoder::new([item(&key, &ours)]).cells(0..1)[0];
    out.hex("cell 0 of today.ana", &one.to_bytes());
    let both = Encoder::new([item(&key, &ours), item(&other, &theirs)]).cells(0..12);
    for (at, cell) in both.into_iter().enumerate() {
        out.hex(&format!("cell {at} of both"), &cell.to_bytes());
    }

    out.section("share tags in the session with that binding");
    let tag = ShareTag::new(&channel, &binding, &ana.node());
    out.hex("tag of channel.secret by ana", &tag.0);
    out.hex("tag of channel.secret by ben", &ShareTag::new(&channel, &binding, &ben.node()).0);

    out.section("messages");
    let secret = channel;
    let (channel, round, reference) = (ChannelRef(3), 300, KeyRef::of(&key));
    let marker = Marker::new(&binding);
    out.hex("mark of entry 3 in the session with that binding", &marker.mark(&run.tip()).mark);
    let wide = |digest: &LogDigest| u128::from_le_bytes(digest.as_bytes()[..16].try_into().unwrap());
    let holding = marker.holding(&secret, wide(&ours).wrapping_add(wide(&theirs)), 2);
    out.hex("sum of both in that session", &holding);
    let have = |log| HaveItem { log, tips: marker.marks(&[run.tip()]) };
    let run_of = |log, previous| {
        let (heads, body) = (heads.clone(), run.body().clone());
        Message::Run(RunMessage { channel, log, first: 1, previous, heads, body })
    };
    let details = Details { guess: Guess::Counters(counters.to_bytes().to_vec()), yours: [6; 8] };
    let changed = Details { guess: Guess::Changed(300), yours: [6; 8] };
    let messages = [
        ("Share", Message::Share(vec![Announcement { tag, fingerprint: short }])),
        ("Unshare", Message::Unshare(channel)),
        ("Compare", Message::Compare { channel, round, fingerprint: short, logs: 2, details: Some(details) }),
        (
            "Compare after a common state",
            Message::Compare { channel, round, fingerprint: short, logs: 2, details: Some(changed) },
        ),
        (
            "Compare without details",
            Message::Compare { channel, round, fingerprint: short, logs: 2, details: None },
        ),
        ("Same", Message::Same { channel, round }),
        ("Later", Message::Later { channel, round }),
        ("Cells", Message::Cells { channel, round, start: 0, cells: one.to_bytes().to_vec() }),
        ("MoreCells", Message::MoreCells { channel, round, start: 15, count: 19 }),
        ("ListFrom the start", Message::ListFrom { channel, round, after: None }),
        ("ListFrom after", Message::ListFrom { channel, round, after: Some(reference) }),
        (
            "List",
            Message::List {
                channel,
                round,
                after: None,
                items: vec![ListItem { key: reference, version: Version([5; 8]) }],
                more: false,
            },
        ),
        (
            "Have by key",
            Message::Have { channel, round: 0, logs: vec![have(LogRef::Key(reference))], answer: false },
        ),
        (
            "Have by short key",
            Message::Have { channel, round, logs: vec![have(LogRef::Short(77))], answer: true },
        ),
        ("Run by name", run_of(RunRef::Name("today".into(), ana.node()), None)),
        ("Run by key", run_of(RunRef::Key(reference), Some(run.tip().hash))),
        ("Run by short key, asked", run_of(RunRef::Asked(round, 77), None)),
        ("Run by short key, answered", run_of(RunRef::Answered(round, 77), None)),
        ("Done", Message::Done { control: 1, bulk: 300 }),
        ("Locate", Message::Locate { channel, key: reference, locators: vec![run.tip()], answer: false }),
        ("Parked", Message::Parked { channel, key: reference }),
        ("Paused", Message::Paused(true)),
        ("ClockAhead", Message::ClockAhead(5000)),
        ("Eager", Message::Eager { channel, eager: true }),
        ("Notes", Message::Notes { channel, notes: vec![(reference, 300)] }),
        ("Packs", Message::Packs(1)),
        ("Holding", Message::Holding { channel, sum: holding, why: Why::Calm }),
        ("Reach", Message::Reach { channel, nodes: vec![[4; 8], [5; 8]] }),
    ];
    for (name, message) in messages {
        let bytes = message.encode(MessageVersion::V1);
        assert_eq!(Message::decode(&bytes, MessageVersion::V1), Ok(message));
        out.hex(name, &bytes);
    }

    out.section("messages in version 2");
    let messages = [
        ("Speaks", Message::Speaks { oldest: 1, newest: 2 }),
        ("DoneHolding", Message::DoneHolding { control: 1, bulk: 300, holdings: vec![(channel, holding)] }),
        ("Paused in version 2", Message::Paused(true)),
        ("Run by key in version 2", run_of(RunRef::Key(reference), Some(run.tip().hash))),
    ];
    for (name, message) in messages {
        let bytes = message.encode(MessageVersion::V2);
        assert_eq!(Message::decode(&bytes, MessageVersion::V2), Ok(message));
        out.hex(name, &bytes);
    }

    out.section("liveness: packets, group of zeros");
    let group = [0; 32];
    let (nonce, incarnation) = (Nonce(0x0403_0201), Incarnation(300));
    let [ana_short, ben_short] = [&ana, &ben].map(|who| ShortId::from(&who.node()));
    let told = Metadata::default().name("Ana").role("relay").tag("store").pair("rack", "7").encode().unwrap();
    let said = Statement::sign(&ana, &group, incarnation, false, true);
    let accusation = Accusation { subject: ana_short, incarnation, accuser: ben_short, age: 25 };
    let packets = [
        ("ping", Body::Ping { nonce, held: None }, vec![]),
        ("ack, held suspect", Body::Ack { nonce, held: Some(incarnation) }, vec![]),
        ("ping request", Body::PingReq { nonce, subject: ben_short }, vec![]),
        ("relay ping", Body::RelayPing { nonce, origin: ana.node() }, vec![]),
        ("nack", Body::Nack { nonce }, vec![]),
        ("gossip, statement", Body::Gossip, vec![Update::Statement(said, Some("10.0.0.1:7700".into()))]),
        ("gossip, accusation", Body::Gossip, vec![Update::Accusation(accusation)]),
        (
            "gossip, metadata",
            Body::Gossip,
            vec![Update::Metadata(SignedMetadata::sign(&ana, &group, 301, told))],
        ),
        ("page", Body::Page { want: 0x8000_0001 }, vec![]),
    ];
    for (name, body, updates) in packets {
        let packet = Packet { incarnation: Incarnation(1), body, updates };
        let bytes = packet.encode();
        assert_eq!(Packet::decode(&bytes), Ok(packet));
        out.hex(name, &bytes);
    }
    assert_eq!(Signature::LEN, 64);
    out.0
}

fn ends(payloads: &[usize]) -> String {
    let mut phase = BlockPhase::START;
    let mut ends = Vec::new();
    for (sequence, len) in (1..).zip(payloads) {
        let end = phase.push(*len);
        if matches!(end, BlockEnd::Before | BlockEnd::Both) {
            ends.push((sequence - 1u64).to_string());
        }
        if matches!(end, BlockEnd::After | BlockEnd::Both) {
            ends.push(sequence.to_string());
        }
    }
    ends.join(" ")
}
