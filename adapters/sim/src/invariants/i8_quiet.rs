//! I8 quiet: converged nodes say little, whatever they hold.

use super::Invariant;
use crate::core::{Facts, Seen};

/// Bytes that a comparison of equal nodes may take, both directions, with probes and acknowledgements.
const BYTES_PER_COMPARISON: u64 = 1_024;
/// Comparisons that each side of a pair may begin however short the time: what backing off to the longest interval
/// takes.
const COMPARISONS: u64 = 12;
/// Comparisons in ten seconds after that, at the shortest of the longest intervals in use.
const COMPARISONS_IN_TEN_SECONDS: u64 = 14;
/// Bytes per second that a pair of nodes may exchange besides: probes once a second and their answers.
const BYTES_PER_SECOND: u64 = 512;

/// Channels that two nodes may share.
const CHANNELS: u64 = 2;

/// I8. See the module.
#[derive(Debug)]
pub struct Quiet {
    per_comparison: u64,
    per_second: u64,
    /// Channels that two nodes share.
    channels: u64,
}

impl Default for Quiet {
    fn default() -> Self {
        Self { per_comparison: BYTES_PER_COMPARISON, per_second: BYTES_PER_SECOND, channels: CHANNELS }
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
        let side = COMPARISONS + time.as_secs() * COMPARISONS_IN_TEN_SECONDS / 10;
        if *comparisons > pairs * 2 * self.channels * side {
            return Err(format!(
                "{pairs} pairs of equal nodes made {comparisons} comparisons in {time:?}: they do not back off"
            ));
        }
        Ok(())
    }
}
