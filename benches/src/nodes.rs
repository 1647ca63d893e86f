//! Nodes to measure with.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use anabranch::application::ports::NodeRepository as _;
use anabranch::{Coordinator, EventStream, Identity, MemoryNetwork, MemoryStore, MessagePort, PeerAddr};
use anabranch_sled::SledStore;
use anabranch_tcp::TcpPort;

use super::options::{Port, Store};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Bytes of payload: the size that the peers were measured with.
pub(crate) const PAYLOAD: usize = 100;
/// Entries per batch of the preparation.
const BATCH: usize = 1_000;
const CHANNEL: &str = "bench";

/// The world the nodes meet in.
pub(crate) struct World {
    network: MemoryNetwork,
    port: Port,
    store: Store,
    directory: tempfile::TempDir,
    next: u8,
}

/// A node and where it is reached.
pub(crate) struct Device {
    pub(crate) node: Coordinator,
    pub(crate) address: PeerAddr,
}

impl World {
    pub(crate) fn new(port: Port, store: Store) -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        Ok(Self { network: MemoryNetwork::new(), port, store, directory, next: 1 })
    }

    /// A node on the port and store to be measured.
    pub(crate) async fn device(&mut self) -> Outcome<Device> {
        let (port, store) = (self.port, self.store);
        self.device_on(port, store).await
    }

    /// A node in memory, for preparing.
    pub(crate) async fn helper(&mut self) -> Outcome<Device> {
        self.device_on(Port::Memory, Store::Memory).await
    }

    async fn device_on(&mut self, port: Port, store: Store) -> Outcome<Device> {
        let number = self.next;
        self.next += 1;
        let name = format!("device-{number}");
        let (builder, node) = match store {
            Store::Memory => {
                let store = MemoryStore::new(Identity::from_secret([number; 32]));
                let node = store.identity().node();
                (Coordinator::builder(store), node)
            }
            Store::Sled => {
                let store = SledStore::open(self.directory.path().join(&name)).await?;
                let node = store.identity().node();
                (Coordinator::builder(store), node)
            }
        };
        // Every node has a memory port as well, for preparing.
        let memory = self.network.proven_port(&name, node);
        let (builder, address) = match port {
            Port::Memory => (builder.port(memory), PeerAddr::new(&name)),
            Port::Tcp => {
                let tcp = TcpPort::bind("127.0.0.1:0").await?;
                let address = PeerAddr::new(tcp.local_addr().map(|at| at.to_string()).unwrap_or_default());
                let tcp: Arc<dyn MessagePort> = Arc::new(tcp);
                (builder.shared_port(tcp).port(memory), address)
            }
        };
        let node = builder.start().await?;
        node.channel(CHANNEL).await?.open_to_all().await?;
        Ok(Device { node, address })
    }

    /// The name under which a node is reached in memory.
    pub(crate) fn memory_address(number: u8) -> PeerAddr {
        PeerAddr::new(format!("device-{number}"))
    }

    /// Number of the device made last.
    pub(crate) fn last(&self) -> u8 {
        self.next - 1
    }
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
            stream.append_batch((0..batch).map(|n| vec![(left + n) as u8; PAYLOAD])).await?;
            left -= batch;
        }
        Ok(())
    }

    pub(crate) fn entries(&self) -> u64 {
        self.node.resource_usage().entries
    }
}

/// Waits until `done`.
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
