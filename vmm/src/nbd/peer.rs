//! Who a client is, as far as the host can tell.
#![expect(
    unsafe_code,
    reason = "rustix takes every process number for one of this namespace"
)]

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;

/// What several connections may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Peer {
    /// A process and its user. Those of another namespace of processes have the number 0 in common.
    Process(libc::pid_t, libc::uid_t),
    /// A host, or a network of them if it has as many addresses as IPv6 gives to one.
    Host(IpAddr),
}

impl Peer {
    /// Who connected by the file system.
    pub(super) fn local(stream: &UnixStream) -> io::Result<Self> {
        let mut found = libc::ucred {
            pid: 0,
            uid: 0,
            gid: 0,
        };
        let mut len = libc::socklen_t::try_from(size_of_val(&found)).expect("a few bytes");
        // SAFETY: both pointers are valid for writes of what they point to, whose length is said.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut found).cast(),
                &raw mut len,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self::Process(found.pid, found.uid))
    }

    /// Who connected from an address.
    pub(super) fn at(address: SocketAddr) -> Self {
        Self::Host(match address.ip().to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_by_its_number() {
        let (stream, _other) = UnixStream::pair().unwrap();
        let Peer::Process(pid, _) = Peer::local(&stream).unwrap() else {
            panic!("it is a process");
        };
        assert_eq!(pid.cast_unsigned(), std::process::id());
    }

    #[test]
    fn a_host_is_told_by_its_address() {
        let at = |text: &str| Peer::at(text.parse().unwrap());
        assert_eq!(at("127.0.0.1:1"), at("[::ffff:127.0.0.1]:2"));
        assert_eq!(at("[2001:db8::1]:1"), at("[2001:db8::ffff:0:0:2]:1"));
        assert_ne!(at("[2001:db8::1]:1"), at("[2001:db8:0:1::1]:1"));
        assert_ne!(at("127.0.0.1:1"), at("127.0.0.2:1"));
    }
}
