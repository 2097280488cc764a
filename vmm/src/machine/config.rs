//! A checked description of a machine.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kvm_ioctls::Kvm;

use super::cmdline::{Facts, compose};
use crate::cli::{DiskArgument, RunArguments, Transport};
use crate::console;
use crate::kvm::{max_cpus, physical_address_bits};

/// Memory comes in pages.
const PAGE_BYTES: u64 = 4096;
/// Room for the boot structures and a small kernel.
const MEM_MIN_BYTES: u64 = 16 << 20;

/// What machine to build.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) cmdline: String,
    pub(crate) cpus: u8,
    pub(crate) mem_bytes: u64,
    pub(crate) disks: Vec<DiskArgument>,
    pub(crate) rng: bool,
    pub(crate) transport: Transport,
    pub(crate) kaslr: bool,
    /// Run even where guest kernel code is interpreted.
    pub(crate) force: bool,
    /// Where extracted kernels are kept, where there is such a place.
    pub(crate) cache_dir: Option<PathBuf>,
}

impl Config {
    /// Checks `arguments` as far as that is possible without touching anything.
    pub(crate) fn new(arguments: &RunArguments, kvm: &Kvm) -> Result<Self> {
        let cpus = check_cpus(arguments.cpus, max_cpus(kvm))?;
        check_mem(arguments.mem, physical_address_bits(kvm)?)?;
        let (kernel, initrd) = kernel_and_initrd(arguments)?;
        let facts = Facts {
            console: arguments.console != console::Kind::Off,
            pci: arguments.transport == Transport::Pci,
            first_disk_writable: arguments.disk.first().map(|disk| !disk.read_only),
        };
        Ok(Self {
            kernel,
            initrd,
            cmdline: compose(facts, &arguments.cmdline),
            cpus,
            mem_bytes: arguments.mem,
            disks: arguments.disk.clone(),
            rng: arguments.rng,
            transport: arguments.transport,
            kaslr: arguments.kaslr,
            force: arguments.force,
            cache_dir: cache_dir(),
        })
    }
}

fn check_cpus(cpus: u32, max: usize) -> Result<u8> {
    let fits = u8::try_from(cpus)
        .ok()
        .filter(|&cpus| cpus > 0 && usize::from(cpus) <= max);
    fits.with_context(|| format!("--cpus {cpus}: this host runs 1 to {max}"))
}

fn check_mem(bytes: u64, address_bits: u8) -> Result<()> {
    if bytes < MEM_MIN_BYTES {
        bail!(
            "--mem {bytes}: a guest needs at least {}M",
            MEM_MIN_BYTES >> 20
        );
    }
    if !bytes.is_multiple_of(PAGE_BYTES) {
        bail!("--mem {bytes}: not a multiple of {PAGE_BYTES} bytes");
    }
    // The hole below 4 GiB and the room KVM may want above the RAM take less than half of it all.
    let max = 1_u64 << (address_bits.clamp(36, 52) - 1);
    if bytes > max {
        bail!(
            "--mem {bytes}: guests of this host have at most {}G",
            max >> 30
        );
    }
    Ok(())
}

/// The kernel named, or this host's own with its initrd.
fn kernel_and_initrd(arguments: &RunArguments) -> Result<(PathBuf, Option<PathBuf>)> {
    if let Some(kernel) = &arguments.kernel {
        return Ok((kernel.clone(), arguments.initrd.clone()));
    }
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let kernel = PathBuf::from(format!("/boot/vmlinuz-{release}"));
    File::open(&kernel).with_context(|| {
        format!(
            "no --kernel, and this host's own ({}) cannot be read",
            kernel.display()
        )
    })?;
    let own = PathBuf::from(format!("/boot/initrd.img-{release}"));
    let initrd = arguments
        .initrd
        .clone()
        .or_else(|| own.exists().then_some(own));
    tracing::info!("booting this host's own kernel, {}", kernel.display());
    Ok((kernel, initrd))
}

/// The user's cache directory, as the XDG base directory specification places it.
fn cache_dir() -> Option<PathBuf> {
    let absolute = |name: &str| {
        let value = std::env::var_os(name)?;
        Path::new(OsStr::new(&value))
            .is_absolute()
            .then(|| PathBuf::from(value))
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("microvm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_sizes_are_refused() {
        for mem in [
            0,
            1,
            (16 << 20) - 4096,
            (512 << 20) + 1,
            (1 << 39) + 4096,
            1 << 63,
        ] {
            assert!(check_mem(mem, 40).is_err(), "{mem}");
        }
        for mem in [16 << 20, 1 << 39] {
            assert!(check_mem(mem, 40).is_ok(), "{mem}");
        }
        for cpus in [0, 5, 256, u32::MAX] {
            assert!(check_cpus(cpus, 4).is_err(), "{cpus}");
        }
        assert_eq!(check_cpus(4, 4).unwrap(), 4);
    }
}
