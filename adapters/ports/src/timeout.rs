//! A limit to how long `connect` may take.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch::{LinkId, MessagePort, PeerAddr, PortError, TimerPort};
use async_trait::async_trait;
use futures::future::{Either, select};

use crate::layer::Layer;

/// Gives `connect` a limited time, then drops it, as its contract allows. See [`PortExt::with_connect_timeout`](crate::PortExt::with_connect_timeout).
pub struct ConnectTimeout {
    timer: Arc<dyn TimerPort>,
    time: Duration,
    expired: AtomicU64,
}

impl ConnectTimeout {
    /// A limit of `time`.
    pub fn new(timer: &Arc<dyn TimerPort>, time: Duration) -> Self {
        Self { timer: Arc::clone(timer), time, expired: AtomicU64::new(0) }
    }
}

#[async_trait]
impl Layer for ConnectTimeout {
    async fn connect(&self, port: &dyn MessagePort, address: &PeerAddr) -> Result<LinkId, PortError> {
        let until = self.timer.now() + self.time;
        match select(port.connect(address), self.timer.sleep_until(until)).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => {
                self.expired.fetch_add(1, Ordering::Relaxed);
                let reason = format!("no answer within {:?}", self.time).into();
                Err(PortError::Unreachable { address: address.clone(), reason })
            }
        }
    }

    fn figures(&self) -> BTreeMap<&'static str, u64> {
        BTreeMap::from([("timeout.expired", self.expired.load(Ordering::Relaxed))])
    }
}

impl std::fmt::Debug for ConnectTimeout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectTimeout").field("time", &self.time).finish_non_exhaustive()
    }
}
