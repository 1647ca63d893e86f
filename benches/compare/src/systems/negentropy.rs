//! negentropy: ranges of ids, then the entries it found missing, encoded plainly and hashed on arrival.

use std::collections::BTreeMap;

use negentropy::{Id, Negentropy, NegentropyStorageVector};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{Counts, Outcome, Spec, System, Traffic, payload};

pub(super) const SPEC: Spec = Spec {
    name: "negentropy",
    package: "negentropy",
    make,
    trips_apart: false,
    live: None,
    omits: "no signatures, no persistence, no flow control; it only finds ids: request, encoding, a hash of each entry on arrival \
            and the map that holds them are ours; sorting the ids of the new entries before the reconciliation is counted on the \
            side that fetches only. It has no network of its own.",
};

/// Frame limit, as our own ports have it.
const FRAME: u64 = 64 << 10;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    author: [u8; 16],
    stream: u32,
    sequence: u64,
    time: u64,
    #[serde(with = "serde_bytes")]
    payload: Vec<u8>,
}

type Held = BTreeMap<[u8; 32], Entry>;

struct Ranges {
    first: (NegentropyStorageVector, Held),
    second: (NegentropyStorageVector, Held),
    counts: Counts,
    time: u64,
}

/// Two sets of ids and entries.
fn make(_: Handle, authors: usize, streams: usize, _: bool) -> Outcome<Box<dyn System>> {
    let side = || (NegentropyStorageVector::new(), Held::new());
    Ok(Box::new(Ranges {
        first: side(),
        second: side(),
        counts: Counts::new(authors, streams),
        time: 1 << 60,
    }))
}

fn id_of(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

impl System for Ranges {
    fn append(&mut self, author: usize, parts: &[(usize, usize)]) -> Outcome<()> {
        let _may_be_open_already = self.first.0.unseal();
        for (stream, entries) in parts {
            for _ in 0..*entries {
                self.time += 1 << 20;
                let sequence = self.counts.next(author, *stream);
                let payload = payload(author, *stream, sequence);
                let entry = Entry {
                    author: [author as u8; 16],
                    stream: *stream as u32,
                    sequence,
                    time: self.time,
                    payload,
                };
                let id = id_of(&postcard::to_stdvec(&entry)?);
                self.first.0.insert(self.time, Id::from_byte_array(id))?;
                self.first.1.insert(id, entry);
            }
        }
        self.first.0.seal()?;
        let _may_be_sealed_already = self.second.0.seal();
        Ok(())
    }

    fn sync(&mut self) -> Outcome<Traffic> {
        let mut bytes = 0;
        let mut trips = 0.0;
        let mut wanted = Vec::new();
        {
            let mut asking = Negentropy::borrowed(&self.second.0, FRAME)?;
            let mut answering = Negentropy::borrowed(&self.first.0, FRAME)?;
            let mut query = Some(asking.initiate()?);
            let mut unasked = Vec::new();
            while let Some(message) = query {
                let answer = answering.reconcile(&message)?;
                bytes += (message.len() + answer.len()) as u64;
                trips += 1.0;
                query = asking.reconcile_with_ids(&answer, &mut unasked, &mut wanted)?;
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        if !wanted.is_empty() {
            trips += 1.0;
        }
        self.second.0.unseal()?;
        for id in wanted {
            let id = id.to_bytes();
            let Some(entry) = self.first.1.get(&id) else { return Err("an id that nobody holds".into()) };
            let encoded = postcard::to_stdvec(entry)?;
            bytes += (id.len() + encoded.len()) as u64;
            let entry: Entry = postcard::from_bytes(&encoded)?;
            if id_of(&encoded) != id {
                return Err("an entry that is not what was asked for".into());
            }
            self.second.0.insert(entry.time, Id::from_byte_array(id))?;
            self.second.1.insert(id, entry);
        }
        self.second.0.seal()?;
        Ok(Traffic { bytes, trips: Some(trips) })
    }

    fn held(&mut self) -> Outcome<u64> {
        Ok(self.second.1.len() as u64)
    }
}
