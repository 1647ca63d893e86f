//! What a peer is held for.
//!
//! A value that the liveness engine decides and everybody else reads.

/// What a node is held for. What it means for an application: an alive one is worth talking to; a suspect one too, but an
/// answer may be late; an unreachable one keeps its data and its place and comes back with its first sign of life; one
/// that left said so itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Met or introduced, never heard.
    Joining,
    /// It answers, or somebody says so who knows.
    Alive,
    /// It did not answer somebody lately and may still deny what that suggests.
    Suspect,
    /// It does not answer. Tried ever more rarely, without end.
    Unreachable,
    /// It said goodbye. It returns with a higher incarnation.
    Left,
}
