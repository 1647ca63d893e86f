//! Changes of one record on their way into the store, and where it goes back to when one is refused.
//!
//! Each change builds on those submitted before it, whatever becomes of them. A full disk may refuse one before earlier ones
//! are durable. Owned by the replica's channels, under the lock of what it describes.

use std::collections::VecDeque;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Changes<S> {
    /// What the store holds.
    kept: S,
    /// What each change under way, by number, leads to.
    pending: VecDeque<(u64, S)>,
    submitted: u64,
}

impl<S: Clone> Changes<S> {
    pub(crate) fn new(kept: S) -> Self {
        Self { kept, pending: VecDeque::new(), submitted: 0 }
    }

    /// The record is to become `state`; the number of this change.
    pub(crate) fn submit(&mut self, state: S) -> u64 {
        self.submitted += 1;
        self.pending.push_back((self.submitted, state));
        self.submitted
    }

    /// The change of this number is written, and with it the fate of all before it is known.
    pub(crate) fn written(&mut self, number: u64) {
        while self.pending.front().is_some_and(|(pending, _)| *pending <= number)
            && let Some((settled, state)) = self.pending.pop_front()
        {
            if settled == number {
                self.kept = state;
            }
        }
    }

    /// The change of this number was refused: what the record goes back to, unless a later change includes it.
    pub(crate) fn refused(&mut self, number: u64) -> Option<S> {
        let is_newest = self.pending.back().is_some_and(|(newest, _)| *newest == number);
        self.pending.retain(|(pending, _)| *pending != number);
        is_newest.then(|| self.pending.back().map_or(&self.kept, |(_, state)| state).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_change_goes_back_to_what_the_store_holds() {
        let mut changes = Changes::new("a");
        let b = changes.submit("b");
        assert_eq!(changes.refused(b), Some("a"));
        let c = changes.submit("c");
        changes.written(c);
        let d = changes.submit("d");
        assert_eq!(changes.refused(d), Some("c"));
    }

    #[test]
    fn a_refusal_that_overtakes_an_earlier_write_goes_back_to_that() {
        let mut changes = Changes::new("a");
        let (b, c) = (changes.submit("b"), changes.submit("bc"));
        assert_eq!(changes.refused(c), Some("b"));
        changes.written(b);
        let d = changes.submit("bd");
        assert_eq!(changes.refused(d), Some("b"));
    }

    #[test]
    fn a_refused_change_that_a_later_one_includes_stays_if_that_is_written_and_goes_if_not() {
        let mut changes = Changes::new("a");
        let (b, c) = (changes.submit("b"), changes.submit("bc"));
        assert_eq!(changes.refused(b), None);
        changes.written(c);
        let (d, e) = (changes.submit("bcd"), changes.submit("bcde"));
        assert_eq!((changes.refused(d), changes.refused(e)), (None, Some("bc")));
    }

    #[test]
    fn i6_a_change_whose_author_did_not_wait_is_forgotten_with_the_next_that_is_written() {
        let mut changes = Changes::new(0);
        for state in 1..100 {
            let last = changes.submit(state);
            if state % 10 == 0 {
                changes.written(last);
                assert!(changes.pending.is_empty());
            }
        }
        assert_eq!(changes.kept, 90);
    }
}
