//! Versions of messages, and which one two nodes use.
//!
//! Each node says first what it reads ([`Message::Speaks`](super::Message::Speaks)), in a form that every later version keeps, and
//! begins in version 1. Once it has heard the same of its peer it writes the newest that both read. Whoever reads version 1 only
//! takes that first word for noise, says none, and is answered in version 1. Used by the gossip engine.

/// How messages are written: the upper half of the byte that leads each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MessageVersion {
    /// The first.
    V1 = 1,
    /// Nodes say what they read, and an acknowledgement says what is held.
    V2 = 2,
}

impl MessageVersion {
    /// The newest that this build reads and writes. It reads and writes all before it, too.
    pub const NEWEST: Self = Self::V2;
    const ALL: [Self; 2] = [Self::V1, Self::V2];

    /// The number on the wire.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The newest, up to this one, for somebody who reads from `oldest` to `newest`; `None` if the two have none in common.
    pub(crate) fn common(self, oldest: u8, newest: u8) -> Option<Self> {
        let known = Self::ALL.into_iter().filter(|version| *version <= self);
        known.rev().find(|version| (oldest..=newest).contains(&version.number()))
    }
}

#[cfg(test)]
mod tests {
    use super::MessageVersion::{V1, V2};

    #[test]
    fn two_nodes_use_the_newest_version_that_both_read() {
        assert_eq!(V2.common(1, 2), Some(V2));
        assert_eq!(V2.common(1, 9), Some(V2));
        assert_eq!(V2.common(2, 2), Some(V2));
        assert_eq!(V2.common(1, 1), Some(V1));
        assert_eq!(V1.common(1, 2), Some(V1));
        for (oldest, newest) in [(3, 9), (0, 0), (2, 1)] {
            assert_eq!(V2.common(oldest, newest), None);
        }
        assert_eq!(V1.common(2, 2), None);
    }
}
