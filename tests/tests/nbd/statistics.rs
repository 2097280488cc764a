//! What a server counts, and writes at its end.

use std::fs;

use serde_json::Value;
use tests::nbd::Server;

use crate::raw_client::Client;
use crate::setting::{Setting, microvm, stop};

/// Serves `image`, has `rounds` writes of 4 KiB made, a flush after each, and 2 reads, and returns
/// what the server wrote.
fn count(setting: &Setting, image: &str, rounds: u64) -> Value {
    let stats = setting.path("stats.json");
    // Longer than what takes its place.
    let before = "x".repeat(100_000);
    fs::write(&stats, &before).unwrap();
    let server = setting.serve_with(&["--export", "vm", "--stats", &stats, image]);
    let mut client = Client::connect(&server);
    client.go("vm");
    for round in 0..rounds {
        client.write(round << 16, &[7; 4096]);
        client.flush();
    }
    client.read(0, 1024);
    client.read(1 << 16, 1024);
    assert_eq!(fs::read_to_string(&stats).unwrap(), before);
    stop(server);
    serde_json::from_str(&fs::read_to_string(&stats).unwrap()).unwrap()
}

#[track_caller]
fn assert_requests(stats: &Value, rounds: u64) {
    for (name, expected) in [
        ("reads", 2),
        ("read_bytes", 2048),
        ("writes", rounds),
        ("written_bytes", rounds * 4096),
        ("flushes", rounds),
        ("discards", 0),
        ("write_zeroes", 0),
        ("errors", 0),
        ("barriers", 0),
    ] {
        assert_eq!(stats[name], expected, "{name}: {stats}");
    }
}

#[test]
fn requests_are_counted_to_the_end() {
    let setting = Setting::new();
    let image = setting.blank_image("image", "qcow2", &[], 4);
    let stats = count(&setting, &format!("{image},format=qcow2"), 9);
    assert_requests(&stats, 9);
    assert!(stats["host_syncs"].as_u64() >= Some(9), "{stats}");
    assert!(stats["metadata_bytes"].as_u64() > Some(0), "{stats}");
    assert!(stats["journal"]["transactions"].is_u64(), "{stats}");
    assert!(stats["growth"]["written_ahead_bytes"].is_u64(), "{stats}");
}

#[test]
fn a_raw_image_has_no_metadata() {
    let setting = Setting::new();
    let image = setting.blank_image("image", "raw", &[], 4);
    let stats = count(&setting, &image, 5);
    assert_requests(&stats, 5);
    // A sync of its own for each, and nothing left for the end.
    assert_eq!(stats["host_syncs"], 5, "{stats}");
    assert_eq!(stats["metadata_bytes"], 0, "{stats}");
}

#[test]
fn what_is_unsafe_never_syncs() {
    let setting = Setting::new();
    for format in ["raw", "qcow2"] {
        let image = setting.blank_image(format, format, &[], 4);
        let stats = count(
            &setting,
            &format!("{image},format={format},order=unsafe"),
            5,
        );
        assert_requests(&stats, 5);
        assert_eq!(stats["host_syncs"], 0, "{format}: {stats}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_anything_is_served() {
    let setting = Setting::new();
    let image = setting.raw_image("image", 1);
    let stats = setting.path("nowhere/stats");
    assert_refused(&setting, &stats, &image, "cannot write the statistics");
}

#[test]
fn no_file_of_an_image_is_written_over() {
    let setting = Setting::new();
    let base = setting.raw_image("base", 1);
    let base_content = fs::read(&base).unwrap();
    let overlay = |name, below: &str, format| {
        setting.blank_image(name, "qcow2", &["-b", below, "-F", format], 1)
    };
    let middle = overlay("middle", &base, "raw");
    let top = overlay("top", &middle, "qcow2");
    let other = setting.raw_image("other", 1);
    let image = format!("{top},format=qcow2");
    for stats in [&base, &middle, &top] {
        assert_refused(&setting, stats, &image, "is a file of the image");
    }
    let also = format!("{image},export=second");
    let socket = setting.path("nbd");
    let words = ["--stats", &base, other.as_str(), also.as_str()];
    let server = Server::microvm(microvm(), socket.as_ref(), &words);
    assert!(server.is_err());
    assert_eq!(fs::read(&base).unwrap(), base_content);
}

#[track_caller]
fn assert_refused(setting: &Setting, stats: &str, image: &str, part: &str) {
    let socket = setting.path("nbd");
    let words = ["--stats", stats, image];
    let server = Server::microvm(microvm(), socket.as_ref(), &words);
    let error = server.err().expect("it serves").to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains(part), "{error}");
    assert!(!fs::exists(&socket).unwrap());
}
