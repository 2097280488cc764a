//! What a file looks like. This decides nothing but whether a file may be taken as raw.

use super::Format;
use crate::storage::read;
use crate::{AnyStorage, Error, flat, qcow2};

const LOOKS_LIKE_QCOW2: &str = "a qcow2 image";
const LOOKS_LIKE_FLAT: &str = "a flat image";

/// The image formats that have a mark, where it is, and what such a file is called.
///
/// A disk that a guest encrypts as a whole begins as a LUKS image does, so that is not listed.
const MARKS: [(usize, &[u8], &str); 9] = [
    (0, &qcow2::format::MAGIC, LOOKS_LIKE_QCOW2),
    (0, &flat::format::MAGIC, LOOKS_LIKE_FLAT),
    (0, b"QED\0", "a QED image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"COWD", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (64, &[0x7F, 0x10, 0xDA, 0xBE], "a VDI image"),
];

/// How much of a file is looked at.
const HEAD_BYTES: usize = 512;

/// What `storage` looks like, if not like a raw disk.
pub(super) async fn looks_like(storage: &AnyStorage) -> Result<Option<&'static str>, Error> {
    let head = read(storage, 0, HEAD_BYTES).await?;
    let mark = MARKS
        .iter()
        .find(|(offset, mark, _)| head[*offset..].starts_with(mark));
    Ok(mark.map(|(_, _, looks_like)| *looks_like))
}

/// The format of what looks like that, if we have it.
pub(super) fn format_of(looks_like: &str) -> Option<Format> {
    match looks_like {
        LOOKS_LIKE_QCOW2 => Some(Format::Qcow2),
        LOOKS_LIKE_FLAT => Some(Format::Flat),
        _ => None,
    }
}
