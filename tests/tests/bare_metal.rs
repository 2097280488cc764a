//! The bare-metal guest on this machine's own KVM, native or interpreted; in the lab without one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::sync::OnceLock;

use rustix::process::Signal;
use tests::{Guest, Host, Parts, Vm};

/// Where microvm puts the PCI configuration space and the first virtio-mmio device.
const PCI: &str = "ecam=0xe0000000";
const MMIO: &str = "mmio=0xe8000000";

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let parts = Parts::for_tests().unwrap();
        let usable = File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok();
        if usable {
            Host::native(parts)
        } else {
            Host::emulated(parts)
        }
        .unwrap()
    })
}

/// The guest that does what `words` say.
fn bare_metal(words: &str) -> Guest<'static> {
    let kernel = &host().parts().extra().bare_metal;
    Guest::on(host())
        .kernel(kernel, None, words)
        .mem("64M")
        .with(&["--force"])
}

fn passes(guest: Guest) {
    guest
        .start()
        .wait()
        .assert_status(0)
        .assert_console("\nok\n");
}

/// A guest that has said what it is about to do.
fn started(words: &str) -> Vm {
    let mut vm = bare_metal(words).start();
    vm.expect("microvm-guest: ");
    vm.expect("\n");
    vm
}

#[test]
fn string_instructions_reach_one_port() {
    passes(bare_metal("test=string"));
}

#[test]
fn powers_off() {
    passes(bare_metal("test=off"));
}

#[test]
fn block_device_on_pci() {
    let disk = host().blank_disk("1M");
    passes(bare_metal(&format!("test=blk {PCI}")).disk(&disk));
}

#[test]
fn block_device_on_mmio() {
    let disk = host().blank_disk("1M");
    passes(
        bare_metal(&format!("test=blk {MMIO}"))
            .transport("mmio")
            .disk(&disk),
    );
}

#[test]
fn read_only_block_device() {
    let disk = host().blank_disk("1M");
    passes(bare_metal(&format!("test=blk {PCI}")).disk(&format!("{disk},readonly")));
}

#[test]
fn entropy_device_on_pci() {
    passes(bare_metal(&format!("test=rng {PCI}")).with(&["--rng"]));
}

#[test]
fn entropy_device_on_mmio() {
    passes(
        bare_metal(&format!("test=rng {MMIO}"))
            .transport("mmio")
            .with(&["--rng"]),
    );
}

#[test]
fn hostile_driver_on_pci() {
    let disk = host().blank_disk("1M");
    passes(bare_metal(&format!("test=hostile seed=1 {PCI}")).disk(&disk));
}

#[test]
fn hostile_driver_on_mmio() {
    let disk = host().blank_disk("1M");
    passes(
        bare_metal(&format!("test=hostile seed=2 {MMIO}"))
            .transport("mmio")
            .disk(&disk),
    );
}

#[test]
fn serial_port_carries_every_byte_both_ways() {
    let mut vm = started("test=echo");
    let text: String = "all work and no play\n".repeat(100);
    vm.write(&text);
    vm.write("\u{4}");
    vm.wait().assert_status(0).assert_console(&text);
}

#[test]
fn resets_end_the_program_when_asked() {
    for kind in ["reset", "acpi-reset"] {
        let guest = bare_metal(&format!("test={kind}")).with(&["--no-reboot"]);
        guest.start().wait().assert_status(0).assert_console(kind);
    }
}

#[test]
fn reset_starts_the_guest_again() {
    let mut vm = started("test=reset");
    vm.expect("microvm-guest: reset\n");
    vm.expect("microvm-guest: reset\n");
}

#[test]
fn triple_fault_has_its_own_status_and_a_line() {
    let ended = bare_metal("test=triple")
        .with(&["--no-reboot"])
        .start()
        .wait();
    ended.assert_status(4).assert_stderr("triple fault");
}

#[test]
fn panic_device_has_its_own_status_and_a_line() {
    bare_metal("test=panic")
        .start()
        .wait()
        .assert_status(3)
        .assert_stderr("panicked");
}

#[test]
fn sigterm_presses_the_power_button() {
    let mut vm = started("test=button");
    vm.signal(Signal::TERM);
    vm.wait().assert_status(0).assert_console("\nok\n");
}

#[test]
fn second_sigterm_stops_a_guest_that_does_not_listen() {
    for test in ["halt", "spin"] {
        let mut vm = started(&format!("test={test}"));
        vm.signal(Signal::TERM);
        vm.expect_stderr("a second signal");
        vm.signal(Signal::TERM);
        vm.wait().assert_status(128 + 15);
    }
}
