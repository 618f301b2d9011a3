//! Limits and timeouts, each with its default, unit and reason. No I/O.

use crate::deflate::Deflate;
use crate::error::{Error, Result};
use std::time::Duration;

/// The limits and timeouts of a connection.
///
/// `Config` holds the limits and timeouts of a connection, the same for both ends; everything that only a server has is a
/// method of [`Server`](crate::Server).
///
/// Every limit can be raised, and none can be removed. Four times can be turned off by `None`:
/// [`ping_interval`](Self::with_ping_interval), [`max_close_time`](Self::with_max_close_time),
/// [`max_lifetime`](Self::with_max_lifetime) and [`idle_timeout`](Self::with_idle_timeout). Without pings, a peer that
/// vanishes may never be noticed.
///
/// A value that cannot work is refused by [`Server::run`](crate::Server::run), [`Server::spawn`](crate::Server::spawn) and
/// [`Connect::connect`](crate::Connect::connect) with [`Error::Invalid`], which names the setting: a message size of 0,
/// a head size below 1 KiB, and a duration below a millisecond or longer than a year.
///
/// ```
/// use std::time::Duration;
/// use threadws::{Config, Server};
///
/// # fn main() -> threadws::Result<()> {
/// let config = Config::new()
///     .with_max_message_size(16 << 20)
///     .with_ping_interval(Duration::from_secs(5))
///     .with_idle_timeout(Duration::from_secs(600));
/// assert_eq!(config.ping_interval(), Some(Duration::from_secs(5)));
/// assert_eq!(config.max_lifetime(), None);
/// let server = Server::bind("127.0.0.1:0")?.config(config);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    max_message_size: usize,
    max_backlog: usize,
    max_head_size: usize,
    handshake_timeout: Duration,
    message_timeout: Duration,
    ping_interval: Option<Duration>,
    ping_timeout: Duration,
    write_timeout: Duration,
    close_timeout: Duration,
    max_close_time: Option<Duration>,
    max_lifetime: Option<Duration>,
    idle_timeout: Option<Duration>,
    deflate: Option<Deflate>,
}

/// The action of a server for a client whose queue is too full for a broadcast or published message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlowPeer {
    /// Disconnects the client at once, and reports close code 1013. The client would otherwise miss a message without
    /// knowing it.
    #[default]
    Close,
    /// Drops the message for this client, and counts it. For messages that the next one makes obsolete.
    Skip,
}

/// The default of [`Config::max_head_size`]: 16 KiB hold any cookie that a browser sends.
pub(crate) const MAX_HEAD_SIZE: usize = 16 * 1024;
/// Header lines in a head. Browsers behind two proxies send about 30.
pub(crate) const MAX_HEADERS: usize = 100;

/// The smallest limit for a head, in bytes. Every browser's request fits.
const MIN_HEAD_SIZE: usize = 1024;

/// The shortest timeout. With less, the server would start and disconnect every client.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
/// The longest timeout. A year serves as "never", and overflows no `Instant`.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The write timeout and the message timeout are granted once for each started piece of this size.
pub(crate) const TIMEOUT_UNIT: usize = 1 << 20;

/// Returns how long this many bytes may take to leave or to arrive.
pub(crate) fn time_for(bytes: usize, timeout: Duration) -> Duration {
    let units = u32::try_from(bytes.div_ceil(TIMEOUT_UNIT).max(1)).unwrap_or(u32::MAX);
    timeout.saturating_mul(units)
}

/// The longest wait in one read, where neither pings nor messages need a shorter one.
const MAX_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// # Sizes
impl Config {
    /// Returns the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the largest message that is received, in bytes, after its fragments are joined.
    ///
    /// A larger message closes the connection with 1009, at the frame header that announces it. Defaults to 1 MiB.
    pub fn with_max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// Sets how many bytes can be queued for a peer that reads slowly, frame headers and bookkeeping included.
    ///
    /// The limit applies to [`try_send`](crate::Sender::try_send), ticks and broadcasts. An empty queue takes one message
    /// of any size. A blocking [`send`](crate::Sender::send) is never refused: a message below 1 KiB that it waits for is
    /// counted, and a larger one is not. Defaults to 1 MiB.
    pub fn with_max_backlog(mut self, bytes: usize) -> Self {
        self.max_backlog = bytes;
        self
    }

    /// Sets the largest head of a request or a response that is received, in bytes: its first line and its headers.
    ///
    /// A server answers a larger request with 431, or with 414 if the request line alone is larger. A client fails
    /// with [`Error::Io`] for a larger response. Defaults to 16 KiB.
    pub fn with_max_head_size(mut self, bytes: usize) -> Self {
        self.max_head_size = bytes;
        self
    }
}

/// # Compression
impl Config {
    /// Turns compression (permessage-deflate, RFC 7692) on, with these settings, or off. It is used with each peer that has it,
    /// too: see [`deflate`](crate::deflate). It needs the feature `deflate`, which is on by default.
    ///
    /// Compression takes processor time, and the length of a compressed message says something about its contents: see
    /// "Compression" in [`guide::security`](crate::guide::security). Defaults to `None`, which is off.
    pub fn with_deflate(mut self, deflate: impl Into<Option<Deflate>>) -> Self {
        self.deflate = deflate.into();
        self
    }
}

/// # Timeouts
impl Config {
    /// Sets how long the whole handshake may take.
    ///
    /// On a server the time starts when a thread takes the client over. On a client it starts with the call, so it
    /// includes name resolution, connecting and redirects. Callbacks are not interrupted, and the time that they take is
    /// not held against the client. Defaults to 10 s.
    pub fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets how long one message may take from its first byte, for each started MiB of it that has arrived.
    ///
    /// Then the connection is closed with 1008. So a peer can occupy memory for this time, once for each MiB of
    /// [`max_message_size`](Self::with_max_message_size), and a message of 8 MiB needs 35 KB a second. The time runs only
    /// while the handler receives. Defaults to 30 s.
    pub fn with_message_timeout(mut self, timeout: Duration) -> Self {
        self.message_timeout = timeout;
        self
    }

    /// Sets how long a peer may take for each started MiB that is queued for it.
    ///
    /// Then it is disconnected as a slow peer. The time starts when the socket accepts no more, for the bytes that are queued
    /// at that moment. When those have left, it starts anew for the bytes that were queued meanwhile. Defaults to 10 s.
    pub fn with_write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// Sets how long the closing handshake may take, from the first Close to the end.
    ///
    /// The time starts anew with each message that the caller receives after our Close, and while a message arrives, because
    /// such a peer is still at work. [`max_close_time`](Self::with_max_close_time) limits the total.
    /// [`Connection::close`](crate::Connection::close) discards messages, so it waits for this time once. Defaults to 5 s.
    pub fn with_close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Sets how long the closing handshake may take in total if the caller still receives messages, or `None` for no limit.
    ///
    /// Without a limit, a peer that sends messages and never its Close can keep the connection open until the caller calls
    /// [`Connection::close`](crate::Connection::close). At least [`close_timeout`](Self::with_close_timeout) is granted.
    /// Defaults to 60 s.
    pub fn with_max_close_time(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.max_close_time = time.into();
        self
    }
}

/// # Keepalive and age
impl Config {
    /// Sets how long the peer can be silent before it is sent a ping, or turns pings off.
    ///
    /// A ping may leave up to a sixteenth of this time later. Without pings, a peer that vanishes may never be noticed.
    /// Defaults to 20 s.
    pub fn with_ping_interval(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.ping_interval = interval.into();
        self
    }

    /// Sets how long a peer can stay silent after a ping has left. Any byte is a sign of life. Defaults to 20 s.
    pub fn with_ping_timeout(mut self, timeout: Duration) -> Self {
        self.ping_timeout = timeout;
        self
    }

    /// Sets after how long without a data message in either direction a connection is closed with 1001, "idle timeout",
    /// or `None` for no limit.
    ///
    /// A message counts when it is received whole, and when it is sent or queued; ticks and broadcasts count, pings and
    /// pongs do not. While a message arrives, [`message_timeout`](Self::with_message_timeout) applies instead. While one
    /// is queued for the peer, [`write_timeout`](Self::with_write_timeout) does. The thread that receives checks the time,
    /// as for [`max_lifetime`](Self::with_max_lifetime), and reads once more before it closes. Defaults to `None`.
    pub fn with_idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = timeout.into();
        self
    }

    /// Sets how long a connection can last, from the end of its handshake, or `None` for no limit.
    ///
    /// Then it is closed with 1001, "maximum lifetime", as by a shutdown. Messages that the peer sent before its own Close
    /// are still received, and [`recv`](crate::Connection::recv) returns `None` in the end.
    ///
    /// The thread that receives checks the time: during a receiving call, or when a busy handler next receives. It may be
    /// late by less than 2 s: by a sixteenth of the shortest time that a read waits for. These times are this one, the
    /// idle timeout, the ping interval, the message timeout, and 30 s. Defaults to `None`.
    pub fn with_max_lifetime(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.max_lifetime = time.into();
        self
    }
}

/// # Values
impl Config {
    /// Returns the largest message that is received, in bytes.
    pub fn max_message_size(&self) -> usize {
        self.max_message_size
    }

    /// Returns how many bytes can be queued for a peer that reads slowly.
    pub fn max_backlog(&self) -> usize {
        self.max_backlog
    }

    /// Returns the largest head of a request or a response that is received, in bytes.
    pub fn max_head_size(&self) -> usize {
        self.max_head_size
    }

    /// Returns the settings of compression; `None` if it is off.
    pub fn deflate(&self) -> Option<&Deflate> {
        self.deflate.as_ref()
    }

    /// Returns how long the whole handshake may take.
    pub fn handshake_timeout(&self) -> Duration {
        self.handshake_timeout
    }

    /// Returns how long one message may take from its first byte, for each started MiB of it that has arrived.
    pub fn message_timeout(&self) -> Duration {
        self.message_timeout
    }

    /// Returns how long a peer may take for each started MiB that is queued for it.
    pub fn write_timeout(&self) -> Duration {
        self.write_timeout
    }

    /// Returns how long the closing handshake may take without a message.
    pub fn close_timeout(&self) -> Duration {
        self.close_timeout
    }

    /// Returns how long the closing handshake may take in total; `None` if there is no limit.
    pub fn max_close_time(&self) -> Option<Duration> {
        self.max_close_time
    }

    /// Returns how long the peer can be silent before it is sent a ping; `None` if pings are off.
    pub fn ping_interval(&self) -> Option<Duration> {
        self.ping_interval
    }

    /// Returns how long a peer can stay silent after a ping has left.
    pub fn ping_timeout(&self) -> Duration {
        self.ping_timeout
    }

    /// Returns after how long without a data message a connection is closed; `None` if there is no limit.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.idle_timeout
    }

    /// Returns how long a connection can last; `None` if there is no limit.
    pub fn max_lifetime(&self) -> Option<Duration> {
        self.max_lifetime
    }
}

impl Config {
    /// Refuses settings that cannot work, before anything is started.
    pub(crate) fn check(&self) -> Result<()> {
        if self.max_message_size == 0 {
            return Err(Error::invalid("max_message_size is 0"));
        }
        if self.max_head_size < MIN_HEAD_SIZE {
            return Err(Error::invalid("max_head_size is less than 1 KiB"));
        }
        self.deflate.as_ref().map_or(Ok(()), Deflate::check)?;
        let times = [
            ("handshake_timeout", Some(self.handshake_timeout), ""),
            ("message_timeout", Some(self.message_timeout), ""),
            ("ping_interval", self.ping_interval, ": use None to turn it off"),
            ("ping_timeout", Some(self.ping_timeout), ""),
            ("write_timeout", Some(self.write_timeout), ""),
            ("close_timeout", Some(self.close_timeout), ""),
            ("max_close_time", self.max_close_time, ": use None to turn it off"),
            ("max_lifetime", self.max_lifetime, ": use None to turn it off"),
            ("idle_timeout", self.idle_timeout, ": use None to turn it off"),
        ];
        for (name, time, advice) in times {
            let Some(time) = time else { continue };
            if time.is_zero() {
                return Err(Error::invalid(format!("{name} is 0{advice}")));
            }
            if time < MIN_TIMEOUT {
                return Err(Error::invalid(format!("{name} is shorter than a millisecond")));
            }
            if time > MAX_TIMEOUT {
                return Err(Error::invalid(format!("{name} is longer than a year")));
            }
        }
        Ok(())
    }

    /// Returns how long a read may wait in the system before the deadlines are checked.
    pub(crate) fn read_timeout(&self) -> Duration {
        let times = [self.ping_interval, self.idle_timeout, self.max_lifetime, Some(self.message_timeout)];
        times.into_iter().flatten().fold(MAX_READ_TIMEOUT, Duration::min)
    }

    /// Returns the read timeout of a socket that was accepted just now. It is at most the handshake timeout, so neither
    /// the head nor the first message needs a timeout of its own.
    pub(crate) fn first_read_timeout(&self) -> Duration {
        self.read_timeout().min(self.handshake_timeout)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_message_size: 1 << 20,
            max_backlog: 1 << 20,
            max_head_size: MAX_HEAD_SIZE,
            handshake_timeout: Duration::from_secs(10),
            message_timeout: Duration::from_secs(30),
            ping_interval: Some(Duration::from_secs(20)),
            ping_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            max_close_time: Some(Duration::from_secs(60)),
            max_lifetime: None,
            idle_timeout: None,
            deflate: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_cannot_work_is_refused_by_name() {
        Config::default().check().expect("the defaults work");
        let (new, zero, longest) = (Config::new, Duration::ZERO, Duration::MAX);
        let broken = [
            (new().with_max_message_size(0), "max_message_size is 0"),
            (new().with_max_head_size(1023), "max_head_size is less than 1 KiB"),
            (new().with_handshake_timeout(zero), "handshake_timeout is 0"),
            (new().with_message_timeout(zero), "message_timeout is 0"),
            (new().with_ping_interval(zero), "ping_interval is 0: use None to turn it off"),
            (new().with_ping_timeout(zero), "ping_timeout is 0"),
            (new().with_write_timeout(zero), "write_timeout is 0"),
            (new().with_close_timeout(zero), "close_timeout is 0"),
            (new().with_max_close_time(zero), "max_close_time is 0: use None to turn it off"),
            (new().with_max_lifetime(zero), "max_lifetime is 0: use None to turn it off"),
            (new().with_idle_timeout(zero), "idle_timeout is 0: use None to turn it off"),
            (new().with_ping_timeout(Duration::from_nanos(1)), "ping_timeout is shorter than a millisecond"),
            (new().with_ping_interval(longest), "ping_interval is longer than a year"),
            (new().with_max_lifetime(longest), "max_lifetime is longer than a year"),
            (new().with_idle_timeout(longest), "idle_timeout is longer than a year"),
        ];
        for (config, expected) in broken {
            let error = config.check().expect_err(expected).to_string();
            assert_eq!(error, format!("invalid input: {expected}"));
        }
        new().with_ping_interval(None).check().expect("pings can be turned off");
        new().with_max_head_size(1024).check().expect("1 KiB is enough");
    }
}
