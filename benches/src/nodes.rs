//! Nodes to measure with.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use anabranch::application::ports::Store as NodeStore;
use anabranch::infrastructure::link_profile::{Delay, LinkProfile};
use anabranch::infrastructure::packed::{MapBacking, PackedStore};
use anabranch::infrastructure::prng::Prng;
use anabranch::infrastructure::threaded_store::ThreadedStore;
use anabranch::{
    Config, Coordinator, EventStream, Identity, MemoryNetwork, MemoryStore, MessagePort, NodeId, PeerAddr,
    SystemTimer,
};
use anabranch_sled::SledStore;
use anabranch_tcp::TcpPort;
use bytes::Bytes;

use crate::options::{Options, Port, Store};
use crate::port::{Counted, Reading, Sent};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Bytes of payload: the size that the peers were measured with.
pub(crate) const PAYLOAD: usize = 100;
/// Entries per batch of the preparation.
const BATCH: usize = 1_000;
/// Bytes of a value of the packed store: what sled is given.
const VALUE_BYTES: usize = 64 << 10;
/// What a link may owe its reader: more than any transfer window, so that only the engine's own limits show.
const QUEUE_BYTES: usize = 64 << 20;
pub(crate) const CHANNEL: &str = "bench";

/// The world the nodes meet in.
pub(crate) struct World {
    network: MemoryNetwork,
    port: Port,
    store: Store,
    frame: usize,
    compress: bool,
    directory: tempfile::TempDir,
    next: u32,
}

/// A node, where it is reached, and what it sent.
pub(crate) struct Device {
    pub(crate) node: Coordinator,
    /// On the port that is measured.
    pub(crate) address: PeerAddr,
    /// On the memory port that every node has, for preparing.
    pub(crate) near: PeerAddr,
    pub(crate) sent: Arc<Sent>,
    compress: bool,
}

impl World {
    pub(crate) fn new(options: &Options) -> Outcome<Self> {
        Self::with_queue(options, QUEUE_BYTES)
    }

    /// A world whose links owe their readers no more than they do by default.
    pub(crate) fn capped(options: &Options) -> Outcome<Self> {
        Self::with_queue(options, LinkProfile::perfect().queue_bytes)
    }

    fn with_queue(options: &Options, queue_bytes: usize) -> Outcome<Self> {
        let max_frame = if options.port == Port::Memory { options.frame } else { 64 << 10 };
        let profile = LinkProfile { max_frame, queue_bytes, ..LinkProfile::perfect() };
        Ok(Self {
            network: MemoryNetwork::with_model(profile.reliable(), 1, Arc::new(SystemTimer::new())),
            port: options.port,
            store: options.store,
            frame: options.frame,
            compress: options.compress,
            directory: tempfile::tempdir()?,
            next: 1,
        })
    }

    /// A node on the port and store to be measured.
    pub(crate) async fn device(&mut self) -> Outcome<Device> {
        self.device_on(self.port, self.store, Reading::AtOnce).await
    }

    /// A node in memory, for preparing.
    pub(crate) async fn helper(&mut self) -> Outcome<Device> {
        self.device_on(Port::Memory, Store::Memory, Reading::AtOnce).await
    }

    /// A node in memory that reads slowly.
    pub(crate) async fn rude(&mut self, reading: Reading) -> Outcome<Device> {
        self.device_on(self.port, Store::Memory, reading).await
    }

    /// Numbers its nodes as no other process does that works with this one.
    pub(crate) fn apart(mut self) -> Self {
        self.next += 1_000_000;
        self
    }

    /// The directory of the store of the device made last.
    pub(crate) fn directory(&self) -> std::path::PathBuf {
        self.directory.path().join(format!("device-{}", self.next - 1))
    }

    async fn device_on(&mut self, port: Port, store: Store, reading: Reading) -> Outcome<Device> {
        let number = self.next;
        self.next += 1;
        let name = format!("device-{number}");
        let mut secret = [7; 32];
        secret[..4].copy_from_slice(&number.to_le_bytes());
        match store {
            Store::Memory => {
                self.build(&name, port, reading, MemoryStore::new(Identity::from_secret(secret))).await
            }
            Store::Sled => {
                let store = SledStore::open(self.directory.path().join(&name)).await?;
                self.build(&name, port, reading, store).await
            }
            Store::Packed => {
                let open = move || PackedStore::open(MapBacking::new(VALUE_BYTES), secret, &Bytes::new());
                self.build(&name, port, reading, ThreadedStore::open(&name, open).await?).await
            }
        }
    }

    async fn build(
        &self,
        name: &str,
        port: Port,
        reading: Reading,
        store: impl NodeStore,
    ) -> Outcome<Device> {
        let node: NodeId = store.identity().node();
        let near_port: Arc<dyn MessagePort> = Arc::new(self.network.proven_port(name, node));
        let near = PeerAddr::new(name);
        let (measured, address, builder) = match port {
            Port::Memory => {
                let measured = Counted::reading(Arc::clone(&near_port), reading);
                (measured, near.clone(), Coordinator::builder(store))
            }
            Port::Tcp => {
                let tcp = TcpPort::options().max_frame(self.frame).bind("127.0.0.1:0").await?;
                let address = PeerAddr::new(tcp.local_addr().map(|at| at.to_string()).unwrap_or_default());
                let measured = Counted::reading(Arc::new(tcp), reading);
                (measured, address, Coordinator::builder(store))
            }
        };
        let sent = measured.sent();
        let builder = builder.port(measured);
        // Where several ports would take an address, the first one is asked.
        let builder = if port == Port::Tcp { builder.shared_port(near_port) } else { builder };
        let mut config = Config::default();
        config.compress = self.compress;
        let node = builder.config(config).start().await?;
        node.channel(CHANNEL).await?.open_to_all().await?;
        Ok(Device { node, address, near, sent, compress: self.compress })
    }

    /// Lets frames between two nodes on the memory port take this long, each way.
    pub(crate) fn delay(&self, a: &Device, b: &Device, delay: Duration) -> Outcome<()> {
        let profile = LinkProfile {
            delay: Delay::fixed(delay),
            max_frame: self.frame,
            queue_bytes: QUEUE_BYTES,
            ..LinkProfile::perfect()
        };
        Ok(self.network.set_profile(a.near.as_str(), b.near.as_str(), profile)?)
    }
}

/// A payload of words as frequent as words are (Zipf), from a vocabulary of syllables: what a general compressor makes of it is near
/// what it makes of prose.
fn text(number: usize) -> Vec<u8> {
    const SYLLABLES: [&str; 16] = [
        "ba", "ne", "ri", "to", "mu", "sal", "ver", "ken", "dor", "li", "pan", "est", "ou", "fa", "gi", "zen",
    ];
    /// Words of the vocabulary.
    const WORDS: u64 = 4_000;
    let mut prng = Prng::part(7, number as u64);
    let mut text = Vec::with_capacity(PAYLOAD + 16);
    while text.len() < PAYLOAD {
        // Log-uniform ranks: the rank r comes up as often as 1 in r.
        let exponent = prng.below(1 << 32) as f64 / (1_u64 << 32) as f64;
        let rank = (WORDS as f64).powf(exponent) as u64;
        let mut word = Prng::part(8, rank);
        for _ in 0..=word.below(3) {
            text.extend(SYLLABLES[word.below(SYLLABLES.len() as u64) as usize].as_bytes());
        }
        text.push(b' ');
    }
    text.truncate(PAYLOAD);
    text
}

impl Device {
    pub(crate) async fn stream(&self, name: &str) -> Outcome<EventStream> {
        Ok(self.node.channel(CHANNEL).await?.stream(name).await?)
    }

    pub(crate) async fn append(&self, stream: &str, entries: usize) -> Outcome<()> {
        let stream = self.stream(stream).await?;
        let mut left = entries;
        while left > 0 {
            let batch = left.min(BATCH);
            let payload = |n| if self.compress { text(left + n) } else { vec![(left + n) as u8; PAYLOAD] };
            stream.append_batch((0..batch).map(payload)).await?;
            left -= batch;
        }
        Ok(())
    }

    /// Entries merged from peers so far.
    pub(crate) fn merged(&self) -> u64 {
        self.node.metrics().entries_merged
    }

    pub(crate) fn bytes_sent(&self) -> u64 {
        self.sent.bytes()
    }

    /// Of them, those that opened sessions.
    pub(crate) fn opening_sent(&self) -> u64 {
        self.sent.opening()
    }
}

/// A node that holds `per_log` entries in each log of `authors` and `streams`, and the authors, whose network is off.
pub(crate) async fn library(
    world: &mut World,
    authors: usize,
    streams: usize,
    per_log: usize,
) -> Outcome<(Device, Vec<Device>)> {
    let library = world.device().await?;
    let mut all = Vec::new();
    for _ in 0..authors {
        let author = world.helper().await?;
        for stream in 0..streams {
            author.append(&stream_name(stream), per_log).await?;
        }
        deliver(&author, &library, (streams * per_log) as u64).await?;
        all.push(author);
    }
    Ok((library, all))
}

pub(crate) fn stream_name(number: usize) -> String {
    format!("stream-{number}")
}

/// Brings so many fresh entries of an author to a node, over memory; the author's network is off afterwards.
pub(crate) async fn deliver(author: &Device, to: &Device, entries: u64) -> Outcome<()> {
    let expected = to.merged() + entries;
    // Paused, it gives and takes nothing: authors are not to fetch the whole library.
    author.node.pause().await?;
    // One that met it before dials by itself; then a second link is cut, which is no fault.
    let _met_already = author.node.meet(to.near.clone()).await;
    until("preparation", || to.merged() >= expected).await?;
    author.node.stop().await?;
    Ok(())
}

/// Waits until `done`, which is asked every millisecond.
#[expect(clippy::disallowed_methods, reason = "a benchmark waits in real time")]
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) -> Outcome<()> {
    for _ in 0..600_000 {
        if done() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err(format!("gave up waiting: {what}").into())
}

/// A runtime of one thread, as a device has that runs nothing else.
pub(crate) struct Apart {
    handle: tokio::runtime::Handle,
    /// Dropped to end it.
    _ends: tokio::sync::oneshot::Sender<()>,
}

impl Apart {
    pub(crate) fn start(name: &str) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (_ends, ended) = tokio::sync::oneshot::channel::<()>();
        std::thread::Builder::new().name(name.into()).spawn(move || runtime.block_on(ended))?;
        Ok(Self { handle, _ends })
    }

    /// Runs something there.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Outcome<T> {
        Ok(self.handle.spawn(work).await?)
    }
}

/// Lets time pass.
#[expect(clippy::disallowed_methods, reason = "a benchmark waits in real time")]
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
