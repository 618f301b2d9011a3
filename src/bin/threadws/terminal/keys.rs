//! Recognises keys in the bytes that a terminal sends. No I/O.

/// The effect of a key on the line: the part of readline's Emacs mode that fits a line of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Insert(char),
    Enter,
    Left,
    Right,
    WordLeft,
    WordRight,
    Home,
    End,
    Backspace,
    Delete,
    /// Ctrl-D: the end of the input on an empty line, otherwise [`Delete`](Self::Delete).
    DeleteOrEnd,
    CutToStart,
    CutToEnd,
    CutWordLeft,
    CutWordRight,
    Paste,
    Older,
    Newer,
    ClearScreen,
}

/// The longest escape sequence of a key, in bytes. A longer one is dropped.
const MAX_SEQUENCE: usize = 16;
const ESCAPE: u8 = 0x1b;

/// Collects bytes until they are a key.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// The beginning of a character or of an escape sequence.
    pending: Vec<u8>,
}

impl Keys {
    /// Takes one byte, and calls `press` for each key that is complete.
    pub(super) fn feed(&mut self, byte: u8, press: &mut impl FnMut(Key)) {
        if self.pending.first() == Some(&ESCAPE) {
            return self.feed_escaped(byte, press);
        }
        if self.pending.is_empty() && (byte < 0x20 || byte == 0x7f) {
            if byte == ESCAPE {
                self.pending.push(byte);
            } else if let Some(key) = control(byte) {
                press(key);
            }
            return;
        }
        self.pending.push(byte);
        match std::str::from_utf8(&self.pending) {
            Ok(text) => text.chars().for_each(|symbol| press(Key::Insert(symbol))),
            Err(error) if error.error_len().is_none() => return,
            Err(_) => {
                press(Key::Insert(char::REPLACEMENT_CHARACTER));
                // The byte that was no continuation begins something new.
                if self.pending.len() > 1 {
                    self.pending.clear();
                    return self.feed(byte, press);
                }
            }
        }
        self.pending.clear();
    }

    fn feed_escaped(&mut self, byte: u8, press: &mut impl FnMut(Key)) {
        let key = match (self.pending.get(1), byte) {
            (None, b'[' | b'O') => return self.pending.push(byte),
            (None, b'b') => Some(Key::WordLeft),
            (None, b'f') => Some(Key::WordRight),
            (None, b'd') => Some(Key::CutWordRight),
            (None, 0x08 | 0x7f) => Some(Key::CutWordLeft),
            // The key Esc alone does nothing, and the next key has its usual meaning.
            (None, 0..0x20 | 0x80..) => {
                self.pending.clear();
                return self.feed(byte, press);
            }
            // ECMA-48 §5.4: parameters, then a final byte. The Linux console has a second bracket before its F1 to F5.
            (Some(b'['), 0x20..0x40) | (Some(b'['), b'[') if self.pending.len() < MAX_SEQUENCE => {
                return self.pending.push(byte);
            }
            (Some(_), _) => sequence(&self.pending[2..], byte),
            (None, _) => None,
        };
        self.pending.clear();
        key.into_iter().for_each(press);
    }
}

fn control(byte: u8) -> Option<Key> {
    Some(match byte {
        b'\t' => Key::Insert('\t'),
        b'\r' | b'\n' => Key::Enter,
        0x08 | 0x7f => Key::Backspace,
        0x01 => Key::Home,        // Ctrl-A
        0x02 => Key::Left,        // Ctrl-B
        0x04 => Key::DeleteOrEnd, // Ctrl-D
        0x05 => Key::End,         // Ctrl-E
        0x06 => Key::Right,       // Ctrl-F
        0x0b => Key::CutToEnd,    // Ctrl-K
        0x0c => Key::ClearScreen, // Ctrl-L
        0x0e => Key::Newer,       // Ctrl-N
        0x10 => Key::Older,       // Ctrl-P
        0x15 => Key::CutToStart,  // Ctrl-U
        0x17 => Key::CutWordLeft, // Ctrl-W
        0x19 => Key::Paste,       // Ctrl-Y
        _ => return None,
    })
}

/// The keys of xterm, of rxvt and of the Linux console. 3 is Alt and 5 is Ctrl among the parameters.
fn sequence(parameters: &[u8], last: u8) -> Option<Key> {
    Some(match (parameters, last) {
        (b"1;3" | b"1;5", b'C') => Key::WordRight,
        (b"1;3" | b"1;5", b'D') => Key::WordLeft,
        (b"3;3" | b"3;5", b'~') => Key::CutWordRight,
        (b"", b'A') => Key::Older,
        (b"", b'B') => Key::Newer,
        (b"", b'C') => Key::Right,
        (b"", b'D') => Key::Left,
        (b"", b'H') | (b"1" | b"7", b'~') => Key::Home,
        (b"", b'F') | (b"4" | b"8", b'~') => Key::End,
        (b"3", b'~') => Key::Delete,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut found = Vec::new();
        let mut keys = Keys::default();
        bytes.iter().for_each(|byte| keys.feed(*byte, &mut |key| found.push(key)));
        found
    }

    #[test]
    fn characters_and_keys_are_recognised_in_pieces() {
        assert_eq!(keys("a한🐸\t".as_bytes()), ['a', '한', '🐸', '\t'].map(Key::Insert));
        assert_eq!(
            keys(b"\r\n\x04\x7f\x01"),
            [Key::Enter, Key::Enter, Key::DeleteOrEnd, Key::Backspace, Key::Home]
        );
        assert_eq!(
            keys(b"\x1b[A\x1bOB\x1b[3~\x1b[1;5D"),
            [Key::Older, Key::Newer, Key::Delete, Key::WordLeft]
        );
        assert_eq!(keys(b"\x1bb\x1b\x7f"), [Key::WordLeft, Key::CutWordLeft]);
    }

    #[test]
    fn unknown_keys_and_bytes_type_nothing_into_the_line() {
        assert_eq!(keys(b"\x1b[15~\x1b[[A\x1bOP\x1b[200~\x1bx\x00\x1c"), []);
        // A lone Esc, and a sequence without an end.
        assert_eq!(keys(b"\x1b\x1b\r"), [Key::Enter]);
        assert_eq!(keys(b"\x1b[1;1;1;1;1;1;1;1;1;1"), keys(b";1;1"));
        // Bytes that are not UTF-8.
        let replaced = Key::Insert('\u{fffd}');
        assert_eq!(keys(b"\xe9a\xff"), [replaced, Key::Insert('a'), replaced]);
        assert_eq!(keys(b"\xe9\r"), [replaced, Key::Enter]);
    }
}
