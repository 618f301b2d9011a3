//! Who is connected, and how to tell all of them something. It knows no sockets, and holds no lock while it sends.

use crate::message::{IntoMessage, State};
use crate::protocol::Role;
use crate::protocol::encoder;
use crate::sender::Sender;
use crate::sync::{Arc, Mutex};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// The clients of a server. Clones are handles to the same.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    clients: Arc<Mutex<BTreeMap<u64, Client>>>,
}

/// One client as everybody may see it.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) sender: Sender,
    pub(crate) ip: IpAddr,
    pub(crate) peer_addr: SocketAddr,
}

impl Hub {
    /// The clients at this moment, oldest first.
    pub fn clients(&self) -> Vec<Client> {
        self.clients.lock().values().cloned().collect()
    }

    /// The client with this number, if it is still there.
    pub fn get(&self, id: u64) -> Option<Client> {
        self.clients.lock().get(&id).cloned()
    }

    /// How many clients there are.
    pub fn len(&self) -> usize {
        self.clients.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends one message to every client, and returns how many took it; a client whose backlog is full misses it.
    ///
    /// It is encoded once. One caller's messages reach each client in their order.
    ///
    /// # Blocking
    ///
    /// Never waits for a peer.
    pub fn broadcast(&self, message: impl IntoMessage) -> usize {
        let view = message.as_message();
        let mut frame = Vec::new();
        encoder::append(Role::Server, view.into(), view.as_bytes(), &mut frame);
        let frame: Arc<[u8]> = frame.into();
        self.clients().iter().filter(|client| client.sender.outbox().try_send_shared(&frame).is_ok()).count()
    }

    pub(crate) fn join(&self, client: Client) {
        self.clients.lock().insert(client.id(), client);
    }

    pub(crate) fn leave(&self, id: u64) {
        // Dropped after the lock is: it may hold the last handle to a large backlog.
        let left = self.clients.lock().remove(&id);
        drop(left);
    }
}

impl Client {
    /// Its number. It is never used again in this process.
    pub fn id(&self) -> u64 {
        self.sender.id()
    }

    /// Its address: from the headers of a trusted proxy, else the socket's.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The address of the socket's other end.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer_addr
    }

    /// When its handshake ended.
    pub fn since(&self) -> Instant {
        self.sender.outbox().opened()
    }

    /// Where its connection stands.
    pub fn state(&self) -> State {
        self.sender.state()
    }

    /// Sends to it.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }
}
