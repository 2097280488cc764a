//! `image bench`.

use std::fs;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::shop::Shop;

fn bench(shop: &Shop, line: &str) -> Value {
    let text = shop.must(&format!("bench --output json {line}"));
    serde_json::from_str(&text).unwrap()
}

#[track_caller]
fn assert_counts(report: &Value, counts: &[(&str, u64)]) {
    for (path, expected) in counts {
        assert_eq!(
            report.pointer(path),
            Some(&(*expected).into()),
            "{path}: {report}"
        );
    }
}

#[test]
fn every_request_and_flush_is_counted_and_the_image_is_clean() {
    let shop = Shop::new();
    for (line, flushes) in [
        ("-d 1 --flush-interval 1", 40),
        ("-d 8 --flush-interval 8", 5),
        ("-d 16 --flush-interval 7", 5),
        ("-d 8 --flush-interval 1 --no-drain", 40),
        ("-d 8 --flush-interval 16 --no-drain --random --seed 3", 2),
        ("-d 64 --order ordered", 0),
    ] {
        shop.must("create -f qcow2 disk 8M");
        let report = bench(
            &shop,
            &format!("-w -c 40 -s 8K -S 64K --pattern 7 {line} disk"),
        );
        assert_counts(
            &report,
            &[
                ("/requests", 40),
                ("/bytes", 40 * 8192),
                ("/flushes", flushes),
                ("/disk/writes", 40),
                ("/disk/written_bytes", 40 * 8192),
                ("/disk/flushes", flushes),
                ("/disk/reads", 0),
                ("/disk/errors", 0),
            ],
        );
        let latency = &report["request_latency"];
        assert!(
            latency["p50_ns"].as_u64() <= latency["p99_ns"].as_u64(),
            "{report}"
        );
        assert!(
            latency["p99_ns"].as_u64() <= latency["max_ns"].as_u64(),
            "{report}"
        );
        assert_eq!(
            report["flush_latency"].is_null(),
            flushes == 0,
            "{line}: {report}"
        );
        assert_eq!(
            report["host_syncs_per_flush"].is_null(),
            flushes == 0,
            "{line}"
        );
        shop.qemu_img("check disk");
    }
}

#[test]
fn requests_go_where_they_are_told_to() {
    let shop = Shop::new();
    shop.must("create -f qcow2 disk 1M");
    bench(&shop, "-w -c 3 -o 64K -S 128K -s 4K --pattern 9 disk");
    shop.must("create -f raw expected 1M");
    let writes = [
        "write -P 9 64k 4k",
        "write -P 9 192k 4k",
        "write -P 9 320k 4k",
    ];
    shop.write("raw", "expected", &writes);
    shop.assert_same(("qcow2", "disk"), ("raw", "expected"));
    let before = shop.bytes("disk");
    let report = bench(&shop, "-c 100 -s 64K disk");
    assert_counts(
        &report,
        &[
            ("/disk/reads", 100),
            ("/disk/writes", 0),
            ("/host_syncs", 0),
        ],
    );
    assert!(shop.bytes("disk") == before);
}

#[test]
fn a_flush_of_what_is_raw_is_one_sync() {
    let shop = Shop::new();
    shop.must("create -f raw disk 1M");
    let report = bench(&shop, "-w -c 12 -d 4 --flush-interval 4 -f raw disk");
    assert_counts(&report, &[("/flushes", 3), ("/host_syncs", 3)]);
    assert_eq!(report["host_syncs_per_flush"], 1.0);
    let report = bench(
        &shop,
        "-w -c 12 -d 4 --flush-interval 4 -f raw --order unsafe disk",
    );
    assert_counts(&report, &[("/flushes", 3), ("/host_syncs", 0)]);
}

#[test]
fn people_read_lines() {
    let shop = Shop::new();
    shop.must("create -f qcow2 disk 1M");
    let text = shop.must("bench -w -c 10 -d 2 --flush-interval 5 disk");
    for part in [
        "10 writes of 4 KiB, 2 in flight, a flush every 5: ",
        " requests/s, ",
        "request latency: p50 ",
        "flush latency: p50 ",
        " for 2 flushes, ",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert_eq!(shop.must("bench -q -c 10 disk"), "");
}

#[test]
fn what_makes_no_sense_is_refused_before_a_write() {
    let shop = Shop::new();
    shop.must("create -f qcow2 disk 1M");
    shop.must("create -f raw raw 1M");
    let before = shop.bytes("disk");
    for (line, part) in [
        ("-w -d 0 disk", "--depth"),
        ("-w -c 0 disk", "--count"),
        ("-w --flush-interval 0 disk", "--flush-interval"),
        (
            "-w -s 1000 disk",
            "--buffer-size 1000: not a multiple of 512",
        ),
        ("-w -s 0 disk", "--buffer-size 0"),
        ("-w -o 100 disk", "--offset 100: not a multiple of 512"),
        ("-w -S 513 disk", "--step-size 513: not a multiple of 512"),
        ("-w -s 2M disk", "too few"),
        ("-w -o 1M disk", "too few"),
        (
            "-w --order barrier disk",
            "order=barrier needs a host kernel",
        ),
        (
            "-w --order ordered --barrier-syscall 470 disk",
            "--order barrier only",
        ),
        ("-w --order sync disk", "unknown order 'sync'"),
        ("-w --order journal raw", "a raw image has no metadata"),
        ("--order ordered disk", "--write"),
        ("--flush-interval 1 disk", "--write"),
        ("-w --seed 1 disk", "--random"),
        ("-w -U disk", "--force-share"),
        ("-s 64G disk", "--buffer-size 68719476736: 64 such requests"),
        (
            "-d 65535 -s 1M disk",
            "65535 such requests at a time (--depth)",
        ),
        ("--bytes 1 disk", "--bytes 1: less than a request of 4096"),
        (
            "-q --output json disk",
            "--output json is there to be printed",
        ),
    ] {
        shop.refused(&format!("bench {line}"), &[part]);
    }
    assert!(shop.bytes("disk") == before);
}

#[test]
fn an_interrupt_leaves_a_clean_image_and_tells_what_was_done() {
    let shop = Shop::new();
    shop.must("create -f qcow2 disk 64M");
    let line = "bench -w -c 1000000000000 -d 8 --flush-interval 8 --output json disk";
    let mut command = shop.image_command(line);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // A new image has some hundred KiB.
    while fs::metadata(shop.path("disk")).unwrap().len() < 2 << 20 {
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), stderr.as_str()),
        (Some(1), "microvm: interrupted\n")
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let requests = report["requests"].as_u64().unwrap();
    assert!(requests > 0, "{report}");
    assert_counts(&report, &[("/disk/writes", requests)]);
    shop.qemu_img("check disk");
}

#[test]
fn time_and_bytes_bound_a_run() {
    let shop = Shop::new();
    shop.must("create -f qcow2 disk 8M");
    let report = bench(&shop, "-w -s 8K --bytes 100K --flush-interval 1 disk");
    assert_counts(&report, &[("/requests", 12), ("/flushes", 12)]);
    let report = bench(&shop, "-s 4K --time 0.05 disk");
    assert!(report["seconds"].as_f64() >= Some(0.05), "{report}");
    let report = bench(&shop, "-s 4K --time 100 -c 5 disk");
    assert_counts(&report, &[("/requests", 5)]);
    for (line, part) in [
        ("--time 0 disk", "--time"),
        ("--time x disk", "--time"),
        ("-c 1 --bytes 4K disk", "--bytes"),
        ("--order ordered disk", "add --write"),
    ] {
        shop.refused(&format!("bench {line}"), &[part]);
    }
}

#[test]
fn a_suite_measures_on_images_of_its_own() {
    let shop = Shop::new();
    for (line, jobs) in [
        ("--suite flush", 7),
        ("--suite flush --order ordered", 7),
        ("--suite requests -f raw", 8),
    ] {
        let report = bench(&shop, &format!("--time 0.01 {line}"));
        let rows = report.as_array().unwrap();
        assert_eq!(rows.len(), jobs, "{line}");
        for row in rows {
            assert!(row["requests"].as_u64() > Some(0), "{row}");
            let flushes = row["flushes"].as_u64() > Some(0);
            assert_eq!(flushes, line.contains("flush"), "{row}");
        }
    }
    let text = shop.must("bench --time 0.01 --suite flush");
    assert!(
        text.contains("-w -d 1 -s 64K --random --flush-interval 1 "),
        "{text}"
    );
    assert!(shop.files().is_empty());
    for (line, part) in [
        ("", "FILE"),
        ("--suite flush disk", "FILE"),
        ("--suite flush -d 3", "--depth"),
        ("--suite nothing", "nothing"),
        ("--suite flush --directory nowhere", "nowhere: "),
    ] {
        shop.refused(&format!("bench {line}"), &[part]);
    }
}
