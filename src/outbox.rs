//! The sending side of a connection: one [`Outbox`], shared by all threads that send.
//!
//! Its state is behind one mutex, which is **never held during a call that can wait**. A frame is written under the lock,
//! without waiting. The rest of a frame that the socket does not take is queued, and the flush thread writes it later. A
//! blocking sender waits for the socket without the lock, and then writes the queue for all senders. So a slow peer
//! delays only the threads that chose to wait for it.
//!
//! A message takes three steps: [`send`](Outbox::send) or [`try_send`](Outbox::try_send) encodes it,
//! [`write`](Outbox::write) gives the socket as much as it takes, and [`queue_rest`](Outbox::queue_rest) queues the rest.
//!
//! Elsewhere: the order of queued frames is in [`queue`], TLS in [`sealing`], compression in [`compression`], waiting in [`wait`], the 101 in [`open`], the Close and the end in
//! [`close`], messages for many clients in [`broadcast`]. The reader's batching is in `connection/cork.rs`.

mod broadcast;
mod close;
mod compression;
mod open;
mod queue;
mod sealing;
mod state;
mod wait;

pub(crate) use broadcast::{Fate, SharedFrames};
pub(crate) use compression::Compression;

use self::state::{OutboxState, WriteStall};
use crate::config::{Config, time_for};
use crate::error::{Cause, Ending, Error, Result, Timeout};
use crate::flush_thread::{FlushThread, Pushable};
use crate::message::{CloseCode, CloseFrame, IntoMessage, State};
use crate::net::{Deadline, Transport};
use crate::protocol::Role;
use crate::protocol::encoder::{self, EncodedFrame, Opcode};
use crate::protocol::gate::Gate;
use crate::stats::{ClientStats, ReaderCounts, Totals};
use crate::sync::{Arc, AtomicBool, AtomicU8, Condvar, Mutex, MutexGuard, Ordering, Weak, now};
use queue::{Lent, NOTHING, Payload, Queue, Slot};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// The sending side of a connection.
#[derive(Debug)]
pub(crate) struct Outbox {
    flush: Arc<FlushThread>,
    this: Weak<Self>,
    opened: Instant,
    write_timeout: Duration,
    close_timeout: Duration,
    max_backlog: usize,
    /// Notified when queued bytes were written, when the polling sender stops polling, and when the connection breaks.
    progress: Condvar,
    reader_counts: ReaderCounts,
    role: Role,
    /// Messages of this length or more are compressed. `usize::MAX` without an agreement, so that a send compares once.
    compress_from: usize,
    compression: Option<Box<Compression>>,
    /// A copy of the gate's state for `state()`. Relaxed, because it guards nothing: every write checks the gate under the
    /// lock.
    state_hint: AtomicU8,
    /// Whether a broadcast is skipped when the backlog is full. Relaxed, because it guards nothing.
    skips: AtomicBool,
    state: Mutex<OutboxState>,
}

/// The result of sending frames.
#[derive(Debug, Clone, Copy)]
struct Written {
    /// Identifies the frames in [`Outbox::is_out`].
    ticket: u64,
    /// Whether the socket has taken all of them.
    is_out: bool,
}

/// The messages of encoded frames.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameCounts {
    pub(crate) messages: u64,
    /// No message is longer than this.
    pub(crate) longest: usize,
}

/// Data messages and bytes that were received, or sent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Outbox {
    pub(crate) fn new(
        role: Role,
        config: &Config,
        stream: Arc<impl Transport + 'static>,
        flush: Arc<FlushThread>,
        compression: Option<Compression>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            role,
            compress_from: compression.as_ref().map_or(usize::MAX, Compression::shortest),
            max_backlog: config.max_backlog(),
            write_timeout: config.write_timeout(),
            close_timeout: config.close_timeout(),
            opened: now(),
            flush,
            this: Weak::clone(this),
            state_hint: AtomicU8::new(State::Open as u8),
            skips: AtomicBool::new(false),
            reader_counts: ReaderCounts::default(),
            state: Mutex::new(OutboxState {
                gate: Gate::Open,
                stream: Some(stream),
                queue: Queue::default(),
                stall: None,
                has_poller: false,
                waiting: 0,
                is_watched: false,
                sealing: None,
                close_deadline: Deadline::NEVER,
                skipped: 0,
                last_sent: config.idle_timeout().map(|_| now()),
                sent: Counts::default(),
                ending: Ending::default(),
                compression: compression.as_ref().map(|compression| Box::new(compression.state())),
            }),
            compression: compression.map(Box::new),
            progress: Condvar::default(),
        })
    }

    #[inline]
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    pub(crate) fn max_backlog(&self) -> usize {
        self.max_backlog
    }

    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// Returns the state of the connection, without the lock.
    pub(crate) fn state(&self) -> State {
        match self.state_hint.load(Ordering::Relaxed) {
            hint if hint == State::Open as u8 => State::Open,
            hint if hint == State::Closing as u8 => State::Closing,
            _ => State::Closed,
        }
    }

    /// Returns what the reading thread counts.
    pub(crate) fn reader_counts(&self) -> &ReaderCounts {
        &self.reader_counts
    }

    /// Returns when a message was last sent. While a message waits for the peer, that is `now`. `None` without an idle
    /// timeout.
    pub(crate) fn last_sent(&self, now: Instant) -> Option<Instant> {
        let state = self.state.lock();
        if state.queue.bytes() > 0 { state.last_sent.map(|_| now) } else { state.last_sent }
    }

    /// Returns the numbers of the connection, for its users.
    pub(crate) fn stats(&self) -> ClientStats {
        let state = self.state.lock();
        ClientStats {
            traffic: self.reader_counts.traffic(state.sent.messages, state.sent.bytes),
            messages_skipped: state.skipped,
            backlog: state.queue.bytes(),
            high_water: state.queue.high_water(),
            round_trip: self.reader_counts.last_round_trip(),
            opened_at: self.opened,
            saved_received: self.saved_received(),
            saved_sent: state.saved(),
        }
    }

    /// Returns what the connection adds to its server's numbers, and its backlog.
    pub(crate) fn totals(&self) -> (Totals, usize) {
        let state = self.state.lock();
        let is_slow = matches!(state.ending.cause, Some(Cause::SlowPeer | Cause::Timeout(Timeout::Write)));
        let totals = Totals {
            opened: u64::from(!state.queue.is_opening()),
            traffic: self.reader_counts.traffic(state.sent.messages, state.sent.bytes),
            saved_received: self.saved_received(),
            saved_sent: state.saved(),
            messages_skipped: state.skipped,
            slow_peers_closed: u64::from(is_slow),
            ..self.reader_counts.totals()
        };
        (totals, state.queue.bytes())
    }

    /// Returns the agreement on compression.
    pub(crate) fn compression(&self) -> Option<&Compression> {
        self.compression.as_deref()
    }

    /// Returns whether this message is compressed, if that makes it smaller.
    #[inline]
    pub(crate) fn compresses(&self, message: &impl IntoMessage) -> bool {
        message.as_message().as_bytes().len() >= self.compress_from && message.may_compress()
    }

    /// Sends one message, and returns when the socket has taken all of it.
    pub(crate) fn send(&self, message: impl IntoMessage) -> Result<()> {
        if self.compresses(&message) {
            if let Some(written) = self.send_smaller(message.as_message(), None, true) {
                return written.map(drop);
            }
        }
        let mut buffer = encoder::EMPTY;
        let frame = EncodedFrame::new(self.role, message, &mut buffer);
        let state = self.admit(frame.len(), None)?;
        self.write(state, Payload::Lent(frame.slices()), 1).map(drop)
    }

    /// Sends or queues one message, without waiting. Returns the ticket for [`is_out`](Self::is_out).
    pub(crate) fn try_send(&self, message: impl IntoMessage) -> Result<u64> {
        if self.compresses(&message) {
            if let Some(written) = self.send_smaller(message.as_message(), Some(self.max_backlog), false) {
                return Ok(written?.ticket);
            }
        }
        let mut buffer = encoder::EMPTY;
        let frame = EncodedFrame::new(self.role, message, &mut buffer);
        let state = self.admit(frame.len(), Some(self.max_backlog))?;
        Ok(self.write(state, Payload::Owned(frame), 1)?.ticket)
    }

    /// Sends encoded frames, and returns when the socket has taken all of them. `frames` is empty afterwards.
    pub(crate) fn send_frames(&self, frames: &mut Vec<u8>, counts: FrameCounts) -> Result<()> {
        let messages = counts.messages;
        let result = match self.send_corked_smaller(frames, counts, None, true) {
            Some(written) => written,
            None => self
                .admit(frames.len(), None)
                .and_then(|state| self.write(state, Payload::Lent([frames, &[]]), messages)),
        };
        frames.clear();
        result.map(drop)
    }

    /// Sends or queues encoded frames, without waiting. `frames` is empty afterwards.
    ///
    /// If the backlog with them would exceed `bound`, returns [`Error::Full`] and leaves `frames` unchanged.
    pub(crate) fn queue_frames(
        &self,
        frames: &mut Vec<u8>,
        counts: FrameCounts,
        bound: Option<usize>,
    ) -> Result<()> {
        let messages = counts.messages;
        let result = match self.send_corked_smaller(frames, counts, bound, false) {
            Some(written) => written,
            None => self
                .admit(frames.len(), bound)
                .and_then(|state| self.write(state, Payload::Copied(frames), messages)),
        };
        if let Err(Error::Full) = result {
            return Err(Error::Full);
        }
        frames.clear();
        result.map(drop)
    }

    /// Locks the state, if frames of `len` bytes may be sent now.
    ///
    /// If the backlog with them would exceed `bound`, returns [`Error::Full`]. An empty backlog takes frames of any size.
    #[inline]
    fn admit(&self, len: usize, bound: Option<usize>) -> Result<MutexGuard<'_, OutboxState>> {
        self.admit_to(self.state.lock(), len, bound)
    }

    /// Like [`admit`](Self::admit), with a state that is locked already.
    #[inline(always)]
    fn admit_to<'a>(
        &'a self,
        mut state: MutexGuard<'a, OutboxState>,
        len: usize,
        bound: Option<usize>,
    ) -> Result<MutexGuard<'a, OutboxState>> {
        let has_room = self.find_room(&mut state, len, bound);
        self.check_open(&mut state)?;
        if has_room {
            return Ok(state);
        }
        self.unlock(state);
        Err(Error::Full)
    }

    /// Writes as much of `payload` as the socket takes now, and queues the rest.
    #[inline(always)]
    fn write<'a>(
        &'a self,
        mut state: MutexGuard<'a, OutboxState>,
        payload: Payload<'_>,
        messages: u64,
    ) -> Result<Written> {
        let slices = payload.slices();
        let len = slices[0].len() + slices[1].len();
        let written = state.write_now(slices);
        state.count_sent(messages);
        if written == len {
            return Ok(Written { ticket: state.queue.passed(len), is_out: true });
        }
        self.queue_rest(state, payload, written)
    }

    /// Queues a payload of which the socket took the first `written` bytes. If it is lent, waits until it is written.
    fn queue_rest<'a>(
        &'a self,
        mut state: MutexGuard<'a, OutboxState>,
        payload: Payload<'_>,
        written: usize,
    ) -> Result<Written> {
        let waits = matches!(payload, Payload::Lent(_));
        let (unit, lent) = payload.into_unit(state.has_poller);
        let ticket = state.queue.push(unit, written);
        if state.stall.is_none() {
            self.write_queue(&mut state, lent);
        }
        state.queue.note_high_water();
        if state.gate.is_over() {
            // Breaking the connection dropped the queue, and the payload with it.
            return Err(self.failure(&mut state));
        }
        while waits && !state.queue.is_out(ticket) {
            state = self.wait_progress(state, ticket, Deadline::NEVER, lent)?;
        }
        let is_out = state.queue.is_out(ticket);
        let is_worn = state.sealing.as_ref().is_some_and(|sealing| sealing.is_worn());
        self.unlock(state);
        if is_worn && self.close(Some(CloseFrame::new(CloseCode::GOING_AWAY, "the keys are used up"))) {
            self.watch_close();
        }
        Ok(Written { ticket, is_out })
    }

    /// Returns whether a ping is still queued. Its pong cannot be late then.
    pub(crate) fn ping_waits(&self) -> bool {
        let state = self.state.lock();
        state.queue.has_ping() || state.sealing.as_ref().is_some_and(|sealing| sealing.has_ping())
    }

    /// Returns whether the socket has taken everything up to `ticket`.
    pub(crate) fn is_out(&self, ticket: u64) -> bool {
        self.state.lock().queue.is_out(ticket)
    }

    /// Sends or queues a ping. It replaces one that is queued.
    pub(crate) fn ping(&self, payload: &[u8]) -> Result<()> {
        self.control(Opcode::Ping, payload, Slot::Ping)
    }

    /// Sends or queues a pong. It replaces one that is queued.
    pub(crate) fn pong(&self, payload: &[u8]) -> Result<()> {
        self.control(Opcode::Pong, payload, Slot::Pong)
    }

    fn control(&self, opcode: Opcode, payload: &[u8], slot: Slot) -> Result<()> {
        let mut frame = Vec::new();
        encoder::append(self.role, opcode, payload, &mut frame);
        let mut state = self.state.lock();
        self.check_open(&mut state)?;
        state.queue.set(slot, frame);
        if state.stall.is_none() {
            self.write_queue(&mut state, NOTHING);
        }
        if state.gate.is_over() {
            return Err(self.failure(&mut state));
        }
        self.unlock(state);
        Ok(())
    }

    fn weak(&self) -> Weak<dyn Pushable> {
        let this: Weak<Self> = Weak::clone(&self.this);
        this
    }

    /// Writes the queue until it is empty or the socket takes nothing more.
    ///
    /// A socket that takes nothing starts the write timeout. The connection breaks when that has expired.
    fn write_queue(&self, state: &mut MutexGuard<'_, OutboxState>, lent: Lent<'_>) {
        while let Some(stream) = state.stream.clone() {
            let state = &mut **state;
            match state.write_next(&*stream, lent) {
                Ok(Some(taken)) => {
                    let waited = state.queue.bytes() > 0;
                    state.sent.bytes += state.queue.written(&taken) as u64;
                    if waited && state.queue.bytes() == 0 {
                        state.touch();
                    }
                }
                Ok(None) => {
                    if state.is_empty() {
                        state.stall = None;
                    }
                    return;
                }
                Err(Cause::Io(ErrorKind::WouldBlock)) => {
                    let now = now();
                    match state.stall {
                        Some(stall) if !state.queue.is_out(stall.ticket) || state.queue.bytes() == 0 => {
                            if now >= stall.deadline {
                                self.break_gate(state, Cause::Timeout(Timeout::Write));
                            }
                        }
                        _ => state.stall = Some(self.new_stall(&state.queue, now)),
                    }
                    return;
                }
                Err(cause) => return self.break_gate(state, cause),
            }
        }
    }

    /// Starts the deadline for the bytes that are queued now: the write timeout for each started MiB.
    fn new_stall(&self, queue: &Queue, now: Instant) -> WriteStall {
        let deadline = now.checked_add(time_for(queue.bytes(), self.write_timeout));
        WriteStall { ticket: queue.ticket(), deadline: deadline.unwrap_or(now + self.write_timeout) }
    }
}

#[cfg(all(test, not(model)))]
mod tests;
