//! The network and the clock as a simulated node sees them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anabranch::infrastructure::link_model::{LinkEnd, SendOutcome};
use anabranch::{
    Instant, LinkId, MessagePort, PeerAddr, PortError, PortEvent, PortProfile, Priority, SendError,
    TimerPort, WallTime,
};
use async_trait::async_trait;
use bytes::Bytes;

use crate::core::{Due, DueKey, Inbox, Kind, Shared, endpoint, wake};

/// How long a connection takes that succeeds.
const CONNECT: Duration = Duration::from_millis(10);
/// How long one takes to fail.
const UNREACHABLE: Duration = Duration::from_secs(3);

/// A [`MessagePort`] on the world's network. Addresses are the names of nodes. Clones are the same port.
#[derive(Clone)]
pub struct SimPort {
    pub(crate) shared: Shared,
    pub(crate) node: usize,
    pub(crate) incarnation: u32,
    pub(crate) profile: PortProfile,
}

impl SimPort {
    fn end(link: LinkId) -> LinkEnd {
        LinkEnd::from_number(link.0)
    }

    pub(crate) fn poll_event(&self, cx: &mut Context<'_>) -> Poll<Result<PortEvent, PortError>> {
        let mut core = self.shared.lock();
        let now = core.time();
        let device = &mut core.devices[self.node];
        if device.incarnation != self.incarnation {
            return Poll::Ready(Err(PortError::Closed));
        }
        match device.port.inbox.pop_front() {
            Some(Inbox::Event(event)) => Poll::Ready(Ok(event)),
            Some(Inbox::Frame { end, frame, cost }) => {
                core.model.release(now, end, cost);
                core.facts.nodes[self.node].frames_taken += 1;
                Poll::Ready(Ok(PortEvent::Frame { link: LinkId(end.number()), frame }))
            }
            None if !device.port.open => Poll::Ready(Err(PortError::Closed)),
            None => {
                device.port.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn unreachable(address: &PeerAddr, reason: &str) -> PortError {
        PortError::Unreachable { address: address.clone(), reason: reason.into() }
    }
}

#[async_trait]
impl MessagePort for SimPort {
    fn profile(&self) -> PortProfile {
        self.profile
    }

    fn try_send(&self, to: LinkId, frame: Bytes, priority: Priority) -> Result<(), SendError> {
        let end = Self::end(to);
        let mut core = self.shared.lock();
        let device = &core.devices[self.node];
        if device.incarnation != self.incarnation || !device.port.open {
            return Err(SendError::Closed);
        }
        let Some(other) = device.port.links.get(&end).copied() else { return Err(SendError::LinkDown) };
        if frame.len() > self.profile.max_frame {
            return Err(SendError::TooLarge);
        }
        let (at, now) = (core.now, core.time());
        let outcome = core.model.send(now, end, frame.clone(), priority);
        core.trace.add(at, Some(self.node), Kind::Sent, Some(other), &frame, || match outcome {
            SendOutcome::Queued => String::new(),
            refused => format!("refused: {refused:?}"),
        });
        match outcome {
            SendOutcome::Queued => Ok(()),
            SendOutcome::Full => Err(SendError::Full),
            SendOutcome::TooLarge => Err(SendError::TooLarge),
            SendOutcome::NoLink => Err(SendError::LinkDown),
        }
    }

    async fn connect(&self, address: &PeerAddr) -> Result<LinkId, PortError> {
        let target = {
            let core = self.shared.lock();
            let found = core.devices.iter().position(|device| *device.name == *address.as_str());
            found.ok_or_else(|| PortError::BadAddress(address.clone()))?
        };
        Sleep::true_time(&self.shared, self.node, CONNECT).await;
        {
            let mut core = self.shared.lock();
            if core.devices[self.node].incarnation != self.incarnation || !core.devices[self.node].port.open {
                return Err(PortError::Closed);
            }
            let (now, from, to) = (core.time(), endpoint(self.node), endpoint(target));
            let passes = core.model.passes(now, from, to) && core.model.passes(now, to, from);
            if passes && core.devices[target].port.open && target != self.node {
                return Ok(core.open_link(self.node, target));
            }
        }
        Sleep::true_time(&self.shared, self.node, UNREACHABLE).await;
        Err(Self::unreachable(address, "nobody answers"))
    }

    async fn recv(&self) -> Result<PortEvent, PortError> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    fn disconnect(&self, link: LinkId) {
        let end = Self::end(link);
        let mut core = self.shared.lock();
        let now = core.time();
        if core.devices[self.node].incarnation != self.incarnation {
            return;
        }
        if let Some(other) = core.devices[self.node].port.links.remove(&end) {
            core.event(Some(self.node), Kind::Down, &[1], || format!("hung up on node {other}"));
            core.model.close(now, end);
            let port = &mut core.devices[self.node].port;
            let reason = Arc::from("disconnected here");
            port.inbox.push_back(Inbox::Event(PortEvent::Down { link, reason }));
            wake(port);
        }
    }

    async fn close(&self) {
        let mut core = self.shared.lock();
        if core.devices[self.node].incarnation == self.incarnation {
            let waker = core.devices[self.node].port.waker.take();
            core.unplug(self.node, false);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// The clocks of one simulated device. Clones are the same clocks.
#[derive(Clone)]
pub struct SimTimer {
    pub(crate) shared: Shared,
    pub(crate) node: usize,
}

impl SimTimer {
    /// Returns once `time` has passed on the device's monotonic clock. For code of an application.
    pub async fn sleep(&self, time: Duration) {
        self.sleep_until(self.now() + time).await;
    }
}

#[async_trait]
impl TimerPort for SimTimer {
    fn now(&self) -> Instant {
        let core = self.shared.lock();
        core.devices[self.node].clock.monotonic(core.now)
    }

    fn wall(&self) -> WallTime {
        let core = self.shared.lock();
        core.devices[self.node].clock.wall(core.now)
    }

    async fn sleep_until(&self, deadline: Instant) {
        Sleep {
            shared: &self.shared,
            node: Some(self.node),
            until: Until::Local(deadline),
            key: None,
            waited: false,
        }
        .await;
    }
}

enum Until {
    /// On the device's monotonic clock.
    Local(Instant),
    /// True time.
    True(u64),
}

/// Sleeps of no time that may end at one moment before they take turns with other tasks, which shows who does nothing else.
const MAX_EMPTY_SLEEPS: u32 = 10_000;

/// Waits; takes what it scheduled back when it is dropped.
pub(crate) struct Sleep<'a> {
    shared: &'a Shared,
    node: Option<usize>,
    until: Until,
    key: Option<DueKey>,
    /// It was asked before.
    waited: bool,
}

impl<'a> Sleep<'a> {
    pub(crate) fn true_time(shared: &'a Shared, node: usize, time: Duration) -> Self {
        let at = shared.lock().now.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        Self { shared, node: Some(node), until: Until::True(at), key: None, waited: false }
    }
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut core = self.shared.lock();
        let at = match (&self.until, self.node) {
            (Until::True(at), _) => *at,
            (Until::Local(deadline), Some(node)) => {
                let clock = &core.devices[node].clock;
                let over = clock.monotonic(core.now) >= *deadline;
                if over { core.now } else { clock.true_time(*deadline) }
            }
            (Until::Local(deadline), None) => deadline.as_nanos(),
        };
        if let Some(key) = self.key {
            if let Some(Due::Wake(_, waker)) = core.due.get(&key)
                && key.0 == at
                && waker.will_wake(cx.waker())
            {
                // Asked again before it is time.
                return Poll::Pending;
            }
            core.due.remove(&key);
        }
        let due = at <= core.now;
        if due
            && !std::mem::replace(&mut self.waited, true)
            && core.is_one_of_many_empty_sleeps(MAX_EMPTY_SLEEPS)
        {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waited = true;
        let key = (!due).then(|| core.schedule(at, Due::Wake(self.node, cx.waker().clone())));
        drop(core);
        self.key = key;
        if due { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.shared.lock().due.remove(&key);
        }
    }
}

impl std::fmt::Debug for SimPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimPort").field("node", &self.node).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SimTimer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimTimer").field("node", &self.node).finish_non_exhaustive()
    }
}
