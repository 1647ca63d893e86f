//! Channels: the read side, called once when a node is loaded.

use async_trait::async_trait;

use super::store::StoreError;
use crate::domain::channel::ChannelRecord;

/// Read side of the channels.
#[async_trait]
pub trait ChannelRepository: Send + Sync + 'static {
    /// All channels, by rising id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn channels(&self) -> Result<Vec<ChannelRecord>, StoreError>;
}
