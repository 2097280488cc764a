//! What is asked about an image.

use tests::Host;

use crate::image::{Format, Image};

/// What `image check` may say right after a power cut: that all is well, where the guest had not
/// begun to write, or that there is a journal to bring home.
const AS_CUT: &[i32] = &[0, UNCLOSED];
/// And once it was opened for writing and closed: there is not even a leak.
const RECOVERED: &[i32] = &[0];
/// The status of `image check` for an image that was not closed.
const UNCLOSED: i32 = 1;

/// Looks at an image that nobody opened since the power cut, and keeps a copy of it.
pub(crate) fn as_cut(host: &Host, image: &Image) -> i32 {
    image.keep_as_cut(host);
    check(host, &format!("{} image", host.microvm()), image, AS_CUT)
}

/// Looks at an image that was in use again: at it as such, and at the file system on it.
pub(crate) fn recovered(host: &Host, image: &Image) -> i32 {
    let status = check(host, &format!("{} image", host.microvm()), image, RECOVERED);
    if image.format != Format::Qcow2 {
        println!("QEMU does not know {} and was not asked", image.format);
    } else if host.run("command -v qemu-img").is_ok() {
        check(host, "qemu-img", image, RECOVERED);
    } else {
        println!("qemu-img is not here and was not asked");
    }
    file_system(host, image);
    status
}

/// Runs a check command; its status is one of those that are `allowed`.
fn check(host: &Host, program: &str, image: &Image, allowed: &[i32]) -> i32 {
    let command = format!("{program} check -f {} '{}'", image.format, image.path);
    let said = host.must_run(&format!("{command} 2>&1; echo status=$?"));
    let status = said.trim().rsplit_once("status=");
    let status = status.map(|(_, status)| status.parse().unwrap()).unwrap();
    assert!(allowed.contains(&status), "{command}: {said}");
    assert!(
        status != UNCLOSED || said.contains("in its journal"),
        "{said}"
    );
    status
}

/// The guest's file system is whole, without any repair.
fn file_system(host: &Host, image: &Image) {
    let (microvm, format, path) = (host.microvm(), image.format, &image.path);
    let raw = format!("{path}.raw");
    let copy = format!("{microvm} image convert -q -f {format} -O raw '{path}' '{raw}'");
    host.must_run(&format!(
        "{copy} && e2fsck -f -n '{raw}' 2>&1 && rm '{raw}'"
    ));
}
