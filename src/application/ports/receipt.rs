//! What became of a submitted batch.
//!
//! Made by stores, observed by the appender and the driver alike; dropping one changes nothing.

use tokio::sync::watch;

use super::store::StoreError;

/// Answer of a store to one submitted batch; any number of observers may hold clones.
///
/// A batch first becomes visible to readers of the same process, then durable. Dropping a receipt withdraws
/// nothing.
#[derive(Debug, Clone)]
pub struct Receipt(Inner);

#[derive(Debug, Clone)]
enum Inner {
    Ready(Result<(), StoreError>),
    Pending(watch::Receiver<Stage>),
}

#[derive(Debug, Clone)]
enum Stage {
    Queued,
    Visible,
    Done(Result<(), StoreError>),
}

impl Receipt {
    /// The receipt of a batch whose fate is known already.
    pub fn ready(result: Result<(), StoreError>) -> Self {
        Self(Inner::Ready(result))
    }

    /// A receipt and the means to settle it.
    pub fn pending() -> (Self, Completer) {
        let (sender, receiver) = watch::channel(Stage::Queued);
        (Self(Inner::Pending(receiver)), Completer(sender))
    }

    /// What became of the batch, if that is settled.
    pub fn settled(&self) -> Option<Result<(), StoreError>> {
        match &self.0 {
            Inner::Ready(result) => Some(result.clone()),
            Inner::Pending(stage) => match (&*stage.borrow(), stage.has_changed()) {
                (Stage::Done(result), _) => Some(result.clone()),
                (_, Err(_)) => Some(Err(StoreError::Closed)),
                _ => None,
            },
        }
    }

    /// Whether readers of this process see the batch.
    pub fn is_visible(&self) -> bool {
        match &self.0 {
            Inner::Ready(result) => result.is_ok(),
            Inner::Pending(stage) => matches!(&*stage.borrow(), Stage::Visible | Stage::Done(Ok(()))),
        }
    }

    /// Waits until readers of this process see the batch. Cancel-safe.
    ///
    /// # Errors
    /// Why the batch was not written.
    pub async fn visible(&self) -> Result<(), StoreError> {
        self.wait(|stage| !matches!(stage, Stage::Queued)).await
    }

    /// Waits until the batch is on stable storage. Cancel-safe.
    ///
    /// # Errors
    /// Why the batch was not written, or not made durable.
    pub async fn durable(&self) -> Result<(), StoreError> {
        self.wait(|stage| matches!(stage, Stage::Done(_))).await
    }

    async fn wait(&self, enough: impl FnMut(&Stage) -> bool) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Ready(result) => result.clone(),
            Inner::Pending(stage) => match stage.clone().wait_for(enough).await.as_deref() {
                Ok(Stage::Done(result)) => result.clone(),
                Ok(_) => Ok(()),
                // The store dropped the completer without a word: it is gone.
                Err(_) => Err(StoreError::Closed),
            },
        }
    }
}

/// Settles a [`Receipt`]; held by the store. Dropping it unsettled says [`StoreError::Closed`].
#[derive(Debug)]
pub struct Completer(watch::Sender<Stage>);

impl Completer {
    /// Readers see the batch now; it is not durable yet.
    pub fn visible(&self) {
        self.0.send_replace(Stage::Visible);
    }

    /// The batch is on stable storage, or it failed.
    pub fn done(self, result: Result<(), StoreError>) {
        self.0.send_replace(Stage::Done(result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn a_receipt_passes_from_queued_over_visible_to_done() {
        let (receipt, completer) = Receipt::pending();
        assert!(receipt.settled().is_none() && receipt.visible().now_or_never().is_none());
        completer.visible();
        assert!(receipt.visible().now_or_never().is_some() && receipt.durable().now_or_never().is_none());
        completer.done(Ok(()));
        assert!(matches!(receipt.settled(), Some(Ok(()))));
    }

    #[test]
    fn a_store_that_vanishes_is_reported_as_closed() {
        let (receipt, completer) = Receipt::pending();
        drop(completer);
        assert!(matches!(receipt.settled(), Some(Err(StoreError::Closed))));
        assert!(matches!(receipt.durable().now_or_never(), Some(Err(StoreError::Closed))));
    }
}
