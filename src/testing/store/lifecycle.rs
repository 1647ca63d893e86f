//! Clauses about opening, closing and what stays.

use super::script::{Script, one_log, snapshot};
use super::{StoreFixture, Subject, check, must, same};
use crate::application::ports::{
    ChannelRepository as _, EntryRepository as _, NodeRepository as _, PeerRepository as _, Residence,
    SnapshotRepository as _, Store as _, StoreError,
};
use crate::domain::log::{LineNo, LogNo};

pub(super) async fn usage_grows<X: StoreFixture>(subject: Subject<X>) {
    let mut script = Script::new(LogNo(0));
    subject.write(one_log(LogNo(0))).await;
    let before = subject.store.usage().bytes;
    subject.write([script.append(&[60_000; 40])]).await;
    let after = subject.store.usage().bytes;
    check(
        "usage",
        after > before,
        format_args!("{before} bytes before and {after} after 2.4 MB were written"),
    );
}

pub(super) async fn a_closed_store_says_so<X: StoreFixture>(subject: Subject<X>) {
    let (store, mut script) = (&*subject.store, Script::new(LogNo(0)));
    subject.write(one_log(LogNo(0))).await;
    subject.write([script.append(&[5])]).await;
    must("close", "an idle store closes", store.close().await);
    must("close", "closing again is fine", store.close().await);
    let submitted = subject.submit([script.append(&[5])]);
    let answers = [
        ("submit", submitted.durable().await.err()),
        ("visible", submitted.visible().await.err()),
        ("logs", store.logs().await.err()),
        ("read", store.read(LogNo(0), LineNo(0), 1..=1, 100, false).await.err()),
        ("block_heads", store.block_heads(LogNo(0), LineNo(0), 1..=1, 100).await.err()),
        ("channels", store.channels().await.err()),
        ("peers", store.peers().await.err()),
        ("node", store.node().await.err()),
        ("snapshot", store.snapshot(&snapshot(1, 1, b"").0).await.err()),
    ];
    for (call, error) in answers {
        let closed = matches!(error, Some(StoreError::Closed));
        check("closed", closed, format_args!("{call} is StoreError::Closed, but the store said {error:?}"));
    }
}

pub(super) async fn identity_and_residence_stay<X: StoreFixture>(mut subject: Subject<X>) {
    let identity = subject.store.identity();
    for _ in 0..3 {
        subject.restart().await;
        let again = subject.store.identity();
        same("identity", again.node(), identity.node(), "the node after a restart");
        check("identity", again.secret() == identity.secret(), "the secret after a restart is another one");
        same("residence", subject.store.residence(), Residence::Same, "residence after a restart in place");
    }
}

pub(super) async fn a_second_open_is_refused<X: StoreFixture>(mut subject: Subject<X>) {
    if !subject.fixture.is_exclusive() {
        return;
    }
    let mut script = Script::new(LogNo(0));
    subject.write(one_log(LogNo(0))).await;
    for _ in 0..2 {
        let second = subject.fixture.open().await.err();
        let refused = matches!(second, Some(StoreError::InUse(_)));
        check(
            "exclusive",
            refused,
            format_args!("a second open is StoreError::InUse, but it gave {second:?}"),
        );
        subject.write([script.append(&[5])]).await;
        script.check_all(&subject).await;
        subject.restart().await;
    }
}

pub(super) async fn closing_makes_everything_durable<X: StoreFixture>(mut subject: Subject<X>) {
    let mut script = Script::new(LogNo(0));
    subject.write(one_log(LogNo(0))).await;
    let receipts: Vec<_> = (0..50).map(|_| subject.submit([script.append(&[100])])).collect();
    let old = std::sync::Arc::clone(&subject.store);
    subject.restart().await;
    let settled = receipts.iter().all(|receipt| matches!(receipt.settled(), Some(Ok(()))));
    check("close", settled, "closing settles all receipts, and well");
    script.check_all(&subject).await;
    let answer = old.logs().await.err();
    let closed = matches!(answer, Some(StoreError::Closed));
    check("closed", closed, format_args!("the handle of before is Closed, but it said {answer:?}"));
    must("close", "an old handle closes again", old.close().await);
    subject.write([script.append(&[1])]).await;
    script.check_all(&subject).await;
}
