//! Requests without data, which may be longer than any with data.

use images::packages::Tool;

use crate::raw_client::{
    CMD_BLOCK_STATUS, CMD_CACHE, CMD_READ, CMD_TRIM, CMD_WRITE_ZEROES, Client,
};
use crate::setting::{Setting, run, stop};

/// The longest that goes to whole sectors.
const LEN: u32 = u32::MAX - 511;
const START: u64 = 1 << 20;
const END: u64 = START + LEN as u64;
/// More than what requests with data may take.
const KIB_MAX: u64 = 128 << 10;

fn done(client: &mut Client) {
    assert_eq!(client.simple_reply(), 0);
}

/// What is at the edges of the long range, beside it and within it.
fn edges(client: &mut Client) -> [u8; 4] {
    [START - 1, START, END - 1, END].map(|offset| {
        client.request(CMD_READ, 0, offset, 1);
        let chunk = client.chunk();
        match chunk.kind {
            1 => chunk.data[8],
            2 => 0,
            kind => panic!("{kind:#x}"),
        }
    })
}

#[test]
fn requests_of_four_gib_are_done() {
    for (format, backed) in [("raw", false), ("qcow2", false), ("qcow2", true)] {
        let setting = Setting::new();
        let base = setting.blank_image("base", "raw", &[], 8 << 10);
        let options = ["-b", base.as_str(), "-F", "raw"];
        let options = if backed { &options[..] } else { &[] };
        let image = setting.blank_image("image", format, options, 8 << 10);
        let server = setting.serve(&format!("{image},format={format}"));
        let mut client = Client::connect(&server);
        client.negotiate_all("vm");
        client.request(CMD_CACHE, 0, START, LEN);
        done(&mut client);
        for command in [CMD_WRITE_ZEROES, CMD_TRIM] {
            for offset in [START - 4096, END - 4096] {
                client.write(offset, &[7; 8192]);
            }
            assert_eq!(edges(&mut client), [7; 4]);
            client.request(command, 0, START, LEN);
            done(&mut client);
            if command == CMD_WRITE_ZEROES {
                assert_eq!(edges(&mut client), [7, 0, 0, 7]);
            }
        }
        client.request(CMD_BLOCK_STATUS, 0, START, LEN);
        assert_eq!(client.chunk().kind, 5);
        let peak = server.memory_peak_kib().unwrap();
        assert!(peak < KIB_MAX, "{format}: {peak} KiB");
        stop(server);
        if format == "qcow2" {
            run(Tool::QemuImg, &["check", &image]);
        }
    }
}

/// None of many is in the way of another client.
#[test]
fn many_long_requests_take_little_and_leave_room() {
    let setting = Setting::new();
    let image = setting.blank_image("image", "qcow2", &[], 8 << 10);
    let server = setting.serve(&format!("{image},format=qcow2"));
    let mut greedy = Client::connect(&server);
    greedy.go("vm");
    let mut witness = Client::connect(&server);
    witness.go("vm");
    for command in [CMD_CACHE, CMD_WRITE_ZEROES, CMD_TRIM] {
        for _ in 0..100 {
            greedy.request(command, 0, START, LEN);
        }
        witness.write(0, b"quick");
        assert_eq!(witness.read(0, 5), b"quick");
    }
    for _ in 0..300 {
        done(&mut greedy);
    }
    let peak = server.memory_peak_kib().unwrap();
    assert!(peak < KIB_MAX, "{peak} KiB");
    stop(server);
}
