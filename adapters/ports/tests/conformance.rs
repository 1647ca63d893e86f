//! Each decorator, and all of them together, keeps the contract of the port within.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anabranch::testing::ManualTimer;
use anabranch::testing::message_port::{self, Fixture};
use anabranch::{MemoryNetwork, MemoryPort, MessagePort, PeerAddr, TimerPort};
use anabranch_ports::{Break, PortExt as _, RateLimit, Retry};
use async_trait::async_trait;

const LIMIT: RateLimit = RateLimit::bytes_per_second(20_000_000);

struct Decorated<F> {
    network: MemoryNetwork,
    timer: ManualTimer,
    opened: AtomicU32,
    decorate: F,
}

#[async_trait]
impl<F> Fixture for Decorated<F>
where
    F: Fn(MemoryPort, Arc<dyn TimerPort>) -> Arc<dyn MessagePort> + Send + Sync,
{
    async fn open(&self) -> (Arc<dyn MessagePort>, PeerAddr) {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let port = self.network.port(&format!("port {number}"));
        let address = port.address();
        ((self.decorate)(port, self.timer()), address)
    }

    fn bad_address(&self) -> Option<PeerAddr> {
        Some("".into())
    }

    fn unreachable_address(&self) -> Option<PeerAddr> {
        Some("nobody".into())
    }

    fn timer(&self) -> Arc<dyn TimerPort> {
        Arc::new(self.timer.clone())
    }
}

fn conforms<P: MessagePort>(decorate: impl Fn(MemoryPort, &Arc<dyn TimerPort>) -> P + Send + Sync + 'static) {
    let timer = ManualTimer::new();
    let decorate = move |port, timer| -> Arc<dyn MessagePort> { Arc::new(decorate(port, &timer)) };
    let network = MemoryNetwork::new();
    let fixture = Decorated { network, timer: timer.clone(), opened: AtomicU32::new(0), decorate };
    timer.run(message_port::conformance(&fixture));
}

#[test]
fn a_port_with_a_connect_timeout_conforms() {
    conforms(|port, timer| port.with_connect_timeout(timer, Duration::from_secs(1)));
}

#[test]
fn a_retrying_port_conforms() {
    conforms(|port, timer| port.retrying(timer, Retry::default()));
}

#[test]
fn a_port_with_a_breaker_conforms() {
    conforms(|port, timer| port.breaking(timer, Break::default().after(1)));
}

#[test]
fn a_rate_limited_port_conforms() {
    conforms(|port, timer| port.rate_limited(timer, LIMIT));
    conforms(|port, timer| port.rate_limited(timer, RateLimit::frames_per_second(200)));
}

#[test]
fn a_measured_port_conforms() {
    conforms(|port, timer| port.measured(timer));
}

#[test]
fn all_decorators_together_conform() {
    conforms(|port, timer| {
        port.with_connect_timeout(timer, Duration::from_secs(1))
            .retrying(timer, Retry::default().times(2))
            .breaking(timer, Break::default())
            .rate_limited(timer, LIMIT)
            .measured(timer)
    });
}
