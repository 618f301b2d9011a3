//! When to ping, and when a silent peer is dead. It lives with the reader: only the reader sees a pong.

use crate::config::Config;
use crate::net::Deadline;
use std::time::{Duration, Instant};

/// The clocks of one connection; first what each read asks for, as in the [`Connection`](super::Connection).
#[derive(Debug)]
#[repr(C)]
pub(super) struct Keepalive {
    interval: Option<Duration>,
    timeout: Duration,
    /// The last ping, until its pong.
    pinged: Option<Instant>,
    /// Counts pings: each carries its number, so that a pong to another is told from its own.
    number: u64,
}

/// What is due when the keepalive deadline has passed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeepaliveStep {
    /// Send a ping with this payload.
    Ping([u8; 8]),
    /// Nothing came since the last ping.
    Dead,
}

impl Keepalive {
    pub(super) fn new(config: &Config) -> Self {
        Self { interval: config.ping_interval(), timeout: config.ping_timeout(), pinged: None, number: 0 }
    }

    /// When to look again, given when the last byte came.
    pub(super) fn deadline(&self, last_life: Instant) -> Deadline {
        match (self.interval, self.pinged) {
            (None, _) => Deadline::NEVER,
            (_, Some(pinged)) if pinged >= last_life => pinged.checked_add(self.timeout).into(),
            (Some(interval), _) => last_life.checked_add(interval).into(),
        }
    }

    /// What is due now that the deadline has passed. `waits` tells whether the last ping has not left yet: then its
    /// clock starts anew.
    pub(super) fn due(&mut self, now: Instant, last_life: Instant, waits: bool) -> KeepaliveStep {
        match self.pinged {
            Some(pinged) if pinged >= last_life && !waits => KeepaliveStep::Dead,
            _ => {
                self.number = self.number.wrapping_add(1);
                self.pinged = Some(now);
                KeepaliveStep::Ping(self.number.to_be_bytes())
            }
        }
    }

    /// Takes note of a pong, and returns the round-trip time. One with a foreign payload says nothing of it.
    pub(super) fn pong(&mut self, payload: &[u8], now: Instant) -> Option<Duration> {
        let pinged = self.pinged.filter(|_| payload == self.number.to_be_bytes())?;
        self.pinged = None;
        Some(now - pinged)
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
        let pinged = start + INTERVAL;
        assert!(matches!(keepalive.due(pinged, start, false), KeepaliveStep::Ping(_)));
        assert_eq!(keepalive.deadline(start), Deadline::at(pinged + TIMEOUT));
        assert_eq!(keepalive.due(pinged + TIMEOUT, start, false), KeepaliveStep::Dead);
    }

    #[test]
    fn any_byte_is_life() {
        let (mut keepalive, start) = keepalive();
        keepalive.due(start + INTERVAL, start, false);
        let life = start + INTERVAL + TIMEOUT / 2;
        assert_eq!(keepalive.deadline(life), Deadline::at(life + INTERVAL));
        assert!(matches!(keepalive.due(life + INTERVAL, life, false), KeepaliveStep::Ping(_)));
    }

    #[test]
    fn the_pong_clock_starts_when_the_ping_has_left() {
        let (mut keepalive, start) = keepalive();
        keepalive.due(start + INTERVAL, start, false);
        let late = start + INTERVAL + TIMEOUT;
        assert!(matches!(keepalive.due(late, start, true), KeepaliveStep::Ping(_)));
        assert_eq!(keepalive.deadline(start), Deadline::at(late + TIMEOUT));
    }

    #[test]
    fn a_foreign_pong_says_nothing_of_the_round_trip() {
        let (mut keepalive, start) = keepalive();
        let KeepaliveStep::Ping(payload) = keepalive.due(start, start, false) else {
            panic!("a ping is due")
        };
        assert_eq!(keepalive.pong(b"foreign", start + TIMEOUT), None);
        assert_eq!(keepalive.pong(&payload, start + TIMEOUT), Some(TIMEOUT));
    }
}
