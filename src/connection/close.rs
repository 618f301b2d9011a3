//! The closing handshake (RFC 6455 §7), in all its orders, under one deadline.

use super::Connection;
use super::cork::To;
use super::recv::Wait;
use crate::error::{Cause, Closed, Error, Result};
use crate::message::{CloseCode, CloseFrame, State};
use crate::net::Deadline;
use crate::protocol::Role;
use crate::protocol::decoder::Item;
use crate::protocol::encoder;
use std::time::Duration;

/// How long, and how much, is read after FIN. Measured: a socket closed over unread input answers with RST, which cost a
/// peer 1.37 of the 1.50 MB that were on their way to it, and the Close frame.
const DRAIN_TIME: Duration = Duration::from_secs(2);
const DRAIN_BYTES: usize = 1 << 20;

/// What a receiving call says of an end: nothing to receive, or the error it was.
pub(super) fn outcome(closed: &Closed) -> Result<()> {
    if closed.is_normal() {
        return Ok(());
    }
    Err(closed.cause().and_then(Cause::to_error).unwrap_or_else(|| Error::Closed(closed.clone())))
}

impl Connection {
    /// Closes the connection: sends what is held and a Close, and waits for the peer's.
    ///
    /// Messages that come meanwhile are discarded. If the peer has closed already, or the connection is over, nothing is
    /// sent. [`closed`](Self::closed) tells how it ended.
    ///
    /// # Blocking
    ///
    /// At most [`close_timeout`](crate::Config::close_timeout), 5 s by default; then the peer is cut off.
    ///
    /// # Errors
    ///
    /// * [`Error::Invalid`]: the code may not be sent, or the reason is longer than 123 bytes. Nothing was sent, and the
    ///   connection goes on.
    /// * What the connection ended with instead, if it was not a closing handshake.
    pub fn close(&mut self, code: impl Into<CloseCode>, reason: &str) -> Result<()> {
        let code = code.into();
        encoder::check_close(code, reason)?;
        if let Some(closed) = &self.closed {
            return if closed.is_clean() { Ok(()) } else { outcome(closed) };
        }
        self.let_go();
        self.sender.outbox().close(Some(CloseFrame::new(code, reason)));
        loop {
            match self.next_item(Wait::Forever, &mut false) {
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

    /// The peer's Close: answered with the same code (§5.5.1) unless it is itself the answer.
    pub(super) fn answer_close(&mut self, content: Option<CloseFrame>) {
        self.let_go();
        let outbox = self.sender.outbox();
        outbox.close_received(content.clone());
        // The reason is the peer's own: it need not be told.
        outbox.close(content.map(|frame| CloseFrame::new(frame.code, "")));
        self.finish(None);
    }

    /// Ends the connection for an error of the peer's: tells it by the close code, and returns the error.
    pub(super) fn fail(&mut self, error: Error) -> Error {
        self.let_go();
        let outbox = self.sender.outbox();
        outbox.close(Some(CloseFrame::new(error.close_code(), error.close_reason())));
        self.finish(Some(Cause::from_error(&error)));
        error
    }

    /// Ends a connection on which nothing can be said any more, and returns the error for it.
    pub(super) fn lost(&mut self, cause: Cause) -> Error {
        // Others are still told what this one said last.
        self.let_go();
        let outbox = self.sender.outbox();
        outbox.break_off(cause);
        // Another thread may have been first.
        let closed = outbox.end(self.reader.counts(), None);
        self.over(closed.clone());
        closed.cause().and_then(Cause::to_error).unwrap_or(Error::Closed(closed))
    }

    /// After both Closes, or our Close for an error: lets everything out, sends FIN, reads the peer's last bytes.
    fn finish(&mut self, cause: Option<Cause>) {
        let outbox = self.sender.outbox();
        // Ends at the close deadline, by breaking the connection.
        let sent = outbox.wait_empty().is_ok();
        if sent {
            let deadline = outbox.close_deadline();
            // RFC 6455 §7.1.1: the server closes first, so that TIME_WAIT is not the client's. A client waits for that.
            if outbox.role() == Role::Server || cause.is_some() {
                self.reader.stream().shutdown_write();
                self.reader.stream().drain(DRAIN_BYTES, deadline.or(Deadline::after(DRAIN_TIME)));
            } else {
                self.reader.stream().drain(DRAIN_BYTES, deadline);
            }
        }
        let closed = self.sender.outbox().end(self.reader.counts(), cause);
        self.over(closed);
    }

    /// Sends or queues what is held, for a Close to go behind it.
    pub(super) fn let_go(&mut self) {
        self.cork.let_go(To { sender: &self.sender, hub: &self.hub });
    }

    fn over(&mut self, closed: Closed) {
        for tick in self.ticks.drain(..) {
            tick.cancel();
        }
        self.closed = Some(closed);
    }
}

/// Nobody waits for a connection that is let go: it says that it goes away if that can be said at once.
impl Drop for Connection {
    fn drop(&mut self) {
        if self.closed.is_none() {
            self.let_go();
            let outbox = self.sender.outbox();
            if outbox.state() == State::Open {
                outbox.close(Some(CloseFrame::new(CloseCode::GOING_AWAY, "")));
            }
            let closed = outbox.end(self.reader.counts(), None);
            self.over(closed);
        }
    }
}
