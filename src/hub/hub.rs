//! Sends one message to many clients. It knows no sockets.
//!
//! One lock guards the lists of clients. A broadcast takes a list, unlocks, and then writes to or queues in each outbox of
//! the list in turn, which never waits. A client joins before its 101 is sent, so it misses nothing that is sent later.

use super::audience::{Audience, ClientList};
use super::topics::{self, Topics};
use super::{Client, Delivery, Hooks};
use crate::backplane::{Bus, LocalClients, Status};
use crate::error::{Error, Result, Timeout};
use crate::message::IntoMessage;
use crate::outbox::SharedFrames;
use crate::protocol::Role;
use crate::protocol::encoder;
use crate::stats::{Measured, Stats, Totals};
use crate::sync::{Arc, Condvar, Mutex, OnceLock, Weak, now};
use std::fmt;
use std::ops::RangeBounds;
use std::time::{Duration, Instant};

/// The clients of a server, and the topics that they subscribed to. Clones refer to the same hub.
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
/// Nothing here waits for a peer. What the operating system does not take at once is queued, up to
/// [`max_backlog`](crate::Config::max_backlog), 1 MiB by default. If a client's queue is full, the client is disconnected
/// or the message is dropped for it: see [`SlowPeer`](crate::hub::SlowPeer).
///
/// # Order
///
/// Each client receives the messages of one publisher in their order. Messages of two publishers can reach two clients in
/// different orders.
#[derive(Clone, Default)]
pub struct Hub {
    shared: Arc<SharedHub>,
    /// Sends only to the clients of this server.
    is_local: bool,
}

#[derive(Default)]
struct SharedHub {
    state: Mutex<HubState>,
    /// Notified when a client joins or leaves, if a thread waits for that.
    changed: Condvar,
    backplane: OnceLock<Arc<Bus>>,
}

#[derive(Debug, Default)]
struct HubState {
    everyone: Audience,
    topics: Topics,
    /// The number of threads in [`Hub::wait_count`].
    waiting: usize,
    /// The sum over the connections that ended.
    ended: Totals,
}

/// # Send
impl Hub {
    /// Sends one message to every client, and returns for how many it was sent, queued or dropped.
    ///
    /// The message is encoded and compressed once. A message that [`write`](crate::Connection::write) or
    /// [`write_broadcast`](crate::Connection::write_broadcast) still holds is sent later than this one, unless
    /// [`flush`](crate::Connection::flush) is called before.
    ///
    /// # Blocking
    ///
    /// Never waits for a peer.
    pub fn broadcast(&self, message: impl IntoMessage) -> Delivery {
        self.send(None, None, message)
    }

    /// Sends one message to every client except the one with this number. Otherwise like [`broadcast`](Self::broadcast).
    ///
    /// # Blocking
    ///
    /// Never waits for a peer.
    pub fn broadcast_except(&self, id: u64, message: impl IntoMessage) -> Delivery {
        self.send(None, Some(id), message)
    }

    /// Sends one message to every client that [subscribed](crate::Connection::subscribe) to a topic. Otherwise like
    /// [`broadcast`](Self::broadcast).
    ///
    /// # Blocking
    ///
    /// Never waits for a peer.
    pub fn publish(&self, topic: &str, message: impl IntoMessage) -> Delivery {
        self.send(Some(topic), None, message)
    }

    /// Sends one message to every client that subscribed to a topic, except the one with this number. Otherwise like
    /// [`broadcast`](Self::broadcast).
    ///
    /// # Blocking
    ///
    /// Never waits for a peer.
    pub fn publish_except(&self, id: u64, topic: &str, message: impl IntoMessage) -> Delivery {
        self.send(Some(topic), Some(id), message)
    }
}

/// # Clients and topics
impl Hub {
    /// Returns all clients, oldest first.
    ///
    /// ```
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| Ok(client.ignore()?))?;
    /// let connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// for client in handle.hub().clients() {
    ///     println!("client {} at {}", client.id(), client.client_addr());
    ///     client.sender().send("for you only")?;
    /// }
    /// # drop(connection);
    /// # Ok(())
    /// # }
    /// ```
    pub fn clients(&self) -> Vec<Client> {
        self.everyone().to_vec()
    }

    /// Returns the client with this number, if it is still connected.
    pub fn get(&self, id: u64) -> Option<Client> {
        self.shared.state.lock().everyone.get(id).cloned()
    }

    /// Returns how many clients are connected. A client counts from just before its 101 is sent until its handler has ended.
    pub fn count(&self) -> usize {
        self.shared.state.lock().everyone.len()
    }

    /// Waits until the number of clients is in a range: `3..` for at least three, `..=0` for none.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| Ok(client.ignore()?))?;
    /// let client = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// handle.hub().wait_count(1.., Duration::from_secs(5))?; // at once, because `connect` has returned
    /// drop(client);
    /// handle.hub().wait_count(..=0, Duration::from_secs(5))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Blocking
    ///
    /// Waits at most `timeout`. A number that lasts only for a moment can be missed.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] with [`Timeout::Count`]: the number is still another.
    pub fn wait_count(&self, range: impl RangeBounds<usize>, timeout: Duration) -> Result<()> {
        // Copied, because a type of the program must not run under the lock.
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        // A deadline that overflows is later than the end of the process.
        let deadline = now().checked_add(timeout);
        let has_passed = || deadline.is_some_and(|moment| moment <= now());
        let mut state = self.shared.state.lock();
        state.waiting += 1;
        while !range.contains(&state.everyone.len()) && !has_passed() {
            state = self.shared.changed.wait_until(state, deadline);
        }
        state.waiting -= 1;
        if range.contains(&state.everyone.len()) { Ok(()) } else { Err(Error::Timeout(Timeout::Count)) }
    }

    /// Returns the clients that subscribed to a topic, oldest first.
    pub fn subscribers(&self, topic: &str) -> Vec<Client> {
        self.shared.audience(Some(topic)).map_or_else(Vec::new, |clients| clients.to_vec())
    }

    /// Returns the topics with at least one subscriber, by name, and the number of their subscribers.
    pub fn topics(&self) -> Vec<(String, usize)> {
        self.shared.state.lock().topics.sizes()
    }
}

/// # Other servers
impl Hub {
    /// Returns a hub with the same clients that sends to them alone, and not through the backplane.
    pub fn local(&self) -> Self {
        Self { is_local: true, ..self.clone() }
    }

    /// Returns the state of the backplane, or `None` if the server has none.
    pub fn backplane(&self) -> Option<Status> {
        self.shared.backplane.get().map(|bus| bus.status())
    }

    /// Connects this hub, and all of its clones, to other servers.
    pub(crate) fn set_backplane(&self, bus: Arc<Bus>) -> Weak<dyn LocalClients> {
        drop(self.shared.backplane.set(bus));
        let shared: Weak<SharedHub> = Arc::downgrade(&self.shared);
        shared
    }

    /// Ends the backplane, after it has sent what waits or at `deadline`.
    pub(crate) fn stop_backplane(&self, deadline: Instant) {
        if let Some(bus) = self.shared.backplane.get() {
            bus.stop(deadline);
        }
    }

    /// Returns the backplane, if this hub sends to other servers.
    #[inline]
    fn others(&self) -> Option<&Bus> {
        self.shared.backplane.get().filter(|_| !self.is_local).map(|bus| &**bus)
    }
}

impl SharedHub {
    /// Returns the subscribers of a topic, or all clients. `None` if the topic has no subscriber.
    #[inline]
    fn audience(&self, topic: Option<&str>) -> Option<ClientList> {
        let mut state = self.state.lock();
        match topic {
            None => Some(state.everyone.list()),
            Some(topic) => state.topics.subscribers(topic),
        }
    }
}

impl LocalClients for SharedHub {
    fn deliver(&self, topic: Option<&str>, frames: Arc<[u8]>, messages: u64) {
        if let Some(clients) = self.audience(topic) {
            deliver(&clients, None, &SharedFrames::new(frames, messages, true));
        }
    }

    fn count(&self) -> usize {
        self.state.lock().everyone.len()
    }
}

impl Hub {
    #[inline]
    fn send(&self, topic: Option<&str>, except: Option<u64>, message: impl IntoMessage) -> Delivery {
        let (audience, others) = (self.shared.audience(topic), self.others());
        let clients = audience.as_deref().unwrap_or_default();
        if clients.is_empty() && others.is_none() {
            return Delivery::default();
        }
        let view = message.as_message();
        let mut frame = Vec::new();
        encoder::append(Role::Server, view.into(), view.as_bytes(), &mut frame);
        let frame: Arc<[u8]> = frame.into();
        // First, so that the engine works while this thread sends.
        let passed_on = others.map(|others| others.publish(topic, Arc::clone(&frame), 1));
        let delivery = deliver(clients, except, &SharedFrames::new(frame, 1, message.may_compress()));
        Delivery { passed_on, ..delivery }
    }

    fn everyone(&self) -> ClientList {
        self.shared.state.lock().everyone.list()
    }

    /// Adds a client, just before its 101 is sent.
    pub(crate) fn join(&self, client: Client) {
        let mut state = self.shared.state.lock();
        let outdated = state.everyone.insert(client);
        let is_waited_for = state.waiting > 0;
        drop(state);
        // Dropped outside the lock, because it may hold the last handles of clients that left.
        drop(outdated);
        if is_waited_for {
            self.shared.changed.notify_all();
        }
    }

    /// Removes a client whose connection has ended, and calls `on_unsubscribe` for each of its topics. Returns the client.
    pub(crate) fn leave(&self, id: u64, hooks: &Hooks) -> Option<Client> {
        let client = self.get(id)?;
        let (totals, _) = client.sender.outbox().totals();
        let mut outdated = Vec::new();
        let (topics, removed, is_waited_for) = {
            let mut state = self.shared.state.lock();
            state.ended.add(&totals);
            (state.topics.leave(id, &mut outdated), state.everyone.remove(id), state.waiting > 0)
        };
        drop((outdated, removed));
        if is_waited_for {
            self.shared.changed.notify_all();
        }
        for topic in topics {
            self.leave_topic(&topic);
            hooks.unsubscribed(self, &client, &topic);
        }
        Some(client)
    }

    /// Subscribes a client to a topic. A second time it does nothing.
    pub(crate) fn subscribe(&self, id: u64, topic: &str, hooks: &Hooks) -> Result<()> {
        topics::check(topic)?;
        let mut outdated = Vec::new();
        let (client, is_new) = {
            let mut state = self.shared.state.lock();
            let Some(client) = state.everyone.get(id).cloned() else {
                return Err(Error::invalid("only a server's clients can subscribe"));
            };
            let is_new = state.topics.subscribe(&client, topic, hooks.max_topics, &mut outdated)?;
            (client, is_new)
        };
        drop(outdated);
        if is_new {
            if let Some(bus) = self.shared.backplane.get() {
                bus.subscribe(topic);
            }
            hooks.subscribed(self, &client, topic);
        }
        Ok(())
    }

    /// Ends a subscription. Returns whether there was one.
    pub(crate) fn unsubscribe(&self, id: u64, topic: &str, hooks: &Hooks) -> bool {
        let mut outdated = Vec::new();
        let client = {
            let mut state = self.shared.state.lock();
            let was_subscribed = state.topics.unsubscribe(id, topic, &mut outdated);
            state.everyone.get(id).filter(|_| was_subscribed).cloned()
        };
        drop(outdated);
        if let Some(client) = &client {
            self.leave_topic(topic);
            hooks.unsubscribed(self, client, topic);
        }
        client.is_some()
    }

    fn leave_topic(&self, topic: &str) {
        if let Some(bus) = self.shared.backplane.get() {
            bus.unsubscribe(topic);
        }
    }

    /// Sends whole frames, which hold this number of messages, to every client, or to all except one.
    pub(crate) fn broadcast_frames(&self, except: Option<u64>, frames: Arc<[u8]>, messages: u64) {
        if let Some(others) = self.others() {
            others.publish(None, Arc::clone(&frames), messages);
        }
        deliver(&self.everyone(), except, &SharedFrames::new(frames, messages, true));
    }
}

impl Measured for Hub {
    fn measure(&self, stats: &mut Stats) {
        let everyone = {
            // Under one lock, so that a client that leaves meanwhile is counted once.
            let mut state = self.shared.state.lock();
            stats.add(&state.ended);
            state.everyone.list()
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
        f.debug_struct("Hub").field("clients", &self.count()).finish_non_exhaustive()
    }
}

fn deliver(clients: &[Client], except: Option<u64>, frames: &SharedFrames) -> Delivery {
    let mut delivery = Delivery::default();
    for client in clients.iter().filter(|client| Some(client.id()) != except) {
        delivery.count(client.sender.outbox().broadcast(frames));
    }
    delivery
}
