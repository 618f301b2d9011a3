//! Counters that the threads of a server change. A message of a client changes none of them.

use super::Stats;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering};
use std::collections::BTreeMap;

/// Counters of one server. Relaxed: no number depends on another.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Counted by the acceptor, and by each [`upgrade`](crate::ServerHandle::upgrade).
    accepted: AtomicU64,
    /// In the order of [`TurnedAway`].
    refused: [AtomicU64; TurnedAway::NAMES.len()],
    /// In the order of [`PolicyClose`].
    policy_closes: [AtomicU64; PolicyClose::NAMES.len()],
    /// By HTTP status. Under a lock, which costs far less than a failed handshake.
    failures: Mutex<BTreeMap<u16, u64>>,
    /// Counted by the timer thread only.
    ticks_sent: AtomicU64,
    ticks_skipped: AtomicU64,
    /// Client threads that run now.
    threads: AtomicUsize,
}

/// Why a connection is turned away before its handshake.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TurnedAway {
    Full,
    NoThread,
    Stopping,
    /// Its address has too many connections.
    Address,
    /// Its address had too many handshakes lately.
    Rate,
    /// Its TLS handshake failed.
    #[cfg_attr(
        not(feature = "tls"),
        expect(dead_code, reason = "the metrics are the same without the feature")
    )]
    Tls,
}

impl TurnedAway {
    const NAMES: [&str; 6] = ["full", "no_thread", "stopping", "address", "rate", "tls"];
}

/// Which limit closed an open connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PolicyClose {
    MessageRate,
    Lifetime,
    Idle,
}

impl PolicyClose {
    const NAMES: [&str; 3] = ["message_rate", "max_lifetime", "idle_timeout"];
}

impl Counters {
    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    #[expect(clippy::indexing_slicing, reason = "it has a place for each reason")]
    pub(crate) fn refused(&self, reason: TurnedAway) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    #[expect(clippy::indexing_slicing, reason = "it has a place for each policy")]
    pub(crate) fn closed_by(&self, policy: PolicyClose) {
        self.policy_closes[policy as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn handshake_failed(&self, status: u16) {
        *self.failures.lock().entry(status).or_default() += 1;
    }

    pub(crate) fn tick_sent(&self) {
        self.ticks_sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ticks_skipped(&self, count: u64) {
        self.ticks_skipped.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn thread_started(&self) {
        self.threads.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn thread_ended(&self) {
        self.threads.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets the fields of `stats` that are counted here.
    pub(super) fn fill(&self, stats: &mut Stats) {
        stats.accepted = self.accepted.load(Ordering::Relaxed);
        let load = |counts: &[AtomicU64], names: &[&'static str]| {
            names.iter().copied().zip(counts.iter().map(|count| count.load(Ordering::Relaxed))).collect()
        };
        stats.refused = load(&self.refused, &TurnedAway::NAMES);
        stats.policy_closes = load(&self.policy_closes, &PolicyClose::NAMES);
        stats.handshake_failures = self.failures.lock().clone();
        stats.ticks_sent = self.ticks_sent.load(Ordering::Relaxed);
        stats.ticks_skipped = self.ticks_skipped.load(Ordering::Relaxed);
        stats.threads = self.threads.load(Ordering::Relaxed);
    }
}
