//! Reads, writes and syncs of the raw file.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::thread;

use images::packages::Tool;

use crate::setting::{FORMATS, Setting, can_mount, run};

const MIB: u64 = 1 << 20;

/// Numbers that look random, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Writes bytes anywhere, into the file and into `model`, and reads some of them back.
fn exercise(file: &File, model: &mut [u8], numbers: &mut Numbers) {
    let size = model.len() as u64;
    for round in 0..200_u64 {
        let len = match round % 10 {
            0 => numbers.below(2 * MIB),
            1..4 => 512 * (1 + numbers.below(64)),
            _ => 1 + numbers.below(9000),
        };
        let offset = match round % 3 {
            0 => numbers.below(size / 512) * 512,
            _ => numbers.below(size),
        };
        let end = (offset + len).min(size);
        let range = usize::try_from(offset).unwrap()..usize::try_from(end).unwrap();
        let byte = u8::try_from(round % 255).unwrap() + 1;
        model[range.clone()].fill(byte);
        file.write_all_at(&model[range.clone()], offset).unwrap();
        let start = numbers.below(offset + 1);
        let mut seen = vec![0; usize::try_from(end - start).unwrap().min(3 << 20)];
        file.read_exact_at(&mut seen, start).unwrap();
        let expected = &model[usize::try_from(start).unwrap()..][..seen.len()];
        assert!(seen == expected, "round {round}: {start}..{end}");
    }
}

#[test]
fn what_is_written_is_read_and_is_in_the_image() {
    if !can_mount("what_is_written_is_read_and_is_in_the_image") {
        return;
    }
    for (n, format) in FORMATS.into_iter().enumerate() {
        let setting = Setting::new();
        let image = setting.image(format, 16);
        let point = ["point", "points"][n % 2];
        let mounted = setting.mount_with(&[&image, point]);
        let mut model = vec![0; 16 << 20];
        exercise(&mounted.open(), &mut model, &mut Numbers(7 + n as u64));
        assert!(fs::read(mounted.path()).unwrap() == model);
        mounted.stop();
        setting.check(format.0);
        assert!(setting.content(format.0) == model, "{format:?}");
    }
}

#[test]
fn the_file_keeps_its_size() {
    if !can_mount("the_file_keeps_its_size") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("raw", ""), 4);
    let mounted = setting.mount(&image);
    let (mut file, size) = (mounted.open(), 4 * MIB);
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), size);
    assert_eq!(file.read(&mut [0; 10]).unwrap(), 0);
    // Up to the end, and not a byte further.
    assert_eq!(file.write_at(&[1; 5000], size - 100).unwrap(), 100);
    let mut seen = [0; 5000];
    assert_eq!(file.read_at(&mut seen, size - 150).unwrap(), 150);
    assert_eq!((seen[49], seen[50], seen[149]), (0, 1, 1));
    for offset in [size, size + 1, 1 << 40] {
        let error = file.write_at(&[1], offset).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(28), "ENOSPC");
        assert_eq!(file.read_at(&mut seen, offset).unwrap(), 0);
    }
    file.set_len(size).unwrap();
    for len in [0, size - 512, size + 1] {
        let error = file.set_len(len).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(1), "EPERM");
    }
    assert!(File::create(mounted.path()).is_err());
    assert_eq!(fs::metadata(mounted.path()).unwrap().len(), size);
    drop(file);
    mounted.stop();
    assert_eq!(fs::metadata(setting.path("image")).unwrap().len(), size);
}

#[test]
fn a_directory_holds_the_file_and_nothing_else() {
    if !can_mount("a_directory_holds_the_file_and_nothing_else") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("raw", ""), 1);
    fs::set_permissions(setting.path("image"), fs::Permissions::from_mode(0o640)).unwrap();
    let mounted = setting.mount_with(&[&image, "points"]);
    let points = setting.path("points");
    let names: Vec<_> = fs::read_dir(&points)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["disk.raw"]);
    assert!(mounted.path().ends_with("points/disk.raw"));
    let metadata = fs::metadata(mounted.path()).unwrap();
    assert_eq!(metadata.mode(), 0o100_640);
    let owner = fs::metadata(setting.path("image")).unwrap().uid();
    assert_eq!((metadata.uid(), metadata.len()), (owner, MIB));
    assert!(File::create(points.join("other")).is_err());
    assert!(fs::remove_file(mounted.path()).is_err());
    assert!(fs::rename(mounted.path(), points.join("other")).is_err());
    assert!(!fs::exists(points.join("other")).unwrap());
    // Its times can be set, as `touch` and `cp -p` do.
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 5000);
    mounted.open().set_modified(time).unwrap();
    assert_eq!(
        fs::metadata(mounted.path()).unwrap().modified().unwrap(),
        time
    );
    mounted.stop();
}

#[test]
fn a_read_only_file_cannot_be_changed() {
    if !can_mount("a_read_only_file_cannot_be_changed") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("qcow2", ""), 1);
    let before = fs::read(setting.path("image")).unwrap();
    let also = format!("{image},readonly");
    for words in [&["--readonly", &image, "points"][..], &[&also, "point"]] {
        let mounted = setting.mount_with(words);
        assert_eq!(fs::read(mounted.path()).unwrap().len(), 1 << 20);
        let error = File::options().write(true).open(mounted.path());
        assert_eq!(error.unwrap_err().raw_os_error(), Some(30), "EROFS");
        assert_eq!(fs::metadata(mounted.path()).unwrap().mode() & 0o222, 0);
        mounted.stop();
    }
    assert!(before == fs::read(setting.path("image")).unwrap());
}

#[test]
fn syncs_are_counted_and_reach_the_host() {
    const THREADS: u64 = 16;
    const ROUNDS: u64 = 25;
    if !can_mount("syncs_are_counted_and_reach_the_host") {
        return;
    }
    for format in FORMATS {
        let setting = Setting::new();
        let image = setting.image(format, 32);
        let mounted = setting.mount_with(&["--stats", "stats", &image, "point"]);
        let file = mounted.open();
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let file = &file;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let place = (thread * ROUNDS + round) << 16;
                        file.write_all_at(&[1; 4096], place).unwrap();
                        file.sync_all().unwrap();
                    }
                });
            }
        });
        drop(file);
        mounted.stop();
        let counts = setting.statistics();
        assert_eq!(counts["writes"], THREADS * ROUNDS, "{counts}");
        assert_eq!(counts["written_bytes"], THREADS * ROUNDS * 4096, "{counts}");
        // Each of them once, and one at the end.
        let flushes = counts["flushes"].as_u64().unwrap();
        assert!(flushes >= THREADS * ROUNDS, "{counts}");
        let syncs = counts["host_syncs"].as_u64().unwrap();
        assert!(syncs >= ROUNDS && syncs <= flushes, "{counts}");
    }
}

#[test]
fn fio_finds_what_it_wrote() {
    if !can_mount("fio_finds_what_it_wrote") {
        return;
    }
    for (format, engine) in FORMATS.into_iter().zip(["libaio", "mmap", "io_uring"]) {
        let setting = Setting::new();
        let image = setting.image(format, 32);
        let mounted = setting.mount(&image);
        let file = format!("--filename={}", mounted.path().display());
        let engine_word = format!("--ioengine={engine}");
        let direct = format!("--direct={}", u8::from(engine != "mmap"));
        let words = [
            "--name=job",
            &engine_word,
            &direct,
            &file,
            "--rw=randwrite",
            "--bssplit=4k/60:12k/10:64k/15:256k/5",
            "--iodepth=32",
            "--size=32m",
            "--io_size=48m",
            "--norandommap=0",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--fsync=64",
            "--allow_file_create=0",
            "--overwrite=1",
        ];
        run(Tool::Fio, &words);
        mounted.stop();
        setting.check(format.0);
    }
}
