//! Chains of files, and what is refused of them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::{CHAIN_MAX, Chain, Format, OpenOptions};
use crate::Repair;
use crate::qcow2::{CreateOptions, NewSnapshot, check, create};
use crate::test_support::real_backends;
use crate::{Buffers, Disk as _, Error, Executor, FileOptions, Order, Request, Storage as _};

/// A directory of images.
struct Images {
    directory: tempfile::TempDir,
    executor: Executor,
}

impl Images {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            executor: Executor::new().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn raw(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).unwrap();
    }

    fn qcow2(&self, name: &str, change: impl FnOnce(&mut CreateOptions)) {
        self.raw(name, &[]);
        let mut options = CreateOptions::new(65536);
        change(&mut options);
        self.executor.run(async {
            let storage = FileOptions::new(self.path(name)).open().unwrap();
            create(&storage, &options).await.unwrap();
            storage.close();
        });
    }

    fn overlay(&self, name: &str, backing: &str, format: &str) {
        let backing = Some((backing.to_owned(), format.to_owned()));
        self.qcow2(name, |options| options.backing = backing);
    }

    fn options(&self, name: &str) -> OpenOptions {
        OpenOptions::new(self.path(name)).format(Format::Qcow2)
    }

    fn chain(&self, options: OpenOptions) -> Result<Chain, Error> {
        self.executor.run(options.chain())
    }

    /// The names of the files of a chain.
    fn names(&self, options: OpenOptions) -> Vec<String> {
        let chain = self.chain(options).unwrap();
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let layers = chain.layers().iter();
        layers.map(|layer| name(&layer.path)).collect()
    }

    #[track_caller]
    fn refused(&self, options: OpenOptions, parts: &[&str]) {
        let error = self.executor.run(options.open()).err().unwrap().to_string();
        for part in parts {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
    }

    /// The first bytes that a disk reads as.
    fn head(&self, options: OpenOptions) -> Vec<u8> {
        self.executor.run(async {
            let disk = options.open().await.unwrap();
            let buffers = Buffers::zeroed(512);
            let read = Request::read(0, buffers.clone());
            disk.submit(read).await.unwrap();
            disk.close().await.unwrap();
            buffers.to_vec()
        })
    }
}

#[test]
fn a_chain_is_read_through_and_only_its_head_is_writable() {
    let images = Images::new();
    images.raw("base", &vec![7; 65536]);
    images.overlay("middle", "base", "raw");
    images.overlay("top", "file:middle", "qcow2");
    let options = || images.options("top");
    assert_eq!(images.names(options()), ["top", "middle", "base"]);
    assert_eq!(images.head(options()), [7; 512]);
    let chain = images.chain(options()).unwrap();
    let read_only = |layer: &super::Layer| layer.storage.geometry().read_only;
    let read_only: Vec<_> = chain.layers().iter().map(read_only).collect();
    assert_eq!(read_only, [false, true, true]);
    drop(chain);
    assert_eq!(images.names(options().layers_max(2)), ["top", "middle"]);
    assert_eq!(images.head(options().layers_max(2)), [0; 512]);
}

/// What a guest has written into a raw disk is not believed.
#[test]
fn formats_are_not_guessed() {
    let images = Images::new();
    images.raw("secret", &vec![7; 65536]);
    images.overlay("disk", "secret", "raw");
    let unknown = || OpenOptions::new(images.path("disk"));
    images.refused(unknown(), &["disk: looks like a qcow2 image"]);
    images.refused(unknown().recognize(true), &["disk", "names another file"]);
    assert_eq!(images.head(unknown().format(Format::Raw))[..4], *b"QFI\xfb");
    // Without the file that it names, it may be taken for what it looks like.
    let alone = unknown().recognize(true).layers_max(1);
    assert_eq!(images.head(alone), [0; 512]);

    images.qcow2("split", |options| {
        options.data_file = Some(("secret".to_owned(), false));
    });
    let split = OpenOptions::new(images.path("split")).recognize(true);
    images.refused(split.clone(), &["split", "names another file"]);
    assert_eq!(
        images.head(split.data_file(images.path("secret")))[..],
        [0; 512]
    );
}

#[test]
fn a_backing_file_of_unrecorded_format_is_raw_or_refused() {
    let images = Images::new();
    images.raw("base", &vec![7; 65536]);
    images.overlay("top", "base", "raw");
    // The extension with the format becomes one that nobody knows.
    let mut bytes = fs::read(images.path("top")).unwrap();
    let kind = 0xE279_2ACA_u32.to_be_bytes();
    let at = bytes.windows(4).position(|word| word == kind).unwrap();
    bytes[at..at + 4].copy_from_slice(b"none");
    images.raw("top", &bytes);
    assert_eq!(images.head(images.options("top")), [7; 512]);
    images.raw("base", b"QFI\xfb and so on");
    images.refused(
        images.options("top"),
        &["top", "base", "a qcow2 image", "rebase"],
    );
}

#[test]
fn what_is_no_file_or_format_of_ours_is_refused_by_name() {
    let images = Images::new();
    for (name, format, parts) in [
        ("ftp://host/x", "raw", ["ftp://host/x", "'ftp'"]),
        ("nbds://host/x", "raw", ["nbds://host/x", "TLS"]),
        ("json:{}", "raw", ["json:{}", "only files"]),
        ("base", "vmdk", ["'vmdk'", "raw, qcow2"]),
        ("missing", "raw", ["missing", "No such file"]),
        ("..", "raw", ["..", "a directory"]),
    ] {
        images.overlay("top", name, format);
        images.refused(images.options("top"), &parts);
    }
    images.qcow2("plain", |_| {});
    let with_data = images.options("plain").data_file(images.path("x"));
    images.refused(with_data, &["plain", "no data file"]);
}

#[test]
fn loops_and_endless_chains_end() {
    let images = Images::new();
    images.overlay("a", "b", "qcow2");
    images.overlay("b", "./a", "qcow2");
    images.refused(images.options("a"), &["b", "stands on this image itself"]);
    images.refused(images.options("a").read_only(true), &["itself"]);
    images.raw("0", &[0; 512]);
    for number in 1..=CHAIN_MAX {
        let format = if number == 1 { "raw" } else { "qcow2" };
        images.overlay(&number.to_string(), &(number - 1).to_string(), format);
    }
    let longest = images.options(&(CHAIN_MAX - 1).to_string());
    assert_eq!(images.names(longest).len(), CHAIN_MAX);
    images.refused(images.options(&CHAIN_MAX.to_string()), &["200 files"]);
}

#[test]
fn a_snapshot_is_read_beside_the_disk() {
    let images = Images::new();
    images.raw("base", &vec![7; 65536]);
    images.overlay("disk", "base", "raw");
    images.executor.run(async {
        let disk = images.options("disk").open_qcow2().await.unwrap();
        let new = NewSnapshot {
            name: "before".into(),
            ..NewSnapshot::default()
        };
        disk.create_snapshot(new).await.unwrap();
        let data = Buffers::from_vec([8; 512]);
        disk.submit(Request::write(0, data)).await.unwrap();
        disk.close().await.unwrap();
    });
    let snapshot = |name: &str| images.options("disk").snapshot(name);
    let live = images
        .executor
        .run(images.options("disk").read_only(true).open());
    for name in ["before", "1"] {
        assert_eq!(images.head(snapshot(name)), [7; 512]);
        assert_eq!(images.head(snapshot(name).read_only(false)), [7; 512]);
    }
    drop(live);
    assert_eq!(images.head(images.options("disk")), [8; 512]);
    images.refused(snapshot("after"), &["disk", "no snapshot 'after'"]);
    let raw = OpenOptions::new(images.path("base")).snapshot("before");
    images.refused(raw, &["base", "a raw image, which has no snapshots"]);
}

/// A sync keeps an order as a barrier does, and every host has the system call.
#[test]
fn barriers_take_the_place_of_syncs_but_the_last() {
    for backend in real_backends() {
        let file = tempfile::NamedTempFile::new().unwrap();
        Executor::with_backend(backend).unwrap().run(async {
            let storage = FileOptions::new(file.path()).open().unwrap();
            let new = CreateOptions::new(1 << 30);
            create(&storage, &new).await.unwrap();
            drop(storage);
            let options = OpenOptions::new(file.path())
                .format(Format::Qcow2)
                .order(Order::Barrier);
            let refused = options.clone().open().await.err().unwrap().to_string();
            assert!(refused.contains("fdatabarrier"), "{refused}");
            let number = libc::SYS_fdatasync.try_into().unwrap();
            let disk = options.barrier_syscall(number).open().await.unwrap();
            let write_and_flush = async |offset| {
                let data = Buffers::from_vec([1; 4096]);
                disk.submit(Request::write(offset, data)).await.unwrap();
                disk.submit(Request::flush()).await.unwrap();
            };
            write_and_flush(0).await;
            let before = disk.statistics();
            write_and_flush(1 << 20).await;
            let after = disk.statistics();
            assert_eq!(after.barriers - before.barriers, 1);
            assert_eq!(after.host_syncs - before.host_syncs, 1);
            disk.close().await.unwrap();
            let storage = FileOptions::new(file.path()).open().unwrap();
            let report = check(&storage, Repair::None).await.unwrap();
            assert_eq!(report.exit_status(), 0, "{report:?}");
        });
    }
}

/// What shared it says still that it is shared, when nobody else is left.
#[test]
fn what_was_shared_and_is_not_needed_is_given_back() {
    const BYTES: u64 = 1 << 20;
    let images = Images::new();
    images.qcow2("a", |options| {
        (options.size_bytes, options.cluster_bits) = (4 * BYTES, 12);
    });
    let data: Vec<u8> = (0..BYTES / 8).flat_map(u64::to_le_bytes).collect();
    let options = images.options("a").dedup_bytes(1 << 20);
    let shared_bytes = images.executor.run(async {
        let disk = options.open().await.unwrap();
        for at in [0, 2 * BYTES] {
            let data = Buffers::from_vec(data.clone());
            disk.submit(Request::write(at, data)).await.unwrap();
        }
        disk.submit(Request::flush()).await.unwrap();
        for at in [0, 2 * BYTES] {
            disk.submit(Request::discard(at, BYTES)).await.unwrap();
        }
        disk.close().await.unwrap();
        disk.statistics().dedup.shared_bytes
    });
    let taken = fs::metadata(images.path("a")).unwrap().blocks() * 512;
    assert_eq!(shared_bytes, BYTES);
    assert!(taken < BYTES / 2, "{taken} bytes are taken");
}
