//! Encodes messages and control frames (RFC 6455 §5.2). A message is always one frame. Sections below are of that RFC.
//!
//! Queueing and writing the bytes is in `outbox/`.

use super::{Role, mask};
use crate::error::{Error, Result};
use crate::message::{CloseCode, CloseFrame, MessageRef};
use crate::protocol::decoder::MAX_CONTROL;

/// The longest reason that fits into a Close frame with its code (§5.5).
pub(crate) const MAX_REASON: usize = MAX_CONTROL - 2;

/// The first byte of a frame: an opcode of §5.2 with the FIN bit, because no message is fragmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Text = 0x81,
    Binary = 0x82,
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

/// The header of a frame: two to ten bytes, and four more for the mask key of a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    bytes: [u8; Self::MAX + 4],
    len: usize,
    key: Option<[u8; 4]>,
}

impl Header {
    /// The longest header without a mask key: two bytes, and eight for the length.
    const MAX: usize = 10;
    /// The longest header of an unmasked frame with less than 64 KiB of payload.
    pub(crate) const SHORT: usize = 4;

    /// Makes a header: for a client with a new random mask key, for a server without one.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "each arm has just compared the length")]
    #[expect(clippy::indexing_slicing, reason = "`len` is at most 10, and the array has four bytes more")]
    pub(crate) fn new(role: Role, opcode: Opcode, payload: usize) -> Self {
        let mut bytes = [0; Self::MAX + 4];
        let mask_bit = if role == Role::Client { 0x80 } else { 0 };
        bytes[0] = opcode as u8;
        let mut len = if payload <= 125 {
            bytes[1] = mask_bit | payload as u8;
            2
        } else if payload <= usize::from(u16::MAX) {
            bytes[1] = mask_bit | 126;
            bytes[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
            4
        } else {
            bytes[1] = mask_bit | 127;
            bytes[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        };
        let key = (role == Role::Client).then(mask_key);
        if let Some(key) = key {
            bytes[len..len + 4].copy_from_slice(&key);
            len += 4;
        }
        Self { bytes, len, key }
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "only `new` sets `len`")]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
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
    // In pieces of 16 bytes, because an echoed payload was just unmasked with stores of this size. A wider load, as in
    // `memcpy`, would span two of them, which defeats store forwarding.
    let mut pieces = payload.chunks_exact(16);
    for piece in &mut pieces {
        if let Ok(piece) = <&[u8; 16]>::try_from(piece) {
            frames.extend_from_slice(piece);
        }
    }
    if !pieces.remainder().is_empty() {
        frames.extend_from_slice(pieces.remainder());
    }
    true
}

/// Appends one frame.
#[inline]
pub(crate) fn append(role: Role, opcode: Opcode, payload: &[u8], frame: &mut Vec<u8>) {
    if append_short(role, opcode, payload, frame) {
        return;
    }
    let header = Header::new(role, opcode, payload.len());
    frame.reserve(header.len + payload.len());
    frame.extend_from_slice(header.as_bytes());
    let start = frame.len();
    frame.extend_from_slice(payload);
    if let Some(key) = header.key {
        mask(frame.get_mut(start..).unwrap_or_default(), key, 0);
    }
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
        let size = |payload| Header::new(Role::Server, Opcode::Binary, payload).as_bytes().len();
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
