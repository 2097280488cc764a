//! Compiles the bare-metal test guest.
//!
//! Cargo cannot: the guest ends on a panic rather than unwinding, which is a setting of the whole
//! build, and no target without an operating system may be installed. So `rustc` is called twice,
//! for the library in `guest/src` and for the kernel round it in `guest/entry`.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

fn main() {
    let variable = |name: &str| env::var_os(name).expect("cargo sets it for build scripts");
    let (compiler, output) = (variable("RUSTC"), variable("OUT_DIR"));
    let guest = Path::new("guest");
    let output = Path::new(&output);
    println!("cargo::rerun-if-changed=guest");

    let library = output.join("libbaremetal_guest.rlib");
    let mut command = compile(&compiler);
    command
        .args(["--crate-type=rlib", "--crate-name=baremetal_guest", "-o"])
        .arg(&library);
    finish(command.arg(guest.join("src/lib.rs")));

    let mut command = compile(&compiler);
    command
        .args(["--crate-type=bin", "--crate-name=guest", "-o"])
        .arg(output.join("guest.elf"));
    command
        .arg("--extern")
        .arg(assignment("baremetal_guest=", &library));
    command.args(["-Crelocation-model=static", "-Cstrip=symbols"]);
    for word in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
    ] {
        command.arg(format!("-Clink-arg={word}"));
    }
    command
        .arg("-C")
        .arg(assignment("link-arg=-Wl,-T,", &guest.join("entry/link.ld")));
    finish(command.arg(guest.join("entry/main.rs")));
}

/// What both calls of the compiler have in common. Loops must not be vectorised: an interpreting
/// KVM knows no SSE arithmetic.
fn compile(compiler: &OsString) -> Command {
    let mut command = Command::new(compiler);
    command.args([
        "--edition=2024",
        "--target=x86_64-unknown-linux-gnu",
        "-Cpanic=abort",
    ]);
    command.args([
        "-Copt-level=s",
        "-Cno-vectorize-loops",
        "-Cno-vectorize-slp",
    ]);
    command
}

fn assignment(name: &str, path: &Path) -> OsString {
    let mut word = OsString::from(name);
    word.push(path);
    word
}

fn finish(command: &mut Command) {
    let status = command.status().expect("rustc can be started");
    assert!(status.success(), "the test guest does not compile");
}
