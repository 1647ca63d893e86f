//! A peer that speaks the protocol with its own hands and says what it likes: it drives a real session over a
//! port of the network, and puts any bytes into it.

use std::time::Duration;

use anabranch::domain::head::Head;
use anabranch::domain::id::LogKey;
use anabranch::domain::run::{Run, RunBuilder};
use anabranch::protocol::session::{Lane, Session, SessionConfig, SessionEvent};
use anabranch::protocol::wire::{
    Announcement, ChannelRef, Message, MessageVersion, RunMessage, RunRef, ShareTag,
};
use anabranch::{
    ChannelId, EntryHash, Identity, LinkId, MemoryNetwork, MemoryPort, MessagePort as _, NodeId, PortEvent,
    StreamId, SystemTimer, TimerPort as _, Timestamp, Tip,
};
use bytes::Bytes;

use super::PATIENCE;

/// First byte of a liveness packet that travels as a message.
const SWIM_MESSAGE: u8 = 0xf1;

pub struct Mallory {
    pub identity: Identity,
    port: MemoryPort,
    link: LinkId,
    session: Session,
    timer: SystemTimer,
    binding: Option<[u8; 32]>,
    pub heard: Vec<Message>,
    /// The first byte of each of them.
    pub leading: Vec<u8>,
    pub closed: bool,
    run_no: u64,
}

impl Mallory {
    /// Connects to the port `to` and proves to be `identity` there.
    pub async fn connect(network: &MemoryNetwork, identity: Identity, to: &str) -> Self {
        let port = network.port("mallory");
        let timer = SystemTimer::new();
        let link = port.connect(&to.into()).await.unwrap();
        let (profile, seed) = (port.profile(), [77; 32]);
        let config = SessionConfig::default();
        let session = Session::new(config, identity.clone(), profile, None, true, seed, timer.now());
        let mut mallory = Self {
            identity,
            port,
            link,
            session,
            timer,
            binding: None,
            heard: Vec::new(),
            leading: Vec::new(),
            closed: false,
            run_no: 0,
        };
        mallory.until("a session", |mallory| mallory.binding.is_some()).await;
        mallory
    }

    /// Exchanges frames until `enough`.
    pub async fn until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        let deadline = self.timer.now() + PATIENCE;
        while !enough(self) {
            assert!(self.timer.now() < deadline, "never came: {what}; heard {:?}", self.heard);
            self.turn().await;
        }
    }

    /// Sends what waits, and takes what comes within a moment.
    pub async fn turn(&mut self) {
        let now = self.timer.now();
        let mut events = Vec::new();
        if self.session.next_deadline().is_some_and(|due| due <= now) {
            self.session.handle_timeout(now, &mut events);
        }
        while let Some((frame, priority)) = self.session.poll_transmit(now) {
            // Whatever is lost comes again.
            let _ = self.port.try_send(self.link, frame, priority);
        }
        let moment = Duration::from_millis(5);
        match tokio::time::timeout(moment, self.port.recv()).await {
            Ok(Ok(PortEvent::Frame { frame, .. })) => {
                self.session.handle_frame(frame, self.timer.now(), &mut events);
            }
            Ok(Ok(PortEvent::Down { .. }) | Err(_)) => self.closed = true,
            Ok(Ok(_)) | Err(_) => {}
        }
        for event in events {
            match event {
                SessionEvent::Established { binding, .. } => self.binding = Some(binding),
                // A packet of the liveness engine that is too large for a datagram: mallory answers none.
                SessionEvent::Message { message, .. } if message.first() == Some(&SWIM_MESSAGE) => {}
                SessionEvent::Message { message, .. } => {
                    self.leading.push(message[0]);
                    let heard = Message::decode(&message, MessageVersion::NEWEST);
                    self.heard.push(heard.expect("the node speaks the protocol"));
                }
                SessionEvent::Closed(_) => self.closed = true,
                _ => {}
            }
        }
    }

    pub fn say(&mut self, message: &Message) {
        self.say_bytes(message.encode(MessageVersion::V1));
    }

    pub fn say_bytes(&mut self, bytes: impl Into<Bytes>) {
        self.session.send(Lane::Control, bytes.into()).expect("the lane has room");
    }

    /// Says something that may be lost, beside the lanes.
    pub fn datagram(&mut self, bytes: impl Into<Bytes>) {
        self.session.send_datagram(bytes.into()).expect("it fits a frame");
    }

    /// Puts a frame on the link past the session.
    pub fn frame(&self, frame: impl Into<Bytes>) {
        let _ = self.port.try_send(self.link, frame.into(), anabranch::Priority::High);
    }

    /// Announces the channel, as the first one: its reference is 0.
    pub fn share(&mut self, channel: &ChannelId) {
        let binding = self.binding.expect("the session stands");
        let tag = ShareTag::new(channel, &binding, &self.identity.node());
        self.say(&Message::Share(vec![Announcement { tag, fingerprint: [0; 8] }]));
    }

    /// Sends entries of the log of `author`, signed by `signer`.
    pub fn run(&mut self, stream: &str, author: NodeId, run: &Run, heads: &[Head]) {
        self.run_no += 1;
        self.say(&Message::Run(RunMessage {
            channel: ChannelRef(0),
            log: RunRef::Name(stream.to_owned(), author),
            first: run.first(),
            previous: Some(run.previous()),
            heads: heads.iter().map(|head| (head.tip.sequence, head.signature)).collect(),
            body: run.body().clone(),
        }));
    }

    /// Exchanges frames until the node is done with all runs sent so far.
    pub async fn done(&mut self) {
        let runs = self.run_no;
        let done =
            move |message: &Message| matches!(message, Message::Done { control, .. } if *control >= runs);
        self.until("the node to be done", |mallory| mallory.heard.iter().any(done)).await;
    }
}

/// The key of a log.
pub fn key(channel: &ChannelId, stream: &str, author: NodeId) -> LogKey {
    LogKey::derive(channel, &StreamId::new(stream).unwrap(), &author)
}

/// A run with these stamps and payloads after `after`.
pub fn run(key: LogKey, after: Tip, entries: &[(Timestamp, &str)]) -> Run {
    let mut builder = RunBuilder::new(key, after, entries.len(), 1024);
    for (stamp, payload) in entries {
        builder.push(*stamp, payload.as_bytes());
    }
    builder.finish().unwrap()
}

/// The first entry of a log, and the head that `signer` puts on it.
pub fn first(key: LogKey, signer: &Identity, payload: &str) -> (Run, Vec<Head>) {
    let stamp = Timestamp::new(0, 1 << 32);
    let run = run(key, Tip { sequence: 0, hash: EntryHash::ZERO }, &[(stamp, payload)]);
    let head = Head::sign(&key, run.tip(), signer);
    (run, vec![head])
}
