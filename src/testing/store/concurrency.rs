//! Clauses about who sees what when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::script::{Script, channel, log_name, one_log};
use super::{StoreFixture, Subject, check, must, same};
use crate::application::ports::{
    ChannelRepository as _, Durability, EntryRepository as _, Receipt, Store as _, WriteBatch, WriteOp,
};
use crate::domain::log::LogNo;
use crate::domain::time::Timestamp;

/// Threads that submit at once, each to logs of its own.
const SUBMITTERS: u32 = 4;
/// Batches of each of them.
const BATCHES: u64 = 100;
/// Interval that a batch with relaxed durability is given: short, since the suite waits it out.
const INTERVAL: Duration = Duration::from_millis(20);

pub(super) async fn later_batches_vouch_for_earlier_ones<X: StoreFixture>(subject: Subject<X>) {
    let mut script = Script::new(LogNo(0));
    subject.write(one_log(LogNo(0))).await;
    for _ in 0..5 {
        let receipts: Vec<Receipt> = (0..50).map(|_| subject.submit([script.append(&[30])])).collect();
        let Some(last) = receipts.last() else { return };
        must("visible", "an append becomes visible", last.visible().await);
        script.check_all(&subject).await;
        must("durable", "an append becomes durable", last.durable().await);
        let settled = receipts.iter().all(|receipt| matches!(receipt.settled(), Some(Ok(()))));
        check("ordered", settled, "a batch is durable, and one submitted before it is not");
    }
}

pub(super) async fn a_dropped_receipt_withdraws_nothing<X: StoreFixture>(mut subject: Subject<X>) {
    let mut script = Script::new(LogNo(0));
    subject.write(one_log(LogNo(0))).await;
    for _ in 0..20 {
        drop(subject.submit([script.append(&[30])]));
    }
    subject.write([script.append(&[1])]).await;
    subject.restart().await;
    script.check_all(&subject).await;
}

pub(super) async fn an_interval_is_visible_first<X: StoreFixture>(mut subject: Subject<X>) {
    let mut script = Script::new(LogNo(0));
    subject.write(one_log(LogNo(0))).await;
    let relaxed = |op| WriteBatch { durability: Durability::Interval(INTERVAL), ..WriteBatch::new([op]) };
    let receipt = subject.store.submit(relaxed(script.append(&[30])));
    must("visible", "a relaxed append becomes visible", receipt.visible().await);
    script.check_all(&subject).await;
    subject.store.hasten();
    must("durable", "a relaxed append becomes durable", receipt.durable().await);
    // A strict batch does not overtake a relaxed one.
    let relaxed = subject.store.submit(relaxed(script.append(&[31])));
    subject.write([script.append(&[32])]).await;
    check("ordered", matches!(relaxed.settled(), Some(Ok(()))), "a strict batch overtook a relaxed one");
    subject.restart().await;
    script.check_all(&subject).await;
}

/// Writers change two logs and a seen stamp in each batch; every look at the store finds them in step.
pub(super) async fn no_read_sees_half_a_batch<X: StoreFixture>(subject: Subject<X>) {
    subject.write(one_log(LogNo(0))).await;
    let others = (1..SUBMITTERS * 2).map(|no| WriteOp::PutLog(LogNo(no), log_name(1, &format!("log {no}"))));
    subject.write(others).await;
    let threads: Vec<_> = (0..SUBMITTERS)
        .map(|no| {
            let store = Arc::clone(&subject.store);
            std::thread::spawn(move || {
                let (mut a, mut b) = (Script::new(LogNo(no * 2)), Script::new(LogNo(no * 2 + 1)));
                let batches =
                    (1..=BATCHES).map(|_| store.submit(WriteBatch::new([a.append(&[9]), b.append(&[9])])));
                batches.collect::<Vec<Receipt>>()
            })
        })
        .collect();
    let mut seen = BTreeMap::new();
    loop {
        let running = threads.iter().any(|thread| !thread.is_finished());
        let logs = must("logs", "logs are read", subject.store.logs().await);
        let tip = |no: u32| logs[no as usize].lines.first().map_or(0, |line| line.tip.sequence);
        for no in 0..SUBMITTERS {
            same("atomic for readers", tip(no * 2), tip(no * 2 + 1), "two logs that change together");
            let before = seen.insert(no, tip(no * 2)).unwrap_or(0);
            check("reads see what was visible", tip(no * 2) >= before, "a log was longer before");
        }
        if !running {
            break;
        }
    }
    for thread in threads {
        for receipt in thread.join().expect("submitting does not panic") {
            must("durable", "a batch of one of many submitters is written", receipt.durable().await);
        }
    }
}

pub(super) async fn submitters_keep_their_order<X: StoreFixture>(mut subject: Subject<X>) {
    subject.write(one_log(LogNo(0))).await;
    subject
        .write((1..SUBMITTERS).map(|no| WriteOp::PutLog(LogNo(no), log_name(1, &format!("log {no}")))))
        .await;
    let threads: Vec<_> = (0..SUBMITTERS)
        .map(|no| {
            let store = Arc::clone(&subject.store);
            std::thread::spawn(move || {
                let mut script = Script::new(LogNo(no));
                let mut last = None;
                for at in 1..=BATCHES {
                    let seen = WriteOp::SetSeen(channel(1), Timestamp::new(at as u32, u64::from(no)));
                    last = Some(store.submit(WriteBatch::new([script.append(&[at as usize]), seen])));
                }
                (script, last)
            })
        })
        .collect();
    let mut scripts = Vec::new();
    for thread in threads {
        let (script, last) = thread.join().expect("submitting does not panic");
        if let Some(receipt) = last {
            must("durable", "the last batch of a submitter is written", receipt.durable().await);
        }
        scripts.push(script);
    }
    for _ in 0..2 {
        for script in &scripts {
            script.check_all(&subject).await;
        }
        let channels = must("channels", "channels are read", subject.store.channels().await);
        let largest = Timestamp::new(BATCHES as u32, u64::from(SUBMITTERS - 1));
        same("SetSeen", channels[0].seen, largest, "the largest stamp of all submitters");
        subject.restart().await;
    }
}
