//! Receiving for a thread that serves many connections: [`Connection::next_arrived`] takes what one read brings, and never
//! waits for this peer.
//!
//! A connection rests in a set of sockets, without a thread and a buffer. When its socket has input, a thread lends it its
//! [`Buffers`] and takes everything that one read has brought. Everything that is complete is taken, because the set
//! knows only of bytes that are still in the socket. The set also calls [`Connection::check_deadlines`] in time.
//!
//! An end that would wait for the peer is deferred, and the set waits instead. [`Connection::start_finish`] sends FIN, and
//! [`Connection::end_deferred`] ends the connection afterwards.

use super::Connection;
use super::cork::To;
use super::recv::{Deadlines, Received, Waiting};
use crate::error::{Cause, Result};
use crate::message::{CloseCode, CloseFrame, Message, State};
use crate::net::{Deadline, Transport};
use crate::protocol::decoder::{Item, Span};
use std::fmt;
use std::io::ErrorKind;
use std::time::Instant;

/// The memory that a thread lends to the connection that it serves.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    input: Vec<u8>,
    answers: Vec<u8>,
}

impl Buffers {
    /// Returns memory for input that is discarded.
    pub(crate) fn scratch(&mut self, size: usize) -> &mut [u8] {
        if self.input.len() < size {
            self.input.resize(size, 0);
        }
        self.input.get_mut(..size).unwrap_or_default()
    }
}

/// Something that has arrived.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// A data message.
    Message(Item),
    Ping(Span),
    Pong(Span),
    /// Nothing more, until the socket has input or the deadline passes. `None` if an earlier deadline holds.
    Nothing(Option<Deadline>),
    /// The connection has ended, or its end was deferred.
    End,
}

/// A message that has arrived: lent, or moved out with the connection that it came on. The argument of
/// [`Events::received`](crate::server::Events::received).
pub struct Arrival<'a> {
    client: &'a mut Connection,
    item: Item,
}

impl<'a> Arrival<'a> {
    pub(crate) fn new(client: &'a mut Connection, item: Item) -> Self {
        Self { client, item }
    }

    /// Lends the message, as [`Connection::recv_ref`] does: nothing is allocated or copied.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`](crate::Error::Violation): the message is a text, and not UTF-8. The connection ends.
    #[inline]
    pub fn lend(self) -> Result<Received<'a>> {
        match self.client.reader.prepare(self.item) {
            Ok(item) => Ok(self.client.lend(item)),
            Err(violation) => Err(self.client.defer_end(|client| client.fail(violation.into()))),
        }
    }

    /// Returns the message and its connection.
    ///
    /// # Errors
    ///
    /// Those of [`lend`](Self::lend).
    #[inline]
    pub fn take(self) -> Result<(&'a mut Connection, Message)> {
        let Self { client, item } = self;
        let message = client.defer_end(|client| client.take(item))?;
        Ok((client, message))
    }
}

/// Shows the connection, and not the message.
impl fmt::Debug for Arrival<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Connection {
    /// Takes the buffers of this thread. Called before [`next_arrived`](Self::next_arrived) and before a callback.
    pub(crate) fn borrow_buffers(&mut self, buffers: &mut Buffers) {
        self.reader.borrow_buffer(&mut buffers.input);
        self.cork.exchange_memory(&mut buffers.answers);
    }

    pub(crate) fn return_buffers(&mut self, buffers: &mut Buffers) {
        self.reader.return_buffer(&mut buffers.input);
        self.cork.exchange_memory(&mut buffers.answers);
    }

    /// Returns what has arrived next. Reads once, if `reads` has the time, and then takes it.
    ///
    /// Sends what is held before it returns [`Arrived::Nothing`]. That can wait, as [`flush`](Self::flush) does.
    #[inline]
    pub(crate) fn next_arrived(&mut self, reads: &mut Option<Instant>) -> Arrived {
        loop {
            if self.message_rate.is_none() {
                if let Some(item) = self.reader.next_short() {
                    return Arrived::Message(item);
                }
            }
            match self.defer_end(|client| client.look(reads)) {
                Ok(None) => {}
                Ok(Some(arrived)) => return arrived,
                Err(_) => return Arrived::End,
            }
        }
    }

    /// Calls `f`. If the connection ends in it, the end is deferred.
    #[inline]
    fn defer_end<T>(&mut self, f: impl FnOnce(&mut Self) -> T) -> T {
        self.defers_end = true;
        let result = f(self);
        self.defers_end = false;
        result
    }

    /// Returns whether the connection has ended, or its end was deferred.
    fn has_ended(&self) -> bool {
        self.closed.is_some() || self.deferred_end.is_some()
    }

    /// Returns `None` after a read.
    fn look(&mut self, reads: &mut Option<Instant>) -> Result<Option<Arrived>> {
        if self.has_ended() {
            return Ok(Some(Arrived::End));
        }
        match self.reader.next() {
            Ok(Some(item)) => {
                self.handle(item)?;
                return Ok(Some(match item {
                    Item::Ping(span) => Arrived::Ping(span),
                    Item::Pong(span) => Arrived::Pong(span),
                    Item::Close(_) => Arrived::End,
                    data => Arrived::Message(data),
                }));
            }
            Ok(None) if self.lend_decompressor()? => return Ok(None),
            Ok(None) => {}
            Err(error) => return Err(self.fail(error)),
        }
        if let Some(now) = reads.take() {
            match self.reader.read(false) {
                Ok(0) => return Err(self.lost(self.reader.end_cause())),
                Ok(_) => {
                    self.reader.set_last_heard(now);
                    return Ok(None);
                }
                // A deadline, or another thread has read.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.lost(Cause::Io(error.kind()))),
            }
        }
        if self.read_again()? {
            return Ok(None);
        }
        // An error is not lost: the socket is shut down then, so the set reports its end.
        drop(self.cork.flush(To { sender: &self.sender, hub: &self.hub }));
        let counts = self.reader.counts();
        self.sender.outbox().reader_counts().set_received(counts.messages, counts.bytes);
        let is_plain = self.age_limits.is_none() && self.sender.state() == State::Open;
        if is_plain && self.reader.is_between_messages() {
            return Ok(Some(Arrived::Nothing(None)));
        }
        self.next_deadline(Instant::now()).map(|deadline| Some(Arrived::Nothing(Some(deadline))))
    }

    /// Enforces the deadlines that have passed. Returns when to call this again, or `None` if the connection has ended or its
    /// end was deferred.
    pub(crate) fn check_deadlines(&mut self, now: Instant) -> Option<Deadline> {
        if self.has_ended() {
            return None;
        }
        let deadline = self.defer_end(|client| client.next_deadline(now));
        self.reader.release_message();
        deadline.ok()
    }

    fn next_deadline(&mut self, now: Instant) -> Result<Deadline> {
        // Input that has arrived is no silence. The set reports it.
        let input = |client: &Self| client.reader.stream().has_input();
        let Deadlines { mut exact, mut rough } = self.deadlines(now, &mut Waiting::Forever)?;
        if rough.has_passed(now) && !input(self) {
            self.ping_silent_peer(now, now)?;
            // The second look can have sent a Close, which has a deadline, too.
            Deadlines { exact, rough } = self.deadlines(now, &mut Waiting::Forever)?;
        }
        // A pong can bring the next ping forward, if the ping timeout is longer than the interval.
        let latest =
            self.keepalive.interval().map_or(Deadline::NEVER, |interval| Deadline::at(now + interval));
        Ok(exact.or(rough).or(latest))
    }

    /// Returns the payload of a control frame that has just arrived.
    pub(crate) fn payload(&self, span: Span) -> Vec<u8> {
        self.reader.bytes(span).to_vec()
    }

    /// Sends a Close, and does not wait for the peer's.
    pub(crate) fn start_close(&mut self, code: CloseCode) {
        if !self.has_ended() {
            self.queue_held();
            self.sender.outbox().close(Some(CloseFrame::new(code, "")));
            self.last_close_deadline(); // what is discarded is no progress
        }
    }

    /// Sends FIN after everything that is queued. Returns until when input is to be discarded, or `None` if bytes are queued
    /// and `waits` is false.
    pub(crate) fn start_finish(&mut self, waits: bool) -> Option<Deadline> {
        let deadline = self.last_close_deadline();
        let outbox = self.sender.outbox();
        outbox.close_notify();
        if !waits && !outbox.is_empty() {
            return None;
        }
        if !self.write_rest(deadline) {
            return Some(Deadline::at(Instant::now()));
        }
        self.reader.stream().shutdown_write();
        Some(deadline)
    }

    /// Returns whether an end was deferred.
    pub(crate) fn has_deferred_end(&self) -> bool {
        self.deferred_end.is_some()
    }

    /// Ends a connection whose end was deferred. Called after the peer's input was discarded.
    pub(crate) fn end_deferred(&mut self) {
        if let Some(cause) = self.deferred_end.take() {
            self.end(*cause);
        }
        debug_assert!(self.closed.is_some(), "the connection has ended");
    }
}
