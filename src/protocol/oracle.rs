//! The decoder held against tungstenite's: the same octets must give the same events, each at the same octet, up to the
//! first error or Close.
//!
//! Where the two have to differ stands in [`Difference`], and each is shown to be that difference, in that direction.
//! Anything else is a panic that shows the octets.

mod frames;
mod reader;

use self::frames::Frames;
use super::Role;
use super::decoder::MAX_CONTROL;
use crate::error::{Error, Violation};
use crate::message::{CloseFrame, Message};
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::io;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::{self as other, WebSocketConfig, WebSocketContext};

/// Where our decoder and tungstenite's have to differ. "They" are tungstenite 0.30.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Difference {
    /// A header that breaks a rule fails at the octet that shows it; they wait for the frame's whole payload, or at least
    /// for the whole header. RFC 6455 §7.1.7 lets an endpoint fail the connection as soon as it knows.
    AtTheHeader,
    /// Text fails at the first octet that cannot be UTF-8; they look at whole frames. §8.1: "When an endpoint is to
    /// interpret a byte stream as UTF-8 but finds that the byte stream is not, in fact, a valid UTF-8 stream".
    AtTheOctet,
    /// The frame breaks two rules, and each names the one that it looks at first. Both fail.
    AnotherRule,
    /// §5.2: "the minimal number of bytes MUST be used to encode the length". They take any.
    NonMinimalLength,
    /// Ours alone bounds the fragments of a message: endless empty ones would hold a thread for ever.
    TooManyFragments,
    /// §7.4.1: codes that "MUST NOT be set as a status code in a Close control frame by an endpoint", and those that §7.4.2
    /// gives nobody. An error here; they report a Close with 1002 in its place.
    InvalidCloseCode,
    /// 1014 is registered with IANA since RFC 6455 (§11.7), so it may be sent. They report a Close with 1002 in its place.
    BadGateway,
}

impl Difference {
    #[cfg(test)]
    const ALL: [Self; 7] = [
        Self::AtTheHeader,
        Self::AtTheOctet,
        Self::AnotherRule,
        Self::NonMinimalLength,
        Self::TooManyFragments,
        Self::InvalidCloseCode,
        Self::BadGateway,
    ];
}

/// How octets are read: the limits of the protocol, and the sizes for which `connection::reader` has constants.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) role: Role,
    pub(crate) max_message: usize,
    /// No less than [`MIN_WINDOW`].
    pub(crate) idle_buffer: usize,
    pub(crate) bulk_buffer: usize,
    /// From how many octets on the rest of a frame is read past the window.
    pub(crate) direct: usize,
    /// Whether messages are lent, or given away.
    pub(crate) lend: bool,
    /// How many octets arrive at once, over and over.
    pub(crate) pieces: Vec<usize>,
}

/// The smallest window that always makes progress: a masked control frame.
pub(crate) const MIN_WINDOW: usize = 2 + 4 + MAX_CONTROL;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Broken(Rule),
}

/// Which rule was broken, in words that both speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Protocol(Violation),
    TooBig,
}

/// An event, and how many octets it took.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    octets: usize,
    event: Event,
}

/// Feeds `octets` to both, and tells in what they differed.
///
/// # Panics
///
/// If they differ in anything that is not a [`Difference`], or if ours depends on where the octets are cut.
pub(crate) fn compare(octets: &[u8], setting: &Setting) -> BTreeSet<Difference> {
    let ours = reader::ours_octet_by_octet(octets, setting);
    let case = Case { octets, setting, ours: &ours };
    case.check_cuts(&reader::ours(octets, setting));
    case.check_accepted();
    match ours.last() {
        Some(Seen { octets, event: Event::Broken(rule) }) => case.check_broken(*octets, *rule),
        _ => case.check_unbroken(),
    }
}

struct Case<'a> {
    octets: &'a [u8],
    setting: &'a Setting,
    ours: &'a [Seen],
}

impl Case<'_> {
    /// However the octets are cut, an event comes with the read that brings its last octet.
    fn check_cuts(&self, cut: &[reader::Read]) {
        let same = self.ours.len() == cut.len()
            && self.ours.iter().zip(cut).all(|(exact, cut)| {
                exact.event == cut.event && cut.before < exact.octets && exact.octets <= cut.after
            });
        if !same {
            self.fail("ours depends on where the octets are cut", &cut);
        }
    }

    /// Where theirs takes what ours must not, nobody else would notice that ours took it.
    fn check_accepted(&self) {
        let (end, broken) = match self.ours.last() {
            Some(Seen { octets, event: Event::Broken(_) }) => (*octets, true),
            Some(Seen { octets, event: Event::Close(_) }) => (*octets, false),
            _ => (self.octets.len(), false),
        };
        let lax = Frames::new(self.octets).find(|frame| {
            frame.begins_before(end)
                && !(broken && frame.holds(end - 1))
                && (frame.wastes_length() || frame.has_too_many_fragments())
        });
        if let Some(frame) = lax {
            self.fail("ours accepted a frame that it must not", &frame);
        }
    }

    fn check_unbroken(&self) -> BTreeSet<Difference> {
        let theirs = theirs(self.octets, self.setting);
        let mut expected = self.ours.to_vec();
        let mut found = BTreeSet::new();
        if let Some(Seen { event: event @ Event::Close(Some((1014, _))), .. }) = expected.last_mut() {
            *event = replaced_close();
            found.insert(Difference::BadGateway);
        }
        if theirs != expected {
            self.fail("they differ", &theirs);
        }
        found
    }

    /// Ours failed with `rule` at the `count`th octet.
    fn check_broken(&self, count: usize, rule: Rule) -> BTreeSet<Difference> {
        let mut found = BTreeSet::new();
        // Theirs is shown the whole frame, or it would only wait. What is not there yet may be anything.
        let (frame, octets) = frames::completed(self.octets, count - 1, self.setting);
        let theirs = theirs(&octets, self.setting);
        let at_once = match frame.shown_after(rule) {
            Some(shown) => shown == count,
            None => !is_impossible(frames::text_before(self.octets, count - 1)),
        };
        if !at_once {
            self.fail("ours could have failed earlier", &theirs);
        }
        let (valid, rest) = theirs.split_at(theirs.len().min(self.ours.len() - 1));
        if valid != &self.ours[..valid.len()] || valid.len() + 1 != self.ours.len() {
            self.fail("they differ before the frame that is broken", &theirs);
        }
        let broken_as = match rest {
            [Seen { octets, event: Event::Broken(theirs) }] if *octets >= count => Some((*octets, *theirs)),
            _ => None,
        };
        match (rule, broken_as) {
            // A control frame whose length takes more than 7 bits is too large, or its length is not minimal: both at once
            // are known before the length is.
            (Rule::Protocol(Violation::NonMinimalLength | Violation::OversizeControl), _)
                if frame.wastes_length() && !frame.breaks(OVERSIZE, &octets, self.setting) =>
            {
                let minimal = frame.with_minimal_length(&octets);
                if !events(&theirs).eq(events(&self::theirs(&minimal, self.setting))) {
                    self.fail("the length in fewer octets is something else to them", &theirs);
                }
                found = compare(&minimal, self.setting);
                if !found.insert(Difference::NonMinimalLength) {
                    self.fail("a length in the fewest octets is not minimal", &theirs);
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
                if rest == [Seen { octets: count, event: replaced_close() }]
                    && !other::frame::coding::CloseCode::from(code).is_allowed() =>
            {
                found.insert(Difference::InvalidCloseCode);
                return found;
            }
            (ours, Some((_, theirs))) if ours == theirs => {}
            (ours, Some((_, theirs)))
                if frame.breaks(ours, &octets, self.setting)
                    && frame.breaks(theirs, &octets, self.setting) =>
            {
                found.insert(Difference::AnotherRule);
            }
            _ => self.fail("they differ at the frame that is broken", &theirs),
        }
        if broken_as.is_some_and(|(octets, _)| octets > count) {
            let in_text = rule == Rule::Protocol(Violation::InvalidUtf8);
            found.insert(if in_text { Difference::AtTheOctet } else { Difference::AtTheHeader });
        }
        found
    }

    fn fail(&self, why: &str, theirs: &impl fmt::Debug) -> ! {
        let mut report = format!("{why}\n{:?}\n", self.setting);
        writeln!(report, "ours:   {:02x?}\ntheirs: {theirs:02x?}\nframes:", self.ours).ok();
        for frame in Frames::new(self.octets).take(64) {
            writeln!(report, "  {frame:02x?}").ok();
        }
        writeln!(report, "{} octets:", self.octets.len()).ok();
        for (row, octets) in self.octets.chunks(16).enumerate().take(128) {
            writeln!(report, "{:6x}  {octets:02x?}", row * 16).ok();
        }
        panic!("{report}");
    }
}

const OVERSIZE: Rule = Rule::Protocol(Violation::OversizeControl);

/// What they make of a Close with a code that they know nothing of.
fn replaced_close() -> Event {
    Event::Close(Some((1002, "Protocol violation".to_owned())))
}

/// Whether no octets could make UTF-8 of it any more.
fn is_impossible(text: Vec<u8>) -> bool {
    String::from_utf8(text).is_err_and(|error| error.utf8_error().error_len().is_some())
}

fn is_message_or_bad_text(rest: &[Seen]) -> bool {
    match rest {
        [] => true,
        [Seen { event, .. }] => matches!(
            event,
            Event::Text(_) | Event::Binary(_) | Event::Broken(Rule::Protocol(Violation::InvalidUtf8))
        ),
        _ => false,
    }
}

fn events(seen: &[Seen]) -> impl Iterator<Item = &Event> {
    seen.iter().map(|seen| &seen.event)
}

impl From<&Error> for Rule {
    fn from(error: &Error) -> Self {
        match error {
            Error::Violation(violation) => Self::Protocol(*violation),
            Error::MessageTooBig { .. } => Self::TooBig,
            error => panic!("no error of a decoder: {error:?}"),
        }
    }
}

impl From<Message> for Event {
    fn from(message: Message) -> Self {
        match message {
            Message::Text(text) => Self::Text(text),
            Message::Binary(octets) => Self::Binary(octets),
        }
    }
}

impl From<Option<CloseFrame>> for Event {
    fn from(frame: Option<CloseFrame>) -> Self {
        Self::Close(frame.map(|frame| (frame.code.into(), frame.reason)))
    }
}

/// What tungstenite sees. It acts on nothing but whole frames, so its octets come one by one: that tells the octet.
fn theirs(octets: &[u8], setting: &Setting) -> Vec<Seen> {
    let role = match setting.role {
        Role::Server => other::Role::Server,
        Role::Client => other::Role::Client,
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(64)
        .write_buffer_size(0)
        .max_message_size(Some(setting.max_message))
        // A control frame is no message: a limit below 125 is none for it.
        .max_frame_size(Some(setting.max_message.max(MAX_CONTROL)));
    let mut context = WebSocketContext::new(role, Some(config));
    let mut stream = OneByOne { octets, read: 0 };
    let mut seen = Vec::new();
    loop {
        let event = match context.read(&mut stream) {
            Ok(message) => event_of(message),
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return seen,
            Err(error) => Event::Broken(rule_of(&error)),
        };
        let last = matches!(event, Event::Close(_) | Event::Broken(_));
        seen.push(Seen { octets: stream.read, event });
        if last {
            return seen;
        }
    }
}

fn event_of(message: other::Message) -> Event {
    match message {
        other::Message::Text(text) => Event::Text(text.as_str().to_owned()),
        other::Message::Binary(octets) => Event::Binary(octets.to_vec()),
        other::Message::Ping(octets) => Event::Ping(octets.to_vec()),
        other::Message::Pong(octets) => Event::Pong(octets.to_vec()),
        other::Message::Close(frame) => {
            Event::Close(frame.map(|frame| (frame.code.into(), frame.reason.as_str().to_owned())))
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
            error => panic!("an error that is new here: {error:?}"),
        },
        error => panic!("an error that is new here: {error:?}"),
    })
}

/// Octets that come one at a time; what is answered goes nowhere.
struct OneByOne<'a> {
    octets: &'a [u8],
    read: usize,
}

impl io::Read for OneByOne<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (self.octets.get(self.read), buffer.first_mut()) {
            (Some(octet), Some(room)) => {
                *room = *octet;
                self.read += 1;
                Ok(1)
            }
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl io::Write for OneByOne<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
