//! What a connection tells others, and what it listens to.

use super::Connection;
use super::cork::To;
use crate::config::SlowPeer;
use crate::error::{Error, Result};
use crate::hub::Delivery;
use crate::message::IntoMessage;

impl Connection {
    /// Sends one message to every client of this server, this one included, but holds it while more input is already
    /// here: what a burst is passed on as leaves in one system call a receiver.
    ///
    /// It is the contract of [`write`](Self::write): what is held is sent before any receiving call waits or returns
    /// empty, at 128 KiB, by [`flush`](Self::flush), and at the end; to this connection's own client in its place between
    /// the answers. Who wants to know what became of a message uses [`Hub::broadcast`](crate::Hub::broadcast), which does
    /// not hold.
    ///
    /// # Blocking
    ///
    /// Waits for no other client: see [`SlowPeer`]. As [`flush`](Self::flush), if [`write`](Self::write) holds answers.
    pub fn broadcast(&mut self, message: impl IntoMessage) {
        // After the end nobody would ask for what is held.
        let hold = self.closed.is_none()
            && (self.reader.has_unread() || self.cork.may_wait() && self.reader.stream().has_input());
        // What fails is this connection: its next call tells.
        drop(self.cork.broadcast(To { sender: &self.sender, hub: &self.hub }, message, hold));
    }

    /// Sends one message to every client that subscribed to `topic`, at once, behind what is held, and says what became of
    /// it. This one need not be subscribed; if it is, it gets it too:
    /// [`Hub::publish_except`](crate::Hub::publish_except) leaves it out.
    ///
    /// # Blocking
    ///
    /// Waits for no other client: see [`SlowPeer`]. As [`flush`](Self::flush), if [`write`](Self::write) holds answers.
    pub fn publish(&mut self, topic: &str, message: impl IntoMessage) -> Delivery {
        // What fails is this connection: its next call tells.
        drop(self.flush());
        self.hub.publish(topic, message)
    }

    /// Subscribes this client to a topic, until [`unsubscribe`](Self::unsubscribe) or the end of its handler. A second
    /// time it does nothing.
    ///
    /// # Blocking
    ///
    /// Never waits for a peer, but for the [`on_subscribe`](crate::Server::on_subscribe) callback, which it runs.
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`]: the topic is empty or longer than 256 bytes, or this is not a server's connection.
    /// * [`Error::TooManyTopics`]: see [`Server::max_topics`](crate::Server::max_topics).
    /// * [`Error::Closed`]: the connection is over.
    ///
    /// None of the first two ends the connection.
    pub fn subscribe(&self, topic: &str) -> Result<()> {
        if let Some(closed) = &self.closed {
            return Err(Error::Closed(closed.clone()));
        }
        self.hub.subscribe(self.id(), topic, &self.hooks)
    }

    /// Ends a subscription. False if there was none.
    ///
    /// # Blocking
    ///
    /// Never waits for a peer, but for the [`on_unsubscribe`](crate::Server::on_unsubscribe) callback, which it runs.
    pub fn unsubscribe(&self, topic: &str) -> bool {
        self.hub.unsubscribe(self.id(), topic, &self.hooks)
    }

    /// What becomes of this client when a broadcast finds its backlog full. Defaults to
    /// [`Server::slow_peer`](crate::Server::slow_peer).
    pub fn set_slow_peer(&self, policy: SlowPeer) {
        self.sender.outbox().set_slow_peer(policy);
    }
}
