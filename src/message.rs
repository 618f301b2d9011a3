//! The words of RFC 6455: messages, close codes, Close frames, the states of a connection.

use std::borrow::Cow;
use std::fmt;

/// One whole message, owned.
///
/// The two kinds are those of RFC 6455 §5.6. `Display` shows the text, or the size of a binary message. The text comes
/// from the peer, so escape it before you log it.
///
/// ```
/// use threadws::Message;
///
/// let message = Message::from("hello");
/// assert_eq!(message.as_text(), Some("hello"));
/// assert_eq!(message.as_bytes().len(), 5);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "RFC 6455 has two kinds of data messages")]
pub enum Message {
    /// Text. It is always valid UTF-8, as §8.1 demands.
    Text(String),
    /// Any bytes.
    Binary(Vec<u8>),
}

/// One whole message, borrowed: it is to [`Message`] as `&str` is to `String`.
///
/// `Display` shows the text, or the size of a binary message.
///
/// ```
/// use threadws::{Message, MessageRef};
///
/// let message = Message::from("hello");
/// let borrowed = MessageRef::from(&message);
/// assert_eq!(borrowed, MessageRef::Text("hello"));
/// assert_eq!(Message::from(borrowed), message);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "RFC 6455 has two kinds of data messages")]
pub enum MessageRef<'a> {
    /// Text. It is always valid UTF-8.
    Text(&'a str),
    /// Any bytes.
    Binary(&'a [u8]),
}

impl Message {
    /// Returns the text of a text message; `None` for a binary one.
    pub fn as_text(&self) -> Option<&str> {
        MessageRef::from(self).as_text()
    }

    /// Returns the payload of either kind.
    pub fn as_bytes(&self) -> &[u8] {
        MessageRef::from(self).as_bytes()
    }

    /// Returns the payload of either kind, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

impl<'a> MessageRef<'a> {
    /// Returns the text of a text message; `None` for a binary one.
    pub fn as_text(&self) -> Option<&'a str> {
        match *self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }

    /// Returns the payload of either kind.
    pub fn as_bytes(&self) -> &'a [u8] {
        match *self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        MessageRef::from(self).fmt(f)
    }
}

impl fmt::Display for MessageRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Binary(bytes) => write!(f, "<{} bytes>", bytes.len()),
        }
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&[u8]> for Message {
    fn from(bytes: &[u8]) -> Self {
        Self::Binary(bytes.to_vec())
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Binary(bytes)
    }
}

impl From<MessageRef<'_>> for Message {
    fn from(message: MessageRef<'_>) -> Self {
        match message {
            MessageRef::Text(text) => text.into(),
            MessageRef::Binary(bytes) => bytes.into(),
        }
    }
}

impl<'a> From<&'a Message> for MessageRef<'a> {
    fn from(message: &'a Message) -> Self {
        match message {
            Message::Text(text) => Self::Text(text),
            Message::Binary(bytes) => Self::Binary(bytes),
        }
    }
}

/// A value that can be sent as a message: strings are sent as text, bytes as binary.
///
/// Implemented for `str`, `String`, `[u8]`, `[u8; N]`, `Vec<u8>`, [`Message`], [`MessageRef`], and references to them. It
/// cannot be implemented for other types. An owned value is queued without a copy.
pub trait IntoMessage: sealed::Sealed {}

impl<T: sealed::Sealed + ?Sized> IntoMessage for T {}

mod sealed {
    use super::{Cow, Message, MessageRef, Uncompressed};

    /// The methods of [`IntoMessage`](super::IntoMessage), for this crate only.
    pub trait Sealed {
        /// Returns the message to send.
        fn as_message(&self) -> MessageRef<'_>;

        /// Returns whether the message may be compressed.
        fn may_compress(&self) -> bool {
            true
        }

        /// Returns the payload, owned if `self` was. Nothing is copied, except an array that was given by value.
        fn into_payload<'a>(self) -> Cow<'a, [u8]>
        where
            Self: Sized + 'a,
        {
            Cow::Owned(self.as_message().as_bytes().to_vec())
        }
    }

    impl Sealed for str {
        fn as_message(&self) -> MessageRef<'_> {
            MessageRef::Text(self)
        }
    }

    impl Sealed for String {
        fn as_message(&self) -> MessageRef<'_> {
            MessageRef::Text(self)
        }

        fn into_payload<'a>(self) -> Cow<'a, [u8]> {
            Cow::Owned(self.into_bytes())
        }
    }

    impl Sealed for [u8] {
        fn as_message(&self) -> MessageRef<'_> {
            MessageRef::Binary(self)
        }
    }

    impl<const N: usize> Sealed for [u8; N] {
        fn as_message(&self) -> MessageRef<'_> {
            MessageRef::Binary(self)
        }
    }

    impl Sealed for Vec<u8> {
        fn as_message(&self) -> MessageRef<'_> {
            MessageRef::Binary(self)
        }

        fn into_payload<'a>(self) -> Cow<'a, [u8]> {
            Cow::Owned(self)
        }
    }

    impl Sealed for Message {
        fn as_message(&self) -> MessageRef<'_> {
            self.into()
        }

        fn into_payload<'a>(self) -> Cow<'a, [u8]> {
            Cow::Owned(self.into_bytes())
        }
    }

    impl Sealed for MessageRef<'_> {
        fn as_message(&self) -> MessageRef<'_> {
            *self
        }

        fn into_payload<'a>(self) -> Cow<'a, [u8]>
        where
            Self: 'a,
        {
            Cow::Borrowed(self.as_bytes())
        }
    }

    impl<T: Sealed + ?Sized> Sealed for &T {
        fn as_message(&self) -> MessageRef<'_> {
            (**self).as_message()
        }

        fn may_compress(&self) -> bool {
            (**self).may_compress()
        }

        fn into_payload<'a>(self) -> Cow<'a, [u8]>
        where
            Self: 'a,
        {
            Cow::Borrowed(T::as_message(self).as_bytes())
        }
    }

    impl<T: Sealed> Sealed for Uncompressed<T> {
        fn as_message(&self) -> MessageRef<'_> {
            self.0.as_message()
        }

        fn may_compress(&self) -> bool {
            false
        }

        fn into_payload<'a>(self) -> Cow<'a, [u8]>
        where
            Self: 'a,
        {
            self.0.into_payload()
        }
    }
}

/// A message that is sent without compression, although the connection has it: for what is compressed already, such as an image,
/// and for a secret. See "Compression" in [`guide::security`](crate::guide::security).
///
/// ```
/// use threadws::deflate::Uncompressed;
///
/// # fn main() -> threadws::Result<()> {
/// # let handle = threadws::Server::bind("127.0.0.1:0")?.spawn(|client| Ok(client.ignore()?))?;
/// # let mut connection = threadws::connect(format!("ws://{}/", handle.local_addr()?))?;
/// connection.send(Uncompressed("a token and what a stranger wrote"))?;
/// handle.hub().broadcast(Uncompressed(vec![0; 1000]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uncompressed<T>(pub T);

/// A message or a control frame: what [`Connection::next_event`](crate::Connection::next_event) returns.
///
/// The connection has already dealt with a control frame when it is returned.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A data message.
    Message(Message),
    /// A ping's payload, at most 125 bytes. Its pong is already sent or queued.
    Ping(Vec<u8>),
    /// A pong's payload, at most 125 bytes.
    Pong(Vec<u8>),
    /// The peer's Close; `None` if it carried no code. It is the last event.
    Close(Option<CloseFrame>),
}

/// The state of a connection, in the order in which it changes, as `readyState` in a browser.
///
/// There is no "connecting", because a connection exists when its handshake is done. Displays in capitals, as the browser's
/// constants are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "the states of the WebSocket API that an established connection has"
)]
pub enum State {
    /// Messages can be sent and received.
    Open,
    /// Our Close was sent or queued, so nothing more can be sent.
    Closing,
    /// The connection is over.
    Closed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Open => "OPEN",
            Self::Closing => "CLOSING",
            Self::Closed => "CLOSED",
        })
    }
}

/// A close code (RFC 6455 §7.4).
///
/// ```
/// use threadws::CloseCode;
///
/// assert_eq!(CloseCode::GOING_AWAY.to_string(), "1001 (going away)");
/// assert!(CloseCode::from(4000).is_sendable());
/// assert!(!CloseCode::NO_STATUS.is_sendable()); // §7.4.1: never on the wire
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the connection has done what it was opened for.
    pub const NORMAL: Self = Self(1000);
    /// 1001: a server shuts down, or a browser leaves the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: a kind of message that cannot be accepted.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// 1005: the Close carried no code. Never on the wire.
    pub const NO_STATUS: Self = Self(1005);
    /// 1006: the connection ended without a Close. Never on the wire.
    pub const ABNORMAL: Self = Self(1006);
    /// 1007: text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// 1008: a message that violates the receiver's policy.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// 1009: a message too big to process.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// 1011: the server failed.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1012: the server restarts (registered with IANA).
    pub const SERVICE_RESTART: Self = Self(1012);
    /// 1013: try again later (registered with IANA).
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// Returns whether a Close frame can carry this code (§7.4.1 and §7.4.2): 3000 to 4999, and the registered codes except
    /// 1004, 1005, 1006 and 1015.
    pub const fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    /// Returns whether the code means a normal end: 1000, 1001, or no code.
    pub const fn is_normal(self) -> bool {
        matches!(self.0, 1000 | 1001 | 1005)
    }

    const fn meaning(self) -> &'static str {
        match self.0 {
            1000 => "normal closure",
            1001 => "going away",
            1002 => "protocol error",
            1003 => "unsupported data",
            1005 => "no status",
            1006 => "abnormal closure",
            1007 => "invalid payload",
            1008 => "policy violation",
            1009 => "message too big",
            1010 => "mandatory extension",
            1011 => "internal error",
            1012 => "service restart",
            1013 => "try again later",
            1014 => "bad gateway",
            3000..=3999 => "registered",
            4000..=4999 => "private use",
            _ => "unknown",
        }
    }
}

impl From<u16> for CloseCode {
    fn from(code: u16) -> Self {
        Self(code)
    }
}

impl From<CloseCode> for u16 {
    fn from(code: CloseCode) -> Self {
        code.0
    }
}

impl PartialEq<u16> for CloseCode {
    fn eq(&self, other: &u16) -> bool {
        self.0 == *other
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0, self.meaning())
    }
}

/// The content of a Close frame (§5.5.1).
///
/// Displays as the code, its meaning, and the reason, escaped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CloseFrame {
    /// The code.
    pub code: CloseCode,
    /// The reason, at most 123 bytes of UTF-8. It may be empty.
    pub reason: String,
}

impl CloseFrame {
    /// Returns the content of a Close frame. It is checked when the frame is sent.
    pub(crate) fn new(code: impl Into<CloseCode>, reason: impl Into<String>) -> Self {
        Self { code: code.into(), reason: reason.into() }
    }
}

impl fmt::Display for CloseFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.code.fmt(f)?;
        if !self.reason.is_empty() {
            write!(f, " {:?}", self.reason)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_that_are_allowed_on_the_wire_are_sendable() {
        for code in
            [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
        {
            assert!(CloseCode::from(code).is_sendable(), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert!(!CloseCode::from(code).is_sendable(), "{code}");
        }
    }

    #[test]
    fn a_close_frame_escapes_the_reason_it_shows() {
        let frame = CloseFrame::new(4000, "bye\n\u{1b}[31m");
        assert_eq!(frame.to_string(), r#"4000 (private use) "bye\n\u{1b}[31m""#);
    }
}
