//! automerge: one document, a change per entry; its sync protocol, messages encoded and decoded.

use automerge::sync::{Message, State, SyncDoc as _};
use automerge::transaction::Transactable as _;
use automerge::{ActorId, AutoCommit, ObjType, ROOT, ReadDoc as _, ScalarValue};
use tokio::runtime::Handle;

use super::{Counts, Outcome, Spec, System, Traffic, payload};

pub(super) const SPEC: Spec = Spec {
    name: "automerge",
    package: "automerge",
    make,
    trips_apart: false,
    live: None,
    omits: "no signatures, no persistence, no flow control. It does: a hash of each change. What both sides know to be shared is \
            kept between meetings, as its documentation asks. It has no network of its own.",
};

struct Automerge {
    first: AutoCommit,
    second: AutoCommit,
    /// What each knows of the other: of the first, of the second.
    states: (State, State),
    authors: usize,
    streams: usize,
    counts: Counts,
}

/// Documents with one list per author and stream.
fn make(_: Handle, authors: usize, streams: usize, _: bool) -> Outcome<Box<dyn System>> {
    let mut first = AutoCommit::new();
    for author in 0..authors {
        for stream in 0..streams {
            first.put_object(ROOT, name(author, stream), ObjType::List)?;
        }
    }
    first.commit();
    let second = AutoCommit::load(&first.save())?;
    let states = (State::new(), State::new());
    Ok(Box::new(Automerge { first, second, states, authors, streams, counts: Counts::new(authors, streams) }))
}

fn name(author: usize, stream: usize) -> String {
    format!("{author}-{stream}")
}

/// What is left of a state when a link ends.
fn kept(state: &State) -> Outcome<State> {
    Ok(State::decode(&state.encode())?)
}

impl System for Automerge {
    fn append(&mut self, author: usize, parts: &[(usize, usize)]) -> Outcome<()> {
        self.first.set_actor(ActorId::from([author as u8 + 1; 16].as_slice()));
        for (stream, entries) in parts {
            let Some((_, list)) = self.first.get(ROOT, name(author, *stream))? else {
                return Err("no list".into());
            };
            for _ in 0..*entries {
                let number = self.counts.next(author, *stream);
                let bytes = ScalarValue::Bytes(payload(author, *stream, number));
                self.first.insert(&list, number as usize, bytes)?;
                self.first.commit();
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Outcome<Traffic> {
        let (mut ours, mut theirs) = (kept(&self.states.0)?, kept(&self.states.1)?);
        let (mut bytes, mut exchanges, mut trips) = (0, 0.0, None);
        loop {
            let mut quiet = true;
            if let Some(message) = self.second.sync().generate_sync_message(&mut theirs) {
                let encoded = message.encode();
                (bytes, exchanges, quiet) = (bytes + encoded.len() as u64, exchanges + 1.0, false);
                self.first.sync().receive_sync_message(&mut ours, Message::decode(&encoded)?)?;
            }
            if let Some(message) = self.first.sync().generate_sync_message(&mut ours) {
                let encoded = message.encode();
                (bytes, quiet) = (bytes + encoded.len() as u64, false);
                self.second.sync().receive_sync_message(&mut theirs, Message::decode(&encoded)?)?;
            }
            if trips.is_none() && self.second.get_heads() == self.first.get_heads() {
                trips = Some(exchanges);
            }
            if quiet {
                self.states = (ours, theirs);
                return Ok(Traffic { bytes, trips });
            }
        }
    }

    fn held(&mut self) -> Outcome<u64> {
        let mut held = 0;
        for author in 0..self.authors {
            for stream in 0..self.streams {
                if let Some((_, list)) = self.second.get(ROOT, name(author, stream))? {
                    held += self.second.length(&list) as u64;
                }
            }
        }
        Ok(held)
    }
}
