//! UTF-8 that arrives in pieces. Each byte is validated once, and an invalid byte is found when it arrives.
//!
//! Text that arrives as a whole is validated by `decoder::text`.

use crate::error::Violation;

/// The longest UTF-8 sequence.
const MAX_SEQUENCE: usize = 4;

/// A text under construction: the valid part, and the start of a sequence that is still incomplete.
#[derive(Debug, Default)]
pub(super) struct PartialText {
    valid: String,
    partial: [u8; MAX_SEQUENCE],
    partial_len: usize,
}

impl PartialText {
    /// Appends a piece, which can end inside a character.
    ///
    /// # Errors
    ///
    /// [`Violation::InvalidUtf8`] at the first byte after which no continuation can make the text valid.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> Result<(), Violation> {
        while self.partial_len > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
            piece = rest;
            // There is room, because a sequence of four bytes is complete or invalid.
            *self.partial.get_mut(self.partial_len).ok_or(Violation::InvalidUtf8)? = byte;
            self.partial_len += 1;
            match std::str::from_utf8(self.partial.get(..self.partial_len).unwrap_or_default()) {
                Ok(character) => {
                    self.valid.push_str(character);
                    self.partial_len = 0;
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(Violation::InvalidUtf8),
            }
        }
        // The incomplete end is removed before the validation. Otherwise `from_utf8` would fail there, and a second pass
        // over the piece would be needed.
        let (complete, tail) = piece.split_at(piece.len() - incomplete_tail(piece));
        self.valid.push_str(std::str::from_utf8(complete).map_err(|_| Violation::InvalidUtf8)?);
        match std::str::from_utf8(tail) {
            Err(error) if error.error_len().is_some() => Err(Violation::InvalidUtf8),
            _ => {
                self.partial.iter_mut().zip(tail).for_each(|(place, &byte)| *place = byte);
                self.partial_len = tail.len();
                Ok(())
            }
        }
    }

    /// Copies a complete text. The buffer must be empty.
    pub(super) fn set(&mut self, valid: &str) {
        self.valid.push_str(valid);
    }

    /// Checks that the text is complete.
    ///
    /// # Errors
    ///
    /// [`Violation::InvalidUtf8`] if it ends inside a character.
    pub(super) fn finish(&self) -> Result<(), Violation> {
        if self.partial_len == 0 { Ok(()) } else { Err(Violation::InvalidUtf8) }
    }

    pub(super) fn len(&self) -> usize {
        self.valid.len() + self.partial_len
    }

    pub(super) fn as_str(&self) -> &str {
        &self.valid
    }

    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.valid)
    }

    pub(super) fn clear(&mut self) {
        self.valid.clear();
        self.partial_len = 0;
    }

    pub(super) fn capacity(&self) -> usize {
        self.valid.capacity()
    }
}

/// Returns the length of an incomplete sequence at the end: 0 to 3 bytes.
fn incomplete_tail(bytes: &[u8]) -> usize {
    for (at, byte) in bytes.iter().rev().take(MAX_SEQUENCE - 1).enumerate() {
        let sequence = match byte {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
            _ => 1,
        };
        return if sequence > at + 1 { at + 1 } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_two(bytes: &[u8], cut: usize) -> Result<String, Violation> {
        let mut text = PartialText::default();
        text.push(&bytes[..cut])?;
        text.push(&bytes[cut..])?;
        text.finish()?;
        Ok(text.take())
    }

    #[test]
    fn text_cut_anywhere_is_the_same_text() {
        let sample = "κόσμε 안녕하세요 🐸 plain";
        for cut in 0..=sample.len() {
            assert_eq!(in_two(sample.as_bytes(), cut).as_deref(), Ok(sample), "cut at {cut}");
        }
    }

    #[test]
    fn invalid_utf8_fails_wherever_it_is_cut() {
        let wrong: [&[u8]; 9] = [
            b"\xce\xba\xed\xa0\x80edited", // a surrogate
            b"\xf4\x90\x80\x80",           // above U+10FFFF
            b"\xc0\xaf",                   // overlong
            b"\xe0\x80\x80",
            b"\xf0\x80\x80\x80",
            b"\xff",
            b"\x80",
            b"abc\xe2\x82", // ends inside a character
            b"\xe2\x82\xe2\x82\xac",
        ];
        for bytes in wrong {
            for cut in 0..=bytes.len() {
                assert_eq!(in_two(bytes, cut), Err(Violation::InvalidUtf8), "{bytes:x?} cut at {cut}");
            }
        }
    }

    #[test]
    fn the_first_invalid_byte_fails() {
        let mut text = PartialText::default();
        text.push(b"\xf4").expect("the start of U+100000");
        assert_eq!(text.push(b"\x90"), Err(Violation::InvalidUtf8));
    }
}
