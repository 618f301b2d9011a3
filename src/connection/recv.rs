//! Receiving: the calls of [`Connection`] that wait for the peer.
//!
//! A call takes two steps. [`Connection::next_item`] finds short messages in the bytes that were read. For everything else
//! [`Connection::parse_or_read`] finds a message or control frame, or sends what the cork holds and reads more, within the
//! deadlines of the connection and of the caller. The buffer and the socket are in `reader.rs`.

use super::cork::{Cork, To};
use super::{Connection, close};
use crate::error::{Cause, Error, Result, Timeout};
use crate::message::{Event, IntoMessage, Message, MessageRef, State};
use crate::net::Deadline;
use crate::protocol::decoder::{Item, close_frame};
use std::fmt;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// If a read finds nothing and the peer has been silent for this time, buffers are shrunk: it may be silent for longer.
const RELEASE_AFTER: Duration = Duration::from_secs(1);

/// # Receive
impl Connection {
    /// Receives the next message. Returns `None` after a closing handshake with code 1000, 1001 or none.
    ///
    /// Pings and the peer's Close are answered on the way.
    ///
    /// A handler that has to do something after its loop ignores the error, because with `?` it would end in the loop when a
    /// client vanishes:
    ///
    /// ```
    /// # let server = threadws::Server::bind("127.0.0.1:0")?;
    /// let handle = server.spawn(|client| {
    ///     while let Ok(Some(message)) = client.recv() {
    ///         println!("{message}");
    ///     }
    ///     println!("{} left: {:?}", client.id(), client.closed()); // always
    ///     Ok(())
    /// })?;
    /// # drop(handle);
    /// # Ok::<(), threadws::Error>(())
    /// ```
    ///
    /// # Blocking
    ///
    /// Waits until a message arrives or the connection ends. If no message is here yet, it first sends what
    /// [`write`](Self::write) and [`write_broadcast`](Self::write_broadcast) hold, as [`flush`](Self::flush) does.
    ///
    /// Keepalive pings find a dead peer, after 40 s of silence by default. Without them the call can wait forever: see
    /// [`Config::ping_interval`](crate::Config::ping_interval). A call that receives the peer's Close, or a violation of the
    /// protocol, completes the closing handshake, for at most [`close_timeout`](crate::Config::close_timeout), 5 s by
    /// default. No [`Sender`](crate::Sender) waits for any of this.
    ///
    /// # Errors
    ///
    /// Every error [is fatal](crate::Error::is_fatal): the connection has ended, and further calls return the same error.
    #[inline]
    pub fn recv(&mut self) -> Result<Option<Message>> {
        self.recv_within(Waiting::Forever)
    }

    /// Like [`recv`](Self::recv), but waits at most `timeout` for a message.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use threadws::{Error, Timeout};
    ///
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| {
    ///     loop {
    ///         match client.recv_timeout(Duration::from_millis(10)) {
    ///             Ok(Some(message)) => println!("{message}"),
    ///             Ok(None) => return Ok(()),
    ///             Err(Error::Timeout(Timeout::Recv)) => client.send("are you there?")?,
    ///             Err(error) => return Err(error.into()),
    ///         }
    ///     }
    /// })?;
    /// let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// assert_eq!(connection.recv()?, Some("are you there?".into()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Blocking
    ///
    /// Waits at most `timeout` for a message. Sending what is held, and the closing handshake, take their time as in
    /// [`recv`](Self::recv).
    ///
    /// # Errors
    ///
    /// * [`Error::Timeout`](crate::Error::Timeout) with [`Timeout::Recv`](crate::Timeout::Recv): no whole message arrived
    ///   in time. The connection stays open, and the part of a message that has arrived is kept.
    /// * Those of [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Message>> {
        self.recv_within(Waiting::Until(Deadline::after(timeout)))
    }

    /// Like [`recv`](Self::recv), but does not wait for the peer.
    ///
    /// # Blocking
    ///
    /// Does not wait for a message. Sending what is held, and the closing handshake, take their time as in
    /// [`recv`](Self::recv).
    ///
    /// # Errors
    ///
    /// * [`Error::Empty`](crate::Error::Empty): no whole message has arrived. The connection stays open.
    /// * Those of [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<Message>> {
        self.recv_within(Waiting::No)
    }

    #[inline(always)]
    fn recv_within(&mut self, mut waiting: Waiting) -> Result<Option<Message>> {
        loop {
            let Some(item) = self.next_item(&mut waiting)? else { return Ok(None) };
            if item.is_data() {
                return Ok(Some(self.take(item)?));
            }
            waiting.received_nothing();
        }
    }

    /// Like [`recv`](Self::recv), but lends the message: nothing is allocated or copied.
    ///
    /// This saves some ten nanoseconds for each message, which matters for millions of tiny ones. The connection cannot be
    /// used while the message is lent; [`Received::write`] answers it.
    ///
    /// ```
    /// # let server = threadws::Server::bind("127.0.0.1:0")?;
    /// let handle = server.spawn(|client| {
    ///     while let Some(mut received) = client.recv_ref()? {
    ///         received.write(received.message)?;
    ///     }
    ///     Ok(())
    /// })?;
    /// # drop(handle);
    /// # Ok::<(), threadws::Error>(())
    /// ```
    ///
    /// # Blocking
    ///
    /// As for [`recv`](Self::recv).
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv).
    #[inline]
    pub fn recv_ref(&mut self) -> Result<Option<Received<'_>>> {
        let mut waiting = Waiting::Forever;
        loop {
            let Some(item) = self.next_item(&mut waiting)? else { return Ok(None) };
            if !item.is_data() {
                continue;
            }
            return match self.reader.prepare(item) {
                Ok(item) => Ok(Some(self.lend(item))),
                Err(violation) => Err(self.fail(violation.into())),
            };
        }
    }

    /// Receives the next message or control frame: for a handler that wants to see pings, pongs and the Close.
    ///
    /// Pings and the Close are answered all the same. After [`Event::Close`] the next call returns `None` or the error of
    /// the connection, as [`recv`](Self::recv) does.
    ///
    /// # Blocking
    ///
    /// As for [`recv`](Self::recv).
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv).
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        let mut waiting = Waiting::Forever;
        let Some(item) = self.next_item(&mut waiting)? else { return Ok(None) };
        if !item.is_data() {
            // The handler may work on a control frame while a message is arriving.
            self.paused.get_or_insert_with(Instant::now);
        }
        match item {
            Item::Ping(span) => Ok(Some(Event::Ping(self.reader.bytes(span).to_vec()))),
            Item::Pong(span) => Ok(Some(Event::Pong(self.reader.bytes(span).to_vec()))),
            Item::Close(span) => Ok(Some(Event::Close(close_frame(self.reader.bytes(span))?))),
            data => Ok(Some(Event::Message(self.take(data)?))),
        }
    }

    /// Receives and discards messages until the connection ends: for a handler that only sends.
    ///
    /// # Blocking
    ///
    /// Waits until the connection ends.
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv).
    pub fn ignore(&mut self) -> Result<()> {
        while self.recv_ref()?.is_some() {}
        Ok(())
    }

    /// Moves or copies a message out of the reader.
    #[inline(always)]
    pub(super) fn take(&mut self, item: Item) -> Result<Message> {
        match item {
            Item::Binary(span) => Ok(Message::Binary(self.reader.copy(span))),
            Item::Text(span) => match self.reader.copy_text(span) {
                Ok(text) => Ok(Message::Text(text)),
                Err(violation) => Err(self.fail(violation.into())),
            },
            _ => Ok(self.reader.take()),
        }
    }

    /// Lends a message. A function of its own, because the borrow checker accepts no conditional return of a borrow in a
    /// loop.
    #[inline]
    pub(super) fn lend(&mut self, item: Item) -> Received<'_> {
        let hold = self.reader.has_unread();
        let to = To { sender: &self.sender, hub: &self.hub };
        Received { message: self.reader.view(item), to, cork: &mut self.cork, hold }
    }

    /// Returns the next message or control frame, or `None` after a normal end.
    // Inlined into the handler's loop: see the table of the hot path in the guide on performance.
    #[inline(always)]
    pub(super) fn next_item(&mut self, waiting: &mut Waiting) -> Result<Option<Item>> {
        loop {
            if self.message_rate.is_none() {
                if let Some(item) = self.reader.next_short() {
                    return Ok(Some(item));
                }
            }
            if let Some(closed) = &self.closed {
                return close::outcome(closed).map(|()| None);
            }
            if let Some(item) = self.parse_or_read(waiting)? {
                return Ok(Some(item));
            }
        }
    }

    /// Returns the next message or control frame in the bytes that were read. If there is none, sends what is held and reads
    /// once, within the deadlines of the connection and of the caller, and returns `None`.
    fn parse_or_read(&mut self, waiting: &mut Waiting) -> Result<Option<Item>> {
        match self.reader.next() {
            Ok(Some(item)) => {
                if !self.is_plain(item) {
                    self.handle(item)?;
                }
                return Ok(Some(item));
            }
            Ok(None) if self.lend_decompressor()? => return Ok(None),
            Ok(None) => {}
            Err(error) => return Err(self.fail(error)),
        }
        if self.deferred_end.is_some() {
            self.finish_deferred();
            return Ok(None);
        }
        if let Some(cause) = self.sender.outbox().broken_hint() {
            return self.read_rest(cause);
        }
        if self.read_again()? {
            return Ok(None);
        }
        if self.cork.flush(To { sender: &self.sender, hub: &self.hub }).is_err() {
            // Otherwise another thread has sent a Close. What was held is lost, but the peer can still send.
            if let Some(cause) = self.sender.outbox().broken() {
                return self.read_rest(cause);
            }
        }
        let now = Instant::now();
        let counts = self.reader.counts();
        self.sender.outbox().reader_counts().set_received(counts.messages, counts.bytes);
        // Nearly every read of a busy connection: the peer was heard from just now and no message is arriving, so no deadline
        // can pass before the socket's own read timeout.
        let is_fresh = self.reader.last_heard(now) == now && self.reader.is_between_messages();
        let is_plain = self.age_limits.is_none() && self.sender.state() == State::Open;
        let read = if is_fresh && is_plain && matches!(waiting, Waiting::Forever) {
            self.reader.read(true)
        } else {
            let Deadlines { exact, rough } = self.deadlines(now, waiting)?;
            self.reader.read_until(now, exact, rough)
        };
        match read {
            Ok(0) => Err(self.lost(self.reader.end_cause())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                waiting.received_nothing();
                self.keep_alive(now)?;
                Ok(None)
            }
            Err(error) => Err(self.lost(Cause::Io(error.kind()))),
        }
    }

    /// Returns whether [`handle`](Self::handle) has nothing to do: a message in one frame, and no message rate.
    pub(super) fn is_plain(&self, item: Item) -> bool {
        matches!(item, Item::Binary(_) | Item::Text(_)) && self.message_rate.is_none()
    }

    /// Counts a message, or answers a control frame.
    pub(super) fn handle(&mut self, item: Item) -> Result<()> {
        match item {
            // Ignored: it fails only after our Close, and then no pong may follow.
            Item::Ping(span) => drop(self.sender.outbox().pong(self.reader.bytes(span))),
            Item::Pong(span) => {
                if let Some(time) = self.keepalive.pong(self.reader.bytes(span), Instant::now()) {
                    self.sender.outbox().reader_counts().round_trip_measured(time);
                }
            }
            Item::Close(span) => {
                let content = close_frame(self.reader.bytes(span))?;
                self.answer_close(content);
            }
            Item::Assembled => {
                self.reader.give_decompressor_back(self.sender.outbox());
                self.count_message()?;
            }
            Item::Binary(_) | Item::Text(_) => self.count_message()?,
        }
        Ok(())
    }

    /// Returns the deadlines of the next read. If one has passed, closes the connection or returns the error for it.
    pub(super) fn deadlines(&mut self, now: Instant, waiting: &mut Waiting) -> Result<Deadlines> {
        let is_open = self.sender.state() == State::Open;
        if let Some(paused) = self.paused.take() {
            self.reader.skip_pause(now - paused);
        }
        let mut message = self.reader.message_deadline(now);
        let mut exact = Deadline::NEVER;
        if !is_open {
            exact = self.close_deadline();
            if exact.has_passed(now) {
                return Err(self.lost(Cause::Timeout(Timeout::Close)));
            }
        }
        if message.has_passed(now) {
            message = self.reader.extended_deadline();
            if message.has_passed(now) {
                return Err(self.fail(Error::Timeout(Timeout::Message)));
            }
        }
        let mut rough = Deadline::NEVER;
        if is_open {
            rough = self.keepalive.deadline(self.reader.last_heard(now));
            if let Some(limits) = &mut self.age_limits {
                let messages = self.reader.counts().messages;
                if let Some((policy, reason)) = limits.due(now, messages, message, self.sender.outbox()) {
                    self.retire(policy, reason);
                    exact = self.close_deadline();
                    rough = Deadline::NEVER;
                } else {
                    rough = rough.or(limits.deadline(message));
                }
            }
        }
        let callers = waiting.next_read(now).inspect_err(|_| self.paused = Some(now))?;
        Ok(Deadlines { exact: exact.or(message).or(callers), rough })
    }

    /// Returns whether the next receiving call will find more input before it sends the broadcasts that are held.
    pub(super) fn will_read_again(&self) -> bool {
        self.cork.has_broadcasts() && !self.has_read_again && self.reader.stream().has_input()
    }

    /// Reads once without waiting if broadcasts are held, so that a burst that arrives in two pieces is sent on together.
    /// Returns whether there was something to read.
    ///
    /// The read costs as much as sending to one client. It is not repeated before the broadcasts are sent, because
    /// otherwise a peer that sends without a pause could delay them forever.
    pub(super) fn read_again(&mut self) -> Result<bool> {
        self.has_read_again = self.cork.has_broadcasts() && !self.has_read_again;
        if !self.has_read_again {
            return Ok(false);
        }
        match self.reader.read(false) {
            Ok(count) => Ok(count > 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(self.lost(Cause::Io(error.kind()))),
        }
    }

    /// Called when the connection is broken. After a failed write the socket can still hold the peer's last messages and its
    /// Close, so they are read, without waiting. If there is nothing more, returns the error of the connection.
    fn read_rest(&mut self, cause: Cause) -> Result<Option<Item>> {
        if matches!(cause, Cause::Io(_)) && self.reader.read(false).is_ok_and(|count| count > 0) {
            return Ok(None);
        }
        Err(self.lost(cause))
    }

    /// Called when a read has found nothing. Pings a peer that is silent, or ends the connection if it is dead. `asked` is when
    /// the read began.
    fn keep_alive(&mut self, asked: Instant) -> Result<()> {
        self.reader.lengthen_socket_timeout();
        let now = Instant::now();
        let last_heard = self.reader.last_heard(now);
        if now.saturating_duration_since(last_heard) >= RELEASE_AFTER {
            self.reader.release_memory();
            self.cork.release_memory();
        }
        self.ping_silent_peer(now, asked)
    }
}

/// The end of a read. It can be late for the `rough` deadline, as [`Reader::read_until`](super::reader::Reader::read_until)
/// explains.
#[derive(Debug)]
pub(super) struct Deadlines {
    pub(super) exact: Deadline,
    pub(super) rough: Deadline,
}

/// How long a receiving call may still wait for a message.
// An enum, because a struct would make `recv` write four words for each message, and not one.
#[derive(Debug)]
pub(super) enum Waiting {
    Forever,
    Until(Deadline),
    /// Reads what the socket holds.
    No,
    /// Looked once after the deadline.
    TimedOut,
    /// Looked without waiting, and found no message.
    Empty,
}

impl Waiting {
    /// Returns how long the next read may wait, or the error with which the call must return.
    ///
    /// Bytes that have arrived are read although the time is up. A call with a timeout reads once after its deadline,
    /// because a peer that sends without a pause must not delay it. A call that does not wait reads until the socket is
    /// empty, because a large message takes several reads.
    fn next_read(&mut self, now: Instant) -> Result<Deadline> {
        match *self {
            Self::Forever => Ok(Deadline::NEVER),
            Self::Until(deadline) => {
                if deadline.has_passed(now) {
                    *self = Self::TimedOut;
                }
                Ok(deadline)
            }
            Self::No => Ok(Deadline::at(now)),
            Self::TimedOut => Err(Error::Timeout(Timeout::Recv)),
            Self::Empty => Err(Error::Empty),
        }
    }

    /// Called when a read has found nothing, or only a control frame was received. A call that does not wait returns then,
    /// because a peer that sends pings without a pause must not delay it.
    fn received_nothing(&mut self) {
        if matches!(self, Self::No) {
            *self = Self::Empty;
        }
    }
}

/// A message that is lent to the handler, and the way to answer it: returned by [`Connection::recv_ref`].
pub struct Received<'a> {
    /// The message.
    pub message: MessageRef<'a>,
    to: To<'a>,
    cork: &'a mut Cork,
    hold: bool,
}

impl Received<'_> {
    /// Answers, as [`Connection::write`] does.
    ///
    /// # Blocking
    ///
    /// As for [`Connection::write`].
    ///
    /// # Errors
    ///
    /// Those of [`Connection::write`].
    #[inline]
    pub fn write(&mut self, message: impl IntoMessage) -> Result<()> {
        self.cork.write(self.to, message, self.hold)
    }
}

/// Shows the message, and not the answers that are held.
impl fmt::Debug for Received<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("message", &self.message).finish_non_exhaustive()
    }
}
