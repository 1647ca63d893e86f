//! One unreliable link made into an authenticated, encrypted connection with two reliable ordered lanes.
//!
//! [`Session`] is synchronous and total: it is handed frames, the time and a seed, and hands out frames and
//! events. It never reads a clock, draws randomness, or performs I/O. The driver in `application` owns one per
//! link and is the only caller. `docs/protocol/session.md` has the bytes.
//!
//! - `handshake`: Noise XX with the node keys; greetings on links that the transport has proven.
//! - `protect`: numbering, encryption, replay protection, change of keys.
//! - `protocol::delivery`: fragments, acknowledgements, retransmission, windows.
//!
//! ```
//! use std::time::Duration;
//! use anabranch::PortProfile;
//! use anabranch::domain::{identity::Identity, time::Instant};
//! use anabranch::protocol::session::{Lane, Session, SessionConfig, SessionEvent};
//!
//! let profile = PortProfile::unauthenticated(1200);
//! let session = |secret, dialed| {
//!     let identity = Identity::from_secret([secret; 32]);
//!     Session::new(SessionConfig::default(), identity, profile, None, dialed, [secret; 32], Instant::ZERO)
//! };
//! let (mut ana, mut ben) = (session(1, true), session(2, false));
//! ana.send(Lane::Control, "hello".into()).expect("the lane is empty");
//! let (mut events, mut now) = (Vec::new(), Instant::ZERO);
//! for _ in 0..4 {
//!     while let Some((frame, _)) = ana.poll_transmit(now) {
//!         ben.handle_frame(frame, now, &mut events);
//!     }
//!     while let Some((frame, _)) = ben.poll_transmit(now) {
//!         ana.handle_frame(frame, now, &mut Vec::new());
//!     }
//!     now = now + Duration::from_millis(1);
//! }
//! assert!(matches!(&events[..], [SessionEvent::Established { .. }, SessionEvent::Message { message, .. }]
//!     if message == "hello"));
//! assert_eq!(ana.peer(), Some(Identity::from_secret([2; 32]).node()));
//! ```

mod config;
mod engine;
mod event;
mod handshake;
mod protect;
#[cfg(test)]
mod tests;

pub use self::config::SessionConfig;
pub use self::engine::Session;
pub use self::event::{
    CloseReason, DatagramTooLarge, LaneFull, PeerReason, SessionEvent, SessionFault, SessionStats,
};
pub use crate::protocol::delivery::Lane;

/// Version of the frames of this module, the upper three bits of the first byte of each.
pub const WIRE_VERSION: u8 = 1;
