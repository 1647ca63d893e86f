//! Reads recorded editing sessions: the format of the public collection `josephg/editing-traces`.
//!
//! Concurrent format: `{kind, endContent, numAgents, txns: [{parents, agent, patches: [[position, deleted,
//! inserted]]}]}`. `parents` are indexes of earlier transactions; they are merged first, and positions, in
//! Unicode code points, refer to the document after that merge and after the patches before it in the same
//! transaction. Sequential format: one author, no `parents` and `agent`, and a `startContent`.
//!
//! Plain or gzipped. Everything that can be checked without a document is checked here, and each fault is one
//! line; positions are checked by whoever replays (`text.rs`). Never writes anything. Called once by `main`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

/// First bytes of a gzip file (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Read buffer in bytes: large enough that decompression, not system calls, sets the pace.
const BUFFER_BYTES: usize = 64 * 1024;
/// Most agents accepted: each becomes a device with a store and a socket on this computer.
const MAX_AGENTS: usize = 1_000;

/// A recorded session, checked: parents are earlier, agents exist, each agent knows all it wrote before.
#[derive(Debug)]
pub(crate) struct Trace {
    /// The document before the first transaction.
    pub(crate) start: String,
    /// The document after all transactions.
    pub(crate) end: String,
    /// How many agents there are, writing or not.
    pub(crate) agents: usize,
    /// Transactions; each one's parents come before it.
    pub(crate) transactions: Vec<Transaction>,
}

/// What one agent did at once.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// Who.
    pub(crate) agent: usize,
    /// What the agent had not seen when it wrote its previous transaction and had seen now: indexes, ascending,
    /// all of other agents.
    pub(crate) merged: Vec<usize>,
    /// The edits, one after the other.
    pub(crate) patches: Vec<Patch>,
}

/// Replaces `deleted` code points at `position` by `inserted`.
#[derive(Debug, Deserialize)]
#[serde(from = "(u64, u64, String)")]
pub(crate) struct Patch {
    /// Code points before the edit.
    pub(crate) position: u64,
    /// Code points removed.
    pub(crate) deleted: u64,
    /// Text put there.
    pub(crate) inserted: String,
}

impl From<(u64, u64, String)> for Patch {
    fn from((position, deleted, inserted): (u64, u64, String)) -> Self {
        Self { position, deleted, inserted }
    }
}

/// A file is not a usable trace. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum TraceError {
    /// It cannot be opened or read.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
    /// It is not JSON of the expected shape.
    #[error("not an editing trace: {0}")]
    Format(serde_json::Error),
    /// It names more agents than this computer should run.
    #[error("it has {0} agents, at most {MAX_AGENTS} can be replayed")]
    TooManyAgents(usize),
    /// It has no agent at all.
    #[error("it has no agents")]
    NoAgents,
    /// A transaction lacks `parents` or `agent` where others have them.
    #[error("transaction {at} lacks `{field}`, which a concurrent trace needs")]
    Missing {
        /// Which transaction.
        at: usize,
        /// What it lacks.
        field: &'static str,
    },
    /// A parent is not an earlier transaction.
    #[error("transaction {at} names parent {parent}, which is not an earlier transaction")]
    Parent {
        /// Which transaction.
        at: usize,
        /// The index it names.
        parent: u64,
    },
    /// An agent's number is out of range.
    #[error("transaction {at} is by agent {agent}, but there are only {agents} agents")]
    Agent {
        /// Which transaction.
        at: usize,
        /// Its agent.
        agent: u64,
        /// How many there are.
        agents: usize,
    },
    /// An agent wrote without knowing what it wrote before: no single device can do that.
    #[error("transaction {at} does not follow transaction {previous} of the same agent {agent}")]
    Unordered {
        /// Which transaction.
        at: usize,
        /// Its agent.
        agent: usize,
        /// The agent's transaction before it.
        previous: usize,
    },
}

impl Trace {
    /// Reads and checks the trace at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, TraceError> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
        }
        Self::parse(BufReader::with_capacity(BUFFER_BYTES, file))
    }

    /// Reads and checks a trace, gzipped or not.
    pub(crate) fn parse(mut input: impl BufRead) -> Result<Self, TraceError> {
        let gzipped = input.fill_buf()?.starts_with(&GZIP_MAGIC);
        let raw: Raw = if gzipped {
            from_json(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(input)))?
        } else {
            from_json(input)?
        };
        raw.check()
    }

    /// How many transactions change the document: those become entries.
    pub(crate) fn entries(&self) -> usize {
        self.transactions.iter().filter(|transaction| !transaction.patches.is_empty()).count()
    }
}

fn from_json(input: impl BufRead) -> Result<Raw, TraceError> {
    serde_json::from_reader(input)
        .map_err(|fault| if fault.is_io() { TraceError::Io(fault.into()) } else { TraceError::Format(fault) })
}

/// The file as it is written; unknown fields are skipped unread.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    start_content: String,
    end_content: String,
    num_agents: Option<u64>,
    txns: Vec<RawTransaction>,
}

#[derive(Deserialize)]
struct RawTransaction {
    parents: Option<Vec<u64>>,
    agent: Option<u64>,
    patches: Vec<Patch>,
}

impl Raw {
    fn check(self) -> Result<Trace, TraceError> {
        let concurrent = self.num_agents.is_some()
            || self.txns.iter().any(|raw| raw.parents.is_some() || raw.agent.is_some());
        let agents = match self.num_agents {
            Some(claimed) => usize::try_from(claimed).unwrap_or(usize::MAX),
            None => self
                .txns
                .iter()
                .filter_map(|raw| raw.agent)
                .max()
                .map_or(1, |last| usize::try_from(last).unwrap_or(usize::MAX).saturating_add(1)),
        };
        match agents {
            0 => return Err(TraceError::NoAgents),
            1..=MAX_AGENTS => {}
            _ => return Err(TraceError::TooManyAgents(agents)),
        }
        let mut causality = Causality::new(agents, self.txns.len());
        let mut transactions = Vec::with_capacity(self.txns.len());
        for (at, raw) in self.txns.into_iter().enumerate() {
            let (agent, parents) = if concurrent {
                let agent = raw.agent.ok_or(TraceError::Missing { at, field: "agent" })?;
                let parents = raw.parents.ok_or(TraceError::Missing { at, field: "parents" })?;
                let agent = usize::try_from(agent)
                    .ok()
                    .filter(|agent| *agent < agents)
                    .ok_or(TraceError::Agent { at, agent, agents })?;
                (agent, parents)
            } else {
                (0, at.checked_sub(1).map(|before| before as u64).into_iter().collect())
            };
            let merged = causality.push(at, agent, &parents)?;
            transactions.push(Transaction { agent, merged, patches: raw.patches });
        }
        Ok(Trace { start: self.start_content, end: self.end_content, agents, transactions })
    }
}

/// Who had seen what. An agent's transactions are totally ordered, so what it has seen of another agent is a
/// prefix of that agent's transactions, and one number per pair says all.
struct Causality {
    /// Per transaction: agent, place among that agent's transactions from 1, parents.
    placed: Vec<(usize, usize, Vec<usize>)>,
    /// Per agent: its last transaction.
    last: Vec<Option<usize>>,
    /// Per agent, per other agent: how many of the other's transactions it has seen.
    seen: Vec<Vec<usize>>,
}

impl Causality {
    fn new(agents: usize, transactions: usize) -> Self {
        Self {
            placed: Vec::with_capacity(transactions),
            last: vec![None; agents],
            seen: vec![vec![0; agents]; agents],
        }
    }

    /// Adds transaction `at` of `agent` and returns what it saw for the first time, ascending.
    fn push(&mut self, at: usize, agent: usize, parents: &[u64]) -> Result<Vec<usize>, TraceError> {
        let parents = parents
            .iter()
            .map(|parent| {
                usize::try_from(*parent)
                    .ok()
                    .filter(|parent| *parent < at)
                    .ok_or(TraceError::Parent { at, parent: *parent })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let previous = self.last[agent];
        let mut follows = previous.is_none();
        let mut merged = BTreeSet::new();
        let mut open = parents.clone();
        while let Some(index) = open.pop() {
            let (author, place, ancestors) = &self.placed[index];
            follows |= previous == Some(index);
            if *place > self.seen[agent][*author] && merged.insert(index) {
                open.extend(ancestors);
            }
        }
        if let (false, Some(previous)) = (follows, previous) {
            return Err(TraceError::Unordered { at, agent, previous });
        }
        for index in &merged {
            let (author, place, _) = self.placed[*index];
            self.seen[agent][author] = self.seen[agent][author].max(place);
        }
        let own = &mut self.seen[agent][agent];
        *own += 1;
        self.placed.push((agent, *own, parents));
        self.last[agent] = Some(at);
        Ok(merged.into_iter().collect())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write as _;
    use std::path::PathBuf;

    /// The committed session.
    pub(crate) fn clownschool() -> Trace {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("collaborate/data/clownschool.json.gz");
        Trace::read(&path).unwrap()
    }

    pub(crate) fn parse(text: &str) -> Result<Trace, TraceError> {
        Trace::parse(text.as_bytes())
    }

    fn fault(text: &str) -> String {
        let line = parse(text).unwrap_err().to_string();
        assert!(!line.contains('\n') && line.len() < 200, "one clear line: {line}");
        line
    }

    #[test]
    fn the_committed_session_has_three_agents_and_23_136_entries() {
        let trace = clownschool();
        assert_eq!((trace.agents, trace.transactions.len(), trace.entries()), (3, 23_136, 23_136));
        assert_eq!(trace.start, "");
        let merges: usize = trace.transactions.iter().map(|transaction| transaction.merged.len()).sum();
        assert!(merges > 23_136 && merges <= 2 * 23_136, "each transaction is seen once by each other agent");
    }

    #[test]
    fn a_gzipped_trace_and_a_plain_one_read_alike() {
        let text =
            r#"{"endContent":"ab","numAgents":1,"txns":[{"parents":[],"agent":0,"patches":[[0,0,"ab"]]}]}"#;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        let zipped = Trace::parse(&gzip.finish().unwrap()[..]).unwrap();
        let plain = parse(text).unwrap();
        assert_eq!((zipped.end, zipped.transactions.len()), (plain.end, plain.transactions.len()));
    }

    #[test]
    fn a_sequential_trace_is_one_agent_from_its_start_content() {
        let trace = parse(
            r#"{"startContent":"x","endContent":"xab","txns":[
                {"time":"2023-11-22T03:57:32+00:00","patches":[[1,0,"a"]]},{"patches":[]},{"patches":[[2,0,"b"]]}]}"#,
        )
        .unwrap();
        assert_eq!((trace.agents, trace.entries(), trace.start.as_str()), (1, 2, "x"));
        assert!(trace.transactions.iter().all(|transaction| transaction.merged.is_empty()));
    }

    #[test]
    fn what_was_seen_for_the_first_time_is_named_once_and_in_order() {
        let trace = parse(
            r#"{"endContent":"","numAgents":3,"txns":[
                {"parents":[],"agent":0,"patches":[]},{"parents":[0],"agent":1,"patches":[]},
                {"parents":[0],"agent":2,"patches":[]},{"parents":[2,1],"agent":0,"patches":[]},
                {"parents":[3],"agent":1,"patches":[]}]}"#,
        )
        .unwrap();
        let merged: Vec<_> =
            trace.transactions.iter().map(|transaction| transaction.merged.clone()).collect();
        assert_eq!(merged, [vec![], vec![0], vec![0], vec![1, 2], vec![2, 3]]);
    }

    #[test]
    fn each_structural_fault_is_one_clear_line() {
        for (text, want) in [
            ("", "not an editing trace"),
            ("hello", "not an editing trace"),
            ("[1,2", "not an editing trace"),
            (r#"{"endContent":"","numAgents":1}"#, "missing field `txns`"),
            (r#"{"numAgents":1,"txns":[]}"#, "missing field `endContent`"),
            (r#"{"endContent":"","numAgents":1,"txns":[]} x"#, "trailing characters"),
            (r#"{"endContent":"","numAgents":0,"txns":[]}"#, "no agents"),
            (r#"{"endContent":"","numAgents":99999999999999,"txns":[]}"#, "99999999999999 agents"),
            (r#"{"endContent":"","numAgents":1,"txns":[{"agent":0,"patches":[]}]}"#, "lacks `parents`"),
            (r#"{"endContent":"","numAgents":1,"txns":[{"parents":[],"patches":[]}]}"#, "lacks `agent`"),
            (
                r#"{"endContent":"","numAgents":1,"txns":[{"parents":[],"agent":0}]}"#,
                "missing field `patches`",
            ),
            (
                r#"{"endContent":"","numAgents":1,"txns":[{"parents":[0],"agent":0,"patches":[]}]}"#,
                "names parent 0",
            ),
            (
                r#"{"endContent":"","numAgents":1,"txns":[{"parents":[7],"agent":0,"patches":[]}]}"#,
                "names parent 7",
            ),
            (
                r#"{"endContent":"","numAgents":1,"txns":[{"parents":[],"agent":1,"patches":[]}]}"#,
                "by agent 1",
            ),
            (
                r#"{"endContent":"","numAgents":1,"txns":[{"parents":[],"agent":0,"patches":[[-1,0,""]]}]}"#,
                "invalid value",
            ),
            (
                r#"{"endContent":"","numAgents":1,"txns":[{"parents":[],"agent":0,"patches":[[0,0]]}]}"#,
                "invalid length",
            ),
            (
                r#"{"endContent":"","numAgents":2,"txns":[{"parents":[],"agent":0,"patches":[]},
                    {"parents":[],"agent":1,"patches":[]},{"parents":[1],"agent":0,"patches":[]}]}"#,
                "transaction 2 does not follow transaction 0 of the same agent 0",
            ),
        ] {
            let line = fault(text);
            assert!(line.contains(want), "{text}: {line}");
        }
    }

    #[test]
    fn a_missing_file_a_directory_and_a_cut_gzip_are_read_errors() {
        assert!(matches!(Trace::read(Path::new("/no/such/file")), Err(TraceError::Io(_))));
        assert!(matches!(Trace::read(Path::new(env!("CARGO_MANIFEST_DIR"))), Err(TraceError::Io(_))));
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("collaborate/data/clownschool.json.gz");
        let whole = std::fs::read(path).unwrap();
        assert!(matches!(Trace::parse(&whole[..whole.len() / 2]), Err(TraceError::Io(_))));
    }
}
