//! How a connection ended: [`Closed`].

use super::{Error, Timeout, Violation};
use crate::message::{CloseCode, CloseFrame};
use crate::stats::Traffic;
use crate::sync::Arc;
use std::fmt;
use std::io;
use std::time::Duration;

/// How a connection ended: the codes and reasons of both Closes, which came first, how long the connection lasted, and how
/// much it sent and received.
///
/// Displays the Closes in the order in which they happened, such as
/// `received 1001 (going away); then sent 1001 (going away)`.
#[derive(Debug, Clone)]
pub struct Closed(Arc<Ending>);

/// The facts behind a [`Closed`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    /// The peer's Close, and its content.
    pub(crate) received: Option<Option<CloseFrame>>,
    /// Our Close, and its content.
    pub(crate) sent: Option<Option<CloseFrame>>,
    /// Whether the peer's Close arrived before ours was queued.
    pub(crate) by_peer: bool,
    /// Why the connection ended, if it was not a closing handshake.
    pub(crate) cause: Option<Cause>,
    pub(crate) lifetime: Duration,
    pub(crate) traffic: Traffic,
}

/// Why a connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The stream ended without a Close from the peer.
    Eof,
    /// The stream ended without a Close from the peer, and without TLS's own close_notify. Anyone on the way can have cut it.
    Truncated,
    /// The peer broke a rule of TLS, or sent a fatal alert.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "no session exists without the feature"))]
    Tls(&'static str),
    Io(io::ErrorKind),
    Timeout(Timeout),
    /// A broadcast found the queue full, and the policy is to disconnect.
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
    /// Returns the error of the calls that follow; `None` if it is [`Error::Closed`].
    pub(crate) fn to_error(self) -> Option<Error> {
        match self {
            Self::Timeout(timeout) => Some(Error::Timeout(timeout)),
            Self::Violation(violation) => Some(Error::Violation(violation)),
            Self::MessageTooBig { limit } => Some(Error::MessageTooBig { limit }),
            Self::TooManyMessages { limit, per } => Some(Error::TooManyMessages { limit, per }),
            Self::Eof | Self::Truncated | Self::Tls(_) | Self::Io(_) | Self::SlowPeer | Self::Terminated => {
                None
            }
        }
    }

    /// Returns the cause of a connection that this error ends.
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
            Self::Truncated => f.write_str("end of stream without close_notify: it may be cut off"),
            Self::Tls(what) => write!(f, "TLS failed: {what}"),
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

    /// Returns the code as the WebSocket API does (RFC 6455 §7.1.5): the peer's code, 1005 if its Close carried none, 1006
    /// if it sent no Close.
    ///
    /// There is one exception: 1013 if the peer was disconnected because it read too slowly.
    pub fn code(&self) -> CloseCode {
        match (&self.0.received, self.0.cause) {
            (Some(Some(frame)), _) => frame.code,
            (Some(None), _) => CloseCode::NO_STATUS,
            (None, Some(Cause::SlowPeer | Cause::Timeout(Timeout::Write))) => CloseCode::TRY_AGAIN_LATER,
            (None, _) => CloseCode::ABNORMAL,
        }
    }

    /// Returns the peer's reason, which may be empty. It comes from the peer, so escape it before you log it.
    pub fn reason(&self) -> &str {
        self.0.received.as_ref().and_then(Option::as_ref).map_or("", |frame| &frame.reason)
    }

    /// Returns the content of our Close; `None` if it carried no code, or none was sent.
    pub fn sent(&self) -> Option<&CloseFrame> {
        self.0.sent.as_ref()?.as_ref()
    }

    /// Returns whether the peer's Close came first.
    pub fn by_peer(&self) -> bool {
        self.0.by_peer
    }

    /// Returns whether both ends sent a Close (RFC 6455 §7.1.4).
    pub fn is_clean(&self) -> bool {
        self.0.received.is_some() && self.0.sent.is_some()
    }

    /// Returns the time from the end of the handshake to the end of the connection.
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

    /// Whether a receiving call returns `Ok(None)`: after a closing handshake with a normal code.
    pub(crate) fn is_normal(&self) -> bool {
        self.is_clean() && self.0.cause.is_none() && self.code().is_normal()
    }
}

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
}
