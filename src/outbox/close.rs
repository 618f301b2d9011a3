//! How a connection ends, as its sending side knows it: the first reason, and what is told of it.

use super::state::OutboxState;
use super::{Counts, Outbox};
use crate::error::{Cause, Closed, Error, Result};
use crate::message::State;
use crate::protocol::gate::Gate;
use crate::sync::{Ordering, now};

impl Outbox {
    /// Ends the connection where it stands: nothing more is written, and the peer sees the end of the stream.
    pub(crate) fn break_off(&self, cause: Cause) {
        self.break_gate(&mut self.core.lock(), cause);
    }

    /// Lets go of the socket, and tells how it ended. The first call decides.
    pub(crate) fn end(&self, counts: Counts, cause: Option<Cause>) -> Closed {
        let mut core = self.core.lock();
        if core.gate.is_open() {
            self.break_gate(&mut core, Cause::Terminated);
        } else if core.gate == Gate::CloseSent {
            core.gate = Gate::Ended;
            if let Some(stream) = &core.stream {
                // Explicitly: clones of the `Arc` in a timer or a poll would keep the socket open.
                stream.shutdown_both();
            }
        }
        self.reader_counts.set_received(counts.messages, counts.bytes);
        if core.stream.is_some() {
            core.ending.cause = core.ending.cause.or(cause);
            core.forget_unsent_close();
            self.count(&mut core);
            core.stream = None;
        }
        core.pending.clear();
        self.state.store(State::Closed as u8, Ordering::Relaxed);
        self.tell(&core);
        Closed::new(core.ending.clone())
    }

    /// What there is to say of a connection that takes nothing more; until its reader has ended, as far as is known.
    pub(super) fn closed(&self, core: &mut OutboxState) -> Closed {
        self.count(core);
        Closed::new(core.ending.clone())
    }

    /// Brings what an ending tells up to date, while it can change.
    fn count(&self, core: &mut OutboxState) {
        if core.stream.is_some() {
            core.ending.lifetime = now().saturating_duration_since(self.opened);
            core.ending.traffic = self.reader_counts.traffic(core.sent.messages, core.sent.bytes);
        }
    }

    pub(super) fn check_open(&self, core: &mut OutboxState) -> Result<()> {
        if core.gate.is_open() { Ok(()) } else { Err(Error::Closed(self.closed(core))) }
    }

    /// Whether a frame of `len` bytes may be queued. An empty outbox admits one frame of any size.
    pub(super) fn may_queue(&self, core: &mut OutboxState, len: usize, bound: Option<usize>) -> Result<()> {
        self.check_open(core)?;
        if core.has_room(len, bound) { Ok(()) } else { Err(Error::Full) }
    }

    /// Why what waits will not go out.
    pub(super) fn failure(&self, core: &mut OutboxState) -> Error {
        match core.gate.cause() {
            Some(Cause::Timeout(timeout)) => Error::Timeout(timeout),
            _ => Error::Closed(self.closed(core)),
        }
    }

    /// Why nothing more can be sent, if that is so: the first reason.
    pub(crate) fn broken(&self) -> Option<Cause> {
        self.core.lock().gate.cause()
    }

    /// Like [`broken`](Self::broken), without the lock while the connection is not over.
    #[inline]
    pub(crate) fn broken_hint(&self) -> Option<Cause> {
        if self.state() == State::Closed { self.broken() } else { None }
    }

    pub(super) fn break_gate(&self, core: &mut OutboxState, cause: Cause) {
        if !core.gate.break_off(cause) {
            return;
        }
        core.ending.cause = Some(cause);
        core.forget_unsent_close();
        self.state.store(State::Closed as u8, Ordering::Relaxed);
        if let Some(stream) = &core.stream {
            if core.refusal.is_some() {
                stream.forget_unsent();
            }
            // Half a frame may be out: nothing follows it. Whoever reads or waits on this socket wakes up.
            stream.shutdown_both();
        }
        core.refusal = None;
        core.pending.clear();
        self.tell(core);
    }
}
