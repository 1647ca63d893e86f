//! Liveness: who answers.
//!
//! SWIM (Das, Gupta and Motivala, 2002) with Lifeguard (Dadgar, Phillips and Currey, 2017), for groups that come apart
//! and together again: an unreachable node is not dead, and nobody is given up on hearsay.
//!
//! # What is believed of whom
//!
//! | what | believed because | what a liar can do with it |
//! |---|---|---|
//! | "I am here" | the frame's tag or the caller's session, its number, and an answer to an own nonce once | nothing |
//! | "X answered my ping for you" | a tag of X for whoever asked | nothing |
//! | "I live in incarnation n", "I left" | signed by its subject, for this group | speak for itself only |
//! | metadata | signed by its owner, one value per version | speak for itself only |
//! | "X does not answer me" | unsigned: a hint | make others look for themselves, at a bounded pace, and X deny it twice per second |
//! | "X can be reached there" | unsigned: a hint, where nothing else is known | make others send a frame in vain |
//!
//! Accusations are unsigned because nothing follows from them: an observer's verdict takes an own probe of its own that failed.
//!
//! [`Prober`] watches one session for the driver.

mod auth;
mod codec;
mod config;
mod dissemination;
mod engine;
mod joining;
mod member;
mod metadata;
mod news;
mod probe;
mod prober;
mod probing;
mod receiving;
mod rng;
mod rtt;
mod statement;
mod stats;
mod suspecting;
mod suspicion;
mod syncing;
#[cfg(test)]
mod tests;
mod wire;

pub use codec::Malformed;
pub use config::{FrameAuth, SwimConfig};
pub use engine::{Effect, Input, MemberView, SwimEngine};
pub use member::Status;
pub use metadata::{MAX_METADATA_BYTES, Metadata, MetadataTooLarge, SignedMetadata};
pub use prober::{Probe, Prober};
pub use rtt::Rtt;
pub use statement::{Incarnation, Statement};
pub use stats::SwimStats;
pub use wire::{
    AGE_GIVEN_UP, Accusation, BUCKETS, Body, Kind, MAX_HINT_BYTES, Nonce, Packet, Proof, ShortId, Update,
    VERSION,
};
