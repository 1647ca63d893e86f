//! Liveness driven over a port and a timer: links for addresses, commands for calls.
//!
//! One future owns the [`Liveness`]; handles talk to it by commands. It never reads a clock but the timer it was given, and
//! spawns nothing. Frames are best effort: what a link has no room for is dropped and counted, as the next probe asks again.
//! Called by the facade's `LivenessBuilder`.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Either, select};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::routes::Routes;
use super::{Liveness, LivenessEvent, LivenessStats, MetadataRefused, told};
use crate::application::ports::{LinkId, MessagePort, PortError, PortEvent, Priority, SendError, TimerPort};
use crate::application::selection::Members;
use crate::domain::id::NodeId;
use crate::domain::link::PeerAddr;
use crate::domain::time::Instant;
use crate::protocol::swim::{Effect, Incarnation, Input, Kind, MemberView, Metadata, Status};

/// Port events taken per turn, so that a flood starves no timer.
const EVENT_BUDGET: usize = 64;
/// Addresses dialled at a time; frames for further ones are dropped and counted.
const MAX_DIALS: usize = 64;
/// How long dialling may take, whatever the port thinks: longer than a TCP handshake with two retransmissions.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node that leaves stays for its last words to be sent, at least and at most.
const LINGER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What handles ask.
pub(crate) enum Command {
    Meet(PeerAddr, oneshot::Sender<Option<NodeId>>),
    Join(Vec<PeerAddr>),
    Metadata(Metadata, oneshot::Sender<Result<(), MetadataRefused>>),
    Introduce(NodeId, Option<PeerAddr>),
    Forget(NodeId),
    NetworkChanged,
    Members(oneshot::Sender<Members>),
    Member(NodeId, oneshot::Sender<Option<MemberView>>),
    Own(oneshot::Sender<(Incarnation, Metadata)>),
    Stats(oneshot::Sender<LivenessStats>),
    PortFigures(oneshot::Sender<BTreeMap<&'static str, u64>>),
    Leave(oneshot::Sender<()>),
}

/// Keeps the incarnation across restarts.
pub(crate) type Keep = Box<dyn FnMut(Incarnation) -> std::io::Result<()> + Send>;

/// What the driver works with.
pub(crate) struct DriverParts {
    pub(crate) liveness: Liveness,
    pub(crate) port: Arc<dyn MessagePort>,
    pub(crate) timer: Arc<dyn TimerPort>,
    pub(crate) keep: Option<Keep>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) events: broadcast::Sender<LivenessEvent>,
    pub(crate) max_links: usize,
}

/// Drives one [`Liveness`] over its port: poll it on any executor. It ends when the node left, when the port is closed, or
/// when the last handle is gone; the latter two without a goodbye, as a device that is switched off.
pub struct LivenessDriver(BoxFuture<'static, ()>);

impl LivenessDriver {
    pub(crate) fn new(parts: DriverParts) -> Self {
        let DriverParts { liveness, port, timer, keep, commands, events, max_links } = parts;
        let run = Run {
            liveness,
            port,
            timer,
            keep,
            commands,
            events,
            max_links,
            routes: Routes::default(),
            dials: FuturesUnordered::new(),
            meets: BTreeMap::new(),
        };
        Self(run.run().boxed())
    }
}

impl Future for LivenessDriver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll_unpin(context)
    }
}

impl std::fmt::Debug for LivenessDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LivenessDriver")
    }
}

type Dialled = (PeerAddr, Result<LinkId, PortError>);

struct Run {
    liveness: Liveness,
    port: Arc<dyn MessagePort>,
    timer: Arc<dyn TimerPort>,
    keep: Option<Keep>,
    commands: mpsc::UnboundedReceiver<Command>,
    events: broadcast::Sender<LivenessEvent>,
    max_links: usize,
    routes: Routes,
    dials: FuturesUnordered<BoxFuture<'static, Dialled>>,
    meets: BTreeMap<PeerAddr, Vec<oneshot::Sender<Option<NodeId>>>>,
}

enum Wake {
    Timer,
    Command(Option<Command>),
    Dialled(Dialled),
    Port(Result<PortEvent, PortError>),
}

impl Run {
    async fn run(mut self) {
        loop {
            let deadline = self.liveness.next_deadline();
            let wake = self.wait(deadline).await;
            let now = self.timer.now();
            match wake {
                Wake::Timer => {
                    let effects = self.liveness.ticked(now);
                    self.act(effects, None);
                }
                Wake::Command(None) => break,
                Wake::Command(Some(Command::Leave(reply))) => {
                    self.leave(now).await;
                    self.tell(LivenessEvent::Left);
                    self.port.close().await;
                    let _caller_may_be_gone = reply.send(());
                    return;
                }
                Wake::Command(Some(command)) => self.command(command, now),
                Wake::Dialled(dialled) => self.dialled(dialled),
                Wake::Port(event) => {
                    let mut next = Some(event);
                    for _ in 0..EVENT_BUDGET {
                        match next {
                            Some(Ok(event)) => self.port_event(event, now),
                            Some(Err(error)) => {
                                return self.tell(LivenessEvent::PortFailed(error.to_string().into()));
                            }
                            None => break,
                        }
                        next = self.port.recv().now_or_never();
                    }
                    // The last one taken is not lost when the budget ends in it.
                    match next {
                        Some(Ok(event)) => self.port_event(event, now),
                        Some(Err(error)) => {
                            return self.tell(LivenessEvent::PortFailed(error.to_string().into()));
                        }
                        None => {}
                    }
                }
            }
        }
        self.port.close().await;
    }

    async fn wait(&mut self, deadline: Option<Instant>) -> Wake {
        let Self { commands, dials, port, timer, .. } = self;
        let sleep = async {
            match deadline {
                Some(deadline) => timer.sleep_until(deadline).await,
                None => pending().await,
            }
        };
        let dialled = async {
            match dials.next().await {
                Some(dialled) => dialled,
                None => pending().await,
            }
        };
        let (sleep, dialled) = (sleep.fuse(), dialled.fuse());
        futures::pin_mut!(sleep, dialled);
        futures::select_biased! {
            () = sleep => Wake::Timer,
            command = commands.recv().fuse() => Wake::Command(command),
            dialled = dialled => Wake::Dialled(dialled),
            event = port.recv().fuse() => Wake::Port(event),
        }
    }

    /// Says goodbye, and stays until the last words were handed to the port, or too long.
    async fn leave(&mut self, now: Instant) {
        let effects = self.liveness.goodbye(now);
        self.act(effects, None);
        let mut until = now + LINGER.0;
        while self.timer.now() < until {
            match self.wait(Some(until)).await {
                Wake::Timer => {}
                Wake::Command(None) => return,
                Wake::Command(Some(command)) => drop(command),
                Wake::Dialled(dialled) => self.dialled(dialled),
                Wake::Port(Ok(PortEvent::Up { link, .. })) => self.routes.up(link, None),
                Wake::Port(Ok(_)) => {}
                Wake::Port(Err(_)) => return,
            }
            if self.routes.dialling() > 0 {
                until = now + LINGER.1;
            }
        }
    }

    fn command(&mut self, command: Command, now: Instant) {
        // Whoever asked may be gone: nobody misses the answer then.
        let effects = match command {
            Command::Meet(address, reply) => {
                self.meets.entry(address.clone()).or_default().push(reply);
                self.liveness.take(Input::Meet(address), now)
            }
            Command::Join(seeds) => self.liveness.seek(seeds, now),
            Command::Metadata(metadata, reply) => match self.liveness.change_metadata(metadata, now) {
                Ok(effects) => {
                    let _ = reply.send(Ok(()));
                    effects
                }
                Err(refused) => {
                    let _ = reply.send(Err(refused));
                    return;
                }
            },
            Command::Introduce(node, address) => {
                self.liveness.take(Input::Introduce(node, address, Incarnation::default()), now)
            }
            Command::Forget(node) => self.liveness.take(Input::Forget(node), now),
            Command::NetworkChanged => self.liveness.take(Input::NetworkChanged, now),
            Command::Members(reply) => {
                let _ = reply.send(self.liveness.members());
                return;
            }
            Command::Member(node, reply) => {
                let _ = reply.send(self.liveness.member(&node));
                return;
            }
            Command::Own(reply) => {
                let _ = reply.send((self.liveness.incarnation(), self.liveness.metadata().clone()));
                return;
            }
            Command::Stats(reply) => {
                let _ = reply.send(self.liveness.stats());
                return;
            }
            Command::PortFigures(reply) => {
                let _ = reply.send(self.port.figures());
                return;
            }
            // Taken out by the loop.
            Command::Leave(_) => return,
        };
        self.act(effects, None);
    }

    fn port_event(&mut self, event: PortEvent, now: Instant) {
        match event {
            PortEvent::Up { link, .. } => {
                self.routes.up(link, None);
                self.give_up_superfluous();
            }
            PortEvent::Frame { link, frame } => {
                let from = self.routes.address(link);
                let (effects, refused) = self.liveness.received(from, frame, now);
                if let Some(refused) = refused {
                    tracing::debug!(target: "anabranch::liveness", ?link, %refused, "frame");
                }
                self.act(effects, Some((link, now)));
            }
            // Nothing waits for room.
            PortEvent::Writable { .. } => {}
            PortEvent::Down { link, .. } => self.routes.down(link),
        }
    }

    fn give_up_superfluous(&mut self) {
        while let Some(link) = self.routes.superfluous(self.max_links) {
            self.routes.down(link);
            self.port.disconnect(link);
        }
    }

    /// Carries out what the engine wants. `came`: the link of the frame that it follows from, and when that came.
    fn act(&mut self, effects: Vec<Effect>, came: Option<(LinkId, Instant)>) {
        // A node that stopped answering may be behind a link that leads nowhere any more.
        let mut dead = BTreeSet::new();
        for effect in effects {
            match effect {
                Effect::Persist(incarnation) => self.keep(incarnation),
                // These answer the frame that just came, whoever wrote it: on the same link.
                Effect::Send { frame, kind: Kind::Welcome | Kind::Stale, .. } if came.is_some() => {
                    came.into_iter().for_each(|(link, _)| self.hand_over(link, frame.clone()));
                }
                Effect::Send { to, address, frame, .. } => self.send(Some(to), address, frame),
                Effect::Greet(address, frame) => self.send(None, Some(address), frame),
                Effect::Received(node, _) => {
                    if let Some((link, now)) = came {
                        let fresh = self.liveness.member(&node).and_then(|member| member.heard) == Some(now);
                        self.routes.heard(link, node, fresh);
                    }
                }
                effect => {
                    match &effect {
                        Effect::Met(address, node) => self.answer_meets(address, Some(*node)),
                        Effect::MeetFailed(address) => self.answer_meets(address, None),
                        Effect::Changed { node, new: Some(Status::Unreachable), .. } => {
                            dead.extend(self.routes.of_node(node));
                        }
                        _ => {}
                    }
                    if let Some(event) = told(effect) {
                        self.tell(event);
                    }
                }
            }
        }
        for link in dead {
            self.routes.down(link);
            self.port.disconnect(link);
        }
    }

    fn keep(&mut self, incarnation: Incarnation) {
        if let Some(keep) = &mut self.keep
            && let Err(error) = keep(incarnation)
        {
            self.tell(LivenessEvent::KeepFailed(error.to_string().into()));
        }
    }

    fn answer_meets(&mut self, address: &PeerAddr, node: Option<NodeId>) {
        for reply in self.meets.remove(address).unwrap_or_default() {
            let _caller_may_be_gone = reply.send(node);
        }
    }

    fn send(&mut self, to: Option<NodeId>, address: Option<PeerAddr>, frame: Bytes) {
        if let Some(link) = self.routes.find(to.as_ref(), address.as_ref()) {
            return self.hand_over(link, frame);
        }
        let Some(address) = address.filter(|_| self.routes.dialling() < MAX_DIALS) else {
            return self.liveness.unsent(1);
        };
        let (begin, lost) = self.routes.wait(&address, frame);
        self.liveness.unsent(lost);
        if begin {
            let (port, timer) = (Arc::clone(&self.port), Arc::clone(&self.timer));
            let until = timer.now() + DIAL_TIMEOUT;
            let dial = async move {
                let outcome = match select(port.connect(&address), timer.sleep_until(until)).await {
                    Either::Left((outcome, _)) => outcome,
                    Either::Right(_) => {
                        let reason = format!("no answer within {DIAL_TIMEOUT:?}").into();
                        Err(PortError::Unreachable { address: address.clone(), reason })
                    }
                };
                (address, outcome)
            };
            self.dials.push(dial.boxed());
        }
    }

    fn dialled(&mut self, (address, outcome): Dialled) {
        let frames = self.routes.dialled(&address);
        match outcome {
            Ok(link) => {
                // `Up` may come later, or may have come; `Down` too, which the first send then finds out.
                self.routes.up(link, Some(address));
                frames.into_iter().for_each(|frame| self.hand_over(link, frame));
                self.give_up_superfluous();
            }
            Err(error) => {
                tracing::debug!(target: "anabranch::liveness", %error, "dialling failed");
                self.liveness.unsent(frames.len() as u64);
            }
        }
    }

    fn hand_over(&mut self, link: LinkId, frame: Bytes) {
        match self.port.try_send(link, frame, Priority::High) {
            Ok(()) => {}
            Err(SendError::LinkDown) => {
                self.routes.down(link);
                self.liveness.unsent(1);
            }
            Err(_) => self.liveness.unsent(1),
        }
    }

    fn tell(&mut self, event: LivenessEvent) {
        tracing::debug!(target: "anabranch::liveness", ?event);
        let _nobody_may_listen = self.events.send(event);
    }
}
