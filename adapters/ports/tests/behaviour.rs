//! What each decorator does, in virtual time over a port that does as it is told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anabranch::testing::ManualTimer;
use anabranch::{
    ChannelSpec, Coordinator, Identity, LinkId, Liveness, MemoryNetwork, MemoryStore, MessagePort, PeerAddr,
    PortError, PortEvent, PortProfile, Priority, SendError, TimerPort,
};
use anabranch_ports::{Break, BreakerState, Layered, PortExt as _, RateLimit, Retry};
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const LINK: LinkId = LinkId(1);

/// What an attempt to connect ends in.
#[derive(Debug, Clone, Copy)]
enum Dial {
    Works,
    Nobody,
    Bad,
    Hangs,
    /// Nobody, after 15 s.
    Late,
}

/// A port that does as it is told.
#[derive(Clone)]
struct Told(Arc<Inner>);

struct Inner {
    timer: ManualTimer,
    dials: Mutex<VecDeque<Dial>>,
    /// When attempts began, in ms.
    attempts: Mutex<Vec<u64>>,
    dropped: AtomicU64,
    events: Mutex<VecDeque<PortEvent>>,
    sends: Mutex<VecDeque<Result<(), SendError>>>,
    sent: Mutex<Vec<Bytes>>,
    send_takes: Duration,
}

struct CountsDrop<'a>(&'a AtomicU64);

impl Drop for CountsDrop<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Told {
    fn new(timer: &ManualTimer, dials: impl IntoIterator<Item = Dial>) -> Self {
        Self::slow(timer, dials, Duration::ZERO)
    }

    fn slow(timer: &ManualTimer, dials: impl IntoIterator<Item = Dial>, send_takes: Duration) -> Self {
        let up = PortEvent::Up { link: LINK, proven: None, dialed: true };
        Self(Arc::new(Inner {
            timer: timer.clone(),
            dials: Mutex::new(dials.into_iter().collect()),
            attempts: Mutex::default(),
            dropped: AtomicU64::new(0),
            events: Mutex::new([up].into()),
            sends: Mutex::default(),
            sent: Mutex::default(),
            send_takes,
        }))
    }

    fn attempts(&self) -> Vec<u64> {
        self.0.attempts.lock().unwrap().clone()
    }

    fn tell(&self, event: PortEvent) {
        self.0.events.lock().unwrap().push_back(event);
    }
}

#[async_trait]
impl MessagePort for Told {
    fn profile(&self) -> PortProfile {
        PortProfile::unauthenticated(1000)
    }

    fn try_send(&self, _: LinkId, frame: Bytes, _: Priority) -> Result<(), SendError> {
        self.0.timer.advance(self.0.send_takes);
        let outcome = self.0.sends.lock().unwrap().pop_front().unwrap_or(Ok(()));
        if outcome.is_ok() {
            self.0.sent.lock().unwrap().push(frame);
        }
        outcome
    }

    async fn connect(&self, address: &PeerAddr) -> Result<LinkId, PortError> {
        let ms = self.0.timer.now().as_nanos() / 1_000_000;
        self.0.attempts.lock().unwrap().push(ms);
        let dial = self.0.dials.lock().unwrap().pop_front().unwrap_or(Dial::Works);
        if matches!(dial, Dial::Late) {
            self.0.timer.sleep_until(self.0.timer.now() + 15 * SECOND).await;
        }
        match dial {
            Dial::Works => Ok(LINK),
            Dial::Nobody | Dial::Late => {
                Err(PortError::Unreachable { address: address.clone(), reason: "nobody".into() })
            }
            Dial::Bad => Err(PortError::BadAddress(address.clone())),
            Dial::Hangs => {
                let _counts = CountsDrop(&self.0.dropped);
                std::future::pending().await
            }
        }
    }

    async fn recv(&self) -> Result<PortEvent, PortError> {
        let event = self.0.events.lock().unwrap().pop_front();
        match event {
            Some(event) => Ok(event),
            None => std::future::pending().await,
        }
    }

    fn figures(&self) -> BTreeMap<&'static str, u64> {
        BTreeMap::from([("told.attempts", self.attempts().len() as u64)])
    }
}

fn timers() -> (ManualTimer, Arc<dyn TimerPort>) {
    let timer = ManualTimer::new();
    (timer.clone(), Arc::new(timer))
}

fn address() -> PeerAddr {
    "there".into()
}

fn unreachable<T>(outcome: &Result<T, PortError>) -> bool {
    matches!(outcome, Err(PortError::Unreachable { address: named, .. }) if *named == address())
}

// --- Timeout ---

#[test]
fn the_timeout_cancels_a_connect_that_hangs() {
    let (timer, clock) = timers();
    let told = Told::new(&timer, [Dial::Hangs, Dial::Works]);
    let port = told.clone().with_connect_timeout(&clock, 3 * SECOND);
    let outcome = timer.run(port.connect(&address()));
    assert!(unreachable(&outcome), "{outcome:?}");
    assert_eq!(timer.now().as_nanos(), 3_000_000_000);
    assert_eq!(told.0.dropped.load(Ordering::Relaxed), 1, "the attempt was dropped");
    assert_eq!(port.figures(), BTreeMap::from([("timeout.expired", 1), ("told.attempts", 1)]));
    assert_eq!(timer.run(port.connect(&address())).unwrap(), LINK);
}

// --- Retry ---

#[test]
fn a_connect_is_repeated_with_growing_pauses_until_it_works() {
    let (timer, clock) = timers();
    let told = Told::new(&timer, [Dial::Nobody, Dial::Nobody, Dial::Nobody]);
    let port = told.clone().retrying(&clock, Retry::default().times(5).first(100 * MS));
    assert_eq!(timer.run(port.connect(&address())).unwrap(), LINK);
    let at = told.attempts();
    let pauses: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses.len(), 3);
    for (pause, least) in pauses.iter().zip([100, 200, 400]) {
        assert!((least..=2 * least).contains(pause), "{pauses:?}");
    }
    let figures = port.figures();
    assert_eq!(
        [figures["retry.attempts_again"], figures["retry.recovered"], figures["retry.given_up"]],
        [3, 1, 0]
    );
}

#[test]
fn retries_end_after_the_times_asked_for_and_pauses_at_the_longest() {
    let (timer, clock) = timers();
    let told = Told::new(&timer, [Dial::Nobody; 20]);
    let how = Retry::default().times(9).first(SECOND).longest(2 * SECOND);
    let port = told.clone().retrying(&clock, how);
    assert!(unreachable(&timer.run(port.connect(&address()))));
    let at = told.attempts();
    assert_eq!(at.len(), 10);
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] <= 4000), "{at:?}");
    assert_eq!(port.figures()["retry.given_up"], 1);
}

#[test]
fn what_repeating_cannot_cure_is_returned_at_once() {
    let (timer, clock) = timers();
    let told = Told::new(&timer, [Dial::Bad]);
    let port = told.clone().retrying(&clock, Retry::default());
    assert!(matches!(timer.run(port.connect(&address())), Err(PortError::BadAddress(_))));
    assert_eq!((told.attempts().len(), port.figures()["retry.attempts_again"]), (1, 0));
}

#[test]
fn pauses_are_a_function_of_the_seed() {
    let attempts = |seed| {
        let (timer, clock) = timers();
        let told = Told::new(&timer, [Dial::Nobody; 20]);
        let port = told.clone().retrying(&clock, Retry::default().seed(seed));
        let _nobody = timer.run(port.connect(&address()));
        told.attempts()
    };
    assert_eq!(attempts(1), attempts(1));
    assert_ne!(attempts(1), attempts(2));
}

// --- Breaker ---

type Breaking = Layered<Told, anabranch_ports::Breaker>;

fn breaking(dials: impl IntoIterator<Item = Dial>) -> (ManualTimer, Told, Breaking) {
    let (timer, clock) = timers();
    let told = Told::new(&timer, dials);
    let port = told.clone().breaking(&clock, Break::default().after(3).open_for(10 * SECOND));
    (timer, told, port)
}

#[test]
fn the_breaker_opens_after_as_many_failures_and_refuses_without_trying() {
    let (timer, told, port) = breaking([Dial::Nobody; 3]);
    for _ in 0..3 {
        assert_eq!(port.layer().state(&address()), BreakerState::Closed);
        assert!(unreachable(&timer.run(port.connect(&address()))));
    }
    assert_eq!(port.layer().state(&address()), BreakerState::Open);
    assert!(unreachable(&timer.run(port.connect(&address()))));
    assert_eq!(told.attempts().len(), 3, "the fourth was not tried");
    let figures = port.figures();
    assert_eq!([figures["breaker.open"], figures["breaker.opened"], figures["breaker.refused"]], [1, 1, 1]);
    // Another address is another circuit.
    assert_eq!(timer.run(port.connect(&"elsewhere".into())).unwrap(), LINK);
}

#[test]
fn half_open_lets_one_through_and_its_success_closes() {
    let (timer, told, port) = breaking([Dial::Nobody, Dial::Nobody, Dial::Nobody, Dial::Hangs]);
    (0..3).for_each(|_| drop(timer.run(port.connect(&address()))));
    timer.advance(10 * SECOND);
    assert_eq!(port.layer().state(&address()), BreakerState::HalfOpen);
    let there = address();
    let mut trial = port.connect(&there);
    assert!((&mut trial).now_or_never().is_none(), "the one that was let through is under way");
    assert!(unreachable(&timer.run(port.connect(&address()))), "a second one is refused");
    assert_eq!(told.attempts().len(), 4);
    // A trial that is dropped says nothing: the next one may try.
    drop(trial);
    assert_eq!(timer.run(port.connect(&address())).unwrap(), LINK);
    assert_eq!(port.layer().state(&address()), BreakerState::Closed);
    assert_eq!(port.figures()["breaker.open"], 0);
}

#[test]
fn half_open_opens_again_when_its_attempt_fails() {
    let (timer, told, port) = breaking([Dial::Nobody; 4]);
    (0..3).for_each(|_| drop(timer.run(port.connect(&address()))));
    timer.advance(10 * SECOND);
    assert!(unreachable(&timer.run(port.connect(&address()))));
    assert_eq!(port.layer().state(&address()), BreakerState::Open);
    timer.advance(9 * SECOND);
    assert!(unreachable(&timer.run(port.connect(&address()))));
    assert_eq!((told.attempts().len(), port.figures()["breaker.opened"]), (4, 2));
}

#[test]
fn a_late_failure_of_an_older_attempt_is_not_taken_for_that_of_the_one_that_was_let_through() {
    let (timer, _, port) = breaking([Dial::Late, Dial::Nobody, Dial::Nobody, Dial::Nobody, Dial::Hangs]);
    let there = address();
    let mut older = port.connect(&there);
    assert!((&mut older).now_or_never().is_none());
    (0..3).for_each(|_| drop(timer.run(port.connect(&there))));
    timer.advance(10 * SECOND);
    let mut trial = port.connect(&there);
    assert!((&mut trial).now_or_never().is_none(), "the one that was let through is under way");
    timer.advance(5 * SECOND);
    assert!(unreachable(&timer.run(older)));
    assert_eq!(port.layer().state(&there), BreakerState::HalfOpen);
    assert!(unreachable(&timer.run(port.connect(&there))), "a second one is refused");
    assert_eq!(port.figures()["breaker.opened"], 1);
    drop(trial);
    assert_eq!(timer.run(port.connect(&there)).unwrap(), LINK);
}

#[test]
fn a_success_in_between_starts_the_count_over_and_a_bad_address_counts_for_nothing() {
    let (timer, _, port) =
        breaking([Dial::Nobody, Dial::Nobody, Dial::Works, Dial::Nobody, Dial::Bad, Dial::Nobody]);
    (0..6).for_each(|_| drop(timer.run(port.connect(&address()))));
    assert_eq!(port.layer().state(&address()), BreakerState::Closed);
}

#[test]
fn i6_a_breaker_remembers_a_bounded_number_of_addresses() {
    let (timer, _, port) = breaking([Dial::Nobody; 5000]);
    for number in 0..1030 {
        let address = PeerAddr::new(format!("host {number}"));
        (0..3).for_each(|_| drop(timer.run(port.connect(&address))));
        timer.advance(MS);
    }
    assert_eq!(port.figures()["breaker.open"], 1024);
    assert_eq!(port.layer().state(&"host 0".into()), BreakerState::Closed, "the oldest was forgotten");
}

// --- Rate limit ---

fn frame(len: usize) -> Bytes {
    vec![7; len].into()
}

#[test]
fn the_rate_limit_answers_full_and_later_writable_once() {
    let (timer, clock) = timers();
    let told = Told::new(&timer, []);
    let port = told.clone().rate_limited(&clock, RateLimit::bytes_per_second(10_000).burst(2_000));
    assert!(matches!(timer.run(port.recv()), Ok(PortEvent::Up { .. })));
    let send = || port.try_send(LINK, frame(1000), Priority::Normal);
    assert_eq!([send(), send()], [Ok(()), Ok(())], "the burst");
    assert_eq!([send(), send()], [Err(SendError::Full); 2]);
    assert_eq!(port.figures()["rate_limit.waiting"], 1);
    assert_eq!(timer.run(port.recv()).unwrap(), PortEvent::Writable { link: LINK });
    // 1,000 bytes at 10,000 per second.
    assert_eq!(timer.now().as_nanos(), 100_000_000);
    assert_eq!(send(), Ok(()), "there is room after `Writable`");
    assert!(port.recv().now_or_never().is_none(), "one `Writable` for any number of refusals");
    assert_eq!(told.0.sent.lock().unwrap().len(), 3);
    assert_eq!(port.figures()["rate_limit.refused"], 2);
}

#[test]
fn a_limit_of_frames_counts_frames_and_each_link_has_its_own() {
    let (timer, clock) = timers();
    let told = Told::new(&timer, []);
    told.tell(PortEvent::Up { link: LinkId(2), proven: None, dialed: false });
    let port = told.rate_limited(&clock, RateLimit::frames_per_second(4));
    (0..2).for_each(|_| drop(timer.run(port.recv())));
    let sent = |link| (0..9).take_while(|_| port.try_send(link, frame(900), Priority::High).is_ok()).count();
    assert_eq!((sent(LINK), sent(LinkId(2)), sent(LINK)), (4, 4, 0));
    timer.advance(SECOND / 2);
    assert_eq!(sent(LINK), 2);
}

#[test]
fn a_full_port_within_is_owed_one_writable_whoever_refused_first() {
    let (timer, clock) = timers();
    let told = Told::new(&timer, []);
    let port = told.clone().rate_limited(&clock, RateLimit::bytes_per_second(10_000).burst(1_000));
    drop(timer.run(port.recv()));
    let send = || port.try_send(LINK, frame(1000), Priority::Normal);
    assert_eq!([send(), send()], [Ok(()), Err(SendError::Full)]);
    timer.advance(SECOND);
    // The limit allows it again, but the port within does not.
    told.0.sends.lock().unwrap().push_back(Err(SendError::Full));
    assert_eq!(send(), Err(SendError::Full));
    assert!(port.recv().now_or_never().is_none(), "there is no room yet");
    told.tell(PortEvent::Writable { link: LINK });
    assert_eq!(timer.run(port.recv()).unwrap(), PortEvent::Writable { link: LINK });
    timer.advance(SECOND);
    assert!(port.recv().now_or_never().is_none());
}

#[test]
fn a_limit_below_one_frame_lets_one_frame_through_and_a_waiting_recv_hears_of_a_refusal() {
    let (timer, clock) = timers();
    let port = Told::new(&timer, []).rate_limited(&clock, RateLimit::bytes_per_second(10));
    drop(timer.run(port.recv()));
    let mut waiting = port.recv();
    assert!((&mut waiting).now_or_never().is_none());
    let send = |len| port.try_send(LINK, frame(len), Priority::Normal);
    assert_eq!([send(1001), send(1000), send(1)], [Err(SendError::TooLarge), Ok(()), Err(SendError::Full)]);
    assert_eq!(timer.run(waiting).unwrap(), PortEvent::Writable { link: LINK });
    assert_eq!(timer.now().as_nanos(), 100_000_000, "a byte at ten per second");
}

// --- Latency ---

#[test]
fn latency_is_measured_around_sends_and_from_full_to_writable() {
    let (timer, clock) = timers();
    let told = Told::slow(&timer, [], 2 * MS);
    let port = told.clone().measured(&clock);
    drop(timer.run(port.recv()));
    (0..99).for_each(|_| port.try_send(LINK, frame(10), Priority::Normal).unwrap());
    told.0.sends.lock().unwrap().extend([Err(SendError::Full), Err(SendError::Full)]);
    assert!(port.try_send(LINK, frame(10), Priority::Normal).is_err());
    assert!(port.try_send(LINK, frame(10), Priority::Normal).is_err());
    timer.advance(48 * MS);
    told.tell(PortEvent::Writable { link: LINK });
    drop(timer.run(port.recv()));
    let about = |time: Duration, ms: u32| time >= ms * MS && time <= ms * MS * 101 / 100;
    let (sends, stalls) = (port.layer().sends(), port.layer().stalls());
    assert_eq!((sends.count, stalls.count), (101, 1));
    assert!(about(sends.p50, 2) && about(sends.p99, 2) && about(sends.max, 2), "{sends:?}");
    // From the first refusal on.
    assert!(about(stalls.max, 50), "{stalls:?}");
    let figures = port.figures();
    assert_eq!((figures["latency.sends"], figures["latency.full"], figures["latency.stalls"]), (101, 2, 1));
}

// --- Together ---

#[test]
fn i7_two_nodes_sync_over_ports_that_are_short_of_everything() {
    let (timer, clock) = timers();
    let network = MemoryNetwork::with_frame_limit(1200);
    let entries = 500;
    timer.run(async {
        let (mut nodes, mut figures) = (Vec::new(), Vec::new());
        let mut drivers = futures::stream::FuturesUnordered::new();
        for (n, name) in ["ana", "ben"].into_iter().enumerate() {
            let port =
                network.port(name).with_connect_timeout(&clock, SECOND).retrying(&clock, Retry::default());
            let port = port.rate_limited(&clock, RateLimit::bytes_per_second(20_000)).measured(&clock);
            let port = Arc::new(port);
            figures.push(port.clone());
            let builder = Coordinator::builder(MemoryStore::ephemeral().unwrap()).shared_port(port);
            let builder = builder.timer(timer.clone()).seed([n as u8; 32]);
            let (node, driver) = builder.build().await.unwrap();
            drivers.push(driver);
            nodes.push(node);
        }
        let work = async {
            let spec = ChannelSpec::secret("notes", b"shared").unwrap();
            let mut streams = Vec::new();
            for (node, other) in [(0, 1), (1, 0)] {
                let channel = nodes[node].channel(spec.clone()).await.unwrap();
                channel.add_member(nodes[other].node()).await.unwrap();
                streams.push(channel.stream("today").await.unwrap());
            }
            for number in 0..entries {
                streams[0].append(vec![number as u8; 200]).await.unwrap();
            }
            nodes[0].meet("ben").await.unwrap();
            let until = clock.now() + 120 * SECOND;
            while streams[1].len() < entries {
                assert!(clock.now() < until, "{} of {entries} after two minutes", streams[1].len());
                clock.sleep_until(clock.now() + SECOND).await;
            }
        };
        let work = std::pin::pin!(work);
        match futures::future::select(work, futures::StreamExt::next(&mut drivers)).await {
            futures::future::Either::Left(_) => {}
            futures::future::Either::Right(_) => panic!("a driver ended"),
        }
        let figures = figures[0].figures();
        assert!(figures["rate_limit.refused"] > 0 && figures["latency.stalls"] > 0, "{figures:?}");
        assert_eq!(nodes[0].port_figures(), [figures]);
    });
    // 100,000 bytes at 20,000 per second, after a second's worth at once.
    assert!(timer.now().as_nanos() > 3_000_000_000, "the limit held");
}

#[test]
fn figures_of_all_layers_are_in_sight_of_a_node_that_uses_the_port() {
    let (timer, clock) = timers();
    let network = MemoryNetwork::new();
    let port = network
        .port("ana")
        .retrying(&clock, Retry::default().times(1))
        .retrying(&clock, Retry::default().times(2));
    let port = port.breaking(&clock, Break::default()).measured(&clock);
    let builder = Liveness::builder(Identity::from_secret([1; 32])).timer(timer.clone()).seed(1);
    let (node, driver) = builder.join(["nobody"]).drive(port).unwrap();
    let figures = timer.run(async {
        let looking = async {
            clock.sleep_until(clock.now() + 60 * SECOND).await;
            node.port_figures().await.unwrap()
        };
        match futures::future::select(driver, Box::pin(looking)).await {
            futures::future::Either::Left(_) => panic!("the driver ended"),
            futures::future::Either::Right((figures, _)) => figures,
        }
    });
    assert!(figures["breaker.opened"] > 0 && figures["retry.attempts_again"] > 0, "{figures:?}");
    assert!(figures.contains_key("latency.sends"));
}
