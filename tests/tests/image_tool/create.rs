//! `image create`.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use crate::shop::{Shop, without};

/// What QEMU finds in an image, but for what it is called and how much space it takes.
fn info(shop: &Shop, image: &str) -> serde_json::Value {
    let text = shop.qemu_img(&format!("info --output json {image}"));
    without(
        serde_json::from_str(&text).unwrap(),
        // QEMU 10 tells of the files below an image.
        &["filename", "actual-size", "children"],
    )
}

#[test]
fn images_are_what_qemu_would_make() {
    let shop = Shop::new();
    for options in [
        "size=64M",
        "size=1000",
        "compat=0.10",
        "compat=v3,cluster_size=512",
        "cluster_size=2M",
        "refcount_bits=1",
        "refcount_bits=64,cluster_size=4K",
        "extended_l2=on,cluster_size=128k",
        "lazy_refcounts=on",
        "compression_type=zstd",
        "preallocation=metadata",
        "preallocation=falloc",
        "preallocation=full",
        "data_file=ours.raw",
        "data_file=ours.raw,data_file_raw=on",
    ] {
        let size = if options.starts_with("size") {
            ""
        } else {
            "8M"
        };
        shop.must(&format!("create -f qcow2 -o {options} ours {size}"));
        let theirs = options.replace("ours", "theirs");
        shop.qemu_img(&format!("create -q -f qcow2 -o {theirs} theirs {size}"));
        let (ours, mut expected) = (info(&shop, "ours"), info(&shop, "theirs"));
        if options.contains("data_file") {
            expected["format-specific"]["data"]["data-file"] = "ours.raw".into();
        }
        assert_eq!(ours, expected, "{options}");
        shop.qemu_img("check ours");
        shop.assert_same(("qcow2", "ours"), ("qcow2", "theirs"));
        let has_tables = shop
            .qemu_img("map --output json -f qcow2 ours")
            .contains("\"present\": true");
        let asked = options.contains("preallocation") || options.contains("data_file_raw");
        assert_eq!(has_tables, asked, "{options}");
    }
}

#[test]
fn raw_images_have_the_space_asked_for() {
    let shop = Shop::new();
    let blocks = |name: &str| fs::metadata(shop.path(name)).unwrap().blocks() * 512;
    shop.must("create sparse 4M");
    assert_eq!((shop.bytes("sparse").len(), blocks("sparse")), (4 << 20, 0));
    for preallocation in ["falloc", "full"] {
        shop.must(&format!(
            "create -f raw -o preallocation={preallocation} taken 4M"
        ));
        assert!(blocks("taken") >= 4 << 20, "{preallocation}");
        assert_eq!(shop.bytes("taken"), vec![0; 4 << 20], "{preallocation}");
    }
    shop.must("create odd 1000");
    assert_eq!(shop.bytes("odd").len(), 1024);
}

#[test]
fn an_overlay_has_the_size_of_its_backing_file() {
    let shop = Shop::new();
    shop.must("create base.img 3M");
    shop.must("create -f qcow2 -b base.img -F raw overlay");
    let info = info(&shop, "overlay");
    assert_eq!(info["virtual-size"], 3 << 20);
    assert_eq!(info["backing-filename"], "base.img");
    assert_eq!(info["backing-filename-format"], "raw");
    shop.refused("create -f qcow2 -b base.img overlay", &["-F raw"]);
    shop.refused("create -f qcow2 -b nowhere -F raw other 1M", &["nowhere"]);
    shop.must("create -f qcow2 -u -b nowhere -F raw other 1M");
    shop.refused("create -f qcow2 -u -b nowhere -F raw other", &["size"]);
    shop.refused("create -f raw -b base.img -F raw other", &["raw image"]);
    // Found from the image, wherever the tool runs.
    fs::create_dir(shop.path("down")).unwrap();
    shop.must("create -f qcow2 -b ../base.img -F raw down/overlay");
    shop.qemu_img("check down/overlay");
}

#[test]
fn what_is_no_option_is_refused_by_name() {
    let shop = Shop::new();
    for (line, parts) in [
        ("create -f floppy x 1M", &["floppy"][..]),
        ("create -f qcow2 -o cluster_size=3000 x 1M", &["3000"]),
        ("create -f qcow2 -o cluster_size=4M x 1M", &["2 MiB"]),
        ("create -f qcow2 -o refcount_bits=3 x 1M", &["not 3"]),
        ("create -f qcow2 -o compat=v4 x 1M", &["compat=v4", "v3"]),
        (
            "create -f qcow2 -o compat=v2,extended_l2=on x 1M",
            &["version 2"],
        ),
        ("create -f qcow2 -o frobnicate=on x 1M", &["frobnicate=on"]),
        ("create -f qcow2 -o lazy_refcounts x 1M", &["NAME=VALUE"]),
        ("create -f qcow2 -o help x 1M", &["cluster_size, prealloc"]),
        ("create -f qcow2 -o data_file_raw=on x 1M", &["data_file"]),
        ("create -f qcow2 -o cluster_size=512 x 8T", &["cluster"]),
        ("create -f raw -o cluster_size=64k x 1M", &["cluster_size"]),
        ("create -f raw -o preallocation=metadata x 1M", &["falloc"]),
        ("create x", &["size"]),
        ("create x 0", &["x: 0 bytes"]),
        ("create x lots", &["lots"]),
        ("create nowhere/x 1M", &["nowhere/x"]),
        ("create /sys/x 1M", &["/sys/x: cannot create it: "]),
        ("create . 1M", &["directory"]),
    ] {
        shop.refused(line, parts);
        assert!(shop.files().is_empty(), "{line}: {:?}", shop.files());
    }
}

#[test]
fn what_was_there_is_replaced_whole_or_not_at_all() {
    let shop = Shop::new();
    shop.must("create real 1M");
    fs::set_permissions(shop.path("real"), fs::Permissions::from_mode(0o666)).unwrap();
    symlink("real", shop.path("link")).unwrap();
    shop.refused("create -f qcow2 -o refcount_bits=3 link 1M", &["real"]);
    assert_eq!(shop.bytes("real"), vec![0; 1 << 20]);
    shop.must("create -f qcow2 link 2M");
    let link = fs::symlink_metadata(shop.path("link")).unwrap();
    assert!(link.file_type().is_symlink());
    let real = fs::metadata(shop.path("real")).unwrap();
    assert_eq!(real.permissions().mode() & 0o777, 0o666);
    assert_eq!(info(&shop, "real")["virtual-size"], 2 << 20);
    assert_eq!(shop.files(), ["link", "real"]);
    // What a link leads to need not be there.
    symlink("link-to-new", shop.path("other")).unwrap();
    symlink(shop.path("new"), shop.path("link-to-new")).unwrap();
    shop.must("create other 1M");
    assert_eq!(shop.bytes("new"), vec![0; 1 << 20]);
    let files = ["link", "link-to-new", "new", "other", "real"];
    assert_eq!(shop.files(), files);
    assert!(fs::read_link(shop.path("other")).is_ok());
}
