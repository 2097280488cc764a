//! Builds small kernels in memory.

use std::io::Write;

use linux_loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use linux_loader::elf::{EM_X86_64, ET_EXEC, Elf64_Ehdr, Elf64_Phdr, PT_LOAD};
use lzma_rust2::filter::FilterType;
use lzma_rust2::{CheckType, LzmaOptions, LzmaWriter, XzOptions, XzWriter};
use vm_memory::ByteValued;

use super::super::Compression;

pub(super) const MIB: u64 = 1 << 20;
pub(super) const ENTRY: u64 = 2 * MIB + 0x10;
pub(super) const VIRTUAL_BASE: u64 = 0xffff_ffff_8000_0000;
pub(super) const SETUP_SECTORS: u8 = 2;
pub(super) const CODE_OFFSET: usize = (SETUP_SECTORS as usize + 1) * 512;

/// An ELF kernel of two segments, the second with zeroed memory behind it. The first is code that
/// calls around, so that xz's x86 filter has something to do.
pub(super) fn vmlinux() -> Vec<u8> {
    let mut text = Vec::new();
    for index in 0..40_000_u32 {
        text.extend([
            0xe8,
            index.to_le_bytes()[1],
            index.to_le_bytes()[0],
            0,
            0,
            0x90,
        ]);
    }
    // Zeroes in the middle, more than is read at once.
    text.extend(vec![0; 200_000]);
    text.extend(b"the end of the text");
    let data: Vec<u8> = (0..5000_u32)
        .map(|index| index.to_le_bytes()[0] | 1)
        .collect();
    elf(ENTRY, &[(2 * MIB, &text, 0), (4 * MIB, &data, 8192)])
}

/// An ELF kernel of segments, each given by address, bytes, and zeroed bytes behind them.
pub(super) fn elf(entry: u64, segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
    let mut e_ident = [0; 16];
    e_ident[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let header = Elf64_Ehdr {
        e_ident,
        e_type: ET_EXEC,
        e_machine: EM_X86_64,
        e_version: 1,
        e_entry: entry,
        e_phoff: 64,
        e_ehsize: 64,
        e_phentsize: 56,
        e_phnum: u16::try_from(segments.len()).unwrap(),
        ..Default::default()
    };
    let mut file = header.as_slice().to_vec();
    let mut offset = 4096;
    for &(address, bytes, zeroed) in segments {
        let program_header = Elf64_Phdr {
            p_type: PT_LOAD,
            p_flags: 7,
            p_offset: offset,
            p_vaddr: VIRTUAL_BASE + address,
            p_paddr: address,
            p_filesz: bytes.len() as u64,
            p_memsz: bytes.len() as u64 + zeroed,
            p_align: 4096,
        };
        file.extend_from_slice(program_header.as_slice());
        offset = (offset + bytes.len() as u64).next_multiple_of(4096);
    }
    for &(_, bytes, _) in segments {
        file.resize(file.len().next_multiple_of(4096), 0);
        file.extend_from_slice(bytes);
    }
    // What Linux appends for its own use: read, but loaded nowhere.
    file.extend_from_slice(&[0x77; 3000]);
    file
}

pub(super) const ALL: [Compression; 6] = [
    Compression::Gzip,
    Compression::Bzip2,
    Compression::Lzma,
    Compression::Xz,
    Compression::Lz4,
    Compression::Zstd,
];

/// Compresses as the kernel's build does, with the length appended.
pub(super) fn pack(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut packed = compress(compression, bytes);
    if compression != Compression::Gzip {
        packed.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    }
    packed
}

fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        Compression::Lzma => {
            let options = LzmaOptions::with_preset(1);
            let mut writer = LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        Compression::Xz => {
            let mut options = XzOptions::with_preset(1);
            options.set_check_sum_type(CheckType::Crc32);
            options.prepend_pre_filter(FilterType::BcjX86, 0);
            let mut writer = XzWriter::new(Vec::new(), options).unwrap();
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        Compression::Lz4 => {
            // The legacy format: the magic number, then blocks with their lengths.
            let mut packed = 0x184c_2102_u32.to_le_bytes().to_vec();
            for block in bytes.chunks(8 << 20) {
                let block = lz4_flex::block::compress(block);
                packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
                packed.extend(block);
            }
            packed
        }
        Compression::Zstd => {
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            ruzstd::encoding::compress_to_vec(bytes, level)
        }
    }
}

/// A bzImage around `payload`, whose header `change` may change before it is written.
pub(super) fn bzimage(payload: &[u8], change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
    // The decompressor's code comes first.
    let payload_offset = 0x300;
    let mut code = vec![0xcc; payload_offset];
    code.extend_from_slice(payload);
    code.resize(code.len().next_multiple_of(16), 0);
    let mut header = setup_header {
        setup_sects: SETUP_SECTORS,
        syssize: u32::try_from(code.len() / 16).unwrap(),
        boot_flag: 0xaa55,
        // A short jump to the header's end, 0x26c.
        jump: 0x6aeb,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x20f,
        loadflags: LOADED_HIGH,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        xloadflags: XLF_KERNEL_64,
        cmdline_size: 2047,
        payload_offset: u32::try_from(payload_offset).unwrap(),
        payload_length: u32::try_from(payload.len()).unwrap(),
        pref_address: 2 * MIB,
        init_size: 8 << 20,
        ..Default::default()
    };
    change(&mut header);
    let mut file = vec![0; CODE_OFFSET];
    file[0x1f1..0x26c].copy_from_slice(header.as_slice());
    file.extend(code);
    file
}
