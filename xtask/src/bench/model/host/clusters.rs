//! Metadata written by the cluster, as QEMU does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use ::disk::{Buffers, Error, Geometry, Storage, StorageExtent, yield_now};
use futures_util::lock::Mutex;

const CLUSTER_BYTES: u64 = 64 << 10;
/// Guests write whole blocks of this; a write of less is of metadata.
const BLOCK_BYTES: u64 = 4096;

/// Below our engine in its ordered mode, what makes a model of QEMU's qcow2: QEMU (10.0) keeps the
/// same order with as many syncs, but writes each table and refcount block whole, once between two
/// syncs. Our engine writes the sectors that have changed; this writes the clusters around them.
///
/// It is kinder than QEMU: clusters are written side by side, and flushes that come together share
/// their syncs.
pub(in super::super) struct WholeClusters<S> {
    storage: S,
    /// The clusters that have metadata.
    clusters: RefCell<BTreeMap<u64, Rc<Cluster>>>,
}

#[derive(Default)]
struct Cluster {
    /// What is to be changed: where in the cluster, and the bytes.
    changes: RefCell<Vec<(usize, Vec<u8>)>>,
    /// How many changes there have been, and how many of them are written.
    changed: Cell<u64>,
    written: Cell<u64>,
    /// What was read or written last; empty at first. One writes it at a time.
    content: Mutex<Vec<u8>>,
}

impl<S: Storage> WholeClusters<S> {
    pub(in super::super) fn new(storage: S) -> Self {
        Self {
            storage,
            clusters: RefCell::default(),
        }
    }

    /// The cluster that a write is of, if it is of metadata.
    fn cluster(&self, offset: u64, len: u64) -> Option<(u64, Rc<Cluster>)> {
        let start = offset - offset % CLUSTER_BYTES;
        if offset + len > start + CLUSTER_BYTES {
            return None;
        }
        let mut clusters = self.clusters.borrow_mut();
        if let Some(cluster) = clusters.get(&start) {
            return Some((start, Rc::clone(cluster)));
        }
        let is_metadata = !offset.is_multiple_of(BLOCK_BYTES) || !len.is_multiple_of(BLOCK_BYTES);
        is_metadata.then(|| (start, Rc::clone(clusters.entry(start).or_default())))
    }

    async fn write_cluster(&self, start: u64, cluster: &Cluster, number: u64) -> Result<(), Error> {
        let mut content = cluster.content.lock().await;
        // Others that are written at the same time go along.
        yield_now().await;
        if cluster.written.get() >= number {
            return Ok(());
        }
        if content.is_empty() {
            *content = self.read_cluster(start).await?;
        }
        let covered = cluster.changed.get();
        for (at, bytes) in cluster.changes.take() {
            content[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        let whole = Buffers::from_vec(&*content);
        self.storage.write_at(start, whole).await?;
        cluster.written.set(covered);
        Ok(())
    }

    async fn read_cluster(&self, start: u64) -> Result<Vec<u8>, Error> {
        let there = self.storage.size_bytes().saturating_sub(start);
        let buffers = Buffers::zeroed(small(CLUSTER_BYTES));
        let read = buffers.slice(0..small(there.min(CLUSTER_BYTES)));
        if !read.is_empty() {
            self.storage.read_at(start, read).await?;
        }
        Ok(buffers.to_vec())
    }
}

/// Something within a cluster.
fn small(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl<S: Storage> Storage for WholeClusters<S> {
    fn path(&self) -> &Path {
        self.storage.path()
    }

    fn geometry(&self) -> Geometry {
        self.storage.geometry()
    }

    fn nonce(&self) -> [u8; 16] {
        self.storage.nonce()
    }

    fn size_bytes(&self) -> u64 {
        self.storage.size_bytes()
    }

    async fn read_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        self.storage.read_at(offset, buffers).await
    }

    async fn write_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let Some((start, cluster)) = self.cluster(offset, buffers.len() as u64) else {
            return self.storage.write_at(offset, buffers).await;
        };
        let change = (small(offset - start), buffers.to_vec());
        cluster.changes.borrow_mut().push(change);
        let number = cluster.changed.get() + 1;
        cluster.changed.set(number);
        self.write_cluster(start, &cluster, number).await
    }

    async fn sync(&self) -> Result<(), Error> {
        self.storage.sync().await
    }

    fn has_barrier(&self) -> bool {
        self.storage.has_barrier()
    }

    async fn barrier(&self) -> Result<(), Error> {
        self.storage.barrier().await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<bool, Error> {
        self.storage.discard(offset, len).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        self.storage.write_zeroes(offset, len, unmap).await
    }

    /// QEMU does not write ahead by itself.
    fn has_zero_ahead(&self) -> bool {
        false
    }

    async fn zero_ahead(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.storage.zero_ahead(offset, len).await
    }

    fn spare_bytes(&self) -> u64 {
        0
    }

    async fn extent(&self, offset: u64, len: u64) -> Result<StorageExtent, Error> {
        self.storage.extent(offset, len).await
    }

    fn can_resize(&self) -> bool {
        self.storage.can_resize()
    }

    fn refresh_size(&self) -> Result<(), Error> {
        self.storage.refresh_size()
    }

    async fn set_len(&self, size_bytes: u64) -> Result<(), Error> {
        self.storage.set_len(size_bytes).await
    }

    fn close(&self) {
        self.storage.close();
    }
}

#[cfg(test)]
mod tests {
    use ::disk::{Backend, Executor, SimulatedStorage};
    use futures_util::future::join_all;

    use super::*;

    #[test]
    fn small_writes_that_come_together_are_one_of_a_cluster() {
        let storage = SimulatedStorage::from_bytes(&vec![7; 81_024], 1);
        let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
        let above = WholeClusters::new(storage.clone());
        executor.run(async {
            let write = |offset| above.write_at(offset, Buffers::from_vec([9; 512]));
            for result in join_all([write(65_536), write(80_000), write(512)]).await {
                result.unwrap();
            }
            // In a cluster of metadata, anything is metadata.
            let block = above.write_at(69_632, Buffers::from_vec([8; 4096]));
            block.await.unwrap();
            let data = above.write_at(200_704, Buffers::from_vec([8; 4096]));
            data.await.unwrap();
        });
        let counters = storage.counters();
        assert_eq!(
            (counters.writes, counters.written_bytes),
            (4, 3 * 65_536 + 4096)
        );
        let bytes = storage.to_bytes();
        assert!(bytes[..512] == [7; 512] && bytes[512..1024] == [9; 512]);
        assert!(bytes[65_536..66_048] == [9; 512] && bytes[69_632..73_728] == [8; 4096]);
        assert!(bytes[80_000..80_512] == [9; 512] && bytes[80_512..81_024] == [7; 512]);
    }
}
