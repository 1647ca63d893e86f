//! The workload of the tool: a note-taking app that writes to a few streams and meets its peers.
//!
//! Small on purpose. What makes runs differ is drawn: how many nodes, how they are connected, how often and how
//! much they write, how durable, what else they do.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use anabranch::infrastructure::prng::Prng;
use anabranch::protocol::gossip::CAN_PACK;
use anabranch::{
    AppendError, Channel, ChannelSpec, Config, Coordinator, Cursor, Durability, EntryId, EventStream,
    FoldError, LogEntry, Metadata, NodeId, PeerAddr, Query, StateHandle, StateMaterializer,
};

use crate::cx::NodeCx;
use crate::faults::FaultProfile;
use crate::seed::Seed;
use crate::world::{BootError, Failure, Tick, World};

/// Streams of the channel that all nodes share.
const STREAMS: [&str; 3] = ["today", "tomorrow", "never"];
/// The stream of the channel that not everybody is admitted to.
const BOARD: usize = STREAMS.len();
/// The stream that state is folded from.
const FOLDED: usize = 1;
/// Windows of nodes that take little at once, in bytes: the smaller is used up by what a few seconds bring.
const SMALL_WINDOWS: [usize; 2] = [64 * 1024, 8 * 1024];
/// Largest payload written, in bytes; larger than any frame.
const LARGE: u64 = 100_000;

/// Sets the draws of liveness apart.
const LIVENESS: u64 = 0x11fe << 32;

/// What a node tells about itself: something else each time.
fn about(cx: &NodeCx, prng: &mut Prng) -> Metadata {
    let text = "x".repeat(prng.below(200) as usize);
    Metadata::default().name(cx.name()).version(&prng.next_u64().to_string()).pair("text", &text)
}

/// Situations that runs should reach now and then.
pub const SITUATIONS: [&str; 9] = [
    "a node told something new about itself",
    "a payload larger than a frame was written",
    "a node paused",
    "a node left the network for a while",
    "an entry arrived late",
    "a subscriber was told of a fork",
    "a node did not start",
    "a node was admitted to the board",
    "a state was asked for while entries were coming",
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
    /// Acts write much: payloads larger than any frame, long batches.
    pub heavy: bool,
    /// How many of the nodes that were added before it each one dials; `None`: all.
    pub dials: Option<usize>,
    /// There is a board too, that does not admit everybody everywhere.
    pub board: bool,
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
        // Many short runs find more than few long ones, and what takes time must be seen too.
        let (long, heavy) = (prng.below(8) == 0, prng.below(16) == 0);
        let seconds = if long { 20 + prng.below(60) } else { 4 + prng.below(12) };
        Self {
            nodes,
            profile,
            time: Duration::from_secs(seconds),
            period,
            gossip: None,
            plain: false,
            heavy,
            dials: None,
            board: prng.below(2) == 0,
            converge: Duration::from_secs(300),
            quiet: Duration::from_secs(if long { 60 } else { 15 }),
        }
    }
}

/// What outlives crashes: the memory of the people who use the devices.
#[derive(Debug, Default)]
pub struct People {
    /// By node: what was acknowledged to them.
    acknowledged: RefCell<Vec<Vec<(usize, EntryId)>>>,
    /// By node: who it is, once it was started.
    ids: RefCell<Vec<Option<NodeId>>>,
}

impl People {
    /// For so many nodes.
    pub fn new(nodes: usize) -> Self {
        Self { acknowledged: RefCell::new(vec![Vec::new(); nodes]), ids: RefCell::new(vec![None; nodes]) }
    }
}

/// The application on one node.
pub struct Notes {
    node: Coordinator,
    streams: Vec<EventStream>,
    durability: Durability,
    people: Rc<People>,
    cx: NodeCx,
    followed: Rc<Followed>,
    /// Folded from one of the streams.
    chain: Option<StateHandle<Chain>>,
}

/// What the subscriber of the first stream was handed.
#[derive(Debug, Default)]
struct Followed {
    entries: Cell<u64>,
    ended: Cell<bool>,
}

/// A state that depends on the order of all entries.
struct Chain;

impl StateMaterializer for Chain {
    const NAME: &'static str = "chain";
    const VERSION: u32 = 1;
    type State = (u64, [u8; 32]);

    fn initial(&self) -> Self::State {
        (0, [0; 32])
    }

    fn fold(&self, state: &mut Self::State, entry: &LogEntry) -> Result<(), FoldError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&state.1);
        hasher.update(entry.hash().as_bytes());
        *state = (state.0 + 1, *hasher.finalize().as_bytes());
        Ok(())
    }
}

impl Notes {
    /// Starts the application from what a world hands it.
    ///
    /// # Errors
    /// Whatever the library says.
    pub async fn open(cx: NodeCx, setting: &Setting, people: Rc<People>) -> Result<Self, BootError> {
        let mut prng = Prng::part(u64::from(cx.incarnation()), cx.index() as u64);
        let mut config = Config::default();
        match setting.gossip {
            Some((least, most)) => (config.gossip_interval, config.gossip_interval_max) = (least, most),
            None => config.gossip_interval_max = Duration::from_secs([1, 5, 30][prng.below(3) as usize]),
        }
        if !setting.plain && prng.below(4) == 0 {
            config.durability = Durability::Interval(Duration::from_millis(prng.below(3_000) + 1));
        }
        if !setting.plain
            && let Some(window) = SMALL_WINDOWS.get(prng.below(8) as usize)
        {
            config.transfer_window = *window;
        }
        if CAN_PACK && !setting.plain {
            config.compress = prng.below(2) == 0;
        }
        config.message_version = cx.message_version();
        let durability = config.durability;
        let mut builder = Coordinator::builder(cx.store()).port(cx.port()).timer(cx.timer());
        if !setting.plain {
            // Apart from the draws above, which decide who meets whom.
            let mut prng = Prng::part(u64::from(cx.incarnation()) ^ LIVENESS, cx.index() as u64);
            config.exchange_peers = prng.below(2) == 0;
            config.address = Some(PeerAddr::new(cx.name()));
            config.low_power = prng.below(8) == 0;
            builder = builder.metadata(about(&cx, &mut prng));
        }
        let (node, driver) = builder.seed(cx.seed()).config(config).build().await?;
        cx.spawn(driver);
        cx.watch(&node);
        let channel = node.channel(ChannelSpec::secret("notes", b"simulated")?).await?;
        channel.open_to_all().await?;
        let mut streams = Vec::new();
        for name in STREAMS {
            streams.push(channel.stream(name).await?);
        }
        // Clones are numbered behind all others, and are nobody's.
        let mine = cx.index() < setting.nodes;
        if mine {
            people.ids.borrow_mut()[cx.index()] = Some(node.node());
            if cx.is_tampered() {
                people.acknowledged.borrow_mut()[cx.index()].clear();
            }
        }
        if setting.board {
            let board = node.channel(ChannelSpec::secret("board", b"simulated")?).await?;
            streams.push(board.stream("board").await?);
            if mine {
                cx.spawn(admit(cx.clone(), board, Rc::clone(&people)));
            }
        }
        // Those added before are dialled, so that each pair has one who dials; now and then a second one does.
        for (at, peer) in cx.peers().iter().enumerate() {
            let near = setting.dials.is_none_or(|most| is_near(at, cx.index(), most));
            if (at < cx.index() && near) || (setting.dials.is_none() && prng.below(4) == 0) {
                cx.spawn(meet(cx.clone(), node.clone(), peer.clone()));
            }
        }
        let followed = Rc::new(Followed::default());
        let mut chain = None;
        if !setting.plain {
            cx.spawn(follow(streams[0].clone(), Rc::clone(&followed), cx.clone()));
            chain = Some(streams[FOLDED].materialize(Chain).await?);
        }
        Ok(Self { node, streams, durability, people, cx, followed, chain })
    }

    /// Does one thing.
    ///
    /// # Errors
    /// What the library says.
    pub async fn act(&self, mut tick: Tick, setting: &Setting) -> Result<(), AppendError> {
        if setting.plain {
            self.streams[0].append(&b"a small note of about forty bytes of text"[..]).await?;
            return Ok(());
        }
        let stream = [0, 0, 0, 1, 1, 2, BOARD][tick.random.below(7) as usize].min(self.streams.len() - 1);
        match tick.random.below(40) {
            0 => {
                let most = if setting.heavy { LARGE } else { LARGE / 10 };
                let len = tick.random.below(most);
                self.append(stream, payload(&mut tick.random, len)).await?;
                self.cx.sometimes("a payload larger than a frame was written");
            }
            1..=4 => {
                // Now and then more than a block, which ends after 256 entries.
                let long = setting.heavy || tick.random.below(16) == 0;
                let count = 1 + tick.random.below(if long { 300 } else { 20 });
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
                if tick.random.below(2) == 0 {
                    // More than a block that nobody has seen when the network comes back, or the power goes.
                    let batch: Vec<Vec<u8>> = (0..300).map(|_| payload(&mut tick.random, 4)).collect();
                    if let Ok(appended) = self.streams[stream].append_batch(batch).await {
                        self.acknowledge(stream, appended.last);
                    }
                }
                self.cx.timer().sleep(Duration::from_secs(2 + tick.random.below(6))).await;
                self.node.start().await.ok();
                self.cx.sometimes("a node left the network for a while");
            }
            12 => {
                let _ = self.node.set_metadata(&about(&self.cx, &mut tick.random));
                self.cx.sometimes("a node told something new about itself");
            }
            8..=11 => {
                if let Some(chain) = &self.chain {
                    // What it is, is compared once nodes hold the same.
                    let _ = chain.get().await;
                    self.cx.sometimes("a state was asked for while entries were coming");
                }
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
        if self.durability == Durability::Immediate
            && let Some(mine) = self.people.acknowledged.borrow_mut().get_mut(self.cx.index())
        {
            mine.push((stream, id));
        }
    }

    /// Whether all that was ever acknowledged on this node is held. One whose disk was replaced may have lost what
    /// was acknowledged before.
    ///
    /// # Errors
    /// What is missing.
    pub async fn holds_what_it_acknowledged(&self) -> Result<(), String> {
        let acknowledged = self.people.acknowledged.borrow().get(self.cx.index()).cloned();
        for (stream, id) in acknowledged.unwrap_or_default() {
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
        for stream in &self.streams[..STREAMS.len()] {
            let entries = stream.entries(Query::all()).collect().await.map_err(|error| error.to_string())?;
            let mut hasher = blake3::Hasher::new();
            for entry in &entries {
                hasher.update(entry.hash().as_bytes());
            }
            contents.push(*hasher.finalize().as_bytes());
        }
        Ok(contents)
    }

    /// Whether the subscriber of the first stream comes to have been handed all that it holds, and the state folded
    /// from another is that of its entries in order.
    ///
    /// # Errors
    /// What differs.
    pub async fn follows_and_folds(&self) -> Result<(), String> {
        let Some(chain) = &self.chain else { return Ok(()) };
        let mut patience = 100;
        while self.followed.entries.get() != self.streams[0].len() && !self.followed.ended.get() {
            if patience == 0 {
                let (followed, held) = (self.followed.entries.get(), self.streams[0].len());
                return Err(format!("a subscriber was handed {followed} entries of {held}"));
            }
            patience -= 1;
            self.cx.timer().sleep(Duration::from_millis(100)).await;
        }
        let Ok(state) = chain.get().await else { return Ok(()) };
        let entries = self.streams[FOLDED].entries(Query::all()).collect().await;
        let mut expected = Chain.initial();
        for entry in entries.map_err(|error| error.to_string())? {
            let _ = Chain.fold(&mut expected, &entry);
        }
        if *state == expected {
            Ok(())
        } else {
            Err(format!("a state of {} entries is not that of the {} entries held", state.0, expected.0))
        }
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

/// Whether a node dials one that was added before it, if each dials so many: those at distance 1, 2, 4, …, so that
/// nobody is far from anybody.
fn is_near(other: usize, own: usize, most: usize) -> bool {
    own.checked_sub(other).is_some_and(|distance| distance.is_power_of_two() && distance < 1 << most)
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

/// Admits the others to the board: all of them on the first node, all but the last one elsewhere. So entries of
/// the last one reach the first, and nobody else may take them.
async fn admit(cx: NodeCx, board: Channel, people: Rc<People>) {
    loop {
        let ids = people.ids.borrow().clone();
        let last = ids.len() - 1;
        let admission = board.admission();
        let mut known = 0;
        for (at, id) in ids.iter().enumerate() {
            known += usize::from(id.is_some());
            let Some(id) = id.filter(|_| at != last || cx.index() == 0) else { continue };
            if !admission.admits(&id) && board.add_member(id).await.is_ok() {
                cx.sometimes("a node was admitted to the board");
            }
        }
        if known == ids.len() {
            return;
        }
        cx.timer().sleep(Duration::from_millis(500)).await;
    }
}

/// Follows a stream: every entry once, late where it sorts before one that came earlier, and nowhere else.
async fn follow(stream: EventStream, followed: Rc<Followed>, cx: NodeCx) {
    let mut feed = stream.subscribe(Cursor::START);
    let mut seen = BTreeSet::new();
    while let Some(arrival) = feed.next().await {
        match arrival {
            Ok(anabranch::Arrival::Entry { entry, late }) => {
                let order = entry.order();
                if late != seen.last().is_some_and(|last| order < *last) {
                    cx.violate("subscriptions", format!("entry {order:?} came with late = {late}"));
                }
                if !seen.insert(order) {
                    cx.violate("subscriptions", format!("entry {order:?} was handed out twice"));
                }
                followed.entries.set(followed.entries.get() + 1);
                if late {
                    cx.sometimes("an entry arrived late");
                }
            }
            Ok(anabranch::Arrival::Forked { .. }) => cx.sometimes("a subscriber was told of a fork"),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    followed.ended.set(true);
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
    let people = Rc::new(People::new(setting.nodes));
    for at in 0..setting.nodes {
        let (setting, people) = (setting.clone(), Rc::clone(&people));
        world.node(&format!("n{at}"), move |cx| {
            let (setting, people) = (setting.clone(), Rc::clone(&people));
            async move { Notes::open(cx, &setting, people).await }
        });
    }
    let acting = Rc::new(setting.clone());
    world.every(setting.period, move |tick, app| {
        let setting = Rc::clone(&acting);
        async move { app.act(tick, &setting).await }
    });
    world.run_for(setting.time)?;
    if !setting.plain {
        world.read_all()?;
    }
    world.heal_and_converge(setting.converge)?;
    world.all_equal(|app| async move { app.contents().await })?;
    world.each(|_, app| async move { app.holds_what_it_acknowledged().await })?;
    world.each(|_, app| async move { app.follows_and_folds().await })?;
    if !setting.quiet.is_zero() {
        world.stay_quiet(setting.quiet)?;
    }
    Ok(())
}
