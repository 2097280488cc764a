//! How bytes travel between the server and a client: as they are, or within TLS.

use std::io::{self, ErrorKind};
use std::rc::Rc;

use disk::{Buffers, Stream};

use super::tls::Tls;

/// A connection, whatever protects it.
pub(super) enum Link {
    Plain(Rc<Stream>),
    Tls(Box<Tls>),
}

/// How far data has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The host has all of it.
    All,
    /// So many bytes need not be handed over again. The rest, which may be none, goes on when
    /// there is room.
    Part(usize),
}

impl Link {
    /// Receives at least one byte, and at most as many as there is room for, which is one piece of
    /// memory and not empty. 0 is the end.
    pub(super) async fn receive(&self, room: Buffers) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.receive(room).await,
            Self::Tls(tls) => tls.receive(&room).await,
        }
    }

    /// Sends what there is room for, without waiting.
    pub(super) fn try_send(&self, data: &Buffers) -> io::Result<Sent> {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => return tls.try_send(data),
        };
        match stream.try_send(data) {
            Ok(count) if count == data.len() => Ok(Sent::All),
            Ok(count) => Ok(Sent::Part(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Sent::Part(0)),
            Err(error) => Err(error),
        }
    }

    /// Sends all of `data`.
    pub(super) async fn send(&self, data: Buffers) -> io::Result<()> {
        let mut rest = data;
        while let Sent::Part(count) = self.try_send(&rest)? {
            rest = rest.slice(count..rest.len());
            self.writable().await?;
        }
        Ok(())
    }

    /// Waits until there is room to send something.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.stream().writable().await
    }

    /// Says that nothing more is sent, where there is a way to say it. Whoever does not listen any
    /// more misses nothing.
    pub(super) fn finish(&self) {
        if let Self::Tls(tls) = self {
            tls.finish();
        }
    }

    /// Ends the connection, and with it every operation that waits on it.
    pub(super) fn shutdown(&self) {
        self.stream().shutdown();
    }

    /// What it travels on.
    pub(super) fn stream(&self) -> &Rc<Stream> {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => tls.stream(),
        }
    }
}
