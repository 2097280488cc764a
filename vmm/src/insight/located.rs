//! Where files are that processes are about to read, on its way from the hooks to the disks.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::{Class, DedupHint};

/// Extents that wait for their disk; more are not waited for.
const WAITING_MAX: usize = 64 << 10;
/// Static numbers of drivers end here: virtio-blk has one that the kernel gave out
/// (Linux, Documentation/admin-guide/devices.txt).
const DYNAMIC_MAJOR_MIN: u64 = 234;
/// Minor numbers of one disk (Linux, `drivers/block/virtio_blk.c`, `PART_BITS`).
const PARTITION_BITS: u32 = 4;

/// A stretch of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    /// The device's number, as the guest has it in `st_dev`.
    pub(super) device: u64,
    /// Where it is on that, in bytes.
    pub(super) range: Range<u64>,
    pub(super) class: Class,
    pub(super) dedup: DedupHint,
}

impl Located {
    /// The number of the disk and that of the partition, 0 for all of it; none if it is no disk of
    /// virtio-blk.
    fn place(&self) -> Option<(usize, usize)> {
        let (major, minor) = numbers(self.device);
        if major < DYNAMIC_MAJOR_MIN {
            return None;
        }
        let disk = usize::try_from(minor >> PARTITION_BITS).ok()?;
        let partition = usize::try_from(minor & ((1 << PARTITION_BITS) - 1)).ok()?;
        Some((disk, partition))
    }
}

/// The major and the minor number of a device: glibc's `gnu_dev_major` and `gnu_dev_minor`.
pub(super) fn numbers(device: u64) -> (u64, u64) {
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & 0xffff_ff00);
    (major, minor)
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    extents: Vec<Located>,
    /// For whom.
    disks: Arc<WaitedFor>,
}

impl Waiting {
    /// Notes an extent, if it is on a disk.
    pub(super) fn push(&mut self, located: Located) {
        if self.extents.len() < WAITING_MAX
            && let Some((disk, _)) = located.place()
        {
            self.extents.push(located);
            self.disks.add(disk);
        }
    }

    /// For which disks there is something.
    pub(super) fn disks(&self) -> &Arc<WaitedFor> {
        &self.disks
    }

    /// Those that are on disk number `disk`, with the number of their partition.
    pub(super) fn take(&mut self, disk: usize) -> Vec<(usize, Located)> {
        let mut taken = Vec::new();
        self.disks.clear();
        self.extents.retain(|located| {
            let Some((number, partition)) = located.place() else {
                return false;
            };
            if number == disk {
                taken.push((partition, located.clone()));
            } else {
                self.disks.add(number);
            }
            number != disk
        });
        taken
    }
}

/// For which disks something waits, to be looked at by each request, and without a lock. A bit a
/// disk; the last is for all that have none.
#[derive(Debug, Default)]
pub(super) struct WaitedFor(AtomicU64);

impl WaitedFor {
    /// Whether something may be there for disk number `disk`.
    pub(super) fn has(&self, disk: usize) -> bool {
        self.0.load(Ordering::Acquire) & Self::bit(disk) != 0
    }

    fn add(&self, disk: usize) {
        self.0.fetch_or(Self::bit(disk), Ordering::Release);
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }

    fn bit(disk: usize) -> u64 {
        1 << disk.min(63)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(major: u64, minor: u64) -> Located {
        Located {
            device: (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
            range: 0..4096,
            class: Class::Below1Mib,
            dedup: DedupHint::None,
        }
    }

    #[test]
    fn extents_find_their_disk() {
        let mut waiting = Waiting::default();
        for (major, minor) in [(254, 0), (254, 1), (254, 16), (254, 275), (7, 0), (0, 33)] {
            waiting.push(located(major, minor));
        }
        let partitions = |taken: Vec<(usize, Located)>| -> Vec<usize> {
            taken.into_iter().map(|(partition, _)| partition).collect()
        };
        let waited_for = Arc::clone(waiting.disks());
        let disks = || [0, 1, 2, 17].map(|disk| waited_for.has(disk));
        assert_eq!(disks(), [true, true, false, true]);
        assert_eq!(partitions(waiting.take(0)), [0, 1]);
        assert_eq!(disks(), [false, true, false, true]);
        assert_eq!(partitions(waiting.take(17)), [3]);
        assert_eq!(partitions(waiting.take(0)), [] as [usize; 0]);
        assert_eq!(partitions(waiting.take(1)), [0]);
        assert_eq!(disks(), [false; 4]);
        assert!(waiting.extents.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut waiting = Waiting::default();
        for _ in 0..2 * WAITING_MAX {
            waiting.push(located(254, 0));
        }
        assert_eq!(waiting.extents.len(), WAITING_MAX);
    }
}
