//! Prints a message in the form that stdout asks for.

use crate::escape;
use std::io::{self, Write};
use threadws::Message;

/// Prints messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Printer {
    /// Prints binary messages as raw bytes, otherwise in hexadecimal.
    pub(super) raw: bool,
    /// Escapes control characters in text, because a terminal would execute them.
    pub(super) escaped: bool,
}

impl Printer {
    pub(super) fn print(self, out: &mut impl Write, message: &Message) -> io::Result<()> {
        match message {
            Message::Text(text) if self.escaped => writeln!(out, "{}", escape::one_line(text, usize::MAX)),
            Message::Text(text) => writeln!(out, "{text}"),
            Message::Binary(bytes) if self.raw => out.write_all(bytes),
            Message::Binary(bytes) => {
                for byte in bytes {
                    write!(out, "{byte:02x}")?;
                }
                writeln!(out)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_for_a_terminal_and_unchanged_for_a_file() {
        let printed = |printer: Printer, message: &str| {
            let mut out = Vec::new();
            printer.print(&mut out, &Message::from(message)).expect("memory");
            String::from_utf8(out).expect("UTF-8")
        };
        let file = Printer { raw: false, escaped: false };
        let terminal = Printer { escaped: true, ..file };
        let text = "안녕\u{1b}[2J\r\nmore";
        assert_eq!(printed(file, text), "안녕\u{1b}[2J\r\nmore\n");
        assert_eq!(printed(terminal, text), "안녕\\u{1b}[2J\\r\\nmore\n");
    }
}
