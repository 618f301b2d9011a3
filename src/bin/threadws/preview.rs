//! Shows a message in the log, cut to a length that a person reads. The logger escapes it.

use std::fmt;
use threadws::MessageRef;

/// Characters shown of a text message.
const MAX_CHARS: usize = 200;
/// Bytes shown of a binary message.
const MAX_BYTES: usize = 16;

/// Displays a message as `text: hello` or `binary, 4 bytes: 01 02 03 04`. A longer one is cut, and ends in an ellipsis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Preview<'a>(pub(crate) MessageRef<'a>);

impl fmt::Display for Preview<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            MessageRef::Text(text) => match text.char_indices().nth(MAX_CHARS) {
                None => write!(f, "text: {text}"),
                Some((end, _)) => write!(f, "text: {}… ({} bytes)", &text[..end], text.len()),
            },
            MessageRef::Binary(bytes) => {
                write!(f, "binary, {} bytes:", bytes.len())?;
                for byte in bytes.iter().take(MAX_BYTES) {
                    write!(f, " {byte:02x}")?;
                }
                f.write_str(if bytes.len() > MAX_BYTES { "…" } else { "" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(message: MessageRef<'_>) -> String {
        Preview(message).to_string()
    }

    #[test]
    fn a_text_of_200_characters_is_shown_whole_and_one_of_201_is_cut() {
        let whole = "é".repeat(200);
        assert_eq!(shown(MessageRef::Text(&whole)), format!("text: {whole}"));
        let longer = "é".repeat(201);
        assert_eq!(shown(MessageRef::Text(&longer)), format!("text: {whole}… (402 bytes)"));
        assert_eq!(shown(MessageRef::Text("")), "text: ");
    }

    #[test]
    fn a_binary_message_is_shown_by_its_size_and_first_bytes() {
        assert_eq!(shown(MessageRef::Binary(&[0xde, 0xad, 0x00])), "binary, 3 bytes: de ad 00");
        assert_eq!(shown(MessageRef::Binary(&[])), "binary, 0 bytes:");
        let shown = shown(MessageRef::Binary(&[7; 17]));
        assert!(shown.starts_with("binary, 17 bytes: 07 07") && shown.ends_with(" 07…"), "{shown}");
        assert_eq!(shown.matches("07").count(), 16);
    }
}
