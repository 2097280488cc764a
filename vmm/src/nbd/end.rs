//! Why a connection ends.

use std::io;

/// The end of a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The client has gone, at whatever point.
    #[error("closed by the client")]
    Closed,
    /// The socket failed.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// There is no TLS with the client, which most likely has not the right certificate.
    #[error("no TLS: {0}")]
    Tls(io::Error),
    /// The client does not speak the protocol, so that nothing it sends can be understood.
    #[error("protocol violation: {0}")]
    Violation(&'static str),
}
