//! How a sender waits outside the lock, and who pushes on what a socket has refused: one sender that waits has the turn, and
//! the flush thread has it while nobody waits.

use super::Outbox;
use super::queue::{Lent, NOTHING};
use super::state::OutboxState;
use crate::error::{Cause, Error, Result, Timeout};
use crate::flush_thread::{Pushable, Watch};
use crate::net::Deadline;
use crate::sync::{MutexGuard, now};
use std::time::Instant;

impl Outbox {
    /// Unlocks; what waits is left to the flush thread, unless a sender pushes it on already.
    pub(super) fn unlock(&self, mut state: MutexGuard<'_, OutboxState>) {
        if state.stall.is_some() && state.waiting == 0 && !state.is_watched && state.stream.is_some() {
            state.is_watched = true;
            drop(state);
            self.flush.watch(self.weak());
        }
    }

    /// Waits until the bytes up to `ticket` are out.
    pub(super) fn wait_out<'a>(
        &'a self,
        mut state: MutexGuard<'a, OutboxState>,
        ticket: u64,
        lent: Lent<'_>,
    ) -> Result<MutexGuard<'a, OutboxState>> {
        while !state.queue.is_out(ticket) {
            state = self.wait_turn(state, ticket, Deadline::NEVER, lent)?;
        }
        Ok(state)
    }

    /// Waits for progress, at most until `until`: in the socket if nobody does, else for whoever does.
    pub(super) fn wait_turn<'a>(
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
            // Who has the turn keeps the write deadline, but may have gone to sleep before there was one for the Close.
            let deadline = state.close_deadline.or(until);
            state = self.progress.wait_until(state, deadline.instant());
            state.waiting -= 1;
            self.check_close_deadline(&mut state, now());
        } else {
            state.has_poller = true;
            drop(state);
            // An error shows in the push below, too.
            drop(stream.wait_writable(deadline));
            state = self.state.lock();
            // On every way out: a turn that is never given back would wedge all other senders.
            state.has_poller = false;
            state.waiting -= 1;
            self.write_queue(&mut state, lent);
            self.check_close_deadline(&mut state, now());
            self.notify(&state);
        }
        if state.gate.is_broken() && !state.queue.is_out(ticket) {
            return Err(self.failure(&mut state));
        }
        Ok(state)
    }

    /// Tells whoever waits, if anybody does: it is a system call.
    pub(super) fn notify(&self, state: &OutboxState) {
        if state.waiting > 0 {
            self.progress.notify_all();
        }
    }

    /// Breaks the connection if its close deadline has passed.
    pub(super) fn check_close_deadline(&self, state: &mut OutboxState, now: Instant) {
        if state.close_deadline.has_passed(now) && state.stream.is_some() && !state.has_both_closes() {
            self.break_gate(state, Cause::Timeout(Timeout::Close));
        }
    }

    /// Waits until everything that waits now is out.
    pub(crate) fn wait_drained(&self, until: Deadline) -> Result<()> {
        let mut state = self.state.lock();
        let ticket = state.queue.ticket();
        loop {
            if state.gate.is_broken() {
                return Err(self.failure(&mut state));
            }
            if state.queue.is_out(ticket) {
                self.unlock(state);
                return Ok(());
            }
            if until.has_passed(now()) {
                // The flush thread may have to take over.
                self.unlock(state);
                return Err(Error::Timeout(Timeout::Drained));
            }
            state = self.wait_turn(state, ticket, until, NOTHING)?;
        }
    }

    /// Waits until everything is out, the Close included.
    pub(crate) fn wait_empty(&self) -> Result<()> {
        let mut state = self.state.lock();
        let ticket = state.queue.ticket();
        while state.stream.is_some() && !state.queue.is_empty() {
            state = self.wait_turn(state, ticket, Deadline::NEVER, NOTHING)?;
        }
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
        // A sender that waits keeps the write deadline itself, and comes late: looking again until then would be spinning.
        let until = if state.waiting == 0 { state.deadline() } else { state.close_deadline };
        let idle = stream.is_none() && (until == Deadline::NEVER || state.has_both_closes());
        if state.stream.is_none() || state.gate.is_broken() || idle {
            return None;
        }
        Some(Watch { stream, until })
    }
}
