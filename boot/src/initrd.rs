//! The initial RAM disk.

use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::Error;
use crate::kernel::Kernel;

const PAGE_BYTES: u64 = 4096;

/// Reads the initrd into guest memory, as high as the kernel allows, where it is out of the
/// kernel's way. Returns the addresses that it takes.
pub(crate) fn load(
    memory: &GuestMemoryMmap,
    path: &Path,
    kernel: &Kernel,
    low_ram_end: u64,
) -> Result<Range<u64>, Error> {
    let failed = |operation| {
        move |source| Error::File {
            path: path.to_owned(),
            operation,
            source,
        }
    };
    // Looked at before it is opened: opening a pipe waits for a writer.
    let metadata = fs::metadata(path).map_err(failed("open the initrd"))?;
    if !metadata.is_file() {
        return Err(Error::NotAFile {
            path: path.to_owned(),
        });
    }
    let mut file = File::open(path).map_err(failed("open the initrd"))?;
    let metadata = file.metadata().map_err(failed("examine the initrd"))?;
    let initrd_bytes = metadata.len();
    let range =
        place(initrd_bytes, kernel, low_ram_end).map_err(|room_bytes| Error::InitrdTooLarge {
            path: path.to_owned(),
            initrd_bytes,
            room_bytes,
        })?;
    let len = usize::try_from(initrd_bytes).expect("it fits in guest memory");
    memory
        .read_exact_volatile_from(GuestAddress(range.start), &mut file, len)
        .map_err(|source| failed("read the initrd")(std::io::Error::other(source)))?;
    Ok(range)
}

/// Where an initrd of `initrd_bytes` goes, or the room that there is for it.
fn place(initrd_bytes: u64, kernel: &Kernel, low_ram_end: u64) -> Result<Range<u64>, u64> {
    let address_max = u64::from(kernel.header.initrd_addr_max);
    let top = low_ram_end.min(address_max.saturating_add(1));
    let room_start = kernel.span.end.next_multiple_of(PAGE_BYTES);
    let room_bytes = top.saturating_sub(room_start);
    if initrd_bytes > room_bytes {
        return Err(room_bytes);
    }
    // Rounding down cannot leave the room, which begins at a page.
    let start = (top - initrd_bytes) / PAGE_BYTES * PAGE_BYTES;
    Ok(start..start + initrd_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux_loader::bootparam::setup_header;
    use std::io::Write;

    const MIB: u64 = 1 << 20;

    fn kernel(end: u64, initrd_addr_max: u32) -> Kernel {
        let header = setup_header {
            initrd_addr_max,
            ..Default::default()
        };
        Kernel {
            entry: 16 * MIB,
            span: 16 * MIB..end,
            header,
        }
    }

    #[test]
    fn the_initrd_lies_as_high_as_kernel_and_memory_allow() {
        let kernel = kernel(40 * MIB, 0x7fff_ffff);
        assert_eq!(
            place(5000, &kernel, 64 * MIB),
            Ok(64 * MIB - 8192..64 * MIB - 3192)
        );
        assert_eq!(
            place(4096, &kernel, 3072 * MIB),
            Ok(2048 * MIB - 4096..2048 * MIB)
        );
        assert_eq!(place(24 * MIB, &kernel, 64 * MIB), Ok(40 * MIB..64 * MIB));
    }

    #[test]
    fn an_initrd_that_would_touch_the_kernel_is_refused() {
        let kernel = kernel(40 * MIB + 1, 0x7fff_ffff);
        assert_eq!(place(24 * MIB, &kernel, 64 * MIB), Err(24 * MIB - 4096));
        assert_eq!(place(1, &kernel, 40 * MIB), Err(0));
        assert_eq!(place(u64::MAX, &kernel, 64 * MIB), Err(24 * MIB - 4096));
    }

    #[test]
    fn the_file_is_in_memory_byte_for_byte() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap();
        let content: Vec<u8> = (0..10_001_u32).map(|i| i.to_le_bytes()[0] ^ 0x5a).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&content).unwrap();
        let range = load(&memory, file.path(), &kernel(40 * MIB, u32::MAX), 64 * MIB).unwrap();
        let mut read = vec![0; content.len()];
        memory
            .read_slice(&mut read, GuestAddress(range.start))
            .unwrap();
        assert!(read == content && range.end - range.start == 10_001);
    }

    #[test]
    fn errors_name_the_file() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap();
        let kernel = kernel(40 * MIB, u32::MAX);
        let try_load = |path: &Path| load(&memory, path, &kernel, 64 * MIB).unwrap_err();
        let missing = try_load(Path::new("/nonexistent/initrd.img")).to_string();
        assert!(missing.starts_with("/nonexistent/initrd.img: cannot open the initrd: "));
        let directory = tempfile::tempdir().unwrap();
        let error = try_load(directory.path()).to_string();
        assert_eq!(
            error,
            format!("{}: not a regular file", directory.path().display())
        );
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let error = try_load(&pipe).to_string();
        assert!(error.ends_with("pipe: not a regular file"), "{error}");
        let large = tempfile::NamedTempFile::new().unwrap();
        large.as_file().set_len(25 * MIB).unwrap();
        let error = try_load(large.path()).to_string();
        let expected = "the initrd has 25 MiB and there is room for 24 MiB behind the kernel";
        assert!(error.contains(expected), "{error}");
    }
}
