//! Blocks: where a line may be cut so that every prefix can be proven with one signature.
//!
//! A block ends after 256 entries, or before the entry that would take its payload over 256 KiB; a larger
//! entry stands alone. That is a function of the line only, so author and receivers find the same ends.

use std::num::NonZeroU32;

/// Entries after which a block ends: bounds what a receiver must hold unverified, and costs an author one
/// signature (17 us) per 256 appends, under 0.1 us each.
pub const BLOCK_ENTRIES: u32 = 256;
/// Payload bytes a block holds at most, unless a single entry is larger.
pub const BLOCK_BYTES: u32 = 256 * 1024;

/// How much of the current block a line has filled after its last entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct BlockPhase {
    entries: u32,
    bytes: u32,
}

/// Where [`BlockPhase::push`] found a block end, relative to the entry just pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockEnd {
    /// The entry is inside a block.
    None,
    /// The entry before this one ended its block: this one did not fit.
    Before,
    /// This entry ends its block.
    After,
    /// The entry before this one ended its block, and this one stands alone in the next.
    Both,
}

impl BlockPhase {
    /// The phase at the start of a block: at sequence 0, and right after every block end.
    pub const START: Self = Self { entries: 0, bytes: 0 };

    /// Counts an entry of `payload_len` bytes and says where a block ended.
    pub fn push(&mut self, payload_len: usize) -> BlockEnd {
        let len = u32::try_from(payload_len).unwrap_or(u32::MAX);
        let before = self.entries > 0 && self.bytes.saturating_add(len) > BLOCK_BYTES;
        if before {
            *self = Self::START;
        }
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(len);
        // A payload that fills the block by itself ends it at once: nothing but empty payloads could follow.
        let after = self.entries == BLOCK_ENTRIES || self.bytes >= BLOCK_BYTES;
        if after {
            *self = Self::START;
        }
        match (before, after) {
            (false, false) => BlockEnd::None,
            (true, false) => BlockEnd::Before,
            (false, true) => BlockEnd::After,
            (true, true) => BlockEnd::Both,
        }
    }

    /// Entries in the current, unfinished block; `None` at a block end.
    pub fn open_entries(self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.entries)
    }

    /// Payload bytes in the current, unfinished block.
    pub fn open_bytes(self) -> u32 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_ends_after_256_entries() {
        let mut phase = BlockPhase::START;
        for n in 1..=600u32 {
            let end = phase.push(100);
            assert_eq!(end, if n % 256 == 0 { BlockEnd::After } else { BlockEnd::None });
        }
    }

    #[test]
    fn a_block_ends_before_the_entry_that_does_not_fit_and_a_larger_entry_stands_alone() {
        let mut phase = BlockPhase::START;
        assert_eq!(phase.push(200_000), BlockEnd::None);
        assert_eq!(phase.push(100_000), BlockEnd::Before);
        assert_eq!(phase.push(1_000_000), BlockEnd::Both);
        assert_eq!(phase.push(1_000_000), BlockEnd::After);
        assert_eq!(phase.push(1), BlockEnd::None);
    }
}
