//! Following a stream.
//!
//! Keeps no queue of entries: it remembers where it stands and reads what came since, so a slow subscriber loses nothing
//! and costs nothing.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};

use super::error::ReadError;
use super::stream::EventStream;
use crate::application::ports::StoreError;
use crate::application::reader::{OrderedReader, Positions, Snapshot};
use crate::domain::entry::{LogEntry, OrderKey};
use crate::domain::id::NodeId;
use crate::domain::log::{Line, LineNo, LogNo};
use crate::domain::version::{Cursor, Tip, VersionVector};

/// What a subscriber is handed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Arrival {
    /// An entry. While catching up, in stream order; then as they come, each line without gaps.
    Entry {
        /// The entry.
        entry: LogEntry,
        /// It sorts before one that was handed out already.
        late: bool,
    },
    /// An author's log has another line from here on, of which nothing was handed out yet: the entries of both
    /// will come.
    Forked {
        /// Whose log.
        author: NodeId,
        /// The last entry that the new line shares with another.
        at: Tip,
    },
    /// Entries of an author up to this one are not held here any more, by decision; what was not handed out of
    /// them will not come.
    Compacted {
        /// Whose log.
        author: NodeId,
        /// The last of them.
        up_to: Tip,
    },
    /// The payload of an entry was removed, by its author or an admin.
    Redacted(LogEntry),
}

/// What comes after a cursor; see [`EventStream::subscribe`](super::EventStream::subscribe). Ends when the channel
/// is removed or the node is closed.
pub struct Subscription {
    arrivals: BoxStream<'static, Result<Arrival, ReadError>>,
    cursor: Arc<Mutex<CursorState>>,
}

#[derive(Default)]
struct CursorState {
    authors: BTreeMap<LogNo, NodeId>,
    positions: Positions,
}

impl Subscription {
    pub(super) fn new(stream: &EventStream, cursor: Cursor) -> Self {
        let shared = Arc::new(Mutex::new(CursorState::default()));
        let follower = Follower {
            stream: stream.clone(),
            start: Some(cursor),
            shared: Arc::clone(&shared),
            reader: None,
            catching_up: true,
            highest: None,
            seen: 0,
            lines: BTreeMap::new(),
            queued: VecDeque::new(),
            failed: false,
        };
        let arrivals = futures::stream::unfold(follower, |mut follower| async move {
            let arrival = follower.next().await?;
            Some((arrival, follower))
        });
        Self { arrivals: arrivals.boxed(), cursor: shared }
    }

    /// The next arrival. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Arrival, ReadError>> {
        self.arrivals.next().await
    }

    /// Where this subscriber stands: after what was handed out so far. Keep it to go on after a restart.
    pub fn cursor(&self) -> Cursor {
        let state = self.cursor.lock().expect(SOUND);
        let mut tips: BTreeMap<NodeId, Vec<Tip>> = BTreeMap::new();
        for ((log, _), tip) in &state.positions {
            if let Some(author) = state.authors.get(log) {
                tips.entry(*author).or_default().push(*tip);
            }
        }
        let mut cursor = VersionVector::START;
        for (author, tips) in tips {
            cursor.set(author, tips);
        }
        cursor
    }
}

const SOUND: &str = "no code that can panic runs under this lock";

impl Stream for Subscription {
    type Item = Result<Arrival, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.arrivals.poll_next_unpin(cx)
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("cursor", &self.cursor()).finish_non_exhaustive()
    }
}

struct Follower {
    stream: EventStream,
    /// Where to start, until that was looked up.
    start: Option<Cursor>,
    shared: Arc<Mutex<CursorState>>,
    reader: Option<OrderedReader>,
    catching_up: bool,
    highest: Option<OrderKey>,
    /// Version of the stream as of the newest snapshot.
    seen: u64,
    /// Lines known of each log.
    lines: BTreeMap<LogNo, usize>,
    queued: VecDeque<Arrival>,
    failed: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<Result<Arrival, ReadError>> {
        if self.failed {
            return None;
        }
        match self.step().await {
            Ok(arrival) => arrival.map(Ok),
            Err(error) => {
                self.failed = true;
                Some(Err(error.into()))
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Arrival>, StoreError> {
        loop {
            if let Some(arrival) = self.queued.pop_front() {
                return Ok(Some(arrival));
            }
            if let Some(reader) = &mut self.reader {
                match reader.next().await {
                    Ok(Some((entry, line))) => return Ok(Some(self.hand_out(entry, line))),
                    Ok(None) => {
                        self.reader = None;
                        self.catching_up = false;
                    }
                    Err(_) if self.is_over() => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
            if self.is_over() {
                return Ok(None);
            }
            let version = self.stream.cell.changed.version();
            if self.start.is_none() && version == self.seen {
                self.wait(version).await;
                continue;
            }
            self.seen = version;
            match self.look().await {
                Ok(()) => {}
                Err(_) if self.is_over() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn is_over(&self) -> bool {
        self.stream.channel.is_removed() || self.stream.node.replica.is_closed()
    }

    async fn wait(&self, version: u64) {
        let mut closed = self.stream.node.replica.closed.subscribe();
        let closed = closed.wait_for(|closed| *closed);
        let changed = self.stream.cell.changed.past(version);
        futures::pin_mut!(closed, changed);
        futures::future::select(closed, changed).await;
    }

    /// Starts reading what came since the last look.
    async fn look(&mut self) -> Result<(), StoreError> {
        let snapshot = Snapshot::of(&self.stream.cell);
        let replica = &self.stream.node.replica;
        if let Some(cursor) = &self.start {
            let positions = snapshot.resolve(replica, cursor).await?;
            self.start = None;
            for (log, lines) in &snapshot.logs {
                self.lines.insert(log.no, lines.len());
                let at_base = |line: &&Line| positions.get(&(log.no, line.no)) == Some(&line.base());
                // The cursor was not told of these yet.
                for line in lines.iter().skip(1).filter(at_base) {
                    self.queued.push_back(Arrival::Forked { author: log.name.author, at: line.base() });
                }
            }
            self.shared.lock().expect(SOUND).positions = positions;
        }
        let mut state = self.shared.lock().expect(SOUND);
        for (log, lines) in &snapshot.logs {
            state.authors.insert(log.no, log.name.author);
            let known = self.lines.insert(log.no, lines.len()).unwrap_or(1);
            for line in lines.iter().skip(known.max(1)) {
                self.queued.push_back(Arrival::Forked { author: log.name.author, at: line.base() });
            }
        }
        let spans = snapshot.spans_after(&state.positions);
        drop(state);
        self.reader = Some(OrderedReader::new(Arc::clone(&replica.store), spans, false));
        Ok(())
    }

    fn hand_out(&mut self, entry: LogEntry, line: (LogNo, LineNo)) -> Arrival {
        let tip = Tip { sequence: entry.sequence(), hash: entry.hash() };
        if !mutant!(CursorNotMoved) {
            self.shared.lock().expect(SOUND).positions.insert(line, tip);
        }
        let order = entry.order();
        let late = !mutant!(LateFlagLost)
            && !self.catching_up
            && self.highest.is_some_and(|highest| order < highest);
        self.highest = self.highest.max(Some(order));
        Arrival::Entry { entry, late }
    }
}
