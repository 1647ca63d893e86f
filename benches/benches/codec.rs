//! What sending and merging cost in parts: encoding and decoding a run, verifying it, fingerprints.

use anabranch::domain::head::Head;
use anabranch::domain::id::LogKey;
use anabranch::domain::run::{Run, RunBuilder, UnverifiedRun};
use anabranch::protocol::gossip::fingerprint::{Fingerprint, LiveFingerprint, LogDigest};
use anabranch::protocol::wire::{ChannelRef, Message, MessageVersion, RunMessage, RunRef};
use anabranch::{Identity, Timestamp, Tip};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

const ENTRIES: usize = 2_048;
/// Bytes of payload: the size that the peers were measured with.
const PAYLOAD: [u8; 100] = [0x5a; 100];
const KEY: LogKey = LogKey::from_bytes([1; 32]);
const LOGS: u64 = 10_000;

fn main() {
    divan::main();
}

fn run() -> Run {
    let mut builder = RunBuilder::new(KEY, Tip::START, ENTRIES, ENTRIES * PAYLOAD.len());
    for n in 1..=ENTRIES as u64 {
        builder.push(Timestamp::new(0, n << 24), &PAYLOAD);
    }
    builder.finish().expect("not empty")
}

fn message(run: &Run, author: &Identity) -> Message {
    let heads = (1..=ENTRIES as u64 / 256).map(|block| {
        let sequence = block * 256;
        let tip = Tip { sequence, hash: run.hash_at(sequence).expect("within the run") };
        (sequence, Head::sign(&KEY, tip, author).signature)
    });
    Message::Run(RunMessage {
        channel: ChannelRef(0),
        log: RunRef::Name("stream".into(), author.node()),
        first: 1,
        previous: None,
        heads: heads.collect(),
        body: run.body().clone(),
    })
}

#[divan::bench]
fn pack_and_hash(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(ENTRIES)).bench(run);
}

#[divan::bench]
fn encode(bencher: Bencher<'_, '_>) {
    let message = message(&run(), &Identity::from_secret([1; 32]));
    bencher.counter(ItemsCount::new(ENTRIES)).bench(|| message.encode(MessageVersion::NEWEST));
}

#[divan::bench]
fn decode(bencher: Bencher<'_, '_>) {
    let bytes = message(&run(), &Identity::from_secret([1; 32])).encode(MessageVersion::NEWEST);
    bencher.counter(ItemsCount::new(ENTRIES)).bench(|| Message::decode(&bytes, MessageVersion::NEWEST));
}

#[divan::bench]
fn verify_for_merge(bencher: Bencher<'_, '_>) {
    let author = Identity::from_secret([1; 32]);
    let Message::Run(message) = message(&run(), &author) else { return };
    let RunMessage { first, heads, body, .. } = message;
    let unverified = UnverifiedRun { first, previous: Tip::START.hash, body, heads };
    let scheme = author.scheme();
    bencher
        .counter(ItemsCount::new(ENTRIES))
        .bench(|| unverified.clone().verify(&KEY, &author.node(), &*scheme, PAYLOAD.len()));
}

#[divan::bench]
fn join_single_appends(bencher: Bencher<'_, '_>) {
    let run = run();
    let singles: Vec<Run> = (1..=ENTRIES as u64).filter_map(|n| run.slice(n, n)).collect();
    bencher.counter(ItemsCount::new(ENTRIES)).bench(|| Run::join(&singles));
}

fn log(n: u64) -> LogKey {
    LogKey::from_bytes(*Identity::from_secret([n as u8; 32]).node().as_bytes())
}

#[divan::bench]
fn fingerprint_one_change(bencher: Bencher<'_, '_>) {
    let key = log(1);
    let digests: Vec<LogDigest> =
        (1..=LOGS).map(|sequence| LogDigest::of(&key, &[Tip { sequence, ..Tip::START }])).collect();
    let mut fingerprint = Fingerprint::empty();
    let mut at = 0;
    bencher.bench_local(|| {
        fingerprint.remove(&digests[at % digests.len()]);
        at += 1;
        fingerprint.insert(&digests[at % digests.len()]);
        black_box(fingerprint.salted(&[7; 32]))
    });
}

#[divan::bench]
fn fingerprint_of_a_busy_log(bencher: Bencher<'_, '_>) {
    let key = log(2);
    let digest = |sequence| LogDigest::of(&key, &[Tip { sequence, ..Tip::START }]);
    let mut live = LiveFingerprint::empty();
    let mut sequence = 1;
    live.update(&key, None, Some(digest(sequence)));
    bencher.bench_local(|| {
        live.update(&key, Some(digest(sequence)), Some(digest(sequence + 1)));
        sequence += 1;
    });
}
