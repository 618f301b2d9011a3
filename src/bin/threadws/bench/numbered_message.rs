//! What is sent: no two messages are the same, and each is known again.

use threadws::MessageRef;

/// Of longer messages, the number, so much of their middle and the end are compared.
const SAMPLE: usize = 1024;
/// Digits of a message's number.
const DIGITS: usize = 16;

/// A message with a number: letters in both kinds, so that the two differ in nothing but the kind.
#[derive(Debug)]
pub(super) struct NumberedMessage {
    bytes: Vec<u8>,
    number: u64,
    binary: bool,
}

impl NumberedMessage {
    pub(super) fn new(size: usize, binary: bool) -> Self {
        let mut payload = Self { bytes: (b'a'..=b'z').cycle().take(size).collect(), number: 0, binary };
        payload.write_number();
        payload
    }

    /// Goes on to the next message.
    pub(super) fn count(&mut self) {
        self.number += 1;
        self.write_number();
    }

    /// As many of its hexadecimal digits as there is room for, the last ones first.
    fn write_number(&mut self) {
        let mut rest = self.number;
        for byte in self.bytes.iter_mut().take(DIGITS) {
            let digit = rest % 16;
            *byte = b"0123456789abcdef"[digit as usize];
            if digit != 0 {
                break; // No carry: the digits behind it are as they were.
            }
            rest /= 16;
        }
    }

    pub(super) fn message(&self) -> MessageRef<'_> {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) if !self.binary => MessageRef::Text(text),
            _ => MessageRef::Binary(&self.bytes),
        }
    }

    /// Whether this came back: its kind, its length, its number and, if it is long, a sample of the rest.
    pub(super) fn is(&self, message: MessageRef<'_>) -> bool {
        let (ours, theirs) = (&self.bytes, message.as_bytes());
        if message.as_text().is_some() == self.binary || theirs.len() != ours.len() {
            return false;
        }
        if ours.len() <= SAMPLE {
            return ours == theirs;
        }
        let last = ours.len() - DIGITS;
        // Another place each time; by a step that shares no factor with most sizes.
        let middle = usize::try_from(self.number.wrapping_mul(7919)).unwrap_or(0) % last;
        [0, middle, last].into_iter().all(|at| ours[at..at + DIGITS] == theirs[at..at + DIGITS])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_messages_are_the_same_and_each_is_recognized() {
        for (size, binary) in [(1, true), (3, false), (32, false), (1024, true), (5000, false)] {
            let mut one = NumberedMessage::new(size, binary);
            let mut other = NumberedMessage::new(size, binary);
            for _ in 0..10 {
                assert!(one.is(other.message()));
                other.count();
                assert!(!one.is(other.message()), "{size}");
                one.count();
            }
        }
    }

    #[test]
    fn a_number_is_written_as_if_it_were_new() {
        let mut payload = NumberedMessage::new(20, false);
        for number in 0..70_000_u64 {
            let digits: String = format!("{number:016x}").chars().rev().collect();
            assert_eq!(payload.bytes[..16], *digits.as_bytes(), "{number}");
            payload.count();
        }
    }

    #[test]
    fn another_kind_length_number_or_content_is_not_what_was_sent() {
        let mut payload = NumberedMessage::new(5000, false);
        let text = payload.message().as_text().expect("text").to_owned();
        assert!(!payload.is(MessageRef::Binary(text.as_bytes())));
        assert!(!payload.is(MessageRef::Text(&text[..4999])));
        assert!(!payload.is(MessageRef::Text(&text.replace('z', "y"))));
        payload.count();
        assert!(!payload.is(MessageRef::Text(&text)));
    }
}
