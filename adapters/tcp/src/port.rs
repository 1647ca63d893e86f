//! The port: listening, dialling, and the table of links. Each link runs in a task of its own.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use anabranch::application::ports::{
    LinkId, MessagePort, PeerAddr, PortError, PortEvent, PortProfile, Priority, SendError,
};
use anabranch::infrastructure::entropy::system_seed;
use anabranch::infrastructure::prng::Prng;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{Either, select};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::Instant;

use crate::link::{Inbox, Link};
use crate::options::TcpOptions;
use crate::redial::Backoff;
use crate::tasks::Tasks;

/// Pause after a failed accept: the process is out of file descriptors, and asking again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Probes that must stay unanswered before keepalive gives a peer up.
const KEEPALIVE_PROBES: u32 = 3;
/// Unsent bytes that the system may hold per connection: what an urgent frame may have to wait behind, besides
/// one batch. Measured on loopback: no slower than the system's default.
#[cfg(any(target_os = "android", target_os = "linux"))]
const UNSENT_BYTES: u32 = 256 << 10;

/// A [`TcpPort`] could not be opened. Nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TcpError {
    /// The system refused to listen there.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// The address asked for.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Called outside of a tokio runtime: a fault of the caller.
    #[error("a TCP port needs a tokio runtime")]
    NoRuntime,
}

/// What a port has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TcpStats {
    /// Inbound connections taken.
    pub accepted: u64,
    /// Inbound connections closed at once because [`TcpOptions::max_inbound`] was reached.
    pub refused: u64,
    /// Failed attempts to accept: the process or system is out of descriptors.
    pub accept_errors: u64,
    /// Links dialled again after a loss.
    pub redialled: u64,
    /// Attempts to dial again that failed.
    pub redial_failures: u64,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    refused: AtomicU64,
    accept_errors: AtomicU64,
    redialled: AtomicU64,
    redial_failures: AtomicU64,
}

/// A [`MessagePort`] over TCP. See the [crate](crate). Dropping it closes it.
#[derive(Debug)]
pub struct TcpPort {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: TcpOptions,
    local_addr: Option<SocketAddr>,
    runtime: OnceLock<Handle>,
    links: RwLock<Links>,
    inbox: Arc<Inbox>,
    tasks: Arc<Tasks>,
    closing: watch::Sender<bool>,
    next_link: AtomicU64,
    slots: Arc<Semaphore>,
    /// By the lost link.
    redials: Mutex<BTreeMap<LinkId, Redial>>,
    seed: u64,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Links {
    closed: bool,
    up: BTreeMap<LinkId, Arc<Link>>,
}

/// A lost link that is being dialled again.
#[derive(Debug)]
struct Redial {
    address: PeerAddr,
    cancel: Arc<Notify>,
}

impl TcpPort {
    /// The settings, to change them before opening a port.
    pub fn options() -> TcpOptions {
        TcpOptions::default()
    }

    /// A port that listens at `address`, e.g. `0.0.0.0:7700`; port 0 lets the system choose.
    ///
    /// # Errors
    /// [`TcpError::Listen`] if the address is taken or not of this machine; [`TcpError::NoRuntime`].
    pub async fn bind(address: &str) -> Result<Self, TcpError> {
        Self::options().bind(address).await
    }

    /// A port that only connects to others.
    pub fn dial_only() -> Self {
        Self::options().dial_only()
    }

    /// Where it listens, if it does.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shared.local_addr
    }

    /// What it has seen so far.
    pub fn stats(&self) -> TcpStats {
        let Counters { accepted, refused, accept_errors, redialled, redial_failures } = &self.shared.counters;
        let [accepted, refused, accept_errors, redialled, redial_failures] =
            [accepted, refused, accept_errors, redialled, redial_failures]
                .map(|count| count.load(Ordering::Relaxed));
        TcpStats { accepted, refused, accept_errors, redialled, redial_failures }
    }

    pub(crate) async fn listen(options: TcpOptions, address: &str) -> Result<Self, TcpError> {
        let runtime = Handle::try_current().map_err(|_| TcpError::NoRuntime)?;
        let refused = |source| TcpError::Listen { address: address.to_owned(), source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let local_addr = listener.local_addr().map_err(refused)?;
        let port = Self::new(options, Some(local_addr));
        let shared = port.shared.clone();
        port.shared.tasks.spawn(&runtime, async move { shared.accept(listener).await });
        Ok(port)
    }

    pub(crate) fn without_listener(options: TcpOptions) -> Self {
        Self::new(options, None)
    }

    fn new(options: TcpOptions, local_addr: Option<SocketAddr>) -> Self {
        let runtime = OnceLock::new();
        if let Ok(current) = Handle::try_current() {
            let _first = runtime.set(current);
        }
        // Without entropy the pauses of several nodes may coincide, which costs no more than a retry.
        let ambient = || {
            system_seed()
                .map_or(0, |[a, b, c, d, e, f, g, h, ..]| u64::from_le_bytes([a, b, c, d, e, f, g, h]))
        };
        let seed = options.seed.unwrap_or_else(ambient);
        let shared = Shared {
            local_addr,
            runtime,
            links: RwLock::default(),
            inbox: Arc::default(),
            tasks: Arc::default(),
            closing: watch::Sender::new(false),
            next_link: AtomicU64::new(0),
            slots: Arc::new(Semaphore::new(options.max_inbound)),
            redials: Mutex::default(),
            seed,
            counters: Counters::default(),
            options,
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Drop for TcpPort {
    fn drop(&mut self) {
        self.shared.close_now();
    }
}

impl Shared {
    fn links(&self) -> RwLockReadGuard<'_, Links> {
        self.links.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn links_mut(&self) -> RwLockWriteGuard<'_, Links> {
        self.links.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn redials(&self) -> std::sync::MutexGuard<'_, BTreeMap<LinkId, Redial>> {
        self.redials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, counter: impl FnOnce(&Counters) -> &AtomicU64) {
        counter(&self.counters).fetch_add(1, Ordering::Relaxed);
    }

    /// Ends what waits once the port closes. `None` if it closed first.
    async fn unless_closing<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut closing = self.closing.subscribe();
        let closed = pin!(closing.wait_for(|closing| *closing));
        match select(closed, pin!(future)).await {
            Either::Left(_) => None,
            Either::Right((result, _)) => Some(result),
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        while let Some(accepted) = self.unless_closing(listener.accept()).await {
            let stream = match accepted {
                Ok((stream, _)) => Arc::new(stream),
                Err(error) => {
                    self.count(|counters| &counters.accept_errors);
                    tracing::warn!(target: "anabranch::tcp", %error, "cannot accept");
                    pause(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(slot) = self.slots.clone().try_acquire_owned() else {
                self.count(|counters| &counters.refused);
                continue;
            };
            if let Some(link) = self.register(&stream, false, Some(slot)) {
                self.count(|counters| &counters.accepted);
                let shared = self.clone();
                // The accept loop runs on the port's runtime, so there is one.
                self.tasks.spawn(&Handle::current(), async move {
                    link.run(&stream, &shared.options).await;
                    shared.links_mut().up.remove(&link.id());
                });
            }
        }
    }

    /// Enters a new link into the table. `None` if the port is closed.
    fn register(
        &self,
        stream: &Arc<TcpStream>,
        dialed: bool,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Option<Arc<Link>> {
        tune(stream, self.options.dead_after);
        let mut links = self.links_mut();
        if links.closed {
            return None;
        }
        let id = LinkId(self.next_link.fetch_add(1, Ordering::Relaxed));
        let link = Link::up(id, self.inbox.clone(), stream.clone(), self.options.queue_bytes, dialed, slot);
        links.up.insert(id, link.clone());
        Some(link)
    }

    /// Opens a connection. `None` if the port closed meanwhile.
    async fn dial(&self, address: &PeerAddr) -> Option<Result<TcpStream, PortError>> {
        let limit = self.options.connect_timeout;
        let dialled = self.unless_closing(tokio::time::timeout(limit, open(address))).await?;
        let reason = match dialled {
            Ok(Ok(stream)) => return Some(Ok(stream)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {limit:?}"),
        };
        Some(Err(PortError::Unreachable { address: address.clone(), reason: reason.into() }))
    }

    /// The life of a link that this side dialled: runs it, and dials again when it was lost.
    async fn keep(&self, address: PeerAddr, mut link: Arc<Link>, mut stream: Arc<TcpStream>) {
        let jitter = Prng::part(self.seed, link.id().0);
        let mut backoff = self.options.redial.map(|pauses| Backoff::new(pauses, jitter));
        loop {
            let began = now();
            let lost = link.run(&stream, &self.options).await;
            let cancel = Arc::new(Notify::new());
            self.redials().insert(link.id(), Redial { address: address.clone(), cancel: cancel.clone() });
            self.links_mut().up.remove(&link.id());
            // Whoever disconnects it found it in the table before, or finds it among the redials from now on.
            let dialled = match &mut backoff {
                Some(backoff) if lost && link.is_wanted() => {
                    backoff.lost(now().saturating_duration_since(began));
                    let redial = pin!(self.unless_closing(self.redial(&address, backoff)));
                    match select(pin!(cancel.notified()), redial).await {
                        Either::Left(_) => None,
                        Either::Right((dialled, _)) => dialled,
                    }
                }
                _ => None,
            };
            let (new_link, new_stream) = {
                // Held until the new link is in the table: whoever disconnects the old one comes before, or too late.
                let mut redials = self.redials();
                let is_wanted = redials.remove(&link.id()).is_some();
                let Some(new_stream) = dialled.filter(|_| is_wanted).map(Arc::new) else { return };
                // Counted before anybody hears of the link.
                self.count(|counters| &counters.redialled);
                let Some(new_link) = self.register(&new_stream, true, None) else { return };
                (new_link, new_stream)
            };
            (link, stream) = (new_link, new_stream);
        }
    }

    /// Dials until somebody answers.
    async fn redial(&self, address: &PeerAddr, backoff: &mut Backoff) -> TcpStream {
        loop {
            pause(backoff.pause()).await;
            if let Some(Ok(stream)) = self.dial(address).await {
                return stream;
            }
            self.count(|counters| &counters.redial_failures);
        }
    }

    fn close_now(&self) {
        let up = {
            let mut links = self.links_mut();
            links.closed = true;
            std::mem::take(&mut links.up)
        };
        self.closing.send_replace(true);
        self.inbox.close();
        up.values().for_each(Link::disconnect);
    }
}

#[async_trait]
impl MessagePort for TcpPort {
    fn profile(&self) -> PortProfile {
        let profile = PortProfile::unauthenticated(self.shared.options.max_frame).reliable();
        if self.shared.options.redial.is_some() { profile.redialling() } else { profile }
    }

    fn try_send(&self, to: LinkId, frame: Bytes, priority: Priority) -> Result<(), SendError> {
        let link = {
            let links = self.shared.links();
            if links.closed {
                return Err(SendError::Closed);
            }
            links.up.get(&to).cloned().ok_or(SendError::LinkDown)?
        };
        if frame.len() > self.shared.options.max_frame {
            return Err(SendError::TooLarge);
        }
        link.try_send(frame, priority)
    }

    async fn connect(&self, address: &PeerAddr) -> Result<LinkId, PortError> {
        if self.shared.links().closed {
            return Err(PortError::Closed);
        }
        if !is_address(address) {
            return Err(PortError::BadAddress(address.clone()));
        }
        let runtime = match (self.shared.runtime.get(), Handle::try_current()) {
            (Some(runtime), _) => runtime.clone(),
            (None, Ok(current)) => self.shared.runtime.get_or_init(|| current).clone(),
            (None, Err(_)) => return Err(PortError::Failed("a TCP port needs a tokio runtime".into())),
        };
        let (answer, outcome) = oneshot::channel();
        let (shared, address) = (self.shared.clone(), address.clone());
        // A task of its own: if the caller gives up waiting, the link comes up idle and `Up` reports it.
        self.shared.tasks.spawn(&runtime, async move {
            let stream = match shared.dial(&address).await {
                Some(Ok(stream)) => Arc::new(stream),
                failed => {
                    let error = failed.and_then(Result::err).unwrap_or(PortError::Closed);
                    let _caller_may_be_gone = answer.send(Err(error));
                    return;
                }
            };
            let Some(link) = shared.register(&stream, true, None) else { return };
            // Whoever is waited for at this address has been found.
            shared.redials().values().filter(|redial| redial.address == address).for_each(|redial| {
                redial.cancel.notify_one();
            });
            let _caller_may_be_gone = answer.send(Ok(link.id()));
            shared.keep(address, link, stream).await;
        });
        // The task drops the sender only when the port closes, or its runtime ended.
        outcome.await.unwrap_or(Err(PortError::Closed))
    }

    async fn recv(&self) -> Result<PortEvent, PortError> {
        loop {
            match self.shared.inbox.pop() {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => self.shared.inbox.changed().await,
                Err(_) => return Err(PortError::Closed),
            }
        }
    }

    fn disconnect(&self, link: LinkId) {
        let up = self.shared.links_mut().up.remove(&link);
        if let Some(link) = up {
            link.disconnect();
        }
        // It may be down already, and being dialled again.
        if let Some(redial) = self.shared.redials().remove(&link) {
            redial.cancel.notify_one();
        }
    }

    async fn close(&self) {
        self.shared.close_now();
        self.shared.tasks.none_left().await;
    }
}

/// Whether the text is `host:port` with a port other than 0.
fn is_address(address: &PeerAddr) -> bool {
    let text = address.as_str();
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return socket.port() != 0;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_host =
        !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'));
    is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
}

async fn open(address: &PeerAddr) -> io::Result<TcpStream> {
    // Tries all addresses of a name in turn.
    TcpStream::connect(address.as_str()).await
}

/// Sets what makes a connection quick, and what makes a dead one end. A system that lacks an option goes without.
fn tune(stream: &TcpStream, dead_after: Duration) {
    let socket = SockRef::from(stream);
    let probe_every = (dead_after / (2 * KEEPALIVE_PROBES)).max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new().with_time(dead_after / 2);
    #[cfg(not(any(target_os = "openbsd", target_os = "haiku", target_os = "vita")))]
    let keepalive = keepalive.with_interval(probe_every);
    #[cfg(not(any(target_os = "openbsd", target_os = "haiku", target_os = "vita", target_os = "windows")))]
    let keepalive = keepalive.with_retries(KEEPALIVE_PROBES);
    let outcomes = [
        socket.set_tcp_nodelay(true),
        socket.set_tcp_keepalive(&keepalive),
        #[cfg(any(target_os = "android", target_os = "linux"))]
        socket.set_tcp_user_timeout(Some(dead_after)),
        #[cfg(any(target_os = "android", target_os = "linux"))]
        socket.set_tcp_notsent_lowat(UNSENT_BYTES),
    ];
    for error in outcomes.into_iter().filter_map(Result::err) {
        tracing::debug!(target: "anabranch::tcp", %error, "a socket option was refused");
    }
}

#[allow(clippy::disallowed_methods, reason = "an adapter of the operating system lives in its time")]
async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

#[allow(clippy::disallowed_methods, reason = "an adapter of the operating system lives in its time")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["127.0.0.1:7700", "[::1]:7700", "relay.example.org:443", "my_host-2:1"] {
            assert!(is_address(&good.into()), "{good}");
        }
        for bad in
            ["", "nowhere", ":7700", "127.0.0.1", "127.0.0.1:0", "host:70000", "a b:1", "http://host:1"]
        {
            assert!(!is_address(&bad.into()), "{bad}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_silent_peer_is_given_up_after_the_time_asked_for() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            tune(&stream, Duration::from_secs(12));
            let socket = SockRef::from(&stream);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            // Idle for half of it, then three probes in the other half.
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(6));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(2));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(12)));
        });
    }
}
