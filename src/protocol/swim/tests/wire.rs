use bytes::Bytes;

use crate::domain::id::NodeId;
use crate::domain::identity::Signature;
use crate::domain::link::PeerAddr;
use crate::protocol::swim::rng::Dice;
use crate::protocol::swim::{
    Accusation, BUCKETS, Body, Incarnation, Malformed, Nonce, Packet, ShortId, SignedMetadata, Statement,
    Update,
};

fn all() -> Vec<Packet> {
    let node = NodeId::from_bytes([5; 32]);
    let bodies = [
        Body::Ping { nonce: Nonce(0x0102_0304), held: None },
        Body::Ping { nonce: Nonce(1), held: Some(Incarnation(300)) },
        Body::Ack { nonce: Nonce(2), held: None },
        Body::PingReq { nonce: Nonce(3), subject: ShortId(9) },
        Body::RelayPing { nonce: Nonce(4), origin: node },
        Body::RelayAck { nonce: Nonce(5), origin: ShortId(8), proof: [6; 8] },
        Body::IndirectAck {
            nonce: Nonce(6),
            subject: ShortId(7),
            incarnation: Incarnation(2),
            proof: [1; 8],
        },
        Body::Nack { nonce: Nonce(7) },
        Body::Gossip,
        Body::Digest { buckets: [0xabcd; BUCKETS] },
        Body::Page { want: 0xff },
        Body::Stale { epoch: 70 },
        Body::Welcome { meet: Nonce(8), nonce: Nonce(9) },
    ];
    let signature = Signature::from_bytes([3; 64]);
    let said = Statement { node, incarnation: Incarnation(200), left: true, low_power: false, signature };
    let updates = vec![
        Update::Statement(said, Some(PeerAddr::new("10.0.0.1:7700"))),
        Update::Accusation(Accusation {
            subject: ShortId(1),
            incarnation: Incarnation(2),
            accuser: ShortId(3),
            age: 4,
        }),
        Update::Metadata(SignedMetadata { node, version: 2, bytes: Bytes::from_static(b"meta"), signature }),
    ];
    let plain =
        bodies.into_iter().map(|body| Packet { incarnation: Incarnation(1), body, updates: Vec::new() });
    let mut packets: Vec<Packet> = plain.collect();
    packets.push(Packet { incarnation: Incarnation(u64::MAX), body: Body::Gossip, updates });
    packets
}

#[test]
fn every_packet_survives_its_bytes_and_none_its_truncation() {
    for packet in all() {
        let bytes = packet.encode();
        assert_eq!(Packet::decode(&bytes), Ok(packet.clone()));
        for len in 0..bytes.len() {
            let cut = Packet::decode(&bytes[..len]);
            assert!(cut.is_err() || packet.updates.len() > 1, "{packet:?} cut to {len}");
        }
    }
}

#[test]
fn the_bytes_are_those_that_were_published() {
    let hex = |packet: &Packet| packet.encode().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let packets = all();
    assert_eq!(hex(&packets[0]), "01010104030201");
    assert_eq!(hex(&packets[1]), "01110101000000ac02");
    assert_eq!(hex(&packets[2]), "01020102000000");
    assert_eq!(hex(&packets[3]), "010301030000000900000000000000");
    assert_eq!(hex(&packets[6]), "0106010600000007000000000000000201010101010101 01".replace(' ', ""));
    assert_eq!(hex(&packets[8]), "010801");
    assert_eq!(hex(&packets[11]), "010b0146");
    let all: String = packets.iter().map(hex).collect();
    let digest = blake3::hash(all.as_bytes()).to_hex();
    assert_eq!(&digest[..16], "c7250d65a14a3413");
}

#[test]
fn i6_arbitrary_bytes_are_read_or_refused_and_cost_no_more_than_they_are() {
    let mut dice = Dice::new(7);
    let packets = all();
    for round in 0..50_000 {
        let mut bytes = packets[round % packets.len()].encode();
        for _ in 0..dice.below(4) {
            let at = dice.below(bytes.len());
            bytes[at] = dice.next() as u8;
        }
        if let Ok(packet) = Packet::decode(&bytes) {
            assert!(packet.updates.len() <= bytes.len() / 19);
        }
    }
    assert_eq!(Packet::decode(&[2, 1, 1, 0, 0, 0, 0]), Err(Malformed), "another version");
    assert_eq!(Packet::decode(&[1, 0x18, 1, 0]), Err(Malformed), "a flag where none belongs");
}
