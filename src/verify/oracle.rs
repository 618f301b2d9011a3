//! Compares the decoder with tungstenite's. The same bytes must give the same messages, control frames and errors, each at
//! the same byte, up to the first error or Close.
//!
//! [`Difference`] lists where the two are allowed to differ. Each difference is checked to be exactly that one. Any other
//! difference is a panic that shows the bytes.

mod frames;
mod reader;

use self::frames::RawFrames;
use crate::error::{Error, Violation};
use crate::message::{CloseFrame, Message};
use crate::protocol::Role;
use crate::protocol::decoder::MAX_CONTROL;
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::io;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::{self as other, WebSocketConfig, WebSocketContext};

/// A difference that is allowed between the decoder and the one of tungstenite 0.30.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Difference {
    /// A header that breaks a rule fails at the first wrong byte. tungstenite waits for the whole header or payload. RFC 6455
    /// §7.1.7 allows an endpoint to fail the connection as soon as it knows.
    AtTheHeader,
    /// Text fails at the first byte that is not UTF-8. tungstenite checks whole frames. RFC 6455 §8.1: "When an endpoint is to
    /// interpret a byte stream as UTF-8 but finds that the byte stream is not, in fact, a valid UTF-8 stream".
    AtTheByte,
    /// The frame breaks two rules, and each decoder reports the one that it checks first. Both fail.
    AnotherRule,
    /// RFC 6455 §5.2: "the minimal number of bytes MUST be used to encode the length". tungstenite accepts any encoding.
    NonMinimalLength,
    /// Only our decoder limits the number of fragments. Otherwise endless empty ones could occupy a thread.
    TooManyFragments,
    /// RFC 6455 §7.4.1: codes that "MUST NOT be set as a status code in a Close control frame by an endpoint", and those that
    /// §7.4.2 reserves. They are an error here. tungstenite reports a Close with 1002 instead.
    InvalidCloseCode,
    /// 1014 was registered with IANA later (RFC 6455 §11.7), so it is valid. tungstenite reports a Close with 1002 instead.
    BadGateway,
}

impl Difference {
    #[cfg(test)]
    const ALL: [Self; 7] = [
        Self::AtTheHeader,
        Self::AtTheByte,
        Self::AnotherRule,
        Self::NonMinimalLength,
        Self::TooManyFragments,
        Self::InvalidCloseCode,
        Self::BadGateway,
    ];
}

/// How bytes are read: the limits of the protocol, and the sizes that are constants in `connection::reader`.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) role: Role,
    pub(crate) max_message: usize,
    /// At least [`MIN_WINDOW`].
    pub(crate) idle_buffer: usize,
    pub(crate) bulk_buffer: usize,
    /// From this number of missing bytes on, the rest of a frame is read without the window.
    pub(crate) direct: usize,
    /// Whether messages are borrowed, or moved out.
    pub(crate) lend: bool,
    /// The numbers of bytes that arrive at once. They are repeated.
    pub(crate) pieces: Vec<usize>,
}

/// The smallest window that always makes progress: a masked control frame.
pub(crate) const MIN_WINDOW: usize = 2 + 4 + MAX_CONTROL;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Decoded {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Broken(Rule),
}

/// The rule that was broken, in terms common to both decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Protocol(Violation),
    TooBig,
}

/// A decoded item, and how many bytes had been read by then.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    bytes: usize,
    event: Decoded,
}

/// Decodes `bytes` with both, and returns the differences.
///
/// # Panics
///
/// Panics if there is any other difference, or if the output of ours depends on where the bytes are cut.
pub(crate) fn compare(bytes: &[u8], setting: &Setting) -> BTreeSet<Difference> {
    let ours = reader::ours_byte_by_byte(bytes, setting);
    let case = Case { bytes, setting, ours: &ours };
    case.check_cuts(&reader::ours(bytes, setting));
    case.check_accepted();
    match ours.last() {
        Some(Seen { bytes, event: Decoded::Broken(rule) }) => case.check_broken(*bytes, *rule),
        _ => case.check_unbroken(),
    }
}

struct Case<'a> {
    bytes: &'a [u8],
    setting: &'a Setting,
    ours: &'a [Seen],
}

impl Case<'_> {
    /// However the bytes are cut, an item is decoded after the read with its last byte.
    fn check_cuts(&self, cut: &[reader::ReadEvent]) {
        let same = self.ours.len() == cut.len()
            && self.ours.iter().zip(cut).all(|(exact, cut)| {
                exact.event == cut.event && cut.before < exact.bytes && exact.bytes <= cut.after
            });
        if !same {
            self.fail("ours depends on where the bytes are cut", &cut);
        }
    }

    /// Checks rules that tungstenite does not check. Otherwise it would not be noticed if ours accepted such a frame.
    fn check_accepted(&self) {
        let (end, broken) = match self.ours.last() {
            Some(Seen { bytes, event: Decoded::Broken(_) }) => (*bytes, true),
            Some(Seen { bytes, event: Decoded::Close(_) }) => (*bytes, false),
            _ => (self.bytes.len(), false),
        };
        let accepted = RawFrames::new(self.bytes).find(|frame| {
            frame.begins_before(end)
                && !(broken && frame.holds(end - 1))
                && (frame.has_wasteful_length() || frame.has_too_many_fragments())
        });
        if let Some(frame) = accepted {
            self.fail("ours accepted a frame that it must not", &frame);
        }
    }

    fn check_unbroken(&self) -> BTreeSet<Difference> {
        let theirs = theirs(self.bytes, self.setting);
        let mut expected = self.ours.to_vec();
        let mut found = BTreeSet::new();
        if let Some(Seen { event: event @ Decoded::Close(Some((1014, _))), .. }) = expected.last_mut() {
            *event = replaced_close();
            found.insert(Difference::BadGateway);
        }
        if theirs != expected {
            self.fail("they differ", &theirs);
        }
        found
    }

    /// Ours failed with `rule` at the `count`th byte.
    fn check_broken(&self, count: usize, rule: Rule) -> BTreeSet<Difference> {
        let mut found = BTreeSet::new();
        // tungstenite gets the whole frame, because otherwise it would wait for it. The missing bytes are made up.
        let (frame, bytes) = frames::completed(self.bytes, count - 1, self.setting);
        let theirs = theirs(&bytes, self.setting);
        let at_once = match frame.fails_after(rule) {
            Some(fails_at) => fails_at == count,
            None => !is_impossible(frames::text_before(self.bytes, count - 1)),
        };
        if !at_once {
            self.fail("ours could have failed earlier", &theirs);
        }
        let (valid, rest) = theirs.split_at(theirs.len().min(self.ours.len() - 1));
        if valid != &self.ours[..valid.len()] || valid.len() + 1 != self.ours.len() {
            self.fail("they differ before the frame that is broken", &theirs);
        }
        let broken_as = match rest {
            [Seen { bytes, event: Decoded::Broken(theirs) }] if *bytes >= count => Some((*bytes, *theirs)),
            _ => None,
        };
        match (rule, broken_as) {
            // A control frame with a length of more than 7 bits is too large, or its length is not minimal. Ours fails before
            // it knows which.
            (Rule::Protocol(Violation::NonMinimalLength | Violation::OversizeControl), _)
                if frame.has_wasteful_length() && !frame.breaks(OVERSIZE, &bytes, self.setting) =>
            {
                let minimal = frame.with_minimal_length(&bytes);
                if !events(&theirs).eq(events(&self::theirs(&minimal, self.setting))) {
                    self.fail("with a minimal length, theirs is different", &theirs);
                }
                found = compare(&minimal, self.setting);
                if !found.insert(Difference::NonMinimalLength) {
                    self.fail("a minimal length is reported as not minimal", &theirs);
                }
                return found;
            }
            (Rule::Protocol(Violation::TooManyFragments), _)
                if frame.has_too_many_fragments() && is_message_or_bad_text(rest) =>
            {
                found.insert(Difference::TooManyFragments);
                return found;
            }
            (Rule::Protocol(Violation::InvalidCloseCode(code)), None)
                if rest == [Seen { bytes: count, event: replaced_close() }]
                    && !other::frame::coding::CloseCode::from(code).is_allowed() =>
            {
                found.insert(Difference::InvalidCloseCode);
                return found;
            }
            (ours, Some((_, theirs))) if ours == theirs => {}
            (ours, Some((_, theirs)))
                if frame.breaks(ours, &bytes, self.setting) && frame.breaks(theirs, &bytes, self.setting) =>
            {
                found.insert(Difference::AnotherRule);
            }
            _ => self.fail("they differ at the frame that is broken", &theirs),
        }
        if broken_as.is_some_and(|(bytes, _)| bytes > count) {
            let in_text = rule == Rule::Protocol(Violation::InvalidUtf8);
            found.insert(if in_text { Difference::AtTheByte } else { Difference::AtTheHeader });
        }
        found
    }

    fn fail(&self, why: &str, theirs: &impl fmt::Debug) -> ! {
        let mut report = format!("{why}\n{:?}\n", self.setting);
        writeln!(report, "ours:   {:02x?}\ntheirs: {theirs:02x?}\nframes:", self.ours).ok();
        for frame in RawFrames::new(self.bytes).take(64) {
            writeln!(report, "  {frame:02x?}").ok();
        }
        writeln!(report, "{} bytes:", self.bytes.len()).ok();
        for (row, bytes) in self.bytes.chunks(16).enumerate().take(128) {
            writeln!(report, "{:6x}  {bytes:02x?}", row * 16).ok();
        }
        panic!("{report}");
    }
}

const OVERSIZE: Rule = Rule::Protocol(Violation::OversizeControl);

/// The event of tungstenite for a Close with a code that it does not know.
fn replaced_close() -> Decoded {
    Decoded::Close(Some((1002, "Protocol violation".to_owned())))
}

/// Returns whether no further bytes could make valid UTF-8 of it.
fn is_impossible(text: Vec<u8>) -> bool {
    String::from_utf8(text).is_err_and(|error| error.utf8_error().error_len().is_some())
}

fn is_message_or_bad_text(rest: &[Seen]) -> bool {
    match rest {
        [] => true,
        [Seen { event, .. }] => matches!(
            event,
            Decoded::Text(_) | Decoded::Binary(_) | Decoded::Broken(Rule::Protocol(Violation::InvalidUtf8))
        ),
        _ => false,
    }
}

fn events(seen: &[Seen]) -> impl Iterator<Item = &Decoded> {
    seen.iter().map(|seen| &seen.event)
}

impl From<&Error> for Rule {
    fn from(error: &Error) -> Self {
        match error {
            Error::Violation(violation) => Self::Protocol(*violation),
            Error::MessageTooBig { .. } => Self::TooBig,
            error => panic!("not an error of a decoder: {error:?}"),
        }
    }
}

impl From<Message> for Decoded {
    fn from(message: Message) -> Self {
        match message {
            Message::Text(text) => Self::Text(text),
            Message::Binary(bytes) => Self::Binary(bytes),
        }
    }
}

impl From<Option<CloseFrame>> for Decoded {
    fn from(frame: Option<CloseFrame>) -> Self {
        Self::Close(frame.map(|frame| (frame.code.into(), frame.reason)))
    }
}

/// Decodes with tungstenite. It gets its bytes one by one, so the last byte before each item is known.
fn theirs(bytes: &[u8], setting: &Setting) -> Vec<Seen> {
    let role = match setting.role {
        Role::Server => other::Role::Server,
        Role::Client => other::Role::Client,
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(64)
        .write_buffer_size(0)
        .max_message_size(Some(setting.max_message))
        // The limit is for messages. A smaller one than 125 would also refuse control frames.
        .max_frame_size(Some(setting.max_message.max(MAX_CONTROL)));
    let mut context = WebSocketContext::new(role, Some(config));
    let mut stream = OneByOne { bytes, read: 0 };
    let mut seen = Vec::new();
    loop {
        let event = match context.read(&mut stream) {
            Ok(message) => event_of(message),
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return seen,
            Err(error) => Decoded::Broken(rule_of(&error)),
        };
        let last = matches!(event, Decoded::Close(_) | Decoded::Broken(_));
        seen.push(Seen { bytes: stream.read, event });
        if last {
            return seen;
        }
    }
}

fn event_of(message: other::Message) -> Decoded {
    match message {
        other::Message::Text(text) => Decoded::Text(text.as_str().to_owned()),
        other::Message::Binary(bytes) => Decoded::Binary(bytes.to_vec()),
        other::Message::Ping(bytes) => Decoded::Ping(bytes.to_vec()),
        other::Message::Pong(bytes) => Decoded::Pong(bytes.to_vec()),
        other::Message::Close(frame) => {
            Decoded::Close(frame.map(|frame| (frame.code.into(), frame.reason.as_str().to_owned())))
        }
        message @ other::Message::Frame(_) => panic!("never read: {message:?}"),
    }
}

fn rule_of(error: &tungstenite::Error) -> Rule {
    use tungstenite::Error as Their;
    Rule::Protocol(match error {
        Their::Capacity(_) => return Rule::TooBig,
        Their::Utf8(_) => Violation::InvalidUtf8,
        Their::Protocol(error) => match error {
            ProtocolError::NonZeroReservedBits => Violation::ReservedBit,
            ProtocolError::InvalidOpcode(opcode) => Violation::ReservedOpcode(*opcode),
            ProtocolError::UnmaskedFrameFromClient => Violation::UnmaskedFrame,
            ProtocolError::MaskedFrameFromServer => Violation::MaskedFrame,
            ProtocolError::FragmentedControlFrame => Violation::FragmentedControl,
            ProtocolError::ControlFrameTooBig => Violation::OversizeControl,
            ProtocolError::InvalidCloseSequence => Violation::TruncatedClose,
            ProtocolError::UnexpectedContinueFrame => Violation::UnexpectedContinuation,
            ProtocolError::ExpectedFragment(_) => Violation::ExpectedContinuation,
            error => panic!("unknown error: {error:?}"),
        },
        error => panic!("unknown error: {error:?}"),
    })
}

/// A stream that gives one byte at a time, and discards what is written.
struct OneByOne<'a> {
    bytes: &'a [u8],
    read: usize,
}

impl io::Read for OneByOne<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (self.bytes.get(self.read), buffer.first_mut()) {
            (Some(byte), Some(room)) => {
                *room = *byte;
                self.read += 1;
                Ok(1)
            }
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl io::Write for OneByOne<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
