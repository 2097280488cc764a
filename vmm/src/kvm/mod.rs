//! The one place that talks to `/dev/kvm`: opening it, virtual machines, interrupts, registers.

mod cpuid;
mod interrupts;
mod registers;
mod speed;

use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kvm_ioctls::{Cap, Kvm};

pub(crate) use cpuid::{Cpuid, physical_address_bits};
pub(crate) use interrupts::Interrupts;
pub(crate) use registers::{boot_registers, park_until_startup};
pub(crate) use speed::{measure, measure_on};

/// The device node of KVM.
pub(crate) const DEVICE: &str = "/dev/kvm";

/// The API version that KVM has had since Linux 2.6.22 and will keep.
const API_VERSION: i32 = 12;

/// The KVM features without which a guest cannot run, with the name a user can look up.
pub(crate) const REQUIRED: [(Cap, &str); 8] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Opens `/dev/kvm` and checks that it can run guests; the error says what to do about it.
pub(crate) fn open() -> Result<Kvm> {
    let kvm = Kvm::new().map_err(|error| explain_open(io::Error::from(error)))?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        bail!("{DEVICE}: API version {version}, but microvm needs {API_VERSION}");
    }
    let missing = missing(&kvm);
    if !missing.is_empty() {
        bail!("{DEVICE}: this kernel's KVM lacks {}", missing.join(", "));
    }
    Ok(kvm)
}

/// The names of the required features that `kvm` lacks.
pub(crate) fn missing(kvm: &Kvm) -> Vec<&'static str> {
    let lacks = |(cap, _): &&(Cap, &str)| !kvm.check_extension(*cap);
    REQUIRED
        .iter()
        .filter(lacks)
        .map(|(_, name)| *name)
        .collect()
}

/// Turns the host's refusal to open `/dev/kvm` into advice.
fn explain_open(error: io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no KVM here: enable virtualisation in the firmware and load kvm_intel or \
             kvm_amd (in a virtual machine: enable nested virtualisation on its host)"
        }
        io::ErrorKind::PermissionDenied => {
            "no permission: add yourself to the group kvm (sudo usermod -aG kvm $USER) and log in \
             again"
        }
        _ if !Path::new(DEVICE).exists() => "the device is missing",
        _ => "KVM does not answer",
    };
    anyhow::Error::new(error).context(format!("{DEVICE}: {advice}"))
}

/// The largest number of vCPUs that this host runs, bounded by what ACPI's 8-bit APIC IDs name.
pub(crate) fn max_cpus(kvm: &Kvm) -> usize {
    kvm.get_max_vcpus().min(254)
}

/// Tries again what a busy host interrupts: `KVM_CREATE_VM` waits for a kernel thread and for other
/// processors, and gives up with EINTR for a signal that has nothing to do with it.
fn patiently<T>(
    mut attempt: impl FnMut() -> Result<T, kvm_ioctls::Error>,
) -> Result<T, kvm_ioctls::Error> {
    const TRIES: u32 = 5;
    for _ in 1..TRIES {
        match attempt() {
            Err(error) if error.errno() == libc::EINTR => {}
            done => return done,
        }
    }
    attempt()
}

/// Makes a virtual machine with the in-kernel interrupt controllers.
pub(crate) fn create_vm(kvm: &Kvm) -> Result<kvm_ioctls::VmFd> {
    let vm = patiently(|| kvm.create_vm()).context("KVM refuses to make a virtual machine")?;
    // Intel processors without unrestricted guest mode need three pages for the task state segment
    // and one for an identity map, anywhere below 4 GiB where the guest has no RAM.
    vm.set_identity_map_address(boot::layout::KVM_IDENTITY_MAP)
        .context("KVM_SET_IDENTITY_MAP_ADDR failed")?;
    let tss = usize::try_from(boot::layout::KVM_TSS).context("TSS address")?;
    vm.set_tss_address(tss).context("KVM_SET_TSS_ADDR failed")?;
    vm.create_irq_chip().context("KVM_CREATE_IRQCHIP failed")?;
    let pit = kvm_bindings::kvm_pit_config {
        flags: kvm_bindings::KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit).context("KVM_CREATE_PIT2 failed")?;
    Ok(vm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_interrupted_is_tried_again_but_not_for_ever() {
        let interrupted = || kvm_ioctls::Error::new(libc::EINTR);
        let mut tries = 0;
        let done = patiently(|| {
            tries += 1;
            if tries < 3 {
                Err(interrupted())
            } else {
                Ok(tries)
            }
        });
        assert_eq!(done.unwrap(), 3);
        let mut tries = 0;
        let given_up = patiently::<()>(|| {
            tries += 1;
            Err(interrupted())
        });
        assert_eq!((given_up.unwrap_err(), tries), (interrupted(), 5));
        let mut tries = 0;
        let refused = patiently::<()>(|| {
            tries += 1;
            Err(kvm_ioctls::Error::new(libc::ENOMEM))
        });
        assert_eq!((refused.unwrap_err().errno(), tries), (libc::ENOMEM, 1));
    }
}
