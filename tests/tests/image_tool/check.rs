//! `image check`.

use std::fs;

use serde_json::Value;

use crate::shop::Shop;

const CLUSTER: u64 = 65536;

/// The offset of the first refcount block.
fn refcount_block(shop: &Shop, image: &str) -> u64 {
    let bytes = shop.bytes(image);
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    word(usize::try_from(word(48)).unwrap())
}

fn set_refcount(shop: &Shop, image: &str, cluster: u64, refcount: u16) {
    let at = refcount_block(shop, image) + cluster * 2;
    shop.patch(image, at, &refcount.to_be_bytes());
}

/// An image with some data.
fn image(shop: &Shop, name: &str) {
    shop.qemu_img(&format!("create -q -f qcow2 {name} 16M"));
    shop.write("qcow2", name, &["write -P 1 0 1M", "write -P 2 8M 1M"]);
}

#[test]
fn verdicts_are_those_of_qemu() {
    let shop = Shop::new();
    image(&shop, "clean");
    image(&shop, "leaked");
    let clusters = shop.bytes("leaked").len() as u64 / CLUSTER;
    shop.patch("leaked", (clusters + 1) * CLUSTER - 1, &[0]);
    set_refcount(&shop, "leaked", clusters, 1);
    image(&shop, "corrupt");
    set_refcount(&shop, "corrupt", clusters - 1, 0);
    for (name, status) in [("clean", 0), ("leaked", 3), ("corrupt", 2)] {
        let line = format!("check --output json {name}");
        let (ours, theirs) = (shop.image(&line), shop.try_qemu_img(&line));
        assert_eq!(ours.status, Some(status), "{ours:?}");
        assert_eq!(theirs.status, Some(status), "{theirs:?}");
        let [ours, theirs] =
            [ours, theirs].map(|done| serde_json::from_str::<Value>(&done.stdout).unwrap());
        assert_eq!(ours, theirs, "{name}");
        let text = shop.image(&format!("check {name}"));
        let first = text.stderr.lines().next().unwrap_or_default();
        assert_eq!(first.contains("at offset 0x"), status != 0, "{text:?}");
    }
}

#[test]
fn what_is_repaired_is_clean_for_qemu() {
    let shop = Shop::new();
    image(&shop, "leaked");
    let clusters = shop.bytes("leaked").len() as u64 / CLUSTER;
    set_refcount(&shop, "leaked", clusters - 1, 2);
    shop.qemu_img("convert -f qcow2 -O qcow2 leaked good");
    let repaired = shop.image("check -r leaks leaked");
    assert_eq!(repaired.status, Some(0), "{repaired:?}");
    assert!(
        repaired.stdout.contains("found and repaired"),
        "{repaired:?}"
    );
    shop.qemu_img("check leaked");

    image(&shop, "corrupt");
    set_refcount(&shop, "corrupt", clusters - 1, 0);
    set_refcount(&shop, "corrupt", clusters - 2, 0);
    let leaks_only = shop.image("check -r leaks corrupt");
    assert_eq!(leaks_only.status, Some(2), "{leaks_only:?}");
    let repaired = shop.image("check --repair all --output json corrupt");
    assert_eq!(repaired.status, Some(0), "{repaired:?}");
    let report: Value = serde_json::from_str(&repaired.stdout).unwrap();
    assert!(report["corruptions-fixed"].as_u64() >= Some(2), "{report}");
    shop.qemu_img("check corrupt");
    shop.assert_same(("qcow2", "corrupt"), ("qcow2", "good"));
}

#[test]
fn a_check_that_cannot_be_done_is_no_verdict() {
    let shop = Shop::new();
    shop.must("create raw 1M");
    assert_eq!(shop.image("check raw").status, Some(63));
    assert_eq!(shop.image("check nowhere").status, Some(1));
    image(&shop, "broken");
    shop.patch("broken", 20, &[0, 0, 0, 99]);
    let broken = shop.image("check broken");
    assert_eq!(broken.status, Some(1), "{broken:?}");
    assert!(
        broken.stderr.contains("broken: damaged at offset 20"),
        "{broken:?}"
    );
}

#[test]
fn an_image_that_was_cut_off_is_corrupt() {
    let shop = Shop::new();
    image(&shop, "cut");
    let file = fs::File::options().write(true).open(shop.path("cut"));
    file.unwrap().set_len(2 * CLUSTER).unwrap();
    assert_eq!(shop.try_qemu_img("check cut").status, Some(2));
    for options in ["", "-r all"] {
        let done = shop.image(&format!("check {options} cut"));
        assert_eq!(done.status, Some(2), "{done:?}");
        assert!(done.stderr.contains("L1 table is not within"), "{done:?}");
    }
}
