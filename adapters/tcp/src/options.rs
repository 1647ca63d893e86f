//! What can be set about a [`TcpPort`](crate::TcpPort).

use std::time::Duration;

use anabranch::application::ports::MIN_FRAME_BYTES;

use crate::port::{TcpError, TcpPort};

/// Settings of a [`TcpPort`]. Start with [`TcpPort::options`]:
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let port = anabranch_tcp::TcpPort::options().max_inbound(32).bind("127.0.0.1:0").await?;
/// # Ok::<_, anabranch_tcp::TcpError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct TcpOptions {
    pub(crate) max_frame: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) max_inbound: usize,
    pub(crate) dead_after: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) frame_timeout: Duration,
    pub(crate) redial: Option<(Duration, Duration)>,
    pub(crate) seed: Option<u64>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            // A few packets of sealed entries; larger frames save nothing measurable.
            max_frame: 64 << 10,
            // A window of sixteen full frames, more than the library keeps in flight.
            queue_bytes: 1 << 20,
            // Times two queues of 1 MiB: what strangers can make this port hold (guess).
            max_inbound: 256,
            // Shorter than a person waits, longer than a Wi-Fi roams (guess).
            dead_after: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            // A full frame at little more than 1 KB/s.
            frame_timeout: Duration::from_secs(60),
            redial: Some((Duration::from_millis(100), Duration::from_secs(30))),
            seed: None,
        }
    }
}

impl TcpOptions {
    /// Largest frame in bytes, 64 KiB by default; at least [`MIN_FRAME_BYTES`], at most 2^31. Both sides must agree:
    /// a larger frame ends the connection.
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.max_frame = bytes.clamp(MIN_FRAME_BYTES, 1 << 31);
        self
    }

    /// Bytes queued to send per link, and likewise bytes received and not yet read, 1 MiB by default. One frame is
    /// always taken, and urgent ones may exceed it by an eighth.
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// Links that others may have open to this port at once, 256 by default; further ones are closed at once and
    /// counted. A link counts until its `Down` was received here.
    pub fn max_inbound(mut self, links: usize) -> Self {
        self.max_inbound = links.min(tokio::sync::Semaphore::MAX_PERMITS);
        self
    }

    /// When a silent peer counts as gone, 30 s by default, at least 4 s. See the crate's page for what it can see.
    pub fn dead_after(mut self, time: Duration) -> Self {
        self.dead_after = time.max(Duration::from_secs(4));
        self
    }

    /// How long connecting may take, 10 s by default.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect_timeout = time;
        self
    }

    /// How long one frame may take to arrive once it began, 60 s by default: what a peer that drips bytes can
    /// occupy a link for.
    pub fn frame_timeout(mut self, time: Duration) -> Self {
        self.frame_timeout = time;
        self
    }

    /// Pause before dialling a lost link again: the first one, and what it doubles up to; 100 ms and 30 s by
    /// default. Each pause is shortened by up to half at random, so that many do not dial in step.
    pub fn redial(mut self, first: Duration, longest: Duration) -> Self {
        self.redial = Some((first.max(Duration::from_millis(1)), longest.max(first)));
        self
    }

    /// Lost links stay lost, until somebody connects again.
    pub fn no_redial(mut self) -> Self {
        self.redial = None;
        self
    }

    /// Seed of the random part of pauses. Without one it differs from run to run.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Opens a port that listens at `address`, e.g. `0.0.0.0:7700`; port 0 lets the system choose.
    ///
    /// # Errors
    /// [`TcpError::Listen`] if the address is taken or not of this machine; [`TcpError::NoRuntime`].
    pub async fn bind(self, address: &str) -> Result<TcpPort, TcpError> {
        TcpPort::listen(self, address).await
    }

    /// Opens a port that only connects to others. It works on the tokio runtime in which it is made, or else in
    /// which it first connects.
    pub fn dial_only(self) -> TcpPort {
        TcpPort::without_listener(self)
    }
}
