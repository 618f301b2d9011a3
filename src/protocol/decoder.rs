//! Bytes to messages and control frames (RFC 6455 §5 and §8.1).
//!
//! The caller owns the buffer and hands out its unread part; what lies whole in it is unmasked in place and returned as
//! a range. Everything else is appended to a message under construction as it arrives, so that nothing waits for a
//! length that was only announced. Every rule that a header can break is checked before a byte of its payload.

use super::utf8::Text;
use super::{Role, mask};
use crate::error::{Error, Result, Violation};
use crate::message::{CloseCode, CloseFrame, Message, MessageRef};
use std::ops::Range;

/// The longest payload of a control frame (§5.5).
pub(crate) const MAX_CONTROL: usize = 125;
/// Fragments that any message may have. A plain 4096 would fail peers that send megabytes in pieces of 64 bytes, so each
/// `BYTES_PER_FRAGMENT` received allow one more; empty fragments, which carry nothing, stay bounded.
const FREE_FRAGMENTS: usize = 4096;
const BYTES_PER_FRAGMENT: usize = 16;
/// A message that was only lent leaves its memory to the next one; of so much there may always be too much.
const KEPT_CAPACITY: usize = 4096;

/// What one call of [`Decoder::next`] did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Bytes at the front of the window that are dealt with. Ranges point into the window, and may lie in them.
    pub(crate) used: usize,
    /// `None`: more bytes are needed.
    pub(crate) item: Option<Item>,
}

/// A message or control frame, by where its payload lies in the window. Small and without a destructor: it is moved
/// several times for each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    /// Not validated yet: [`text`] makes it a `str`, in the one pass that there is.
    Text(Span),
    Binary(Span),
    /// It came in pieces: [`Decoder::assembled`] lends it, [`Decoder::take`] gives it away.
    Assembled,
    Ping(Span),
    Pong(Span),
    /// Validated: [`close_frame`] does not fail for it.
    Close(Span),
}

/// A range that can be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    start: usize,
    end: usize,
}

impl Span {
    pub(crate) fn range(self) -> Range<usize> {
        self.start..self.end
    }

    /// The same, seen from `by` bytes further back.
    pub(crate) fn shifted(self, by: usize) -> Self {
        Self { start: self.start + by, end: self.end + by }
    }
}

impl Item {
    /// The same, with its payload seen from `by` bytes further back.
    #[inline]
    pub(crate) fn shifted(self, by: usize) -> Self {
        match self {
            Self::Text(span) => Self::Text(span.shifted(by)),
            Self::Binary(span) => Self::Binary(span.shifted(by)),
            Self::Assembled => Self::Assembled,
            Self::Ping(span) => Self::Ping(span.shifted(by)),
            Self::Pong(span) => Self::Pong(span.shifted(by)),
            Self::Close(span) => Self::Close(span.shifted(by)),
        }
    }

    pub(crate) fn is_data(self) -> bool {
        matches!(self, Self::Text(_) | Self::Binary(_) | Self::Assembled)
    }
}

/// Validates a text payload.
///
/// # Errors
///
/// [`Violation::InvalidUtf8`].
pub(crate) fn text(bytes: &[u8]) -> Result<&str, Violation> {
    std::str::from_utf8(bytes).map_err(|_| Violation::InvalidUtf8)
}

/// The state between two bytes. It holds no more than the message under construction. What short messages need stands
/// last, beside what the reader holds.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Decoder {
    message: Assembly,
    /// The data frame whose payload is still arriving.
    frame: Option<Frame>,
    max_message: usize,
    role: Role,
}

/// What is left of a data frame.
#[derive(Debug)]
struct Frame {
    fin: bool,
    key: Option<[u8; 4]>,
    /// Payload bytes seen so far: where in the mask the next one stands.
    seen: usize,
    left: usize,
}

/// A message that arrives in pieces.
#[derive(Debug, Default)]
#[repr(C)]
struct Assembly {
    text: Text,
    binary: Vec<u8>,
    fragments: usize,
    is_text: bool,
    progress: Progress,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    None,
    Started,
    /// Handed out by [`Item::Assembled`], and dropped by the next call.
    Whole,
}

/// A frame's header: §5.2.
struct ParsedHeader {
    fin: bool,
    opcode: u8,
    key: Option<[u8; 4]>,
    payload: usize,
    size: usize,
}

/// First bytes of whole messages.
const WHOLE_TEXT: u8 = 0x80 | TEXT;
const WHOLE_BINARY: u8 = 0x80 | BINARY;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

impl Decoder {
    pub(crate) fn new(role: Role, max_message: usize) -> Self {
        Self { role, max_message, frame: None, message: Assembly::default() }
    }

    /// Takes what it can from the front of `window`, up to the first message or control frame.
    ///
    /// It returns without an item only when it needs more bytes, and holds at most one header or control frame back,
    /// so a window that has room for a control frame always makes progress.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] or [`Error::MessageTooBig`]; the connection cannot go on.
    #[inline]
    pub(crate) fn next(&mut self, window: &mut [u8]) -> Result<Step> {
        match self.short(window) {
            Some(step) => Ok(step),
            None => self.any(window),
        }
    }

    /// The commonest case at half the instructions: a short message in one frame, all of it here. Whatever is not that, or
    /// is wrong, goes the long way.
    #[inline]
    pub(crate) fn short(&mut self, window: &mut [u8]) -> Option<Step> {
        let &mut [first @ (WHOLE_TEXT | WHOLE_BINARY), second, ref mut rest @ ..] = window else {
            return None;
        };
        // A message that was handed out may stay: the long way, by which every burst ends, drops it.
        if self.message.progress == Progress::Started {
            return None;
        }
        let (key, masked) = match self.role {
            Role::Server => (4, 0x80),
            Role::Client => (0, 0),
        };
        let payload = usize::from(second ^ masked);
        if payload >= 126 || payload > self.max_message || rest.len() < key + payload {
            return None;
        }
        if let Some((key, rest)) = rest.split_first_chunk_mut::<4>().filter(|_| key > 0) {
            mask(rest.get_mut(..payload)?, *key, 0);
        }
        let start = 2 + key;
        let span = Span { start, end: start + payload };
        let item = if first == WHOLE_TEXT { Item::Text(span) } else { Item::Binary(span) };
        Some(Step { used: span.end, item: Some(item) })
    }

    #[inline(never)]
    #[expect(clippy::indexing_slicing, reason = "every length was compared with what is here just before")]
    fn any(&mut self, window: &mut [u8]) -> Result<Step> {
        let mut used = 0;
        if self.message.progress == Progress::Whole {
            self.message.reset();
        }
        loop {
            if let Some(frame) = &mut self.frame {
                let piece = frame.left.min(window.len() - used);
                if piece > 0 {
                    let bytes = &mut window[used..used + piece];
                    frame.unmask(bytes);
                    self.message.push(bytes)?;
                    used += piece;
                }
                if frame.left > 0 {
                    return Ok(Step { used, item: None });
                }
                let fin = frame.fin;
                self.frame = None;
                if fin {
                    self.message.finish()?;
                    return Ok(Step { used, item: Some(Item::Assembled) });
                }
            }
            let Some(header) = self.header(&window[used..])? else { return Ok(Step { used, item: None }) };
            let start = used + header.size;
            let whole = window.len() - start >= header.payload;
            let span = Span { start, end: start + header.payload };
            if header.opcode >= CLOSE {
                if !whole {
                    return Ok(Step { used, item: None });
                }
                let bytes = &mut window[span.range()];
                if let Some(key) = header.key {
                    mask(bytes, key, 0);
                }
                let item = match header.opcode {
                    CLOSE => {
                        close_frame(bytes)?;
                        Item::Close(span)
                    }
                    PING => Item::Ping(span),
                    _ => Item::Pong(span),
                };
                return Ok(Step { used: span.end, item: Some(item) });
            }
            if whole && header.fin && header.opcode != CONTINUATION {
                if let Some(key) = header.key {
                    mask(&mut window[span.range()], key, 0);
                }
                let item = if header.opcode == TEXT { Item::Text(span) } else { Item::Binary(span) };
                return Ok(Step { used: span.end, item: Some(item) });
            }
            if header.opcode != CONTINUATION {
                self.message.start(header.opcode == TEXT);
            }
            self.message.fragments += 1;
            self.frame = Some(Frame { fin: header.fin, key: header.key, seen: 0, left: header.payload });
            used = start;
        }
    }

    /// Reads a header as far as it is there, and checks every byte of it as soon as it is.
    #[inline]
    fn header(&self, bytes: &[u8]) -> Result<Option<ParsedHeader>> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let fin = first & 0x80 != 0;
        let opcode = first & 0x0f;
        // §5.2: "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values."
        if first & 0x70 != 0 {
            return Err(Violation::ReservedBit.into());
        }
        let started = self.message.progress == Progress::Started;
        match opcode {
            CONTINUATION if !started => return Err(Violation::UnexpectedContinuation.into()),
            TEXT | BINARY if started => return Err(Violation::ExpectedContinuation.into()),
            // §5.5: control frames "MUST NOT be fragmented".
            CLOSE | PING | PONG if !fin => return Err(Violation::FragmentedControl.into()),
            CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG => {}
            _ => return Err(Violation::ReservedOpcode(opcode).into()),
        }
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        let masked = second & 0x80 != 0;
        match self.role {
            Role::Server if !masked => return Err(Violation::UnmaskedFrame.into()),
            Role::Client if masked => return Err(Violation::MaskedFrame.into()),
            _ => {}
        }
        let short = second & 0x7f;
        if opcode >= CLOSE && usize::from(short) > MAX_CONTROL {
            return Err(Violation::OversizeControl.into());
        }
        let (length, at) = match short {
            126 => {
                let Some(bytes) = array::<2>(bytes, 2) else { return Ok(None) };
                let length = u64::from(u16::from_be_bytes(bytes));
                if length < 126 {
                    return Err(Violation::NonMinimalLength.into());
                }
                (length, 4)
            }
            127 => {
                let Some(bytes) = array::<8>(bytes, 2) else { return Ok(None) };
                let length = u64::from_be_bytes(bytes);
                if length >> 63 != 0 {
                    return Err(Violation::LengthOverflow.into());
                }
                if length <= u64::from(u16::MAX) {
                    return Err(Violation::NonMinimalLength.into());
                }
                (length, 10)
            }
            short => (u64::from(short), 2),
        };
        let payload = if opcode >= CLOSE {
            usize::from(short)
        } else {
            // Compared as u64, before anything is narrowed: an overflow here is how limits were bypassed elsewhere.
            let room = self.max_message - self.message.len();
            match usize::try_from(length) {
                Ok(length) if length <= room => length,
                _ => return Err(Error::MessageTooBig { limit: self.max_message }),
            }
        };
        if opcode == CONTINUATION {
            self.message.check_fragments()?;
        }
        let key = if masked {
            let Some(key) = array::<4>(bytes, at) else { return Ok(None) };
            Some(key)
        } else {
            None
        };
        let size = at + if masked { 4 } else { 0 };
        Ok(Some(ParsedHeader { fin, opcode, key, payload, size }))
    }

    /// Copies and validates a text, to be lent by [`assembled`](Self::assembled): a borrowed `str` made where it lies could
    /// not be returned without validating it a second time.
    #[inline]
    pub(crate) fn adopt(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let valid = text(bytes)?;
        self.message.reset();
        self.message.is_text = true;
        self.message.text.set(valid);
        self.message.progress = Progress::Whole;
        Ok(())
    }

    /// The message that [`Item::Assembled`] announced, or that was [adopted](Self::adopt).
    pub(crate) fn assembled(&self) -> MessageRef<'_> {
        if self.message.is_text {
            MessageRef::Text(self.message.text.as_str())
        } else {
            MessageRef::Binary(&self.message.binary)
        }
    }

    /// The message that [`Item::Assembled`] announced, moved out.
    pub(crate) fn take(&mut self) -> Message {
        let message = if self.message.is_text {
            Message::Text(self.message.text.take())
        } else {
            let mut binary = std::mem::take(&mut self.message.binary);
            if binary.capacity() > KEPT_CAPACITY.max(2 * binary.len()) {
                // What is given away may be kept for long: it does not hold what a larger one before it needed.
                binary.shrink_to_fit();
            }
            Message::Binary(binary)
        };
        self.message.reset();
        message
    }

    /// Where the rest of a large binary frame may be read to directly, and how many bytes of it are left. Text goes
    /// through the window, or it would be validated twice.
    pub(crate) fn direct(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        match &self.frame {
            Some(frame) if frame.left > 0 && !self.message.is_text => {
                Some((&mut self.message.binary, frame.left))
            }
            _ => None,
        }
    }

    /// Takes note of `count` bytes that were read to the end of [`direct`](Self::direct)'s vector.
    pub(crate) fn directly_read(&mut self, count: usize) {
        let Some(frame) = &mut self.frame else { return };
        let start = self.message.binary.len().saturating_sub(count);
        frame.unmask(self.message.binary.get_mut(start..).unwrap_or_default());
    }

    /// Bytes of memory beside the window.
    #[cfg(all(test, not(model)))]
    pub(crate) fn held(&self) -> usize {
        self.message.text.capacity() + self.message.binary.capacity()
    }

    /// Gives back what a large message left to the next one, unless that has begun.
    pub(crate) fn rest(&mut self) {
        if self.message.progress == Progress::None {
            // Empty now, so that all is too much.
            self.message.reset();
        }
    }

    /// Whether a message or frame has begun and not ended, not counting a header that is cut.
    pub(crate) fn is_inside_message(&self) -> bool {
        self.frame.is_some() || self.message.progress == Progress::Started
    }
}

impl Frame {
    fn unmask(&mut self, bytes: &mut [u8]) {
        if let Some(key) = self.key {
            mask(bytes, key, self.seen);
        }
        self.seen += bytes.len();
        self.left -= bytes.len();
    }
}

impl Assembly {
    fn start(&mut self, is_text: bool) {
        self.progress = Progress::Started;
        self.is_text = is_text;
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        if self.is_text {
            return self.text.push(bytes);
        }
        self.binary.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Violation> {
        self.progress = Progress::Whole;
        if self.is_text { self.text.finish() } else { Ok(()) }
    }

    fn len(&self) -> usize {
        if self.is_text { self.text.len() } else { self.binary.len() }
    }

    fn check_fragments(&self) -> Result<(), Violation> {
        if self.fragments >= FREE_FRAGMENTS + self.len() / BYTES_PER_FRAGMENT {
            return Err(Violation::TooManyFragments);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.progress = Progress::None;
        self.is_text = false;
        self.fragments = 0;
        // Fresh memory costs a page fault for each 4 KiB: more than to receive and to send what goes into them.
        if self.text.capacity() > KEPT_CAPACITY.max(2 * self.text.len()) {
            self.text = Text::default();
        }
        if self.binary.capacity() > KEPT_CAPACITY.max(2 * self.binary.len()) {
            self.binary = Vec::new();
        }
        self.text.clear();
        self.binary.clear();
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The content of a Close frame (§5.5.1).
///
/// # Errors
///
/// [`Violation::TruncatedClose`], [`Violation::InvalidCloseCode`] or [`Violation::InvalidUtf8`].
pub(crate) fn close_frame(payload: &[u8]) -> Result<Option<CloseFrame>, Violation> {
    match payload {
        [] => Ok(None),
        [_] => Err(Violation::TruncatedClose),
        [high, low, reason @ ..] => {
            let number = u16::from_be_bytes([*high, *low]);
            let code = CloseCode::from(number);
            if !code.is_sendable() {
                return Err(Violation::InvalidCloseCode(number));
            }
            Ok(Some(CloseFrame::new(code, text(reason)?)))
        }
    }
}

#[cfg(test)]
mod tests;
