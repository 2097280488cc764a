//! Is guest kernel code executed by the processor or interpreted by the host's KVM?
//!
//! Software KVMs exist that run CPL 0 code in KVM's instruction emulator, a thousand times slower
//! than the processor and without the instructions that a stock kernel needs. A guest would seem
//! to hang there, so the question is asked, with a stopwatch, before a guest starts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};

use crate::memory::Pages;

/// The loop body is executed this often; two instructions each time.
const LOOPS: u32 = 20_000;
/// Real hardware needs about 20 us for the loop, an interpreter 20 ms or more.
const NATIVE_MAX: Duration = Duration::from_millis(4);
/// A run can be disturbed by whatever else the host does; the fastest of these counts.
const RUNS: usize = 3;
/// Where the code lies in the guest, real-mode segment 0.
const CODE_ADDRESS: u64 = 0x1000;

/// `mov cx, LOOPS; again: dec cx; jnz again; hlt`, in 16-bit real mode.
const CODE: [u8; 7] = {
    let [low, high, _, _] = LOOPS.to_le_bytes();
    [0xb9, low, high, 0x49, 0x75, 0xfd, 0xf4]
};

/// How fast the guest's CPL 0 code runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Speed {
    /// Guest instructions a second, in the fastest of a few short runs.
    pub(crate) instructions_per_second: f64,
    /// Whether the processor executes the code itself.
    pub(crate) native: bool,
}

/// Runs a short loop in a guest of its own and times it.
pub(crate) fn measure(kvm: &Kvm) -> Result<Speed> {
    let pages = Pages::map(0x1000)?;
    pages.write(0, &CODE);
    let vm = kvm
        .create_vm()
        .context("KVM refuses to make a virtual machine")?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        guest_phys_addr: CODE_ADDRESS,
        memory_size: pages.len_bytes() as u64,
        userspace_addr: pages.address(),
        flags: 0,
    };
    pages
        .lend_to(&vm, region)
        .context("KVM refuses guest memory")?;
    let mut vcpu = vm.create_vcpu(0).context("KVM refuses to make a vCPU")?;
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        best = best.min(time_loop(&mut vcpu)?);
        if best <= NATIVE_MAX {
            break;
        }
    }
    let instructions = f64::from(LOOPS) * 2.0;
    Ok(Speed {
        instructions_per_second: instructions / best.as_secs_f64(),
        native: best <= NATIVE_MAX,
    })
}

/// Puts the vCPU at the start of the loop and runs it to the `hlt`.
fn time_loop(vcpu: &mut VcpuFd) -> Result<Duration> {
    let mut sregs = vcpu.get_sregs().context("KVM_GET_SREGS failed")?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs).context("KVM_SET_SREGS failed")?;
    let regs = kvm_bindings::kvm_regs {
        rip: CODE_ADDRESS,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).context("KVM_SET_REGS failed")?;
    let started = Instant::now();
    loop {
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => return Ok(started.elapsed()),
            Ok(VcpuExit::Intr) => {}
            Err(error) if error.errno() == libc::EINTR => {}
            Ok(exit) => bail!("KVM stopped a test loop with {exit:?}"),
            Err(error) => return Err(error).context("KVM_RUN failed"),
        }
    }
}
