//! iroh-docs: its range reconciliation between two replicas in memory, driven without network, messages as postcard.

use iroh_docs::store::Store;
use iroh_docs::{Author, NamespaceSecret, SyncOutcome};
use tokio::runtime::Handle;

use super::{Counts, Outcome, Spec, System, Traffic, iroh_live, payload};

pub(super) const SPEC: Spec = Spec {
    name: "iroh-docs",
    package: "iroh-docs",
    make,
    trips_apart: false,
    live: Some(iroh_live::live),
    omits: "the 100 bytes of content are not transferred (it syncs their hashes; blobs fetch them, which is not in these figures \
            but in those of live latency), no encryption, no flow control, nothing synced to disk. It does: two signatures per \
            entry checked, a database in memory. Live, it does all: QUIC with encryption on loopback, content fetched apart.",
};

struct Docs {
    runtime: Handle,
    namespace: NamespaceSecret,
    authors: Vec<Author>,
    counts: Counts,
    first: Store,
    second: Store,
}

/// Two stores in memory.
fn make(runtime: Handle, authors: usize, streams: usize, _: bool) -> Outcome<Box<dyn System>> {
    let namespace = NamespaceSecret::from_bytes(&[9; 32]);
    let (mut first, mut second) = (Store::memory(), Store::memory());
    first.new_replica(namespace.clone()).map_err(text)?;
    second.new_replica(namespace.clone()).map_err(text)?;
    first.close_replica(namespace.id());
    second.close_replica(namespace.id());
    let counts = Counts::new(authors, streams);
    let authors = (0..authors).map(|author| Author::from_bytes(&[author as u8 + 1; 32])).collect();
    Ok(Box::new(Docs { runtime, namespace, authors, counts, first, second }))
}

/// Errors of these crates are not all standard ones.
pub(super) fn text(error: impl std::fmt::Display) -> Box<dyn std::error::Error + Send + Sync> {
    error.to_string().into()
}

impl System for Docs {
    fn append(&mut self, author: usize, parts: &[(usize, usize)]) -> Outcome<()> {
        let key = &self.authors[author];
        let mut replica = self.first.open_replica(&self.namespace.id()).map_err(text)?;
        for (stream, entries) in parts {
            for _ in 0..*entries {
                let number = self.counts.next(author, *stream);
                let name = [(*stream as u32).to_be_bytes().as_slice(), &number.to_be_bytes()].concat();
                let insert = replica.hash_and_insert(name, key, payload(author, *stream, number));
                self.runtime.block_on(insert).map_err(text)?;
            }
        }
        drop(replica);
        self.first.close_replica(self.namespace.id());
        Ok(())
    }

    fn sync(&mut self) -> Outcome<Traffic> {
        let (mut bytes, mut trips) = (0, 0.0);
        let (mut sent, mut received) = (SyncOutcome::default(), SyncOutcome::default());
        let id = self.namespace.id();
        {
            let mut first = self.first.open_replica(&id).map_err(text)?;
            let mut second = self.second.open_replica(&id).map_err(text)?;
            let mut query = Some(postcard::to_stdvec(&second.sync_initial_message().map_err(text)?)?);
            while let Some(message) = query.take() {
                bytes += message.len() as u64;
                let message = postcard::from_bytes(&message)?;
                let answer = first.sync_process_message(message, [2; 32], &mut sent);
                let Some(answer) = self.runtime.block_on(answer).map_err(text)? else { break };
                let answer = postcard::to_stdvec(&answer)?;
                bytes += answer.len() as u64;
                trips += 1.0;
                let answer = postcard::from_bytes(&answer)?;
                let reply = second.sync_process_message(answer, [1; 32], &mut received);
                query = match self.runtime.block_on(reply).map_err(text)? {
                    Some(reply) => Some(postcard::to_stdvec(&reply)?),
                    None => None,
                };
            }
        }
        self.first.close_replica(id);
        self.second.close_replica(id);
        // Where nothing is new the answer is the end of the stream.
        Ok(Traffic { bytes, trips: Some(f64::max(trips, 1.0)) })
    }

    fn held(&mut self) -> Outcome<u64> {
        let id = self.namespace.id();
        let all = self.second.get_many(id, iroh_docs::store::Query::all()).map_err(text)?;
        Ok(all.count() as u64)
    }
}
