//! Prints a message in the form that stdout asks for.

use crate::escape;
use crate::logger;
use std::io::{self, Write};
use std::time::SystemTime;
use threadws::Message;

/// Prints messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Printer {
    /// Prints binary messages as raw bytes, otherwise in hexadecimal.
    pub(super) raw: bool,
    /// Escapes control characters in text, because a terminal would execute them.
    pub(super) escaped: bool,
    /// Begins each line with the time.
    pub(super) times: bool,
    /// Begins each line with `<` or `>`, for a dialogue.
    pub(super) marks: bool,
}

impl Printer {
    pub(super) fn print(self, out: &mut impl Write, message: &Message) -> io::Result<()> {
        match message {
            Message::Binary(bytes) if self.raw => return out.write_all(bytes),
            _ => out.write_all(self.start('<').as_bytes())?,
        }
        match message {
            Message::Text(text) if self.escaped => writeln!(out, "{}", escape::one_line(text, usize::MAX)),
            Message::Text(text) => writeln!(out, "{text}"),
            Message::Binary(bytes) => {
                for byte in bytes {
                    write!(out, "{byte:02x}")?;
                }
                writeln!(out)
            }
        }
    }

    /// Returns the line that shows a sent text.
    pub(super) fn sent(self, text: &str) -> String {
        format!("{}{}\n", self.start('>'), escape::one_line(text, usize::MAX))
    }

    /// Returns the text before a message.
    fn start(self, mark: char) -> String {
        let mut start = String::new();
        if self.times {
            start = logger::timestamp(SystemTime::now()) + " ";
        }
        if self.marks {
            start.extend([mark, ' ']);
        }
        start
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
        let file = Printer { raw: false, escaped: false, times: false, marks: false };
        let terminal = Printer { escaped: true, ..file };
        let text = "안녕\u{1b}[2J\r\nmore";
        assert_eq!(printed(file, text), "안녕\u{1b}[2J\r\nmore\n");
        assert_eq!(printed(terminal, text), "안녕\\u{1b}[2J\\r\\nmore\n");
        let dialogue = Printer { marks: true, ..terminal };
        assert_eq!(printed(dialogue, text), "< 안녕\\u{1b}[2J\\r\\nmore\n");
        assert_eq!(dialogue.sent(text), "> 안녕\\u{1b}[2J\\r\\nmore\n");
    }

    #[test]
    fn a_time_has_a_fixed_width_and_sorts() {
        let printer = Printer { raw: false, escaped: false, times: true, marks: true };
        let line = printer.sent("x");
        let shape = line.replace(|c: char| c.is_ascii_digit(), "9");
        assert_eq!(shape, "9999-99-99T99:99:99.999999Z > x\n");
    }
}
