//! The clients that people use.

use std::fs;

use images::packages::Tool;

use crate::setting::{Setting, run, stop, try_run};

/// Formats and options of images that are served.
const IMAGES: [(&str, &[&str]); 3] = [
    ("raw", &[]),
    ("qcow2", &[]),
    ("qcow2", &["-o", "extended_l2=on,cluster_size=128k"]),
];

#[test]
fn nbdinfo_sees_what_the_server_can_do() {
    let setting = Setting::new();
    let image = setting.raw_image("image", 8);
    let server = setting.serve(&image);
    let info = run(
        Tool::NbdInfo,
        &["--json", "--no-content", &server.uri("vm")],
    );
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!(info["structured"], true);
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 8 << 20);
    assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
    for (property, value) in [
        ("is_read_only", false),
        ("can_cache", true),
        ("can_df", true),
        ("can_fast_zero", false),
        ("can_flush", true),
        ("can_fua", true),
        ("can_multi_conn", true),
        ("can_trim", true),
        ("can_zero", true),
    ] {
        assert_eq!(export[property], value, "{property}");
    }
    assert_eq!(export["block_size_minimum"], 1);
    assert_eq!(export["block_size_maximum"], 32 << 20);
    let list = run(
        Tool::NbdInfo,
        &["--list", "--json", "--no-content", &server.uri("")],
    );
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["exports"][0]["export-name"], "vm");
    let (found, text) = try_run(Tool::NbdInfo, &[&server.uri("other")]);
    assert!(
        !found && text.contains("server replied with error"),
        "{text}"
    );
    stop(server);
}

#[test]
fn nbdinfo_maps_data_and_holes() {
    let setting = Setting::new();
    let image = setting.raw_image("image", 3);
    let server = setting.serve(&image);
    let map = run(Tool::NbdInfo, &["--map", &server.uri("vm")]);
    let lines: Vec<Vec<&str>> = map
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let quarter = 1 << 18;
    let expected = (0_u64..8).map(|n| match n % 2 {
        0 => (n / 2 * 3 * quarter, quarter, "data"),
        _ => ((n / 2 * 3 + 1) * quarter, 2 * quarter, "hole,zero"),
    });
    for ((offset, len, kind), line) in expected.zip(&lines) {
        assert_eq!(line[0], offset.to_string(), "{map}");
        assert_eq!(line[1], len.to_string(), "{map}");
        assert_eq!(line[3], kind, "{map}");
    }
    assert_eq!(lines.len(), 8, "{map}");
    stop(server);
}

#[test]
fn nbdcopy_copies_both_ways() {
    for (format, options) in IMAGES {
        let setting = Setting::new();
        let source = setting.raw_image("source", 50);
        let image = setting.blank_image("image", format, options, 50);
        let server = setting.serve(&format!("{image},format={format}"));
        let copy = setting.path("copy");
        run(Tool::NbdCopy, &[&source, &server.uri("vm")]);
        run(Tool::NbdCopy, &["--allocated", &server.uri("vm"), &copy]);
        assert!(fs::read(&source).unwrap() == fs::read(&copy).unwrap());
        stop(server);
        let compare = ["compare", "-f", "raw", "-F", format, &source, &image];
        run(Tool::QemuImg, &compare);
        if format == "qcow2" {
            run(Tool::QemuImg, &["check", &image]);
        }
    }
}

#[test]
fn qemu_img_converts_and_compares() {
    for (format, options) in IMAGES {
        let setting = Setting::new();
        let source = setting.raw_image("source", 50);
        let image = setting.blank_image("image", format, options, 50);
        let server = setting.serve(&format!("{image},format={format}"));
        let (uri, copy) = (server.uri("vm"), setting.path("copy"));
        let onto = [
            "convert", "-n", "-f", "raw", "-O", "raw", "-W", &source, &uri,
        ];
        run(Tool::QemuImg, &onto);
        run(
            Tool::QemuImg,
            &["compare", "-f", "raw", "-F", "raw", &source, &uri],
        );
        run(
            Tool::QemuImg,
            &["convert", "-f", "raw", "-O", "raw", &uri, &copy],
        );
        assert!(fs::read(&source).unwrap() == fs::read(&copy).unwrap());
        stop(server);
    }
}

#[test]
fn qemu_io_does_every_kind_of_request() {
    for (format, options) in IMAGES {
        let setting = Setting::new();
        let image = setting.blank_image("image", format, options, 16);
        let server = setting.serve(&format!("{image},format={format}"));
        let commands = [
            // Bytes, not sectors: the neighbours stay.
            "write -P 1 0 4096",
            "write -P 2 511 2",
            "read -P 1 0 511",
            "read -P 2 511 2",
            "read -P 1 513 3583",
            "write -f -P 3 1M 1M",
            "write -z 1M 1000",
            "read -P 0 1M 1000",
            "read -P 3 1049576 1047576",
            "write -z -u 1310720 65536",
            "read -P 0 1310720 65536",
            "discard 1507328 65536",
            "read -P 3 1572864 524288",
            "aio_write -P 4 2M 1M",
            "aio_write -P 5 3M 1M",
            "aio_flush",
            "read -P 4 2M 1M",
            "read -P 5 3M 1M",
            "flush",
        ];
        let mut words = vec!["-f", "raw"];
        words.extend(commands.iter().flat_map(|command| ["-c", command]));
        let uri = server.uri("vm");
        words.push(&uri);
        let text = run(Tool::QemuIo, &words);
        assert!(!text.contains("verification failed"), "{text}");
        assert!(!text.contains("failed:"), "{text}");
        stop(server);
    }
}

#[test]
fn fio_finds_what_it_wrote() {
    for (format, options) in IMAGES {
        let setting = Setting::new();
        let image = setting.blank_image("image", format, options, 64);
        let server = setting.serve(&format!("{image},format={format}"));
        let uri = format!("--uri={}", server.uri("vm"));
        let words = [
            "--name=job",
            "--ioengine=nbd",
            &uri,
            "--rw=randwrite",
            "--bssplit=512/10:4k/60:12k/10:64k/15:300k/5",
            "--bs_unaligned=0",
            "--iodepth=32",
            "--size=64m",
            "--io_size=96m",
            "--norandommap=0",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--randrepeat=1",
            "--fsync=64",
        ];
        run(Tool::Fio, &words);
        stop(server);
        if format == "qcow2" {
            run(Tool::QemuImg, &["check", &image]);
        }
    }
}

#[test]
fn a_read_only_export_stays_as_it_is() {
    let setting = Setting::new();
    let image = setting.raw_image("image", 1);
    let before = fs::read(&image).unwrap();
    for words in [
        ["--export", "vm", "--readonly", &image],
        ["--export", "vm", "--", &format!("{image},readonly")],
    ] {
        let server = setting.serve_with(&words);
        let uri = server.uri("vm");
        assert_eq!(run(Tool::NbdInfo, &["--is", "read-only", &uri]), "");
        let (written, text) = try_run(Tool::QemuIo, &["-f", "raw", "-c", "write 0 512", &uri]);
        assert!(!written, "{text}");
        stop(server);
    }
    assert!(before == fs::read(&image).unwrap());
}
