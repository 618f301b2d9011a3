//! The text exposition format, version 0.0.4: a HELP and a TYPE line for each metric, then its samples.
//!
//! Names follow Prometheus' rules: base units, the unit in full at the end, `_total` for counters.

use super::Stats;
use std::fmt::Display;
use std::io::{Result, Write};

pub(super) fn write(stats: &Stats, out: &mut impl Write) -> Result<()> {
    let mut text = Exposition { out };
    let Stats { traffic, .. } = stats;
    text.counter("connections_accepted", "Connections accepted or handed over.", stats.accepted)?;
    text.counter("connections_opened", "Handshakes that succeeded.", stats.opened)?;
    text.gauge("connections_open", "Clients that are connected now.", stats.open)?;
    text.family("connections_refused_total", "Connections turned away before a handshake.", "counter")?;
    for (reason, count) in &stats.refused {
        text.labelled("connections_refused_total", "reason", reason, count)?;
    }
    text.family("handshake_failures_total", "Handshakes answered with another status than 101.", "counter")?;
    for (status, count) in &stats.handshake_failures {
        text.labelled("handshake_failures_total", "status", status, count)?;
    }
    text.family("policy_closes_total", "Open connections that a limit closed.", "counter")?;
    for (policy, count) in &stats.policy_closes {
        text.labelled("policy_closes_total", "policy", policy, count)?;
    }
    text.counter("messages_received", "Data messages received.", traffic.messages_received)?;
    text.counter("messages_sent", "Data messages queued for clients.", traffic.messages_sent)?;
    text.counter(
        "messages_skipped",
        "Broadcast messages dropped because a client's queue was full.",
        stats.messages_skipped,
    )?;
    text.counter("received_bytes", "Bytes received after handshakes.", traffic.bytes_received)?;
    text.counter("sent_bytes", "Bytes sent after handshakes.", traffic.bytes_sent)?;
    let directions = [("received", stats.saved_received), ("sent", stats.saved_sent)];
    text.family("deflate_messages_total", "Compressed messages.", "counter")?;
    for (direction, saved) in directions {
        text.labelled("deflate_messages_total", "direction", direction, &saved.messages)?;
    }
    text.family("deflate_plain_bytes_total", "Bytes of these messages without compression.", "counter")?;
    for (direction, saved) in directions {
        text.labelled("deflate_plain_bytes_total", "direction", direction, &saved.plain_bytes)?;
    }
    text.family("deflate_compressed_bytes_total", "Bytes of these messages with compression.", "counter")?;
    for (direction, saved) in directions {
        text.labelled("deflate_compressed_bytes_total", "direction", direction, &saved.compressed_bytes)?;
    }
    text.gauge("backlog_bytes", "Bytes queued for clients now.", stats.backlog)?;
    text.counter("ticks_sent", "Ticks sent.", stats.ticks_sent)?;
    text.counter("ticks_skipped", "Ticks skipped.", stats.ticks_skipped)?;
    text.counter("pings_sent", "Keepalive pings sent.", stats.pings)?;
    text.family("round_trip_seconds", "Round-trip times measured by keepalive pings.", "summary")?;
    text.sample("round_trip_seconds_sum", stats.round_trip_sum.as_secs_f64())?;
    text.sample("round_trip_seconds_count", stats.round_trips)?;
    text.counter(
        "slow_peers_closed",
        "Connections ended because the peer read too slowly.",
        stats.slow_peers_closed,
    )?;
    text.gauge("threads", "Client threads, including those that wait for a client.", stats.threads)
}

struct Exposition<'a, W> {
    out: &'a mut W,
}

impl<W: Write> Exposition<'_, W> {
    fn family(&mut self, name: &str, help: &str, kind: &str) -> Result<()> {
        writeln!(self.out, "# HELP threadws_{name} {help}\n# TYPE threadws_{name} {kind}")
    }

    fn sample(&mut self, name: &str, value: impl Display) -> Result<()> {
        writeln!(self.out, "threadws_{name} {value}")
    }

    /// Writes a sample with one label. The values are the library's own, so nothing is escaped.
    fn labelled(&mut self, name: &str, label: &str, value: impl Display, count: &u64) -> Result<()> {
        writeln!(self.out, "threadws_{name}{{{label}=\"{value}\"}} {count}")
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<()> {
        let name = format!("{name}_total");
        self.family(&name, help, "counter")?;
        self.sample(&name, value)
    }

    fn gauge(&mut self, name: &str, help: &str, value: usize) -> Result<()> {
        self.family(name, help, "gauge")?;
        self.sample(name, value)
    }
}
