//! File systems that the programs of their authors have made.

use super::{EXT, XFS, image, mistakes, read_all};
use crate::graybox::GrayBox;

/// All of an image, once as it lies and once again, as what is behind was learnt.
#[track_caller]
fn check(test: &str, command: &str, unit: usize) {
    let Some(image) = image(test, command) else {
        return;
    };
    let gray_box = GrayBox::new(image.len() as u64);
    for _ in 0..4 {
        read_all(&gray_box, &image);
    }
    let (content, metadata) = mistakes(&gray_box, &image, unit);
    assert!(
        content.is_empty(),
        "{command}: content is taken for metadata: {content:?}"
    );
    assert!(
        metadata.is_empty(),
        "{command}: metadata is taken for content: {metadata:?}"
    );
}

#[test]
fn every_layout_of_ext4_is_known() {
    const TEST: &str = "every_layout_of_ext4_is_known";
    for options in [
        "-t ext4 -b 4096",
        "-t ext4 -b 1024",
        "-t ext4 -b 2048 -O ^64bit",
        "-t ext4 -b 4096 -O ^metadata_csum",
        "-t ext4 -b 4096 -I 128 -O ^flex_bg",
        "-t ext4 -b 1024 -O meta_bg,^resize_inode",
        "-t ext4 -b 1024 -O sparse_super2",
        "-t ext4 -b 1024 -O ^sparse_super,^resize_inode",
        "-t ext4 -b 4096 -O bigalloc -C 16384",
        "-t ext4 -b 4096 -O quota,mmp,ea_inode,inline_data",
        "-t ext4 -b 4096 -O fast_commit,metadata_csum_seed",
        "-t ext4 -b 4096 -O ^has_journal",
        "-t ext3 -b 4096",
        "-t ext3 -b 1024",
        "-t ext2 -b 4096",
        "-t ext2 -b 1024 -r 0 -O none",
    ] {
        let unit = if options.contains("-b 1024") {
            1024
        } else {
            2048
        };
        let unit = if options.contains("-b 4096") {
            4096
        } else {
            unit
        };
        check(TEST, &format!("{EXT} {options}"), unit);
    }
}

#[test]
fn every_layout_of_btrfs_is_known() {
    const TEST: &str = "every_layout_of_btrfs_is_known";
    for options in [
        "",
        " -n 4096 --mixed",
        " --csum xxhash",
        " -m single",
        " -n 65536",
    ] {
        let command = format!("mkfs.btrfs -q -f --rootdir TREE{options}");
        check(TEST, &command, 4096);
    }
}

#[test]
fn every_layout_of_xfs_is_known() {
    const TEST: &str = "every_layout_of_xfs_is_known";
    for options in ["", " -b size=1024", " -i size=1024,sparse=0 -m rmapbt=1"] {
        let unit = if options.contains("-b") { 1024 } else { 4096 };
        check(TEST, &format!("{XFS}{options}"), unit);
    }
}
