//! The conformance suite of [`Store`] and the repositories gathered in it.
//!
//! ```
//! # use anabranch::infrastructure::memory_store::MemoryStore;
//! # futures::executor::block_on(async {
//! anabranch::testing::store::conformance(|| async { MemoryStore::ephemeral().unwrap() }).await;
//! # });
//! ```
//!
//! [`conformance`] needs a way to make fresh stores. A store that keeps anything beyond its handle also runs
//! [`conformance_with_restarts`], which checks every clause a second time after closing and opening again.
//! Both panic at the first clause that does not hold and name it. Each clause gets a store of its own.
//!
//! What they cannot show: what survives a crash of the process or of the machine. A store that never settles a
//! receipt makes them wait for ever, since they have no clock.

mod concurrency;
mod entries;
mod lifecycle;
mod records;
mod rules;
mod script;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::application::ports::{Receipt, Store, StoreError, WriteBatch, WriteOp};

/// One backing, a directory for instance, that can be opened again and again.
#[async_trait]
pub trait StoreFixture: Send + Sync {
    /// The store under test.
    type Store: Store;

    /// Opens the backing, which is empty the first time.
    ///
    /// # Errors
    /// What the store said.
    async fn open(&self) -> Result<Self::Store, StoreError>;

    /// Whether a second open of the same backing is refused in this process, as the contract asks. `false`
    /// leaves that clause out.
    fn is_exclusive(&self) -> bool {
        true
    }
}

/// Runs every clause of the contract that needs no restart against stores that `fresh` makes.
///
/// # Panics
/// If a clause does not hold.
pub async fn conformance<S: Store, F: Future<Output = S> + Send>(fresh: impl Fn() -> F + Send + Sync) {
    let once = || async { Once(Mutex::new(Some(fresh().await))) };
    run(&once, false).await;
}

/// Runs every clause of the contract, with restarts, against the backings that `fresh` makes.
///
/// # Panics
/// If a clause does not hold.
pub async fn conformance_with_restarts<X: StoreFixture, F: Future<Output = X> + Send>(
    fresh: impl Fn() -> F + Send + Sync,
) {
    run(&fresh, true).await;
}

async fn run<X: StoreFixture, F: Future<Output = X> + Send>(
    fresh: &(impl Fn() -> F + Send + Sync),
    restarts: bool,
) {
    let subject = || async { Subject::open(fresh().await, restarts).await };
    records::a_fresh_store_is_empty(subject().await).await;
    records::channels(subject().await).await;
    records::seen_only_rises(subject().await).await;
    records::peers(subject().await).await;
    records::node(subject().await).await;
    records::snapshots(subject().await).await;
    entries::one_batch(subject().await).await;
    entries::single_appends_equal_one_batch(subject().await).await;
    entries::a_line_with_a_base(subject().await).await;
    entries::several_lines(subject().await).await;
    entries::floors_only_rise(subject().await).await;
    entries::heads(subject().await).await;
    entries::block_heads(subject().await).await;
    entries::reads_are_cancel_safe(subject().await).await;
    rules::everything_in_one_batch(subject().await).await;
    rules::a_misused_batch_changes_nothing(subject().await).await;
    rules::remove_channel_removes_all_of_it(subject().await).await;
    rules::wipe_removes_everything(subject().await).await;
    concurrency::later_batches_vouch_for_earlier_ones(subject().await).await;
    concurrency::a_dropped_receipt_withdraws_nothing(subject().await).await;
    concurrency::an_interval_is_visible_first(subject().await).await;
    concurrency::no_read_sees_half_a_batch(subject().await).await;
    concurrency::submitters_keep_their_order(subject().await).await;
    entries::a_payload_of_16_mib(subject().await).await;
    entries::ten_thousand_logs(subject().await).await;
    lifecycle::usage_grows(subject().await).await;
    lifecycle::a_closed_store_says_so(subject().await).await;
    if restarts {
        lifecycle::identity_and_residence_stay(subject().await).await;
        lifecycle::a_second_open_is_refused(subject().await).await;
        lifecycle::closing_makes_everything_durable(subject().await).await;
    }
}

/// A store under test, and how to get it back after a restart.
struct Subject<X: StoreFixture> {
    fixture: X,
    store: Arc<X::Store>,
    restarts: bool,
}

impl<X: StoreFixture> Subject<X> {
    async fn open(fixture: X, restarts: bool) -> Self {
        let store = fixture.open().await;
        let store = Arc::new(must("open", "a fresh store opens", store));
        Self { fixture, store, restarts }
    }

    /// Closes the store and opens it again, the old handle still alive; does nothing where that is not possible.
    /// Returns whether it happened.
    async fn restart(&mut self) -> bool {
        if self.restarts {
            must("close", "an idle store closes", self.store.close().await);
            let store = self.fixture.open().await;
            self.store =
                Arc::new(must("close", "a closed store opens again while the old handle lives", store));
        }
        self.restarts
    }

    /// Writes a batch and waits until it is durable.
    async fn write(&self, ops: impl IntoIterator<Item = WriteOp>) {
        let result = self.store.submit(WriteBatch::new(ops)).durable().await;
        must("durable", "a batch that keeps the rules is written", result);
    }

    /// Submits a batch that is to be durable at once.
    fn submit(&self, ops: impl IntoIterator<Item = WriteOp>) -> Receipt {
        self.store.submit(WriteBatch::new(ops))
    }
}

/// A fixture whose one store was made before.
struct Once<S>(Mutex<Option<S>>);

#[async_trait]
impl<S: Store> StoreFixture for Once<S> {
    type Store = S;

    async fn open(&self) -> Result<S, StoreError> {
        let store = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        store.ok_or_else(|| StoreError::Io("this fixture opens once".into()))
    }
}

/// Panics unless `holds`.
#[track_caller]
fn check(clause: &str, holds: bool, what: impl std::fmt::Display) {
    assert!(holds, "the store breaks its contract, clause {clause}: {what}");
}

/// Panics unless `found` is what it should be.
#[track_caller]
fn same<T: PartialEq + std::fmt::Debug>(clause: &str, found: T, expected: T, what: impl std::fmt::Display) {
    let holds = found == expected;
    check(clause, holds, format_args!("{what}: found {found:?}, not {expected:?}"));
}

/// Panics unless the store succeeded.
#[track_caller]
fn must<T>(clause: &str, what: &str, result: Result<T, StoreError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("the store breaks its contract, clause {clause}: {what}, but: {error}"),
    }
}
