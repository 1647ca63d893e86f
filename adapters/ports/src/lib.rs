//! Decorators for transports of anabranch: whatever [`MessagePort`] you have gets retries, a circuit breaker, a timeout, a
//! rate limit, or a measurement of latency, in a line each.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use anabranch::{MemoryNetwork, MessagePort, SystemTimer, TimerPort};
//! use anabranch_ports::{Break, PortExt as _, RateLimit, Retry};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let network = MemoryNetwork::new();
//! let timer: Arc<dyn TimerPort> = Arc::new(SystemTimer::new());
//! let port = network.port("ana") // or a TCP port, or your own
//!     .with_connect_timeout(&timer, Duration::from_secs(5))
//!     .retrying(&timer, Retry::default().times(2).first(Duration::from_millis(20)))
//!     .breaking(&timer, Break::default())
//!     .rate_limited(&timer, RateLimit::bytes_per_second(1_000_000))
//!     .measured(&timer);
//! let _nobody = port.connect(&"nobody".into()).await;
//! assert_eq!(port.figures()["retry.attempts_again"], 2);
//! # });
//! ```
//!
//! The order is yours: what is applied last is outermost. Above, each single attempt may take five seconds, the breaker sees a
//! series of attempts as one, and the latency measured includes the limit's refusals.
//!
//! # What is visible
//! [`MessagePort::figures`] of a decorated port has the figures of all layers and of the port itself, by name. A node that
//! uses the port shows them: [`Coordinator::port_figures`](anabranch::Coordinator::port_figures),
//! [`LivenessHandle::port_figures`](anabranch::LivenessHandle::port_figures).
//!
//! # Time
//! All of it comes through the [`TimerPort`] that each decorator is handed, so a decorated port in a simulation is as
//! deterministic as a bare one. That decided what is taken from elsewhere: `governor` (GCRA) and `backon` (delays, seeded
//! jitter) take time from outside, `hdrhistogram` needs none. The circuit breaker and the timeout are a few lines of our own: the
//! known breaker, `failsafe`, reads the system's clock, and timeouts of runtimes know only theirs.
//!
//! A layer of your own is a [`Layer`]: the methods that it does not override pass through.

mod breaker;
mod latency;
mod layer;
mod rate_limit;
mod retry;
mod timeout;

use std::sync::Arc;
use std::time::Duration;

use anabranch::{MessagePort, TimerPort};

pub use breaker::{Break, Breaker, BreakerState};
pub use latency::{Latency, LatencySnapshot};
pub use layer::{Layer, Layered};
pub use rate_limit::{RateLimit, RateLimited};
pub use retry::{Retry, Retrying};
pub use timeout::ConnectTimeout;

/// The decorators, as methods of every port.
pub trait PortExt: MessagePort + Sized {
    /// Wraps the port in any layer.
    fn layered<L: Layer>(self, layer: L) -> Layered<Self, L> {
        Layered::new(self, layer)
    }

    /// Gives `connect` at most `time`, then cancels it.
    fn with_connect_timeout(
        self,
        timer: &Arc<dyn TimerPort>,
        time: Duration,
    ) -> Layered<Self, ConnectTimeout> {
        self.layered(ConnectTimeout::new(timer, time))
    }

    /// Repeats a `connect` that found nobody, with growing pauses.
    fn retrying(self, timer: &Arc<dyn TimerPort>, how: Retry) -> Layered<Self, Retrying> {
        self.layered(Retrying::new(timer, how))
    }

    /// Refuses to `connect` to an address that failed several times in a row, until it is given another chance.
    fn breaking(self, timer: &Arc<dyn TimerPort>, how: Break) -> Layered<Self, Breaker> {
        self.layered(Breaker::new(timer, how))
    }

    /// Sends no faster than `limit` on each link: beyond it `try_send` answers `Full`, and `Writable` follows.
    fn rate_limited(self, timer: &Arc<dyn TimerPort>, limit: RateLimit) -> Layered<Self, RateLimited> {
        let max_frame = self.profile().max_frame;
        self.layered(RateLimited::new(timer, limit, max_frame))
    }

    /// Measures how long `try_send` takes, and how long a link that answered `Full` stays full.
    fn measured(self, timer: &Arc<dyn TimerPort>) -> Layered<Self, Latency> {
        self.layered(Latency::new(timer))
    }
}

impl<P: MessagePort> PortExt for P {}
