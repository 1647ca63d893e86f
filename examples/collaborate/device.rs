//! A device for real: an identity and a store of its own, a node over them, TCP on loopback.
//!
//! All devices share one secret channel with one stream in it. They find one another in a [`Directory`], which
//! stands for what an application uses for that: mDNS, a rendezvous server, an address typed in. It never looks
//! into payloads and never plans anything. Made by `main`, driven by `replay.rs`.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anabranch::{
    ChannelSpec, Coordinator, Event, EventStream, Events, Faults, FoldError, LogEntry, MemoryStore,
    MessagePort, NodeId, PeerAddr, StateHandle, StateMaterializer, Store, StoreError, VersionVector,
};
use anabranch_sled::SledStore;
use anabranch_tcp::{TcpError, TcpPort};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use futures::{FutureExt as _, StreamExt as _};
use tokio::task::JoinHandle;

use crate::display::name;
use crate::lossy::LossyPort;
use crate::plan::Held;
use crate::replay::{Device, DeviceFault};
use crate::rng::Rng;
use crate::text::Document;

/// Name and secret of the channel. A secret in a source file is none; an application has its users share one.
const CHANNEL: (&str, &[u8]) = ("collaborate", b"known to all devices of this run");
const STREAM: &str = "document";
/// The system picks a free port.
const ANY_PORT: &str = "127.0.0.1:0";
/// How often a device looks who else is there.
const LOOK_AROUND: Duration = Duration::from_millis(100);
/// What a device that died held on to, its port and its store's lock, is free again within a moment: how often
/// and how long apart it is tried.
const TRIES: u32 = 50;
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// Folds entries into the document.
pub(crate) struct TextOf {
    /// The text before the first entry.
    start: Arc<str>,
}

impl StateMaterializer for TextOf {
    const NAME: &'static str = "text";
    const VERSION: u32 = 1;
    type State = Document;

    fn initial(&self) -> Document {
        Document::new(&self.start)
    }

    fn fold(&self, document: &mut Document, entry: &LogEntry) -> Result<(), FoldError> {
        Ok(document.apply(entry.payload())?)
    }

    fn save(&self, document: &Document) -> Option<Bytes> {
        Some(document.encode().into())
    }

    fn load(&self, saved: &[u8]) -> Option<Document> {
        Document::decode(saved).ok()
    }
}

/// Who exists, and who listens where.
#[derive(Default)]
pub(crate) struct Directory {
    /// In the order of the devices.
    cards: Mutex<Vec<Card>>,
    /// What the nodes reported: shown if the run fails.
    faults: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Card {
    node: NodeId,
    /// Where it listens while it is online.
    address: Option<PeerAddr>,
}

impl Directory {
    fn cards(&self) -> MutexGuard<'_, Vec<Card>> {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.cards().iter().map(|card| card.node).collect()
    }

    fn set(&self, device: usize, address: Option<PeerAddr>) {
        self.cards()[device].address = address;
    }

    /// What went wrong so far, one line each.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn online(&self) -> Vec<(NodeId, PeerAddr)> {
        self.cards().iter().filter_map(|card| Some((card.node, card.address.clone()?))).collect()
    }
}

/// Where a device keeps its entries.
pub(crate) enum Place {
    /// In this directory.
    Sled(PathBuf),
    /// In memory; outlives what is built over it, as a disk does.
    Memory(MemoryStore),
}

/// What all devices of a run have in common.
#[derive(Clone)]
pub(crate) struct Common {
    /// The text before the first entry.
    pub(crate) start: Arc<str>,
    /// Share of frames to lose.
    pub(crate) loss: f64,
    /// Draws them.
    pub(crate) seed: u64,
}

/// One author's device. Offline until it is told otherwise.
pub(crate) struct NodeDevice {
    index: usize,
    common: Common,
    directory: Arc<Directory>,
    place: Place,
    /// The port it listens at, the same in all its lives once the system picked it.
    address: String,
    /// How often it was opened.
    lives: u64,
    /// Bytes sent in earlier lives.
    sent_before: u64,
    /// `None` only while it is opened again, and if that failed.
    running: Option<Running>,
}

/// A device that is open.
struct Running {
    node: Coordinator,
    driver: JoinHandle<()>,
    stream: EventStream,
    text: StateHandle<TextOf>,
    /// Only one task can listen; the lock, never waited for, lets the others look at the device meanwhile.
    events: Mutex<Events>,
    listens_at: PeerAddr,
    /// Looks for the others, while online.
    search: Option<Task>,
    /// Collects what goes wrong.
    _faults: Task,
}

/// A task that ends when this is dropped.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Makes a device at each of `places`; each admits all others.
pub(crate) async fn open_all(
    places: Vec<Place>,
    common: &Common,
    directory: &Arc<Directory>,
) -> Result<Vec<NodeDevice>, DeviceFault> {
    let mut devices = Vec::with_capacity(places.len());
    for (index, place) in places.into_iter().enumerate() {
        let mut device = NodeDevice {
            index,
            common: common.clone(),
            directory: Arc::clone(directory),
            place,
            address: ANY_PORT.to_owned(),
            lives: 0,
            sent_before: 0,
            running: None,
        };
        device.open().await?;
        let node = device.running()?.node.node();
        directory.cards().push(Card { node, address: None });
        devices.push(device);
    }
    for device in &devices {
        let Running { node, stream, .. } = device.running()?;
        let channel = node.get_channel(&stream.channel_id()).ok_or("its channel is gone")?;
        for member in directory.nodes() {
            channel.add_member(member).await?;
        }
    }
    Ok(devices)
}

impl NodeDevice {
    fn running(&self) -> Result<&Running, DeviceFault> {
        self.running.as_ref().ok_or_else(|| "it could not be opened again".into())
    }

    /// Opens the store and a node over it.
    async fn open(&mut self) -> Result<(), DeviceFault> {
        let (port, listens_at) = self.listen().await?;
        self.lives += 1;
        let builder = match &self.place {
            Place::Sled(path) => Coordinator::builder(open_sled(path).await?),
            Place::Memory(store) => {
                let reopened = if self.lives > 1 { store.reopen()? } else { store.clone() };
                self.place = Place::Memory(reopened.clone());
                Coordinator::builder(reopened)
            }
        };
        // An application calls `start`, which spawns the driver; here its task has to die alone.
        let (node, driver) = builder.shared_port(port).build().await?;
        let driver = spawn(driver);
        node.stop().await?;
        let channel = node.channel(ChannelSpec::secret(CHANNEL.0, CHANNEL.1)?).await?;
        let stream = channel.stream(STREAM).await?;
        let text = stream.materialize(TextOf { start: Arc::clone(&self.common.start) }).await?;
        let events = Mutex::new(node.events());
        let _faults = Task(spawn(collect(node.errors(), name(self.index), Arc::clone(&self.directory))));
        self.running =
            Some(Running { node, driver, stream, text, events, listens_at, search: None, _faults });
        Ok(())
    }

    async fn listen(&mut self) -> Result<(Arc<dyn MessagePort>, PeerAddr), DeviceFault> {
        let mut tries = TRIES;
        let port = loop {
            match TcpPort::bind(&self.address).await {
                Ok(port) => break port,
                Err(TcpError::Listen { .. }) if self.lives > 0 && tries > 0 => tries -= 1,
                Err(fault) => return Err(fault.into()),
            }
            pause(TRY_AGAIN).await;
        };
        self.address = port.local_addr().ok_or("it does not listen")?.to_string();
        let Common { loss, seed, .. } = self.common;
        let port: Arc<dyn MessagePort> = if loss > 0.0 {
            let part = (self.index as u64) << 32 | self.lives;
            Arc::new(LossyPort::new(port, loss, Rng::part(seed, part)))
        } else {
            Arc::new(port)
        };
        Ok((port, self.address.as_str().into()))
    }

    /// Takes it away from the others, and counts what it sent in this life.
    fn take_down(&mut self) -> Result<Running, DeviceFault> {
        self.directory.set(self.index, None);
        let mut running = self.running.take().ok_or("it could not be opened again")?;
        running.search = None;
        self.sent_before += running.node.metrics().bytes_sent;
        Ok(running)
    }
}

#[async_trait]
impl Device for NodeDevice {
    async fn held(&self) -> Result<Held, DeviceFault> {
        let version = self.version().await?;
        let last = |node| version.tips(&node).last().map_or(0, |tip| tip.sequence);
        Ok(self.directory.nodes().into_iter().map(last).collect())
    }

    async fn version(&self) -> Result<VersionVector, DeviceFault> {
        Ok(self.running()?.stream.version())
    }

    async fn text(&self) -> Result<String, DeviceFault> {
        let text = &self.running()?.text;
        let document = text.get().await?;
        match text.refused() {
            0 => Ok(document.text()),
            refused => Err(format!("{refused} entries are no updates of a document").into()),
        }
    }

    async fn write(&mut self, payloads: Vec<Bytes>) -> Result<(), DeviceFault> {
        let stream = &self.running()?.stream;
        // Each keystroke is an append of its own, and none waits until the one before is on the disk.
        try_join_all(payloads.into_iter().map(|payload| stream.append(payload))).await?;
        Ok(())
    }

    async fn set_online(&mut self, online: bool) -> Result<(), DeviceFault> {
        let running = self.running.as_mut().ok_or("it could not be opened again")?;
        if online {
            running.node.start().await?;
            self.directory.set(self.index, Some(running.listens_at.clone()));
            let search = search(running.node.clone(), Arc::clone(&self.directory));
            running.search = Some(Task(spawn(search)));
        } else {
            self.directory.set(self.index, None);
            running.search = None;
            running.node.stop().await?;
        }
        Ok(())
    }

    async fn kill_and_reopen(&mut self, unfinished: Option<Bytes>) -> Result<(), DeviceFault> {
        let running = self.take_down()?;
        if let Some(payload) = unfinished {
            let mut append = pin!(running.stream.append(payload));
            // Polled once: handed to the store, and nobody waits for what it comes to.
            let _ = append.as_mut().now_or_never();
        }
        // Without its task the node can neither say goodbye nor finish anything. The writing thread of the store
        // cannot be ended from within its process: it completes what it was handed.
        running.driver.abort();
        let Running { node, driver, stream, text, events, .. } = running;
        let _cancelled = driver.await;
        if let Place::Memory(store) = &self.place {
            store.close().await?;
        }
        // The last handle waits for that thread.
        tokio::task::spawn_blocking(move || drop((events, text, stream, node))).await?;
        self.open().await
    }

    async fn close_and_reopen(&mut self) -> Result<(), DeviceFault> {
        let running = self.take_down()?;
        running.node.close().await?;
        running.driver.await?;
        self.open().await
    }

    async fn arrival(&mut self) {
        let Some(running) = &mut self.running else { return };
        let events = running.events.get_mut().unwrap_or_else(PoisonError::into_inner);
        while let Some(event) = events.next().await {
            if let Event::EntriesMerged { .. } = event {
                return;
            }
        }
    }

    fn bytes_sent(&self) -> u64 {
        let now = self.running.as_ref().map_or(0, |running| running.node.metrics().bytes_sent);
        self.sent_before + now
    }

    async fn standing(&self) -> String {
        let Ok(Running { node, stream, .. }) = self.running() else { return "it is not open".to_owned() };
        let mut parts =
            vec![format!("{:?}, holds {:?}", node.state(), self.held().await.unwrap_or_default())];
        for peer in node.peers() {
            let why = match node.explain(&peer.node, stream).await {
                Ok(why) => format!("{why:?}"),
                Err(error) => error.to_string(),
            };
            parts.push(format!("{:?}: {why}", peer.node));
        }
        match node.sync_status().await {
            Ok(status) => parts.push(format!("{status:?}")),
            Err(error) => parts.push(error.to_string()),
        }
        parts.join("; ")
    }
}

/// Writes down what the node of a device reports.
async fn collect(mut faults: Faults, device: String, directory: Arc<Directory>) {
    while let Some(fault) = faults.next().await {
        let line = format!("{device}: {fault:?}");
        directory.faults.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

/// Meets whoever is online and was not met before. Those who were met, the node finds again by itself.
async fn search(node: Coordinator, directory: Arc<Directory>) {
    loop {
        for (other, address) in directory.online() {
            let known = node.peer(&other).is_some_and(|peer| peer.reachable || !peer.addresses.is_empty());
            if other != node.node() && !known {
                // Whoever went offline meanwhile, or lost a frame too many, is met at the next look.
                let _ = node.meet(address).await;
            }
        }
        pause(LOOK_AROUND).await;
    }
}

async fn open_sled(path: &PathBuf) -> Result<SledStore, StoreError> {
    let mut tries = TRIES;
    loop {
        match SledStore::open(path).await {
            Err(StoreError::InUse(_)) if tries > 0 => tries -= 1,
            outcome => return outcome,
        }
        pause(TRY_AGAIN).await;
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "an application spawns what it likes; the library's engines may not"
)]
fn spawn(future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(future)
}

#[allow(clippy::disallowed_methods, reason = "a demonstration runs in real time")]
async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
