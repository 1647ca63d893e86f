//! A port around another that counts what is sent, and reads as slowly as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anabranch::{LinkId, MessagePort, PeerAddr, PortError, PortEvent, PortProfile, Priority, SendError};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

/// What a port was handed to send and was taken by it.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    bytes: AtomicU64,
    opening: AtomicU64,
}

/// First bytes of the frames that open a session (docs/protocol/session.md): initiate, answer, finish, greeting.
const OPENING: std::ops::RangeInclusive<u8> = 0x21..=0x24;
/// First byte of a finish, and its length but for the messages that ride in it, with the usual offer.
const FINISH: (u8, u64) = (0x23, 70);

impl Sent {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Of them, those that prove who is there.
    pub(crate) fn opening(&self) -> u64 {
        self.opening.load(Ordering::Relaxed)
    }

    fn add(&self, first: Option<u8>, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let opening = match first {
            Some(first) if first == FINISH.0 => bytes.min(FINISH.1),
            Some(first) if OPENING.contains(&first) => bytes,
            _ => 0,
        };
        self.opening.fetch_add(opening, Ordering::Relaxed);
    }
}

/// How fast frames are read from a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// As they come.
    AtOnce,
    /// So many bytes per second, after so many bytes that are read at once: the session has to come about.
    Slowly { after: u64, bytes_per_second: u64 },
    /// Not at all after so many bytes.
    Never { after: u64 },
}

/// The port.
pub(crate) struct Counted {
    inner: Arc<dyn MessagePort>,
    sent: Arc<Sent>,
    read: AtomicU64,
    reading: Reading,
    /// When the next frame may be read.
    next: Mutex<Option<Instant>>,
}

impl Counted {
    pub(crate) fn reading(inner: Arc<dyn MessagePort>, reading: Reading) -> Self {
        Self { inner, sent: Arc::default(), read: AtomicU64::new(0), reading, next: Mutex::default() }
    }

    /// What it sent so far, then and later.
    pub(crate) fn sent(&self) -> Arc<Sent> {
        Arc::clone(&self.sent)
    }
}

#[async_trait]
impl MessagePort for Counted {
    fn profile(&self) -> PortProfile {
        self.inner.profile()
    }

    fn try_send(&self, to: LinkId, frame: Bytes, priority: Priority) -> Result<(), SendError> {
        let (first, bytes) = (frame.first().copied(), frame.len() as u64);
        self.inner.try_send(to, frame, priority)?;
        self.sent.add(first, bytes);
        Ok(())
    }

    async fn connect(&self, address: &PeerAddr) -> Result<LinkId, PortError> {
        self.inner.connect(address).await
    }

    #[expect(clippy::disallowed_methods, reason = "a rude peer is rude in real time")]
    async fn recv(&self) -> Result<PortEvent, PortError> {
        let due = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.reading, due) {
            (Reading::Never { .. }, Some(_)) => std::future::pending().await,
            (_, Some(due)) => tokio::time::sleep_until(due).await,
            (_, None) => {}
        }
        let event = self.inner.recv().await?;
        if let PortEvent::Frame { frame, .. } = &event {
            let bytes = frame.len() as u64;
            let read = self.read.fetch_add(bytes, Ordering::Relaxed) + bytes;
            let pause = match self.reading {
                Reading::Slowly { after, bytes_per_second } if read > after => {
                    Some(bytes as f64 / bytes_per_second as f64)
                }
                Reading::Never { after } if read > after => Some(0.0),
                _ => None,
            };
            *self.next.lock().unwrap_or_else(PoisonError::into_inner) =
                pause.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
        }
        Ok(event)
    }

    fn disconnect(&self, link: LinkId) {
        self.inner.disconnect(link);
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
