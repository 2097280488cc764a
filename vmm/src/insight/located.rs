//! Where files are that processes are about to read, on its way from the hooks to the disks.

use std::ops::Range;

use disk::Class;

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
}

impl Located {
    /// The number of the disk and that of the partition, 0 for all of it; none if it is no disk of
    /// virtio-blk.
    fn place(&self) -> Option<(usize, usize)> {
        // As glibc's `gnu_dev_major` and `gnu_dev_minor`.
        let major = ((self.device >> 8) & 0xfff) | ((self.device >> 32) & !0xfff);
        let minor = (self.device & 0xff) | ((self.device >> 12) & 0xffff_ff00);
        if major < DYNAMIC_MAJOR_MIN {
            return None;
        }
        let disk = usize::try_from(minor >> PARTITION_BITS).ok()?;
        let partition = usize::try_from(minor & ((1 << PARTITION_BITS) - 1)).ok()?;
        Some((disk, partition))
    }
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<Located>);

impl Waiting {
    pub(super) fn push(&mut self, located: Located) {
        if self.0.len() < WAITING_MAX {
            self.0.push(located);
        }
    }

    /// Those that are on disk number `disk`, with the number of their partition.
    pub(super) fn take(&mut self, disk: usize) -> Vec<(usize, Located)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut taken = Vec::new();
        self.0.retain(|located| match located.place() {
            Some((number, partition)) => {
                if number == disk {
                    taken.push((partition, located.clone()));
                }
                number != disk
            }
            None => false,
        });
        taken
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
        assert_eq!(partitions(waiting.take(0)), [0, 1]);
        assert_eq!(partitions(waiting.take(17)), [3]);
        assert_eq!(partitions(waiting.take(0)), [] as [usize; 0]);
        assert_eq!(partitions(waiting.take(1)), [0]);
        assert!(waiting.0.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut waiting = Waiting::default();
        for _ in 0..2 * WAITING_MAX {
            waiting.push(located(254, 0));
        }
        assert_eq!(waiting.0.len(), WAITING_MAX);
    }
}
