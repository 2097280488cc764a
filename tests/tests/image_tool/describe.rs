//! `image info`, `image map` and `image snapshot -l`.

use std::fs;

use serde_json::Value;

use crate::shop::{Shop, without};

/// Images of all kinds, made by QEMU.
fn gallery(shop: &Shop) -> Vec<(&'static str, &'static str)> {
    shop.qemu_img("create -q -f raw base.raw 3M");
    shop.write(
        "raw",
        "base.raw",
        &["write -P 7 64k 200k", "write -P 8 2M 5k"],
    );
    shop.qemu_img("create -q -f qcow2 -o cluster_size=4k,compat=0.10 old 4M");
    shop.write("qcow2", "old", &["write -P 1 1M 9k"]);
    shop.qemu_img("create -q -f qcow2 -b base.raw -F raw overlay 5M");
    let writes = [
        "write -P 2 128k 64k",
        "write -z 2M 64k",
        "write -P 3 4M 64k",
    ];
    shop.write("qcow2", "overlay", &writes);
    shop.qemu_img("snapshot -c first overlay");
    shop.qemu_img("snapshot -c second overlay");
    shop.qemu_img("create -q -f qcow2 -b overlay -F qcow2 top");
    shop.write(
        "qcow2",
        "top",
        &["write -P 4 3M 64k", "write -z -u 128k 64k"],
    );
    shop.qemu_img("bitmap --add -g 64k top changes");
    shop.qemu_img("bitmap --add --disable top still");
    shop.qemu_img("convert -c -f raw -O qcow2 base.raw packed");
    shop.qemu_img("create -q -f qcow2 -o data_file=data,data_file_raw=on split 1M");
    shop.qemu_img("create -q -f qcow2 -o extended_l2=on,cluster_size=128k fine 4M");
    shop.write(
        "qcow2",
        "fine",
        &["write -P 5 4k 4k", "write -z 64k 8k", "write -P 6 1M 300k"],
    );
    let images = ["old", "overlay", "top", "packed", "split", "fine"];
    let images = images.into_iter().map(|image| ("qcow2", image));
    images.chain([("raw", "base.raw")]).collect()
}

/// A list of snapshots as QEMU had it before version 9, which made its columns wider, and their
/// names single words.
fn in_older_words(list: &str) -> String {
    list.replace("VM_SIZE", "VM SIZE")
        .replace("VM_CLOCK", "VM CLOCK")
        .replace(" 0000:", " 00:")
}

/// What is said, without how it is set out.
fn words(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| line.split_whitespace().collect())
        .collect()
}

#[test]
fn info_says_what_qemu_says() {
    let shop = Shop::new();
    for (format, image) in gallery(&shop) {
        let (ours, theirs) = shop.both(&format!("info --output json -f {format} {image}"));
        // QEMU 10 tells of the files below an image.
        assert_eq!(ours, without(theirs, &["children"]), "{image}");
        let line = format!("info -f {format} {image}");
        let theirs = shop.qemu_img(&line);
        let theirs = theirs.split("Child node").next().unwrap_or_default();
        assert_eq!(
            words(&shop.must(&line)),
            words(&in_older_words(theirs)),
            "{image}"
        );
    }
    let (ours, theirs) = shop.both("info --backing-chain --output json -f qcow2 top");
    let names = |chain: &Value| {
        let images = chain.as_array().unwrap().iter();
        let names = images.map(|image| image["filename"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&ours), names(&theirs));
    assert_eq!(names(&ours), ["top", "overlay", "base.raw"]);
}

/// The entries of a map. Where nothing is, QEMU may say where it would be, and older ones do not
/// tell what is compressed.
fn entries(map: &Value) -> Vec<Value> {
    let mut entries: Vec<Value> = Vec::new();
    for entry in map.as_array().unwrap() {
        let mut entry = without(entry.clone(), &["compressed"]);
        if entry["present"] == false {
            entry = without(entry, &["offset"]);
        }
        let alike = |last: &Value| without(last.clone(), &["start", "length"]);
        match entries.last_mut() {
            Some(last) if entry["present"] == false && alike(last) == alike(&entry) => {
                let length = last["length"].as_u64().unwrap() + entry["length"].as_u64().unwrap();
                last["length"] = length.into();
            }
            _ => entries.push(entry),
        }
    }
    entries
}

#[test]
fn maps_say_what_qemu_says() {
    let shop = Shop::new();
    for (format, image) in gallery(&shop) {
        let (ours, theirs) = shop.both(&format!("map --output json -f {format} {image}"));
        assert_eq!(entries(&ours), entries(&theirs), "{image}");
        if image == "packed" {
            shop.refused("map -f qcow2 packed", &["compressed", "json"]);
        } else {
            let line = format!("map -f {format} {image}");
            assert_eq!(shop.must(&line), shop.qemu_img(&line), "{image}");
        }
    }
    let part = "map -f qcow2 --start-offset 1M --max-length 2M --output json top";
    let (ours, theirs) = shop.both(part);
    assert_eq!(ours[0]["start"], 1 << 20);
    assert_eq!(
        ours.as_array().unwrap().len(),
        theirs.as_array().unwrap().len()
    );
}

#[test]
fn snapshots_are_listed_as_qemu_lists_them() {
    let shop = Shop::new();
    gallery(&shop);
    let list = shop.must("snapshot -l overlay");
    let theirs = in_older_words(&shop.qemu_img("snapshot -l overlay"));
    assert_eq!(words(&list), words(&theirs));
    assert_eq!(shop.must("snapshot overlay"), list);
    assert_eq!(shop.must("snapshot -l old"), "");
    shop.refused("snapshot -l base.raw", &["base.raw", "raw"]);
}

#[test]
fn info_opens_no_other_file_unless_asked() {
    let shop = Shop::new();
    gallery(&shop);
    fs::remove_file(shop.path("overlay")).unwrap();
    fs::remove_file(shop.path("data")).unwrap();
    assert!(shop.must("info top").contains("backing file: overlay\n"));
    assert!(shop.must("info split").contains("data file: data\n"));
    shop.refused("info -f qcow2 --backing-chain top", &["overlay"]);
    // Names that would be fetched from elsewhere are fine as long as nobody follows them.
    for name in ["nbd://example.org/disk", "ftp://example.org/disk"] {
        shop.must(&format!("rebase -u -b {name} -F raw top"));
        assert!(shop.must("info top").contains(name));
    }
    shop.refused("map -f qcow2 top", &["top", "'ftp'", "nbd://"]);
}

#[test]
fn names_in_an_image_do_not_command_the_terminal() {
    let shop = Shop::new();
    shop.must("create -f qcow2 -u -b XX[31mXX -F raw x 1M");
    let at = shop.bytes("x").windows(2).position(|two| two == b"XX");
    shop.patch("x", at.unwrap() as u64, b"\x1b\x07");
    let text = shop.must("info x");
    assert!(!text.contains('\x1b') && !text.contains('\x07'), "{text:?}");
    assert!(text.contains("[31mXX"), "{text:?}");
}

/// In a raw image a guest may write what it likes.
#[test]
fn what_a_guest_may_have_written_names_no_file() {
    let shop = Shop::new();
    fs::write(shop.path("secret"), vec![b's'; 4096]).unwrap();
    shop.must("create -f qcow2 -b secret -F raw disk.img");
    for line in [
        "map disk.img",
        "convert -O raw disk.img out",
        "compare disk.img disk.img",
        "commit disk.img",
        "rebase -b '' disk.img",
        "info --backing-chain disk.img",
    ] {
        shop.refused(line, &["disk.img", "looks like a qcow2 image"]);
    }
    assert_eq!(shop.files(), ["disk.img", "secret"]);
    shop.must("convert -f raw -O raw disk.img out");
    assert_eq!(shop.bytes("out"), shop.bytes("disk.img"));
    // One that stands alone can be taken for what it looks like.
    shop.must("create -f qcow2 alone 1M");
    shop.must("map alone");
    for (mark, offset, name) in [
        ("KDMV", 0, "VMDK"),
        ("vhdxfile", 0, "VHDX"),
        ("QED\0", 0, "QED"),
    ] {
        shop.must("create other 1M");
        shop.patch("other", offset, mark.as_bytes());
        shop.refused("info other", &[name]);
        shop.must("info -f raw other");
    }
}
