//! Host memory that is the guest's RAM.
#![expect(
    unsafe_code,
    reason = "maps memory and lends it to KVM and to the devices"
)]

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// The size of a huge page, to which guest memory is aligned so that the host can back it by them:
/// a guest then boots with tens of nested page faults in place of tens of thousands.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Anonymous memory, aligned for huge pages, unmapped when dropped.
#[derive(Debug)]
struct Pages {
    base: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: the mapping is plain memory without an owner thread; all access goes through KVM and
// vm-memory, which treat it as shared.
unsafe impl Send for Pages {}
// SAFETY: as above: no reference into the memory is ever made.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `len_bytes` of zeroes. The host finds pages for them only when they are touched.
    fn map(len_bytes: usize) -> Result<Self> {
        let refused = || format!("the host refuses {} MiB of guest memory", len_bytes >> 20);
        let padded = len_bytes
            .checked_add(HUGE_PAGE_BYTES)
            .with_context(refused)?;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing else.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                padded,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).with_context(refused);
        }
        let start = start.cast::<u8>();
        let head = start.align_offset(HUGE_PAGE_BYTES);
        let base = start.wrapping_add(head);
        unmap(start, head);
        let tail = len_bytes.next_multiple_of(page_size());
        unmap(base.wrapping_add(tail), padded - head - tail);
        let base = NonNull::new(base).context("the host mapped guest memory at address 0")?;
        // SAFETY: the range is the mapping just made. Advice only: a refusal costs speed.
        unsafe { libc::madvise(base.as_ptr().cast(), len_bytes, libc::MADV_HUGEPAGE) };
        Ok(Self { base, len_bytes })
    }

    /// The address in this process.
    fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Makes the memory a guest's; `region` must lie within it.
    fn lend_to(
        &self,
        vm: &VmFd,
        region: kvm_userspace_memory_region,
    ) -> Result<(), kvm_ioctls::Error> {
        let offset = region.userspace_addr.checked_sub(self.address());
        let end = offset.and_then(|offset| offset.checked_add(region.memory_size));
        assert!(
            end.is_some_and(|end| end <= self.len_bytes as u64),
            "a memory slot outside the memory lent"
        );
        // SAFETY: the slot lies within the mapping. KVM holds on to the process's address space, not
        // to the pages: were they unmapped first, guest accesses would fail, not stray.
        unsafe { vm.set_user_memory_region(region) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        unmap(
            self.base.as_ptr(),
            self.len_bytes.next_multiple_of(page_size()),
        );
    }
}

/// Gives a part of a mapping of ours back; an empty one is left out.
fn unmap(start: *mut u8, len_bytes: usize) {
    if len_bytes > 0 {
        // SAFETY: callers pass whole pages of a mapping they own and use no more.
        unsafe { libc::munmap(start.cast(), len_bytes) };
    }
}

fn page_size() -> usize {
    // SAFETY: sysconf has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// A guest's RAM, for as long as the program runs.
///
/// It is mapped once: device threads and I/O in flight hold on to it, and a guest reset empties it.
pub(crate) struct GuestRam {
    pages: &'static Pages,
    guest: Arc<GuestMemoryMmap>,
    ranges: Vec<(GuestAddress, usize)>,
}

impl GuestRam {
    /// Maps `len_bytes` of RAM, laid out round the hole below 4 GiB.
    pub(crate) fn new(len_bytes: u64) -> Result<Self> {
        let ranges = boot::layout::ram_ranges(len_bytes);
        let total = usize::try_from(len_bytes).context("guest memory size")?;
        // Leaked on purpose: the regions below point into it without owning it.
        let pages: &'static Pages = Box::leak(Box::new(Pages::map(total)?));
        let mut regions = Vec::new();
        let mut offset = 0;
        for &(start, len) in &ranges {
            regions.push(region(pages, offset, start, len)?);
            offset += len;
        }
        let guest = GuestMemoryMmap::from_regions(regions).context("guest memory layout")?;
        Ok(Self {
            pages,
            guest: Arc::new(guest),
            ranges,
        })
    }

    /// The RAM as the devices and the loader see it.
    pub(crate) fn guest(&self) -> &Arc<GuestMemoryMmap> {
        &self.guest
    }

    /// Makes the RAM that of `vm`.
    pub(crate) fn attach(&self, vm: &VmFd) -> Result<()> {
        let mut address = self.pages.address();
        for (slot, &(start, len)) in (0..).zip(&self.ranges) {
            let region = kvm_userspace_memory_region {
                slot,
                guest_phys_addr: start.0,
                memory_size: len as u64,
                userspace_addr: address,
                flags: 0,
            };
            self.pages
                .lend_to(vm, region)
                .with_context(|| format!("KVM refuses {} MiB of guest memory", len >> 20))?;
            address += len as u64;
        }
        Ok(())
    }

    /// Empties the RAM: it reads as zeroes again, and the host has its pages back.
    pub(crate) fn clear(&self) -> Result<()> {
        let base = self.pages.base.as_ptr().cast();
        // SAFETY: the mapping is anonymous, private and ours; no reference points into it.
        let result = unsafe { libc::madvise(base, self.pages.len_bytes, libc::MADV_DONTNEED) };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("cannot empty the guest's memory");
        }
        Ok(())
    }
}

/// The region of `len` bytes at `offset` into `pages` that the guest sees at `start`.
fn region(
    pages: &'static Pages,
    offset: usize,
    start: GuestAddress,
    len: usize,
) -> Result<GuestRegionMmap> {
    let address = pages.base.as_ptr().wrapping_add(offset);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the range lies within `pages`, which is never unmapped.
    let mapping = unsafe { MmapRegion::build_raw(address, len, prot, flags) };
    let mapping = mapping.context("guest memory region")?;
    GuestRegionMmap::new(mapping, start)
        .ok_or_else(|| anyhow!("guest memory at {:#x} wraps round", start.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn memory_is_aligned_for_huge_pages_and_reads_as_zero() {
        let pages = Pages::map(3 << 20).unwrap();
        assert_eq!(pages.address() % HUGE_PAGE_BYTES as u64, 0);
        assert_eq!(pages.len_bytes, 3 << 20);
    }

    #[test]
    fn clearing_forgets_what_the_guest_wrote_on_both_sides_of_the_hole() {
        let ram = GuestRam::new(4 << 30).unwrap();
        let high = GuestAddress(4 << 30);
        for address in [GuestAddress(0x1234), high] {
            ram.guest().write_obj(0x5a_u8, address).unwrap();
        }
        ram.clear().unwrap();
        for address in [GuestAddress(0x1234), high] {
            assert_eq!(ram.guest().read_obj::<u8>(address).unwrap(), 0);
        }
    }
}
