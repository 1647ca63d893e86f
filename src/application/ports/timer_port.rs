//! Time: the only clock of a node.
//!
//! Called by the driver once per turn, and by the append lane for stamps. A simulation puts its own in here.

use async_trait::async_trait;

use crate::domain::time::{Instant, WallTime};

/// The only source of time in the library.
///
/// # Contract
/// - `now` never goes back and keeps counting while the process sleeps, as far as the system tells.
/// - `wall` is whatever the device believes; it may jump.
/// - `sleep_until` returns at or after the deadline; at once if it has passed. Cancel-safe.
#[async_trait]
pub trait TimerPort: Send + Sync + 'static {
    /// The monotonic clock.
    fn now(&self) -> Instant;

    /// The wall clock.
    fn wall(&self) -> WallTime;

    /// Returns at or after `deadline`.
    async fn sleep_until(&self, deadline: Instant);
}
