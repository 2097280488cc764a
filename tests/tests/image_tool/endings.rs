//! Commands that do not get to their end.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use tests::report::skip;

use crate::shop::Shop;

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_mins(1);

/// A disk that takes a while to compress.
fn random_disk(shop: &Shop, megabytes: usize) {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let bytes: Vec<u8> = words.take(megabytes << 17).flatten().collect();
    fs::write(shop.path("source"), bytes).unwrap();
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        thread::yield_now();
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_signal_leaves_what_was_there_and_nothing_else() {
    let shop = Shop::new();
    random_disk(&shop, 512);
    shop.must("create target 1M");
    for name in [Signal::INT, Signal::TERM] {
        let line = "convert -f raw -O qcow2 -c source target";
        let mut command = shop.image_command(line);
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        wait_until("a new file", || shop.files().len() == 3);
        // It has begun for good once it has written a part of it.
        let part = || {
            shop.files()
                .into_iter()
                .find(|name| name.starts_with(".microvm-"))
        };
        wait_until("data", || {
            let part = part().and_then(|part| fs::metadata(shop.path(&part)).ok());
            part.is_some_and(|part| part.len() > 1 << 20)
        });
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr, "microvm: target: not made: interrupted\n");
        assert_eq!(shop.files(), ["source", "target"]);
        assert_eq!(shop.bytes("target"), vec![0; 1 << 20]);
    }
}

#[test]
fn a_full_disk_is_named_and_the_target_goes() {
    let shop = Shop::new();
    random_disk(&shop, 16);
    shop.must("create other 16M");
    fs::create_dir(shop.path("small")).unwrap();
    let convert = |target: &str| {
        let mut convert = shop.image_command(&format!("convert -f raw -O {target}"));
        let words: Vec<String> = [convert.get_program()]
            .into_iter()
            .chain(convert.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        convert = shop.command("unshare".as_ref(), &["-Urm", "sh", "-c"]);
        let mount = "mount -t tmpfs -o size=4m none small && echo mounted && ";
        let script = format!("{mount} {{ {}; echo $?; ls -A small; }}", words.join(" "));
        convert.arg(script).output().unwrap()
    };
    for target in [
        "raw source small/target",
        "qcow2 source small/target",
        "flat source small/target",
        "flat -B ../other -F raw source small/target",
    ] {
        let output = convert(target);
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        if !stdout.starts_with("mounted\n") {
            skip(
                "a_full_disk_is_named_and_the_target_goes",
                "no user namespaces",
            );
            return;
        }
        assert_eq!(stdout, "mounted\n1\n", "{stderr}");
        assert!(
            stderr.starts_with("microvm: small/target: not made: "),
            "{stderr}"
        );
        assert!(stderr.contains("No space left on device"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn an_image_in_use_is_left_alone() {
    let shop = Shop::new();
    shop.must("create -f qcow2 disk 1M");
    shop.must("create -f qcow2 -b disk -F qcow2 overlay");
    shop.must("create other 1M");
    let mut command = shop.image_command("serve --nbd unix:socket disk,format=qcow2");
    let mut server = command.stdout(Stdio::null()).spawn().unwrap();
    wait_until("a server", || shop.path("socket").exists());
    for line in [
        "check -r all disk",
        "check disk",
        "info disk",
        "resize disk 2M",
        "snapshot -c x disk",
        "create disk 1M",
        "convert -f raw -O raw other disk",
        "convert -f qcow2 -O raw disk copy",
        "compare disk other",
        "commit -f qcow2 overlay",
        "map -f qcow2 overlay",
    ] {
        shop.refused(line, &["disk: in use by another process"]);
    }
    shop.must("info -U disk");
    shop.must("map -U disk");
    shop.must("info overlay");
    signal(&server, Signal::TERM);
    assert!(server.wait().unwrap().success());
    shop.must("check disk");
    assert_eq!(shop.files(), ["disk", "other", "overlay"]);
}

#[test]
fn progress_is_told_where_it_is_asked_for() {
    let shop = Shop::new();
    random_disk(&shop, 32);
    let done = shop.image("convert -p -f raw -O raw source target");
    assert_eq!(done.status, Some(0), "{done:?}");
    assert!(done.stderr.ends_with("100%\n"), "{done:?}");
    assert!(done.stderr.lines().count() <= 10, "{done:?}");
    // Elsewhere than on a terminal there is none of itself.
    shop.must("compare -f raw -F raw source target");
}
