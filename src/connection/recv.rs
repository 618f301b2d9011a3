//! What happens between two messages: control frames are dealt with, what is held is sent, and more is read, within all
//! deadlines.

use super::cork::{Cork, To};
use super::keepalive::KeepaliveStep;
use super::{Connection, close};
use crate::error::{Cause, Error, Result, Timeout};
use crate::message::{Event, IntoMessage, Message, MessageRef, State};
use crate::net::Deadline;
use crate::protocol::decoder::{Item, close_frame};
use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// A peer that has been silent for so long, when a read finds nothing, may be so for longer: its memory is given back.
const REST_AFTER: Duration = Duration::from_secs(1);

/// How long a receiving call may wait.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wait {
    Forever,
    Until(Deadline),
    Not,
}

/// A message that is lent, and a way to answer it: what [`Connection::recv_ref`](crate::Connection::recv_ref) returns.
pub struct Received<'a> {
    /// The message.
    pub message: MessageRef<'a>,
    pub(super) to: To<'a>,
    pub(super) cork: &'a mut Cork,
    pub(super) hold: bool,
}

impl Received<'_> {
    /// Answers, as [`Connection::write`](crate::Connection::write) does.
    ///
    /// # Blocking
    ///
    /// As for [`Connection::write`](crate::Connection::write).
    ///
    /// # Errors
    ///
    /// As for [`Sender::send`](crate::Sender::send).
    #[inline(always)]
    pub fn write(&mut self, message: impl IntoMessage) -> Result<()> {
        self.cork.write(self.to, message, self.hold)
    }
}

/// The message, and nothing of the answers that are held.
impl fmt::Debug for Received<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("message", &self.message).finish_non_exhaustive()
    }
}

/// What [`Connection::advance`] came to.
#[derive(Debug, Clone, Copy)]
enum Advance {
    Item(Item),
    /// More bytes are here.
    Read,
    /// A normal end.
    End,
}

impl Connection {
    /// Receives the next message; `None` is the end after a closing handshake with 1000, 1001 or no code.
    ///
    /// Pings are answered, pongs noted and Closes answered on the way. What [`write`](Self::write) and
    /// [`write_broadcast`](Self::write_broadcast) hold is sent first.
    ///
    /// # Blocking
    ///
    /// Waits until a message comes or the connection ends, after what is held was sent as by [`flush`](Self::flush). A
    /// silent peer is found dead by keepalive pings, after 40 s by default, and without them
    /// ([`ping_interval`](Config::ping_interval) `None`) never. The call that meets the peer's Close, or a violation,
    /// completes the closing handshake: at most [`close_timeout`](Config::close_timeout), 5 s by default. [`Sender`]s
    /// are never held up by any of it.
    ///
    /// # Errors
    ///
    /// Any that [`is_fatal`](crate::Error::is_fatal): the connection is over, and every further call gives the same.
    #[inline(always)]
    pub fn recv(&mut self) -> Result<Option<Message>> {
        self.recv_within(Wait::Forever)
    }

    /// Like [`recv`](Self::recv), but waits at most `timeout` for a message.
    ///
    /// # Blocking
    ///
    /// At most `timeout` for a message; what is held, and the closing handshake, take their time as in
    /// [`recv`](Self::recv).
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`](crate::Error::Timeout) with [`Timeout::Recv`](crate::Timeout::Recv) if no whole message came: the
    /// connection goes on, and a part of one is kept. Else as for [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Message>> {
        self.recv_within(Wait::Until(Deadline::after(timeout)))
    }

    /// Like [`recv`](Self::recv), but does not wait for the peer.
    ///
    /// # Blocking
    ///
    /// As [`flush`](Self::flush), if [`write`](Self::write) holds something, and for the closing handshake as
    /// [`recv`](Self::recv); else it does not wait.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`](crate::Error::Empty) if no whole message is here: the connection goes on. Else as for
    /// [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<Message>> {
        self.recv_within(Wait::Not)
    }

    #[inline(always)]
    fn recv_within(&mut self, wait: Wait) -> Result<Option<Message>> {
        let mut asked = false;
        loop {
            let Some(item) = self.next_item(wait, &mut asked)? else { return Ok(None) };
            if item.is_data() {
                return Ok(Some(self.take(item)?));
            }
            // Who does not wait is not held up by a peer that pings without end.
            asked |= matches!(wait, Wait::Not);
        }
    }

    /// The message of a data item, owned.
    #[inline(always)]
    fn take(&mut self, item: Item) -> Result<Message> {
        match item {
            Item::Binary(span) => Ok(Message::Binary(self.reader.copy(span))),
            Item::Text(span) => match self.reader.copy_text(span) {
                Ok(text) => Ok(Message::Text(text)),
                Err(violation) => Err(self.fail(violation.into())),
            },
            _ => Ok(self.reader.take()),
        }
    }

    /// Like [`recv`](Self::recv), but lends the message instead of giving it away: no allocation, no copy.
    ///
    /// It saves some ten nanoseconds a message, which show only where tiny messages come by the million. Because it is
    /// lent, the connection cannot be used beside it; [`Received::write`] answers.
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
    /// As for [`recv`](Self::recv).
    #[inline(always)]
    pub fn recv_ref(&mut self) -> Result<Option<Received<'_>>> {
        loop {
            let Some(item) = self.next_item(Wait::Forever, &mut false)? else { return Ok(None) };
            if !item.is_data() {
                continue;
            }
            return match self.reader.prepare(item) {
                Ok(item) => Ok(Some(self.lend(item))),
                Err(violation) => Err(self.fail(violation.into())),
            };
        }
    }

    /// The borrow of a returned value cannot depend on a branch of a loop, so it starts here.
    #[inline]
    fn lend(&mut self, item: Item) -> Received<'_> {
        let hold = self.reader.has_unread();
        let to = To { sender: &self.sender, hub: &self.hub };
        Received { message: self.reader.view(item), to, cork: &mut self.cork, hold }
    }

    /// Receives the next message or control frame, for those who want to see pings, pongs and the Close too.
    ///
    /// They are dealt with all the same. After [`Event::Close`] comes what
    /// [`recv`](Self::recv) says of the end: `None`, or the error it was.
    ///
    /// # Blocking
    ///
    /// As for [`recv`](Self::recv).
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        let Some(item) = self.next_item(Wait::Forever, &mut false)? else { return Ok(None) };
        if !item.is_data() {
            // Whoever sees control frames may be busy with one while a message is on its way.
            self.paused = Some(Instant::now());
        }
        match item {
            Item::Ping(span) => Ok(Some(Event::Ping(self.reader.bytes(span).to_vec()))),
            Item::Pong(span) => Ok(Some(Event::Pong(self.reader.bytes(span).to_vec()))),
            Item::Close(span) => Ok(Some(Event::Close(close_frame(self.reader.bytes(span))?))),
            data => Ok(Some(Event::Message(self.take(data)?))),
        }
    }

    /// Receives and discards until the end: for a handler that only sends.
    ///
    /// # Blocking
    ///
    /// Until the connection ends.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn ignore(&mut self) -> Result<()> {
        while self.recv_ref()?.is_some() {}
        Ok(())
    }

    /// The next item; control frames are dealt with before they are returned. `None` is a normal end. `asked` says that a
    /// read since the caller's deadline found nothing.
    // Inlined into the handler's loop, as are its callers, and short messages found there: a result that comes back through
    // memory, written in halves and read whole, waits until the halves have left the store buffer. Measured: that was half
    // the user time of an echo.
    #[inline(always)]
    pub(super) fn next_item(&mut self, wait: Wait, asked: &mut bool) -> Result<Option<Item>> {
        loop {
            if self.closed.is_none() && self.messages.is_none() {
                if let Some(item) = self.reader.next_short() {
                    return Ok(Some(item));
                }
            }
            match self.advance(wait, asked)? {
                Advance::Item(item) => return Ok(Some(item)),
                Advance::Read => {}
                Advance::End => return Ok(None),
            }
        }
    }

    /// Takes any item out of what is here, or reads more.
    #[inline(never)]
    fn advance(&mut self, wait: Wait, asked: &mut bool) -> Result<Advance> {
        if let Some(closed) = &self.closed {
            return close::outcome(closed).map(|()| Advance::End);
        }
        if let Some(paused) = self.paused.take() {
            self.reader.skip_pause(paused.elapsed());
        }
        match self.reader.next() {
            Ok(Some(item)) => {
                if !item.is_data() {
                    self.control(item)?;
                } else if self.messages.is_some() {
                    self.count_message()?;
                }
                return Ok(Advance::Item(item));
            }
            Ok(None) => {}
            Err(error) => return Err(self.fail(error)),
        }
        if let Some(cause) = self.sender.outbox().broken_hint() {
            return Err(self.lost(cause));
        }
        if self.cork.may_wait() && self.read_late()? {
            return Ok(Advance::Read);
        }
        if let Err(error) = self.flush() {
            // A Close of ours went out meanwhile: what was held is lost, but the peer may still say something.
            if self.sender.outbox().broken().is_some() {
                return Err(self.lost(Cause::from_error(&error)));
            }
        }
        if self.read_more(wait, asked)? {
            return Ok(Advance::Read);
        }
        self.paused = Some(Instant::now());
        Err(match wait {
            Wait::Not => Error::Empty,
            _ => Error::Timeout(Timeout::Recv),
        })
    }

    /// Deals with a control frame.
    fn control(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Ping(span) => {
                // Fails only if a Close is out, and then nothing may follow it.
                drop(self.sender.outbox().pong(self.reader.bytes(span)));
            }
            Item::Pong(span) => {
                if let Some(time) = self.keepalive.pong(self.reader.bytes(span), Instant::now()) {
                    self.sender.outbox().reader_counts().round_trip_measured(time);
                }
            }
            Item::Close(span) => {
                let content = close_frame(self.reader.bytes(span))?;
                self.answer_close(content);
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads once, within all deadlines; false if the caller's has passed.
    fn read_more(&mut self, wait: Wait, asked: &mut bool) -> Result<bool> {
        let now = Instant::now();
        let counts = self.reader.counts();
        let outbox = self.sender.outbox();
        outbox.reader_counts().set_received(counts.messages, counts.bytes);
        let is_open = outbox.state() == State::Open;
        // Who was heard just now, and has begun nothing, can be late with nothing before the socket's own timeout: so it is
        // for nearly every read of a busy connection.
        let is_anew = self.reader.last_life(now) == now && self.reader.is_between_messages();
        let read = if is_anew && is_open && self.policies.is_none() && matches!(wait, Wait::Forever) {
            self.reader.read(true)
        } else {
            match self.read_within(now, is_open, wait, asked)? {
                ControlFlow::Continue(read) => read,
                ControlFlow::Break(go_on) => return Ok(go_on),
            }
        };
        match read {
            Ok(0) => Err(self.lost(Cause::Eof)),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                *asked = matches!(wait, Wait::Not) || *asked;
                self.keep_alive()?;
                Ok(true)
            }
            Err(error) => Err(self.lost(Cause::Io(error.kind()))),
        }
    }

    /// Reads once, within whatever deadlines there are; or breaks off: true if a policy has just sent the Close, false if the
    /// caller's deadline has passed.
    #[inline(never)]
    fn read_within(
        &mut self,
        now: Instant,
        is_open: bool,
        wait: Wait,
        asked: &mut bool,
    ) -> Result<ControlFlow<bool, io::Result<usize>>> {
        let outbox = self.sender.outbox();
        let close = if is_open { Deadline::NEVER } else { outbox.close_deadline() };
        let message = self.reader.message_deadline(now);
        if close.has_passed(now) {
            return Err(self.lost(Cause::Timeout(Timeout::Close)));
        }
        if message.has_passed(now) {
            return Err(self.fail(Error::Timeout(Timeout::Message)));
        }
        let exact = close.or(message);
        let mut rough = Deadline::NEVER;
        if is_open {
            if let Some(policies) = &mut self.policies {
                let messages = self.reader.counts().messages;
                if let Some((policy, reason)) = policies.due(now, messages, message, outbox) {
                    self.retire(policy, reason);
                    return Ok(ControlFlow::Break(true));
                }
                rough = policies.deadline(message);
            }
            rough = rough.or(self.keepalive.deadline(self.reader.last_life(now)));
        }
        Ok(ControlFlow::Continue(match wait {
            Wait::Forever => self.reader.fill(now, exact, rough),
            Wait::Until(callers) if *asked && callers.has_passed(now) => {
                return Ok(ControlFlow::Break(false));
            }
            Wait::Until(callers) => {
                *asked = callers.has_passed(now);
                self.reader.fill(now, exact.or(callers), rough)
            }
            Wait::Not if *asked => return Ok(ControlFlow::Break(false)),
            Wait::Not => self.reader.read(false),
        }))
    }

    /// Reads what is there without waiting, once while broadcasts are held: a burst that comes in two pieces is passed on in
    /// one. False if there is nothing.
    #[inline(never)]
    fn read_late(&mut self) -> Result<bool> {
        self.cork.waited();
        match self.reader.read(false) {
            Ok(count) => Ok(count > 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => {
                drop(self.flush());
                Err(self.lost(Cause::Io(error.kind())))
            }
        }
    }

    /// Pings a peer that has been silent for long enough, or gives it up. Nothing was there to read just now.
    fn keep_alive(&mut self) -> Result<()> {
        self.reader.arm();
        let now = Instant::now();
        let last_life = self.reader.last_life(now);
        if now.saturating_duration_since(last_life) >= REST_AFTER {
            self.reader.rest();
            self.cork.rest();
        }
        let outbox = self.sender.outbox();
        if outbox.state() != State::Open || !self.keepalive.deadline(last_life).has_passed(now) {
            return Ok(());
        }
        match self.keepalive.due(now, last_life, outbox.ping_waits()) {
            KeepaliveStep::Ping(payload) => {
                // Fails only if the connection is closing, which the next read tells.
                drop(outbox.ping(&payload));
                outbox.reader_counts().ping_sent();
                Ok(())
            }
            KeepaliveStep::Dead => Err(self.lost(Cause::Timeout(Timeout::Ping))),
        }
    }
}
