//! Images that stand on what an NBD server has, and what an NBD server has as an image.

use std::os::unix::net::UnixListener;
use std::process::Command;

use images::packages::{Tool, require};
use rustix::process::Signal;
use tests::nbd::Server;

use crate::far::{NbdKit, copy_all, lend_and_compare};
use crate::flat::{BASES, assert_expected, base, info, specific, write};
use crate::shop::Shop;

/// What images on the base are made to hold.
const WRITES: [&str; 4] = [
    "write -P 3 100k 1k",
    "write -z 256k 130k",
    "write -P 4 1500k 100k",
    "write -P 5 3M 512",
];

/// Makes `disk`, an image of `format` on what is at `url`.
fn overlay(shop: &Shop, format: &str, url: &str, base_format: &str) {
    shop.must(&format!(
        "create -f {format} -b {url} -F {base_format} disk 5M"
    ));
    shop.must("resize -f raw expected 5M");
    write(shop, format, "disk", &WRITES);
    shop.write("raw", "expected", &WRITES);
}

#[test]
fn images_of_any_format_stand_on_bases_of_any_format_far_away() {
    require(&[Tool::NbdKit]).unwrap();
    for base_format in BASES {
        for format in ["flat", "qcow2"] {
            let shop = Shop::new();
            base(&shop, base_format);
            let mut far = NbdKit::lend(&shop, "base", &[]);
            let url = far.url();
            overlay(&shop, format, &url, base_format);
            assert_expected(&shop, format, "disk");
            let text = shop.must(&format!("info --backing-chain -f {format} disk"));
            assert!(text.contains(&format!("backing file: {url}")), "{text}");
            assert!(text.contains(&format!("image: {url}")), "{text}");
            let map = shop.must(&format!("map -f {format} disk"));
            assert!(map.contains(&url), "{map}");
            shop.must(&format!("bench -f {format} -c 200 -d 8 --random disk"));
            shop.refused(
                &format!("commit -f {format} disk"),
                &["disk", &url, "far away"],
            );
            assert_expected(&shop, format, "disk");
            // To a file, and back.
            shop.must(&format!("rebase -f {format} -b base -F {base_format} disk"));
            assert_expected(&shop, format, "disk");
            shop.must(&format!(
                "rebase -f {format} -b {url} -F {base_format} disk"
            ));
            assert_expected(&shop, format, "disk");
            shop.must(&format!("rebase -f {format} -b '' disk"));
            far.end(Signal::TERM);
            assert_expected(&shop, format, "disk");
        }
    }
}

#[test]
fn what_is_far_away_is_read_as_an_image() {
    require(&[Tool::NbdKit]).unwrap();
    for format in BASES {
        let shop = Shop::new();
        base(&shop, format);
        let far = NbdKit::lend(&shop, "base", &["--filter=noextents"]);
        let url = far.url();
        assert_expected(&shop, format, &url);
        let text = shop.must(&format!("info -f {format} {url}"));
        assert!(text.contains("virtual size: 4 MiB"), "{text}");
        assert!(!text.contains("disk size"), "{text}");
        shop.must(&format!("compare -f {format} -F raw {url} expected"));
        shop.must(&format!("map -f {format} --output json {url}"));
        shop.must(&format!("bench -f {format} -c 100 {url}"));
        let lent = format!("{url},format={format},readonly");
        lend_and_compare(&shop, &lent);
        let mount_point = shop.path("mount_point").display().to_string();
        std::fs::create_dir(&mount_point).unwrap();
        for line in [
            format!("resize -f {format} {url} 8M"),
            format!("check -r all -f {format} {url}"),
            format!("bench -w -f {format} {url}"),
            format!("serve --nbd unix:nbd {url},format={format}"),
            format!("convert -f raw expected {url}"),
            format!("create {url} 4M"),
            format!("mount --readonly {url},format={format} {mount_point}"),
        ] {
            shop.refused(&line, &[&url, "far away"]);
        }
        assert_expected(&shop, "raw", "expected");
        if format != "raw" {
            shop.refused(&format!("info {url}"), &[&url, "give its format"]);
            shop.refused(&format!("rebase -f {format} -b '' {url}"), &["far away"]);
        }
    }
}

#[test]
fn holes_far_away_need_no_copies_and_content_is_not_fetched_for_them() {
    require(&[Tool::NbdKit]).unwrap();
    let shop = Shop::new();
    shop.must("create base 8M");
    shop.write("raw", "base", &["write -P 1 0 1M", "write -P 0 4M 1M"]);
    let stats = format!("statsfile={}", shop.path("stats").display());
    let mut far = NbdKit::lend(&shop, "base", &["--filter=stats", &stats]);
    let url = far.url();
    shop.must(&format!("create -f flat -b {url} -F raw disk"));
    // What is known as zeros is not from the base: 2 MiB of data, of which 1 MiB is zeros.
    assert_eq!(specific(&shop, "disk")["blocks-from-base"], 32);
    assert_eq!(read_bytes(&mut far, &shop), 0);
    far.start();
    let url = far.url();
    shop.must(&format!("create -f flat -o scan=full -b {url} -F raw disk"));
    assert_eq!(specific(&shop, "disk")["blocks-from-base"], 16);
    far.end(Signal::TERM);
}

/// How much was read of a base, by its server's own count.
fn read_bytes(far: &mut NbdKit, shop: &Shop) -> u64 {
    far.end(Signal::TERM);
    let stats = std::fs::read_to_string(shop.path("stats")).unwrap();
    let line = stats.lines().find(|line| line.starts_with("read: "));
    let Some(line) = line else {
        return 0;
    };
    // As in `read: 33 ops, 0.000217 s, 2.00 MiB, ...`.
    let field = line.split(", ").nth(2).unwrap();
    let (number, unit) = field.split_once(' ').unwrap();
    let unit = match unit {
        "bytes" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        _ => panic!("{line}"),
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small count"
    )]
    let bytes = (number.parse::<f64>().unwrap() * unit).ceil() as u64;
    bytes
}

/// A base is fetched once, and is not needed any more.
#[test]
fn what_was_copied_stays_when_the_server_goes() {
    require(&[Tool::NbdKit]).unwrap();
    let shop = Shop::new();
    base(&shop, "raw");
    let stats = format!("statsfile={}", shop.path("stats").display());
    let mut far = NbdKit::lend(&shop, "base", &["--filter=stats", &stats]);
    overlay(&shop, "flat", &far.url(), "raw");
    let before = read_bytes(&mut far, &shop);
    far.start();
    copy_all(&shop);
    let fetched = read_bytes(&mut far, &shop);
    assert!(before + fetched <= 4 << 20, "{before} and {fetched} bytes");
    assert_eq!(specific(&shop, "disk")["stands-alone"], true);
    assert_expected(&shop, "flat", "disk");
}

#[test]
fn servers_of_other_makers_are_read_as_well() {
    require(&[Tool::NbdKit]).unwrap();
    let shop = Shop::new();
    base(&shop, "raw");
    for filters in [
        &["--no-sr"][..],
        &[
            "--filter=blocksize-policy",
            "blocksize-minimum=4096",
            "blocksize-maximum=64k",
            "blocksize-error-policy=error",
        ],
        &["--filter=error", "error-pread-rate=20%", "error=EIO"],
        &["--filter=delay", "rdelay=5ms"],
    ] {
        let mut far = NbdKit::lend(&shop, "base", filters);
        assert_expected(&shop, "raw", &far.url());
        far.end(Signal::TERM);
    }
    let socket = shop.path("qemu");
    let program = Tool::QemuImg.find().unwrap().with_file_name("qemu-nbd");
    let mut command = Command::new(program);
    command.args(["-r", "-t", "-e", "9", "-f", "raw", "-x", "a b"]);
    command.arg("-k").arg(&socket).arg(shop.path("base"));
    let _qemu = Server::other(&mut command, &socket).unwrap();
    let url = format!("nbd+unix:///a%20b?socket={}", socket.display());
    assert_expected(&shop, "raw", &url);
    shop.must(&format!("create -f flat -b {url} -F raw disk"));
    assert_expected(&shop, "flat", "disk");
    let other = format!("nbd+unix:///b?socket={}", socket.display());
    shop.refused(&format!("info {other}"), &[&other, "no such export"]);
    let nobody = format!("nbd+unix:///?socket={}", shop.path("nobody").display());
    shop.refused(&format!("info {nobody}"), &[&nobody, "No such file"]);
}

/// Whoever made an image must not lead us to a socket of this host, unless its owner says what it is.
#[test]
fn names_in_images_of_unknown_format_are_not_followed() {
    let shop = Shop::new();
    let socket = shop.path("secret");
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("nbd+unix:///?socket={}", socket.display());
    for (format, create) in [("qcow2", "create -u"), ("flat", "create")] {
        base(&shop, "raw");
        if format == "qcow2" {
            shop.must(&format!("{create} -f qcow2 -b {url} -F raw disk 4M"));
        } else {
            require(&[Tool::NbdKit]).unwrap();
            let far = NbdKit::lend(&shop, "base", &[]);
            shop.must(&format!("create -f flat -b {} -F raw disk", far.url()));
        }
        for line in ["map disk", "convert disk copy", "compare disk expected"] {
            shop.refused(line, &["disk", "names another file"]);
        }
        shop.refused("serve --nbd unix:nbd disk", &["disk", "give its format"]);
        let data = info_without_format(&shop);
        assert!(data.contains("nbd+unix"), "{data}");
    }
    assert!(listener.accept().is_err(), "somebody was there");
}

/// What `image info` says, which looks at no other file.
fn info_without_format(shop: &Shop) -> String {
    shop.must("info disk")
}

/// A server may lend an image that names what only we can reach.
#[test]
fn what_is_far_away_leads_to_nothing_else() {
    require(&[Tool::NbdKit]).unwrap();
    let shop = Shop::new();
    shop.must("create secret 4M");
    let secret = shop.path("secret").display().to_string();
    let socket = format!("nbd+unix:///?socket={}", shop.path("other").display());
    for (names, part) in [
        (secret.as_str(), "no URL"),
        ("secret", "no URL"),
        (&socket, "not on the server"),
        ("nbd://192.0.2.1/", "not on the server"),
        ("ftp://192.0.2.1/", "no URL"),
    ] {
        shop.must(&format!("create -u -f qcow2 -b {names} -F raw lent 4M"));
        let mut far = NbdKit::lend(&shop, "lent", &[]);
        let url = far.url();
        shop.refused(&format!("map -f qcow2 {url}"), &[&url, names, part]);
        shop.must(&format!("create -u -f qcow2 -b {url} -F qcow2 disk 4M"));
        shop.refused("map -f qcow2 disk", &[&url, names, part]);
        far.end(Signal::TERM);
    }
    shop.must("create -f qcow2 -o data_file=data lent 4M");
    let far = NbdKit::lend(&shop, "lent", &[]);
    let url = far.url();
    let refused = [&url, "data file"];
    shop.refused(&format!("map -f qcow2 {url}"), &refused);
    shop.must(&format!("create -u -f qcow2 -b {url} -F qcow2 disk 4M"));
    shop.refused("map -f qcow2 disk", &refused);
    let given = format!("serve --nbd unix:nbd {url},format=qcow2,readonly,data-file=data");
    shop.refused(&given, &[&url, "data file"]);
}

#[test]
fn chains_of_one_server_are_followed() {
    let shop = Shop::new();
    base(&shop, "raw");
    let socket = shop.path("far").display().to_string();
    let url = |name: &str| format!("nbd+unix:///{name}?socket={socket}");
    let middle = format!("create -u -f qcow2 -b {} -F raw middle 4M", url("base"));
    shop.must(&middle);
    let lent = |name: &str| format!("{},export={name}", shop.path(name).display());
    let program = tests::artifacts::microvm().unwrap();
    let words = [
        "--readonly",
        &lent("base"),
        &format!("{},format=raw", lent("middle")),
    ];
    let server = Server::microvm(&program, &shop.path("far"), &words).unwrap();
    assert_expected(&shop, "qcow2", &url("middle"));
    shop.must(&format!(
        "create -f flat -b {} -F qcow2 disk",
        url("middle")
    ));
    assert_expected(&shop, "flat", "disk");
    assert_eq!(info(&shop, "disk")["backing-filename"], url("middle"));
    assert!(server.stop().unwrap().status.success());
    // A loop is found though each connection is another.
    let loop_line = format!("create -u -f qcow2 -b {} -F qcow2 base 4M", url("loop"));
    shop.must(&loop_line);
    let words = [
        "--readonly",
        &format!("{},format=raw,export=loop", shop.path("base").display()),
    ];
    let _server = Server::microvm(&program, &shop.path("far"), &words).unwrap();
    shop.refused(
        &format!("map -f qcow2 {}", url("loop")),
        &["stands on this image itself"],
    );
}
