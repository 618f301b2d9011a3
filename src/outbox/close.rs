//! How a connection ends, as its sending side knows it: the first reason, and what is told of it.

use super::queue::{NOTHING, Slot};
use super::state::OutboxState;
use super::{Counts, Outbox};
use crate::error::{Cause, Closed, Error, Result};
use crate::message::{CloseFrame, State};
use crate::net::Deadline;
use crate::protocol::encoder::{self, Opcode};
use crate::protocol::gate::Gate;
use crate::sync::{Ordering, now};

impl Outbox {
    /// Queues a Close behind the data that waits; nothing follows it. False if one went before, or if it is too late.
    pub(crate) fn close(&self, content: Option<CloseFrame>) -> bool {
        let mut frame = Vec::new();
        encoder::append(self.role, Opcode::Close, &encoder::close_payload(content.as_ref()), &mut frame);
        let mut state = self.state.lock();
        if !state.gate.is_open() {
            return false;
        }
        // RFC 6455 §5.5.1: asked and changed under the lock. Outside it another thread's frame could pass between.
        self.move_gate(&mut state, Gate::CloseSent);
        state.ending.sent = Some(content);
        state.start_close_deadline(self.close_timeout);
        state.queue.set(Slot::Close, frame);
        if state.stall.is_none() {
            self.write_queue(&mut state, NOTHING);
        }
        // A reader that closes waits for the peer's Close next: it does not push ours on.
        self.unlock(state);
        true
    }

    /// Lets the flush thread keep the close deadline: for everybody but the reader, who keeps it on its own.
    pub(crate) fn watch_close(&self) {
        self.flush.watch(self.weak());
    }

    /// Takes note of the peer's Close, and starts the close deadline.
    pub(crate) fn close_received(&self, content: Option<CloseFrame>) {
        let mut state = self.state.lock();
        state.ending.by_peer = state.ending.sent.is_none();
        state.ending.received = Some(content);
        state.start_close_deadline(self.close_timeout);
    }

    pub(crate) fn close_deadline(&self) -> Deadline {
        self.state.lock().close_deadline
    }

    fn move_gate(&self, state: &mut OutboxState, gate: Gate) {
        state.gate = gate;
        self.state_hint.store(gate.state() as u8, Ordering::Relaxed);
    }

    /// Ends the connection where it stands: nothing more is written, and the peer sees the end of the stream.
    pub(crate) fn break_off(&self, cause: Cause) {
        self.break_gate(&mut self.state.lock(), cause);
    }

    /// Lets go of the socket, and tells how it ended. The first call decides.
    pub(crate) fn end(&self, counts: Counts, cause: Option<Cause>) -> Closed {
        let mut state = self.state.lock();
        if state.gate.is_open() {
            self.break_gate(&mut state, Cause::Terminated);
        } else if state.gate == Gate::CloseSent {
            state.gate = Gate::Ended;
            if let Some(stream) = &state.stream {
                // Explicitly: clones of the `Arc` in a timer or a poll would keep the socket open.
                stream.shutdown_both();
            }
        }
        self.reader_counts.set_received(counts.messages, counts.bytes);
        if state.stream.is_some() {
            state.ending.cause = state.ending.cause.or(cause);
            state.forget_unsent_close();
            self.count(&mut state);
            state.stream = None;
        }
        state.queue.clear();
        self.state_hint.store(State::Closed as u8, Ordering::Relaxed);
        self.notify(&state);
        Closed::new(state.ending.clone())
    }

    /// What there is to say of a connection that takes nothing more; until its reader has ended, as far as is known.
    pub(super) fn closed(&self, state: &mut OutboxState) -> Closed {
        self.count(state);
        Closed::new(state.ending.clone())
    }

    /// Brings what an ending tells up to date, while it can change.
    fn count(&self, state: &mut OutboxState) {
        if state.stream.is_some() {
            state.ending.lifetime = now().saturating_duration_since(self.opened);
            state.ending.traffic = self.reader_counts.traffic(state.sent.messages, state.sent.bytes);
        }
    }

    pub(super) fn check_open(&self, state: &mut OutboxState) -> Result<()> {
        if state.gate.is_open() { Ok(()) } else { Err(Error::Closed(self.closed(state))) }
    }

    /// Why what waits will not go out.
    pub(super) fn failure(&self, state: &mut OutboxState) -> Error {
        match state.gate.cause() {
            Some(Cause::Timeout(timeout)) => Error::Timeout(timeout),
            _ => Error::Closed(self.closed(state)),
        }
    }

    /// Why nothing more can be sent, if that is so: the first reason.
    pub(crate) fn broken(&self) -> Option<Cause> {
        self.state.lock().gate.cause()
    }

    /// Like [`broken`](Self::broken), without the lock while the connection is not over.
    #[inline]
    pub(crate) fn broken_hint(&self) -> Option<Cause> {
        if self.state() == State::Closed { self.broken() } else { None }
    }

    pub(super) fn break_gate(&self, state: &mut OutboxState, cause: Cause) {
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
            // Half a frame may be out: nothing follows it. Whoever reads or waits on this socket wakes up.
            stream.shutdown_both();
        }
        state.stall = None;
        state.queue.clear();
        self.notify(state);
    }
}
