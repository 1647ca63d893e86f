//! What became of a submitted batch.
//!
//! Made by stores, observed by the appender and the driver alike; dropping one changes nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use smallvec::SmallVec;

use super::store::StoreError;

/// Answer of a store to one submitted batch; any number of observers may hold clones.
///
/// A batch first becomes visible to readers of the same process, then durable. Dropping a receipt withdraws
/// nothing. Those who wait are woken in the order in which they began to wait: a run under a seeded executor is
/// the same every time.
#[derive(Debug, Clone)]
pub struct Receipt(Inner);

#[derive(Debug, Clone)]
enum Inner {
    Ready(Result<(), StoreError>),
    Pending(Arc<Mutex<State>>),
}

#[derive(Debug)]
struct State {
    stage: Stage,
    next_waiter: u64,
    /// Usually the appender and the driver.
    waiters: SmallVec<[Waiter; 2]>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    until: Until,
    waker: Waker,
}

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Visible,
    Durable,
}

#[derive(Debug, Clone)]
enum Stage {
    Queued,
    Visible,
    Done(Result<(), StoreError>),
}

impl Receipt {
    /// The receipt of a batch whose fate is known already.
    pub fn ready(result: Result<(), StoreError>) -> Self {
        Self(Inner::Ready(result))
    }

    /// A receipt and the means to settle it.
    pub fn pending() -> (Self, Completer) {
        let state = State { stage: Stage::Queued, next_waiter: 0, waiters: SmallVec::new() };
        let state = Arc::new(Mutex::new(state));
        (Self(Inner::Pending(Arc::clone(&state))), Completer { state, settled: false })
    }

    /// What became of the batch, if that is settled.
    pub fn settled(&self) -> Option<Result<(), StoreError>> {
        match &self.0 {
            Inner::Ready(result) => Some(result.clone()),
            Inner::Pending(state) => match &lock(state).stage {
                Stage::Done(result) => Some(result.clone()),
                Stage::Queued | Stage::Visible => None,
            },
        }
    }

    /// Whether readers of this process see the batch.
    pub fn is_visible(&self) -> bool {
        match &self.0 {
            Inner::Ready(result) => result.is_ok(),
            Inner::Pending(state) => matches!(lock(state).stage, Stage::Visible | Stage::Done(Ok(()))),
        }
    }

    /// Waits until readers of this process see the batch. Cancel-safe.
    ///
    /// # Errors
    /// Why the batch was not written.
    pub async fn visible(&self) -> Result<(), StoreError> {
        self.wait(Until::Visible).await
    }

    /// Waits until the batch is on stable storage. Cancel-safe.
    ///
    /// # Errors
    /// Why the batch was not written, or not made durable.
    pub async fn durable(&self) -> Result<(), StoreError> {
        self.wait(Until::Durable).await
    }

    async fn wait(&self, until: Until) -> Result<(), StoreError> {
        let state = match &self.0 {
            Inner::Ready(result) => return result.clone(),
            Inner::Pending(state) => state,
        };
        let mut place = Place { state, number: None };
        std::future::poll_fn(|cx| {
            let mut state = lock(place.state);
            match (&state.stage, until) {
                (Stage::Done(result), _) => return Poll::Ready(result.clone()),
                (Stage::Visible, Until::Visible) => return Poll::Ready(Ok(())),
                (Stage::Queued, _) | (Stage::Visible, Until::Durable) => {}
            }
            let number = *place.number.get_or_insert(state.next_waiter);
            match state.waiters.iter_mut().find(|waiter| waiter.number == number) {
                Some(waiter) => waiter.waker.clone_from(cx.waker()),
                None => {
                    state.next_waiter = state.next_waiter.max(number + 1);
                    state.waiters.push(Waiter { number, until, waker: cx.waker().clone() });
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// A place among those who wait; given up when the waiting future is dropped.
struct Place<'a> {
    state: &'a Mutex<State>,
    number: Option<u64>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            lock(self.state).waiters.retain(|waiter| waiter.number != number);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // No code that can panic runs under this lock.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Settles a [`Receipt`]; held by the store. Dropping it unsettled says [`StoreError::Closed`].
#[derive(Debug)]
pub struct Completer {
    state: Arc<Mutex<State>>,
    settled: bool,
}

impl Completer {
    /// Readers see the batch now; it is not durable yet.
    pub fn visible(&self) {
        self.set(Stage::Visible);
    }

    /// The batch is on stable storage, or it failed.
    pub fn done(mut self, result: Result<(), StoreError>) {
        self.settled = true;
        self.set(Stage::Done(result));
    }

    fn set(&self, stage: Stage) {
        let woken: SmallVec<[Waiter; 2]> = {
            let mut state = lock(&self.state);
            let done = matches!(stage, Stage::Done(_));
            state.stage = stage;
            let waiters = std::mem::take(&mut state.waiters).into_iter();
            let (woken, waiting) = waiters.partition(|waiter| done || waiter.until == Until::Visible);
            state.waiters = waiting;
            woken
        };
        for waiter in woken {
            waiter.waker.wake();
        }
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        if !self.settled {
            // The store dropped it without a word: the store is gone.
            self.set(Stage::Done(Err(StoreError::Closed)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_receipt_passes_from_queued_over_visible_to_done() {
        let (receipt, completer) = Receipt::pending();
        assert!(receipt.settled().is_none() && receipt.visible().now_or_never().is_none());
        completer.visible();
        assert!(receipt.visible().now_or_never().is_some() && receipt.durable().now_or_never().is_none());
        completer.done(Ok(()));
        assert!(matches!(receipt.settled(), Some(Ok(()))));
    }

    #[test]
    fn who_waits_for_the_disk_is_not_woken_when_readers_see_the_batch() {
        let (receipt, completer) = Receipt::pending();
        let (reader, appender) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let (mut visible, mut durable) = (receipt.visible().boxed(), receipt.durable().boxed());
        for (wait, woken) in [(&mut visible, &reader), (&mut durable, &appender)] {
            let waker = Waker::from(Arc::clone(woken));
            assert!(wait.poll_unpin(&mut std::task::Context::from_waker(&waker)).is_pending());
        }
        let woken = || [&reader, &appender].map(|woken| woken.0.load(Ordering::Relaxed));
        completer.visible();
        assert_eq!(woken(), [true, false]);
        completer.done(Ok(()));
        assert_eq!(woken(), [true, true]);
    }

    #[test]
    fn those_who_wait_are_woken_in_the_order_in_which_they_began() {
        let (receipt, completer) = Receipt::pending();
        let mut waits: futures::stream::FuturesUnordered<_> =
            (0..20).map(|number| receipt.durable().map(move |_| number)).collect();
        use futures::StreamExt as _;
        assert!(waits.next().now_or_never().is_none());
        completer.done(Ok(()));
        let order: Vec<i32> = std::iter::from_fn(|| waits.next().now_or_never().flatten()).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(order == sorted || order.iter().rev().eq(&sorted), "{order:?}");
    }

    #[test]
    fn a_waiter_that_gives_up_leaves_no_waker_behind() {
        let (receipt, completer) = Receipt::pending();
        for _ in 0..100 {
            assert!(receipt.durable().now_or_never().is_none());
        }
        assert!(lock(&completer.state).waiters.is_empty());
    }

    #[test]
    fn a_store_that_vanishes_is_reported_as_closed() {
        let (receipt, completer) = Receipt::pending();
        drop(completer);
        assert!(matches!(receipt.settled(), Some(Err(StoreError::Closed))));
        assert!(matches!(receipt.durable().now_or_never(), Some(Err(StoreError::Closed))));
    }
}
