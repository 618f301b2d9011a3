//! Keepalive: when to ping a silent peer, and when it is dead. Only the reader uses it, because only the reader sees pongs.

use super::Connection;
use crate::config::Config;
use crate::error::{Cause, Result, Timeout};
use crate::message::State;
use crate::net::Deadline;
use std::time::{Duration, Instant};

/// The keepalive times of one connection.
#[derive(Debug)]
pub(super) struct Keepalive {
    interval: Option<Duration>,
    timeout: Duration,
    /// When the last ping was sent, until its pong.
    pinged: Option<Instant>,
    /// The number of the last ping, which is its payload: so its pong differs from all others.
    number: u64,
}

/// The action for a keepalive deadline that has passed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeepaliveStep {
    /// Send a ping with this payload.
    Ping([u8; 8]),
    /// Nothing has arrived since the last ping.
    Dead,
}

impl Keepalive {
    pub(super) fn new(config: &Config) -> Self {
        Self { interval: config.ping_interval(), timeout: config.ping_timeout(), pinged: None, number: 0 }
    }

    pub(super) fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// Returns when [`due`](Self::due) must be called. `last_heard` is when the last byte arrived.
    pub(super) fn deadline(&self, last_heard: Instant) -> Deadline {
        match (self.interval, self.pinged) {
            (None, _) => Deadline::NEVER,
            (_, Some(pinged)) if pinged >= last_heard => pinged.checked_add(self.timeout).into(),
            (Some(interval), _) => last_heard.checked_add(interval).into(),
        }
    }

    /// Returns the action, now that the deadline has passed. If the last ping `waits` in the outbox still, another takes its
    /// place.
    pub(super) fn due(&mut self, last_heard: Instant, waits: bool) -> KeepaliveStep {
        match self.pinged {
            Some(pinged) if pinged >= last_heard && !waits => KeepaliveStep::Dead,
            _ => {
                self.number = self.number.wrapping_add(1);
                KeepaliveStep::Ping(self.number.to_be_bytes())
            }
        }
    }

    /// Starts the timeout of the ping that `due` returned. `now` is a time after it was sent, because this process may have
    /// been stopped before.
    pub(super) fn ping_sent(&mut self, now: Instant) {
        self.pinged = Some(now);
    }

    /// Handles a pong, and returns the round-trip time if its payload is that of the last ping.
    pub(super) fn pong(&mut self, payload: &[u8], now: Instant) -> Option<Duration> {
        let pinged = self.pinged.filter(|_| payload == self.number.to_be_bytes())?;
        self.pinged = None;
        Some(now - pinged)
    }
}

impl Connection {
    /// Pings a peer that is silent, or ends the connection if it is dead. A read found nothing at `asked`.
    pub(super) fn ping_silent_peer(&mut self, now: Instant, asked: Instant) -> Result<()> {
        let last_heard = self.reader.last_heard(now);
        let outbox = self.sender.outbox();
        let deadline = self.keepalive.deadline(last_heard);
        if outbox.state() != State::Open || !deadline.has_passed(now) {
            return Ok(());
        }
        match self.keepalive.due(last_heard, outbox.ping_waits()) {
            KeepaliveStep::Ping(payload) => {
                // Ignored: it fails only if the connection is closing, and the next read finds that.
                drop(outbox.ping(&payload));
                self.keepalive.ping_sent(Instant::now());
                outbox.reader_counts().ping_sent();
                Ok(())
            }
            // This process may have been stopped since the read. The pong may have arrived meanwhile, so the next read looks
            // for it.
            KeepaliveStep::Dead if !deadline.has_passed(asked) => Ok(()),
            KeepaliveStep::Dead => Err(self.lost(Cause::Timeout(Timeout::Ping))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(20);
    const TIMEOUT: Duration = Duration::from_secs(7);

    fn keepalive() -> (Keepalive, Instant) {
        (
            Keepalive::new(&Config::new().with_ping_interval(INTERVAL).with_ping_timeout(TIMEOUT)),
            Instant::now(),
        )
    }

    #[test]
    fn silence_is_pinged_and_then_dead() {
        let (mut keepalive, start) = keepalive();
        assert_eq!(keepalive.deadline(start), Deadline::at(start + INTERVAL));
        assert!(matches!(keepalive.due(start, false), KeepaliveStep::Ping(_)));
        let pinged = start + INTERVAL;
        keepalive.ping_sent(pinged);
        assert_eq!(keepalive.deadline(start), Deadline::at(pinged + TIMEOUT));
        assert_eq!(keepalive.due(start, false), KeepaliveStep::Dead);
    }

    #[test]
    fn any_byte_is_life() {
        let (mut keepalive, start) = keepalive();
        keepalive.ping_sent(start + INTERVAL);
        let life = start + INTERVAL + TIMEOUT / 2;
        assert_eq!(keepalive.deadline(life), Deadline::at(life + INTERVAL));
        assert!(matches!(keepalive.due(life, false), KeepaliveStep::Ping(_)));
    }

    #[test]
    fn the_pong_clock_starts_when_the_ping_has_left() {
        let (mut keepalive, start) = keepalive();
        keepalive.ping_sent(start + INTERVAL);
        assert!(matches!(keepalive.due(start, true), KeepaliveStep::Ping(_)));
        let late = start + INTERVAL + TIMEOUT;
        keepalive.ping_sent(late);
        assert_eq!(keepalive.deadline(start), Deadline::at(late + TIMEOUT));
    }

    #[test]
    fn a_pong_with_another_payload_measures_no_round_trip() {
        let (mut keepalive, start) = keepalive();
        let KeepaliveStep::Ping(payload) = keepalive.due(start, false) else { panic!("a ping is due") };
        keepalive.ping_sent(start);
        assert_eq!(keepalive.pong(b"foreign", start + TIMEOUT), None);
        assert_eq!(keepalive.pong(&payload, start + TIMEOUT), Some(TIMEOUT));
    }
}
