//! File systems that were made to do harm.

use super::{EXT, SIZE_BYTES, XFS, XFS_BYTES, image};
use crate::graybox::{GrayBox, VolumeName};
use crate::rng::Rng;
use crate::test_support::seeded;
use crate::{Buffers, Classifier as _};

/// A piece of 4 KiB that is not empty, and where it is.
type Piece = (u64, Vec<u8>);

/// Asks for the places of a range; they are on the disk, and none is told twice.
fn ask_for_places(gray_box: &GrayBox, names: &[VolumeName], rng: &mut Rng) {
    let start = rng.next() >> rng.below(64);
    let len = rng.next() >> rng.below(64);
    let name = names[rng.index(names.len())];
    let mut places = gray_box.places(name, &(start..start.saturating_add(len)));
    places.sort_by_key(|place| place.start);
    let mut end = 0;
    for place in places {
        assert!(end <= place.start && place.start < place.end, "{place:?}");
        end = place.end;
    }
    assert!(end <= XFS_BYTES, "{end}");
}

fn pieces(command: &str) -> Vec<Piece> {
    let image = image("whatever_passes_by_is_survived", command).unwrap_or_default();
    let pieces = (0..).zip(image.chunks(4096));
    let used = pieces.filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0));
    used.map(|(number, bytes)| (number * 4096, bytes.to_vec()))
        .collect()
}

/// Changes bits, bytes, and whole numbers, most of them where structures begin.
fn damage(bytes: &mut [u8], rng: &mut Rng) {
    for _ in 0..=rng.below(6) {
        let reach = [64, 512, bytes.len()][rng.index(3)];
        let at = rng.index(reach.min(bytes.len() - 8));
        match rng.below(4) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = u8::MAX,
            2 => bytes[at..at + 8].fill(u8::MAX),
            _ => bytes[at..at + 4].copy_from_slice(&rng.next().to_le_bytes()[..4]),
        }
    }
}

/// What the file system of these pieces may be called.
fn names(pieces: &[Piece]) -> Vec<VolumeName> {
    let superblock = pieces.iter().find(|(offset, _)| *offset == 64 << 10);
    let word = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let first = superblock.map(|(_, bytes)| word(bytes, 32) ^ word(bytes, 40));
    let btrfs = VolumeName::Btrfs([first.unwrap_or_default(), 0]);
    vec![btrfs, VolumeName::Partition(0), VolumeName::Partition(1)]
}

#[test]
fn whatever_passes_by_is_survived() {
    let images: Vec<Vec<Piece>> = [
        &format!("{EXT} -t ext4 -b 4096 -O ^metadata_csum"),
        &format!("{EXT} -t ext4 -b 1024 -O ^metadata_csum,meta_bg,^resize_inode"),
        &format!("{EXT} -t ext3 -b 1024"),
        "mkfs.btrfs -q -f --rootdir TREE --mixed --csum xxhash",
        "mkfs.btrfs -q -f --rootdir TREE --csum xxhash",
        XFS,
    ]
    .into_iter()
    .map(pieces)
    .filter(|pieces| !pieces.is_empty())
    .collect();
    if images.is_empty() {
        return;
    }
    seeded(20, |seed| {
        let mut rng = Rng::new(seed);
        let pieces = &images[rng.index(images.len())];
        let gray_box = GrayBox::new(XFS_BYTES);
        let names = names(pieces);
        // What matters most comes first on a disk.
        let first = pieces.len().min(40);
        for step in 0..4000 {
            let reach = if rng.coin() { first } else { pieces.len() };
            let (offset, bytes) = &pieces[if step < first { step } else { rng.index(reach) }];
            let mut bytes = bytes.clone();
            if rng.below(3) == 0 {
                damage(&mut bytes, &mut rng);
            }
            let at = match rng.below(20) {
                0 => rng.below(SIZE_BYTES / 512 - 8) * 512,
                _ => *offset,
            };
            let content = Buffers::from_vec(&bytes);
            match rng.below(3) {
                0 => gray_box.written(at, &content),
                1 => gray_box.read(at, &content),
                _ => {
                    let len = 512 << rng.below(16);
                    let (_, same) = gray_box.class_of(at, len);
                    assert!((1..=len).contains(&same), "{same} of {len}");
                }
            }
            ask_for_places(&gray_box, &names, &mut rng);
            if rng.below(500) == 0 {
                gray_box.discarded(at..at + 4096);
            }
        }
        let memory = gray_box.memory_bytes();
        assert!(memory < 2 << 20, "{memory} bytes for {XFS_BYTES}");
    });
}
