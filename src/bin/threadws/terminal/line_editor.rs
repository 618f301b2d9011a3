//! The line that is being typed: its text, the cursor, the history, and the part of it that fits into one row. No I/O.

use super::keys::{Key, Keys};
use crate::escape;
use std::collections::VecDeque;
use std::mem;
use unicode_width::UnicodeWidthStr;

/// How many lines the history keeps.
const MAX_HISTORY: usize = 1000;

/// A request of the user, other than to change the line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyRequest {
    /// A line is complete. The editor is empty again.
    Line(String),
    EndOfInput,
    ClearScreen,
}

/// The line that is being typed.
#[derive(Debug, Default)]
pub(super) struct LineEditor {
    keys: Keys,
    line: Vec<char>,
    /// An index of `line`, or its length.
    cursor: usize,
    /// The text that was cut last.
    cut: Vec<char>,
    history: VecDeque<Vec<char>>,
    /// The line of `history` that is shown, or its length for a new one.
    shown: usize,
    /// The new line, while one of `history` is shown.
    draft: Vec<char>,
}

impl LineEditor {
    /// Takes bytes from the terminal.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<KeyRequest> {
        let mut keys = mem::take(&mut self.keys);
        let mut requests = Vec::new();
        for byte in bytes {
            keys.feed(*byte, &mut |key| requests.extend(self.press(key)));
        }
        self.keys = keys;
        requests
    }

    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    fn press(&mut self, key: Key) -> Option<KeyRequest> {
        match key {
            Key::Insert(symbol) => {
                self.line.insert(self.cursor, symbol);
                self.cursor += 1;
            }
            Key::Enter => return Some(KeyRequest::Line(self.complete())),
            Key::DeleteOrEnd if self.line.is_empty() => return Some(KeyRequest::EndOfInput),
            Key::ClearScreen => return Some(KeyRequest::ClearScreen),
            Key::Left => self.cursor = self.left(),
            Key::Right => self.cursor = self.right(),
            Key::WordLeft => self.cursor = self.word_left(),
            Key::WordRight => self.cursor = self.word_right(),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = self.line.len(),
            Key::Backspace => drop(self.remove(self.left(), self.cursor)),
            Key::Delete | Key::DeleteOrEnd => drop(self.remove(self.cursor, self.right())),
            Key::CutToStart => self.cut = self.remove(0, self.cursor),
            Key::CutToEnd => self.cut = self.remove(self.cursor, self.line.len()),
            Key::CutWordLeft => self.cut = self.remove(self.word_left(), self.cursor),
            Key::CutWordRight => self.cut = self.remove(self.cursor, self.word_right()),
            Key::Paste => {
                self.line.splice(self.cursor..self.cursor, self.cut.iter().copied());
                self.cursor += self.cut.len();
            }
            Key::Older => self.recall(self.shown.checked_sub(1)),
            Key::Newer => self.recall(Some(self.shown + 1)),
        }
        None
    }

    /// Empties the line, and adds it to the history unless it is empty or repeats the newest entry.
    fn complete(&mut self) -> String {
        let line = mem::take(&mut self.line);
        let text = line.iter().collect();
        if !line.is_empty() && self.history.back() != Some(&line) {
            self.history.push_back(line);
            if self.history.len() > MAX_HISTORY {
                self.history.pop_front();
            }
        }
        self.draft.clear();
        self.cursor = 0;
        self.shown = self.history.len();
        text
    }

    /// Shows a line of the history, or the new line at its end.
    fn recall(&mut self, index: Option<usize>) {
        let Some(index) = index.filter(|index| *index <= self.history.len()) else { return };
        if self.shown == self.history.len() {
            self.draft = mem::take(&mut self.line);
        }
        self.line = self.history.get(index).unwrap_or(&self.draft).clone();
        self.shown = index;
        self.cursor = self.line.len();
    }

    fn remove(&mut self, from: usize, to: usize) -> Vec<char> {
        self.cursor = from;
        self.line.drain(from..to).collect()
    }

    /// Returns the position before the character to the left, and before the marks that combine with it.
    fn left(&self) -> usize {
        self.line[..self.cursor].iter().rposition(|symbol| width(*symbol) > 0).unwrap_or(0)
    }

    fn right(&self) -> usize {
        let after = self.line.get(self.cursor + 1..).unwrap_or_default();
        let next = after.iter().position(|symbol| width(*symbol) > 0);
        next.map_or(self.line.len(), |next| self.cursor + 1 + next)
    }

    fn word_left(&self) -> usize {
        let before = &self.line[..self.cursor];
        let end = before.iter().rposition(|symbol| symbol.is_alphanumeric()).map_or(0, |last| last + 1);
        before[..end].iter().rposition(|symbol| !symbol.is_alphanumeric()).map_or(0, |space| space + 1)
    }

    fn word_right(&self) -> usize {
        let skip = |from: usize, word: bool| {
            let end = self.line[from..].iter().position(|symbol| symbol.is_alphanumeric() != word);
            end.map_or(self.line.len(), |end| from + end)
        };
        skip(skip(self.cursor, false), true)
    }

    /// Returns the text for a row of this width, and the column of the cursor in it. A long line is scrolled by half a row.
    pub(super) fn row(&self, columns: usize) -> (String, usize) {
        // The last column stays free, because a terminal moves to the next row after it. Two columns are for the marks
        // of what does not fit.
        let room = columns.saturating_sub(3).max(4);
        let cursor: usize = self.line[..self.cursor].iter().map(|symbol| width(*symbol)).sum();
        let half = room / 2;
        let first = if cursor < room { 0 } else { (cursor / half - 1) * half };
        let (mut row, mut cursor_at, mut column) = (String::new(), 0, 0);
        for (index, symbol) in self.line.iter().enumerate() {
            let shown = shown(*symbol);
            let before = column;
            column += shown.width();
            if before < first {
                continue;
            }
            if row.is_empty() && first > 0 {
                row.push('…');
            }
            if index == self.cursor {
                cursor_at = row.width();
            }
            if column > first + room {
                row.push('…');
                return (row, cursor_at);
            }
            row.push_str(&shown);
        }
        if self.cursor == self.line.len() {
            cursor_at = row.width();
        }
        (row, cursor_at)
    }
}

/// Returns the text that shows a character: a pasted control character acts on the terminal no more than a received one.
fn shown(symbol: char) -> String {
    escape::one_line(symbol.encode_utf8(&mut [0; 4]), usize::MAX)
}

fn width(symbol: char) -> usize {
    shown(symbol).width()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: &str = "\x1b[A";
    const DOWN: &str = "\x1b[B";
    const LEFT: &str = "\x1b[D";

    fn lines(editor: &mut LineEditor, typed: &str) -> Vec<String> {
        let line = |request| match request {
            KeyRequest::Line(line) => line,
            other => panic!("{other:?}"),
        };
        editor.feed(typed.as_bytes()).into_iter().map(line).collect()
    }

    #[test]
    fn keys_edit_the_line() {
        let cases = [
            ("abc", "abc"),
            (&format!("ac{LEFT}b"), "abc"),
            ("b\x01a\x05c", "abc"),
            ("abcd\x7f", "abc"),
            ("xabc\x01\x04", "abc"),
            ("abcx\x01\x06\x06\x06\x1b[3~", "abc"),
            ("abc \x7f\x7f\x7f\x7f\x7f\x7fabc", "abc"),
            ("abc def\x17\x7f", "abc"),
            ("abc\x15\x19", "abc"),
            ("bca\x02\x0b\x01\x19", "abc"),
            ("abc, def\x1bb\x1bb\x1bf\x0b", "abc"),
            ("x abc\x01\x1bd\x04", "abc"),
        ];
        for (typed, expected) in cases {
            assert_eq!(lines(&mut LineEditor::default(), &format!("{typed}\r")), [expected], "{typed:?}");
        }
    }

    #[test]
    fn a_combining_mark_is_removed_with_its_letter() {
        // A letter with a mark, removed from either side, and a letter of two columns.
        assert_eq!(lines(&mut LineEditor::default(), "ae\u{301}\x7f\r"), ["a"]);
        assert_eq!(lines(&mut LineEditor::default(), "e\u{301}a\x01\x04\r"), ["a"]);
        assert_eq!(lines(&mut LineEditor::default(), "a한\x7f\r"), ["a"]);
    }

    #[test]
    fn history_keeps_older_lines_and_the_one_being_typed() {
        let mut editor = LineEditor::default();
        assert_eq!(lines(&mut editor, "one\rtwo\rtwo\r\r"), ["one", "two", "two", ""]);
        assert_eq!(lines(&mut editor, &format!("new{UP}{UP}{UP}!\r")), ["one!"]);
        assert_eq!(lines(&mut editor, &format!("new{UP}{UP}{DOWN}{DOWN}{DOWN}er\r")), ["newer"]);
        let typed: String = (0..2 * MAX_HISTORY).map(|number| format!("{number}\r")).collect();
        editor.feed(typed.as_bytes());
        assert_eq!(editor.history.len(), MAX_HISTORY);
    }

    #[test]
    fn ctrl_d_ends_the_input_only_on_an_empty_line() {
        let mut editor = LineEditor::default();
        assert_eq!(editor.feed(b"a\x04\x01\x04"), []);
        assert_eq!(editor.feed(b"\x04"), [KeyRequest::EndOfInput]);
    }

    #[test]
    fn a_row_shows_the_cursor_and_never_more_than_fits() {
        let mut editor = LineEditor::default();
        editor.feed("ab\u{202e}한".as_bytes());
        assert_eq!(editor.row(80), ("ab\\u{202e}한".to_owned(), 12));
        editor.feed(LEFT.as_bytes());
        assert_eq!(editor.row(80).1, 10);
        let mut editor = LineEditor::default();
        for number in 0..200 {
            editor.feed(if number % 3 == 0 { "한" } else { "x" }.as_bytes());
            for columns in 0..50 {
                let (row, cursor) = editor.row(columns);
                assert!(row.width() < columns.max(7) && cursor <= row.width(), "{columns}: {row}");
                assert!(number == 0 || cursor > 0, "{columns}: {row}");
            }
        }
        editor.feed(b"\x01");
        let (row, cursor) = editor.row(20);
        assert!(cursor == 0 && row.starts_with("한xx") && row.ends_with('…'), "{row}");
    }
}
