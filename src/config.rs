//! Limits and timeouts, each with its default, unit and reason. No I/O.

use crate::error::{Error, Result};
use std::time::Duration;

/// `Config` holds the limits and timeouts of a connection, the same for both ends; everything that only a server has is a
/// method of [`Server`](crate::Server).
///
/// Every bound can be raised. None can be taken away, but for three clocks that zero stops: those of
/// [`ping_interval`](Self::ping_interval), without which a peer that vanished may be waited for for ever,
/// [`max_lifetime`](Self::max_lifetime) and [`idle_timeout`](Self::idle_timeout).
///
/// ```
/// use std::time::Duration;
/// use threadws::Config;
///
/// let config = Config::new().with_max_message_size(16 << 20).with_ping_interval(Duration::from_secs(5));
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) max_message_size: usize,
    pub(crate) max_backlog: usize,
    pub(crate) handshake_timeout: Duration,
    pub(crate) message_timeout: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) ping_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) max_lifetime: Duration,
    pub(crate) idle_timeout: Duration,
}

/// What becomes of a client that a broadcast finds with a full backlog: nobody waits for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlowPeer {
    /// Its connection is ended at once, and reported here as 1013: what it holds of the conversation would have a hole.
    #[default]
    Close,
    /// It misses the message, which is counted. For messages that the next one makes stale.
    Skip,
}

/// A request or response head: 16 KiB hold any cookie a browser sends, and no more is ever buffered.
pub(crate) const MAX_HEAD_SIZE: usize = 16 * 1024;
/// Header lines in a head. Browsers behind two proxies send about 30.
pub(crate) const MAX_HEADERS: usize = 100;

/// A clock that counts in days serves as "never" without overflowing an `Instant`.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The write timeout is granted once for each started piece of this size.
pub(crate) const WRITE_UNIT: usize = 1 << 20;

/// How long so many bytes may take to leave.
pub(crate) fn time_to_write(bytes: usize, write_timeout: Duration) -> Duration {
    let units = u32::try_from(bytes.div_ceil(WRITE_UNIT).max(1)).unwrap_or(u32::MAX);
    write_timeout.saturating_mul(units)
}

/// A read may wait so long in the system, where neither pings nor messages have a shorter time.
const MAX_READ_TIMEOUT: Duration = Duration::from_secs(30);

impl Config {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The largest message that is received, in bytes, after defragmentation. A larger one ends the connection with
    /// 1009, at the header that announces it. Defaults to 1 MiB.
    pub fn with_max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// How many bytes may wait for a peer that reads slowly, frame headers and bookkeeping included: what
    /// [`try_send`](crate::Sender::try_send), ticks and broadcasts may queue. If nothing waits, one message of any size
    /// may. A blocking [`send`](crate::Sender::send) is never refused, and what it waits with counts only below 1 KiB.
    /// Defaults to 1 MiB.
    pub fn with_max_backlog(mut self, bytes: usize) -> Self {
        self.max_backlog = bytes;
        self
    }

    /// How long the whole handshake may take. Defaults to 10 s.
    ///
    /// A server's clock starts when a thread takes the client over, a client's when it is called: names, connecting and
    /// redirects are in it. Callbacks are not interrupted, and one that takes longer costs the client nothing.
    pub fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How long one message may take from its first byte to its last; then the connection ends with 1008. Defaults to
    /// 30 s.
    pub fn with_message_timeout(mut self, timeout: Duration) -> Self {
        self.message_timeout = timeout;
        self
    }

    /// After how long a silence the peer is sent a ping; zero means never. A ping may leave up to a sixteenth later.
    /// Defaults to 20 s.
    pub fn with_ping_interval(mut self, interval: Duration) -> Self {
        self.ping_interval = interval;
        self
    }

    /// How long a peer may stay silent after a ping left; any byte is a sign of life. Defaults to 20 s.
    pub fn with_ping_timeout(mut self, timeout: Duration) -> Self {
        self.ping_timeout = timeout;
        self
    }

    /// How long a peer may take for each started MiB that waits for it; then it is dropped as a slow consumer.
    /// Defaults to 10 s.
    pub fn with_write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// How long the closing handshake may take, from the first Close to the end. Defaults to 5 s.
    pub fn with_close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// How long a connection may last, from the end of its handshake; zero means for ever. Then it is closed with 1001,
    /// "maximum lifetime", as by a shutdown: what the peer had sent before it closes, too, is still received, and
    /// [`recv`](crate::Connection::recv) gives `None` in the end. Defaults to zero.
    ///
    /// The reader keeps the clock: it runs out while a call receives, and for a handler that is busy elsewhere when it
    /// next receives. It may be late by a sixteenth of the shortest of all that a read waits for (this, the idle
    /// timeout, the ping interval, the message timeout, 30 s), so by less than 2 s.
    pub fn with_max_lifetime(mut self, time: Duration) -> Self {
        self.max_lifetime = time;
        self
    }

    /// After how long without a data message in either direction a connection is closed with 1001, "idle timeout"; zero
    /// means never. Defaults to zero.
    ///
    /// Messages count when they are received whole, and when they are sent or queued: ticks and broadcasts, too. Pings and
    /// pongs do not: a peer that is alive and has nothing to say is idle. A message that is arriving has
    /// [`message_timeout`](Self::message_timeout) instead, and one that waits for the peer
    /// [`write_timeout`](Self::write_timeout). The reader keeps the clock, as for
    /// [`max_lifetime`](Self::max_lifetime), and looks whether something has come before it closes.
    pub fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Refuses what cannot work, before anything is started.
    pub(crate) fn check(&self) -> Result<()> {
        if self.max_message_size == 0 {
            return Err(Error::invalid("max_message_size is 0"));
        }
        let timeouts = [
            ("handshake_timeout", self.handshake_timeout),
            ("message_timeout", self.message_timeout),
            ("ping_timeout", self.ping_timeout),
            ("write_timeout", self.write_timeout),
            ("close_timeout", self.close_timeout),
        ];
        for (name, timeout) in timeouts {
            if timeout.is_zero() {
                return Err(Error::invalid(format!("{name} is 0")));
            }
        }
        let may_be_zero = [
            ("ping_interval", self.ping_interval),
            ("max_lifetime", self.max_lifetime),
            ("idle_timeout", self.idle_timeout),
        ];
        for (name, timeout) in timeouts.into_iter().chain(may_be_zero) {
            if timeout > MAX_TIMEOUT {
                return Err(Error::invalid(format!("{name} is longer than a year")));
            }
        }
        Ok(())
    }

    /// The ping interval, if there is one.
    pub(crate) fn keepalive(&self) -> Option<Duration> {
        unless_zero(self.ping_interval)
    }

    /// The longest lifetime, if there is one.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        unless_zero(self.max_lifetime)
    }

    /// How long a read may wait in the system before somebody looks at the clocks.
    pub(crate) fn read_timeout(&self) -> Duration {
        let timeouts = [self.keepalive(), self.idle(), self.lifetime(), Some(self.message_timeout)];
        timeouts.into_iter().flatten().fold(MAX_READ_TIMEOUT, Duration::min)
    }

    /// The read timeout of a socket that was accepted just now: long enough for a client that does nothing to have had its
    /// time, so that neither its head nor its first message needs a timeout of its own.
    pub(crate) fn first_read_timeout(&self) -> Duration {
        self.read_timeout().min(self.handshake_timeout)
    }

    /// The idle timeout, if there is one.
    pub(crate) fn idle(&self) -> Option<Duration> {
        unless_zero(self.idle_timeout)
    }
}

fn unless_zero(time: Duration) -> Option<Duration> {
    (!time.is_zero()).then_some(time)
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_message_size: 1 << 20,
            max_backlog: 1 << 20,
            handshake_timeout: Duration::from_secs(10),
            message_timeout: Duration::from_secs(30),
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            max_lifetime: Duration::ZERO,
            idle_timeout: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_cannot_work_is_refused_by_name() {
        Config::default().check().expect("the defaults work");
        let broken = [
            (Config::new().with_max_message_size(0), "max_message_size"),
            (Config::new().with_write_timeout(Duration::ZERO), "write_timeout"),
            (Config::new().with_ping_interval(Duration::MAX), "ping_interval"),
            (Config::new().with_max_lifetime(Duration::MAX), "max_lifetime"),
            (Config::new().with_idle_timeout(Duration::MAX), "idle_timeout"),
        ];
        for (config, name) in broken {
            assert!(config.check().expect_err(name).to_string().contains(name));
        }
        Config::new().with_ping_interval(Duration::ZERO).check().expect("zero pings mean no pings");
    }
}
