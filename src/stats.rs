//! Numbers of a server and of its connections, and what they look like to a monitoring system.
//!
//! No thread shares a counter with another for each message: a connection's own numbers are kept by its reader and under
//! its outbox's lock, are summed when somebody asks, and are folded into the server's when the connection ends.

mod counters;
mod prometheus;
mod tally;

pub(crate) use counters::{Counters, PolicyClose, TurnedAway};
pub(crate) use tally::Tally;

use crate::message::State;
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// What can be summed over connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) messages_received: u64,
    pub(crate) bytes_received: u64,
    pub(crate) messages_sent: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) messages_skipped: u64,
    pub(crate) pings: u64,
    pub(crate) round_trips: u64,
    pub(crate) round_trip_sum: Duration,
    /// Connections that ended because the peer reads too slowly: by the policy, or by the write timeout.
    pub(crate) slow_peers: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, other: &Self) {
        self.messages_received += other.messages_received;
        self.bytes_received += other.bytes_received;
        self.messages_sent += other.messages_sent;
        self.bytes_sent += other.bytes_sent;
        self.messages_skipped += other.messages_skipped;
        self.pings += other.pings;
        self.round_trips += other.round_trips;
        self.round_trip_sum += other.round_trip_sum;
        self.slow_peers += other.slow_peers;
    }
}

/// The numbers of one connection at one moment: what [`Client::stats`](crate::Client::stats) returns.
#[derive(Debug, Clone, Copy)]
pub struct ClientStats {
    pub(crate) traffic: Traffic,
    pub(crate) backlog: usize,
    pub(crate) high_water: usize,
    pub(crate) round_trip: Option<Duration>,
    pub(crate) state: State,
    pub(crate) since: Instant,
}

impl ClientStats {
    /// How many data messages were received and handed out before the handler's present or last wait.
    pub fn messages_received(&self) -> u64 {
        self.traffic.messages_received
    }

    /// How many bytes came after the handshake, frame headers included, before the handler's present or last wait.
    pub fn bytes_received(&self) -> u64 {
        self.traffic.bytes_received
    }

    /// How many data messages were queued for the peer.
    pub fn messages_sent(&self) -> u64 {
        self.traffic.messages_sent
    }

    /// How many bytes the operating system took after the handshake, frame headers included.
    pub fn bytes_sent(&self) -> u64 {
        self.traffic.bytes_sent
    }

    /// How many broadcast and published messages it missed because its backlog was full
    /// ([`SlowPeer::Skip`](crate::SlowPeer::Skip)).
    pub fn messages_skipped(&self) -> u64 {
        self.traffic.messages_skipped
    }

    /// How many bytes of data frames wait for the peer.
    pub fn backlog(&self) -> usize {
        self.backlog
    }

    /// The most bytes that ever waited for the peer.
    pub fn high_water(&self) -> usize {
        self.high_water
    }

    /// The round-trip time that the last keepalive ping measured.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Where the connection stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// When its handshake ended.
    pub fn since(&self) -> Instant {
        self.since
    }
}

/// The numbers of a server since its start: what [`Hub::stats`](crate::Hub::stats) returns.
///
/// What only grows never seems to shrink from one call to the next, whoever comes and goes meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub(crate) accepted: u64,
    pub(crate) opened: u64,
    pub(crate) open: usize,
    pub(crate) refused: BTreeMap<&'static str, u64>,
    pub(crate) handshake_failures: BTreeMap<u16, u64>,
    pub(crate) policy_closes: BTreeMap<&'static str, u64>,
    pub(crate) traffic: Traffic,
    pub(crate) backlog: usize,
    pub(crate) ticks_sent: u64,
    pub(crate) ticks_skipped: u64,
    pub(crate) threads: usize,
}

impl Stats {
    /// What `Content-Type` says of the text that [`write_prometheus`](Self::write_prometheus) writes.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// How many connections were accepted, or handed over by another HTTP server.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// How many handshakes succeeded.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// How many clients there are now.
    pub fn open(&self) -> usize {
        self.open
    }

    /// How many connections were turned away before a handshake, by reason: `full`, `no_thread`, `stopping`;
    /// and `address` and `rate`, by [`max_clients_per_address`](crate::Server::max_clients_per_address) and
    /// [`handshake_rate`](crate::Server::handshake_rate), if no trusted proxy speaks for the client: those behind one are
    /// among the [`handshake_failures`](Self::handshake_failures), as 429.
    pub fn refused(&self) -> &BTreeMap<&'static str, u64> {
        &self.refused
    }

    /// How many handshakes were answered with something else than 101, by HTTP status. Plain HTTP requests that
    /// [`Server::serve_http`](crate::Server::serve_http) answers are none.
    pub fn handshake_failures(&self) -> &BTreeMap<u16, u64> {
        &self.handshake_failures
    }

    /// How many open connections a policy has closed, by its name: `message_rate`, `max_lifetime`,
    /// `idle_timeout`.
    pub fn policy_closes(&self) -> &BTreeMap<&'static str, u64> {
        &self.policy_closes
    }

    /// How many data messages came from clients.
    pub fn messages_received(&self) -> u64 {
        self.traffic.messages_received
    }

    /// How many bytes came from clients after their handshakes, frame headers included.
    pub fn bytes_received(&self) -> u64 {
        self.traffic.bytes_received
    }

    /// How many data messages were queued for clients: a broadcast counts once for each.
    pub fn messages_sent(&self) -> u64 {
        self.traffic.messages_sent
    }

    /// How many bytes the operating system took for clients after their handshakes, frame headers included.
    pub fn bytes_sent(&self) -> u64 {
        self.traffic.bytes_sent
    }

    /// How many broadcast and published messages missed a client whose backlog was full.
    pub fn messages_skipped(&self) -> u64 {
        self.traffic.messages_skipped
    }

    /// How many bytes of data frames wait for clients now.
    pub fn backlog(&self) -> usize {
        self.backlog
    }

    /// How many ticks were sent.
    pub fn ticks_sent(&self) -> u64 {
        self.ticks_sent
    }

    /// How many ticks were left out, because their predecessor still waited or the timer was late.
    pub fn ticks_skipped(&self) -> u64 {
        self.ticks_skipped
    }

    /// How many keepalive pings were sent.
    pub fn pings(&self) -> u64 {
        self.traffic.pings
    }

    /// How many round trips keepalive pings have measured.
    pub fn round_trips(&self) -> u64 {
        self.traffic.round_trips
    }

    /// The sum of these round-trip times.
    pub fn round_trip_sum(&self) -> Duration {
        self.traffic.round_trip_sum
    }

    /// How many connections ended because the peer read too slowly: by [`SlowPeer::Close`](crate::SlowPeer::Close), or
    /// by the write timeout.
    pub fn slow_peers_closed(&self) -> u64 {
        self.traffic.slow_peers
    }

    /// How many client threads there are now, those included that wait for a client.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Writes all of it in Prometheus' text exposition format, version 0.0.4.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write_prometheus(&self, out: &mut impl io::Write) -> io::Result<()> {
        prometheus::write(self, out)
    }
}
