//! Hooks on the guest's system calls.

use images::initramfs::FIRST_LINE;
use serde_json::Value;
use tests::{Host, Vm, guest};

/// What the counters of the hooks say in a file of statistics.
fn counts(host: &Host, stats: &str) -> impl Fn(&str) -> u64 + use<> {
    let text = host.must_run(&format!("cat '{stats}'"));
    let stats: Value = serde_json::from_str(&text).unwrap();
    move |name| {
        let count = &stats["insight"][name];
        count
            .as_u64()
            .unwrap_or_else(|| panic!("no {name} in {stats}"))
    }
}

#[test]
fn hooks_come_and_go_while_the_guest_runs() {
    let host = Host::shared();
    let microvm = host.microvm();
    let stats = host.fresh_path("stats").display().to_string();
    let socket = host.fresh_path("control").display().to_string();
    let mut vm = guest()
        .cpus(2)
        .with(&["--insight", "off", "--stats", &stats, "--control", &socket])
        .boot();
    vm.shell("(while :; do echo x > /tmp/x; cat /tmp/x > /dev/null; done) & echo")
        .assert_success();
    for state in ["on", "off", "on", "off", "on"] {
        host.must_run(&format!("{microvm} control '{socket}' insight {state}"));
        vm.shell("for i in 1 2 3; do cat /proc/version | wc -l; done")
            .assert_stdout("1\n1\n1");
    }
    vm.power_off().assert_status(0);
    let counts = counts(host, &stats);
    assert!(counts("calls") > 100, "{}", counts("calls"));
    assert_eq!(counts("strangers"), 0);
}

/// Threads, signals, forks and reads that start again, all of whose calls are looked at and each of
/// which checks that its own calls, registers and memory are its own. Whoever does what the stub does,
/// without being it, is answered by nobody.
fn stress(cmdline: &str, cpus: u32) {
    let host = Host::shared();
    let stats = host.fresh_path("stats").display().to_string();
    let mut vm = guest()
        .with_syscalls()
        .cpus(cpus)
        .cmdline(cmdline)
        .with(&["--insight", "on", "--stats", &stats])
        .boot();
    vm.shell("cd /tmp && guest-syscalls stress 4 20 1")
        .assert_success();
    for alone in [
        "seccomp",
        "seccomp-filter",
        "traced",
        "int80",
        "setsid",
        "port-attack 0xe6",
    ] {
        vm.shell(&format!("cd /tmp && guest-syscalls {alone}"))
            .assert_success();
    }
    vm.shell(
        "mkdir /tmp/d && for i in $(seq 100); do echo $i > /tmp/d/$i; cat /tmp/d/$i; done \
         | sha256sum | head -c 8",
    )
    .assert_stdout("93d4e5c7");
    // What the emulated processor is warned of at boot is no fault of the hooks.
    vm.shell(
        "dmesg | grep -E 'BUG:|Oops|WARNING: CPU|segfault|protection fault' | grep -v 'PID: 0 ' | cat",
    )
    .assert_stdout("");
    vm.power_off().assert_status(0);
    let counts = counts(host, &stats);
    println!(
        "{} calls, {} asked, {} answered, {} overwritten, {} abandoned",
        counts("calls"),
        counts("asked"),
        counts("answered"),
        counts("overwritten"),
        counts("abandoned")
    );
    assert!(counts("asked") > 500, "{}", counts("asked"));
    assert_eq!(counts("asked"), counts("answered") + counts("abandoned"));
    assert_eq!(counts("strangers"), 0);
}

#[test]
fn nothing_is_lost_under_stress() {
    stress("", 1);
}

#[test]
fn nothing_is_lost_under_stress_on_two_processors_with_page_table_isolation() {
    stress("pti=on", 2);
}

/// Two threads on two processors have the same few descriptors stand for one file and another, and the
/// report counts what they read of each.
#[test]
fn reads_count_for_the_file_that_their_descriptor_stands_for() {
    let host = Host::shared();
    let socket = host.fresh_path("control").display().to_string();
    let mut vm = guest()
        .with_syscalls()
        .cpus(2)
        .with(&["--insight", "on", "--control", &socket])
        .boot();
    let said = vm.shell("guest-syscalls descriptors /tmp 3000 1");
    said.assert_success();
    let report = host.must_run(&format!(
        "{} control '{socket}' insight report --json",
        host.microvm()
    ));
    let report: Value = serde_json::from_str(&report).unwrap();
    let files = report["files"].as_array().unwrap();
    for file in ["first", "second"] {
        let mut words = said.text.split_whitespace();
        let read = words.find_map(|word| word.strip_prefix(file)?.strip_prefix('='));
        let path = format!("/tmp/{file}");
        let row = files.iter().find(|row| row["path"] == path.as_str());
        let row = row.unwrap_or_else(|| panic!("no {path} in {report}"));
        assert_eq!(row["read_bytes"].to_string(), read.unwrap(), "{row}");
    }
    vm.power_off().assert_status(0);
}

/// What a cache says that the blocks are which it has, and how often that is right.
fn verdicts(host: &Host, socket: &str, disk: &str) -> impl Fn(&str) -> u64 + use<> {
    let list = host.fresh_path("list").display().to_string();
    let judge = host.path(&host.parts().extra().judge).display().to_string();
    let microvm = host.microvm();
    host.must_run(&format!(
        "{microvm} control '{socket}' cache list blk0 > '{list}'"
    ));
    let line = host.must_run(&format!("'{judge}' judge '{disk}' '{list}'"));
    println!("{}", line.trim());
    move |name| {
        let mut words = line.split_whitespace();
        let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.unwrap().parse().unwrap()
    }
}

/// What a report must say of a file of 8 blocks, of which 4 were overwritten and 6 truncated before
/// it was unlinked, and that other files only add to it.
fn check_report(host: &Host, socket: &str) {
    let microvm = host.microvm();
    let plot = host.fresh_path("plot").display().to_string();
    let report = |options: &str| {
        host.must_run(&format!(
            "{microvm} control '{socket}' insight report {options}"
        ))
    };
    let text = report(&format!("--json --plot '{plot}'"));
    let report_json: Value = serde_json::from_str(&text).unwrap();
    let rows = |kind: &str| report_json[kind].as_array().unwrap().clone();
    let files = rows("files");
    let made = files.iter().find(|row| row["path"] == "/disk/made");
    let made = made.unwrap_or_else(|| panic!("no file in {text}"));
    assert_eq!(made["written_bytes"], 12 * 4096, "{made}");
    assert_eq!(
        (&made["ended"], &made["size_bytes"]),
        (&1.into(), &8192.into())
    );
    let wrote = |row: &Value| row["written_bytes"].as_u64().unwrap();
    assert!(rows("processes").iter().map(wrote).sum::<u64>() >= 12 * 4096);
    let lifetimes = &report_json["lifetimes"];
    let ended = |buckets: &Value| -> u64 {
        let buckets = buckets.as_array().unwrap().iter();
        buckets
            .map(|bucket| bucket["count"].as_u64().unwrap())
            .sum()
    };
    assert!(ended(&lifetimes["files"]) >= 1, "{lifetimes}");
    for (death, blocks) in [("overwritten", 4), ("truncated", 6), ("unlinked", 2)] {
        assert!(ended(&lifetimes["blocks"][death]) >= blocks, "{lifetimes}");
    }
    assert_eq!(rows("disks").len(), 2);
    assert!(report("--top 1000").contains("/disk/made\n"));
    assert_eq!(host.must_run(&format!("head -c 5 '{plot}'")), "<svg ");
}

/// A file of 16 MiB is copied and encrypted on a disk that stores alike data once, with an index that
/// is much too small for it.
fn copy_and_encrypt_where_alike_is_shared(vm: &mut Vm) {
    vm.shell(
        "mkdir /alike && mount -t ext4 /dev/vdb /alike && cd /alike \
         && dd if=/dev/urandom of=a bs=1M count=16 && sync && echo 3 > /proc/sys/vm/drop_caches \
         && guest-syscalls copy a b 65536 && sync && echo 3 > /proc/sys/vm/drop_caches \
         && cmp a b && guest-syscalls encrypt a c && cd / && umount /alike",
    )
    .assert_success();
}

/// What the disk says of [`copy_and_encrypt_where_alike_is_shared`].
fn alike_was_shared(host: &Host, stats: &str) {
    let stats: Value = serde_json::from_str(&host.must_run(&format!("cat '{stats}'"))).unwrap();
    let dedup = &stats["disks"]["blk1"]["dedup"];
    println!("{dedup}");
    let mib = |name: &str| dedup[name].as_u64().unwrap() >> 20;
    // The first pieces are read before it is known that they are copied.
    assert!(mib("prefetched_bytes") >= 14, "{dedup}");
    assert!((14..=17).contains(&mib("shared_bytes")), "{dedup}");
    assert!(mib("unique_bytes") >= 14, "{dedup}");
}

/// Files that are written in every way are told apart by their size, and from metadata, by what
/// their blocks say themselves. Then some are copied and encrypted, which is seen for what it is, and
/// what another disk makes of that.
#[test]
fn blocks_are_what_processes_wrote() {
    let host = Host::shared();
    let disk = host.ext4_disk("600M");
    let fresh = |name| host.fresh_path(name).display().to_string();
    let (plain, alike) = (host.ext4_disk("600M"), fresh("alike.qcow2"));
    host.must_run(&format!(
        "{} image convert -f raw -O qcow2 -o cluster_size=4k '{plain}' '{alike}'",
        host.microvm()
    ));
    let (socket, stats, log) = (fresh("control"), fresh("stats"), fresh("log"));
    let insight = format!("on,log={log}");
    let mut vm = guest()
        .with_syscalls()
        .disk(&format!("{disk},cache=256M"))
        .disk(&format!("{alike},format=qcow2,dedup=64K"))
        .with(&[
            "--insight",
            &insight,
            "--control",
            &socket,
            "--stats",
            &stats,
        ])
        .boot();
    vm.shell(
        "cd /disk && dd if=/dev/urandom of=made bs=4096 count=8 \
         && dd if=/dev/urandom of=made bs=4096 count=4 conv=notrunc \
         && truncate -s 8192 made && rm made",
    )
    .assert_success();
    check_report(host, &socket);
    let ways = [
        "20 64 512 4096 write",
        "2 3000 4000 65536 write",
        "2 64 512 65536 pwrite",
        "5 64 1500 65536 writev",
        "5 64 512 65536 pwritev",
        "5 64 512 65536 direct",
        "5 64 128 1000 append",
        "5 64 512 10000 dup",
        "5 64 512 10000 fork",
    ];
    for (number, way) in ways.iter().enumerate() {
        vm.shell(&format!(
            "mkdir /disk/{number} && guest-syscalls generate /disk/{number} {way} {number} && sync"
        ))
        .assert_success();
    }
    let of = verdicts(host, &socket, &disk);
    let known = of("right") + of("smaller") + of("larger");
    let files = known + of("unknown") + of("taken_for_metadata");
    assert!(files > 4000 && of("metadata") > 100, "{files}");
    assert_eq!(of("taken_for_metadata") + of("taken_for_files"), 0);
    // The first blocks of a file that grows belong to a small one.
    assert!(of("right") * 100 > files * 60, "{} of {files}", of("right"));
    copy_and_encrypt(&mut vm);
    copy_and_encrypt_where_alike_is_shared(&mut vm);
    vm.power_off().assert_status(0);
    let text = host.must_run(&format!("cat '{log}'"));
    copies_were_seen(&text);
    alike_was_shared(host, &stats);
    host.must_run(&format!("{} image check '{alike}'", host.microvm()));
    let counts = counts(host, &stats);
    let copies = text.lines().filter(|line| line.contains(" copy from="));
    assert_eq!(counts("copies"), copies.count() as u64);
    let unique = text.lines().filter(|line| line.contains(" unique fd="));
    assert_eq!(counts("unique_files"), unique.count() as u64);
}

/// Does things with the files of `/disk/0`, each under the name of another program.
fn copy_and_encrypt(vm: &mut Vm) {
    for (name, work) in [
        // A name that tells nothing: what is copied looks random, and is copied all the same.
        ("copier", "copy /disk/0/d0/f0 /disk/copied 65536"),
        ("copier4k", "copy /disk/0/d1/f1 /disk/copied4k 4096"),
        (
            "ranger",
            "generate /disk/r 1 512 512 65536 copy-file-range 1",
        ),
        ("sender", "generate /disk/s 1 512 512 65536 sendfile 1"),
        ("splicer", "generate /disk/p 1 512 512 65536 splice 1"),
        // In its place in memory, and of a file that says nothing of it.
        ("cipher", "encrypt /disk/1 /disk/ciphertext"),
        ("namer", "copy /tmp/plain /disk/plain.gpg 1000"),
        ("gpg", "encrypt /tmp/plain /disk/small"),
        ("teller", "open-hint /disk/told no-dedup 2"),
        ("plainer", "copy /tmp/plain /disk/plain 1000"),
    ] {
        vm.shell(&format!(
            "program=$(command -v guest-syscalls) && head -c 3000 $program > /tmp/plain && \
             ln -sf $program /tmp/{name} && /tmp/{name} {work}"
        ))
        .assert_success();
    }
    vm.shell("cmp /disk/0/d0/f0 /disk/copied && sync")
        .assert_success();
}

/// What the log says of [`copy_and_encrypt`].
fn copies_were_seen(log: &str) {
    let has = |name: &str, what: &str| {
        let lines = log.lines().filter_map(|line| line.split_once(' '));
        let start = format!("/tmp/{name} {what}");
        lines.filter(|(_, line)| line.starts_with(&start)).count()
    };
    for copier in ["copier", "copier4k", "ranger", "sender", "splicer"] {
        assert!(has(copier, "copy from=") > 0, "{copier}");
    }
    for copier in ["copier", "copier4k"] {
        assert_eq!(has(copier, "unique"), 0, "{copier}");
    }
    for encryptor in ["cipher", "namer", "gpg", "teller"] {
        assert!(has(encryptor, "unique fd=") > 0, "{encryptor}");
        assert_eq!(has(encryptor, "copy"), 0, "{encryptor}");
    }
    assert_eq!(has("teller", "open no-dedup"), 1);
    assert_eq!(has("plainer", "unique") + has("plainer", "copy"), 0);
}

/// After a reset of the machine, and after one kernel has started another.
#[test]
fn hooks_are_there_again_in_the_next_kernel() {
    let host = Host::shared();
    let parts = host.parts();
    let disk = |path| format!("{},readonly", host.path(path).display());
    let stats = host.fresh_path("stats").display().to_string();
    let log = host.fresh_path("log").display().to_string();
    let insight = format!("on,process=guest-*,log={log}");
    let mut vm = guest()
        .with_syscalls()
        .disk(&disk(&parts.kernel.bzimage()))
        .disk(&disk(&parts.extra().syscalls))
        .with(&["--insight", &insight, "--stats", &stats, "--mem", "1G"])
        .boot();
    let work = "guest-syscalls loop write 20; cat /proc/version";
    vm.shell(work).assert_success();
    let next = "cat /dev/vda > /tmp/kernel; cat /dev/vdb > /tmp/initramfs; \
                guest-syscalls kexec /tmp/kernel /tmp/initramfs\n";
    for next in ["reboot -f\n", next] {
        vm.write(next);
        vm.expect(FIRST_LINE);
        vm.wait_for_prompt();
        vm.shell(work).assert_success();
    }
    vm.power_off().assert_status(0);
    assert_eq!(counts(host, &stats)("strangers"), 0);
    let log = host.must_run(&format!("cat '{log}'"));
    let of = |part: &str| log.lines().filter(|line| line.contains(part)).count();
    assert_eq!(of("/guest-syscalls write fd=3 bytes=1"), 60, "{log}");
    assert_eq!(of("busybox write"), 0, "{log}");
}
