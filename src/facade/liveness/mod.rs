//! Liveness alone, as applications see it: the handle of a node that the runtime drives, and the builder of both kinds.

mod builder;
mod handle;

pub use builder::{LivenessBuildError, LivenessBuilder};
pub use handle::{LivenessError, LivenessEvents, LivenessHandle};
