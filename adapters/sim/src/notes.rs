//! The workload of the tool: a note-taking app that writes to a few streams and meets its peers.
//!
//! Small on purpose. What makes runs differ is drawn: how many nodes, how they are connected, how often and how
//! much they write, how durable, what else they do.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anabranch::infrastructure::prng::Prng;
use anabranch::{
    AppendError, ChannelSpec, Config, Coordinator, Cursor, Durability, EntryId, EventStream, PeerAddr, Query,
};

use crate::cx::NodeCx;
use crate::faults::FaultProfile;
use crate::seed::Seed;
use crate::world::{BootError, Failure, Tick, World};

/// Streams of the channel that all nodes share.
const STREAMS: [&str; 3] = ["today", "tomorrow", "never"];
/// Largest payload written, in bytes; larger than any frame.
const LARGE: u64 = 100_000;

/// Situations that runs should reach now and then.
pub const SITUATIONS: [&str; 6] = [
    "a payload larger than a frame was written",
    "a node paused",
    "a node left the network for a while",
    "an entry arrived late",
    "a subscriber was told of a fork",
    "a node did not start",
];

/// How a run of the workload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Number of nodes.
    pub nodes: usize,
    /// Faults.
    pub profile: FaultProfile,
    /// Length of the safety phase.
    pub time: Duration,
    /// Time between two acts of one node.
    pub period: Duration,
    /// Shortest and longest time between two comparisons; `None`: drawn.
    pub gossip: Option<(Duration, Duration)>,
    /// Every act is one small append; otherwise acts are drawn.
    pub plain: bool,
    /// Time within which nodes must converge.
    pub converge: Duration,
    /// Length of the quiet phase; none if zero.
    pub quiet: Duration,
}

impl Setting {
    /// The setting of a seed: `nodes` drawn from the range, the rest too.
    pub fn draw(seed: u64, nodes: std::ops::RangeInclusive<usize>, profile: FaultProfile) -> Self {
        let mut prng = Prng::part(seed, 3);
        let (least, most) = (*nodes.start(), *nodes.end());
        let nodes = least + prng.below((most - least) as u64 + 1) as usize;
        let period = Duration::from_millis([300, 1_000, 5_000][prng.below(3) as usize]);
        Self {
            nodes,
            profile,
            time: Duration::from_secs(20 + prng.below(60)),
            period,
            gossip: None,
            plain: false,
            converge: Duration::from_secs(300),
            quiet: Duration::from_secs(60),
        }
    }
}

/// The application on one node.
pub struct Notes {
    node: Coordinator,
    streams: Vec<EventStream>,
    durability: Durability,
    acknowledged: RefCell<Vec<(usize, EntryId)>>,
    cx: NodeCx,
    /// Reads of late subscribers.
    seen: Rc<Cell<u64>>,
}

impl Notes {
    /// Starts the application from what a world hands it.
    ///
    /// # Errors
    /// Whatever the library says.
    pub async fn open(cx: NodeCx, setting: &Setting) -> Result<Self, BootError> {
        let mut prng = Prng::part(u64::from(cx.incarnation()), cx.index() as u64);
        let mut config = Config::default();
        match setting.gossip {
            Some((least, most)) => (config.gossip_interval, config.gossip_interval_max) = (least, most),
            None => config.gossip_interval_max = Duration::from_secs([1, 5, 30][prng.below(3) as usize]),
        }
        if !setting.plain && prng.below(4) == 0 {
            config.durability = Durability::Interval(Duration::from_millis(prng.below(3_000) + 1));
        }
        let durability = config.durability;
        let builder = Coordinator::builder(cx.store()).port(cx.port()).timer(cx.timer());
        let (node, driver) = builder.seed(cx.seed()).config(config).build().await?;
        cx.spawn(driver);
        cx.watch(&node);
        let channel = node.channel(ChannelSpec::secret("notes", b"simulated")?).await?;
        channel.open_to_all().await?;
        let mut streams = Vec::new();
        for name in STREAMS {
            streams.push(channel.stream(name).await?);
        }
        // Those added before are dialled, so that each pair has one who dials; now and then a second one does.
        for (at, peer) in cx.peers().iter().enumerate() {
            if at < cx.index() || prng.below(4) == 0 {
                cx.spawn(meet(cx.clone(), node.clone(), peer.clone()));
            }
        }
        let seen = Rc::new(Cell::new(0));
        if !setting.plain {
            cx.spawn(follow(streams[0].clone(), Rc::clone(&seen), cx.clone()));
        }
        Ok(Self { node, streams, durability, acknowledged: RefCell::default(), cx, seen })
    }

    /// Does one thing.
    ///
    /// # Errors
    /// What the library says.
    pub async fn act(&self, mut tick: Tick, plain: bool) -> Result<(), AppendError> {
        if plain {
            self.streams[0].append(&b"a small note of about forty bytes of text"[..]).await?;
            return Ok(());
        }
        let stream = [0, 0, 0, 1, 1, 2][tick.random.below(6) as usize];
        match tick.random.below(40) {
            0 => {
                let len = tick.random.below(LARGE);
                self.append(stream, payload(&mut tick.random, len)).await?;
                self.cx.sometimes("a payload larger than a frame was written");
            }
            1..=4 => {
                let count = 1 + tick.random.below(300);
                let batch: Vec<Vec<u8>> = (0..count).map(|_| payload(&mut tick.random, 20)).collect();
                let appended = self.streams[stream].append_batch(batch).await?;
                self.acknowledge(stream, appended.last);
            }
            5 => self.streams[stream].append(Vec::new()).await.map(|_| ())?,
            6 => {
                self.node.pause().await.ok();
                self.cx.timer().sleep(Duration::from_secs(2)).await;
                self.node.resume().await.ok();
                self.cx.sometimes("a node paused");
            }
            7 => {
                self.node.stop().await.ok();
                self.cx.timer().sleep(Duration::from_secs(2)).await;
                self.node.start().await.ok();
                self.cx.sometimes("a node left the network for a while");
            }
            _ => {
                let len = tick.random.below(200);
                self.append(stream, payload(&mut tick.random, len)).await?;
            }
        }
        Ok(())
    }

    async fn append(&self, stream: usize, payload: Vec<u8>) -> Result<(), AppendError> {
        let id = self.streams[stream].append(payload).await?;
        self.acknowledge(stream, id);
        Ok(())
    }

    fn acknowledge(&self, stream: usize, id: EntryId) {
        if self.durability == Durability::Immediate {
            self.acknowledged.borrow_mut().push((stream, id));
        }
    }

    /// Whether all that was acknowledged since this start is held.
    ///
    /// # Errors
    /// What is missing.
    pub async fn holds_what_it_acknowledged(&self) -> Result<(), String> {
        let acknowledged = self.acknowledged.borrow().clone();
        for (stream, id) in acknowledged {
            match self.streams[stream].contains(&id).await {
                Ok(true) => {}
                Ok(false) => return Err(format!("entry {} was acknowledged and is not held", id.sequence)),
                Err(error) => return Err(format!("entry {}: {error}", id.sequence)),
            }
        }
        Ok(())
    }

    /// What each stream holds.
    ///
    /// # Errors
    /// What the library says.
    pub async fn contents(&self) -> Result<Vec<[u8; 32]>, String> {
        let mut contents = Vec::new();
        for stream in &self.streams {
            let entries = stream.entries(Query::all()).collect().await.map_err(|error| error.to_string())?;
            let mut hasher = blake3::Hasher::new();
            for entry in &entries {
                hasher.update(entry.hash().as_bytes());
            }
            contents.push(*hasher.finalize().as_bytes());
        }
        Ok(contents)
    }

    /// Entries that the subscriber of the first stream was handed.
    pub fn followed(&self) -> u64 {
        self.seen.get()
    }
}

fn payload(random: &mut Prng, len: u64) -> Vec<u8> {
    let mut payload = Vec::with_capacity(len as usize + 8);
    while payload.len() < len as usize {
        payload.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    payload.truncate(len as usize);
    payload
}

/// Meets a peer, however often that takes.
async fn meet(cx: NodeCx, node: Coordinator, peer: PeerAddr) {
    let mut wait = Duration::from_millis(200);
    loop {
        match node.meet(peer.clone()).await {
            Ok(_) | Err(anabranch::MeetError::Closed | anabranch::MeetError::Oneself) => return,
            Err(_) => cx.timer().sleep(wait).await,
        }
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

/// Follows a stream: every entry once, each line in order.
async fn follow(stream: EventStream, seen: Rc<Cell<u64>>, cx: NodeCx) {
    let mut feed = stream.subscribe(Cursor::START);
    while let Some(arrival) = feed.next().await {
        match arrival {
            Ok(anabranch::Arrival::Entry { late, .. }) => {
                seen.set(seen.get() + 1);
                if late {
                    cx.sometimes("an entry arrived late");
                }
            }
            Ok(anabranch::Arrival::Forked { .. }) => cx.sometimes("a subscriber was told of a fork"),
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// One run.
///
/// # Errors
/// [`Failure`].
pub fn run(seed: impl Into<Seed>, setting: &Setting) -> Result<(), Failure> {
    let mut world = World::<Notes>::new(seed);
    world.faults(setting.profile.clone());
    play(&mut world, setting)
}

/// Populates a world and plays the run in it.
///
/// # Errors
/// [`Failure`].
pub fn play(world: &mut World<Notes>, setting: &Setting) -> Result<(), Failure> {
    for at in 0..setting.nodes {
        let setting = setting.clone();
        world.node(&format!("n{at}"), move |cx| {
            let setting = setting.clone();
            async move { Notes::open(cx, &setting).await }
        });
    }
    let plain = setting.plain;
    world.every(setting.period, move |tick, app| async move { app.act(tick, plain).await });
    world.run_for(setting.time)?;
    if !setting.plain {
        world.read_all()?;
    }
    world.heal_and_converge(setting.converge)?;
    world.all_equal(|app| async move { app.contents().await })?;
    world.each(|_, app| async move { app.holds_what_it_acknowledged().await })?;
    if !setting.quiet.is_zero() {
        world.stay_quiet(setting.quiet)?;
    }
    Ok(())
}
