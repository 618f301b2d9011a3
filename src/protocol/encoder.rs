//! Encodes messages and control frames (RFC 6455 §5.2). A message is always one frame. Sections below are of that RFC.
//!
//! Queueing and writing the bytes is in `outbox/`.

use super::{Role, mask};
use crate::error::{Error, Result};
use crate::message::{CloseCode, CloseFrame, IntoMessage, MessageRef};
use crate::protocol::decoder::MAX_CONTROL;
use std::borrow::Cow;

/// The longest reason that fits into a Close frame with its code (§5.5).
pub(crate) const MAX_REASON: usize = MAX_CONTROL - 2;

/// The first byte of a frame: an opcode of §5.2 with the FIN bit, because no message is fragmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Text = 0x81,
    Binary = 0x82,
    /// With the bit RSV1 (RFC 7692 §6).
    CompressedText = 0xc1,
    CompressedBinary = 0xc2,
    Close = 0x88,
    Ping = 0x89,
    Pong = 0x8a,
}

impl From<MessageRef<'_>> for Opcode {
    fn from(message: MessageRef<'_>) -> Self {
        match message {
            MessageRef::Text(_) => Self::Text,
            MessageRef::Binary(_) => Self::Binary,
        }
    }
}

impl Opcode {
    /// Returns the opcode of the same message when it is compressed.
    pub(crate) fn compressed(self) -> Self {
        if self == Self::Text { Self::CompressedText } else { Self::CompressedBinary }
    }
}

/// A frame up to this size is written from one slice, which costs less than two.
const SHORT_FRAME: usize = 128;

/// Holds a short frame, or the header of a long one.
pub(crate) type FrameBuffer = [u8; SHORT_FRAME];

/// The buffer that [`EncodedFrame::new`] fills.
pub(crate) const EMPTY: FrameBuffer = [0; SHORT_FRAME];

/// Writes a frame's header to the start of `buffer`. Returns its length, two to 14 bytes, and the mask key of a client's
/// frame.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "each arm has just compared the length")]
#[expect(clippy::indexing_slicing, reason = "`len` is at most 10, and the buffer is much longer")]
fn put_header(
    role: Role,
    opcode: Opcode,
    payload: usize,
    buffer: &mut FrameBuffer,
) -> (usize, Option<[u8; 4]>) {
    let mask_bit = if role == Role::Client { 0x80 } else { 0 };
    buffer[0] = opcode as u8;
    let len = if payload <= 125 {
        buffer[1] = mask_bit | payload as u8;
        2
    } else if payload <= usize::from(u16::MAX) {
        buffer[1] = mask_bit | 126;
        buffer[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
        4
    } else {
        buffer[1] = mask_bit | 127;
        buffer[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
        10
    };
    if role == Role::Server {
        return (len, None);
    }
    let key = mask_key();
    buffer[len..len + 4].copy_from_slice(&key);
    (len + 4, Some(key))
}

/// One encoded frame, in at most two slices.
///
/// The payload of a long message is not copied, except for a client's message that the caller keeps: masking needs a copy.
#[derive(Debug)]
pub(crate) struct EncodedFrame<'a> {
    /// The header, and all of a short message's payload.
    head: &'a [u8],
    payload: Cow<'a, [u8]>,
}

impl<'a> EncodedFrame<'a> {
    #[inline]
    pub(crate) fn new(role: Role, message: impl IntoMessage + 'a, buffer: &'a mut FrameBuffer) -> Self {
        let view = message.as_message();
        let payload = view.as_bytes();
        let (header, key) = put_header(role, view.into(), payload.len(), buffer);
        let end = header + payload.len();
        if let Some(place) = buffer.get_mut(header..end) {
            place.copy_from_slice(payload);
            if let Some(key) = key {
                mask(place, key, 0);
            }
            return Self { head: buffer.get(..end).unwrap_or_default(), payload: Cow::Borrowed(&[]) };
        }
        let mut payload = message.into_payload();
        if let Some(key) = key {
            mask(payload.to_mut(), key, 0);
        }
        Self { head: buffer.get(..header).unwrap_or_default(), payload }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    #[inline]
    pub(crate) fn slices(&self) -> [&[u8]; 2] {
        [self.head, &self.payload]
    }

    /// Returns the second of the [`slices`](Self::slices), without a copy if the caller gave the message away.
    pub(crate) fn into_payload(self) -> Vec<u8> {
        self.payload.into_owned()
    }
}

/// Appends one frame if it is short and unmasked, and `frames` has the capacity. Returns false otherwise.
#[inline]
pub(crate) fn append_short(role: Role, opcode: Opcode, payload: &[u8], frames: &mut Vec<u8>) -> bool {
    let (Role::Server, Ok(length @ 0..=125)) = (role, u8::try_from(payload.len())) else { return false };
    if frames.capacity() - frames.len() < 2 + payload.len() {
        return false;
    }
    frames.extend_from_slice(&[opcode as u8, length]);
    frames.extend_from_slice(payload);
    true
}

/// Appends one frame.
#[inline]
pub(crate) fn append(role: Role, opcode: Opcode, payload: &[u8], frame: &mut Vec<u8>) {
    if append_short(role, opcode, payload, frame) {
        return;
    }
    let mut buffer = EMPTY;
    let (header, key) = put_header(role, opcode, payload.len(), &mut buffer);
    frame.reserve(header + payload.len());
    frame.extend_from_slice(buffer.get(..header).unwrap_or_default());
    let start = frame.len();
    frame.extend_from_slice(payload);
    if let Some(key) = key {
        mask(frame.get_mut(start..).unwrap_or_default(), key, 0);
    }
}

/// A message frame that this module has encoded.
#[derive(Debug)]
pub(crate) struct MessageFrame<'a> {
    pub(crate) opcode: Opcode,
    pub(crate) payload: &'a [u8],
    /// With its header.
    pub(crate) whole: &'a [u8],
}

/// Returns the frames of messages that were encoded one after another, without masks.
pub(crate) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = MessageFrame<'_>> {
    std::iter::from_fn(move || {
        let (&[first, length], _) = bytes.split_first_chunk()?;
        let (header, payload) = match length {
            126 => (4, u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
            127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
            length => (2, u64::from(length)),
        };
        let (whole, rest) = bytes.split_at_checked(usize::try_from(payload).ok()?.checked_add(header)?)?;
        bytes = rest;
        let opcode = if first == Opcode::Text as u8 { Opcode::Text } else { Opcode::Binary };
        Some(MessageFrame { opcode, payload: whole.get(header..)?, whole })
    })
}

/// Returns whether bytes are this number of messages as [`append`] encodes them for clients: unmasked, unfragmented, with the
/// shortest form of the length, text in UTF-8, and no payload longer than `longest`.
pub(crate) fn are_messages(bytes: &[u8], messages: u64, longest: usize) -> bool {
    let (mut count, mut checked) = (0, 0);
    for MessageFrame { opcode, payload, whole } in frames(bytes) {
        let mut buffer = EMPTY;
        let (header, _) = put_header(Role::Server, opcode, payload.len(), &mut buffer);
        let is_valid = whole.len() == header + payload.len()
            && whole.get(..header) == buffer.get(..header)
            && payload.len() <= longest
            && (opcode == Opcode::Binary || std::str::from_utf8(payload).is_ok());
        if !is_valid {
            return false;
        }
        count += 1;
        checked += whole.len();
    }
    count == messages && checked == bytes.len()
}

/// Returns the payload of a Close frame (§5.5.1), which is empty without a code.
pub(crate) fn close_payload(content: Option<&CloseFrame>) -> Vec<u8> {
    content.map_or_else(Vec::new, |frame| {
        [&u16::from(frame.code).to_be_bytes()[..], frame.reason.as_bytes()].concat()
    })
}

/// Checks the code and reason of a Close frame. 1005 is refused, too, because it means that a frame has no code.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(crate) fn check_close(code: CloseCode, reason: &str) -> Result<()> {
    if !code.is_sendable() {
        return Err(Error::invalid(format!("close code {} cannot be sent", u16::from(code))));
    }
    if reason.len() > MAX_REASON {
        return Err(Error::invalid(format!(
            "close reason of {} bytes, at most {MAX_REASON} fit",
            reason.len()
        )));
    }
    Ok(())
}

/// Checks the length of the payload of a ping.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(crate) fn check_control(payload: &[u8]) -> Result<()> {
    if payload.len() > MAX_CONTROL {
        return Err(Error::invalid(format!(
            "control payload of {} bytes, at most {MAX_CONTROL} fit",
            payload.len()
        )));
    }
    Ok(())
}

/// Returns a random mask key. §5.3: it is "derived from a strong source of entropy" and unpredictable. The generator is
/// seeded by the operating system.
fn mask_key() -> [u8; 4] {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_fewest_bytes() {
        let size = |payload| put_header(Role::Server, Opcode::Binary, payload, &mut EMPTY.clone()).0;
        for (payload, bytes) in [(0, 2), (125, 2), (126, 4), (65535, 4), (65536, 10), (1 << 31, 10)] {
            assert_eq!(size(payload), bytes, "{payload}");
        }
    }

    #[test]
    fn a_server_does_not_mask_and_a_client_does() {
        let mut frame = Vec::new();
        append(Role::Server, Opcode::Text, b"Hello", &mut frame);
        assert_eq!(frame, b"\x81\x05Hello"); // §5.7
        frame.clear();
        append(Role::Client, Opcode::Text, b"Hello", &mut frame);
        assert_eq!(frame[..2], [0x81, 0x85]);
        let key = [frame[2], frame[3], frame[4], frame[5]];
        mask(&mut frame[6..], key, 0);
        assert_eq!(&frame[6..], b"Hello");
    }

    #[test]
    fn no_two_frames_have_the_same_mask() {
        let keys: std::collections::HashSet<_> = (0..1000).map(|_| mask_key()).collect();
        assert!(keys.len() > 995, "{}", keys.len());
        let bits = keys.iter().flatten().fold(0, |bits, byte| bits | byte);
        assert_eq!(bits, 255, "each bit of a key is set in some keys");
    }

    #[test]
    fn invalid_close_and_control_payloads_are_refused() {
        check_close(CloseCode::NORMAL, &"x".repeat(123)).expect("123 bytes fit");
        check_close(CloseCode::NORMAL, &"x".repeat(124)).expect_err("124 bytes do not");
        check_close(CloseCode::NO_STATUS, "").expect_err("1005 is never sent");
        check_control(&[0; 125]).expect("125 bytes fit");
        check_control(&[0; 126]).expect_err("126 bytes do not");
    }
}
