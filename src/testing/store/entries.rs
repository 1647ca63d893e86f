//! Clauses about lines and their entries.

use futures::FutureExt as _;

use super::script::{Script, channel, channel_record, find, log_name, one_log};
use super::{StoreFixture, Subject, check, must, same};
use crate::application::ports::{EntryRepository as _, WriteOp};
use crate::domain::head::Head;
use crate::domain::identity::Signature;
use crate::domain::log::{LineNo, LogNo};
use crate::domain::version::Tip;

const LOG: LogNo = LogNo(0);
/// Payload lengths with everything in them: empty, tiny, ordinary, and some larger than a page.
const MIXED: [usize; 16] = [3, 0, 100, 1, 0, 4_000, 10, 70_000, 5, 300, 100, 100, 128, 127, 20_000, 9];

fn head(tip: Tip, byte: u8) -> Head {
    Head { tip, signature: Signature::from_bytes([byte; Signature::LEN]) }
}

pub(super) async fn one_batch<X: StoreFixture>(mut subject: Subject<X>) {
    let mut script = Script::new(LOG);
    subject.write(one_log(LOG)).await;
    subject.write([script.append(&MIXED)]).await;
    for _ in 0..2 {
        let store = &*subject.store;
        for backward in [false, true] {
            for max_bytes in [0, 1, 150, 5_000, usize::MAX] {
                for range in [0..=0, 0..=u64::MAX, 1..=16, 2..=2, 5..=9, 16..=17, 17..=17, 40..=u64::MAX] {
                    script.check_read(store, range, max_bytes, backward).await;
                }
                let (start, end) = (9, 3);
                script.check_read(store, start..=end, max_bytes, backward).await;
            }
        }
        script.check_all(&subject).await;
        subject.restart().await;
    }
}

pub(super) async fn single_appends_equal_one_batch<X: StoreFixture>(mut subject: Subject<X>) {
    let lens: Vec<usize> = (0..1500).map(|no| no * 7 % 300).collect();
    let (mut batched, mut single) = (Script::new(LogNo(0)), Script::new(LogNo(1)));
    subject.write(one_log(LogNo(0))).await;
    subject.write([WriteOp::PutLog(LogNo(1), log_name(1, "other"))]).await;
    subject.write([batched.append(&lens)]).await;
    let mut receipts = Vec::new();
    for (no, len) in lens.iter().enumerate() {
        receipts.push(subject.submit([single.append(&[*len])]));
        if no % 500 == 99 {
            // In the middle, so that a read falls between small writes that are not merged yet.
            must("visible", "an append becomes visible", receipts[no].visible().await);
            single.check_pages(&*subject.store, 3_000).await;
        }
    }
    for receipt in receipts {
        must("durable", "an append becomes durable", receipt.durable().await);
    }
    check("single appends", single.entries == batched.entries, "the suite wrote the same entries twice");
    for _ in 0..2 {
        batched.check_all(&subject).await;
        single.check_all(&subject).await;
        single.check_pages(&*subject.store, 1_000).await;
        for no in (1..1500).step_by(97) {
            single.check_read(&*subject.store, no..=no + 3, 10_000, false).await;
            single.check_read(&*subject.store, 1..=no, 700, true).await;
        }
        subject.restart().await;
        // And appends go on where they ended.
        subject.write([batched.append(&[5, 6])]).await;
        subject.write([single.append(&[5, 6])]).await;
    }
}

pub(super) async fn a_line_with_a_base<X: StoreFixture>(mut subject: Subject<X>) {
    let mut before = Script::new(LOG);
    let base = before.run(&[1; 300]).tip();
    let mut script = Script::after(LOG, LineNo(0), base, before.line.stamp);
    // The stamps of the suite restart their eras with the entries it remembers.
    script.entries.clone_from(&before.entries);
    let run = script.run(&MIXED);
    script.entries.drain(..300);
    subject.write(one_log(LOG)).await;
    subject.write([WriteOp::Append { log: LOG, line: script.line.clone(), run }]).await;
    for _ in 0..2 {
        for range in [0..=300, 300..=301, 1..=305, 310..=u64::MAX, 316..=316] {
            script.check_read(&*subject.store, range.clone(), 200, false).await;
            script.check_read(&*subject.store, range, 200, true).await;
        }
        script.check_all(&subject).await;
        subject.restart().await;
    }
}

pub(super) async fn several_lines<X: StoreFixture>(mut subject: Subject<X>) {
    let mut main = Script::new(LOG);
    subject.write(one_log(LOG)).await;
    subject.write([main.append(&[10; 8])]).await;
    let fork_at = &main.entries[4];
    let base = Tip { sequence: fork_at.sequence(), hash: fork_at.hash() };
    let mut fork = Script::after(LOG, LineNo(1), base, fork_at.timestamp());
    let mut third = Script::after(LOG, LineNo(2), base, fork_at.timestamp());
    subject.write([fork.append(&[21; 9]), main.append(&[11; 3]), third.append(&[5])]).await;
    subject.write([third.append(&[1]), fork.append(&[2])]).await;
    for _ in 0..2 {
        let logs = must("logs", "logs are read", subject.store.logs().await);
        same("logs", logs.len(), 1, "one log with three lines");
        same("logs", &logs[0].name, &log_name(1, "stream"), "the name of the log");
        same("logs", logs[0].lines.len(), 3, "the lines of the log");
        for script in [&main, &fork, &third] {
            script.check_all(&subject).await;
        }
        subject.restart().await;
    }
}

pub(super) async fn floors_only_rise<X: StoreFixture>(mut subject: Subject<X>) {
    let mut script = Script::new(LOG);
    subject.write(one_log(LOG)).await;
    subject.write([script.append(&[3; 9]), WriteOp::PutLog(LogNo(1), log_name(1, "other"))]).await;
    // The last is above every entry held: a floor may be raised before anything of the log is there.
    for (raise, expected) in [(0, 0), (4, 4), (2, 4), (4, 4), (7, 7), (u64::MAX, u64::MAX), (9, u64::MAX)] {
        subject.write([WriteOp::RaiseFloor(LOG, raise)]).await;
        for _ in 0..2 {
            let logs = must("logs", "logs are read", subject.store.logs().await);
            same("RaiseFloor only rises", logs[0].floor, expected, format_args!("floor, raised to {raise}"));
            same("RaiseFloor", logs[1].floor, 0, "the floor of another log");
            script.check_all(&subject).await;
            subject.restart().await;
        }
    }
    subject.write([WriteOp::RemoveChannel(channel(1))]).await;
    let again = [
        WriteOp::PutChannel(channel_record(1)),
        WriteOp::PutLog(LogNo(2), log_name(1, "stream")),
        WriteOp::RaiseFloor(LogNo(2), 5),
        WriteOp::RaiseFloor(LogNo(2), 3),
    ];
    subject.write(again[..2].to_vec()).await;
    for expected in [0, 5] {
        subject.restart().await;
        let logs = must("logs", "logs are read", subject.store.logs().await);
        let found: Vec<_> = logs.iter().map(|log| (log.no, log.floor)).collect();
        same("RemoveChannel", found, vec![(LogNo(2), expected)], "the log made again, and its floor");
        subject.write(again[2..].to_vec()).await;
    }
}

pub(super) async fn heads<X: StoreFixture>(mut subject: Subject<X>) {
    let mut script = Script::new(LOG);
    subject.write(one_log(LOG)).await;
    subject.write([script.append(&[4, 5])]).await;
    script.line.set_head(head(script.line.tip, 1));
    subject.write([WriteOp::PutLine(LOG, script.line.clone())]).await;
    subject.restart().await;
    script.check_all(&subject).await;
    // An append carries the record along, the older head with it, and may bring a new one.
    subject.write([script.append(&[6])]).await;
    subject.restart().await;
    script.check_all(&subject).await;
    let run = script.run(&[7]);
    script.line.set_head(head(script.line.tip, 2));
    subject.write([WriteOp::Append { log: LOG, line: script.line.clone(), run }]).await;
    subject.restart().await;
    script.check_all(&subject).await;
    let logs = must("logs", "logs are read", subject.store.logs().await);
    let found = find(&logs[0], LineNo(0)).and_then(|line| line.head());
    same("PutLine", found, script.line.head(), "the head put last");
}

pub(super) async fn block_heads<X: StoreFixture>(mut subject: Subject<X>) {
    let mut script = Script::new(LOG);
    subject.write(one_log(LOG)).await;
    subject.write([script.append(&[1; 700])]).await;
    let at = |sequence: usize, byte| {
        let entry = &script.entries[sequence - 1];
        head(Tip { sequence: entry.sequence(), hash: entry.hash() }, byte)
    };
    let put = |head| WriteOp::PutBlockHead(LOG, LineNo(0), head);
    subject.write([put(at(512, 9)), put(at(256, 2))]).await;
    subject.write([put(at(300, 4)), put(at(512, 3))]).await;
    let expected = [at(256, 2), at(300, 4), at(512, 3)];
    for _ in 0..2 {
        let cases: [(_, usize, &[Head]); 7] = [
            (0..=u64::MAX, usize::MAX, &expected),
            (0..=u64::MAX, 2, &expected[..2]),
            (0..=u64::MAX, 0, &[]),
            (257..=511, 9, &expected[1..2]),
            (256..=300, 9, &expected[..2]),
            (301..=512, 1, &expected[2..]),
            (513..=u64::MAX, 9, &[]),
        ];
        for (range, limit, expected) in cases {
            let what = format!("block heads in {range:?}, at most {limit}");
            let found = subject.store.block_heads(LOG, LineNo(0), range, limit).await;
            let found = must("block_heads", "block heads are read", found);
            same("block_heads", &found[..], expected, what);
        }
        subject.restart().await;
    }
}

pub(super) async fn reads_are_cancel_safe<X: StoreFixture>(subject: Subject<X>) {
    let mut script = Script::new(LOG);
    subject.write(one_log(LOG)).await;
    subject.write([script.append(&MIXED)]).await;
    for _ in 0..20 {
        // Polled once at most, then dropped.
        let _ = subject.store.read(LOG, LineNo(0), 1..=9, 100, false).now_or_never();
        let _ = subject.store.logs().now_or_never();
        let _ = subject.store.block_heads(LOG, LineNo(0), 1..=9, 9).now_or_never();
    }
    script.check_all(&subject).await;
}

pub(super) async fn a_payload_of_16_mib<X: StoreFixture>(mut subject: Subject<X>) {
    let mut script = Script::new(LOG);
    subject.write(one_log(LOG)).await;
    subject.write([script.append(&[8, 16 << 20, 8])]).await;
    for _ in 0..2 {
        script.check_all(&subject).await;
        script.check_pages(&*subject.store, 100).await;
        subject.restart().await;
    }
}

pub(super) async fn ten_thousand_logs<X: StoreFixture>(mut subject: Subject<X>) {
    const LOGS: u32 = 10_000;
    subject.write([WriteOp::PutChannel(channel_record(1))]).await;
    let mut scripts: Vec<Script> = (0..LOGS).map(|no| Script::new(LogNo(no))).collect();
    for some in scripts.chunks_mut(1000) {
        let ops = some.iter_mut().flat_map(|script| {
            let name = log_name(1, &format!("stream {}", script.log.0));
            [WriteOp::PutLog(script.log, name), script.append(&[script.log.0 as usize % 40])]
        });
        subject.write(ops).await;
    }
    for _ in 0..2 {
        let logs = must("logs", "logs are read", subject.store.logs().await);
        same("logs", logs.len(), LOGS as usize, "the number of logs");
        for (log, script) in logs.iter().zip(&scripts) {
            same("logs", log.no, script.log, "logs come by rising number");
            same("logs", log.name.stream.as_str(), &format!("stream {}", log.no.0), "the name of a log");
            same("logs", &log.lines[..], std::slice::from_ref(&script.line), "the lines of a log");
        }
        for script in scripts.iter().step_by(499) {
            script.check_read(&*subject.store, 0..=u64::MAX, 1000, false).await;
        }
        subject.restart().await;
    }
}
