//! [`Error`], the one type of all errors, and the close code of each.

use super::{Closed, Violation};
use crate::message::CloseCode;
use crate::request::Escaped;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of a handler: any error can be converted into it by `?`.
///
/// A handler that returns an error has its own client disconnected with 1011, and the error is logged. An error that only
/// reports the end of that client's connection is not logged.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// All errors of the library. [`is_fatal`](Error::is_fatal) returns whether the connection is over.
///
/// Errors display in lower case and without a full stop, and `Debug` shows the same sentence. Text from the peer in it is
/// escaped and cut off after 200 characters. Errors of [`connect`](crate::connect) and [`bind`](crate::Server::bind) name
/// the address or path.
#[non_exhaustive]
pub enum Error {
    /// The connection is over, or our Close was sent before. The message was not sent. If the connection ended during the
    /// call, part of its frame may be on the wire.
    Closed(Closed),
    /// The peer broke the protocol. It was sent a close code, and the connection is over.
    Violation(Violation),
    /// The peer's message, or the length that it announced, is larger than the limit. The connection was closed with 1009.
    MessageTooBig {
        /// The limit in bytes: [`Config::max_message_size`](crate::Config::max_message_size).
        limit: usize,
    },
    /// Something took too long: see [`Timeout`]. The connection is over, except after [`Timeout::Recv`],
    /// [`Timeout::Drained`] and [`Timeout::Count`], which are the caller's own timeouts.
    Timeout(Timeout),
    /// The server answered the handshake with another status than 101.
    Refused(Box<crate::request::Response>),
    /// The server is full or shutting down. The client that [`upgrade`](crate::ServerHandle::upgrade) was called for was
    /// answered 503.
    Unavailable,
    /// The queue is too full for the message of a [`try_send`](crate::Sender::try_send). Nothing was queued.
    Full,
    /// There is no whole message for a [`try_recv`](crate::Connection::try_recv).
    Empty,
    /// The client has already subscribed to as many topics as the limit. Nothing was done.
    TooManyTopics {
        /// The limit: [`Server::max_topics`](crate::Server::max_topics).
        limit: usize,
    },
    /// More messages came from the client's address, on all its connections, than the limit. This connection was closed
    /// with 1008.
    TooManyMessages {
        /// The limit: [`Server::message_rate`](crate::Server::message_rate).
        limit: u32,
        /// The time in which this many messages may come.
        per: Duration,
    },
    /// A setting or an argument cannot be used. Nothing was done.
    Invalid(Cow<'static, str>),
    /// The TLS handshake failed, or a certificate or key cannot be used. The text says what to change.
    Tls(Cow<'static, str>),
    /// An error of the operating system.
    Io(io::Error),
}

impl Error {
    /// Returns whether the connection that returned this error is over. After any other error it can still be used.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Closed(_)
            | Self::Violation(_)
            | Self::MessageTooBig { .. }
            | Self::TooManyMessages { .. }
            | Self::Refused(_)
            | Self::Unavailable
            | Self::Tls(_)
            | Self::Io(_) => true,
            Self::Timeout(timeout) => !matches!(timeout, Timeout::Recv | Timeout::Drained | Timeout::Count),
            Self::Full | Self::Empty | Self::TooManyTopics { .. } | Self::Invalid(_) => false,
        }
    }

    /// Returns the close code of a connection that ends because of this error. It is sent if a Close can still be sent.
    ///
    /// | error | code |
    /// | --- | --- |
    /// | [`Violation`](Error::Violation) | 1002, 1007 for text that is not UTF-8 and for invalid DEFLATE, 1008 for too many fragments |
    /// | [`MessageTooBig`](Error::MessageTooBig) | 1009 |
    /// | [`Timeout::Message`], [`TooManyMessages`](Error::TooManyMessages) | 1008 |
    /// | [`Timeout::Write`] | 1013: reported but not sent, because the peer does not read |
    /// | [`Timeout::Ping`], [`Timeout::Close`], [`Error::Tls`], [`Error::Io`] | 1006: nothing can be sent any more |
    /// | [`Closed`](Error::Closed) | the code that it ended with: 1013 after [`SlowPeer::Close`](crate::hub::SlowPeer::Close) |
    /// | any other, such as a handler's own | 1011 |
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Closed(closed) => closed.code(),
            Self::Violation(Violation::InvalidUtf8 | Violation::InvalidDeflate) => CloseCode::INVALID_PAYLOAD,
            Self::Violation(Violation::TooManyFragments)
            | Self::Timeout(Timeout::Message)
            | Self::TooManyMessages { .. } => CloseCode::POLICY_VIOLATION,
            Self::Violation(_) => CloseCode::PROTOCOL_ERROR,
            Self::MessageTooBig { .. } => CloseCode::MESSAGE_TOO_BIG,
            Self::Timeout(Timeout::Write) => CloseCode::TRY_AGAIN_LATER,
            Self::Timeout(Timeout::Ping | Timeout::Close) | Self::Tls(_) | Self::Io(_) => CloseCode::ABNORMAL,
            _ => CloseCode::INTERNAL_ERROR,
        }
    }

    /// Returns the reason that is sent with the code. The other codes need none.
    pub(crate) fn close_reason(&self) -> &'static str {
        match self {
            Self::TooManyMessages { .. } => "too many messages",
            _ => "",
        }
    }

    /// Returns a copy of the error of a setting, which is always [`Error::Invalid`].
    pub(crate) fn of_setting(&self) -> Self {
        match self {
            Self::Invalid(what) => Self::Invalid(what.clone()),
            other => Self::invalid(other.to_string()),
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Tls(what.into())
    }

    pub(crate) fn invalid(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid(what.into())
    }
}

/// The same sentence as `Display`, because `main` prints the error that it returns by `Debug`, and so does `unwrap`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(closed) => write!(f, "connection closed: {closed}"),
            Self::Violation(violation) => violation.fmt(f),
            Self::MessageTooBig { limit } => write!(f, "message larger than {limit} bytes"),
            Self::Timeout(timeout) => timeout.fmt(f),
            Self::Refused(response) => {
                write!(f, "handshake refused with {}", response.status())?;
                match String::from_utf8_lossy(response.body()).trim() {
                    "" => Ok(()),
                    body => write!(f, ": {}", Escaped(body)),
                }
            }
            Self::Unavailable => f.write_str("server is full or shutting down"),
            Self::Full => f.write_str("backlog full"),
            Self::Empty => f.write_str("no message waiting"),
            Self::TooManyTopics { limit } => write!(f, "more than {limit} topics"),
            Self::TooManyMessages { limit, per } => {
                write!(f, "more than {limit} messages in {per:?} from one address")
            }
            Self::Invalid(what) => write!(f, "invalid input: {what}"),
            Self::Tls(what) => write!(f, "TLS: {what}"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// `Display` shows the inner error, so the source is the inner error's source. A program that prints the whole chain prints
/// nothing twice.
impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => error.source(),
            _ => None,
        }
    }
}

/// Adds the place or the call to an error of the operating system, and keeps its kind.
pub(crate) fn context(place: impl fmt::Display, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{place}: {error}"))
}

/// An `io::Error` that was made from an error of this crate becomes that error again.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(Self::Io)
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// The timeout that expired. Each is named like its setting in [`Config`](crate::Config), except the last three, which are
/// arguments of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timeout {
    /// The whole handshake took too long.
    Handshake,
    /// One message took too long, from its first byte to its last.
    Message,
    /// The peer stayed silent after a ping.
    Ping,
    /// The peer did not read what was sent to it.
    Write,
    /// The peer did not finish the closing handshake.
    Close,
    /// The timeout of a [`recv_timeout`](crate::Connection::recv_timeout). The connection goes on.
    Recv,
    /// The timeout of a [`wait_drained`](crate::Sender::wait_drained). The connection goes on.
    Drained,
    /// The timeout of a [`wait_count`](crate::Hub::wait_count).
    Count,
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake => "handshake timed out",
            Self::Message => "message timed out before its end",
            Self::Ping => "no sign of life after a ping",
            Self::Write => "write timed out: the peer reads too slowly",
            Self::Close => "closing handshake timed out",
            Self::Recv => "no message in time",
            Self::Drained => "the backlog did not drain in time",
            Self::Count => "another number of clients when the time was up",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_shown_by_its_status_and_the_start_of_its_body() {
        let mut response = http::Response::new([b" it's\x1b[2J\r\n\xff".to_vec(), vec![b'x'; 1000]].concat());
        *response.status_mut() = http::StatusCode::FORBIDDEN;
        response.headers_mut().insert("set-cookie", http::HeaderValue::from_static("secret"));
        let error = Error::Refused(Box::new(response));
        let shown = format!("{error:?}");
        assert!(
            shown.starts_with("handshake refused with 403 Forbidden: it's\\u{1b}[2J\\r\\n\u{fffd}xxx"),
            "{shown}"
        );
        assert!(shown.ends_with("x...") && shown.len() < 300 && !shown.contains("secret"), "{shown}");
        assert_eq!(error.to_string(), shown);
        let empty = Error::Refused(Box::default());
        assert_eq!(empty.to_string(), "handshake refused with 200 OK");
    }

    /// An error is part of every `Result` on the hot path. Other systems have other sizes of the types of std.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn an_error_has_four_words() {
        assert_eq!(size_of::<Error>(), 32);
    }

    #[test]
    fn a_printed_chain_of_errors_says_nothing_twice() {
        let inner = io::Error::other("the disk is full");
        let errors = [
            Error::Io(io::Error::other("no route")),
            Error::Io(io::ErrorKind::BrokenPipe.into()),
            Error::Io(io::Error::other(Error::Io(inner))),
            Error::Violation(Violation::UnmaskedFrame),
            Error::Timeout(Timeout::Write),
        ];
        for error in &errors {
            let chain = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
            let lines: Vec<String> = chain.map(ToString::to_string).collect();
            assert_eq!(lines, [error.to_string()]);
        }
    }

    #[test]
    fn errors_that_are_the_callers_leave_the_connection_usable() {
        let timeouts = [Timeout::Recv, Timeout::Drained, Timeout::Count].map(Error::Timeout);
        let others = [Error::Full, Error::Empty, Error::TooManyTopics { limit: 1 }, Error::invalid("x")];
        for error in timeouts.into_iter().chain(others) {
            assert!(!error.is_fatal(), "{error}");
        }
        assert!(Error::Timeout(Timeout::Write).is_fatal());
    }
}
