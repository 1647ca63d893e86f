//! Conformance suite of [`MessagePort`]: one check per clause of its contract.
//!
//! Implement [`Fixture`] for your transport and run [`conformance`] in a test:
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use anabranch::application::ports::{MessagePort, PeerAddr, TimerPort};
//! use anabranch::infrastructure::memory_port::MemoryNetwork;
//! use anabranch::testing::{ManualTimer, message_port::{self, Fixture}};
//!
//! struct Memory { network: MemoryNetwork, timer: ManualTimer, opened: std::sync::atomic::AtomicU32 }
//!
//! #[async_trait::async_trait]
//! impl Fixture for Memory {
//!     async fn open(&self) -> (Arc<dyn MessagePort>, PeerAddr) {
//!         let number = self.opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
//!         let port = self.network.port(&format!("port {number}"));
//!         let address = port.address();
//!         (Arc::new(port), address)
//!     }
//!     fn bad_address(&self) -> Option<PeerAddr> { Some("".into()) }
//!     fn unreachable_address(&self) -> Option<PeerAddr> { Some("nobody".into()) }
//!     fn timer(&self) -> Arc<dyn TimerPort> { Arc::new(self.timer.clone()) }
//! }
//!
//! let timer = ManualTimer::new();
//! let fixture = Memory { network: MemoryNetwork::new(), timer: timer.clone(), opened: 0.into() };
//! timer.run(message_port::conformance(&fixture));
//! ```
//!
//! What a port declares decides how strictly it is judged: one that is not `reliable` may lose, repeat and
//! reorder frames and need not tell the other side of a disconnect; one that `redials` has to.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{Either, select};

use crate::application::ports::{
    LinkId, MIN_FRAME_BYTES, MessagePort, PeerAddr, PortError, PortEvent, PortProfile, Priority, SendError,
    TimerPort,
};

/// Ports are looked at this often within the time in which nothing may happen.
const LOOKS_PER_QUIET: u32 = 50;
/// Frames sent by the check of order.
const ORDERED_FRAMES: u64 = 300;
/// Links made and dropped by the check of link ids.
const LINK_ROUNDS: usize = 8;
/// Threads that send at once.
const THREADS: u64 = 4;
/// Frames that each of them sends.
const FRAMES_PER_THREAD: u64 = 50;
/// What makes a lossy port's other side notice the link.
const PROBE: &[u8] = b"is anybody there?";

/// Makes ports of the transport under test that can reach one another.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// Opens a further port and says where the others reach it.
    async fn open(&self) -> (Arc<dyn MessagePort>, PeerAddr);

    /// A text that is no address of this transport; `None` if every text is one.
    fn bad_address(&self) -> Option<PeerAddr>;

    /// An address at which nobody answers, and the transport notices; `None` if it cannot notice.
    fn unreachable_address(&self) -> Option<PeerAddr>;

    /// What the suite waits on.
    fn timer(&self) -> Arc<dyn TimerPort>;

    /// How long what has to happen may take.
    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// How long to watch that something does not happen.
    fn quiet(&self) -> Duration {
        Duration::from_millis(100)
    }

    /// Bytes that a link takes at most while its other end does not read: its queue and what the system buffers.
    fn stuck_bytes(&self) -> usize {
        64 << 20
    }
}

/// Runs every check, each with fresh ports.
///
/// # Panics
/// If the port breaks a clause of the contract; the message names it.
pub async fn conformance(fixture: &impl Fixture) {
    the_profile_is_constant_and_its_frames_are_large_enough(fixture).await;
    up_comes_first_and_once_and_says_who_dialed(fixture).await;
    frames_arrive_byte_for_byte(fixture).await;
    a_reliable_link_keeps_order_and_repeats_nothing(fixture).await;
    a_frame_above_the_limit_is_refused_and_the_link_goes_on(fixture).await;
    links_that_never_existed_are_down(fixture).await;
    frames_never_cross_links(fixture).await;
    a_peer_that_never_reads_costs_one_queue_and_other_links_go_on(fixture).await;
    a_waiting_recv_is_woken_and_a_dropped_one_loses_nothing(fixture).await;
    a_dropped_connect_leaves_at_most_an_idle_link(fixture).await;
    link_ids_are_never_reused(fixture).await;
    disconnecting_takes_the_link_down_at_both_ends(fixture).await;
    a_link_dropped_by_the_other_side_is_dialled_again_if_the_port_says_so(fixture).await;
    closing_ends_everything_and_may_be_repeated(fixture).await;
    addresses_that_lead_nowhere_are_errors(fixture).await;
    sends_from_several_threads_do_not_block(fixture).await;
}

async fn the_profile_is_constant_and_its_frames_are_large_enough(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 2).await;
    let before = group.ports[0].profile;
    assert!(
        before.max_frame >= MIN_FRAME_BYTES,
        "frame limit {} is below {MIN_FRAME_BYTES} bytes",
        before.max_frame
    );
    group.join(0, 1).await;
    let after = group.ports[0].port.profile();
    assert_eq!(before, after, "the profile changed while the port was open");
    group.close().await;
}

async fn up_comes_first_and_once_and_says_who_dialed(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 2).await;
    let (here, there) = group.join(0, 1).await;
    group.keep_quiet().await;
    for (index, link, dialed) in [(0, here, true), (1, there, false)] {
        let said = group.ports[index].links[&link].dialed;
        assert_eq!(said, dialed, "`Up` on the {} side", if dialed { "dialling" } else { "dialled" });
        assert_eq!(group.ports[index].links.len(), 1, "one connect made more than one link");
    }
    group.close().await;
}

async fn frames_arrive_byte_for_byte(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 2).await;
    let max = group.ports[0].profile.max_frame;
    let (here, there) = group.join(0, 1).await;
    let frames: Vec<Bytes> = [0, 1, 2, 255, 511, MIN_FRAME_BYTES, max - 1, max]
        .iter()
        .enumerate()
        .map(|(number, len)| pattern(number as u64, *len))
        .collect();
    for (from, link, to, at) in [(0, here, 1, there), (1, there, 0, here)] {
        if group.reliable() {
            group.send_all(from, link, &frames, |_| Priority::Normal).await;
            let arrived = group.frames(to, at, frames.len()).await;
            assert!(arrived == frames, "frames of 0 to {max} bytes did not arrive as they were sent");
        } else {
            group.send_until_all_arrived(from, link, to, at, &frames).await;
        }
    }
    group.close().await;
}

async fn a_reliable_link_keeps_order_and_repeats_nothing(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 2).await;
    let (here, there) = group.join(0, 1).await;
    if group.reliable() {
        let max = group.ports[0].profile.max_frame;
        let frames: Vec<Bytes> =
            (0..ORDERED_FRAMES).map(|number| pattern(number, 8 + number as usize * 97 % (max - 8))).collect();
        let urgent = |number: usize| number % 3 == 2;
        let priority = |number| if urgent(number) { Priority::High } else { Priority::Normal };
        group.send_all(0, here, &frames, priority).await;
        let arrived = group.frames(1, there, frames.len()).await;
        group.keep_quiet().await;
        assert_eq!(group.ports[1].frames(there).len(), 0, "more frames arrived than were sent");
        for lane in [true, false] {
            let in_lane = |frame: &&Bytes| urgent(number_of(frame) as usize) == lane;
            let sent = frames.iter().filter(in_lane);
            assert!(
                arrived.iter().filter(in_lane).eq(sent),
                "frames of one priority were lost, repeated, reordered or altered on a reliable link"
            );
        }
    }
    group.close().await;
}

async fn a_frame_above_the_limit_is_refused_and_the_link_goes_on(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 2).await;
    let max = group.ports[0].profile.max_frame;
    let (here, there) = group.join(0, 1).await;
    for len in [max + 1, max * 2] {
        let refused = group.ports[0].send(here, pattern(0, len), Priority::Normal);
        assert_eq!(refused, Err(SendError::TooLarge), "a frame of {len} bytes with a limit of {max}");
    }
    let largest = pattern(1, max);
    if group.reliable() {
        group.send_all(0, here, std::slice::from_ref(&largest), |_| Priority::High).await;
        assert!(group.frames(1, there, 1).await == [largest], "the largest frame did not arrive as sent");
    } else {
        group.send_until_all_arrived(0, here, 1, there, &[largest]).await;
    }
    group.close().await;
}

async fn links_that_never_existed_are_down(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 2).await;
    group.join(0, 1).await;
    let nowhere = LinkId(u64::MAX);
    let refused = group.ports[0].send(nowhere, Bytes::new(), Priority::Normal);
    assert_eq!(refused, Err(SendError::LinkDown), "a send on a link that never existed");
    group.ports[0].port.disconnect(nowhere);
    group.keep_quiet().await;
    group.close().await;
}

async fn frames_never_cross_links(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 3).await;
    let first = group.join(0, 1).await;
    let second = group.join(0, 1).await;
    let other = group.join(0, 2).await;
    let links = [(1, first), (1, second), (2, other)];
    for (number, (to, (here, there))) in links.into_iter().enumerate() {
        let frames: Vec<_> = (0..10).map(|n| pattern(number as u64 * 100 + n, 64)).collect();
        if group.reliable() {
            group.send_all(0, here, &frames, |_| Priority::Normal).await;
            let arrived = group.frames(to, there, frames.len()).await;
            assert!(arrived == frames, "what was sent on one link did not arrive on it alone");
        } else {
            group.send_until_all_arrived(0, here, to, there, &frames).await;
        }
    }
    group.keep_quiet().await;
    for (to, (_, there)) in links {
        let stray = group.ports[to].frames(there).len();
        assert!(stray == 0 || !group.reliable(), "{stray} frames on a link on which nothing was sent");
    }
    group.close().await;
}

async fn a_peer_that_never_reads_costs_one_queue_and_other_links_go_on(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 3).await;
    let (stuck, stuck_there) = group.join(0, 1).await;
    let (free, free_there) = group.join(0, 2).await;
    let max = group.ports[0].profile.max_frame;
    group.ports[1].paused = true;
    let (mut sent, mut is_stuck) = (Vec::new(), false);
    while !is_stuck && sent.len() * max <= fixture.stuck_bytes() {
        let frame = pattern(sent.len() as u64, max);
        match group.ports[0].send(stuck, frame.clone(), Priority::Normal) {
            Ok(()) => sent.push(frame),
            Err(SendError::Full) => {
                is_stuck = group
                    .within(group.quiet, |ports| (!ports[0].owed.contains(&stuck)).then_some(()))
                    .await
                    .is_none();
            }
            Err(other) => panic!("filling a link whose other end does not read: {other}"),
        }
    }
    assert!(
        is_stuck || !group.reliable(),
        "a link whose other end never reads took more than {} bytes",
        fixture.stuck_bytes()
    );
    let others: Vec<_> = (0..20).map(|n| pattern(n, 1_000.min(max))).collect();
    if group.reliable() {
        group.send_all(0, free, &others, |_| Priority::Normal).await;
        let arrived = group.frames(2, free_there, others.len()).await;
        assert!(arrived == others, "a stuck link disturbed another one");
    } else {
        group.send_until_all_arrived(0, free, 2, free_there, &others).await;
    }
    if is_stuck {
        for _ in 0..3 {
            let frame = pattern(sent.len() as u64, max);
            match group.ports[0].send(stuck, frame.clone(), Priority::Normal) {
                // A frame was lost, or the system took more meanwhile: there is room, if not yet enough for `Writable`.
                Ok(()) => sent.push(frame),
                again => assert_eq!(again, Err(SendError::Full), "a send on a full link"),
            }
        }
        group.ports[1].paused = false;
        group
            .until("`Writable` after a full link got room", |ports| {
                (!ports[0].owed.contains(&stuck)).then_some(())
            })
            .await;
        if group.reliable() {
            let arrived = group.frames(1, stuck_there, sent.len()).await;
            assert!(arrived == sent, "what a full link had taken did not arrive as sent");
        }
        // A second `Writable` would be one that nobody is owed.
        group.keep_quiet().await;
        let again = group.ports[0].send(stuck, pattern(0, max), Priority::Normal);
        assert_eq!(again, Ok(()), "a send after `Writable`");
    }
    group.close().await;
}

async fn a_waiting_recv_is_woken_and_a_dropped_one_loses_nothing(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 2).await;
    let (here, there) = group.join(0, 1).await;
    if group.reliable() {
        for number in 0..20 {
            group.keep_quiet_for(group.quiet / 10).await;
            let reader = group.ports[1].port.clone();
            // Each wait is begun and dropped once before the one that counts.
            assert!(reader.recv().now_or_never().is_none(), "`recv` returned although nothing happened");
            let mut waiting = reader.recv();
            assert!((&mut waiting).now_or_never().is_none(), "`recv` returned although nothing happened");
            let frame = pattern(number, 100);
            assert_eq!(
                group.ports[0].send(here, frame.clone(), Priority::Normal),
                Ok(()),
                "a send on an idle link"
            );
            let timeout = group.timer.sleep_until(group.timer.now() + group.patience);
            match select(waiting, timeout).await {
                Either::Left((Ok(event), _)) => {
                    assert_eq!(
                        event,
                        PortEvent::Frame { link: there, frame },
                        "what a waiting `recv` returned"
                    );
                }
                Either::Left((Err(error), _)) => panic!("`recv` on an open port: {error}"),
                Either::Right(_) => panic!("a waiting `recv` was not woken by a frame"),
            }
        }
    }
    group.close().await;
}

async fn a_dropped_connect_leaves_at_most_an_idle_link(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 2).await;
    let address = group.ports[1].address.clone();
    drop(group.ports[0].port.connect(&address).now_or_never());
    group.keep_quiet().await;
    let left = group.ports[0].links.len();
    assert!(left <= 1, "one dropped connect left {left} links");
    let left: Vec<_> = group.ports[1].links.keys().copied().collect();
    group.ports[1].taken.extend(left);
    group.join(0, 1).await;
    group.close().await;
}

async fn link_ids_are_never_reused(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 2).await;
    for _ in 0..LINK_ROUNDS {
        // `Watch::note` refuses an `Up` of a link that was up before.
        let (here, _) = group.join(0, 1).await;
        group.ports[0].port.disconnect(here);
        group.until("`Down` after disconnect", |ports| ports[0].is_down(here).then_some(())).await;
    }
    assert_eq!(group.ports[0].links.len(), LINK_ROUNDS, "links made by as many connects");
    group.close().await;
}

async fn disconnecting_takes_the_link_down_at_both_ends(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 2).await;
    let (other_here, other_there) = group.join(0, 1).await;
    let (here, there) = group.join(0, 1).await;
    group.ports[0].port.disconnect(here);
    group.ports[0].port.disconnect(here);
    group.until("`Down` after disconnect", |ports| ports[0].is_down(here).then_some(())).await;
    let refused = group.ports[0].send(here, Bytes::new(), Priority::Normal);
    assert_eq!(refused, Err(SendError::LinkDown), "a send after `Down`");
    if group.reliable() {
        group.until("`Down` at the other end", |ports| ports[1].is_down(there).then_some(())).await;
        let refused = group.ports[1].send(there, Bytes::new(), Priority::Normal);
        assert_eq!(refused, Err(SendError::LinkDown), "a send after `Down`");
    }
    group.keep_quiet().await;
    assert_eq!(group.ports[0].links.len(), 2, "a link that was disconnected on purpose was dialled again");
    assert!(!group.ports[0].is_down(other_here), "disconnecting one link took another one down");
    assert!(!group.ports[1].is_down(other_there), "disconnecting one link took another one down");
    group.close().await;
}

async fn a_link_dropped_by_the_other_side_is_dialled_again_if_the_port_says_so(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 2).await;
    let (here, there) = group.join(0, 1).await;
    let redials = group.ports[0].profile.redials;
    group.ports[1].port.disconnect(there);
    group.until("`Down` after disconnect", |ports| ports[1].is_down(there).then_some(())).await;
    if group.reliable() || redials {
        group.until("`Down` at the other end", |ports| ports[0].is_down(here).then_some(())).await;
    }
    if redials {
        let up = |ports: &mut [Watch]| {
            ports[0].links.iter().find(|(_, link)| !link.down).map(|(_, link)| link.dialed)
        };
        let dialed = group.until("a further `Up` from a port that redials", up).await;
        assert!(dialed, "the port that dialled again says that the other side did");
    } else {
        group.keep_quiet().await;
        assert_eq!(group.ports[0].links.len(), 1, "a port that does not redial made a further link");
    }
    group.close().await;
}

async fn closing_ends_everything_and_may_be_repeated(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 2).await;
    let (here, there) = group.join(0, 1).await;
    group.keep_quiet_for(group.quiet / 10).await;
    let closing = group.ports[0].port.clone();
    let mut waiting = closing.recv();
    assert!((&mut waiting).now_or_never().is_none(), "`recv` returned although nothing happened");
    group.in_time("`close`", closing.close()).await;
    let ended = group.in_time("a waiting `recv` after `close`", waiting).await;
    assert!(matches!(ended, Err(PortError::Closed)), "a waiting `recv` after `close`: {ended:?}");
    for _ in 0..2 {
        let ended = group.in_time("`recv` after `close`", closing.recv()).await;
        assert!(matches!(ended, Err(PortError::Closed)), "`recv` after `close`: {ended:?}");
        let refused = closing.try_send(here, Bytes::new(), Priority::Normal);
        assert_eq!(refused, Err(SendError::Closed), "`try_send` after `close`");
        let address = group.ports[1].address.clone();
        let refused = group.in_time("`connect` after `close`", closing.connect(&address)).await;
        assert!(matches!(refused, Err(PortError::Closed)), "`connect` after `close`: {refused:?}");
        closing.disconnect(here);
        group.in_time("a second `close`", closing.close()).await;
    }
    group.ports[0].paused = true;
    if group.reliable() {
        group
            .until("`Down` at the other end of a closed port", |ports| ports[1].is_down(there).then_some(()))
            .await;
        let (other, address) = (group.ports[1].port.clone(), group.ports[0].address.clone());
        let refused = group.in_time("`connect` to a closed port", other.connect(&address)).await;
        assert!(matches!(refused, Err(PortError::Unreachable { .. })), "a closed port listens: {refused:?}");
    }
    group.close().await;
}

async fn addresses_that_lead_nowhere_are_errors(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 2).await;
    let port = group.ports[0].port.clone();
    if let Some(address) = fixture.bad_address() {
        let refused = group.in_time("`connect` to no address", port.connect(&address)).await;
        assert!(
            matches!(&refused, Err(PortError::BadAddress(named)) if *named == address),
            "{address}: {refused:?}"
        );
    }
    if let Some(nobody) = fixture.unreachable_address() {
        let refused = group.in_time("`connect` to nobody", port.connect(&nobody)).await;
        assert!(
            matches!(&refused, Err(PortError::Unreachable { address, .. }) if *address == nobody),
            "{nobody}: {refused:?}"
        );
    }
    group.keep_quiet().await;
    assert_eq!(group.ports[0].links.len(), 0, "a refused connect made a link");
    group.join(0, 1).await;
    group.close().await;
}

async fn sends_from_several_threads_do_not_block(fixture: &impl Fixture) {
    let mut group = Group::open(fixture, 2).await;
    let (here, there) = group.join(0, 1).await;
    let port = group.ports[0].port.clone();
    // Small frames: they fit into any queue, also if nobody drains it before the threads end.
    let frame = |thread: u64, number: u64| pattern(thread * FRAMES_PER_THREAD + number, 16);
    let send = |thread: u64| {
        let outcome = |number| port.try_send(here, frame(thread, number), Priority::Normal);
        (0..FRAMES_PER_THREAD).take_while(|number| outcome(*number).is_ok()).count() as u64
    };
    let before = group.timer.now();
    let taken: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || send(thread))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("`try_send` does not panic on a foreign thread"))
            .collect()
    });
    let took = group.timer.now().since(before);
    assert!(took < group.patience, "`try_send` waited: {took:?} for a few small frames");
    group.ports[0].lenient = true;
    if group.reliable() {
        let arrived = group.frames(1, there, taken.iter().sum::<u64>() as usize).await;
        for (thread, taken) in (0..THREADS).zip(taken) {
            let numbers = thread * FRAMES_PER_THREAD..thread * FRAMES_PER_THREAD + taken;
            let of_thread: Vec<u64> =
                arrived.iter().map(number_of).filter(|n| n / FRAMES_PER_THREAD == thread).collect();
            assert!(
                of_thread.into_iter().eq(numbers),
                "frames of one thread were lost, repeated or reordered"
            );
        }
    }
    group.close().await;
}

/// A frame of `len` bytes that starts with as much of `number` as fits.
fn pattern(number: u64, len: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(len + 8);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend((8..len).map(|at| (at as u64).wrapping_mul(31).wrapping_add(number) as u8));
    bytes.truncate(len);
    bytes.into()
}

/// The number that [`pattern`] put into a frame of at least eight bytes.
fn number_of(frame: &Bytes) -> u64 {
    frame.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
}

/// What was seen of one link.
#[derive(Debug, Default)]
struct Seen {
    dialed: bool,
    down: bool,
    frames: Vec<Bytes>,
}

/// One port, and everything that it reported. Checks on every event that the links' life cycle is kept.
struct Watch {
    port: Arc<dyn MessagePort>,
    address: PeerAddr,
    profile: PortProfile,
    links: BTreeMap<LinkId, Seen>,
    /// Links whose peers have been told apart already.
    taken: BTreeSet<LinkId>,
    /// Links that answered `Full` and owe a `Writable`.
    owed: BTreeSet<LinkId>,
    /// Is not read at present.
    paused: bool,
    /// Several threads sent: which `Full` came after which `Writable` is not known.
    lenient: bool,
}

impl Watch {
    fn send(&mut self, link: LinkId, frame: Bytes, priority: Priority) -> Result<(), SendError> {
        let outcome = self.port.try_send(link, frame, priority);
        if outcome == Err(SendError::Full) {
            self.owed.insert(link);
        }
        outcome
    }

    /// Takes everything that is there; each look is also a `recv` that is dropped.
    fn drain(&mut self) {
        while !self.paused {
            match self.port.recv().now_or_never() {
                None => return,
                Some(Ok(event)) => self.note(event),
                Some(Err(error)) => panic!("`recv` on an open port: {error}"),
            }
        }
    }

    fn note(&mut self, event: PortEvent) {
        let (PortEvent::Up { link, .. }
        | PortEvent::Frame { link, .. }
        | PortEvent::Writable { link }
        | PortEvent::Down { link, .. }) = &event;
        let link = *link;
        if let PortEvent::Up { dialed, .. } = event {
            let before = self.links.insert(link, Seen { dialed, ..Seen::default() });
            assert!(
                before.is_none(),
                "a second `Up` of {link:?}: links come up once and ids are never reused"
            );
            return;
        }
        let Some(seen) = self.links.get_mut(&link) else { panic!("{event:?} before `Up`") };
        assert!(!seen.down, "{event:?} after `Down`");
        match event {
            PortEvent::Frame { frame, .. } => {
                assert!(frame.len() <= self.profile.max_frame, "a frame above the limit arrived");
                seen.frames.push(frame);
            }
            PortEvent::Writable { .. } => {
                let owed = self.owed.remove(&link);
                assert!(
                    owed || self.lenient,
                    "a `Writable` that no `Full` asked for, or the second for one `Full`"
                );
            }
            PortEvent::Down { .. } => {
                seen.down = true;
                self.owed.remove(&link);
            }
            PortEvent::Up { .. } => (),
        }
    }

    fn frames(&self, link: LinkId) -> &[Bytes] {
        self.links.get(&link).map_or(&[], |seen| &seen.frames)
    }

    fn is_down(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(|seen| seen.down)
    }
}

/// The ports of one check.
struct Group {
    ports: Vec<Watch>,
    timer: Arc<dyn TimerPort>,
    patience: Duration,
    quiet: Duration,
}

impl Group {
    async fn open(fixture: &impl Fixture, count: usize) -> Self {
        let mut ports = Vec::new();
        for _ in 0..count {
            let (port, address) = fixture.open().await;
            let profile = port.profile();
            ports.push(Watch {
                port,
                address,
                profile,
                links: BTreeMap::new(),
                taken: BTreeSet::new(),
                owed: BTreeSet::new(),
                paused: false,
                lenient: false,
            });
        }
        Self { ports, timer: fixture.timer(), patience: fixture.patience(), quiet: fixture.quiet() }
    }

    fn reliable(&self) -> bool {
        self.ports[0].profile.reliable
    }

    async fn close(self) {
        for watch in &self.ports {
            self.in_time("`close`", watch.port.close()).await;
        }
    }

    async fn in_time<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        let future = pin!(future);
        match select(future, self.timer.sleep_until(self.timer.now() + self.patience)).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => panic!("{what} did not return within {:?}", self.patience),
        }
    }

    /// Reads all ports until `check` is content, at most for `limit`.
    async fn within<T>(
        &mut self,
        limit: Duration,
        mut check: impl FnMut(&mut [Watch]) -> Option<T>,
    ) -> Option<T> {
        let deadline = self.timer.now() + limit;
        loop {
            self.ports.iter_mut().for_each(Watch::drain);
            if let Some(result) = check(&mut self.ports) {
                return Some(result);
            }
            let now = self.timer.now();
            if now >= deadline {
                return None;
            }
            self.timer.sleep_until(deadline.min(now + self.quiet / LOOKS_PER_QUIET)).await;
        }
    }

    async fn until<T>(&mut self, what: &str, check: impl FnMut(&mut [Watch]) -> Option<T>) -> T {
        let result = self.within(self.patience, check).await;
        result.unwrap_or_else(|| panic!("{what} did not come within {:?}", self.patience))
    }

    async fn keep_quiet(&mut self) {
        self.keep_quiet_for(self.quiet).await;
    }

    async fn keep_quiet_for(&mut self, time: Duration) {
        self.within(time, |_| None::<()>).await;
    }

    /// Connects one port to another; the new link at either end.
    async fn join(&mut self, from: usize, to: usize) -> (LinkId, LinkId) {
        let (port, address) = (self.ports[from].port.clone(), self.ports[to].address.clone());
        let here = match self.in_time("`connect`", port.connect(&address)).await {
            Ok(link) => link,
            Err(error) => panic!("`connect` to an open port: {error}"),
        };
        self.until("`Up` of the link that `connect` returned", |ports| {
            ports[from].links.contains_key(&here).then(|| ports[from].taken.insert(here))
        })
        .await;
        let new = move |ports: &mut [Watch]| {
            let link = *ports[to].links.keys().find(|link| !ports[to].taken.contains(link))?;
            ports[to].taken.insert(link);
            Some(link)
        };
        if self.reliable() {
            return (here, self.until("`Up` at the other end", new).await);
        }
        let deadline = self.timer.now() + self.patience;
        while self.timer.now() < deadline {
            let _best_effort = self.ports[from].send(here, Bytes::from_static(PROBE), Priority::Normal);
            if let Some(there) = self.within(self.quiet, new).await {
                return (here, there);
            }
        }
        panic!("`Up` at the other end did not come within {:?}", self.patience)
    }

    /// Sends all frames, waiting where the link is full.
    async fn send_all(
        &mut self,
        from: usize,
        link: LinkId,
        frames: &[Bytes],
        priority: impl Fn(usize) -> Priority,
    ) {
        for (number, frame) in frames.iter().enumerate() {
            loop {
                match self.ports[from].send(link, frame.clone(), priority(number)) {
                    Ok(()) => break,
                    Err(SendError::Full) => {
                        let writable =
                            |ports: &mut [Watch]| (!ports[from].owed.contains(&link)).then_some(());
                        self.until("`Writable` after `Full`", writable).await;
                    }
                    Err(error) => panic!("a frame of {} bytes on a link that is up: {error}", frame.len()),
                }
            }
        }
    }

    /// Takes the next `count` frames that arrive on a link.
    async fn frames(&mut self, to: usize, link: LinkId, count: usize) -> Vec<Bytes> {
        self.until(&format!("{count} frames"), |ports| {
            let frames = &mut ports[to].links.get_mut(&link)?.frames;
            (frames.len() >= count).then(|| frames.drain(..count).collect())
        })
        .await
    }

    /// On a lossy link: repeats the frames until each has arrived at least once, and nothing else did.
    async fn send_until_all_arrived(
        &mut self,
        from: usize,
        link: LinkId,
        to: usize,
        at: LinkId,
        frames: &[Bytes],
    ) {
        let mut missing: BTreeSet<&Bytes> = frames.iter().collect();
        let deadline = self.timer.now() + self.patience;
        while !missing.is_empty() {
            assert!(self.timer.now() < deadline, "{} frames never arrived", missing.len());
            for frame in missing.iter().copied().cloned().collect::<Vec<_>>() {
                let outcome = self.ports[from].send(link, frame, Priority::Normal);
                assert!(
                    matches!(outcome, Ok(()) | Err(SendError::Full)),
                    "a send on a link that is up: {outcome:?}"
                );
            }
            self.keep_quiet().await;
            let arrived = self.ports[to].links.get_mut(&at).map(|seen| std::mem::take(&mut seen.frames));
            for frame in arrived.unwrap_or_default() {
                assert!(
                    frames.contains(&frame) || frame == PROBE,
                    "a frame arrived that nobody sent on this link"
                );
                missing.remove(&frame);
            }
        }
    }
}

#[cfg(test)]
#[path = "message_port_tests.rs"]
mod tests;
