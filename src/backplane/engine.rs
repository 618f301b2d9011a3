//! The traits of an engine, which carries bytes between servers.

use std::fmt;
use std::io;
use std::time::Duration;

/// Carries bytes between servers, such as a Redis server does.
///
/// An engine has channels. A link may lose messages if it breaks. It never reorders or changes them.
///
/// An implementation has no thread, queue, retry or number of its own, because [`Backplane`](super::Backplane) has them. It
/// connects, writes commands, and reads events. Its `Display` is for the log, without passwords.
pub trait Engine: Send + Sync + fmt::Display + 'static {
    /// Connects. Called again after each loss, so names are resolved again.
    ///
    /// `name` is a short name for this connection, such as `threadws:1f00a2`.
    ///
    /// # Errors
    ///
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) means that another attempt fails, too, until the engine is
    /// configured otherwise. It is made only after 5 seconds then.
    fn connect(
        &self,
        name: &str,
        timeout: Duration,
    ) -> io::Result<(Box<dyn LinkWriter>, Box<dyn LinkReader>)>;
}

/// The half of a link that sends commands. One thread calls it.
///
/// Each call may buffer until [`flush`](Self::flush). Each returns an error instead of waiting longer than the timeout of
/// [`Engine::connect`].
pub trait LinkWriter: Send {
    /// Asks for the messages of these channels. Answered by an [`LinkEvent::Subscribed`] for each.
    ///
    /// # Errors
    ///
    /// The link is broken.
    fn subscribe(&mut self, channels: &[&str]) -> io::Result<()>;

    /// Ends these subscriptions. Answered by an [`LinkEvent::Unsubscribed`] for each.
    ///
    /// # Errors
    ///
    /// The link is broken.
    fn unsubscribe(&mut self, channels: &[&str]) -> io::Result<()>;

    /// Publishes `head` and `body` as one message. Answered by an [`LinkEvent::Published`].
    ///
    /// # Errors
    ///
    /// The link is broken.
    fn publish(&mut self, channel: &str, head: &[u8], body: &[u8]) -> io::Result<()>;

    /// Asks for an [`LinkEvent::Pong`].
    ///
    /// # Errors
    ///
    /// The link is broken.
    fn ping(&mut self) -> io::Result<()>;

    /// Sends what is buffered.
    ///
    /// # Errors
    ///
    /// The link is broken.
    fn flush(&mut self) -> io::Result<()>;

    /// Ends the link. [`LinkReader::read`] returns an error soon.
    fn end(&mut self);
}

/// The half of a link that receives events. One thread calls it.
pub trait LinkReader: Send {
    /// Waits at most `timeout` for events, and calls `receive` for each that is there.
    ///
    /// # Errors
    ///
    /// The link is broken.
    fn read(&mut self, timeout: Duration, receive: &mut dyn FnMut(LinkEvent<'_>)) -> io::Result<()>;
}

/// Something that a link received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEvent<'a> {
    /// A message on a channel.
    Message {
        /// The channel.
        channel: &'a str,
        /// The head and the body.
        payload: &'a [u8],
    },
    /// From now on, every message of this channel is received.
    Subscribed {
        /// The channel.
        channel: &'a str,
    },
    /// A subscription has ended.
    Unsubscribed {
        /// The channel.
        channel: &'a str,
    },
    /// The engine has taken the oldest message that was published on this link and not yet answered.
    Published,
    /// The answer to the oldest [`ping`](LinkWriter::ping).
    Pong,
    /// The engine refuses a command. The link is left, and tried again after 5 seconds.
    Refused {
        /// The reason, in the words of the engine.
        why: &'a str,
    },
}
