//! A loop device on the raw file, for what is done to it in a shell script.

use std::path::Path;
use std::process::Command;

/// What scripts begin with. The mount and the loop device are seen by nobody else, and go with the
/// script.
const BEGIN: &str = r#"
set -eu
file=$1 work=$2
PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$work/inside"
device=$(losetup --find --show "$file")
trap 'cd /; umount "$work/inside" 2>/dev/null || true; losetup -d "$device"' EXIT
"#;

/// Runs a script that has a loop device on `file` as `$device`, and the directory `work` as
/// `$work`, with an empty directory `inside` to mount on. Returns what it prints.
#[track_caller]
pub(crate) fn run_on_loop_device(script: &str, file: &Path, work: &Path) -> String {
    let script = [BEGIN, script].concat();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script, "sh"]);
    let output = command.arg(file).arg(work).output().unwrap();
    assert!(output.status.success(), "{}: {output:?}", file.display());
    String::from_utf8(output.stdout).unwrap()
}
