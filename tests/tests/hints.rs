//! The C header for hints, with this machine's compiler.

use std::fs;
use std::process::Command;

use insight_hints::{Class, MAGIC};
use tests::artifacts::workspace_dir;
use tests::report::skip;

/// Takes what the header must be compiled with at its strictest, and prints its numbers.
const PROGRAM: &str = r#"
#include <insight_hints.h>
#include <stdio.h>
#include <string.h>

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
		if (iwrite(fd, "twelve bytes", 12, classes[at]) != 12)
			return fail("iwrite");
	if (ipwrite(fd, "dozen!", 6, 72, INSIGHT_OTHER) != 6)
		return fail("ipwrite");
	if (iread(fd, found, sizeof found, INSIGHT_OTHER) != 6 || memcmp(found, "dozen!", 6))
		return fail("iread");
	if (ipread(fd, found, 5, 67, INSIGHT_OTHER) != 5 || memcmp(found, "bytes", 5))
		return fail("ipread");
	if (iwrite(-1, "", 1, INSIGHT_OTHER) != -1 || errno != EBADF)
		return fail("iwrite to nowhere");
	printf("%#lx", INSIGHT_MAGIC);
	for (at = 0; at < 6; at++)
		printf(" %d", (int)classes[at]);
	return 0;
}
"#;

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
            .arg(workspace_dir().join("hints/include"))
            .arg(&source)
            .arg("-o")
            .arg(&program)
            .status();
        assert!(status.unwrap().success(), "{compiler}");
        let file = directory.path().join("file");
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
