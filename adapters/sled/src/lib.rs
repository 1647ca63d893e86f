//! A [`Store`](anabranch::application::ports::Store) of anabranch in a directory, on [sled](https://docs.rs/sled/0.34).
//!
//! ```
//! # use anabranch_sled::SledStore;
//! # use anabranch::application::ports::{NodeRepository as _, Store as _, StoreError};
//! # fn main() -> Result<(), StoreError> {
//! # futures::executor::block_on(async {
//! # let dir = std::env::temp_dir().join(format!("anabranch-doc-{}", std::process::id()));
//! # let _ = std::fs::remove_dir_all(&dir);
//! let store = SledStore::open(&dir).await?; // the first time, this makes the node's identity
//! println!("this is node {}", store.identity().node());
//! store.close().await?; // and now it can be opened again
//! # std::fs::remove_dir_all(&dir).ok();
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # What survives what
//!
//! A small write whose receipt says durable went into a journal of 1 MiB, and `sync_data` was called on that: one
//! write and one sync for all that was submitted meanwhile. sled takes what is in the journal when it is full, in
//! one batch. A large write goes to sled at once, through its `flush` and then through `sync_data` on every file that
//! sled wrote (sled itself only asks Linux to start writing, which is not enough).
//!
//! | event | Linux, BSD | macOS | Windows |
//! |---|---|---|---|
//! | the process is killed | survives | survives | survives |
//! | the machine loses power | survives (`fdatasync`) | survives (`F_FULLFSYNC`) | survives (`FlushFileBuffers`), the directory entries of a store made moments before perhaps not |
//!
//! All of it given that disk and file system do what a sync asks of them: some cheap flash and some network
//! file systems do not. A batch that was not acknowledged is there in full or not at all. A batch with
//! [`Durability::Interval`](anabranch::application::ports::Durability::Interval) survives the crash of its process only
//! once it was synced.
//!
//! # One store, one process
//!
//! The directory is locked while the store is open: a second open, by whatever path, in this process or another,
//! is [`StoreError::InUse`]. Locks of network file systems may not
//! be worth their name: keep the store on a local disk.
//!
//! # Copies and backups
//!
//! Copy the directory only while the store is closed, and all of it: without its journal a store is refused as
//! damaged. A copy, a restored backup and a store that was moved to
//! another file system or machine say [`Residence::Moved`](anabranch::application::ports::Residence::Moved) at their next
//! open: device, inode and time of birth of directory and database file, and the machine's id, are recorded.
//! What rolls back the whole machine (a snapshot of a virtual machine) cannot be noticed here.

mod backing;
mod files;
mod journal;
mod options;

use std::path::Path;

use anabranch::application::ports::StoreError;
use anabranch::infrastructure::threaded_store::ThreadedStore;

pub use options::SledOptions;

/// Everything a node keeps, in a directory.
///
/// Dropping the store blocks until everything submitted is durable; [`close`] does the same without blocking.
///
/// [`close`]: anabranch::application::ports::Store::close
#[derive(Debug)]
pub struct SledStore(ThreadedStore<backing::SledBacking>);

impl SledStore {
    /// Opens the store in the directory `path`, or makes it if there is nothing or an empty directory.
    ///
    /// # Errors
    /// - [`StoreError::InUse`]: it is open elsewhere.
    /// - [`StoreError::Location`]: `path` is a file, a directory of something else, or its parent does not exist.
    /// - [`StoreError::NewerFormat`], [`StoreError::Corrupt`], [`StoreError::Io`].
    ///
    /// Nothing that was there is changed then.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::options().open(path).await
    }

    /// Ways to open a store other than the default one.
    pub fn options() -> SledOptions {
        SledOptions::default()
    }
}

anabranch::forward_store!(SledStore);
