//! A real Debian: its own initrd finds the disk, systemd brings it up and down.

use rustix::process::Signal;
use tests::{Guest, Host, Userland, guest};

/// A Debian with a disk of its own to write to.
fn debian() -> (Guest<'static>, String) {
    let host = Host::shared();
    let root = &host.parts().extra().debian;
    let disk = host.fresh_path("debian.img").display().to_string();
    host.must_run(&format!(
        "cp --sparse=always '{}' '{disk}'",
        host.path(&root.disk).display()
    ));
    let guest = guest()
        .kernel(&root.kernel, Some(&root.initrd), "quiet")
        .userland(Userland::Debian)
        .mem("1G")
        .disk(&disk);
    (guest, disk)
}

#[test]
fn boots_with_its_own_initrd_and_powers_off() {
    let (guest, disk) = debian();
    let mut vm = guest.boot();
    vm.shell("findmnt -n -o SOURCE,FSTYPE / | tr -s ' '")
        .assert_contains("/dev/vda ext4");
    vm.power_off().assert_status(0);
    Host::shared().must_run(&format!("rm '{disk}'"));
}

#[test]
fn sigterm_shuts_it_down_in_order() {
    let (guest, disk) = debian();
    let mut vm = guest.boot();
    vm.shell("systemctl is-active systemd-logind")
        .assert_contains("active");
    vm.signal(Signal::TERM);
    vm.wait().assert_status(0);
    Host::shared().must_run(&format!("rm '{disk}'"));
}
