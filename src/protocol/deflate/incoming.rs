//! Compressed frames to messages.

use super::{Decompressor, Direction, Window};
use crate::deflate::Saved;
use crate::error::{Error, Result, Violation};
use crate::protocol::decoder::PartialMessage;

/// The end of each message: the empty block that the sender has removed (§7.2.2), and a final one. Because of the second one a
/// message that was cut off is found: it would have to end exactly like a block.
const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

/// The receiving side of a connection that has agreed on compression.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// With context takeover.
    window: Option<Window>,
    /// Lent while a compressed message arrives.
    decompressor: Option<Decompressor>,
    /// Received bytes of the payload of the message that is arriving.
    compressed: usize,
    /// A final block was the last thing in them.
    has_ended: bool,
    saved: Saved,
}

/// The result of [`Decompressor::step`].
#[derive(Debug)]
pub(crate) struct Decompressed<'a> {
    /// How many bytes of the input were used.
    pub(crate) used: usize,
    pub(crate) plain: &'a [u8],
    /// A final block has ended. The rest of the input begins a new stream.
    pub(crate) is_final: bool,
    /// There was no room for more, so there may be more, even if all input is used.
    pub(crate) is_full: bool,
}

impl Incoming {
    pub(crate) fn new(peers: Direction) -> Self {
        Self {
            window: peers.takeover.then(|| Window::new(peers.bits)),
            decompressor: None,
            compressed: 0,
            has_ended: false,
            saved: Saved::default(),
        }
    }

    /// Returns whether it has a decompressor.
    pub(crate) fn is_ready(&self) -> bool {
        self.decompressor.is_some()
    }

    /// Takes a decompressor for the message that is arriving.
    pub(crate) fn lend(&mut self, mut decompressor: Decompressor) -> Result<(), Violation> {
        decompressor.start(self.window.as_ref().map_or(&[], Window::bytes))?;
        self.decompressor = Some(decompressor);
        Ok(())
    }

    /// Gives the decompressor back, behind a message.
    pub(crate) fn take_decompressor(&mut self) -> Option<Decompressor> {
        self.decompressor.take()
    }

    /// Returns how many compressed bytes of the message have arrived.
    pub(crate) fn compressed(&self) -> usize {
        self.compressed
    }

    pub(crate) fn saved(&self) -> Saved {
        self.saved
    }

    /// Decompresses the next bytes of a message.
    ///
    /// # Errors
    ///
    /// [`Violation::InvalidDeflate`], [`Violation::InvalidUtf8`], or [`Error::MessageTooBig`] as soon as one byte is too many.
    pub(crate) fn push(&mut self, input: &[u8], message: &mut PartialMessage, limit: usize) -> Result<()> {
        self.compressed += input.len();
        self.decompress(input, message, limit, true)
    }

    /// Ends a message.
    pub(crate) fn finish(&mut self, message: &mut PartialMessage, limit: usize) -> Result<()> {
        // A message without a byte is empty (uWebSockets before 18 sent those). After a final block some senders add nothing,
        // although §7.2.3.4 wants a byte.
        if self.compressed > 0 && !self.has_ended {
            self.decompress(&END, message, limit, false)?;
            if !self.has_ended {
                return Err(Violation::InvalidDeflate.into());
            }
        }
        self.saved.count(message.len(), self.compressed);
        if let Some(window) = &mut self.window {
            window.push(message.bytes());
        }
        self.compressed = 0;
        self.has_ended = false;
        Ok(())
    }

    fn decompress(
        &mut self,
        mut input: &[u8],
        message: &mut PartialMessage,
        limit: usize,
        may_restart: bool,
    ) -> Result<()> {
        let decompressor = self.decompressor.as_mut().ok_or(Violation::InvalidDeflate)?;
        loop {
            if self.has_ended {
                if input.is_empty() {
                    return Ok(());
                }
                if !may_restart {
                    return Err(Violation::InvalidDeflate.into());
                }
                // §7.2.3.4: a final block ends a stream, and another one follows in the same message.
                decompressor.start(&[])?;
                self.has_ended = false;
            }
            // One byte beyond the limit shows that the message is too big. No more is made.
            let room = limit.saturating_add(1) - message.len();
            let step = decompressor.step(input, room)?;
            input = input.get(step.used..).unwrap_or_default();
            message.push(step.plain)?;
            if message.len() > limit {
                return Err(Error::MessageTooBig { limit });
            }
            self.has_ended = step.is_final;
            if step.is_final || step.is_full {
                continue;
            }
            if input.is_empty() {
                return Ok(());
            }
            if step.used == 0 && step.plain.is_empty() {
                return Err(Violation::InvalidDeflate.into());
            }
        }
    }
}
