//! The number of connections that each client address has now.

use super::AddressKey;
use crate::sync::{Arc, Mutex};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Counts the connections of each address. An address has an entry while it has connections, so there are never more
/// entries than connections.
#[derive(Debug)]
pub(crate) struct Connections {
    limit: usize,
    counts: Mutex<BTreeMap<AddressKey, usize>>,
}

/// One connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    connections: Arc<Connections>,
    key: AddressKey,
}

impl Connections {
    /// `limit` is for each address.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, counts: Mutex::default() }
    }

    /// Counts one more connection. `None` if that would be too many.
    pub(super) fn take(this: &Arc<Self>, client: IpAddr) -> Option<Counted> {
        let key = AddressKey::from(client);
        let mut counts = this.counts.lock();
        let before = counts.get(&key).copied().unwrap_or(0);
        if before >= this.limit {
            return None;
        }
        counts.insert(key, before + 1);
        Some(Counted { connections: Arc::clone(this), key })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.connections.counts.lock();
        match counts.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_count_while_it_has_connections() {
        let connections = Arc::new(Connections::new(2));
        let take = |ip: &str| Connections::take(&connections, ip.parse().expect("an address"));
        let held = [take("192.0.2.1"), take("192.0.2.1"), take("2001:db8::1"), take("2001:db8::2")];
        assert!(held.iter().all(Option::is_some));
        assert!(take("192.0.2.1").is_none() && take("2001:db8::3").is_none());
        assert!(take("192.0.2.2").is_some(), "another address");
        let [first, second, ..] = held;
        drop(first);
        let again = take("192.0.2.1");
        assert!(again.is_some() && take("192.0.2.1").is_none());
        drop((second, again));
        assert_eq!(connections.counts.lock().len(), 1, "the IPv6 network alone");
    }
}
