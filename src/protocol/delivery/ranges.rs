//! Sets of `u64` kept as ranges: frame numbers received, stream bytes acknowledged or lost.

use std::collections::BTreeMap;

/// Disjoint half-open ranges that never touch each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    /// Adds `start..end`.
    pub(crate) fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        if let Some((&low, high)) = self.0.range_mut(..=start).next_back()
            && *high >= start
        {
            if *high >= end {
                return;
            }
            start = low;
        }
        while let Some((&low, &high)) = self.0.range(start..=end).next() {
            self.0.remove(&low);
            end = end.max(high);
        }
        self.0.insert(start, end);
    }

    /// Takes `start..end` out.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        if let Some((_, high)) = self.0.range_mut(..start).next_back()
            && *high > start
        {
            let rest = *high;
            *high = start;
            if rest > end {
                self.0.insert(end, rest);
                return;
            }
        }
        while let Some((&low, &high)) = self.0.range(start..end).next() {
            self.0.remove(&low);
            if high > end {
                self.0.insert(end, high);
            }
        }
    }

    /// The lowest range.
    pub(crate) fn first(&self) -> Option<(u64, u64)> {
        self.0.first_key_value().map(|(&start, &end)| (start, end))
    }

    /// Removes the lowest range and returns it.
    pub(crate) fn pop_first(&mut self) -> Option<(u64, u64)> {
        self.0.pop_first()
    }

    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is in the set.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges from the highest down.
    pub(crate) fn descending(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().rev().map(|(&start, &end)| (start, end))
    }

    /// Whether all of `start..end` is in the set.
    pub(crate) fn covers(&self, start: u64, end: u64) -> bool {
        start >= end || self.within(start, end).next() == Some((start, end))
    }

    /// The parts of `start..end` that are in the set, ascending.
    pub(crate) fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let below = self.0.range(..start).next_back().map(|(_, &high)| (start, high.min(end)));
        let inside = self.0.range(start..end.max(start)).map(move |(&low, &high)| (low, high.min(end)));
        below.into_iter().chain(inside).filter(|(low, high)| low < high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_range_set_holds_what_a_set_of_numbers_would(
            ops in proptest::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 0..40),
        ) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (insert, start, len) in ops {
                if insert {
                    set.insert(start, start + len);
                    model.extend(start..start + len);
                } else {
                    set.remove(start, start + len);
                    model.retain(|n| !(start..start + len).contains(n));
                }
                let mut flat: Vec<u64> = set.descending().flat_map(|(low, high)| (low..high).rev()).collect();
                flat.reverse();
                prop_assert_eq!(&flat, &model.iter().copied().collect::<Vec<_>>());
                let ranges: Vec<_> = set.0.iter().collect();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "ranges touch");
                let part: Vec<u64> = set.within(10, 30).flat_map(|(low, high)| low..high).collect();
                prop_assert_eq!(part, model.range(10..30).copied().collect::<Vec<_>>());
            }
        }
    }
}
