//! Sessions with a client that has TLS from elsewhere, and with some that have none.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::thread;

use disk::Executor;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::*;
use crate::nbd::authority::Authority;
use crate::nbd::certificates::Certificates;
use crate::nbd::link::Link;

type Client = StreamOwned<ClientConnection, UnixStream>;

/// A client that trusts the authority.
fn client(authority: &Authority, stream: UnixStream) -> Client {
    let mut roots = RootCertStore::empty();
    let pem = authority.pem();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(
        ClientConnection::new(Arc::new(config), name).unwrap(),
        stream,
    )
}

fn certificates(authority: &Authority) -> Certificates {
    Certificates::load(authority.directory(), false).unwrap()
}

/// What becomes of the handshake with a client that does `act`.
fn handshake(act: impl FnOnce(UnixStream) + Send + 'static) -> Result<Tls, End> {
    let config = certificates(&Authority::new()).config();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = thread::spawn(move || act(theirs));
    let executor = Executor::new().unwrap();
    let done = executor.run(Tls::accept(Rc::new(Stream::new(ours)), config));
    client.join().unwrap();
    done
}

#[test]
fn much_goes_both_ways_in_pieces() {
    const LEN: usize = 3 << 20;
    let authority = Authority::new();
    let config = certificates(&authority).config();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let data: Vec<u8> = (0..=250).cycle().take(LEN).collect();
    let (sent, expected) = (data.clone(), data.clone());
    let client = thread::spawn(move || {
        let mut client = client(&authority, theirs);
        client.write_all(&sent).unwrap();
        let mut received = vec![0; LEN];
        client.read_exact(&mut received).unwrap();
        assert!(received == sent);
        client.write_all(&[1]).unwrap();
        // The farewell, and only then the end.
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    });
    Executor::new().unwrap().run(async {
        let stream = Rc::new(Stream::new(ours));
        let link = Link::Tls(Box::new(Tls::accept(stream, config).await.unwrap()));
        let room = Buffers::zeroed(LEN);
        let mut done = 0;
        while done < LEN {
            let end = LEN.min(done + 100_000);
            let count = link.receive(room.slice(done..end)).await.unwrap();
            assert!(count > 0);
            done += count;
        }
        assert!(room.to_vec() == expected);
        link.send(room).await.unwrap();
        // When all of it has arrived, the socket has room for the farewell.
        let count = link.receive(Buffers::zeroed(1)).await;
        assert_eq!(count.unwrap(), 1);
        link.finish();
        link.shutdown();
    });
    client.join().unwrap();
}

#[test]
fn only_what_the_socket_has_room_for_is_encrypted() {
    let authority = Authority::new();
    let config = certificates(&authority).config();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = thread::spawn(move || {
        let mut client = client(&authority, theirs);
        client.write_all(b"hello").unwrap();
        client
    });
    Executor::new().unwrap().run(async {
        let stream = Rc::new(Stream::new(ours));
        let tls = Tls::accept(stream, config).await.unwrap();
        let room = Buffers::zeroed(5);
        assert_eq!(tls.receive(&room).await.unwrap(), 5);
        let data = Buffers::zeroed(8 << 20);
        let Sent::Part(first) = tls.try_send(&data).unwrap() else {
            panic!("the socket takes 8 MiB");
        };
        assert!(first < 4 << 20, "{first}");
        for _ in 0..3 {
            let again = tls.try_send(&data.slice(first..data.len())).unwrap();
            assert_eq!(again, Sent::Part(0));
        }
        let nothing_new = tls.try_send(&data.slice(0..0)).unwrap();
        assert_eq!(nothing_new, Sent::Part(0), "all is not with the host");
    });
    drop(client.join().unwrap());
}

#[test]
fn the_end_of_a_session_may_be_told_or_not() {
    for farewell in [true, false] {
        let authority = Authority::new();
        let config = certificates(&authority).config();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let client = thread::spawn(move || {
            let mut client = client(&authority, theirs);
            client.write_all(b"bye").unwrap();
            if farewell {
                client.conn.send_close_notify();
            }
            client.flush().unwrap();
        });
        Executor::new().unwrap().run(async {
            let stream = Rc::new(Stream::new(ours));
            let tls = Tls::accept(stream, config).await.unwrap();
            let room = Buffers::zeroed(10);
            assert_eq!(tls.receive(&room).await.unwrap(), 3);
            assert_eq!(tls.receive(&room).await.unwrap(), 0);
            assert_eq!(tls.receive(&room).await.unwrap(), 0);
        });
        client.join().unwrap();
    }
}

#[test]
fn who_has_no_tls_is_told_so() {
    for noise in [
        vec![0; 100],
        vec![0xff; 100_000],
        b"IHAVEOPT\0\0\0\x07".repeat(9),
    ] {
        let end = handshake(move |mut stream| {
            // The server may have had enough.
            let _ = stream.write_all(&noise);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            // An alert (RFC 8446 section 6), unless noise that was not read has taken it away.
            let is_alert = answer.first() == Some(&21);
            assert!(is_alert || noise.len() > PIECE_BYTES, "{answer:x?}");
        });
        assert!(matches!(end, Err(End::Tls(_))), "{:?}", end.err());
    }
}

#[test]
fn who_leaves_in_the_middle_is_gone() {
    let end = handshake(drop);
    assert!(matches!(end, Err(End::Closed)), "{:?}", end.err());
    // The start of a record that says that it is a long one.
    let end = handshake(|mut stream| stream.write_all(&[22, 3, 1, 0x20, 0]).unwrap());
    assert!(matches!(end, Err(End::Closed)), "{:?}", end.err());
}

#[test]
fn a_client_that_does_not_know_the_authority_goes() {
    let end = handshake(|stream| {
        let mut client = client(&Authority::new(), stream);
        client.write_all(b"hello").unwrap_err();
    });
    assert!(matches!(end, Err(End::Tls(_))), "{:?}", end.err());
}

#[test]
fn changed_records_end_the_session() {
    let authority = Authority::new();
    let config = certificates(&authority).config();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = thread::spawn(move || {
        let mut client = client(&authority, theirs);
        client.write_all(b"good").unwrap();
        client.read_exact(&mut [0]).unwrap();
        // Looks like a record, and is none.
        let mut forged = vec![23, 3, 3, 0, 64];
        forged.resize(5 + 64, 7);
        client.sock.write_all(&forged).unwrap();
        client
    });
    Executor::new().unwrap().run(async {
        let stream = Rc::new(Stream::new(ours));
        let tls = Tls::accept(stream, config).await.unwrap();
        let room = Buffers::zeroed(10);
        assert_eq!(tls.receive(&room).await.unwrap(), 4);
        assert_eq!(tls.try_send(&Buffers::zeroed(1)).unwrap(), Sent::All);
        let error = tls.receive(&room).await.unwrap_err();
        assert!(error.to_string().contains("decrypt"), "{error}");
    });
    drop(client.join().unwrap());
}
