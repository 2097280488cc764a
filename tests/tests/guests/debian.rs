//! A real Debian: its own initrd finds the disk, systemd brings it up and down.

use rustix::process::Signal;
use tests::{Guest, Host, Userland, guest};

/// In the lab on a busy machine, a console takes more than the 90 seconds that systemd gives it.
const CMDLINE: &str = "quiet systemd.default_timeout_start_sec=900";

/// A Debian on the disk that `--disk` names so.
fn debian(disk: &str) -> Guest<'static> {
    let root = &Host::shared().parts().extra().debian;
    guest()
        .kernel(&root.kernel, Some(&root.initrd), CMDLINE)
        .userland(Userland::Debian)
        .mem("1G")
        .disk(disk)
}

/// Where the host has Debian's root disk, which nobody may change.
fn root_disk() -> String {
    let host = Host::shared();
    let disk = &host.parts().extra().debian.disk;
    host.path(disk).display().to_string()
}

/// A copy of it.
fn own_disk() -> String {
    let host = Host::shared();
    let disk = host.fresh_path("debian.img").display().to_string();
    host.must_run(&format!("cp --sparse=always '{}' '{disk}'", root_disk()));
    disk
}

#[test]
fn boots_from_an_overlay_and_leaves_its_base_alone() {
    let (host, base) = (Host::shared(), root_disk());
    // Size, blocks, and the times of the last change of content and of anything: no write leaves
    // these as they are. A checksum of the whole disk takes minutes in an emulated host.
    let state = || host.must_run(&format!("stat -c '%s %b %y %z' '{base}'"));
    let before = state();
    let overlay = host.overlay(&base);
    let disk = format!("{overlay},format=qcow2");
    let mut vm = debian(&disk).boot();
    vm.shell("findmnt -n -o SOURCE,FSTYPE / | tr -s ' '")
        .assert_contains("/dev/vda ext4");
    vm.shell("seq 1 100000 > /root/numbers").assert_success();
    vm.power_off().assert_status(0);
    host.must_run(&format!("{} image check '{overlay}'", host.microvm()));

    // What it wrote is there, for a guest that starts in a tenth of the time too.
    let mut vm = guest().disk(&disk).boot();
    vm.shell("seq 1 100000 | cmp - /disk/root/numbers && echo same")
        .assert_stdout("same");
    vm.power_off().assert_status(0);
    assert_eq!(state(), before);
    host.must_run(&format!("rm '{overlay}'"));
}

#[test]
fn sigterm_shuts_it_down_in_order() {
    let disk = own_disk();
    let mut vm = debian(&disk).boot();
    vm.shell("findmnt -n -o SOURCE,FSTYPE / | tr -s ' '")
        .assert_contains("/dev/vda ext4");
    vm.shell("systemctl is-active systemd-logind")
        .assert_contains("active");
    vm.signal(Signal::TERM);
    vm.wait().assert_status(0);
    Host::shared().must_run(&format!("rm '{disk}'"));
}
