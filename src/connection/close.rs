//! The end of a connection: the closing handshake (RFC 6455 §7), begun by either end, under one deadline.

use super::Connection;
use super::cork::To;
use super::recv::Waiting;
use crate::error::{Cause, Closed, Error, Result};
use crate::message::{CloseCode, CloseFrame, State};
use crate::net::{Deadline, Transport};
use crate::protocol::Role;
use crate::protocol::decoder::Item;
use crate::protocol::encoder;
use crate::sync::now;
use std::time::Duration;

/// At the end, input is read and discarded for this time, and again as long as the peer is in full flow. Otherwise the system
/// sends RST for unread input. Measured: because of it a peer lost 1.37 of the last 1.50 MB, and the Close frame.
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(2);
/// When the socket accepts bytes of the queue, the reading thread writes for this time before it reads again.
const WRITE_TURN: Duration = Duration::from_millis(20);

/// Returns the result of a receiving call after the end: `Ok` if it was normal, otherwise the error.
pub(super) fn outcome(closed: &Closed) -> Result<()> {
    if closed.is_normal() {
        return Ok(());
    }
    Err(closed.cause().and_then(Cause::to_error).unwrap_or_else(|| Error::Closed(closed.clone())))
}

/// The close deadline that the reading thread enforces, and the value of [`Reader::progress`] when it was set.
///
/// [`Reader::progress`]: super::reader::Reader::progress
#[derive(Debug)]
pub(super) struct Closing {
    deadline: Deadline,
    progress: u64,
}

/// # Close
///
/// A handler that returns closes its connection, too.
impl Connection {
    /// Closes the connection: sends what is held and a Close, and waits for the peer's Close.
    ///
    /// Messages that arrive meanwhile are discarded. If the peer has closed before, or the connection has ended, nothing is
    /// sent. [`closed`](Self::closed) returns how it ended.
    ///
    /// ```
    /// # fn main() -> threadws::Result<()> {
    /// let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| Ok(client.ignore()?))?;
    /// let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
    /// connection.send("the last words")?;
    /// connection.close(1000, "done")?;
    /// assert!(connection.closed().is_some_and(threadws::Closed::is_clean));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Blocking
    ///
    /// Waits at most [`close_timeout`](crate::Config::close_timeout), 5 s by default. Then the connection is cut.
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`]: the code may not be sent, or the reason is longer than 123 bytes. Nothing was sent, and the
    ///   connection stays open.
    /// * If the connection did not end with a closing handshake, the error that ended it.
    pub fn close(&mut self, code: impl Into<CloseCode>, reason: &str) -> Result<()> {
        let code = code.into();
        encoder::check_close(code, reason)?;
        if let Some(closed) = &self.closed {
            return if closed.is_clean() { Ok(()) } else { outcome(closed) };
        }
        self.queue_held();
        self.sender.outbox().close(Some(CloseFrame::new(code, reason)));
        self.last_close_deadline(); // what is discarded is no progress
        let mut waiting = Waiting::Forever;
        loop {
            match self.next_item(&mut waiting) {
                Ok(Some(Item::Close(_)) | None) => return Ok(()),
                Ok(Some(_)) => {}
                Err(error) => {
                    return if self.closed.as_ref().is_some_and(Closed::is_clean) {
                        Ok(())
                    } else {
                        Err(error)
                    };
                }
            }
        }
    }

    /// Returns how the connection ended, or `None` before a receiving call or [`close`](Self::close) has found its end.
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    /// Returns the state of the connection.
    pub fn state(&self) -> State {
        self.sender.state()
    }

    /// Returns the close deadline for the next read. It is restarted if the caller has received a message since the last
    /// call, or a part of one has arrived.
    ///
    /// From the first call on, this thread enforces the deadline, so that it does not expire while the handler works on a
    /// message. The other threads enforce the limit of all restarts.
    pub(super) fn close_deadline(&mut self) -> Deadline {
        let progress = self.reader.progress();
        let outbox = self.sender.outbox();
        let Some(closing) = &mut self.closing else {
            let deadline = outbox.extend_close_deadline(self.max_close_time);
            self.closing = Some(Closing { deadline, progress });
            return deadline;
        };
        if closing.progress != progress {
            let deadline = Deadline::after(outbox.close_timeout()).or(outbox.close_deadline());
            *closing = Closing { deadline, progress };
        }
        closing.deadline
    }

    /// Returns the close deadline, which is not restarted any more. Every thread enforces it.
    pub(super) fn last_close_deadline(&mut self) -> Deadline {
        let outbox = self.sender.outbox();
        let closing =
            self.closing.get_or_insert_with(|| Closing { deadline: outbox.close_deadline(), progress: 0 });
        // It is the limit of all restarts, too.
        outbox.set_close_deadline(closing.deadline);
        closing.deadline
    }

    /// Answers the peer's Close with the same code (RFC 6455 §5.5.1), unless it is itself the answer to ours.
    pub(super) fn answer_close(&mut self, content: Option<CloseFrame>) {
        self.queue_held();
        let outbox = self.sender.outbox();
        outbox.close_received(content.clone());
        // Without the reason, because the peer knows it.
        outbox.close_with_notify(content.map(|frame| CloseFrame::new(frame.code, "")));
        self.finish(None);
    }

    /// Ends the connection for an error that the peer has caused, with the error's close code. Returns the error.
    pub(super) fn fail(&mut self, error: Error) -> Error {
        self.queue_held();
        let outbox = self.sender.outbox();
        outbox.close_with_notify(Some(CloseFrame::new(error.close_code(), error.close_reason())));
        self.finish(Some(Cause::from_error(&error)));
        error
    }

    /// Ends a connection on which nothing can be sent any more. Returns the error for it.
    pub(super) fn lost(&mut self, cause: Cause) -> Error {
        // The other clients still receive the broadcasts that are held.
        self.queue_held();
        let outbox = self.sender.outbox();
        outbox.break_off(cause);
        if let Some(Cause::Tls(_)) = outbox.broken() {
            if self.defers_end {
                let error = outbox.last_error();
                self.finish(None);
                return error;
            }
            self.reader.stream().drain(DRAIN_TIME, outbox.close_deadline());
        }
        // Another thread may have ended it first, for another cause.
        let closed = outbox.end(self.reader.counts(), None);
        self.set_closed(closed.clone());
        closed.cause().and_then(Cause::to_error).unwrap_or(Error::Closed(closed))
    }

    /// Returns the error of a call that sends, with the peer's Close if a write has failed and it has arrived. The Close says
    /// why the peer reads no more. The messages before it can still be received.
    pub(super) fn explain(&mut self, error: Error) -> Error {
        let Error::Closed(closed) = &error else { return error };
        if closed.code() != CloseCode::ABNORMAL || !matches!(closed.cause(), Some(Cause::Io(_))) {
            return error;
        }
        let outbox = self.sender.outbox();
        let Some(content) = self.reader.find_close(outbox.role()) else { return error };
        outbox.close_received(content);
        outbox.last_error()
    }

    /// Called after both Closes, or after our Close for an error. Sends everything that is queued and FIN, and reads the
    /// peer's last bytes, all before the close deadline.
    fn finish(&mut self, cause: Option<Cause>) {
        if self.defers_end {
            self.reader.discard_unread();
            self.deferred_end = Some(Box::new(cause));
            return;
        }
        let deadline = self.last_close_deadline();
        if self.write_rest(deadline) {
            // RFC 6455 §7.1.1: the server closes the socket first, so that the client has no TIME_WAIT. A client waits for
            // that.
            if self.sender.outbox().role() == Role::Server || cause.is_some() {
                self.reader.stream().shutdown_write();
            }
            self.reader.stream().drain(DRAIN_TIME, deadline);
        }
        self.end(cause);
    }

    /// Writes everything that is queued. Returns false if the connection broke instead, which it does at the close deadline at
    /// the latest.
    pub(super) fn write_rest(&mut self, deadline: Deadline) -> bool {
        let outbox = self.sender.outbox();
        let stream = self.reader.stream();
        outbox.close_notify();
        // A peer in the middle of a large message may read nothing before it has written all of it. So its input is
        // discarded whenever the socket accepts no bytes of the queue.
        while !outbox.is_empty() && stream.drain_until_writable(deadline) {
            // After an error the queue is empty.
            drop(outbox.wait_empty(Deadline::after(WRITE_TURN)));
        }
        outbox.wait_empty(Deadline::NEVER).is_ok()
    }

    /// Drops the socket.
    pub(super) fn end(&mut self, cause: Option<Cause>) {
        let closed = self.sender.outbox().end(self.reader.counts(), cause);
        self.set_closed(closed);
    }

    /// Finishes a connection whose end was deferred, and waits for the peer.
    pub(super) fn finish_deferred(&mut self) {
        if let Some(cause) = self.deferred_end.take() {
            self.finish(*cause);
        }
    }

    /// Sends or queues what is held, without waiting, so that a Close follows it.
    pub(super) fn queue_held(&mut self) {
        self.cork.queue_all(To { sender: &self.sender, hub: &self.hub });
    }

    fn set_closed(&mut self, closed: Closed) {
        for tick in self.ticks.drain(..) {
            tick.cancel();
        }
        self.reader.discard_unread();
        self.closed = Some(closed);
    }
}

/// Dropping a connection waits for nothing. It sends a Close with 1001 if the socket takes it at once.
impl Drop for Connection {
    fn drop(&mut self) {
        if self.closed.is_none() {
            self.queue_held();
            let outbox = self.sender.outbox();
            if outbox.state() == State::Open {
                outbox.close_with_notify(Some(CloseFrame::new(CloseCode::GOING_AWAY, "")));
            }
            outbox.close_notify();
            // Otherwise closing the socket over unread input would send RST, and the peer could lose our last message. Even a
            // peer that sends nothing sends session tickets with TLS.
            self.reader.stream().drain(Duration::ZERO, Deadline::at(now()));
            let closed = outbox.end(self.reader.counts(), None);
            self.set_closed(closed);
        }
    }
}
