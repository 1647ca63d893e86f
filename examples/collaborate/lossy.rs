//! A transport that loses frames: any `MessagePort` with a share of its frames dropped.
//!
//! Shows how little a decorator needs, and that the library copes: it promises nothing about single frames.
//! The loss is drawn from a seed, so two runs lose the same share, though not the same frames: which frame
//! comes when depends on the network.

use std::sync::{Mutex, PoisonError};

use anabranch::{LinkId, MessagePort, PeerAddr, PortError, PortEvent, PortProfile, Priority, SendError};
use async_trait::async_trait;
use bytes::Bytes;

use crate::rng::Rng;

/// `inner`, losing a share of what is sent through it.
pub(crate) struct LossyPort<P> {
    inner: P,
    share: f64,
    rng: Mutex<Rng>,
}

impl<P> LossyPort<P> {
    /// Loses `share` (0 to 1) of the frames, drawn from `rng`.
    pub(crate) fn new(inner: P, share: f64, rng: Rng) -> Self {
        Self { inner, share, rng: Mutex::new(rng) }
    }
}

#[async_trait]
impl<P: MessagePort> MessagePort for LossyPort<P> {
    /// Whatever the inner port promises, here frames get lost; so the library must be told to expect it.
    fn profile(&self) -> PortProfile {
        let mut profile = self.inner.profile();
        profile.reliable = false;
        profile
    }

    fn try_send(&self, to: LinkId, frame: Bytes, priority: Priority) -> Result<(), SendError> {
        if self.rng.lock().unwrap_or_else(PoisonError::into_inner).happens(self.share) {
            return Ok(());
        }
        self.inner.try_send(to, frame, priority)
    }

    async fn connect(&self, address: &PeerAddr) -> Result<LinkId, PortError> {
        self.inner.connect(address).await
    }

    async fn recv(&self) -> Result<PortEvent, PortError> {
        self.inner.recv().await
    }

    fn disconnect(&self, link: LinkId) {
        self.inner.disconnect(link);
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Counting(AtomicUsize);

    #[async_trait]
    impl MessagePort for Counting {
        fn profile(&self) -> PortProfile {
            PortProfile::unauthenticated(1200).reliable()
        }

        fn try_send(&self, _: LinkId, _: Bytes, _: Priority) -> Result<(), SendError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        async fn connect(&self, _: &PeerAddr) -> Result<LinkId, PortError> {
            Err(PortError::Closed)
        }

        async fn recv(&self) -> Result<PortEvent, PortError> {
            Err(PortError::Closed)
        }
    }

    #[test]
    fn a_fifth_of_the_frames_is_lost_and_the_port_no_longer_claims_to_be_reliable() {
        let port = LossyPort::new(Counting::default(), 0.2, Rng::new(5));
        for _ in 0..10_000 {
            port.try_send(LinkId(1), Bytes::from_static(b"frame"), Priority::Normal).unwrap();
        }
        let arrived = port.inner.0.load(Ordering::Relaxed);
        assert!((7_800..8_200).contains(&arrived), "{arrived}");
        assert!(!port.profile().reliable && port.profile().max_frame == 1200);
    }
}
