//! The clocks of the machine, with tokio's timer wheel to wait on.
//!
//! The builder takes it when the application chose no timer. It needs a tokio runtime with time enabled only
//! while it waits; reading the clocks needs none.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::application::ports::TimerPort;
use crate::domain::time::{Instant, WallTime};

/// Longest single wait, so that a deadline of "never" stays within what the runtime's timer can represent.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// [`TimerPort`] over the system's clocks and tokio's timer.
///
/// `now` counts from the creation of the timer. Whether it goes on while the machine is suspended is up to the
/// system: on Linux and macOS the standard library's clock stands still meanwhile, on Windows it goes on. Waits
/// end late, never early. Under a paused tokio clock (`tokio::time::pause`) it follows that clock.
///
/// ```
/// # tokio_test_block_on(async {
/// use std::time::Duration;
/// use anabranch::{application::ports::TimerPort, infrastructure::system_timer::SystemTimer};
/// let timer = SystemTimer::new();
/// let start = timer.now();
/// timer.sleep_until(start + Duration::from_millis(2)).await;
/// assert!(timer.now().since(start) >= Duration::from_millis(2));
/// # });
/// # fn tokio_test_block_on(f: impl Future<Output = ()>) {
/// #     tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(f)
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct SystemTimer {
    start: tokio::time::Instant,
}

#[allow(clippy::disallowed_methods, reason = "this is where TimerPort reads the system's clocks")]
impl SystemTimer {
    /// A timer whose clock starts now. Clones share the clock.
    pub fn new() -> Self {
        Self { start: tokio::time::Instant::now() }
    }

    fn elapsed(&self) -> Duration {
        tokio::time::Instant::now().saturating_duration_since(self.start)
    }
}

impl Default for SystemTimer {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
#[allow(clippy::disallowed_methods, reason = "this is where TimerPort reads the system's clocks")]
impl TimerPort for SystemTimer {
    fn now(&self) -> Instant {
        Instant::ZERO + self.elapsed()
    }

    fn wall(&self) -> WallTime {
        // A clock before 1970 is broken in a way that only the epoch can stand for.
        WallTime::from_unix(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }

    async fn sleep_until(&self, deadline: Instant) {
        loop {
            let left = deadline.since(self.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LONGEST_WAIT)).await;
        }
    }
}
