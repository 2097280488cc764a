//! Clients that break the rules, and what others notice of it: nothing.

use tests::nbd::Server;

use crate::raw_client::{
    CMD_BLOCK_STATUS, CMD_READ, CMD_WRITE, COOKIE, Client, OPT_GO, OPT_INFO, OPT_LIST,
    OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY, OPTION_MAGIC, REP_ACK, REP_ERR_INVALID,
    REP_ERR_TOO_BIG, REP_ERR_UNKNOWN, REP_ERR_UNSUP, named, request,
};
use crate::setting::{Setting, stop};

const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const IMAGE_BYTES: u64 = 4 << 20;

/// A server, and a client of it that behaves.
struct Guarded {
    setting: Setting,
    server: Server,
    witness: Client,
}

impl Guarded {
    fn new() -> Self {
        let setting = Setting::new();
        let image = setting.blank_image("image", "raw", &[], IMAGE_BYTES >> 20);
        let server = setting.serve(&image);
        let mut witness = Client::connect(&server);
        witness.go("vm");
        Self {
            setting,
            server,
            witness,
        }
    }

    /// A client that has begun.
    fn client(&self) -> Client {
        let mut client = Client::connect(&self.server);
        client.go("vm");
        client
    }

    /// The other client is served as ever, and the server ends in order.
    fn finish(mut self) {
        self.witness.write(1 << 20, b"still here");
        assert_eq!(self.witness.read(1 << 20, 10), b"still here");
        stop(self.server);
        drop(self.setting);
    }
}

#[test]
fn who_does_not_speak_the_protocol_is_cut_off() {
    let guarded = Guarded::new();
    for flags in [4_u32, u32::MAX] {
        let mut client = Client::connect_silently(&guarded.server);
        client.send(&flags.to_be_bytes());
        assert!(client.is_at_end());
    }
    let too_long = [OPTION_MAGIC, &OPT_GO.to_be_bytes(), &[0xff; 4]].concat();
    let unknown_export = [OPTION_MAGIC, &[0, 0, 0, 1, 0, 0, 0, 1], b"x"].concat();
    for words in [&[0; 16][..], &[0xff; 64], &too_long, &unknown_export] {
        let mut client = Client::connect(&guarded.server);
        client.send(words);
        assert!(client.is_at_end(), "{words:x?}");
    }
    let mut client = guarded.client();
    client.send(&[0x25; 28]);
    assert!(client.is_at_end());
    guarded.finish();
}

#[test]
fn options_that_make_no_sense_are_answered() {
    let guarded = Guarded::new();
    let mut client = Client::connect(&guarded.server);
    let contexts = |count: u32| named("vm", &count.to_be_bytes());
    for (option, data, kind) in [
        (99, vec![1, 2, 3], REP_ERR_UNSUP),
        (5, vec![], REP_ERR_UNSUP),
        (OPT_LIST, vec![0], REP_ERR_INVALID),
        (OPT_STRUCTURED_REPLY, vec![0], REP_ERR_INVALID),
        (OPT_INFO, vec![], REP_ERR_INVALID),
        (OPT_GO, vec![0xff; 40], REP_ERR_INVALID),
        (OPT_GO, named("vm", &[0, 2, 0, 0]), REP_ERR_INVALID),
        (OPT_INFO, named("else", &[0, 0]), REP_ERR_UNKNOWN),
        (OPT_GO, vec![0; 100_000], REP_ERR_TOO_BIG),
        // Not before replies are structured.
        (OPT_SET_META_CONTEXT, contexts(0), REP_ERR_INVALID),
        (OPT_STRUCTURED_REPLY, vec![], REP_ACK),
        (OPT_SET_META_CONTEXT, contexts(u32::MAX), REP_ERR_INVALID),
        (OPT_SET_META_CONTEXT, contexts(0), REP_ACK),
    ] {
        client.option(option, &data);
        assert_eq!(client.option_reply(option).0, kind, "{option}: {data:?}");
    }
    client.go("vm");
    guarded.finish();
}

#[test]
fn requests_that_cannot_be_done_are_answered() {
    let guarded = Guarded::new();
    let mut client = guarded.client();
    for (command, flags, offset, len, error) in [
        (CMD_READ, 0, IMAGE_BYTES - 1, 2, EINVAL),
        (CMD_READ, 0, u64::MAX, 512, EINVAL),
        (CMD_READ, 0, 0, (32 << 20) + 1, EINVAL),
        (CMD_READ, 1 << 2, 0, 512, EINVAL),
        (CMD_READ, 1 << 15, 0, 512, EINVAL),
        (CMD_BLOCK_STATUS, 0, 0, 512, EINVAL),
        (6, 0, IMAGE_BYTES, 512, ENOSPC),
        (4, 0, u64::MAX - 511, 512, EINVAL),
        (77, 0, 0, 0, EINVAL),
    ] {
        client.request(command, flags, offset, len);
        let reply = client.simple_reply();
        assert_eq!(reply, error, "{command} {flags} {offset} {len}");
    }
    // What a refused write carries is skipped, not taken for a request.
    client.request(CMD_WRITE, 0, IMAGE_BYTES - 512, 100_000);
    client.send(&vec![0x25; 100_000]);
    assert_eq!(client.simple_reply(), ENOSPC);
    assert_eq!(client.read(IMAGE_BYTES - 512, 512), [0; 512]);
    guarded.finish();
}

#[test]
fn structured_errors_say_what_is_wrong() {
    let guarded = Guarded::new();
    let mut client = Client::connect(&guarded.server);
    client.negotiate_all("vm");
    client.request(CMD_READ, 0, IMAGE_BYTES, 1);
    let chunk = client.chunk();
    assert_eq!(
        (chunk.done, chunk.kind, chunk.cookie),
        (true, 0x8001, COOKIE)
    );
    assert_eq!(chunk.data[..4], EINVAL.to_be_bytes());
    let message = String::from_utf8_lossy(&chunk.data[6..]).into_owned();
    assert!(message.contains("past the end"), "{message}");
    client.request(CMD_BLOCK_STATUS, 0, 0, 0);
    assert_eq!(client.chunk().data[..4], EINVAL.to_be_bytes());
    // Zeros are not sent, even if they are data.
    client.request(CMD_READ, 0, 100, 3000);
    let chunk = client.chunk();
    assert_eq!((chunk.done, chunk.kind), (true, 2));
    assert_eq!(
        chunk.data,
        [&100_u64.to_be_bytes()[..], &3000_u32.to_be_bytes()].concat()
    );
    client.request(CMD_READ, 0, 100, 0);
    assert_eq!(client.chunk().kind, 0);
    guarded.finish();
}

#[test]
fn a_write_that_is_too_large_ends_the_connection() {
    let guarded = Guarded::new();
    let mut client = guarded.client();
    client.request(CMD_WRITE, 0, 0, (32 << 20) + 1);
    assert!(client.is_at_end());
    guarded.finish();
}

#[test]
fn a_client_that_dies_in_the_middle_changes_nothing() {
    let mut guarded = Guarded::new();
    for sent in [0, 1, 27, 28, 29, 4000, 28 + 199_999] {
        let mut client = guarded.client();
        let mut write = request(CMD_WRITE, 0, 0, 200_000);
        write.resize(28 + 200_000, 0xff);
        client.send(&write[..sent]);
    }
    // Another one leaves with replies on the way to it.
    let mut client = guarded.client();
    for _ in 0..8 {
        client.request(CMD_READ, 0, 0, 1 << 20);
    }
    drop(client);
    let untouched = guarded.witness.read(0, 200_000);
    assert!(untouched.iter().all(|&byte| byte == 0));
    guarded.finish();
}

#[test]
fn who_takes_no_replies_costs_others_nothing_and_little_memory() {
    const KIB_MAX: u64 = 256 << 10;
    let guarded = Guarded::new();
    let idle = guarded.server.memory_peak_kib().unwrap();
    let mut slow: Vec<_> = (0..3).map(|_| guarded.client()).collect();
    for client in &mut slow {
        client.send(&request(CMD_READ, 0, 0, 1 << 20).repeat(1000));
    }
    let mut promising: Vec<_> = (0..20).map(|_| guarded.client()).collect();
    for client in &mut promising {
        assert!(client.try_send(&request(CMD_WRITE, 0, 0, 4 << 20)).is_ok());
        assert!(client.try_send(&[0xff; 4096]).is_ok());
    }
    let mut guarded = guarded;
    guarded.witness.write(0, b"quick");
    assert_eq!(guarded.witness.read(0, 5), b"quick");
    let peak = guarded.server.memory_peak_kib().unwrap();
    assert!(peak < idle + KIB_MAX, "{peak} KiB, {idle} at rest");
    drop((slow, promising));
    guarded.finish();
}

#[test]
fn memory_is_bounded_for_all_who_take_no_replies_together() {
    const KIB_MAX: u64 = 256 << 10;
    let guarded = Guarded::new();
    let idle = guarded.server.memory_peak_kib().unwrap();
    let mut greedy: Vec<_> = (0..20).map(|_| guarded.client()).collect();
    for client in &mut greedy {
        client.send(&request(CMD_READ, 0, 0, 1 << 20).repeat(100));
    }
    for client in &mut greedy {
        assert_eq!(client.simple_reply(), 0);
    }
    let mut guarded = guarded;
    // There is a share for who takes what it asks for.
    for _ in 0..20 {
        guarded.witness.read(0, 2 << 20);
    }
    let peak = guarded.server.memory_peak_kib().unwrap();
    assert!(peak < idle + KIB_MAX, "{peak} KiB, {idle} at rest");
    // Whoever takes its replies at last gets all of them.
    let mut late = greedy.pop().unwrap();
    late.receive(1 << 20);
    for _ in 1..100 {
        assert_eq!(late.simple_reply(), 0);
        late.receive(1 << 20);
    }
    drop(greedy);
    guarded.finish();
}

#[test]
fn noise_harms_nobody() {
    const SEED: u64 = 20_261_121;
    println!("seed {SEED}");
    let guarded = Guarded::new();
    let mut state = SEED;
    let mut random = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    };
    for round in 0_u64..200 {
        let mut client = match round % 3 {
            0 => Client::connect_silently(&guarded.server),
            1 => Client::connect(&guarded.server),
            _ => guarded.client(),
        };
        let mut noise: Vec<u8> = (0..64).flat_map(|_| random()).collect();
        match round % 3 {
            1 => noise[..8].copy_from_slice(OPTION_MAGIC),
            2 => {
                // A request that cannot write, for the image must stay as it is.
                noise[..4].copy_from_slice(&request(0, 0, 0, 0)[..4]);
                noise[6..8].copy_from_slice(&[0, 7]);
            }
            _ => {}
        }
        let _ = client.try_send(&noise);
    }
    guarded.finish();
}
