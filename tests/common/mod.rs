//! What the tests in this directory share: devices, patience, and a peer that does not keep to the rules.
//!
//! Nothing here waits for a fixed time to prove anything: conditions are polled, and deadlines leave room for a
//! loaded machine.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod mallory;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use anabranch::infrastructure::link_profile::LinkProfile;
use anabranch::{
    Config, Coordinator, Event, EventStream, LogEntry, MemoryNetwork, MemoryStore, NodeId, Query, Store as _,
    SystemTimer, TimerPort as _,
};
use futures::{Stream, StreamExt as _};

/// How long a condition may take to come true: far above what an idle machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A short wait between two looks at a condition.
#[allow(clippy::disallowed_methods, reason = "tests run in real time")]
pub async fn nap() {
    tokio::time::sleep(Duration::from_millis(3)).await;
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let timer = SystemTimer::new();
    let deadline = timer.now() + PATIENCE;
    while !condition().await {
        assert!(timer.now() < deadline, "never came true: {what}");
        nap().await;
    }
}

/// The next item that `pick` wants; others are skipped.
pub async fn next_where<S: Stream + Unpin>(
    stream: &mut S,
    what: &str,
    pick: impl Fn(&S::Item) -> bool,
) -> S::Item {
    let search = async {
        while let Some(item) = stream.next().await {
            if pick(&item) {
                return item;
            }
        }
        panic!("ended before: {what}")
    };
    tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("never came: {what}"))
}

/// The stream "today" of a node that has it.
pub async fn stream_of(node: &Coordinator) -> EventStream {
    node.channel("notes").await.unwrap().stream("today").await.unwrap()
}

/// As [`quick`], for a device that does not wait to be told what it forgot.
pub fn rash() -> Config {
    let mut config = quick();
    config.amnesia_wait = Duration::from_millis(1);
    config
}

/// Short intervals, so that tests are quick; everything else as it comes.
pub fn quick() -> Config {
    let mut config = Config::default();
    config.gossip_interval = Duration::from_millis(20);
    config.gossip_interval_max = Duration::from_millis(500);
    config.probe_interval = Duration::from_millis(300);
    config.probe_failures = 5;
    config.redial_interval_max = Duration::from_millis(600);
    config.amnesia_wait = PATIENCE * 10;
    config
}

/// A network whose links misbehave like `profile`.
pub fn faulty(profile: LinkProfile, seed: u64) -> MemoryNetwork {
    MemoryNetwork::with_model(profile, seed, Arc::new(SystemTimer::new()))
}

/// One device: a node, its store and its place in a network.
pub struct Device {
    pub name: String,
    pub store: MemoryStore,
    pub node: Coordinator,
    network: MemoryNetwork,
    /// What the next start is configured with.
    pub config: Config,
}

impl Deref for Device {
    type Target = Coordinator;

    fn deref(&self) -> &Coordinator {
        &self.node
    }
}

impl Device {
    pub async fn new(network: &MemoryNetwork, name: &str) -> Self {
        Self::with(network, name, quick()).await
    }

    pub async fn with(network: &MemoryNetwork, name: &str, config: Config) -> Self {
        Self::on(MemoryStore::ephemeral().unwrap(), network, name, config).await
    }

    pub async fn on(store: MemoryStore, network: &MemoryNetwork, name: &str, config: Config) -> Self {
        let builder = Coordinator::builder(store.clone()).port(network.port(name)).config(config.clone());
        let node = builder.start().await.unwrap();
        Self { name: name.to_owned(), store, node, network: network.clone(), config }
    }

    /// Closes the node and opens it again.
    pub async fn restart(self) -> Self {
        self.node.close().await.unwrap();
        let store = self.store.reopen().unwrap();
        Self::on(store, &self.network, &self.name, self.config).await
    }

    /// Takes the store away under the running node, as a power cut does, and opens what it held.
    pub async fn crash(self) -> Self {
        self.store.close().await.unwrap();
        drop(self.node);
        let store = self.store.reopen().unwrap();
        Self::on(store, &self.network, &self.name, self.config).await
    }

    pub async fn meet_device(&self, other: &Device) {
        assert_eq!(self.node.meet(&other.name).await.unwrap(), other.node.node());
    }

    /// The stream "today" of the channel "notes", which admits these nodes besides the own one.
    pub async fn today(&self, members: impl IntoIterator<Item = NodeId>) -> EventStream {
        let channel = self.node.channel("notes").await.unwrap();
        for member in members {
            channel.add_member(member).await.unwrap();
        }
        channel.stream("today").await.unwrap()
    }
}

/// Some devices of these names.
pub async fn devices<const N: usize>(network: &MemoryNetwork, names: [&str; N]) -> [Device; N] {
    let mut made = Vec::new();
    for name in names {
        made.push(Device::new(network, name).await);
    }
    made.try_into().unwrap_or_else(|_| unreachable!("one device per name"))
}

/// The stream "today" on each of them, in a channel that admits all of them.
pub async fn share(devices: &[&Device]) -> Vec<EventStream> {
    let nodes: Vec<NodeId> = devices.iter().map(|device| device.node.node()).collect();
    let mut streams = Vec::new();
    for device in devices {
        streams.push(device.today(nodes.iter().copied()).await);
    }
    streams
}

/// Waits until all hold the same, and something.
pub async fn converge(streams: &[EventStream]) {
    let timer = SystemTimer::new();
    let deadline = timer.now() + PATIENCE;
    loop {
        let versions: Vec<_> = streams.iter().map(EventStream::version).collect();
        if !versions[0].is_empty() && versions.iter().all(|version| *version == versions[0]) {
            return;
        }
        assert!(timer.now() < deadline, "no convergence: {versions:#?}");
        nap().await;
    }
}

/// Waits until all hold the same and checks that they show it in the same order, without gaps (I2, I3).
pub async fn agree(streams: &[EventStream]) -> Vec<LogEntry> {
    converge(streams).await;
    let first = all(&streams[0]).await;
    assert!(first.is_sorted(), "out of order");
    for stream in &streams[1..] {
        let other = all(stream).await;
        assert_eq!(other.len(), first.len());
        assert!(other == first, "the same entries in another order");
    }
    let mut sequences: BTreeMap<NodeId, Vec<u64>> = BTreeMap::new();
    for entry in &first {
        sequences.entry(entry.author()).or_default().push(entry.sequence());
    }
    for (author, mut held) in sequences {
        held.sort_unstable();
        held.dedup();
        let whole: Vec<u64> = (1..=held.len() as u64).collect();
        assert_eq!(held, whole, "a gap in the log of {author:?}");
    }
    first
}

pub async fn all(stream: &EventStream) -> Vec<LogEntry> {
    stream.entries(Query::all()).collect().await.unwrap()
}

pub fn text(entry: &LogEntry) -> String {
    String::from_utf8(entry.payload().to_vec()).unwrap()
}

pub fn texts(entries: &[LogEntry]) -> Vec<String> {
    entries.iter().map(text).collect()
}

/// Appends `count` entries whose payloads start with `prefix`.
pub async fn write(stream: &EventStream, prefix: &str, count: usize) {
    for n in 0..count {
        stream.append(format!("{prefix}{n}")).await.unwrap();
    }
}

/// Waits until the node is found equal with all its peers and nothing is under way.
pub async fn quiescent(node: &Coordinator) {
    eventually("quiescence", async || {
        let status = node.sync_status().await.unwrap();
        status.quiescent && !status.peers.is_empty() && status.peers.iter().all(|peer| peer.synced)
    })
    .await;
}

pub fn is_forked(event: &Event) -> bool {
    matches!(event, Event::Forked { .. })
}
