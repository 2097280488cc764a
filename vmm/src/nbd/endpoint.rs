//! A place where the server listens.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context as _, Result};
use disk::Stream;
use rustix::net::sockopt;

use super::address::Address;
use super::export::Export;
use super::listener::Listener;
use super::peer::Peer;
use super::uri::uri;
use crate::socket_path::{Access, SocketPath};

/// A TCP client that was silent for so long is asked whether it is still there,
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
/// so often,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// and so many times before it is taken for gone.
const KEEPALIVE_PROBES: u32 = 6;

/// Listens.
pub(crate) struct Endpoint {
    listener: Listener,
    /// Where it is in fact.
    address: Address,
    _name: Option<SocketPath>,
}

impl Endpoint {
    /// Listens at `address`.
    pub(crate) fn listen(address: &Address) -> Result<Self> {
        match address {
            Address::Unix(path) => {
                let (listener, name) = SocketPath::listen(path, Access::Mask)?;
                Ok(Self {
                    listener: Listener::unix(listener).context("cannot listen")?,
                    address: address.clone(),
                    _name: Some(name),
                })
            }
            Address::Tcp(tcp) => {
                listen_tcp(*tcp).with_context(|| format!("{address}: cannot listen"))
            }
        }
    }

    /// How clients call an export here; with `tls`, those that come by way of TLS.
    pub(crate) fn uri(&self, export: &Export, tls: bool) -> String {
        uri(&self.address, export.name(), tls)
    }

    /// Waits for the next client. Nobody is lost if the future is dropped.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Peer)> {
        self.listener.accept().await
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<Endpoint> {
    let socket = bind(address)?;
    let address = Address::Tcp(socket.local_addr()?);
    Ok(Endpoint {
        listener: Listener::tcp(socket)?,
        address,
        _name: None,
    })
}

/// A socket whose connections have the options that it has.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpListener::bind(address)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn tcp_clients_are_answered_at_once_and_looked_after() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        assert!(sockopt::tcp_nodelay(&stream).unwrap());
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), KEEPALIVE_PROBES);
    }

    #[test]
    fn a_used_port_is_refused_by_its_address() {
        let used = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(used.local_addr().unwrap());
        let error = Endpoint::listen(&address).err().expect("it listens");
        let error = format!("{error:#}");
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains("in use"), "{error}");
    }
}
