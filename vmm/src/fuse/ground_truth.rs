//! What a classifier says of the blocks of file systems that are in use, against what they are.
//!
//! The kernel of this machine has a file system on a loop device on a disk that is shown through
//! FUSE, as guests have it. All content that the load writes is marked, so that a disk
//! below sees what each block is, and counts what it was taken for.

mod load;
mod truth;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::thread;

use disk::graybox::GrayBox;
use disk::{Classified, Disk, Executor, FileOptions, Raw};
use rustix::process::getuid;
use tests::report::skip;

use super::{Mount, MountOptions, MountPoint, RawFile, Session, Volume};
use truth::{Matrix, Truth};

const SIZE_BYTES: u64 = 384 << 20;
/// One block in so many may be taken for something else.
const WRONG_ONE_IN: u64 = 1000;
/// Units that are read before there is anything to know them by: superblocks, and what a mount reads
/// right after them.
const FIRST_READS_MAX: u64 = 32;

/// How a file system is made and mounted.
struct Kind {
    name: &'static str,
    make: &'static str,
    options: &'static str,
    /// What its content is marked in, in bytes: a block.
    unit_bytes: usize,
}

/// The device is there before the file system is mounted, and once again after that, so that
/// nothing is in a cache. All of it is seen by nobody else, and goes with the script.
const SCRIPT: &str = r#"
set -eu
file=$1 point=$2 options=$3 unit=$4 program=$5
PATH=$PATH:/usr/sbin:/sbin
device=$(losetup --find --show "$file")
trap 'cd /; umount "$point" 2>/dev/null || true; losetup -d "$device"' EXIT
for round in 0 1 2; do
    mount -o "$options" "$device" "$point"
    MICROVM_LOAD="$round $unit $point" "$program" --exact fuse::ground_truth::load::run --ignored --nocapture > "$point.log" 2>&1 ||
        { cat "$point.log" >&2; exit 1; }
    umount "$point"
    losetup -d "$device"
    device=$(losetup --find --show "$file")
done
"#;

/// What is counted while a file system of this kind is in use.
fn measure(kind: &Kind) -> Matrix {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let image = std::fs::File::create(path("image")).unwrap();
    image.set_len(SIZE_BYTES).unwrap();
    make(kind, &path("image"));
    std::fs::File::create(path("shown")).unwrap();
    std::fs::create_dir(path("inside")).unwrap();
    let point = MountPoint::find(&path("shown")).unwrap();
    let executor = Executor::new().unwrap();
    executor.run(async {
        let storage = FileOptions::new(path("image")).open().unwrap();
        let truth = Rc::new(Truth::new(Raw::new(storage).unwrap(), kind.unit_bytes));
        let below = Rc::clone(&truth) as Rc<dyn Disk>;
        let disk = Rc::new(Classified::new(below, Rc::new(GrayBox::new(SIZE_BYTES))));
        let file = RawFile::new(&path("image"), disk).unwrap();
        let options = MountOptions {
            source: path("image"),
            read_only: false,
            allow_other: false,
        };
        let (descriptor, mount) = Mount::new(&point, &options).unwrap();
        let session = Session::new(descriptor, Volume::new(file, point.kind())).unwrap();
        let (shown, inside) = (path("shown"), path("inside"));
        let (options, unit_bytes) = (kind.options, kind.unit_bytes);
        let used = thread::spawn(move || {
            let output = use_it(&shown, &inside, options, unit_bytes);
            mount.unmount().unwrap();
            output
        });
        session.negotiate().await.unwrap();
        session.run().await.unwrap();
        session.finish().await;
        let output = used.join().unwrap();
        assert!(output.status.success(), "{}: {output:?}", kind.name);
        truth.close().await.unwrap();
        truth.matrix()
    })
}

fn make(kind: &Kind, image: &Path) {
    let script = format!("PATH=$PATH:/usr/sbin:/sbin; {} \"$1\"", kind.make);
    let mut command = Command::new("sh");
    let output = command.args(["-c", &script, "sh"]).arg(image).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}: {output:?}", kind.name);
}

fn use_it(file: &Path, inside: &Path, options: &str, unit_bytes: usize) -> std::process::Output {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", SCRIPT, "sh"]);
    command.arg(file).arg(inside).arg(options);
    command.arg(unit_bytes.to_string());
    command.arg(std::env::current_exe().unwrap());
    command.output().unwrap()
}

/// Whether such file systems can be used here; if not, notes that `test` is skipped.
fn can_use(test: &str, program: &str) -> bool {
    let is_there = |directory: &str| PathBuf::from(directory).join(program).exists();
    let reason = if !getuid().is_root() {
        "it takes root"
    } else if !Path::new("/dev/fuse").exists() || !Path::new("/dev/loop-control").exists() {
        "there is no /dev/fuse, or there are no loop devices"
    } else if !["/usr/sbin", "/sbin", "/usr/bin"].into_iter().any(is_there) {
        "mkfs is not installed"
    } else if !has_mount_namespaces() {
        "no mount namespaces"
    } else {
        return true;
    };
    skip(test, reason);
    false
}

/// The root of a chroot that is no mount point has none, for example.
fn has_mount_namespaces() -> bool {
    let output = Command::new("unshare").args(["-m", "true"]).output();
    output.is_ok_and(|output| output.status.success())
}

/// Runs the load on each kind, prints what it was taken for, and refuses more than a thousandth.
fn run(kinds: &[Kind]) {
    for kind in kinds {
        let matrix = measure(kind);
        println!("{}:\n{matrix}", kind.name);
        for (what, wrong, all) in matrix.errors(FIRST_READS_MAX) {
            assert!(
                wrong * WRONG_ONE_IN <= all,
                "{}: {what}: {wrong} of {all}",
                kind.name
            );
        }
    }
}

const fn kind(name: &'static str, make: &'static str, options: &'static str) -> Kind {
    Kind {
        name,
        make,
        options,
        unit_bytes: 4096,
    }
}

#[test]
fn ext4_is_told_apart() {
    if can_use("ext4_is_told_apart", "mke2fs") {
        run(&[kind("ext4", "mke2fs -q -t ext4 -b 4096", "defaults")]);
    }
}

#[test]
fn xfs_is_told_apart() {
    if can_use("xfs_is_told_apart", "mkfs.xfs") {
        run(&[kind("xfs", "mkfs.xfs -q -f", "defaults")]);
    }
}

#[test]
fn btrfs_is_told_apart() {
    if can_use("btrfs_is_told_apart", "mkfs.btrfs") {
        run(&[kind("btrfs", "mkfs.btrfs -q -f", "defaults")]);
    }
}

/// Those that differ more in detail than in kind.
#[test]
#[ignore = "takes many minutes"]
fn others_are_told_apart() {
    const TEST: &str = "others_are_told_apart";
    if ["mke2fs", "mkfs.xfs", "mkfs.btrfs"]
        .into_iter()
        .all(|program| can_use(TEST, program))
    {
        let small = |kind: Kind| Kind {
            unit_bytes: 1024,
            ..kind
        };
        run(&[
            small(kind(
                "ext4 of 1 KiB",
                "mke2fs -q -t ext4 -b 1024",
                "defaults",
            )),
            kind("ext3", "mke2fs -q -t ext3 -b 4096", "defaults"),
            kind(
                "ext4 with fast commits",
                "mke2fs -q -t ext4 -b 4096 -O fast_commit,inline_data,ea_inode",
                "defaults",
            ),
            kind(
                "ext4 with clusters",
                "mke2fs -q -t ext4 -b 4096 -O bigalloc,meta_bg,^resize_inode -C 16384",
                "defaults",
            ),
            small(kind(
                "xfs of 1 KiB",
                "mkfs.xfs -q -f -b size=1024 -n size=8192",
                "defaults",
            )),
            kind(
                "btrfs that mixes",
                "mkfs.btrfs -q -f --mixed -n 4096",
                "defaults",
            ),
        ]);
    }
}
