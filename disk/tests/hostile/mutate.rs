//! Changes of images that are more likely than noise to be understood, and to be wrong.

use disk::flat::format::MAGIC;
use disk::qcow2::format::Header;

/// Draws numbers (`SplitMix64`).
pub struct Numbers(pub u64);

impl Numbers {
    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// One below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }
}

/// Changes an image in one place.
pub fn mutate(image: &mut Vec<u8>, numbers: &mut Numbers) {
    if image.len() < 8 {
        image.resize(8, 0);
    }
    if image.starts_with(&MAGIC) {
        return mutate_flat(image, numbers);
    }
    match numbers.below(10) {
        0 => flip_bit(image, numbers),
        1 => truncate_or_grow(image, numbers),
        2 => copy_word(image, numbers),
        3 => header_byte(image, numbers),
        _ => table_entry(image, numbers),
    }
}

fn flip_bit(image: &mut [u8], numbers: &mut Numbers) {
    let at = numbers.below(image.len());
    image[at] ^= 1 << numbers.below(8);
}

fn truncate_or_grow(image: &mut Vec<u8>, numbers: &mut Numbers) {
    let len = 1 + numbers.below(image.len() + 2048);
    image.resize(len, 0);
}

fn copy_word(image: &mut [u8], numbers: &mut Numbers) {
    let words = image.len() / 8;
    let (from, to) = (numbers.below(words) * 8, numbers.below(words) * 8);
    image.copy_within(from..from + 8, to);
}

/// Counts, sizes and flags in the header.
fn header_byte(image: &mut [u8], numbers: &mut Numbers) {
    let at = numbers.below(image.len().min(128));
    image[at] = match numbers.below(3) {
        0 => 0,
        1 => 0xFF,
        _ => numbers.next().to_le_bytes()[0],
    };
}

/// A pointer to some cluster, with some flags, where there may be a table.
fn table_entry(image: &mut [u8], numbers: &mut Numbers) {
    let bytes = Header::cluster_bytes(image).unwrap_or(512);
    let clusters = image.len() as u64 / bytes + 2;
    let offset = numbers.next() % clusters * bytes;
    let flags = match numbers.below(8) {
        0 => 1 << 62,
        1 => numbers.next() & 0xFF00_0000_0000_01FF,
        2 => 1,
        3 => 0,
        4 => 1 << 63 | 1,
        _ => 1 << 63,
    };
    let at = numbers.below(image.len() / 8) * 8;
    image[at..at + 8].copy_from_slice(&(offset | flags).to_be_bytes());
}

/// A flat image's header has a checksum, which most changes keep right: nothing behind it would be
/// looked at otherwise.
fn mutate_flat(image: &mut Vec<u8>, numbers: &mut Numbers) {
    let has_snapshots = image.get(16).is_some_and(|features| features & 4 != 0);
    match numbers.below(8) {
        0 => flip_bit(image, numbers),
        1 => truncate_or_grow(image, numbers),
        2 => copy_word(image, numbers),
        3 => header_byte(image, numbers),
        4 | 5 if has_snapshots => snapshot_number(image, numbers),
        _ => header_number(image, numbers),
    }
    if numbers.below(8) > 0 {
        reseal(image);
    }
}

/// Makes the checksums in a flat image's header right: of its directory of snapshots and the counts,
/// of its names, then its own (docs/flat-format.md).
pub fn reseal(image: &mut [u8]) {
    let word = |image: &[u8], at: usize| {
        let bytes = image
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes) as usize
    };
    let names = word(image, 112)..word(image, 112) + word(image, 120).min(2048);
    if image.len() >= 512 {
        // Of what an image with snapshots has: where it is, how much, and its checksum.
        for (offset, bytes, crc_at) in [(152, 160, 184), (168, 176, 188)] {
            let start = word(image, offset);
            let part = image.get(start..start + word(image, bytes));
            if let Some(crc) = part.map(crc32c::crc32c).filter(|_| image[16] & 4 != 0) {
                image[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
            }
        }
        if let Some(crc) = image.get(names).map(crc32c::crc32c) {
            image[124..128].copy_from_slice(&crc.to_le_bytes());
        }
        image[8..12].fill(0);
        let crc = crc32c::crc32c(&image[..512]);
        image[8..12].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A number in the directory of a flat image's snapshots, or the counts of places.
fn snapshot_number(image: &mut [u8], numbers: &mut Numbers) {
    let offset_at = if numbers.below(3) == 0 { 168 } else { 152 };
    let mut offset = [0; 4];
    if let Some(bytes) = image.get(offset_at..offset_at + 4) {
        offset.copy_from_slice(bytes);
    }
    let at = u32::from_le_bytes(offset) as usize + numbers.below(40) * 4;
    let number = match numbers.below(4) {
        0 => 0,
        1 => u64::MAX >> numbers.below(64),
        2 => numbers.next() % 64 * 4096,
        _ => 1 << numbers.below(32),
    };
    let len = 4 + numbers.below(2) * 4;
    if let Some(bytes) = image.get_mut(at..at + len) {
        bytes.copy_from_slice(&number.to_le_bytes()[..len]);
    }
}

/// A number in a flat image's header, with what could be one, and a little more or less.
fn header_number(image: &mut [u8], numbers: &mut Numbers) {
    let places = image.len().min(184) / 8;
    let (from, to) = (numbers.below(places) * 8, numbers.below(places) * 8);
    let mut word = [0; 8];
    word.copy_from_slice(&image[from..from + 8]);
    let number = match numbers.below(6) {
        0 => 0,
        1 => u64::MAX >> numbers.below(64),
        2 => numbers.next() % 32 * 4096,
        3 => 1 << numbers.below(63),
        4 => u64::from_le_bytes(word).wrapping_add(4096),
        _ => u64::from_le_bytes(word).wrapping_sub(512),
    };
    image[to..to + 8].copy_from_slice(&number.to_le_bytes());
}
