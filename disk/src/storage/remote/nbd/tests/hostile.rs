//! Servers that say what makes no sense: nobody believes them, nor waits for them for ever.

use std::io;

use zerocopy::IntoBytes as _;
use zerocopy::byteorder::network_endian::{U32, U64};

use super::server::{CONTEXT, Client, Offer, Request, Server, u16_bytes};
use super::{DEADLINE, SHORT, content, open, read, read_at_last};
use crate::nbd::{
    CHUNK_MAGIC, ChunkHeader, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionReply, chunk, option,
    option_reply,
};
use crate::{Executor, Storage as _};

type Behaviour = fn(&mut Client) -> io::Result<()>;

/// The handshake up to the option that is answered by a test.
fn until(client: &mut Client, wanted: u32) -> io::Result<()> {
    client.greet(OPTION_MAGIC, 3)?;
    loop {
        match client.option()?.0 {
            option if option == wanted => return Ok(()),
            option => client.reply(option, option_reply::ACK, &[])?,
        }
    }
}

fn endless(client: &mut Client, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    until(client, option)?;
    loop {
        client.reply(option, kind, data)?;
    }
}

fn refuse(client: &mut Client, kind: u32, data: &[u8]) -> io::Result<()> {
    until(client, option::GO)?;
    client.reply(option::GO, kind, data)?;
    client.wait()
}

fn block_sizes(client: &mut Client, sizes: (u32, u32, u32)) -> io::Result<()> {
    client.shake(&Offer {
        block_sizes: Some(sizes),
        ..Offer::all(content(4096))
    })
}

#[test]
fn handshakes_that_lead_nowhere_end_in_words() {
    let behaviours: [(&str, Behaviour); 14] = [
        ("no NBD server", |client| {
            client.send(b"SSH-2.0-OpenSSH_9.2 and more")
        }),
        ("old form", |client| client.greet(0x0000_4202_8186_1253, 3)),
        ("old form", |client| client.greet(OPTION_MAGIC, 0)),
        ("no such export ('not here')", |client| {
            refuse(client, option_reply::ERR_UNKNOWN, b"not\x1b here")
        }),
        ("insists on TLS", |client| {
            refuse(client, option_reply::ERR_TLS_REQUIRED, &[])
        }),
        ("too old", |client| {
            refuse(client, option_reply::ERR_UNSUPPORTED, &[])
        }),
        ("refuses", |client| refuse(client, option_reply::ACK, &[])),
        ("no end of information", |client| {
            endless(client, option::GO, option_reply::INFO, &[0; 12])
        }),
        ("no end of metadata", |client| {
            endless(
                client,
                option::SET_META_CONTEXT,
                option_reply::META_CONTEXT,
                b"1234base:x",
            )
        }),
        ("nobody has asked", |client| {
            until(client, option::GO)?;
            client.reply(option::LIST, option_reply::ACK, &[])?;
            client.wait()
        }),
        ("endless reply", |client| {
            until(client, option::GO)?;
            client.send(&OptionReply {
                magic: OPTION_REPLY_MAGIC.into(),
                option: option::GO.into(),
                kind: option_reply::INFO.into(),
                len: u32::MAX.into(),
            })?;
            client.wait()
        }),
        ("size that cannot be", |client| {
            block_sizes(client, (0, 512, 4096))
        }),
        ("size that cannot be", |client| {
            block_sizes(client, (1 << 17, 1 << 17, 1 << 20))
        }),
        ("size that cannot be", |client| {
            block_sizes(client, (4096, 4096, 512))
        }),
    ];
    for (part, behaviour) in behaviours {
        let server = Server::start(move |_, client| behaviour(client));
        Executor::new().unwrap().run(async {
            let error = open(&server, DEADLINE).await.err().expect(part).to_string();
            assert!(error.contains(part), "no {part:?} in {error}");
            assert!(!error.contains('\x1b'), "{error:?}");
        });
    }
}

type Answer = fn(&mut Client, &Offer, &Request) -> io::Result<()>;

/// The head of a chunk, without what is in it.
fn head(client: &mut Client, cookie: u64, kind: u16, len: u32) -> io::Result<()> {
    client.send(&ChunkHeader {
        magic: CHUNK_MAGIC.into(),
        flags: chunk::FLAG_DONE.into(),
        kind: kind.into(),
        cookie: cookie.into(),
        len: len.into(),
    })
}

const DONE: u16 = chunk::FLAG_DONE;

/// Answers to a read of 2048 bytes at 1024 that lose the connection.
const NONSENSE: [(&str, Answer); 18] = [
    ("no magic", |client, _, _| {
        client.send(b"HTTP/1.1 400 Bad Request\r\n")
    }),
    ("another cookie", |client, offer, request| {
        client.data(request.cookie + 1, DONE, 1024, request.of(&offer.content))
    }),
    ("a simple answer", |client, offer, request| {
        client.simple(request.cookie, 0, request.of(&offer.content))
    }),
    ("nothing", |client, _, request| {
        client.chunk(request.cookie, (DONE, chunk::NONE), &[])
    }),
    ("half of it", |client, offer, request| {
        client.data(
            request.cookie,
            DONE,
            1024,
            &request.of(&offer.content)[..1024],
        )
    }),
    ("half of it twice", |client, offer, request| {
        let half = &request.of(&offer.content)[..1024];
        client.data(request.cookie, 0, 1024, half)?;
        client.data(request.cookie, DONE, 1024, half)
    }),
    ("half of it for ever", |client, offer, request| {
        let half = &request.of(&offer.content)[..1024];
        loop {
            client.data(request.cookie, 0, 1024, half)?;
        }
    }),
    ("nothing for ever", |client, _, request| {
        loop {
            client.chunk(request.cookie, (0, chunk::NONE), &[])?;
        }
    }),
    ("what comes before", |client, _, request| {
        client.data(request.cookie, DONE, 1023, &[0; 2048])
    }),
    ("what comes behind", |client, _, request| {
        client.data(request.cookie, DONE, 1024, &[0; 2049])
    }),
    ("from the end of all", |client, _, request| {
        client.data(request.cookie, DONE, u64::MAX - 5, &[0; 2048])
    }),
    ("a hole behind", |client, _, request| {
        let (offset, len) = (U64::new(1024), U32::new(u32::MAX));
        let parts = [offset.as_bytes(), len.as_bytes()];
        client.chunk(request.cookie, (DONE, chunk::OFFSET_HOLE), &parts)
    }),
    ("data of 4 GiB", |client, _, request| {
        head(client, request.cookie, chunk::OFFSET_DATA, u32::MAX)?;
        client.send(&U64::new(1024))?;
        client.wait()
    }),
    ("an error of 4 GiB", |client, _, request| {
        head(client, request.cookie, chunk::ERROR, u32::MAX)?;
        client.wait()
    }),
    ("an unknown chunk", |client, _, request| {
        client.chunk(request.cookie, (DONE, 100), &[&[0; 16]])
    }),
    ("a status of a read", |client, _, request| {
        let parts = [U32::new(CONTEXT), U32::new(2048), U32::new(0)];
        client.chunk(
            request.cookie,
            (DONE, chunk::BLOCK_STATUS),
            &[parts.as_bytes()],
        )
    }),
    ("crumbs", |client, offer, request| {
        let content = request.of(&offer.content);
        for (at, byte) in (0..).zip(content).step_by(2) {
            client.data(request.cookie, 0, 1024 + at, &[*byte])?;
        }
        for (at, byte) in (0..).zip(content).skip(1).step_by(2) {
            client.data(request.cookie, 0, 1024 + at, &[*byte])?;
        }
        client.chunk(request.cookie, (DONE, chunk::NONE), &[])
    }),
    ("the end", |client, offer, request| {
        let half = &request.of(&offer.content)[..1024];
        client.data(request.cookie, 0, 1024, half)
    }),
];

#[test]
fn answers_that_make_no_sense_are_asked_again_elsewhere() {
    for (name, answer) in NONSENSE {
        let offer = Offer::all(content(8192));
        let bytes = offer.content.clone();
        let server = Server::start(move |number, client| {
            if number > 0 {
                return client.lend(&offer);
            }
            client.shake(&offer)?;
            let request = client.request()?;
            answer(client, &offer, &request)
        });
        Executor::new().unwrap().run(async {
            let storage = open(&server, DEADLINE).await.unwrap();
            let found = read(&storage, 1024, 2048).await.unwrap();
            assert!(found == bytes[1024..3072], "{name}");
        });
        assert_eq!(server.clients(), 2, "{name}");
    }
}

#[test]
fn an_error_of_the_server_is_asked_again_on_the_same_connection() {
    let offer = Offer::all(content(8192));
    let bytes = offer.content.clone();
    let server = Server::start(move |_, client| {
        client.shake(&offer)?;
        let cookie = client.request()?.cookie;
        client.simple(cookie, 5, &[])?;
        let cookie = client.request()?.cookie;
        let text = b"\x1b[31mno disk";
        let len = u16_bytes(u16::try_from(text.len()).unwrap());
        let parts = [U32::new(5).as_bytes(), &len, text].concat();
        client.chunk(cookie, (DONE, chunk::ERROR), &[&parts])?;
        let request = client.request()?;
        // Data that was wrong after all.
        client.data(request.cookie, 0, request.offset, &[9; 512])?;
        let parts = [U32::new(5).as_bytes(), &[0, 200]].concat();
        client.chunk(request.cookie, (DONE, chunk::ERROR + 1), &[&parts])?;
        loop {
            let request = client.request()?;
            client.answer(&offer, &request)?;
        }
    });
    Executor::new().unwrap().run(async {
        let storage = open(&server, DEADLINE).await.unwrap();
        assert!(read(&storage, 0, 4096).await.unwrap() == bytes[..4096]);
    });
    assert_eq!(server.clients(), 1);
}

#[test]
fn a_status_that_makes_no_sense_is_asked_again_elsewhere() {
    let statuses: [(&str, &[u32]); 4] = [
        ("nothing", &[CONTEXT, 0, 0]),
        ("another context", &[CONTEXT + 1, 512, 0]),
        ("too short", &[CONTEXT, 512]),
        ("no stretch", &[CONTEXT]),
    ];
    for (name, words) in statuses {
        let offer = Offer::all(content(8192));
        let server = Server::start(move |number, client| {
            if number > 0 {
                return client.lend(&offer);
            }
            client.shake(&offer)?;
            let cookie = client.request()?.cookie;
            let words: Vec<_> = words.iter().copied().map(U32::new).collect();
            let kind = (DONE, chunk::BLOCK_STATUS);
            client.chunk(cookie, kind, &[words.as_bytes()])
        });
        Executor::new().unwrap().run(async {
            let storage = open(&server, DEADLINE).await.unwrap();
            assert!(storage.extent(0, 8192).await.unwrap().len > 0, "{name}");
        });
        assert_eq!(server.clients(), 2, "{name}");
    }
}

#[test]
fn errors_without_end_are_as_good_as_silence() {
    let offer = Offer::all(content(8192));
    let bytes = offer.content.clone();
    let server = Server::start(move |number, client| {
        if number > 0 {
            return client.lend(&offer);
        }
        client.shake(&offer)?;
        let cookie = client.request()?.cookie;
        loop {
            let parts = [U32::new(5).as_bytes(), &[0, 0]].concat();
            client.chunk(cookie, (0, chunk::ERROR), &[&parts])?;
        }
    });
    Executor::new().unwrap().run(async {
        let storage = open(&server, SHORT).await.unwrap();
        let error = read(&storage, 0, 512).await.unwrap_err().to_string();
        assert!(error.contains("silent"), "{error}");
        assert_eq!(read_at_last(&storage, 0, 512).await, bytes[..512]);
    });
}
