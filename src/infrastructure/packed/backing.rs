//! What a database must provide to carry a store.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use bytes::Bytes;

use crate::application::ports::{StoreError, StoreUsage};

/// Changes that are applied together: key to new value, `None` to delete.
pub type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// An ordered map from short keys to values of up to [`value_bytes`](Self::value_bytes), on some disk.
///
/// # Contract
/// - Keys are ordered as byte strings. Deleting a key that is not there is fine. Keys from `ff` on are never used
///   by the store above: they are the backing's own.
/// - [`apply`](Self::apply) is atomic: after a crash at any point all of its changes are there or none, and
///   changes survive only together with all that were applied before.
/// - What was applied is visible to `get` and `scan` on every thread when `apply` returns.
/// - What was applied before [`sync`](Self::sync) began survives a crash of the machine once it returned.
/// - One thread writes at a time; any number read meanwhile. Reads during an `apply` may see half of it: the
///   store above keeps them apart.
/// - Dropping the backing releases it: it can be opened again when the drop returned.
/// - [`StoreError::Full`] from `apply` means that nothing was applied and that smaller changes may still fit;
///   any other error of `apply` or `sync` means that nothing is known.
pub trait Backing: Send + Sync + 'static {
    /// The value of `key`.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Corrupt`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Hands the pairs with keys in `range` to `visit` until it breaks, ascending, or descending if
    /// `backward`.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Corrupt`].
    fn scan(
        &self,
        range: Range<&[u8]>,
        backward: bool,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// Applies `changes`, all or none.
    ///
    /// # Errors
    /// [`StoreError::Full`] if nothing was applied for want of space, else any.
    fn apply(&self, changes: &Changes) -> Result<(), StoreError>;

    /// Makes everything applied so far durable.
    ///
    /// # Errors
    /// Any; what is on disk is not known then.
    fn sync(&self) -> Result<(), StoreError>;

    /// What the backing occupies; cheap.
    fn usage(&self) -> StoreUsage;

    /// Largest value in bytes that the backing handles well. Larger ones are cut into pieces, and small writes
    /// are merged up to this size.
    fn value_bytes(&self) -> usize {
        64 * 1024
    }
}
