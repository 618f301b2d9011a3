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
use crate::flush_thread::{Flush, Pushable};
use crate::message::{CloseFrame, IntoMessage, State};
use crate::net::{Deadline, Transport};
use crate::protocol::Role;
use crate::protocol::encoder::{self, Header, Opcode};
use crate::protocol::gate::Gate;
use crate::stats::{ClientStats, ReaderCounts, Totals};
use crate::sync::{Arc, AtomicBool, AtomicU8, Condvar, Mutex, MutexGuard, Ordering, Weak, now};
use queue::{Lent, Queue, Slot, Unit};
use std::io::{ErrorKind, IoSlice};
use std::time::{Duration, Instant};

/// Up to this size a payload is copied behind its header and written from one slice: cheaper than a vectored write.
const COPIED: usize = 1024;
/// Most are smaller than this: a place for one is zeroed in no time.
const SMALL: usize = 128;

/// What is lent by those who have given what they send.
const NOTHING: Lent<'static> = [&[]; 2];

/// The sending side of a connection, shared by everybody who sends on it.
///
/// In this order for [`OutboxState`]'s reason.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Outbox {
    flush: Arc<Flush>,
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
        flush: Arc<Flush>,
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
        let view = message.as_message();
        let payload = view.as_bytes();
        if payload.len() < COPIED {
            let (state, ticket) = self.queue(view, None)?;
            return self.wait_out(state, ticket, NOTHING);
        }
        if self.role == Role::Client {
            let mut frame = Vec::new();
            encoder::append(self.role, view.into(), payload, &mut frame);
            return self.lend([&frame, &[]], 1);
        }
        self.lend([Header::new(self.role, view.into(), payload.len()).as_bytes(), payload], 1)
    }

    /// Sends one message or queues it, without waiting; the ticket tells [`is_out`](Self::is_out) of it.
    pub(crate) fn try_send(&self, message: impl IntoMessage) -> Result<u64> {
        let (state, ticket) = self.queue(message, Some(self.max_backlog))?;
        self.unlock(state);
        Ok(ticket)
    }

    /// Sends a batch of whole frames, `messages` in number, and waits until the socket has taken them. `frames` is left
    /// empty.
    pub(crate) fn send_frames(&self, frames: &mut Vec<u8>, messages: u64) -> Result<()> {
        let result = self.lend([frames, &[]], messages);
        frames.clear();
        result
    }

    /// Like [`send_frames`](Self::send_frames), but never waits. `bound` is the backlog that the frames may not exceed; if
    /// they do, the result is [`Error::Full`], and `frames` stays as it was.
    pub(crate) fn queue_frames(
        &self,
        frames: &mut Vec<u8>,
        messages: u64,
        bound: Option<usize>,
    ) -> Result<()> {
        let result = self.admit(frames.len(), bound);
        if matches!(result, Err(Error::Full)) {
            return result.map(drop);
        }
        let result = result
            .and_then(|state| self.write_or_keep(state, frames, messages, || Unit::Frames(frames.clone())));
        frames.clear();
        result.map(|(state, _)| self.unlock(state))
    }

    /// Sends whole frames, `messages` in number, and waits until the socket has taken them, without copying what it does
    /// not take at once.
    fn lend(&self, frames: Lent<'_>, messages: u64) -> Result<()> {
        let len = frames[0].len() + frames[1].len();
        let mut state = self.admit(len, None)?;
        let written = self.write_now(&mut state, &frames.map(IoSlice::new));
        state.sent(messages);
        if written == len {
            state.queue.passed(len);
            return Ok(());
        }
        // Who has the turn pushes for all, and cannot push what is in our hands.
        let (unit, lent) = if state.has_poller {
            (Unit::Waited(frames.concat()), NOTHING)
        } else {
            (Unit::Lent(len), frames)
        };
        let ticket = self.keep(&mut state, unit, written, lent)?;
        self.wait_out(state, ticket, lent)
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
            self.push(&mut state, NOTHING);
        }
        if state.gate.is_broken() {
            return Err(self.failure(&mut state));
        }
        self.unlock(state);
        Ok(())
    }

    /// Queues a Close behind the data that waits; nothing follows it. False if one went before, or if it is too late.
    pub(crate) fn close(&self, content: Option<CloseFrame>) -> bool {
        let mut frame = Vec::new();
        encoder::append(self.role, Opcode::Close, &encoder::close_payload(content.as_ref()), &mut frame);
        let mut state = self.state.lock();
        if !state.gate.is_open() {
            return false;
        }
        // RFC 6455 §5.5.1: asked and changed under the lock. Outside it another thread's frame could pass between.
        self.move_gate(&mut state, Gate::CloseSent);
        state.ending.sent = Some(content);
        state.start_close_deadline(self.close_timeout);
        state.queue.set(Slot::Close, frame);
        if state.stall.is_none() {
            self.push(&mut state, NOTHING);
        }
        // A reader that closes waits for the peer's Close next: it does not push ours on.
        self.unlock(state);
        true
    }

    /// Lets the flush thread keep the close deadline: for everybody but the reader, who keeps it on its own.
    pub(crate) fn watch_close(&self) {
        self.flush.watch(self.weak());
    }

    /// Takes note of the peer's Close, and starts the close deadline.
    pub(crate) fn close_received(&self, content: Option<CloseFrame>) {
        let mut state = self.state.lock();
        state.ending.by_peer = state.ending.sent.is_none();
        state.ending.received = Some(content);
        state.start_close_deadline(self.close_timeout);
    }

    pub(crate) fn close_deadline(&self) -> Deadline {
        self.state.lock().close_deadline
    }

    fn weak(&self) -> Weak<dyn Pushable> {
        let this: Weak<Self> = Weak::clone(&self.this);
        this
    }

    /// Writes or queues a message. `bound` is the backlog that it may not exceed.
    #[inline]
    fn queue(
        &self,
        message: impl IntoMessage,
        bound: Option<usize>,
    ) -> Result<(MutexGuard<'_, OutboxState>, u64)> {
        let view = message.as_message();
        let payload = view.as_bytes();
        if self.role == Role::Server && payload.len() <= SMALL - Header::SHORT {
            let header = Header::new(self.role, view.into(), payload.len());
            return self.queue_copied::<SMALL>(header.as_bytes(), payload, bound);
        }
        self.queue_any(message, bound)
    }

    /// What is not small. Apart, so that its room does not lie between what a small message touches of the stack.
    #[inline(never)]
    fn queue_any(
        &self,
        message: impl IntoMessage,
        bound: Option<usize>,
    ) -> Result<(MutexGuard<'_, OutboxState>, u64)> {
        let view = message.as_message();
        let payload = view.as_bytes();
        if self.role == Role::Client {
            let mut frame = Vec::new();
            encoder::append(self.role, view.into(), payload, &mut frame);
            let state = self.admit(frame.len(), bound)?;
            return self.write_or_keep(state, &frame, 1, || Unit::Frames(frame.clone()));
        }
        let header = Header::new(self.role, view.into(), payload.len());
        let header = header.as_bytes();
        let len = header.len() + payload.len();
        if len <= COPIED {
            return self.queue_medium(header, payload, bound);
        }
        let mut state = self.admit(len, bound)?;
        let written = self.write_now(&mut state, &[IoSlice::new(header), IoSlice::new(payload)]);
        state.sent(1);
        let ticket = if written == len {
            state.queue.passed(len)
        } else {
            let header = header.to_vec();
            self.keep(
                &mut state,
                Unit::Payload { header, payload: message.into_payload() },
                written,
                NOTHING,
            )?
        };
        Ok((state, ticket))
    }

    /// Apart for the same reason.
    #[inline(never)]
    fn queue_medium(
        &self,
        header: &[u8],
        payload: &[u8],
        bound: Option<usize>,
    ) -> Result<(MutexGuard<'_, OutboxState>, u64)> {
        self.queue_copied::<COPIED>(header, payload, bound)
    }

    /// Writes or queues a frame of at most `N` bytes, from one slice.
    #[inline]
    fn queue_copied<const N: usize>(
        &self,
        header: &[u8],
        payload: &[u8],
        bound: Option<usize>,
    ) -> Result<(MutexGuard<'_, OutboxState>, u64)> {
        let len = header.len() + payload.len();
        let mut frame = [0; N];
        frame[..header.len()].copy_from_slice(header);
        frame[header.len()..len].copy_from_slice(payload);
        let frame = &frame[..len];
        let state = self.admit(len, bound)?;
        self.write_or_keep(state, frame, 1, || Unit::Frames(frame.to_vec()))
    }

    /// Writes whole frames, `messages` in number, or as much of them as the socket takes; `unit` keeps them for later.
    fn write_or_keep<'a>(
        &self,
        mut state: MutexGuard<'a, OutboxState>,
        frames: &[u8],
        messages: u64,
        unit: impl FnOnce() -> Unit,
    ) -> Result<(MutexGuard<'a, OutboxState>, u64)> {
        let written = self.write_now(&mut state, &[IoSlice::new(frames)]);
        state.sent(messages);
        let ticket = if written == frames.len() {
            state.queue.passed(written)
        } else {
            self.keep(&mut state, unit(), written, NOTHING)?
        };
        Ok((state, ticket))
    }

    /// Locks, and asks whether a frame of `len` bytes may be queued.
    fn admit(&self, len: usize, bound: Option<usize>) -> Result<MutexGuard<'_, OutboxState>> {
        let mut state = self.state.lock();
        self.may_queue(&mut state, len, bound)?;
        Ok(state)
    }

    /// Writes `bytes` if nothing goes before them; returns how many the socket took.
    fn write_now(&self, state: &mut MutexGuard<'_, OutboxState>, bytes: &[IoSlice<'_>]) -> usize {
        if state.stall.is_some() || !state.queue.is_empty() {
            return 0;
        }
        let Some(stream) = &state.stream else { return 0 };
        match stream.try_write(bytes) {
            Ok(written) => {
                state.sent.bytes += written as u64;
                written
            }
            // Any error is met again, and dealt with, by the push that follows.
            Err(_) => 0,
        }
    }

    /// Queues what the socket did not take, and asks it once more if nobody has yet.
    fn keep(
        &self,
        state: &mut MutexGuard<'_, OutboxState>,
        unit: Unit,
        written: usize,
        lent: Lent<'_>,
    ) -> Result<u64> {
        let ticket = state.queue.push(unit, written);
        if state.stall.is_none() {
            self.push(state, lent);
        }
        // A break has emptied the queue: nothing waits any more, but this is not out.
        if state.gate.is_broken() { Err(self.failure(state)) } else { Ok(ticket) }
    }

    /// Writes what waits until the socket refuses; keeps the clock of the refusal, and breaks the connection when it has
    /// run out.
    fn push(&self, state: &mut MutexGuard<'_, OutboxState>, lent: Lent<'_>) {
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
            drop(slices);
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

    fn move_gate(&self, state: &mut OutboxState, gate: Gate) {
        state.gate = gate;
        self.state_hint.store(gate.state() as u8, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(model)))]
mod tests;
