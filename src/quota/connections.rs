//! How many connections each client address has now.

use super::AddressKey;
use crate::sync::{Arc, Mutex};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Counts the connections of each address. An entry lives as long as its address has connections, so there are never more
/// entries than connections.
#[derive(Debug)]
pub(crate) struct Connections {
    most: usize,
    counts: Mutex<BTreeMap<AddressKey, usize>>,
}

/// One connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    connections: Arc<Connections>,
    origin: AddressKey,
}

impl Connections {
    /// At most so many for each address.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, counts: Mutex::default() }
    }

    /// Counts one more; `None` if that would be too many.
    pub(super) fn take(this: &Arc<Self>, client: IpAddr) -> Option<Counted> {
        let origin = AddressKey::from(client);
        let mut counts = this.counts.lock();
        let before = counts.get(&origin).copied().unwrap_or(0);
        if before >= this.most {
            return None;
        }
        counts.insert(origin, before + 1);
        Some(Counted { connections: Arc::clone(this), origin })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.connections.counts.lock();
        match counts.get_mut(&self.origin) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.origin)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_count_and_none_is_kept_without_connections() {
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
