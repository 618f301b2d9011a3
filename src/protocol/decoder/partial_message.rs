//! [`PartialMessage`]: a message that arrives in pieces.

use crate::error::Violation;
use crate::message::{Message, MessageRef};
use crate::protocol::utf8::PartialText;

/// The number of fragments that any message can have. Each `BYTES_PER_FRAGMENT` received bytes allow one more, because some
/// peers send megabytes in pieces of 64 bytes. Empty fragments allow none, so their number is limited.
pub(super) const FREE_FRAGMENTS: usize = 4096;
const BYTES_PER_FRAGMENT: usize = 16;
/// The capacity that is always kept for the next message. A larger buffer is kept as long as messages fill half of it.
const KEPT_CAPACITY: usize = 4096;

/// A message that arrives in pieces.
#[derive(Debug, Default)]
pub(crate) struct PartialMessage {
    text: PartialText,
    pub(super) binary: Vec<u8>,
    pub(super) fragments: usize,
    pub(super) is_text: bool,
    /// Its frames are decompressed before they are appended.
    pub(super) is_compressed: bool,
    pub(super) progress: Progress,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Progress {
    #[default]
    None,
    Started,
    /// Complete and returned as [`Item::Assembled`]. The next call drops it.
    Whole,
}

impl PartialMessage {
    pub(super) fn start(&mut self, is_text: bool, is_compressed: bool) {
        self.progress = Progress::Started;
        self.is_text = is_text;
        self.is_compressed = is_compressed;
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        if self.is_text {
            return self.text.push(bytes);
        }
        self.binary.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<(), Violation> {
        self.progress = Progress::Whole;
        if self.is_text { self.text.finish() } else { Ok(()) }
    }

    pub(crate) fn len(&self) -> usize {
        if self.is_text { self.text.len() } else { self.binary.len() }
    }

    /// Checks that one more fragment is allowed, of a message of which `received` bytes have arrived.
    pub(super) fn check_fragments(&self, received: usize) -> Result<(), Violation> {
        if self.fragments >= FREE_FRAGMENTS + received / BYTES_PER_FRAGMENT {
            return Err(Violation::TooManyFragments);
        }
        Ok(())
    }

    pub(super) fn reset(&mut self) {
        self.progress = Progress::None;
        self.is_text = false;
        self.is_compressed = false;
        self.fragments = 0;
        // The buffers are kept for the next message, because new memory costs a page fault for each 4 KiB.
        if self.text.capacity() > KEPT_CAPACITY.max(2 * self.text.len()) {
            self.text = PartialText::default();
        }
        if self.binary.capacity() > KEPT_CAPACITY.max(2 * self.binary.len()) {
            self.binary = Vec::new();
        }
        self.text.clear();
        self.binary.clear();
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        if self.is_text { self.text.as_str().as_bytes() } else { &self.binary }
    }

    pub(super) fn view(&self) -> MessageRef<'_> {
        if self.is_text { MessageRef::Text(self.text.as_str()) } else { MessageRef::Binary(&self.binary) }
    }

    /// Copies a whole text. The buffer must be empty.
    pub(super) fn set_text(&mut self, valid: &str) {
        self.is_text = true;
        self.text.set(valid);
        self.progress = Progress::Whole;
    }

    /// Moves the message out.
    pub(super) fn take(&mut self) -> Message {
        let message = if self.is_text {
            Message::Text(self.text.take())
        } else {
            let mut binary = std::mem::take(&mut self.binary);
            if binary.capacity() > KEPT_CAPACITY.max(2 * binary.len()) {
                // The caller may keep the message for long, so the unused capacity is freed.
                binary.shrink_to_fit();
            }
            Message::Binary(binary)
        };
        self.reset();
        message
    }

    /// Returns the allocated bytes.
    #[cfg(all(test, not(model)))]
    pub(super) fn allocated(&self) -> usize {
        self.text.capacity() + self.binary.capacity()
    }
}
