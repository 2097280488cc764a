//! `guest-syscalls` on this machine, where nobody watches its system calls: what it says of a guest
//! counts only if all of it passes here.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use insight_hints::Class;
use tempfile::TempDir;
use tests::report::skip;
use tests::seeds;
use tests::syscalls::content::{BLOCK_BYTES, Truth, is_whole, truth};

const PROGRAM: &str = env!("CARGO_BIN_EXE_guest-syscalls");

/// A directory of this machine, in which the program runs.
struct Place(TempDir);

/// What the last line said.
type Values = BTreeMap<String, String>;

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn output(&self, program: &Path, words: &str) -> Output {
        let mut command = Command::new(program);
        command.current_dir(self.0.path());
        command.args(words.split_whitespace()).output().unwrap()
    }

    /// Runs the program to its success.
    #[track_caller]
    fn run(&self, words: &str) -> Values {
        let output = self.output(Path::new(PROGRAM), words);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{words}: {text}");
        let (word, values) = text.trim_end().split_once(' ').unwrap();
        assert!(words.starts_with(word), "{words}: {text}");
        values.split(' ').map(pair).collect()
    }

    /// Runs the program to its failure; returns what it says of that.
    #[track_caller]
    fn refuse(&self, words: &str) -> String {
        let output = self.output(Path::new(PROGRAM), words);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words}: {text}");
        text
    }

    /// The same, where it may be that this machine does not have what it takes.
    fn run_if_there(&self, name: &str, words: &str, missing: &[&str]) {
        let output = self.output(Path::new(PROGRAM), words);
        let text = String::from_utf8(output.stdout).unwrap();
        if missing.iter().any(|reason| text.contains(reason)) {
            return skip(name, text.trim_end());
        }
        assert!(output.status.success(), "{words}: {text}");
    }
}

fn pair(word: &str) -> (String, String) {
    let (key, value) = word.split_once('=').unwrap();
    (key.to_owned(), value.to_owned())
}

/// Every block of every file below a directory, with the number of its file and its own.
fn blocks(directory: &Path) -> Vec<(u32, u32, Vec<u8>)> {
    let mut blocks = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        for file in fs::read_dir(entry.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let file = name.strip_prefix('f').unwrap().parse().unwrap();
            let bytes = fs::read(&path).unwrap();
            let pieces = bytes.chunks(BLOCK_BYTES);
            blocks.extend(
                (0..)
                    .zip(pieces)
                    .map(|(at, block)| (file, at, block.to_owned())),
            );
        }
    }
    blocks
}

#[test]
fn calls_are_timed() {
    let place = Place::new();
    for call in ["getppid", "write", "read", "lseek"] {
        let values = place.run(&format!("loop {call} 1000"));
        assert_eq!((&*values["call"], &*values["count"]), (call, "1000"));
        let ns: u64 = values["ns"].parse().unwrap();
        assert_eq!(values["ns_per_call"], (ns / 1000).to_string());
    }
    assert!(place.refuse("loop fork 1").contains("not one of"));
    assert!(place.refuse("loop read 0").contains("no calls"));
}

#[test]
fn stress_finds_no_fault_here() {
    for seed in seeds::chosen(3) {
        let values = Place::new().run(&format!("stress 4 100 {seed}"));
        for (key, count) in [
            ("restarts", "100"),
            ("interrupted", "100"),
            ("forks", "10"),
            ("execs", "10"),
            ("threads_made", "10"),
            ("probes", "100"),
        ] {
            assert_eq!(values[key], count, "MICROVM_SEED={seed}: {key}");
        }
        // Each read that began again and each that failed took one.
        assert!(values["signals"].parse::<u32>().unwrap() >= 200);
    }
}

#[test]
fn descriptors_stand_for_what_they_were_given_here() {
    for seed in seeds::chosen(3) {
        let values = Place::new().run(&format!("descriptors . 2000 {seed}"));
        for file in ["first", "second"] {
            assert!(values[file].parse::<u64>().unwrap() > 1 << 20, "{seed}");
        }
    }
}

#[test]
fn files_are_the_same_however_they_were_made() {
    const MODES: [&str; 12] = [
        "write",
        "pwrite",
        "writev",
        "pwritev",
        "append",
        "mmap",
        "sendfile",
        "copy-file-range",
        "splice",
        "dup",
        "fork",
        "truncate-grow",
    ];
    let place = Place::new();
    let mut first: Option<Vec<_>> = None;
    for mode in MODES {
        let made = place.run(&format!("generate {mode} 23 1 90 5000 {mode} 7"));
        let read = place.run(&format!("read {mode}"));
        assert_eq!(made["mode"], mode);
        assert_eq!(
            (&made["files"], &made["bytes"]),
            (&read["files"], &read["bytes"])
        );
        assert_eq!(made["blocks"], read["marks"], "{mode}");
        let mut blocks = blocks(&place.path(mode));
        blocks.sort_unstable();
        assert_eq!(blocks.len().to_string(), made["blocks"]);
        for (file, at, block) in &blocks {
            let expected = Truth {
                file: Some(*file),
                block: *at,
                class: Class::Below1Mib,
            };
            assert_eq!(truth(block), Some(expected), "{mode}");
            assert!(is_whole(block), "{mode}: block {at} of file {file}");
        }
        assert!(
            first.get_or_insert_with(|| blocks.clone()) == &blocks,
            "{mode}"
        );
    }
}

#[test]
fn files_around_the_cache_are_whole_blocks() {
    const TEST: &str = "files_around_the_cache_are_whole_blocks";
    let place = Place::new();
    let words = "generate direct 5 1 2500 100000 direct 7";
    let text = place.output(Path::new(PROGRAM), words).stdout;
    if String::from_utf8_lossy(&text).contains("Invalid argument") {
        return skip(TEST, "no O_DIRECT in the directory for temporary files");
    }
    let (read, found) = (place.run("read direct"), blocks(&place.path("direct")));
    assert_eq!(read["marks"], found.len().to_string());
    assert!(found.iter().all(|(_, _, block)| block.len() == BLOCK_BYTES));
}

#[test]
fn blocks_without_a_mark_and_blocks_that_are_all_the_same() {
    let place = Place::new();
    place.run("generate zeros 3 9 9 4096 zeros 7");
    assert_eq!(place.run("read zeros")["marks"], "0");
    assert!(
        blocks(&place.path("zeros"))
            .iter()
            .all(|(_, _, block)| truth(block).is_none())
    );
    place.run("generate same 3 8 8 4096 duplicates 7");
    assert_eq!(place.run("read same")["marks"], "6");
    let same = blocks(&place.path("same"));
    assert!(same.iter().all(|(_, _, block)| *block == same[0].2));
}

#[test]
fn classes_follow_sizes() {
    let place = Place::new();
    for (kib, class) in [(1023, 4), (1024, 3), (5119, 2), (10_239, 1), (10_240, 0)] {
        place.run(&format!("generate {kib} 1 {kib} {kib} 1000000 write 7"));
        place.run(&format!("read {kib}"));
        let found = blocks(&place.path(&kib.to_string()));
        let classes = found
            .iter()
            .map(|(_, _, block)| truth(block).unwrap().class as u8);
        assert!(classes.into_iter().all(|found| found == class), "{kib} KiB");
    }
}

#[test]
fn a_file_that_is_not_as_it_was_made_is_found() {
    let place = Place::new();
    place.run("generate good 2 12 12 4096 write 7");
    let (first, second) = (place.path("good/d0/f0"), place.path("good/d1/f1"));
    let good = fs::read(&first).unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(&first, bytes).unwrap();
        place.refuse("read good")
    };
    assert!(with(&|bytes| bytes[5000] ^= 1).contains("at 4096 there is a part"));
    assert!(with(&|bytes| bytes[4096] ^= 1).contains("at 4096 there is no mark"));
    assert!(with(&|bytes| bytes[4096..8192].fill(0)).contains("at 4096 there is no mark"));
    assert!(with(&|bytes| bytes.swap_with_slice(&mut fs::read(&second).unwrap())).contains("at 0"));
    assert!(with(&|bytes| bytes.rotate_left(4096)).contains("at 0 there is Truth"));
    assert!(with(&|bytes| bytes.resize(1 << 20, 0)).contains("the class is"));
    fs::write(&first, &good).unwrap();
    place.run("read good");
}

#[test]
fn trees_are_walked_copied_encrypted_and_removed() {
    let place = Place::new();
    let made = place.run("generate from 30 1 60 4096 write 7");
    let found = place.run("find from");
    assert_eq!((&*found["files"], &*found["directories"]), ("30", "21"));
    assert_eq!(found["bytes"], made["bytes"]);

    place.run("copy from copied 1000");
    assert_eq!(place.run("read copied")["bytes"], made["bytes"]);
    place.run("copy from/d3/f3 alone 65536");
    assert_eq!(
        fs::read(place.path("alone")).unwrap(),
        fs::read(place.path("from/d3/f3")).unwrap()
    );

    let encrypted = place.run("encrypt from secret");
    assert_eq!(encrypted["bytes"], made["bytes"]);
    assert!(
        blocks(&place.path("secret"))
            .iter()
            .all(|(_, _, block)| truth(block).is_none())
    );
    place.run("encrypt secret plain");
    assert_eq!(place.run("read plain")["bytes"], made["bytes"]);

    assert_eq!(place.run("remove from")["files"], "30");
    assert!(!place.path("from").exists() && place.path("copied").exists());
    assert!(place.refuse("find from").contains("No such file"));
}

#[test]
fn it_encrypts_under_the_name_of_a_program_that_does() {
    let place = Place::new();
    place.run("generate from 1 60 60 4096 write 7");
    symlink(PROGRAM, place.path("gpg")).unwrap();
    for words in ["from/d0/f0 secret", "encrypt from/d0/f0 secret"] {
        let output = place.output(&place.path("gpg"), words);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("encrypt files=1 bytes=61440"), "{text}");
        assert!(text.ends_with("process=gpg\n"), "{text}");
    }
    let other = place.run("encrypt from/d0/f0 other");
    assert_eq!(other["process"], "guest-syscalls"[..14]);
    assert!(fs::read(place.path("secret")).unwrap() == fs::read(place.path("other")).unwrap());
}

#[test]
fn hints_are_in_the_marks() {
    let place = Place::new();
    for class in Class::ALL {
        let values = place.run(&format!("hint hinted {} 20", class as u8));
        assert_eq!(values["bytes"], "81920");
        let bytes = fs::read(place.path("hinted")).unwrap();
        assert_eq!(bytes.len(), 81_920);
        for (at, block) in (0..).zip(bytes.chunks(BLOCK_BYTES)) {
            let file = Some(0);
            let block_truth = Truth {
                file,
                block: at,
                class,
            };
            assert_eq!(truth(block), Some(block_truth));
        }
    }
    assert!(place.refuse("hint hinted 6 1").contains("6 is no class"));
    let values = place.run("open-hint hinted prefetch 3");
    assert_eq!(values["bytes"], "12288");
    let bytes = fs::read(place.path("hinted")).unwrap();
    assert_eq!(bytes, [b'x'; 3 * BLOCK_BYTES]);
    assert!(place.refuse("open-hint hinted maybe 1").contains("maybe"));
}

#[test]
fn confined_processes_live() {
    let place = Place::new();
    assert_eq!(place.run("seccomp")["calls"], "200");
    assert_eq!(place.run("seccomp-filter")["signals"], "3");
}

#[test]
fn a_debugger_sees_what_the_child_does() {
    // 20 rounds of 8 calls, and the one that ends it.
    assert_eq!(Place::new().run("traced")["calls"], "161");
}

#[test]
fn calls_by_interrupt() {
    let missing = ["was killed by signal 11"];
    Place::new().run_if_there("calls_by_interrupt", "int80", &missing);
}

#[test]
fn the_register_of_the_entry() {
    let missing = ["msr: open", "addresses are hidden"];
    Place::new().run_if_there("the_register_of_the_entry", "read-lstar", &missing);
}

#[test]
fn writes_to_ports() {
    // The port of diagnostic codes, which every machine lets be written.
    let missing = ["not implemented", "not permitted"];
    Place::new().run_if_there("writes_to_ports", "port-attack 0x80", &missing);
}

#[test]
fn processes_become_others() {
    let place = Place::new();
    assert_eq!(place.run("exec-chain 20")["execs"], "20");
    assert_eq!(place.run("exec-chain 0")["execs"], "0");
    place.run("setsid");
    assert_eq!(
        fs::read_dir(place.path("")).unwrap().count(),
        0,
        "files are left"
    );
}

#[test]
fn what_it_cannot_do_is_said() {
    let place = Place::new();
    assert!(place.refuse("").contains("what it can do"));
    assert!(place.refuse("dance").contains("what it can do"));
    assert!(
        place
            .refuse("generate d 1 1 1 1 paint 7")
            .contains("not one of write, ")
    );
    assert!(
        place
            .refuse("generate d 1 2 1 1 write 7")
            .contains("above the greatest")
    );
    assert!(place.refuse("port-attack 0x10000").contains("too large"));
}
