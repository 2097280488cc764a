//! Images whose program was killed while they were open.

use std::fs;

use serde_json::Value;

use crate::shop::Shop;

const WAIT: &str = "opening it for writing, or check --repair leaks, brings";

/// An image that was written to, flushed, and left by a killed program.
fn killed(shop: &Shop, name: &str) {
    shop.qemu_img(&format!("create -q -f qcow2 {name} 16M"));
    shop.write("qcow2", name, &["write -P 1 0 1M"]);
    let server = shop.serve(name, &[]);
    let writes = ["write -P 2 4M 1M", "flush", "write -P 3 8M 64k", "flush"];
    shop.write("raw", &server.uri(""), &writes);
    // Dropping it kills it.
    drop(server);
}

/// All that was flushed is there, in QEMU's eyes.
#[track_caller]
fn assert_whole(shop: &Shop, name: &str) {
    shop.qemu_img(&format!("check {name}"));
    let reads = ["read -P 1 0 1M", "read -P 2 4M 1M", "read -P 3 8M 64k"];
    shop.write("qcow2", name, &reads);
}

fn info(shop: &Shop, name: &str) -> Value {
    serde_json::from_str(&shop.must(&format!("info --journal --output json {name}"))).unwrap()
}

/// Destroys a block of the journal.
fn damage(shop: &Shop, name: &str, block: u64) {
    let offset = info(shop, name)["journal"]["offset"].as_u64().unwrap();
    shop.patch(name, offset + block * 4096, &[0; 4096]);
}

#[test]
fn info_tells_of_the_journal() {
    let shop = Shop::new();
    shop.qemu_img("create -q -f qcow2 image 16M");
    let closed = "no journal: the image was closed\n";
    assert!(shop.must("info --journal image").ends_with(closed));
    assert!(info(&shop, "image")["journal"].is_null());
    assert_eq!(info(&shop, "image")["dirty-flag"], false);
    let plain = shop.must("info --output json image");
    assert!(!plain.contains("journal"), "{plain}");
    killed(&shop, "image");

    let unclosed = info(&shop, "image");
    assert_eq!(unclosed["dirty-flag"], true);
    let journal = &unclosed["journal"];
    let number = |field: &str| journal[field].as_u64().unwrap();
    assert!(
        number("offset") > 0 && number("size") >= 1 << 15,
        "{journal}"
    );
    assert!(
        number("transactions") >= 2 && number("bytes") > 0,
        "{journal}"
    );
    assert!(
        number("last-sequence") >= number("transactions"),
        "{journal}"
    );
    assert_eq!(journal["newest-dropped"], false);
    let identity = journal["identity"].as_str().unwrap();
    assert_eq!(identity.len(), 32);
    let text = shop.must("info --journal image");
    for line in [
        "cleanly shut down: no",
        "journal:",
        &format!("    identity: {identity}"),
        &format!("    transactions waiting: {}", number("transactions")),
        "    newest would be dropped: no",
    ] {
        assert!(
            text.lines().any(|other| other == line),
            "no {line} in {text}"
        );
    }
    shop.must("info image");
    let damaged = shop.bytes("image");
    damage(&shop, "image", 0);
    let text = shop.must("info --journal image");
    assert!(
        text.contains("    damaged: the journal's first block"),
        "{text}"
    );
    fs::write(shop.path("image"), damaged).unwrap();

    let server = shop.serve("image", &[]);
    shop.write("raw", &server.uri(""), &["write -P 4 12M 64k", "flush"]);
    let live: Value =
        serde_json::from_str(&shop.must("info -U --journal --output json image")).unwrap();
    assert_ne!(live["journal"]["identity"], identity);
    assert_eq!(live["journal"]["transactions"], 1, "{live}");
    server.stop().unwrap();
    assert!(info(&shop, "image")["journal"].is_null());
    assert_whole(&shop, "image");
}

#[test]
fn nobody_takes_stale_tables_for_the_image() {
    let shop = Shop::new();
    killed(&shop, "image");
    let before = shop.bytes("image");
    let theirs = shop.try_qemu_img("check -f qcow2 image");
    assert_ne!(theirs.status, Some(0));
    assert!(theirs.stderr.contains("microvm journal"), "{theirs:?}");
    shop.qemu_img("create -q -f qcow2 -u -b image -F qcow2 overlay 16M");
    for line in [
        "convert -O raw image raw",
        "map image",
        "compare image image",
        "snapshot -l image",
        "convert -f qcow2 -O raw overlay raw",
        "serve --readonly --nbd unix:nbd image,format=qcow2",
    ] {
        let remedy = "microvm image check --repair leaks";
        shop.refused(line, &["image: was not closed", remedy]);
    }
    let text = shop.image("check image");
    assert_eq!(text.status, Some(1), "{text:?}");
    assert!(text.stderr.contains(WAIT), "{text:?}");
    assert_eq!(text.stderr.lines().count(), 1, "{text:?}");
    let json = shop.image("check --output json image");
    assert_eq!(json.status, Some(1), "{json:?}");
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["check-errors"], 1);
    assert_eq!(json.get("corruptions"), None);
    assert!(shop.bytes("image") == before, "the image was changed");
}

#[test]
fn check_brings_the_journal_home() {
    let shop = Shop::new();
    for (name, marks_corrupt) in [("image", false), ("marked", true)] {
        killed(&shop, name);
        if marks_corrupt {
            // The lowest byte of the incompatible features.
            let features = shop.bytes(name)[79] | 2;
            shop.patch(name, 79, &[features]);
        }
        let waiting = info(&shop, name)["journal"]["transactions"].clone();
        let done = shop.image(&format!("check --repair leaks {name}"));
        assert_eq!(done.status, Some(0), "{done:?}");
        let notice = format!("recovered {waiting} transactions from the journal\n");
        assert_eq!(done.stderr, notice);
        assert!(done.stdout.contains("No errors were found"), "{done:?}");
        assert_whole(&shop, name);
        shop.must(&format!("check --repair leaks {name}"));
    }
    killed(&shop, "quiet");
    assert_eq!(shop.must("check -q --repair all quiet"), "");
    assert_whole(&shop, "quiet");
}

#[test]
fn a_damaged_journal_is_given_up_only_if_all_is_to_be_repaired() {
    let shop = Shop::new();
    // The superblock, and the first transaction.
    for block in [0, 1] {
        killed(&shop, "image");
        damage(&shop, "image", block);
        let before = shop.bytes("image");
        let looked = shop.image("check image");
        assert_eq!(looked.status, Some(1), "{looked:?}");
        let remedy = "check --repair all gives the journal up";
        assert!(looked.stderr.contains(remedy), "{looked:?}");
        shop.refused(
            "check --repair leaks image",
            &["the journal", "--repair all"],
        );
        assert!(shop.bytes("image") == before, "the image was changed");
        let done = shop.image("check --repair all image");
        assert_eq!(done.status, Some(0), "{done:?}");
        let first = done.stderr.lines().next().unwrap_or_default();
        assert!(first.starts_with("warning: "), "{done:?}");
        assert!(first.contains("last writes"), "{done:?}");
        shop.qemu_img("check image");
        shop.write("qcow2", "image", &["read -P 1 0 1M"]);
        fs::remove_file(shop.path("image")).unwrap();
    }
}

#[test]
fn opening_for_writing_brings_the_journal_home_and_says_so() {
    let shop = Shop::new();
    killed(&shop, "image");
    let waiting = info(&shop, "image")["journal"]["transactions"].clone();
    let stats = shop.path("stats").display().to_string();
    let server = shop.serve("image", &["--stats", &stats]);
    let ended = server.stop().unwrap();
    let path = shop.path("image").display().to_string();
    let notice =
        format!("{path}: was not closed; {waiting} transactions recovered from its journal");
    assert!(ended.stderr.contains(&notice), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    let stats: Value = serde_json::from_slice(&shop.bytes("stats")).unwrap();
    assert_eq!(stats["journal"]["recovered_transactions"], waiting);
    assert!(
        stats["journal"]["recovery_ns"].as_u64() > Some(0),
        "{stats}"
    );
    assert_whole(&shop, "image");

    killed(&shop, "resized");
    let done = shop.image("resize resized +1M");
    assert_eq!(done.status, Some(0), "{done:?}");
    assert!(
        done.stderr.contains("resized: was not closed; "),
        "{done:?}"
    );
    assert_whole(&shop, "resized");
    assert_eq!(info(&shop, "resized")["virtual-size"], 17 << 20);
}

#[test]
fn info_tells_what_a_file_has_grown_ahead() {
    let shop = Shop::new();
    shop.qemu_img("create -q -f qcow2 image 16M");
    shop.write("qcow2", "image", &["write -P 1 0 1M"]);
    assert!(!shop.must("info image").contains("preallocated"));
    let end = fs::metadata(shop.path("image")).unwrap().len();
    let file = fs::File::options().write(true).open(shop.path("image"));
    file.unwrap().set_len(end + (1 << 20)).unwrap();
    let text = shop.must("info image");
    assert!(text.contains("\npreallocated: 1048576 bytes\n"), "{text}");
    assert_eq!(info(&shop, "image")["preallocated-size"], 1 << 20);
}
