//! One node used from many threads at once, over a store with threads of its own, while another one syncs with it.
//!
//! Included by the tests of each store that is to be tried.
#![allow(unreachable_pub, reason = "a part of test binaries")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch::{
    Arrival, Config, Coordinator, Cursor, Durability, EventStream, FoldError, LogEntry, MemoryNetwork,
    MemoryStore, NodeId, Query, StateHandle, StateMaterializer, Store, VersionVector,
};

/// Tasks that append to each stream.
const WRITERS: usize = 3;
/// How often each appends.
const APPENDS: usize = 60;
/// Entries of every fourth append, which is a batch.
const BATCH: usize = 3;
const STREAMS: [&str; 2] = ["today", "tomorrow"];

/// The payloads, by how often they came.
struct Payloads;

impl StateMaterializer for Payloads {
    const NAME: &'static str = "payloads";
    const VERSION: u32 = 1;
    type State = BTreeMap<Vec<u8>, u64>;

    fn initial(&self) -> Self::State {
        BTreeMap::new()
    }

    fn fold(&self, state: &mut Self::State, entry: &LogEntry) -> Result<(), FoldError> {
        *state.entry(entry.payload().to_vec()).or_default() += 1;
        Ok(())
    }
}

/// Entries that a version without forks names.
fn named(version: &VersionVector) -> u64 {
    version.iter().flat_map(|(_, tips)| tips).map(|tip| tip.sequence).sum()
}

fn covers(version: &VersionVector, author: &NodeId, sequence: u64) -> bool {
    version.tips(author).iter().any(|tip| tip.sequence >= sequence)
}

/// Appends, and looks after each append whether every way to read shows it.
async fn append(stream: EventStream, state: StateHandle<Payloads>, prefix: String) {
    for n in 0..APPENDS {
        let texts: Vec<String> = match n % 4 {
            3 => (0..BATCH).map(|part| format!("{prefix} {n}.{part}")).collect(),
            _ => vec![format!("{prefix} {n}")],
        };
        let before = stream.len();
        let id = stream.append_batch(texts.clone()).await.unwrap().last;
        // Of all ways to read, another one comes first each time: what one does must not help the next.
        for way in (0..5).map(|at| (at + n) % 5) {
            match way {
                0 => assert!(stream.len() >= before + texts.len() as u64, "{prefix}: length"),
                1 => assert!(covers(&stream.version(), &id.author, id.sequence), "{prefix}: version"),
                2 => {
                    let state = state.get().await.unwrap();
                    assert!(texts.iter().all(|text| state.contains_key(text.as_bytes())), "{prefix}: state");
                }
                3 => {
                    let query = Query::all().by(id.author).sequences(id.sequence..=id.sequence);
                    let found = stream.entries(query).collect().await.unwrap();
                    let hashes: Vec<_> = found.iter().map(LogEntry::hash).collect();
                    assert_eq!(hashes, [id.hash], "{prefix}: entries");
                }
                _ => assert!(stream.contains(&id).await.unwrap(), "{prefix}: contains"),
            }
        }
    }
}

/// Reads again and again: nothing that was seen is ever missing again, and nothing is missing in between.
async fn read(stream: EventStream, is_over: Arc<AtomicBool>) {
    let (mut len, mut seen) = (0, VersionVector::START);
    while !is_over.load(Ordering::SeqCst) {
        let (now, version) = (stream.len(), stream.version());
        assert!(now >= len && named(&version) >= now, "{now} entries after {len}");
        assert!(seen.iter().all(|(author, tips)| tips.iter().all(|t| covers(&version, author, t.sequence))));
        let entries = stream.entries(Query::all());
        let named = named(entries.version());
        let entries = entries.collect().await.unwrap();
        assert!(entries.len() as u64 == named && entries.is_sorted());
        (len, seen) = (now, version);
        tokio::task::yield_now().await;
    }
}

/// Follows until `count` entries came: each once, and those of one author in their order.
async fn follow(stream: EventStream, count: u64) {
    let mut subscription = stream.subscribe(Cursor::START);
    let mut last: BTreeMap<NodeId, u64> = BTreeMap::new();
    for _ in 0..count {
        let Some(Ok(Arrival::Entry { entry, .. })) = subscription.next().await else {
            panic!("nothing but entries can arrive")
        };
        let before = last.insert(entry.author(), entry.sequence()).unwrap_or(0);
        assert_eq!(entry.sequence(), before + 1, "lost or repeated");
    }
}

/// Takes states until one has `count` entries; none has less than the one before.
async fn watch(state: StateHandle<Payloads>, count: u64) {
    let (mut changes, mut held) = (state.changes(), 0);
    while held < count {
        let now = changes.next().await.unwrap().unwrap().values().sum();
        assert!(now >= held, "{now} entries after {held}");
        held = now;
    }
}

/// Everything at once, on a node over what `open` opens, until all entries are everywhere. Opens the store again at the end.
pub async fn everything_at_once<S: Store>(open: impl AsyncFn() -> S, durability: Durability) {
    let network = MemoryNetwork::new();
    let mut config = Config::default();
    config.gossip_interval = std::time::Duration::from_millis(20);
    config.durability = durability;
    let start = async |config: &Config| {
        let builder = Coordinator::builder(open().await).config(config.clone());
        builder.port(network.port("ana")).start().await.unwrap()
    };
    let ana = start(&config).await;
    let ben = Coordinator::builder(MemoryStore::ephemeral().unwrap()).config(config.clone());
    let ben = ben.port(network.port("ben")).start().await.unwrap();
    for (node, other) in [(&ana, &ben), (&ben, &ana)] {
        node.channel("notes").await.unwrap().add_member(other.node()).await.unwrap();
    }
    ana.meet("ben").await.unwrap();
    // Each of the two nodes appends; of every four appends one is a batch.
    let count = (2 * WRITERS * (APPENDS + APPENDS / 4 * (BATCH - 1))) as u64;
    let is_over = Arc::new(AtomicBool::new(false));
    let (mut work, mut readers) = (tokio::task::JoinSet::new(), tokio::task::JoinSet::new());
    for name in STREAMS {
        for (who, node) in [("ana", &ana), ("ben", &ben)] {
            // All tasks open the stream at the same time.
            let channel = node.channel("notes").await.unwrap();
            for writer in 0..WRITERS {
                let channel = channel.clone();
                work.spawn(async move {
                    let stream = channel.stream(name).await.unwrap();
                    let state = stream.materialize(Payloads).await.unwrap();
                    append(stream, state, format!("{who} {writer}")).await;
                });
            }
            let (follower, watcher, reader) = (channel.clone(), channel.clone(), channel);
            work.spawn(async move { follow(follower.stream(name).await.unwrap(), count).await });
            work.spawn(async move {
                let stream = watcher.stream(name).await.unwrap();
                watch(stream.materialize(Payloads).await.unwrap(), count).await;
            });
            let is_over = Arc::clone(&is_over);
            readers.spawn(async move { read(reader.stream(name).await.unwrap(), is_over).await });
        }
    }
    let all = async {
        while let Some(done) = work.join_next().await {
            done.unwrap();
        }
        is_over.store(true, Ordering::SeqCst);
        while let Some(done) = readers.join_next().await {
            done.unwrap();
        }
    };
    tokio::time::timeout(super::PATIENCE, all).await.expect("somebody waits for ever");
    let held = async |node: &Coordinator, name: &str| {
        let stream = node.channel("notes").await.unwrap().stream(name).await.unwrap();
        let entries = stream.entries(Query::all()).collect().await.unwrap();
        let state = stream.materialize(Payloads).await.unwrap().get().await.unwrap();
        let mut refolded = BTreeMap::new();
        for entry in &entries {
            Payloads.fold(&mut refolded, entry).unwrap();
        }
        assert_eq!(*state, refolded);
        entries
    };
    let mut at_ana = Vec::new();
    for name in STREAMS {
        let entries = held(&ana, name).await;
        let distinct: BTreeSet<_> = entries.iter().map(|entry| entry.payload().to_vec()).collect();
        assert_eq!((entries.len() as u64, distinct.len() as u64), (count, count));
        assert!(entries == held(&ben, name).await, "the two hold something else");
        at_ana.push(entries);
    }
    assert_eq!(ana.resource_usage().entries, STREAMS.len() as u64 * count);
    ana.close().await.unwrap();
    let ana = start(&config).await;
    for (name, before) in STREAMS.iter().zip(at_ana) {
        assert!(before == held(&ana, name).await, "not what was there before the store was closed");
    }
    ana.close().await.unwrap();
    ben.close().await.unwrap();
}
