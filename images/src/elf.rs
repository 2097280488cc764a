//! The little of ELF-64 that finding a kernel module's `.modinfo` section takes.

/// Gives the content of the section called `name`, or `None` where the file has none or is
/// not a whole little-endian ELF-64 file (System V ABI, chapter 4).
pub(crate) fn section<'a>(file: &'a [u8], name: &str) -> Option<&'a [u8]> {
    const ELF64_LITTLE: &[u8] = b"\x7fELF\x02\x01";
    if !file.starts_with(ELF64_LITTLE) {
        return None;
    }
    let table = usize::try_from(u64_at(file, 0x28)?).ok()?;
    let (entry_bytes, count) = (u16_at(file, 0x3a)?, u16_at(file, 0x3c)?);
    let header = |index: u16| {
        let offset = usize::from(index).checked_mul(usize::from(entry_bytes))?;
        file.get(table.checked_add(offset)?..)
    };
    let names = content(file, header(u16_at(file, 0x3e)?)?)?;
    (0..count).find_map(|index| {
        let header = header(index)?;
        let own = names.get(usize::try_from(u32_at(header, 0)?).ok()?..)?;
        let own = own.split(|&byte| byte == 0).next()?;
        (own == name.as_bytes()).then(|| content(file, header))?
    })
}

/// The bytes that a section header points at.
fn content<'a>(file: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let offset = usize::try_from(u64_at(header, 0x18)?).ok()?;
    let len = usize::try_from(u64_at(header, 0x20)?).ok()?;
    file.get(offset..offset.checked_add(len)?)
}

fn bytes_at<const N: usize>(data: &[u8], offset: usize) -> Option<[u8; N]> {
    data.get(offset..)?.first_chunk().copied()
}

fn u16_at(data: &[u8], offset: usize) -> Option<u16> {
    bytes_at(data, offset).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(data: &[u8], offset: usize) -> Option<u32> {
    bytes_at(data, offset).map(u32::from_le_bytes)
}

fn u64_at(data: &[u8], offset: usize) -> Option<u64> {
    bytes_at(data, offset).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An object file with nothing but a `.modinfo` section.
    pub(crate) fn object_with_modinfo(modinfo: &[u8]) -> Vec<u8> {
        const NAMES: &[u8] = b"\0.modinfo\0.shstrtab\0";
        let (names_at, modinfo_at) = (0x40, 0x40 + NAMES.len());
        let table_at = modinfo_at + modinfo.len();
        let mut file = vec![0; 0x40];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[0x28..0x30].copy_from_slice(&(table_at as u64).to_le_bytes());
        file[0x3a..0x40].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
        file.extend_from_slice(NAMES);
        file.extend_from_slice(modinfo);
        let sections = [
            (0, 0, 0),
            (1, modinfo_at, modinfo.len()),
            (10, names_at, NAMES.len()),
        ];
        for (name, offset, len) in sections {
            let mut header = [0; 64];
            header[0] = name;
            header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(len as u64).to_le_bytes());
            file.extend_from_slice(&header);
        }
        file
    }

    #[test]
    fn finds_a_section_by_its_name() {
        let file = object_with_modinfo(b"depends=a,b\0");
        assert_eq!(section(&file, ".modinfo"), Some(&b"depends=a,b\0"[..]));
        assert_eq!(section(&file, ".text"), None);
        assert_eq!(section(b"#!/bin/sh", ".modinfo"), None);
    }

    #[test]
    fn a_truncated_file_has_no_sections() {
        let file = object_with_modinfo(b"depends=a,b\0");
        for len in 0..file.len() - 64 {
            assert_eq!(section(&file[..len], ".modinfo"), None, "{len} bytes");
        }
    }
}
