//! Backing chains that QEMU made.

use crate::changes::Changes;
use crate::workshop::{Workshop, assert_same};

const SIZES: [u64; 3] = [1 << 20, (700 << 10) + 512, 3 << 19];

/// A raw or qcow2 base of some size with something in it.
fn base(workshop: &Workshop, format: &str, size_bytes: u64) {
    let mut changes = Changes::new(size_bytes, 65536);
    workshop.qemu_img(&format!("create -q -f qcow2 base.qcow2 {size_bytes}"));
    workshop.qemu_change("base.qcow2", &changes.draw(10));
    if format == "raw" {
        workshop.qemu_img("convert -f qcow2 -O raw base.qcow2 base.raw");
    }
}

/// An overlay of QEMU's, written by QEMU and by us, with shorter and longer bases below.
fn overlay(base_format: &str, options: &str, cluster_bytes: u64) {
    for base_bytes in SIZES {
        let workshop = Workshop::new();
        base(&workshop, base_format, base_bytes);
        let create = "create -q -f qcow2";
        workshop.qemu_img(&format!(
            "{create} -b base.{base_format} -F {base_format} -o {options} middle.qcow2 {}",
            SIZES[0]
        ));
        workshop.qemu_img(&format!(
            "{create} -b middle.qcow2 -F qcow2 -o {options} top.qcow2 {}",
            SIZES[2]
        ));
        let mut changes = Changes::new(SIZES[0], cluster_bytes);
        workshop.qemu_change("middle.qcow2", &changes.draw(6));
        let what = format!("{options} on {base_bytes} bytes of {base_format}");
        let mut content = workshop.qemu_content("top.qcow2");
        assert_same(&workshop.content("top.qcow2"), &content, &what);

        let mut changes = Changes::new(SIZES[2], cluster_bytes);
        for ours in [true, false, true] {
            let round = changes.draw(8);
            if ours {
                workshop.change("top.qcow2", &round);
            } else {
                workshop.qemu_change("top.qcow2", &round);
            }
            for change in &round {
                change.apply(&mut content);
            }
            assert_same(&workshop.content("top.qcow2"), &content, &what);
            assert_same(&workshop.qemu_content("top.qcow2"), &content, &what);
            workshop.assert_clean("top.qcow2");
        }
    }
}

#[test]
fn raw_bases() {
    overlay("raw", "cluster_size=4k", 4096);
    overlay("raw", "extended_l2=on", 65536);
}

#[test]
fn qcow2_bases() {
    overlay("qcow2", "cluster_size=512", 512);
    overlay("qcow2", "cluster_size=64k", 65536);
    overlay("qcow2", "compat=0.10,cluster_size=1k", 1024);
    overlay("qcow2", "extended_l2=on,cluster_size=16k", 16384);
}
