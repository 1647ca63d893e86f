//! Entries, lines and heads: the read side.
//!
//! Writes go through [`Store::submit`](super::Store::submit). Called by readers of streams and by the driver's store work.

use std::ops::RangeInclusive;

use async_trait::async_trait;

use super::store::StoreError;
use crate::domain::head::Head;
use crate::domain::log::{Line, LineNo, LogName, LogNo};
use crate::domain::run::Run;

/// A log with its lines, as loaded when a store is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLog {
    /// Its local number.
    pub no: LogNo,
    /// Its name.
    pub name: LogName,
    /// Its floor; 0 if none was set.
    pub floor: u64,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// Read side of the entries of all logs.
///
/// # Contract
/// - Reads are consistent with one visible batch boundary each, not with one another.
/// - Cancel-safe.
#[async_trait]
pub trait EntryRepository: Send + Sync + 'static {
    /// All logs with their lines, by rising number.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn logs(&self) -> Result<Vec<StoredLog>, StoreError>;

    /// The smallest number that no log ever had and no larger one did either: logs of removed channels count.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn next_log(&self) -> Result<LogNo, StoreError>;

    /// Entries of a line as one packed run: from the start of `range` if `backward` is false, else up to its
    /// end; at least one entry and otherwise as many as fit into `max_bytes` of body, less if that is cheaper
    /// for the store. Entries outside the line are not an error: `None` if the range holds none.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if what is stored does not read back as it was written.
    async fn read(
        &self,
        log: LogNo,
        line: LineNo,
        range: RangeInclusive<u64>,
        max_bytes: usize,
        backward: bool,
    ) -> Result<Option<Run>, StoreError>;

    /// The block heads kept of a line at sequences in `range`, ascending, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn block_heads(
        &self,
        log: LogNo,
        line: LineNo,
        range: RangeInclusive<u64>,
        limit: usize,
    ) -> Result<Vec<Head>, StoreError>;
}
