//! Internal snapshots of compact flat images.

use std::fs;

use serde_json::{Value, json};

use crate::convert::LoopDevice;
use crate::flat::{BASES, assert_expected, info, overlay, write};
use crate::shop::{Shop, without};

/// What is done to a disk between snapshots: to parts of chunks, whole ones, and what comes from a
/// base.
const STEPS: [(&str, &[&str]); 3] = [
    ("one", &["write -P 11 100k 200k", "write -P 12 4M 64k"]),
    ("two", &["write -z 0 1M", "write -P 13 1100k 3k"]),
    ("three", &["write -P 14 0 4500k", "write -z 2M 1500k"]),
];

/// Takes three snapshots of an image, of which `expected` has the content; copies of that have the
/// snapshots' names.
fn take_three(shop: &Shop, image: &str) {
    for (name, writes) in STEPS {
        write(shop, "flat", image, writes);
        write(shop, "raw", "expected", writes);
        shop.must(&format!("snapshot -c {name} {image}"));
        fs::copy(shop.path("expected"), shop.path(name)).unwrap();
        assert_expected(shop, "flat", image);
    }
}

/// Fails unless an image reads as the disk did at a snapshot.
#[track_caller]
fn assert_at(shop: &Shop, name: &str, image: &str) {
    fs::copy(shop.path(name), shop.path("expected")).unwrap();
    assert_expected(shop, "flat", image);
}

/// Fails unless a snapshot is lent as the disk was then.
#[track_caller]
fn assert_lent(shop: &Shop, name: &str, image: &str) {
    let server = shop.lend("flat", image, &["--snapshot", name]);
    shop.must(&format!("compare -f raw -F raw {} {name}", server.uri("")));
    let done = shop.try_write("raw", &server.uri(""), &["write -P 1 0 512"]);
    assert_ne!(done.status, Some(0), "{done:?}");
    assert!(server.stop().unwrap().status.success());
}

fn go_back_and_forth(shop: &Shop, image: &str) {
    take_three(shop, image);
    for (name, _) in STEPS {
        assert_lent(shop, name, image);
    }
    for name in ["two", "three", "one"] {
        shop.must(&format!("snapshot -a {name} {image}"));
        assert_at(shop, name, image);
        write(shop, "flat", image, &["write -P 15 50k 3M"]);
    }
    shop.must(&format!("snapshot -d 2 {image}"));
    shop.refused(&format!("snapshot -a two {image}"), &["no snapshot 'two'"]);
    assert_lent(shop, "one", image);
    shop.must(&format!("snapshot -a one {image}"));
    for name in ["one", "three"] {
        shop.must(&format!("snapshot -d {name} {image}"));
    }
    assert_at(shop, "one", image);
    assert_eq!(shop.must(&format!("snapshot -l {image}")), "");
}

#[test]
fn snapshots_come_back_as_they_were_taken() {
    for base_format in BASES {
        for options in ["compact=on", "compact=on,block_size=4k,scan=off"] {
            let shop = Shop::new();
            overlay(&shop, base_format, &format!("-o {options}"), "5M");
            go_back_and_forth(&shop, "disk");
        }
    }
    let shop = Shop::new();
    shop.must("create -f flat -o compact=on disk 5M");
    shop.must("create expected 5M");
    go_back_and_forth(&shop, "disk");
}

/// What was there before is never seen.
#[test]
fn a_device_has_snapshots_as_a_file_has() {
    let shop = Shop::new();
    fs::write(shop.path("behind"), vec![0xAA; 40 << 20]).unwrap();
    let Some(LoopDevice(device)) = &LoopDevice::new(&shop.path("behind")) else {
        let reason = "no loop devices for this user";
        return tests::report::skip("a_device_has_snapshots_as_a_file_has", reason);
    };
    shop.must(&format!("create -f flat -o compact=on {device} 5M"));
    shop.must("create expected 5M");
    go_back_and_forth(&shop, device);
}

#[test]
fn snapshots_are_told_of() {
    let shop = Shop::new();
    overlay(&shop, "raw", "-o compact=on", "5M");
    take_three(&shop, "disk");
    shop.must("resize -f flat disk 6M");
    let json = info(&shop, "disk");
    let told = json["snapshots"].as_array().unwrap();
    assert_eq!(told.len(), 3);
    let dates = ["date-sec", "date-nsec"];
    let expected = json!({
        "id": "2",
        "name": "two",
        "vm-state-size": 0,
        "vm-clock-sec": 0,
        "vm-clock-nsec": 0,
    });
    assert_eq!(without(told[1].clone(), &dates), expected);
    assert!(told[1]["date-sec"].as_u64() > Some(1_600_000_000));
    let list = shop.must("snapshot disk");
    let lines: Vec<_> = list.lines().collect();
    assert_eq!((lines.len(), lines[0]), (5, "Snapshot list:"));
    assert!(lines[4].starts_with("3         three"), "{list}");
    assert!(shop.must("info disk").contains(&list));
    assert_eq!(shop.must("snapshot -l -U disk"), list);
    let text = shop.must("info --output json --backing-chain -f flat disk");
    let chain: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(chain[0]["snapshots"], json["snapshots"]);
}

/// Where its journal is does not matter: which snapshots there are is never in there.
#[test]
fn snapshots_are_told_of_while_the_disk_is_written() {
    let shop = Shop::new();
    shop.must("create -f flat -o compact=on disk 5M");
    shop.must("snapshot -c one disk");
    let list = shop.must("snapshot -l disk");
    let server = shop.lend("flat", "disk", &[]);
    shop.write("raw", &server.uri(""), &["write -P 1 0 1M"]);
    assert!(shop.must("info -U disk").contains("cleanly shut down: no"));
    assert_eq!(shop.must("snapshot -l -U disk"), list);
    shop.refused("snapshot -l disk", &["in use by another process"]);
    assert!(server.stop().unwrap().status.success());
}

/// Both at a time, as long as nobody writes.
#[test]
fn a_snapshot_is_lent_beside_the_disk() {
    let shop = Shop::new();
    overlay(&shop, "flat", "-o compact=on", "5M");
    take_three(&shop, "disk");
    write(&shop, "flat", "disk", &["write -P 20 0 2M"]);
    write(&shop, "raw", "expected", &["write -P 20 0 2M"]);
    let disk = shop.path("disk").display().to_string();
    let old = format!("{disk},format=flat,snapshot=one,export=old");
    let server = shop.serve_words(&["--readonly", &format!("{disk},format=flat"), &old]);
    for (export, expected) in [("", "expected"), ("old", "one")] {
        let uri = server.uri(export);
        shop.must(&format!("compare -f raw -F raw {uri} {expected}"));
    }
    assert!(server.stop().unwrap().status.success());
}

#[test]
fn what_snapshots_stand_on_stays() {
    let shop = Shop::new();
    overlay(&shop, "raw", "-o compact=on", "4M");
    shop.must("create -f raw other 4M");
    shop.must("snapshot -c one disk");
    fs::copy(shop.path("expected"), shop.path("one")).unwrap();
    shop.must("create -f flat -o compact=on -b disk -F flat upper");
    write(&shop, "flat", "upper", &["write -P 21 0 1M"]);
    let (base, disk) = (shop.bytes("base"), shop.bytes("disk"));
    for line in [
        "commit -f flat disk",
        "commit -d -f flat disk",
        "commit -f flat -b base upper",
        "rebase -f flat -b other -F raw disk",
        "rebase -f flat -u -b other -F raw disk",
        "rebase -f flat -b '' disk",
    ] {
        shop.refused(line, &["disk: has snapshots", "delete them first"]);
    }
    assert!(shop.bytes("base") == base && shop.bytes("disk") == disk);
    // What the base has, the snapshot needs, whatever the disk has.
    write(&shop, "flat", "disk", &["write -P 22 0 4M"]);
    shop.must("snapshot -a one disk");
    assert_at(&shop, "one", "disk");
    shop.must("commit -f flat upper");
    assert_lent(&shop, "one", "disk");
    shop.must("snapshot -d one disk");
    shop.must("rebase -f flat -b '' disk");
}

#[test]
fn what_cannot_have_a_snapshot_says_what_can() {
    let shop = Shop::new();
    shop.must("create -f flat disk 1M");
    shop.must("create -f flat -o compact=on compact 1M");
    let parts = ["disk: is not compact", "image create -b", "compact=on"];
    shop.refused("snapshot -c s disk", &parts);
    shop.must("snapshot -c s compact");
    shop.refused("snapshot -c s compact", &["compact", "'s' already"]);
    shop.refused("snapshot -c '' compact", &["1 to 255 bytes"]);
    for line in ["snapshot -a x compact", "snapshot -d x compact"] {
        shop.refused(line, &["compact", "no snapshot 'x'"]);
    }
    shop.must("create raw 1M");
    shop.refused("snapshot -c s raw", &["raw image has no snapshots"]);
    shop.refused("snapshot -l raw", &["raw image has no snapshots"]);
}

/// Counts that are too high, and then tables that are not what they were.
#[test]
fn a_damaged_image_is_repaired() {
    let shop = Shop::new();
    shop.must("create -f flat -o compact=on disk 5M");
    shop.must("create expected 5M");
    take_three(&shop, "disk");
    let number = |at: usize| {
        let bytes = shop.bytes("disk")[at..at + 8].to_vec();
        u64::from_le_bytes(bytes.try_into().unwrap())
    };
    let (directory, counts) = (number(152), number(168));
    let sound = shop.bytes("disk");
    shop.patch("disk", counts, &9_u16.to_le_bytes());
    shop.refused("map -f flat disk", &["disk: damaged", "counts of places"]);
    assert_eq!(shop.image("check disk").status, Some(2));
    assert_eq!(shop.image("check -r all disk").status, Some(0));
    assert_lent(&shop, "one", "disk");
    shop.patch("disk", 0, &sound);
    shop.patch("disk", directory + 64, b"x");
    shop.refused("snapshot -l disk", &["disk: damaged", "directory"]);
    assert_eq!(shop.image("check -r leaks disk").status, Some(2));
    let checked = shop.image("check -r all disk");
    assert_eq!(checked.status, Some(0), "{checked:?}");
    assert!(checked.stderr.contains("lose all snapshots"), "{checked:?}");
    assert_expected(&shop, "flat", "disk");
    assert_eq!(shop.must("snapshot -l disk"), "");
}
