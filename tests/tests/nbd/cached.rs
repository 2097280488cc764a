//! Images that are lent from behind a cache.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;
use serde_json::Value;

use crate::raw_client::Client;
use crate::setting::{Setting, refusal, stop};

const MIB: u64 = 1 << 20;

/// What a client wrote at `offset` in a round.
fn content(offset: u64, round: u8) -> Vec<u8> {
    let first = u8::try_from(offset / 4096 % 251).unwrap();
    vec![first ^ round; 4096]
}

/// Writes blocks all over the image, and flushes.
fn write(client: &mut Client, round: u8) {
    for offset in (0..4 * MIB).step_by(68 << 10) {
        client.write(offset, &content(offset, round));
    }
    client.flush();
}

fn check(client: &mut Client, round: u8) {
    for offset in (0..4 * MIB).step_by(68 << 10) {
        assert!(
            client.read(offset, 4096) == content(offset, round),
            "{offset}"
        );
    }
}

#[test]
fn what_was_flushed_into_a_cache_file_outlives_a_kill() {
    let setting = Setting::new();
    for (name, format) in [("raw", "raw"), ("qcow2", "qcow2")] {
        let image = setting.blank_image(name, format, &[], 4);
        let cache = setting.path(&format!("{name}.cache"));
        let lent = format!("{image},format={format},cache=1M,cache-file={cache},cache-write=back");
        for round in 1..4 {
            let server = setting.serve(&lent);
            let mut client = Client::connect(&server);
            client.go("vm");
            if round > 1 {
                check(&mut client, round - 1);
            }
            write(&mut client, round);
            server.signal(Signal::KILL).unwrap();
            let ended = server.wait().unwrap();
            assert_eq!(ended.status.signal(), Some(Signal::KILL.as_raw()));
        }
        // Whatever way it writes, it finds what the image lacks.
        let server = setting.serve(&lent.replace("=back", "=through"));
        let mut client = Client::connect(&server);
        client.go("vm");
        check(&mut client, 3);
        drop(client);
        // A qcow2 that was not closed says so.
        assert!(server.stop().unwrap().status.success());
        // Then the image stands alone.
        let server = setting.serve(&format!("{image},format={format}"));
        let mut client = Client::connect(&server);
        client.go("vm");
        check(&mut client, 3);
        drop(client);
        stop(server);
    }
}

#[test]
fn a_cache_file_belongs_to_one_image() {
    let setting = Setting::new();
    let (image, other) = (setting.raw_image("image", 2), setting.raw_image("other", 2));
    let cache = setting.path("cache");
    let behind = |image: &str| format!("{image},cache=1M,cache-file={cache}");
    let server = setting.serve(&behind(&image));
    let second = refusal(&["--nbd", "tcp:127.0.0.1:0", &behind(&other)]);
    assert!(
        second.contains("cache: in use by another process"),
        "{second}"
    );
    stop(server);
    let second = refusal(&["--nbd", "tcp:127.0.0.1:0", &behind(&other)]);
    assert!(second.contains("is the cache of another disk"), "{second}");
    let words = format!("{image},cache=1M,cache-file={other}");
    let not_one = refusal(&["--nbd", "tcp:127.0.0.1:0", &words]);
    assert!(not_one.contains("other: is not a cache file"), "{not_one}");
}

#[test]
fn a_cache_is_counted_and_is_warm_the_next_time() {
    let setting = Setting::new();
    let image = setting.raw_image("image", 2);
    let (cache, stats) = (setting.path("cache"), setting.path("stats"));
    let lent = format!("{image},cache=1M,cache-file={cache}");
    let mut counts: Vec<Value> = Vec::new();
    for _ in 0..2 {
        let server = setting.serve_with(&["--export", "vm", "--stats", &stats, &lent]);
        let mut client = Client::connect(&server);
        client.go("vm");
        let bytes = fs::read(&image).unwrap();
        for offset in [0, 300 << 10] {
            let at = usize::try_from(offset).unwrap();
            assert!(client.read(offset, 8192) == bytes[at..at + 8192]);
        }
        drop(client);
        stop(server);
        counts.push(serde_json::from_str(&fs::read_to_string(&stats).unwrap()).unwrap());
    }
    let of = |n: usize, name: &str| counts[n]["cache"][name].as_u64().unwrap();
    assert_eq!((of(0, "hits"), of(0, "misses"), of(0, "fills")), (0, 4, 4));
    assert_eq!((of(1, "hits"), of(1, "misses"), of(1, "fills")), (4, 0, 0));
}
