//! `image convert`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use crate::shop::Shop;

/// A raw disk with data, holes, written zeros and an end that is nowhere in particular.
fn source(shop: &Shop) {
    shop.qemu_img("create -q -f raw source 10486272");
    shop.write(
        "raw",
        "source",
        &[
            "write -P 1 0 512",
            "write -P 2 1000k 1300k",
            "write -P 0 3M 1M",
            "write -P 3 4097k 3k",
            "write -P 4 7M 1",
            "write -P 5 10485760 512",
        ],
    );
}

fn blocks_bytes(shop: &Shop, image: &str) -> u64 {
    fs::metadata(shop.path(image)).unwrap().blocks() * 512
}

#[test]
fn every_format_reads_as_the_source() {
    let shop = Shop::new();
    source(&shop);
    for options in [
        "-O raw",
        "-O qcow2",
        "-O qcow2 -o compat=v2",
        "-O qcow2 -o cluster_size=512",
        "-O qcow2 -o cluster_size=2M -m 1",
        "-O qcow2 -o extended_l2=on",
        "-O qcow2 -o preallocation=metadata",
        "-O qcow2 -o preallocation=full",
        "-O qcow2 -o data_file=data",
        "-O qcow2 -o data_file=data,data_file_raw=on",
        "-O qcow2 -S 64k",
        "-O qcow2 -c",
        "-O qcow2 -c -o compression_type=zstd,cluster_size=4k",
        "-O qcow2 -c -o extended_l2=on",
    ] {
        shop.must(&format!("convert -f raw {options} source target"));
        let format = if options == "-O raw" { "raw" } else { "qcow2" };
        if format == "qcow2" {
            shop.qemu_img("check -f qcow2 target");
        }
        shop.assert_same(("raw", "source"), (format, "target"));
        // And back.
        shop.must(&format!("convert -f {format} -O raw target back"));
        assert!(shop.bytes("back") == shop.bytes("source"), "{options}");
        let taken = blocks_bytes(&shop, "back");
        assert!(taken < 3 << 20, "{options}: {taken} bytes taken");
    }
}

#[test]
fn zeros_take_no_space_unless_asked() {
    let shop = Shop::new();
    source(&shop);
    shop.must("convert -f raw -O raw source sparse");
    assert!(blocks_bytes(&shop, "sparse") < blocks_bytes(&shop, "source"));
    shop.must("convert -f raw -O raw -S 0 source full");
    assert!(blocks_bytes(&shop, "full") >= 10_486_272);
    shop.must("convert -f raw -O qcow2 source sparse.qcow2");
    let map = shop.qemu_img("map --output json -f qcow2 sparse.qcow2");
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let data = |entry: &&serde_json::Value| entry["data"] == true;
    let lengths = map.as_array().unwrap().iter().filter(data);
    let taken: u64 = lengths.map(|entry| entry["length"].as_u64().unwrap()).sum();
    // 1000k to 2300k, and a cluster each for four places.
    assert!(taken <= (22 + 4) * 65536, "{taken}: {map}");
    shop.must("convert -f raw -O qcow2 -c source packed");
    let (packed, unpacked) = (shop.bytes("packed").len(), shop.bytes("sparse.qcow2").len());
    assert!(packed * 3 < unpacked, "{packed} of {unpacked}");
}

#[test]
fn images_of_qemu_are_read() {
    let shop = Shop::new();
    source(&shop);
    for options in [
        "-o compat=0.10",
        "-o cluster_size=512",
        "-o extended_l2=on",
        "-c -o compression_type=zstd",
        "-c -o cluster_size=2M",
        "-o data_file=their-data",
    ] {
        shop.qemu_img(&format!("convert -f raw -O qcow2 {options} source theirs"));
        shop.must("convert -f qcow2 -O raw theirs back");
        assert!(shop.bytes("back") == shop.bytes("source"), "{options}");
    }
}

#[test]
fn an_overlay_holds_only_what_differs() {
    let shop = Shop::new();
    source(&shop);
    shop.must("convert -f raw -O raw source base");
    shop.write(
        "raw",
        "base",
        &["write -P 9 2M 64k", "write -P 0 7M 512", "write -P 1 9M 4k"],
    );
    shop.must("convert -f raw -O qcow2 -B base -F raw source overlay");
    shop.qemu_img("check -f qcow2 overlay");
    shop.assert_same(("raw", "source"), ("qcow2", "overlay"));
    let map = shop.must("map --output json -f qcow2 overlay");
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let own = map
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["depth"] == 0);
    let own: Vec<_> = own.map(|entry| entry["start"].as_u64().unwrap()).collect();
    assert_eq!(own, [2 << 20, 7 << 20, 9 << 20], "{map}");
}

#[test]
fn a_target_that_is_there_is_written_over() {
    let shop = Shop::new();
    source(&shop);
    let dirty = ["write -P 6 0 12M"];
    shop.must("create raw 12M");
    shop.write("raw", "raw", &dirty);
    shop.must("convert -n -f raw -O raw source raw");
    let (raw, source) = (shop.bytes("raw"), shop.bytes("source"));
    assert!(raw[..source.len()] == source);
    assert!(raw[source.len()..].iter().all(|byte| *byte == 6));
    shop.must("create -f qcow2 target 10486272");
    shop.write("qcow2", "target", &["write -P 6 0 10485760"]);
    shop.must("convert -n -f raw -O qcow2 source target");
    shop.qemu_img("check -f qcow2 target");
    shop.assert_same(("raw", "source"), ("qcow2", "target"));
    shop.must("create small 1M");
    shop.refused(
        "convert -n -f raw -O raw source small",
        &["small", "too few"],
    );
    shop.refused("convert -n -f raw -O raw source nowhere", &["nowhere"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let shop = Shop::new();
    source(&shop);
    for (line, parts) in [
        ("convert -f raw -O raw -c source x", &["-O qcow2"][..]),
        (
            "convert -f raw -O raw -B source -F raw source x",
            &["raw image"],
        ),
        ("convert -f raw -O qcow2 -o size=1M source x", &["size"]),
        ("convert -f raw -O qcow2 -m 0 source x", &["0"]),
        ("convert -f raw -O qcow2 nowhere x", &["nowhere"]),
        ("convert -f qcow2 -O raw source x", &["source", "qcow2"]),
        (
            "convert -f raw -O raw source source",
            &["source", "source: source and target are the same file"],
        ),
    ] {
        shop.refused(line, parts);
        assert_eq!(shop.files(), ["source"], "{line}");
    }
}

/// A block device with a file behind it, until this goes.
pub(crate) struct LoopDevice(pub(crate) String);

impl LoopDevice {
    pub(crate) fn new(file: &std::path::Path) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["-f", "--show"])
            .arg(file)
            .output();
        let output = output.ok().filter(|output| output.status.success())?;
        let name = String::from_utf8(output.stdout).unwrap();
        Some(Self(name.trim().to_owned()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_written_in_its_place() {
    let shop = Shop::new();
    source(&shop);
    fs::write(shop.path("behind"), vec![0xAA; 16 << 20]).unwrap();
    let Some(LoopDevice(device)) = &LoopDevice::new(&shop.path("behind")) else {
        let reason = "no loop devices for this user";
        return tests::report::skip("a_block_device_is_written_in_its_place", reason);
    };
    shop.must(&format!("convert -f raw -O raw source {device}"));
    assert!(shop.bytes("source") == shop.bytes("behind")[..10_486_272]);
    shop.must(&format!("convert -f raw -O qcow2 source {device}"));
    shop.qemu_img(&format!("check -f qcow2 {device}"));
    shop.assert_same(("raw", "source"), ("qcow2", device));
    shop.refused(&format!("create -f raw {device} 17M"), &[device, "too few"]);
    assert_eq!(shop.files(), ["behind", "source"]);
}

#[test]
fn an_image_is_not_copied_onto_itself() {
    let shop = Shop::new();
    shop.must("create disk 1M");
    for line in ["convert disk disk", "convert -n disk ./disk"] {
        shop.refused(line, &["disk: source and target are the same file"]);
    }
    assert_eq!(shop.files(), ["disk"]);
}
