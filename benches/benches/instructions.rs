//! What the hot paths cost in instructions, one function per path, to be run under callgrind by `benches/instructions`.
//!
//! `instructions NAME` prepares, and calls the function of that name in `measured` once; the script lets callgrind collect
//! only inside it. Counts repeat within a fraction of a per cent on one machine, however busy it is; with other CPUs blake3
//! and curve25519-dalek may choose other code.

use anabranch::application::ports::{Store as _, WriteBatch, WriteOp};
use anabranch::domain::block::BlockPhase;
use anabranch::domain::channel::{Admission, ChannelRecord};
use anabranch::domain::head::Head;
use anabranch::domain::id::{ChannelId, LogKey, NodeId, StreamId};
use anabranch::domain::identity::Signature;
use anabranch::domain::log::{Line, LineNo, LogName, LogNo};
use anabranch::domain::run::{Run, RunBuilder, UnverifiedRun};
use anabranch::infrastructure::memory_store::MemoryStore;
use anabranch::protocol::wire::{ChannelRef, Message, MessageVersion, RunMessage, RunRef};
use anabranch::{Coordinator, EventStream, Identity, Timestamp, Tip};
use futures::executor::block_on;

/// Entries per measured call, where entries are what is counted.
const ENTRIES: usize = 4_096;
/// Logs of the digests.
const LOGS: u64 = 1_000;
/// Bytes of payload: the size that the peers were measured with.
const PAYLOAD: [u8; 100] = [0x5a; 100];
const LOG: LogNo = LogNo(0);

/// What callgrind collects.
mod measured {
    use anabranch::application::ports::{Store as _, WriteBatch, WriteOp};
    use anabranch::domain::id::LogKey;
    use anabranch::domain::identity::SignatureScheme;
    use anabranch::domain::log::Line;
    use anabranch::domain::run::UnverifiedRun;
    use anabranch::infrastructure::memory_store::MemoryStore;
    use anabranch::protocol::gossip::fingerprint::{LiveFingerprint, LogDigest};
    use anabranch::protocol::wire::{Message, MessageVersion};
    use anabranch::{EventStream, NodeId, Tip};
    use bytes::Bytes;
    use futures::executor::block_on;

    #[inline(never)]
    pub(super) fn append(stream: &EventStream, payloads: &[Bytes]) {
        block_on(async {
            for payload in payloads {
                stream.append(payload.clone()).await.expect("memory takes it");
            }
        });
    }

    #[inline(never)]
    pub(super) fn append_batch(stream: &EventStream, payloads: &[Bytes]) {
        block_on(stream.append_batch(payloads.iter().cloned())).expect("memory takes it");
    }

    #[inline(never)]
    pub(super) fn encode(message: &Message) -> Bytes {
        message.encode(MessageVersion::NEWEST)
    }

    #[inline(never)]
    pub(super) fn decode(bytes: &Bytes) -> Option<Message> {
        Message::decode(bytes, MessageVersion::NEWEST).ok()
    }

    /// What a receiver does with a run: hash and check it, extend the line, hand it to the store.
    #[inline(never)]
    pub(super) fn merge(
        run: UnverifiedRun,
        key: &LogKey,
        author: &NodeId,
        scheme: &dyn SignatureScheme,
        line: &Line,
        store: &MemoryStore,
    ) {
        let run = run.verify(key, author, scheme, super::PAYLOAD.len()).expect("an honest run");
        let (run, _heads) = run.into_parts();
        let (line, _ends) = line.extended(&run).expect("the run continues the line");
        let batch = WriteBatch::new([WriteOp::Append { log: super::LOG, line, run }]);
        store.submit(batch).settled().expect("memory settles at once").expect("the batch keeps the rules");
    }

    #[inline(never)]
    pub(super) fn digest(keys: &[LogKey]) -> [u8; 8] {
        let mut fingerprint = LiveFingerprint::empty();
        for (at, key) in keys.iter().enumerate() {
            let tip = Tip { sequence: at as u64 + 1, ..Tip::START };
            fingerprint.update(key, None, Some(LogDigest::of(key, &[tip])));
        }
        fingerprint.settled().salted(&[7; 32]).0
    }
}

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    let author = Identity::from_secret([1; 32]);
    match name.as_str() {
        "append" | "append_batch" => {
            let (stream, _driver, _node) = stream();
            let payloads: Vec<bytes::Bytes> = vec![bytes::Bytes::from_static(&PAYLOAD); ENTRIES];
            if name == "append" {
                measured::append(&stream, &payloads);
            } else {
                measured::append_batch(&stream, &payloads);
            }
        }
        "encode" | "decode" => {
            let message = message(&run(LogKey::from_bytes([1; 32])), &author);
            let bytes = if name == "encode" {
                measured::encode(&message)
            } else {
                message.encode(MessageVersion::NEWEST)
            };
            if name == "decode" {
                assert!(measured::decode(&bytes).is_some(), "our own encoding is readable");
            }
        }
        "merge" => {
            let (store, name) = store(author.node());
            let run = run(name.key);
            let heads = heads(&run, &name.key, &author);
            let unverified =
                UnverifiedRun { first: 1, previous: run.previous(), body: run.body().clone(), heads };
            let line = Line::empty(LineNo(0), Tip::START, Timestamp::ZERO, BlockPhase::START);
            measured::merge(unverified, &name.key, &author.node(), &*author.scheme(), &line, &store);
        }
        "digest" => {
            let keys: Vec<LogKey> = (0..LOGS)
                .map(|n| {
                    LogName::new(channel(), StreamId::new(&format!("s{n}")).expect("short"), author.node())
                        .key
                })
                .collect();
            std::hint::black_box(measured::digest(&keys));
        }
        // What `cargo bench` and `cargo test` call it with.
        _ => println!("append append_batch encode decode merge digest: see the script benches/instructions"),
    }
}

/// A stream of a node whose driver nobody runs: the append lane does not need it.
fn stream() -> (EventStream, anabranch::Driver, Coordinator) {
    block_on(async {
        let store = MemoryStore::new(Identity::from_secret([1; 32]));
        let builder = Coordinator::builder(store).seed([1; 32]);
        let (node, driver) = builder.build().await.expect("the defaults are sound");
        let stream = node.channel("bench").await.expect("open").stream("s").await.expect("open");
        (stream, driver, node)
    })
}

fn channel() -> ChannelId {
    ChannelId::from_bytes([1; 32])
}

fn store(author: NodeId) -> (MemoryStore, LogName) {
    let name = LogName::new(channel(), StreamId::new("bench").expect("a short name"), author);
    let store = MemoryStore::new(Identity::from_secret([2; 32]));
    let (id, label, admission) = (channel(), String::new(), Admission::Open);
    let channel = WriteOp::PutChannel(ChannelRecord { id, label, admission, seen: Timestamp::ZERO });
    let batch = WriteBatch::new([channel, WriteOp::PutLog(LOG, name.clone())]);
    store.submit(batch).settled().expect("memory settles at once").expect("the batch keeps the rules");
    (store, name)
}

fn run(key: LogKey) -> Run {
    let mut builder = RunBuilder::new(key, Tip::START, ENTRIES, ENTRIES * PAYLOAD.len());
    for n in 1..=ENTRIES as u64 {
        builder.push(Timestamp::new(0, n << 24), &PAYLOAD);
    }
    builder.finish().expect("not empty")
}

fn heads(run: &Run, key: &LogKey, author: &Identity) -> Vec<(u64, Signature)> {
    let sign = |block: u64| {
        let sequence = block * 256;
        let tip = Tip { sequence, hash: run.hash_at(sequence).expect("within the run") };
        (sequence, Head::sign(key, tip, author).signature)
    };
    (1..=ENTRIES as u64 / 256).map(sign).collect()
}

fn message(run: &Run, author: &Identity) -> Message {
    Message::Run(RunMessage {
        channel: ChannelRef(0),
        log: RunRef::Name("stream".into(), author.node()),
        first: 1,
        previous: None,
        heads: heads(run, &LogKey::from_bytes([1; 32]), author),
        body: run.body().clone(),
    })
}
