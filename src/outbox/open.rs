//! The beginning of a server's connection: its 101 is the first thing that the outbox holds.
//!
//! The client joins the hub between [`hold`](Outbox::hold) and [`open`](Outbox::open). So a client that has read its 101 is
//! in the hub, and what other threads send to it meanwhile follows the 101.

use super::Outbox;
use super::queue::NOTHING;
use super::state::OutboxState;
use crate::error::{Cause, Result, Timeout};
use crate::net::Deadline;
use crate::sync::{MutexGuard, now};

impl Outbox {
    /// Queues the 101 before everything else, until [`open`](Self::open) writes it. Called before any other thread knows this
    /// outbox.
    ///
    /// Frames that are sent meanwhile are queued behind it. Only a sender that waits, a sender that finds no room, and the
    /// flush thread after a Close write the queue earlier.
    pub(crate) fn hold(&self, response: Vec<u8>) {
        let mut state = self.state.lock();
        state.queue.hold(response);
        // As if the socket took nothing, and the flush thread polled it: then no thread that does not wait writes.
        state.stall = Some(self.new_stall(&state.queue, self.opened));
        state.is_watched = true;
    }

    /// Writes the 101 and what is queued behind it. Returns when the socket has taken all of the 101.
    ///
    /// # Errors
    ///
    /// The connection broke before: by an error, by another thread, by the write timeout, or at `until`, the deadline of the
    /// handshake.
    pub(crate) fn open(&self, until: Deadline) -> Result<()> {
        let mut state = self.state.lock();
        (state.stall, state.is_watched) = (None, false);
        self.write_queue(&mut state, NOTHING);
        while state.queue.is_opening() {
            if !state.gate.is_over() && until.has_passed(now()) {
                self.break_gate(&mut state, Cause::Timeout(Timeout::Handshake));
            }
            if state.gate.is_over() {
                return Err(self.failure(&mut state));
            }
            // The ticket of no data, which is out at all times: if the connection breaks behind the 101, it was opened.
            state = self.wait_progress(state, 0, until, NOTHING)?;
        }
        self.notify(&state);
        self.unlock(state);
        Ok(())
    }

    /// Returns whether `len` bytes more fit into `bound`. If they do not, and the 101 is still queued, writes the queue
    /// first: otherwise a long `on_open` would fill the backlog of a client that reads.
    ///
    /// The caller checks the gate afterwards, and calls [`unlock`](Self::unlock).
    #[inline]
    pub(super) fn find_room(
        &self,
        state: &mut MutexGuard<'_, OutboxState>,
        len: usize,
        bound: Option<usize>,
    ) -> bool {
        if state.has_room(len, bound) {
            return true;
        }
        if !state.queue.is_opening() || !state.gate.is_open() {
            return false;
        }
        (state.stall, state.is_watched) = (None, false);
        self.write_queue(state, NOTHING);
        state.has_room(len, bound)
    }
}
