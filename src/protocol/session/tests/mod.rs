//! Whole sessions over bad links.

mod bounds;
mod handshake;
mod lanes;
mod pipe;
mod speed;
