//! The stock kernel boots to a shell and powers off, in every shape there is.

use tests::{Boot, guest};

#[test]
fn bzimage() {
    let mut vm = guest().boot_from(Boot::BzImage).boot();
    vm.shell("echo hello").assert_stdout("hello");
    vm.power_off().assert_status(0);
}

#[test]
fn vmlinux() {
    let mut vm = guest().boot_from(Boot::Vmlinux).boot();
    vm.shell("echo hello").assert_stdout("hello");
    vm.power_off().assert_status(0);
}
