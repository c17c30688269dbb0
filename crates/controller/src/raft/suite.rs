//! openraft's own conformance suite, on our log and our machine.

use bytes::Bytes;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::log::LogStore;
use super::machine::{ApplyEntryError, Machine, MachineStore, WriteSnapshot};
use super::types::Types;

/// Counts.
#[derive(Default)]
struct Counter(u64);

impl Machine for Counter {
    fn apply(&mut self, _index: u64, _payload: &[u8]) -> Result<Bytes, ApplyEntryError> {
        self.0 += 1;
        Ok(self.0.to_string().into())
    }

    fn publish(&mut self) {}

    fn snapshot(&self) -> WriteSnapshot {
        let count = self.0;
        Box::new(move || serde_json::to_vec(&count))
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), serde_json::Error> {
        self.0 = serde_json::from_slice(bytes)?;
        Ok(())
    }
}

struct Builder;

impl StoreBuilder<Types, LogStore, MachineStore, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, MachineStore), StorageError<Types>> {
        let directory = tempfile::tempdir().unwrap();
        let log = LogStore::open(&directory.path().join("log")).unwrap();
        let machine = MachineStore::open(&directory.path().join("snapshots"), Box::<Counter>::default()).unwrap();
        Ok((directory, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_passes_openrafts_suite() {
    Suite::test_all(Builder).await.unwrap();
}
