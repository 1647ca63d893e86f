//! A small seeded generator for models and jitter: the same seed gives the same numbers on every platform.
//!
//! It is xoshiro256++ (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2021), seeded by
//! SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). It never makes
//! keys or nonces: its output is predictable. The [`LinkModel`](super::link_model::LinkModel) calls it.

/// SplitMix64's increment: 2^64 divided by the golden ratio, made odd.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A deterministic stream of numbers. Not for secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prng {
    state: [u64; 4],
}

impl Prng {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut mixer = seed;
        Self { state: std::array::from_fn(|_| split_mix(&mut mixer)) }
    }

    /// An independent stream for part number `part` of whatever `seed` drives, so that more draws in one part
    /// change nothing in the others.
    pub fn part(seed: u64, part: u64) -> Self {
        let mut mixer = part;
        Self::new(seed ^ split_mix(&mut mixer))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number in `0..bound`; 0 if `bound` is 0. Biased by less than `bound` / 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(GOLDEN_GAMMA);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_gives_the_published_numbers_for_seed_1234567() {
        let mut state = 1_234_567;
        assert_eq!(split_mix(&mut state), 6_457_827_717_110_365_317);
        assert_eq!(split_mix(&mut state), 3_203_168_211_198_807_973);
    }

    #[test]
    fn the_generator_steps_as_published_from_the_state_1_2_3_4() {
        let mut prng = Prng { state: [1, 2, 3, 4] };
        assert_eq!(
            [prng.next_u64(), prng.next_u64(), prng.next_u64()],
            [41_943_041, 58_720_359, 3_588_806_011_781_223]
        );
    }

    #[test]
    fn one_seed_gives_one_stream_and_its_parts_differ() {
        let draw = |mut prng: Prng| -> Vec<u64> { (0..8).map(|_| prng.next_u64()).collect() };
        assert_eq!(draw(Prng::new(7)), draw(Prng::new(7)));
        assert_ne!(draw(Prng::new(7)), draw(Prng::new(8)));
        assert_ne!(draw(Prng::part(7, 0)), draw(Prng::part(7, 1)));
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let mut prng = Prng::new(1);
        let mut seen = [false; 10];
        for _ in 0..1_000 {
            seen[prng.below(10) as usize] = true;
        }
        assert_eq!((seen, prng.below(0), prng.below(1)), ([true; 10], 0, 0));
    }
}
