//! Where a server listens, as the command line has it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// A place to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A socket in the file system, which its permissions protect.
    Unix(PathBuf),
    /// An address of this host, and a port of it; 0 is any that is free.
    Tcp(SocketAddr),
}

impl Address {
    /// Whether other hosts may reach it.
    pub(crate) fn is_exposed(&self) -> bool {
        match self {
            Self::Unix(_) => false,
            Self::Tcp(address) => !address.ip().to_canonical().is_loopback(),
        }
    }
}

impl FromStr for Address {
    type Err = &'static str;

    /// `unix:PATH`, `tcp:PORT` of the loopback address, `tcp:ADDRESS:PORT` or `tcp:[ADDRESS]:PORT`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let Some(address) = text.strip_prefix("tcp:") else {
            return Err("write unix:PATH or tcp:[ADDRESS:]PORT");
        };
        if let Ok(port) = address.parse() {
            return Ok(Self::Tcp((Ipv4Addr::LOCALHOST, port).into()));
        }
        address.parse().map(Self::Tcp).map_err(
            |_| "write tcp:PORT, or tcp:ADDRESS:PORT with an IP address, an IPv6 one in brackets",
        )
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_sockets() {
        for (text, shown) in [
            ("unix:/a", "unix:/a"),
            ("unix:a:b", "unix:a:b"),
            ("tcp:10809", "tcp:127.0.0.1:10809"),
            ("tcp:0", "tcp:127.0.0.1:0"),
            ("tcp:192.0.2.1:1", "tcp:192.0.2.1:1"),
            ("tcp:[::1]:10809", "tcp:[::1]:10809"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
        }
        for text in [
            "/a",
            "unix:",
            "",
            "tcp:",
            "tcp:localhost:10809",
            "tcp:192.0.2.1",
            "tcp::10809",
            "tcp:::1:10809",
            "tcp:65536",
            "tcp:-1",
            "udp:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn loopback_addresses_are_not_exposed() {
        for (text, exposed) in [
            ("unix:/a", false),
            ("tcp:1", false),
            ("tcp:127.9.9.9:1", false),
            ("tcp:[::1]:1", false),
            ("tcp:[::ffff:127.0.0.1]:1", false),
            ("tcp:0.0.0.0:1", true),
            ("tcp:[::]:1", true),
            ("tcp:192.168.0.1:1", true),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.is_exposed(), exposed, "{text}");
        }
    }
}
