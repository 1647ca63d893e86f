//! A port in a layer: what all decorators share.
//!
//! [`Layered`] keeps the parts of the contract that a layer could break by accident: nothing is sent or dialled once the port is
//! closed, and the profile is that of the port within.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch::{LinkId, MessagePort, PeerAddr, PortError, PortEvent, PortProfile, Priority, SendError};
use async_trait::async_trait;
use bytes::Bytes;

/// What surrounds a port. Each method is given the port within and by default passes the call on; whoever overrides one keeps
/// the contract of [`MessagePort`], cancel safety included.
#[async_trait]
pub trait Layer: Send + Sync + 'static {
    /// Instead of [`MessagePort::try_send`].
    ///
    /// # Errors
    /// As there.
    fn try_send(
        &self,
        port: &dyn MessagePort,
        to: LinkId,
        frame: Bytes,
        priority: Priority,
    ) -> Result<(), SendError> {
        port.try_send(to, frame, priority)
    }

    /// Instead of [`MessagePort::connect`].
    ///
    /// # Errors
    /// As there.
    async fn connect(&self, port: &dyn MessagePort, address: &PeerAddr) -> Result<LinkId, PortError> {
        port.connect(address).await
    }

    /// Instead of [`MessagePort::recv`].
    ///
    /// # Errors
    /// As there.
    async fn recv(&self, port: &dyn MessagePort) -> Result<PortEvent, PortError> {
        port.recv().await
    }

    /// Its own figures, by names that begin with the layer's.
    fn figures(&self) -> BTreeMap<&'static str, u64>;
}

/// A port within a layer, itself a port. Made by [`PortExt`](crate::PortExt).
#[derive(Debug)]
pub struct Layered<P, L> {
    port: P,
    layer: L,
    closed: AtomicBool,
}

impl<P: MessagePort, L: Layer> Layered<P, L> {
    /// The port within the layer.
    pub fn new(port: P, layer: L) -> Self {
        Self { port, layer, closed: AtomicBool::new(false) }
    }

    /// The layer, to look at it.
    pub fn layer(&self) -> &L {
        &self.layer
    }

    /// The port within.
    pub fn inner(&self) -> &P {
        &self.port
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

#[async_trait]
impl<P: MessagePort, L: Layer> MessagePort for Layered<P, L> {
    fn profile(&self) -> PortProfile {
        self.port.profile()
    }

    fn try_send(&self, to: LinkId, frame: Bytes, priority: Priority) -> Result<(), SendError> {
        if self.is_closed() {
            return Err(SendError::Closed);
        }
        self.layer.try_send(&self.port, to, frame, priority)
    }

    async fn connect(&self, address: &PeerAddr) -> Result<LinkId, PortError> {
        if self.is_closed() {
            return Err(PortError::Closed);
        }
        self.layer.connect(&self.port, address).await
    }

    async fn recv(&self) -> Result<PortEvent, PortError> {
        self.layer.recv(&self.port).await
    }

    fn disconnect(&self, link: LinkId) {
        self.port.disconnect(link);
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.port.close().await;
    }

    fn figures(&self) -> BTreeMap<&'static str, u64> {
        let mut figures = self.port.figures();
        for (name, value) in self.layer.figures() {
            // The same layer twice counts together.
            *figures.entry(name).or_default() += value;
        }
        figures
    }
}
