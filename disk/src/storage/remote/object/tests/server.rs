//! An HTTP server that does what a test wants, on a loopback port: one request a connection.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// What a client asks for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// The method, the path and the protocol.
    pub(super) line: String,
    /// In small letters.
    headers: Vec<(String, String)>,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The first byte, and the one behind the last.
    pub(super) fn range(&self) -> (usize, usize) {
        let range = self.header("range").and_then(|range| {
            let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((first.parse().ok()?, last.parse::<usize>().ok()? + 1))
        });
        range.expect("a range")
    }
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The length to pretend.
    pub(super) len: Option<usize>,
    /// Say nothing until the client has gone.
    pub(super) hangs: bool,
}

impl Answer {
    pub(super) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// What was asked of `content`, in a version.
    pub(super) fn part(asked: &Asked, content: &[u8], version: (&str, &str)) -> Self {
        let (start, end) = asked.range();
        let total = content.len();
        Self::status(206)
            .with(
                "content-range",
                &format!("bytes {start}-{}/{total}", end - 1),
            )
            .with(version.0, version.1)
            .body(&content[start..end])
    }

    #[must_use]
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub(super) fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }
}

/// Answers until it is dropped.
pub(super) struct Server {
    pub(super) address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Has `answer` answer each request, which come with a number.
    pub(super) fn start(answer: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (asked, is_over) = (Arc::default(), Arc::default());
        let (seen, ends) = (Arc::clone(&asked), Arc::clone(&is_over));
        let (answer, number) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if AtomicBool::load(&ends, Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                let (answer, number) = (Arc::clone(&answer), Arc::clone(&number));
                let seen: Arc<Mutex<Vec<Asked>>> = Arc::clone(&seen);
                thread::spawn(move || {
                    let asked = read(&stream)?;
                    seen.lock().unwrap().push(asked.clone());
                    let number = number.fetch_add(1, Ordering::SeqCst);
                    write(&stream, &answer(number, &asked))
                });
            }
        });
        Self {
            address,
            asked,
            is_over,
            thread: Some(thread),
        }
    }

    /// The requests so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(stream: &TcpStream) -> io::Result<Asked> {
    let mut lines = BufReader::new(stream).lines();
    let line = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    let mut headers = Vec::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    Ok(Asked { line, headers })
}

fn write(mut stream: &TcpStream, answer: &Answer) -> io::Result<()> {
    if answer.hangs {
        let mut rest = Vec::new();
        return io::Read::read_to_end(&mut stream, &mut rest).map(drop);
    }
    let len = answer.len.unwrap_or(answer.body.len());
    let mut head = format!("HTTP/1.1 {} Answer\r\n", answer.status);
    for (name, value) in &answer.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = write!(head, "content-length: {len}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(&answer.body)
}
