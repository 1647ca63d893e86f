//! blake3 of many short payloads at once.
//!
//! An entry is hashed twice: its payload, and its header with that hash. The headers of a line depend on one another,
//! the payloads do not. A short payload leaves a wide processor idle, and `blake3` offers no call for many inputs,
//! so eight payloads go side by side here, on processors with AVX2. On others, and for payloads longer than a
//! chunk of blake3, which that crate hashes well by itself, this is a loop over [`blake3::hash`]. The results are the same.
//!
//! Called by whoever builds or verifies runs.

/// Payloads that are hashed together at most.
pub const HASH_LANES: usize = 8;

/// The blake3 hash of one payload.
pub fn payload_hash(payload: &[u8]) -> [u8; 32] {
    *blake3::hash(payload).as_bytes()
}

/// The blake3 hashes of up to [`HASH_LANES`] payloads, in their order; what follows them is without meaning.
///
/// # Panics
/// If there are more than [`HASH_LANES`].
pub fn payload_hashes(payloads: &[&[u8]]) -> [[u8; 32]; HASH_LANES] {
    assert!(payloads.len() <= HASH_LANES, "as many payloads as lanes");
    // Without optimisation, the dependency that hashes one by one is faster: it is optimised in every profile.
    if !cfg!(debug_assertions)
        && let Some(hashes) = side_by_side(payloads)
    {
        return hashes;
    }
    let mut hashes = [[0; 32]; HASH_LANES];
    for (hash, payload) in hashes.iter_mut().zip(payloads) {
        *hash = payload_hash(payload);
    }
    hashes
}

/// As [`payload_hashes`], if the processor can and it is worth it.
#[cfg(target_arch = "x86_64")]
fn side_by_side(payloads: &[&[u8]]) -> Option<[[u8; 32]; HASH_LANES]> {
    if !lanes::are_worth_it(payloads) {
        return None;
    }
    Some(lanes::hash(fearless_simd::Level::new().as_avx2()?, payloads))
}

#[cfg(not(target_arch = "x86_64"))]
fn side_by_side(_: &[&[u8]]) -> Option<[[u8; 32]; HASH_LANES]> {
    None
}

#[cfg(target_arch = "x86_64")]
mod lanes {
    //! blake3 of inputs of one chunk each, after its specification (O'Connor, Aumasson, Neves, Wilcox-O'Hearn:
    //! "BLAKE3: one function, fast everywhere", 2020, section 2): word `w` of all inputs lies in one vector.

    use fearless_simd::{Simd, prelude::*, u32x8};

    use super::HASH_LANES;

    const BLOCK: usize = 64;
    /// Longer inputs are a tree of chunks.
    const CHUNK: usize = 1024;
    const CHUNK_START: u32 = 1;
    const CHUNK_END: u32 = 2;
    const ROOT: u32 = 8;
    const IV: [u32; 8] = [
        0x6A09_E667,
        0xBB67_AE85,
        0x3C6E_F372,
        0xA54F_F53A,
        0x510E_527F,
        0x9B05_688C,
        0x1F83_D9AB,
        0x5BE0_CD19,
    ];
    /// The order of the message words in each round.
    const SCHEDULE: [[usize; 16]; 7] = {
        const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
        let mut schedule = [[0; 16]; 7];
        let mut at = 0;
        while at < 7 * 16 {
            let (round, word) = (at / 16, at % 16);
            schedule[round][word] = if round == 0 { word } else { schedule[round - 1][PERMUTATION[word]] };
            at += 1;
        }
        schedule
    };
    /// What one block costs side by side, in blocks hashed alone (measured: 25 and 80 ns per payload and block).
    const LANES_COST: usize = 3;

    type Words<S> = [u32x8<S>; 16];

    fn blocks(len: usize) -> usize {
        len.div_ceil(BLOCK).max(1)
    }

    /// Whether hashing these side by side is faster than one by one.
    pub(super) fn are_worth_it(payloads: &[&[u8]]) -> bool {
        let longest = payloads.iter().map(|payload| payload.len()).max().unwrap_or(0);
        let alone: usize = payloads.iter().map(|payload| blocks(payload.len())).sum();
        longest <= CHUNK && alone > LANES_COST * blocks(longest)
    }

    pub(super) fn hash<S: Simd>(simd: S, payloads: &[&[u8]]) -> [[u8; 32]; HASH_LANES] {
        simd.vectorize(
            #[inline(always)]
            || hash_chunks(simd, payloads),
        )
    }

    #[inline(always)]
    fn hash_chunks<S: Simd>(simd: S, payloads: &[&[u8]]) -> [[u8; 32]; HASH_LANES] {
        let mut hashes = [[0; 32]; HASH_LANES];
        let most = payloads.iter().map(|payload| blocks(payload.len())).max().unwrap_or(0);
        let mut state = IV.map(|word| u32x8::splat(simd, word));
        for block in 0..most {
            let (mut lens, mut flags) = ([0; HASH_LANES], [0; HASH_LANES]);
            let mut rows = [[0u32; 16]; HASH_LANES];
            let mut ends = false;
            for (lane, payload) in payloads.iter().enumerate() {
                let left = payload.get(block * BLOCK..).unwrap_or_default();
                let mut padded = [0; BLOCK];
                let bytes = match left.first_chunk::<BLOCK>() {
                    Some(whole) => whole,
                    None => {
                        pad(left, &mut padded);
                        &padded
                    }
                };
                for (word, bytes) in rows[lane].iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *word = u32::from_le_bytes(*bytes);
                }
                let last = block + 1 == blocks(payload.len());
                ends |= last;
                lens[lane] = left.len().min(BLOCK) as u32;
                flags[lane] =
                    if block == 0 { CHUNK_START } else { 0 } | if last { CHUNK_END | ROOT } else { 0 };
            }
            let left = transpose(std::array::from_fn(|lane| u32x8::from_slice(simd, &rows[lane][..8])));
            let right = transpose(std::array::from_fn(|lane| u32x8::from_slice(simd, &rows[lane][8..])));
            let words = std::array::from_fn(|word| if word < 8 { left[word] } else { right[word - 8] });
            let (lens, flags) = (u32x8::from_slice(simd, &lens), u32x8::from_slice(simd, &flags));
            state = compress(simd, &state, &words, lens, flags);
            if !ends {
                continue;
            }
            let rows = transpose(state);
            for (lane, payload) in payloads.iter().enumerate() {
                if block + 1 == blocks(payload.len()) {
                    let words = <[u32; 8]>::from(rows[lane]);
                    for (bytes, word) in hashes[lane].as_chunks_mut::<4>().0.iter_mut().zip(words) {
                        *bytes = word.to_le_bytes();
                    }
                }
            }
        }
        hashes
    }

    /// Copies fewer bytes than a block: in words, since a call for so few costs more than they do.
    #[inline(always)]
    fn pad(from: &[u8], to: &mut [u8; BLOCK]) {
        let (words, rest) = from.as_chunks::<8>();
        let (to_words, _) = to.as_chunks_mut::<8>();
        for (to, word) in to_words.iter_mut().zip(words) {
            *to = *word;
        }
        for (to, byte) in to[words.len() * 8..].iter_mut().zip(rest) {
            *to = *byte;
        }
    }

    /// Rows to columns: three times the perfect shuffle of eight.
    #[inline(always)]
    fn transpose<S: Simd>(rows: [u32x8<S>; 8]) -> [u32x8<S>; 8] {
        let shuffle = |r: [u32x8<S>; 8]| {
            let ((a, b), (c, d)) = (r[0].interleave(r[4]), r[1].interleave(r[5]));
            let ((e, f), (g, h)) = (r[2].interleave(r[6]), r[3].interleave(r[7]));
            [a, b, c, d, e, f, g, h]
        };
        shuffle(shuffle(shuffle(rows)))
    }

    #[inline(always)]
    fn compress<S: Simd>(
        simd: S,
        state: &[u32x8<S>; 8],
        words: &Words<S>,
        lens: u32x8<S>,
        flags: u32x8<S>,
    ) -> [u32x8<S>; 8] {
        let constant = |word| u32x8::splat(simd, word);
        let mut v: Words<S> = std::array::from_fn(|at| match at {
            0..8 => state[at],
            8..12 => constant(IV[at - 8]),
            // The number of the chunk.
            12 | 13 => constant(0),
            14 => lens,
            _ => flags,
        });
        round::<0, S>(&mut v, words);
        round::<1, S>(&mut v, words);
        round::<2, S>(&mut v, words);
        round::<3, S>(&mut v, words);
        round::<4, S>(&mut v, words);
        round::<5, S>(&mut v, words);
        round::<6, S>(&mut v, words);
        std::array::from_fn(|at| v[at] ^ v[at + 8])
    }

    #[inline(always)]
    fn round<const N: usize, S: Simd>(v: &mut Words<S>, words: &Words<S>) {
        let order = const { &SCHEDULE[N] };
        let word = |at: usize| words[order[at]];
        mix(v, [0, 4, 8, 12], word(0), word(1));
        mix(v, [1, 5, 9, 13], word(2), word(3));
        mix(v, [2, 6, 10, 14], word(4), word(5));
        mix(v, [3, 7, 11, 15], word(6), word(7));
        mix(v, [0, 5, 10, 15], word(8), word(9));
        mix(v, [1, 6, 11, 12], word(10), word(11));
        mix(v, [2, 7, 8, 13], word(12), word(13));
        mix(v, [3, 4, 9, 14], word(14), word(15));
    }

    #[inline(always)]
    fn mix<S: Simd>(v: &mut Words<S>, [a, b, c, d]: [usize; 4], x: u32x8<S>, y: u32x8<S>) {
        v[a] = v[a] + v[b] + x;
        v[d] = rotate::<16, S>(v[d] ^ v[a]);
        v[c] += v[d];
        v[b] = rotate::<12, S>(v[b] ^ v[c]);
        v[a] = v[a] + v[b] + y;
        v[d] = rotate::<8, S>(v[d] ^ v[a]);
        v[c] += v[d];
        v[b] = rotate::<7, S>(v[b] ^ v[c]);
    }

    #[inline(always)]
    fn rotate<const RIGHT: u32, S: Simd>(v: u32x8<S>) -> u32x8<S> {
        (v >> RIGHT) | (v << (32 - RIGHT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn alone(payloads: &[&[u8]]) -> Vec<[u8; 32]> {
        payloads.iter().map(|payload| *blake3::hash(payload).as_bytes()).collect()
    }

    proptest! {
        #[test]
        fn payloads_hash_alike_side_by_side_and_alone(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1500), 0..=HASH_LANES),
            cap in prop_oneof![Just(0usize), 1usize..70, 100usize..200, Just(1024), Just(2000)],
        ) {
            let payloads: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..payload.len().min(cap)]).collect();
            let expected = alone(&payloads);
            prop_assert_eq!(&payload_hashes(&payloads)[..payloads.len()], &expected[..]);
            if let Some(hashes) = side_by_side(&payloads) {
                prop_assert_eq!(&hashes[..payloads.len()], &expected[..]);
            }
        }
    }

    #[test]
    fn every_length_up_to_a_chunk_hashes_alike_in_every_lane() {
        let bytes: Vec<u8> = (0..1100u32).map(|at| (at * 7 + at / 256) as u8).collect();
        for len in 0..=1030 {
            let payloads: [&[u8]; HASH_LANES] = std::array::from_fn(|lane| &bytes[lane..lane + len]);
            let hashes = side_by_side(&payloads).unwrap_or_else(|| payload_hashes(&payloads));
            assert_eq!(hashes[..], alone(&payloads)[..], "{len} bytes");
        }
    }
}
