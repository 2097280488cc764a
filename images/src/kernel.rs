//! A stock kernel, out of the host's package sources, without installing it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::apt::{Apt, Package};
use crate::command::progress;
use crate::decompress::Compression;
use crate::elf::u32_at;
use crate::{Cache, Error, Result};

/// The packages that depend on the current kernel for virtual machines: Debian's, then Ubuntu's.
const META_PACKAGES: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-virtual"];

/// The cache entry. It is kept until it is deleted: tests and benchmarks compare runs with one
/// kernel, and run without the network.
const ENTRY: &str = "kernel";

/// A kernel and its modules.
#[derive(Clone, Debug)]
pub struct Kernel {
    directory: PathBuf,
    release: String,
    version: String,
}

impl Kernel {
    /// Gives the distribution's kernel for virtual machines, downloaded unless it is in the
    /// cache.
    pub fn stock(cache: &Cache) -> Result<Self> {
        let directory = cache.entry(ENTRY, |directory| fetch(cache, directory))?;
        Ok(Self {
            release: read_line(&directory.join("release"))?,
            version: read_line(&directory.join("version"))?,
            directory,
        })
    }

    /// The release, as `uname -r` in the guest prints it: `6.1.0-56-cloud-amd64` for example.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The version of the package: `6.1.192-2` for example.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The kernel as the package has it, a bzImage.
    pub fn bzimage(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The same kernel decompressed, an ELF file.
    pub fn vmlinux(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    /// The kernel's configuration (`CONFIG_…=y` lines).
    pub fn config(&self) -> PathBuf {
        self.directory.join("config")
    }

    /// The directory of modules that a running kernel calls `/lib/modules/RELEASE`.
    pub fn modules(&self) -> PathBuf {
        self.directory.join("modules")
    }
}

fn fetch(cache: &Cache, directory: &Path) -> Result<()> {
    let apt = Apt::new(cache)?;
    let image = image_package(&apt)?;
    let tree = directory.join("tree");
    apt.unpack(&image.name, &tree)?;
    // Ubuntu keeps the modules in a package of their own.
    for name in image
        .depends
        .iter()
        .filter(|name| name.starts_with("linux-modules-"))
    {
        apt.unpack(name, &tree)?;
    }
    let release = image.name.trim_start_matches("linux-image-").to_string();
    progress(&format!("kernel {release}, version {}", image.version));

    let boot = tree.join("boot");
    let modules = [tree.join("lib/modules"), tree.join("usr/lib/modules")]
        .into_iter()
        .map(|parent| parent.join(&release))
        .find(|path| path.is_dir())
        .ok_or_else(|| Error::format(&tree, format!("no modules of {release}")))?;
    rename(
        &boot.join(format!("vmlinuz-{release}")),
        &directory.join("vmlinuz"),
    )?;
    if rename(
        &boot.join(format!("config-{release}")),
        &directory.join("config"),
    )
    .is_err()
    {
        rename(&modules.join("config"), &directory.join("config"))?;
    }
    rename(&modules, &directory.join("modules"))?;
    fs::remove_dir_all(&tree).map_err(Error::io("remove", &tree))?;
    extract(&directory.join("vmlinuz"), &directory.join("vmlinux"))?;
    write_line(&directory.join("release"), &release)?;
    write_line(&directory.join("version"), &image.version)
}

/// The package that depends on the current kernel for virtual machines.
pub(crate) fn meta_package(apt: &Apt) -> Result<Package> {
    for name in META_PACKAGES {
        if let Some(package) = apt.show(name)? {
            return Ok(package);
        }
    }
    Err(Error::NoPackage {
        what: META_PACKAGES.join(" or "),
    })
}

/// Follows the meta package to the package that holds the kernel.
fn image_package(apt: &Apt) -> Result<Package> {
    let meta = meta_package(apt)?;
    for name in meta
        .depends
        .iter()
        .filter(|name| name.starts_with("linux-image-"))
    {
        if let Some(image) = apt.show(name)? {
            return Ok(image);
        }
    }
    Err(Error::NoPackage {
        what: format!("the kernel of {}", meta.name),
    })
}

/// Writes the ELF file inside `bzimage` to `vmlinux`.
fn extract(bzimage: &Path, vmlinux: &Path) -> Result<()> {
    let file = fs::read(bzimage).map_err(Error::io("read", bzimage))?;
    let payload = payload(&file).ok_or_else(|| Error::format(bzimage, "not a whole bzImage"))?;
    let compression = Compression::detect(payload)
        .ok_or_else(|| Error::format(bzimage, "its compression is not LZ4, XZ or Zstandard"))?;
    let elf = compression
        .decompress(payload)
        .map_err(|error| Error::format(bzimage, format!("corrupt payload: {error}")))?;
    if !elf.starts_with(b"\x7fELF") {
        return Err(Error::format(bzimage, "its payload is not an ELF file"));
    }
    fs::write(vmlinux, elf).map_err(Error::io("write", vmlinux))
}

/// The compressed kernel (Linux boot protocol 2.08, `payload_offset` and `payload_length`),
/// without the four bytes of its size that the kernel's build appends.
fn payload(file: &[u8]) -> Option<&[u8]> {
    const SETUP_SECTS: usize = 0x1f1;
    const HEADER_MAGIC: usize = 0x202;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    const SIZE_BYTES: usize = 4;
    if file.get(HEADER_MAGIC..)?.first_chunk() != Some(b"HdrS") {
        return None;
    }
    let setup_sects = match *file.get(SETUP_SECTS)? {
        0 => 4,
        count => usize::from(count),
    };
    let start = (setup_sects + 1) * 512;
    let offset = start.checked_add(usize::try_from(u32_at(file, PAYLOAD_OFFSET)?).ok()?)?;
    let len = usize::try_from(u32_at(file, PAYLOAD_LENGTH)?).ok()?;
    file.get(offset..offset.checked_add(len.checked_sub(SIZE_BYTES)?)?)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io("rename", from))
}

fn read_line(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    Ok(text.trim_end().to_string())
}

fn write_line(path: &Path, line: &str) -> Result<()> {
    fs::write(path, format!("{line}\n")).map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decompress::tests::lz4_legacy as lz4;

    /// A bzImage of one setup sector and `payload`, followed by its size and a checksum.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap() + 4;
        let mut file = vec![0; 1024];
        file[0x1f1] = 1;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x24c..0x250].copy_from_slice(&len.to_le_bytes());
        file.extend_from_slice(payload);
        file.extend_from_slice(&[0xee; 8]);
        file
    }

    #[test]
    fn the_elf_file_comes_out_of_a_bzimage() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (
            directory.path().join("vmlinuz"),
            directory.path().join("vmlinux"),
        );
        fs::write(&from, bzimage(&lz4(b"\x7fELF and more"))).unwrap();
        extract(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"\x7fELF and more");
    }

    #[test]
    fn what_is_no_kernel_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (
            directory.path().join("vmlinuz"),
            directory.path().join("vmlinux"),
        );
        let whole = bzimage(&lz4(b"\x7fELF"));
        let cases = [
            (b"text".to_vec(), "not a whole bzImage"),
            (whole[..whole.len() - 12].to_vec(), "not a whole bzImage"),
            (bzimage(b"\x1f\x8b..."), "compression"),
            (bzimage(&lz4(b"MZ")), "not an ELF"),
        ];
        for (content, reason) in cases {
            fs::write(&from, content).unwrap();
            let message = extract(&from, &to).unwrap_err().to_string();
            assert!(
                message.contains("vmlinuz") && message.contains(reason),
                "{message}"
            );
        }
    }
}
