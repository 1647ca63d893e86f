//! Clauses about batches: all or nothing, the rules of `WriteOp`, and the ops that remove a lot.

use super::script::{Script, channel, channel_record, log_name, one_log, snapshot};
use super::{StoreFixture, Subject, check, must, same};
use crate::application::ports::EntryRepository as _;
use crate::application::ports::{
    NodeRecord, NodeRepository as _, PeerRecord, PeerRepository as _, SnapshotRepository as _, Store,
    StoreError, StoredLog, WriteOp,
};
use crate::domain::channel::ChannelRecord;
use crate::domain::entry::EntryHash;
use crate::domain::head::Head;
use crate::domain::id::NodeId;
use crate::domain::identity::Signature;
use crate::domain::log::{LineNo, LogNo};
use crate::domain::run::Run;
use crate::domain::time::Timestamp;
use crate::domain::version::Tip;

const LOG: LogNo = LogNo(0);

pub(super) async fn everything_in_one_batch<X: StoreFixture>(mut subject: Subject<X>) {
    let mut script = Script::new(LOG);
    let mut ops = one_log(LOG).to_vec();
    ops.push(script.append(&[1; 256]));
    let head = Head { tip: script.line.tip, signature: Signature::from_bytes([1; Signature::LEN]) };
    let (key, state) = snapshot(1, 1, b"state");
    ops.push(WriteOp::PutBlockHead(LOG, LineNo(0), head));
    ops.push(WriteOp::SetSeen(channel(1), Timestamp::new(7, 7)));
    ops.push(script.append(&[2, 3]));
    ops.push(WriteOp::PutNode(NodeRecord { incarnation: 5 }));
    ops.push(WriteOp::PutSnapshot(key.clone(), state.clone()));
    subject.write(ops).await;
    for _ in 0..2 {
        script.check_all(&subject).await;
        let contents = Contents::of(&*subject.store).await;
        same("atomic", contents.block_heads, vec![head], "the block head of the batch");
        same("atomic", contents.channels[0].seen, Timestamp::new(7, 7), "the seen stamp of the batch");
        same("atomic", contents.node.incarnation, 5, "the node's record of the batch");
        let found = must("snapshot", "a snapshot is read", subject.store.snapshot(&key).await);
        same("atomic", found, Some(state.clone()), "the snapshot of the batch");
        subject.restart().await;
    }
}

/// What the misuse clause compares.
#[derive(Debug, PartialEq)]
struct Contents {
    logs: Vec<StoredLog>,
    channels: Vec<ChannelRecord>,
    peers: Vec<PeerRecord>,
    node: NodeRecord,
    last: Option<Run>,
    block_heads: Vec<Head>,
    saved: bool,
}

impl Contents {
    async fn of(store: &impl Store) -> Self {
        let last = store.read(LOG, LineNo(0), 0..=u64::MAX, 1, true).await;
        let block_heads = store.block_heads(LOG, LineNo(0), 0..=u64::MAX, 99).await;
        let saved = store.snapshot(&snapshot(1, 1, b"").0).await;
        Self {
            logs: must("logs", "logs are read", store.logs().await),
            channels: must("channels", "channels are read", store.channels().await),
            peers: must("peers", "peers are read", store.peers().await),
            node: must("node", "the node is read", store.node().await),
            last: must("read", "entries are read", last),
            block_heads: must("block_heads", "block heads are read", block_heads),
            saved: must("snapshot", "a snapshot is read", saved).is_some(),
        }
    }
}

pub(super) async fn a_misused_batch_changes_nothing<X: StoreFixture>(mut subject: Subject<X>) {
    let mut script = Script::new(LOG);
    subject.write(one_log(LOG)).await;
    subject.write([script.append(&[5; 20])]).await;
    let before = Contents::of(&*subject.store).await;
    let (peer, (key, state)) = (NodeId::from_bytes([3; 32]), snapshot(1, 1, b"x"));
    let head = Head { tip: script.line.tip, signature: Signature::from_bytes([1; Signature::LEN]) };
    let good = [
        WriteOp::PutPeer(PeerRecord { node: peer, label: "x".into(), addresses: vec![], incarnation: 1 }),
        WriteOp::PutChannel(channel_record(2)),
        WriteOp::SetSeen(channel(1), Timestamp::new(90, 0)),
        WriteOp::PutNode(NodeRecord { incarnation: 99 }),
        WriteOp::PutLog(LogNo(1), log_name(2, "a")),
        WriteOp::RaiseFloor(LOG, 3),
        script.clone().append(&[3]),
        WriteOp::PutBlockHead(LOG, LineNo(0), head),
        WriteOp::PutSnapshot(key, state),
    ];
    for (rule, bad) in misuses(&script) {
        let mut ops = good.to_vec();
        ops.push(bad.clone());
        for ops in [vec![bad], ops] {
            let result = subject.submit(ops).durable().await;
            let refused = matches!(result, Err(StoreError::Misuse(_)));
            check(
                "misuse",
                refused,
                format_args!("{rule} is StoreError::Misuse, but the store said {result:?}"),
            );
        }
        let after = Contents::of(&*subject.store).await;
        same("misuse changes nothing", &after, &before, rule);
    }
    subject.restart().await;
    let after = Contents::of(&*subject.store).await;
    same("misuse changes nothing", &after, &before, "after a restart");
    subject.write([script.append(&[8])]).await;
    script.check_all(&subject).await;
}

/// One op for each rule, breaking it.
fn misuses(script: &Script) -> Vec<(&'static str, WriteOp)> {
    let append = |change: fn(&mut Script)| {
        let mut script = script.clone();
        change(&mut script);
        script.append(&[1, 2])
    };
    let mut wrong_end = append(|_| {});
    if let WriteOp::Append { line, .. } = &mut wrong_end {
        line.parts_mut().tip.hash = EntryHash::from_bytes([9; 32]);
    }
    let mut moved = script.line.clone();
    moved.parts_mut().tip.sequence += 1;
    let mut other_line = script.line.clone();
    other_line.parts_mut().no = LineNo(3);
    let head = Head { tip: script.line.tip, signature: Signature::from_bytes([1; Signature::LEN]) };
    vec![
        ("SetSeen of an unknown channel", WriteOp::SetSeen(channel(9), Timestamp::new(1, 1))),
        ("PutLog in an unknown channel", WriteOp::PutLog(LogNo(5), log_name(9, "a"))),
        ("PutLog under a number in use", WriteOp::PutLog(LOG, log_name(1, "b"))),
        ("Append to an unknown log", append(|script| script.log = LogNo(77))),
        ("Append after a gap", append(|script| script.line.parts_mut().tip.sequence += 1)),
        (
            "Append of entries that are there",
            append(|script| script.line.parts_mut().tip = script.line.base()),
        ),
        (
            "Append after another entry",
            append(|script| script.line.parts_mut().tip.hash = EntryHash::from_bytes([8; 32])),
        ),
        ("Append with a record that does not end with the run", wrong_end),
        ("PutLine with another tip", WriteOp::PutLine(LOG, moved)),
        ("PutLine of an unknown line", WriteOp::PutLine(LOG, other_line)),
        ("PutLine of an unknown log", WriteOp::PutLine(LogNo(77), script.line.clone())),
        ("RaiseFloor of an unknown log", WriteOp::RaiseFloor(LogNo(77), 1)),
        ("PutBlockHead of an unknown line", WriteOp::PutBlockHead(LOG, LineNo(3), head)),
        ("PutBlockHead of an unknown log", WriteOp::PutBlockHead(LogNo(77), LineNo(0), head)),
    ]
}

pub(super) async fn remove_channel_removes_all_of_it<X: StoreFixture>(mut subject: Subject<X>) {
    let (mut gone, mut stays) = (Script::new(LogNo(0)), Script::new(LogNo(1)));
    let (gone_key, gone_state) = snapshot(1, 1, b"gone");
    let (key, state) = snapshot(2, 1, b"stays");
    let head = Head { tip: Tip::START, signature: Signature::from_bytes([1; Signature::LEN]) };
    subject.write(one_log(LogNo(0))).await;
    subject
        .write([WriteOp::PutChannel(channel_record(2)), WriteOp::PutLog(LogNo(1), log_name(2, "b"))])
        .await;
    subject.write([gone.append(&[100; 300]), WriteOp::PutBlockHead(LogNo(0), LineNo(0), head)]).await;
    subject.write([WriteOp::PutSnapshot(gone_key.clone(), gone_state), stays.append(&[100; 300])]).await;
    subject.write([WriteOp::PutSnapshot(key.clone(), state.clone())]).await;
    subject.write([WriteOp::RemoveChannel(channel(1))]).await;
    for made_again in [false, true, true] {
        let store = &*subject.store;
        let contents = Contents::of_or_gone(store).await;
        let numbers: Vec<LogNo> = contents.0.iter().map(|log| log.no).collect();
        same("RemoveChannel", numbers, vec![LogNo(1)], "logs left");
        let next = must("next_log", "the next number is known", store.next_log().await);
        same("next_log", next, LogNo(2), "the number after all that were used");
        same("RemoveChannel", contents.1, 1 + usize::from(made_again), "channels left");
        same("RemoveChannel", contents.2, 0, "entries and block heads left of the channel");
        let found = must("snapshot", "a snapshot is read", store.snapshot(&gone_key).await);
        same("RemoveChannel", found, None, "a state of the channel");
        let found = must("snapshot", "a snapshot is read", store.snapshot(&key).await);
        same("RemoveChannel", found, Some(state.clone()), "a state of another channel");
        stays.check_all(&subject).await;
        subject.restart().await;
        subject.write([WriteOp::PutChannel(channel_record(1))]).await;
    }
    let reused = subject.submit([WriteOp::PutLog(LogNo(0), log_name(1, "stream"))]).durable().await;
    let refused = matches!(reused, Err(StoreError::Misuse(_)));
    check("PutLog", refused, format_args!("a removed log's number is not used again, but: {reused:?}"));
}

impl Contents {
    /// Logs, number of channels, and what is still found of log 0, which may be an error by now.
    async fn of_or_gone(store: &impl Store) -> (Vec<StoredLog>, usize, usize) {
        let entries = store.read(LOG, LineNo(0), 0..=u64::MAX, 1, true).await.ok().flatten();
        let heads = store.block_heads(LOG, LineNo(0), 0..=u64::MAX, 9).await.unwrap_or_default();
        let logs = must("logs", "logs are read", store.logs().await);
        let channels = must("channels", "channels are read", store.channels().await);
        (logs, channels.len(), heads.len() + entries.map_or(0, |run| run.len()))
    }
}

pub(super) async fn wipe_removes_everything<X: StoreFixture>(mut subject: Subject<X>) {
    let (peer, (key, state)) = (NodeId::from_bytes([3; 32]), snapshot(1, 1, b"x"));
    let node = subject.store.identity().node();
    subject.write(one_log(LOG)).await;
    subject.write([Script::new(LOG).append(&[50; 300]), WriteOp::PutSnapshot(key.clone(), state)]).await;
    let record = PeerRecord { node: peer, label: "x".into(), addresses: vec![], incarnation: 1 };
    subject.write([WriteOp::PutPeer(record), WriteOp::PutNode(NodeRecord { incarnation: 9 })]).await;
    subject.write([WriteOp::Wipe]).await;
    for _ in 0..2 {
        let store = &*subject.store;
        let left = Contents::of_or_gone(store).await;
        same("Wipe", left, (vec![], 0, 0), "logs, channels and entries left");
        same("Wipe", must("peers", "peers are read", store.peers().await), vec![], "peers left");
        let record = must("node", "the node is read", store.node().await);
        same("Wipe", record, NodeRecord::default(), "the node's record");
        let found = must("snapshot", "a snapshot is read", store.snapshot(&key).await);
        same("Wipe", found, None, "a state");
        if subject.restart().await {
            check("Wipe", subject.store.identity().node() != node, "the identity is gone too");
        }
    }
}
