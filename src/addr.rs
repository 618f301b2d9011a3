//! The address of a peer or of a client, whichever kind of socket it uses.

use core::net::{IpAddr, SocketAddr};
use std::fmt;
use std::io;
use std::net::ToSocketAddrs;

/// An address of the internet, with or without a port, or a Unix socket.
///
/// A socket that listens on `[::]` sees an IPv4 address mapped into IPv6: `::ffff:192.0.2.1`. The conversions from
/// `SocketAddr` and `IpAddr` make an IPv4 address of it, and so does everything that returns an `Addr`. So addresses can be
/// compared.
///
/// ```
/// use std::net::{IpAddr, SocketAddr};
/// use threadws::Addr;
///
/// let peer = Addr::from(SocketAddr::from(([127, 0, 0, 1], 4711)));
/// assert_eq!(peer.to_string(), "127.0.0.1:4711");
/// assert_eq!(Addr::from(IpAddr::from([203, 0, 113, 7])).to_string(), "203.0.113.7");
/// assert_eq!(Addr::Unix.to_string(), "unix socket");
///
/// let mapped: SocketAddr = "[::ffff:127.0.0.1]:4711".parse()?;
/// assert_eq!(Addr::from(mapped), peer);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
///
/// [`Addr::Tcp`] can be connected to: `TcpStream::connect(server.local_addr()?)`.
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

    /// Returns a client's address, which has no port.
    pub(crate) fn without_port(self) -> Self {
        self.ip().map_or(Self::Unix, Self::from)
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        match addr.ip().to_canonical() {
            // `SocketAddr::new` would drop the zone of an IPv6 address.
            IpAddr::V6(_) => Self::Tcp(addr),
            ip => Self::Tcp(SocketAddr::new(ip, addr.port())),
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip.to_canonical())
    }
}

/// Only an address with a port has a socket address.
impl ToSocketAddrs for Addr {
    type Iter = std::option::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        match self {
            Self::Tcp(addr) => addr.to_socket_addrs(),
            Self::Ip(_) | Self::Unix => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{self} has no port")))
            }
        }
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
    fn an_address_is_never_mapped_and_keeps_port_and_zone() {
        let shown = |text: &str| Addr::from(text.parse::<SocketAddr>().expect("an address")).to_string();
        assert_eq!(shown("[::ffff:192.0.2.1]:80"), "192.0.2.1:80");
        for text in ["192.0.2.1:80", "[::1]:80", "[fe80::1%3]:80", "[::c000:201]:80"] {
            assert_eq!(shown(text), text);
        }
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("an address");
        assert_eq!(Addr::from(mapped), Addr::Ip([192, 0, 2, 1].into()));
    }

    #[test]
    fn a_client_has_no_port_and_no_mapped_address() {
        for text in ["[::ffff:192.0.2.1]:80", "192.0.2.1:80"] {
            let addr: SocketAddr = text.parse().expect("an address");
            // Also for a value that a caller has made.
            for addr in [Addr::from(addr), Addr::Tcp(addr)] {
                assert_eq!(addr.without_port(), Addr::Ip([192, 0, 2, 1].into()));
            }
        }
        assert_eq!((Addr::Unix.without_port(), Addr::Unix.ip()), (Addr::Unix, None));
    }

    #[test]
    fn only_an_address_with_a_port_can_be_connected_to() {
        let tcp = SocketAddr::from(([192, 0, 2, 1], 80));
        assert_eq!(Addr::from(tcp).to_socket_addrs().expect("a port").next(), Some(tcp));
        for addr in [Addr::Unix, Addr::from(tcp.ip())] {
            addr.to_socket_addrs().expect_err("no port");
        }
    }
}
