//! What the host's KVM offers.

use kvm_ioctls::{Cap, Kvm};

use super::Finding;
use crate::kvm::{DEVICE, max_cpus, measure, open};

const GUEST_CODE: &str = "guest kernel code";

/// Features that make guests faster or allow more, with what is lost without them.
const OPTIONAL: [(Cap, &str, &str); 2] = [
    (
        Cap::TscDeadlineTimer,
        "TSC deadline timer",
        "guest timers cost more exits",
    ),
    (
        Cap::SyncRegs,
        "register sharing",
        "system call hooks are slower",
    ),
];

pub(super) fn examine() -> Vec<Finding> {
    let kvm = match open() {
        Ok(kvm) => kvm,
        // The error names the device and the remedy.
        Err(error) => {
            let text = format!("{error:#}");
            let says = text.strip_prefix("/dev/kvm: ").unwrap_or(&text);
            return vec![Finding::bad(
                DEVICE,
                says,
                "no guest can run on this host as it is",
            )];
        }
    };
    let cpus = max_cpus(&kvm);
    let says = format!(
        "present and permitted, API version 12, all needed capabilities, up to {cpus} vCPUs"
    );
    let mut findings = vec![Finding::good(DEVICE, says)];
    findings.extend(OPTIONAL.iter().map(|option| optional(&kvm, *option)));
    findings.push(speed(&kvm));
    findings
}

fn optional(kvm: &Kvm, (cap, name, lost): (Cap, &str, &str)) -> Finding {
    if kvm.check_extension(cap) {
        Finding::good(name, "offered by KVM")
    } else {
        Finding::fair(
            name,
            format!("not offered by KVM, {lost}"),
            "a newer host kernel has it",
        )
    }
}

fn speed(kvm: &Kvm) -> Finding {
    match measure(kvm) {
        Ok(speed) if speed.native => {
            let millions = speed.instructions_per_second / 1e6;
            Finding::good(
                GUEST_CODE,
                format!("runs on the processor ({millions:.0} million instructions a second)"),
            )
        }
        Ok(speed) => {
            let millions = speed.instructions_per_second / 1e6;
            let says = format!(
                "interpreted by the host's KVM ({millions:.1} million instructions a second), too \
                 slow and too incomplete for a stock kernel"
            );
            Finding::bad(
                GUEST_CODE,
                says,
                "use a host with hardware virtualisation, or the lab: cargo xtask lab",
            )
        }
        Err(error) => Finding::bad(
            GUEST_CODE,
            format!("{error:#}"),
            "see the kernel log: dmesg",
        ),
    }
}
