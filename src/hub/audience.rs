//! A set of clients that is read more often than it changes.

use super::Client;
use crate::sync::Arc;
use std::collections::BTreeMap;

/// Clients by number, with a list of them that is shared by all broadcasts until a client is added or removed.
///
/// A broadcast to a thousand clients copies one pointer.
#[derive(Debug, Default)]
pub(super) struct Audience {
    clients: BTreeMap<u64, Client>,
    list: Option<ClientList>,
}

/// The clients at one moment, oldest first.
pub(super) type ClientList = Arc<[Client]>;

impl Audience {
    /// Returns the list, which is built if a client was added or removed since the last time.
    pub(super) fn list(&mut self) -> ClientList {
        let clients = &self.clients;
        Arc::clone(self.list.get_or_insert_with(|| clients.values().cloned().collect()))
    }

    pub(super) fn get(&self, id: u64) -> Option<&Client> {
        self.clients.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Adds a client, and returns the outdated list. The caller drops it outside the hub's lock, because it may hold the
    /// last handles of other clients.
    pub(super) fn insert(&mut self, client: Client) -> Option<ClientList> {
        self.clients.insert(client.id(), client);
        self.list.take()
    }

    /// Removes a client, and returns it and the outdated list. The caller drops both outside the hub's lock.
    pub(super) fn remove(&mut self, id: u64) -> (Option<Client>, Option<ClientList>) {
        let client = self.clients.remove(&id);
        let list = if client.is_some() { self.list.take() } else { None };
        (client, list)
    }
}
