//! The driver: the one task that owns the engines.
//!
//! A turn takes what is ready from every source, each within a budget, so that a flood from one starves none:
//! commands of handles, news of the append lane, finished store work, port events, deadlines. It hands them
//! to the engines, starts all effects, and never awaits one: store reads and receipts come back as inputs of a
//! later turn. Frames leave at the end of the turn.
//!
//! A turn costs in proportion to what it touched: only links that something happened to are asked for frames and
//! for a new deadline, and what is awaited is kept from turn to turn.

mod effects;
mod links;
mod liveness;
mod logs;
mod meets;

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument as _;

use self::links::{LinkKey, LinkState};
use self::liveness::{NARROW_FRAME, swim_config};
use self::logs::Logs;
use self::meets::{Dials, Meet, MeetId, Seeds};
use super::log_cell::LogCell;
use super::news::{News, NewsReader};
use super::peers::PeerBook;
use super::ports::{
    LinkId, MessagePort, PeerAddr, PortError, PortEvent, Receipt, StoreError, WriteBatch, WriteOp,
};
use super::replica::{ChannelCell, Merge, Replica};
use crate::domain::event::{Event, Fault};
use crate::domain::head::Head;
use crate::domain::id::{ChannelId, LogKey, NodeId, StreamId};
use crate::domain::log::LineNo;
use crate::domain::run::Run;
use crate::domain::time::Instant;
use crate::domain::version::Tip;
use crate::protocol::agenda::Agenda;
use crate::protocol::gossip::{GossipConfig, GossipEngine, Input, MergeOutcome, SessionId, Standing, Ticket};
use crate::protocol::swim::{Incarnation, Input as SwimInput, SwimEngine};

/// Frames taken from one port per turn.
const FRAME_BUDGET: usize = 64;
/// Commands and news taken per turn.
const COMMAND_BUDGET: usize = 64;
/// Finished pieces of store work taken per turn.
const WORK_BUDGET: usize = 64;
/// Turns in a row before other tasks of the thread may run.
const TURN_BUDGET: usize = 16;

/// What a node does about the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// Network off; local use goes on.
    Stopped,
    /// Serves and accepts.
    Running,
    /// Serves peers, accepts nothing from them, asks for nothing.
    Paused,
    /// Left; the store is released.
    Closed,
}

/// Why a meeting did not come about. Nothing changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MeetError {
    /// The node has no port, or none that takes this address.
    #[error("no port of this node takes the address {0}")]
    NoPort(PeerAddr),
    /// The transport could not connect.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Whoever is there could not prove who it is in time, or hung up.
    #[error("the other side did not complete the session: {0}")]
    Session(Arc<str>),
    /// The address leads to this very node.
    #[error("the address leads to this node itself")]
    Oneself,
    /// The network is off: start the node first.
    #[error("the network is off")]
    Stopped,
    /// The node was closed.
    #[error("the node is closed")]
    Closed,
}

/// What handles ask of the driver.
pub(crate) enum Command {
    Meet(PeerAddr, oneshot::Sender<Result<NodeId, MeetError>>),
    Join(Vec<PeerAddr>),
    NetworkChanged,
    Metadata(bytes::Bytes),
    Forget(NodeId, oneshot::Sender<()>),
    SetState(NodeState, oneshot::Sender<()>),
    Close { wipe: bool, reply: oneshot::Sender<Result<(), StoreError>> },
    Standing(NodeId, ChannelId, Option<StreamId>, oneshot::Sender<Option<Standing>>),
    Quiescent(oneshot::Sender<bool>),
}

/// The future that runs a node. Poll it on any executor; it ends when the node is closed or its last
/// [`Coordinator`](crate::Coordinator) is dropped.
#[must_use = "a node without its driver does not sync"]
pub struct Driver(BoxFuture<'static, ()>);

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_unpin(cx)
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Driver")
    }
}

/// What a driver is made of.
pub(crate) struct Parts {
    pub(crate) replica: Arc<Replica>,
    pub(crate) ports: Vec<Arc<dyn MessagePort>>,
    pub(crate) peers: Arc<PeerBook>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) news: NewsReader,
    pub(crate) state: Arc<watch::Sender<NodeState>>,
    pub(crate) seed: [u8; 32],
    pub(crate) incarnation: Incarnation,
    pub(crate) metadata: Option<bytes::Bytes>,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Self {
        let node = parts.replica.node().short();
        let span = tracing::debug_span!(target: "anabranch::driver", "node", %node);
        Self(Loop::new(parts).run().instrument(span).boxed())
    }
}

/// Store work that finished.
enum Done {
    /// The newest pending receipt of a log settled.
    Receipt(Arc<LogCell>),
    /// A merge settled.
    Merged {
        log: Arc<LogCell>,
        ticket: Ticket,
        result: Result<(), StoreError>,
    },
    /// A run that starts within a line was compared with it.
    Within {
        log: Arc<LogCell>,
        ticket: Ticket,
        merge: Merge,
    },
    Read(Ticket, Result<Option<(Run, Vec<Head>)>, StoreError>),
    Ends(Ticket, Result<Vec<Tip>, StoreError>),
    Locators(Ticket, Result<Vec<Tip>, StoreError>),
    Matched(Ticket, Result<Vec<(LineNo, Tip)>, StoreError>),
    HeadsStored(LogKey, Result<(), StoreError>),
    Forked(Option<Event>),
    Connected {
        meet: MeetId,
        port: usize,
        result: Result<LinkId, PortError>,
    },
    /// A write that nobody waits for.
    Written(Result<(), StoreError>),
}

/// Whether to wipe the store, and whom to tell.
type Closing = (bool, oneshot::Sender<Result<(), StoreError>>);

/// What a turn took.
enum Taken {
    /// All that was ready.
    All,
    /// As much of some source as its budget allows.
    More,
    /// The last handle is gone.
    End,
    Close(Closing),
}

/// How often one source may still be asked in a turn.
struct Budget(usize);

impl Budget {
    /// `None` once nothing is left, and then the turn is not the last.
    fn spend(&mut self, exhausted: &mut bool) -> Option<()> {
        let left = self.0.checked_sub(1);
        *exhausted |= left.is_none();
        self.0 = left?;
        Some(())
    }
}

/// What is awaited. Kept from turn to turn, for most turns change little of it.
struct Waits {
    /// By port.
    receives: Vec<Option<BoxFuture<'static, Result<PortEvent, PortError>>>>,
    /// For when it is armed.
    timer: Option<(Instant, BoxFuture<'static, ()>)>,
}

struct Loop {
    replica: Arc<Replica>,
    gossip: GossipEngine,
    swim: SwimEngine,
    /// What the liveness engine refused, as counted so far.
    swim_refused: u64,
    /// When the return of one peer may next be taken for that of the network.
    next_wave: Instant,
    ports: Vec<Option<Arc<dyn MessagePort>>>,
    links: Agenda<LinkKey, LinkState>,
    sessions: BTreeMap<SessionId, LinkKey>,
    logs: Logs,
    peers: Arc<PeerBook>,
    meets: BTreeMap<MeetId, Meet>,
    dials: Dials,
    seeds: Seeds,
    commands: mpsc::UnboundedReceiver<Command>,
    news: NewsReader,
    /// Never without one that never ends: a set that was asked for all it holds wakes its task to be asked again, and each piece
    /// of store work would cost a turn more.
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    waits: Waits,
    state: Arc<watch::Sender<NodeState>>,
    effects: VecDeque<crate::protocol::gossip::Effect>,
    seed: [u8; 32],
    next_session: u64,
    next_meet: u64,
    now: Instant,
    /// When the wait for a peer after a moved store ends.
    residence_until: Option<Instant>,
}

impl Loop {
    fn new(parts: Parts) -> Self {
        let Parts { replica, ports, peers, commands, news, state, seed, incarnation, metadata } = parts;
        let config = &replica.config;
        let gossip = GossipConfig {
            interval: config.gossip_interval,
            interval_max: config.gossip_interval_max,
            window: config.transfer_window,
            max_payload: config.max_payload,
            max_logs: config.max_logs,
            learn_streams: config.learn_streams,
            compress: config.compress,
            version: config.message_version,
        };
        let jitter = u64::from_le_bytes(seed[..8].try_into().expect("8 of 32 bytes"));
        let now = replica.timer.now();
        let dice = u64::from_le_bytes(seed[8..16].try_into().expect("8 of 32 bytes"));
        let narrow = ports.iter().any(|port| port.profile().max_frame <= NARROW_FRAME);
        let mut swim = SwimEngine::new(
            swim_config(&replica.config, narrow),
            replica.identity.clone(),
            incarnation,
            dice,
            now,
        );
        if let Some(metadata) = metadata {
            // Nobody is known yet: there is nothing to send, and the next life begins far above this incarnation.
            swim.handle(SwimInput::Metadata(metadata), now);
        }
        let moved = !replica.resident.is_set();
        let mut work = FuturesUnordered::from_iter([std::future::pending().boxed()]);
        // The one that never ends is asked here, so that it wakes nobody later.
        let _ = work.next().now_or_never();
        let residence_until = (moved && !mutant!(AmnesiaWaitLost)).then(|| now + replica.config.amnesia_wait);
        Self {
            gossip: GossipEngine::new(gossip, replica.identity.clone(), jitter),
            swim,
            swim_refused: 0,
            next_wave: Instant::ZERO,
            replica,
            waits: Waits { receives: ports.iter().map(|_| None).collect(), timer: None },
            ports: ports.into_iter().map(Some).collect(),
            links: Agenda::new(),
            sessions: BTreeMap::new(),
            logs: Logs::default(),
            peers,
            meets: BTreeMap::new(),
            dials: Dials::default(),
            seeds: Seeds::default(),
            commands,
            news,
            work,
            state,
            effects: VecDeque::new(),
            seed,
            next_session: 0,
            next_meet: 0,
            now,
            residence_until,
        }
    }

    async fn run(mut self) {
        self.load();
        self.swim_known();
        if *self.state.borrow() != NodeState::Stopped {
            self.dial_known();
        }
        let closing = poll_fn(|cx| self.poll_turns(cx)).await;
        // Nothing is received any more; a receive under way must not outlive its port.
        self.waits.receives.clear();
        self.leave().await;
        if let Some((wipe, reply)) = closing {
            let result = self.replica.release(wipe).await;
            // Nobody waits if the caller gave up: the node is closed all the same.
            let _ = reply.send(result);
        }
    }

    /// Runs turns until nothing is ready; ready itself once the node is to end.
    fn poll_turns(&mut self, cx: &mut Context<'_>) -> Poll<Option<Closing>> {
        for _ in 0..TURN_BUDGET {
            self.now = self.replica.timer.now();
            let taken = self.take(cx);
            self.deadlines();
            self.run_effects();
            self.flush();
            match taken {
                Taken::All => {}
                Taken::More => continue,
                Taken::End => return Poll::Ready(None),
                Taken::Close(closing) => return Poll::Ready(Some(closing)),
            }
            // All other sources were asked in vain and wake us. What the turn has started was not asked yet.
            match self.work.poll_next_unpin(cx) {
                Poll::Ready(Some(done)) => self.done(done),
                _ if self.is_asleep(cx) => return Poll::Pending,
                _ => {}
            }
        }
        // Others on this thread want to run, too.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Arms the timer with the smallest deadline; whether it is still to come.
    fn is_asleep(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = self.next_deadline();
        let waits = &mut self.waits;
        let Some(deadline) = deadline else {
            waits.timer = None;
            return true;
        };
        if waits.timer.as_ref().is_none_or(|(armed, _)| *armed != deadline) {
            let timer = Arc::clone(&self.replica.timer);
            waits.timer = Some((deadline, async move { timer.sleep_until(deadline).await }.boxed()));
        }
        let asleep = waits.timer.as_mut().is_some_and(|(_, sleep)| sleep.poll_unpin(cx).is_pending());
        if !asleep {
            waits.timer = None;
        }
        asleep
    }

    /// Hands the engine everything that the store held.
    fn load(&mut self) {
        for channel in self.replica.channels() {
            self.load_channel(&channel);
        }
        self.run_effects();
    }

    /// Hands the engine a channel with what is durable of it.
    fn load_channel(&mut self, channel: &ChannelCell) {
        self.feed(Input::Channel(channel.id, channel.state().admission));
        for log in channel.streams().iter().flat_map(|stream| stream.logs()) {
            self.logs.know(&log);
            // What was appended since the node was built may not be durable: that comes as news.
            let durable = log.lock().durable();
            self.feed(Input::Loaded(log.no, log.name.clone(), durable));
        }
    }

    /// Takes whatever is ready, within the budgets.
    fn take(&mut self, cx: &mut Context<'_>) -> Taken {
        let mut exhausted = false;
        let mut left = Budget(COMMAND_BUDGET);
        while let Some(()) = left.spend(&mut exhausted)
            && let Poll::Ready(command) = self.commands.poll_recv(cx)
        {
            let Some(command) = command else { return Taken::End };
            if let Some(closing) = self.command(command) {
                return Taken::Close(closing);
            }
        }
        let mut left = Budget(COMMAND_BUDGET);
        while let Some(()) = left.spend(&mut exhausted)
            && let Poll::Ready(news) = self.news.poll(cx)
        {
            self.tell(news);
        }
        let mut left = Budget(WORK_BUDGET);
        while let Some(()) = left.spend(&mut exhausted)
            && let Poll::Ready(Some(done)) = self.work.poll_next_unpin(cx)
        {
            self.done(done);
        }
        for index in 0..self.ports.len() {
            let mut left = Budget(FRAME_BUDGET);
            while let Some(()) = left.spend(&mut exhausted)
                && let Poll::Ready(event) = self.poll_port(index, cx)
            {
                self.port_event(index, event);
            }
        }
        if exhausted { Taken::More } else { Taken::All }
    }

    fn poll_port(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<Result<PortEvent, PortError>> {
        let Some(port) = &self.ports[index] else { return Poll::Pending };
        let receive = self.waits.receives[index].get_or_insert_with(|| {
            let port = Arc::clone(port);
            async move { port.recv().await }.boxed()
        });
        let event = std::task::ready!(receive.poll_unpin(cx));
        self.waits.receives[index] = None;
        Poll::Ready(event)
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        let (gossip, links) = (self.gossip_deadline(), self.links.earliest());
        let meets = self.meets.values().map(|meet| meet.until);
        let others = [
            gossip,
            links,
            self.seeds.next_deadline(),
            self.dials.next_deadline(),
            self.swim_deadline(),
            self.residence_until,
        ];
        others.into_iter().flatten().chain(meets).min()
    }

    fn deadlines(&mut self) {
        if self.gossip_deadline().is_some_and(|due| due <= self.now) {
            self.feed(Input::Timeout);
        }
        if self.residence_until.is_some_and(|due| due <= self.now) {
            self.residence_until = None;
            self.replica.resident.set();
        }
        if self.swim_deadline().is_some_and(|due| due <= self.now) {
            self.swim(SwimInput::Timeout);
        }
        self.link_deadlines();
        self.meet_deadlines();
    }

    fn command(&mut self, command: Command) -> Option<Closing> {
        match command {
            Command::Meet(address, reply) => self.meet(address, Some(reply)),
            Command::Join(seeds) => self.join(seeds),
            Command::NetworkChanged => self.network_changed(),
            Command::Metadata(metadata) => self.swim(SwimInput::Metadata(metadata)),
            Command::Forget(node, reply) => {
                self.forget(&node);
                let _ = reply.send(());
            }
            Command::SetState(state, reply) => {
                self.set_state(state);
                let _ = reply.send(());
            }
            Command::Close { wipe, reply } => return Some((wipe, reply)),
            Command::Standing(peer, channel, stream, reply) => {
                let _ = reply.send(self.gossip.standing(&peer, &channel, stream.as_ref()));
            }
            Command::Quiescent(reply) => {
                let _ = reply.send(self.gossip.is_quiescent());
            }
        }
        None
    }

    fn set_state(&mut self, state: NodeState) {
        let before = *self.state.borrow();
        if before == state {
            return;
        }
        self.state.send_replace(state);
        self.feed(Input::Pause(state == NodeState::Paused));
        match state {
            NodeState::Stopped => {
                self.farewell();
                self.hang_up_all();
            }
            NodeState::Running | NodeState::Paused if before == NodeState::Stopped => {
                self.swim(SwimInput::Return);
                self.seeds.hasten(self.now);
                self.dial_known();
            }
            _ => {}
        }
    }

    /// News from the append lane and the channel handles.
    fn tell(&mut self, news: News) {
        match news {
            News::Log(log) => self.look_at(&log),
            // A channel of this id may have been made again: it has a log of this name of its own.
            News::Opened(log) if log.lock().removed => {}
            News::Opened(log) => {
                self.logs.know(&log);
                self.feed(Input::Opened(log.no, log.name.clone()));
            }
            News::ChannelCreated(id) => {
                if let Some(channel) = self.replica.channel(&id) {
                    // What was merged before this was heard went to an earlier channel of this id, or to none.
                    self.load_channel(&channel);
                    self.swim(SwimInput::Reconsider);
                }
            }
            News::ChannelChanged(id) => {
                if let Some(channel) = self.replica.channel(&id) {
                    self.feed(Input::Channel(id, channel.state().admission));
                    self.swim(SwimInput::Reconsider);
                }
            }
            News::ChannelRemoved(id) => {
                self.logs.forget(&id);
                self.feed(Input::ChannelRemoved(id));
            }
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Receipt(log) => {
                log.lock().watched = false;
                self.look_at(&log);
            }
            Done::Merged { log, ticket, result } => {
                self.look_at(&log);
                let outcome = if result.is_ok() { MergeOutcome::Stored } else { MergeOutcome::Failed };
                self.feed(Input::Merged(ticket, outcome));
            }
            Done::Within { log, ticket, merge } => self.merge_outcome(log, ticket, merge),
            Done::Read(ticket, result) => {
                let found = self.or_report(result).flatten();
                self.feed(Input::Read(ticket, found));
            }
            Done::Ends(ticket, result) => {
                let ends = self.or_report(result);
                self.feed(Input::Ends(ticket, ends));
            }
            Done::Locators(ticket, result) => {
                let locators = self.or_report(result).unwrap_or_default();
                self.feed(Input::Locators(ticket, locators));
            }
            Done::Matched(ticket, result) => {
                let starts = self.or_report(result).unwrap_or_default();
                self.feed(Input::Matched(ticket, starts));
            }
            Done::HeadsStored(key, result) => {
                if self.or_report(result).is_some() {
                    self.feed(Input::HeadsStored(key));
                }
            }
            Done::Forked(event) => {
                if let Some(event) = event {
                    self.replica.notices.event(event);
                }
            }
            Done::Connected { meet, port, result } => self.connected(meet, port, result),
            Done::Written(result) => {
                self.or_report(result);
            }
        }
    }

    fn or_report<T>(&self, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.replica.notices.counters.store_failures.add(1);
                self.replica.notices.fault(Fault::Store(error.to_string().into()));
                None
            }
        }
    }

    /// Writes something that nobody waits for.
    fn write(&mut self, op: WriteOp) {
        let receipt = self.replica.store.submit(WriteBatch::new([op]));
        self.written(receipt);
    }

    /// Writes what is known of a peer now, if anything is.
    fn keep_peer(&mut self, peer: &NodeId) {
        let receipt = self.peers.keep(peer, &*self.replica.store);
        self.written(receipt);
    }

    fn written(&mut self, receipt: Receipt) {
        self.work.push(async move { Done::Written(receipt.durable().await) }.boxed());
    }

    /// Says goodbye to everybody and closes the ports.
    async fn leave(&mut self) {
        self.farewell();
        self.hang_up_all();
        self.flush();
        for port in self.ports.iter_mut().filter_map(Option::take) {
            port.close().await;
        }
        self.state.send_replace(NodeState::Closed);
        for (_, meet) in std::mem::take(&mut self.meets) {
            meet.fail(MeetError::Closed);
        }
    }
}

/// Time in which a session that a meeting waits for must stand.
const MEET_TIMEOUT: Duration = Duration::from_secs(20);
