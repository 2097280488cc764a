//! Servers with several exports.

use std::fs;

use images::packages::Tool;
use serde_json::Value;
use tests::nbd::Server;

use crate::raw_client::{
    CMD_BLOCK_STATUS, Client, OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST, OPT_SET_META_CONTEXT,
    OPT_STRUCTURED_REPLY, REP_ACK, REP_ERR_UNKNOWN, REP_META_CONTEXT, REP_SERVER, named,
};
use crate::setting::{Setting, microvm, refusal, run, stop};

/// Serves three images of 1, 2 and 3 MiB, the last read-only; the first is the default.
fn serve(setting: &Setting, options: &[&str]) -> Server {
    let first = setting.blank_image("first", "raw", &[], 1);
    let second = setting.blank_image("second", "qcow2", &[], 2);
    let third = setting.raw_image("third", 3);
    let socket = format!("unix:{}", setting.path("nbd"));
    let files = [
        first,
        format!("{second},format=qcow2,export=b"),
        format!("{third},export=c,readonly"),
    ];
    let mut words = vec!["--nbd", &socket, "--export", "a"];
    words.extend(options);
    words.extend(files.iter().map(String::as_str));
    Server::microvm_anywhere(microvm(), &words, 3).unwrap()
}

fn connect(setting: &Setting) -> Client {
    let socket = setting.path("nbd");
    let mut client = Client::over(std::os::unix::net::UnixStream::connect(socket).unwrap());
    client.greet();
    client
}

fn uri(setting: &Setting, name: &str) -> String {
    format!("nbd+unix:///{name}?socket={}", setting.path("nbd"))
}

#[test]
fn every_export_is_listed_and_described() {
    let setting = Setting::new();
    let server = serve(&setting, &[]);
    let serving = ["a", "b", "c"].map(|name| format!("serving {}", uri(&setting, name)));
    assert_eq!(server.announcements(), serving);
    let words = ["--list", "--json", "--no-content", &uri(&setting, "")];
    let list: Value = serde_json::from_str(&run(Tool::NbdInfo, &words)).unwrap();
    let exports = list["exports"].as_array().unwrap();
    let seen: Vec<_> = exports
        .iter()
        .map(|export| {
            let (name, size) = (&export["export-name"], &export["export-size"]);
            (
                name.as_str().unwrap(),
                size.as_u64().unwrap() >> 20,
                export["is_read_only"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(seen, [("a", 1, false), ("b", 2, false), ("c", 3, true)]);
    stop(server);
}

#[test]
fn each_export_is_a_disk_of_its_own() {
    let setting = Setting::new();
    let server = serve(&setting, &[]);
    let mut clients: Vec<_> = ["", "a", "b"]
        .map(|name| {
            let mut client = connect(&setting);
            client.go(name);
            client
        })
        .into();
    clients[0].write(4096, b"first");
    clients[2].write(4096, b"other");
    // The empty name is the first's.
    assert_eq!(clients[1].read(4096, 5), b"first");
    assert_eq!(clients[2].read(4096, 5), b"other");
    let copy = setting.path("copy");
    run(Tool::NbdCopy, &[&uri(&setting, "c"), &copy]);
    stop(server);
    let third = setting.path("third");
    assert!(fs::read(copy).unwrap() == fs::read(third).unwrap());
    run(Tool::QemuImg, &["check", &setting.path("second")]);
}

#[test]
fn options_are_of_the_export_that_they_name() {
    let setting = Setting::new();
    let server = serve(&setting, &[]);
    let mut client = connect(&setting);
    client.option(OPT_LIST, &[]);
    for name in [b"a", b"b", b"c"] {
        let listed = [&[0, 0, 0, 1], name.as_slice()].concat();
        assert_eq!(client.option_reply(OPT_LIST), (REP_SERVER, listed));
    }
    assert_eq!(client.option_reply(OPT_LIST).0, REP_ACK);
    for (option, name) in [(OPT_INFO, "d"), (OPT_GO, "ab"), (OPT_GO, "A")] {
        client.option(option, &named(name, &[0, 0]));
        assert_eq!(client.option_reply(option).0, REP_ERR_UNKNOWN);
    }
    client.option(OPT_STRUCTURED_REPLY, &[]);
    assert_eq!(client.option_reply(OPT_STRUCTURED_REPLY).0, REP_ACK);
    let query = [&[0, 0, 0, 1, 0, 0, 0, 15], b"base:allocation".as_slice()].concat();
    client.option(OPT_SET_META_CONTEXT, &named("d", &query));
    let unknown = client.option_reply(OPT_SET_META_CONTEXT);
    assert_eq!(unknown.0, REP_ERR_UNKNOWN);
    client.option(OPT_SET_META_CONTEXT, &named("b", &query));
    let chosen = client.option_reply(OPT_SET_META_CONTEXT);
    assert_eq!(chosen.0, REP_META_CONTEXT);
    assert_eq!(client.option_reply(OPT_SET_META_CONTEXT).0, REP_ACK);
    // What was chosen of one export is not chosen of another.
    client.go("c");
    client.request(CMD_BLOCK_STATUS, 0, 0, 512);
    let chunk = client.chunk();
    assert_eq!((chunk.kind, &chunk.data[..4]), (0x8001, &[0, 0, 0, 22][..]));
    let mut client = connect(&setting);
    client.option(OPT_EXPORT_NAME, b"b");
    assert_eq!(client.receive(8), (2_u64 << 20).to_be_bytes());
    let mut client = connect(&setting);
    client.option(OPT_EXPORT_NAME, b"d");
    assert!(client.is_at_end());
    stop(server);
}

#[test]
fn statistics_are_of_each_export() {
    let setting = Setting::new();
    let stats = setting.path("stats.json");
    let server = serve(&setting, &["--stats", &stats]);
    for (name, reads) in [("a", 1), ("b", 2), ("c", 3)] {
        let mut client = connect(&setting);
        client.go(name);
        for _ in 0..reads {
            client.read(0, 512);
        }
    }
    stop(server);
    let stats: Value = serde_json::from_str(&fs::read_to_string(stats).unwrap()).unwrap();
    for (name, reads) in [("a", 1), ("b", 2), ("c", 3)] {
        assert_eq!(stats["exports"][name]["reads"], reads, "{name}: {stats}");
    }
}

#[test]
fn exports_that_cannot_be_told_apart_or_opened_are_refused() {
    let setting = Setting::new();
    let (one, other) = (setting.raw_image("one", 1), setting.raw_image("other", 1));
    let before = fs::read(&one).unwrap();
    let socket = format!("unix:{}", setting.path("nbd"));
    let refused = |words: &[&str]| refusal(&[&["--nbd", &socket], words].concat());
    let named = |file: &str, name: &str| format!("{file},export={name}");
    for (words, part) in [
        (vec![one.clone(), other.clone()], "has no name"),
        (
            vec![named(&one, "x"), named(&other, "x")],
            "the name of another",
        ),
        // One image has one writer, here too.
        (
            vec![one.clone(), named(&one, "x")],
            "given twice; add readonly",
        ),
        (vec![one.clone(), named("missing", "x")], "missing"),
        (vec![format!("{one},serial=x")], "for guests"),
    ] {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let error = refused(&words);
        assert!(error.contains(part), "{error}");
    }
    assert!(before == fs::read(&one).unwrap());
    // Whoever only reads may do so twice.
    let read_only = [
        format!("{one},readonly"),
        format!("{one},readonly,export=x"),
    ];
    let words = ["--nbd", &socket, &read_only[0], &read_only[1]];
    stop(Server::microvm_anywhere(microvm(), &words, 2).unwrap());
}
