//! Servers that listen at TCP ports.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use images::packages::Tool;
use tests::nbd::Server;

use crate::raw_client::{CMD_DISC, CMD_READ, CMD_WRITE, Client, request};
use crate::setting::{Setting, TcpPlace, microvm, refusal, run, serve_tcp, stop, try_run};

#[test]
fn real_clients_come_over_tcp() {
    let setting = Setting::new();
    let source = setting.raw_image("source", 20);
    let image = setting.blank_image("image", "qcow2", &[], 20);
    let words = ["--export", "a b", &format!("{image},format=qcow2")];
    let (server, place) = serve_tcp(&words);
    assert_eq!(place.uri, format!("nbd://127.0.0.1:{}/a%20b", place.port));
    let copy = setting.path("copy");
    run(Tool::NbdCopy, &[&source, &place.uri]);
    run(Tool::NbdCopy, &["--connections=4", &place.uri, &copy]);
    assert!(fs::read(&source).unwrap() == fs::read(&copy).unwrap());
    let compare = ["compare", "-f", "raw", "-F", "raw", &source, &place.uri];
    run(Tool::QemuImg, &compare);
    stop(server);
    run(Tool::QemuImg, &["check", &image]);
}

#[test]
fn one_server_listens_at_several_places() {
    let setting = Setting::new();
    let image = setting.blank_image("image", "raw", &[], 1);
    let socket = setting.path("nbd");
    let words = [
        "--nbd",
        &format!("unix:{socket}"),
        "--nbd",
        "tcp:0",
        "--nbd",
        "tcp:127.0.0.1:0",
        &image,
    ];
    let server = Server::microvm_anywhere(microvm(), &words, 3).unwrap();
    let first = format!("serving nbd+unix:///?socket={socket}");
    assert_eq!(server.announcements()[0], first);
    let mut unix = Client::over(UnixStream::connect(&socket).unwrap());
    unix.greet();
    unix.go("");
    let places = [1, 2].map(|line: usize| TcpPlace::of(&server.announcements()[line]));
    assert_ne!(places[0].port, places[1].port);
    for (place, n) in places.iter().zip(1_u8..) {
        let mut tcp = Client::over(place.connect());
        tcp.greet();
        tcp.go("");
        tcp.write(u64::from(n), &[n]);
        assert_eq!(unix.read(u64::from(n), 1), [n]);
    }
    stop(server);
    assert!(!fs::exists(socket).unwrap());
}

#[test]
fn ipv6_addresses_are_in_brackets() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this host has no IPv6");
        return;
    }
    let setting = Setting::new();
    let image = setting.raw_image("image", 1);
    let words = ["--nbd", "tcp:[::1]:0", &image];
    let server = Server::microvm_anywhere(microvm(), &words, 1).unwrap();
    let place = TcpPlace::of(&server.announcements()[0]);
    assert_eq!(place.uri, format!("nbd://[::1]:{}/", place.port));
    run(Tool::NbdInfo, &[&place.uri]);
    stop(server);
}

#[test]
fn a_port_that_is_taken_is_refused() {
    let setting = Setting::new();
    let image = setting.raw_image("image", 1);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", taken.local_addr().unwrap());
    let socket = setting.path("nbd");
    let unix = format!("unix:{socket}");
    let error = refusal(&["--nbd", &unix, "--nbd", &address, &image]);
    assert!(
        error.contains(&address) && error.contains("in use"),
        "{error}"
    );
    assert!(!fs::exists(socket).unwrap());
}

/// Whoever can reach the port could write: the owner has to want it.
#[test]
fn writes_of_other_hosts_must_be_wanted() {
    let setting = Setting::new();
    let image = setting.raw_image("image", 1);
    for address in ["tcp:0.0.0.0:0", "tcp:[::]:0"] {
        let error = refusal(&["--nbd", "tcp:0", "--nbd", address, &image]);
        for part in [
            address,
            "--tls-certificates",
            "--readonly",
            "--allow-plain-writes",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
    let read_only = format!("{image},readonly");
    for words in [
        &["--readonly", &image][..],
        &[&read_only],
        &["--allow-plain-writes", &image],
    ] {
        let words = [&["--nbd", "tcp:0.0.0.0:0"], words].concat();
        let server = Server::microvm_anywhere(microvm(), &words, 1).unwrap();
        let place = TcpPlace::of(&server.announcements()[0]);
        let uri = format!("nbd://127.0.0.1:{}/", place.port);
        let (is_read_only, _) = try_run(Tool::NbdInfo, &["--is", "read-only", &uri]);
        assert_eq!(is_read_only, !words.contains(&"--allow-plain-writes"));
        stop(server);
    }
}

#[test]
fn who_breaks_off_harms_nobody() {
    let setting = Setting::new();
    let image = setting.blank_image("image", "raw", &[], 4);
    let (server, place) = serve_tcp(&[&image]);
    let begun = || {
        let mut client = Client::over(place.connect());
        client.greet();
        client.go("");
        client
    };
    let mut witness = begun();
    // Gone before it was accepted, perhaps.
    for _ in 0..20 {
        drop(place.connect());
    }
    for sent in [1, 28, 5000] {
        let mut write = request(CMD_WRITE, 0, 0, 100_000);
        write.resize(28 + 100_000, 0xff);
        begun().send(&write[..sent]);
    }
    // Replies that nobody takes, so that the host resets the connection.
    for _ in 0..3 {
        begun().send(&request(CMD_READ, 0, 0, 1 << 20).repeat(50));
    }
    let mut stuck = place.connect();
    stuck.write_all(&[0, 0]).unwrap();
    let mut leaving = begun();
    leaving.request(CMD_DISC, 0, 0, 0);
    assert!(leaving.is_at_end());
    witness.write(0, b"still here");
    assert_eq!(witness.read(0, 10), b"still here");
    assert!(witness.read(10, 100_000).iter().all(|&byte| byte == 0));
    // One that stays silent does not hold up the end.
    stop(server);
    drop(stuck);
}

/// Many that only connect send each other away, and nobody else who is in a handshake.
#[test]
fn a_flood_of_one_peer_keeps_no_other_out() {
    let setting = Setting::new();
    let image = setting.raw_image("image", 1);
    let unix = format!("unix:{}", setting.path("nbd"));
    let words = ["--nbd", &unix, "--nbd", "tcp:0", &image];
    let server = Server::microvm_anywhere(microvm(), &words, 2).unwrap();
    let place = TcpPlace::of(&server.announcements()[1]);
    let mut client = Client::over(place.connect());
    let flood = || Client::over(UnixStream::connect(setting.path("nbd")).unwrap());
    let flood: Vec<_> = (0..200).map(|_| flood()).collect();
    client.greet();
    client.go("");
    client.read(0, 512);
    drop((client, flood));
    stop(server);
}
