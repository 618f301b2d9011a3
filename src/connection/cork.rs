//! Answers and broadcasts that pile up while more input is already here, and leave in one system call a receiver.

use crate::config::Config;
use crate::error::Result;
use crate::hub::Hub;
use crate::message::IntoMessage;
use crate::protocol::encoder;
use crate::sender::Sender;
use crate::sync::Arc;

/// A full cork is flushed. Measured: with as much as a large read brings, echoes of 1 KiB are a tenth faster than with half.
const MAX_CORK: usize = 128 * 1024;
/// What a cork keeps when its connection rests.
const KEPT: usize = 1024;

/// Whole frames that only the reader's own thread writes, so without a lock. In this order for the
/// [`Connection`](super::Connection)'s reason.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Cork {
    /// For our own client: answers, and broadcasts in their places between them.
    frames: Vec<u8>,
    /// Broadcasts, for everybody else: all of them are among `frames`, too, and leave when those do.
    batch: Vec<u8>,
    /// Whether there are answers among the frames: they may wait for the client, which broadcasts do not.
    has_answers: bool,
    /// One more read has been made while broadcasts were held.
    has_waited: bool,
    messages: u64,
    batch_messages: u64,
    max_batch: usize,
}

/// Where it all goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct To<'a> {
    pub(super) sender: &'a Sender,
    pub(super) hub: &'a Hub,
}

impl Cork {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            frames: Vec::new(),
            messages: 0,
            has_answers: false,
            batch: Vec::new(),
            batch_messages: 0,
            // A backlog takes a batch whole or not at all: a small backlog shall have a choice.
            max_batch: MAX_CORK.min(config.max_backlog() / 4),
            has_waited: false,
        }
    }

    /// Appends an answer if `hold`, else sends it behind what is held.
    // Inlined, as what receives is: the answer that most bursts are made of is appended without a call.
    #[inline(always)]
    pub(super) fn write(&mut self, to: To<'_>, message: impl IntoMessage, hold: bool) -> Result<()> {
        let view = message.as_message();
        let payload = view.as_bytes();
        if hold
            && self.frames.len() + payload.len() <= MAX_CORK
            && encoder::append_short(to.sender.outbox().role(), view.into(), payload, &mut self.frames)
        {
            self.messages += 1;
            self.has_answers = true;
            return Ok(());
        }
        self.write_any(to, message, hold)
    }

    /// What is not short, or ends a burst.
    #[inline(never)]
    fn write_any(&mut self, to: To<'_>, message: impl IntoMessage, hold: bool) -> Result<()> {
        let view = message.as_message();
        let payload = view.as_bytes();
        let alone = !hold && self.frames.is_empty();
        if alone || payload.len() >= MAX_CORK {
            self.flush(to)?;
            return to.sender.outbox().send(message);
        }
        if self.frames.len() + payload.len() > MAX_CORK {
            self.flush(to)?;
        }
        encoder::append(to.sender.outbox().role(), view.into(), payload, &mut self.frames);
        self.messages += 1;
        self.has_answers = true;
        // The last answer of a burst leaves with the others.
        if hold { Ok(()) } else { self.flush(to) }
    }

    /// Appends a broadcast if `hold`, else sends it behind what is held. Only a server has anybody to tell.
    pub(super) fn broadcast(&mut self, to: To<'_>, message: impl IntoMessage, hold: bool) -> Result<()> {
        let view = message.as_message();
        let payload = view.as_bytes();
        let alone = !hold && self.frames.is_empty();
        if alone || payload.len() >= self.max_batch {
            let flushed = self.flush(to);
            // Everybody else is told although our own client cannot be.
            to.hub.broadcast(message);
            return flushed;
        }
        let flushed =
            if self.frames.len() + payload.len() > self.max_batch { self.flush(to) } else { Ok(()) };
        let start = self.batch.len();
        encoder::append(to.sender.outbox().role(), view.into(), payload, &mut self.batch);
        self.frames.extend_from_slice(self.batch.get(start..).unwrap_or_default());
        self.batch_messages += 1;
        self.messages += 1;
        if hold { flushed } else { self.flush(to) }
    }

    /// Sends what is held.
    #[inline]
    pub(super) fn flush(&mut self, to: To<'_>) -> Result<()> {
        if self.frames.is_empty() {
            return Ok(());
        }
        self.send_batch(to);
        if self.frames.is_empty() {
            return Ok(());
        }
        self.has_answers = false;
        to.sender.outbox().send_frames(&mut self.frames, std::mem::take(&mut self.messages))
    }

    /// Whether one more read is worth its while before broadcasts leave: it costs as much as one of their receivers.
    #[inline]
    pub(super) fn may_wait(&self) -> bool {
        !self.batch.is_empty() && !self.has_waited
    }

    pub(super) fn waited(&mut self) {
        self.has_waited = true;
    }

    /// Sends or queues what is held, without waiting for the socket: a Close goes behind it, or nothing at all.
    pub(super) fn let_go(&mut self, to: To<'_>) {
        self.send_batch(to);
        self.has_answers = false;
        if !self.frames.is_empty() {
            // It fails only where nothing can be sent any more.
            drop(to.sender.outbox().queue_frames(&mut self.frames, std::mem::take(&mut self.messages), None));
        }
    }

    /// Sends or queues what is held, without waiting. If the answers do not fit into the backlog, they stay here, and the
    /// result is [`Error::Full`](crate::Error::Full).
    pub(super) fn try_flush(&mut self, to: To<'_>) -> Result<()> {
        self.send_batch(to);
        if self.frames.is_empty() {
            return Ok(());
        }
        let outbox = to.sender.outbox();
        let result = outbox.queue_frames(&mut self.frames, self.messages, Some(outbox.max_backlog()));
        if self.frames.is_empty() {
            self.has_answers = false;
            self.messages = 0;
        }
        result
    }

    /// Tells everybody; our own client too, unless answers stand before or between.
    fn send_batch(&mut self, to: To<'_>) {
        if self.batch.is_empty() {
            return;
        }
        let frames: Arc<[u8]> = self.batch.as_slice().into();
        self.batch.clear();
        self.has_waited = false;
        let own = self.has_answers.then(|| to.sender.id());
        if own.is_none() {
            self.frames.clear();
            self.messages = 0;
        }
        to.hub.broadcast_frames(own, &frames, std::mem::take(&mut self.batch_messages));
    }

    pub(super) fn rest(&mut self) {
        self.frames.shrink_to(KEPT);
        self.batch.shrink_to(0);
    }
}
