//! What is not mounted, and why.

use std::fs;
use std::process::Command;

use crate::setting::{Setting, can_mount, has_namespaces, microvm, refusal};

#[test]
fn a_mount_point_that_is_none_is_named() {
    let setting = Setting::new();
    let image = setting.image(("raw", ""), 1);
    fs::create_dir(setting.path("full")).unwrap();
    fs::write(setting.path("full/file"), "").unwrap();
    for (point, part) in [
        ("nowhere", "nowhere: no such mount point"),
        ("full", "full: the directory is not empty"),
        ("/dev/null", "/dev/null: neither"),
        ("/proc", "/proc: something is mounted there already"),
    ] {
        let error = setting.refusal(&[&image, point]);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn an_image_or_a_mount_point_in_use_is_refused() {
    if !can_mount("an_image_or_a_mount_point_in_use_is_refused") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("qcow2", ""), 1);
    fs::copy(setting.path("image"), setting.path("other")).unwrap();
    let other = format!("{},format=qcow2", setting.path("other").display());
    for point in ["point", "points"] {
        let mounted = setting.mount_with(&[&image, point]);
        let error = setting.refusal(&[&other, point]);
        assert!(error.contains("mounted there already"), "{error}");
        let free = if point == "point" { "points" } else { "point" };
        let error = setting.refusal(&[&image, free]);
        assert!(
            error.contains("image: in use by another process"),
            "{error}"
        );
        mounted.stop();
    }
}

#[test]
fn what_a_killed_program_left_is_named() {
    if !can_mount("what_a_killed_program_left_is_named") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("raw", ""), 1);
    let mut mounted = setting.mount(&image);
    mounted.kill_only();
    let error = setting.refusal(&[&image, "point"]);
    assert!(error.contains("has lost its program"), "{error}");
    drop(mounted);
    setting.mount(&image).stop();
}

#[test]
fn what_cannot_be_lent_is_not_mounted() {
    let setting = Setting::new();
    setting.image(("raw", ""), 1);
    for (words, part) in [
        (vec!["nothing", "point"], "nothing: cannot open"),
        (vec!["image,format=vmdk", "point"], "vmdk"),
        (vec!["image,format=qcow2", "point"], "image"),
        (vec!["image,serial=x", "point"], "serial="),
        (
            vec!["--stats", "image", "image", "point"],
            "is a file of the image",
        ),
        (vec!["--stats", "nowhere/x", "image", "point"], "statistics"),
    ] {
        let error = setting.refusal(&words);
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(fs::metadata(setting.path("image")).unwrap().len(), 1 << 20);
}

#[test]
fn statistics_are_written_over_no_file_of_the_image() {
    let setting = Setting::new();
    for (name, options) in [
        ("overlay", "-b image -F raw"),
        ("split", "-o data_file=data"),
    ] {
        setting.image(("raw", ""), 1);
        let line = format!("create -f qcow2 {options} {name} 1M");
        setting.image_command(&line.split(' ').collect::<Vec<_>>());
    }
    let image = fs::read(setting.path("image")).unwrap();
    for (stats, shown) in [
        ("image", "overlay"),
        ("overlay", "overlay"),
        ("data", "split"),
    ] {
        let shown = format!("{shown},format=qcow2");
        let error = setting.refusal(&["--stats", stats, &shown, "point"]);
        assert!(error.contains("is a file of the image"), "{error}");
    }
    assert!(fs::read(setting.path("image")).unwrap() == image);
    assert_eq!(fs::metadata(setting.path("data")).unwrap().len(), 1 << 20);
}

#[test]
fn a_host_without_the_device_is_told_the_remedy() {
    if !has_namespaces("a_host_without_the_device_is_told_the_remedy") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("raw", ""), 1);
    let script = "mount -t tmpfs none /dev && exec \"$0\" image mount \"$1\" \"$2\"";
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", script]).arg(microvm());
    command.arg(&image).arg(setting.path("point"));
    let error = refusal(&mut command);
    assert!(error.contains("no /dev/fuse"), "{error}");
    assert!(error.contains("modprobe fuse"), "{error}");
}
