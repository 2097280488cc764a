//! Cache files that are opened again, with the disk that they are of or another one.

use super::rig::{Rig, flush, read, simulated, write};
use crate::cache::format::Stamp;
use crate::cache::{CacheOptions, WriteMode};
use crate::{Disk, Error, SimulatedStorage, Storage};

fn rig(mode: WriteMode) -> Rig {
    let options = CacheOptions::of_slots(32).write_mode(mode);
    Rig::new(1, 512, options, true)
}

/// A cache file that was not closed and holds what the disk lacks.
async fn dirty() -> Rig {
    let rig = rig(WriteMode::Back);
    let disk = rig.open().await.unwrap();
    write(&disk, 0, &[2; 8]).await;
    flush(&disk).await;
    rig.after_cut(
        rig.storages()
            .iter()
            .map(|storage| storage.power_cut())
            .collect(),
    )
}

fn changed(rig: &Rig, change: impl FnOnce(&mut Stamp)) {
    let mut stamp = rig.stamp.get().unwrap();
    change(&mut stamp);
    rig.stamp.set(Some(stamp));
}

async fn refused(rig: &Rig) -> String {
    let opened = rig.open().await;
    let said = opened.err().expect("it is refused").to_string();
    assert!(said.starts_with("cache: "), "{said}");
    said
}

/// Opens it, and says whether a block that was read before is there.
async fn is_warm(rig: &Rig) -> bool {
    let disk = rig.open().await.unwrap();
    let before = rig.disk.counters().reads;
    read(&disk, 80).await.unwrap();
    let is_warm = rig.disk.counters().reads == before;
    disk.close().await.unwrap();
    is_warm
}

#[test]
fn a_cache_file_is_warm_unless_the_disk_has_changed() {
    simulated(1, async || {
        let mut rig = rig(WriteMode::Through);
        assert!(!is_warm(&rig).await);
        assert!(is_warm(&rig).await);
        changed(&rig, |stamp| stamp.changed_ns += 1);
        assert!(!is_warm(&rig).await);
        assert!(is_warm(&rig).await);
        changed(&rig, |stamp| stamp.inode += 1);
        assert!(!is_warm(&rig).await);
        // It was moved.
        rig.path = "/elsewhere".into();
        assert!(is_warm(&rig).await);
        // Another size of the cache.
        rig.options = CacheOptions::of_slots(33);
        assert!(!is_warm(&rig).await);
        // Nobody can know whether it was changed.
        rig.stamp.set(None);
        rig.path = "/elsewhere".into();
        assert!(!is_warm(&rig).await);
        assert!(!is_warm(&rig).await);
    });
}

#[test]
fn a_cache_that_was_not_closed_is_cold() {
    simulated(1, async || {
        let rig = rig(WriteMode::Through);
        assert!(!is_warm(&rig).await);
        let disk = rig.open().await.unwrap();
        read(&disk, 80).await.unwrap();
        drop(disk);
        assert!(!is_warm(&rig).await);
    });
}

#[test]
fn dirty_blocks_go_home_when_the_cache_is_opened_again() {
    for mode in [WriteMode::Through, WriteMode::Back] {
        simulated(1, async || {
            let rig = dirty().await;
            let rig = Rig {
                options: rig.options.clone().write_mode(mode),
                ..rig
            };
            assert_ne!(rig.on_disk().await[0], 2);
            let disk = rig.open().await.unwrap();
            assert_eq!(read(&disk, 0).await.unwrap(), 2);
            crate::timer::sleep(std::time::Duration::from_secs(5))
                .await
                .unwrap();
            assert_eq!(rig.on_disk().await[0], 2);
            disk.close().await.unwrap();
        });
    }
}

#[test]
fn dirty_blocks_never_go_to_a_disk_that_has_changed() {
    simulated(1, async || {
        let rig = dirty().await;
        let stamp = rig.stamp.get();
        // What was still on its way is no change.
        changed(&rig, |stamp| stamp.changed_ns += 9_000_000_000);
        drop(rig.open().await.unwrap());
        changed(&rig, |stamp| stamp.changed_ns += 11_000_000_000);
        let said = refused(&rig).await;
        assert!(
            said.contains("changed the disk since") && said.contains("touch -d"),
            "{said}"
        );
        rig.stamp.set(stamp);
        changed(&rig, |stamp| stamp.inode += 1);
        assert!(refused(&rig).await.contains("changed the disk since"));
        let moved = Rig {
            path: "/other/disk".into(),
            ..rig.clone()
        };
        let said = refused(&moved).await;
        assert!(
            said.contains("another disk, '/some/disk'; open that disk"),
            "{said}"
        );
        rig.stamp.set(stamp);
        let smaller = Rig {
            options: CacheOptions::of_slots(20),
            ..rig.clone()
        };
        assert!(refused(&smaller).await.contains("cache=131072"));
        let mut resized = Rig::new(3, 520, rig.options.clone(), true);
        resized.file.clone_from(&rig.file);
        resized.stamp.set(stamp);
        assert!(
            refused(&resized)
                .await
                .contains("266240 bytes now, not 262144")
        );
        drop(rig.open().await.unwrap());
    });
}

#[test]
fn what_is_no_cache_file_is_not_written_over() {
    simulated(1, async || {
        for bytes in [vec![1; 8192], vec![0; 8192], b"QFI\xfb".to_vec()] {
            let mut rig = rig(WriteMode::Through);
            rig.file = Some(SimulatedStorage::from_bytes(&bytes, 1).named("cache"));
            let said = refused(&rig).await;
            assert!(said.contains("not a cache file"), "{said}");
            assert_eq!(rig.file.as_ref().unwrap().to_bytes(), bytes);
        }
    });
}

#[test]
fn damaged_cache_files_are_refused() {
    simulated(1, async || {
        let rig = dirty().await;
        let file = rig.file.clone().unwrap();
        let bytes = file.to_bytes();
        for (range, part) in [(8..512, "header's checksum"), (4096..4608, "wrong")] {
            let rotten = SimulatedStorage::from_bytes(&bytes, 1).named("cache");
            rotten.rot(range, 1);
            let rig = Rig {
                file: Some(rotten),
                ..rig.clone()
            };
            let said = refused(&rig).await;
            assert!(said.contains(part), "{said}");
        }
        file.set_len(8192).await.unwrap();
        assert!(refused(&rig).await.contains("shorter"));
    });
}

#[test]
fn a_clean_cache_of_another_disk_is_refused() {
    simulated(1, async || {
        let rig = rig(WriteMode::Through);
        assert!(!is_warm(&rig).await);
        let mut other = rig.clone();
        other.path = "/other/disk".into();
        changed(&other, |stamp| stamp.inode += 1);
        assert!(refused(&other).await.contains("another disk"));
    });
}

/// Two at once would write over each other.
#[test]
fn a_cache_file_is_locked() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["a", "b"] {
        std::fs::write(path(name), vec![0; 1 << 20]).unwrap();
    }
    let executor = crate::Executor::with_backend(crate::Backend::Threads).unwrap();
    executor.run(async {
        let options = CacheOptions::new(1 << 20).file(path("cache"));
        let open = async |name: &str| {
            let options = &options;
            let disk = path(name);
            options
                .open(&disk, async || crate::OpenOptions::new(&disk).open().await)
                .await
        };
        let first = open("a").await.unwrap();
        let second = open("b").await;
        assert!(matches!(second, Err(Error::InUse { .. })));
        first.close().await.unwrap();
        open("a").await.unwrap().close().await.unwrap();
    });
}
