//! What the outbox's mutex guards, and what can be told of it at a glance.

use super::Counts;
use super::queue::Queue;
use crate::error::Ending;
use crate::net::{Deadline, Transport};
use crate::protocol::gate::Gate;
use crate::sync::{Arc, now};
use std::io::IoSlice;
use std::time::{Duration, Instant};

/// In this order: what every message touches lies together. With thousands of clients the processor's caches hold nothing
/// of one when its turn comes again.
#[derive(Debug)]
#[repr(C)]
pub(super) struct OutboxState {
    pub(super) gate: Gate,
    /// Taken when the connection ends, so that old clones of a sender hold no descriptor.
    pub(super) stream: Option<Arc<dyn Transport>>,
    /// The socket refused bytes and has not taken all of them since.
    pub(super) stall: Option<WriteStall>,
    /// When a message was last given to send, or left after having waited, if somebody wants to know.
    pub(super) last_sent: Option<Instant>,
    /// Data messages that were queued, and bytes that the socket took.
    pub(super) sent: Counts,
    /// Senders that wait for their bytes to leave, with the turn or without.
    pub(super) waiting: usize,
    /// A sender waits for the socket outside the lock, and pushes on: nobody else needs to.
    pub(super) has_poller: bool,
    /// The flush thread knows of the refusal.
    pub(super) is_watched: bool,
    pub(super) queue: Queue,
    /// What [`Closed`](crate::Closed) will tell.
    pub(super) ending: Ending,
    /// Runs from the first Close, whoever sent it.
    pub(super) close_deadline: Deadline,
    /// Messages for many that a full backlog missed.
    pub(super) skipped: u64,
}

#[cfg(all(target_pointer_width = "64", not(model)))]
const _: () = assert!(size_of::<super::Outbox>() <= 608);

/// The clock of a slow peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriteStall {
    /// What must be out at the deadline; what was queued later has a clock of its own.
    pub(super) ticket: u64,
    pub(super) deadline: Instant,
}

impl OutboxState {
    /// Whether the backlog takes a frame of `len` bytes. An empty one takes one frame of any size.
    pub(super) fn has_room(&self, len: usize, bound: Option<usize>) -> bool {
        let waits = self.queue.bytes() > 0;
        bound.is_none_or(|bound| !waits || self.queue.held().saturating_add(len) <= bound)
    }

    /// Writes frames if nothing goes before them; returns how many bytes the socket took.
    pub(super) fn write_now(&mut self, frames: [&[u8]; 2]) -> usize {
        if self.stall.is_some() || !self.queue.is_empty() {
            return 0;
        }
        let Some(stream) = &self.stream else { return 0 };
        // Any error is met again, and dealt with, by the push that follows.
        let written = stream.try_write(&frames.map(IoSlice::new)).unwrap_or(0);
        self.sent.bytes += written as u64;
        written
    }

    /// Counts messages that are sent or queued.
    pub(super) fn sent(&mut self, messages: u64) {
        self.sent.messages += messages;
        self.note_sent();
    }

    pub(super) fn note_sent(&mut self) {
        if let Some(last) = &mut self.last_sent {
            *last = now();
        }
    }

    /// When somebody must look again at the latest.
    pub(super) fn deadline(&self) -> Deadline {
        let write = self.stall.map(|stall| stall.deadline);
        Deadline::from(write).or(self.close_deadline)
    }

    pub(super) fn start_close_deadline(&mut self, timeout: Duration) {
        if self.close_deadline == Deadline::NEVER {
            self.close_deadline = Deadline::after(timeout);
        }
    }

    /// Whether a Close came, and ours is out behind everything else. What is left is the end of the stream, and only the
    /// reader, who saw the peer's, waits for that: a peer that is late with it has closed cleanly all the same.
    pub(super) fn has_both_closes(&self) -> bool {
        self.ending.received.is_some() && self.ending.sent.is_some() && self.queue.is_empty()
    }

    /// A Close that did not leave, or not whole, was not sent. Nothing is queued behind it.
    pub(super) fn forget_unsent_close(&mut self) {
        if !self.queue.is_empty() {
            self.ending.sent = None;
        }
    }
}
