//! Shows untrusted text on one line: characters that would move the cursor, end the line or change the reading direction
//! are escaped. No I/O.

use std::fmt::{self, Write};

/// Collects formatted text and escapes it, up to a limit in bytes. The rest is counted and dropped.
#[derive(Debug)]
pub(crate) struct EscapedLine {
    text: String,
    limit: usize,
    /// Bytes of the original after the limit.
    dropped: usize,
}

impl EscapedLine {
    pub(crate) fn new(limit: usize) -> Self {
        Self { text: String::new(), limit, dropped: 0 }
    }

    /// Returns the text. If part of it was dropped, a note at the end says how much.
    pub(crate) fn finish(mut self) -> String {
        if self.dropped > 0 {
            self.text.push_str(&format!("… ({} bytes more)", self.dropped));
        }
        self.text
    }
}

/// Escapes a text, up to a limit in bytes. If part of it was dropped, a note at the end says how much.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let mut line = EscapedLine::new(limit);
    // Never fails.
    let _ = line.write_str(text);
    line.finish()
}

impl Write for EscapedLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (position, symbol) in text.char_indices() {
            if self.dropped > 0 || self.text.len() + symbol.len_utf8() > self.limit {
                self.dropped += text.len() - position;
                break;
            }
            if is_hidden(symbol) {
                self.text.extend(symbol.escape_default());
            } else {
                self.text.push(symbol);
            }
        }
        Ok(())
    }
}

/// Whether a character is invisible and acts on the terminal or on its neighbours: control characters (C0, DEL, C1), line
/// and paragraph separators, and Unicode's format characters (bidi marks, overrides and isolates, zero widths, tags).
fn is_hidden(symbol: char) -> bool {
    symbol.is_control()
        || matches!(
            symbol,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> String {
        one_line(text, 1000)
    }

    #[test]
    fn a_peer_cannot_end_a_line_or_move_the_cursor() {
        let cases = [
            ("a\r\n2026-01-01 [INFO] forged", r"a\r\n2026-01-01 [INFO] forged"),
            ("\u{1b}[31mred\u{7}\0", r"\u{1b}[31mred\u{7}\u{0}"),
            ("\u{7f}\u{85}\u{9b}2J", r"\u{7f}\u{85}\u{9b}2J"),
            ("\u{2028}\u{2029}", r"\u{2028}\u{2029}"),
            ("user\u{202e}gpj.exe\u{2066}", r"user\u{202e}gpj.exe\u{2066}"),
            ("\u{200b}\u{200f}\u{feff}\u{e0041}", r"\u{200b}\u{200f}\u{feff}\u{e0041}"),
        ];
        for (text, expected) in cases {
            assert_eq!(escaped(text), expected);
        }
    }

    #[test]
    fn visible_characters_are_not_changed() {
        for text in ["안녕하세요 \\ \"quoted\" 'x' 👋", r#"{"kind":"ping"}"#, ""] {
            assert_eq!(escaped(text), text);
        }
    }

    #[test]
    fn a_cut_line_shows_how_much_was_dropped() {
        let mut line = EscapedLine::new(8);
        for _ in 0..1000 {
            line.write_str("안녕").expect("never fails");
        }
        // The limit of 8 bytes has room for two characters of 3 bytes.
        assert_eq!(line.finish(), "안녕… (5994 bytes more)");
    }
}
