//! About how many logs two nodes hold differently: 32 counters, 40 bytes, no second message.
//!
//! A variant of the tug-of-war sketch (Alon, Matias and Szegedy, "The space complexity of approximating the
//! frequency moments", 1996). Counter j is a sum over all logs; a log contributes `sign · gate`, where the
//! sign (+1 or -1) is bit j of its key and the gate (0 or 1) is bit j of its digest. Whatever two nodes
//! share cancels in the difference of their counters. A log that only one of them holds leaves ±gate, a
//! log that they hold in two versions leaves ±(gate - gate'), and both squares average to one half: so a
//! changed log weighs as much as an added one, and twice the mean square is the number of differing logs.
//!
//! Counters travel modulo 1,024, because only differences matter: the root mean square of d differing logs
//! is sqrt(d / 2), which wraps visibly only above some 30,000 and then still reads as "very many".
//!
//! The estimate is a hint that sizes the next message. It is never a proof of anything: authors and peers
//! can bias it, which costs bytes within the caps of [`cells`](super::cells) and nothing else. The gossip
//! engine keeps one per channel and calls it with every change of a log's tips.

use super::fingerprint::LogDigest;
use crate::domain::id::LogKey;

/// Counters. The estimate's standard deviation is sqrt(2 / 32), a quarter, for many differing logs.
const COUNTERS: usize = 32;
/// Bits of a counter on the wire.
const COUNTER_BITS: u32 = 10;
/// Counters are residues modulo this.
const MODULUS: u16 = 1 << COUNTER_BITS;

/// Bytes of [`Counters`] on the wire.
pub const COUNTER_BYTES: usize = COUNTERS * COUNTER_BITS as usize / 8;

/// The counters of a set of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Each modulo [`MODULUS`], always reduced.
    counters: [u16; COUNTERS],
}

impl Counters {
    /// The counters of no logs.
    pub const fn empty() -> Self {
        Self { counters: [0; COUNTERS] }
    }

    /// Adds a log.
    pub fn insert(&mut self, log: &LogKey, digest: &LogDigest) {
        let (signs, gates) = (word(log.as_bytes()), word(digest.as_bytes()));
        self.add(signs, gates);
    }

    /// Takes a log away again. Nothing checks that it was there.
    pub fn remove(&mut self, log: &LogKey, digest: &LogDigest) {
        let (signs, gates) = (word(log.as_bytes()), word(digest.as_bytes()));
        self.add(!signs, gates);
    }

    /// Takes all logs of `other` away: how parked logs are left out of one conversation.
    pub fn subtract(&mut self, other: &Self) {
        for (counter, theirs) in self.counters.iter_mut().zip(other.counters) {
            *counter = counter.wrapping_sub(theirs) % MODULUS;
        }
    }

    /// About how many logs differ between the two sets: 0 only if every counter agrees.
    ///
    /// Unbiased up to 30,000 or so; for at least eight differing logs 19 of 20 estimates are within 0.57 and
    /// 1.55 times the truth. Callers who know both numbers of logs take their distance as a lower bound.
    pub fn distance(&self, other: &Self) -> u32 {
        let squares = self.counters.iter().zip(other.counters).map(|(a, b)| {
            let residue = i64::from(a.wrapping_sub(b) % MODULUS);
            let half = i64::from(MODULUS / 2);
            let signed = (residue + half) % i64::from(MODULUS) - half;
            (signed * signed) as u64
        });
        // Each square is at most 2^18: the sum of 32 fits easily.
        (2 * squares.sum::<u64>()).div_ceil(COUNTERS as u64) as u32
    }

    /// The counters as they travel: counter j in bits 10·j to 10·j + 9, the least significant bit first.
    pub fn to_bytes(&self) -> [u8; COUNTER_BYTES] {
        let mut bytes = [0; COUNTER_BYTES];
        // Four counters fill five bytes.
        for (to, four) in bytes.chunks_exact_mut(5).zip(self.counters.chunks_exact(4)) {
            let packed = four.iter().rev().fold(0u64, |all, c| all << COUNTER_BITS | u64::from(*c));
            to.copy_from_slice(&packed.to_le_bytes()[..5]);
        }
        bytes
    }

    /// The counters that travelled as these bytes. All bit patterns mean something.
    pub fn from_bytes(bytes: &[u8; COUNTER_BYTES]) -> Self {
        let mut counters = [0; COUNTERS];
        for (five, to) in bytes.chunks_exact(5).zip(counters.chunks_exact_mut(4)) {
            let packed = five.iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
            for (j, counter) in to.iter_mut().enumerate() {
                *counter = (packed >> (COUNTER_BITS as usize * j)) as u16 % MODULUS;
            }
        }
        Self { counters }
    }

    fn add(&mut self, signs: u32, gates: u32) {
        for (j, counter) in self.counters.iter_mut().enumerate() {
            let gate = (gates >> j) as u16 & 1;
            // +1 where the bit is set, -1 (all ones) where it is clear.
            let sign = ((signs >> j) as u16 & 1).wrapping_mul(2).wrapping_sub(1);
            *counter = counter.wrapping_add(gate.wrapping_mul(sign)) % MODULUS;
        }
    }
}

/// The first four bytes, little-endian: bits that are already uniform, as both inputs are hashes.
fn word(bytes: &[u8; 32]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log(n: u64) -> LogKey {
        LogKey::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    fn digest(n: u64, version: u64) -> LogDigest {
        LogDigest::from_bytes(*blake3::hash(&[n.to_le_bytes(), version.to_le_bytes()].concat()).as_bytes())
    }

    /// Sorted ratios of estimate to truth over many pairs of sets; each differing log is changed or added.
    fn ratios(differing: u64, changed: impl Fn(u64) -> bool) -> Vec<f64> {
        let trials = if differing > 1_000 { 100 } else { 400 };
        let mut ratios: Vec<f64> = (0..trials)
            .map(|trial| {
                let (mut a, mut b) = (Counters::empty(), Counters::empty());
                for n in (0..differing).map(|n| trial << 32 | n) {
                    a.insert(&log(n), &digest(n, 1));
                    if changed(n) {
                        b.insert(&log(n), &digest(n, 2));
                    }
                }
                f64::from(a.distance(&b)) / differing as f64
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    #[test]
    fn nineteen_of_twenty_estimates_are_within_0_57_and_1_55_times_the_truth() {
        for differing in [8, 10, 100, 1_000, 6_000] {
            for share in [0, 1, 2] {
                let all = ratios(differing, |n| n % 2 < share);
                let (low, high) = (all[all.len() / 40], all[all.len() - 1 - all.len() / 40]);
                let mean = all.iter().sum::<f64>() / all.len() as f64;
                assert!((0.9..1.15).contains(&mean), "{differing}: mean {mean}");
                assert!(low > 0.45 && high < 1.8, "{differing}: {low}..{high}");
                let within = all.iter().filter(|r| (0.57..=1.55).contains(*r)).count();
                assert!(within * 100 >= all.len() * 91, "{differing}: {within} of {}", all.len());
            }
        }
    }

    #[test]
    fn one_differing_log_reads_as_one_or_two() {
        for version in [None, Some(2)] {
            for n in 0..500 {
                let (mut a, mut b) = (Counters::empty(), Counters::empty());
                a.insert(&log(n), &digest(n, 1));
                if let Some(version) = version {
                    b.insert(&log(n), &digest(n, version));
                }
                assert!((1..=2).contains(&a.distance(&b)));
            }
        }
    }

    #[test]
    fn counters_that_wrapped_still_read_as_very_many() {
        let mut many = Counters::empty();
        for n in 0..300_000u64 {
            let bytes = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
            let mut key = [0; 32];
            key[..8].copy_from_slice(&bytes);
            many.insert(&LogKey::from_bytes(*blake3::hash(&key).as_bytes()), &digest(n, 1));
        }
        assert!(many.distance(&Counters::empty()) > 30_000);
    }

    #[test]
    fn the_estimate_ignores_what_both_hold() {
        let (mut a, mut b) = (Counters::empty(), Counters::empty());
        for n in 0..5_000 {
            a.insert(&log(n), &digest(n, 1));
            b.insert(&log(4_999 - n), &digest(4_999 - n, 1));
        }
        assert_eq!(a.distance(&b), 0);
        a.subtract(&b);
        assert_eq!(a, Counters::empty());
    }

    proptest! {
        #[test]
        fn counters_survive_the_wire(counters in prop::array::uniform32(0u16..MODULUS)) {
            let counters = Counters { counters };
            prop_assert_eq!(Counters::from_bytes(&counters.to_bytes()), counters);
        }

        #[test]
        fn what_was_added_can_be_taken_away(
            logs in prop::collection::vec((any::<u64>(), any::<u64>()), 0..20),
            bytes in prop::collection::vec(any::<u8>(), COUNTER_BYTES),
        ) {
            let start = Counters::from_bytes(&bytes.try_into().unwrap());
            let mut counters = start;
            logs.iter().for_each(|(n, v)| counters.insert(&log(*n), &digest(*n, *v)));
            logs.iter().rev().for_each(|(n, v)| counters.remove(&log(*n), &digest(*n, *v)));
            prop_assert_eq!(counters, start);
        }
    }
}
