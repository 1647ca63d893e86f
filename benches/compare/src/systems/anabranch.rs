//! anabranch: whole nodes with drivers on an in-memory port, memory stores.
//!
//! Round trips are counted in a run of their own over a link with delay: the time from the first comparison until the
//! second node holds everything (where nothing is new: until a comparison found both equal), in units of the delay.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch::application::ports::NodeRepository as _;
use anabranch::infrastructure::link_profile::{Delay, LinkProfile};
use anabranch::{Arrival, Coordinator, Identity, MemoryNetwork, MemoryStore, PeerAddr, SystemTimer};
use anabranch_tcp::TcpPort;
use tokio::runtime::Handle;

use super::{Counts, Outcome, Spec, System, Traffic, payload};
use crate::stage::{Measure, Probe, micros, stamp};

pub(super) const SPEC: Spec = Spec {
    name: "anabranch",
    package: "anabranch",
    make,
    trips_apart: true,
    live: Some(live),
    omits: "no encryption on the in-memory port, nothing synced to disk (memory store). It does: whole nodes with their drivers, \
            greetings, flow control, every entry hashed, a signature per run and block checked, one total order, the \
            comparison that confirms. The authors are nodes of their own in the same process, so its memory holds every entry \
            three times. Live it does all: TCP on loopback with encrypted sessions.",
};

const CHANNEL: &str = "compare";
/// Entries that an author appends at once.
const BATCH: usize = 1_000;
/// One way, where round trips are counted.
const DELAY: Duration = Duration::from_millis(150);

struct Node {
    node: Coordinator,
    address: PeerAddr,
}

/// Authors, one node that holds all, one that fetches.
struct Group {
    authors: Vec<Node>,
    first: Node,
    second: Node,
    counts: Counts,
    met: bool,
}

struct Anabranch {
    runtime: Handle,
    group: Group,
    /// The link has a delay: time tells round trips.
    delayed: bool,
}

/// Two nodes and the authors.
fn make(runtime: Handle, authors: usize, streams: usize, delayed: bool) -> Outcome<Box<dyn System>> {
    let delay = if delayed { DELAY } else { Duration::ZERO };
    let group = runtime.block_on(Group::new(authors, streams, delay))?;
    Ok(Box::new(Anabranch { runtime, group, delayed }))
}

fn name(stream: usize) -> String {
    format!("stream-{stream}")
}

impl Group {
    async fn new(authors: usize, streams: usize, delay: Duration) -> Outcome<Self> {
        let profile = LinkProfile { queue_bytes: 64 << 20, ..LinkProfile::perfect() }.reliable();
        let network = MemoryNetwork::with_model(profile, 1, Arc::new(SystemTimer::new()));
        let mut all = Vec::new();
        for author in 0..authors + 2 {
            let store = MemoryStore::new(Identity::from_secret([author as u8 + 1; 32]));
            let name = format!("node-{author}");
            let port = network.proven_port(&name, store.identity().node());
            let node = Coordinator::builder(store).port(port).start().await?;
            node.channel(CHANNEL).await?.open_to_all().await?;
            all.push(Node { node, address: PeerAddr::new(name) });
        }
        let (second, first) = (all.pop().ok_or("no node")?, all.pop().ok_or("no node")?);
        if !delay.is_zero() {
            let profile = LinkProfile { delay: Delay::fixed(delay), ..profile };
            network.set_profile(first.address.as_str(), second.address.as_str(), profile)?;
        }
        Ok(Self { authors: all, first, second, counts: Counts::new(authors, streams), met: false })
    }

    /// Appends at an author, and brings that to the node that holds all.
    async fn append(&mut self, author: usize, parts: &[(usize, usize)]) -> Outcome<()> {
        let entries: usize = parts.iter().map(|(_, entries)| entries).sum();
        if entries == 0 {
            return Ok(());
        }
        let node = &self.authors[author].node;
        let channel = node.channel(CHANNEL).await?;
        for (stream, entries) in parts {
            let log = channel.stream(name(*stream).as_str()).await?;
            let payloads: Vec<_> =
                (0..*entries).map(|_| payload(author, *stream, self.counts.next(author, *stream))).collect();
            for batch in payloads.chunks(BATCH) {
                log.append_batch(batch.iter().cloned()).await?;
            }
        }
        let expected = self.first.node.metrics().entries_merged + entries as u64;
        // Paused, it gives and takes nothing.
        node.pause().await?;
        let _met_already = node.meet(self.first.address.clone()).await;
        until(|| self.first.node.metrics().entries_merged >= expected).await?;
        Ok(node.stop().await?)
    }

    async fn sync(&mut self) -> Outcome<(u64, Duration)> {
        let both = [&self.first.node, &self.second.node];
        let sent = || both.iter().map(|node| node.metrics().bytes_sent).sum::<u64>();
        let equal = || both.iter().map(|node| node.metrics().comparisons_equal).sum::<u64>();
        let compared = || both.iter().map(|node| node.metrics().comparisons).sum::<u64>();
        let (bytes, agreed, asked) = (sent(), equal(), compared());
        let total = both[0].metrics().entries_merged;
        if self.met {
            both[1].start().await?;
        } else {
            both[1].meet(self.first.address.clone()).await?;
        }
        let took = if both[1].metrics().entries_merged == total {
            // What both announce tells both, and nobody compares.
            until(|| equal() >= agreed + 2).await?;
            Duration::ZERO
        } else {
            until(|| compared() > asked).await?;
            let begun = Instant::now();
            until(|| both[1].metrics().entries_merged >= total).await?;
            let took = begun.elapsed();
            until(|| equal() > agreed).await?;
            took
        };
        let bytes = sent() - bytes;
        both[1].stop().await?;
        self.met = true;
        Ok((bytes, took))
    }
}

async fn until(mut done: impl FnMut() -> bool) -> Outcome<()> {
    for _ in 0..600_000 {
        if done() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err("gave up waiting".into())
}

impl System for Anabranch {
    fn append(&mut self, author: usize, parts: &[(usize, usize)]) -> Outcome<()> {
        self.runtime.clone().block_on(self.group.append(author, parts))
    }

    fn sync(&mut self) -> Outcome<Traffic> {
        let (bytes, took) = self.runtime.clone().block_on(self.group.sync())?;
        let trips = self.delayed.then(|| took.as_secs_f64() / (2.0 * DELAY.as_secs_f64()));
        Ok(Traffic { bytes, trips })
    }

    fn held(&mut self) -> Outcome<u64> {
        Ok(self.group.second.node.metrics().entries_merged)
    }
}

/// From append on one node to the event on another: TCP on loopback, sessions on.
fn live(runtime: &Handle, entries: usize, rate: usize) -> Outcome<Vec<Measure>> {
    runtime.block_on(async {
        let mut nodes = Vec::new();
        for secret in [1, 2] {
            let port = TcpPort::options().bind("127.0.0.1:0").await?;
            let address = PeerAddr::new(port.local_addr().map(|at| at.to_string()).unwrap_or_default());
            let store = MemoryStore::new(Identity::from_secret([secret; 32]));
            let node = Coordinator::builder(store).port(port).start().await?;
            node.channel(CHANNEL).await?.open_to_all().await?;
            nodes.push(Node { node, address });
        }
        let [writer, reader] = &nodes[..] else { return Err("two nodes".into()) };
        let stream = writer.node.channel(CHANNEL).await?.stream(name(0).as_str()).await?;
        let there = reader.node.channel(CHANNEL).await?.stream(name(0).as_str()).await?;
        writer.node.meet(reader.address.clone()).await?;
        stream.append("first").await?;
        until(|| there.len() > 0).await?;
        // What follows a meeting is over by then.
        tokio::time::sleep(Duration::from_millis(600)).await;
        let mut feed = there.subscribe(there.version());
        let sent = || writer.node.metrics().bytes_sent + reader.node.metrics().bytes_sent;
        let (bytes, since) = (sent(), Instant::now());
        let probe = Probe::begin();
        let appending = tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / rate as f64));
            for number in 0..entries {
                pace.tick().await;
                let mut payload = payload(0, 0, number as u64);
                stamp(since, &mut payload);
                stream.append(payload).await?;
            }
            Outcome::Ok(())
        });
        let mut latencies = Vec::with_capacity(entries);
        while latencies.len() < entries {
            if let Arrival::Entry { entry, .. } = feed.next().await.ok_or("the subscription ended")?? {
                latencies.extend(micros(since, entry.payload()));
            }
        }
        appending.await??;
        let mut measure = probe.end("live", entries as u64).latencies(latencies);
        measure.bytes = Some(sent() - bytes);
        measure.trips = Some(0.5);
        for node in nodes {
            node.node.close().await?;
        }
        Ok(vec![measure])
    })
}
