//! What tests write: sectors that tell who wrote them, and when.

use crate::rng::Rng;

/// What is never torn, and the unit of all requests.
pub(crate) const SECTOR_BYTES: usize = 512;

/// What fills a sector. 0 is zeros; every other stamp is used for one write of one sector, so that
/// data in the wrong place or from an earlier time is told from the right one.
pub(crate) type Stamp = u64;

/// The stamps of a layer of the backing chain: they differ from those of writes.
pub(crate) fn layer_stamp(layer: usize, sector: u64) -> Stamp {
    1 << 63 | (layer as u64) << 48 | sector << 1 | sector & 1
}

/// Half of the stamps fill their sectors with what can be compressed, the others with noise.
fn word(stamp: Stamp, n: usize, noise: &mut Rng) -> u64 {
    if n > 0 && stamp & 1 == 1 {
        noise.next()
    } else {
        stamp
    }
}

/// The bytes of sectors with these stamps.
pub(crate) fn bytes_of(stamps: &[Stamp]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(stamps.len() * SECTOR_BYTES);
    for &stamp in stamps {
        let mut noise = Rng::new(stamp);
        for n in 0..SECTOR_BYTES / 8 {
            bytes.extend(word(stamp, n, &mut noise).to_le_bytes());
        }
    }
    bytes
}

/// The stamp of a sector, or the byte from which on it is not as its first word says.
pub(crate) fn stamp_of(sector: &[u8]) -> Result<Stamp, usize> {
    let words: &[[u8; 8]] = sector.as_chunks().0;
    let stamp = u64::from_le_bytes(words[0]);
    let mut noise = Rng::new(stamp);
    match (0..)
        .zip(words)
        .find(|(n, found)| word(stamp, *n, &mut noise).to_le_bytes() != **found)
    {
        Some((n, _)) => Err(n * 8),
        None => Ok(stamp),
    }
}

#[test]
fn stamps_come_back_and_torn_sectors_do_not() {
    let stamps = [0, 1, 2, 3, layer_stamp(1, 7), layer_stamp(0, 8)];
    let mut bytes = bytes_of(&stamps);
    let found: Vec<_> = bytes
        .chunks(SECTOR_BYTES)
        .map(|sector| stamp_of(sector).unwrap())
        .collect();
    assert_eq!(found, stamps);
    bytes[512 + 400] ^= 1;
    assert_eq!(stamp_of(&bytes[512..1024]), Err(400));
}
