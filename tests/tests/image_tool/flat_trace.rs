//! Traces of what is read, and what is done with them.

use std::time::{Duration, Instant};

use crate::flat::{assert_expected, overlay};
use crate::shop::Shop;

/// As long as it may take to copy a base of some MiB, on a host that has much else to do.
const PATIENCE: Duration = Duration::from_mins(1);

/// A flat image on a raw base of 5 MiB, and the trace of reads of it.
fn traced(requests: &[&str]) -> Shop {
    let shop = Shop::new();
    overlay(&shop, "raw", "", "5M");
    let trace = shop.path("trace").display().to_string();
    let server = shop.lend(&format!("flat,record-trace={trace}"), "disk", &[]);
    shop.write("raw", &server.uri(""), requests);
    assert!(server.stop().unwrap().status.success());
    shop
}

#[test]
fn reads_are_recorded_in_their_order_and_read_again() {
    let shop = traced(&["read 2M 64k", "read 512k 4k", "read 2M 4k", "read 1M 2M"]);
    let text = std::fs::read_to_string(shop.path("trace")).unwrap();
    let (mib, kib) = (1 << 20, 1 << 10);
    let ranges = [
        (2 * mib, 64 * kib),
        (512 * kib, 4 * kib),
        (mib, mib),
        (2 * mib + 64 * kib, mib - 64 * kib),
    ];
    // QEMU may read more than it is asked for to find out what a disk is.
    let position = |(offset, len): (u32, u32)| text.find(&format!("\n{offset} {len}\n"));
    let positions: Vec<_> = ranges.into_iter().map(position).collect();
    assert!(positions.is_sorted() && positions[0].is_some(), "{text}");

    assert!(shop.must("trace trace").contains("MiB"), "{text}");
    let again = shop.must("trace -d 3 -f flat trace disk");
    assert!(
        again.contains("read again: 2") && !again.contains("copied"),
        "{again}"
    );
    assert_expected(&shop, "flat", "disk");
}

#[test]
fn what_a_trace_names_is_copied_before_a_start() {
    let shop = traced(&["read 1600k 8k", "read 512k 4k"]);
    let local = || {
        let map = shop.must("map --output json -f flat disk");
        let map: serde_json::Value = serde_json::from_str(&map).unwrap();
        let is_local = |entry: &&serde_json::Value| entry["depth"] == 0;
        let entries = map.as_array().unwrap().iter().filter(is_local);
        let lengths = entries.map(|entry| entry["length"].as_u64().unwrap());
        lengths.sum::<u64>()
    };
    let before = local();
    let text = shop.must("trace --copy -f flat trace disk");
    assert!(text.contains("copied: "), "{text}");
    assert!(local() >= before + (128 << 10));
    assert_expected(&shop, "flat", "disk");
}

#[test]
fn prefetch_follows_a_trace_to_the_end_of_the_base() {
    let shop = traced(&["read 1600k 8k", "read 512k 4k"]);
    let trace = shop.path("trace").display().to_string();
    let server = shop.lend(&format!("flat,prefetch,trace={trace}"), "disk", &[]);
    let begun = Instant::now();
    while shop.must("info -U -f flat disk").contains("base") {
        assert!(begun.elapsed() < PATIENCE, "it still has a base");
        std::thread::yield_now();
    }
    assert!(server.stop().unwrap().status.success());
    std::fs::remove_file(shop.path("base")).unwrap();
    assert_expected(&shop, "flat", "disk");
}

#[test]
fn nothing_but_a_trace_is_written_over() {
    let shop = Shop::new();
    overlay(&shop, "raw", "", "5M");
    let base = shop.path("base").display().to_string();
    let socket = shop.path("nbd").display().to_string();
    shop.refused(
        &format!("serve --nbd unix:{socket} disk,format=flat,record-trace={base}"),
        &["is not a trace", "name another file"],
    );
    shop.refused("trace base", &["base", "is not a trace"]);
    shop.refused("trace nowhere", &["nowhere", "cannot read the trace"]);
    shop.refused(
        &format!("serve --nbd unix:{socket} disk,format=flat,prefetch,trace={base}"),
        &["is not a trace"],
    );
}
