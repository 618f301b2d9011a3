//! [`OutboxState`]: everything that the outbox's mutex guards.

use super::Counts;
use super::compression::CompressionState;
use super::queue::{Lent, Queue, Taken};
use super::sealing::Sealing;
use crate::error::{Cause, Ending};
use crate::net::{Deadline, Transport};
use crate::protocol::gate::Gate;
use crate::sync::{Arc, now};
use std::io::IoSlice;
use std::time::{Duration, Instant};

/// The state of the sending side.
#[derive(Debug)]
pub(super) struct OutboxState {
    pub(super) gate: Gate,
    /// `None` after the end of the connection, so that a [`Sender`](crate::Sender) that is kept longer holds no descriptor.
    pub(super) stream: Option<Arc<dyn Transport>>,
    /// Set while the socket takes nothing: since it refused bytes, and until the queue is empty.
    pub(super) stall: Option<WriteStall>,
    /// When a message was last sent, or the last queued byte of data was written. `None` without an idle timeout.
    pub(super) last_sent: Option<Instant>,
    /// Data messages that were sent or queued, and bytes of all frames that the socket took, without those of the 101.
    pub(super) sent: Counts,
    /// How many senders wait for their bytes to be written, including the one that polls.
    pub(super) waiting: usize,
    /// One of them polls the socket, without the lock, and then writes the queue for all.
    pub(super) has_poller: bool,
    /// The flush thread polls the socket. While a connection opens: the thread that opens it will write the queue.
    pub(super) is_watched: bool,
    pub(super) queue: Queue,
    /// With TLS: everything in the queue is sealed before it is written.
    pub(super) sealing: Option<Box<Sealing>>,
    /// The contents of [`Closed`](crate::Closed).
    pub(super) ending: Ending,
    /// Starts with the first Close, ours or the peer's.
    pub(super) close_deadline: Deadline,
    /// Broadcast messages that were skipped because the backlog was full.
    pub(super) skipped: u64,
    /// If compression was agreed on.
    pub(super) compression: Option<Box<CompressionState>>,
}

/// The write timeout of a socket that takes nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriteStall {
    /// The bytes that must be written by the deadline. Bytes that are queued later get a new one.
    pub(super) ticket: u64,
    pub(super) deadline: Instant,
}

impl OutboxState {
    /// Returns whether `len` bytes more fit into `bound`. An empty backlog takes frames of any size.
    pub(super) fn has_room(&self, len: usize, bound: Option<usize>) -> bool {
        match bound {
            Some(bound) if self.queue.bytes() > 0 => self.queue.memory().saturating_add(len) <= bound,
            _ => true,
        }
    }

    /// Writes frames, if nothing is queued before them. Returns how many bytes the socket took.
    pub(super) fn write_now(&mut self, frames: [&[u8]; 2]) -> usize {
        if self.stall.is_some() || !self.queue.is_empty() {
            return 0;
        }
        let Some(stream) = &self.stream else { return 0 };
        if self.sealing.is_some() {
            return self.seal_now(frames);
        }
        // An error is not lost: `write_queue` runs into it again, and handles it.
        let written = stream.try_write(&frames.map(IoSlice::new)).unwrap_or(0);
        self.sent.bytes += written as u64;
        written
    }

    /// The rest of `write_now` with TLS.
    #[inline(never)]
    fn seal_now(&mut self, frames: [&[u8]; 2]) -> usize {
        let (Some(stream), Some(sealing)) = (&self.stream, &mut self.sealing) else { return 0 };
        let written = sealing.write_now(frames, &**stream);
        self.sent.bytes += written as u64;
        written
    }

    /// Writes what is next in the queue. Returns what the socket took, or `None` if there is nothing that this thread can
    /// write.
    pub(super) fn write_next(
        &mut self,
        stream: &dyn Transport,
        lent: Lent<'_>,
    ) -> Result<Option<Taken>, Cause> {
        if let Some(sealing) = &mut self.sealing {
            let is_refused = self.stall.is_some();
            return sealing.write_next(&mut self.queue, stream, lent, is_refused);
        }
        let slices = self.queue.gather(lent, usize::MAX);
        if slices.is_empty() {
            return Ok(None);
        }
        let count = stream.try_write(&slices).map_err(|error| Cause::Io(error.kind()))?;
        Ok(Some(self.queue.take(count)))
    }

    /// Returns whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.sealing.as_ref().is_none_or(|sealing| sealing.is_empty())
    }

    /// Counts messages as sent.
    pub(super) fn count_sent(&mut self, messages: u64) {
        self.sent.messages += messages;
        self.touch();
    }

    /// Restarts the idle timeout, if there is one.
    pub(super) fn touch(&mut self) {
        if let Some(last) = &mut self.last_sent {
            *last = now();
        }
    }

    /// Returns when the write timeout or the close timeout expires.
    pub(super) fn deadline(&self) -> Deadline {
        let write = self.stall.map(|stall| stall.deadline);
        Deadline::from(write).or(self.close_deadline)
    }

    pub(super) fn start_close_deadline(&mut self, timeout: Duration) {
        if self.close_deadline == Deadline::NEVER {
            self.close_deadline = Deadline::after(timeout);
        }
    }

    /// Returns whether both Close frames were exchanged, and the queue is written.
    ///
    /// Only the end of the stream is missing then, and the reading thread waits for it. A peer that is late with it has
    /// still closed cleanly.
    pub(super) fn has_both_closes(&self) -> bool {
        self.ending.received.is_some() && self.ending.sent.is_some() && self.is_empty()
    }

    /// Reports our Close as not sent if it is still queued, whole or in part. It is always last in the queue.
    pub(super) fn forget_unsent_close(&mut self) {
        if !self.queue.is_empty() {
            self.ending.sent = None;
        }
    }
}
