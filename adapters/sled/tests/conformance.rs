//! The store contract, clause by clause.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anabranch::application::ports::StoreError;
use anabranch::testing::store::{StoreFixture, conformance_with_restarts};
use anabranch_sled::SledStore;

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn fresh() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("anabranch-conformance-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[async_trait::async_trait]
impl StoreFixture for Directory {
    type Store = SledStore;

    async fn open(&self) -> Result<SledStore, StoreError> {
        SledStore::open(&self.0).await
    }
}

#[test]
fn the_sled_store_keeps_every_clause_of_the_store_contract() {
    futures::executor::block_on(conformance_with_restarts(|| async { Directory::fresh() }));
}
