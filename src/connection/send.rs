//! What a connection sends: messages, at once or corked, and at times.

use super::Connection;
use super::cork::To;
use crate::config::SlowPeer;
use crate::error::{Error, Result};
use crate::message::{IntoMessage, Message};
use crate::tick::{Action, Tick};
use std::time::Duration;

impl Connection {
    /// Sends one message, behind what [`write`](Self::write) holds.
    ///
    /// # Blocking
    ///
    /// As for [`Sender::send`](crate::Sender::send).
    ///
    /// # Errors
    ///
    /// As for [`Sender::send`](crate::Sender::send).
    pub fn send(&mut self, message: impl IntoMessage) -> Result<()> {
        self.cork.write(To { sender: &self.sender, hub: &self.hub }, message, false)
    }

    /// Sends one message or queues it, as [`Sender::try_send`](crate::Sender::try_send) does. What [`write`](Self::write)
    /// holds is sent or queued before it.
    ///
    /// # Blocking
    ///
    /// Never waits.
    ///
    /// # Errors
    ///
    /// As for [`Sender::try_send`](crate::Sender::try_send). [`Error::Full`](crate::Error::Full) means that the message
    /// was not queued. What [`write`](Self::write) holds is then queued, or held as before.
    pub fn try_send(&mut self, message: impl IntoMessage) -> Result<()> {
        self.cork.try_flush(To { sender: &self.sender, hub: &self.hub })?;
        self.sender.try_send(message)
    }

    /// Answers: sends one message, but holds it while more input is already here, so that the answers to a burst leave in
    /// one system call.
    ///
    /// It is `BufWriter`'s contract. What is held is sent before any receiving call waits or returns empty, before
    /// [`send`](Self::send), at 128 KiB, by [`flush`](Self::flush), and at the end. So an answer is late only if the
    /// handler does something slow between two messages that came together.
    ///
    /// # Blocking
    ///
    /// As for [`Sender::send`](crate::Sender::send), when it sends.
    ///
    /// # Errors
    ///
    /// As for [`Sender::send`](crate::Sender::send), perhaps for what was held.
    #[inline]
    pub fn write(&mut self, message: impl IntoMessage) -> Result<()> {
        // After the end nobody would ask for what is held.
        let hold = self.reader.has_unread() && self.closed.is_none();
        self.cork.write(To { sender: &self.sender, hub: &self.hub }, message, hold)
    }

    /// Sends what [`write`](Self::write) and [`write_broadcast`](Self::write_broadcast) hold.
    ///
    /// # Blocking
    ///
    /// As for [`Sender::send`](crate::Sender::send).
    ///
    /// # Errors
    ///
    /// As for [`Sender::send`](crate::Sender::send).
    pub fn flush(&mut self) -> Result<()> {
        self.cork.flush(To { sender: &self.sender, hub: &self.hub })
    }

    /// Sends a ping, as [`Sender::ping`](crate::Sender::ping) does.
    ///
    /// # Blocking
    ///
    /// Never waits.
    ///
    /// # Errors
    ///
    /// As for [`Sender::ping`](crate::Sender::ping).
    pub fn ping(&self, payload: &[u8]) -> Result<()> {
        self.sender.ping(payload)
    }

    /// Sends `message` every `interval` until the connection is closed or the tick is cancelled, starting one interval
    /// from now.
    ///
    /// A tick is skipped, and counted, while its predecessor still waits for the peer. It keeps its pace: the next one is
    /// due one interval after the last was, and what was missed is not made up for.
    ///
    /// # Blocking
    ///
    /// Never waits.
    ///
    /// # Panics
    ///
    /// If `interval` is zero.
    pub fn every(&mut self, interval: Duration, message: impl IntoMessage) -> Tick {
        assert!(!interval.is_zero(), "a tick needs an interval");
        self.start_tick(interval, Some(interval), Action::message(message))
    }

    /// Like [`every`](Self::every), with a message made anew each time; `None` sends nothing this time.
    ///
    /// The closure runs on the one thread of all timers, so it must be quick: it delays other ticks. If it panics, its
    /// tick is cancelled.
    ///
    /// # Panics
    ///
    /// If `interval` is zero.
    pub fn every_with(
        &mut self,
        interval: Duration,
        make: impl FnMut() -> Option<Message> + Send + 'static,
    ) -> Tick {
        assert!(!interval.is_zero(), "a tick needs an interval");
        self.start_tick(interval, Some(interval), Action::make(make))
    }

    /// Sends `message` once, after `delay`; not if it does not fit into the backlog then, or a Close went out.
    ///
    /// # Blocking
    ///
    /// Never waits.
    pub fn after(&mut self, delay: Duration, message: impl IntoMessage) -> Tick {
        self.start_tick(delay, None, Action::message(message))
    }

    /// Like [`after`](Self::after), with a message made at that time. It runs as that of
    /// [`every_with`](Self::every_with).
    pub fn after_with(
        &mut self,
        delay: Duration,
        make: impl FnMut() -> Option<Message> + Send + 'static,
    ) -> Tick {
        self.start_tick(delay, None, Action::make(make))
    }

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

    fn start_tick(&mut self, delay: Duration, interval: Option<Duration>, action: Action) -> Tick {
        let tick = Tick::start(&self.timer, self.sender.outbox(), &self.counters, delay, interval, action);
        self.ticks.retain(|tick| !tick.is_over());
        self.ticks.push(tick.clone());
        tick
    }
}
