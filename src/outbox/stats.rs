//! What others may know of an outbox: how much waits, how much went through, and when nothing waits any more.

use super::Outbox;
use crate::error::{Cause, Error, Result, Timeout};
use crate::net::Deadline;
use crate::stats::{ClientStats, ReaderCounts, Totals};
use crate::sync::now;
use std::time::Instant;

impl Outbox {
    /// Returns what the reading thread counts.
    pub(crate) fn reader_counts(&self) -> &ReaderCounts {
        &self.reader_counts
    }

    /// When a message was last sent, which is now while one waits for the peer; `None` where no idle timeout wants to know
    /// it.
    pub(crate) fn last_sent(&self, now: Instant) -> Option<Instant> {
        let core = self.core.lock();
        if core.pending.bytes() > 0 { core.last_sent.map(|_| now) } else { core.last_sent }
    }

    /// Returns the numbers of the connection, for its users.
    pub(crate) fn stats(&self) -> ClientStats {
        let core = self.core.lock();
        ClientStats {
            traffic: self.reader_counts.traffic(core.sent.messages, core.sent.bytes),
            messages_skipped: core.skipped,
            backlog: core.pending.bytes(),
            high_water: core.pending.high_water(),
            round_trip: self.reader_counts.last_round_trip(),
            opened_at: self.opened,
        }
    }

    /// Returns what the connection adds to its server's numbers, and its backlog.
    pub(crate) fn totals(&self) -> (Totals, usize) {
        let core = self.core.lock();
        let is_slow = matches!(core.ending.cause, Some(Cause::SlowPeer | Cause::Timeout(Timeout::Write)));
        let totals = Totals {
            traffic: self.reader_counts.traffic(core.sent.messages, core.sent.bytes),
            messages_skipped: core.skipped,
            slow_peers_closed: u64::from(is_slow),
            ..self.reader_counts.totals()
        };
        (totals, core.pending.bytes())
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
