//! How a mount ends.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::{Duration, Instant};

use images::packages::Tool;
use rustix::io::{Errno, FdFlags, fcntl_setfd, ioctl_fionbio};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use crate::setting::{Setting, can_mount, is_mounted, is_root, run};

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_mins(1);

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        thread::yield_now();
    }
}

#[test]
fn a_signal_unmounts_and_closes() {
    if !can_mount("a_signal_unmounts_and_closes") {
        return;
    }
    for (signal, point) in [
        (Signal::TERM, "point"),
        (Signal::INT, "points"),
        (Signal::HUP, "point"),
    ] {
        let setting = Setting::new();
        let image = setting.image(("qcow2", ""), 4);
        let mounted = setting.mount_with(&[&image, point]);
        let listed = fs::read_to_string("/proc/self/mounts").unwrap();
        let image_path = setting.path("image").display().to_string();
        let line = listed.lines().find(|line| line.starts_with(&image_path));
        assert!(line.unwrap().contains(" fuse.microvm "), "{listed}");
        // Neither synced nor closed long ago.
        mounted.open().write_all_at(&[7; 4096], 1 << 20).unwrap();
        mounted.signal(signal);
        mounted.wait().assert_fine();
        assert!(!is_mounted(&setting.path(point)));
        setting.check("qcow2");
        assert_eq!(setting.content("qcow2")[1 << 20..][..4096], [7; 4096]);
        // It is what it was.
        assert_eq!(fs::read_dir(setting.path("points")).unwrap().count(), 0);
        assert_eq!(fs::metadata(setting.path("point")).unwrap().len(), 0);
    }
}

#[test]
fn unmounting_from_outside_closes() {
    if !can_mount("unmounting_from_outside_closes") || !is_root("unmounting_from_outside_closes") {
        return;
    }
    for (n, point) in ["point", "points"].into_iter().enumerate() {
        let setting = Setting::new();
        let image = setting.image(("qcow2", ""), 4);
        let mounted = setting.mount_with(&[&image, point]);
        mounted.open().write_all_at(&[7; 4096], 0).unwrap();
        if n == 0 {
            unmount(setting.path(point), UnmountFlags::empty()).unwrap();
        } else {
            run(
                Tool::Fusermount,
                &["-u", setting.path(point).to_str().unwrap()],
            );
        }
        mounted.wait().assert_fine();
        setting.check("qcow2");
        assert_eq!(setting.content("qcow2")[..4096], [7; 4096]);
    }
}

#[test]
fn whoever_still_uses_it_may_go_on() {
    if !can_mount("whoever_still_uses_it_may_go_on") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("qcow2", ""), 4);
    let mut mounted = setting.mount(&image);
    let file = mounted.open();
    mounted.signal(Signal::TERM);
    let line = mounted.complaint();
    assert!(
        line.contains("point: unmounted, but still in use"),
        "{line}"
    );
    assert!(!is_mounted(&setting.path("point")));
    file.write_all_at(&[7; 4096], 0).unwrap();
    file.sync_all().unwrap();
    setting.refusal(&[&image, "points"]);
    drop(file);
    mounted.wait().assert_fine();
    setting.check("qcow2");
    assert_eq!(setting.content("qcow2")[..4096], [7; 4096]);
}

#[test]
fn a_signal_after_a_lazy_unmounting_leaves_it_to_its_users() {
    const TEST: &str = "a_signal_after_a_lazy_unmounting_leaves_it_to_its_users";
    if !can_mount(TEST) || !is_root(TEST) {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("qcow2", ""), 4);
    let mut mounted = setting.mount(&image);
    let file = mounted.open();
    unmount(setting.path("point"), UnmountFlags::DETACH).unwrap();
    mounted.signal(Signal::TERM);
    assert!(mounted.complaint().contains("still in use"));
    file.write_all_at(&[7; 4096], 0).unwrap();
    drop(file);
    mounted.wait().assert_fine();
    setting.check("qcow2");
    assert_eq!(setting.content("qcow2")[..4096], [7; 4096]);
}

#[test]
fn a_second_signal_waits_for_nobody() {
    if !can_mount("a_second_signal_waits_for_nobody") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("qcow2", ""), 4);
    let mut mounted = setting.mount(&image);
    let file = mounted.open();
    file.write_all_at(&[7; 4096], 0).unwrap();
    mounted.signal(Signal::INT);
    mounted.complaint();
    mounted.signal(Signal::INT);
    mounted.wait().assert_fine();
    let error = file.write_at(&[8; 4096], 0).unwrap_err();
    assert_eq!(
        Errno::from_io_error(&error),
        Some(Errno::NOTCONN),
        "{error}"
    );
    setting.check("qcow2");
    assert_eq!(setting.content("qcow2")[..4096], [7; 4096]);
}

#[test]
fn in_the_background_it_goes_on_by_itself() {
    if !can_mount("in_the_background_it_goes_on_by_itself") || !is_root("in_the_background") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("qcow2", ""), 4);
    let words = ["--background", "--stats", "stats", &image, "points"];
    let output = setting.mount_command(&words).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let path = setting.path("points/disk.raw");
    assert_eq!(said, format!("mounted as {}\n", path.display()));
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[7; 4096], 0).unwrap();
    drop(file);
    unmount(setting.path("points"), UnmountFlags::empty()).unwrap();
    // The last thing that it does.
    wait_until("statistics", || {
        let statistics = fs::read(setting.path("stats")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&statistics).is_ok()
    });
    setting.check("qcow2");
    assert_eq!(setting.content("qcow2")[..4096], [7; 4096]);
}

/// What a shell has opened for its commands, a lock or the end of a pipe, is not held for as long
/// as the mount lasts.
#[test]
fn in_the_background_nothing_of_the_shell_stays_open() {
    const TEST: &str = "in_the_background_nothing_of_the_shell_stays_open";
    if !can_mount(TEST) || !is_root(TEST) {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("qcow2", ""), 4);
    let (mut end, held) = io::pipe().unwrap();
    fcntl_setfd(&held, FdFlags::empty()).unwrap();
    let mut command = setting.mount_command(&["--background", &image, "points"]);
    let output = command.output().unwrap();
    drop(held);
    assert!(output.status.success(), "{output:?}");
    assert!(is_mounted(&setting.path("points")));
    ioctl_fionbio(&end, true).unwrap();
    let read = end.read(&mut [0]);
    unmount(setting.path("points"), UnmountFlags::empty()).unwrap();
    assert_eq!(read.unwrap(), 0);
}

#[test]
fn errors_before_the_background_are_seen() {
    if !can_mount("errors_before_the_background_are_seen") {
        return;
    }
    let setting = Setting::new();
    let error = setting.refusal(&["--background", "nothing", "point"]);
    assert!(error.contains("nothing: cannot open"), "{error}");
    let image = setting.image(("raw", ""), 1);
    let error = setting.refusal(&["--background", &image, "nowhere"]);
    assert!(error.contains("nowhere: no such mount point"), "{error}");
}

#[test]
fn an_image_may_be_shown_on_itself() {
    if !can_mount("an_image_may_be_shown_on_itself") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("qcow2", ""), 4);
    let mounted = setting.mount_with(&[&image, "image"]);
    assert_eq!(fs::metadata(setting.path("image")).unwrap().len(), 4 << 20);
    mounted.open().write_all_at(&[7; 4096], 0).unwrap();
    mounted.stop();
    setting.check("qcow2");
    assert_eq!(setting.content("qcow2")[..4096], [7; 4096]);
}
