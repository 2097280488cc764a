//! Users who are not root.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use images::packages::{Tool, require};
use tests::report::skip;

use crate::setting::{Mounted, Setting, can_mount, is_root, microvm, refusal};

/// Nobody on Debian.
const USER: u32 = 65534;

/// A setting that is the user's own, and a copy of the program that the user may run.
fn setting() -> Setting {
    let setting = Setting::new();
    setting.image(("qcow2", ""), 4);
    let directory = setting.path("");
    fs::copy(microvm(), setting.path("microvm")).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    for path in [
        &directory,
        &setting.path("point"),
        &setting.path("points"),
        &setting.path("image"),
    ] {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    setting
}

fn by_user(setting: &Setting, program: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(words).current_dir(setting.path(""));
    command.uid(USER).gid(USER);
    command
}

fn mount_command(setting: &Setting, words: &[&str]) -> Command {
    let words = [&["image", "mount"], words].concat();
    by_user(setting, &setting.path("microvm"), &words)
}

#[test]
fn a_user_mounts_by_fusermount() {
    const TEST: &str = "a_user_mounts_by_fusermount";
    if !can_mount(TEST) || !is_root(TEST) {
        return;
    }
    if fs::metadata("/dev/fuse").unwrap().permissions().mode() & 0o006 != 0o006 {
        skip(TEST, "users may not open /dev/fuse");
        return;
    }
    require(&[Tool::Fusermount]).unwrap();
    for point in ["point", "points"] {
        let setting = setting();
        let mut command = mount_command(&setting, &["image,format=qcow2", point]);
        let mounted = Mounted::start(&mut command, setting.path(point)).unwrap();
        // Not even root sees it, so the user has to write.
        assert!(File::open(mounted.path()).is_err());
        let file = format!("of={}", mounted.path().display());
        let words = [
            "if=/proc/version",
            &file,
            "conv=notrunc,fsync",
            "status=none",
        ];
        let status = by_user(&setting, Path::new("dd"), &words).status().unwrap();
        assert!(status.success());
        if point == "point" {
            mounted.stop();
        } else {
            let fusermount = Tool::Fusermount.find().unwrap();
            let status = by_user(&setting, &fusermount, &["-u", point]).status();
            assert!(status.unwrap().success());
            mounted.wait().assert_fine();
        }
        setting.check("qcow2");
        let version = fs::read("/proc/version").unwrap();
        assert_eq!(setting.content("qcow2")[..version.len()], version);
    }
}

#[test]
fn a_user_without_fusermount_is_told_what_to_install() {
    const TEST: &str = "a_user_without_fusermount_is_told_what_to_install";
    if !can_mount(TEST) || !is_root(TEST) {
        return;
    }
    let setting = setting();
    let mut command = mount_command(&setting, &["image,format=qcow2", "point"]);
    let error = refusal(command.env("PATH", "/nowhere"));
    assert!(error.contains("apt-get install fuse3"), "{error}");
}

#[test]
fn others_may_use_it_where_they_are_let() {
    const TEST: &str = "others_may_use_it_where_they_are_let";
    if !can_mount(TEST) || !is_root(TEST) {
        return;
    }
    let setting = setting();
    let may_read = |mounted: &Mounted, mode| {
        let path = setting.path("image");
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            mode
        );
        let words = ["-c1", mounted.path().to_str().unwrap()];
        by_user(&setting, Path::new("head"), &words)
            .output()
            .unwrap()
            .status
            .success()
    };
    for (words, mode, expected) in [
        (&["image,format=qcow2", "point"][..], 0o644, false),
        (
            &["--allow-other", "image,format=qcow2", "point"],
            0o644,
            true,
        ),
        (
            &["--allow-other", "image,format=qcow2", "point"],
            0o600,
            false,
        ),
    ] {
        let image = setting.path("image");
        fs::set_permissions(&image, fs::Permissions::from_mode(mode)).unwrap();
        chown(&image, Some(0), Some(0)).unwrap();
        let mounted = setting.mount_with(words);
        mounted.open().write_all_at(&[1; 512], 0).unwrap();
        assert_eq!(may_read(&mounted, mode), expected, "{words:?} {mode:o}");
        mounted.stop();
    }
}
