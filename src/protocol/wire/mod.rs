//! Messages between two nodes, and their bytes.
//!
//! A message is a byte with its version and form, followed by postcard. Sessions carry messages; nothing in here knows how.
//! Decoding is total and allocates no more than a constant times the bytes received: there are no maps and no
//! types of zero size, and every element of a list costs bytes. The enums only ever grow at their end;
//! `tests/golden` of this module pins their bytes.

mod message;
mod version;

pub use message::{
    Announcement, ChannelRef, Details, Guess, HaveItem, KeyRef, ListItem, LogRef, Marker, Message,
    MessageError, RunMessage, RunRef, ShareTag, TipMark, Version, Why,
};
pub use version::MessageVersion;
