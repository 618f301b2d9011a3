//! The address of a peer or of a client, whichever kind of socket it uses.

use core::net::{IpAddr, SocketAddr};
use std::fmt;

/// An address of the internet, with or without a port, or a Unix socket.
///
/// ```
/// use std::net::{IpAddr, SocketAddr};
/// use threadws::Addr;
///
/// let peer = Addr::from(SocketAddr::from(([127, 0, 0, 1], 4711)));
/// assert_eq!(peer.to_string(), "127.0.0.1:4711");
/// assert_eq!(Addr::from(IpAddr::from([203, 0, 113, 7])).to_string(), "203.0.113.7");
/// assert_eq!(Addr::Unix.to_string(), "unix socket");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addr {
    /// The other end of a TCP socket.
    Tcp(SocketAddr),
    /// A client's address as a proxy wrote it, or a TCP peer's without its port.
    Ip(IpAddr),
    /// A Unix socket. Its clients have no address of their own.
    Unix,
}

impl Addr {
    /// Returns the IP address; `None` for a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(addr) => Some(addr.ip()),
            Self::Ip(ip) => Some(*ip),
            Self::Unix => None,
        }
    }

    /// Returns a client's address: without the port, and an IPv4 address never mapped into IPv6.
    pub(crate) fn without_port(self) -> Self {
        self.ip().map_or(Self::Unix, |ip| Self::Ip(ip.to_canonical()))
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
            Self::Unix => f.pad("unix socket"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_no_port_and_no_mapped_address() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:80".parse().expect("an address");
        let addr = Addr::from(mapped).without_port();
        assert_eq!((addr, addr.to_string()), (Addr::Ip([192, 0, 2, 1].into()), "192.0.2.1".to_owned()));
        assert_eq!((Addr::Unix.without_port(), Addr::Unix.ip()), (Addr::Unix, None));
    }
}
