//! What a connection tells others, and what it listens to.

use super::Connection;
use super::cork::To;
use crate::config::SlowPeer;
use crate::error::{Error, Result};
use crate::message::IntoMessage;

impl Connection {
    /// Sends one message to every client of this server, this one included, but holds it while more input is already
    /// here, so that a burst leaves in one system call a receiver.
    ///
    /// The rules are those of [`write`](Self::write): what is held is sent before any receiving call waits or returns
    /// empty, at 128 KiB, by [`flush`](Self::flush), and at the end. This connection's own client receives it in its place
    /// among the answers. [`Hub::broadcast`](crate::Hub::broadcast) does not hold messages, and returns the number of
    /// clients it reached.
    ///
    /// # Blocking
    ///
    /// Never waits for another client: see [`SlowPeer`]. Waits as [`flush`](Self::flush) does if [`write`](Self::write)
    /// holds answers.
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`]: the connection was opened by [`connect`](crate::connect).
    /// * Those of [`Sender::send`](crate::Sender::send), for this connection's own client. All other clients have received
    ///   the message.
    pub fn write_broadcast(&mut self, message: impl IntoMessage) -> Result<()> {
        self.hub()?;
        // After the end no call would send what is held.
        let hold = self.closed.is_none()
            && (self.reader.has_unread() || self.cork.may_wait() && self.reader.stream().has_input());
        self.cork.broadcast(To { sender: &self.sender, hub: &self.hub }, message, hold)
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
        let hub = self.hub()?;
        if let Some(closed) = &self.closed {
            return Err(Error::Closed(closed.clone()));
        }
        hub.subscribe(self.id(), topic, &self.hooks)
    }

    /// Ends a subscription. Returns whether there was one.
    ///
    /// # Blocking
    ///
    /// Never waits for a peer, but for the [`on_unsubscribe`](crate::Server::on_unsubscribe) callback, which it runs.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the connection was opened by [`connect`](crate::connect).
    pub fn unsubscribe(&self, topic: &str) -> Result<bool> {
        Ok(self.hub()?.unsubscribe(self.id(), topic, &self.hooks))
    }

    /// Sets what the server does with this client when a broadcast finds its backlog full. Defaults to
    /// [`Server::slow_peer`](crate::Server::slow_peer).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the connection was opened by [`connect`](crate::connect).
    pub fn set_slow_peer(&self, policy: SlowPeer) -> Result<()> {
        self.hub()?;
        self.sender.outbox().set_slow_peer(policy);
        Ok(())
    }
}
