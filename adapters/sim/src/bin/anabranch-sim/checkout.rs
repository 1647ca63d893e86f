//! Whether there is source to build from. Builds nothing itself.

use crate::Usage;

/// Refuses what builds a program anew when it is called outside the source checkout.
pub(crate) fn needed(command: &str, otherwise: &str) -> Result<(), Usage> {
    let here = std::env::current_dir().map_err(|error| Usage(error.to_string()))?;
    if here.ancestors().any(|directory| directory.join("adapters/sim/Cargo.toml").is_file()) {
        return Ok(());
    }
    Err(Usage(format!(
        "{command} builds the simulator from source: call it within the source checkout{otherwise}"
    )))
}
