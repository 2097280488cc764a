//! What an emulated host's power cut leaves of a guest's disk.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "power_cut/checks.rs"]
mod checks;
#[path = "power_cut/evidence.rs"]
mod evidence;
#[path = "power_cut/image.rs"]
mod image;
#[path = "power_cut/round.rs"]
mod round;
#[path = "power_cut/rounds.rs"]
mod rounds;

use tests::{Guest, Host, Parts};

#[test]
fn what_a_guest_fsynced_outlives_the_hosts_power() {
    let mut host = Host::emulated(Parts::get().unwrap()).unwrap();
    let raw = host.ext4_disk("64M");
    // The file itself must be on the host's disk before the guest's promises can be.
    host.must_run("sync");
    let mut vm = Guest::on(&host).disk(&raw).boot();
    let write = "dd if=/dev/urandom of=/disk/file bs=100k count=10 conv=fsync 2>/dev/null";
    vm.shell(write).assert_success();
    let written = vm
        .shell("sha256sum /disk/file")
        .assert_success()
        .text
        .clone();
    // The kernel of the host would have written this back much later.
    vm.shell("seq 1 1000 > /disk/unsynced").assert_success();
    drop(vm);
    host.power_cut().unwrap();

    let mut vm = Guest::on(&host).disk(&raw).boot();
    vm.shell("sha256sum /disk/file").assert_stdout(&written);
    vm.power_off().assert_status(0);
}

#[test]
fn a_host_without_kvm_is_told_the_remedy() {
    let host = Host::emulated(Parts::get().unwrap()).unwrap();
    let kernel = host.path(&host.parts().kernel.bzimage());
    let run = format!(
        "microvm --kernel '{}' 2>&1; echo status=$?",
        kernel.display()
    );
    host.must_run("rm /dev/kvm");
    let complaint = host.must_run(&run);
    assert!(
        complaint.contains("/dev/kvm") && complaint.ends_with("status=1\n"),
        "{complaint}"
    );
    assert_eq!(complaint.lines().count(), 2, "{complaint}");
}
