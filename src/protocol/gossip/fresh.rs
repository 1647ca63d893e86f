//! Logs whose latest entries are left to the tree of eager links for the time being.
//!
//! Every log costs the logarithm of their number, once when it comes and once when its time is over, however many there
//! are. Part of the gossip engine; `spread` says what they are for.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::domain::id::LogKey;
use crate::domain::time::Instant;

/// How long fresh entries are left to the tree and the notes before a comparison over a lazy link brings them: a note, its
/// patience and both their jitter take half of it, the question and the answer with a loss each the rest.
const TREE_TIME: Duration = Duration::from_secs(1);
/// Times that a log was left to the tree, remembered until they are over, about 100 bytes each; comparisons bring what comes
/// beyond.
const MAX_FRESH: usize = 4096;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Fresh {
    until: BTreeMap<LogKey, Instant>,
    /// All of them by the end of their time, and those that were left to the tree again since.
    ends: VecDeque<(Instant, LogKey)>,
}

impl Fresh {
    /// Leaves a log to the tree from `now` on. Times must not fall from call to call.
    pub(super) fn leave(&mut self, key: LogKey, now: Instant) {
        while let Some((end, key)) = self.ends.front().copied().filter(|(end, _)| *end <= now) {
            self.ends.pop_front();
            if self.until.get(&key) == Some(&end) {
                self.until.remove(&key);
            }
        }
        if self.ends.len() < MAX_FRESH {
            let end = now + TREE_TIME;
            // Many entries in one turn are one time.
            if self.until.insert(key, end) != Some(end) {
                self.ends.push_back((end, key));
            }
        }
    }

    pub(super) fn is_left(&self, key: &LogKey, now: Instant) -> bool {
        self.until.get(key).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> LogKey {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        LogKey::from_bytes(bytes)
    }

    #[test]
    fn a_log_is_left_to_the_tree_until_its_latest_time_is_over() {
        let (mut fresh, start) = (Fresh::default(), Instant::ZERO);
        fresh.leave(key(1), start);
        fresh.leave(key(1), start + TREE_TIME / 2);
        fresh.leave(key(2), start + TREE_TIME);
        assert!(fresh.is_left(&key(1), start + TREE_TIME));
        assert!(!fresh.is_left(&key(1), start + TREE_TIME * 3 / 2));
        fresh.leave(key(2), start + TREE_TIME * 3);
        assert_eq!(fresh.until.len(), 1, "what is over is forgotten");
    }

    #[test]
    fn i6_no_more_is_remembered_than_allowed_and_later_logs_find_room_again() {
        let (mut fresh, start) = (Fresh::default(), Instant::ZERO);
        for number in 0..2 * MAX_FRESH {
            fresh.leave(key(number % 5000), start + Duration::from_nanos(number as u64));
        }
        assert_eq!((fresh.ends.len(), fresh.until.len()), (MAX_FRESH, MAX_FRESH));
        assert!(!fresh.is_left(&key(MAX_FRESH), start));
        fresh.leave(key(MAX_FRESH), start + TREE_TIME * 2);
        assert!(fresh.is_left(&key(MAX_FRESH), start + TREE_TIME * 2));
        assert_eq!((fresh.ends.len(), fresh.until.len()), (1, 1));
    }
}
