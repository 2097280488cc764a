//! Stream sockets, for servers whose requests and disk share one thread.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::Buffers;
use crate::reactor::{self, Operation, Readiness, submit};

/// A connection. Its operations are futures on this thread's executor; one that is dropped is
/// cancelled, with its memory kept until the host is done with it.
pub struct Stream {
    descriptor: Arc<OwnedFd>,
}

impl Stream {
    /// Takes over a connected socket, of whatever family, that blocks: `io_uring` waits for one
    /// that does, and reports one that does not.
    pub fn new(socket: impl Into<OwnedFd>) -> Self {
        let descriptor = Arc::new(socket.into());
        Self { descriptor }
    }

    /// Receives at least one byte, and at most as many as `buffers` has, which is one piece of
    /// memory. 0 is the end of the stream.
    pub async fn receive(&self, buffers: Buffers) -> io::Result<usize> {
        loop {
            let socket = Arc::clone(&self.descriptor);
            let buffers = buffers.clone().exact();
            match submit(Operation::Receive { socket, buffers }).await {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Sends what there is room for, and returns how much that was; an error of the kind
    /// [`ErrorKind::WouldBlock`] if there is none.
    pub fn try_send(&self, buffers: &Buffers) -> io::Result<usize> {
        loop {
            match reactor::send(&self.descriptor, &buffers.clone().exact()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result.map(|count| usize::try_from(count).unwrap_or(0)),
            }
        }
    }

    /// As [`Self::try_send`], for memory that nobody else has a part in.
    pub fn try_send_slices(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match reactor::send_slices(&self.descriptor, slices) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result.map(|count| usize::try_from(count).unwrap_or(0)),
            }
        }
    }

    /// Sends all of `buffers`.
    pub async fn send(&self, buffers: Buffers) -> io::Result<()> {
        let mut sent = 0;
        while sent < buffers.len() {
            match self.try_send(&buffers.slice(sent..buffers.len())) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until there is room to send something.
    pub async fn writable(&self) -> io::Result<()> {
        wait(Arc::clone(&self.descriptor), Readiness::Writable).await
    }

    /// Ends the connection in both directions, and with it every operation that waits on it.
    pub fn shutdown(&self) {
        reactor::shutdown(&self.descriptor);
    }
}

/// Waits until there is something to read from `descriptor`, or its end.
pub async fn readable(descriptor: Arc<OwnedFd>) -> io::Result<()> {
    wait(descriptor, Readiness::Readable).await
}

async fn wait(descriptor: Arc<OwnedFd>, readiness: Readiness) -> io::Result<()> {
    loop {
        let descriptor = Arc::clone(&descriptor);
        match submit(Operation::Wait {
            descriptor,
            readiness,
        })
        .await
        {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;
    use std::thread;

    use super::*;
    use crate::test_support::real_backends;
    use crate::{Executor, spawn};

    fn pair() -> (Stream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Stream::new(ours), theirs)
    }

    #[test]
    fn receives_what_comes_and_then_the_end() {
        for backend in real_backends() {
            let executor = Executor::with_backend(backend).unwrap();
            let (stream, mut other) = pair();
            let buffers = Buffers::zeroed(8);
            let sender = thread::spawn(move || {
                other.write_all(b"abcdefghij").unwrap();
            });
            executor.run(async {
                let mut received = Vec::new();
                loop {
                    let count = stream.receive(buffers.slice(2..6)).await.unwrap();
                    if count == 0 {
                        break;
                    }
                    received.extend(buffers.slice(2..2 + count).to_vec());
                }
                assert_eq!(received, b"abcdefghij");
            });
            sender.join().unwrap();
        }
    }

    #[test]
    fn sends_more_than_the_socket_holds_in_pieces() {
        for backend in real_backends() {
            let executor = Executor::with_backend(backend).unwrap();
            let (stream, mut other) = pair();
            let parts: Vec<_> = (0..3)
                .map(|n| Buffers::from_vec(vec![n; 1 << 20]))
                .collect();
            let receiver = thread::spawn(move || {
                let mut received = Vec::new();
                other.read_to_end(&mut received).unwrap();
                received
            });
            executor.run(async move {
                stream.send(Buffers::concat(parts)).await.unwrap();
            });
            let bytes = receiver.join().unwrap();
            assert_eq!(bytes.len(), 3 << 20);
            let place = |n: usize| usize::from(bytes[n]) == n >> 20;
            assert!((0..bytes.len()).all(place));
        }
    }

    #[test]
    fn sending_to_nobody_is_an_error() {
        for backend in real_backends() {
            let executor = Executor::with_backend(backend).unwrap();
            let (stream, other) = pair();
            drop(other);
            let sent = executor.run(stream.send(Buffers::zeroed(1)));
            assert_eq!(sent.unwrap_err().kind(), ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn shutdown_ends_what_waits() {
        for backend in real_backends() {
            let executor = Executor::with_backend(backend).unwrap();
            let (stream, _other) = pair();
            let stream = Rc::new(stream);
            let received = Rc::new(Cell::new(None));
            executor.run(async {
                let (waiting, result) = (Rc::clone(&stream), Rc::clone(&received));
                spawn(async move {
                    result.set(Some(waiting.receive(Buffers::zeroed(1)).await.unwrap()));
                });
                let full = async {
                    // Blocks sooner or later, for nobody reads.
                    stream.send(Buffers::zeroed(16 << 20)).await
                };
                spawn({
                    let stream = Rc::clone(&stream);
                    async move { stream.shutdown() }
                });
                assert!(full.await.is_err());
                readable(Arc::clone(&stream.descriptor)).await.unwrap();
            });
            executor.run(std::future::ready(()));
            assert_eq!(received.get(), Some(0));
        }
    }

    #[test]
    fn what_is_dropped_is_cancelled_and_lets_go_of_its_memory() {
        for backend in real_backends() {
            let executor = Executor::with_backend(backend).unwrap();
            let (stream, _other) = pair();
            let buffers = Buffers::zeroed(4);
            executor.run(async {
                let mut waiting = Box::pin(stream.receive(buffers.clone()));
                let polled = std::future::poll_fn(|context| {
                    std::task::Poll::Ready(waiting.as_mut().poll(context).is_pending())
                });
                assert!(polled.await);
                drop(waiting);
                assert!(!buffers.is_unique(), "the host may still write to it");
            });
            // Would wait for ever for what still is in flight.
            drop(executor);
            assert!(buffers.is_unique());
        }
    }

    #[test]
    fn slices_are_sent_as_far_as_there_is_room() {
        let executor = Executor::new().unwrap();
        let (stream, mut other) = pair();
        executor.run(async {
            let slices = [b"ab".as_slice(), b"", b"cde"].map(IoSlice::new);
            assert_eq!(stream.try_send_slices(&slices).unwrap(), 5);
            let mut received = [0; 5];
            other.read_exact(&mut received).unwrap();
            assert_eq!(&received, b"abcde");
            let large = vec![0; 1 << 20];
            while stream.try_send_slices(&[IoSlice::new(&large)]).is_ok() {}
            let full = stream.try_send_slices(&slices).unwrap_err();
            assert_eq!(full.kind(), ErrorKind::WouldBlock);
        });
    }
}
