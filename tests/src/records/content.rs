//! The bytes of a record.

use std::fmt::Write as _;

/// The bytes of record `number`: a line with its number, its length and the CRC-32C of the rest,
/// then lines that name it over and over, so that whoever finds a piece of it in the wrong place
/// sees whose it is. A record too short for that is the beginning of it.
///
/// ```text
/// record SEED.WRITER.NUMBER 300 5a0c9e11
/// SEED.WRITER.NUMBER+0
/// SEED.WRITER.NUMBER+1
/// ```
pub fn record(seed: u64, writer: usize, number: u64, bytes: usize) -> Vec<u8> {
    let name = format!("{seed:x}.{writer}.{number}");
    let head = |crc: u32| format!("record {name} {bytes} {crc:08x}\n");
    let rest_bytes = bytes.saturating_sub(head(0).len());
    let mut rest = String::with_capacity(rest_bytes + 64);
    let mut line = 0;
    while rest.len() < rest_bytes {
        // A string takes all.
        let _ = writeln!(rest, "{name}+{line}");
        line += 1;
    }
    rest.truncate(rest_bytes);
    let mut record = head(crc32c::crc32c(rest.as_bytes())).into_bytes();
    record.extend(rest.into_bytes());
    record.truncate(bytes);
    record
}
