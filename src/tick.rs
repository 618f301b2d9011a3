//! Ticks: messages that are sent after a delay, or at intervals. [`Connection::every`](crate::Connection::every) starts
//! one.
//!
//! The timer's thread calls each tick when it is due (`timer.rs`). A tick uses the outbox's way that never waits, so a slow
//! peer delays no other tick. No lock is held while the program's closure runs.

use crate::deflate::Uncompressed;
use crate::error::{Error, Result};
use crate::logging::contain;
use crate::message::{IntoMessage, Message, MessageRef, State};
use crate::outbox::{Outbox, SharedFrames};
use crate::protocol::Role;
use crate::protocol::encoder;
use crate::stats::Counters;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, Weak, now};
use crate::timer::{Due, Timer};
use std::fmt;
use std::time::{Duration, Instant};

/// The source of a tick's messages.
pub(crate) enum Action {
    Message(TickMessage),
    Make(Box<dyn FnMut() -> Option<TickMessage> + Send>),
    /// A message of a server's tick, encoded and compressed once.
    Frame(SharedFrames),
}

impl Action {
    pub(crate) fn message(message: impl IntoMessage) -> Self {
        Self::Message(TickMessage::new(&message))
    }

    pub(crate) fn make<T: IntoMessage>(mut make: impl FnMut() -> Option<T> + Send + 'static) -> Self {
        Self::Make(Box::new(move || make().map(|message| TickMessage::new(&message))))
    }
}

/// A message, and whether it may be compressed.
pub(crate) struct TickMessage {
    message: Message,
    may_compress: bool,
}

impl TickMessage {
    fn new(message: &impl IntoMessage) -> Self {
        Self { message: message.as_message().into(), may_compress: message.may_compress() }
    }

    fn send(&self, outbox: &Outbox) -> Result<u64> {
        if self.may_compress {
            outbox.try_send(&self.message)
        } else {
            outbox.try_send(Uncompressed(&self.message))
        }
    }
}

/// A message that is sent once or at intervals. Returned by [`every`](crate::Connection::every),
/// [`after`](crate::Connection::after) and their `_with` forms.
///
/// It ends with its connection, or by [`cancel`](Self::cancel). Dropping this value does not cancel it.
#[derive(Debug, Clone)]
pub struct Tick {
    job: Arc<TickJob>,
    timer: Weak<Timer>,
    number: u64,
}

#[derive(Debug)]
struct TickJob {
    outbox: Weak<Outbox>,
    interval: Option<Duration>,
    state: Mutex<TickState>,
    /// Relaxed, as the two counters, because no other data depends on them.
    over: AtomicBool,
    sent: AtomicU64,
    skipped: AtomicU64,
    /// The counters of the server.
    counters: Arc<Counters>,
}

struct TickState {
    /// `None` while the timer's thread uses it without the lock.
    action: Option<Action>,
    /// The last message that was sent or queued.
    ticket: Option<u64>,
}

/// Does not show the message.
impl fmt::Debug for TickState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TickState").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

impl Tick {
    pub(crate) fn start(
        timer: &Arc<Timer>,
        outbox: &Arc<Outbox>,
        counters: &Arc<Counters>,
        delay: Duration,
        interval: Option<Duration>,
        action: Action,
    ) -> Self {
        let action = match action {
            Action::Message(message) if outbox.role() == Role::Server => {
                let mut frame = Vec::new();
                let view = MessageRef::from(&message.message);
                encoder::append(Role::Server, view.into(), view.as_bytes(), &mut frame);
                Action::Frame(SharedFrames::new(frame.into(), 1, message.may_compress))
            }
            action => action,
        };
        let job = Arc::new(TickJob {
            outbox: Arc::downgrade(outbox),
            interval,
            state: Mutex::new(TickState { action: Some(action), ticket: None }),
            over: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            counters: Arc::clone(counters),
        });
        let target: Weak<TickJob> = Arc::downgrade(&job);
        // A time that overflows an `Instant` is never due.
        let number = now().checked_add(delay).map(|due| timer.add(due, target));
        Self { job, timer: Arc::downgrade(timer), number: number.unwrap_or(u64::MAX) }
    }

    /// Cancels the tick. A message that is being sent at this moment may still be sent.
    pub fn cancel(&self) {
        self.job.over.store(true, Ordering::Relaxed);
        // Dropped without the lock, because it may be a closure of the program.
        let action = self.job.state.lock().action.take();
        drop(action);
        if let Some(timer) = self.timer.upgrade() {
            timer.remove(self.number);
        }
    }

    /// Returns how many messages were sent or queued.
    pub fn sent(&self) -> u64 {
        self.job.sent.load(Ordering::Relaxed)
    }

    /// Returns how many messages were skipped, because the previous one was still queued or the timer was late by a whole
    /// interval.
    pub fn skipped(&self) -> u64 {
        self.job.skipped.load(Ordering::Relaxed)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.job.over.load(Ordering::Relaxed)
    }
}

impl TickJob {
    fn skip(&self, count: u64) {
        self.skipped.fetch_add(count, Ordering::Relaxed);
        self.counters.ticks_skipped(count);
    }

    /// Sends the message that is due. Returns false if the tick is over.
    fn send(&self) -> bool {
        let Some(outbox) = self.outbox.upgrade() else { return false };
        if outbox.state() != State::Open {
            return false;
        }
        let (action, ticket) = {
            let mut state = self.state.lock();
            (state.action.take(), state.ticket)
        };
        let Some(mut action) = action else { return false };
        let result = if ticket.is_some_and(|ticket| !outbox.is_out(ticket)) {
            Err(Error::Full)
        } else {
            match &mut action {
                Action::Frame(frame) => outbox.try_send_shared(frame).map(Some),
                Action::Message(message) => message.send(&outbox).map(Some),
                Action::Make(make) => match contain("threadws::timer", "the closure of a tick", make) {
                    Some(Some(message)) => message.send(&outbox).map(Some),
                    Some(None) => Ok(None),
                    None => return false,
                },
            }
        };
        let mut state = self.state.lock();
        if self.interval.is_some() {
            state.action = Some(action);
        }
        match result {
            Ok(Some(ticket)) => {
                state.ticket = Some(ticket);
                self.sent.fetch_add(1, Ordering::Relaxed);
                self.counters.tick_sent();
            }
            Ok(None) => {}
            Err(Error::Full) => self.skip(1),
            Err(_) => return false,
        }
        true
    }
}

impl Due for TickJob {
    fn fire(&self, due: Instant, now: Instant) -> Option<Instant> {
        if self.over.load(Ordering::Relaxed) {
            return None;
        }
        let goes_on = self.send();
        let Some(interval) = self.interval.filter(|_| goes_on) else {
            self.over.store(true, Ordering::Relaxed);
            return None;
        };
        // Counted from when it was due, so that it does not drift. Times that have passed are skipped, not sent in a burst.
        let mut next = due.checked_add(interval)?;
        if next <= now {
            let late = (now - due).as_nanos() / interval.as_nanos();
            self.skip(u64::try_from(late).unwrap_or(u64::MAX));
            let late = u32::try_from(late).unwrap_or(u32::MAX);
            next = due.checked_add(interval.checked_mul(late.saturating_add(1))?)?;
        }
        Some(next)
    }
}
