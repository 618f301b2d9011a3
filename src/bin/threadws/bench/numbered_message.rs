//! The messages of a load. Each has a number, so that no two are equal, and each can be recognized when it comes back.

use threadws::MessageRef;

/// The longest message, in bytes, that is compared whole. Of a longer one, three samples of `DIGITS` bytes are compared:
/// the number, one in the middle, and the end.
const COMPARED_WHOLE: usize = 1024;
/// Digits of a message's number.
const DIGITS: usize = 16;

/// A message that begins with its number. Text and binary messages have the same letters as content.
#[derive(Debug)]
pub(super) struct NumberedMessage {
    bytes: Vec<u8>,
    number: u64,
    binary: bool,
}

impl NumberedMessage {
    pub(super) fn new(size: usize, binary: bool) -> Self {
        let mut message = Self { bytes: (b'a'..=b'z').cycle().take(size).collect(), number: 0, binary };
        message.write_number();
        message
    }

    /// Becomes the next message.
    pub(super) fn advance(&mut self) {
        self.number += 1;
        self.write_number();
    }

    /// Writes the number in hexadecimal, the last digit first, as far as there is room.
    fn write_number(&mut self) {
        let mut rest = self.number;
        for byte in self.bytes.iter_mut().take(DIGITS) {
            let digit = rest % 16;
            *byte = b"0123456789abcdef"[digit as usize];
            if digit != 0 {
                break; // Without a carry, the digits after it do not change.
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

    /// Whether `message` is this message: compares the kind, the length and the content, of a long message in samples.
    pub(super) fn matches(&self, message: MessageRef<'_>) -> bool {
        let (ours, theirs) = (&self.bytes, message.as_bytes());
        if message.as_text().is_some() == self.binary || theirs.len() != ours.len() {
            return false;
        }
        if ours.len() <= COMPARED_WHOLE {
            return ours == theirs;
        }
        let last = ours.len() - DIGITS;
        // Another place for each message. 7919 is a prime, so that the places are spread over the message.
        let middle = usize::try_from(self.number.wrapping_mul(7919)).unwrap_or(0) % last;
        [0, middle, last].into_iter().all(|at| ours[at..at + DIGITS] == theirs[at..at + DIGITS])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_messages_are_equal_and_each_is_recognized() {
        for (size, binary) in [(1, true), (3, false), (32, false), (1024, true), (5000, false)] {
            let mut one = NumberedMessage::new(size, binary);
            let mut other = NumberedMessage::new(size, binary);
            for _ in 0..10 {
                assert!(one.matches(other.message()));
                other.advance();
                assert!(!one.matches(other.message()), "{size}");
                one.advance();
            }
        }
    }

    #[test]
    fn only_changed_digits_are_written_and_the_number_is_right() {
        let mut message = NumberedMessage::new(20, false);
        for number in 0..70_000_u64 {
            let digits: String = format!("{number:016x}").chars().rev().collect();
            assert_eq!(message.bytes[..16], *digits.as_bytes(), "{number}");
            message.advance();
        }
    }

    #[test]
    fn another_kind_length_number_or_content_does_not_match() {
        let mut message = NumberedMessage::new(5000, false);
        let text = message.message().as_text().expect("text").to_owned();
        assert!(!message.matches(MessageRef::Binary(text.as_bytes())));
        assert!(!message.matches(MessageRef::Text(&text[..4999])));
        assert!(!message.matches(MessageRef::Text(&text.replace('z', "y"))));
        message.advance();
        assert!(!message.matches(MessageRef::Text(&text)));
    }
}
