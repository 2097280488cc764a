//! `image snapshot`, `image commit` and `image rebase`.

use std::fs;

use serde_json::Value;

use crate::shop::Shop;

#[test]
fn snapshots_come_back_as_they_were_taken() {
    let shop = Shop::new();
    for options in [
        "",
        "-o cluster_size=512",
        "-o compat=0.10",
        "-o extended_l2=on",
    ] {
        shop.must(&format!("create -f qcow2 {options} disk 4M"));
        for (number, name) in (1..).zip(["one", "two", "three"]) {
            let write = format!("write -P {number} {number}M 100k");
            shop.write("qcow2", "disk", &[&write, "write -P 9 0 1k"]);
            shop.must(&format!("snapshot -c {name} disk"));
            shop.qemu_img(&format!("convert -f qcow2 -O raw disk {name}"));
        }
        shop.must("snapshot -d two disk");
        shop.qemu_img("check -f qcow2 disk");
        for name in ["three", "one", "three"] {
            shop.must(&format!("snapshot -a {name} disk"));
            shop.qemu_img("check -f qcow2 disk");
            shop.assert_same(("raw", name), ("qcow2", "disk"));
        }
        // QEMU goes on where we ended, and the other way round.
        shop.qemu_img("snapshot -a one disk");
        shop.qemu_img("snapshot -c four disk");
        shop.must("snapshot -a four disk");
        shop.assert_same(("raw", "one"), ("qcow2", "disk"));
    }
    shop.refused("snapshot -a two disk", &["disk", "two"]);
    shop.refused("snapshot -d two disk", &["disk", "two"]);
    shop.refused("snapshot -c x -d y disk", &[]);
    shop.must("create raw 1M");
    shop.refused("snapshot -c x raw", &["raw"]);
}

/// A snapshot's name may be another's ID. Both tools go back to the same one, and delete the same one.
#[test]
fn names_that_are_numbers_mean_what_they_mean_for_qemu() {
    let shop = Shop::new();
    shop.must("create -f qcow2 ours 4M");
    for name in ["3", "2", "1"] {
        shop.write("qcow2", "ours", &[&format!("write -P {name} 0 64k")]);
        shop.must(&format!("snapshot -c {name} ours"));
    }
    fs::copy(shop.path("ours"), shop.path("theirs")).unwrap();
    shop.must("snapshot -a 3 ours");
    shop.qemu_img("snapshot -a 3 theirs");
    shop.assert_same(("qcow2", "ours"), ("qcow2", "theirs"));
    let list = |json: String| {
        let info: Value = serde_json::from_str(&json).unwrap();
        info["snapshots"].clone()
    };
    for name in ["3", "2"] {
        shop.must(&format!("snapshot -d {name} ours"));
        shop.qemu_img(&format!("snapshot -d {name} theirs"));
        let ours = list(shop.must("info --output json -f qcow2 ours"));
        let theirs = list(shop.qemu_img("info --output json -f qcow2 theirs"));
        assert_eq!(ours, theirs, "without {name}");
    }
    // What has no such name goes by its ID, of which QEMU knows nothing here.
    shop.must("snapshot -d 3 ours");
    assert_eq!(shop.must("snapshot -l ours"), "");
}

/// A base, two layers upon it, and what the upper reads as.
fn chain(shop: &Shop, base_format: &str, options: &str) {
    shop.qemu_img(&format!("create -q -f {base_format} base 4M"));
    shop.write(base_format, "base", &["write -P 1 0 4M"]);
    shop.qemu_img(&format!(
        "create -q -f qcow2 {options} -b base -F {base_format} middle 3M"
    ));
    shop.write(
        "qcow2",
        "middle",
        &["write -P 2 100k 500k", "write -z 1M 128k"],
    );
    shop.qemu_img(&format!(
        "create -q -f qcow2 {options} -b middle -F qcow2 top 5M"
    ));
    shop.write(
        "qcow2",
        "top",
        &[
            "write -P 3 300k 4k",
            "write -z 2M 10k",
            "write -P 4 4500k 1k",
        ],
    );
    shop.qemu_img("convert -f qcow2 -O raw top expected");
}

#[test]
fn what_is_committed_is_in_the_backing_file() {
    let shop = Shop::new();
    for options in ["", "-o cluster_size=4k", "-o extended_l2=on"] {
        for base_format in ["raw", "qcow2"] {
            chain(&shop, base_format, options);
            shop.must("commit -f qcow2 top");
            shop.qemu_img("check -f qcow2 top");
            shop.qemu_img("check -f qcow2 middle");
            // The image reads as before, is empty, and the one below reads so too.
            shop.assert_same(("raw", "expected"), ("qcow2", "top"));
            shop.assert_same(("raw", "expected"), ("qcow2", "middle"));
            let map = shop.qemu_img("map --output json -f qcow2 top");
            assert!(!map.contains("\"depth\": 0, \"present\": true"), "{map}");
            shop.must("commit -d -f qcow2 middle");
            shop.assert_same(("raw", "expected"), (base_format, "base"));
            shop.assert_same(("raw", "expected"), ("qcow2", "middle"));
        }
    }
}

#[test]
fn a_commit_can_go_further_down() {
    let shop = Shop::new();
    for base_format in ["raw", "qcow2"] {
        chain(&shop, base_format, "");
        let top = shop.bytes("top");
        shop.must("commit -f qcow2 -b base top");
        assert!(shop.bytes("top") == top, "it implies to keep the image");
        shop.assert_same(("raw", "expected"), (base_format, "base"));
        shop.assert_same(("raw", "expected"), ("qcow2", "top"));
    }
    shop.refused("commit -f qcow2 -b expected top", &["top", "expected"]);
    shop.refused("commit -f raw base", &["base", "backing"]);
    shop.refused("commit top", &["top", "format"]);
}

#[test]
fn an_image_reads_the_same_on_another_backing_file() {
    let shop = Shop::new();
    for options in ["", "-o cluster_size=4k", "-o extended_l2=on"] {
        chain(&shop, "raw", options);
        shop.qemu_img("create -q -f raw other 2M");
        shop.write("raw", "other", &["write -P 1 0 1M", "write -P 5 1M 64k"]);
        let steps = [
            "-b base -F raw",
            "-b other -F raw",
            "-b base -F raw",
            "-b ''",
        ];
        for step in steps {
            shop.must(&format!("rebase -f qcow2 {step} top"));
            shop.qemu_img("check -f qcow2 top");
            shop.assert_same(("raw", "expected"), ("qcow2", "top"));
            let info = shop.must("info top");
            let named = step.split(' ').nth(1).filter(|name| *name != "''");
            let line = named.map(|name| format!("backing file: {name}\n"));
            assert_eq!(line.is_some(), info.contains("backing file: "), "{info}");
            assert!(line.is_none_or(|line| info.contains(&line)), "{info}");
        }
    }
}

#[test]
fn what_the_new_backing_file_holds_is_not_copied() {
    let shop = Shop::new();
    shop.qemu_img("create -q -f raw base 4M");
    shop.write("raw", "base", &["write -P 1 0 4M"]);
    shop.qemu_img("convert -f raw -O raw base other");
    shop.write("raw", "other", &["write -P 2 2M 64k"]);
    shop.must("create -f qcow2 -b base -F raw disk");
    shop.must("rebase -f qcow2 -b other -F raw disk");
    let map = shop.qemu_img("map --output json -f qcow2 disk");
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let own: Vec<_> = map
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["depth"] == 0)
        .collect();
    assert_eq!(own.len(), 1, "{map}");
    assert_eq!(
        (&own[0]["start"], &own[0]["length"]),
        (&(2 << 20).into(), &65536.into())
    );
}

#[test]
fn names_alone_are_changed_unsafely() {
    let shop = Shop::new();
    chain(&shop, "raw", "");
    fs::rename(shop.path("middle"), shop.path("renamed")).unwrap();
    shop.refused("map -f qcow2 top", &["middle"]);
    shop.must("rebase -u -b renamed -F qcow2 top");
    shop.assert_same(("raw", "expected"), ("qcow2", "top"));
    shop.must("rebase -u -b '' top");
    assert!(!shop.must("info top").contains("backing"));
    shop.qemu_img("check -f qcow2 top");
    for (line, parts) in [
        ("rebase -f qcow2 -b base top", &["-F raw"][..]),
        ("rebase -f qcow2 -b nowhere -F raw top", &["nowhere"]),
        ("rebase -f qcow2 -b top -F qcow2 top", &["top", "itself"]),
        ("rebase -f raw -b expected -F raw base", &["base", "raw"]),
        ("rebase -f qcow2 top", &["-b"]),
    ] {
        shop.refused(line, parts);
    }
}

#[test]
fn chains_that_cannot_be_are_refused() {
    let shop = Shop::new();
    shop.must("create -f qcow2 a 1M");
    shop.must("create -f qcow2 -b a -F qcow2 b");
    shop.must("rebase -u -b b -F qcow2 a");
    shop.refused("map -f qcow2 a", &["itself"]);
    shop.refused("info -f qcow2 --backing-chain a", &["itself"]);
    shop.must("rebase -u -b a -F qcow2 a");
    shop.refused("map -f qcow2 a", &["itself"]);
    shop.qemu_img("rebase -u -b a -F vmdk b");
    shop.refused("map -f qcow2 b", &["vmdk"]);
    // One after the other, until that is too many.
    shop.must("create -f qcow2 link0 64k");
    for number in 1..=200 {
        let below = number - 1;
        shop.must(&format!(
            "create -f qcow2 -u -b link{below} -F qcow2 link{number} 64k"
        ));
    }
    shop.must("map -f qcow2 link199");
    shop.refused("map -f qcow2 link200", &["200"]);
}
