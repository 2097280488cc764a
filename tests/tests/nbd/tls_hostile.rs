//! Clients that break the rules of TLS, or those of NBD about it.

use tests::nbd::Server;

use crate::authority::{Authority, session};
use crate::raw_client::{
    CMD_DISC, CMD_READ, CMD_WRITE, Client, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST,
    OPT_SET_META_CONTEXT, OPT_STARTTLS, OPT_STRUCTURED_REPLY, OPTION_MAGIC, REP_ACK,
    REP_ERR_INVALID, REP_ERR_TLS_REQD, REP_SERVER, named, request,
};
use crate::setting::{Setting, guarded, stop};

const IMAGE_BYTES: u64 = 4 << 20;

/// A server that wants TLS, and a client of it that behaves.
struct Guarded {
    setting: Setting,
    authority: Authority,
    server: Server,
    witness: Client,
}

impl Guarded {
    fn new() -> Self {
        let (setting, authority) = (Setting::new(), Authority::new());
        let image = setting.blank_image("image", "raw", &[], IMAGE_BYTES >> 20);
        let certificates = authority.server();
        let words = guarded(&certificates, &image);
        let server = setting.serve_with(&words);
        let mut witness = secured(&authority, Client::connect(&server));
        witness.go("vm");
        Self {
            setting,
            authority,
            server,
            witness,
        }
    }

    /// A client that has not asked for TLS.
    fn plain(&self) -> Client {
        Client::connect(&self.server)
    }

    /// One that was told to begin it.
    fn asked(&self) -> Client {
        let mut client = self.plain();
        start(&mut client);
        client
    }

    /// One that has it.
    fn secured(&self) -> Client {
        secured(&self.authority, self.plain())
    }

    /// The other client is served as ever, and the server ends in order.
    fn finish(mut self) {
        self.witness.write(1 << 20, b"still here");
        assert_eq!(self.witness.read(1 << 20, 10), b"still here");
        stop(self.server);
        drop(self.setting);
    }
}

fn start(client: &mut Client) {
    client.option(OPT_STARTTLS, &[]);
    assert_eq!(client.option_reply(OPT_STARTTLS), (REP_ACK, vec![]));
}

fn secured(authority: &Authority, mut client: Client) -> Client {
    start(&mut client);
    client.wrapped(|transport| session(&authority.stranger(), transport))
}

#[test]
fn nothing_is_told_before_tls() {
    let guarded = Guarded::new();
    let mut client = guarded.plain();
    for (option, data) in [
        (OPT_LIST, vec![]),
        (OPT_INFO, named("vm", &[0, 0])),
        (OPT_GO, named("vm", &[0, 0])),
        (OPT_GO, vec![0xff; 100_000]),
        (OPT_STRUCTURED_REPLY, vec![]),
        (OPT_SET_META_CONTEXT, named("vm", &[0; 4])),
        (99, vec![1]),
    ] {
        client.option(option, &data);
        let (kind, _) = client.option_reply(option);
        assert_eq!(kind, REP_ERR_TLS_REQD, "{option}");
    }
    client.option(OPT_STARTTLS, &[0]);
    assert_eq!(client.option_reply(OPT_STARTTLS).0, REP_ERR_INVALID);
    client.option(OPT_ABORT, &[]);
    assert_eq!(client.option_reply(OPT_ABORT).0, REP_ACK);
    assert!(client.is_at_end());
    // This leaves no way to tell of an error.
    for name in ["", "vm"] {
        let mut client = guarded.plain();
        client.option(OPT_EXPORT_NAME, name.as_bytes());
        assert_eq!(client.rest(), b"");
    }
    // A client of old, that could not ask for TLS.
    let mut client = Client::connect_silently(&guarded.server);
    client.send(&2_u32.to_be_bytes());
    assert_eq!(client.rest(), b"");
    guarded.finish();
}

#[test]
fn everything_is_told_within_tls_which_begins_once() {
    let guarded = Guarded::new();
    let mut client = guarded.secured();
    client.option(OPT_STARTTLS, &[]);
    assert_eq!(client.option_reply(OPT_STARTTLS).0, REP_ERR_INVALID);
    client.option(OPT_LIST, &[]);
    assert_eq!(client.option_reply(OPT_LIST).0, REP_SERVER);
    assert_eq!(client.option_reply(OPT_LIST).0, REP_ACK);
    client.negotiate_all("vm");
    client.request(CMD_READ, 0, 0, 4096);
    assert_eq!(client.chunk().kind, 2);
    client.request(CMD_DISC, 0, 0, 0);
    // With a farewell: the end of TLS is told.
    assert_eq!(client.rest(), b"");
    let mut client = guarded.secured();
    client.option(OPT_EXPORT_NAME, b"vm");
    assert_eq!(client.receive(8), IMAGE_BYTES.to_be_bytes());
    guarded.finish();
}

/// What comes in clear is no part of the session, whoever has sent it.
#[test]
fn options_put_before_the_session_end_it() {
    let guarded = Guarded::new();
    let option = |number: u32| [OPTION_MAGIC, &number.to_be_bytes(), &[0; 4]].concat();
    for injected in [
        option(OPT_STRUCTURED_REPLY),
        option(OPT_LIST),
        vec![22, 3, 1],
        vec![0],
    ] {
        let mut client = guarded.plain();
        client.send(&[option(OPT_STARTTLS), injected].concat());
        let answer = client.rest();
        // Nothing but, at most, the reply to what was asked.
        assert_eq!(answer, b"", "{answer:x?}");
    }
    guarded.finish();
}

#[test]
fn what_is_no_tls_ends_the_connection() {
    let guarded = Guarded::new();
    let hello = [22, 3, 1, 0, 200, 1, 0, 0, 196];
    for noise in [
        vec![0; 2000],
        vec![0xff; 200_000],
        request(CMD_READ, 0, 0, 512),
        [OPTION_MAGIC, &OPT_LIST.to_be_bytes(), &[0; 4]].concat(),
        [&hello[..], &[0xff; 300]].concat(),
        // Records of a length that cannot be.
        [22, 3, 3, 0xff, 0xff].repeat(100),
    ] {
        let mut client = guarded.asked();
        let _ = client.try_send(&noise);
        assert!(client.is_at_end(), "{:x?}", &noise[..20]);
    }
    guarded.finish();
}

#[test]
fn who_stops_in_a_handshake_keeps_nobody_out() {
    let guarded = Guarded::new();
    let mut stuck = Vec::new();
    for n in 0..70 {
        let mut client = guarded.asked();
        // The start of a record, of which more is to come.
        client.send(&[22, 3, 1, 2, 0][..n % 6]);
        stuck.push(client);
    }
    let mut client = guarded.secured();
    client.go("vm");
    assert_eq!(client.read(0, 16), [0; 16]);
    drop(stuck);
    guarded.finish();
}

#[test]
fn who_leaves_in_a_session_changes_nothing() {
    let mut guarded = Guarded::new();
    for sent in [0, 1, 28, 28 + 100_000] {
        let mut client = guarded.secured();
        client.go("vm");
        let mut write = request(CMD_WRITE, 0, 0, 200_000);
        write.resize(28 + 200_000, 0xff);
        client.send(&write[..sent]);
    }
    let untouched = guarded.witness.read(0, 200_000);
    assert!(untouched.iter().all(|&byte| byte == 0));
    // Records that were not encrypted, and go around the session.
    let mut client = guarded.asked();
    client.send(&[23, 3, 3, 0, 5, 1, 2, 3, 4, 5]);
    assert!(client.is_at_end());
    guarded.finish();
}

#[test]
fn who_takes_no_replies_costs_little_memory() {
    const KIB_MAX: u64 = 256 << 10;
    let guarded = Guarded::new();
    let idle = guarded.server.memory_peak_kib().unwrap();
    let mut slow: Vec<_> = (0..20)
        .map(|_| {
            let mut client = guarded.secured();
            client.go("vm");
            client.send(&request(CMD_READ, 0, 0, 1 << 20).repeat(100));
            client
        })
        .collect();
    for client in &mut slow {
        assert_eq!(client.simple_reply(), 0);
    }
    let mut guarded = guarded;
    for _ in 0..20 {
        guarded.witness.read(0, 2 << 20);
    }
    let peak = guarded.server.memory_peak_kib().unwrap();
    assert!(peak < idle + KIB_MAX, "{peak} KiB, {idle} at rest");
    // Whoever takes its replies at last gets all of them.
    let mut late = slow.pop().unwrap();
    late.receive(1 << 20);
    for _ in 1..100 {
        assert_eq!(late.simple_reply(), 0);
        late.receive(1 << 20);
    }
    drop(slow);
    guarded.finish();
}

#[test]
fn clients_are_served_side_by_side() {
    let guarded = Guarded::new();
    let mut clients: Vec<_> = (0..4).map(|_| guarded.secured()).collect();
    std::thread::scope(|scope| {
        for (client, n) in clients.iter_mut().zip(0_u8..) {
            scope.spawn(move || {
                client.go("vm");
                for round in 0_u64..50 {
                    let offset = u64::from(n) * 65536 + round * 512;
                    client.write(offset, &[n; 512]);
                    assert_eq!(client.read(offset, 512), [n; 512]);
                }
                // Many on their way at once, in both directions.
                client.send(&request(CMD_READ, 0, u64::from(n) * 65536, 512).repeat(100));
                for _ in 0..100 {
                    assert_eq!(client.simple_reply(), 0);
                    assert_eq!(client.receive(512), [n; 512]);
                }
            });
        }
    });
    guarded.finish();
}
