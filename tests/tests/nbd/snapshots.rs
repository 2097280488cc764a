//! Internal snapshots as exports.

use std::fs;

use images::packages::Tool;
use tests::nbd::Server;

use crate::setting::{Setting, microvm, refusal, run, stop, try_run};

/// An image with the snapshots `old`, of 8 MiB, and `new`, of 12 MiB, that is like neither.
fn image(setting: &Setting, options: &[&str]) -> String {
    let image = setting.blank_image("image", "qcow2", options, 8);
    let write = |commands: &[&str]| {
        let mut words = vec!["-f", "qcow2"];
        words.extend(commands.iter().flat_map(|command| ["-c", command]));
        words.push(&image);
        run(Tool::QemuIo, &words);
    };
    write(&["write -P 1 0 3M", "write -z 1M 100k", "write -P 2 7M 1M"]);
    run(Tool::QemuImg, &["snapshot", "-c", "old", &image]);
    run(Tool::QemuImg, &["resize", &image, "12M"]);
    write(&["write -P 3 512k 1M", "write -P 4 11M 1M", "discard 2M 512k"]);
    run(Tool::QemuImg, &["snapshot", "-c", "new", &image]);
    write(&["write -P 5 0 12M"]);
    image
}

#[test]
fn clients_see_what_qemu_sees_of_a_snapshot() {
    for options in [
        &[][..],
        &["-o", "cluster_size=512"],
        &["-o", "extended_l2=on,cluster_size=128k"],
    ] {
        let setting = Setting::new();
        let image = image(&setting, options);
        let before = fs::read(&image).unwrap();
        for (name, id, mib) in [("old", "1", 8), ("new", "2", 12)] {
            let expected = setting.path(name);
            let words = ["convert", "-f", "qcow2", "-O", "raw", "-l", name];
            run(Tool::QemuImg, &[&words[..], &[&image, &expected]].concat());
            // To QEMU a snapshot is as large as the disk is now.
            let mut expected = fs::read(&expected).unwrap();
            let beyond = expected.split_off(mib << 20);
            assert!(beyond.iter().all(|&byte| byte == 0));
            let file = format!("{image},format=qcow2");
            for words in [
                &["--export", "vm", "--snapshot", name, &file][..],
                &["--export", "vm", "--snapshot", id, &file],
                &["--export", "vm", &format!("{file},snapshot={name}")],
            ] {
                let server = setting.serve_with(words);
                let (uri, copy) = (server.uri("vm"), setting.path("copy"));
                let size = run(Tool::NbdInfo, &["--size", &uri]);
                assert_eq!(size.trim(), (mib << 20).to_string());
                run(Tool::NbdCopy, &["--allocated", &uri, &copy]);
                assert!(fs::read(&copy).unwrap() == expected);
                run(Tool::NbdInfo, &["--is", "read-only", &uri]);
                let words = ["-f", "raw", "-c", "write 0 512", &uri];
                let (written, text) = try_run(Tool::QemuIo, &words);
                assert!(!written, "{text}");
                stop(server);
            }
        }
        assert!(before == fs::read(&image).unwrap(), "the image was changed");
    }
}

#[test]
fn a_snapshot_is_lent_beside_the_disk_that_nobody_writes() {
    let setting = Setting::new();
    let image = image(&setting, &[]);
    let socket = format!("unix:{}", setting.path("nbd"));
    let files = [
        format!("{image},format=qcow2"),
        format!("{image},format=qcow2,snapshot=old,export=old"),
        format!("{image},format=qcow2,snapshot=new,export=new"),
    ];
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    let words = [&["--nbd", &socket, "--readonly"], &files[..]].concat();
    let server = Server::microvm_anywhere(microvm(), &words, 3).unwrap();
    for (name, command) in [
        ("", "read -P 5 0 12M"),
        ("old", "read -P 2 7M 1M"),
        ("new", "read -P 3 512k 1M"),
    ] {
        let uri = format!("nbd+unix:///{name}?socket={}", setting.path("nbd"));
        let text = run(Tool::QemuIo, &["-r", "-f", "raw", "-c", command, &uri]);
        assert!(!text.contains("verification failed"), "{name}: {text}");
    }
    stop(server);
    // Whoever writes the disk could give away what a snapshot has.
    let error = refusal(&[&["--nbd", &socket], &files[..2]].concat());
    assert!(error.contains("given twice"), "{error}");
}

#[test]
fn what_is_no_snapshot_is_refused() {
    let setting = Setting::new();
    let image = image(&setting, &[]);
    let raw = setting.raw_image("raw", 1);
    let socket = format!("unix:{}", setting.path("nbd"));
    let file = format!("{image},format=qcow2");
    let two = format!("{raw},export=x");
    let snapshot = format!("{file},snapshot=old");
    for (words, part) in [
        (vec!["--snapshot", "none", &file], "no snapshot 'none'"),
        (vec!["--snapshot", "", &file], "no snapshot ''"),
        (vec!["--snapshot", "old", &raw], "no snapshots"),
        (vec!["--snapshot", "old", &file, &two], "several files"),
        (vec!["--snapshot", "old", &snapshot], "already"),
    ] {
        let error = refusal(&[&["--nbd", &socket], &words[..]].concat());
        assert!(error.contains(part), "{error}");
    }
}
