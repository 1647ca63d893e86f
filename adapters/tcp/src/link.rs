//! One connection: its queues, and the task that moves bytes between them and the socket.
//!
//! A sender on any thread writes a small frame to the socket itself while nothing is before it, and need not wake the link's
//! task. Whatever the socket does not take at once, and all else, goes into the queue, which
//! the link's own task writes. Nobody waits for the socket under the queue's lock, and only one at a time writes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anabranch::application::ports::{LinkId, PortEvent, Priority, SendError};
use bytes::Bytes;
use futures::future::{Either, select};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use crate::framing::{Batch, Decoder, HEADER_BYTES, MAX_SLICES};
use crate::options::TcpOptions;

/// Frames below this are written by their sender if nothing is before them, in bytes (a guess: copying that much is little
/// beside the system call). Larger ones come in numbers, and are better written together, beside their sender.
const WRITE_AT_ONCE: usize = 16 << 10;
/// What a queued frame costs besides its bytes: about its queue slot. Bounds queues of empty frames.
const FRAME_COST: usize = 64;
/// Bytes handed to the socket at once: enough for its speed, little enough for urgent frames to pass the rest.
const BATCH_BYTES: usize = 256 << 10;
/// One part in this many of a queue is set aside for urgent frames, so that bulk never shuts out a probe.
const URGENT_RESERVE: usize = 8;
/// How long a link that was closed here may still write what it had taken.
const LINGER: Duration = Duration::from_secs(1);
/// Reads in a row after which the task lets others run.
const READS_PER_TURN: usize = 16;

/// Events of all links of a port, for whoever calls `recv`.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    state: Mutex<InboxState>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct InboxState {
    closed: bool,
    events: VecDeque<Arrived>,
}

#[derive(Debug)]
struct Arrived {
    event: PortEvent,
    /// Also keeps an inbound link's slot taken until its `Down` was read.
    link: Arc<Link>,
    cost: usize,
}

/// The port was closed.
pub(crate) struct InboxClosed;

impl Inbox {
    /// The next event, or `None` if there is none yet.
    pub(crate) fn pop(&self) -> Result<Option<PortEvent>, InboxClosed> {
        let arrived = {
            let mut state = self.lock();
            if state.closed {
                return Err(InboxClosed);
            }
            state.events.pop_front()
        };
        Ok(arrived.map(|arrived| {
            arrived.link.was_read(arrived.cost);
            arrived.event
        }))
    }

    /// Returns when there may be an event.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Forgets all events; from now on there are none.
    pub(crate) fn close(&self) {
        let forgotten = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.events)
        };
        drop(forgotten);
        self.wake.notify_one();
    }

    fn push(&self, events: impl IntoIterator<Item = Arrived>) {
        let mut state = self.lock();
        if !state.closed {
            state.events.extend(events);
            drop(state);
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    /// Closed here: reports nothing more, but writes what it had taken.
    Draining,
    Gone,
}

#[derive(Debug)]
struct Queue {
    state: State,
    /// Until the link is gone.
    socket: Option<Arc<TcpStream>>,
    /// Somebody is writing, and nobody else may.
    writing: bool,
    /// What a sender began to write and the socket did not take, and what it frees once written.
    begun: Option<(Batch, usize)>,
    high: VecDeque<Bytes>,
    normal: VecDeque<Bytes>,
    /// What was taken and not yet handed to the system, with [`FRAME_COST`] each.
    bytes: usize,
    wants_room: bool,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.begun.is_none() && self.high.is_empty() && self.normal.is_empty()
    }
}

/// What the link's task is to do.
enum Next {
    /// Write the batch; so much is free then.
    Batch(usize),
    /// Nothing is queued, or a sender is writing.
    Wait,
    /// All is written of a link that is closed.
    Done,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    id: LinkId,
    inbox: Arc<Inbox>,
    queue_bytes: usize,
    queue: Mutex<Queue>,
    /// What arrived and was not yet received by the application.
    unread: AtomicUsize,
    unwanted: AtomicBool,
    to_write: Notify,
    to_read: Notify,
    closed_here: Notify,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Link {
    /// A link that is up; says so in the inbox.
    pub(crate) fn up(
        id: LinkId,
        inbox: Arc<Inbox>,
        socket: Arc<TcpStream>,
        queue_bytes: usize,
        dialed: bool,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Arc<Self> {
        let queue = Queue {
            state: State::Up,
            socket: Some(socket),
            writing: false,
            begun: None,
            high: VecDeque::new(),
            normal: VecDeque::new(),
            bytes: 0,
            wants_room: false,
        };
        let link = Arc::new(Self {
            id,
            inbox,
            queue_bytes,
            queue: Mutex::new(queue),
            unread: AtomicUsize::new(0),
            unwanted: AtomicBool::new(false),
            to_write: Notify::new(),
            to_read: Notify::new(),
            closed_here: Notify::new(),
            _slot: slot,
        });
        link.report(PortEvent::Up { link: id, proven: None, dialed });
        link
    }

    pub(crate) fn id(&self) -> LinkId {
        self.id
    }

    /// Whether nobody has disconnected it, even after it went down by itself.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.unwanted.load(Ordering::Acquire)
    }

    /// Takes a frame that is within the port's limit: writes it, or queues it behind others.
    pub(crate) fn try_send(self: &Arc<Self>, frame: Bytes, priority: Priority) -> Result<(), SendError> {
        let mut queue = self.lock();
        if queue.state != State::Up {
            return Err(SendError::LinkDown);
        }
        let cost = frame.len() + FRAME_COST;
        let reserve = if priority == Priority::High { self.queue_bytes / URGENT_RESERVE } else { 0 };
        if queue.bytes > 0 && queue.bytes + cost > self.queue_bytes + reserve {
            queue.wants_room = true;
            return Err(SendError::Full);
        }
        queue.bytes += cost;
        if frame.len() < WRITE_AT_ONCE
            && !queue.writing
            && queue.is_empty()
            && let Some(socket) = queue.socket.clone()
        {
            queue.writing = true;
            drop(queue);
            self.write_at_once(&socket, frame, cost);
            return Ok(());
        }
        if priority == Priority::High {
            queue.high.push_back(frame)
        } else {
            queue.normal.push_back(frame)
        }
        drop(queue);
        self.to_write.notify_one();
        Ok(())
    }

    /// Writes a frame for which nobody has to wait. Called by who set `writing`.
    fn write_at_once(self: &Arc<Self>, socket: &TcpStream, frame: Bytes, cost: usize) {
        let mut batch = Batch::default();
        batch.push(frame);
        batch.seal();
        let written = socket.try_write_vectored(batch.slices(&mut [IoSlice::new(&[]); MAX_SLICES]));
        // An error comes again when the link's task writes the rest, and ends the link there.
        batch.written(written.unwrap_or_default());
        let mut queue = self.lock();
        queue.writing = false;
        if batch.is_empty() {
            self.free(&mut queue, cost);
        } else if queue.state != State::Gone {
            queue.begun = Some((batch, cost));
        }
        if !queue.is_empty() || queue.state != State::Up {
            drop(queue);
            self.to_write.notify_one();
        }
    }

    /// Takes the link down from this side. What it had taken is still written, for at most [`LINGER`].
    pub(crate) fn disconnect(self: &Arc<Self>) {
        self.unwanted.store(true, Ordering::Release);
        let mut queue = self.lock();
        if queue.state == State::Up {
            queue.state = State::Draining;
            self.report(PortEvent::Down { link: self.id, reason: "disconnected here".into() });
            drop(queue);
            self.closed_here.notify_one();
            self.to_write.notify_one();
            self.to_read.notify_one();
        }
    }

    /// Ends the link; whether the other side or the network did that, not this side.
    fn end(self: &Arc<Self>, reason: &str) -> bool {
        let mut queue = self.lock();
        let was_up = std::mem::replace(&mut queue.state, State::Gone) == State::Up;
        (queue.socket, queue.begun) = (None, None);
        queue.high.clear();
        queue.normal.clear();
        if was_up {
            tracing::debug!(target: "anabranch::tcp", link = self.id.0, reason, "link down");
            self.report(PortEvent::Down { link: self.id, reason: reason.into() });
        }
        was_up
    }

    /// Moves frames until the link ends. `true` if the other side or the network ended it.
    pub(crate) async fn run(self: &Arc<Self>, stream: &TcpStream, options: &TcpOptions) -> bool {
        let reason = {
            let work = pin!(self.work(stream, options));
            let linger = pin!(async {
                self.closed_here.notified().await;
                tokio_sleep(LINGER).await;
            });
            match select(work, linger).await {
                Either::Left((reason, _)) => reason,
                Either::Right(_) => "the other side did not read the rest in time".to_owned(),
            }
        };
        self.end(&reason)
    }

    async fn work(self: &Arc<Self>, stream: &TcpStream, options: &TcpOptions) -> String {
        let reader = pin!(self.read(stream, options));
        let writer = pin!(self.write(stream));
        match select(reader, writer).await {
            Either::Left((reason, _)) => reason,
            Either::Right((Err(error), _)) => error.to_string(),
            Either::Right((Ok(()), reader)) => {
                // All is written: say so, and read on until the other side has seen it. Closing with bytes unread
                // would reset the connection and could take our last frames with it.
                let _gone_already = SockRef::from(stream).shutdown(Shutdown::Write);
                reader.await
            }
        }
    }

    /// Reads until the connection ends; why it did.
    async fn read(self: &Arc<Self>, stream: &TcpStream, options: &TcpOptions) -> String {
        let mut decoder = Decoder::new(options.max_frame);
        let mut frames = Vec::new();
        let mut frame_began = None;
        let mut reads = 0;
        loop {
            self.room_to_read().await;
            if let Err(reason) = self.readable(stream, frame_began, options.frame_timeout).await {
                return reason;
            }
            let read = match stream.try_read_buf(decoder.space()) {
                Ok(0) if decoder.is_mid_frame() => return "the connection ended within a frame".to_owned(),
                Ok(0) => return "the other side closed the connection".to_owned(),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    decoder.idle();
                    continue;
                }
                Err(error) => return error.to_string(),
            };
            decoder.filled(read);
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(too_long) => {
                        self.deliver(&mut frames);
                        return too_long.to_string();
                    }
                }
            }
            frame_began = match frame_began {
                _ if !decoder.is_mid_frame() => None,
                Some(began) if frames.is_empty() => Some(began),
                _ => Some(tokio_now()),
            };
            self.deliver(&mut frames);
            reads += 1;
            if reads % READS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Waits until bytes can be read, but no longer than the frame that has begun may take.
    async fn readable(
        &self,
        stream: &TcpStream,
        began: Option<Instant>,
        limit: Duration,
    ) -> Result<(), String> {
        let readable = pin!(stream.readable());
        let Some(began) = began else { return readable.await.map_err(|error| error.to_string()) };
        let late = pin!(tokio::time::sleep_until(began + limit));
        match select(readable, late).await {
            Either::Left((readable, _)) => readable.map_err(|error| error.to_string()),
            Either::Right(_) => Err(format!("a frame took longer than {limit:?}")),
        }
    }

    /// Waits until the application has received enough for more to be read.
    async fn room_to_read(&self) {
        while self.unread.load(Ordering::Acquire) > self.queue_bytes && self.lock().state == State::Up {
            self.to_read.notified().await;
        }
    }

    fn deliver(self: &Arc<Self>, frames: &mut Vec<Bytes>) {
        if frames.is_empty() {
            return;
        }
        // Held until the frames are in the inbox, so that no `Down` can come before them.
        let queue = self.lock();
        if queue.state != State::Up {
            return frames.clear();
        }
        let arrived = frames.drain(..).map(|frame| {
            let cost = frame.len() + FRAME_COST;
            self.unread.fetch_add(cost, Ordering::AcqRel);
            Arrived { event: PortEvent::Frame { link: self.id, frame }, link: self.clone(), cost }
        });
        self.inbox.push(arrived);
    }

    /// The application received something that cost so much.
    fn was_read(&self, cost: usize) {
        let before = self.unread.fetch_sub(cost, Ordering::AcqRel);
        if before > self.queue_bytes && before - cost <= self.queue_bytes {
            self.to_read.notify_one();
        }
    }

    /// Writes until the link is closed here and all is written, or until the socket fails.
    async fn write(self: &Arc<Self>, stream: &TcpStream) -> io::Result<()> {
        let mut batch = Batch::default();
        loop {
            let cost = match self.next_batch(&mut batch) {
                Next::Batch(cost) => cost,
                Next::Wait => {
                    self.to_write.notified().await;
                    continue;
                }
                Next::Done => return Ok(()),
            };
            while !batch.is_empty() {
                stream.writable().await?;
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                match stream.try_write_vectored(batch.slices(&mut slices)) {
                    Ok(written) => batch.written(written),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                    Err(error) => return Err(error),
                }
            }
            let mut queue = self.lock();
            queue.writing = false;
            self.free(&mut queue, cost);
        }
    }

    /// Fills an empty batch, what was begun first, then urgent frames. From then on nobody else writes.
    fn next_batch(&self, batch: &mut Batch) -> Next {
        let mut queue = self.lock();
        if queue.writing {
            return Next::Wait;
        }
        if queue.is_empty() {
            return if queue.state == State::Up { Next::Wait } else { Next::Done };
        }
        queue.writing = true;
        if let Some((begun, cost)) = queue.begun.take() {
            *batch = begun;
            return Next::Batch(cost);
        }
        let mut cost = 0;
        while batch.len() < BATCH_BYTES && !batch.is_full() {
            let Some(frame) = queue.high.pop_front().or_else(|| queue.normal.pop_front()) else { break };
            cost += frame.len() + FRAME_COST;
            batch.push(frame);
        }
        drop(queue);
        batch.seal();
        Next::Batch(cost)
    }

    /// Something that cost so much was written.
    fn free(self: &Arc<Self>, queue: &mut Queue, cost: usize) {
        queue.bytes -= cost;
        if queue.state == State::Up && queue.wants_room && queue.bytes <= self.queue_bytes / 2 {
            queue.wants_room = false;
            // Under the queue's lock, so that no `Down` can come before it.
            self.report(PortEvent::Writable { link: self.id });
        }
    }

    fn report(self: &Arc<Self>, event: PortEvent) {
        self.inbox.push([Arrived { event, link: self.clone(), cost: 0 }]);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const _: () = assert!(HEADER_BYTES < FRAME_COST, "the length on the wire is part of what a frame costs");

#[allow(clippy::disallowed_methods, reason = "an adapter of the operating system lives in its time")]
async fn tokio_sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

#[allow(clippy::disallowed_methods, reason = "an adapter of the operating system lives in its time")]
fn tokio_now() -> Instant {
    Instant::now()
}
