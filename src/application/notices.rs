//! Events, faults and counters: how the node makes itself visible (I9).
//!
//! Listeners never slow the node down: queues are bounded, and who falls behind is told how much it missed.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::{Stream, StreamExt as _};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::domain::event::{Event, Fault};
use crate::domain::id::NodeId;

/// Distinct (cause, peer) pairs that are remembered as reported; beyond that a cause may be reported again.
const REPORTED_CAUSES: usize = 4096;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A snapshot of all counters since the node was opened. All only rise.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Metrics { $($(#[$doc])* pub $name: u64,)* }

        /// The live counters.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Counter,)* }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Metrics {
                Metrics { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Entries appended here and durable.
    entries_appended,
    /// Entries merged from peers and durable.
    entries_merged,
    /// Runs that repeated what was held.
    runs_duplicate,
    /// Runs whose predecessors were missing.
    runs_gap,
    /// Runs refused for what they are or say.
    runs_refused,
    /// Runs dropped because the node is paused.
    runs_paused,
    /// Forks found.
    forks,
    /// Frames handed to ports.
    frames_sent,
    /// Frames taken from ports.
    frames_received,
    /// Bytes of frames handed to ports.
    bytes_sent,
    /// Bytes of frames taken from ports.
    bytes_received,
    /// Frames that could not be believed: corrupted, replayed, forged, unknown version.
    frames_bad,
    /// Frames for links that are not up.
    frames_stray,
    /// Frames that a port refused for good.
    frames_refused_by_port,
    /// Messages that are not valid.
    messages_bad,
    /// Comparisons started.
    comparisons,
    /// Comparisons that found both sides equal.
    comparisons_equal,
    /// Payload bytes of entries sent to peers, with their packing.
    run_bytes_sent,
    /// Bytes of those sent that compression kept off the wire.
    run_bytes_saved,
    /// Payload bytes of entries received from peers, with their packing.
    run_bytes_received,
    /// Sessions set up.
    sessions,
    /// Sessions that failed before they were set up.
    sessions_failed,
    /// Strangers turned away.
    strangers_refused,
    /// Peers that came to be held for something else.
    peer_status_changes,
    /// Verdicts that a peer is unreachable.
    peers_unreachable,
    /// Accusations of being unreachable that this node denied.
    accusations_denied,
    /// What the liveness engine refused: accusations without effect, statements whose signature does not hold, packets that
    /// are none.
    liveness_refused,
    /// Writes that failed.
    store_failures,
    /// Calls into user code that panicked.
    panics,
    /// Faults of all kinds, reported or not.
    faults,
}

/// A counter that any thread may raise.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where news go out.
#[derive(Debug)]
pub(crate) struct Notices {
    events: broadcast::Sender<Event>,
    faults: broadcast::Sender<Fault>,
    reported: Mutex<BTreeSet<(String, Option<NodeId>)>>,
    in_order: Mutex<InOrder>,
    pub(crate) counters: Counters,
}

/// Events that are told in the order in which they came about, whichever thread tells them.
#[derive(Debug, Default)]
struct InOrder {
    untold: VecDeque<Event>,
    /// Some thread is telling them.
    has_teller: bool,
}

impl Notices {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            events: broadcast::channel(capacity).0,
            faults: broadcast::channel(capacity).0,
            reported: Mutex::default(),
            in_order: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Tells all listeners; none is fine.
    pub(crate) fn event(&self, event: Event) {
        tracing::debug!(target: "anabranch::event", ?event);
        let _ = self.events.send(event);
    }

    /// Puts an event down under the lock of what changed, to be [told](Self::tell) when that is given back.
    pub(crate) fn put(&self, event: Event) {
        self.in_order.lock().expect(NEVER_POISONED).untold.push_back(event);
    }

    /// Tells what was put down, with no lock held; if another thread does so already, it tells all.
    pub(crate) fn tell(&self) {
        let next = |is_teller: bool| {
            let mut in_order = self.in_order.lock().expect(NEVER_POISONED);
            if in_order.has_teller && !is_teller {
                return None;
            }
            let event = in_order.untold.pop_front();
            in_order.has_teller = event.is_some();
            event
        };
        let mut told = next(false);
        while let Some(event) = told {
            self.event(event);
            told = next(true);
        }
    }

    /// Counts and reports a fault.
    pub(crate) fn fault(&self, fault: Fault) {
        self.counters.faults.add(1);
        tracing::warn!(target: "anabranch::fault", ?fault);
        let _ = self.faults.send(fault);
    }

    /// Counts a fault and reports it the first time that `peer` causes it this way, so that a hostile peer
    /// cannot drown the listeners.
    pub(crate) fn fault_once(&self, cause: &str, peer: Option<NodeId>, fault: impl FnOnce() -> Fault) {
        let mut reported = self.reported.lock().expect(NEVER_POISONED);
        if reported.len() >= REPORTED_CAUSES {
            reported.clear();
        }
        if reported.insert((cause.to_owned(), peer)) {
            drop(reported);
            self.fault(fault());
        } else {
            self.counters.faults.add(1);
        }
    }

    pub(crate) fn events(&self) -> Events {
        Events(listen(self.events.subscribe(), Event::Lagged))
    }

    pub(crate) fn faults(&self) -> Faults {
        Faults(listen(self.faults.subscribe(), Fault::Lagged))
    }
}

const NEVER_POISONED: &str = "no code that can panic runs under this lock";

type Listener<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

fn listen<T: Clone + Send + 'static>(receiver: broadcast::Receiver<T>, lagged: fn(u64) -> T) -> Listener<T> {
    futures::stream::unfold(receiver, move |mut receiver| async move {
        match receiver.recv().await {
            Ok(news) => Some((news, receiver)),
            Err(RecvError::Lagged(missed)) => Some((lagged(missed), receiver)),
            Err(RecvError::Closed) => None,
        }
    })
    .boxed()
}

macro_rules! listeners {
    ($($(#[$doc:meta])* $name:ident: $item:ty,)*) => {$(
        $(#[$doc])*
        pub struct $name(Listener<$item>);

        impl Stream for $name {
            type Item = $item;

            fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<$item>> {
                self.0.poll_next_unpin(cx)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

listeners! {
    /// Events since the call that made it; ends when the node is dropped. A slow listener finds
    /// [`Event::Lagged`] in place of what it missed.
    Events: Event,
    /// Faults since the call that made it; ends when the node is dropped. A slow listener finds
    /// [`Fault::Lagged`] in place of what it missed.
    Faults: Fault,
}
