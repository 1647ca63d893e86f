//! Tips and version vectors: what a node holds of a stream, and where a reader stands.
//!
//! Compared by sequence and hash; whether one entry precedes another on a forked line, only a store can tell.

use std::collections::BTreeMap;
use std::fmt;

use smallvec::SmallVec;

use super::entry::EntryHash;
use super::id::NodeId;

/// An entry of a log by sequence and hash; as a tip, one without a held successor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Tip {
    /// Sequence of the entry; 0 stands for "before the first entry".
    pub sequence: u64,
    /// Hash of the entry; [`EntryHash::ZERO`] at sequence 0.
    pub hash: EntryHash,
}

impl Tip {
    /// Before the first entry of every log.
    pub const START: Self = Self { sequence: 0, hash: EntryHash::ZERO };
}

impl fmt::Debug for Tip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.sequence, self.hash)
    }
}

/// Tips of one log, sorted: one for almost every author, several for a forked one.
pub type Tips = SmallVec<[Tip; 1]>;

/// What is held of a stream: for each author the tips of its log.
///
/// Also the position of a reader ([`Cursor`]): "I have seen everything up to these tips".
#[derive(Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct VersionVector {
    logs: BTreeMap<NodeId, Vec<Tip>>,
}

/// Position of a reader in a stream. Serializable, so that it survives a restart of the reader.
pub type Cursor = VersionVector;

impl VersionVector {
    /// Before the first entry of every log.
    pub const START: Self = Self { logs: BTreeMap::new() };

    /// Replaces the tips of `author`'s log. An empty list, or the tip before the first entry, removes it.
    pub fn set(&mut self, author: NodeId, tips: impl IntoIterator<Item = Tip>) {
        let mut tips: Vec<Tip> = tips.into_iter().filter(|tip| tip.sequence > 0).collect();
        tips.sort_unstable();
        tips.dedup();
        if tips.is_empty() {
            self.logs.remove(&author);
        } else {
            self.logs.insert(author, tips);
        }
    }

    /// The tips of `author`'s log, sorted; empty if nothing is held.
    pub fn tips(&self, author: &NodeId) -> &[Tip] {
        self.logs.get(author).map_or(&[], Vec::as_slice)
    }

    /// All logs with their tips, in the order of the authors.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &[Tip])> {
        self.logs.iter().map(|(author, tips)| (author, tips.as_slice()))
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// Whether each tip of `self` equals or precedes one of `other`.
    ///
    /// Where an author forked, sequences alone do not tell: `precedes(author, a, b)` answers whether the line
    /// that ends at `b` runs through `a`. It is asked only when `a.sequence < b.sequence`.
    pub fn covered_by(&self, other: &Self, mut precedes: impl FnMut(&NodeId, Tip, Tip) -> bool) -> bool {
        self.logs.iter().all(|(author, tips)| {
            let others = other.tips(author);
            tips.iter().all(|a| {
                others.contains(a)
                    || others.iter().any(|b| a.sequence < b.sequence && precedes(author, *a, *b))
            })
        })
    }
}

impl fmt::Debug for VersionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.logs.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tip(sequence: u64, line: u8) -> Tip {
        Tip { sequence, hash: EntryHash::from_bytes([line; 32]) }
    }

    #[test]
    fn a_version_covers_itself_and_what_precedes_it() {
        let ana = NodeId::from_bytes([1; 32]);
        let (mut a, mut b) = (VersionVector::START, VersionVector::START);
        a.set(ana, [tip(3, 0)]);
        b.set(ana, [tip(5, 0)]);
        let straight = |_: &NodeId, _: Tip, _: Tip| true;
        assert!(VersionVector::START.covered_by(&a, straight));
        assert!(a.covered_by(&a, straight) && a.covered_by(&b, straight) && !b.covered_by(&a, straight));
    }

    /// An author's log as a tree: entry n follows a smaller one, and its hash is its number.
    fn through(parents: &[usize], mut from: usize, to: usize) -> bool {
        while from > to {
            from = parents[from - 1];
        }
        from == to
    }

    fn depth(parents: &[usize], mut entry: usize) -> u64 {
        let mut depth = 0;
        while entry > 0 {
            (entry, depth) = (parents[entry - 1], depth + 1);
        }
        depth
    }

    proptest! {
        #[test]
        fn covering_is_reflexive_and_transitive_and_grows_with_the_tree(
            picks in prop::collection::vec(any::<prop::sample::Index>(), 1..40),
            cuts in prop::array::uniform3(prop::collection::vec(any::<prop::sample::Index>(), 0..4)),
        ) {
            let parents: Vec<usize> = picks.iter().enumerate().map(|(n, pick)| pick.index(n + 1)).collect();
            let ana = NodeId::from_bytes([1; 32]);
            let at = |entry: usize| tip(depth(&parents, entry), entry as u8);
            let vector = |entries: &[usize]| {
                let mut vector = VersionVector::START;
                vector.set(ana, entries.iter().map(|entry| at(*entry)));
                vector
            };
            let precedes = |_: &NodeId, a: Tip, b: Tip| {
                through(&parents, usize::from(b.hash.as_bytes()[0]), usize::from(a.hash.as_bytes()[0]))
            };
            let [a, b, c] = cuts.map(|cut| {
                let entries: Vec<usize> = cut.iter().map(|pick| pick.index(parents.len() + 1)).collect();
                vector(&entries)
            });
            prop_assert!(a.covered_by(&a, precedes) && VersionVector::START.covered_by(&a, precedes));
            if a.covered_by(&b, precedes) && b.covered_by(&c, precedes) {
                prop_assert!(a.covered_by(&c, precedes));
            }
            let last = parents.len();
            prop_assert!(vector(&[parents[last - 1]]).covered_by(&vector(&[last]), precedes));
            prop_assert!(!vector(&[last]).covered_by(&vector(&[parents[last - 1]]), precedes));
        }
    }

    #[test]
    fn a_forked_line_is_covered_only_by_a_line_through_it() {
        let ana = NodeId::from_bytes([1; 32]);
        let (mut a, mut b) = (VersionVector::START, VersionVector::START);
        a.set(ana, [tip(3, 1), tip(4, 2)]);
        b.set(ana, [tip(5, 1)]);
        let same_line = |_: &NodeId, a: Tip, b: Tip| a.hash == b.hash;
        assert!(!a.covered_by(&b, same_line));
        b.set(ana, [tip(5, 1), tip(4, 2)]);
        assert!(a.covered_by(&b, same_line));
    }
}
