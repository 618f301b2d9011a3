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
        let state = self.state.lock();
        if state.queue.bytes() > 0 { state.last_sent.map(|_| now) } else { state.last_sent }
    }

    /// Returns the numbers of the connection, for its users.
    pub(crate) fn stats(&self) -> ClientStats {
        let state = self.state.lock();
        ClientStats {
            traffic: self.reader_counts.traffic(state.sent.messages, state.sent.bytes),
            messages_skipped: state.skipped,
            backlog: state.queue.bytes(),
            high_water: state.queue.high_water(),
            round_trip: self.reader_counts.last_round_trip(),
            opened_at: self.opened,
        }
    }

    /// Returns what the connection adds to its server's numbers, and its backlog.
    pub(crate) fn totals(&self) -> (Totals, usize) {
        let state = self.state.lock();
        let is_slow = matches!(state.ending.cause, Some(Cause::SlowPeer | Cause::Timeout(Timeout::Write)));
        let totals = Totals {
            traffic: self.reader_counts.traffic(state.sent.messages, state.sent.bytes),
            messages_skipped: state.skipped,
            slow_peers_closed: u64::from(is_slow),
            ..self.reader_counts.totals()
        };
        (totals, state.queue.bytes())
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
            state = self.wait_turn(state, ticket, until, super::NOTHING)?;
        }
    }
}
