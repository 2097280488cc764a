//! Servers that die while they are needed.

use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use images::packages::{Tool, require};
use rustix::process::Signal;

use crate::far::NbdKit;
use crate::flat::{assert_expected, base};
use crate::shop::Shop;

/// A server slow enough to die in between, and what it has sent.
fn slow(shop: &Shop) -> NbdKit {
    let log = format!("logfile={}", shop.path("log").display());
    let filters = [
        "--filter=log",
        "--filter=rate",
        "rate=16M",
        &log,
        "logappend=true",
    ];
    NbdKit::lend(shop, "base", &filters)
}

/// Begins to copy what is far away, and waits until the server has answered a part of it.
fn begin(shop: &Shop, line: &str) -> Child {
    let answered = || {
        let log = fs::read_to_string(shop.path("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("...Read")).count()
    };
    let before = answered();
    let mut command = shop.image_command(line);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while answered() == before {
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing is read");
        thread::sleep(Duration::from_millis(2));
    }
    child
}

#[test]
fn a_copy_goes_on_when_the_server_is_back() {
    require(&[Tool::NbdKit]).unwrap();
    let shop = Shop::new();
    base(&shop, "raw");
    let mut far = slow(&shop);
    let url = far.url();
    shop.must(&format!("create -f flat -b {url} -F raw disk"));
    for line in [
        format!("convert -f raw -m 2 {url} copy"),
        "convert -f flat -m 2 disk copy".to_owned(),
    ] {
        let copy = begin(&shop, &line);
        far.end(Signal::KILL);
        far.start();
        let done = copy.wait_with_output().unwrap();
        assert!(done.status.success(), "{line}: {done:?}");
        assert_expected(&shop, "raw", "copy");
    }
}

#[test]
fn a_copy_ends_when_something_else_is_there() {
    require(&[Tool::NbdKit]).unwrap();
    let shop = Shop::new();
    base(&shop, "raw");
    let mut far = slow(&shop);
    let copy = begin(&shop, &format!("convert -f raw -m 2 {} copy", far.url()));
    far.end(Signal::KILL);
    shop.must("resize -f raw base 5M");
    far.start();
    let done = copy.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success(), "{done:?}");
    assert!(stderr.contains("changed under us"), "{stderr}");
    assert!(
        stderr.contains("had 4194304 bytes, and has 5242880"),
        "{stderr}"
    );
    assert!(!shop.path("copy").exists());
}
