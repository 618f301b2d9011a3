//! Encodes and decodes the envelopes that servers pass on to each other. No I/O.
//!
//! An envelope is a head of 32 bytes, big-endian, and a body:
//!
//! | offset | size | |
//! | --- | --- | --- |
//! | 0 | 1 | `t` |
//! | 1 | 1 | version, 1 |
//! | 2 | 1 | flags, 0 |
//! | 3 | 1 | kind: 0 messages, 4 alive, 5 goodbye |
//! | 4 | 8 | node: the sending server |
//! | 12 | 8 | stream of the node's messages for this channel |
//! | 20 | 8 | number of the first message in the stream, from 1 |
//! | 28 | 4 | messages; for alive, the number of clients |
//!
//! The body of messages is what a server would send to its clients: one unmasked frame for each message (RFC 6455 §5.2).
//! Envelopes with another version, flag or kind are ignored, so that servers of several versions can share an engine.

use super::ledger::{NodeId, Position};

pub(super) const HEAD: usize = 32;
const MARK: u8 = b't';
const VERSION: u8 = 1;

/// The meaning of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EnvelopeKind {
    /// The body holds messages.
    Messages = 0,
    /// The server lives.
    Alive = 4,
    /// The server ends.
    Goodbye = 5,
}

/// The head of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EnvelopeHead {
    pub(super) kind: EnvelopeKind,
    pub(super) node: NodeId,
    pub(super) position: Position,
    /// How many messages the body holds, or how many clients a living server has.
    pub(super) count: u32,
}

impl EnvelopeHead {
    pub(super) fn encode(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        let fields = [
            &[MARK, VERSION, 0, self.kind as u8][..],
            &self.node.to_be_bytes(),
            &self.position.stream.to_be_bytes(),
            &self.position.first.to_be_bytes(),
            &self.count.to_be_bytes(),
        ];
        let mut rest = &mut bytes[..];
        for field in fields {
            let (place, after) = rest.split_at_mut(field.len());
            place.copy_from_slice(field);
            rest = after;
        }
        bytes
    }

    /// Returns the head and the body, or `None` if the envelope is to be ignored. The body is not checked.
    pub(super) fn decode(envelope: &[u8]) -> Option<(Self, &[u8])> {
        let (&[MARK, VERSION, 0, kind], rest) = envelope.split_first_chunk()? else { return None };
        let kind = match kind {
            0 => EnvelopeKind::Messages,
            4 => EnvelopeKind::Alive,
            5 => EnvelopeKind::Goodbye,
            _ => return None,
        };
        let (node, rest) = rest.split_first_chunk()?;
        let (stream, rest) = rest.split_first_chunk()?;
        let (first, rest) = rest.split_first_chunk()?;
        let (count, body) = rest.split_first_chunk()?;
        let position = Position { stream: u64::from_be_bytes(*stream), first: u64::from_be_bytes(*first) };
        let head =
            Self { kind, node: u64::from_be_bytes(*node), position, count: u32::from_be_bytes(*count) };
        let has_messages = head.position.first > 0 && head.count > 0;
        (kind != EnvelopeKind::Messages || has_messages).then_some((head, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(kind: EnvelopeKind) -> EnvelopeHead {
        EnvelopeHead { kind, node: u64::MAX - 1, position: Position { stream: 2, first: 3 }, count: 4 }
    }

    #[test]
    fn heads_are_decoded_as_they_were_encoded() {
        for kind in [EnvelopeKind::Messages, EnvelopeKind::Alive, EnvelopeKind::Goodbye] {
            let envelope = [&head(kind).encode()[..], b"body"].concat();
            assert_eq!(EnvelopeHead::decode(&envelope), Some((head(kind), &b"body"[..])));
        }
        let bytes =
            b"t\x01\x00\x04\xff\xff\xff\xff\xff\xff\xff\xfe\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\x04";
        assert_eq!(head(EnvelopeKind::Alive).encode(), *bytes);
    }

    #[test]
    fn other_versions_flags_and_kinds_are_ignored() {
        let envelope = head(EnvelopeKind::Messages).encode();
        for at in 0..4 {
            let mut changed = envelope;
            changed[at] += 9;
            assert_eq!(EnvelopeHead::decode(&changed), None, "byte {at}");
        }
        for len in 0..HEAD {
            assert_eq!(EnvelopeHead::decode(&envelope[..len]), None, "{len} bytes");
        }
        let mut without = head(EnvelopeKind::Messages);
        without.count = 0;
        assert_eq!(EnvelopeHead::decode(&without.encode()), None);
        let mut from_zero = head(EnvelopeKind::Messages);
        from_zero.position.first = 0;
        assert_eq!(EnvelopeHead::decode(&from_zero.encode()), None);
    }
}
