//! QEMU, whose guest has the server's exports for disks.

use std::path::Path;

use images::packages::{Tool, require};
use serde_json::Value;
use tests::lab::Clock;
use tests::{Host, Parts, Userland, Vm};

use crate::setting::{Setting, run, stop};

/// What the guest writes, as commands of a shell that run here too.
const PATTERN: &str = "seq 1 60000";
const PATTERN_OFFSET: usize = 1 << 20;
/// How often the guest waits for a file to be on the disk.
const FSYNCS: u64 = 20;

/// A guest of an emulated machine that has `exports` of the server at `socket` for disks.
fn boot(host: &Host, socket: &str, exports: &[&str]) -> Vm {
    let parts = host.parts();
    let path = |path: &Path| path.display().to_string();
    let (kernel, initrd) = (path(&parts.kernel.vmlinux()), path(&parts.initramfs));
    let cmdline = format!(
        "console=ttyS0 quiet mitigations=off guest.terminal=dumb tsc_early_khz={} tsc=reliable clocksource=tsc",
        Clock::RealTime.tsc_khz()
    );
    let mut argv = words("qemu-system-x86_64 -accel tcg -M microvm,rtc=on -cpu max -m 256");
    argv.extend(words(
        "-nodefaults -no-user-config -display none -no-reboot",
    ));
    argv.extend(words("-serial stdio"));
    argv.extend(["-kernel", &kernel, "-initrd", &initrd, "-append", &cmdline].map(str::to_owned));
    for export in exports {
        let server = format!("server.type=unix,server.path={socket},export={export}");
        let node = format!("driver=nbd,node-name={export},discard=unmap,{server}");
        let device = format!("virtio-blk-device,drive={export}");
        argv.extend(["-blockdev", &node, "-device", &device].map(str::to_owned));
    }
    let mut vm = Vm::start(host, argv, Userland::Busybox, None).unwrap();
    vm.wait_for_prompt();
    vm
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// Makes an image with an ext4 file system on it.
fn ext4_image(setting: &Setting) -> String {
    let raw = setting.blank_image("ext4", "raw", &[], 64);
    run(Tool::Mke2fs, &["-q", "-F", "-t", "ext4", &raw]);
    let image = setting.path("system");
    run(
        Tool::QemuImg,
        &["convert", "-f", "raw", "-O", "qcow2", &raw, &image],
    );
    image
}

/// What a closed image holds, as a raw file beside it.
fn raw_content(image: &str) -> String {
    run(Tool::QemuImg, &["check", image]);
    let raw = format!("{image}.raw");
    run(
        Tool::QemuImg,
        &["convert", "-f", "qcow2", "-O", "raw", image, &raw],
    );
    raw
}

#[test]
fn a_guest_of_qemu_finds_and_keeps_its_files() {
    require(&[Tool::QemuSystem]).unwrap();
    let host = Host::native(Parts::get().unwrap()).unwrap();
    let setting = Setting::new();
    let (system, data) = (
        ext4_image(&setting),
        setting.blank_image("data", "qcow2", &[], 64),
    );
    let stats = setting.path("stats");
    let [first, second] = [("system", &system), ("data", &data)]
        .map(|(name, path)| format!("{path},format=qcow2,export={name}"));
    let server = setting.serve_with(&["--stats", &stats, &first, &second]);

    let mut vm = boot(&host, &setting.path("nbd"), &["system", "data"]);
    vm.shell("mount | grep -c '/dev/vda on /disk type ext4'")
        .assert_stdout("1");
    let write = format!("{PATTERN} | dd of=/dev/vdb bs=64k seek=16 conv=fsync 2>/dev/null");
    vm.shell(&write).assert_success();
    let append = format!(
        "for i in $(seq {FSYNCS}); do echo $i | dd of=/disk/log conv=fsync,notrunc oflag=append 2>/dev/null; done"
    );
    vm.shell(&append).assert_success();
    vm.shell(&format!(
        "{PATTERN} > /disk/pattern && sync && cp /disk/pattern /disk/gone && sync"
    ))
    .assert_success();
    vm.shell("rm /disk/gone && sync && fstrim /disk")
        .assert_success();
    vm.power_off().assert_status(0);
    stop(server);

    // Each fsync of a file that has grown is a flush at least; the emulator's own are few.
    let stats: Value = serde_json::from_slice(&std::fs::read(&stats).unwrap()).unwrap();
    let (of_system, of_data) = (&stats["exports"]["system"], &stats["exports"]["data"]);
    assert!(of_system["flushes"].as_u64() >= Some(FSYNCS), "{stats}");
    assert!(of_system["discards"].as_u64() > Some(0), "{stats}");
    assert!(of_data["flushes"].as_u64() > Some(0), "{stats}");

    let pattern = host.must_run(PATTERN);
    let disk = std::fs::read(raw_content(&data)).unwrap();
    assert!(disk[PATTERN_OFFSET..][..pattern.len()] == *pattern.as_bytes());
    let file_system = raw_content(&system);
    host.must_run(&format!(
        "PATH=$PATH:/usr/sbin:/sbin; e2fsck -f -n {file_system}"
    ));
    let cat = |file| {
        host.must_run(&format!(
            "PATH=$PATH:/usr/sbin:/sbin; debugfs -R 'cat {file}' {file_system}"
        ))
    };
    assert!(cat("/pattern") == pattern);
    assert_eq!(cat("/log"), host.must_run(&format!("seq {FSYNCS}")));
}
