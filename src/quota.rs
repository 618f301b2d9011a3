//! What one client address may take of a server: connections at a time, and handshakes and messages in a time.
//!
//! An IPv6 client counts by its /64, which is what a household or a machine is given: by the whole address it could have
//! 2⁶⁴ budgets. No lock is held over anything that waits.

mod connections;
mod rate;

pub(crate) use connections::Connections;
pub(crate) use rate::{Bucket, Buckets, Rate};

use crate::addr::Addr;
use crate::sync::{Arc, now};
use connections::Counted;
use std::net::IpAddr;
use std::time::Duration;

/// All quotas of a server; those that are not set cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    pub(crate) connections: Option<Arc<Connections>>,
    pub(crate) handshakes: Option<Buckets>,
    pub(crate) messages: Option<Buckets>,
}

/// A connection that was let in. It counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    _counted: Option<Counted>,
}

/// Which quota a client address has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    Connections,
    /// The next handshake is welcome after so long.
    Handshakes(Duration),
}

impl Quotas {
    /// Lets a connection in, or says why not. One that would be too many takes no handshake from its address. A client
    /// without an IP address, behind a Unix socket, is not counted.
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

    /// What all connections of this address may receive together, if that is limited.
    pub(crate) fn messages(&self, client: Addr) -> Option<Arc<Bucket>> {
        let client = client.ip()?;
        self.messages.as_ref().map(|messages| messages.of(client, now()))
    }
}

/// Whom a quota counts as one.
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

    fn origin(text: &str) -> AddressKey {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn an_ipv6_client_counts_by_its_first_64_bits_and_an_ipv4_client_by_all_of_its_own() {
        assert_eq!(origin("2001:db8:0:1::1"), origin("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(origin("2001:db8:0:1::1"), origin("2001:db8:0:2::1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
        assert_eq!(origin("192.0.2.1"), origin("::ffff:192.0.2.1"));
        assert_ne!(origin("0.0.0.1"), origin("::"));
    }

    #[test]
    fn a_connection_too_many_takes_no_handshake_and_a_handshake_too_many_no_place() {
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
