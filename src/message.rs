//! What peers say to each other, in the words of RFC 6455: messages, close codes, close frames.

use std::borrow::Cow;
use std::fmt;

/// One whole message, owned: nothing of it pins a read buffer.
///
/// The two kinds are those of RFC 6455 §5.6. A message is either kept for as long as you like, or taken apart:
///
/// ```
/// use threadws::Message;
///
/// let message = Message::from("hello");
/// assert_eq!(message.as_text(), Some("hello"));
/// assert_eq!(message.len(), 5);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "RFC 6455 has two kinds of data messages")]
pub enum Message {
    /// Text: always valid UTF-8, as §8.1 demands.
    Text(String),
    /// Any bytes.
    Binary(Vec<u8>),
}

/// A message that somebody else holds: what [`Message`] is to `String`, this is to `&str`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "RFC 6455 has two kinds of data messages")]
pub enum MessageRef<'a> {
    /// Text: always valid UTF-8.
    Text(&'a str),
    /// Any bytes.
    Binary(&'a [u8]),
}

impl Message {
    /// The text, if this is a text message.
    pub fn as_text(&self) -> Option<&str> {
        self.borrow().as_text()
    }

    /// The payload, whichever kind it is.
    pub fn as_bytes(&self) -> &[u8] {
        self.borrow().as_bytes()
    }

    /// The payload without a copy, whichever kind it is.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// The payload's size in bytes.
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether the payload is empty. An empty message is a message all the same.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this is a text message.
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    /// The same message, borrowed.
    pub fn borrow(&self) -> MessageRef<'_> {
        match self {
            Self::Text(text) => MessageRef::Text(text),
            Self::Binary(bytes) => MessageRef::Binary(bytes),
        }
    }
}

impl<'a> MessageRef<'a> {
    /// The text, if this is a text message.
    pub fn as_text(&self) -> Option<&'a str> {
        match *self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }

    /// The payload, whichever kind it is.
    pub fn as_bytes(&self) -> &'a [u8] {
        match *self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// An owned copy.
    pub fn to_message(&self) -> Message {
        match *self {
            Self::Text(text) => Message::Text(text.to_owned()),
            Self::Binary(bytes) => Message::Binary(bytes.to_vec()),
        }
    }
}

/// Text as it is; of a binary message only its size. Escape it before you log it: a peer wrote it.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.borrow().fmt(f)
    }
}

/// Text as it is; of a binary message only its size. Escape it before you log it: a peer wrote it.
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
        message.to_message()
    }
}

/// What can be sent as a message: strings are text, bytes are binary, and references to either.
///
/// Owned values are taken as they are: what a slow socket leaves of a large one is kept without a copy.
pub trait IntoMessage: sealed::Sealed {
    /// The message to send.
    fn as_message(&self) -> MessageRef<'_>;

    /// The payload, owned if `self` was. Nothing is copied, except an array that was given by value.
    fn into_payload<'a>(self) -> Cow<'a, [u8]>
    where
        Self: Sized + 'a,
    {
        Cow::Owned(self.as_message().as_bytes().to_vec())
    }
}

impl IntoMessage for str {
    fn as_message(&self) -> MessageRef<'_> {
        MessageRef::Text(self)
    }
}

impl IntoMessage for String {
    fn as_message(&self) -> MessageRef<'_> {
        MessageRef::Text(self)
    }

    fn into_payload<'a>(self) -> Cow<'a, [u8]> {
        Cow::Owned(self.into_bytes())
    }
}

impl IntoMessage for [u8] {
    fn as_message(&self) -> MessageRef<'_> {
        MessageRef::Binary(self)
    }
}

impl<const N: usize> IntoMessage for [u8; N] {
    fn as_message(&self) -> MessageRef<'_> {
        MessageRef::Binary(self)
    }
}

impl IntoMessage for Vec<u8> {
    fn as_message(&self) -> MessageRef<'_> {
        MessageRef::Binary(self)
    }

    fn into_payload<'a>(self) -> Cow<'a, [u8]> {
        Cow::Owned(self)
    }
}

impl IntoMessage for Message {
    fn as_message(&self) -> MessageRef<'_> {
        self.borrow()
    }

    fn into_payload<'a>(self) -> Cow<'a, [u8]> {
        Cow::Owned(self.into_bytes())
    }
}

impl IntoMessage for MessageRef<'_> {
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

impl<T: IntoMessage + ?Sized> IntoMessage for &T {
    fn as_message(&self) -> MessageRef<'_> {
        (**self).as_message()
    }

    fn into_payload<'a>(self) -> Cow<'a, [u8]>
    where
        Self: 'a,
    {
        Cow::Borrowed(T::as_message(self).as_bytes())
    }
}

mod sealed {
    /// Keeps [`IntoMessage`](super::IntoMessage) ours, so that it can grow.
    pub trait Sealed {}
    impl Sealed for str {}
    impl Sealed for String {}
    impl Sealed for [u8] {}
    impl<const N: usize> Sealed for [u8; N] {}
    impl Sealed for Vec<u8> {}
    impl Sealed for super::Message {}
    impl Sealed for super::MessageRef<'_> {}
    impl<T: Sealed + ?Sized> Sealed for &T {}
}

/// What [`Connection::next_event`](crate::Connection::next_event) hands out: messages, and the control frames that
/// [`recv`](crate::Connection::recv) deals with silently.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A data message.
    Message(Message),
    /// A ping's payload, at most 125 bytes. Its pong is already on its way.
    Ping(Vec<u8>),
    /// A pong's payload, at most 125 bytes.
    Pong(Vec<u8>),
    /// The peer's Close, `None` if it carried no code. It is the last event.
    Close(Option<CloseFrame>),
}

/// Where a connection stands, in the order in which it can move: what `readyState` is in a browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the four states of the WebSocket API")]
pub enum State {
    /// The handshake is under way. Nothing here reports it: a connection begins when its handshake is done.
    Connecting,
    /// Messages may pass.
    Open,
    /// A Close went out, or is about to: nothing more can be sent.
    Closing,
    /// It is over.
    Closed,
}

/// In capitals, as a browser names them.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Connecting => "CONNECTING",
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
    /// 1000: the purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: a server stops, or a browser leaves the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: a kind of message that cannot be accepted.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// 1005: stands for a Close without a code. Never on the wire.
    pub const NO_STATUS: Self = Self(1005);
    /// 1006: stands for a connection that ended without a Close. Never on the wire.
    pub const ABNORMAL: Self = Self(1006);
    /// 1007: text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// 1008: against the receiver's policy.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// 1009: a message too big to process.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// 1010: a client misses an extension.
    pub const MANDATORY_EXTENSION: Self = Self(1010);
    /// 1011: the server failed.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1012: the server restarts (registered with IANA).
    pub const SERVICE_RESTART: Self = Self(1012);
    /// 1013: try again later (registered with IANA).
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    /// 1014: a gateway got a bad answer (registered with IANA).
    pub const BAD_GATEWAY: Self = Self(1014);

    /// Whether this code may stand in a Close frame (§7.4.1 and §7.4.2): the registered codes but 1004, 1005, 1006 and
    /// 1015, and 3000 to 4999.
    pub const fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    /// Whether it tells of a normal end: 1000, 1001, or no code at all.
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

/// What a Close frame carried (§5.5.1): a code and a reason, which may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct CloseFrame {
    /// The code.
    pub code: CloseCode,
    /// The reason, at most 123 bytes of UTF-8.
    pub reason: String,
}

impl CloseFrame {
    /// A Close frame's content. Whether it can be sent is checked when it is sent.
    pub fn new(code: impl Into<CloseCode>, reason: impl Into<String>) -> Self {
        Self { code: code.into(), reason: reason.into() }
    }
}

/// The code, what it means, and the reason, escaped.
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
    fn only_codes_that_may_stand_on_the_wire_are_sendable() {
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
