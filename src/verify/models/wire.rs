//! A strict parser of the bytes that a model wrote. It panics at everything unexpected.

use crate::message::CloseFrame;
use crate::protocol::deflate::codec;
use crate::protocol::{Role, mask};

/// Makes a message with its sender and number, and a pattern in which any wrong byte is noticed.
pub(crate) fn message(sender: u8, number: u8, len: usize) -> Vec<u8> {
    let bytes = u16::try_from(len).expect("a model's messages are small").to_be_bytes();
    let mut message = vec![sender, number, bytes[0], bytes[1]];
    message.resize(len, sender << 4 | number);
    message
}

/// The opcode of a binary message with the bit RSV1. I15: no other frame has it.
const COMPRESSED: u8 = 0x42;

/// The 101 of a model.
pub(crate) const RESPONSE: &[u8] = b"HTTP/1.1 101 \r\n\r\n";

/// Returns the bytes after the 101, or `None` if some of it is missing.
pub(crate) fn after_response(bytes: &[u8]) -> Option<&[u8]> {
    let start = bytes.len().min(RESPONSE.len());
    assert_eq!(bytes[..start], RESPONSE[..start], "I13: another byte precedes the 101");
    bytes.strip_prefix(RESPONSE)
}

/// The frames that the peer has received.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// Sender and number of each message, in order.
    pub(crate) messages: Vec<(u8, u8)>,
    /// The byte in each ping and pong.
    pub(crate) pings: Vec<u8>,
    pub(crate) pongs: Vec<u8>,
    pub(crate) close: Option<Option<CloseFrame>>,
    /// The number of bytes of an incomplete frame at the end.
    pub(crate) torn: usize,
    /// All compressed messages. The peer has them as its window.
    history: Vec<u8>,
}

impl Wire {
    pub(crate) fn read(role: Role, bytes: &[u8]) -> Self {
        let wire = Self::frames(role, bytes);
        for sender in 0..16 {
            let numbers: Vec<u8> =
                wire.messages.iter().filter(|(from, _)| *from == sender).map(|(_, number)| *number).collect();
            assert!(
                numbers.is_sorted_by(|a, b| a < b),
                "messages of sender {sender} in the order {numbers:?}"
            );
        }
        assert!(wire.pongs.is_sorted_by(|a, b| a < b), "pongs in the order {:?}", wire.pongs);
        wire
    }

    /// Returns sender and number of each message, without the check of their order: the messages of a tick are all the same.
    pub(crate) fn read_ticks(role: Role, bytes: &[u8]) -> Vec<(u8, u8)> {
        Self::frames(role, bytes).messages
    }

    fn frames(role: Role, mut bytes: &[u8]) -> Self {
        let mut wire = Self::default();
        while !bytes.is_empty() {
            assert!(wire.close.is_none(), "I1, I2: {bytes:?} after a Close");
            let Some((opcode, payload, rest)) = frame(role, bytes) else {
                wire.torn = bytes.len();
                break;
            };
            bytes = rest;
            wire.take(opcode, &payload);
        }
        wire
    }

    fn take(&mut self, opcode: u8, payload: &[u8]) {
        match opcode {
            COMPRESSED => {
                let (header, plain) = payload.split_at(codec::HEADER);
                let len = usize::from(u16::from_be_bytes([header[0], header[1]]));
                let start = self.history.len().checked_sub(len).expect("I16: a window of more than was sent");
                assert_eq!(header, codec::header(&self.history[start..]), "I16: another window");
                self.history.extend_from_slice(plain);
                self.take(2, plain);
            }
            2 => {
                let (sender, number) = (payload[0], payload[1]);
                assert_eq!(payload, message(sender, number, payload.len()), "I3: frames interleave");
                self.messages.push((sender, number));
            }
            8 => {
                let content = payload.split_first_chunk().map(|(code, reason)| {
                    let reason = std::str::from_utf8(reason).expect("I3: a reason is text");
                    CloseFrame::new(u16::from_be_bytes(*code), reason)
                });
                self.close = Some(content);
            }
            9 => self.pings.push(one(payload)),
            10 => self.pongs.push(one(payload)),
            _ => panic!("I3: opcode {opcode}"),
        }
    }

    pub(crate) fn has(&self, sender: u8, number: u8) -> bool {
        self.messages.contains(&(sender, number))
    }
}

fn one(payload: &[u8]) -> u8 {
    assert_eq!(payload.len(), 1, "I3: a ping or pong of one byte");
    payload[0]
}

/// Returns opcode, payload and the bytes after the frame. `None` if the frame is incomplete.
fn frame(role: Role, bytes: &[u8]) -> Option<(u8, Vec<u8>, &[u8])> {
    let (&[first, second], mut rest) = bytes.split_first_chunk()?;
    let opcode = first & 0x4f;
    assert_eq!(first & 0xb0, 0x80, "I3: {bytes:?} is not the start of a frame");
    assert_eq!(second & 0x80 != 0, role == Role::Client, "I3: only a client masks");
    let mut len = usize::from(second & 0x7f);
    assert!(len < 127 && (len < 126 || opcode & 0x0f < 8), "I3: length {len}");
    if len == 126 {
        let (bytes, after) = rest.split_first_chunk()?;
        len = usize::from(u16::from_be_bytes(*bytes));
        assert!(len >= 126, "I3: length {len} in two bytes");
        rest = after;
    }
    let mut key = [0; 4];
    if role == Role::Client {
        let (bytes, after) = rest.split_first_chunk()?;
        key = *bytes;
        rest = after;
    }
    let (payload, rest) = rest.split_at_checked(len)?;
    let mut payload = payload.to_vec();
    mask(&mut payload, key, 0);
    Some((opcode, payload, rest))
}
