//! The threads that run guest code.

mod gate;
mod kick;

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result};
use devices::{Bus, Space};
use kvm_ioctls::{VcpuExit, VcpuFd};

pub(crate) use gate::{Gate, Wanted};
pub(crate) use kick::install_handler;
use kick::{Kickable, kick};

use crate::insight::{self, Hook, Insight};
use crate::machine::{Ending, Switch};
use crate::statistics::ExitCounts;

/// Plenty for what a thread here calls, and too small for the host to back it by a huge page.
const STACK_BYTES: usize = 512 << 10;

/// The running vCPUs of a machine.
pub(crate) struct Vcpus {
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<ExitCounts>>,
}

/// What a vCPU thread needs beside its vCPU.
#[derive(Clone)]
struct Surroundings {
    bus: Arc<Bus>,
    switch: Arc<Switch>,
    gate: Arc<Gate>,
    insight: Option<Arc<Insight>>,
}

impl Vcpus {
    /// Starts a thread for each of `vcpus`; they wait until [`Vcpus::set`] lets them run.
    pub(crate) fn start(
        vcpus: Vec<VcpuFd>,
        bus: &Arc<Bus>,
        switch: &Arc<Switch>,
        insight: Option<&Arc<Insight>>,
    ) -> Result<Self> {
        let gate = Arc::new(Gate::new());
        let around = Surroundings {
            bus: bus.clone(),
            switch: switch.clone(),
            gate: gate.clone(),
            insight: insight.cloned(),
        };
        let mut started = Self {
            gate,
            threads: Vec::new(),
        };
        for (number, vcpu) in (0..).zip(vcpus) {
            let around = around.clone();
            let thread = Builder::new()
                .name(format!("vcpu{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || run(number, vcpu, &around))
                .context("cannot start a vCPU thread")?;
            started.threads.push(thread);
        }
        Ok(started)
    }

    /// Lets the vCPUs run, or pauses them.
    pub(crate) fn set(&self, wanted: Wanted) {
        self.gate.set(wanted);
        self.kick();
    }

    /// Has the vCPUs leave the guest for a moment.
    pub(crate) fn kick(&self) {
        for thread in &self.threads {
            kick(thread);
        }
    }

    /// Stops the vCPUs and returns what they counted. None runs guest code afterwards.
    pub(crate) fn stop(mut self) -> ExitCounts {
        self.halt()
    }

    fn halt(&mut self) -> ExitCounts {
        self.set(Wanted::Stop);
        let mut total = ExitCounts::default();
        for thread in self.threads.drain(..) {
            // A panic has been reported by the panic hook and has ended the run by the switch.
            total += thread.join().unwrap_or_default();
        }
        total
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Ends the run if the vCPU thread panics, so that nobody waits for it.
struct PanicGuard<'a>(&'a Switch);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(Ending::Failure("a vCPU thread panicked".into()));
        }
    }
}

/// The life of a vCPU thread.
fn run(number: u8, mut vcpu: VcpuFd, around: &Surroundings) -> ExitCounts {
    let _guard = PanicGuard(&around.switch);
    let insight = around.insight.clone();
    let mut hook = insight.map(|insight| Hook::new(insight, number, &mut vcpu));
    let mut vcpu = Kickable::new(vcpu);
    let mut counts = ExitCounts::default();
    loop {
        vcpu.clear();
        if around.switch.ended() || !around.gate.pass() {
            return counts;
        }
        if let Some(ending) = run_once(&mut vcpu, &around.bus, hook.as_mut(), &mut counts) {
            around.switch.end(ending);
            return counts;
        }
    }
}

/// Runs guest code until the next exit and answers that.
fn run_once(
    vcpu: &mut Kickable,
    bus: &Bus,
    hook: Option<&mut Hook>,
    counts: &mut ExitCounts,
) -> Option<Ending> {
    let (port_width, exit) = vcpu.run();
    match exit {
        Ok(VcpuExit::IoOut(insight::PORT, _)) if hook.is_some() => {
            let hooked = hook.is_some_and(|hook| hook.call(vcpu.vcpu()));
            if hooked {
                counts.system_calls += 1;
            } else {
                counts.port_writes += 1;
            }
            None
        }
        Ok(VcpuExit::X86Rdmsr(exit)) => {
            *exit.data = hook.map_or(0, |hook| hook.read_lstar());
            None
        }
        Ok(VcpuExit::X86Wrmsr(exit)) => {
            let entry = exit.data;
            let taken = hook.map_or(Ok(false), |hook| hook.write_lstar(vcpu.vcpu(), entry));
            refuse_unless(taken, vcpu)
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            counts.port_writes += 1;
            for item in data.chunks(port_width) {
                bus.write(Space::Port, u64::from(port), item);
            }
            None
        }
        Ok(VcpuExit::IoIn(port, data)) => {
            counts.port_reads += 1;
            for item in data.chunks_mut(port_width) {
                bus.read(Space::Port, u64::from(port), item);
            }
            None
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            counts.memory_writes += 1;
            bus.write(Space::Memory, address, data);
            None
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            counts.memory_reads += 1;
            bus.read(Space::Memory, address, data);
            None
        }
        Ok(VcpuExit::Intr) => kicked(vcpu, hook, counts),
        Ok(VcpuExit::Shutdown) => Some(Ending::TripleFault),
        Ok(exit) => {
            let exit = format!("{exit:?}");
            Some(Ending::Failure(explain_exit(vcpu.vcpu(), &exit)))
        }
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
            kicked(vcpu, hook, counts)
        }
        Err(error) => Some(Ending::Failure(format!("KVM_RUN failed: {error}"))),
    }
}

/// The vCPU left the guest for a moment, in which its hook can be put in place or taken away.
fn kicked(vcpu: &mut Kickable, hook: Option<&mut Hook>, counts: &mut ExitCounts) -> Option<Ending> {
    counts.kicks += 1;
    let settled = hook.map_or(Ok(()), |hook| hook.settle(vcpu.vcpu()));
    settled
        .err()
        .map(|error| Ending::Failure(format!("{error:#}")))
}

/// Ends a guest's access of an MSR: with a fault if the processor does not take the value.
fn refuse_unless(taken: anyhow::Result<bool>, vcpu: &mut Kickable) -> Option<Ending> {
    match taken {
        Ok(true) => None,
        Ok(false) => {
            vcpu.refuse_msr();
            None
        }
        Err(error) => Some(Ending::Failure(format!("{error:#}"))),
    }
}

/// Says where the guest was when KVM gave up.
fn explain_exit(vcpu: &VcpuFd, exit: &str) -> String {
    match vcpu.get_regs() {
        Ok(regs) => format!("KVM stopped the guest at {:#x}: {exit}", regs.rip),
        Err(_) => format!("KVM stopped the guest: {exit}"),
    }
}
