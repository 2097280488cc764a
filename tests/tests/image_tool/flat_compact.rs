//! Compact flat images, in files and on block devices.

use std::fs;

use serde_json::{Value, json};

use crate::convert::LoopDevice;
use crate::flat::{BASES, assert_expected, base, overlay, specific, write};
use crate::shop::{Shop, without};

#[test]
fn a_compact_image_tells_what_it_is() {
    let shop = Shop::new();
    shop.must("create -f flat -o compact=on disk 1T");
    let data = specific(&shop, "disk");
    let offset = data["data-offset"].as_u64().unwrap();
    let expected = json!({
        "block-size": 65536,
        "stands-alone": true,
        "compact": true,
        "chunk-size": 1 << 20,
        "chunks": 1 << 20,
        "allocated-chunks": 0,
    });
    assert_eq!(without(data, &["data-offset"]), expected);
    // Behind the journal of 4 MiB and 8 KiB: 6 MiB of metadata.
    assert_eq!(offset, 11 << 20);
    write(
        &shop,
        "flat",
        "disk",
        &["write -P 1 1000G 3M", "write -P 2 5M 4k"],
    );
    assert_eq!(
        shop.path("disk").metadata().unwrap().len(),
        offset + (4 << 20)
    );
    let text = shop.must("info disk");
    for line in [
        "    chunk size: 1048576",
        "    allocated chunks: 4 of 1048576",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    let map = shop.must("map -f flat --output json disk");
    let map: Vec<Value> = serde_json::from_str(&map).unwrap();
    let places: Vec<_> = map
        .iter()
        .filter_map(|entry| entry["offset"].as_u64())
        .collect();
    assert_eq!(places, [offset + (3 << 20), offset], "{map:?}");
    shop.must("check disk");
}

#[test]
fn compact_images_read_as_others_do() {
    for base_format in BASES {
        let shop = Shop::new();
        overlay(&shop, base_format, "-o compact=on", "5M");
        assert_expected(&shop, "flat", "disk");
        for format in BASES {
            shop.must(&format!("convert -f flat -O {format} disk copy"));
            assert_expected(&shop, format, "copy");
            shop.must(&format!("compare -f flat -F {format} disk copy"));
            let base = format!("-B base -F {base_format}");
            let options = "-O flat -o compact=on,block_size=4k";
            shop.must(&format!("convert -f {format} {options} {base} copy back"));
            assert_expected(&shop, "flat", "back");
            shop.must(&format!("convert -f {format} {options} copy alone"));
            assert_expected(&shop, "flat", "alone");
        }
        shop.must("commit -f flat disk");
        assert_expected(&shop, "flat", "disk");
        assert_eq!(specific(&shop, "disk")["allocated-chunks"], 0);
        write(&shop, "flat", "disk", &["write -P 9 2M 100k"]);
        write(&shop, "raw", "expected", &["write -P 9 2M 100k"]);
        shop.must("rebase -f flat -b '' disk");
        assert_expected(&shop, "flat", "disk");
        assert_eq!(specific(&shop, "disk")["stands-alone"], true);
    }
}

#[test]
fn a_compact_image_can_be_a_base() {
    let shop = Shop::new();
    shop.must("create -f flat -o compact=on lower 5M");
    shop.must("create expected 5M");
    let writes = ["write -P 1 100k 1M", "write -P 2 3M 64k"];
    write(&shop, "flat", "lower", &writes);
    write(&shop, "raw", "expected", &writes);
    shop.must("create -f flat -o compact=on -b lower -F flat disk 6M");
    shop.must("resize -f raw expected 6M");
    let writes = [
        "write -P 3 200k 10k",
        "write -z 3M 4k",
        "write -P 4 5500k 4k",
    ];
    write(&shop, "flat", "disk", &writes);
    write(&shop, "raw", "expected", &writes);
    assert_expected(&shop, "flat", "disk");
    shop.must("commit -f flat disk");
    assert_expected(&shop, "flat", "lower");
}

/// What was there before is never seen.
#[test]
fn a_device_may_be_smaller_than_the_disk() {
    let shop = Shop::new();
    fs::write(shop.path("behind"), vec![0xAA; 16 << 20]).unwrap();
    let Some(LoopDevice(device)) = &LoopDevice::new(&shop.path("behind")) else {
        let reason = "no loop devices for this user";
        return tests::report::skip("a_device_may_be_smaller_than_the_disk", reason);
    };
    shop.refused(
        &format!("create -f flat {device} 64M"),
        &[device, "too few", "compact=on"],
    );
    base(&shop, "raw");
    shop.must("resize -f raw expected 64M");
    let base = shop.path("base").display().to_string();
    shop.must(&format!(
        "create -f flat -o compact=on -b {base} -F raw {device} 64M"
    ));
    assert_expected(&shop, "flat", device);
    let writes = ["write -P 3 100k 1k", "write -z 1M 1M", "write -P 4 63M 1M"];
    write(&shop, "flat", device, &writes);
    write(&shop, "raw", "expected", &writes);
    assert_expected(&shop, "flat", device);
    assert_eq!(specific(&shop, device)["allocated-chunks"], 2);
    // Of 16 MiB, 5 have the journal and the tables.
    let server = shop.lend("flat", device, &[]);
    let uri = server.uri("");
    shop.write("raw", &uri, &["write -P 5 20M 9M"]);
    let done = shop.try_write("raw", &uri, &["write -P 6 40M 1M"]);
    assert!(
        done.stderr.contains("No space left") || done.stdout.contains("No space left"),
        "{done:?}"
    );
    // What has its place takes more, and what is discarded makes room.
    let commands = [
        "write -P 7 22M 64k",
        "discard 24M 2M",
        "write -P 8 50M 2M",
        "flush",
    ];
    shop.write("raw", &uri, &commands);
    assert!(server.stop().unwrap().status.success());
    let commands = [
        "write -P 5 20M 9M",
        "write -P 7 22M 64k",
        "write -z 24M 2M",
        "write -P 8 50M 2M",
    ];
    write(&shop, "raw", "expected", &commands);
    assert_expected(&shop, "flat", device);
    // A larger device has more places.
    let behind = fs::File::options().write(true).open(shop.path("behind"));
    behind.unwrap().set_len(20 << 20).unwrap();
    let grown = std::process::Command::new("losetup")
        .args(["-c", device])
        .status();
    assert!(grown.unwrap().success());
    write(&shop, "flat", device, &["write -P 9 30M 4M"]);
    write(&shop, "raw", "expected", &["write -P 9 30M 4M"]);
    assert_expected(&shop, "flat", device);
}

#[test]
fn what_a_compact_image_cannot_have_is_refused() {
    let shop = Shop::new();
    shop.must("create -f flat -o compact=on disk 8M");
    for (line, parts) in [
        (
            "create -f flat -o compact=some x 1M",
            &["compact=some", "on, off"][..],
        ),
        (
            "create -f flat -o compact=on,preallocation=falloc x 1M",
            &["preallocation", "compact=on"],
        ),
        ("create -f qcow2 -o compact=on x 1M", &["qcow2 images have"]),
        (
            "create -f flat -o compact=on,block_size=4K x 1E",
            &["larger blocks"],
        ),
        ("create -f flat -o compact=on x 65T", &["cannot be compact"]),
        (
            "resize -f flat --preallocation falloc disk 9M",
            &["compact image"],
        ),
    ] {
        shop.refused(line, parts);
        assert_eq!(shop.files(), ["disk"], "{line}");
    }
}

/// Two chunks in one place, and one in a place that there is not.
#[test]
fn a_damaged_table_is_refused_and_repaired() {
    let shop = Shop::new();
    shop.must("create -f flat -o compact=on disk 8M");
    write(
        &shop,
        "flat",
        "disk",
        &["write -P 1 0 4k", "write -P 2 1M 4k", "write -P 3 2M 4k"],
    );
    shop.must("create expected 8M");
    let header = shop.bytes("disk");
    let table = u64::from_le_bytes(header[136..144].try_into().unwrap());
    shop.patch("disk", table + 4, &1_u32.to_le_bytes());
    shop.patch("disk", table + 8, &900_u32.to_le_bytes());
    let problem = [
        "disk: damaged at offset",
        "chunk 1 is in place 1, which is another's",
    ];
    shop.refused("map -f flat disk", &problem);
    shop.refused("serve --nbd unix:nbd disk,format=flat", &problem);
    let checked = shop.image("check disk");
    assert_eq!(checked.status, Some(2), "{checked:?}");
    assert!(
        checked
            .stderr
            .contains("chunk 2 is in place 900, which there is not")
    );
    assert_eq!(shop.image("check -r leaks disk").status, Some(2));
    let checked = shop.image("check -r all disk");
    assert_eq!(checked.status, Some(0), "{checked:?}");
    let writes = ["write -P 1 0 4k", "write -P 1 1M 4k"];
    write(&shop, "raw", "expected", &writes);
    assert_expected(&shop, "flat", "disk");
}

/// A block device with a file behind it, which holds a compact image of 64 MiB.
fn device_of(shop: &Shop, bytes: u64) -> Option<LoopDevice> {
    let file = fs::File::create(shop.path("behind")).unwrap();
    file.set_len(bytes).unwrap();
    let device = LoopDevice::new(&shop.path("behind"))?;
    shop.must(&format!("create -f flat -o compact=on {} 64M", device.0));
    Some(device)
}

/// As a guest would that knows nothing of it.
#[test]
fn a_device_is_made_larger_before_it_is_full() {
    let shop = Shop::new();
    let Some(device) = device_of(&shop, 8 << 20) else {
        let reason = "no loop devices for this user";
        return tests::report::skip("a_device_is_made_larger_before_it_is_full", reason);
    };
    let behind = shop.path("behind").display().to_string();
    let command =
        format!("echo x >> {behind}.log && truncate -s +4M {behind} && losetup -c $MICROVM_DEVICE");
    let image = format!("{},format=flat,grow={command}", device.0);
    let server = shop.serve_words(&[&image]);
    let uri = server.uri("");
    let writes: Vec<String> = (0..30)
        .map(|n| format!("write -P {} {}M 1M", n + 1, 2 * n))
        .collect();
    let writes: Vec<&str> = writes.iter().map(String::as_str).collect();
    shop.write("raw", &uri, &writes);
    assert!(server.stop().unwrap().status.success());
    shop.must("create expected 64M");
    write(&shop, "raw", "expected", &writes);
    assert_expected(&shop, "flat", &device.0);
    // 30 MiB behind the metadata's 5, and no more than an eighth ahead, in steps of 4.
    let taken = fs::metadata(&behind).unwrap().len() >> 20;
    assert!((35..=44).contains(&taken), "{taken}");
    let runs = fs::read_to_string(shop.path("behind.log")).unwrap();
    // The last may have been ended with the server.
    let (runs, steps) = (runs.lines().count() as u64, (taken - 8) / 4);
    assert!(
        runs == steps || runs == steps + 1,
        "{runs} runs, {steps} steps"
    );
}

#[test]
fn a_command_that_fails_or_hangs_or_gives_nothing_is_told_and_ends() {
    for (command, problem) in [
        ("echo no extents >&2; false", "no extents"),
        ("true", "the size that it had"),
        ("sleep 1000", ""),
    ] {
        let shop = Shop::new();
        let Some(device) = device_of(&shop, 8 << 20) else {
            let test = "a_command_that_fails_or_hangs_or_gives_nothing_is_told_and_ends";
            return tests::report::skip(test, "no loop devices for this user");
        };
        let image = format!("{},format=flat,grow={command}", device.0);
        let server = shop.serve_words(&[&image]);
        let uri = server.uri("");
        shop.write("raw", &uri, &["write -P 1 0 3M"]);
        if !problem.is_empty() {
            let done = shop.try_write("raw", &uri, &["write -P 2 3M 1M"]);
            let text = format!("{}{}", done.stdout, done.stderr);
            assert!(text.contains("No space left"), "{text}");
            shop.write("raw", &uri, &["read -P 1 0 3M"]);
        }
        let ended = server.stop().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        assert!(ended.stderr.contains(problem), "{ended:?}");
        shop.must(&format!("check -f flat {}", device.0));
    }
}

#[test]
fn what_cannot_be_made_larger_is_refused() {
    let shop = Shop::new();
    shop.must("create -f flat -o compact=on disk 8M");
    shop.must("create raw 8M");
    for (image, parts) in [
        ("disk,format=flat,grow", ["disk", "block device"]),
        ("raw,format=raw,grow", ["raw", "compact flat"]),
        (
            "disk,format=flat,grow,readonly",
            ["grow", "leave out readonly"],
        ),
    ] {
        let done = shop.image(&format!("serve --nbd unix:nbd {image}"));
        assert_ne!(done.status, Some(0), "{done:?}");
        for part in parts {
            assert!(done.stderr.contains(part), "{part}: {done:?}");
        }
    }
}
