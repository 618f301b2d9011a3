//! Who is connected, and how to tell many of them something. It knows no sockets, and holds no lock while it sends.
//!
//! The one lock here guards the lists of who is there. To send, a list is taken, the lock is let go, and every outbox of
//! the list is asked in turn to write or keep the same bytes, which never waits.

mod audience;
mod client;
mod delivery;
mod hooks;
mod topics;

pub use client::Client;
pub use delivery::Delivery;
pub(crate) use hooks::Hooks;

use crate::error::{Error, Result};
use crate::message::IntoMessage;
use crate::protocol::Role;
use crate::protocol::encoder;
use crate::stats::{Measured, Stats, Totals};
use crate::sync::{Arc, Mutex};
use audience::{Audience, List};
use std::fmt;
use topics::Topics;

/// The clients of a server, and the topics that they listen to. Clones are handles to the same.
///
/// ```
/// # fn main() -> threadws::Result<()> {
/// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| {
///     let room = client.request().path().to_owned();
///     client.subscribe(&room)?;
///     while let Some(message) = client.recv()? {
///         client.hub()?.publish(&room, message);
///     }
///     Ok(())
/// })?;
/// let delivery = handle.hub().broadcast("to everyone");
/// assert_eq!(delivery.to_string(), "0 sent, 0 queued, 0 skipped, 0 closed");
/// # Ok(())
/// # }
/// ```
///
/// # Slow peers
///
/// Nothing here waits for a peer. What one does not take at once is kept in its backlog, 1 MiB by default
/// ([`max_backlog`](crate::Config::max_backlog)); what a full backlog cannot take ends the connection or is left out, as
/// [`SlowPeer`](crate::SlowPeer) says.
///
/// # Order
///
/// The messages of one publisher reach each client in their order. Those of several may reach one client in another order
/// than the next.
#[derive(Clone, Default)]
pub struct Hub {
    registry: Arc<Mutex<HubState>>,
}

#[derive(Debug, Default)]
struct HubState {
    everyone: Audience,
    topics: Topics,
    opened: u64,
    /// The sum over the connections that ended.
    ended: Totals,
}

impl Hub {
    /// The clients at this moment, oldest first.
    pub fn clients(&self) -> Vec<Client> {
        self.everyone().to_vec()
    }

    /// The client with this number, if it is still there.
    pub fn get(&self, id: u64) -> Option<Client> {
        self.registry.lock().everyone.get(id).cloned()
    }

    /// How many clients there are.
    pub fn len(&self) -> usize {
        self.registry.lock().everyone.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends one message to every client, at once, and says what became of it.
    ///
    /// It is encoded once. A [`Connection::write_broadcast`](crate::Connection::write_broadcast) that is held goes out later.
    ///
    /// # Blocking
    ///
    /// Never waits for a peer.
    pub fn broadcast(&self, message: impl IntoMessage) -> Delivery {
        send(&self.everyone(), None, message)
    }

    /// Like [`broadcast`](Self::broadcast), but not to the client with this number.
    ///
    /// # Blocking
    ///
    /// Never waits for a peer.
    pub fn broadcast_except(&self, id: u64, message: impl IntoMessage) -> Delivery {
        send(&self.everyone(), Some(id), message)
    }

    /// Sends one message to every client that [subscribed](crate::Connection::subscribe) to `topic`, at once, and says
    /// what became of it.
    ///
    /// # Blocking
    ///
    /// Never waits for a peer.
    pub fn publish(&self, topic: &str, message: impl IntoMessage) -> Delivery {
        self.list(topic).map_or_else(Delivery::default, |members| send(&members, None, message))
    }

    /// Like [`publish`](Self::publish), but not to the client with this number.
    ///
    /// # Blocking
    ///
    /// Never waits for a peer.
    pub fn publish_except(&self, id: u64, topic: &str, message: impl IntoMessage) -> Delivery {
        self.list(topic).map_or_else(Delivery::default, |members| send(&members, Some(id), message))
    }

    /// The clients that listen to `topic` at this moment, oldest first.
    pub fn members(&self, topic: &str) -> Vec<Client> {
        self.list(topic).map_or_else(Vec::new, |members| members.to_vec())
    }

    /// The topics that somebody listens to, by name, and how many do.
    pub fn topics(&self) -> Vec<(String, usize)> {
        self.registry.lock().topics.sizes()
    }

    fn everyone(&self) -> List {
        self.registry.lock().everyone.list()
    }

    fn list(&self, topic: &str) -> Option<List> {
        self.registry.lock().topics.members(topic)
    }

    pub(crate) fn join(&self, client: Client) {
        let mut registry = self.registry.lock();
        registry.opened += 1;
        let before = registry.everyone.insert(client);
        drop(registry);
        // Dropped after the lock is: it may hold the last handles to clients that left.
        drop(before);
    }

    /// Forgets a client whose connection has ended, and tells of the topics that it leaves.
    pub(crate) fn leave(&self, id: u64, hooks: &Hooks) {
        let Some(client) = self.get(id) else { return };
        let (totals, _) = client.sender.outbox().totals();
        let mut dropped = Vec::new();
        let (topics, everyone) = {
            let mut registry = self.registry.lock();
            registry.ended.add(&totals);
            (registry.topics.leave(id, &mut dropped), registry.everyone.remove(id))
        };
        drop((dropped, everyone));
        for topic in topics {
            hooks.unsubscribed(self, &client, &topic);
        }
    }

    /// Has a client listen to a topic; a second time it does nothing.
    pub(crate) fn subscribe(&self, id: u64, topic: &str, hooks: &Hooks) -> Result<()> {
        topics::check(topic)?;
        let mut dropped = Vec::new();
        let (client, joined) = {
            let mut registry = self.registry.lock();
            let Some(client) = registry.everyone.get(id).cloned() else {
                return Err(Error::invalid("only a server's clients can subscribe"));
            };
            let joined = registry.topics.subscribe(&client, topic, hooks.max_topics, &mut dropped)?;
            (client, joined)
        };
        drop(dropped);
        if joined {
            hooks.subscribed(self, &client, topic);
        }
        Ok(())
    }

    /// Has a client listen to a topic no more; false if it did not.
    pub(crate) fn unsubscribe(&self, id: u64, topic: &str, hooks: &Hooks) -> bool {
        let mut dropped = Vec::new();
        let client = {
            let mut registry = self.registry.lock();
            let left = registry.topics.unsubscribe(id, topic, &mut dropped);
            registry.everyone.get(id).filter(|_| left).cloned()
        };
        drop(dropped);
        if let Some(client) = &client {
            hooks.unsubscribed(self, client, topic);
        }
        client.is_some()
    }

    /// Sends whole frames, `messages` in number, to every client, or to all but one.
    pub(crate) fn broadcast_frames(&self, except: Option<u64>, frames: &Arc<[u8]>, messages: u64) {
        deliver(&self.everyone(), except, frames, messages);
    }
}

impl Measured for Hub {
    fn measure(&self, stats: &mut Stats) {
        let everyone = {
            // Under one lock, so that a client that leaves meanwhile is counted once.
            let mut registry = self.registry.lock();
            stats.opened = registry.opened;
            stats.add(&registry.ended);
            registry.everyone.list()
        };
        stats.open = everyone.len();
        for client in &*everyone {
            let (totals, backlog) = client.sender.outbox().totals();
            stats.add(&totals);
            stats.backlog += backlog;
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("clients", &self.len()).finish_non_exhaustive()
    }
}

fn send(audience: &[Client], except: Option<u64>, message: impl IntoMessage) -> Delivery {
    if audience.is_empty() {
        return Delivery::default();
    }
    let view = message.as_message();
    let mut frame = Vec::new();
    encoder::append(Role::Server, view.into(), view.as_bytes(), &mut frame);
    deliver(audience, except, &frame.into(), 1)
}

fn deliver(audience: &[Client], except: Option<u64>, frames: &Arc<[u8]>, messages: u64) -> Delivery {
    let mut delivery = Delivery::default();
    for client in audience.iter().filter(|client| Some(client.id()) != except) {
        delivery.note(client.sender.outbox().broadcast(frames, messages));
    }
    delivery
}
