//! Objects, on servers of all kinds.

mod server;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{SHA256, SHA512, digest};

use crate::rng::Rng;
use crate::storage::remote::{Address, RemoteStorage};
use crate::{Buffers, Error, Executor, Storage as _, StorageExtent};
use server::{Answer, Asked, Server};

const E_TAG: (&str, &str) = ("etag", "\"one\"");
const DATE: (&str, &str) = ("last-modified", "Tue, 15 Nov 1994 12:45:26 GMT");
const DEADLINE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(1);

async fn open(url: &str, deadline: Duration) -> Result<RemoteStorage, Error> {
    let address = Address::parse(url).unwrap();
    RemoteStorage::open(Path::new(url), address, deadline).await
}

async fn read(storage: &RemoteStorage, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
    let buffers = Buffers::zeroed(len);
    storage.read_at(offset, buffers.clone()).await?;
    Ok(buffers.to_vec())
}

fn content(len: usize) -> Vec<u8> {
    let mut rng = Rng::new(6);
    let mut content = vec![0; len];
    content.fill_with(|| u8::try_from(rng.below(256)).unwrap());
    content
}

fn run(work: impl AsyncFnOnce()) {
    Executor::new().unwrap().run(work());
}

impl Server {
    fn url(&self) -> String {
        format!("http://{}/a%20b/disk", self.address)
    }
}

#[test]
fn parts_are_read_in_the_version_that_was_opened() {
    let bytes = content(9 << 20);
    for (version, condition) in [
        (E_TAG, Some(("if-match", "\"one\""))),
        (("etag", "W/\"one\""), None),
        (
            DATE,
            Some(("if-unmodified-since", "Tue, 15 Nov 1994 12:45:26 GMT")),
        ),
        (("server", "none"), None),
    ] {
        let lent = bytes.clone();
        let server = Server::start(move |_, asked| Answer::part(asked, &lent, version));
        run(async || {
            let storage = open(&server.url(), DEADLINE).await.unwrap();
            assert_eq!(storage.size_bytes(), bytes.len() as u64);
            assert!(read(&storage, 0, bytes.len()).await.unwrap() == bytes);
            assert!(read(&storage, 12345, 67).await.unwrap() == bytes[12345..12412]);
            assert!(read(&storage, bytes.len() as u64 - 1, 2).await.is_err());
            let extent = storage.extent(512, 1024).await.unwrap();
            assert_eq!(
                extent,
                StorageExtent {
                    len: 1024,
                    data: true
                }
            );
            let name = storage.version().map(str::to_owned);
            let expected = match version.0 {
                "etag" => Some(format!("ETag {}", version.1)),
                "server" => None,
                _ => Some("Last-Modified Tue, 15 Nov 1994 12:45:26 +0000".to_owned()),
            };
            assert_eq!(name, expected);
        });
        let asked = server.asked();
        assert!(
            asked
                .iter()
                .all(|asked| asked.line == "GET /a%20b/disk HTTP/1.1")
        );
        for asked in &asked[1..] {
            let (start, end) = asked.range();
            assert!(end - start <= 4 << 20);
            match condition {
                Some((name, value)) => assert_eq!(asked.header(name), Some(value)),
                None => assert_eq!(asked.header("if-match"), None),
            }
        }
    }
}

/// What becomes of an answer.
type Change = fn(&Asked, &[u8]) -> Answer;

/// A server of 8192 bytes whose second answer is changed.
fn changed_once(change: Change) -> Server {
    Server::start(move |number, asked| {
        let bytes = content(8192);
        match number {
            1 => change(asked, &bytes),
            _ => Answer::part(asked, &bytes, E_TAG),
        }
    })
}

#[test]
fn another_version_is_an_error_for_good() {
    let changes: [(&str, Change); 5] = [
        ("another version", |_, _| Answer::status(412)),
        ("says ETag \"two\"", |asked, bytes| {
            Answer::part(asked, bytes, ("etag", "\"two\""))
        }),
        ("says Last-Modified", |asked, bytes| {
            Answer::part(asked, bytes, DATE)
        }),
        ("says nothing", |asked, bytes| {
            Answer::part(asked, bytes, ("x", "y"))
        }),
        ("has 8193", |asked, bytes| {
            let (start, end) = asked.range();
            let range = format!("bytes {start}-{}/8193", end - 1);
            Answer::part(asked, bytes, E_TAG).with("content-range", &range)
        }),
    ];
    for (part, change) in changes {
        let server = changed_once(change);
        run(async || {
            let storage = open(&server.url(), DEADLINE).await.unwrap();
            for _ in 0..2 {
                let error = read(&storage, 0, 512).await.unwrap_err();
                assert!(matches!(error, Error::Changed { .. }), "{part}: {error:?}");
                let text = error.to_string();
                assert!(text.contains("changed under us"), "{text}");
                assert!(text.contains(part), "no {part:?} in {text}");
            }
        });
        assert_eq!(server.asked().len(), 2, "{part}");
    }
}

fn with_digest(answer: Answer, kind: usize, is_right: bool) -> Answer {
    let mut body = answer.body.clone();
    body[0] ^= u8::from(!is_right);
    let base64 = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    let sha256 = base64(digest(&SHA256, &body).as_ref());
    let sha512 = base64(digest(&SHA512, &body).as_ref());
    match kind {
        0 => answer.with("content-digest", &format!("sha-256=:{sha256}:")),
        1 => {
            let both = format!("unixsum=:AAA=:, sha-512=:{sha512}:, sha-256=:{sha256}:");
            answer.with("content-digest", &both)
        }
        _ => {
            let md5 = <md5::Md5 as md5::Digest>::digest(&body);
            answer.with("content-md5", &base64(&md5))
        }
    }
}

#[test]
fn digests_are_verified() {
    for kind in 0..3 {
        for is_right in [true, false] {
            let bytes = content(1 << 20);
            let server = Server::start(move |number, asked| {
                let answer = Answer::part(asked, &bytes, E_TAG);
                with_digest(answer, kind, is_right || number != 1)
            });
            run(async || {
                let storage = open(&server.url(), DEADLINE).await.unwrap();
                let expected = &content(1 << 20)[4096..300_000];
                let found = read(&storage, 4096, 300_000 - 4096).await.unwrap();
                assert!(found == expected, "{kind}");
            });
            let expected = if is_right { 2 } else { 3 };
            assert_eq!(server.asked().len(), expected, "{kind}");
        }
    }
}

#[test]
fn what_is_not_what_was_asked_for_is_asked_again() {
    let changes: [(&str, Change); 8] = [
        ("unavailable", |_, _| Answer::status(503)),
        ("gone", |_, _| Answer::status(404)),
        ("forbidden", |_, _| Answer::status(403).body(b"\x1b[31mno")),
        ("all of it", |_, bytes| {
            Answer::status(200).with("etag", "\"one\"").body(bytes)
        }),
        ("another range", |asked, bytes| {
            let answer = Answer::part(asked, bytes, E_TAG);
            answer.with("content-range", "bytes 0-511/8192")
        }),
        ("no range", |asked, bytes| {
            let mut answer = Answer::part(asked, bytes, E_TAG);
            answer.headers.remove(0);
            answer
        }),
        ("half of it", |asked, bytes| {
            let mut answer = Answer::part(asked, bytes, E_TAG);
            answer.len = Some(answer.body.len());
            answer.body.truncate(100);
            answer
        }),
        ("too much of it", |asked, bytes| {
            let mut answer = Answer::part(asked, bytes, E_TAG);
            answer.body.extend_from_slice(bytes);
            answer
        }),
    ];
    for (name, change) in changes {
        let server = changed_once(change);
        run(async || {
            let storage = open(&server.url(), DEADLINE).await.unwrap();
            let found = read(&storage, 1024, 512).await.expect(name);
            assert!(found == content(8192)[1024..1536], "{name}");
        });
        assert_eq!(server.asked().len(), 3, "{name}");
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    type Behaviour = fn(&Asked) -> Answer;
    let behaviours: [(&str, Behaviour); 6] = [
        ("404", |_| Answer::status(404)),
        ("403", |_| Answer::status(403)),
        ("no parts", |_| Answer::status(200).body(b"all of it")),
        ("sends on to 'http://169.254.169.254/secret'", |_| {
            Answer::status(302).with("location", "http://169.254.169.254/secret")
        }),
        ("sends on to", |_| {
            Answer::status(301).with("location", "/elsewhere")
        }),
        ("416", |_| Answer::status(416)),
    ];
    for (part, behaviour) in behaviours {
        let server = Server::start(move |_, asked| behaviour(asked));
        run(async || {
            let error = open(&server.url(), DEADLINE)
                .await
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains(part), "no {part:?} in {error}");
            assert!(error.starts_with(&server.url()), "{error}");
        });
        assert_eq!(server.asked().len(), 1, "{part}");
    }
    // What speaks no TLS is not asked without.
    let server = Server::start(|_, _| Answer::status(404));
    let url = server.url().replace("http:", "https:");
    run(async || assert!(open(&url, DEADLINE).await.is_err()));
}

#[test]
fn a_server_that_hangs_is_an_error_after_the_deadline_and_no_longer() {
    let is_back = Arc::new(AtomicBool::new(false));
    let heals = Arc::clone(&is_back);
    let server = Server::start(move |number, asked| Answer {
        hangs: number > 0 && !heals.load(Ordering::SeqCst),
        ..Answer::part(asked, &content(8192), E_TAG)
    });
    run(async || {
        let storage = open(&server.url(), SHORT).await.unwrap();
        let error = read(&storage, 0, 512).await.unwrap_err();
        assert!(matches!(error, Error::Range { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("(for 1 s)"), "{text}");
        is_back.store(true, Ordering::SeqCst);
        for _ in 0..20 {
            if let Ok(bytes) = read(&storage, 0, 512).await {
                assert_eq!(bytes, content(8192)[..512]);
                return;
            }
        }
        panic!("it does not come back");
    });
}

/// The environment belongs to all tests of this process.
fn environment() -> MutexGuard<'static, ()> {
    static ENVIRONMENT: Mutex<()> = Mutex::new(());
    ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` while the environment says so.
#[expect(unsafe_code, reason = "the environment belongs to the process")]
fn with_environment(settings: &[(&str, &str)], work: impl FnOnce()) {
    let _alone = environment();
    for (name, value) in settings {
        // SAFETY: only tests that hold the lock read or write these variables.
        unsafe { std::env::set_var(name, value) };
    }
    work();
    for (name, _) in settings {
        // SAFETY: as above.
        unsafe { std::env::remove_var(name) };
    }
}

#[test]
fn buckets_are_read_with_the_credentials_of_the_environment() {
    let bytes = content(100_000);
    let lent = bytes.clone();
    let server = Server::start(move |_, asked| {
        let authorization = asked.header("authorization").unwrap_or_default();
        if !authorization.starts_with("AWS4-HMAC-SHA256 Credential=me/") {
            return Answer::status(403);
        }
        Answer::part(asked, &lent, E_TAG).with(DATE.0, DATE.1)
    });
    let endpoint = format!("http://{}", server.address);
    let mut settings = vec![
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "me"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "eu-central-1"),
    ];
    let url = "s3://bucket/a/disk.img";
    // Not without TLS, unless somebody wants that.
    with_environment(&settings, || {
        run(async || assert!(open(url, SHORT).await.is_err()));
    });
    assert_eq!(server.asked().len(), 0);
    settings.push(("AWS_ALLOW_HTTP", "true"));
    with_environment(&settings, || {
        run(async || {
            let storage = open(url, DEADLINE).await.unwrap();
            assert_eq!(storage.size_bytes(), 100_000);
            assert_eq!(storage.version(), Some("ETag \"one\""));
            assert!(read(&storage, 5, 99_995).await.unwrap() == bytes[5..]);
        });
    });
    let asked = server.asked();
    assert_eq!(asked[1].line, "GET /bucket/a/disk.img HTTP/1.1");
    assert_eq!(asked[1].header("if-match"), Some("\"one\""));
}
