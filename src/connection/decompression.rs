//! Lends the decoder a decompressor while a compressed message arrives. The decoder cannot take one itself, because it knows no
//! lock.

use super::Connection;
use super::reader::Reader;
use crate::error::{Result, Violation};
use crate::outbox::Outbox;
use crate::protocol::deflate::Decompressor;

impl Connection {
    /// Lends a decompressor, if the decoder needs one to continue. Returns whether it did.
    #[inline]
    pub(super) fn lend_decompressor(&mut self) -> Result<bool> {
        if !self.reader.needs_decompressor() {
            return Ok(false);
        }
        let compression = self.sender.outbox().compression();
        let decompressor = compression.and_then(|compression| compression.take_decompressor());
        match decompressor.ok_or(Violation::InvalidDeflate.into()).and_then(|lent| self.reader.lend(lent)) {
            Ok(()) => Ok(true),
            Err(error) => Err(self.fail(error)),
        }
    }
}

impl Reader {
    pub(super) fn needs_decompressor(&self) -> bool {
        self.decoder.needs_decompressor()
    }

    fn lend(&mut self, decompressor: Decompressor) -> Result<()> {
        self.decoder.lend(decompressor)
    }

    /// Gives the decompressor back behind a message, so that a handler which works on the message keeps none.
    pub(super) fn give_decompressor_back(&mut self, outbox: &Outbox) {
        let Some(decompressor) = self.decoder.take_decompressor() else { return };
        if let Some(compression) = outbox.compression() {
            compression.put_decompressor(decompressor, self.decoder.saved());
        }
    }
}
