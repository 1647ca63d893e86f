//! loro: one document, a commit per entry; version vector, updates since, import.

use loro::{ExportMode, LoroDoc, LoroValue, VersionVector};
use tokio::runtime::Handle;

use super::{Counts, Outcome, Spec, System, Traffic, payload};

pub(super) const SPEC: Spec = Spec {
    name: "loro",
    package: "loro",
    make,
    trips_apart: false,
    live: None,
    omits: "no signatures, no hash of each entry, no persistence, no flow control (one update of any size). It has no network of \
            its own.",
};

struct Loro {
    first: LoroDoc,
    second: LoroDoc,
    counts: Counts,
    streams: usize,
}

/// Documents with a list of binaries per stream.
fn make(_: Handle, authors: usize, streams: usize, _: bool) -> Outcome<Box<dyn System>> {
    let counts = Counts::new(authors, streams);
    Ok(Box::new(Loro { first: LoroDoc::new(), second: LoroDoc::new(), counts, streams }))
}

fn name(stream: usize) -> String {
    format!("stream-{stream}")
}

impl System for Loro {
    fn append(&mut self, author: usize, parts: &[(usize, usize)]) -> Outcome<()> {
        self.first.set_peer_id(author as u64 + 10)?;
        for (stream, entries) in parts {
            let list = self.first.get_list(name(*stream));
            for _ in 0..*entries {
                list.push(LoroValue::from(payload(author, *stream, self.counts.next(author, *stream))))?;
                self.first.commit();
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Outcome<Traffic> {
        let vector = self.second.oplog_vv().encode();
        let known = VersionVector::decode(&vector)?;
        let update = self.first.export(ExportMode::updates(&known))?;
        self.second.import(&update)?;
        Ok(Traffic { bytes: (vector.len() + update.len()) as u64, trips: Some(1.0) })
    }

    fn held(&mut self) -> Outcome<u64> {
        Ok((0..self.streams).map(|stream| self.second.get_list(name(stream)).len() as u64).sum())
    }
}
