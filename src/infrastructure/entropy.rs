//! Randomness from the operating system, for seeds and new identities.

/// 32 bytes that nobody can guess.
///
/// # Errors
/// The system's generator is unavailable.
#[expect(clippy::disallowed_methods, reason = "the one door through which ambient randomness enters")]
pub fn system_seed() -> Result<[u8; 32], getrandom::Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    Ok(seed)
}
