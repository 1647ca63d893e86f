//! What an application uses: [`Coordinator`], [`Channel`], [`EventStream`] and what they hand out.
//!
//! Handles are cheap to clone and may be used from any task on any thread. They call `application`; only the
//! builder names `infrastructure`.

mod builder;
mod channel;
mod coordinator;
mod entries;
mod error;
mod explain;
mod liveness;
mod state;
mod stream;
mod subscription;

pub use builder::{BuildError, CoordinatorBuilder};
pub use channel::{Channel, ChannelSpec};
pub use coordinator::{Coordinator, Health, ResourceUsage};
pub use entries::{Entries, Query};
pub use error::{AppendError, AppendRefusal, NodeError, ReadError};
pub use explain::{Explanation, PeerSync, SyncStatus};
pub use liveness::{LivenessBuildError, LivenessBuilder, LivenessError, LivenessEvents, LivenessHandle};
pub use state::{FoldError, StateChanges, StateError, StateHandle, StateMaterializer};
pub use stream::{Appended, EventStream};
pub use subscription::{Arrival, Subscription};
