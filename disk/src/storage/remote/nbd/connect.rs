//! Connecting, which the host offers only as calls that block.

use std::future::poll_fn;
use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use crate::Stream;
use crate::storage::remote::address::Endpoint;

/// A connection to a server, on a thread of its own that ends with it. Whoever does not wait for it
/// has it closed.
pub(super) async fn connect(endpoint: Endpoint, limit: Duration) -> io::Result<Stream> {
    let handover = Arc::new(Handover::default());
    let theirs = Arc::clone(&handover);
    thread::Builder::new()
        .name("nbd-connect".into())
        .spawn(move || theirs.give(connect_blocking(&endpoint, limit)))?;
    handover.take().await.map(Stream::new)
}

fn connect_blocking(endpoint: &Endpoint, limit: Duration) -> io::Result<OwnedFd> {
    let (host, port) = match endpoint {
        Endpoint::Unix(path) => return Ok(UnixStream::connect(path)?.into()),
        Endpoint::Tcp { host, port } => (host.as_str(), *port),
    };
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream.into());
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Gives a result from one thread to another.
#[derive(Default)]
struct Handover {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    result: Option<io::Result<OwnedFd>>,
    waker: Option<Waker>,
}

impl Handover {
    fn give(&self, result: io::Result<OwnedFd>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.result = Some(result);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    async fn take(&self) -> io::Result<OwnedFd> {
        poll_fn(|context| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(result) = state.result.take() {
                return Poll::Ready(result);
            }
            state.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}
