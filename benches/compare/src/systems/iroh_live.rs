//! iroh-docs from insert on one node to the event on another: its engine, gossip and blobs, QUIC on loopback, no relay.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use iroh::endpoint::presets;
use iroh::protocol::Router;
use iroh::{Endpoint, RelayMode};
use iroh_blobs::store::mem::MemStore;
use iroh_blobs::{BlobsProtocol, Hash};
use iroh_docs::api::protocol::{AddrInfoOptions, ShareMode};
use iroh_docs::engine::LiveEvent;
use iroh_docs::protocol::Docs;
use iroh_gossip::net::Gossip;
use tokio::runtime::Handle;

use super::iroh::text;
use super::{Outcome, payload};
use crate::stage::{Measure, Probe};

/// Longest time between two events.
const PATIENCE: Duration = Duration::from_secs(20);

async fn node() -> Outcome<(Router, Docs)> {
    let endpoint =
        Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Disabled).bind().await.map_err(text)?;
    let blobs = MemStore::new();
    let gossip = Gossip::builder().spawn(endpoint.clone());
    let docs =
        Docs::memory().spawn(endpoint.clone(), (*blobs).clone(), gossip.clone()).await.map_err(text)?;
    let router = Router::builder(endpoint)
        .accept(iroh_blobs::ALPN, BlobsProtocol::new(&blobs, None))
        .accept(iroh_gossip::ALPN, gossip)
        .accept(iroh_docs::ALPN, docs.clone())
        .spawn();
    Ok((router, docs))
}

/// Two figures: until the entry is there, which names its content by a hash, and until the content is.
pub(super) fn live(runtime: &Handle, entries: usize, rate: usize) -> Outcome<Vec<Measure>> {
    runtime.block_on(async {
        let (writer, reader) = (node().await?, node().await?);
        let author = writer.1.author_create().await.map_err(text)?;
        let doc = writer.1.create().await.map_err(text)?;
        let ticket = doc.share(ShareMode::Write, AddrInfoOptions::Addresses).await.map_err(text)?;
        let (_replica, mut events) = reader.1.import_and_subscribe(ticket).await.map_err(text)?;
        // Both are in one swarm, and what a meeting costs is over.
        doc.set_bytes(author, "first", "first").await.map_err(text)?;
        while !matches!(next(&mut events).await?, LiveEvent::ContentReady { .. }) {}
        tokio::time::sleep(Duration::from_millis(600)).await;
        let since = Instant::now();
        // When the entry with this content was inserted, in microseconds.
        let begun: Arc<Mutex<BTreeMap<Hash, f64>>> = Arc::default();
        let noted = Arc::clone(&begun);
        let probe = Probe::begin();
        let inserting = tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_secs_f64(1.0 / rate as f64));
            for number in 0..entries as u64 {
                pace.tick().await;
                let payload = payload(0, 0, number);
                let hash = Hash::new(&payload);
                noted.lock().map_err(text)?.insert(hash, since.elapsed().as_secs_f64() * 1e6);
                doc.set_bytes(author, number.to_be_bytes().to_vec(), payload).await.map_err(text)?;
            }
            Outcome::Ok(())
        });
        let passed = |hash: &Hash| -> Outcome<Option<f64>> {
            let begun = begun.lock().map_err(text)?.get(hash).copied();
            Ok(begun.map(|begun| since.elapsed().as_secs_f64() * 1e6 - begun))
        };
        let (mut known, mut ready) = (Vec::new(), Vec::new());
        while ready.len() < entries || known.len() < entries {
            match next(&mut events).await? {
                LiveEvent::InsertRemote { entry, .. } => known.extend(passed(&entry.content_hash())?),
                LiveEvent::ContentReady { hash } => ready.extend(passed(&hash)?),
                _ => {}
            }
        }
        inserting.await??;
        // Both figures are of one run, so the processor time of the content is in both.
        let measure = probe.end("live", entries as u64);
        let entry = Measure { variant: "entry without its content".into(), ..measure.clone() };
        for (router, _) in [writer, reader] {
            router.shutdown().await.map_err(text)?;
        }
        Ok(vec![measure.latencies(ready), entry.latencies(known)])
    })
}

async fn next<E: std::fmt::Display>(
    events: &mut (impl Stream<Item = Result<LiveEvent, E>> + Unpin),
) -> Outcome<LiveEvent> {
    let event = tokio::time::timeout(PATIENCE, events.next()).await.map_err(|_| "an entry did not arrive")?;
    event.ok_or("the subscription ended")?.map_err(text)
}
