//! What a node tells `tracing`: spans around its driver, its connecting and its merges; events and faults as they are.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::fmt;
use std::sync::{Arc, Mutex};

use anabranch::MemoryNetwork;
use common::{agree, devices, share, write};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Keeps a line for each span and event, with its fields.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!(" {}={value:?}", field.name());
    }
}

impl Told {
    fn tell(&self, what: &Metadata<'_>, record: impl FnOnce(&mut Line)) -> Id {
        let mut line = Line(format!("{} {}", what.target(), if what.is_span() { what.name() } else { "" }));
        record(&mut line);
        let mut told = self.0.lock().unwrap();
        told.push(line.0);
        Id::from_u64(told.len() as u64)
    }

    fn count(&self, parts: &[&str]) -> usize {
        let told = self.0.lock().unwrap();
        told.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }
}

impl Subscriber for Told {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        of.target().starts_with("anabranch::")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.tell(span.metadata(), |line| span.record(line))
    }

    fn event(&self, event: &Event<'_>) {
        self.tell(event.metadata(), |line| event.record(line));
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_subscriber_sees_drivers_meetings_merges_events_and_faults() {
    let told = Told::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(told.clone(), || {
        runtime.block_on(async {
            let network = MemoryNetwork::new();
            let [ana, ben] = devices(&network, ["ana", "ben"]).await;
            let streams = share(&[&ana, &ben]).await;
            write(&streams[0], "nobody's business ", 3).await;
            ana.meet_device(&ben).await;
            assert_eq!(agree(&streams).await.len(), 3);
            ana.node.meet("nowhere").await.unwrap_err();
        });
    });
    assert_eq!(told.count(&["anabranch::driver node", "node="]), 2);
    assert_eq!(told.count(&["anabranch::meet connect", "address="]), 2);
    assert!(told.count(&["anabranch::merge merge", "stream=", "author=", "first=1 entries=3"]) >= 1);
    assert!(told.count(&["anabranch::event", "EntriesMerged", "count: 3"]) >= 1);
    assert_eq!(told.count(&["nobody's business"]), 0, "payloads are not logged");
}
