//! Loads kernels that are built in memory, whole and damaged ones.

mod build;
mod cache;
mod damage;

use std::path::Path;

use linux_loader::bootparam::setup_header;
use vm_memory::{Bytes, GuestAddress};

use self::build::{ALL, CODE_OFFSET, ENTRY, MIB, VIRTUAL_BASE, bzimage, elf, pack, vmlinux};
use super::*;

const RAM_BYTES: u64 = 16 * MIB;

/// A directory with a kernel in it.
struct Scene {
    dir: tempfile::TempDir,
    kaslr: bool,
    cache: bool,
}

impl Scene {
    fn new(kernel: &[u8]) -> Self {
        let scene = Self {
            dir: tempfile::tempdir().unwrap(),
            kaslr: false,
            cache: false,
        };
        scene.write(kernel);
        scene
    }

    fn kernel(&self) -> std::path::PathBuf {
        self.dir.path().join("vmlinuz")
    }

    fn cache_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("cache")
    }

    fn write(&self, kernel: &[u8]) {
        // Some file systems flush what replaces a file's content, but not a new file's.
        let _ = std::fs::remove_file(self.kernel());
        std::fs::write(self.kernel(), kernel).unwrap();
    }

    fn load_into(&self, memory: &GuestMemoryMmap) -> Result<Kernel, Error> {
        let (path, cache_dir) = (self.kernel(), self.cache_dir());
        let image = Image {
            kernel: &path,
            initrd: None,
            cmdline: "",
            kaslr: self.kaslr,
            cache_dir: self.cache.then_some(cache_dir.as_path()),
        };
        load(memory, &image, RAM_BYTES)
    }

    fn load(&self) -> Result<(Kernel, Vec<u8>), Error> {
        let memory = memory();
        let kernel = self.load_into(&memory)?;
        Ok((kernel, contents(&memory)))
    }

    /// The error's text, without the path that it must begin with.
    fn error(&self) -> String {
        let text = self.load_into(&memory()).expect_err("an error").to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        let prefix = format!("{}: ", self.kernel().display());
        text.strip_prefix(&prefix)
            .unwrap_or_else(|| panic!("{text}"))
            .to_owned()
    }
}

fn memory() -> GuestMemoryMmap {
    let len = usize::try_from(RAM_BYTES).unwrap();
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len)]).unwrap()
}

fn contents(memory: &GuestMemoryMmap) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(RAM_BYTES).unwrap()];
    memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

/// What guest memory holds once [`vmlinux`] is loaded.
fn expected() -> Vec<u8> {
    let file = vmlinux();
    let mut bytes = vec![0; usize::try_from(RAM_BYTES).unwrap()];
    let text_len = 40_000 * 6 + 200_000 + 19;
    bytes[2 << 20..(2 << 20) + text_len].copy_from_slice(&file[4096..4096 + text_len]);
    let data = (4096 + text_len).next_multiple_of(4096);
    bytes[4 << 20..(4 << 20) + 5000].copy_from_slice(&file[data..data + 5000]);
    bytes
}

#[test]
fn an_elf_kernel_is_loaded_to_its_physical_addresses() {
    let (kernel, contents) = Scene::new(&vmlinux()).load().unwrap();
    assert!(contents == expected());
    assert_eq!(kernel.entry, ENTRY);
    assert_eq!(kernel.span, 2 * MIB..4 * MIB + 5000 + 8192);
    let header = kernel.header;
    assert_eq!({ header.cmdline_size }, 2047);
    assert_eq!({ header.header }, u32::from_le_bytes(*b"HdrS"));
}

#[test]
fn a_virtual_entry_point_is_translated() {
    let file = elf(VIRTUAL_BASE + 3 * MIB + 5, &[(3 * MIB, b"0123456789", 0)]);
    assert_eq!(Scene::new(&file).load().unwrap().0.entry, 3 * MIB + 5);
    let outside = elf(VIRTUAL_BASE + 3 * MIB + 10, &[(3 * MIB, b"0123456789", 0)]);
    let error = Scene::new(&outside).error();
    assert_eq!(
        error,
        "malformed kernel: its entry point lies outside of its segments"
    );
}

#[test]
fn every_compression_gives_the_same_kernel() {
    for compression in ALL {
        let file = bzimage(&pack(compression, &vmlinux()), |header| {
            header.setup_data = 0x1234;
        });
        let (kernel, contents) = Scene::new(&file).load().unwrap();
        assert!(contents == expected(), "{compression}");
        assert_eq!(kernel.entry, ENTRY);
        let header = kernel.header;
        assert_eq!(
            { header.setup_data },
            0x1234,
            "the file's own header is kept"
        );
    }
}

#[test]
fn a_kernel_from_before_the_payload_fields_is_searched_for_its_payload() {
    let gzip = pack(Compression::Gzip, &vmlinux());
    let file = bzimage(&gzip, |header| {
        (header.version, header.payload_offset, header.payload_length) = (0x206, 0, 0);
    });
    assert!(Scene::new(&file).load().unwrap().1 == expected());
    let without = bzimage(b"nothing", |header| header.version = 0x207);
    let error = Scene::new(&without).error();
    assert_eq!(error, "malformed kernel: its payload is not to be found");
}

/// What the guest's own decompressor is entered with.
fn check_compressed(scene: &Scene, file: &[u8]) {
    let (kernel, contents) = scene.load().unwrap();
    assert_eq!(kernel.entry, 2 * MIB + 0x200);
    assert_eq!(kernel.span, 2 * MIB..10 * MIB);
    let header = kernel.header;
    assert_eq!(u64::from(header.code32_start), 2 * MIB);
    let code = &file[CODE_OFFSET..];
    assert!(contents[2 << 20..].starts_with(code));
}

#[test]
fn with_kaslr_the_kernel_decompresses_itself() {
    let file = bzimage(&pack(Compression::Xz, &vmlinux()), |_| {});
    let scene = Scene {
        kaslr: true,
        ..Scene::new(&file)
    };
    check_compressed(&scene, &file);
}

#[test]
fn a_payload_that_the_host_cannot_decompress_is_left_to_the_kernel() {
    let file = bzimage(b"\x89LZO\0\r\n\x1a\n payload", |_| {});
    check_compressed(&Scene::new(&file), &file);
}

#[test]
fn what_decompresses_itself_must_be_able_to() {
    let payload = pack(Compression::Gzip, &vmlinux());
    let with_kaslr = |change: fn(&mut setup_header)| {
        Scene {
            kaslr: true,
            ..Scene::new(&bzimage(&payload, change))
        }
        .error()
    };
    assert_eq!(
        with_kaslr(|header| header.version = 0x20b),
        "boot protocol 2.11 is too old; 2.12 (Linux 3.8) or later is needed where the kernel \
         decompresses itself"
    );
    assert_eq!(
        with_kaslr(|header| header.xloadflags = 0),
        "a 32-bit kernel; an x86-64 kernel is needed"
    );
    assert_eq!(
        with_kaslr(|header| header.pref_address = 0x9_0000),
        "malformed kernel: it wants to be loaded below 1 MiB"
    );
    assert_eq!(
        with_kaslr(|header| header.init_size = 15 << 20),
        "the kernel needs memory up to 17 MiB and the guest has 16 MiB below 4 GiB; give the \
         guest more memory"
    );
    assert_eq!(
        Scene {
            kaslr: true,
            ..Scene::new(&vmlinux())
        }
        .error(),
        "malformed kernel: an ELF kernel cannot randomise its addresses, use the bzImage"
    );
}

#[test]
fn what_is_no_kernel_is_called_so() {
    let no_kernel = "not a Linux kernel; a bzImage (vmlinuz) or an ELF vmlinux is needed";
    for bytes in [&b""[..], b"#!/bin/sh\n", b"HdrS", &[0; 10_000]] {
        assert_eq!(Scene::new(bytes).error(), no_kernel);
    }
    let scene = Scene::new(b"");
    std::fs::remove_file(scene.kernel()).unwrap();
    assert_eq!(
        scene.error(),
        "cannot open the kernel: No such file or directory (os error 2)"
    );
    std::fs::create_dir(scene.kernel()).unwrap();
    assert_eq!(scene.error(), "not a regular file");
    // A device would give bytes without end.
    let image = Image {
        kernel: Path::new("/dev/zero"),
        initrd: None,
        cmdline: "",
        kaslr: false,
        cache_dir: None,
    };
    let error = load(&memory(), &image, RAM_BYTES).unwrap_err();
    assert_eq!(error.to_string(), "/dev/zero: not a regular file");
}

#[test]
fn other_kinds_of_kernel_are_refused_by_name() {
    let mut elf32 = vmlinux();
    elf32[4] = 1;
    let bits32 = "a 32-bit kernel; an x86-64 kernel is needed";
    assert_eq!(Scene::new(&elf32).error(), bits32);
    let packed = bzimage(&pack(Compression::Zstd, &elf32), |_| {});
    assert_eq!(Scene::new(&packed).error(), bits32);
    let mut arm = vmlinux();
    arm[18] = 183;
    assert_eq!(
        Scene::new(&arm).error(),
        "a kernel for another processor (ELF machine 183); an x86-64 kernel is needed"
    );
    let mut object = vmlinux();
    object[16] = 1;
    assert_eq!(
        Scene::new(&object).error(),
        "malformed kernel: it is an ELF file, but not an executable"
    );
    let old = bzimage(b"", |header| header.version = 0x205);
    assert_eq!(
        Scene::new(&old).error(),
        "boot protocol 2.05 is too old; 2.06 (Linux 2.6.22) or later is needed"
    );
    let zimage = bzimage(b"", |header| header.loadflags = 0);
    assert_eq!(
        Scene::new(&zimage).error(),
        "malformed kernel: it is a zImage, a bzImage is needed"
    );
    let unknown = bzimage(b"what is this", |_| {});
    assert_eq!(
        Scene::new(&unknown).error(),
        "the kernel's payload has an unknown compression (it begins [77, 68, 61, 74])"
    );
}

#[test]
fn a_kernel_larger_than_memory_is_refused() {
    let too_large = "the kernel needs memory up to 17 MiB and the guest has 16 MiB below 4 GiB; \
                     give the guest more memory";
    let file = elf(15 * MIB, &[(15 * MIB, b"text", MIB)]);
    assert_eq!(Scene::new(&file).error(), too_large);
    let packed = bzimage(&pack(Compression::Lz4, &file), |_| {});
    assert_eq!(Scene::new(&packed).error(), too_large);
    let fits = elf(15 * MIB, &[(15 * MIB, b"text", MIB - 4)]);
    assert_eq!(Scene::new(&fits).load().unwrap().0.span.end, RAM_BYTES);
}

#[test]
fn segments_where_they_must_not_be_are_refused() {
    let low = elf(MIB, &[(MIB - 1, b"text", 0), (MIB, b"text", 0)]);
    assert_eq!(
        Scene::new(&low).error(),
        "malformed kernel: a segment belongs below 1 MiB, where the boot data lie"
    );
    let overlapping = elf(MIB, &[(MIB, b"text", 10), (MIB + 13, b"data", 0)]);
    assert_eq!(
        Scene::new(&overlapping).error(),
        "malformed kernel: its segments overlap in memory"
    );
    let mut shrunken = elf(MIB, &[(MIB, b"text", 0)]);
    shrunken[64 + 40] = 3;
    assert_eq!(
        Scene::new(&shrunken).error(),
        "malformed kernel: a segment has more bytes in the file than in memory"
    );
    let none = elf(MIB, &[]);
    assert_eq!(
        Scene::new(&none).error(),
        "malformed kernel: it has no segment to load"
    );
}
