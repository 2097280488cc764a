//! What tests of flat images share, and their sizes.

use serde_json::Value;

use crate::shop::Shop;

/// The formats of a base.
pub(crate) const BASES: [&str; 3] = ["raw", "qcow2", "flat"];

/// What a base is made to hold: data, zeros that were written, and a hole at its end.
const BASE_WRITES: [&str; 3] = [
    "write -P 1 0 1M",
    "write -P 2 1536k 100k",
    "write -P 0 2M 1M",
];

/// What an image on it is made to hold: parts of blocks and whole ones, data and zeros, within what
/// the base has and behind it.
const WRITES: [&str; 5] = [
    "write -P 3 100k 1k",
    "write -z 256k 130k",
    "write -P 4 1500k 100k",
    "write -P 5 3M 512",
    "write -P 6 4200k 64k",
];

/// Writes to an image of any format.
#[track_caller]
pub(crate) fn write(shop: &Shop, format: &str, image: &str, commands: &[&str]) {
    if format == "raw" {
        return shop.write(format, image, commands);
    }
    // QEMU cannot open what stands on a flat image.
    let server = shop.lend(format, image, &[]);
    shop.write("raw", &server.uri(""), commands);
    assert!(server.stop().unwrap().status.success());
}

/// Makes `base`, of 4 MiB, and `expected`, a raw disk of the same content.
pub(crate) fn base(shop: &Shop, format: &str) {
    shop.must(&format!("create -f {format} base 4M"));
    shop.must("create expected 4M");
    write(shop, format, "base", &BASE_WRITES);
    shop.write("raw", "expected", &BASE_WRITES);
}

/// Makes `base` and `disk`, an image of `size` on it, with data; `expected` has its content.
pub(crate) fn overlay(shop: &Shop, base_format: &str, options: &str, size: &str) {
    base(shop, base_format);
    let base = format!("-b base -F {base_format}");
    shop.must(&format!("create -f flat {options} {base} disk {size}"));
    shop.must(&format!("resize -f raw --shrink expected {size}"));
    let is_larger = shop.bytes("expected").len() > 4 << 20;
    let writes = if is_larger { &WRITES } else { &WRITES[..4] };
    write(shop, "flat", "disk", writes);
    shop.write("raw", "expected", writes);
}

/// Fails unless an image reads as `expected` does, byte by byte, and has nothing wrong.
#[track_caller]
pub(crate) fn assert_expected(shop: &Shop, format: &str, image: &str) {
    shop.must(&format!("convert -f {format} -O raw {image} seen"));
    let (seen, expected) = (shop.bytes("seen"), shop.bytes("expected"));
    let differs = (0..seen.len().max(expected.len())).find(|at| seen.get(*at) != expected.get(*at));
    assert_eq!(differs, None, "{image}: where it differs");
    if format != "raw" {
        shop.must(&format!("check -f {format} {image}"));
    }
}

/// What `image info` says.
#[track_caller]
pub(crate) fn info(shop: &Shop, image: &str) -> Value {
    let text = shop.must(&format!("info -f flat --output json {image}"));
    serde_json::from_str(&text).unwrap()
}

/// What only a flat image has.
#[track_caller]
pub(crate) fn specific(shop: &Shop, image: &str) -> Value {
    info(shop, image)["format-specific"]["data"].clone()
}

#[test]
fn disks_grow_and_shrink() {
    for (base_format, options) in [
        ("raw", "-o block_size=4k"),
        ("qcow2", ""),
        ("flat", ""),
        ("raw", "-o compact=on"),
        ("flat", "-o compact=on,block_size=4k"),
    ] {
        let shop = Shop::new();
        overlay(&shop, base_format, options, "5M");
        for size in ["64M", "+1000", "-62M", "-1000k", "2100k", "8M"] {
            let shrink = if size.starts_with('-') || size == "2100k" {
                "--shrink"
            } else {
                ""
            };
            shop.must(&format!("resize -f flat {shrink} disk {size}"));
            shop.must(&format!("resize -f raw {shrink} expected {size}"));
            assert_expected(&shop, "flat", "disk");
        }
        shop.refused("resize -f flat disk 1M", &["disk", "--shrink"]);
        shop.refused("resize -f flat --shrink disk 0", &["disk", "512 bytes"]);
        shop.refused("resize disk 16M", &["disk", "format"]);
    }
}

#[test]
fn what_is_added_can_have_its_space() {
    use std::os::unix::fs::MetadataExt as _;
    let shop = Shop::new();
    let blocks = || shop.path("disk").metadata().unwrap().blocks() * 512;
    for preallocation in ["falloc", "full"] {
        overlay(&shop, "raw", "", "4900k");
        let before = blocks();
        shop.must(&format!(
            "resize -f flat --preallocation {preallocation} disk 9M"
        ));
        shop.must("resize -f raw expected 9M");
        assert!(blocks() >= before + (4 << 20), "{preallocation}");
        assert_expected(&shop, "flat", "disk");
    }
    let metadata = "resize -f flat --preallocation metadata disk 10M";
    shop.refused(metadata, &["flat image", "off, falloc and full"]);
    shop.refused(
        "resize -f raw --preallocation metadata expected 10M",
        &["raw image"],
    );
}

#[test]
fn copies_and_comparisons_read_alike() {
    for base_format in BASES {
        let shop = Shop::new();
        overlay(&shop, base_format, "", "5M");
        for format in BASES {
            shop.must(&format!("convert -f flat -O {format} disk copy"));
            assert_expected(&shop, format, "copy");
            shop.must(&format!("compare -f flat -F {format} disk copy"));
            // And back, on the base: what that has is not copied.
            let base = format!("-B base -F {base_format}");
            shop.must(&format!("convert -f {format} -O flat {base} copy back"));
            assert_expected(&shop, "flat", "back");
            let [own, back] = ["disk", "back"].map(|image| specific(&shop, image));
            let [own, back] = [own, back].map(|data| data["blocks-from-base"].as_u64());
            assert!(back >= own && own > Some(0), "{format}: {back:?}, {own:?}");
        }
        write(&shop, "raw", "expected", &["write -P 7 700k 900k"]);
        let different = shop.image("compare -f raw -F flat expected disk");
        assert_eq!(different.status, Some(1), "{different:?}");
        shop.must("convert -n -f raw -O flat expected disk");
        assert_expected(&shop, "flat", "disk");
    }
}
