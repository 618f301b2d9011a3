//! Limits for each client address: connections at the same time, and handshakes and messages in a period.
//!
//! An IPv6 client counts by its /64, because a household or a machine has all addresses of its /64. With limits for whole
//! addresses it would have 2⁶⁴ budgets. No lock is held over a call that waits.

mod connections;
mod rate;

pub(crate) use connections::Connections;
pub(crate) use rate::{Bucket, Buckets, Rate};

use crate::addr::Addr;
use crate::sync::{Arc, now};
use connections::Counted;
use std::net::IpAddr;
use std::time::Duration;

/// The quotas of a server. One that is not set costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    pub(crate) connections: Option<Arc<Connections>>,
    pub(crate) handshakes: Option<Buckets>,
    pub(crate) messages: Option<Buckets>,
}

/// A connection within the quotas of its address. It counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    _counted: Option<Counted>,
}

/// Which quota a client address has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    Connections,
    /// The next handshake will be admitted after this time.
    Handshakes(Duration),
}

impl Quotas {
    /// Admits a connection, or returns the quota that is used up. A refused connection takes no handshake from its address.
    /// A client without an IP address, behind a Unix socket, is not counted.
    pub(crate) fn admit(&self, client: Addr) -> Result<Admission, Excess> {
        let Some(client) = client.ip() else { return Ok(Admission { _counted: None }) };
        let counted = match &self.connections {
            Some(connections) => Some(Connections::take(connections, client).ok_or(Excess::Connections)?),
            None => None,
        };
        if let Some(handshakes) = &self.handshakes {
            handshakes.of(client, now()).take(now).map_err(Excess::Handshakes)?;
        }
        Ok(Admission { _counted: counted })
    }

    /// Returns the bucket for the messages of this address, on all of its connections. `None` if messages are not limited.
    pub(crate) fn messages(&self, client: Addr) -> Option<Arc<Bucket>> {
        let client = client.ip()?;
        self.messages.as_ref().map(|messages| messages.of(client, now()))
    }
}

/// The part of an address by which a quota counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum AddressKey {
    V4(u32),
    /// The first 64 bits.
    V6(u64),
}

impl From<IpAddr> for AddressKey {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments().map(u64::from);
                Self::V6(a << 48 | b << 32 | c << 16 | d)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> AddressKey {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn ipv6_clients_count_by_64_bits_and_ipv4_clients_by_all() {
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("0.0.0.1"), key("::"));
    }

    #[test]
    fn a_refused_connection_takes_no_handshake_and_no_place() {
        let client = Addr::Ip([192, 0, 2, 1].into());
        let quotas = Quotas {
            connections: Some(Arc::new(Connections::new(1))),
            handshakes: Some(Buckets::new(Rate::new("rate", 2, Duration::from_secs(3600)).expect("a rate"))),
            messages: None,
        };
        let first = quotas.admit(client).expect("the first");
        for _ in 0..5 {
            assert_eq!(quotas.admit(client).err(), Some(Excess::Connections));
        }
        drop(first);
        drop(quotas.admit(client).expect("the second"));
        for _ in 0..5 {
            assert!(matches!(quotas.admit(client).err(), Some(Excess::Handshakes(_))));
        }
    }

    #[test]
    fn clients_without_an_ip_address_are_not_counted() {
        let rate = || Buckets::new(Rate::new("rate", 1, Duration::from_secs(3600)).expect("a rate"));
        let quotas = Quotas {
            connections: Some(Arc::new(Connections::new(1))),
            handshakes: Some(rate()),
            messages: Some(rate()),
        };
        let admitted: Vec<_> = (0..5).map(|_| quotas.admit(Addr::Unix)).collect();
        assert!(admitted.iter().all(Result::is_ok));
        assert!(quotas.messages(Addr::Unix).is_none());
        assert!(quotas.messages(Addr::Ip([192, 0, 2, 1].into())).is_some());
    }
}
