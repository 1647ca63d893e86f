//! The logs that the driver knows, by number.
//!
//! Numbers are the store's, small and never used twice, so each has a place of its own: the nodes of a map that only grows at
//! its end stay half empty. Owned by the driver.

use std::sync::Arc;

use crate::application::log_cell::LogCell;
use crate::domain::id::ChannelId;
use crate::domain::log::LogNo;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Logs(Vec<Option<Arc<LogCell>>>);

impl Logs {
    pub(super) fn get(&self, log: LogNo) -> Option<&Arc<LogCell>> {
        self.0.get(log.0 as usize)?.as_ref()
    }

    /// Enters a log, unless it is known.
    pub(super) fn know(&mut self, log: &Arc<LogCell>) {
        let at = log.no.0 as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, None);
        }
        self.0[at].get_or_insert_with(|| Arc::clone(log));
    }

    /// Forgets the logs of a channel.
    pub(super) fn forget(&mut self, channel: &ChannelId) {
        for place in &mut self.0 {
            place.take_if(|log| log.name.channel == *channel);
        }
    }
}
