//! Answers that pile up while more input is already here, and leave in one system call.

use crate::error::Result;
use crate::message::IntoMessage;
use crate::outbox::Outbox;
use crate::protocol::encoder;

/// A full cork is flushed. Measured: nothing is gained beyond it.
const MAX_CORK: usize = 64 * 1024;
/// What a cork keeps when its connection rests.
const KEPT: usize = 1024;

/// Whole frames that only the reader's own thread writes, so without a lock.
#[derive(Debug, Default)]
pub(super) struct Cork {
    frames: Vec<u8>,
    messages: u64,
}

impl Cork {
    /// Appends a message if `hold`, else sends it behind what is held.
    #[inline]
    pub(super) fn write(&mut self, outbox: &Outbox, message: impl IntoMessage, hold: bool) -> Result<()> {
        let view = message.as_message();
        let payload = view.as_bytes();
        let alone = !hold && self.frames.is_empty();
        if alone || payload.len() >= MAX_CORK {
            self.flush(outbox)?;
            return outbox.send(message);
        }
        if self.frames.len() + payload.len() > MAX_CORK {
            self.flush(outbox)?;
        }
        encoder::append(outbox.role(), view.into(), payload, &mut self.frames);
        self.messages += 1;
        // The last answer of a burst leaves with the others.
        if hold { Ok(()) } else { self.flush(outbox) }
    }

    /// Sends what is held.
    #[inline]
    pub(super) fn flush(&mut self, outbox: &Outbox) -> Result<()> {
        if self.frames.is_empty() {
            return Ok(());
        }
        outbox.send_frames(&mut self.frames, std::mem::take(&mut self.messages))
    }

    /// Queues what is held without waiting for the socket: a Close goes behind it.
    pub(super) fn let_go(&mut self, outbox: &Outbox) {
        if !self.frames.is_empty() {
            // It fails only where nothing can be sent any more.
            drop(outbox.queue_frames(&mut self.frames, std::mem::take(&mut self.messages)));
        }
    }

    pub(super) fn rest(&mut self) {
        self.frames.shrink_to(KEPT);
    }
}
