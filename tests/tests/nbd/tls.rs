//! The clients that people use, by way of TLS.

use std::fs;

use images::packages::{Tool, require};

use crate::authority::Authority;
use crate::setting::{Setting, TcpPlace, guarded, refusal, run, serve_tcp, stop, try_run};

/// The URI of a place for libnbd, with the certificates in a client's directory.
fn with_certificates(place: &TcpPlace, directory: &str) -> String {
    format!("{}?tls-certificates={directory}", place.uri)
}

/// What QEMU calls a place, and the option that gives it the certificates in a client's directory.
fn qemu_words(place: &TcpPlace, directory: &str) -> [String; 3] {
    [
        "--object".to_owned(),
        format!("tls-creds-x509,id=tls,endpoint=client,dir={directory}"),
        format!(
            "driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={},export=vm,\
             tls-creds=tls",
            place.port
        ),
    ]
}

#[test]
fn libnbd_copies_both_ways() {
    let (setting, authority) = (Setting::new(), Authority::new());
    let source = setting.raw_image("source", 50);
    let image = setting.blank_image("image", "qcow2", &[], 50);
    let certificates = authority.server();
    let file = format!("{image},format=qcow2");
    let words = guarded(&certificates, &file);
    let (server, place) = serve_tcp(&words);
    assert_eq!(place.uri, format!("nbds://127.0.0.1:{}/vm", place.port));
    let uri = with_certificates(&place, &authority.stranger());
    let info = run(Tool::NbdInfo, &["--json", "--no-content", &uri]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(
        (&info["TLS"], &info["structured"]),
        (&true.into(), &true.into())
    );
    let copy = setting.path("copy");
    run(Tool::NbdCopy, &[&source, &uri]);
    run(Tool::NbdCopy, &["--allocated", &uri, &copy]);
    assert!(fs::read(&source).unwrap() == fs::read(&copy).unwrap());
    stop(server);
    run(Tool::QemuImg, &["check", &image]);
}

#[test]
fn qemu_converts_and_compares() {
    let (setting, authority) = (Setting::new(), Authority::new());
    let source = setting.raw_image("source", 20);
    let image = setting.blank_image("image", "raw", &[], 20);
    let certificates = authority.server();
    let words = [
        "--export",
        "vm",
        "--tls-certificates",
        &certificates,
        "--tls-verify-peer",
        &image,
    ];
    let (server, place) = serve_tcp(&words);
    let [object, credentials, target] = qemu_words(&place, &authority.client("client"));
    let file = format!("driver=raw,file.driver=file,file.filename={source}");
    let onto = [
        "convert",
        &object,
        &credentials,
        "--image-opts",
        "--target-image-opts",
        "-n",
        &file,
        &target,
    ];
    run(Tool::QemuImg, &onto);
    let compare = [
        "compare",
        &object,
        &credentials,
        "--image-opts",
        &file,
        &target,
    ];
    run(Tool::QemuImg, &compare);
    stop(server);
    assert!(fs::read(&source).unwrap() == fs::read(&image).unwrap());
}

#[test]
fn unix_sockets_may_have_tls_too() {
    let (setting, authority) = (Setting::new(), Authority::new());
    let image = setting.raw_image("image", 1);
    let certificates = authority.server();
    let words = guarded(&certificates, &image);
    let server = setting.serve_with(&words);
    let uri = format!("nbds+unix:///vm?socket={}", setting.path("nbd"));
    assert_eq!(server.announcements(), [format!("serving {uri}")]);
    let uri = format!("{uri}&tls-certificates={}", authority.stranger());
    run(Tool::NbdInfo, &[&uri]);
    stop(server);
}

#[test]
fn nobody_comes_without_tls() {
    let (setting, authority) = (Setting::new(), Authority::new());
    let image = setting.raw_image("image", 1);
    let certificates = authority.server();
    let words = guarded(&certificates, &image);
    let (server, place) = serve_tcp(&words);
    let plain = format!("nbd://127.0.0.1:{}/vm", place.port);
    for (tool, words) in [
        (Tool::NbdInfo, &[plain.as_str()][..]),
        (Tool::NbdCopy, &[&plain, "null:"]),
        (Tool::QemuImg, &["info", &plain]),
    ] {
        let (came, text) = try_run(tool, words);
        assert!(!came, "{text}");
    }
    // Nor does a client stay that does not know who the server is.
    let other = Authority::new();
    let uri = with_certificates(&place, &other.stranger());
    let (came, text) = try_run(Tool::NbdInfo, &[&uri]);
    assert!(!came, "{text}");
    stop(server);
}

#[test]
fn clients_are_known_by_their_certificates() {
    let (setting, authority, other) = (Setting::new(), Authority::new(), Authority::new());
    let image = setting.raw_image("image", 1);
    authority.revoke(77);
    let impostor = other.client("impostor");
    fs::copy(
        format!("{}/ca-cert.pem", authority.stranger()),
        format!("{impostor}/ca-cert.pem"),
    )
    .unwrap();
    let certificates = authority.server();
    let words = [
        "--export",
        "vm",
        "--tls-certificates",
        &certificates,
        "--tls-verify-peer",
        &image,
    ];
    let (server, place) = serve_tcp(&words);
    for (directory, is_welcome) in [
        (authority.client("client"), true),
        (authority.stranger(), false),
        (authority.client_numbered("revoked", 77), false),
        (impostor, false),
    ] {
        let uri = with_certificates(&place, &directory);
        let (came, text) = try_run(Tool::NbdInfo, &["--size", &uri]);
        assert_eq!(came, is_welcome, "{directory}: {text}");
        let [object, credentials, image] = qemu_words(&place, &directory);
        let words = ["info", &object, &credentials, "--image-opts", &image];
        let (came, text) = try_run(Tool::QemuImg, &words);
        assert_eq!(came, is_welcome, "{directory}: {text}");
    }
    stop(server);
}

#[test]
fn other_hosts_may_write_by_way_of_tls() {
    let (setting, authority) = (Setting::new(), Authority::new());
    let image = setting.raw_image("image", 1);
    let certificates = authority.server();
    let words = [
        "--nbd",
        "tcp:0.0.0.0:0",
        "--tls-certificates",
        &certificates,
        &image,
    ];
    let server = tests::nbd::Server::microvm_anywhere(crate::setting::microvm(), &words, 1);
    stop(server.unwrap());
}

#[test]
fn certificates_that_are_missing_are_told_before_anything_is_served() {
    let setting = Setting::new();
    let (image, authority) = (setting.raw_image("image", 1), Authority::new());
    let (empty, stranger) = (setting.path(""), authority.stranger());
    for (words, part) in [
        (&["--tls-certificates", &empty][..], "server-cert.pem"),
        (&["--tls-certificates", &stranger], "server-cert.pem"),
        (&["--tls-verify-peer"], "--tls-certificates"),
    ] {
        let error = refusal(&[&["--nbd", "tcp:0"], words, &[&image]].concat());
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn nbdkit_passes_on_what_is_served() {
    require(&[Tool::NbdCopy]).unwrap();
    let (setting, authority) = (Setting::new(), Authority::new());
    let source = setting.raw_image("source", 20);
    let image = setting.blank_image("image", "qcow2", &[], 20);
    let (file, certificates) = (format!("{image},format=qcow2"), authority.server());
    let copy = setting.path("copy");
    let plain = serve_tcp(&["--export", "vm", &file]);
    let write = format!("nbdcopy {source} \"$uri\"");
    let words = [
        "-U",
        "-",
        "--filter=fua",
        "--filter=blocksize",
        "nbd",
        &format!("uri={}", plain.1.uri),
        "fuamode=force",
        "minblock=4096",
        "maxdata=64k",
        "--run",
        &write,
    ];
    run(Tool::NbdKit, &words);
    stop(plain.0);
    let words = guarded(&certificates, &file);
    let (server, place) = serve_tcp(&words);
    // What is written stays with the filter.
    let blank = setting.blank_image("blank", "raw", &[], 20);
    let read = format!("nbdcopy \"$uri\" {copy} && nbdcopy {blank} \"$uri\"");
    let words = [
        "-U",
        "-",
        "--filter=cow",
        "--filter=cache",
        "nbd",
        &format!("uri={}", place.uri),
        "tls=require",
        &format!("tls-certificates={}", authority.stranger()),
        "--run",
        &read,
    ];
    run(Tool::NbdKit, &words);
    stop(server);
    assert!(fs::read(&source).unwrap() == fs::read(&copy).unwrap());
    let words = ["compare", "-f", "raw", "-F", "qcow2", &source, &image];
    run(Tool::QemuImg, &words);
}
