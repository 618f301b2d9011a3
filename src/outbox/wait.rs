//! How a sender waits outside the lock, and who pushes on what a socket has refused: one sender that waits has the turn, and
//! the flush thread has it while nobody waits.

use super::queue::Lent;
use super::state::OutboxState;
use super::{NOTHING, Outbox};
use crate::error::{Cause, Result, Timeout};
use crate::flush_thread::{Next, Pushable};
use crate::net::Deadline;
use crate::sync::{MutexGuard, now};
use std::time::Instant;

impl Outbox {
    /// Unlocks; what waits is left to the flush thread, unless a sender pushes it on already.
    pub(super) fn leave(&self, mut core: MutexGuard<'_, OutboxState>) {
        if core.refusal.is_some() && core.waiting == 0 && !core.watched && core.stream.is_some() {
            core.watched = true;
            drop(core);
            self.flush.watch(self.weak());
        }
    }

    /// Waits until the bytes up to `ticket` are out.
    pub(super) fn wait_out<'a>(
        &'a self,
        mut core: MutexGuard<'a, OutboxState>,
        ticket: u64,
        lent: Lent<'_>,
    ) -> Result<()> {
        while !core.pending.is_out(ticket) {
            core = self.wait_turn(core, ticket, Deadline::NEVER, lent)?;
        }
        self.leave(core);
        Ok(())
    }

    /// Waits for progress, at most until `until`: in the socket if nobody does, else for whoever does.
    pub(super) fn wait_turn<'a>(
        &'a self,
        mut core: MutexGuard<'a, OutboxState>,
        ticket: u64,
        until: Deadline,
        lent: Lent<'_>,
    ) -> Result<MutexGuard<'a, OutboxState>> {
        let Some(stream) = core.stream.clone() else { return Err(self.failure(&mut core)) };
        let deadline = core.deadline().or(until);
        core.waiting += 1;
        if core.turn_taken {
            // Who has the turn keeps the write deadline, but may have gone to sleep before there was one for the Close.
            let deadline = core.close_deadline.or(until);
            core = self.progress.wait_until(core, deadline.instant());
            core.waiting -= 1;
            self.expire(&mut core, now());
        } else {
            core.turn_taken = true;
            drop(core);
            // An error shows in the push below, too.
            drop(stream.wait_writable(deadline));
            core = self.core.lock();
            // On every way out: a turn that is never given back would wedge all other senders.
            core.turn_taken = false;
            core.waiting -= 1;
            self.push(&mut core, lent);
            self.expire(&mut core, now());
            self.tell(&core);
        }
        if core.gate.is_broken() && !core.pending.is_out(ticket) {
            return Err(self.failure(&mut core));
        }
        Ok(core)
    }

    /// Tells whoever waits, if anybody does: it is a system call.
    pub(super) fn tell(&self, core: &OutboxState) {
        if core.waiting > 0 {
            self.progress.notify_all();
        }
    }

    /// Breaks the connection if its close deadline has passed.
    pub(super) fn expire(&self, core: &mut OutboxState, now: Instant) {
        if core.close_deadline.has_passed(now) && core.stream.is_some() && !core.has_both_closes() {
            self.break_gate(core, Cause::Timeout(Timeout::Close));
        }
    }

    /// Waits until everything is out, the Close included.
    pub(crate) fn wait_empty(&self) -> Result<()> {
        let mut core = self.core.lock();
        let ticket = core.pending.ticket();
        while core.stream.is_some() && !core.pending.is_empty() {
            core = self.wait_turn(core, ticket, Deadline::NEVER, NOTHING)?;
        }
        Ok(())
    }
}

impl Pushable for Outbox {
    fn push_on(&self, now: Instant) -> Next {
        let mut core = self.core.lock();
        if core.waiting == 0 && core.refusal.is_some() {
            self.push(&mut core, NOTHING);
        }
        self.expire(&mut core, now);
        core.watched = core.refusal.is_some() && core.waiting == 0 && core.stream.is_some();
        let stream = core.stream.clone().filter(|_| core.watched);
        // A sender that waits keeps the write deadline itself, and comes late: looking again until then would be spinning.
        let until = if core.waiting == 0 { core.deadline() } else { core.close_deadline };
        let idle = stream.is_none() && (until == Deadline::NEVER || core.has_both_closes());
        if core.stream.is_none() || core.gate.is_broken() || idle {
            return Next::Done;
        }
        Next::Wait(stream, until)
    }
}
