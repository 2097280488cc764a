//! Where the addresses of file systems are on the disk.

use std::ops::Range;
use std::process::Command;

use super::partitions::{entry, record};
use super::{EXT, MARK, SIZE_BYTES, XFS_BYTES, image, read_all};
use crate::graybox::{GrayBox, VolumeName};
use crate::test_support::skip;
use crate::{Buffers, Classifier as _};

const PARTITION_START: u64 = 1 << 20;

/// What statfs(2) says of the btrfs in an image, of its first subvolume.
fn f_fsid(image: &[u8]) -> [u32; 2] {
    let fsid = &image[(64 << 10) + 32..][..16];
    let words = [0, 4, 8, 12].map(|at| u32::from_be_bytes(fsid[at..at + 4].try_into().unwrap()));
    [words[0] ^ words[2], words[1] ^ words[3] ^ 5]
}

/// The addresses of the nodes of a btrfs and where they are, as they say themselves.
fn nodes(image: &[u8]) -> Vec<(u64, u64)> {
    let fsid = &image[(64 << 10) + 32..][..16];
    let blocks = (0..).zip(image.chunks(4096));
    blocks
        .filter(|(_, block)| block[32..48] == *fsid && block[64..72] != *b"_BHRfS_M")
        .map(|(number, block)| {
            let address = u64::from_le_bytes(block[48..56].try_into().unwrap());
            (address, number * 4096)
        })
        .collect()
}

/// The addresses of content, as the program of the file system's authors tells them.
fn content_of(test: &str, image: &[u8]) -> Vec<Range<u64>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), image).unwrap();
    let mut command = Command::new("btrfs");
    command.args(["inspect-internal", "dump-tree", "-t", "5"]);
    let Ok(output) = command.arg(file.path()).output() else {
        skip(test, "btrfs is not installed");
        return Vec::new();
    };
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines = printed.lines().map(str::trim);
    let told = lines.filter_map(|line| line.strip_prefix("extent data disk byte "));
    let extents = told.map(|told| {
        let words: Vec<_> = told.split(' ').collect();
        let (start, len): (u64, u64) = (words[0].parse().unwrap(), words[2].parse().unwrap());
        start..start + len
    });
    extents.filter(|extent| extent.start > 0).collect()
}

/// A disk on which the image is all there is, or a partition.
fn disk(image: &[u8], parted: bool) -> (GrayBox, u64) {
    let gray_box = GrayBox::new(XFS_BYTES);
    if !parted {
        for _ in 0..2 {
            read_all(&gray_box, image);
        }
        return (gray_box, 0);
    }
    let sectors = u32::try_from(image.len() / 512).unwrap();
    let table = record(&[entry(0x83, 2048, sectors)]);
    gray_box.read(0, &Buffers::from_vec(&table));
    for _ in 0..2 {
        for (number, piece) in (0..).zip(image.chunks(256 << 10)) {
            let offset = PARTITION_START + (number << 18);
            gray_box.read(offset, &Buffers::from_vec(piece));
        }
    }
    (gray_box, PARTITION_START)
}

#[track_caller]
fn check(test: &str, options: &str, parted: bool) {
    let command = format!("mkfs.btrfs -q -f --rootdir TREE{options}");
    let Some(image) = image(test, &command) else {
        return;
    };
    let (gray_box, start) = disk(&image, parted);
    let name = VolumeName::Btrfs(f_fsid(&image));
    let nodes = nodes(&image);
    assert!(nodes.len() > 10, "{command}: {nodes:?}");
    for (address, offset) in nodes {
        let places = gray_box.places(name, &(address..address + 4096));
        let expected = start + offset..start + offset + 4096;
        assert!(
            places.contains(&expected),
            "{command}: {address:#x}: {places:x?} without {expected:x?}"
        );
    }
    let extents = content_of(test, &image);
    let mut marked = 0;
    for extent in &extents {
        let places = gray_box.places(name, extent);
        let len: u64 = places.iter().map(|place| place.end - place.start).sum();
        assert_eq!(len, extent.end - extent.start, "{command}: {extent:x?}");
        for place in places {
            let place = [place.start - start, place.end - start].map(|at| at.try_into().unwrap());
            for block in image[place[0]..place[1]].chunks(4096) {
                let is_hole = block.iter().all(|byte| *byte == 0);
                assert!(is_hole || block.starts_with(MARK), "{command}: {extent:x?}");
                marked += u32::from(!is_hole);
            }
        }
    }
    // The large file and the scattered one, and some.
    assert!(extents.is_empty() || marked > 3000, "{command}: {marked}");
}

#[test]
fn addresses_of_btrfs_are_found_on_the_disk() {
    const TEST: &str = "addresses_of_btrfs_are_found_on_the_disk";
    check(TEST, "", false);
    check(TEST, " -m single", false);
    check(TEST, "", true);
    check(TEST, " -n 4096 --mixed", true);
}

#[test]
fn a_btrfs_is_told_from_another_and_from_what_has_other_addresses() {
    const TEST: &str = "a_btrfs_is_told_from_another_and_from_what_has_other_addresses";
    let Some(btrfs) = image(TEST, "mkfs.btrfs -q -f --rootdir TREE") else {
        return;
    };
    let (gray_box, _) = disk(&btrfs, false);
    let id = f_fsid(&btrfs);
    let (address, _) = nodes(&btrfs)[0];
    let places = |name, start: u64| gray_box.places(name, &(start..start + 4096)).len();
    // Two copies, whichever subvolume is asked about.
    assert_eq!(places(VolumeName::Btrfs(id), address), 2);
    assert_eq!(
        places(VolumeName::Btrfs([id[0], id[1] ^ 256 ^ 5]), address),
        2
    );
    assert_eq!(places(VolumeName::Btrfs([id[0] ^ 1, id[1]]), address), 0);
    assert_eq!(places(VolumeName::Btrfs(id), u64::MAX - 4096), 0);
    assert_eq!(places(VolumeName::Btrfs(id), 0), 0);
    assert_eq!(places(VolumeName::Partition(0), address), 0);
    // What goes over the end of a chunk.
    let ends = gray_box.places(VolumeName::Btrfs(id), &(address..u64::MAX));
    let in_volume = ends.iter().all(|end| end.end <= XFS_BYTES);
    assert!(ends.len() >= 2 && in_volume, "{ends:x?}");
}

#[test]
fn addresses_of_other_file_systems_are_those_of_their_volumes() {
    const TEST: &str = "addresses_of_other_file_systems_are_those_of_their_volumes";
    let Some(ext4) = image(TEST, &format!("{EXT} -t ext4 -b 4096")) else {
        return;
    };
    let place = |parted, number, range: Range<u64>| {
        let (gray_box, _) = disk(&ext4, parted);
        let mut places = gray_box.places(VolumeName::Partition(number), &range);
        assert!(places.len() < 2, "{places:?}");
        places.pop()
    };
    assert_eq!(place(false, 0, 4096..8192), Some(4096..8192));
    assert_eq!(place(false, 1, 4096..8192), None);
    assert_eq!(place(true, 0, 4096..8192), None);
    let start = PARTITION_START;
    assert_eq!(place(true, 1, 4096..8192), Some(start + 4096..start + 8192));
    // What a file system says that is behind its end, is not there.
    let end = start + SIZE_BYTES;
    assert_eq!(
        place(true, 1, SIZE_BYTES - 512..u64::MAX),
        Some(end - 512..end)
    );
    assert_eq!(place(true, 1, SIZE_BYTES..u64::MAX), None);
    assert_eq!(place(true, 1, u64::MAX - 1..u64::MAX), None);
    assert_eq!(place(true, 2, 0..4096), None);
}
