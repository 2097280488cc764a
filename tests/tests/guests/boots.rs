//! The stock kernel boots to a shell and powers off, in every shape there is.

use tests::{Boot, Guest, Host, guest};

/// Boots to the shell, where `command` prints `expected`, and powers off.
fn boots(guest: Guest, command: &str, expected: &str) {
    let mut vm = guest.boot();
    vm.shell(command).assert_stdout(expected);
    vm.power_off().assert_status(0);
}

#[test]
fn bzimage() {
    let release = Host::shared().parts().kernel.release();
    boots(guest().boot_from(Boot::BzImage), "uname -r", release);
}

#[test]
fn vmlinux() {
    let release = Host::shared().parts().kernel.release();
    boots(guest().boot_from(Boot::Vmlinux), "uname -r", release);
}

#[test]
fn bzimage_that_decompresses_itself() {
    boots(guest().with(&["--kaslr"]), "echo shell", "shell");
}

#[test]
fn two_processors() {
    boots(guest().cpus(2), "nproc", "2");
}

#[test]
fn four_processors() {
    boots(guest().cpus(4), "nproc", "4");
}

/// The kernel keeps a few percent of memory to itself, so a size is told from the next by halves.
fn boots_with_memory(size: &str, mib: u32) {
    let command = format!(
        "awk '/MemTotal/ {{ print ($2 > {} && $2 < {}) ? \"right\" : $2 }}' /proc/meminfo",
        mib * 1024 / 10 * 8,
        mib * 1024
    );
    boots(guest().mem(size), &command, "right");
}

#[test]
fn memory_of_256_mib() {
    boots_with_memory("256M", 256);
}

#[test]
fn memory_that_just_reaches_above_4_gib() {
    boots_with_memory("3584M", 3584);
}

#[test]
fn memory_mostly_above_4_gib() {
    boots_with_memory("6G", 6 << 10);
}

#[test]
fn disk_on_pci() {
    let disk = Host::shared().blank_disk("16M");
    let guest = guest().transport("pci").disk(&disk);
    boots(
        guest,
        "readlink -f /sys/block/vda | grep -o pci0000:00",
        "pci0000:00",
    );
}

#[test]
fn disk_on_mmio() {
    let disk = Host::shared().blank_disk("16M");
    let guest = guest().transport("mmio").disk(&disk);
    boots(
        guest,
        "readlink -f /sys/block/vda | grep -o LNRO0005",
        "LNRO0005",
    );
}

#[test]
fn entropy_device_gives_random_bytes() {
    let command = "cat /sys/class/misc/hw_random/rng_current; \
                   dd if=/dev/hwrng bs=512 count=1 2>/dev/null | sort -u | wc -c | grep -vc '^0$'";
    boots(guest().with(&["--rng"]), command, "virtio_rng.0\n1");
}
