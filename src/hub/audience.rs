//! A set of clients that is sent to more often than it changes.

use super::Client;
use crate::sync::Arc;
use std::collections::BTreeMap;

/// Clients by number, and a list of them that is made when somebody sends and kept until somebody comes or goes: a
/// broadcast to a thousand copies one pointer.
#[derive(Debug, Default)]
pub(super) struct Audience {
    clients: BTreeMap<u64, Client>,
    list: Option<List>,
}

/// The clients at one moment, oldest first.
pub(super) type List = Arc<[Client]>;

impl Audience {
    pub(super) fn list(&mut self) -> List {
        let clients = &self.clients;
        Arc::clone(self.list.get_or_insert_with(|| clients.values().cloned().collect()))
    }

    pub(super) fn get(&self, id: u64) -> Option<&Client> {
        self.clients.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Adds a client. What is returned is to be dropped outside the lock: it may hold the last handles to other clients.
    pub(super) fn insert(&mut self, client: Client) -> Option<List> {
        self.clients.insert(client.id(), client);
        self.list.take()
    }

    /// Takes a client out, likewise.
    pub(super) fn remove(&mut self, id: u64) -> (Option<Client>, Option<List>) {
        let client = self.clients.remove(&id);
        let list = if client.is_some() { self.list.take() } else { None };
        (client, list)
    }
}
