//! The hook of one vCPU: what its LSTAR register really has in it, and what the guest believes.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{SyncReg, VcpuFd};

use super::Insight;
use super::stub;

/// The target of SYSCALL in 64-bit mode (AMD APM volume 2 section 6.1.1).
pub(crate) const LSTAR: u32 = 0xc000_0082;
/// The `OUT` has two bytes; a KVM that emulates it has gone past it when it exits.
const OUT_BYTES: u64 = 2;

/// One vCPU's part, on the thread that runs it.
pub(crate) struct Hook {
    insight: Arc<Insight>,
    cpu: u8,
    /// The kernel's entry for system calls, once it has told the processor.
    entry: u64,
    /// Where this vCPU's stub is, while it stands before the entry.
    stub: Option<u64>,
}

impl Hook {
    /// Of vCPU number `cpu`.
    pub(crate) fn new(insight: Arc<Insight>, cpu: u8, vcpu: &mut VcpuFd) -> Self {
        vcpu.set_sync_valid_reg(SyncReg::Register);
        Self {
            insight,
            cpu,
            entry: 0,
            stub: None,
        }
    }

    /// What the guest reads from its LSTAR: what it wrote.
    pub(crate) fn read_lstar(&self) -> u64 {
        self.entry
    }

    /// The guest writes its LSTAR. Whether the processor takes that.
    pub(crate) fn write_lstar(&mut self, vcpu: &VcpuFd, entry: u64) -> Result<bool> {
        if !set_lstar(vcpu, entry)? {
            return Ok(false);
        }
        let known = self.entry != 0;
        self.entry = entry;
        if self.stub.take().is_some() {
            self.insight.unarmed();
        }
        if known {
            // It may be another kernel, which this one has started.
            self.insight.started_anew();
        } else {
            self.insight.started();
        }
        self.insight.ask_to_settle();
        self.settle(vcpu)?;
        Ok(true)
    }

    /// Puts the stub before the entry or takes it away, as is wanted, where that is possible now.
    /// To be called while the vCPU is outside the guest.
    pub(crate) fn settle(&mut self, vcpu: &VcpuFd) -> Result<()> {
        let wanted = self.insight.wants_hooks();
        match self.stub {
            None if wanted && self.entry != 0 => self.arm(vcpu),
            Some(_) if !wanted => {
                must_set_lstar(vcpu, self.entry)?;
                self.stub = None;
                self.insight.unarmed();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn arm(&mut self, vcpu: &VcpuFd) -> Result<()> {
        let sregs = vcpu.get_sregs().context("KVM_GET_SREGS failed")?;
        let Some(window) = self.insight.reach(&sregs, self.entry) else {
            return Ok(());
        };
        let stub = stub::address(window, self.cpu);
        let Some(code) = stub::assemble(window, self.cpu, self.entry) else {
            return Ok(());
        };
        self.insight.window().write_code(self.cpu, &code)?;
        must_set_lstar(vcpu, stub)?;
        self.stub = Some(stub);
        self.insight.armed();
        tracing::debug!(cpu = self.cpu, "system calls are hooked");
        Ok(())
    }

    /// An `OUT` to the stub's port. False if that came from elsewhere: whatever the guest does there,
    /// it talks to nobody.
    pub(crate) fn call(&self, vcpu: &mut VcpuFd) -> bool {
        let Some(stub) = self.stub else {
            return false;
        };
        let mut regs = vcpu.sync_regs().regs;
        let out = stub + stub::out_offset();
        if regs.rip != out && regs.rip != out + OUT_BYTES {
            return false;
        }
        let rip = regs.rip;
        let fs_base = || Some(vcpu.get_sregs().ok()?.fs.base);
        if self.insight.call(self.cpu, &mut regs, &fs_base) {
            debug_assert_eq!(rip, regs.rip);
            vcpu.sync_regs_mut().regs = regs;
            vcpu.set_sync_dirty_reg(SyncReg::Register);
        }
        true
    }
}

/// Whether the processor takes `entry`, which must be a canonical address.
fn set_lstar(vcpu: &VcpuFd, entry: u64) -> Result<bool> {
    let msr = kvm_msr_entry {
        index: LSTAR,
        data: entry,
        ..Default::default()
    };
    let msrs = Msrs::from_entries(&[msr]).context("too many MSRs")?;
    Ok(vcpu.set_msrs(&msrs).context("KVM_SET_MSRS failed")? == 1)
}

/// The same for an address that the processor has taken before, or is like one.
fn must_set_lstar(vcpu: &VcpuFd, entry: u64) -> Result<()> {
    if !set_lstar(vcpu, entry)? {
        bail!("KVM does not take {entry:#x} for LSTAR");
    }
    Ok(())
}
