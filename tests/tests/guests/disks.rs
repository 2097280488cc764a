//! Disks as a stock kernel's drivers see them.

use tests::{Host, guest};

#[test]
fn files_are_there_after_a_power_off() {
    let disk = Host::shared().ext4_disk("64M");
    let mut vm = guest().disk(&disk).boot();
    vm.shell("seq 1 5000 > /disk/numbers").assert_success();
    vm.power_off().assert_status(0);

    let mut vm = guest().disk(&disk).boot();
    vm.shell("seq 1 5000 | cmp - /disk/numbers && echo same")
        .assert_stdout("same");
    vm.power_off().assert_status(0);
}

#[test]
fn two_disks_are_told_apart_by_serial_number() {
    let host = Host::shared();
    let (first, second) = (host.blank_disk("16M"), host.blank_disk("32M"));
    let guest = guest()
        .disk(&format!("{first},serial=first"))
        .disk(&format!("{second},serial=second"));
    let mut vm = guest.boot();
    vm.shell("cd /sys/block/vda && echo $(cat serial) $(cat size)")
        .assert_stdout("first 32768");
    vm.shell("cd /sys/block/vdb && echo $(cat serial) $(cat size)")
        .assert_stdout("second 65536");
    vm.shell("echo one > /dev/vda; echo two > /dev/vdb; sync")
        .assert_success();
    vm.power_off().assert_status(0);
    assert_eq!(host.must_run(&format!("head -n1 '{first}'")), "one\n");
    assert_eq!(host.must_run(&format!("head -n1 '{second}'")), "two\n");
}

#[test]
fn read_only_disk_is_never_written() {
    let host = Host::shared();
    let disk = host.ext4_disk("16M");
    let before = host.must_run(&format!("sha256sum '{disk}'"));
    let mut vm = guest().disk(&format!("{disk},readonly")).boot();
    vm.shell("cat /sys/block/vda/ro").assert_stdout("1");
    vm.shell("dd if=/dev/zero of=/dev/vda bs=4096 count=1 conv=fsync 2>/dev/null || echo refused")
        .assert_stdout("refused");
    vm.power_off().assert_status(0);
    assert_eq!(host.must_run(&format!("sha256sum '{disk}'")), before);
}

#[test]
fn limits_and_features_reach_the_guest() {
    let disk = Host::shared().blank_disk("16M");
    let mut vm = guest().cpus(2).disk(&disk).boot();
    // Discard, write zeroes, and a write-back cache that can be flushed.
    let queue = "cd /sys/block/vda/queue && \
                 echo $(($(cat discard_max_bytes) > 0)) $(($(cat write_zeroes_max_bytes) > 0)) \
                 $(($(cat max_segments) > 1)) $(cat write_cache)";
    vm.shell(queue).assert_stdout("1 1 1 write back");
    vm.shell("ls /sys/block/vda/mq | wc -l").assert_stdout("2");
    vm.power_off().assert_status(0);
}

/// The file of `disk` shrinks when the guest trims its file system.
fn discard_gives_space_back(disk: &str, file: &str) {
    let blocks = || {
        Host::shared()
            .must_run(&format!("stat -c %b '{file}'"))
            .trim()
            .parse::<u64>()
            .unwrap()
    };
    let mut vm = guest().disk(disk).boot();
    vm.shell("dd if=/dev/urandom of=/disk/file bs=1M count=64 conv=fsync 2>/dev/null")
        .assert_success();
    let full = blocks();
    vm.shell("rm /disk/file && sync && fstrim /disk")
        .assert_success();
    vm.power_off().assert_status(0);
    let freed_bytes = full.saturating_sub(blocks()) * 512;
    assert!(freed_bytes > 60 << 20, "only {freed_bytes} bytes came back");
}

#[test]
fn discard_gives_space_back_to_the_host() {
    let disk = Host::shared().ext4_disk("128M");
    discard_gives_space_back(&disk, &disk);
}

#[test]
fn discard_gives_space_of_an_overlay_back() {
    let host = Host::shared();
    let overlay = host.overlay(&host.ext4_disk("128M"));
    discard_gives_space_back(&format!("{overlay},format=qcow2"), &overlay);
}

#[test]
fn second_writer_is_refused_by_name() {
    let disk = Host::shared().blank_disk("16M");
    let vm = guest().disk(&disk).boot();
    guest()
        .disk(&disk)
        .start()
        .wait()
        .assert_status(1)
        .assert_stderr(&disk);
    vm.power_off().assert_status(0);
    guest().disk(&disk).boot().power_off().assert_status(0);
}

#[test]
fn many_readers_share_a_disk() {
    let disk = Host::shared().blank_disk("16M");
    let shared = format!("{disk},readonly");
    let first = guest().disk(&shared).boot();
    guest().disk(&shared).boot().power_off().assert_status(0);
    first.power_off().assert_status(0);
}

#[test]
fn fio_finds_what_it_wrote() {
    fio_verifies(&Host::shared().blank_disk("256M"));
}

#[test]
fn fio_finds_what_it_wrote_on_an_overlay() {
    let host = Host::shared();
    let overlay = host.overlay(&host.blank_disk("256M"));
    fio_verifies(&format!("{overlay},format=qcow2"));
    host.must_run(&format!("{} image check '{overlay}'", host.microvm()));
}

fn fio_verifies(target: &str) {
    let host = Host::shared();
    let fio = host
        .path(&host.parts().extra().fio_disk)
        .display()
        .to_string();
    let guest = guest()
        .cpus(2)
        .mem("1G")
        .disk(&format!("{fio},readonly"))
        .disk(target);
    let mut vm = guest.boot();
    vm.shell("mount -t devtmpfs dev /disk/dev && mount -t tmpfs tmp /disk/tmp")
        .assert_success();
    let fio = "chroot /disk /usr/bin/fio --name=verify --filename=/dev/vdb --size=64M --direct=1 \
               --rw=randrw --bsrange=4k-64k --iodepth=32 --ioengine=libaio --verify=crc32c \
               --randseed=42 --verify_fatal=1 --group_reporting --output-format=terse";
    vm.shell(fio).assert_success();
    vm.power_off().assert_status(0);
}

/// Reads `count` blocks, one after the other, and returns the exits that reached the program.
fn exits(count: u32) -> u64 {
    let host = Host::shared();
    let disk = host.blank_disk("64M");
    let stats = host.fresh_path("stats.json").display().to_string();
    let mut vm = guest()
        .transport("pci")
        .disk(&disk)
        .with(&["--stats", &stats])
        .boot();
    let read = format!("dd if=/dev/vda of=/dev/null bs=4k count={count} iflag=direct 2>/dev/null");
    vm.shell(&read).assert_success();
    vm.power_off().assert_status(0);
    let stats: serde_json::Value =
        serde_json::from_str(&host.must_run(&format!("cat '{stats}'"))).unwrap();
    assert!(
        stats["disks"]
            .as_object()
            .unwrap()
            .values()
            .any(|disk| disk["reads"].as_u64() >= Some(count.into()))
    );
    stats["exits"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(serde_json::Value::as_u64)
        .sum()
}

#[test]
fn requests_on_pci_need_no_exits_to_the_program() {
    const REQUESTS: u32 = 8000;
    let extra = exits(REQUESTS).saturating_sub(exits(1));
    assert!(
        extra * 50 < u64::from(REQUESTS),
        "{extra} exits for {REQUESTS} requests"
    );
}
