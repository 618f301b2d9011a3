//! The end of a connection, as far as its sending side decides it: our Close, the close deadline, and breaking the
//! connection. The first cause stays, and [`Closed`] reports it.
//!
//! The order of the closing handshake is in `connection/close.rs`.

use super::queue::{NOTHING, Slot};
use super::state::OutboxState;
use super::{Counts, Outbox};
use crate::error::{Cause, Closed, Error, Result};
use crate::message::{CloseFrame, State};
use crate::net::{Deadline, Transport};
use crate::protocol::encoder::{self, Opcode};
use crate::protocol::gate::Gate;
use crate::sync::{Ordering, now};
use std::time::Duration;

impl Outbox {
    /// Queues a Close behind all queued messages, and closes the gate: nothing can be sent after it.
    ///
    /// Returns false, and does nothing, if a Close was queued before or the connection is broken.
    pub(crate) fn close(&self, content: Option<CloseFrame>) -> bool {
        self.queue_close(content, false)
    }

    /// Like [`close`](Self::close). With TLS a close_notify leaves in the same system call. Called when nothing more is read,
    /// because a peer may answer a close_notify at once, and drop what it had to send (RFC 5246 §7.2.1).
    pub(crate) fn close_with_notify(&self, content: Option<CloseFrame>) {
        self.queue_close(content, true);
    }

    fn queue_close(&self, content: Option<CloseFrame>, is_last: bool) -> bool {
        let mut frame = Vec::new();
        encoder::append(self.role, Opcode::Close, &encoder::close_payload(content.as_ref()), &mut frame);
        let mut state = self.state.lock();
        if !state.gate.is_open() {
            return false;
        }
        // RFC 6455 §5.5.1: no data frame follows a Close frame. The gate is checked and changed under one lock, because
        // another thread could otherwise send between the two.
        state.gate = Gate::CloseSent;
        self.state_hint.store(State::Closing as u8, Ordering::Relaxed);
        state.ending.sent = Some(content);
        state.start_close_deadline(self.close_timeout);
        state.queue.set(Slot::Close, frame);
        if let Some(sealing) = state.sealing.as_mut().filter(|_| is_last) {
            sealing.end();
        }
        if state.stall.is_none() {
            self.write_queue(&mut state, NOTHING);
        }
        // The flush thread writes the Close if the socket takes nothing now, because the reader that closes does not: it
        // waits for the peer's Close.
        self.unlock(state);
        true
    }

    /// Has the flush thread enforce the close deadline. The reading thread enforces it itself.
    pub(crate) fn watch_close(&self) {
        self.flush.watch(self.weak());
    }

    /// Records the peer's Close, and starts the close deadline.
    pub(crate) fn close_received(&self, content: Option<CloseFrame>) {
        let mut state = self.state.lock();
        state.ending.by_peer = state.ending.sent.is_none();
        state.ending.received = Some(content);
        state.start_close_deadline(self.close_timeout);
    }

    pub(crate) fn close_timeout(&self) -> Duration {
        self.close_timeout
    }

    /// Returns the close deadline that this outbox and the flush thread enforce.
    pub(crate) fn close_deadline(&self) -> Deadline {
        self.state.lock().close_deadline
    }

    /// Called when the reading thread starts to enforce the close deadline. Returns that deadline. From now on the other threads
    /// enforce a later one: `total` after the first Close, or none at all for `None`.
    pub(crate) fn extend_close_deadline(&self, total: Option<Duration>) -> Deadline {
        let mut state = self.state.lock();
        let before = state.close_deadline;
        let more = total.map_or(Duration::MAX, |total| total.saturating_sub(self.close_timeout));
        state.close_deadline = before.instant().and_then(|end| end.checked_add(more)).into();
        before
    }

    pub(crate) fn set_close_deadline(&self, deadline: Deadline) {
        self.state.lock().close_deadline = deadline;
    }

    /// Breaks the connection: nothing more is written, and the socket is shut down.
    pub(crate) fn break_off(&self, cause: Cause) {
        self.break_gate(&mut self.state.lock(), cause);
    }

    /// Drops the socket, and returns how the connection ended. The first call decides the result.
    pub(crate) fn end(&self, counts: Counts, cause: Option<Cause>) -> Closed {
        let mut state = self.state.lock();
        if state.gate.is_open() {
            self.break_gate(&mut state, Cause::Terminated);
        } else if state.gate == Gate::CloseSent {
            state.gate = Gate::Ended;
            if let Some(stream) = &state.stream {
                // A sender or the flush thread may poll the socket at this moment, and keep it open with its own `Arc`.
                stream.shutdown_both();
            }
        }
        self.reader_counts.set_received(counts.messages, counts.bytes);
        if state.stream.is_some() {
            state.ending.cause = state.ending.cause.or(cause);
            state.forget_unsent_close();
            self.update_ending(&mut state);
            state.stream = None;
            state.sealing = None;
            if let Some(compression) = &mut state.compression {
                compression.release();
            }
        }
        state.queue.clear();
        self.state_hint.store(State::Closed as u8, Ordering::Relaxed);
        self.notify(&state);
        Closed::new(state.ending.clone())
    }

    /// Returns how the connection ends, as far as that is known before its reader has ended.
    pub(super) fn closed(&self, state: &mut OutboxState) -> Closed {
        self.update_ending(state);
        Closed::new(state.ending.clone())
    }

    /// Updates the numbers in the ending, until [`end`](Self::end) has dropped the socket.
    fn update_ending(&self, state: &mut OutboxState) {
        if state.stream.is_some() {
            state.ending.lifetime = now().saturating_duration_since(self.opened);
            state.ending.traffic = self.reader_counts.traffic(state.sent.messages, state.sent.bytes);
        }
    }

    pub(super) fn check_open(&self, state: &mut OutboxState) -> Result<()> {
        if state.gate.is_open() { Ok(()) } else { Err(Error::Closed(self.closed(state))) }
    }

    /// Returns the error for a message that will not be written.
    pub(super) fn failure(&self, state: &mut OutboxState) -> Error {
        match state.gate.cause() {
            Some(Cause::Timeout(timeout)) => Error::Timeout(timeout),
            _ => Error::Closed(self.closed(state)),
        }
    }

    /// Returns the error for a message that cannot be sent any more.
    pub(crate) fn last_error(&self) -> Error {
        self.failure(&mut self.state.lock())
    }

    /// Returns the first cause for which the connection broke, if it did.
    pub(crate) fn broken(&self) -> Option<Cause> {
        self.state.lock().gate.cause()
    }

    /// Like [`broken`](Self::broken), but takes the lock only when the connection has ended.
    #[inline]
    pub(crate) fn broken_hint(&self) -> Option<Cause> {
        if self.state() == State::Closed { self.broken() } else { None }
    }

    pub(super) fn break_gate(&self, state: &mut OutboxState, cause: Cause) {
        self.break_gate_by(state, cause, |stream| stream.shutdown_both());
    }

    pub(super) fn break_gate_by(
        &self,
        state: &mut OutboxState,
        cause: Cause,
        shut_down: impl FnOnce(&dyn Transport),
    ) {
        if !state.gate.break_off(cause) {
            return;
        }
        state.ending.cause = Some(cause);
        state.forget_unsent_close();
        self.state_hint.store(State::Closed as u8, Ordering::Relaxed);
        if let Some(stream) = &state.stream {
            if state.stall.is_some() {
                stream.forget_unsent();
            }
            // Part of a frame may be on the wire, so nothing may follow it. Threads that read or poll the socket wake up.
            shut_down(&**stream);
        }
        state.stall = None;
        state.queue.clear();
        if let Some(sealing) = &mut state.sealing {
            sealing.break_off();
        }
        self.notify(state);
    }
}
