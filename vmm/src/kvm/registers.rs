//! A vCPU's registers before its first instruction.

use anyhow::{Context, Result};
use boot::EntryState;
use kvm_bindings::{
    KVM_MP_STATE_UNINITIALIZED, Msrs, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment,
};
use kvm_ioctls::VcpuFd;

const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled, default type write-back (Intel SDM volume 3A section 12.11.2.1).
const MTRR_ENABLED_WRITE_BACK: u64 = (1 << 11) | 6;
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;

/// Puts the boot vCPU at the kernel's entry point.
pub(crate) fn boot_registers(vcpu: &VcpuFd, entry: &EntryState) -> Result<()> {
    set_msrs(vcpu)?;
    let mut sregs = vcpu.get_sregs().context("KVM_GET_SREGS failed")?;
    sregs.cr0 = entry.cr0;
    sregs.cr3 = entry.cr3;
    sregs.cr4 = entry.cr4;
    sregs.efer = entry.efer;
    sregs.gdt.base = entry.gdt_base;
    sregs.gdt.limit = entry.gdt_limit;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cs = segment(&entry.cs);
    for data in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.ss,
        &mut sregs.fs,
        &mut sregs.gs,
    ] {
        *data = segment(&entry.ds);
    }
    sregs.tr = segment(&entry.tr);
    vcpu.set_sregs(&sregs).context("KVM_SET_SREGS failed")?;
    let regs = kvm_regs {
        rip: entry.rip,
        rsi: entry.rsi,
        rsp: entry.rsp,
        // Bit 1 is always set; interrupts are off, as the boot protocol asks.
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).context("KVM_SET_REGS failed")
}

/// Leaves a secondary vCPU waiting for the guest's INIT and start-up interrupts.
pub(crate) fn park_until_startup(vcpu: &VcpuFd) -> Result<()> {
    set_msrs(vcpu)?;
    vcpu.set_mp_state(kvm_mp_state {
        mp_state: KVM_MP_STATE_UNINITIALIZED,
    })
    .context("KVM_SET_MP_STATE failed")
}

/// What firmware would have set: cached memory and fast string instructions.
fn set_msrs(vcpu: &VcpuFd) -> Result<()> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    for msr in [
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
        entry(MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
    ] {
        let index = msr.index;
        let msrs = Msrs::from_entries(&[msr]).context("too many MSRs")?;
        let done = vcpu.set_msrs(&msrs).context("KVM_SET_MSRS failed")?;
        if done != 1 {
            tracing::debug!("KVM does not take MSR {index:#x}");
        }
    }
    Ok(())
}

fn segment(segment: &boot::Segment) -> kvm_segment {
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.kind,
        present: u8::from(segment.present),
        dpl: segment.dpl,
        db: u8::from(segment.db),
        s: u8::from(segment.s),
        l: u8::from(segment.l),
        g: u8::from(segment.g),
        ..Default::default()
    }
}
