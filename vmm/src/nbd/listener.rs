//! Accepts connections, and tells who makes them.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use disk::Stream;

use super::peer::Peer;

/// A socket that listens.
pub(super) struct Listener {
    socket: Socket,
    descriptor: Arc<OwnedFd>,
}

enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Takes over a socket with a name in the file system.
    pub(super) fn unix(socket: UnixListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let descriptor = Arc::new(socket.try_clone()?.into());
        let socket = Socket::Unix(socket);
        Ok(Self { socket, descriptor })
    }

    /// Takes over a socket with a port. Whoever it accepts has its options.
    pub(super) fn tcp(socket: TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let descriptor = Arc::new(socket.try_clone()?.into());
        let socket = Socket::Tcp(socket);
        Ok(Self { socket, descriptor })
    }

    /// Waits for the next connection. Some errors concern it only, others the host's resources:
    /// the next call may go well. Nobody is lost if the future is dropped.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Peer)> {
        loop {
            match self.socket.accept() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                accepted => return accepted,
            }
            disk::readable(Arc::clone(&self.descriptor)).await?;
        }
    }
}

impl Socket {
    fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Unix(socket) => {
                let (stream, _) = socket.accept()?;
                let peer = Peer::local(&stream)?;
                Ok((Stream::new(stream), peer))
            }
            Self::Tcp(socket) => {
                let (stream, address) = socket.accept()?;
                Ok((Stream::new(stream), Peer::at(address)))
            }
        }
    }
}
