//! What to measure, from the command line.

/// Which figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// One node fetches everything that another holds.
    Catchup,
    /// Two nodes hold nearly the same.
    Difference,
    /// From append here to event there.
    Live,
}

/// What carries frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// In process, the peer proven by the network: no encryption.
    Memory,
    /// TCP on loopback, with sessions.
    Tcp,
}

/// What keeps entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// Memory.
    Memory,
    /// sled in a temporary directory.
    Sled,
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) work: Work,
    pub(crate) port: Port,
    pub(crate) store: Store,
    pub(crate) json: bool,
    pub(crate) entries: usize,
    pub(crate) authors: usize,
    pub(crate) streams: usize,
    pub(crate) changed: usize,
    pub(crate) rounds: usize,
    /// Appends per second.
    pub(crate) rate: u64,
}

impl Options {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let work = match words.next().as_deref() {
            Some("catchup") => Work::Catchup,
            Some("difference") => Work::Difference,
            Some("live") => Work::Live,
            _ => return Err("which work: catchup, difference or live?".into()),
        };
        let (entries, authors, streams) = match work {
            Work::Catchup => (1_000_000, 10, 1),
            Work::Difference => (1_000_000, 100, 100),
            Work::Live => (5_000, 1, 1),
        };
        let mut options = Self {
            work,
            port: Port::Memory,
            store: Store::Memory,
            json: false,
            entries,
            authors,
            streams,
            changed: 10,
            rounds: 3,
            rate: 1_000,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            let number = |text: String| text.parse::<usize>().map_err(|_| format!("{text} is not a number"));
            match word.as_str() {
                "--json" => options.json = true,
                "--entries" => options.entries = number(value()?)?,
                "--authors" => options.authors = number(value()?)?.max(1),
                "--streams" => options.streams = number(value()?)?.max(1),
                "--changed" => options.changed = number(value()?)?,
                "--rounds" => options.rounds = number(value()?)?.max(1),
                "--rate" => options.rate = number(value()?)?.max(1) as u64,
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
                        other => return Err(format!("no store {other}: memory or sled")),
                    }
                }
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }
}
