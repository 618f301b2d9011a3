//! Reading with TLS: records are cut by their headers, and opened in place by the session of the outbox.

use super::Reader;
use crate::error::Cause;
use crate::net::session::{Content, record_len};
use crate::outbox::Outbox;
use crate::sync::Arc;
use std::io;

/// The record that is arriving, and how it will be opened.
#[derive(Debug)]
pub(super) struct Records {
    outbox: Arc<Outbox>,
    /// The end of the bytes in the reader's buffer.
    filled: usize,
    /// The peer's close_notify has arrived, or a record that cannot be opened.
    has_ended: bool,
}

impl Records {
    /// `filled` is the end of the bytes in the reader's buffer.
    pub(super) fn new(outbox: &Arc<Outbox>, filled: usize) -> Self {
        Self { outbox: Arc::clone(outbox), filled, has_ended: false }
    }
}

impl Reader {
    /// Returns the end of the bytes in the buffer, which is behind the part of a record.
    #[inline]
    pub(super) fn filled(&self) -> usize {
        self.records.as_ref().map_or(self.end, |records| records.filled)
    }

    pub(super) fn set_filled(&mut self, filled: usize) {
        if let Some(records) = &mut self.records {
            records.filled = filled;
        }
    }

    /// Returns whether no further record is opened.
    pub(super) fn has_ended(&self) -> bool {
        self.records.as_ref().is_some_and(|records| records.has_ended)
    }

    /// Returns why the connection breaks at the end of the stream.
    pub(in crate::connection) fn end_cause(&self) -> Cause {
        if self.records.is_some() && !self.has_ended() { Cause::Truncated } else { Cause::Eof }
    }

    /// Reads sealed bytes, and opens all records that are complete then. Returns the number of sealed bytes that were read, so
    /// that a record without data is not taken for the end of the stream.
    ///
    /// If a record cannot be opened, the outbox is broken, and the stream ends here. The messages before it can be received.
    pub(super) fn read_records(&mut self, wait: bool) -> io::Result<usize> {
        if self.has_ended() {
            return Ok(0);
        }
        // The start of a record can fill the buffer. A larger buffer takes any record.
        self.last_was_full |= self.filled() - self.start == self.buffer.len();
        self.make_room();
        let filled = self.filled();
        let count = self.fill(filled, wait)?;
        let Some(records) = &mut self.records else { return Ok(count) };
        records.filled += count;
        // The records that are not opened start here.
        let mut at = self.end;
        while let Some(len) = self.buffer.get(at..records.filled).and_then(record_len) {
            let Some(record) = self.buffer.get_mut(at..at + len) else { break };
            match records.outbox.open_record(record) {
                Ok(Content::Data(count)) => {
                    self.buffer.copy_within(at..at + count, self.end);
                    self.end += count;
                    self.counts.bytes += count as u64;
                }
                Ok(Content::End) | Err(_) => {
                    // RFC 8446 §6.1: bytes behind a close_notify are ignored.
                    records.has_ended = true;
                    records.filled = at + len;
                }
            }
            at += len;
        }
        self.buffer.copy_within(at..records.filled, self.end);
        records.filled = self.end + (records.filled - at);
        Ok(count)
    }
}
