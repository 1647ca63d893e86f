//! I8 quiet: converged nodes say little, whatever they hold.

use super::Invariant;
use crate::core::{Facts, Seen};

/// Bytes that a comparison of equal nodes may take, both directions, with probes and acknowledgements.
const BYTES_PER_COMPARISON: u64 = 1_024;
/// Bytes per second that a pair of nodes may exchange besides: probes once a second and their answers.
const BYTES_PER_SECOND: u64 = 512;

/// I8. See the module.
#[derive(Debug)]
pub struct Quiet {
    per_comparison: u64,
    per_second: u64,
}

impl Default for Quiet {
    fn default() -> Self {
        Self { per_comparison: BYTES_PER_COMPARISON, per_second: BYTES_PER_SECOND }
    }
}

impl Invariant for Quiet {
    fn name(&self) -> &'static str {
        "I8 quiet"
    }

    fn see(&mut self, _: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::Quiet { pairs, frames, bytes, time, comparisons } = seen else { return Ok(()) };
        let allowed = comparisons * self.per_comparison + pairs * (time.as_secs() + 1) * self.per_second;
        if *bytes > allowed {
            return Err(format!(
                "{pairs} pairs of equal nodes said {bytes} bytes in {frames} frames in {time:?} \
                 with {comparisons} comparisons, at most {allowed} are quiet"
            ));
        }
        Ok(())
    }
}
