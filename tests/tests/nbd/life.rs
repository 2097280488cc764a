//! A server's start and end, and clients that come and go beside each other.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::thread;

use images::packages::Tool;
use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use rustix::process::Signal;
use tests::nbd::Server;

use crate::raw_client::Client;
use crate::setting::{Setting, microvm, run, stop};

fn refusal(setting: &Setting, words: &[&str]) -> String {
    let socket = setting.path("nbd");
    let server = Server::microvm(microvm(), socket.as_ref(), words);
    let error = server.err().expect("it serves").to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn says_where_it_listens_and_cleans_up() {
    for signal in [Signal::TERM, Signal::INT] {
        let setting = Setting::new();
        let image = setting.raw_image("image", 1);
        let server = setting.serve_with(&["--export", "a b", &image]);
        let socket = setting.path("nbd");
        let uri = format!("nbd+unix:///a%20b?socket={socket}");
        assert_eq!(server.announcements(), [format!("serving {uri}")]);
        run(Tool::NbdInfo, &[&uri]);
        server.signal(signal).unwrap();
        let ended = server.wait().unwrap();
        assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""));
        assert!(!fs::exists(socket).unwrap());
    }
}

/// A pipe that nobody empties is where the statistics go, so that the end takes for ever.
#[test]
fn a_second_signal_waits_for_nothing() {
    let setting = Setting::new();
    let (image, stats) = (setting.raw_image("image", 1), setting.path("stats"));
    mkfifoat(CWD, &stats, Mode::RUSR | Mode::WUSR).unwrap();
    let mut options = File::options();
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let options = options.read(true).write(true).custom_flags(flags);
    let mut pipe = options.open(&stats).unwrap();
    while pipe.write(&[0; 4096]).is_ok() {}
    let server = setting.serve_with(&["--stats", &stats, &image]);
    let socket = setting.path("nbd");
    server.signal(Signal::TERM).unwrap();
    // It has heard the first when nobody can come any more.
    while fs::exists(&socket).unwrap() {
        thread::yield_now();
    }
    server.signal(Signal::TERM).unwrap();
    let ended = server.wait().unwrap();
    let sigterm = Signal::TERM.as_raw();
    assert_eq!(ended.status.code(), Some(128 + sigterm), "{ended:?}");
    assert_eq!(ended.stderr, "");
}

#[test]
fn a_used_socket_is_refused_and_a_stale_one_replaced() {
    let setting = Setting::new();
    let (image, other) = (setting.raw_image("image", 1), setting.raw_image("other", 1));
    let server = setting.serve(&image);
    let error = refusal(&setting, &[&other]);
    assert!(error.contains("another server listens there"), "{error}");
    let mut client = Client::connect(&server);
    client.go("vm");
    // Killed: its socket stays.
    drop(server);
    stop(setting.serve(&image));
    fs::write(setting.path("nbd"), "precious").unwrap();
    let error = refusal(&setting, &[&image]);
    assert!(error.contains("not a socket"), "{error}");
    assert_eq!(fs::read(setting.path("nbd")).unwrap(), b"precious");
}

#[test]
fn an_image_that_cannot_be_served_leaves_no_socket() {
    let setting = Setting::new();
    let image = setting.raw_image("image", 1);
    for (words, part) in [
        (vec!["no-such-image"], "no-such-image"),
        (vec!["--export", "vm", "image,format=vmdk"], "vmdk"),
        (vec![image.as_str(), "--nbd", "tcp:localhost"], "--nbd"),
        (vec![image.as_str(), "--snapshot", "one"], "no snapshots"),
    ] {
        let error = refusal(&setting, &words);
        assert!(error.contains(part), "{error}");
        assert!(!fs::exists(setting.path("nbd")).unwrap());
    }
    let server = setting.serve(&image);
    let elsewhere = setting.path("elsewhere");
    let error = Server::microvm(microvm(), elsewhere.as_ref(), &[&image]);
    let error = error.err().expect("one image has one writer").to_string();
    assert!(error.contains("in use"), "{error}");
    stop(server);
}

#[test]
fn what_was_written_is_in_the_image_at_the_end() {
    let setting = Setting::new();
    let image = setting.blank_image("image", "qcow2", &[], 4);
    let server = setting.serve(&format!("{image},format=qcow2"));
    let mut client = Client::connect(&server);
    client.go("vm");
    client.write(1 << 20, &[7; 4096]);
    // The client is still there, and has not flushed.
    stop(server);
    assert!(client.is_at_end());
    run(Tool::QemuImg, &["check", &image]);
    let text = run(Tool::QemuIo, &["-r", "-c", "read -P 7 1M 4k", &image]);
    assert!(!text.contains("verification failed"), "{text}");
}

#[test]
fn clients_share_one_disk() {
    let setting = Setting::new();
    let image = setting.blank_image("image", "raw", &[], 8);
    let server = setting.serve(&image);
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&server)).collect();
    for client in &mut clients {
        client.go("vm");
    }
    thread::scope(|scope| {
        for (client, n) in clients.iter_mut().zip(0_u8..) {
            scope.spawn(move || {
                for round in 0_u64..200 {
                    // Sectors are shared: each client has a byte of every one.
                    client.write(round * 512 + u64::from(n), &[n + 1]);
                }
                client.flush();
            });
        }
    });
    let seen = clients[0].read(0, 200 * 512);
    for sector in seen.chunks(512) {
        assert_eq!(sector[..5], [1, 2, 3, 4, 0]);
    }
    stop(server);
}

#[test]
fn more_clients_than_there_is_room_for_take_turns() {
    let setting = Setting::new();
    let image = setting.raw_image("image", 1);
    let server = setting.serve(&image);
    // They say nothing, and are sent away when others come.
    let idle: Vec<_> = (0..70).map(|_| Client::connect(&server)).collect();
    let mut client = Client::connect(&server);
    client.go("vm");
    assert_eq!(client.read(0, 16).len(), 16);
    drop(idle);
    stop(server);
}

#[test]
fn as_many_clients_as_there_is_room_for_are_served_at_once() {
    let setting = Setting::new();
    let image = setting.raw_image("image", 1);
    let server = setting.serve(&image);
    let mut clients = Vec::new();
    for _ in 0..64 {
        let mut client = Client::connect(&server);
        client.go("vm");
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.read(0, 16).len(), 16);
    }
    // One more has to wait, and somebody is told why.
    let late = UnixStream::connect(server.socket()).unwrap();
    for client in &mut clients {
        client.read(0, 16);
    }
    let ended = server.stop().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.stderr.contains("64 NBD clients"), "{ended:?}");
    drop(late);
}
