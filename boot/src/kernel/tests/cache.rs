//! Boots through the cache of decompressed kernels.

use std::fs::{self, File, FileTimes};
use std::time::{Duration, SystemTime};

use super::*;

fn cached_scene() -> Scene {
    let file = bzimage(&pack(Compression::Lz4, &vmlinux()), |_| {});
    let scene = Scene {
        cache: true,
        ..Scene::new(&file)
    };
    scene.load().unwrap();
    scene
}

/// The files in the cache.
fn entries(scene: &Scene) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(scene.cache_dir()).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Destroys the payload such that nothing but a look at it shows it.
fn destroy_payload(scene: &Scene) {
    let path = scene.kernel();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[5000..6000].fill(0xff);
    assert!(bytes.len() > 6000 + 4096);
    fs::write(&path, bytes).unwrap();
    let times = FileTimes::new().set_modified(modified);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_times(times)
        .unwrap();
}

#[test]
fn the_second_boot_does_not_decompress() {
    let scene = cached_scene();
    let (first, _) = scene.load().unwrap();
    destroy_payload(&scene);
    let (second, contents) = scene.load().unwrap();
    assert!(contents == expected());
    assert_eq!((second.entry, second.span), (first.entry, first.span));
    assert_eq!(second.header, first.header);
    fs::remove_dir_all(scene.cache_dir()).unwrap();
    scene
        .load_into(&memory())
        .expect_err("the payload is destroyed");
}

#[test]
fn zeroes_are_not_kept() {
    let scene = cached_scene();
    let cached = fs::metadata(&entries(&scene)[0]).unwrap().len();
    // Of the seven chunks of text two are zero, and so is all from there to the data.
    assert_eq!(cached, 4096 + 5 * 65536 + 5000 + 8192);
}

#[test]
fn a_damaged_entry_is_found_out_and_replaced() {
    let scene = cached_scene();
    let path = entries(&scene).remove(0);
    let good = fs::read(&path).unwrap();
    let mut damaged: Vec<Vec<u8>> = vec![Vec::new(), good[..100].to_vec(), good[..5000].to_vec()];
    damaged.push(good[..good.len() - 1].to_vec());
    for offset in [
        0,
        10,
        50,
        70,
        200,
        2000,
        2112,
        2119,
        4096,
        70_000,
        good.len() - 1,
    ] {
        let mut bytes = good.clone();
        bytes[offset] ^= 0x10;
        damaged.push(bytes);
    }
    for bytes in damaged {
        fs::write(&path, &bytes).unwrap();
        let (kernel, contents) = scene.load().unwrap();
        assert!(contents == expected(), "{} bytes", bytes.len());
        assert_eq!(kernel.entry, ENTRY);
        assert!(fs::read(&path).unwrap() == good);
    }
}

/// The bytes are those of the kernel, but where the kernel has zeroes the entry has others: they
/// must not stay when the kernel is decompressed in its place.
#[test]
fn nothing_stays_of_a_damaged_entry() {
    let scene = cached_scene();
    let path = entries(&scene).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    // The chunk that holds the data segment's last bytes also holds zeroed memory.
    let last = bytes.len() - 1;
    bytes[last] = 0x99;
    fs::write(&path, bytes).unwrap();
    assert!(scene.load().unwrap().1 == expected());
}

#[test]
fn another_kernel_is_not_taken_for_the_cached_one() {
    let scene = cached_scene();
    let other = elf(3 * MIB, &[(3 * MIB, &[0xab; 9000], 0)]);
    scene.write(&bzimage(&pack(Compression::Gzip, &other), |_| {}));
    let (kernel, contents) = scene.load().unwrap();
    assert_eq!(kernel.entry, 3 * MIB);
    assert_eq!(contents[3 << 20..][..9000], [0xab; 9000]);
    assert_eq!(entries(&scene).len(), 2);
}

/// The name is a checksum, which two kernels may share.
#[test]
fn an_entry_of_another_kernel_with_the_same_name_is_not_taken() {
    let scene = cached_scene();
    let first = entries(&scene).remove(0);
    let other = elf(3 * MIB, &[(3 * MIB, &[0xab; 9000], 0)]);
    scene.write(&bzimage(&pack(Compression::Gzip, &other), |_| {}));
    scene.load().unwrap();
    let second = entries(&scene)
        .into_iter()
        .find(|path| *path != first)
        .unwrap();
    fs::copy(&first, &second).unwrap();
    assert_eq!(scene.load().unwrap().0.entry, 3 * MIB);
}

#[test]
fn a_directory_that_cannot_be_written_is_no_error() {
    let scene = cached_scene();
    fs::remove_dir_all(scene.cache_dir()).unwrap();
    // Not even root can make a directory of a file.
    fs::write(scene.cache_dir(), b"a file").unwrap();
    assert!(scene.load().unwrap().1 == expected());
}

#[test]
fn old_entries_make_room() {
    let scene = cached_scene();
    let first = entries(&scene).remove(0);
    let age = |path: &Path, seconds| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let file = File::options().write(true).open(path).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
    };
    age(&first, 1000);
    fs::write(scene.cache_dir().join("unrelated"), b"").unwrap();
    for version in 1..=4 {
        let file = bzimage(&pack(Compression::Lz4, &vmlinux()), |h| {
            h.kernel_version = version;
        });
        scene.write(&file);
        scene.load().unwrap();
    }
    let left = entries(&scene);
    assert_eq!(left.len(), 5, "four kernels and what is not ours");
    assert!(!left.contains(&first));
}

#[test]
fn a_cached_kernel_that_does_not_fit_is_refused_as_any_other() {
    let scene = cached_scene();
    let (path, cache_dir) = (scene.kernel(), scene.cache_dir());
    let image = Image {
        kernel: &path,
        initrd: None,
        cmdline: "",
        kaslr: false,
        cache_dir: Some(&cache_dir),
    };
    let error = load(&memory(), &image, 4 * MIB).unwrap_err();
    assert!(matches!(error, Error::KernelTooLarge { .. }), "{error}");
}
