//! p2panda: its log sync protocol between two SQLite stores in memory, messages as CBOR, each operation validated and
//! stored on arrival.

use std::cell::Cell;
use std::collections::BTreeMap;

use futures::channel::mpsc;
use futures::{SinkExt as _, StreamExt as _};
use p2panda_core::cbor::{decode_cbor, encode_cbor};
use p2panda_core::{Body, Hash, Header, Operation, SigningKey, VerifyingKey, validate_operation};
use p2panda_store::operations::OperationStore;
use p2panda_store::{SqliteStore, SqliteStoreBuilder, Transaction as _};
use p2panda_sync::protocols::{LogSync, LogSyncEvent, LogSyncMessage};
use p2panda_sync::traits::Protocol as _;
use tokio::runtime::Handle;
use tokio::sync::broadcast;

use super::{Outcome, Spec, System, Traffic, payload};

pub(super) const SPEC: Spec = Spec {
    name: "p2panda",
    package: "p2panda-sync",
    make,
    trips_apart: false,
    live: None,
    omits: "no encryption, no flow control (operations stream as fast as they are read), nothing synced to disk. It does: one \
            signature per operation checked, SQLite in memory. Which logs both sides want is given, as is everything its network \
            layer would do; live latency of that layer (p2panda-net) is not measured.",
};

/// Author, stream, and the last entry: its number from 1 on and its hash.
type Tails = Vec<(SigningKey, Vec<(u64, Option<Hash>)>)>;

struct Panda {
    runtime: Handle,
    authors: Tails,
    first: SqliteStore,
    second: SqliteStore,
    held: u64,
}

/// Two stores in memory.
fn make(runtime: Handle, authors: usize, streams: usize, _: bool) -> Outcome<Box<dyn System>> {
    let store = || SqliteStoreBuilder::new().create_database(false).max_connections(1).build();
    let (first, second) = (runtime.block_on(store())?, runtime.block_on(store())?);
    let authors = (0..authors)
        .map(|author| (SigningKey::from_bytes(&[author as u8 + 1; 32]), vec![(0, None); streams]))
        .collect();
    Ok(Box::new(Panda { runtime, authors, first, second, held: 0 }))
}

/// Puts operations of one stream each into a store, in one transaction.
async fn store(to: &SqliteStore, operations: &[(u64, Operation<()>)]) -> Outcome<()> {
    let permit = to.begin().await?;
    for (stream, operation) in operations {
        to.insert_operation(&operation.hash, operation, stream).await?;
    }
    Ok(to.commit(permit).await?)
}

type Session = LogSync<u64, (), SqliteStore, LogSyncEvent<()>>;

/// A message on its way: its bytes, and how many messages led to it, itself included.
type Framed = (Vec<u8>, u32);

/// What one side did.
#[derive(Default)]
struct Side {
    bytes: u64,
    /// How many messages in a row led to the last one received before operations stream, and to the first of those.
    hops: u32,
}

/// Runs one side, with messages as bytes.
async fn side(
    session: Session,
    to: mpsc::UnboundedSender<Framed>,
    from: mpsc::UnboundedReceiver<Framed>,
) -> Outcome<Side> {
    let (mut bytes, mut streaming) = (0, false);
    let seen = Cell::new(0);
    {
        let sink = to.with(|message: LogSyncMessage<u64>| {
            let encoded = encode_cbor(&message).expect("messages can be encoded");
            bytes += encoded.len() as u64;
            futures::future::ready(Ok::<_, mpsc::SendError>((encoded, seen.get() + 1)))
        });
        let stream = from.map(|(bytes, hops)| {
            let message = decode_cbor::<LogSyncMessage<u64>, _>(&bytes[..]);
            if !streaming {
                seen.set(seen.get().max(hops));
            }
            streaming |= matches!(message, Ok(LogSyncMessage::Operation(..)));
            message
        });
        let (mut sink, mut stream) = (Box::pin(sink), Box::pin(stream));
        session.run(&mut sink, &mut stream).await?;
    }
    Ok(Side { bytes, hops: seen.get() })
}

/// The stream that a payload says it belongs to: operations arrive without the name of their log.
fn stream_of(body: &Body) -> Outcome<u64> {
    let bytes = body.to_bytes();
    let name =
        bytes.get(16..24).and_then(|name| name.try_into().ok()).ok_or("a payload without its stream")?;
    Ok(u64::from_le_bytes(name))
}

impl System for Panda {
    fn append(&mut self, author: usize, parts: &[(usize, usize)]) -> Outcome<()> {
        let (key, tails) = &mut self.authors[author];
        let mut operations = Vec::new();
        for (stream, entries) in parts {
            let (sequence, backlink) = &mut tails[*stream];
            for _ in 0..*entries {
                let body = Body::new(&payload(author, *stream, *sequence));
                let mut header = Header::<()> {
                    version: 1,
                    verifying_key: key.verifying_key(),
                    signature: None,
                    payload_size: body.size(),
                    payload_hash: Some(body.hash()),
                    timestamp: (1_700_000_000_000_000 + *sequence).into(),
                    seq_num: *sequence,
                    backlink: *backlink,
                    extensions: (),
                };
                header.sign(key);
                let hash = header.hash();
                operations.push((*stream as u64, Operation { hash, header, body: Some(body) }));
                (*sequence, *backlink) = (*sequence + 1, Some(hash));
            }
        }
        self.runtime.block_on(store(&self.first, &operations))
    }

    fn sync(&mut self) -> Outcome<Traffic> {
        let logs: BTreeMap<VerifyingKey, Vec<u64>> = self
            .authors
            .iter()
            .map(|(key, tails)| (key.verifying_key(), (0..tails.len() as u64).collect()))
            .collect();
        let all: u64 = self.authors.iter().flat_map(|(_, tails)| tails).map(|(count, _)| *count).sum();
        let room = (all - self.held) as usize + 16;
        let (events, mut arrived) = broadcast::channel(room.next_power_of_two());
        let (ignored, _kept) = broadcast::channel(16);
        let first = Session::new(self.first.clone(), logs.clone(), ignored);
        let second = Session::new(self.second.clone(), logs, events);
        let (to_second, from_first) = mpsc::unbounded();
        let (to_first, from_second) = mpsc::unbounded();
        let runtime = self.runtime.clone();
        let (sent, received) = runtime.block_on(async {
            tokio::join!(side(first, to_second, from_second), side(second, to_first, from_first))
        });
        let (sent, received) = (sent?, received?);
        let mut operations = Vec::new();
        while let Ok(event) = arrived.try_recv() {
            if let LogSyncEvent::OperationReceived { operation, .. } = event {
                validate_operation::<()>(&*operation)?;
                let stream = stream_of(operation.body.as_ref().ok_or("an operation without its body")?)?;
                operations.push((stream, *operation));
            }
        }
        runtime.block_on(store(&self.second, &operations))?;
        self.held += operations.len() as u64;
        Ok(Traffic { bytes: sent.bytes + received.bytes, trips: Some(f64::from(received.hops) / 2.0) })
    }

    fn held(&mut self) -> Outcome<u64> {
        Ok(self.held)
    }
}
