//! What became of a broadcast.

use crate::outbox::Fate;
use std::fmt;

/// What became of a message to many: how many clients it went to at once, waits for, or missed.
///
/// Clients that were closing already are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivery {
    sent: usize,
    queued: usize,
    skipped: usize,
    closed: usize,
}

impl Delivery {
    /// To how many the operating system took all of it at once.
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// For how many it waits in the backlog, or the rest of it.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// How many missed it because their backlog is full ([`SlowPeer::Skip`](crate::SlowPeer::Skip)).
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// How many connections were ended because their backlog is full ([`SlowPeer::Close`](crate::SlowPeer::Close)).
    pub fn closed(&self) -> usize {
        self.closed
    }

    /// How many get it: those it was sent to, and those it is queued for.
    pub fn reached(&self) -> usize {
        self.sent + self.queued
    }

    pub(super) fn note(&mut self, fate: Fate) {
        match fate {
            Fate::Sent => self.sent += 1,
            Fate::Queued => self.queued += 1,
            Fate::Skipped => self.skipped += 1,
            Fate::Closed => self.closed += 1,
            Fate::Gone => {}
        }
    }
}

/// `12 sent, 3 queued, 1 skipped, 0 closed`
impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, queued, skipped, closed } = self;
        write!(f, "{sent} sent, {queued} queued, {skipped} skipped, {closed} closed")
    }
}
