//! What is true in the world, as its stores saw it: the books that invariants are checked against.
//!
//! Entered from what the nodes' stores are handed, never from what nodes say about themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anabranch::domain::entry::EntryHash;
use anabranch::domain::id::LogKey;
use anabranch::domain::log::{Line, LineNo, LogName};
use anabranch::domain::run::Run;
use anabranch::{Admission, ChannelId, NodeId, Timestamp, Tip, VersionVector, WallTime};

/// What happened, as an invariant sees it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Seen<'a> {
    /// A store was handed entries.
    Written {
        /// At which device.
        node: usize,
        /// Whose log.
        log: &'a LogName,
        /// The line as it will be.
        line: &'a Line,
        /// The entries.
        run: &'a Run,
        /// Entries of the device's own author that nobody wrote before: it appended them.
        fresh: bool,
        /// What the device's wall clock shows.
        wall: WallTime,
    },
    /// A store made entries durable.
    Durable {
        /// At which device.
        node: usize,
        /// Whose log.
        log: &'a LogName,
        /// The line as it is.
        line: &'a Line,
        /// The entries.
        run: &'a Run,
    },
    /// A channel's record became durable.
    Channel {
        /// At which device.
        node: usize,
        /// The channel.
        channel: ChannelId,
        /// Its admission; `None` if it was removed.
        admission: Option<&'a Admission>,
    },
    /// A device opened its store.
    Booted {
        /// Which.
        node: usize,
        /// Who it is.
        id: NodeId,
        /// All lines that it found.
        lines: &'a [(LogName, Line)],
        /// What reading every entry of them came to.
        intact: &'a Result<(), String>,
    },
    /// A device's disk was replaced by an older copy of itself or of another one.
    Replaced {
        /// Which.
        node: usize,
    },
    /// A device's disk was damaged behind its store's back.
    Damaged {
        /// Which.
        node: usize,
    },
    /// A frame arrived.
    FrameIn {
        /// At which device.
        node: usize,
        /// From which.
        from: usize,
        /// Its length.
        bytes: usize,
    },
    /// A stream was read through the library.
    Read {
        /// At which device.
        node: usize,
        /// The channel.
        channel: ChannelId,
        /// The stream.
        stream: &'a anabranch::StreamId,
        /// What it held.
        version: &'a VersionVector,
        /// The entries, in the order in which they were read.
        entries: &'a [anabranch::LogEntry],
    },
    /// A node reported that something went wrong.
    Reported {
        /// Which.
        node: usize,
        /// What it said.
        fault: &'a anabranch::Fault,
        /// There is a device that means harm, or one with a damaged disk: others may rightly complain.
        harm: bool,
    },
    /// What devices hold back at a moment.
    Census {
        /// Which.
        node: usize,
        /// Bytes of frames that it has not read.
        unread_bytes: usize,
        /// Bytes of batches that its store has not applied.
        unwritten_bytes: usize,
    },
    /// A node's counters, with what the network says it delivered to it.
    Counters {
        /// Which.
        node: usize,
        /// What the node counted since it was started.
        metrics: &'a anabranch::Metrics,
        /// Frames that its port handed to it since then.
        frames_taken: u64,
    },
    /// Whom a node knows at a moment, and what it holds them for.
    Peers {
        /// Which.
        node: usize,
        /// Its peers.
        peers: &'a anabranch::Peers,
        /// For how long nodes have not run, of those of whom no device runs.
        gone: &'a BTreeMap<NodeId, Duration>,
    },
    /// What a node has to tell about its peers at a moment.
    News {
        /// Which.
        node: usize,
        /// Updates under way.
        updates: usize,
    },
    /// All faults ended, all nodes hold the same, and this much was said since.
    Quiet {
        /// Between this many pairs of nodes.
        pairs: u64,
        /// Frames sent.
        frames: u64,
        /// Bytes in them.
        bytes: u64,
        /// During this time.
        time: Duration,
        /// Comparisons that nodes began.
        comparisons: u64,
    },
    /// Faults have ended and nodes that should have did not converge.
    Stuck {
        /// How they differ.
        difference: &'a str,
    },
}

/// What is known of one author.
#[derive(Debug, Clone, Default)]
pub struct AuthorFacts {
    /// Its store was restored or copied: it may fork without lying.
    pub tampered: bool,
    /// It lies.
    pub hostile: bool,
}

/// What is known of one log.
#[derive(Debug, Clone)]
pub struct LogFacts {
    /// Its name.
    pub name: LogName,
    /// The entries written, by sequence; the flag says that it was durable at a device of its author.
    main: Vec<(EntryHash, bool)>,
    others: BTreeMap<(u64, EntryHash), bool>,
}

impl LogFacts {
    /// Whether an entry was written by its author, and whether it was durable there.
    pub fn known(&self, sequence: u64, hash: &EntryHash) -> Option<bool> {
        let main = usize::try_from(sequence.wrapping_sub(1)).ok().and_then(|at| self.main.get(at));
        match main {
            Some((known, durable)) if known == hash => Some(*durable),
            _ => self.others.get(&(sequence, *hash)).copied(),
        }
    }

    /// Number of different entries that were durable at this sequence.
    pub fn durable_at(&self, sequence: u64) -> usize {
        let main = usize::try_from(sequence.wrapping_sub(1)).ok().and_then(|at| self.main.get(at));
        let range = (sequence, EntryHash::ZERO)..(sequence.saturating_add(1), EntryHash::ZERO);
        usize::from(main.is_some_and(|(_, durable)| *durable))
            + self.others.range(range).filter(|(_, durable)| **durable).count()
    }

    fn enter(&mut self, sequence: u64, hash: EntryHash, durable: bool) {
        let at = usize::try_from(sequence.wrapping_sub(1)).unwrap_or(usize::MAX);
        if at == self.main.len() {
            return self.main.push((hash, durable));
        }
        match self.main.get_mut(at) {
            Some((known, flag)) if *known == hash => *flag |= durable,
            _ => *self.others.entry((sequence, hash)).or_default() |= durable,
        }
    }
}

/// What is known of one device.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// Who it is, once it was started.
    pub id: Option<NodeId>,
    /// Its disk was damaged: what it holds may be lost or unreadable.
    pub damaged: bool,
    /// It speaks the wire by itself and is not held to anything.
    pub hostile: bool,
    /// The durable lines of each log.
    pub lines: BTreeMap<LogKey, BTreeMap<LineNo, Line>>,
    /// The lines of each log as last submitted.
    pub submitted: BTreeMap<LogKey, BTreeMap<LineNo, Tip>>,
    /// By channel, the largest stamp among the entries that are durable here.
    pub seen: BTreeMap<ChannelId, Timestamp>,
    /// Frames that the port handed to it since it was started.
    pub frames_taken: u64,
    /// The channels it has, with their durable admission.
    pub channels: BTreeMap<ChannelId, Admission>,
    /// The same, as last submitted.
    pub admitting: BTreeMap<ChannelId, Admission>,
}

impl NodeFacts {
    /// Entries that are durable here; of a forked log those of its longest line.
    pub fn entries(&self) -> u64 {
        let longest = |lines: &BTreeMap<LineNo, Line>| lines.values().map(|line| line.tip.sequence).max();
        self.lines.values().filter_map(longest).sum()
    }
}

/// The books.
#[derive(Debug, Default)]
pub struct Facts {
    /// By device.
    pub nodes: Vec<NodeFacts>,
    /// By author.
    pub authors: BTreeMap<NodeId, AuthorFacts>,
    /// By log.
    pub logs: BTreeMap<LogKey, LogFacts>,
}

impl Facts {
    /// What is known of an author; nothing special of unknown ones.
    pub fn author(&self, author: &NodeId) -> AuthorFacts {
        self.authors.get(author).cloned().unwrap_or_default()
    }

    /// Whether all of `run` was written before by its author; and durable there.
    pub fn known(&self, log: &LogName, run: &Run) -> Option<bool> {
        let facts = self.logs.get(&log.key)?;
        let mut durable = true;
        for sequence in run.first()..=run.last() {
            durable &= facts.known(sequence, &run.hash_at(sequence)?)?;
        }
        Some(durable)
    }

    /// The names of all logs of a channel that a device holds, with the tips.
    pub fn holdings(&self, node: usize, channel: &ChannelId) -> BTreeMap<LogKey, BTreeSet<Tip>> {
        let lines = self.nodes[node].lines.iter();
        lines
            .filter(|(key, _)| self.logs.get(key).is_some_and(|log| log.name.channel == *channel))
            .map(|(key, lines)| (*key, lines.values().map(|line| line.tip).collect()))
            .collect()
    }

    fn log(&mut self, name: &LogName) -> &mut LogFacts {
        self.logs.entry(name.key).or_insert_with(|| LogFacts {
            name: name.clone(),
            main: Vec::new(),
            others: BTreeMap::new(),
        })
    }

    pub(super) fn enter(&mut self, seen: &Seen<'_>) {
        match seen {
            Seen::Written { node, log, line, run, .. } => {
                let hostile = self.author(&log.author).hostile;
                let own = self.nodes[*node].id == Some(log.author);
                let facts = self.log(log);
                if own || hostile {
                    for sequence in run.first()..=run.last() {
                        if let Some(hash) = run.hash_at(sequence) {
                            facts.enter(sequence, hash, hostile);
                        }
                    }
                }
                self.nodes[*node].submitted.entry(log.key).or_default().insert(line.no, line.tip);
            }
            Seen::Durable { node, log, line, run } => {
                if self.nodes[*node].id == Some(log.author) {
                    let facts = self.log(log);
                    for sequence in run.first()..=run.last() {
                        if let Some(hash) = run.hash_at(sequence) {
                            facts.enter(sequence, hash, true);
                        }
                    }
                }
                let seen = self.nodes[*node].seen.entry(log.channel).or_insert(Timestamp::ZERO);
                *seen = line.stamp.max(*seen);
                self.nodes[*node].lines.entry(log.key).or_default().insert(line.no, (*line).clone());
            }
            Seen::Channel { node, channel, admission } => {
                let channels = &mut self.nodes[*node].channels;
                match admission {
                    Some(admission) => {
                        channels.insert(*channel, (*admission).clone());
                        let admitting = &mut self.nodes[*node].admitting;
                        admitting.entry(*channel).or_insert_with(|| (*admission).clone());
                    }
                    None => {
                        channels.remove(channel);
                        let gone: Vec<LogKey> = self.nodes[*node]
                            .lines
                            .keys()
                            .filter(|key| self.logs.get(key).is_some_and(|log| log.name.channel == *channel))
                            .copied()
                            .collect();
                        for key in gone {
                            self.nodes[*node].lines.remove(&key);
                            self.nodes[*node].submitted.remove(&key);
                        }
                    }
                }
            }
            Seen::Booted { node, id, lines, .. } => {
                for (name, line) in *lines {
                    self.log(name);
                    let _ = line;
                }
                let facts = &mut self.nodes[*node];
                facts.id = Some(*id);
                if facts.hostile {
                    self.authors.entry(*id).or_default().hostile = true;
                }
                facts.lines.clear();
                facts.submitted.clear();
                facts.admitting.clear();
                facts.seen.clear();
                for (name, line) in *lines {
                    let seen = facts.seen.entry(name.channel).or_insert(Timestamp::ZERO);
                    *seen = line.stamp.max(*seen);
                    facts.lines.entry(name.key).or_default().insert(line.no, line.clone());
                    facts.submitted.entry(name.key).or_default().insert(line.no, line.tip);
                }
            }
            Seen::Replaced { node } => {
                let facts = &mut self.nodes[*node];
                facts.lines.clear();
                facts.submitted.clear();
                facts.channels.clear();
                if let Some(id) = facts.id {
                    self.authors.entry(id).or_default().tampered = true;
                }
            }
            Seen::Damaged { node } => self.nodes[*node].damaged = true,
            _ => {}
        }
    }
}
