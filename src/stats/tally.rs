//! What a connection's reader counts, where others may look.

use super::Traffic;
use crate::sync::{AtomicU64, Ordering};
use std::time::Duration;

/// Written by the reader's thread alone, once for each read from the socket and not for each message. Relaxed: each number
/// stands for itself.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Tally {
    pings: AtomicU64,
    round_trips: AtomicU64,
    /// In nanoseconds: the sum of all, and the last one.
    round_trip_sum: AtomicU64,
    round_trip: AtomicU64,
    /// Last, beside what else each read touches.
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    /// What was received so far.
    #[inline]
    pub(crate) fn received(&self, messages: u64, bytes: u64) {
        self.messages.store(messages, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Messages and bytes that were received.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.messages.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    pub(crate) fn pinged(&self) {
        self.pings.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn round_trip(&self, time: Duration) {
        // At least one: zero is "none yet".
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.round_trip.store(nanos, Ordering::Relaxed);
        self.round_trip_sum.fetch_add(nanos, Ordering::Relaxed);
        self.round_trips.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn last_round_trip(&self) -> Option<Duration> {
        let nanos = self.round_trip.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// All of it, beside what the outbox knows.
    pub(crate) fn add_to(&self, traffic: Traffic) -> Traffic {
        Traffic {
            messages_received: self.messages.load(Ordering::Relaxed),
            bytes_received: self.bytes.load(Ordering::Relaxed),
            pings: self.pings.load(Ordering::Relaxed),
            round_trips: self.round_trips.load(Ordering::Relaxed),
            round_trip_sum: Duration::from_nanos(self.round_trip_sum.load(Ordering::Relaxed)),
            ..traffic
        }
    }
}
