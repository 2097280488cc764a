//! Is guest kernel code executed by the processor or interpreted by the host's KVM?
//!
//! Software KVMs exist that run CPL 0 code in KVM's instruction emulator, a thousand times slower
//! than the processor and without the instructions that a stock kernel needs. A guest would seem
//! to hang there, so the question is asked, with a stopwatch, before a guest starts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress};

use super::DEVICE;
use crate::memory::GuestRam;

/// The loop body is executed this often; two instructions each time.
const LOOPS: u32 = 20_000;
/// Real hardware needs about 20 us for the loop, an interpreter 20 ms or more.
const NATIVE_MAX: Duration = Duration::from_millis(4);
/// A run can be disturbed by whatever else the host does; the fastest of these counts.
const RUNS: usize = 3;
/// Where the code lies in the guest, real-mode segment 0.
const CODE_ADDRESS: GuestAddress = GuestAddress(0x100);
const PAGE_BYTES: u64 = 4096;

/// `mov cx, LOOPS; again: dec cx; jnz again; out 0x80, al`, in 16-bit real mode. The write to the
/// port is the end: unlike a `hlt`, it comes to us with an in-kernel interrupt controller too.
const CODE: [u8; 8] = {
    let [low, high, _, _] = LOOPS.to_le_bytes();
    [0xb9, low, high, 0x49, 0x75, 0xfd, 0xe6, 0x80]
};

/// How fast the guest's CPL 0 code runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Speed {
    /// Guest instructions a second, in the fastest of a few short runs.
    pub(crate) instructions_per_second: f64,
    /// Whether the processor executes the code itself.
    pub(crate) native: bool,
}

impl Speed {
    /// Says why a guest would seem to hang here, unless the user insists.
    pub(crate) fn refuse_interpreted(&self, force: bool) -> Result<()> {
        if self.native {
            return Ok(());
        }
        let millions = self.instructions_per_second / 1e6;
        let fact = format!(
            "{DEVICE}: this host's KVM interprets guest kernel code ({millions:.1} million \
             instructions a second), which is too slow and too incomplete for a stock kernel"
        );
        if force {
            tracing::warn!("{fact}");
            return Ok(());
        }
        bail!("{fact}; run in the lab (cargo xtask lab -- microvm ...), or go on with --force")
    }
}

/// Runs a short loop in a guest of its own and times it.
pub(crate) fn measure(kvm: &Kvm) -> Result<Speed> {
    let ram = GuestRam::new(PAGE_BYTES)?;
    let vm = kvm
        .create_vm()
        .context("KVM refuses to make a virtual machine")?;
    ram.attach(&vm)?;
    let mut vcpu = vm.create_vcpu(0).context("KVM refuses to make a vCPU")?;
    measure_on(&mut vcpu, &ram)
}

/// Runs a short loop on `vcpu`, which has not run yet, and times it. The vCPU's registers and the
/// first page of `ram` are to be filled afterwards; the page reads as zeroes again.
pub(crate) fn measure_on(vcpu: &mut VcpuFd, ram: &GuestRam) -> Result<Speed> {
    let place = "cannot place a test loop";
    let guest = ram.guest();
    guest.write_slice(&CODE, CODE_ADDRESS).context(place)?;
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        best = best.min(time_loop(vcpu)?);
        if best <= NATIVE_MAX {
            break;
        }
    }
    guest
        .write_slice(&[0; CODE.len()], CODE_ADDRESS)
        .context(place)?;
    let instructions = f64::from(LOOPS) * 2.0;
    Ok(Speed {
        instructions_per_second: instructions / best.as_secs_f64(),
        native: best <= NATIVE_MAX,
    })
}

/// Lets KVM finish the instruction of the last exit, which it does when it is entered again, and
/// return at once. Otherwise it would finish it on registers that were set meanwhile.
fn complete_exit(vcpu: &mut VcpuFd) -> Result<()> {
    vcpu.set_kvm_immediate_exit(1);
    let result = vcpu.run().map(|exit| format!("{exit:?}"));
    vcpu.set_kvm_immediate_exit(0);
    match result {
        Err(error) if error.errno() == libc::EINTR => Ok(()),
        other => bail!("KVM did not return at once: {other:?}"),
    }
}

/// Puts the vCPU at the start of the loop and runs it to its end.
fn time_loop(vcpu: &mut VcpuFd) -> Result<Duration> {
    let mut sregs = vcpu.get_sregs().context("KVM_GET_SREGS failed")?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs).context("KVM_SET_SREGS failed")?;
    let regs = kvm_bindings::kvm_regs {
        rip: CODE_ADDRESS.0,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).context("KVM_SET_REGS failed")?;
    let started = Instant::now();
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(..)) => {
                let elapsed = started.elapsed();
                return complete_exit(vcpu).map(|()| elapsed);
            }
            Ok(VcpuExit::Intr) => {}
            Err(error) if error.errno() == libc::EINTR => {}
            Ok(exit) => bail!("KVM stopped a test loop with {exit:?}"),
            Err(error) => return Err(error).context("KVM_RUN failed"),
        }
    }
}
