//! Sending: messages of the connection's own thread, held in the cork or not, ticks, and topics.

use super::Connection;
use super::cork::To;
use crate::config::SlowPeer;
use crate::error::{Error, Result};
use crate::message::IntoMessage;
use crate::tick::{Action, Tick};
use std::time::Duration;

/// Ticks that are over are searched for when this number was added, or more if there are more.
const FEW_TICKS: usize = 4;

impl Connection {
    /// Sends one message, after what [`write`](Self::write) holds.
    ///
    /// # Blocking
    ///
    /// As for [`Sender::send`](crate::Sender::send).
    ///
    /// # Errors
    ///
    /// Those of [`Sender::send`](crate::Sender::send). If a write fails and the peer's Close has arrived,
    /// [`Error::Closed`] has its code, such as 1009 for a message that the peer refused. Messages that came before the Close
    /// can still be received.
    pub fn send(&mut self, message: impl IntoMessage) -> Result<()> {
        let sent = self.cork.write(To { sender: &self.sender, hub: &self.hub }, message, false);
        sent.map_err(|error| self.explain(error))
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
    /// Those of [`Sender::try_send`](crate::Sender::try_send). After [`Error::Full`] the message was not queued. What
    /// [`write`](Self::write) holds was queued or is still held.
    pub fn try_send(&mut self, message: impl IntoMessage) -> Result<()> {
        self.cork.try_flush(To { sender: &self.sender, hub: &self.hub })?;
        self.sender.try_send(message)
    }

    /// Sends one message, but holds it while more input is already here, so that the answers to a burst of messages leave
    /// in one system call.
    ///
    /// It behaves like `std::io::BufWriter`. What is held is sent
    ///
    /// * before a receiving call waits or returns without a message,
    /// * before [`send`](Self::send) and [`try_send`](Self::try_send), and by [`flush`](Self::flush),
    /// * when it reaches 128 KiB,
    /// * before the Close.
    ///
    /// So an answer is late only if the handler is slow between two messages that arrived together. Messages that other
    /// threads or the [`Hub`](crate::Hub) send to this client do not wait for what is held.
    ///
    /// # Blocking
    ///
    /// As for [`Sender::send`](crate::Sender::send), unless the message is held.
    ///
    /// # Errors
    ///
    /// Those of [`Sender::send`](crate::Sender::send). They may concern messages that were held before.
    #[inline]
    pub fn write(&mut self, message: impl IntoMessage) -> Result<()> {
        let hold = self.reader.has_unread();
        self.cork.write(To { sender: &self.sender, hub: &self.hub }, message, hold)
    }

    /// Sends one message to every client of this server, this one included, but holds it while more input is already
    /// here, so that a burst of messages takes one system call for each receiver.
    ///
    /// It is held and sent as by [`write`](Self::write). This connection's own client receives answers and broadcasts in
    /// the order of the calls. [`Hub::broadcast`](crate::Hub::broadcast) holds nothing, and returns the number of clients
    /// that it has reached.
    ///
    /// # Blocking
    ///
    /// Never waits for other clients: see [`SlowPeer`]. Waits as [`flush`](Self::flush) does if [`write`](Self::write)
    /// holds answers.
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`]: the connection was opened by [`connect`](crate::connect).
    /// * Those of [`flush`](Self::flush). The other clients are sent the message all the same.
    pub fn write_broadcast(&mut self, message: impl IntoMessage) -> Result<()> {
        self.hub()?;
        let hold = self.reader.has_unread() || self.will_read_again();
        self.cork.broadcast(To { sender: &self.sender, hub: &self.hub }, message, hold)
    }

    /// Sends what [`write`](Self::write) and [`write_broadcast`](Self::write_broadcast) hold.
    ///
    /// Call it before [`Hub::publish`](crate::Hub::publish) or [`Hub::broadcast`](crate::Hub::broadcast) if this client has
    /// to receive the answers first.
    ///
    /// # Blocking
    ///
    /// As for [`Sender::send`](crate::Sender::send).
    ///
    /// # Errors
    ///
    /// Those of [`Sender::send`](crate::Sender::send).
    pub fn flush(&mut self) -> Result<()> {
        let flushed = self.cork.flush(To { sender: &self.sender, hub: &self.hub });
        flushed.map_err(|error| self.explain(error))
    }

    /// Sends a ping, as [`Sender::ping`](crate::Sender::ping) does.
    ///
    /// # Blocking
    ///
    /// Never waits.
    ///
    /// # Errors
    ///
    /// Those of [`Sender::ping`](crate::Sender::ping).
    pub fn ping(&self, payload: &[u8]) -> Result<()> {
        self.sender.ping(payload)
    }

    /// Sends `message` every `interval`, for the first time after one interval, until the connection is closed or the tick
    /// is cancelled.
    ///
    /// If the message before is still queued, the tick is skipped and counted. The next tick is due one interval after the
    /// last was due. Ticks that were missed are not made up for.
    ///
    /// # Blocking
    ///
    /// Never waits.
    ///
    /// # Panics
    ///
    /// If `interval` is zero.
    pub fn every(&mut self, interval: Duration, message: impl IntoMessage) -> Tick {
        assert!(!interval.is_zero(), "interval is 0");
        self.start_tick(interval, Some(interval), Action::message(message))
    }

    /// Like [`every`](Self::every), with a new message each time. `None` sends nothing this time.
    ///
    /// The closure runs on the timer thread, which all connections share. It must be quick, because it delays other ticks.
    /// If it panics, its tick is cancelled.
    ///
    /// # Blocking
    ///
    /// Never waits.
    ///
    /// # Panics
    ///
    /// If `interval` is zero.
    pub fn every_with<T: IntoMessage>(
        &mut self,
        interval: Duration,
        make: impl FnMut() -> Option<T> + Send + 'static,
    ) -> Tick {
        assert!(!interval.is_zero(), "interval is 0");
        self.start_tick(interval, Some(interval), Action::make(make))
    }

    /// Sends `message` once, after `delay`. It is not sent if it does not fit into the backlog then, or if the connection is
    /// closing.
    ///
    /// # Blocking
    ///
    /// Never waits.
    pub fn after(&mut self, delay: Duration, message: impl IntoMessage) -> Tick {
        self.start_tick(delay, None, Action::message(message))
    }

    /// Like [`after`](Self::after), with a message that is made at that time, as for [`every_with`](Self::every_with).
    ///
    /// # Blocking
    ///
    /// Never waits.
    pub fn after_with<T: IntoMessage>(
        &mut self,
        delay: Duration,
        make: impl FnMut() -> Option<T> + Send + 'static,
    ) -> Tick {
        self.start_tick(delay, None, Action::make(make))
    }

    /// Subscribes this client to a topic, until [`unsubscribe`](Self::unsubscribe) or the end of its handler. A second call
    /// does nothing.
    ///
    /// # Blocking
    ///
    /// Never waits for a peer. It calls [`on_subscribe`](crate::Server::on_subscribe).
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`]: the topic is empty or longer than 256 bytes, or the connection was opened by
    ///   [`connect`](crate::connect). The connection stays open.
    /// * [`Error::TooManyTopics`]: see [`Server::max_topics`](crate::Server::max_topics). The connection stays open.
    /// * [`Error::Closed`]: the connection has ended.
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
    /// Never waits for a peer. It calls [`on_unsubscribe`](crate::Server::on_unsubscribe).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the connection was opened by [`connect`](crate::connect).
    pub fn unsubscribe(&self, topic: &str) -> Result<bool> {
        Ok(self.hub()?.unsubscribe(self.id(), topic, &self.hooks))
    }

    /// Sets how the server treats this client if its backlog is full when a message is broadcast or published. Defaults to
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
        if self.ticks.len() == self.ticks.capacity() {
            self.ticks.retain(|tick| !tick.is_over());
            // At least as many ticks are added before the next search, so it costs little for each of them.
            let left = self.ticks.len();
            self.ticks.shrink_to(2 * left.max(FEW_TICKS));
            self.ticks.reserve_exact(left.max(FEW_TICKS));
        }
        self.ticks.push(tick.clone());
        tick
    }
}
