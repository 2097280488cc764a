//! What QEMU says of the images that programs leave.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::model::run_program;
use super::rig::Rig;
use super::run::Run;
use crate::qcow2::qemu::{Workshop, is_installed};
use crate::test_support::content::bytes_of;
use crate::test_support::{seeded, skip};

/// Zeros are left out of files in units of this size.
const PAGE_BYTES: usize = 4096;
/// Its programs are other ones than those of the model's test.
const FIRST_SEED: u64 = 1 << 32;

/// Writes a file with holes where there are zeros.
fn store(path: &Path, bytes: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (n, page) in (0..).zip(bytes.chunks(PAGE_BYTES)) {
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, n * PAGE_BYTES as u64).unwrap();
        }
    }
}

/// Writes what the disk should hold.
fn store_content(path: &Path, run: &Run<'_>) {
    let file = File::create(path).unwrap();
    file.set_len(run.size_sectors() * 512).unwrap();
    for (sector, stamp) in run.content() {
        file.write_all_at(&bytes_of(&[stamp]), sector * 512)
            .unwrap();
    }
}

/// QEMU finds no fault in the image, which is closed, and reads the same.
pub(super) fn agrees(rig: &Rig, run: &Run<'_>) {
    let workshop = Workshop::new();
    for (name, storage) in rig.files() {
        store(&workshop.path(&name), &storage.to_bytes());
    }
    store_content(&workshop.path("content"), run);
    let verdict = workshop.check("image");
    assert_eq!(verdict.status, 0, "{}", verdict.json);
    workshop.run("qemu-img compare -f qcow2 -F raw image content");
}

#[test]
fn qemu_reads_what_programs_wrote() {
    if !is_installed() {
        skip(
            "qcow2::tests::peer::qemu_reads_what_programs_wrote",
            "there is no qemu-img here",
        );
        return;
    }
    seeded(20, |seed| {
        run_program(seed + FIRST_SEED, async |rig, run| {
            run.read_all().await;
            run.close().await;
            agrees(rig, run);
        });
    });
}
