//! A circuit breaker around `connect`, per address.
//!
//! The state machine is [`Circuit`]: pure, time comes in. After Nygard, "Release It!" (2007): closed, open after several failures
//! in a row, half-open when one attempt is let through.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anabranch::{Instant, LinkId, MessagePort, PeerAddr, PortError, TimerPort};
use async_trait::async_trait;

use crate::layer::Layer;

/// Addresses with failures that are remembered; of more, the one that failed longest ago is forgotten.
const MAX_ADDRESSES: usize = 1024;

/// When it opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Break {
    failures: u32,
    open_for: Duration,
}

impl Default for Break {
    /// Opens after 5 failures in a row, for 30 s (guess: longer than a roaming device is away from its network).
    fn default() -> Self {
        Self { failures: 5, open_for: Duration::from_secs(30) }
    }
}

impl Break {
    /// Failures in a row after which it opens, at least one.
    #[must_use]
    pub fn after(self, failures: u32) -> Self {
        Self { failures: failures.max(1), ..self }
    }

    /// How long it stays open before one attempt is let through.
    #[must_use]
    pub fn open_for(self, time: Duration) -> Self {
        Self { open_for: time, ..self }
    }
}

/// What the breaker does with the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakerState {
    /// Lets it pass.
    Closed,
    /// Refuses it.
    Open,
    /// One is let through to try, or is under way; others are refused.
    HalfOpen,
}

/// The circuit of one address that failed lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Circuit {
    failures: u32,
    failed: Instant,
    /// Open until then, and half-open after it.
    open_until: Option<Instant>,
    /// An attempt is under way while half-open.
    trying: bool,
}

impl Circuit {
    fn state(&self, now: Instant) -> BreakerState {
        match self.open_until {
            None => BreakerState::Closed,
            Some(until) if now < until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// Whether an attempt may begin.
    fn admits(&mut self, now: Instant) -> bool {
        match self.state(now) {
            BreakerState::Closed => true,
            BreakerState::Open => false,
            BreakerState::HalfOpen => !std::mem::replace(&mut self.trying, true),
        }
    }

    /// An attempt failed, perhaps the one that was let through to try; whether the circuit opened with that.
    fn failed(&mut self, how: &Break, now: Instant, tried: bool) -> bool {
        (self.failures, self.failed) = (self.failures.saturating_add(1), now);
        // The attempt that was let through failed; late failures of others that began before it opened open nothing.
        let opens = match self.open_until {
            None => self.failures >= how.failures,
            Some(_) => tried && std::mem::take(&mut self.trying),
        };
        if opens {
            self.open_until = Some(now + how.open_for);
        }
        opens
    }
}

/// Refuses to `connect` to addresses that keep failing. See [`PortExt::breaking`](crate::PortExt::breaking).
///
/// A failure is [`PortError::Unreachable`]; an attempt that was dropped says nothing. An open breaker answers
/// [`PortError::Unreachable`] itself.
pub struct Breaker {
    timer: Arc<dyn TimerPort>,
    how: Break,
    circuits: Mutex<BTreeMap<PeerAddr, Circuit>>,
    opened: AtomicU64,
    refused: AtomicU64,
}

impl Breaker {
    /// A breaker as `how` says, closed for every address.
    pub fn new(timer: &Arc<dyn TimerPort>, how: Break) -> Self {
        let (circuits, opened, refused) = (Mutex::default(), AtomicU64::new(0), AtomicU64::new(0));
        Self { timer: Arc::clone(timer), how, circuits, opened, refused }
    }

    /// What it does with the next attempt at an address.
    pub fn state(&self, address: &PeerAddr) -> BreakerState {
        let now = self.timer.now();
        self.circuits().get(address).map_or(BreakerState::Closed, |circuit| circuit.state(now))
    }

    fn circuits(&self) -> MutexGuard<'_, BTreeMap<PeerAddr, Circuit>> {
        self.circuits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, address: &PeerAddr, tried: bool) {
        let now = self.timer.now();
        let mut circuits = self.circuits();
        if !circuits.contains_key(address) && circuits.len() >= MAX_ADDRESSES {
            let oldest = circuits.iter().min_by_key(|(_, circuit)| circuit.failed);
            if let Some(oldest) = oldest.map(|(address, _)| address.clone()) {
                circuits.remove(&oldest);
            }
        }
        if circuits.entry(address.clone()).or_default().failed(&self.how, now, tried) {
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An attempt under way: if it is dropped, the next one may try.
struct Attempt<'a>(&'a Breaker, &'a PeerAddr);

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(circuit) = self.0.circuits().get_mut(self.1) {
            circuit.trying = false;
        }
    }
}

#[async_trait]
impl Layer for Breaker {
    async fn connect(&self, port: &dyn MessagePort, address: &PeerAddr) -> Result<LinkId, PortError> {
        let now = self.timer.now();
        let (admitted, tries) = match self.circuits().get_mut(address) {
            Some(circuit) => (circuit.admits(now), circuit.trying),
            None => (true, false),
        };
        if !admitted {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let reason = "it failed too often lately; not tried".into();
            return Err(PortError::Unreachable { address: address.clone(), reason });
        }
        let attempt = tries.then(|| Attempt(self, address));
        let outcome = port.connect(address).await;
        match &outcome {
            Ok(_) => drop(self.circuits().remove(address)),
            Err(PortError::Unreachable { .. }) => self.failed(address, tries),
            Err(_) => {}
        }
        drop(attempt);
        outcome
    }

    fn figures(&self) -> BTreeMap<&'static str, u64> {
        let open = self.circuits().values().filter(|circuit| circuit.open_until.is_some()).count();
        BTreeMap::from([
            ("breaker.open", open as u64),
            ("breaker.opened", self.opened.load(Ordering::Relaxed)),
            ("breaker.refused", self.refused.load(Ordering::Relaxed)),
        ])
    }
}

impl std::fmt::Debug for Breaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Breaker").field("how", &self.how).finish_non_exhaustive()
    }
}
