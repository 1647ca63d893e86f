//! What to measure, from the command line.

/// How the program is called.
pub(crate) const USAGE: &str = "\
usage: anabranch-bench <catchup|difference|streams|live|spread|slowpeer|ble|late|limits|curves> [options]
  all       --json  --rounds N  --threads N
  catchup   --entries N[,N…] --authors N --streams N --port memory|tcp --store memory|sled|packed --frame BYTES
            --compress yes|no: yes sends text, compressed
  difference  the same, and --changed N[,N…] --pattern clustered|scattered|both --first-contact yes|no|both
  streams   --streams N[,N…] --port … --store …
  live      --entries N --rate PER-SECOND[,…] --port … --store … --runtimes 1|2 --append task|thread;
            --loss SHARE: in virtual time on a lossy link
  spread    --nodes N[,N…] --degree N --entries N --loss SHARE --split yes|no --seed N
  slowpeer  --entries N --rate PER-SECOND --seconds N --port …
  ble       --entries N
  late      --entries N[,N…] --lateness N[,N…]
  limits    what the machine itself can do
  curves    --out DIRECTORY: draws the rows of --json that come in on standard input";

/// Which figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// One node fetches everything that another holds.
    Catchup,
    /// Two nodes hold nearly the same.
    Difference,
    /// Very many streams of one entry.
    Streams,
    /// From append here to event there.
    Live,
    /// From append here to entry everywhere, in large simulated groups.
    Spread,
    /// What a peer that does not read costs.
    SlowPeer,
    /// A radio link of 20 KB/s.
    Ble,
    /// What a late entry costs a materialized state.
    Late,
    /// What the machine itself can do.
    Limits,
    /// Draws rows measured before.
    Curves,
}

/// What carries frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// In process, the peer proven by the network: no encryption.
    Memory,
    /// TCP on loopback, with sessions.
    Tcp,
}

impl Port {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Tcp => "tcp",
        }
    }
}

/// What keeps entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// Memory, as plain as it gets.
    Memory,
    /// sled in a temporary directory.
    Sled,
    /// The packed layout that disk stores share, on threads of its own, over a map in memory.
    Packed,
}

impl Store {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sled => "sled",
            Self::Packed => "packed",
        }
    }
}

/// Who appends live entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appender {
    /// A task of the node's runtime, as in an application that is asynchronous throughout.
    Task,
    /// A thread that the runtime knows nothing of, so that each append wakes it.
    Thread,
}

impl Appender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Thread => "thread",
        }
    }
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) work: Work,
    pub(crate) port: Port,
    pub(crate) store: Store,
    pub(crate) json: bool,
    pub(crate) entries: Vec<usize>,
    pub(crate) authors: usize,
    pub(crate) streams: Vec<usize>,
    pub(crate) changed: Vec<usize>,
    pub(crate) scattered: Vec<bool>,
    pub(crate) first_contact: Vec<bool>,
    pub(crate) rounds: usize,
    /// Appends per second.
    pub(crate) rates: Vec<usize>,
    /// Frame limit of the port, in bytes.
    pub(crate) frame: usize,
    /// Runs travel compressed, and payloads are text; else they are one byte repeated, and nobody looks.
    pub(crate) compress: bool,
    pub(crate) threads: usize,
    /// Each device has a runtime of one thread, as it has on a device of its own; else both share the program's.
    pub(crate) apart: bool,
    /// Who appends.
    pub(crate) appender: Appender,
    pub(crate) nodes: Vec<usize>,
    /// Peers that each simulated node dials.
    pub(crate) degree: usize,
    pub(crate) loss: Option<f64>,
    pub(crate) split: bool,
    /// Of a simulated world.
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) lateness: Vec<usize>,
    /// Where drawings go.
    pub(crate) out: String,
    /// This process is the rude peer of another: how it reads, and whom it meets.
    pub(crate) rude: Option<(String, String)>,
}

impl Options {
    fn new(work: Work) -> Self {
        let (entries, authors, streams) = match work {
            Work::Catchup | Work::Late | Work::Limits | Work::Curves => (1_000_000, 10, 1),
            Work::Difference => (1_000_000, 100, 100),
            Work::Streams => (100_000, 1, 100_000),
            Work::Live => (5_000, 1, 1),
            Work::Spread => (10, 1, 1),
            Work::SlowPeer => (300_000, 1, 1),
            Work::Ble => (5_000, 1, 1),
        };
        Self {
            work,
            port: Port::Memory,
            store: Store::Memory,
            json: false,
            entries: vec![entries],
            authors,
            streams: vec![streams],
            changed: vec![0, 1, 10, 100, 1_000],
            scattered: vec![false, true],
            first_contact: vec![false, true],
            rounds: 1,
            rates: vec![1_000, 5_000],
            frame: 64 << 10,
            compress: false,
            threads: 2,
            apart: true,
            appender: Appender::Task,
            nodes: vec![100, 1_000],
            degree: 4,
            loss: None,
            split: false,
            seed: 1,
            seconds: 5,
            lateness: vec![1, 10, 100, 1_000, 10_000, 100_000],
            out: ".".into(),
            rude: None,
        }
    }

    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let work = match words.next().as_deref() {
            Some("catchup") => Work::Catchup,
            Some("difference") => Work::Difference,
            Some("streams") => Work::Streams,
            Some("live") => Work::Live,
            Some("spread") => Work::Spread,
            Some("slowpeer") => Work::SlowPeer,
            Some("ble") => Work::Ble,
            Some("late") => Work::Late,
            Some("limits") => Work::Limits,
            Some("curves") => Work::Curves,
            _ => return Err("which work?".into()),
        };
        let mut options = Self::new(work);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--json" => options.json = true,
                "--split" => options.split = either(&value()?, "yes", "no")?.contains(&true),
                "--seed" => options.seed = one(&value()?)? as u64,
                "--entries" => options.entries = list(&value()?)?,
                "--authors" => options.authors = one(&value()?)?.max(1),
                "--streams" => options.streams = list(&value()?)?,
                "--changed" => options.changed = list(&value()?)?,
                "--pattern" => options.scattered = either(&value()?, "scattered", "clustered")?,
                "--first-contact" => options.first_contact = either(&value()?, "yes", "no")?,
                "--rounds" => options.rounds = one(&value()?)?.max(1),
                "--rate" => options.rates = list(&value()?)?,
                "--compress" => options.compress = either(&value()?, "yes", "no")?.contains(&true),
                "--frame" => options.frame = one(&value()?)?,
                "--threads" => options.threads = one(&value()?)?.max(1),
                "--runtimes" => options.apart = either(&value()?, "2", "1")?.contains(&true),
                "--append" => {
                    let task = either(&value()?, "task", "thread")?.contains(&true);
                    options.appender = if task { Appender::Task } else { Appender::Thread };
                }
                "--nodes" => options.nodes = list(&value()?)?,
                "--degree" => options.degree = one(&value()?)?,
                "--loss" => {
                    let text = value()?;
                    options.loss = Some(text.parse().map_err(|_| format!("{text} is not a share"))?);
                }
                "--seconds" => options.seconds = one(&value()?)?.max(1) as u64,
                "--lateness" => options.lateness = list(&value()?)?,
                "--out" => options.out = value()?,
                "--rude" => options.rude = Some((value()?, words.next().unwrap_or_default())),
                "--port" => {
                    options.port = match value()?.as_str() {
                        "memory" => Port::Memory,
                        "tcp" => Port::Tcp,
                        other => return Err(format!("no port {other}: memory or tcp")),
                    }
                }
                "--store" => {
                    options.store = match value()?.as_str() {
                        "memory" => Store::Memory,
                        "sled" => Store::Sled,
                        "packed" => Store::Packed,
                        other => return Err(format!("no store {other}: memory, sled or packed")),
                    }
                }
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }
}

fn one(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

fn list(text: &str) -> Result<Vec<usize>, String> {
    text.split(',').map(one).collect()
}

fn either(text: &str, yes: &str, no: &str) -> Result<Vec<bool>, String> {
    match text {
        "both" => Ok(vec![false, true]),
        text if text == yes => Ok(vec![true]),
        text if text == no => Ok(vec![false]),
        other => Err(format!("{other}: {yes}, {no} or both")),
    }
}
