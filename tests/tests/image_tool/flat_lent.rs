//! Flat images as others see them.

use std::process::Command;

use images::packages::{Tool, require};

use crate::flat::{BASES, assert_expected, overlay, write};
use crate::shop::Shop;

fn nbdcopy(words: &[&str]) {
    let output = Command::new(Tool::NbdCopy.find().unwrap())
        .args(words)
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "nbdcopy {words:?}: {output:?}");
}

#[test]
fn nbdcopy_copies_both_ways() {
    require(&[Tool::NbdCopy]).unwrap();
    for format in BASES {
        let shop = Shop::new();
        overlay(&shop, format, "", "5M");
        let server = shop.lend("flat", "disk", &[]);
        let copy = shop.path("copy").display().to_string();
        nbdcopy(&["--allocated", &server.uri(""), &copy]);
        assert!(shop.bytes("copy") == shop.bytes("expected"), "on {format}");
        shop.must("create source 5M");
        let writes = ["write -P 21 0 300k", "write -P 22 1900k 2M"];
        shop.write("raw", "source", &writes);
        nbdcopy(&[&shop.path("source").display().to_string(), &server.uri("")]);
        assert!(server.stop().unwrap().status.success());
        std::fs::rename(shop.path("source"), shop.path("expected")).unwrap();
        assert_expected(&shop, "flat", "disk");
    }
}

#[test]
fn every_kind_of_request_is_done() {
    for format in BASES {
        let shop = Shop::new();
        overlay(&shop, format, "-o block_size=4k", "5M");
        let requests = [
            "write -f -P 31 511 3000",
            "write -z -u 700k 200k",
            "write -z 1k 9k",
            "discard 4200k 64k",
            "write -P 0 4200k 64k",
            "read -P 1 640k 50k",
            "read -P 0 700k 200k",
            "flush",
        ];
        write(&shop, "flat", "disk", &requests);
        let raw = [
            "write -P 31 511 3000",
            "write -z 700k 200k",
            "write -z 1k 9k",
            "write -P 0 4200k 64k",
        ];
        shop.write("raw", "expected", &raw);
        assert_expected(&shop, "flat", "disk");
    }
}

#[test]
fn benchmarks_run_on_it() {
    let shop = Shop::new();
    overlay(&shop, "raw", "", "5M");
    let text = shop.must("bench -w --random -f flat -c 100 -d 4 --flush-interval 10 disk");
    assert!(text.contains("100"), "{text}");
    shop.must("check -f flat disk");
    for order in ["journal", "ordered", "unsafe"] {
        shop.must(&format!(
            "bench -q -w -f flat --order {order} -c 50 -s 64k disk"
        ));
        shop.must("check -f flat disk");
    }
}
