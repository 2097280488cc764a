//! The initramfs of the emulated host: its init and the modules of its kernel.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use images::Kernel;
use images::cpio::Archive;
use images::initramfs::append_modules;
use images::modules::Modules;

/// What the host needs of its kernel: its disks, its ports, and KVM.
const MODULES: [&str; 5] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "ext4",
    "kvm_amd",
];
/// Faster checksums for ext4, where the kernel has them apart.
const OPTIONAL_MODULE: &str = "crc32c_intel";

/// Writes the archive to `path`.
pub(super) fn write(kernel: &Kernel, agent: &Path, path: &Path) -> Result<()> {
    let mut archive = Archive::new();
    archive.character_device("dev/console", 0o600, (5, 1));
    let agent = fs::read(agent).with_context(|| format!("{}: read", agent.display()))?;
    archive.file("init", 0o755, &agent);
    let modules = Modules::of(kernel)?;
    let mut names = MODULES.to_vec();
    names.extend(modules.has(OPTIONAL_MODULE).then_some(OPTIONAL_MODULE));
    append_modules(&mut archive, &modules, &names)?;
    fs::write(path, archive.finish()).with_context(|| format!("{}: write", path.display()))
}
