//! What others may know of an outbox: how much waits, how much went through, and when nothing waits any more.

use super::Outbox;
use crate::error::{Cause, Error, Result, Timeout};
use crate::net::Deadline;
use crate::stats::{ClientStats, Tally, Traffic};
use crate::sync::now;
use std::time::Instant;

impl Outbox {
    /// What the reader counts.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// When a message was last sent, which is now while one waits for the peer; `None` where no idle timeout wants to know
    /// it.
    pub(crate) fn last_sent(&self, now: Instant) -> Option<Instant> {
        let core = self.core.lock();
        if core.pending.bytes() > 0 { core.last_sent.map(|_| now) } else { core.last_sent }
    }

    pub(crate) fn stats(&self) -> ClientStats {
        let core = self.core.lock();
        let slow = matches!(core.ending.cause, Some(Cause::SlowPeer | Cause::Timeout(Timeout::Write)));
        let traffic = Traffic {
            messages_sent: core.sent.messages,
            bytes_sent: core.sent.bytes,
            messages_skipped: core.skipped,
            slow_peers: u64::from(slow),
            ..Traffic::default()
        };
        let (backlog, high_water) = (core.pending.bytes(), core.pending.high_water());
        drop(core);
        ClientStats {
            traffic: self.tally.add_to(traffic),
            backlog,
            high_water,
            round_trip: self.tally.last_round_trip(),
            state: self.state(),
            since: self.opened,
        }
    }

    /// Waits until everything that waits now is out.
    pub(crate) fn wait_drained(&self, until: Deadline) -> Result<()> {
        let mut core = self.core.lock();
        let ticket = core.pending.ticket();
        loop {
            if core.gate.is_broken() {
                return Err(self.failure(&mut core));
            }
            if core.pending.is_out(ticket) {
                self.leave(core);
                return Ok(());
            }
            if until.has_passed(now()) {
                // The flush thread may have to take over.
                self.leave(core);
                return Err(Error::Timeout(Timeout::Drained));
            }
            core = self.wait_turn(core, ticket, until, super::NOTHING)?;
        }
    }
}
