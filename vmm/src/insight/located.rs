//! Where files are that processes are about to read, on its way from the hooks to the disks.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::graybox::VolumeName;
use disk::{Class, DedupHint};

/// Extents that wait for their disk; more are not waited for.
const WAITING_MAX: usize = 64 << 10;
/// Extents that are on some disk, kept until each has looked at them; then the oldest are forgotten.
const ANYWHERE_MAX: usize = 16 << 10;
/// Static numbers of drivers end here: virtio-blk has one that the kernel gave out
/// (Linux, Documentation/admin-guide/devices.txt).
const DYNAMIC_MAJOR_MIN: u64 = 234;
/// Minor numbers of one disk (Linux, `drivers/block/virtio_blk.c`, `PART_BITS`).
const PARTITION_BITS: u32 = 4;

/// What files are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    /// A device by its number, as the guest has it in `st_dev`.
    Device(u64),
    /// A btrfs by `f_fsid` of statfs(2), which may be on any disk, or on several.
    Btrfs([u32; 2]),
}

/// A stretch of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) on: On,
    /// Where it is on that, in bytes.
    pub(super) range: Range<u64>,
    pub(super) class: Class,
    pub(super) dedup: DedupHint,
}

/// A partition of a disk, or for 0 all of it.
#[derive(Clone, Copy, Debug)]
struct Place {
    disk: usize,
    partition: usize,
}

impl Place {
    /// What the guest means by this number of a device; none if that is no disk of virtio-blk.
    fn of(device: u64) -> Option<Self> {
        let (major, minor) = numbers(device);
        if major < DYNAMIC_MAJOR_MIN {
            return None;
        }
        Some(Self {
            disk: usize::try_from(minor >> PARTITION_BITS).ok()?,
            partition: usize::try_from(minor & ((1 << PARTITION_BITS) - 1)).ok()?,
        })
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
    extents: Vec<(Place, Located)>,
    /// Those of which only the disks know whether they have them, in the order they came.
    anywhere: VecDeque<(VolumeName, Located)>,
    /// For whom.
    disks: Arc<WaitedFor>,
}

impl Waiting {
    /// Notes an extent, if it may be on a disk.
    pub(super) fn push(&mut self, located: Located) {
        match located.on {
            On::Btrfs(id) => {
                if self.anywhere.len() >= ANYWHERE_MAX {
                    self.anywhere.pop_front();
                }
                self.anywhere.push_back((VolumeName::Btrfs(id), located));
                self.disks.add_anywhere();
            }
            On::Device(device) => {
                if self.extents.len() < WAITING_MAX
                    && let Some(place) = Place::of(device)
                {
                    self.extents.push((place, located));
                    self.disks.add(place.disk);
                }
            }
        }
    }

    /// For which disks there is something.
    pub(super) fn disks(&self) -> &Arc<WaitedFor> {
        &self.disks
    }

    /// Those that are on disk number `disk`, or may be and are new to it, with what the guest calls the
    /// file system. The disk has looked at `looked_at` of the latter so far, which is brought up to
    /// date.
    pub(super) fn take(&mut self, disk: usize, looked_at: &mut u64) -> Vec<(VolumeName, Located)> {
        let mut taken = Vec::new();
        self.disks.clear();
        self.extents.retain(|(place, located)| {
            if place.disk == disk {
                taken.push((VolumeName::Partition(place.partition), located.clone()));
            } else {
                self.disks.add(place.disk);
            }
            place.disk != disk
        });
        let came = self.disks.anywhere();
        let new = came.saturating_sub(*looked_at);
        let new = usize::try_from(new).unwrap_or(usize::MAX);
        let seen = self.anywhere.len().saturating_sub(new);
        taken.extend(self.anywhere.range(seen..).cloned());
        *looked_at = came;
        taken
    }
}

/// For which disks something waits, to be looked at by each request, and without a lock.
#[derive(Debug, Default)]
pub(super) struct WaitedFor {
    /// A bit a disk; the last is for all that have none.
    disks: AtomicU64,
    /// How much came that may be on any disk.
    anywhere: AtomicU64,
}

impl WaitedFor {
    /// Whether something may be there for disk number `disk`, which has looked at `looked_at` of what
    /// may be on any.
    pub(super) fn has(&self, disk: usize, looked_at: u64) -> bool {
        self.disks.load(Ordering::Acquire) & Self::bit(disk) != 0 || self.anywhere() != looked_at
    }

    fn add(&self, disk: usize) {
        self.disks.fetch_or(Self::bit(disk), Ordering::Release);
    }

    fn clear(&self) {
        self.disks.store(0, Ordering::Release);
    }

    fn add_anywhere(&self) {
        self.anywhere.fetch_add(1, Ordering::Release);
    }

    fn anywhere(&self) -> u64 {
        self.anywhere.load(Ordering::Acquire)
    }

    fn bit(disk: usize) -> u64 {
        1 << disk.min(63)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(on: On) -> Located {
        Located {
            on,
            range: 0..4096,
            class: Class::Below1Mib,
            dedup: DedupHint::None,
        }
    }

    fn device(major: u64, minor: u64) -> On {
        On::Device((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
    }

    fn names(taken: Vec<(VolumeName, Located)>) -> Vec<VolumeName> {
        taken.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn extents_find_their_disk() {
        let mut waiting = Waiting::default();
        for (major, minor) in [(254, 0), (254, 1), (254, 16), (254, 275), (7, 0), (0, 33)] {
            waiting.push(located(device(major, minor)));
        }
        let waited_for = Arc::clone(waiting.disks());
        let disks = || [0, 1, 2, 17].map(|disk| waited_for.has(disk, 0));
        let mut take = |disk| names(waiting.take(disk, &mut 0));
        assert_eq!(disks(), [true, true, false, true]);
        assert_eq!(take(0), [0, 1].map(VolumeName::Partition));
        assert_eq!(disks(), [false, true, false, true]);
        assert_eq!(take(17), [VolumeName::Partition(3)]);
        assert_eq!(take(0), []);
        assert_eq!(take(1), [VolumeName::Partition(0)]);
        assert_eq!(disks(), [false; 4]);
        assert!(waiting.extents.is_empty());
    }

    #[test]
    fn every_disk_looks_once_at_what_may_be_on_any() {
        let mut waiting = Waiting::default();
        let waited_for = Arc::clone(waiting.disks());
        let mut looked_at = [0; 2];
        let btrfs = |number| VolumeName::Btrfs([number; 2]);
        waiting.push(located(On::Btrfs([1; 2])));
        waiting.push(located(device(254, 17)));
        assert!((0..2).all(|disk| waited_for.has(disk, looked_at[disk])));
        assert_eq!(names(waiting.take(0, &mut looked_at[0])), [btrfs(1)]);
        assert!(!waited_for.has(0, looked_at[0]));
        waiting.push(located(On::Btrfs([2; 2])));
        assert!(waited_for.has(0, looked_at[0]));
        assert_eq!(names(waiting.take(0, &mut looked_at[0])), [btrfs(2)]);
        let both = [VolumeName::Partition(1), btrfs(1), btrfs(2)];
        assert_eq!(names(waiting.take(1, &mut looked_at[1])), both);
        assert!((0..2).all(|disk| !waited_for.has(disk, looked_at[disk])));
        assert_eq!(names(waiting.take(1, &mut looked_at[1])), []);
    }

    #[test]
    fn memory_is_bounded() {
        let mut waiting = Waiting::default();
        for number in 0..2 * WAITING_MAX {
            waiting.push(located(device(254, 0)));
            waiting.push(located(On::Btrfs([u32::try_from(number).unwrap(); 2])));
        }
        assert_eq!(waiting.extents.len(), WAITING_MAX);
        // The oldest are gone, whoever has looked at how many.
        let newest = u32::try_from(2 * WAITING_MAX - 1).unwrap();
        for mut looked_at in [0, 5] {
            let taken = names(waiting.take(1, &mut looked_at));
            assert_eq!(taken.len(), ANYWHERE_MAX);
            assert_eq!(taken.last(), Some(&VolumeName::Btrfs([newest; 2])));
        }
    }
}
