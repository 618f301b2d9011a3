//! What can go wrong, and the one table from an error to its close code.

use crate::message::{CloseCode, CloseFrame};
use crate::stats::Traffic;
use crate::sync::Arc;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a handler may end with: any error. It closes its own client with 1011 and nobody else; one that is only the end
/// of that client's connection is no failure.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How much of a refusal's body a `{:?}` shows.
const MAX_SHOWN: usize = 200;

/// Everything that can go wrong. [`is_fatal`](Error::is_fatal) tells whether the connection is over.
#[non_exhaustive]
pub enum Error {
    /// The connection is closed, or a Close went out before. What was to be sent is not, but for a part of its frame if
    /// it ended meanwhile.
    Closed(Closed),
    /// The peer broke the protocol. It was told by the close code, and the connection is over.
    Violation(Violation),
    /// The peer's message, or its announced length, is larger than the limit. It was told 1009.
    MessageTooBig {
        /// The limit in bytes: [`Config::max_message_size`](crate::Config::max_message_size).
        limit: usize,
    },
    /// Something took too long; the name says which clock ran out. The connection is over, unless it was the caller's
    /// own: [`Timeout::Recv`], [`Timeout::Drained`].
    Timeout(Timeout),
    /// The other end answered the handshake with something else than 101.
    Refused(Box<crate::Response>),
    /// A server has no place for another client, or stops. Whom it was [asked](crate::ServerHandle::upgrade) to take was
    /// answered 503.
    Unavailable,
    /// [`try_send`](crate::Sender::try_send) found the backlog full. Nothing was queued.
    Full,
    /// [`try_recv`](crate::Connection::try_recv) found no whole message.
    Empty,
    /// A client would be subscribed to more topics than the limit. Nothing was done.
    TooManyTopics {
        /// The limit: [`Server::max_topics`](crate::Server::max_topics).
        limit: usize,
    },
    /// More messages came from the client's address, on all its connections, than the limit. This one was told 1008.
    TooManyMessages {
        /// The limit: [`Server::message_rate`](crate::Server::message_rate).
        limit: u32,
        /// The time in which they may come.
        per: Duration,
    },
    /// A setting or an argument that cannot be used. Nothing was done with it.
    Invalid(Cow<'static, str>),
    /// The operating system said no.
    Io(io::Error),
}

// An error is part of every `Result` on the hot path.
const _: () = assert!(size_of::<Error>() <= 32);

impl Error {
    /// Whether the connection that gave this error is over. After any other error it can be used on.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Closed(_)
            | Self::Violation(_)
            | Self::MessageTooBig { .. }
            | Self::TooManyMessages { .. }
            | Self::Refused(_)
            | Self::Unavailable
            | Self::Io(_) => true,
            Self::Timeout(timeout) => !matches!(timeout, Timeout::Recv | Timeout::Drained),
            Self::Full | Self::Empty | Self::TooManyTopics { .. } | Self::Invalid(_) => false,
        }
    }

    /// The code that a connection ends with because of this error: on the wire where one can still be sent.
    ///
    /// | error | code |
    /// | --- | --- |
    /// | [`Violation`](Error::Violation) | 1002, 1007 for text that is not UTF-8, 1008 for too many fragments |
    /// | [`MessageTooBig`](Error::MessageTooBig) | 1009 |
    /// | [`Timeout::Message`], [`TooManyMessages`](Error::TooManyMessages) | 1008 |
    /// | [`Timeout::Write`] | 1013: kept for the report, the peer does not read |
    /// | [`Timeout::Ping`], [`Timeout::Close`], [`Error::Io`] | 1006: nothing can be sent any more |
    /// | [`Closed`](Error::Closed) | the code it ended with: 1013 after [`SlowPeer::Close`](crate::SlowPeer::Close) |
    /// | any other, so a handler's own | 1011 |
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Closed(closed) => closed.code(),
            Self::Violation(Violation::InvalidUtf8) => CloseCode::INVALID_PAYLOAD,
            Self::Violation(Violation::TooManyFragments)
            | Self::Timeout(Timeout::Message)
            | Self::TooManyMessages { .. } => CloseCode::POLICY_VIOLATION,
            Self::Violation(_) => CloseCode::PROTOCOL_ERROR,
            Self::MessageTooBig { .. } => CloseCode::MESSAGE_TOO_BIG,
            Self::Timeout(Timeout::Write) => CloseCode::TRY_AGAIN_LATER,
            Self::Timeout(Timeout::Ping | Timeout::Close) | Self::Io(_) => CloseCode::ABNORMAL,
            _ => CloseCode::INTERNAL_ERROR,
        }
    }

    /// What a peer is told beside the code. The other codes say enough.
    pub(crate) fn close_reason(&self) -> &'static str {
        match self {
            Self::TooManyMessages { .. } => "too many messages",
            _ => "",
        }
    }

    pub(crate) fn invalid(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid(what.into())
    }
}

/// As derived, but of a refusal only the status and the start of the body: its headers may set cookies, and `main` shows
/// what it returns by this.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(closed) => f.debug_tuple("Closed").field(closed).finish(),
            Self::Violation(violation) => f.debug_tuple("Violation").field(violation).finish(),
            Self::MessageTooBig { limit } => f.debug_struct("MessageTooBig").field("limit", limit).finish(),
            Self::Timeout(timeout) => f.debug_tuple("Timeout").field(timeout).finish(),
            Self::Refused(response) => {
                let body = response.body();
                let shown = body.get(..MAX_SHOWN).unwrap_or(body);
                f.debug_struct("Refused")
                    .field("status", &response.status().as_u16())
                    .field("body", &String::from_utf8_lossy(shown))
                    .finish_non_exhaustive()
            }
            Self::Unavailable => f.write_str("Unavailable"),
            Self::Full => f.write_str("Full"),
            Self::Empty => f.write_str("Empty"),
            Self::TooManyTopics { limit } => f.debug_struct("TooManyTopics").field("limit", limit).finish(),
            Self::TooManyMessages { limit, per } => {
                f.debug_struct("TooManyMessages").field("limit", limit).field("per", per).finish()
            }
            Self::Invalid(what) => f.debug_tuple("Invalid").field(what).finish(),
            Self::Io(error) => f.debug_tuple("Io").field(error).finish(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(closed) => write!(f, "connection closed: {closed}"),
            Self::Violation(violation) => violation.fmt(f),
            Self::MessageTooBig { limit } => write!(f, "message larger than {limit} bytes"),
            Self::Timeout(timeout) => timeout.fmt(f),
            Self::Refused(response) => write!(f, "handshake refused with status {}", response.status()),
            Self::Unavailable => f.write_str("the server is full, or stops"),
            Self::Full => f.write_str("backlog full"),
            Self::Empty => f.write_str("no message waiting"),
            Self::TooManyTopics { limit } => write!(f, "more than {limit} topics"),
            Self::TooManyMessages { limit, per } => {
                write!(f, "more than {limit} messages in {per:?} from one address")
            }
            Self::Invalid(what) => write!(f, "invalid input: {what}"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// What is inside is shown by `Display`, so the source is what that comes of: whoever prints a whole chain prints nothing
/// twice.
impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => error.source(),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// Which rule of RFC 6455 the peer broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Violation {
    /// A client's frame without a mask (§5.1).
    UnmaskedFrame,
    /// A server's frame with a mask (§5.1).
    MaskedFrame,
    /// A reserved bit without an extension that gives it a meaning (§5.2).
    ReservedBit,
    /// A reserved opcode (§5.2).
    ReservedOpcode(u8),
    /// A length in more bytes than it needs (§5.2).
    NonMinimalLength,
    /// A 64-bit length with the top bit set (§5.2).
    LengthOverflow,
    /// A continuation frame without a message to continue (§5.4).
    UnexpectedContinuation,
    /// A new message inside a fragmented one (§5.4).
    ExpectedContinuation,
    /// More fragments in a message than a sane peer sends: 4096 and one for each 16 bytes received.
    TooManyFragments,
    /// A control frame in fragments (§5.5).
    FragmentedControl,
    /// A control frame of more than 125 bytes (§5.5).
    OversizeControl,
    /// A Close frame of one byte (§5.5.1).
    TruncatedClose,
    /// A close code that may not stand on the wire (§7.4).
    InvalidCloseCode(u16),
    /// Text, or a close reason, that is not UTF-8 (§8.1).
    InvalidUtf8,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnmaskedFrame => "unmasked frame from a client",
            Self::MaskedFrame => "masked frame from a server",
            Self::ReservedBit => "reserved bit set",
            Self::ReservedOpcode(opcode) => return write!(f, "reserved opcode {opcode}"),
            Self::NonMinimalLength => "length not encoded in the fewest bytes",
            Self::LengthOverflow => "length with the top bit set",
            Self::UnexpectedContinuation => "continuation frame without a message",
            Self::ExpectedContinuation => "new message inside a fragmented one",
            Self::TooManyFragments => "too many fragments in a message",
            Self::FragmentedControl => "fragmented control frame",
            Self::OversizeControl => "control frame larger than 125 bytes",
            Self::TruncatedClose => "close frame of one byte",
            Self::InvalidCloseCode(code) => return write!(f, "invalid close code {code}"),
            Self::InvalidUtf8 => "text is not valid UTF-8",
        })
    }
}

impl std::error::Error for Violation {}

/// Which clock ran out. Each is named like its setting in [`Config`](crate::Config), but for the caller's own two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timeout {
    /// The whole handshake.
    Handshake,
    /// One message, from its first byte to its last.
    Message,
    /// The peer stayed silent after a ping.
    Ping,
    /// The peer did not take what was sent: a slow consumer.
    Write,
    /// The peer did not finish the closing handshake.
    Close,
    /// The caller's own timeout, in [`recv_timeout`](crate::Connection::recv_timeout). The connection goes on.
    Recv,
    /// The caller's own timeout, of [`wait_drained`](crate::Sender::wait_drained). The connection goes on.
    Drained,
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
        })
    }
}

/// How a connection ended: who closed, both codes and reasons, cleanly or not, how long it lived, how much it moved.
#[derive(Debug, Clone)]
pub struct Closed(Arc<Ending>);

/// The facts behind a [`Closed`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    /// The peer's Close, and what it carried.
    pub(crate) received: Option<Option<CloseFrame>>,
    /// Our Close, and what it carried.
    pub(crate) sent: Option<Option<CloseFrame>>,
    /// Whether the peer's Close came before ours was queued.
    pub(crate) by_peer: bool,
    /// What ended it, if it was not a closing handshake.
    pub(crate) cause: Option<Cause>,
    pub(crate) lifetime: Duration,
    pub(crate) traffic: Traffic,
}

/// Why a connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The peer's end of stream, without a Close.
    Eof,
    Io(io::ErrorKind),
    Timeout(Timeout),
    /// A broadcast found the backlog full, and the policy is to close.
    SlowPeer,
    Violation(Violation),
    MessageTooBig {
        limit: usize,
    },
    TooManyMessages {
        limit: u32,
        per: Duration,
    },
    /// [`Sender::terminate`](crate::Sender::terminate), or a shutdown that could not wait.
    Terminated,
}

impl Cause {
    /// The error that whoever asks next is given; `None` if it is best told as "closed".
    pub(crate) fn to_error(self) -> Option<Error> {
        match self {
            Self::Timeout(timeout) => Some(Error::Timeout(timeout)),
            Self::Violation(violation) => Some(Error::Violation(violation)),
            Self::MessageTooBig { limit } => Some(Error::MessageTooBig { limit }),
            Self::TooManyMessages { limit, per } => Some(Error::TooManyMessages { limit, per }),
            Self::Eof | Self::Io(_) | Self::SlowPeer | Self::Terminated => None,
        }
    }

    /// What is told to the peer, if it is told anything.
    pub(crate) fn from_error(error: &Error) -> Self {
        match error {
            Error::Violation(violation) => Self::Violation(*violation),
            Error::MessageTooBig { limit } => Self::MessageTooBig { limit: *limit },
            Error::TooManyMessages { limit, per } => Self::TooManyMessages { limit: *limit, per: *per },
            Error::Timeout(timeout) => Self::Timeout(*timeout),
            Error::Io(error) => Self::Io(error.kind()),
            _ => Self::Terminated,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eof => f.write_str("end of stream"),
            Self::Io(kind) => kind.fmt(f),
            Self::Terminated => f.write_str("terminated"),
            Self::SlowPeer => f.write_str("slow peer: its backlog was full"),
            Self::Timeout(timeout) => timeout.fmt(f),
            Self::Violation(violation) => violation.fmt(f),
            Self::MessageTooBig { limit } => Error::MessageTooBig { limit: *limit }.fmt(f),
            Self::TooManyMessages { limit, per } => {
                Error::TooManyMessages { limit: *limit, per: *per }.fmt(f)
            }
        }
    }
}

impl Closed {
    pub(crate) fn new(ending: Ending) -> Self {
        Self(Arc::new(ending))
    }

    /// The code as the WebSocket API tells it (RFC 6455 §7.1.5): the peer's; 1005 if its Close carried none; 1006 if no
    /// Close came. The one exception: a peer that was dropped because it reads too slowly is reported as 1013.
    pub fn code(&self) -> CloseCode {
        match (&self.0.received, self.0.cause) {
            (Some(Some(frame)), _) => frame.code,
            (Some(None), _) => CloseCode::NO_STATUS,
            (None, Some(Cause::SlowPeer | Cause::Timeout(Timeout::Write))) => CloseCode::TRY_AGAIN_LATER,
            (None, _) => CloseCode::ABNORMAL,
        }
    }

    /// The peer's reason; empty if there was none. A peer wrote it: escape it before you log it.
    pub fn reason(&self) -> &str {
        self.received().map_or("", |frame| &frame.reason)
    }

    /// What the peer's Close carried.
    pub fn received(&self) -> Option<&CloseFrame> {
        self.0.received.as_ref()?.as_ref()
    }

    /// What our Close carried.
    pub fn sent(&self) -> Option<&CloseFrame> {
        self.0.sent.as_ref()?.as_ref()
    }

    /// Whether the peer's Close came first.
    pub fn by_peer(&self) -> bool {
        self.0.by_peer
    }

    /// Whether a Close went both ways (RFC 6455 §7.1.4).
    pub fn is_clean(&self) -> bool {
        self.0.received.is_some() && self.0.sent.is_some()
    }

    /// From the end of the handshake to the end of the connection.
    pub fn lifetime(&self) -> Duration {
        self.0.lifetime
    }

    /// Returns how many messages and bytes the connection received and sent.
    pub fn traffic(&self) -> Traffic {
        self.0.traffic
    }

    pub(crate) fn cause(&self) -> Option<Cause> {
        self.0.cause
    }

    /// Whether a reader is told of it by `Ok(None)`: a closing handshake for a normal reason.
    pub(crate) fn is_normal(&self) -> bool {
        self.is_clean() && self.0.cause.is_none() && self.code().is_normal()
    }
}

/// In the order in which it happened: `received 1001 (going away); then sent 1001 (going away)`.
impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn one(f: &mut fmt::Formatter<'_>, verb: &str, content: Option<&CloseFrame>) -> fmt::Result {
            match content {
                Some(frame) => write!(f, "{verb} {frame}"),
                None => write!(f, "{verb} a Close without a code"),
            }
        }
        let Ending { received, sent, by_peer, cause, .. } = &*self.0;
        match (received, sent) {
            (Some(received), Some(sent)) if *by_peer => {
                one(f, "received", received.as_ref())?;
                one(f, "; then sent", sent.as_ref())?;
            }
            (Some(received), Some(sent)) => {
                one(f, "sent", sent.as_ref())?;
                one(f, "; then received", received.as_ref())?;
            }
            (Some(received), None) => one(f, "received", received.as_ref())?,
            (None, Some(sent)) => {
                one(f, "sent", sent.as_ref())?;
                f.write_str("; no Close received")?;
            }
            (None, None) => f.write_str("no Close either way")?,
        }
        match cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_reads_in_the_order_in_which_it_happened() {
        let away = || Some(Some(CloseFrame::new(1001, "")));
        let ending = Ending { received: away(), sent: away(), by_peer: true, ..Ending::default() };
        assert_eq!(
            Closed::new(ending.clone()).to_string(),
            "received 1001 (going away); then sent 1001 (going away)"
        );
        assert_eq!(
            Closed::new(Ending { by_peer: false, ..ending }).to_string(),
            "sent 1001 (going away); then received 1001 (going away)"
        );
        let lost = Closed::new(Ending { cause: Some(Cause::Eof), ..Ending::default() });
        assert_eq!(lost.to_string(), "no Close either way: end of stream");
        assert_eq!((lost.code(), lost.is_clean()), (CloseCode::ABNORMAL, false));
    }

    #[test]
    fn a_refusal_is_shown_by_its_status_and_the_start_of_its_body() {
        let mut response = http::Response::new([b"no\x1b[2J\xff".to_vec(), vec![b'x'; 1000]].concat());
        *response.status_mut() = http::StatusCode::FORBIDDEN;
        response.headers_mut().insert("set-cookie", http::HeaderValue::from_static("secret"));
        let error = Error::Refused(Box::new(response));
        let shown = format!("{error:?}");
        assert!(shown.starts_with(r#"Refused { status: 403, body: "no\u{1b}[2J"#), "{shown}");
        assert!(shown.len() < 300 && !shown.contains("secret"), "{shown}");
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
        let timeouts = [Error::Timeout(Timeout::Recv), Error::Timeout(Timeout::Drained)];
        let others = [Error::Full, Error::Empty, Error::TooManyTopics { limit: 1 }, Error::invalid("x")];
        for error in timeouts.into_iter().chain(others) {
            assert!(!error.is_fatal(), "{error}");
        }
        assert!(Error::Timeout(Timeout::Write).is_fatal());
    }
}
