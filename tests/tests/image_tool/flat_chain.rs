//! `image commit` and `image rebase` of flat images, and chains of several formats.

use std::fs;

use crate::flat::{BASES, assert_expected, base, info, overlay, specific, write};
use crate::shop::Shop;

#[test]
fn what_is_committed_is_in_the_base() {
    for format in BASES {
        // As large as the base, smaller and larger.
        for size in ["4M", "3500k", "6M"] {
            let shop = Shop::new();
            overlay(&shop, format, "", size);
            shop.must("commit -f flat disk");
            assert_expected(&shop, "flat", "disk");
            let data = specific(&shop, "disk");
            assert_eq!(
                data["blocks-from-base"], data["covered-blocks"],
                "{size}: {data}"
            );
            assert!(data["covered-blocks"].as_u64() > Some(0), "{data}");
            // The base is never made smaller.
            shop.must(&format!("resize -f {format} --shrink base {size}"));
            assert_expected(&shop, format, "base");
        }
    }
}

#[test]
fn a_committed_image_is_kept_where_that_is_asked_for() {
    for format in BASES {
        let shop = Shop::new();
        overlay(&shop, format, "", "6M");
        let before = specific(&shop, "disk")["blocks-from-base"].clone();
        shop.must("commit -d -f flat disk");
        assert_expected(&shop, format, "base");
        // The base has another size now, and the image knows.
        assert_expected(&shop, "flat", "disk");
        let data = specific(&shop, "disk");
        assert_eq!(data["blocks-from-base"], before);
        assert_eq!(data["base-size"], 6 << 20);
    }
}

/// A base, an image on it and another on that, of these formats.
fn chain(shop: &Shop, base_format: &str, middle: &str, top: &str) {
    base(shop, base_format);
    shop.must(&format!(
        "create -f {middle} -b base -F {base_format} middle 3M"
    ));
    shop.must(&format!("create -f {top} -b middle -F {middle} top 5M"));
    shop.must("resize -f raw --shrink expected 3M");
    shop.must("resize -f raw expected 5M");
    let writes = ["write -P 2 100k 500k", "write -z 1M 128k"];
    write(shop, middle, "middle", &writes);
    shop.write("raw", "expected", &writes);
    let writes = [
        "write -P 3 300k 4k",
        "write -z 2M 10k",
        "write -P 4 4500k 1k",
    ];
    write(shop, top, "top", &writes);
    shop.write("raw", "expected", &writes);
}

#[test]
fn formats_stand_on_each_other() {
    for (base_format, middle, top) in [
        ("raw", "flat", "qcow2"),
        ("raw", "qcow2", "flat"),
        ("qcow2", "flat", "flat"),
        ("flat", "qcow2", "qcow2"),
    ] {
        let shop = Shop::new();
        chain(&shop, base_format, middle, top);
        assert_expected(&shop, top, "top");
        shop.must(&format!("commit -f {top} top"));
        assert_expected(&shop, top, "top");
        assert_expected(&shop, middle, "middle");
        shop.must(&format!("commit -f {middle} middle"));
        assert_expected(&shop, base_format, "base");
        assert_expected(&shop, middle, "middle");
        assert_expected(&shop, top, "top");
    }
}

#[test]
fn a_commit_can_go_further_down() {
    for (base_format, middle, top) in [
        ("raw", "flat", "flat"),
        ("qcow2", "flat", "qcow2"),
        ("flat", "qcow2", "flat"),
    ] {
        let shop = Shop::new();
        chain(&shop, base_format, middle, top);
        let before = shop.bytes("top");
        shop.must(&format!("commit -f {top} -b base top"));
        assert!(shop.bytes("top") == before, "it implies to keep the image");
        assert_expected(&shop, base_format, "base");
        assert_expected(&shop, top, "top");
    }
}

#[test]
fn an_image_reads_the_same_on_another_base() {
    let shop = Shop::new();
    for options in ["", "-o block_size=4k", "-o block_size=16k,scan=off"] {
        overlay(&shop, "raw", options, "5M");
        for (format, name) in [("raw", "raw"), ("qcow2", "qcow2"), ("flat", "flat")] {
            shop.must(&format!("create -f {format} {name} 2M"));
            let writes = ["write -P 1 0 500k", "write -P 5 1M 64k"];
            write(&shop, format, name, &writes);
        }
        fs::copy(shop.path("base"), shop.path("larger")).unwrap();
        shop.must("resize -f raw larger 6M");
        shop.write("raw", "larger", &["write -P 8 4M 2M"]);
        for step in [
            "-b base -F raw",
            "-b larger -F raw",
            "-b qcow2 -F qcow2",
            "-b flat -F flat",
            "-b base -F raw",
            "-b raw -F raw",
        ] {
            shop.must(&format!("rebase -f flat {step} disk"));
            assert_expected(&shop, "flat", "disk");
            let name = step.split(' ').nth(1).unwrap();
            assert_eq!(info(&shop, "disk")["backing-filename"], name, "{step}");
        }
        shop.must("rebase -f flat -b '' disk");
        assert_expected(&shop, "flat", "disk");
        assert_eq!(specific(&shop, "disk")["stands-alone"], true);
        let hint = ["disk: stands alone", "convert -O flat -B"];
        shop.refused("rebase -f flat -b base -F raw disk", &hint);
        shop.refused("rebase -u -f flat -b base -F raw disk", &hint);
        shop.refused(
            "commit -f flat disk",
            &["disk: has no backing file", "lets go"],
        );
    }
}

#[test]
fn what_the_new_base_holds_is_not_copied() {
    let shop = Shop::new();
    overlay(&shop, "raw", "-o scan=off", "4M");
    let before = specific(&shop, "disk")["blocks-from-base"]
        .as_u64()
        .unwrap();
    shop.must("convert -f raw -O raw base other");
    shop.write("raw", "other", &["write -P 9 640k 64k"]);
    shop.must("rebase -f flat -b other -F raw disk");
    assert_expected(&shop, "flat", "disk");
    assert_eq!(specific(&shop, "disk")["blocks-from-base"], before - 1);
}

#[test]
fn names_alone_are_changed_unsafely() {
    for format in BASES {
        let shop = Shop::new();
        overlay(&shop, format, "", "5M");
        fs::rename(shop.path("base"), shop.path("renamed")).unwrap();
        shop.refused("map -f flat disk", &["base"]);
        let unknown = format!("rebase -u -f flat -b nowhere -F {format} disk");
        shop.refused(&unknown, &["nowhere"]);
        shop.must(&format!("rebase -u -f flat -b renamed -F {format} disk"));
        assert_expected(&shop, "flat", "disk");
        let itself = "rebase -u -f flat -b disk -F flat disk";
        shop.refused(itself, &["disk", "itself"]);
    }
}

#[test]
fn a_base_of_another_size_is_refused_by_name() {
    for format in BASES {
        let shop = Shop::new();
        overlay(&shop, format, "", "5M");
        shop.must(&format!("resize -f {format} base +1M"));
        let changed = [
            "disk: its base 'base' has changed",
            "has 5242880 bytes, and had 4194304",
            "image rebase -u",
        ];
        let rebase = "rebase -f flat -b '' disk";
        for line in [
            "map -f flat disk",
            "commit -f flat disk",
            "resize -f flat disk 6M",
            rebase,
        ] {
            shop.refused(line, &changed);
        }
        shop.refused("serve --nbd unix:nbd disk,format=flat", &changed);
        // As it says.
        shop.must(&format!("rebase -u -f flat -b base -F {format} disk"));
        assert_expected(&shop, "flat", "disk");
        assert_eq!(specific(&shop, "disk")["base-size"], 5 << 20);
    }
}

/// Once it holds all of its disk, an image needs no base.
#[test]
fn an_image_that_holds_everything_stands_alone() {
    let shop = Shop::new();
    overlay(&shop, "raw", "", "5M");
    write(&shop, "flat", "disk", &["write -P 7 0 4M"]);
    shop.write("raw", "expected", &["write -P 7 0 4M"]);
    assert_eq!(specific(&shop, "disk")["stands-alone"], true);
    fs::remove_file(shop.path("base")).unwrap();
    assert_expected(&shop, "flat", "disk");
}
