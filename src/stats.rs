//! The numbers of a server and of its connections, and their text for a monitoring system.
//!
//! No two threads share a counter that changes with each message. A connection's own numbers are kept by the thread that
//! reads it and under its outbox's lock. [`Meter::stats`] sums them up, and adds those of the connections that ended.

mod counters;
mod prometheus;

pub(crate) use counters::{Counters, PolicyClose, TurnedAway};

use crate::deflate::Saved;
use crate::sync::{Arc, AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// Messages and bytes in both directions, of one connection or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// How many data messages were received and handed to the handler.
    pub messages_received: u64,
    /// How many bytes were received after the handshake, frame headers included.
    pub bytes_received: u64,
    /// How many data messages were sent or queued for the peer. A broadcast counts once for each client.
    pub messages_sent: u64,
    /// How many bytes the operating system took after the handshake, frame headers included.
    pub bytes_sent: u64,
}

/// The numbers of one connection at one moment: what [`Sender::stats`](crate::Sender::stats) and
/// [`Connection::stats`](crate::Connection::stats) return. They can also be read after the connection has ended.
///
/// The received numbers are brought up to date before each read from the socket, and by `Connection::stats`.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ClientStats {
    /// Messages and bytes in both directions.
    pub traffic: Traffic,
    /// How many broadcast and published messages were dropped for this client because its queue was full
    /// ([`SlowPeer::Skip`](crate::hub::SlowPeer::Skip)).
    pub messages_skipped: u64,
    /// How many bytes of data frames are queued for the peer in this process. The operating system's buffers hold more.
    pub backlog: usize,
    /// The most bytes of data frames that were ever queued for the peer.
    ///
    /// It can exceed [`max_backlog`](crate::Config::max_backlog), which does not limit a blocking
    /// [`send`](crate::Sender::send) nor the first message in an empty queue. It can also stay below a limit that was
    /// reached, because the limit includes bookkeeping.
    pub high_water: usize,
    /// The round-trip time that the last keepalive ping measured.
    pub round_trip: Option<Duration>,
    /// When the handshake ended.
    pub opened_at: Instant,
    /// The received messages that were compressed.
    pub saved_received: Saved,
    /// The sent messages that were compressed.
    pub saved_sent: Saved,
}

/// The numbers of a server since its start: what [`ServerHandle::stats`](crate::ServerHandle::stats) and [`Meter::stats`]
/// return.
///
/// Those that count events never decrease from one call to the next.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// How many connections were accepted, or handed over by another HTTP server.
    pub accepted: u64,
    /// How many handshakes succeeded.
    pub opened: u64,
    /// How many clients are connected now.
    pub open: usize,
    /// How many connections were turned away before a handshake, by reason: `full`, `no_thread`, `stopping`,
    /// `address`, `rate`, and `tls` for a TLS handshake that failed.
    ///
    /// `address` and `rate` are the limits [`max_clients_per_address`](crate::Server::max_clients_per_address) and
    /// [`handshake_rate`](crate::Server::handshake_rate), for clients that connect directly. Clients of a trusted proxy
    /// are counted among the [`handshake_failures`](Self::handshake_failures), as 429.
    pub refused: BTreeMap<&'static str, u64>,
    /// How many handshakes were answered with another status than 101, by status. Plain HTTP requests that
    /// [`Server::serve_http`](crate::Server::serve_http) answers are not counted, nor are connections without a byte, such
    /// as those that a browser opens in advance and does not use.
    pub handshake_failures: BTreeMap<u16, u64>,
    /// How many open connections a limit has closed, by its name: `message_rate`, `max_lifetime`, `idle_timeout`.
    pub policy_closes: BTreeMap<&'static str, u64>,
    /// Messages and bytes in both directions, of all connections.
    pub traffic: Traffic,
    /// The received messages that were compressed.
    pub saved_received: Saved,
    /// The sent messages that were compressed.
    pub saved_sent: Saved,
    /// How many broadcast and published messages were dropped for a client because its queue was full.
    pub messages_skipped: u64,
    /// How many bytes of data frames are queued for clients now.
    pub backlog: usize,
    /// How many ticks were sent.
    pub ticks_sent: u64,
    /// How many ticks were skipped, because the one before was still queued or the timer was late.
    pub ticks_skipped: u64,
    /// How many keepalive pings were sent.
    pub pings: u64,
    /// How many round trips keepalive pings have measured.
    pub round_trips: u64,
    /// The sum of these round-trip times.
    pub round_trip_sum: Duration,
    /// How many connections ended because the peer read too slowly: by [`SlowPeer::Close`](crate::hub::SlowPeer::Close), or
    /// by the write timeout.
    pub slow_peers_closed: u64,
    /// How many client threads there are now, including those that wait for a client.
    pub threads: usize,
}

impl Stats {
    /// The `Content-Type` of the text that [`write_prometheus`](Self::write_prometheus) writes.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Writes all numbers in Prometheus' text exposition format, version 0.0.4.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write_prometheus(&self, out: &mut impl io::Write) -> io::Result<()> {
        prometheus::write(self, out)
    }

    /// Adds what connections have counted.
    pub(crate) fn add(&mut self, totals: &Totals) {
        self.opened += totals.opened;
        self.traffic.add(totals.traffic);
        self.saved_received.add(totals.saved_received);
        self.saved_sent.add(totals.saved_sent);
        self.messages_skipped += totals.messages_skipped;
        self.pings += totals.pings;
        self.round_trips += totals.round_trips;
        self.round_trip_sum += totals.round_trip_sum;
        self.slow_peers_closed += totals.slow_peers_closed;
    }
}

/// Reads the numbers of one server, from any thread: what [`Server::meter`](crate::Server::meter) returns.
///
/// Callbacks are set before a server runs, so they cannot use its handle. A meter can be moved into them:
///
/// ```
/// use threadws::{Server, stats::Stats};
///
/// # fn main() -> threadws::Result<()> {
/// let server = Server::bind("127.0.0.1:0")?;
/// let meter = server.meter();
/// let handle = server
///     .serve_http(move |_| {
///         let mut text = Vec::new();
///         drop(meter.stats().write_prometheus(&mut text)); // a Vec takes everything
///         http::Response::new(text)
///     })
///     .spawn(|client| Ok(client.ignore()?))?;
/// assert_eq!(handle.stats().open, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Meter {
    counters: Arc<Counters>,
    clients: Arc<dyn Measured>,
}

impl Meter {
    pub(crate) fn new(counters: Arc<Counters>, clients: Arc<dyn Measured>) -> Self {
        Self { counters, clients }
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Returns the server's numbers: those of the connections that ended, and of those that are open.
    ///
    /// # Blocking
    ///
    /// Never waits for a peer. It locks each open connection in turn, so it is not made for a thousand calls a second.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.clients.measure(&mut stats);
        // Read after the clients, so that `accepted` is never less than `opened`.
        self.counters.fill(&mut stats);
        stats
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

/// The clients of a server, as far as a [`Meter`] knows them.
pub(crate) trait Measured: Send + Sync {
    /// Adds the numbers of all connections to `stats`: of those that ended, and of those that are open.
    fn measure(&self, stats: &mut Stats);
}

/// The counters of one connection since it was opened, or the sum over several.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    /// Connections whose 101 was sent.
    pub(crate) opened: u64,
    pub(crate) traffic: Traffic,
    pub(crate) saved_received: Saved,
    pub(crate) saved_sent: Saved,
    pub(crate) messages_skipped: u64,
    pub(crate) pings: u64,
    pub(crate) round_trips: u64,
    pub(crate) round_trip_sum: Duration,
    /// Connections that ended because the peer read too slowly: by the policy, or by the write timeout.
    pub(crate) slow_peers_closed: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.traffic.add(other.traffic);
        self.saved_received.add(other.saved_received);
        self.saved_sent.add(other.saved_sent);
        self.messages_skipped += other.messages_skipped;
        self.pings += other.pings;
        self.round_trips += other.round_trips;
        self.round_trip_sum += other.round_trip_sum;
        self.slow_peers_closed += other.slow_peers_closed;
    }
}

impl Traffic {
    fn add(&mut self, other: Self) {
        self.messages_received += other.messages_received;
        self.bytes_received += other.bytes_received;
        self.messages_sent += other.messages_sent;
        self.bytes_sent += other.bytes_sent;
    }
}

/// Counters of the thread that reads a connection. Only this thread writes it, once for each read from the socket; other
/// threads read it. Relaxed: no number depends on another.
#[derive(Debug, Default)]
pub(crate) struct ReaderCounts {
    pings: AtomicU64,
    round_trips: AtomicU64,
    /// In nanoseconds: the sum of all, and the last one.
    round_trip_sum: AtomicU64,
    round_trip: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl ReaderCounts {
    /// Sets what was received so far.
    #[inline]
    pub(crate) fn set_received(&self, messages: u64, bytes: u64) {
        self.messages.store(messages, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn ping_sent(&self) {
        self.pings.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn round_trip_measured(&self, time: Duration) {
        // At least 1, because 0 means that none was measured yet.
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.round_trip.store(nanos, Ordering::Relaxed);
        self.round_trip_sum.fetch_add(nanos, Ordering::Relaxed);
        self.round_trips.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn last_round_trip(&self) -> Option<Duration> {
        let nanos = self.round_trip.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// Returns the traffic, of which the outbox counts the half that was sent.
    pub(crate) fn traffic(&self, messages_sent: u64, bytes_sent: u64) -> Traffic {
        Traffic {
            messages_received: self.messages.load(Ordering::Relaxed),
            bytes_received: self.bytes.load(Ordering::Relaxed),
            messages_sent,
            bytes_sent,
        }
    }

    /// Returns everything that was counted here. The outbox fills in the rest.
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            pings: self.pings.load(Ordering::Relaxed),
            round_trips: self.round_trips.load(Ordering::Relaxed),
            round_trip_sum: Duration::from_nanos(self.round_trip_sum.load(Ordering::Relaxed)),
            ..Totals::default()
        }
    }
}
