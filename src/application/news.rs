//! What the driver is told by handles, in the order in which it came about.
//!
//! Put down under the lock of what changed, which keeps the order. The driver is woken when that lock is given back: it may
//! run where it is woken, and looks under the same locks. Written by the replica, read by the driver.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

use super::log_cell::LogCell;
use crate::domain::id::ChannelId;

/// What the driver is told by handles.
#[derive(Debug)]
pub(crate) enum News {
    /// A log has fresh entries or a new pending receipt.
    Log(Arc<LogCell>),
    /// A log was opened; it is empty so far.
    Opened(Arc<LogCell>),
    /// A channel was created.
    ChannelCreated(ChannelId),
    /// The admission of a channel changed.
    ChannelChanged(ChannelId),
    /// A channel was removed.
    ChannelRemoved(ChannelId),
}

/// Where news are put down.
#[derive(Debug)]
pub(crate) struct NewsBoard {
    /// `None` once nobody reads them any more.
    waiting: Mutex<Option<VecDeque<News>>>,
    driver: AtomicWaker,
}

/// Where the driver finds them.
#[derive(Debug)]
pub(crate) struct NewsReader(Arc<NewsBoard>);

impl NewsBoard {
    pub(crate) fn new() -> (Arc<Self>, NewsReader) {
        let waiting = Mutex::new(Some(VecDeque::new()));
        let board = Arc::new(Self { waiting, driver: AtomicWaker::new() });
        (Arc::clone(&board), NewsReader(board))
    }

    /// Puts something down; whoever does [wakes](Self::wake) the driver once it holds no lock.
    pub(crate) fn put(&self, news: News) {
        if let Some(waiting) = &mut *self.lock() {
            waiting.push_back(news);
        }
    }

    pub(crate) fn wake(&self) {
        self.driver.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Option<VecDeque<News>>> {
        self.waiting.lock().expect("no code that can panic runs under this lock")
    }

    fn next(&self) -> Option<News> {
        self.lock().as_mut()?.pop_front()
    }
}

impl NewsReader {
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<News> {
        let Self(board) = self;
        if let Some(news) = board.next() {
            return Poll::Ready(news);
        }
        board.driver.register(cx.waker());
        // What was put down before the waker was there woke nobody.
        board.next().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for NewsReader {
    fn drop(&mut self) {
        let unread = self.0.lock().take();
        drop(unread);
    }
}
