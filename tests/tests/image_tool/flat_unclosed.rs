//! Flat images whose program was killed while they were open, and those in use.

use std::fs;

use serde_json::Value;

use crate::flat::{assert_expected, info, overlay};
use crate::shop::Shop;

/// What is flushed before the program is killed.
const FLUSHED: [&str; 2] = ["write -P 12 2M 100k", "write -P 13 700k 64k"];

/// An image that was written to, flushed, and left by a killed program.
fn killed(shop: &Shop) {
    overlay(shop, "raw", "-o scan=off", "5M");
    let server = shop.lend("flat", "disk", &[]);
    for write in FLUSHED {
        shop.write("raw", &server.uri(""), &[write, "flush"]);
        shop.write("raw", "expected", &[write]);
    }
    // Dropping it kills it.
    drop(server);
}

fn journal(shop: &Shop) -> Value {
    let text = shop.must("info -f flat --journal --output json disk");
    serde_json::from_str::<Value>(&text).unwrap()["journal"].clone()
}

#[test]
fn nobody_takes_a_stale_bitmap_for_the_image() {
    let shop = Shop::new();
    killed(&shop);
    let before = shop.bytes("disk");
    let found = info(&shop, "disk");
    assert_eq!(found["dirty-flag"], true);
    let data = &found["format-specific"]["data"];
    assert_eq!(data.get("blocks-from-base"), None, "{data}");
    let journal = journal(&shop);
    assert!(journal["transactions"].as_u64() >= Some(2), "{journal}");
    assert!(
        shop.must("info -f flat disk")
            .contains("cleanly shut down: no\n")
    );
    for line in [
        "convert -f flat -O raw disk seen",
        "map -f flat disk",
        "compare -f flat disk disk",
        "serve --readonly --nbd unix:nbd disk,format=flat",
    ] {
        let remedy = "microvm image check --repair leaks";
        shop.refused(line, &["disk: was not closed", remedy]);
    }
    let done = shop.image("check -f flat disk");
    assert_eq!(done.status, Some(1), "{done:?}");
    assert!(
        done.stderr.contains("check --repair leaks, brings"),
        "{done:?}"
    );
    let done = shop.image("check -f flat --output json disk");
    let json: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(
        (&json["check-errors"], &json["format"]),
        (&1.into(), &"flat".into())
    );
    assert!(shop.bytes("disk") == before, "the image was changed");
}

#[test]
fn check_brings_the_journal_home() {
    for repair in ["leaks", "all"] {
        let shop = Shop::new();
        killed(&shop);
        let waiting = journal(&shop)["transactions"].clone();
        let done = shop.image(&format!("check -f flat --repair {repair} disk"));
        assert_eq!(done.status, Some(0), "{done:?}");
        let notice = format!("recovered {waiting} transactions from the journal\n");
        assert_eq!(done.stderr, notice);
        assert!(journal(&shop).is_null());
        assert_expected(&shop, "flat", "disk");
    }
}

#[test]
fn opening_for_writing_brings_the_journal_home_and_says_so() {
    let shop = Shop::new();
    killed(&shop);
    let waiting = journal(&shop)["transactions"].clone();
    let server = shop.lend("flat", "disk", &[]);
    let ended = server.stop().unwrap();
    let notice = format!("disk: was not closed; {waiting} transactions recovered");
    assert!(ended.stderr.contains(&notice), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert_expected(&shop, "flat", "disk");
    // Whatever opens it.
    for line in [
        "resize -f flat disk 6M",
        "commit -f flat disk",
        "rebase -f flat -b '' disk",
    ] {
        let shop = Shop::new();
        killed(&shop);
        let done = shop.image(line);
        assert_eq!(done.status, Some(0), "{line}: {done:?}");
        assert!(
            done.stderr.contains("disk: was not closed; "),
            "{line}: {done:?}"
        );
        if line.starts_with("resize") {
            shop.must("resize -f raw expected 6M");
        }
        assert_expected(&shop, "flat", "disk");
    }
}

#[test]
fn a_damaged_journal_is_given_up_only_if_all_is_to_be_repaired() {
    let shop = Shop::new();
    killed(&shop);
    let offset = journal(&shop)["offset"].as_u64().unwrap();
    shop.patch("disk", offset, &[0; 4096]);
    let text = shop.must("info -f flat --journal disk");
    assert!(text.contains("    damaged: "), "{text}");
    let before = shop.bytes("disk");
    let damaged = ["the journal", "--repair all"];
    shop.refused("check -f flat --repair leaks disk", &damaged);
    assert!(shop.bytes("disk") == before, "the image was changed");
    let done = shop.image("check -f flat --repair all disk");
    assert_eq!(done.status, Some(0), "{done:?}");
    assert!(done.stderr.starts_with("warning: "), "{done:?}");
    assert!(done.stdout.contains("leaked blocks"), "{done:?}");
    shop.must("check -f flat disk");
    // What was there before is there.
    let server = shop.lend("flat", "disk", &[]);
    shop.write(
        "raw",
        &server.uri(""),
        &["read -P 3 100k 1k", "read -P 1 0 100k"],
    );
    assert!(server.stop().unwrap().status.success());
}

/// A block of data that nobody reads, as a power cut may leave it.
#[test]
fn leaks_are_told_and_given_back() {
    let shop = Shop::new();
    overlay(&shop, "raw", "-o scan=off", "5M");
    let data_offset = info(&shop, "disk")["format-specific"]["data"]["data-offset"].clone();
    let offset = data_offset.as_u64().unwrap() + 12 * 65536;
    shop.patch("disk", offset, &vec![9; 65536]);
    let done = shop.image("check -f flat disk");
    assert_eq!(done.status, Some(3), "{done:?}");
    let found = format!("leak at offset {offset:#x}");
    assert!(done.stderr.starts_with(&found), "{done:?}");
    assert!(
        done.stdout.contains("1 leaked blocks were found"),
        "{done:?}"
    );
    let done = shop.image("check -f flat --repair leaks disk");
    assert_eq!(done.status, Some(0), "{done:?}");
    assert!(done.stdout.contains("    1 leaked blocks\n"), "{done:?}");
    assert_expected(&shop, "flat", "disk");
}

#[test]
fn an_image_in_use_is_left_alone() {
    let shop = Shop::new();
    overlay(&shop, "raw", "", "5M");
    let server = shop.lend("flat", "disk", &[]);
    for line in [
        "check --repair all -f flat disk",
        "check -f flat disk",
        "info -f flat disk",
        "resize -f flat disk 6M",
        "create -f flat disk 1M",
        "convert -f raw -O flat base disk",
        "map -f flat disk",
        "commit -f flat disk",
        "rebase -f flat -b '' disk",
        "serve --nbd unix:other disk,format=flat",
    ] {
        shop.refused(line, &["disk: in use by another process"]);
    }
    // Its base can be read, but not written.
    shop.must("map base");
    shop.refused(
        "resize -f raw base 5M",
        &["base: in use by another process"],
    );
    assert!(server.stop().unwrap().status.success());
    assert_expected(&shop, "flat", "disk");
    fs::remove_file(shop.path("seen")).unwrap();
    assert_eq!(shop.files(), ["base", "disk", "expected"]);
}
