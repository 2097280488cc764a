//! `image resize`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::shop::Shop;

/// Resizes an image of ours and a raw one of QEMU's, and compares them.
#[track_caller]
fn resize(shop: &Shop, format: &str, size: &str, what: &str) {
    let shrink = if size.starts_with('-') {
        "--shrink"
    } else {
        ""
    };
    shop.must(&format!("resize -f {format} {shrink} disk {size}"));
    shop.qemu_img(&format!("resize -q -f raw {shrink} expected {size}"));
    if format == "qcow2" {
        shop.qemu_img("check -f qcow2 disk");
    }
    let compared = shop.try_qemu_img(&format!("compare -f raw -F {format} expected disk"));
    let stdout = compared.stdout;
    // Otherwise it warns of another size.
    assert_eq!(
        stdout, "Images are identical.\n",
        "{what}: resized to {size}"
    );
}

#[test]
fn disks_grow_and_shrink() {
    let shop = Shop::new();
    for (format, options) in [
        ("raw", ""),
        ("qcow2", ""),
        ("qcow2", "-o cluster_size=512"),
        ("qcow2", "-o compat=0.10"),
        ("qcow2", "-o extended_l2=on"),
        ("qcow2", "-o data_file=data"),
        ("qcow2", "-o data_file=data,data_file_raw=on"),
    ] {
        let what = format!("{format} {options}");
        let writes = ["write -P 1 0 64k", "write -P 2 3M 1M"];
        shop.qemu_img(&format!("create -q -f {format} {options} disk 4M"));
        shop.write(format, "disk", &writes);
        shop.qemu_img("create -q -f raw expected 4M");
        shop.write("raw", "expected", &writes);
        for size in ["64M", "+1000", "-60M", "-1000k", "4M", "64M", "-63M"] {
            resize(&shop, format, size, &what);
        }
    }
}

/// The backing file has data where the overlay has no room yet.
#[test]
fn what_is_added_is_zeros_whatever_the_backing_file_holds() {
    let shop = Shop::new();
    shop.qemu_img("create -q -f raw base 8M");
    shop.write("raw", "base", &["write -P 7 0 8M"]);
    for cluster in ["512", "64k", "2M"] {
        shop.must(&format!(
            "create -f qcow2 -o cluster_size={cluster} -b base -F raw disk 1536000"
        ));
        shop.must("resize -f qcow2 disk 6M");
        shop.qemu_img("check -f qcow2 disk");
        shop.qemu_img("create -q -f raw expected 1536000");
        shop.write("raw", "expected", &["write -P 7 0 1536000"]);
        shop.qemu_img("resize -q -f raw expected 6M");
        shop.assert_same(("raw", "expected"), ("qcow2", "disk"));
    }
    // Its backing file is opened for that, so its format must be known.
    shop.refused("resize disk 7M", &["disk", "format"]);
}

#[test]
fn what_is_added_can_have_its_space() {
    let shop = Shop::new();
    let blocks = || fs::metadata(shop.path("disk")).unwrap().blocks() * 512;
    for (format, preallocation) in [("raw", "falloc"), ("raw", "full"), ("qcow2", "full")] {
        shop.must(&format!("create -f {format} disk 1M"));
        shop.must(&format!(
            "resize -f {format} --preallocation {preallocation} disk 5M"
        ));
        let taken = blocks();
        assert!((4 << 20..5 << 20).contains(&taken), "{format}: {taken}");
    }
    shop.must("create -f qcow2 disk 1M");
    shop.must("resize --preallocation metadata disk 5M");
    assert!(blocks() < 1 << 20);
    let map = shop.qemu_img("map --output json disk");
    // The end of the file may be data to the host.
    let absent: Vec<_> = map
        .lines()
        .filter(|line| line.contains("\"present\": false"))
        .collect();
    let [absent] = absent[..] else {
        panic!("{map}")
    };
    assert!(
        absent.contains("\"start\": 0, \"length\": 1048576,"),
        "{map}"
    );
}

#[test]
fn nothing_is_cut_off_by_mistake() {
    let shop = Shop::new();
    for format in ["raw", "qcow2"] {
        shop.must(&format!("create -f {format} disk 4M"));
        let before = shop.bytes("disk");
        shop.refused("resize disk 1M", &["disk", "--shrink"]);
        shop.refused("resize disk -1M", &["disk", "--shrink"]);
        shop.refused("resize --shrink disk -5M", &["disk"]);
        shop.refused("resize disk lots", &["lots"]);
        shop.refused(
            "resize --shrink --preallocation full disk 1M",
            &["preallocation"],
        );
        shop.refused("resize nowhere 1M", &["nowhere"]);
        assert!(shop.bytes("disk") == before);
    }
    shop.refused("resize disk +16E", &["16E"]);
    shop.refused("resize disk +8E", &["disk", "8 EiB"]);
    shop.refused("resize disk +9000000T", &["disk"]);
}

#[test]
fn a_size_without_its_space_is_told() {
    let shop = Shop::new();
    shop.must("create raw 1M");
    // More than a file system has.
    let words = ["raw: the disk has 8796094070784 bytes now", "space"];
    shop.refused("resize -f raw --preallocation falloc raw +8T", &words);
    let len = std::fs::metadata(shop.path("raw")).unwrap().len();
    assert_eq!(len, (8 << 40) + (1 << 20));
}
