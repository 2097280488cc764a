//! Bad input gets one line that names it, status 1, and nothing else happens.

use tests::Host;
use tests::agent::protocol::Exit;

use std::time::Duration;

/// Runs microvm with these words and returns its one line of complaint.
fn complaint(words: &[&str]) -> String {
    let host = Host::shared();
    let mut argv = vec![host.microvm()];
    argv.extend(words.iter().map(|word| (*word).to_owned()));
    let output = host
        .spawn(&argv, None)
        .unwrap()
        .output(Duration::from_mins(2))
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.exit, Exit::Status(1), "{words:?}: {text}");
    assert!(
        output.stdout.is_empty(),
        "{words:?}: {:?}",
        String::from_utf8_lossy(&output.stdout)
    );
    assert_eq!(text.lines().count(), 1, "{words:?}: {text}");
    text
}

#[track_caller]
fn refused(words: &[&str], expected: &[&str]) {
    let text = complaint(words);
    for part in expected {
        assert!(text.contains(part), "{words:?}: no {part:?} in {text}");
    }
}

/// A file on the host that a script writes to its standard output.
fn file(name: &str, script: &str) -> String {
    let host = Host::shared();
    let path = host.fresh_path(name).display().to_string();
    host.must_run(&format!("{{ {script}; }} > '{path}'"));
    path
}

fn bzimage() -> String {
    let host = Host::shared();
    host.path(&host.parts().kernel.bzimage())
        .display()
        .to_string()
}

#[test]
fn kernels_that_are_none() {
    refused(&["--kernel", "/nowhere/vmlinuz"], &["/nowhere/vmlinuz"]);
    let text = file("text", "echo this is not a kernel");
    refused(&["--kernel", &text], &[&text]);
    let empty = file("empty", "true");
    refused(&["--kernel", &empty], &[&empty]);
    refused(&["--kernel", "/work"], &["/work"]);
    // The identification and type of a 32-bit x86 executable.
    let elf32 = file(
        "elf32",
        r"printf '\177ELF\1\1\1\0\0\0\0\0\0\0\0\0\2\0\3\0'; head -c 1024 /dev/zero",
    );
    refused(&["--kernel", &elf32], &[&elf32, "32-bit"]);
}

#[test]
fn kernels_that_are_damaged() {
    let bzimage = bzimage();
    let truncated = file("truncated", &format!("head -c 2000000 '{bzimage}'"));
    refused(&["--kernel", &truncated], &[&truncated]);
    let corrupt = file(
        "corrupt",
        &format!(
            "head -c 3000000 '{bzimage}'; head -c 65536 /dev/zero; tail -c +3065537 '{bzimage}'"
        ),
    );
    refused(&["--kernel", &corrupt], &[&corrupt]);
}

#[test]
fn what_does_not_fit_in_memory() {
    let bzimage = bzimage();
    refused(
        &["--kernel", &bzimage, "--mem", "16M"],
        &[&bzimage, "16 MiB"],
    );
    let initrd = file("initrd", "true");
    Host::shared().must_run(&format!("truncate -s 1G '{initrd}'"));
    refused(
        &["--kernel", &bzimage, "--initrd", &initrd, "--mem", "512M"],
        &[&initrd],
    );
}

#[test]
fn disks() {
    let bzimage = bzimage();
    let with_disk = |disk: &str, expected: &[&str]| {
        refused(&["--kernel", &bzimage, "--disk", disk], expected);
    };
    with_disk("/nowhere/disk", &["/nowhere/disk"]);
    with_disk("/work", &["/work"]);
    let odd = file("odd", "head -c 1000 /dev/zero");
    with_disk(&odd, &[&odd, "512"]);
    with_disk("disk.img,cache=none", &["cache=none"]);
    with_disk("disk.img,format=floppy", &["floppy"]);
    with_disk(",readonly", &["path"]);
}

#[test]
fn numbers() {
    let bzimage = bzimage();
    for size in [
        "0",
        "1",
        "9223372036854775808",
        "99999999999999999999",
        "8E",
        "-1",
        "lots",
    ] {
        refused(&["--kernel", &bzimage, &format!("--mem={size}")], &[]);
    }
    for cpus in ["0", "100000", "-1", "two"] {
        refused(&["--kernel", &bzimage, &format!("--cpus={cpus}")], &[]);
    }
}

#[test]
fn options() {
    refused(&["--frobnicate"], &["--frobnicate"]);
    refused(&["--kernel", &bzimage(), "--transport", "isa"], &["isa"]);
    refused(&["--kernel", &bzimage(), "--console", "vga"], &["vga"]);
    refused(
        &["--kernel", &bzimage(), "--initrd", "/nowhere/initrd"],
        &["/nowhere/initrd"],
    );
}

#[test]
fn statistics_are_written_over_no_disk() {
    let disk = file("disk", "head -c 1048576 /dev/zero");
    let words = ["--kernel", &bzimage(), "--disk", &disk, "--stats", &disk];
    refused(&words, &[&disk, "is a file of the image"]);
}
