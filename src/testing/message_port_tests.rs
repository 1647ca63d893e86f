//! The in-memory port passes the suite on good and on bad links; ports with a planted fault do not.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::ManualTimer;
use super::*;
use crate::infrastructure::link_profile::{Chance, LinkProfile};
use crate::infrastructure::memory_port::MemoryNetwork;

struct Memory<W> {
    network: MemoryNetwork,
    timer: ManualTimer,
    opened: AtomicU32,
    wrap: W,
}

#[async_trait]
impl<W: Fn(Arc<dyn MessagePort>) -> Arc<dyn MessagePort> + Send + Sync> Fixture for Memory<W> {
    async fn open(&self) -> (Arc<dyn MessagePort>, PeerAddr) {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let port = self.network.port(&format!("port {number}"));
        let address = port.address();
        ((self.wrap)(Arc::new(port)), address)
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

    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }

    fn quiet(&self) -> Duration {
        Duration::from_secs(2)
    }
}

fn run(profile: LinkProfile, wrap: impl Fn(Arc<dyn MessagePort>) -> Arc<dyn MessagePort> + Send + Sync) {
    let timer = ManualTimer::new();
    let network = MemoryNetwork::with_model(profile, 5, Arc::new(timer.clone()));
    timer.clone().run(conformance(&Memory { network, timer, opened: AtomicU32::new(0), wrap }));
}

#[test]
fn the_memory_port_conforms_on_perfect_links() {
    run(LinkProfile::perfect().reliable(), |port| port);
}

#[test]
fn the_memory_port_conforms_on_slow_links_that_repair_themselves() {
    run(LinkProfile { loss: Chance::new(0.2), ..LinkProfile::mobile() }.reliable(), |port| port);
}

#[test]
fn the_memory_port_conforms_on_lossy_links() {
    for profile in [LinkProfile::wifi(), LinkProfile::mobile(), LinkProfile::ble()] {
        run(profile, |port| port);
    }
}

#[cfg(feature = "tokio")]
#[test]
fn the_memory_port_conforms_in_real_time_on_a_runtime() {
    struct Real(MemoryNetwork, Arc<dyn TimerPort>, AtomicU32);

    #[async_trait]
    impl Fixture for Real {
        async fn open(&self) -> (Arc<dyn MessagePort>, PeerAddr) {
            let port = self.0.port(&format!("port {}", self.2.fetch_add(1, Ordering::Relaxed)));
            let address = port.address();
            (Arc::new(port), address)
        }
        fn bad_address(&self) -> Option<PeerAddr> {
            Some("x".repeat(65).into())
        }
        fn unreachable_address(&self) -> Option<PeerAddr> {
            None
        }
        fn timer(&self) -> Arc<dyn TimerPort> {
            self.1.clone()
        }
        fn quiet(&self) -> Duration {
            Duration::from_millis(20)
        }
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let timer: Arc<dyn TimerPort> = Arc::new(crate::infrastructure::system_timer::SystemTimer::new());
    let network = MemoryNetwork::with_model(LinkProfile::loopback().reliable(), 1, timer.clone());
    runtime.block_on(conformance(&Real(network, timer, AtomicU32::new(0))));
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    LosesFrames,
    RepeatsFrames,
    SwapsFrames,
    FlipsABit,
    CutsLongFrames,
    CrossesLinks,
    TakesTooLarge,
    RefusesTheLargest,
    NeverFull,
    NeverWritable,
    WritableTwice,
    WritableUnasked,
    NoUp,
    UpTwice,
    UpLate,
    BothDialed,
    NoDown,
    DownTwice,
    DisconnectIgnored,
    DisconnectTakesAll,
    IdsReused,
    RecvForgetsWhenDropped,
    RecvNeverWakes,
    CloseIgnored,
    SendsAfterClose,
    ConnectsAfterClose,
    AnyAddressIsGood,
    NobodyAnswers,
    UnknownLinkIsFine,
    TinyFrames,
    ClaimsToRedial,
}

/// A port with one planted fault.
struct Broken {
    inner: Arc<dyn MessagePort>,
    fault: Fault,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sent: u64,
    events: u64,
    later: VecDeque<PortEvent>,
    held_back: Option<Bytes>,
    late_up: Option<PortEvent>,
    first_link: Option<LinkId>,
    closed: bool,
}

#[async_trait]
impl MessagePort for Broken {
    fn profile(&self) -> PortProfile {
        let profile = self.inner.profile();
        match self.fault {
            Fault::TinyFrames => PortProfile { max_frame: MIN_FRAME_BYTES - 1, ..profile },
            Fault::RefusesTheLargest => PortProfile { max_frame: profile.max_frame + 1, ..profile },
            Fault::TakesTooLarge => PortProfile { max_frame: profile.max_frame / 4, ..profile },
            Fault::ClaimsToRedial => profile.redialling(),
            _ => profile,
        }
    }

    fn try_send(&self, to: LinkId, frame: Bytes, priority: Priority) -> Result<(), SendError> {
        let mut state = self.state.lock().unwrap();
        state.sent += 1;
        let first = *state.first_link.get_or_insert(to);
        match self.fault {
            Fault::LosesFrames if state.sent.is_multiple_of(7) => return Ok(()),
            Fault::RepeatsFrames if state.sent.is_multiple_of(7) => {
                self.inner.try_send(to, frame.clone(), priority)?;
            }
            Fault::SwapsFrames => {
                return match state.held_back.take() {
                    None => {
                        state.held_back = Some(frame);
                        Ok(())
                    }
                    Some(before) => {
                        self.inner.try_send(to, frame, priority)?;
                        self.inner.try_send(to, before, priority)
                    }
                };
            }
            Fault::FlipsABit if frame.len() > 200 => {
                let mut bytes = frame.to_vec();
                bytes[200] ^= 1;
                return self.inner.try_send(to, bytes.into(), priority);
            }
            Fault::CutsLongFrames => {
                let len = frame.len().min(self.inner.profile().max_frame - 1);
                return self.inner.try_send(to, frame.slice(..len), priority);
            }
            Fault::CrossesLinks => return self.inner.try_send(first, frame, priority),
            Fault::NeverFull => {
                let outcome = self.inner.try_send(to, frame, priority);
                return if outcome == Err(SendError::Full) { Ok(()) } else { outcome };
            }
            Fault::WritableUnasked if state.sent == 5 => {
                state.later.push_back(PortEvent::Writable { link: to });
            }
            Fault::SendsAfterClose if state.closed => return Ok(()),
            Fault::UnknownLinkIsFine => {
                let outcome = self.inner.try_send(to, frame, priority);
                return if outcome == Err(SendError::LinkDown) { Ok(()) } else { outcome };
            }
            _ => (),
        }
        self.inner.try_send(to, frame, priority)
    }

    async fn connect(&self, address: &PeerAddr) -> Result<LinkId, PortError> {
        let outcome = self.inner.connect(address).await;
        match (self.fault, outcome) {
            (Fault::AnyAddressIsGood, Err(PortError::BadAddress(_))) => Ok(LinkId(77)),
            (Fault::NobodyAnswers, Err(PortError::Unreachable { .. })) => Ok(LinkId(78)),
            (Fault::ConnectsAfterClose, Err(PortError::Closed)) => Ok(LinkId(77)),
            (_, outcome) => outcome,
        }
    }

    async fn recv(&self) -> Result<PortEvent, PortError> {
        loop {
            let later = self.state.lock().unwrap().later.pop_front();
            let event = match later {
                Some(event) => return Ok(event),
                None if self.fault == Fault::RecvNeverWakes => match self.inner.recv().now_or_never() {
                    Some(event) => event?,
                    None => std::future::pending().await,
                },
                None => match (self.fault, self.inner.recv().await) {
                    (Fault::CloseIgnored, Err(_)) => std::future::pending().await,
                    (_, event) => event?,
                },
            };
            if self.fault == Fault::RecvForgetsWhenDropped {
                let mut yielded = false;
                std::future::poll_fn(|context| {
                    context.waker().wake_by_ref();
                    if std::mem::replace(&mut yielded, true) {
                        std::task::Poll::Ready(())
                    } else {
                        std::task::Poll::Pending
                    }
                })
                .await;
            }
            let mut state = self.state.lock().unwrap();
            state.events += 1;
            match (self.fault, &event) {
                (Fault::NoUp, PortEvent::Up { .. })
                | (Fault::NoDown, PortEvent::Down { .. })
                | (Fault::NeverWritable, PortEvent::Writable { .. }) => continue,
                (Fault::UpTwice, PortEvent::Up { .. })
                | (Fault::DownTwice, PortEvent::Down { .. })
                | (Fault::WritableTwice, PortEvent::Writable { .. }) => state.later.push_back(event.clone()),
                (Fault::UpLate, PortEvent::Up { .. }) => {
                    state.late_up = Some(event);
                    continue;
                }
                (Fault::UpLate, _) => {
                    let up = state.late_up.take();
                    state.later.extend(up);
                }
                (Fault::BothDialed, PortEvent::Up { link, proven, .. }) => {
                    return Ok(PortEvent::Up { link: *link, proven: *proven, dialed: true });
                }
                (Fault::IdsReused, PortEvent::Up { proven, dialed, link }) => {
                    let link = *state.first_link.get_or_insert(*link);
                    return Ok(PortEvent::Up { link, proven: *proven, dialed: *dialed });
                }
                _ => (),
            }
            return Ok(event);
        }
    }

    fn disconnect(&self, link: LinkId) {
        match self.fault {
            Fault::DisconnectIgnored => (),
            Fault::DisconnectTakesAll => (0..1_000).for_each(|link| self.inner.disconnect(LinkId(link))),
            _ => self.inner.disconnect(link),
        }
    }

    async fn close(&self) {
        self.state.lock().unwrap().closed = true;
        self.inner.close().await;
    }
}

#[test]
fn every_planted_fault_is_found_for_what_it_is() {
    use Fault::*;
    for (fault, complaint) in [
        (LosesFrames, "frames did not come"),
        (RepeatsFrames, "did not arrive as they were sent"),
        (SwapsFrames, "did not arrive as they were sent"),
        (FlipsABit, "did not arrive as they were sent"),
        (CutsLongFrames, "did not arrive as they were sent"),
        (CrossesLinks, "frames did not come"),
        (TakesTooLarge, "a frame of 16385 bytes with a limit of 16384"),
        (RefusesTheLargest, "exceeds the port's limit"),
        (NeverFull, "no `Full` asked for"),
        (NeverWritable, "`Writable` after `Full` did not come"),
        (WritableTwice, "the second for one `Full`"),
        (WritableUnasked, "no `Full` asked for"),
        (NoUp, "`Up` of the link that `connect` returned did not come"),
        (UpTwice, "a second `Up`"),
        (UpLate, "`Up` of the link that `connect` returned did not come"),
        (BothDialed, "`Up` on the dialled side"),
        (NoDown, "`Down` after disconnect did not come"),
        (DownTwice, "after `Down`"),
        (DisconnectIgnored, "`Down` after disconnect did not come"),
        (DisconnectTakesAll, "took another one down"),
        (IdsReused, "a second `Up`"),
        (RecvForgetsWhenDropped, "did not come"),
        (RecvNeverWakes, "was not woken"),
        (CloseIgnored, "after `close` did not return"),
        (SendsAfterClose, "`try_send` after `close`"),
        (ConnectsAfterClose, "`connect` after `close`"),
        (AnyAddressIsGood, "LinkId(77)"),
        (NobodyAnswers, "LinkId(78)"),
        (UnknownLinkIsFine, "a link that never existed"),
        (TinyFrames, "is below 512 bytes"),
        (ClaimsToRedial, "a further `Up`"),
    ] {
        let plant = move |inner| -> Arc<dyn MessagePort> {
            Arc::new(Broken { inner, fault, state: Mutex::default() })
        };
        let found = std::panic::catch_unwind(|| run(LinkProfile::perfect().reliable(), plant));
        let Err(payload) = found else { panic!("{fault:?} went unnoticed") };
        let message = payload.downcast_ref::<String>().map(String::as_str);
        let message = message.or(payload.downcast_ref::<&str>().copied()).unwrap_or_default();
        assert!(message.contains(complaint), "{fault:?} was found only by chance: {message}");
    }
}
