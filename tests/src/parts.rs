//! What guests are made of: the program under test, kernels, disks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use images::initramfs::Initramfs;
use images::packages::{Tool, require};
use images::{Cache, Kernel, baremetal, debian, initramfs};

use crate::artifacts::{self, Profile};
use crate::lab::scratch;
use crate::lab::share::Share;

/// Modules of the kernel for the file systems that guests have beside ext4 where that is asked for.
const FILE_SYSTEMS: [&str; 2] = ["xfs", "btrfs"];

/// What every guest needs, built or fetched, in the cache after the first time.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The program under test, static and optimised.
    pub microvm: PathBuf,
    /// The stock kernel.
    pub kernel: Kernel,
    /// A static busybox.
    pub busybox: PathBuf,
    /// The initramfs that gives a shell.
    pub initramfs: PathBuf,
    /// What only the tests need.
    pub extra: Option<Extra>,
}

/// What only the tests need.
#[derive(Clone, Debug)]
pub struct Extra {
    /// A Debian root file system with its own initrd.
    pub debian: debian::Root,
    /// The bare-metal guest.
    pub bare_metal: PathBuf,
    /// An ext4 disk with fio and its libraries, to change the root to.
    pub fio_disk: PathBuf,
    /// The initramfs that gives a shell, with the program `guest-syscalls`.
    pub syscalls: PathBuf,
    /// That program, for the host.
    pub judge: PathBuf,
}

impl Parts {
    /// Builds and fetches what is missing; installs the programs that this takes.
    pub fn get() -> Result<Self> {
        Self::with(artifacts::microvm()?)
    }

    /// The same, with another program under test.
    pub fn with(microvm: PathBuf) -> Result<Self> {
        require(&[Tool::Mke2fs])?;
        let cache = Cache::open()?;
        let kernel = Kernel::stock(&cache)?;
        Ok(Self {
            microvm,
            initramfs: initramfs::guest(&cache, &kernel)?,
            busybox: initramfs::busybox(&cache)?,
            kernel,
            extra: None,
        })
    }

    /// The same with what the tests need.
    pub fn for_tests() -> Result<Self> {
        Self::get()?.with_extra()
    }

    /// The same with what the tests need.
    pub fn with_extra(self) -> Result<Self> {
        require(&[Tool::Fio])?;
        let cache = Cache::open()?;
        let extra = Extra {
            debian: debian::Root::build(&cache, &[])?,
            bare_metal: baremetal::build(&cache)?,
            fio_disk: fio_disk(&self.busybox)?,
            syscalls: self.initramfs_with("guest-syscalls", &[])?,
            judge: Self::judge()?,
        };
        Ok(Self {
            extra: Some(extra),
            ..self
        })
    }

    /// The same, where guests have the program `guest-records`.
    pub fn with_records(self) -> Result<Self> {
        Ok(Self {
            initramfs: self.initramfs_with("guest-records", &[])?,
            ..self
        })
    }

    /// The same, where guests have the program `guest-syscalls`, XFS and btrfs.
    pub fn with_file_systems(self) -> Result<Self> {
        Ok(Self {
            initramfs: self.initramfs_with("guest-syscalls", &FILE_SYSTEMS)?,
            ..self
        })
    }

    /// The program `guest-syscalls`, for the host: it judges what a cache says of blocks.
    pub fn judge() -> Result<PathBuf> {
        artifacts::static_program("tests", "guest-syscalls", Profile::Lab)
    }

    /// The initramfs that gives a shell, with a program of this crate and modules of the kernel.
    fn initramfs_with(&self, name: &str, modules: &[&str]) -> Result<PathBuf> {
        let program = artifacts::static_program("tests", name, Profile::Lab)?;
        let program = fs::read(&program).with_context(|| format!("{}: read", program.display()))?;
        let cache = Cache::open()?;
        let path = format!("bin/{name}");
        let initramfs = Initramfs::with_modules(&cache, &self.kernel, modules)?;
        Ok(initramfs.file(&path, 0o755, &program).build(&cache)?)
    }

    /// What only the tests need.
    ///
    /// # Panics
    /// When these parts were not made for tests.
    pub fn extra(&self) -> &Extra {
        match &self.extra {
            Some(extra) => extra,
            None => panic!("these parts were not made for tests"),
        }
    }

    /// The files that a host needs to see, each with its name there.
    pub fn files(&self) -> Vec<(PathBuf, &'static str)> {
        let mut files = vec![
            (self.kernel.bzimage(), "vmlinuz"),
            (self.kernel.vmlinux(), "vmlinux"),
            (self.initramfs.clone(), "initramfs.cpio"),
        ];
        if let Some(Extra {
            debian,
            bare_metal,
            fio_disk,
            syscalls,
            judge,
        }) = &self.extra
        {
            files.extend([
                (debian.disk.clone(), "debian.img"),
                (debian.kernel.clone(), "debian-vmlinuz"),
                (debian.initrd.clone(), "debian-initrd.img"),
                (bare_metal.clone(), "bare-metal.elf"),
                (fio_disk.clone(), "fio.img"),
                (syscalls.clone(), "syscalls.cpio"),
                (judge.clone(), "guest-syscalls"),
            ]);
        }
        files
    }
}

fn fio_disk(busybox: &Path) -> Result<PathBuf> {
    let scratch = scratch()?;
    let mut share = Share::new(&scratch, busybox)?;
    share.program("fio")?;
    let image = scratch.join(format!("fio-{}.img", std::process::id()));
    share.build(&image)?;
    // Another process may be using the one that is there.
    let place = scratch.join("fio.img");
    fs::rename(&image, &place)?;
    Ok(place)
}
