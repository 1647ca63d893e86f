//! yrs: a document per author and one that merges them; state vector, difference, apply.

use std::sync::Arc;

use tokio::runtime::Handle;
use yrs::updates::decoder::Decode as _;
use yrs::updates::encoder::Encode as _;
use yrs::{Any, Array as _, Doc, ReadTxn as _, StateVector, Transact as _, Update};

use super::{Counts, Outcome, Spec, System, Traffic, payload};

pub(super) const SPEC: Spec = Spec {
    name: "yrs",
    package: "yrs",
    make,
    trips_apart: false,
    live: None,
    omits: "no hashes, no signatures, no persistence, no flow control (one update of any size), no proof of who wrote what: \
            the floor of state vectors. It has no network of its own.",
};

struct Yrs {
    authors: Vec<Doc>,
    counts: Counts,
    streams: usize,
    first: Doc,
    second: Doc,
}

/// Documents with an array of binaries per stream.
fn make(_: Handle, authors: usize, streams: usize, _: bool) -> Outcome<Box<dyn System>> {
    let authors: Vec<Doc> = (0..authors as u64).map(|author| Doc::with_client_id(author + 10)).collect();
    let counts = Counts::new(authors.len(), streams);
    Ok(Box::new(Yrs {
        authors,
        counts,
        streams,
        first: Doc::with_client_id(1),
        second: Doc::with_client_id(2),
    }))
}

/// What `to` lacks of `from`, there and applied; the bytes of both messages.
fn bring(from: &Doc, to: &Doc) -> Outcome<u64> {
    let vector = to.transact().state_vector().encode_v1();
    let known = StateVector::decode_v1(&vector)?;
    let update = from.transact().encode_diff_v1(&known);
    to.transact_mut().apply_update(Update::decode_v1(&update)?)?;
    Ok((vector.len() + update.len()) as u64)
}

fn name(stream: usize) -> String {
    format!("stream-{stream}")
}

impl System for Yrs {
    fn append(&mut self, author: usize, parts: &[(usize, usize)]) -> Outcome<()> {
        let doc = &self.authors[author];
        for (stream, entries) in parts {
            let list = doc.get_or_insert_array(name(*stream));
            for _ in 0..*entries {
                let number = self.counts.next(author, *stream);
                let mut transaction = doc.transact_mut();
                list.push_back(&mut transaction, Any::Buffer(Arc::from(payload(author, *stream, number))));
            }
        }
        bring(doc, &self.first)?;
        Ok(())
    }

    fn sync(&mut self) -> Outcome<Traffic> {
        Ok(Traffic { bytes: bring(&self.first, &self.second)?, trips: Some(1.0) })
    }

    fn held(&mut self) -> Outcome<u64> {
        let lists: Vec<_> =
            (0..self.streams).map(|stream| self.second.get_or_insert_array(name(stream))).collect();
        let transaction = self.second.transact();
        Ok(lists.iter().map(|list| u64::from(list.len(&transaction))).sum())
    }
}
