//! What a connection sends: messages, at once or corked, and at times.

use super::Connection;
use super::cork::To;
use crate::error::Result;
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

    fn start_tick(&mut self, delay: Duration, interval: Option<Duration>, action: Action) -> Tick {
        let tick =
            Tick::start(&self.timer, self.sender.outbox(), self.hub.counters(), delay, interval, action);
        self.ticks.retain(|tick| !tick.is_over());
        self.ticks.push(tick.clone());
        tick
    }
}
