//! The guest's initial RAM file system: busybox, a few modules and a shell.

use std::fs;
use std::path::PathBuf;

use crate::apt::Apt;
use crate::cpio::Archive;
use crate::modules::Modules;
use crate::{Cache, Error, Kernel, Result};

/// The guest's first program.
const INIT: &str = include_str!("initramfs/init.sh");

/// The first line that the guest's init prints, before it does anything else.
pub const FIRST_LINE: &str = "microvm-guest: init";

/// What the guest's shell prints when it waits for a command.
pub const PROMPT: &str = "guest# ";

/// Without these the guest cannot do its work.
const MODULES: [&str; 7] = [
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_rng",
    "ext4",
    "button",
    "evdev",
];

/// These tell the VMM of a panic, where the kernel has them.
const OPTIONAL_MODULES: [&str; 1] = ["pvpanic_mmio"];

/// What is in a guest's initial RAM file system.
///
/// The guest mounts `/dev/vda` on `/disk` if that holds ext4, and then gives a shell on the
/// console, or runs a script; when either ends, or the power button is pressed, it powers off.
#[derive(Debug)]
pub struct Initramfs {
    archive: Archive,
}

impl Initramfs {
    /// Starts with busybox, the init and the modules that a guest of `kernel` needs.
    pub fn new(cache: &Cache, kernel: &Kernel) -> Result<Self> {
        Self::with_modules(cache, kernel, &[])
    }

    /// The same, with the modules called `more`, and what they need: `xfs` for example.
    pub fn with_modules(cache: &Cache, kernel: &Kernel, more: &[&str]) -> Result<Self> {
        let mut archive = Archive::new();
        for directory in ["disk", "proc", "root", "sys", "tmp"] {
            archive.directory(directory);
        }
        archive.character_device("dev/console", 0o600, (5, 1));
        let busybox = busybox(cache)?;
        let content = fs::read(&busybox).map_err(Error::io("read", &busybox))?;
        archive.file("bin/busybox", 0o755, &content);
        archive.symlink("bin/sh", "busybox");
        archive.file("init", 0o755, INIT.as_bytes());
        let modules = Modules::of(kernel)?;
        let mut names = MODULES.to_vec();
        names.extend(OPTIONAL_MODULES.iter().filter(|name| modules.has(name)));
        names.extend(more);
        append_modules(&mut archive, &modules, &names)?;
        Ok(Self { archive })
    }

    /// Adds a file with the permission bits `mode`.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.archive.file(path, mode, content);
        self
    }

    /// Runs the shell script `text` in place of the shell.
    #[must_use]
    pub fn script(self, text: &str) -> Self {
        self.file("script", 0o755, text.as_bytes())
    }

    /// Writes the archive into the cache, not compressed; gives its path.
    pub fn build(self, cache: &Cache) -> Result<PathBuf> {
        let bytes = self.archive.finish();
        let name = format!("initramfs-{:08x}-{}", crc32c::crc32c(&bytes), bytes.len());
        let entry = cache.entry(&name, |entry| {
            let path = entry.join("initramfs.cpio");
            fs::write(&path, &bytes).map_err(Error::io("write", &path))
        })?;
        Ok(entry.join("initramfs.cpio"))
    }
}

/// Makes the ordinary guest's initial RAM file system: one that gives a shell.
pub fn guest(cache: &Cache, kernel: &Kernel) -> Result<PathBuf> {
    Initramfs::new(cache, kernel)?.build(cache)
}

/// Gives a statically linked busybox, downloaded unless it is in the cache.
pub fn busybox(cache: &Cache) -> Result<PathBuf> {
    let entry = cache.entry("busybox", |entry| {
        let tree = entry.join("tree");
        Apt::new(cache)?.unpack("busybox-static", &tree)?;
        let places = [tree.join("bin/busybox"), tree.join("usr/bin/busybox")];
        let found = places.iter().find(|path| path.is_file());
        let found = found.ok_or_else(|| Error::format(&tree, "no busybox in busybox-static"))?;
        fs::rename(found, entry.join("busybox")).map_err(Error::io("rename", found))?;
        fs::remove_dir_all(&tree).map_err(Error::io("remove", &tree))
    })?;
    Ok(entry.join("busybox"))
}

/// Puts the modules called `names`, and what they need, into `/modules`, with a file `order`
/// that lists them in the order of loading, one a line.
pub fn append_modules(archive: &mut Archive, modules: &Modules, names: &[&str]) -> Result<()> {
    let mut order = String::new();
    for module in modules.load_order(names)? {
        archive.file(
            format!("modules/{}.ko", module.name),
            0o644,
            &module.content,
        );
        order.push_str(&module.name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_says_its_first_line_before_anything_else() {
        let is_command = |line: &&str| !line.is_empty() && !line.starts_with('#');
        let first = INIT.lines().find(is_command).unwrap();
        assert_eq!(first, format!("echo \"{FIRST_LINE}\""));
        assert!(INIT.contains(&format!("PS1='{PROMPT}'")));
    }
}
