//! Mounts whose place is not what it was: a mount that somebody else made there is left alone.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::process::Signal;

use crate::setting::{Mounted, Setting, can_mount, is_mounted, is_root};

fn can_cover(test: &str) -> bool {
    can_mount(test) && is_root(test)
}

/// A file system of somebody else's with a file in it. Dropping it unmounts it.
struct Foreign<'a>(&'a Path);

impl<'a> Foreign<'a> {
    fn new(place: &'a Path) -> Self {
        mount("foreign", place, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(place.join("precious"), "theirs").unwrap();
        Self(place)
    }

    #[track_caller]
    fn assert_there(&self) {
        let content = fs::read_to_string(self.0.join("precious"));
        assert_eq!(content.unwrap(), "theirs");
    }
}

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

fn write(file: &File) {
    file.write_all_at(&[7; 4096], 0).unwrap();
}

#[track_caller]
fn assert_closed(setting: &Setting) {
    setting.check("qcow2");
    assert_eq!(setting.content("qcow2")[..4096], [7; 4096]);
}

/// Ends a program whose mount is beneath another.
#[track_caller]
fn end_covered(mut mounted: Mounted) {
    mounted.signal(Signal::TERM);
    let line = mounted.complaint();
    assert!(line.contains("something else is mounted over it"), "{line}");
    mounted.wait().assert_fine();
}

#[test]
fn what_is_mounted_over_it_stays() {
    if !can_cover("what_is_mounted_over_it_stays") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("qcow2", ""), 4);
    let mounted = setting.mount_with(&[&image, "points"]);
    write(&mounted.open());
    let points = setting.path("points");
    let foreign = Foreign::new(&points);
    // Whether it is used or not.
    let used = File::open(points.join("precious")).unwrap();
    end_covered(mounted);
    foreign.assert_there();
    assert_closed(&setting);
    drop((used, foreign));
    // What was left beneath is there to be taken away.
    unmount(&points, UnmountFlags::empty()).unwrap();
    assert!(!is_mounted(&points));
}

#[test]
fn another_image_over_it_stays() {
    if !can_cover("another_image_over_it_stays") {
        return;
    }
    let setting = Setting::new();
    let other = Setting::beside(&setting);
    let image = setting.image(("qcow2", ""), 4);
    let mounted = setting.mount_with(&[&image, "points"]);
    write(&mounted.open());
    let other_image = other.image(("qcow2", ""), 8);
    let over = other.mount_with(&[&other_image, "points"]);
    let points = setting.path("points");
    mount_bind(other.path("points"), &points).unwrap();
    end_covered(mounted);
    let size = fs::metadata(points.join("disk.raw")).unwrap().len();
    assert_eq!(size, 8 << 20);
    assert_closed(&setting);
    unmount(&points, UnmountFlags::empty()).unwrap();
    unmount(&points, UnmountFlags::empty()).unwrap();
    over.stop();
}

#[test]
fn what_is_mounted_in_its_place_stays() {
    if !can_cover("what_is_mounted_in_its_place_stays") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("qcow2", ""), 4);
    let mut mounted = setting.mount_with(&[&image, "points"]);
    let (file, points) = (mounted.open(), setting.path("points"));
    unmount(&points, UnmountFlags::DETACH).unwrap();
    let foreign = Foreign::new(&points);
    mounted.signal(Signal::TERM);
    assert!(mounted.complaint().contains("still in use"));
    foreign.assert_there();
    write(&file);
    drop(file);
    mounted.wait().assert_fine();
    foreign.assert_there();
    assert_closed(&setting);
}

#[test]
fn another_image_in_its_place_stays() {
    if !can_cover("another_image_in_its_place_stays") {
        return;
    }
    let setting = Setting::new();
    let other = Setting::beside(&setting);
    let image = setting.image(("qcow2", ""), 4);
    let mut mounted = setting.mount_with(&[&image, "points"]);
    let (file, points) = (mounted.open(), setting.path("points"));
    write(&file);
    unmount(&points, UnmountFlags::DETACH).unwrap();
    let other_image = other.image(("qcow2", ""), 8);
    let second = other.mount_with(&[&other_image, points.to_str().unwrap()]);
    mounted.signal(Signal::TERM);
    assert!(mounted.complaint().contains("still in use"));
    mounted.signal(Signal::TERM);
    mounted.wait().assert_fine();
    drop(file);
    assert!(is_mounted(&points));
    write(&second.open());
    second.stop();
    assert_closed(&setting);
    assert_closed(&other);
}

#[test]
fn it_is_found_where_it_was_renamed_to() {
    if !can_cover("it_is_found_where_it_was_renamed_to") {
        return;
    }
    let setting = Setting::new();
    let image = setting.image(("qcow2", ""), 4);
    fs::create_dir_all(setting.path("old name/point")).unwrap();
    let mounted = setting.mount_with(&[&image, "old name/point"]);
    write(&mounted.open());
    fs::rename(setting.path("old name"), setting.path("new name")).unwrap();
    mounted.stop();
    assert!(!is_mounted(&setting.path("new name/point")));
    let left = fs::read_dir(setting.path("new name/point")).unwrap();
    assert_eq!(left.count(), 0);
    assert_closed(&setting);
}
