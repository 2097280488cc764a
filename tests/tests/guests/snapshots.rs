//! External snapshots of disks that are in use.

use images::initramfs::FIRST_LINE;
use tests::{Host, guest};

/// A raw disk is kept while its guest goes on in a qcow2 overlay, then that in a flat one, into
/// which the guest also starts anew.
#[test]
fn a_disk_is_kept_as_it_is_while_its_guest_goes_on() {
    let host = Host::shared();
    let microvm = host.microvm();
    let raw = host.ext4_disk("64M");
    let socket = host.fresh_path("control").display().to_string();
    let (first, second) = (format!("{raw}.1"), format!("{raw}.2"));
    let mut vm = guest().disk(&raw).with(&["--control", &socket]).boot();
    // It is written all the time.
    vm.shell("(i=0; while :; do i=$((i+1)); echo $i > /disk/n && sync /disk/n; done) & echo")
        .assert_success();
    vm.shell("echo raw > /disk/a; sync").assert_success();
    let snapshot = format!("{microvm} control '{socket}' snapshot");
    host.must_run(&format!("{snapshot} blk0 '{first}'"));
    let kept = host.must_run(&format!("sha256sum < '{raw}'"));
    vm.shell("echo qcow2 > /disk/b; sync").assert_success();
    host.must_run(&format!("{snapshot} -f flat blk0 '{second}'"));
    vm.shell("echo flat > /disk/c; sync; cat /disk/[abc]")
        .assert_stdout("raw\nqcow2\nflat");

    for (words, complaint) in [
        (format!("blk1 '{raw}.3'"), "no disk of the machine"),
        (format!("blk0 '{second}'"), "exists"),
        (format!("-f raw blk0 '{raw}.3'"), "stands on no other"),
        ("blk0 /nowhere/at/all".to_owned(), "cannot create"),
    ] {
        let said = host.must_run(&format!("{snapshot} {words} 2>&1 || echo refused"));
        assert!(
            said.contains(complaint) && said.ends_with("refused\n"),
            "{said}"
        );
    }

    vm.write("reboot -f\n");
    vm.expect(FIRST_LINE);
    vm.wait_for_prompt();
    vm.shell("cat /disk/[abc]")
        .assert_stdout("raw\nqcow2\nflat");
    vm.power_off().assert_status(0);
    assert_eq!(host.must_run(&format!("sha256sum < '{raw}'")), kept);
    // The guest's file systems were in use, and want to write first.
    let over = |image: &str, format: &str| {
        let over = format!("{image}.over");
        host.must_run(&format!(
            "{microvm} image create -q -f qcow2 -b '{image}' -F {format} '{over}'"
        ));
        format!("{over},format=qcow2")
    };
    let mut vm = guest()
        .disk(&over(&raw, "raw"))
        .disk(&over(&first, "qcow2"))
        .disk(&over(&second, "flat"))
        .boot();
    vm.shell("cat /disk/[abc]").assert_stdout("raw");
    for (device, files) in [("vdb", "raw\nqcow2"), ("vdc", "raw\nqcow2\nflat")] {
        let look = format!("mkdir /tmp/{device} && mount /dev/{device} /tmp/{device}");
        vm.shell(&format!("{look} && cat /tmp/{device}/[abc]"))
            .assert_stdout(files);
    }
    vm.power_off().assert_status(0);
    host.must_run(&format!("{microvm} image check -f qcow2 '{first}'"));
    host.must_run(&format!("{microvm} image check -f flat '{second}'"));
}
