//! How guests end, and what microvm's status says of it.

use images::initramfs::FIRST_LINE;
use rustix::process::Signal;
use tests::guest;

/// The guest's kernel panicked.
const PANICKED: i32 = 3;

#[test]
fn reset_reboots() {
    let mut vm = guest().boot();
    vm.shell("echo once > /tmp/mark").assert_success();
    vm.write("reboot -f\n");
    vm.expect(FIRST_LINE);
    vm.wait_for_prompt();
    vm.shell("ls /tmp/mark 2>/dev/null | wc -l")
        .assert_stdout("0");
    vm.power_off().assert_status(0);
}

#[test]
fn reset_ends_with_no_reboot() {
    let mut vm = guest().with(&["--no-reboot"]).boot();
    vm.write("reboot -f\n");
    vm.wait().assert_status(0);
}

#[test]
fn panic_has_its_own_status_and_a_line() {
    let mut vm = guest().boot();
    vm.write("echo c > /proc/sysrq-trigger\n");
    vm.wait()
        .assert_status(PANICKED)
        .assert_stderr("the guest panicked");
}

#[test]
fn sigterm_presses_the_power_button() {
    let disk = tests::Host::shared().ext4_disk("64M");
    let mut vm = guest().disk(&disk).boot();
    vm.shell("echo kept > /disk/file").assert_success();
    vm.signal(Signal::TERM);
    vm.wait().assert_status(0).assert_console("power button");

    let mut vm = guest().disk(&disk).boot();
    vm.shell("cat /disk/file").assert_stdout("kept");
    vm.power_off().assert_status(0);
}
