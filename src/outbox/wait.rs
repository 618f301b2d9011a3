//! Waiting for the socket, without the lock.
//!
//! One thread at a time polls a socket that takes nothing, and writes the queue when it takes bytes again. While senders
//! wait, one of them polls, and the others wait for its notification. Otherwise the flush thread polls, which is in
//! `flush_thread.rs`.

use super::Outbox;
use super::queue::{Lent, NOTHING};
use super::state::OutboxState;
use crate::error::{Cause, Error, Result, Timeout};
use crate::flush_thread::{Pushable, Watch};
use crate::net::Deadline;
use crate::sync::{MutexGuard, now};
use std::time::Instant;

impl Outbox {
    /// Unlocks. If the socket takes nothing and no sender waits for it, the flush thread polls it from now on.
    pub(super) fn unlock(&self, mut state: MutexGuard<'_, OutboxState>) {
        if state.stall.is_some() && state.waiting == 0 && !state.is_watched && state.stream.is_some() {
            state.is_watched = true;
            drop(state);
            self.flush.watch(self.weak());
        }
    }

    /// Waits until queued bytes may have been written, at most until `until`.
    ///
    /// Polls the socket and writes the queue, if no other sender does. Otherwise waits for that sender's notification.
    ///
    /// # Errors
    ///
    /// The connection broke before the bytes up to `ticket` were written.
    pub(super) fn wait_progress<'a>(
        &'a self,
        mut state: MutexGuard<'a, OutboxState>,
        ticket: u64,
        until: Deadline,
        lent: Lent<'_>,
    ) -> Result<MutexGuard<'a, OutboxState>> {
        let Some(stream) = state.stream.clone() else { return Err(self.failure(&mut state)) };
        let deadline = state.deadline().or(until);
        state.waiting += 1;
        if state.has_poller {
            // The polling sender enforces the write timeout. It may not know of the close deadline, because its poll may
            // have begun before the Close.
            let deadline = state.close_deadline.or(until);
            state = self.progress.wait_until(state, deadline.instant());
            state.waiting -= 1;
            self.check_close_deadline(&mut state, now());
        } else {
            state.has_poller = true;
            drop(state);
            // An error is not lost: `write_queue` runs into it, too.
            drop(stream.wait_writable(deadline));
            state = self.state.lock();
            // Before any return: otherwise the other senders would wait for a poller that does not exist.
            state.has_poller = false;
            state.waiting -= 1;
            self.write_queue(&mut state, lent);
            self.check_close_deadline(&mut state, now());
            self.notify(&state);
        }
        if state.gate.is_over() && !state.queue.is_out(ticket) {
            return Err(self.failure(&mut state));
        }
        Ok(state)
    }

    /// Wakes the waiting senders. Skipped when there is none, because it is a system call.
    pub(super) fn notify(&self, state: &OutboxState) {
        if state.waiting > 0 {
            self.progress.notify_all();
        }
    }

    /// Breaks the connection if the close deadline has passed and the closing handshake is not complete.
    pub(super) fn check_close_deadline(&self, state: &mut OutboxState, now: Instant) {
        if state.close_deadline.has_passed(now) && state.stream.is_some() && !state.has_both_closes() {
            self.break_gate(state, Cause::Timeout(Timeout::Close));
        }
    }

    /// Waits until everything that is queued now is written.
    pub(crate) fn wait_drained(&self, until: Deadline) -> Result<()> {
        let mut state = self.state.lock();
        let ticket = state.queue.ticket();
        loop {
            if state.gate.is_over() {
                return Err(self.failure(&mut state));
            }
            if state.queue.is_out(ticket) {
                self.unlock(state);
                return Ok(());
            }
            if until.has_passed(now()) {
                // The flush thread takes over, if this was the last waiting sender.
                self.unlock(state);
                return Err(Error::Timeout(Timeout::Drained));
            }
            state = self.wait_progress(state, ticket, until, NOTHING)?;
        }
    }

    /// Returns whether the queue is written, the Close included, or was dropped.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().is_empty()
    }

    /// Waits until the queue is written, the Close included, or the socket was dropped, at most until `until`.
    pub(crate) fn wait_empty(&self, until: Deadline) -> Result<()> {
        let mut state = self.state.lock();
        let ticket = state.queue.ticket();
        while state.stream.is_some() && !state.is_empty() && !until.has_passed(now()) {
            state = self.wait_progress(state, ticket, until, NOTHING)?;
        }
        // The flush thread takes over, if this was the last waiting thread.
        self.unlock(state);
        Ok(())
    }
}

impl Pushable for Outbox {
    fn push_on(&self, now: Instant) -> Option<Watch> {
        let mut state = self.state.lock();
        if state.waiting == 0 && state.stall.is_some() {
            self.write_queue(&mut state, NOTHING);
        }
        self.check_close_deadline(&mut state, now);
        state.is_watched = state.stall.is_some() && state.waiting == 0 && state.stream.is_some();
        let stream = state.stream.clone().filter(|_| state.is_watched);
        // A waiting sender enforces the write timeout itself, and may be late. If this thread waited for the same deadline, it
        // would run in a loop until the sender is scheduled.
        let until = if state.waiting == 0 { state.deadline() } else { state.close_deadline };
        let idle = stream.is_none() && (until == Deadline::NEVER || state.has_both_closes());
        if state.stream.is_none() || state.gate.is_over() || idle {
            return None;
        }
        Some(Watch { stream, until })
    }
}
