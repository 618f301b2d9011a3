//! How everything is sent: one state per connection behind one mutex that is **never held over a call that can wait**.
//!
//! A frame is written under the lock, without waiting; what the socket does not take is queued in [`queue`], and the
//! flush thread pushes it on. A sender that may wait does so outside the lock, and pushes on itself meanwhile. So the
//! socket is guarded by a mutex, and yet nobody is ever held up by a slow peer.

mod broadcast;
mod close;
mod queue;
mod state;
mod wait;

pub(crate) use broadcast::Fate;

use self::state::{OutboxState, WriteStall};
use crate::config::{Config, time_to_write};
use crate::error::{Cause, Ending, Error, Result, Timeout};
use crate::flush_thread::{FlushThread, Pushable};
use crate::message::{IntoMessage, State};
use crate::net::{Deadline, Transport};
use crate::protocol::Role;
use crate::protocol::encoder::{self, EncodedFrame, Opcode};
use crate::protocol::gate::Gate;
use crate::stats::{ClientStats, ReaderCounts, Totals};
use crate::sync::{Arc, AtomicBool, AtomicU8, Condvar, Mutex, MutexGuard, Ordering, Weak, now};
use queue::{Lent, NOTHING, Payload, Queue, Slot};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// The sending side of a connection, shared by everybody who sends on it.
///
/// In this order for [`OutboxState`]'s reason.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Outbox {
    flush: Arc<FlushThread>,
    this: Weak<Self>,
    opened: Instant,
    write_timeout: Duration,
    close_timeout: Duration,
    max_backlog: usize,
    /// Tells waiting senders that bytes went out, that the turn is free, or that the connection broke.
    progress: Condvar,
    reader_counts: ReaderCounts,
    role: Role,
    /// Mirrors the gate as a hint for `state()`. Relaxed: it guards nothing, every write asks the gate under the lock.
    state_hint: AtomicU8,
    /// A broadcast that finds the backlog full is left out. Relaxed: a setting.
    skips: AtomicBool,
    state: Mutex<OutboxState>,
}

/// What became of frames that were sent.
#[derive(Debug, Clone, Copy)]
struct Written {
    /// Tells [`Outbox::is_out`] of them.
    ticket: u64,
    is_out: bool,
}

/// What the reader counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Outbox {
    /// Apart from who calls it: it is built on a stack that shall not be deep.
    #[inline(never)]
    pub(crate) fn new(
        role: Role,
        config: &Config,
        stream: Arc<impl Transport + 'static>,
        flush: Arc<FlushThread>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            role,
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
                close_deadline: Deadline::NEVER,
                skipped: 0,
                last_sent: config.idle_timeout().map(|_| now()),
                sent: Counts::default(),
                ending: Ending::default(),
            }),
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

    /// When a message was last sent, which is now while one waits for the peer; `None` where no idle timeout wants to know
    /// it.
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
        }
    }

    /// Returns what the connection adds to its server's numbers, and its backlog.
    pub(crate) fn totals(&self) -> (Totals, usize) {
        let state = self.state.lock();
        let is_slow = matches!(state.ending.cause, Some(Cause::SlowPeer | Cause::Timeout(Timeout::Write)));
        let totals = Totals {
            traffic: self.reader_counts.traffic(state.sent.messages, state.sent.bytes),
            messages_skipped: state.skipped,
            slow_peers_closed: u64::from(is_slow),
            ..self.reader_counts.totals()
        };
        (totals, state.queue.bytes())
    }

    /// Sends one message, and waits until the socket has taken it.
    pub(crate) fn send(&self, message: impl IntoMessage) -> Result<()> {
        let mut buffer = encoder::EMPTY;
        let frame = EncodedFrame::new(self.role, message, &mut buffer);
        let state = self.admit(frame.len(), None)?;
        self.write(state, Payload::Lent(frame.slices()), 1).map(drop)
    }

    /// Sends one message or queues it, without waiting; the ticket tells [`is_out`](Self::is_out) of it.
    pub(crate) fn try_send(&self, message: impl IntoMessage) -> Result<u64> {
        let mut buffer = encoder::EMPTY;
        let frame = EncodedFrame::new(self.role, message, &mut buffer);
        let state = self.admit(frame.len(), Some(self.max_backlog))?;
        Ok(self.write(state, Payload::Owned(frame), 1)?.ticket)
    }

    /// Sends a batch of whole frames, `messages` in number, and waits until the socket has taken them. `frames` is left
    /// empty.
    pub(crate) fn send_frames(&self, frames: &mut Vec<u8>, messages: u64) -> Result<()> {
        let state = self.admit(frames.len(), None);
        let result = state.and_then(|state| self.write(state, Payload::Lent([frames, &[]]), messages));
        frames.clear();
        result.map(drop)
    }

    /// Like [`send_frames`](Self::send_frames), but never waits. `bound` is the backlog that the frames may not exceed; if
    /// they do, the result is [`Error::Full`], and `frames` stays as it was.
    pub(crate) fn queue_frames(
        &self,
        frames: &mut Vec<u8>,
        messages: u64,
        bound: Option<usize>,
    ) -> Result<()> {
        let result = match self.admit(frames.len(), bound) {
            Err(Error::Full) => return Err(Error::Full),
            state => state.and_then(|state| self.write(state, Payload::Copied(frames), messages)),
        };
        frames.clear();
        result.map(drop)
    }

    /// Locks, if frames of `len` bytes may be sent now. `bound` is the backlog that they may not exceed; an empty backlog
    /// takes one message of any size.
    fn admit(&self, len: usize, bound: Option<usize>) -> Result<MutexGuard<'_, OutboxState>> {
        let mut state = self.state.lock();
        self.check_open(&mut state)?;
        if state.has_room(len, bound) { Ok(state) } else { Err(Error::Full) }
    }

    /// Writes what the socket takes now; [`queue_rest`](Self::queue_rest) does the rest.
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
        state.sent(messages);
        if written == len {
            return Ok(Written { ticket: state.queue.passed(len), is_out: true });
        }
        self.queue_rest(state, payload, written)
    }

    /// Queues what the socket did not take, and waits for it if it is lent.
    #[cold]
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
        if state.gate.is_broken() {
            // The queue was emptied, but not written.
            return Err(self.failure(&mut state));
        }
        if waits {
            state = self.wait_out(state, ticket, lent)?;
        }
        let is_out = state.queue.is_out(ticket);
        self.unlock(state);
        Ok(Written { ticket, is_out })
    }

    /// Whether a ping has not left yet: its pong cannot be late.
    pub(crate) fn ping_waits(&self) -> bool {
        self.state.lock().queue.has_ping()
    }

    pub(crate) fn is_out(&self, ticket: u64) -> bool {
        self.state.lock().queue.is_out(ticket)
    }

    /// Sends a ping, or puts it in the place of one that waits.
    pub(crate) fn ping(&self, payload: &[u8]) -> Result<()> {
        self.control(Opcode::Ping, payload, Slot::Ping)
    }

    /// Answers a ping, or puts the answer in the place of one that waits.
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
        if state.gate.is_broken() {
            return Err(self.failure(&mut state));
        }
        self.unlock(state);
        Ok(())
    }

    fn weak(&self) -> Weak<dyn Pushable> {
        let this: Weak<Self> = Weak::clone(&self.this);
        this
    }

    /// Writes what waits until the socket refuses; keeps the clock of the refusal, and breaks the connection when it has
    /// run out.
    fn write_queue(&self, state: &mut MutexGuard<'_, OutboxState>, lent: Lent<'_>) {
        while let Some(stream) = state.stream.clone() {
            let state = &mut **state;
            let slices = state.queue.gather(lent);
            if slices.is_empty() {
                if state.queue.is_empty() {
                    state.stall = None;
                }
                return;
            }
            let result = stream.try_write(&slices);
            match result {
                Ok(written) => {
                    let waited = state.queue.bytes() > 0;
                    state.queue.advance(written);
                    if waited && state.queue.bytes() == 0 {
                        state.note_sent();
                    }
                    state.sent.bytes += written as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
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
                Err(error) => return self.break_gate(state, Cause::Io(error.kind())),
            }
        }
    }

    /// The write timeout for each started MiB that waits now.
    fn new_stall(&self, queue: &Queue, now: Instant) -> WriteStall {
        let deadline = now.checked_add(time_to_write(queue.bytes(), self.write_timeout));
        WriteStall { ticket: queue.ticket(), deadline: deadline.unwrap_or(now + self.write_timeout) }
    }
}

#[cfg(all(test, not(model)))]
mod tests;
