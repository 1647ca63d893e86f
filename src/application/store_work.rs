//! Reads that the engine asks for, each a future that the driver runs beside its turns.
//!
//! They read a store and change nothing; what they find is an input of a later turn.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::log_cell::LogCell;
use super::ports::{Store, StoreError};
use super::replica::Replica;
use crate::domain::block::BlockPhase;
use crate::domain::event::Event;
use crate::domain::fork::{Branch, ForkProof};
use crate::domain::head::Head;
use crate::domain::log::{Line, LineNo, LogNo};
use crate::domain::run::Run;
use crate::domain::version::Tip;

/// Heads fetched at once: those of a run of the usual size, many times over.
const HEADS: usize = 4096;
/// Bytes read at once when a line is walked.
const WALK_BYTES: usize = 256 * 1024;
/// Locators of one line, besides base and tip: distances double, so this covers any length.
const MAX_LOCATORS: usize = 64;

/// A run of `line` after `after`, of about `max_bytes`, that ends at a head; with all heads in it. `None` if
/// there is nothing after it, or nothing that could be proven.
pub(crate) async fn provable_run(
    store: &dyn Store,
    log: LogNo,
    line: &Line,
    after: u64,
    extra: &[Head],
    max_bytes: usize,
) -> Result<Option<(Run, Vec<Head>)>, StoreError> {
    let Some(tip) = line.head() else { return Ok(None) };
    let end = tip.tip.sequence;
    if after >= end {
        return Ok(None);
    }
    let mut heads = store.block_heads(log, line.no, after + 1..=end, HEADS).await?;
    let complete = heads.len() < HEADS;
    heads.extend(extra.iter().filter(|head| (after + 1..=end).contains(&head.tip.sequence)));
    if complete {
        heads.push(tip);
    }
    heads.sort_unstable_by_key(|head| head.tip.sequence);
    heads.dedup_by_key(|head| head.tip.sequence);
    let mut parts: Vec<Run> = Vec::new();
    let (mut next, mut bytes) = (after + 1, 0);
    while next <= end {
        let Some(run) =
            store.read(log, line.no, next..=end, max_bytes.saturating_sub(bytes).max(1), false).await?
        else {
            break;
        };
        next = run.last() + 1;
        bytes += run.body().len();
        parts.push(run);
        // Up to the size asked for, and then on to the first head: a block, or one large entry.
        let proven = heads.iter().any(|head| head.tip.sequence < next);
        if bytes >= max_bytes && proven {
            break;
        }
    }
    let Some(run) = Run::join(&parts) else { return Ok(None) };
    heads.retain(|head| run.hash_at(head.tip.sequence) == Some(head.tip.hash));
    let Some(last) = heads.last().map(|head| head.tip.sequence) else { return Ok(None) };
    Ok(run.slice(after + 1, last).map(|run| (run, heads)))
}

/// The block ends of an own line that have no head yet.
pub(crate) async fn unsigned_ends(
    store: &dyn Store,
    log: LogNo,
    line: &Line,
) -> Result<Vec<Tip>, StoreError> {
    if mutant!(BlockEndsNotSought) {
        return Ok(Vec::new());
    }
    let mut signed = BTreeSet::new();
    let mut from = line.base().sequence;
    loop {
        let heads = store.block_heads(log, line.no, from..=line.tip.sequence, HEADS).await?;
        signed.extend(heads.iter().map(|head| head.tip.sequence));
        match heads.last() {
            Some(last) if heads.len() == HEADS => from = last.tip.sequence + 1,
            _ => break,
        }
    }
    let open = line.phase.open_entries().map_or(0, |open| u64::from(open.get()));
    let last_end = line.tip.sequence - open.min(line.tip.sequence);
    // Ends are signed and stored in order, so the last one tells whether all are.
    if last_end <= line.base().sequence || signed.contains(&last_end) {
        return Ok(Vec::new());
    }
    let mut start = signed.last().copied().unwrap_or(line.base().sequence);
    let (mut phase, mut ends) = (BlockPhase::START, Vec::new());
    while start < line.tip.sequence {
        let range = start + 1..=line.tip.sequence;
        let Some(run) = store.read(log, line.no, range, WALK_BYTES, false).await? else { break };
        phase = run.walk_blocks(phase, |sequence| {
            ends.extend(run.hash_at(sequence).map(|hash| Tip { sequence, hash }));
        });
        start = run.last();
    }
    Ok(ends)
}

/// Entries along the lines of a log at distance 0, 1, 2, 4, … from the tips, and the bases; of what is durable, as they
/// leave the node.
pub(crate) async fn locators(store: &dyn Store, log: &LogCell) -> Result<Vec<Tip>, StoreError> {
    let mut locators = BTreeSet::new();
    let durable = log.lock().durable();
    for line in durable.lines() {
        locators.extend([line.tip, line.base()].into_iter().filter(|tip| tip.sequence > 0));
        let distances = (0..MAX_LOCATORS as u32).map_while(|power| 1u64.checked_shl(power));
        let sequences = distances.map_while(|distance| line.tip.sequence.checked_sub(distance));
        for sequence in sequences.take_while(|sequence| *sequence > line.base().sequence) {
            if let Some(run) = store.read(log.no, line.no, sequence..=sequence, 1, false).await? {
                locators.extend(run.hash_at(sequence).map(|hash| Tip { sequence, hash }));
            }
        }
    }
    Ok(locators.into_iter().collect())
}

/// For each line that a peer with these locators lacks the end of: the last entry known to be common.
pub(crate) async fn match_locators(
    replica: &Replica,
    log: &LogCell,
    locators: &[Tip],
) -> Result<Vec<(LineNo, Tip)>, StoreError> {
    let mut starts = Vec::new();
    let mut locators = locators.to_vec();
    locators.sort_unstable_by_key(|tip| std::cmp::Reverse(tip.sequence));
    locators.truncate(MAX_LOCATORS * 4);
    for line in log.visible().lines() {
        if locators.contains(&line.tip) || (mutant!(OneLineMatched) && line.no > LineNo(0)) {
            continue;
        }
        let mut start = line.base();
        for locator in &locators {
            if replica.runs_through(log, line, *locator).await? {
                start = *locator;
                break;
            }
        }
        starts.push((line.no, start));
    }
    Ok(starts)
}

/// What to tell the application about a new line of a log.
pub(crate) async fn fork_event(replica: Arc<Replica>, log: Arc<LogCell>, line: LineNo) -> Option<Event> {
    let lines = log.visible();
    let fork = lines.line(line)?;
    let at = fork.base();
    let mut proof = None;
    for other in lines.lines().iter().filter(|other| other.no != line && other.tip.sequence > at.sequence) {
        if proof.is_none() && replica.runs_through(&log, other, at).await.unwrap_or(false) {
            let branches = [branch(&replica, &log, other, at).await, branch(&replica, &log, fork, at).await];
            if let [Some(a), Some(b)] = branches {
                let proven = ForkProof { key: log.name.key, author: log.name.author, at, branches: [a, b] };
                proof = proven.verify(&*replica.identity.scheme()).then(|| Arc::new(proven));
            }
        }
    }
    let (channel, stream, author) = (log.name.channel, log.name.stream.clone(), log.name.author);
    Some(Event::Forked { channel, stream, author, at, proof })
}

async fn branch(replica: &Replica, log: &LogCell, line: &Line, at: Tip) -> Option<Branch> {
    let mut line = line.clone();
    if log.name.author == replica.node() && line.head().is_none_or(|head| head.tip != line.tip) {
        line.set_head(Head::sign(&log.name.key, line.tip, &replica.identity));
    }
    let found = provable_run(&*replica.store, log.no, &line, at.sequence, &[], 1).await.ok()?;
    let (run, heads) = found?;
    Branch::new(&run, &heads)
}
