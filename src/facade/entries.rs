//! Reading parts of a stream.
//!
//! Reads as it is polled, as of the moment it was made; holds a bounded number of bytes, whatever the length of the stream.

use std::ops::{Bound, RangeBounds};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};

use super::error::ReadError;
use super::stream::EventStream;
use crate::application::ports::StoreError;
use crate::application::reader::{OrderedReader, Ready, Snapshot, of_author, within};
use crate::application::replica::ChannelCell;
use crate::domain::entry::LogEntry;
use crate::domain::id::NodeId;
use crate::domain::version::{Cursor, VersionVector};

/// Which entries of a stream, and which way round.
///
/// ```
/// use anabranch::Query;
/// let last_ten = Query::all().newest(10);
/// let latest_first = Query::all().backward();
/// # let _ = (last_ten, latest_first);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    author: Option<NodeId>,
    since: Option<Cursor>,
    sequences: (Bound<u64>, Bound<u64>),
    newest: Option<usize>,
    backward: bool,
}

impl Query {
    /// All entries, in stream order.
    pub fn all() -> Self {
        let sequences = (Bound::Unbounded, Bound::Unbounded);
        Self { author: None, since: None, sequences, newest: None, backward: false }
    }

    /// Only those of this author.
    #[must_use]
    pub fn by(mut self, author: NodeId) -> Self {
        self.author = Some(author);
        self
    }

    /// Only those after this position.
    #[must_use]
    pub fn since(mut self, cursor: Cursor) -> Self {
        self.since = Some(cursor);
        self
    }

    /// Only those whose sequence lies in this range; makes most sense together with [`by`](Self::by).
    #[must_use]
    pub fn sequences(mut self, range: impl RangeBounds<u64>) -> Self {
        self.sequences = (range.start_bound().cloned(), range.end_bound().cloned());
        self
    }

    /// Only the last `n` of the others. Forward, they are held in memory.
    #[must_use]
    pub fn newest(mut self, n: usize) -> Self {
        self.newest = Some(n);
        self
    }

    /// The last entry first.
    #[must_use]
    pub fn backward(mut self) -> Self {
        self.backward = true;
        self
    }
}

/// Entries of a stream as of the call that made it, read as they are taken. Made by
/// [`EventStream::entries`](super::EventStream::entries).
pub struct Entries {
    channel: Arc<ChannelCell>,
    version: VersionVector,
    state: State,
    left: Option<usize>,
}

enum State {
    Start(BoxFuture<'static, Result<OrderedReader, StoreError>>),
    Reading(Box<OrderedReader>),
    Filling(BoxFuture<'static, (Box<OrderedReader>, Result<(), StoreError>)>),
    /// Read the other way round first, and waiting to be handed out.
    Reversing(BoxFuture<'static, Result<Vec<LogEntry>, StoreError>>),
    Reversed(Vec<LogEntry>),
    Done,
}

impl Entries {
    pub(super) fn new(stream: &EventStream, query: Query) -> Self {
        let replica = Arc::clone(&stream.node.replica);
        let snapshot = Snapshot::of(&stream.cell);
        let version = snapshot.version();
        let Query { author, since, sequences, newest, backward } = query;
        let start = async move {
            let spans = match since {
                Some(cursor) => snapshot.spans_after(&snapshot.resolve(&replica, &cursor).await?),
                None => snapshot.spans(),
            };
            let spans = within(spans, sequences.0, sequences.1);
            let spans = author.map(|author| of_author(spans.clone(), &author)).unwrap_or(spans);
            let against = backward || newest.is_some();
            Ok(OrderedReader::new(Arc::clone(&replica.store), spans, against))
        };
        let (state, left) = match newest {
            Some(n) if !backward => (State::Reversing(collect(start.boxed(), n).boxed()), None),
            newest => (State::Start(start.boxed()), newest),
        };
        Self { channel: Arc::clone(&stream.channel), version, state, left }
    }

    /// What the stream held when this was made.
    pub fn version(&self) -> &VersionVector {
        &self.version
    }

    /// The next entry. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<LogEntry, ReadError>> {
        futures::StreamExt::next(self).await
    }

    /// All of them in a vector.
    ///
    /// # Errors
    /// The first [`ReadError`] met.
    pub async fn collect(mut self) -> Result<Vec<LogEntry>, ReadError> {
        let mut entries = Vec::new();
        while let Some(entry) = self.next().await {
            entries.push(entry?);
        }
        Ok(entries)
    }
}

async fn collect(
    start: BoxFuture<'static, Result<OrderedReader, StoreError>>,
    n: usize,
) -> Result<Vec<LogEntry>, StoreError> {
    let mut reader = start.await?;
    let mut entries = Vec::new();
    while entries.len() < n {
        match reader.next().await? {
            Some((entry, _)) => entries.push(entry),
            None => break,
        }
    }
    Ok(entries)
}

impl Stream for Entries {
    type Item = Result<LogEntry, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match &mut self.state {
                State::Reading(reader) => match reader.ready() {
                    Ready::Entry(entry, _) => match &mut self.left {
                        Some(0) => self.state = State::Done,
                        Some(left) => {
                            *left -= 1;
                            return Poll::Ready(Some(Ok(entry)));
                        }
                        None => return Poll::Ready(Some(Ok(entry))),
                    },
                    Ready::End => self.state = State::Done,
                    Ready::Fill => {
                        let State::Reading(mut reader) = std::mem::replace(&mut self.state, State::Done)
                        else {
                            return Poll::Ready(None);
                        };
                        let filling = async move {
                            let filled = reader.fill().await;
                            (reader, filled)
                        };
                        self.state = State::Filling(filling.boxed());
                    }
                },
                State::Filling(filling) => {
                    let (reader, filled) = ready!(filling.poll_unpin(cx));
                    match filled {
                        Ok(()) => self.state = State::Reading(reader),
                        Err(error) => return self.fail(error),
                    }
                }
                State::Start(start) => match ready!(start.poll_unpin(cx)) {
                    Ok(reader) => self.state = State::Reading(Box::new(reader)),
                    Err(error) => return self.fail(error),
                },
                State::Reversing(collecting) => match ready!(collecting.poll_unpin(cx)) {
                    Ok(entries) => self.state = State::Reversed(entries),
                    Err(error) => return self.fail(error),
                },
                State::Reversed(entries) => return Poll::Ready(entries.pop().map(Ok)),
                State::Done => return Poll::Ready(None),
            }
        }
    }
}

impl Entries {
    fn fail(&mut self, error: StoreError) -> Poll<Option<Result<LogEntry, ReadError>>> {
        self.state = State::Done;
        let error = match ReadError::from(error) {
            // Nothing is damaged: what was to be read went with the channel.
            ReadError::Store(_) if self.channel.is_removed() => ReadError::ChannelRemoved,
            error => error,
        };
        Poll::Ready(Some(Err(error)))
    }
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries").field("version", &self.version).finish_non_exhaustive()
    }
}
