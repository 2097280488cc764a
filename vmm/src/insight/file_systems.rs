//! What is behind the numbers of devices that name no disk.
//!
//! A btrfs gives each of its subvolumes such a number, and so do file systems that are on no disk.
//! Which it is, a process that has a file there is made to ask once. The kernel gives a number out
//! again when its file system is gone, which nobody is told of: so it is asked again after a while.

use std::collections::HashMap;

use disk::mutant;

use super::located::{On, numbers};
use super::question::StatFs;

/// `BTRFS_SUPER_MAGIC` (Linux, `include/uapi/linux/magic.h`).
const BTRFS_MAGIC: u64 = 0x9123_683e;
/// Numbers that are remembered; more are asked about again.
const NUMBERS_MAX: usize = 256;
/// So many files are met with a number before it is asked about again.
const AGE_MAX: u32 = 64;

/// Whether something is on a disk, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// To be asked for.
    NotYet,
    On(On),
    /// On no disk, or none that can be found.
    Nowhere,
}

#[derive(Debug)]
struct FileSystem {
    /// `f_fsid`, if it is a btrfs.
    btrfs: Option<[u32; 2]>,
    age: u32,
}

/// All that were asked about, by number.
#[derive(Debug, Default)]
pub(super) struct FileSystems {
    known: HashMap<u64, FileSystem>,
}

impl FileSystems {
    /// What files are on that have this number of a device.
    pub(super) fn place(&self, device: u64) -> Place {
        if !is_anonymous(device) {
            return Place::On(On::Device(device));
        }
        match self.known.get(&device) {
            None => Place::NotYet,
            Some(known) => known
                .btrfs
                .map_or(Place::Nowhere, |id| Place::On(On::Btrfs(id))),
        }
    }

    /// A file is met that has this number.
    pub(super) fn meet(&mut self, device: u64) {
        if mutant("a device's number stays with its file system") {
            return;
        }
        if let Some(known) = self.known.get_mut(&device) {
            known.age += 1;
            if known.age >= AGE_MAX {
                self.known.remove(&device);
            }
        }
    }

    /// The kernel said what is behind a number.
    pub(super) fn learn(&mut self, device: u64, said: StatFs) {
        if !is_anonymous(device) {
            return;
        }
        if self.known.len() >= NUMBERS_MAX {
            self.known.clear();
        }
        let btrfs = (said.kind == BTRFS_MAGIC).then_some(said.id);
        self.known.insert(device, FileSystem { btrfs, age: 0 });
    }

    /// Nothing that was known counts any more.
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }
}

/// Whether the kernel gave the number to a file system that has no device of its own (Linux,
/// `get_anon_bdev`).
fn is_anonymous(device: u64) -> bool {
    numbers(device).0 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: u64 = 254 << 8;
    const BTRFS: StatFs = StatFs {
        kind: BTRFS_MAGIC,
        id: [7, 8],
    };
    const TMPFS: StatFs = StatFs {
        kind: 0x0102_1994,
        id: [7, 8],
    };

    #[test]
    fn numbers_without_a_device_are_asked_about() {
        let mut known = FileSystems::default();
        assert_eq!(known.place(DISK), Place::On(On::Device(DISK)));
        assert_eq!(known.place(35), Place::NotYet);
        known.learn(35, BTRFS);
        known.learn(36, TMPFS);
        known.learn(DISK, TMPFS);
        assert_eq!(known.place(35), Place::On(On::Btrfs([7, 8])));
        assert_eq!(known.place(36), Place::Nowhere);
        assert_eq!(known.place(DISK), Place::On(On::Device(DISK)));
        known.clear();
        assert_eq!(known.place(35), Place::NotYet);
    }

    #[test]
    fn a_number_that_was_given_out_again_is_believed_for_a_while() {
        let mut known = FileSystems::default();
        known.learn(35, BTRFS);
        known.learn(36, BTRFS);
        for _ in 0..AGE_MAX {
            assert_eq!(known.place(35), Place::On(On::Btrfs([7, 8])));
            known.meet(35);
        }
        assert_eq!(known.place(35), Place::NotYet);
        assert_eq!(known.place(36), Place::On(On::Btrfs([7, 8])));
    }

    #[test]
    fn memory_is_bounded() {
        let mut known = FileSystems::default();
        // Minor numbers of more than eight bits are in two pieces.
        for minor in 0..10_000_u64 {
            known.learn((minor & 0xff) | ((minor & !0xff) << 12), BTRFS);
        }
        assert!((1..=NUMBERS_MAX).contains(&known.known.len()));
    }
}
