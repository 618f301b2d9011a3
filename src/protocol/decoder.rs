//! Decodes bytes to messages and control frames (RFC 6455 §5 and §8.1). Sections below are of that RFC.
//!
//! The caller owns the buffer and passes its unread part, the window. A frame that is complete in the window is unmasked in
//! place and returned as a range. Other payloads are appended to a message under construction as they arrive, so no memory
//! is allocated for a length that was only announced. Every rule about headers is checked before the payload.
//!
//! Reading from the socket into the buffer is in `connection/reader.rs`, UTF-8 in pieces in `utf8.rs`.

mod partial_message;

pub(crate) use partial_message::PartialMessage;

use self::partial_message::Progress;
use super::deflate::{Decompressor, Direction, Incoming};
use super::{Role, mask};
use crate::deflate::Saved;
use crate::error::{Error, Result, Violation};
use crate::message::{CloseCode, CloseFrame, Message, MessageRef};
use std::ops::Range;

/// The longest payload of a control frame (§5.5).
pub(crate) const MAX_CONTROL: usize = 125;
/// The result of [`Decoder::next`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The number of bytes at the front of the window that were decoded. The range of the item can be in them.
    pub(crate) used: usize,
    /// `None` if more bytes are needed.
    pub(crate) item: Option<Item>,
}

/// A message or control frame, with the range of its payload in the window. It is small and has no destructor, because it
/// is moved several times for each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    /// The payload is not validated yet. [`text`] validates it and returns a `str`, so that it is validated only once.
    Text(Span),
    Binary(Span),
    /// A message that arrived in pieces. [`Decoder::assembled`] borrows it, [`Decoder::take`] moves it out.
    Assembled,
    Ping(Span),
    Pong(Span),
    /// Validated, so [`close_frame`] does not fail for it.
    Close(Span),
}

/// A range that is `Copy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    start: usize,
    end: usize,
}

impl Span {
    pub(crate) fn range(self) -> Range<usize> {
        self.start..self.end
    }

    /// Returns the range in a buffer that begins `by` bytes earlier.
    pub(crate) fn shifted(self, by: usize) -> Self {
        Self { start: self.start + by, end: self.end + by }
    }
}

impl Item {
    /// Returns the item with its range in a buffer that begins `by` bytes earlier.
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

/// The state of decoding. It owns memory only for the message under construction.
#[derive(Debug)]
pub(crate) struct Decoder {
    message: PartialMessage,
    /// The data frame whose payload is still arriving.
    frame: Option<Frame>,
    max_message: usize,
    role: Role,
    /// If compression was agreed on.
    incoming: Option<Box<Incoming>>,
}

/// A data frame whose payload is not complete.
#[derive(Debug)]
struct Frame {
    fin: bool,
    key: Option<[u8; 4]>,
    /// The number of payload bytes received so far, which is the offset of the next one in the mask.
    seen: usize,
    left: usize,
}

/// The header of a frame (§5.2).
struct ParsedHeader {
    fin: bool,
    opcode: u8,
    key: Option<[u8; 4]>,
    payload: usize,
    size: usize,
    is_compressed: bool,
}

/// The first byte of a message in one frame.
const WHOLE_TEXT: u8 = 0x80 | TEXT;
const WHOLE_BINARY: u8 = 0x80 | BINARY;

/// The reserved bits. RSV1 marks a compressed message.
const RESERVED: u8 = 0x70;
const RSV1: u8 = 0x40;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

impl Decoder {
    pub(crate) fn new(role: Role, max_message: usize) -> Self {
        Self { role, max_message, frame: None, message: PartialMessage::default(), incoming: None }
    }

    /// Accepts compressed messages from now on.
    pub(crate) fn accept_compressed(&mut self, peers: Direction) {
        self.incoming = Some(Box::new(Incoming::new(peers)));
    }

    /// Fast path for a message of at most 125 bytes in one frame, if all of it is in `window`. Returns `None` for everything
    /// else, and for every error, without changing `window`.
    #[inline]
    pub(crate) fn next_short(&mut self, window: &mut [u8]) -> Option<Step> {
        let &mut [first @ (WHOLE_TEXT | WHOLE_BINARY), second, ref mut rest @ ..] = window else {
            return None;
        };
        // A message that was returned is not dropped here. `next` does that, and runs at the end of every window.
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

    /// Decodes bytes from the front of `window`, up to the end of the first message or control frame.
    ///
    /// It returns no item only if it needs more bytes, or [a decompressor](Self::needs_decompressor). Except for the latter, it
    /// leaves less than one control frame undecoded, so a window with room for a control frame always makes progress.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] or [`Error::MessageTooBig`]. The connection cannot continue after either.
    #[expect(clippy::indexing_slicing, reason = "each length was compared with the window's just before")]
    pub(crate) fn next(&mut self, window: &mut [u8]) -> Result<Step> {
        let mut used = 0;
        if self.message.progress == Progress::Whole {
            self.message.reset();
        }
        loop {
            if let Some(frame) = &mut self.frame {
                let piece = frame.left.min(window.len() - used);
                if piece > 0 {
                    let bytes = &mut window[used..used + piece];
                    if self.message.is_compressed {
                        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.is_ready())
                        else {
                            return Ok(Step { used, item: None });
                        };
                        frame.unmask(bytes);
                        incoming.push(bytes, &mut self.message, self.max_message)?;
                    } else {
                        frame.unmask(bytes);
                        self.message.push(bytes)?;
                    }
                    used += piece;
                }
                if frame.left > 0 {
                    return Ok(Step { used, item: None });
                }
                let fin = frame.fin;
                self.frame = None;
                if fin {
                    if let Some(incoming) = self.incoming.as_mut().filter(|_| self.message.is_compressed) {
                        incoming.finish(&mut self.message, self.max_message)?;
                    }
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
            if whole && header.fin && header.opcode != CONTINUATION && !header.is_compressed {
                if let Some(key) = header.key {
                    mask(&mut window[span.range()], key, 0);
                }
                let item = if header.opcode == TEXT { Item::Text(span) } else { Item::Binary(span) };
                return Ok(Step { used: span.end, item: Some(item) });
            }
            if header.opcode != CONTINUATION {
                self.message.start(header.opcode == TEXT, header.is_compressed);
            }
            self.message.fragments += 1;
            self.frame = Some(Frame { fin: header.fin, key: header.key, seen: 0, left: header.payload });
            used = start;
        }
    }

    /// Parses the header at the start of `bytes`. Returns `None` if it is incomplete. Each byte is checked as soon as it is
    /// there.
    #[inline]
    fn header(&self, bytes: &[u8]) -> Result<Option<ParsedHeader>> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let fin = first & 0x80 != 0;
        let opcode = first & 0x0f;
        // §5.2: "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values."
        let mut is_compressed = first & RESERVED != 0;
        if is_compressed && !self.may_be_compressed(first) {
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
            is_compressed |= self.message.is_compressed;
            // Compared before the conversion to `usize`. An overflow here would bypass the limit.
            let room =
                if is_compressed { self.room_compressed() } else { self.max_message - self.message.len() };
            match usize::try_from(length) {
                Ok(length) if length <= room => length,
                _ => return Err(Error::MessageTooBig { limit: self.max_message }),
            }
        };
        if opcode == CONTINUATION {
            self.message.check_fragments(self.received())?;
        }
        let key = if masked {
            let Some(key) = array::<4>(bytes, at) else { return Ok(None) };
            Some(key)
        } else {
            None
        };
        let size = at + if masked { 4 } else { 0 };
        Ok(Some(ParsedHeader { fin, opcode, key, payload, size, is_compressed }))
    }

    /// Returns whether a frame with a reserved bit can be the first one of a compressed message. RFC 7692 §6: the bit RSV1 is
    /// set on no other frame.
    fn may_be_compressed(&self, first: u8) -> bool {
        self.incoming.is_some() && first & RESERVED == RSV1 && matches!(first & 0x0f, TEXT | BINARY)
    }

    /// Marks the frame at the start of `window` as a plain binary one, if it is the first one of a compressed message. Then another
    /// decoder can skip that message without a decompressor.
    pub(crate) fn hide_compression(&self, window: &mut [u8]) {
        if let Some(first) = window.first_mut().filter(|first| self.may_be_compressed(**first)) {
            *first = *first & 0x80 | BINARY;
        }
    }

    /// Returns how many bytes a compressed message may still have before it is decompressed: more than the limit, because a
    /// compressor can make a message longer.
    fn room_compressed(&self) -> usize {
        let most = self.max_message.saturating_add(self.max_message / 8 + 64);
        most.saturating_sub(self.received())
    }

    /// Returns whether [`next`](Self::next) needs a decompressor to continue.
    pub(crate) fn needs_decompressor(&self) -> bool {
        let is_ready = self.incoming.as_ref().is_none_or(|incoming| incoming.is_ready());
        !is_ready && self.message.is_compressed && self.frame.as_ref().is_some_and(|frame| frame.left > 0)
    }

    /// Lends a decompressor, until [`take_decompressor`](Self::take_decompressor) returns it behind the message.
    pub(crate) fn lend(&mut self, decompressor: Decompressor) -> Result<()> {
        match &mut self.incoming {
            Some(incoming) => Ok(incoming.lend(decompressor)?),
            None => Ok(()),
        }
    }

    /// Returns the decompressor that was lent. Called between two messages.
    pub(crate) fn take_decompressor(&mut self) -> Option<Decompressor> {
        self.incoming.as_mut()?.take_decompressor()
    }

    /// Returns what the peer's compression has saved.
    pub(crate) fn saved(&self) -> Saved {
        self.incoming.as_ref().map_or_else(Saved::default, |incoming| incoming.saved())
    }

    /// Validates and copies a text, which [`assembled`](Self::assembled) then borrows. A `str` in the caller's buffer could
    /// not be returned from there without a second validation.
    #[inline]
    pub(crate) fn copy_text(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let valid = text(bytes)?;
        self.message.reset();
        self.message.set_text(valid);
        Ok(())
    }

    /// Borrows the message that was returned as [`Item::Assembled`] or passed to [`copy_text`](Self::copy_text).
    pub(crate) fn assembled(&self) -> MessageRef<'_> {
        self.message.view()
    }

    /// Moves out the message that was returned as [`Item::Assembled`].
    pub(crate) fn take(&mut self) -> Message {
        self.message.take()
    }

    /// Returns the vector into which the rest of a large binary frame can be read without the window, and the number of
    /// missing bytes. Not for text, which is validated as it passes through the window.
    pub(crate) fn direct(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        match &self.frame {
            Some(frame) if frame.left > 0 && !self.message.is_text && !self.message.is_compressed => {
                Some((&mut self.message.binary, frame.left))
            }
            _ => None,
        }
    }

    /// Unmasks `count` bytes that were appended to the vector of [`direct`](Self::direct).
    pub(crate) fn directly_read(&mut self, count: usize) {
        let Some(frame) = &mut self.frame else { return };
        let start = self.message.binary.len().saturating_sub(count);
        frame.unmask(self.message.binary.get_mut(start..).unwrap_or_default());
    }

    /// Returns how many bytes of the message that is arriving were decoded. Of a compressed message they are counted before it
    /// is decompressed.
    pub(crate) fn received(&self) -> usize {
        match &self.incoming {
            Some(incoming) if self.message.is_compressed => incoming.compressed(),
            _ => self.message.len(),
        }
    }

    /// Returns the allocated bytes.
    #[cfg(all(test, not(model)))]
    pub(crate) fn allocated(&self) -> usize {
        self.message.allocated()
    }

    /// Frees the memory that was kept for the next message, unless that has begun.
    pub(crate) fn release_memory(&mut self) {
        if self.message.progress == Progress::None {
            // The message is empty, so `reset` keeps only `KEPT_CAPACITY`.
            self.message.reset();
        }
    }

    /// Returns whether a message or data frame has begun and not ended. A header that is incomplete does not count.
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

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Parses the payload of a Close frame (§5.5.1).
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
