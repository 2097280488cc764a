//! Every option of an image: QEMU writes, we read and write on, and the other way round.

use disk::qcow2::CreateOptions;
use disk::qcow2::format::Compression;

use crate::changes::{Change, Changes};
use crate::workshop::{Workshop, assert_same};

/// Not a multiple of most cluster sizes, and more than one L2 table for the smaller ones.
const SIZE_BYTES: u64 = (2 << 20) + 37 * 512;
const ROUND: usize = 25;

/// Hands an image that exists to and fro. QEMU begins, or we do.
fn hand_over(
    workshop: &Workshop,
    image: &str,
    mut content: Vec<u8>,
    cluster_bytes: u64,
    compress: bool,
) {
    let mut changes = Changes::new(content.len() as u64, cluster_bytes);
    let mut apply = |round: &[Change]| {
        for change in round {
            change.apply(&mut content);
        }
        content.clone()
    };
    for round in 0..2 {
        let mut theirs = changes.draw(ROUND);
        if compress && round == 0 {
            theirs.splice(..0, changes.draw_compressed(ROUND));
        }
        workshop.qemu_change(image, &theirs);
        let expected = apply(&theirs);
        assert_same(
            &workshop.content(image),
            &expected,
            &format!("{image}, round {round}, QEMU wrote"),
        );
        workshop.assert_clean(image);

        let ours = changes.draw(ROUND);
        workshop.change(image, &ours);
        let expected = apply(&ours);
        let what = format!("{image}, round {round}, we wrote");
        assert_same(&workshop.content(image), &expected, &what);
        assert_same(&workshop.qemu_content(image), &expected, &what);
        workshop.assert_clean(image);
    }
}

/// QEMU makes an image with these options.
fn of_qemu(options: &str, cluster_bytes: u64) {
    let workshop = Workshop::new();
    let compress = !options.contains("data_file") && !options.contains("preallocation");
    workshop.qemu_img(&format!(
        "create -q -f qcow2 -o {options} image.qcow2 {SIZE_BYTES}"
    ));
    let content = vec![0; usize::try_from(SIZE_BYTES).unwrap()];
    hand_over(&workshop, "image.qcow2", content, cluster_bytes, compress);
}

#[test]
fn cluster_sizes_of_qemu() {
    for cluster_bits in 9..=21 {
        let cluster_bytes = 1 << cluster_bits;
        of_qemu(&format!("cluster_size={cluster_bytes}"), cluster_bytes);
    }
}

#[test]
fn refcount_widths_of_qemu() {
    for order in 0..=6 {
        let bits = 1 << order;
        of_qemu(&format!("refcount_bits={bits},cluster_size=1k"), 1024);
    }
}

#[test]
fn versions_and_lazy_refcounts_of_qemu() {
    of_qemu("compat=0.10", 65536);
    of_qemu("compat=0.10,cluster_size=512", 512);
    of_qemu("lazy_refcounts=on,cluster_size=4k", 4096);
}

#[test]
fn subclusters_of_qemu() {
    for (bytes, more) in [
        (16384, ""),
        (65536, ""),
        (32768, ",compression_type=zstd"),
        (1 << 20, ""),
    ] {
        of_qemu(&format!("extended_l2=on,cluster_size={bytes}{more}"), bytes);
    }
}

#[test]
fn zstd_of_qemu() {
    for bytes in [512, 4096, 65536, 1 << 20] {
        of_qemu(
            &format!("compression_type=zstd,cluster_size={bytes}"),
            bytes,
        );
    }
}

#[test]
fn data_files_of_qemu() {
    of_qemu("data_file=image.qcow2.data", 65536);
    of_qemu("data_file=image.qcow2.data,data_file_raw=on", 65536);
    of_qemu(
        "data_file=image.qcow2.data,extended_l2=on,cluster_size=16k",
        16384,
    );
}

#[test]
fn preallocated_images_of_qemu() {
    for mode in ["metadata", "falloc", "full"] {
        of_qemu(&format!("preallocation={mode}"), 65536);
        of_qemu(&format!("preallocation={mode},cluster_size=1k"), 1024);
    }
    of_qemu("preallocation=metadata,extended_l2=on", 65536);
}

/// We make an image with these options.
fn of_ours(change: impl FnOnce(&mut CreateOptions)) {
    let workshop = Workshop::new();
    let mut options = CreateOptions::new(SIZE_BYTES);
    change(&mut options);
    if options.data_file.is_some() {
        std::fs::write(workshop.path("image.qcow2.data"), []).unwrap();
    }
    workshop.create("image.qcow2", &options);
    workshop.assert_clean("image.qcow2");
    let content = vec![0; usize::try_from(SIZE_BYTES).unwrap()];
    let compress = options.data_file.is_none();
    hand_over(
        &workshop,
        "image.qcow2",
        content,
        1 << options.cluster_bits,
        compress,
    );
}

#[test]
fn our_images_are_qemus() {
    for cluster_bits in [9, 10, 12, 16, 21] {
        of_ours(|options| options.cluster_bits = cluster_bits);
    }
    for order in 0..=6 {
        of_ours(|options| (options.cluster_bits, options.refcount_bits) = (10, 1 << order));
    }
    of_ours(|options| options.version = 2);
    of_ours(|options| options.lazy_refcounts = true);
    of_ours(|options| options.compression = Compression::Zstd);
    for cluster_bits in [14, 16] {
        of_ours(|options| (options.extended_l2, options.cluster_bits) = (true, cluster_bits));
    }
    of_ours(|options| options.data_file = Some(("image.qcow2.data".to_owned(), false)));
}
