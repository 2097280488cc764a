//! What is done on a file system: all that moves blocks between content and metadata.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::truth::MARK;

/// Says which round, the size of a unit in bytes, and the directory.
const VARIABLE: &str = "MICROVM_LOAD";

/// Small numbers that look random, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

struct Load {
    directory: PathBuf,
    unit_bytes: usize,
    numbers: Numbers,
    files: u64,
}

/// Does all of it. A program of its own, so that it can be in a namespace of its own.
#[test]
#[ignore = "is started by the tests that need it"]
fn run() {
    let words = std::env::var(VARIABLE).unwrap();
    let [round, unit_bytes, directory] = words.splitn(3, ' ').collect::<Vec<_>>()[..] else {
        panic!("{VARIABLE}={words}");
    };
    let round: u64 = round.parse().unwrap();
    let mut load = Load {
        directory: directory.into(),
        unit_bytes: unit_bytes.parse().unwrap(),
        numbers: Numbers(round),
        files: round << 32,
    };
    load.read_all();
    load.small_files(round);
    load.large_directory(round);
    load.attributes_and_links(round);
    load.large_file(round);
    load.scattered_file(round);
    load.mapped_file(round);
    load.delete_some(round);
    load.fill_what_is_free(round);
    load.journal(round);
}

impl Load {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Content in which each unit begins with the mark. A third of it has the same everywhere.
    fn content(&mut self, len: usize) -> Vec<u8> {
        self.files += 1;
        let mut bytes = vec![0; len];
        let same = self.numbers.below(3) == 0;
        for (number, unit) in (0_u64..).zip(bytes.chunks_mut(self.unit_bytes)) {
            let filler = if same { 7 } else { self.numbers.below(256) };
            unit.fill(u8::try_from(filler).unwrap());
            let numbers = [self.files, number].map(u64::to_le_bytes).concat();
            for (to, from) in unit.iter_mut().zip(MARK.iter().chain(&numbers)) {
                *to = *from;
            }
        }
        bytes
    }

    /// Everything is found and read once.
    fn read_all(&self) {
        let mut directories = vec![self.directory.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap().file_type();
                if kind.is_dir() {
                    directories.push(path);
                } else if kind.is_symlink() {
                    fs::read_link(path).unwrap();
                } else {
                    fs::read(&path).unwrap();
                    let mut value = [0; 4096];
                    let _ = rustix::fs::getxattr(&path, "user.value", &mut value);
                }
            }
        }
    }

    fn small_files(&mut self, round: u64) {
        for number in 0..1200 {
            let directory = self.path(&format!("small{round}-{}", number % 12));
            fs::create_dir_all(&directory).unwrap();
            // The last unit has a whole mark too.
            let len = self.unit_bytes * self.numbers.below(12) + 16 + self.numbers.below(1000);
            let mut file = File::create(directory.join(number.to_string())).unwrap();
            file.write_all(&self.content(len)).unwrap();
            if number % 8 == 0 {
                file.sync_all().unwrap();
            }
        }
    }

    /// Ten thousand names; directories that become large and small again.
    fn large_directory(&mut self, round: u64) {
        let directory = self.path(&format!("large{round}"));
        fs::create_dir(&directory).unwrap();
        let first = directory.join("first");
        File::create(&first).unwrap();
        for number in 0..10_000 {
            let name = format!("a name that takes some room in a directory {number}");
            if number % 4 == 0 {
                File::create(directory.join(name)).unwrap();
            } else {
                // A file has so many links at most.
                let target = directory.join(format!("first{}", number / 10_000));
                if !target.exists() {
                    File::create(&target).unwrap();
                }
                fs::hard_link(target, directory.join(name)).unwrap();
            }
        }
        sync(&directory);
        if round > 0 {
            fs::remove_dir_all(self.path(&format!("large{}", round - 1))).unwrap();
            sync(&self.directory);
        }
    }

    fn attributes_and_links(&self, round: u64) {
        let directory = self.path(&format!("attributes{round}"));
        fs::create_dir(&directory).unwrap();
        for number in 0..300_usize {
            let path = directory.join(number.to_string());
            File::create(&path).unwrap();
            let value = vec![b'v'; (self.unit_bytes / 2).min(100 + number * 9)];
            let flags = rustix::fs::XattrFlags::empty();
            // A file system may have no room for so much.
            let _ = rustix::fs::setxattr(&path, "user.value", &value, flags);
            symlink(
                "long/".repeat(30 + number % 50),
                directory.join(format!("link{number}")),
            )
            .unwrap();
        }
        for number in (0..300).step_by(3) {
            let path = directory.join(number.to_string());
            let _ = rustix::fs::removexattr(&path, "user.value");
            fs::rename(&path, directory.join(format!("renamed{number}"))).unwrap();
        }
        sync(&directory);
    }

    fn large_file(&mut self, round: u64) {
        let path = self.path(&format!("large-file{round}"));
        let mut file = File::create(&path).unwrap();
        for _ in 0..24 {
            let content = self.content(1 << 20);
            file.write_all(&content).unwrap();
        }
        file.sync_all().unwrap();
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .unwrap();
        for _ in 0..400 {
            let content = self.content(4096);
            let mut memory = vec![0; 8192];
            let start = memory.as_ptr().align_offset(4096);
            memory[start..start + 4096].copy_from_slice(&content);
            let at = self.numbers.below(24 << 8) as u64 * 4096;
            file.write_all_at(&memory[start..start + 4096], at).unwrap();
        }
        if round > 0 {
            fs::remove_file(self.path(&format!("large-file{}", round - 1))).unwrap();
        }
    }

    /// Every other block, so that the map is large; and then a part of it away.
    fn scattered_file(&mut self, round: u64) {
        let path = self.path(&format!("scattered{round}"));
        let file = File::create(&path).unwrap();
        for number in 0..3000 {
            let content = self.content(4096);
            file.write_all_at(&content, number * 8192).unwrap();
            if number % 500 == 0 {
                file.sync_all().unwrap();
            }
        }
        file.sync_all().unwrap();
        // Zeros are content too.
        file.write_all_at(&vec![0; 1 << 20], 3000 * 8192).unwrap();
        file.set_len(1000 * 8192).unwrap();
        file.sync_all().unwrap();
    }

    #[expect(unsafe_code, reason = "maps a file")]
    fn mapped_file(&mut self, round: u64) {
        let path = self.path(&format!("mapped{round}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path);
        let file = file.unwrap();
        file.set_len(4 << 20).unwrap();
        // SAFETY: nobody else has the file.
        let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
        let content = self.content(map.len());
        map.copy_from_slice(&content);
        map.flush().unwrap();
        let again = self.content(1 << 20);
        map[1 << 20..2 << 20].copy_from_slice(&again);
    }

    fn delete_some(&mut self, round: u64) {
        for number in (0..1200).filter(|number| number % 3 != 0) {
            let directory = self.path(&format!("small{round}-{}", number % 12));
            fs::remove_file(directory.join(number.to_string())).unwrap();
        }
        if round > 0 {
            for number in 0..12 {
                let directory = self.path(&format!("small{}-{number}", round - 1));
                fs::remove_dir_all(directory).unwrap();
            }
            fs::remove_dir_all(self.path(&format!("attributes{}", round - 1))).unwrap();
            let _ = fs::remove_file(self.path(&format!("scattered{}", round - 1)));
        }
        sync(&self.directory);
    }

    /// What was metadata is content now.
    fn fill_what_is_free(&mut self, round: u64) {
        let path = self.path("filler");
        let _ = fs::remove_file(&path);
        sync(&self.directory);
        let mut file = File::create(&path).unwrap();
        let mut left = 900;
        while left > 0 {
            let content = self.content(1 << 20);
            if file.write_all(&content).is_err() || file.sync_data().is_err() {
                break;
            }
            left -= 1;
        }
        drop(file);
        if round < 2 {
            // Some of it is free again for the next round.
            fs::remove_file(&path).unwrap();
            sync(&self.directory);
        }
    }

    /// As a database's journal: appends, each made durable.
    fn journal(&mut self, round: u64) {
        if round == 2 {
            fs::remove_file(self.path("filler")).unwrap();
        }
        let mut file = File::create(self.path(&format!("journal{round}"))).unwrap();
        for _ in 0..300 {
            let content = self.content(4096);
            file.write_all(&content).unwrap();
            file.sync_data().unwrap();
        }
    }
}

fn sync(path: &Path) {
    let directory = File::open(path).unwrap();
    rustix::fs::syncfs(&directory).unwrap();
}
