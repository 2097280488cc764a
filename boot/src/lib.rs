//! Turns a kernel, an initrd and a command line into guest memory and an entry state.
//!
//! The kernel is a bzImage or an ELF vmlinux of Linux for x86-64. A bzImage's payload is decompressed
//! on the host, which is faster than letting the guest do it and spares the guest the memory, and
//! the kernel is entered at its 64-bit entry point (Linux, `Documentation/arch/x86/boot.rst`). The
//! machine is described by ACPI tables alone.
//!
//! The crate knows no hypervisor: [`load`] fills memory and returns plain register values.

mod acpi;
mod cmdline;
mod entry;
mod error;
mod initrd;
mod kernel;
pub mod layout;
mod reset_vector;
mod zero_page;

use std::path::Path;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

pub use acpi::{Machine, PowerRegisters};
pub use entry::{EntryState, Segment};
pub use error::Error;
pub use kernel::Compression;

/// What to boot.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// A bzImage or an ELF vmlinux.
    pub kernel: &'a Path,
    /// The initial RAM disk, handed to the kernel as it is.
    pub initrd: Option<&'a Path>,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// Enters a bzImage's own decompressor, which then chooses the kernel's addresses at random.
    pub kaslr: bool,
    /// A directory that keeps decompressed kernels, so that the next boot need only read them. It
    /// is created where it is missing; where it cannot be written, every boot decompresses.
    pub cache_dir: Option<&'a Path>,
}

/// Loads `image` and the description of `machine` into guest memory, which must read as zeroes.
///
/// Memory must have the shape that [`layout::ram_ranges`] gives. Returns the registers that the
/// boot processor starts with; the other processors wait for the guest to start them.
pub fn load(
    memory: &GuestMemoryMmap,
    image: &Image<'_>,
    machine: &Machine<'_>,
) -> Result<EntryState, Error> {
    let low_ram_end = low_ram_end(memory)?;
    let kernel = kernel::load(memory, image, low_ram_end)?;
    cmdline::load(memory, image.cmdline, &kernel.header)?;
    let initrd = match image.initrd {
        Some(path) => Some(initrd::load(memory, path, &kernel, low_ram_end)?),
        None => None,
    };
    let rsdp = acpi::load(memory, machine)?;
    reset_vector::load(memory, machine.power)?;
    let parameters = zero_page::Parameters {
        kernel: &kernel,
        initrd,
        rsdp,
        ecam: machine.pci,
    };
    zero_page::load(memory, &parameters)?;
    entry::load(memory, kernel.entry)
}

/// The end of the RAM below the hole.
fn low_ram_end(memory: &GuestMemoryMmap) -> Result<u64, Error> {
    let region = memory.find_region(GuestAddress(0));
    let low_ram_bytes = region.map_or(0, GuestMemoryRegion::len);
    if low_ram_bytes < 2 * layout::KERNEL_MIN {
        return Err(Error::MemoryTooSmall { low_ram_bytes });
    }
    Ok(low_ram_bytes)
}
