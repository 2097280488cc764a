//! What a simulated disk does as a storage.

use std::io;
use std::path::Path;

use super::change::Change;
use super::image::PAGE_BYTES;
use super::{FaultyOperation, SimulatedCounters, SimulatedStorage, State, Work};
use crate::executor::Core;
use crate::reactor::{Operation, submit};
use crate::storage::{Geometry, Storage, StorageExtent};
use crate::{Buffers, Error};

impl SimulatedStorage {
    fn error(
        &self,
        operation: &'static str,
        offset: u64,
        len: u64,
    ) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Range {
            path: self.path.to_path_buf(),
            operation,
            offset,
            len,
            source,
        }
    }

    fn count(&self, count: impl FnOnce(&mut SimulatedCounters)) {
        count(&mut self.state.borrow_mut().counters);
    }

    fn fault(&self, operation: FaultyOperation) -> Option<io::Error> {
        let faults = &mut self.state.borrow_mut().faults;
        faults.iter_mut().find_map(|fault| fault.strikes(operation))
    }

    /// How long an operation takes before it has its effect, and until its end after that.
    fn times_ns(&self, work: Work) -> (u64, u64) {
        let now_ns = Core::current().reactor.virtual_now_ns().unwrap_or(0);
        self.state.borrow_mut().times_ns(work, now_ns)
    }

    /// Refuses what would change the size of a block device.
    fn check_size(&self, change: &Change) -> io::Result<()> {
        let (offset, len) = change.extent();
        let errno = match change {
            Change::SetLen { .. } => libc::EINVAL,
            _ if offset.saturating_add(len) > self.size_bytes() => libc::ENOSPC,
            _ => return Ok(()),
        };
        if self.is_block_device {
            return Err(io::Error::from_raw_os_error(errno));
        }
        Ok(())
    }

    /// Applies a change, somewhere between its beginning and its end. If the future is dropped
    /// before the end, no sync ever covers the change.
    async fn change(&self, change: Change) -> io::Result<()> {
        assert!(!self.read_only, "a disk that is only read is changed");
        let (offset, len) = change.extent();
        // It takes no time to write zeros that nobody hands over.
        let len = match change {
            Change::Write { .. } => len,
            Change::Zero { .. } | Change::SetLen { .. } => 0,
        };
        self.check_size(&change)?;
        let after = self.state.borrow().cache.barriers();
        let (before_ns, after_ns) = self.times_ns(Work::Write { offset, len });
        pass(before_ns).await;
        let failure = self.fault(change.operation());
        let applied = self.state.borrow_mut().apply(change, after, failure);
        pass(after_ns).await;
        self.state.borrow_mut().cache.completed(applied?);
        Ok(())
    }
}

/// Lets virtual time pass, in which other operations go on.
async fn pass(duration_ns: u64) {
    // Time passes without fail.
    let _ = submit(Operation::Delay { duration_ns }).await;
}

impl Storage for SimulatedStorage {
    fn path(&self) -> &Path {
        &self.path
    }

    fn geometry(&self) -> Geometry {
        let page = u32::try_from(PAGE_BYTES).expect("small");
        Geometry {
            read_only: self.read_only,
            block_size_bytes: 512,
            physical_block_size_bytes: page,
            optimal_io_size_bytes: 0,
            discard_granularity_bytes: page,
        }
    }

    fn nonce(&self) -> [u8; 16] {
        let rng = &mut self.state.borrow_mut().rng;
        let words = [rng.next().to_le_bytes(), rng.next().to_le_bytes()];
        words.concat().try_into().expect("two words")
    }

    fn size_bytes(&self) -> u64 {
        self.state.borrow().cache.current().size_bytes()
    }

    /// Reads the first part and, as after a short read of a host, the rest at another time.
    async fn read_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let len = buffers.len() as u64;
        self.count(|counters| {
            counters.reads += 1;
            counters.read_bytes += len;
        });
        let (before_ns, after_ns) = self.times_ns(Work::Read { offset, len });
        let first = self.state.borrow_mut().rng.index(buffers.len() + 1);
        pass(before_ns).await;
        let failure = self.fault(FaultyOperation::Read);
        let read = |range: std::ops::Range<usize>| {
            let offset = offset.saturating_add(range.start as u64);
            self.state.borrow().read(offset, &buffers.slice(range))
        };
        let result = failure.map_or_else(|| read(0..first), Err);
        pass(after_ns).await;
        result
            .and_then(|()| read(first..buffers.len()))
            .map_err(self.error("read", offset, len))
    }

    async fn write_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let len = buffers.len() as u64;
        self.count(|counters| {
            counters.writes += 1;
            counters.written_bytes += len;
        });
        let bytes = buffers.to_vec().into();
        self.change(Change::Write { offset, bytes })
            .await
            .map_err(self.error("write", offset, len))
    }

    async fn sync(&self) -> Result<(), Error> {
        let covered = self.state.borrow().cache.completed_so_far();
        self.count(|counters| counters.syncs += 1);
        let (before_ns, after_ns) = self.times_ns(Work::Sync);
        pass(before_ns + after_ns).await;
        let failure = self.fault(FaultyOperation::Sync);
        let mut state = self.state.borrow_mut();
        let State { cache, rng, .. } = &mut *state;
        if let Some(source) = failure {
            cache.fail_sync(covered, rng);
            return Err(Error::Io {
                path: self.path.to_path_buf(),
                operation: "flush",
                source,
            });
        }
        cache.sync(covered);
        Ok(())
    }

    fn has_barrier(&self) -> bool {
        true
    }

    async fn barrier(&self) -> Result<(), Error> {
        let covered = self.state.borrow().cache.completed_so_far();
        self.count(|counters| counters.barriers += 1);
        let (before_ns, after_ns) = self.times_ns(Work::Barrier);
        pass(before_ns + after_ns).await;
        if let Some(source) = self.fault(FaultyOperation::Barrier) {
            return Err(Error::Io {
                path: self.path.to_path_buf(),
                operation: "keep the order of writes to",
                source,
            });
        }
        self.state.borrow_mut().cache.barrier(covered);
        Ok(())
    }

    fn has_zero_ahead(&self) -> bool {
        true
    }

    async fn zero_ahead(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.count(|counters| counters.others += 1);
        let zeros = vec![0; usize::try_from(len).expect("zeros for memory")];
        let bytes = zeros.into();
        self.change(Change::Write { offset, bytes })
            .await
            .map_err(self.error("write zeros to", offset, len))
    }

    fn spare_bytes(&self) -> u64 {
        let state = self.state.borrow();
        let used_bytes = state.cache.current().allocated_bytes();
        state.capacity_bytes.saturating_sub(used_bytes)
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<bool, Error> {
        self.count(|counters| counters.others += 1);
        // A disk may ignore it, and nobody may rely on what is read afterwards.
        if self.is_block_device || self.state.borrow_mut().rng.coin() {
            return Ok(false);
        }
        let change = Change::Zero {
            offset,
            len,
            unmap: true,
        };
        self.change(change)
            .await
            .map(|()| true)
            .map_err(self.error("discard", offset, len))
    }

    async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        self.count(|counters| counters.others += 1);
        let change = Change::Zero { offset, len, unmap };
        self.change(change)
            .await
            .map_err(self.error("write zeros to", offset, len))
    }

    async fn extent(&self, offset: u64, len: u64) -> Result<StorageExtent, Error> {
        let (before_ns, after_ns) = self.times_ns(Work::Read { offset, len: 0 });
        pass(before_ns).await;
        let extent = self.state.borrow().cache.current().extent(offset, len);
        pass(after_ns).await;
        let data = extent.data || (self.is_block_device && offset < self.size_bytes());
        Ok(StorageExtent { data, ..extent })
    }

    fn can_resize(&self) -> bool {
        !self.is_block_device
    }

    /// It is always known.
    fn refresh_size(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn set_len(&self, size_bytes: u64) -> Result<(), Error> {
        self.count(|counters| counters.others += 1);
        let change = Change::SetLen { size_bytes };
        self.change(change)
            .await
            .map_err(self.error("resize", 0, size_bytes))
    }

    fn close(&self) {}
}
