//! How a store is opened.

use std::path::Path;

use anabranch::application::ports::StoreError;
use anabranch::infrastructure::packed::PackedStore;
use anabranch::infrastructure::threaded_store::ThreadedStore;

use crate::SledStore;
use crate::backing::SledBacking;

/// sled's own default is 1 GiB, which is not for phones.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Options of a [`SledStore`], made by [`SledStore::options`].
#[derive(Debug, Clone)]
#[must_use = "options do nothing until they open a store"]
pub struct SledOptions {
    pub(crate) cache_bytes: u64,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { cache_bytes: CACHE_BYTES }
    }
}

impl SledOptions {
    /// Memory that sled may use to cache pages, in bytes; 16 MiB unless told otherwise. sled itself needs some
    /// 30 MB besides, buffers for what is being written included. Not less than 1 MiB is
    /// used.
    pub fn cache_bytes(self, bytes: u64) -> Self {
        Self { cache_bytes: bytes.max(1024 * 1024) }
    }

    /// Opens the store in the directory `path`, as [`SledStore::open`] does.
    ///
    /// # Errors
    /// As [`SledStore::open`].
    pub async fn open(self, path: impl AsRef<Path>) -> Result<SledStore, StoreError> {
        let path = path.as_ref().to_owned();
        let opened = ThreadedStore::open("anabranch-sled", move || {
            let entropy = entropy()?;
            let backing = SledBacking::open(&path, &self)?;
            let residence = backing.residence()?;
            PackedStore::open(backing, entropy, &residence)
        });
        opened.await.map(SledStore)
    }
}

#[allow(clippy::disallowed_methods, reason = "a new identity is the one thing that no seed may decide")]
fn entropy() -> Result<[u8; 32], StoreError> {
    let mut entropy = [0; 32];
    let filled = getrandom::fill(&mut entropy).map(|()| entropy);
    filled.map_err(|error| StoreError::Io(format!("no randomness for an identity: {error}").into()))
}
