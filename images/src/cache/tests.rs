use std::cell::Cell;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::*;

fn cache() -> (tempfile::TempDir, Cache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path()).unwrap();
    (directory, cache)
}

fn write_hello(entry: &Path) -> Result<()> {
    let path = entry.join("sub/hello");
    fs::create_dir(entry.join("sub")).map_err(Error::io("create", entry))?;
    fs::write(&path, "hello").map_err(Error::io("write", &path))
}

#[test]
fn an_entry_is_built_once() {
    let (_directory, cache) = cache();
    let built = Cell::new(0);
    for _ in 0..3 {
        let entry = cache
            .entry("greeting", |entry| {
                built.set(built.get() + 1);
                write_hello(entry)
            })
            .unwrap();
        assert_eq!(
            fs::read_to_string(entry.join("sub/hello")).unwrap(),
            "hello"
        );
    }
    assert_eq!(built.get(), 1);
}

#[test]
fn a_failed_build_leaves_no_entry_and_the_next_one_starts_afresh() {
    let (_directory, cache) = cache();
    let failed = cache.entry("greeting", |entry| {
        fs::write(entry.join("rest"), "half").unwrap();
        Err(Error::format(entry, "no"))
    });
    assert!(failed.is_err());
    assert!(!cache.root().join("greeting").exists());
    assert!(!cache.root().join("greeting.partial").exists());
    let entry = cache.entry("greeting", write_hello).unwrap();
    assert!(!entry.join("rest").exists());
}

/// Each kind of damage makes the entry be built again.
#[test]
fn a_damaged_entry_is_built_again() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("changed", |entry| {
            fs::write(entry.join("sub/hello"), "hellO").unwrap();
        }),
        ("truncated", |entry| {
            fs::write(entry.join("sub/hello"), "hell").unwrap();
        }),
        ("lost", |entry| {
            fs::remove_file(entry.join("sub/hello")).unwrap();
        }),
        ("unfinished", |entry| {
            fs::remove_file(entry.join(".manifest")).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let (_directory, cache) = cache();
        damage(&cache.entry("greeting", write_hello).unwrap());
        let entry = cache.entry("greeting", write_hello).unwrap();
        let text = fs::read_to_string(entry.join("sub/hello")).unwrap();
        assert_eq!(text, "hello", "after the entry was {name}");
    }
}

#[test]
fn two_users_at_once_share_one_build() {
    let (_directory, cache) = cache();
    let (built, start) = (AtomicU32::new(0), Barrier::new(8));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                let entry = cache
                    .entry("greeting", |entry| {
                        built.fetch_add(1, Ordering::Relaxed);
                        // Nobody else may even check the entry now.
                        let lock = File::open(cache.root().join("greeting.lock")).unwrap();
                        assert!(lock.try_lock_shared().is_err());
                        write_hello(entry)
                    })
                    .unwrap();
                assert!(entry.join("sub/hello").exists());
            });
        }
    });
    assert_eq!(built.load(Ordering::Relaxed), 1);
}
