//! What guest tests are made of: the program under test and the guests' kernels and files.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Result, anyhow};
use images::packages::{Tool, require};
use images::{Cache, Kernel, initramfs};

use crate::artifacts;
use crate::lab;
use crate::lab::share::Share;

/// Everything that guest tests need, built or fetched, in the cache after the first time.
#[derive(Debug)]
pub struct Parts {
    /// The program under test, static and optimised.
    pub microvm: PathBuf,
    /// The stock kernel.
    pub kernel: Kernel,
    /// A static busybox.
    pub busybox: PathBuf,
    /// The initramfs that gives a shell.
    pub initramfs: PathBuf,
    /// An ext4 disk with fio and what it needs, to change the root to.
    pub fio_disk: PathBuf,
}

impl Parts {
    /// The parts that all tests of this program share.
    pub fn shared() -> Result<&'static Self> {
        static PARTS: OnceLock<Result<Parts>> = OnceLock::new();
        PARTS
            .get_or_init(Self::get)
            .as_ref()
            .map_err(|error| anyhow!("{error:#}"))
    }

    /// Builds and fetches what is missing; installs the programs that this takes.
    pub fn get() -> Result<Self> {
        require(&[Tool::QemuSystem, Tool::Mke2fs, Tool::Fio])?;
        let cache = Cache::open()?;
        let kernel = Kernel::stock(&cache)?;
        let busybox = initramfs::busybox(&cache)?;
        Ok(Self {
            microvm: artifacts::static_program("microvm", "microvm")?,
            initramfs: initramfs::guest(&cache, &kernel)?,
            fio_disk: fio_disk(&busybox)?,
            kernel,
            busybox,
        })
    }

    /// The files that a host needs to see, by their paths on this machine.
    pub fn files(&self) -> Vec<PathBuf> {
        let parts = [&self.initramfs, &self.fio_disk].map(Clone::clone);
        parts
            .into_iter()
            .chain([self.kernel.bzimage(), self.kernel.vmlinux()])
            .collect()
    }
}

fn fio_disk(busybox: &Path) -> Result<PathBuf> {
    let scratch = lab::scratch()?;
    let mut share = Share::new(&scratch, busybox)?;
    share.program("fio")?;
    let image = scratch.join(format!("fio-{}.img", std::process::id()));
    share.build(&image)?;
    let place = scratch.join("fio.img");
    std::fs::rename(&image, &place)?;
    Ok(place)
}
