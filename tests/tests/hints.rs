//! Hints are in the registers where they are looked for: from Rust, and from C with this machine's
//! compilers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::{Command, Stdio};

use insight_hints::{Class, MAGIC};
use tests::artifacts::workspace_dir;
use tests::report::skip;
use tests::syscalls::calls_of;

/// Takes what the header must be compiled with at its strictest, and prints its numbers.
const PROGRAM: &str = r#"
#include <insight_hints.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int fail(const char *what) { perror(what); return 1; }

int main(int argc, char **argv)
{
	const enum insight_class classes[] = {INSIGHT_OTHER, INSIGHT_BELOW_10_MIB,
		INSIGHT_BELOW_5_MIB, INSIGHT_BELOW_2_MIB, INSIGHT_BELOW_1_MIB, INSIGHT_METADATA};
	char found[32] = "";
	unsigned at;
	int fd;

	if (argc != 2 || (fd = iopen(argv[1], O_RDWR | O_CREAT, 0600, INSIGHT_METADATA)) < 0)
		return fail("iopen");
	for (at = 0; at < 6; at++)
		if (iwrite(fd, "twelve bytes", 12, classes[at]) != 12 || write(fd, "", 0))
			return fail("iwrite");
	if (ipwrite(fd, "dozen!", 6, 72, INSIGHT_OTHER) != 6)
		return fail("ipwrite");
	if (iread(fd, found, sizeof found, INSIGHT_OTHER) != 6 || memcmp(found, "dozen!", 6))
		return fail("iread");
	if (ipread(fd, found, 5, 67, INSIGHT_OTHER) != 5 || memcmp(found, "bytes", 5))
		return fail("ipread");
	if (iwrite(fd, "", 0, INSIGHT_BY_SIZE | INSIGHT_NO_DEDUP))
		return fail("iwrite with no class");
	if (iread(fd, found, 0, INSIGHT_BELOW_1_MIB | INSIGHT_PREFETCH))
		return fail("iread of a copy");
	if (iwrite(-1, "", 1, INSIGHT_OTHER) != -1 || errno != EBADF)
		return fail("iwrite to nowhere");
	printf("%#lx", INSIGHT_MAGIC);
	for (at = 0; at < 6; at++)
		printf(" %d", (int)classes[at]);
	return 0;
}
"#;

/// The calls of it that have a hint, each with that. What follows one has none by accident.
const HINTS_OF_PROGRAM: [(i64, u64); 13] = [
    (libc::SYS_openat, 5),
    (libc::SYS_write, 0),
    (libc::SYS_write, 1),
    (libc::SYS_write, 2),
    (libc::SYS_write, 3),
    (libc::SYS_write, 4),
    (libc::SYS_write, 5),
    (libc::SYS_pwrite64, 0),
    (libc::SYS_read, 0),
    (libc::SYS_pread64, 0),
    (libc::SYS_write, 0x1f),
    (libc::SYS_read, 0x24),
    (libc::SYS_write, 0),
];

/// The calls of a program that have a hint, each with that.
fn hinted(command: &mut Command) -> Vec<(i64, u64)> {
    let seen = calls_of(command.stdout(Stdio::null())).unwrap();
    let hinted = seen.iter().filter(|call| call.arguments[4] == MAGIC);
    let pairs = hinted.map(|call| (call.number.cast_signed(), call.arguments[5]));
    pairs.collect()
}

#[test]
fn the_crate_puts_hints_where_they_are_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_guest-syscalls"));
    let command = command.current_dir(directory.path());
    let calls = [
        libc::SYS_openat,
        libc::SYS_write,
        libc::SYS_pwrite64,
        libc::SYS_pread64,
        libc::SYS_read,
        libc::SYS_pread64,
        libc::SYS_read,
    ];
    let found = hinted(command.args(["hint", "file", "3", "2"]));
    assert_eq!(found, calls.map(|call| (call, 3)));
    let mut command = Command::new(env!("CARGO_BIN_EXE_guest-syscalls"));
    let command = command.current_dir(directory.path());
    let found = hinted(command.args(["open-hint", "file", "no-dedup", "2"]));
    assert_eq!(found, [(libc::SYS_openat, 0x1f)]);
}

/// The compilers by whose rules the header must be sound, with what each takes for C or C++.
const COMPILERS: [(&str, &[&str]); 2] = [
    ("cc", &["-std=gnu99", "-x", "c"]),
    ("c++", &["-std=c++11", "-x", "c++"]),
];

#[test]
fn the_header_says_what_the_crate_says() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("program.c");
    fs::write(&source, PROGRAM).unwrap();
    for (compiler, arguments) in COMPILERS {
        if Command::new(compiler).arg("--version").output().is_err() {
            let test = "the_header_says_what_the_crate_says";
            skip(test, &format!("there is no {compiler}"));
            continue;
        }
        let program = directory.path().join(compiler);
        let status = Command::new(compiler)
            .args(arguments)
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-pedantic"])
            .arg("-I")
            .arg(workspace_dir().join("images/guest/hints/include"))
            .arg(&source)
            .arg("-o")
            .arg(&program)
            .status();
        assert!(status.unwrap().success(), "{compiler}");
        let file = directory.path().join("file");
        assert_eq!(hinted(Command::new(&program).arg(&file)), HINTS_OF_PROGRAM);
        fs::remove_file(&file).unwrap();
        let output = Command::new(&program).arg(&file).output().unwrap();
        assert!(output.status.success(), "{compiler}: {output:?}");
        let numbers = Class::ALL.map(|class| format!(" {}", class as u8)).concat();
        let expected = format!("{MAGIC:#x}{numbers}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
        let written = fs::read(&file).unwrap();
        assert_eq!(
            written,
            [&b"twelve bytes".repeat(6)[..], b"dozen!"].concat()
        );
    }
}
