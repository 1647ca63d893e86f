//! States folded from streams: equal on every device, whatever comes late, fails, panics or restarts.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on has failed; tests run in real time"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anabranch::{
    Coordinator, EventStream, Fault, FoldError, LogEntry, MemoryNetwork, MemoryStore, StateError,
    StateMaterializer,
};
use bytes::Bytes;
use futures::StreamExt as _;

/// Payloads in stream order; refuses what is not UTF-8.
#[derive(Default, Clone)]
struct Lines {
    folds: Arc<AtomicU64>,
    panics: Arc<AtomicBool>,
}

impl StateMaterializer for Lines {
    const NAME: &'static str = "lines";
    const VERSION: u32 = 1;
    type State = Vec<String>;

    fn initial(&self) -> Self::State {
        Vec::new()
    }

    fn fold(&self, state: &mut Self::State, entry: &LogEntry) -> Result<(), FoldError> {
        self.folds.fetch_add(1, Ordering::Relaxed);
        let line = std::str::from_utf8(entry.payload())?;
        state.push(line.to_owned());
        assert!(!(line == "bomb" && self.panics.load(Ordering::Relaxed)), "half way through");
        Ok(())
    }

    fn save(&self, state: &Self::State) -> Option<Bytes> {
        Some(state.join("\n").into())
    }

    fn load(&self, saved: &[u8]) -> Option<Self::State> {
        assert!(!self.panics.load(Ordering::Relaxed), "cannot read this");
        let text = std::str::from_utf8(saved).ok()?;
        Some(text.split('\n').filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }
}

/// The next version of [`Lines`].
struct Louder(Lines);

impl StateMaterializer for Louder {
    const NAME: &'static str = "lines";
    const VERSION: u32 = 2;
    type State = Vec<String>;

    fn initial(&self) -> Self::State {
        Vec::new()
    }

    fn fold(&self, state: &mut Self::State, entry: &LogEntry) -> Result<(), FoldError> {
        self.0.folds.fetch_add(1, Ordering::Relaxed);
        state.push(std::str::from_utf8(entry.payload())?.to_uppercase());
        Ok(())
    }
}

/// How often each payload occurs, in whatever order.
#[derive(Default, Clone)]
struct Tally(Arc<AtomicU64>);

impl StateMaterializer for Tally {
    const NAME: &'static str = "tally";
    const VERSION: u32 = 1;
    const COMMUTATIVE: bool = true;
    type State = BTreeMap<Bytes, u64>;

    fn initial(&self) -> Self::State {
        BTreeMap::new()
    }

    fn fold(&self, state: &mut Self::State, entry: &LogEntry) -> Result<(), FoldError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        *state.entry(entry.payload().clone()).or_default() += 1;
        Ok(())
    }
}

async fn node(network: &MemoryNetwork, name: &str) -> Coordinator {
    start(network, name, MemoryStore::ephemeral().unwrap()).await
}

async fn start(network: &MemoryNetwork, name: &str, store: MemoryStore) -> Coordinator {
    Coordinator::builder(store).port(network.port(name)).start().await.unwrap()
}

async fn shared(nodes: &[&Coordinator]) -> Vec<EventStream> {
    let mut streams = Vec::new();
    for node in nodes {
        let channel = node.channel("notes").await.unwrap();
        for other in nodes {
            channel.add_member(other.node()).await.unwrap();
        }
        streams.push(channel.stream("today").await.unwrap());
    }
    streams
}

async fn alone() -> (Coordinator, EventStream, MemoryStore) {
    let store = MemoryStore::ephemeral().unwrap();
    let node = start(&MemoryNetwork::new(), "ana", store.clone()).await;
    let stream = shared(&[&node]).await.remove(0);
    (node, stream, store)
}

async fn converge(streams: &[EventStream]) {
    for _ in 0..6000 {
        let first = streams[0].version();
        if streams.iter().all(|stream| stream.version() == first) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no convergence: {:#?}", streams.iter().map(EventStream::version).collect::<Vec<_>>());
}

#[tokio::test]
async fn i3_devices_that_folded_apart_have_the_same_states_after_they_met() {
    let network = MemoryNetwork::new();
    let (ana, ben) = (node(&network, "ana").await, node(&network, "ben").await);
    let streams = shared(&[&ana, &ben]).await;
    let lines = Lines::default();
    let mut ordered = Vec::new();
    let mut counted = Vec::new();
    for stream in &streams {
        ordered.push(stream.materialize(lines.clone()).await.unwrap());
        counted.push(stream.materialize(Tally::default()).await.unwrap());
    }
    for n in 0..300 {
        streams[0].append(format!("a{n}")).await.unwrap();
        streams[1].append(format!("b{n}")).await.unwrap();
        if n % 50 == 0 {
            streams[0].append(vec![0xff]).await.unwrap();
            ordered[0].get().await.unwrap();
            ordered[1].get().await.unwrap();
            counted[0].get().await.unwrap();
        }
    }
    // What the other wrote meanwhile is late here, all of it.
    ana.meet("ben").await.unwrap();
    converge(&streams).await;
    let states = [ordered[0].get().await.unwrap(), ordered[1].get().await.unwrap()];
    assert_eq!(states[0].len(), 600);
    assert_eq!(states[0], states[1]);
    assert_eq!((ordered[0].refused(), ordered[1].refused()), (6, 6), "each refusal counts once");
    assert_eq!(ordered[0].version().await, streams[0].version());
    assert_eq!(counted[0].get().await.unwrap(), counted[1].get().await.unwrap());
}

#[tokio::test]
async fn i9_refused_entries_are_skipped_counted_and_reported_once_per_cause() {
    let (node, stream, _) = alone().await;
    let mut faults = node.errors();
    let lines = stream.materialize(Lines::default()).await.unwrap();
    for payload in [&b"one"[..], b"\xff", b"two", b"\xff"] {
        stream.append_slice(payload).await.unwrap();
        lines.get().await.unwrap();
    }
    assert_eq!(*lines.get().await.unwrap(), ["one", "two"]);
    assert_eq!(lines.refused(), 2);
    assert!(matches!(faults.next().await, Some(Fault::FoldRefused { name: "lines", .. })));
    let more = tokio::time::timeout(Duration::from_millis(50), faults.next()).await;
    assert!(more.is_err(), "one cause, one report: {more:?}");
}

#[tokio::test]
async fn a_panic_fails_one_materializer_until_it_is_reset() {
    let (node, stream, _) = alone().await;
    let mut faults = node.errors();
    let fold = Lines::default();
    let lines = stream.materialize(fold.clone()).await.unwrap();
    let tally = stream.materialize(Tally::default()).await.unwrap();
    let mut changes = lines.changes();
    stream.append("before").await.unwrap();
    assert_eq!(**changes.next().await.unwrap().as_ref().unwrap(), ["before"]);
    fold.panics.store(true, Ordering::Relaxed);
    stream.append("bomb").await.unwrap();
    assert!(matches!(lines.get().await, Err(StateError::Panicked { name: "lines" })));
    assert!(matches!(lines.get().await, Err(StateError::Panicked { .. })), "it stays so");
    assert!(matches!(changes.next().await, Some(Err(StateError::Panicked { .. }))));
    assert!(matches!(faults.next().await, Some(Fault::FoldPanicked { name: "lines" })));
    assert_eq!(tally.get().await.unwrap().len(), 2, "others go on");
    stream.append("after").await.unwrap();

    fold.panics.store(false, Ordering::Relaxed);
    lines.reset().await.unwrap();
    assert_eq!(**changes.next().await.unwrap().as_ref().unwrap(), ["before", "bomb", "after"]);
    assert_eq!(*lines.get().await.unwrap(), ["before", "bomb", "after"]);
}

#[tokio::test]
async fn a_saved_state_whose_loading_panics_is_forgotten_by_a_reset() {
    let (_node, stream, _) = alone().await;
    stream.append("one").await.unwrap();
    let lines = stream.materialize(Lines::default()).await.unwrap();
    lines.get().await.unwrap();
    assert!(lines.save().await.unwrap());
    let fold = Lines::default();
    fold.panics.store(true, Ordering::Relaxed);
    let lines = stream.materialize(fold).await.unwrap();
    assert!(matches!(lines.get().await, Err(StateError::Panicked { .. })));
    lines.reset().await.unwrap();
    assert_eq!(*lines.get().await.unwrap(), ["one"]);
}

#[tokio::test]
async fn a_saved_state_spares_the_fold_after_a_restart_and_another_version_does_not() {
    let (node, stream, store) = alone().await;
    let lines = stream.materialize(Lines::default()).await.unwrap();
    stream.append_slice(b"\xff").await.unwrap();
    for n in 0..100 {
        stream.append(format!("{n}")).await.unwrap();
    }
    lines.get().await.unwrap();
    assert!(lines.save().await.unwrap());
    let tally = stream.materialize(Tally::default()).await.unwrap();
    assert!(!tally.save().await.unwrap(), "it does not say how");
    stream.append("later").await.unwrap();
    let before = lines.get().await.unwrap();
    node.close().await.unwrap();
    assert!(matches!(lines.get().await, Err(StateError::Closed)));
    assert!(matches!(stream.materialize(Lines::default()).await, Err(StateError::Closed)));
    assert!(lines.changes().next().await.is_none());

    let node = start(&MemoryNetwork::new(), "ana", store.reopen().unwrap()).await;
    let stream = shared(&[&node]).await.remove(0);
    let fold = Lines::default();
    let lines = stream.materialize(fold.clone()).await.unwrap();
    assert_eq!(lines.refused(), 1);
    assert_eq!(lines.get().await.unwrap(), before);
    assert_eq!(fold.folds.load(Ordering::Relaxed), 1, "only what came after the save");
    let louder = Louder(Lines::default());
    let folds = Arc::clone(&louder.0.folds);
    let louder = stream.materialize(louder).await.unwrap();
    assert_eq!(louder.get().await.unwrap().last().unwrap(), "LATER");
    assert_eq!(folds.load(Ordering::Relaxed), 102, "another version folds everything");

    lines.reset().await.unwrap();
    assert_eq!(lines.get().await.unwrap(), before);
    assert_eq!(fold.folds.load(Ordering::Relaxed), 103, "a reset forgets what was saved");
    let again = Lines::default();
    stream.materialize(again.clone()).await.unwrap().get().await.unwrap();
    assert_eq!(again.folds.load(Ordering::Relaxed), 102);
}

#[tokio::test]
async fn entries_older_than_the_loaded_state_are_folded_in_their_place() {
    let network = MemoryNetwork::new();
    let store = MemoryStore::ephemeral().unwrap();
    let (ana, ben) = (start(&network, "ana", store.clone()).await, node(&network, "ben").await);
    let streams = shared(&[&ana, &ben]).await;
    for n in 0..20 {
        streams[1].append(format!("b{n}")).await.unwrap();
        streams[0].append(format!("a{n}")).await.unwrap();
    }
    let lines = streams[0].materialize(Lines::default()).await.unwrap();
    lines.get().await.unwrap();
    assert!(lines.save().await.unwrap());
    ana.close().await.unwrap();

    let ana = start(&network, "ana", store.reopen().unwrap()).await;
    let streams = [shared(&[&ana]).await.remove(0), streams[1].clone()];
    let ours = streams[0].materialize(Lines::default()).await.unwrap();
    assert_eq!(ours.get().await.unwrap().len(), 20);
    ana.meet("ben").await.unwrap();
    converge(&streams).await;
    let theirs = streams[1].materialize(Lines::default()).await.unwrap();
    assert_eq!(ours.get().await.unwrap().len(), 40);
    assert_eq!(ours.get().await.unwrap(), theirs.get().await.unwrap());
}

#[tokio::test]
async fn a_saved_state_that_covers_more_than_is_held_is_not_used() {
    let (node, stream, store) = alone().await;
    stream.append("kept").await.unwrap();
    let lines = stream.materialize(Lines::default()).await.unwrap();
    lines.get().await.unwrap();
    lines.save().await.unwrap();
    let channel = stream.channel_id();
    node.remove_channel(&channel).await.unwrap();
    assert!(matches!(lines.get().await, Err(StateError::ChannelRemoved)));
    assert!(lines.changes().next().await.is_none());
    let stream = shared(&[&node]).await.remove(0);
    let lines = stream.materialize(Lines::default()).await.unwrap();
    assert!(lines.get().await.unwrap().is_empty());
    drop(store);
}

#[tokio::test]
async fn changes_coalesce_bursts_and_always_end_with_the_newest_state() {
    let (node, stream, _) = alone().await;
    let lines = stream.materialize(Lines::default()).await.unwrap();
    let mut changes = lines.changes();
    assert!(changes.next().await.unwrap().unwrap().is_empty(), "first the state as it is");
    for n in 0..50 {
        stream.append(format!("{n}")).await.unwrap();
    }
    assert_eq!(changes.next().await.unwrap().unwrap().len(), 50, "a burst is one change");
    let quiet = tokio::time::timeout(Duration::from_millis(30), changes.next()).await;
    assert!(quiet.is_err(), "nothing changed");

    let writer = {
        let stream = stream.clone();
        async move {
            for n in 50..1000 {
                stream.append(format!("{n}")).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    };
    let reader = async {
        let mut last = 0;
        while last < 1000 {
            let state = changes.next().await.unwrap().unwrap();
            assert!(state.len() > last, "states only move on");
            last = state.len();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), futures::future::join(writer, reader)).await.unwrap();
    node.close().await.unwrap();
    assert!(changes.next().await.is_none());
}

#[tokio::test]
async fn dropping_a_fold_underway_keeps_what_was_folded() {
    let (_node, stream, _) = alone().await;
    let payloads: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    stream.append_batch(payloads.clone()).await.unwrap();
    let fold = Lines::default();
    let lines = stream.materialize(fold.clone()).await.unwrap();
    for _ in 0..3 {
        // One poll, which ends where the fold lets others run.
        assert!(futures::poll!(std::pin::pin!(lines.get())).is_pending());
    }
    assert_eq!(*lines.get().await.unwrap(), payloads);
    assert_eq!(fold.folds.load(Ordering::Relaxed), 10_000, "nothing was folded twice");
}

#[tokio::test]
async fn clones_of_a_handle_share_a_state_and_other_handles_have_their_own() {
    let (_node, stream, _) = alone().await;
    stream.append("x").await.unwrap();
    let tally = Tally::default();
    let one = stream.materialize(tally.clone()).await.unwrap();
    let (a, b) = (one.get().await.unwrap(), one.clone().get().await.unwrap());
    assert!(Arc::ptr_eq(&a, &b));
    assert_eq!(tally.0.load(Ordering::Relaxed), 1);
    let other = stream.materialize(tally.clone()).await.unwrap();
    assert_eq!(other.get().await.unwrap(), a);
    assert_eq!(tally.0.load(Ordering::Relaxed), 2);
}
