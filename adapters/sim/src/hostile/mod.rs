//! Devices that mean harm: members of every open channel that speak the wire by themselves.
//!
//! Each has an identity and proves it like any node, and then lies. They share no code with the engines but the
//! session and the message format, and are not held to any invariant: everybody else is. The world starts them,
//! and stops them when faults end.

mod lies;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anabranch::domain::head::Head;
use anabranch::domain::id::LogKey;
use anabranch::domain::identity::{Identity, Signature};
use anabranch::domain::run::{Run, RunBuilder};
use anabranch::infrastructure::prng::Prng;
use anabranch::protocol::session::{Lane, Session, SessionConfig, SessionEvent};
use anabranch::protocol::wire::{
    ChannelRef, HaveItem, LogRef, Message, MessageVersion, RunMessage, RunRef, ShareTag,
};
use anabranch::{
    ChannelId, LinkId, MessagePort as _, NodeId, PeerAddr, PortEvent, Priority, StreamId, TimerPort as _,
    Timestamp, Tip,
};
use bytes::Bytes;
use futures::future::{Either, select};

use crate::cx::NodeCx;
use crate::faults::FaultKind;

/// Runs that a liar remembers, to replay or tamper with.
const MEMORY: usize = 64;
/// Frames that it remembers, to replay in other sessions.
const FRAMES: usize = 64;
/// The stream that equivocators write to.
const STREAM: &str = "rumours";
/// Most entries of one of their histories: below the end of a block, so that one signature suffices.
const MOST_ENTRIES: usize = 200;
/// Links that a flood opens and leaves half open.
const MOST_HALF_OPEN: u32 = 100;
/// Messages after which a peer that never reads stops to.
const READS: u32 = 5;

/// In which way a device means harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Hostile {
    /// An author that writes two histories and shows one to some and the other to others.
    Equivocator,
    /// A member that lies in comparisons, tampers with the entries of others, replays and withholds.
    Liar,
    /// A peer that asks for everything and reads nothing.
    NeverReads,
    /// A peer that sends more than anybody should: garbage, handshakes, requests.
    Flood,
    /// A node of a past or a future version of the wire.
    OtherVersion,
}

impl Hostile {
    /// What it is called, in reports and as an address.
    pub fn name(self) -> &'static str {
        match self {
            Self::Equivocator => "equivocator",
            Self::Liar => "liar",
            Self::NeverReads => "never-reads",
            Self::Flood => "flood",
            Self::OtherVersion => "other-version",
        }
    }

    /// The kind of device that a kind of fault adds.
    pub(crate) fn of(kind: FaultKind) -> Option<Self> {
        Some(match kind {
            FaultKind::Equivocation => Self::Equivocator,
            FaultKind::Liar => Self::Liar,
            FaultKind::NeverReads => Self::NeverReads,
            FaultKind::Flood => Self::Flood,
            FaultKind::OtherVersion => Self::OtherVersion,
            _ => return None,
        })
    }

    /// Shortest and longest time between two of its acts.
    fn pace(self) -> (Duration, Duration) {
        let (least, most) = match self {
            Self::Equivocator => (300, 3_000),
            Self::Liar => (50, 600),
            Self::NeverReads => (100, 1_000),
            Self::Flood => (50, 500),
            Self::OtherVersion => (200, 2_000),
        };
        (Duration::from_millis(least), Duration::from_millis(most))
    }
}

/// One link and what is known of who is there.
struct Talk {
    session: Session,
    /// Which history it is shown.
    side: usize,
    with: Option<With>,
    read: u32,
}

struct With {
    binding: [u8; 32],
    /// The channels that were announced, in the order of their references.
    channels: Vec<ChannelId>,
}

/// One of the histories of an equivocator in one channel.
struct History {
    key: LogKey,
    entries: Vec<(Timestamp, Vec<u8>)>,
}

struct Villain {
    kind: Hostile,
    cx: NodeCx,
    identity: Identity,
    random: Prng,
    talks: BTreeMap<LinkId, Talk>,
    /// What peers sent, with the channel.
    runs: Vec<(ChannelId, RunMessage)>,
    /// Logs that peers spoke of.
    keys: Vec<(ChannelId, LogRef)>,
    frames: Vec<Bytes>,
    histories: BTreeMap<(ChannelId, usize), History>,
    opened: u32,
    next_session: u64,
    deaf: bool,
}

/// The life of a hostile device. Ends only with its incarnation.
pub(crate) async fn run(kind: Hostile, cx: NodeCx) {
    let identity = anabranch::application::ports::NodeRepository::identity(&cx.store());
    let random = cx.random();
    for peer in cx.peers() {
        cx.spawn(dial(cx.clone(), peer.clone()));
    }
    let mut villain = Villain {
        kind,
        identity,
        random,
        talks: BTreeMap::new(),
        runs: Vec::new(),
        keys: Vec::new(),
        frames: Vec::new(),
        histories: BTreeMap::new(),
        opened: 0,
        next_session: 0,
        deaf: false,
        cx,
    };
    let (port, timer) = (villain.cx.port(), villain.cx.timer());
    let mut next = timer.now();
    loop {
        let deadline = villain.talks.values().filter_map(|talk| talk.session.next_deadline()).min();
        let wake = timer.sleep_until(deadline.map_or(next, |deadline| deadline.min(next)));
        let heard = async {
            match villain.deaf {
                true => std::future::pending().await,
                false => port.recv().await,
            }
        };
        let event = match select(Box::pin(heard), Box::pin(wake)).await {
            Either::Left((event, _)) => Some(event),
            Either::Right(_) => None,
        };
        match event {
            Some(Ok(event)) => villain.port_event(event),
            Some(Err(_)) => return,
            None => {}
        }
        let now = timer.now();
        villain.deadlines();
        if next <= now {
            villain.act();
            let (least, most) = kind.pace();
            let span = (most - least).as_nanos() as u64;
            next = now + least + Duration::from_nanos(villain.random.below(span));
        }
        villain.transmit();
    }
}

/// Connects to a peer, again and again: whoever hangs up on it is called again.
async fn dial(cx: NodeCx, peer: PeerAddr) {
    loop {
        let _ = cx.port().connect(&peer).await;
        cx.timer().sleep(Duration::from_secs(10)).await;
    }
}

impl Villain {
    fn port_event(&mut self, event: PortEvent) {
        match event {
            PortEvent::Up { link, proven, dialed } => {
                let mut seed = self.cx.seed();
                seed[..8].copy_from_slice(&self.next_session.to_le_bytes());
                self.next_session += 1;
                let (profile, now) = (self.cx.port().profile(), self.cx.timer().now());
                let config = SessionConfig::default();
                let session = Session::new(config, self.identity.clone(), profile, proven, dialed, seed, now);
                let side = self.talks.len() % 2;
                self.talks.insert(link, Talk { session, side, with: None, read: 0 });
            }
            PortEvent::Frame { link, frame } => {
                let now = self.cx.timer().now();
                let Some(talk) = self.talks.get_mut(&link) else { return };
                let mut events = Vec::new();
                talk.session.handle_frame(frame, now, &mut events);
                self.session_events(link, events);
            }
            PortEvent::Down { link, .. } => {
                self.talks.remove(&link);
            }
            PortEvent::Writable { .. } => {}
        }
    }

    fn session_events(&mut self, link: LinkId, events: Vec<SessionEvent>) {
        for event in events {
            match event {
                SessionEvent::Established { peer, binding } => self.established(link, peer, binding),
                SessionEvent::Message { message, .. } => {
                    if let Ok(message) = Message::decode(&message, MessageVersion::NEWEST) {
                        self.message(link, message);
                    }
                }
                SessionEvent::Closed(_) => {
                    self.talks.remove(&link);
                    self.cx.port().disconnect(link);
                    return;
                }
                _ => {}
            }
        }
    }

    /// Announces every channel that would admit it: it is a member like any other.
    fn established(&mut self, link: LinkId, _: NodeId, binding: [u8; 32]) {
        let own = self.identity.node();
        let channels = self.cx.open_channels(&own);
        let tags = channels.iter().map(|id| ShareTag::new(id, &binding, &own)).collect();
        if let Some(talk) = self.talks.get_mut(&link) {
            talk.with = Some(With { binding, channels });
        }
        self.announce(link, tags);
        self.ask_for_all(link);
    }

    fn ask_for_all(&mut self, link: LinkId) {
        if matches!(self.kind, Hostile::Liar | Hostile::NeverReads) {
            self.say(link, &Message::ListFrom { channel: ChannelRef(0), round: 0, after: None });
        }
    }

    /// The channel that our own reference `at` means in this session.
    fn channel(&self, link: LinkId, at: usize) -> Option<ChannelId> {
        self.talks.get(&link)?.with.as_ref()?.channels.get(at).copied()
    }

    fn message(&mut self, link: LinkId, message: Message) {
        if let Some(talk) = self.talks.get_mut(&link) {
            talk.read += 1;
            self.deaf |= self.kind == Hostile::NeverReads && talk.read >= READS;
        }
        // Peers refer to channels by numbers of their own; with one open channel there is but one.
        let Some(channel) = self.channel(link, 0) else { return };
        match message {
            Message::List { items, .. } => {
                let known = items.iter().map(|item| LogRef::Key(item.key));
                let logs: Vec<HaveItem> = known.map(|log| HaveItem { log, tips: Vec::new() }).collect();
                self.keys.extend(logs.iter().map(|item| (channel, item.log.clone())));
                self.keys.truncate(MEMORY);
                let reference = ChannelRef(0);
                self.say(link, &Message::Have { channel: reference, round: 0, logs, answer: false });
            }
            Message::Run(run) => {
                if self.runs.len() < MEMORY {
                    self.runs.push((channel, run));
                } else {
                    let at = self.random.below(MEMORY as u64) as usize;
                    self.runs[at] = (channel, run);
                }
            }
            Message::Compare { round, .. } if self.kind == Hostile::Liar => {
                // "We hold the same": whatever the peer lacks, it will not learn it here.
                self.cx.fault("withheld_entries");
                self.say(link, &Message::Same { channel: ChannelRef(0), round });
            }
            Message::Have { .. } if self.kind == Hostile::Equivocator => self.show(link),
            _ => {}
        }
    }

    fn say(&mut self, link: LinkId, message: &Message) {
        self.say_bytes(link, message.encode(MessageVersion::V1));
    }

    fn say_bytes(&mut self, link: LinkId, message: Bytes) {
        if let Some(talk) = self.talks.get_mut(&link) {
            let lane = if self.random.below(4) == 0 { Lane::Bulk } else { Lane::Control };
            // What does not fit is not said.
            let _ = talk.session.send(lane, message);
        }
    }

    fn deadlines(&mut self) {
        let now = self.cx.timer().now();
        let links: Vec<LinkId> = self.talks.keys().copied().collect();
        for link in links {
            let Some(talk) = self.talks.get_mut(&link) else { continue };
            if talk.session.next_deadline().is_some_and(|due| due <= now) {
                let mut events = Vec::new();
                talk.session.handle_timeout(now, &mut events);
                self.session_events(link, events);
            }
        }
    }

    fn transmit(&mut self) {
        let (port, now) = (self.cx.port(), self.cx.timer().now());
        for (link, talk) in &mut self.talks {
            while let Some((frame, priority)) = talk.session.poll_transmit(now) {
                if self.frames.len() < FRAMES {
                    self.frames.push(frame.clone());
                } else if self.random.below(8) == 0 {
                    self.frames[self.random.below(FRAMES as u64) as usize] = frame.clone();
                }
                if port.try_send(*link, frame, priority).is_err() {
                    break;
                }
            }
        }
    }

    /// One of those who are there, if anybody is.
    fn somebody(&mut self) -> Option<LinkId> {
        let links: Vec<LinkId> =
            self.talks.iter().filter(|(_, talk)| talk.with.is_some()).map(|(link, _)| *link).collect();
        let at = self.random.below(links.len() as u64) as usize;
        links.get(at).copied()
    }

    fn act(&mut self) {
        match self.kind {
            Hostile::Equivocator => self.equivocate(),
            Hostile::Liar => self.lie(),
            Hostile::NeverReads => {
                if let Some(link) = self.somebody() {
                    self.cx.fault("never_reads");
                    self.ask_for_all(link);
                }
            }
            Hostile::Flood => self.flood(),
            Hostile::OtherVersion => self.other_version(),
        }
    }

    /// Writes on one of two histories and shows each side its own.
    fn equivocate(&mut self) {
        let Some(link) = self.somebody() else { return };
        let Some((side, channel)) =
            self.talks.get(&link).and_then(|talk| Some((talk.side, *talk.with.as_ref()?.channels.first()?)))
        else {
            return;
        };
        let Ok(stream) = StreamId::new(STREAM) else { return };
        let key = LogKey::derive(&channel, &stream, &self.identity.node());
        let first =
            self.histories.entry((channel, 0)).or_insert_with(|| History { key, entries: Vec::new() });
        // Both start alike, so that the log forks somewhere inside.
        let common = first.entries.iter().take(3).cloned().collect::<Vec<_>>();
        let history =
            self.histories.entry((channel, side)).or_insert_with(|| History { key, entries: common });
        if history.entries.len() < MOST_ENTRIES {
            let last = history.entries.last().map_or(Timestamp::ZERO, |(stamp, _)| *stamp);
            let wall = self.cx.timer().wall();
            // Now and then a clock that is years ahead.
            let ahead =
                if self.random.below(16) == 0 { (self.random.below(10 * 365 * 86_400)) << 32 } else { 0 };
            let next = Timestamp::next(last, wall, Duration::from_secs(3_600));
            let Ok(next) = next else { return };
            let stamp = Timestamp::new(next.stamp.era(), next.stamp.time().saturating_add(ahead));
            let payload = self.random.next_u64().to_le_bytes()[..(self.random.below(8) as usize)].to_vec();
            history.entries.push((stamp, payload));
        }
        self.cx.fault("equivocation");
        self.show(link);
    }

    /// Sends the whole of one history.
    fn show(&mut self, link: LinkId) {
        let Some(side) = self.talks.get(&link).map(|talk| talk.side) else { return };
        let Some(channel) = self.channel(link, 0) else { return };
        let Some(history) = self.histories.get(&(channel, side)) else { return };
        let mut builder = RunBuilder::new(history.key, Tip::START, history.entries.len(), 0);
        for (stamp, payload) in &history.entries {
            builder.push(*stamp, payload);
        }
        let Some(run) = builder.finish() else { return };
        let head = Head::sign(&history.key, run.tip(), &self.identity);
        let log = RunRef::Name(STREAM.to_owned(), self.identity.node());
        self.say(link, &run_message(log, &run, &[head]));
    }

    fn other_version(&mut self) {
        self.cx.fault("other_wire_version");
        let links: Vec<LinkId> = self.talks.keys().copied().collect();
        let at = self.random.below(links.len() as u64) as usize;
        let Some(link) = links.get(at).copied() else { return };
        // Of no version, of a later one, and what a later one might say of itself.
        let leading = [0x01, 0x31, 0x3f, 0xff][self.random.below(4) as usize];
        let mut bytes = self.noise(200);
        bytes.insert(0, leading);
        if self.random.below(2) == 0 {
            let _ = self.cx.port().try_send(link, bytes.into(), Priority::High);
        } else {
            // The session is of this version, and what is said in it is not.
            self.say_bytes(link, bytes.into());
        }
    }

    fn noise(&mut self, most: u64) -> Vec<u8> {
        let len = self.random.below(most) + 1;
        (0..len).map(|_| self.random.next_u64() as u8).collect()
    }

    fn flood(&mut self) {
        self.cx.fault("flood");
        let links: Vec<LinkId> = self.talks.keys().copied().collect();
        match self.random.below(3) {
            0 if self.opened < MOST_HALF_OPEN => {
                for peer in self.cx.peers().to_vec() {
                    self.opened += 1;
                    let cx = self.cx.clone();
                    self.cx.spawn(async move {
                        let _ = cx.port().connect(&peer).await;
                    });
                }
            }
            1 => {
                for link in links {
                    for _ in 0..self.random.below(20) {
                        let mut frame = self.noise(100);
                        if self.random.below(2) == 0 {
                            // The right version and kind, and nonsense after them.
                            frame.splice(0..0, [1, self.random.below(12) as u8]);
                        }
                        let _ = self.cx.port().try_send(link, frame.into(), Priority::High);
                    }
                }
            }
            _ => {
                for _ in 0..self.random.below(40) {
                    if let Some(link) = self.somebody() {
                        self.request(link);
                    }
                }
            }
        }
    }
}

fn run_message(log: RunRef, run: &Run, heads: &[Head]) -> Message {
    let heads: Vec<(u64, Signature)> = heads.iter().map(|head| (head.tip.sequence, head.signature)).collect();
    Message::Run(RunMessage {
        channel: ChannelRef(0),
        log,
        first: run.first(),
        previous: Some(run.previous()),
        heads,
        body: run.body().clone(),
    })
}

/// The code that starts such a device: it never has an application.
pub(crate) fn boot<A: 'static>(kind: Hostile) -> impl Fn(NodeCx) -> BootFuture<A> {
    move |cx| {
        let live = run(kind, cx);
        Box::pin(async move {
            live.await;
            std::future::pending().await
        })
    }
}

/// What starts it.
pub(crate) type BootFuture<A> = futures::future::LocalBoxFuture<'static, Result<A, crate::world::BootError>>;

/// Shared with the world: which kinds there are.
pub(crate) fn kinds(drawn: &[(FaultKind, u64)]) -> Rc<[Hostile]> {
    drawn.iter().filter_map(|(kind, _)| Hostile::of(*kind)).collect()
}
