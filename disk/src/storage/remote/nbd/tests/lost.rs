//! Servers that go away, and come back.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::Poll;

use super::server::{Offer, Server};
use super::{DEADLINE, SHORT, content, executors, open, read, read_at_last};
use crate::nbd::chunk;
use crate::storage::Storage as _;
use crate::{Buffers, Error, Executor};

fn gone() -> io::Result<()> {
    Err(io::ErrorKind::ConnectionAborted.into())
}

#[test]
fn reads_go_on_when_the_server_is_back() {
    let offer = Offer::all(content(1 << 20));
    let bytes = offer.content.clone();
    let server = Server::start(move |number, client| match number {
        // It answers a few, and half of another one.
        0 | 4 => {
            client.shake(&offer)?;
            for _ in 0..3 {
                let request = client.request()?;
                client.answer(&offer, &request)?;
            }
            let request = client.request()?;
            let half = &request.of(&offer.content)[..100];
            client.data(request.cookie, 0, request.offset, half)
        }
        // It is not there, or dies in the handshake.
        1 => gone(),
        2 => client.greet(crate::nbd::OPTION_MAGIC, 1),
        3 => client.send(b"NBD"),
        _ => client.lend(&offer),
    });
    let (_, executor) = executors().next().unwrap();
    executor.run(async {
        let storage = open(&server, DEADLINE).await.unwrap();
        let reads = (0..50).map(|n| {
            let read = read(&storage, n * 20_000, 20_000);
            async { read.await.unwrap() }
        });
        let found = futures_util::future::join_all(reads).await;
        assert!(found.concat() == bytes[..1_000_000]);
    });
    assert_eq!(server.clients(), 6, "all that wait share a connection");
}

#[test]
fn a_server_that_hangs_is_an_error_after_the_deadline_and_no_longer() {
    for (_, executor) in executors() {
        let offer = Offer::all(content(64 << 10));
        let bytes = offer.content.clone();
        let heals = Arc::new(AtomicUsize::new(0));
        let healed = Arc::clone(&heals);
        let server = Server::start(move |number, client| {
            if number > 0 && healed.load(Ordering::SeqCst) == 0 {
                // Does not even begin.
                return client.wait();
            }
            client.shake(&offer)?;
            let request = client.request()?;
            if number == 0 {
                // Swallows all that is asked.
                return client.wait();
            }
            client.answer(&offer, &request)?;
            client.wait()
        });
        executor.run(async {
            let storage = open(&server, SHORT).await.unwrap();
            for _ in 0..2 {
                let error = read(&storage, 0, 512).await.unwrap_err();
                assert!(matches!(error, Error::Range { .. }), "{error:?}");
                let text = error.to_string();
                assert!(
                    text.contains("silent") || text.contains("no answer"),
                    "{text}"
                );
                assert!(text.contains("(for 1 s)"), "{text}");
            }
            heals.store(1, Ordering::SeqCst);
            assert_eq!(read_at_last(&storage, 512, 512).await, bytes[512..1024]);
        });
    }
}

#[test]
fn a_server_that_is_not_there_is_an_error_at_once() {
    let server = Server::start(|_, _| gone());
    Executor::new().unwrap().run(async {
        let error = open(&server, DEADLINE).await.err().unwrap().to_string();
        assert!(error.contains("closed the connection"), "{error}");
    });
    let url = server.url.clone();
    drop(server);
    Executor::new().unwrap().run(async {
        let address = super::Address::parse(&url).unwrap();
        let opened = super::RemoteStorage::open(url.as_ref(), address, DEADLINE).await;
        let error = opened.err().unwrap().to_string();
        assert!(error.starts_with(&url), "{error}");
        assert!(error.contains("refused"), "{error}");
    });
}

#[test]
fn another_size_is_another_disk_for_good() {
    let offer = Offer::all(content(8192));
    let larger = Offer::all(content(16384));
    let server = Server::start(move |number, client| match number {
        0 => client.shake(&offer),
        1 => client.lend(&larger),
        _ => client.lend(&offer),
    });
    Executor::new().unwrap().run(async {
        let storage = open(&server, DEADLINE).await.unwrap();
        for _ in 0..2 {
            let error = read(&storage, 0, 512).await.unwrap_err();
            assert!(matches!(error, Error::Changed { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("changed under us"), "{text}");
            assert!(text.contains("had 8192 bytes, and has 16384"), "{text}");
        }
    });
    assert_eq!(server.clients(), 2);
}

/// Whoever gives up uses the memory for something else.
#[test]
fn what_comes_too_late_goes_nowhere() {
    for (_, executor) in executors() {
        let offer = Offer::all(vec![7; 8192]);
        let (go_on, goes_on) = mpsc::channel();
        let goes_on = std::sync::Mutex::new(goes_on);
        let server = Server::start(move |_, client| {
            client.shake(&offer)?;
            let first = client.request()?;
            let half = &first.of(&offer.content)[..512];
            client.data(first.cookie, 0, first.offset, half)?;
            goes_on.lock().unwrap().recv().unwrap();
            let rest = &first.of(&offer.content)[512..];
            client.data(first.cookie, chunk::FLAG_DONE, first.offset + 512, rest)?;
            loop {
                let request = client.request()?;
                client.answer(&offer, &request)?;
            }
        });
        executor.run(async {
            let storage = open(&server, DEADLINE).await.unwrap();
            let buffers = Buffers::zeroed(4096);
            let mut given_up = Box::pin(storage.read_at(0, buffers.clone()));
            while buffers.is_zero() {
                let polled = poll_fn(|context| Poll::Ready(given_up.as_mut().poll(context)));
                assert!(polled.await.is_pending());
                crate::yield_now().await;
            }
            drop(given_up);
            buffers.fill(0);
            go_on.send(()).unwrap();
            // Comes behind it.
            assert_eq!(read(&storage, 4096, 512).await.unwrap(), [7; 512]);
            assert!(buffers.is_zero());
        });
        assert_eq!(server.clients(), 1);
    }
}
