//! Chance from a seed: SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
//!
//! Good enough to draw schedules and to lose frames, and the same on every computer. Never for secrets.

/// The sequence's step: 2^64 divided by the golden ratio, as the paper has it.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A sequence of draws, a function of its seed.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The sequence of `seed`.
    #[cfg(test)]
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A sequence of its own for each `part` of what uses this seed.
    pub(crate) fn part(seed: u64, part: u64) -> Self {
        Self(mix(seed ^ mix(part.wrapping_add(STEP))))
    }

    /// The next draw: any value.
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A draw from `low..=high`, both included. The bias, under 2^-40 for the ranges here, does not matter.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        let span = (high.saturating_sub(low) as u64).saturating_add(1);
        low + (self.draw() % span) as usize
    }

    /// Whether something with probability `share` happens this time.
    pub(crate) fn happens(&mut self, share: f64) -> bool {
        // 53 bits: as many as a double holds.
        ((self.draw() >> 11) as f64) < share * (1u64 << 53) as f64
    }
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_a_function_of_the_seed_and_stay_in_range() {
        let (mut a, mut b, mut c) = (Rng::new(7), Rng::new(7), Rng::part(7, 1));
        for _ in 0..1_000 {
            let draw = a.draw();
            assert_eq!(draw, b.draw());
            assert_ne!(draw, c.draw());
            assert!((3..=5).contains(&a.clone().between(3, 5)));
        }
    }

    #[test]
    fn a_share_of_a_tenth_happens_about_every_tenth_time() {
        let mut rng = Rng::new(1);
        let hits = (0..10_000).filter(|_| rng.happens(0.1)).count();
        assert!((900..1_100).contains(&hits), "{hits}");
        assert!(!rng.happens(0.0) && rng.happens(1.0));
    }
}
