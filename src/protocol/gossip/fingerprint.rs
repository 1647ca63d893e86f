//! Whether two nodes hold the same of a channel: one incrementally maintained hash over all its logs.
//!
//! The construction is `LtHash` with 1,024 lanes of 16 bits (Bellare and Micciancio 1997; parameters and
//! an estimate of at least 200 bits against collisions: Lewi, Kim, Maykov and Weis, "Securing Update
//! Propagation with Homomorphic Hashing", 2019). Each log counts as one item, its key with its tips; the
//! fingerprint is the sum of the items' expansions, so logs come and go in any order and two fingerprints
//! can be added and subtracted. An item is hashed with blake3 and expanded with `ChaCha20`, which makes 2 KiB at a
//! fraction of the cost of 32 compressions.
//!
//! It never travels whole: [`Fingerprint::salted`] shortens it to 8 bytes under a salt of this exchange, so
//! that a chance collision of short forms does not outlive the exchange. It never says *what* differs.
//! The gossip engine calls it with every change of a log's tips.

use std::collections::BTreeMap;
use std::fmt;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};

use crate::domain::id::LogKey;
use crate::domain::version::Tip;

/// Lanes of the sum (lthash16, as deployed by Lewi et al.).
const LANES: usize = 1024;
/// Bytes of a lane.
const LANE_BYTES: usize = 2;
/// What a log's digest covers first. Entry hashes under the same key cover exactly 89 bytes, digests 16 + 40
/// per tip, which is never 89: no digest is also an entry hash.
const TIPS_DOMAIN: &[u8; 16] = b"anabranch 1 tips";
/// Nonce of the expansion of a digest. Digests serve as keys for nothing else.
const LANES_NONCE: &[u8; 12] = b"anabr1 lanes";
/// What the short form covers first.
const SHORT_DOMAIN: &[u8; 17] = b"anabranch 1 short";
/// Changed logs that a [`LiveFingerprint`] remembers before it expands them: about 130 KB at most, and a
/// settling costs at most 2 * 1,024 expansions (a few milliseconds).
const MAX_PENDING: usize = 1024;

/// Digest of one log with its tips: equal exactly where key and tips are (32 bytes of blake3).
///
/// Costs one compression for the one tip of almost every log; keep it next to the tips.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogDigest([u8; 32]);

impl LogDigest {
    /// The digest of the log of this key with these tips, which must be sorted (as [`Tips`] always are).
    ///
    /// Layout: blake3 keyed by the log key over "anabranch 1 tips" and each tip's sequence u64 and hash 32 B.
    ///
    /// [`Tips`]: crate::domain::version::Tips
    pub fn of(log: &LogKey, tips: &[Tip]) -> Self {
        if let [tip] = tips {
            let mut input = [0; 56];
            input[..16].copy_from_slice(TIPS_DOMAIN);
            input[16..24].copy_from_slice(&tip.sequence.to_le_bytes());
            input[24..].copy_from_slice(tip.hash.as_bytes());
            return Self(*blake3::keyed_hash(log.as_bytes(), &input).as_bytes());
        }
        let mut hasher = blake3::Hasher::new_keyed(log.as_bytes());
        hasher.update(TIPS_DOMAIN);
        for tip in tips {
            hasher.update(&tip.sequence.to_le_bytes());
            hasher.update(tip.hash.as_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The digest with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The first half as a number: what sums of digests are made of.
    pub(super) fn wide(&self) -> u128 {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.0[..16]);
        u128::from_le_bytes(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for LogDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogDigest({:02x}{:02x}{:02x}{:02x})", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// A fingerprint as it travels: 8 bytes that mean something only under the salt of one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ShortFingerprint(pub [u8; 8]);

/// The sum over a set of logs: 2 KiB. Every change is expanded at once; see [`LiveFingerprint`].
#[derive(Clone, PartialEq, Eq)]
pub struct Fingerprint {
    lanes: Box<[u16; LANES]>,
}

impl Fingerprint {
    /// The fingerprint of no logs.
    pub fn empty() -> Self {
        Self { lanes: Box::new([0; LANES]) }
    }

    /// Adds a log. Adding one twice is not the same as adding it once.
    pub fn insert(&mut self, item: &LogDigest) {
        self.fold(item, u16::wrapping_add);
    }

    /// Takes a log away again. Nothing checks that it was there: the sum would only come out wrong.
    pub fn remove(&mut self, item: &LogDigest) {
        self.fold(item, u16::wrapping_sub);
    }

    /// Adds all logs of `other`.
    pub fn combine(&mut self, other: &Self) {
        for (lane, theirs) in self.lanes.iter_mut().zip(other.lanes.iter()) {
            *lane = lane.wrapping_add(*theirs);
        }
    }

    /// Takes all logs of `other` away: how parked logs are left out of one conversation.
    pub fn subtract(&mut self, other: &Self) {
        for (lane, theirs) in self.lanes.iter_mut().zip(other.lanes.iter()) {
            *lane = lane.wrapping_sub(*theirs);
        }
    }

    /// The short form: the first 8 bytes of blake3 keyed by `salt` over "anabranch 1 short" and the lanes,
    /// little-endian.
    pub fn salted(&self, salt: &[u8; 32]) -> ShortFingerprint {
        let mut bytes = [0; LANES * LANE_BYTES];
        for (to, lane) in bytes.chunks_exact_mut(LANE_BYTES).zip(self.lanes.iter()) {
            to.copy_from_slice(&lane.to_le_bytes());
        }
        let mut hasher = blake3::Hasher::new_keyed(salt);
        hasher.update(SHORT_DOMAIN);
        hasher.update(&bytes);
        let mut short = [0; 8];
        hasher.finalize_xof().fill(&mut short);
        ShortFingerprint(short)
    }

    fn fold(&mut self, item: &LogDigest, op: impl Fn(u16, u16) -> u16) {
        let mut bytes = [0; LANES * LANE_BYTES];
        // On zeros: the key stream itself (RFC 8439, counter from 0).
        ChaCha20::new(item.as_bytes().into(), LANES_NONCE.into()).apply_keystream(&mut bytes);
        for (lane, pair) in self.lanes.iter_mut().zip(bytes.chunks_exact(LANE_BYTES)) {
            *lane = op(*lane, u16::from_le_bytes([pair[0], pair[1]]));
        }
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({:04x}{:04x}..)", self.lanes[0], self.lanes[1])
    }
}

/// A fingerprint that expands lazily: a log that changed a thousand times since anybody asked costs two
/// expansions, not two thousand.
///
/// Memory: 2 KiB and at most 1,024 remembered changes, whatever happens.
#[derive(Debug, Clone)]
pub struct LiveFingerprint {
    settled: Fingerprint,
    /// Per changed log what the sum still contains of it, and what it should contain.
    pending: BTreeMap<LogKey, (Option<LogDigest>, Option<LogDigest>)>,
}

impl LiveFingerprint {
    /// The fingerprint of no logs.
    pub fn empty() -> Self {
        Self { settled: Fingerprint::empty(), pending: BTreeMap::new() }
    }

    /// Replaces a log's digest: `None` before for a new log, `None` after for one that is dropped or parked.
    pub fn update(&mut self, log: &LogKey, before: Option<LogDigest>, after: Option<LogDigest>) {
        let change = self.pending.entry(*log).or_insert((before, before));
        debug_assert_eq!(change.1, before, "the caller lost track of what the fingerprint contains");
        change.1 = after;
        if change.0 == change.1 {
            self.pending.remove(log);
        } else if self.pending.len() >= MAX_PENDING {
            self.settle();
        }
    }

    /// The sum, after all remembered changes are expanded.
    pub fn settled(&mut self) -> &Fingerprint {
        self.settle();
        &self.settled
    }

    fn settle(&mut self) {
        for (before, after) in std::mem::take(&mut self.pending).into_values() {
            if let Some(before) = before {
                self.settled.remove(&before);
            }
            if let Some(after) = after {
                self.settled.insert(&after);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::entry::EntryHash;

    fn log(n: u64) -> LogKey {
        LogKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    fn digest(n: u64, version: u64) -> LogDigest {
        LogDigest::of(&log(n), &[tip(version)])
    }

    fn tip(sequence: u64) -> Tip {
        Tip { sequence, hash: EntryHash::from_bytes(*blake3::hash(&sequence.to_be_bytes()).as_bytes()) }
    }

    #[test]
    fn a_log_counts_with_its_key_and_each_of_its_tips() {
        let all = [
            LogDigest::of(&log(1), &[]),
            LogDigest::of(&log(1), &[tip(1)]),
            LogDigest::of(&log(2), &[tip(1)]),
            LogDigest::of(&log(1), &[tip(2)]),
            LogDigest::of(&log(1), &[tip(1), tip(2)]),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[..i] {
                assert_ne!(a, b);
            }
        }
    }

    #[test]
    fn the_short_form_depends_on_the_salt_and_on_nothing_but_the_set() {
        let (mut a, mut b) = (Fingerprint::empty(), Fingerprint::empty());
        for n in 0..20 {
            a.insert(&digest(n, 1));
            b.insert(&digest(19 - n, 1));
        }
        assert_eq!(a.salted(&[1; 32]), b.salted(&[1; 32]));
        assert_ne!(a.salted(&[1; 32]), a.salted(&[2; 32]));
        b.remove(&digest(0, 1));
        assert_ne!(a.salted(&[1; 32]), b.salted(&[1; 32]));
    }

    #[test]
    fn parked_logs_can_be_left_out_without_touching_the_others() {
        let (mut all, mut parked, mut rest) =
            (Fingerprint::empty(), Fingerprint::empty(), Fingerprint::empty());
        for n in 0..20 {
            all.insert(&digest(n, 1));
            if n % 3 == 0 { &mut parked } else { &mut rest }.insert(&digest(n, 1));
        }
        let mut without = all.clone();
        without.subtract(&parked);
        assert_eq!(without, rest);
        rest.combine(&parked);
        assert_eq!(rest, all);
    }

    #[test]
    fn a_fixed_set_has_a_fixed_fingerprint() {
        let mut set = Fingerprint::empty();
        set.insert(&LogDigest::of(&LogKey::from_bytes([7; 32]), &[tip(9)]));
        set.insert(&LogDigest::of(&LogKey::from_bytes([8; 32]), &[]));
        assert_eq!(set.salted(&[3; 32]), ShortFingerprint(PINNED));
    }

    /// What `a_fixed_set_has_a_fixed_fingerprint` must yield on every machine and in every version.
    const PINNED: [u8; 8] = [226, 23, 60, 106, 72, 99, 187, 84];

    #[test]
    fn i6_remembered_changes_stay_bounded() {
        let mut live = LiveFingerprint::empty();
        for n in 0..3 * MAX_PENDING as u64 {
            live.update(&log(n), None, Some(digest(n, 1)));
            assert!(live.pending.len() < MAX_PENDING);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_lazy_fingerprint_equals_the_one_built_from_scratch(
            steps in prop::collection::vec((0u64..6, prop::option::of(1u64..5), any::<bool>()), 0..60),
        ) {
            let mut live = LiveFingerprint::empty();
            let mut model = BTreeMap::new();
            for (n, version, ask) in steps {
                let after = version.map(|version| digest(n, version));
                live.update(&log(n), model.get(&n).copied(), after);
                match after {
                    Some(after) => model.insert(n, after),
                    None => model.remove(&n),
                };
                if ask {
                    live.settled();
                }
            }
            let mut scratch = Fingerprint::empty();
            model.values().for_each(|item| scratch.insert(item));
            prop_assert_eq!(live.settled(), &scratch);
        }
    }
}
