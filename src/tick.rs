//! Messages that are sent at times: a timer's customers, through the path of the outbox that never waits.

use crate::error::Error;
use crate::logging::contain;
use crate::message::{IntoMessage, Message, MessageRef, State};
use crate::outbox::Outbox;
use crate::protocol::Role;
use crate::protocol::encoder;
use crate::stats::Counters;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, Weak, now};
use crate::timer::{Due, Timer};
use std::time::{Duration, Instant};

/// TickState a tick sends.
pub(crate) enum Action {
    Message(Message),
    Make(Box<dyn FnMut() -> Option<Message> + Send>),
}

impl Action {
    pub(crate) fn message(message: impl IntoMessage) -> Self {
        Self::Message(message.as_message().into())
    }

    pub(crate) fn make(make: impl FnMut() -> Option<Message> + Send + 'static) -> Self {
        Self::Make(Box::new(make))
    }
}

/// A message that is sent at a time, or at intervals: what `every` and `after` of
/// [`Connection`](crate::Connection::every) return.
///
/// Dropping it cancels nothing: it ends with the connection, or by [`cancel`](Self::cancel).
#[derive(Debug, Clone)]
pub struct Tick {
    pace: Arc<Pace>,
    timer: Weak<Timer>,
    number: u64,
}

#[derive(Debug)]
struct Pace {
    outbox: Weak<Outbox>,
    interval: Option<Duration>,
    what: Mutex<TickState>,
    /// Relaxed, like the counters: each stands for itself.
    over: AtomicBool,
    sent: AtomicU64,
    skipped: AtomicU64,
    /// The server's own, which count these along.
    counters: Arc<Counters>,
}

struct TickState {
    /// Taken out while it is in use: no lock is held over a user's closure.
    source: Option<TickSource>,
    /// The last message, until it is out.
    ticket: Option<u64>,
}

enum TickSource {
    /// Encoded once, for a server's ticks.
    Frame(Arc<[u8]>),
    Action(Action),
}

impl std::fmt::Debug for TickState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
        let source = match action {
            Action::Message(message) if outbox.role() == Role::Server => {
                let mut frame = Vec::new();
                encoder::append(
                    Role::Server,
                    MessageRef::from(&message).into(),
                    message.as_bytes(),
                    &mut frame,
                );
                TickSource::Frame(frame.into())
            }
            action => TickSource::Action(action),
        };
        let pace = Arc::new(Pace {
            outbox: Arc::downgrade(outbox),
            interval,
            what: Mutex::new(TickState { source: Some(source), ticket: None }),
            over: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            counters: Arc::clone(counters),
        });
        let target: Weak<Pace> = Arc::downgrade(&pace);
        // TickState overflows an `Instant` is never due.
        let number = now().checked_add(delay).map(|due| timer.add(due, target));
        Self { pace, timer: Arc::downgrade(timer), number: number.unwrap_or(u64::MAX) }
    }

    /// Ends it. A message that is being sent at this moment may still go out.
    pub fn cancel(&self) {
        self.pace.over.store(true, Ordering::Relaxed);
        if let Some(timer) = self.timer.upgrade() {
            timer.remove(self.number);
        }
    }

    /// How many messages went out, or were queued.
    pub fn sent(&self) -> u64 {
        self.pace.sent.load(Ordering::Relaxed)
    }

    /// How many were left out because their predecessor still waited, or the timer itself was late by a whole interval.
    pub fn skipped(&self) -> u64 {
        self.pace.skipped.load(Ordering::Relaxed)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.pace.over.load(Ordering::Relaxed)
    }
}

impl Pace {
    fn skip(&self, count: u64) {
        self.skipped.fetch_add(count, Ordering::Relaxed);
        self.counters.ticks_skipped(count);
    }

    /// Sends what is due. False: it is over.
    fn send(&self) -> bool {
        let Some(outbox) = self.outbox.upgrade() else { return false };
        if outbox.state() != State::Open {
            return false;
        }
        let (source, ticket) = {
            let mut what = self.what.lock();
            (what.source.take(), what.ticket)
        };
        let Some(mut source) = source else { return false };
        let result = if ticket.is_some_and(|ticket| !outbox.is_out(ticket)) {
            Err(Error::Full)
        } else {
            match &mut source {
                TickSource::Frame(frame) => outbox.try_send_shared(frame).map(Some),
                TickSource::Action(Action::Message(message)) => outbox.try_send(&*message).map(Some),
                TickSource::Action(Action::Make(make)) => {
                    match contain("threadws::timer", "the closure of a tick", make) {
                        Some(Some(message)) => outbox.try_send(message).map(Some),
                        Some(None) => Ok(None),
                        None => return false,
                    }
                }
            }
        };
        let mut what = self.what.lock();
        what.source = Some(source);
        match result {
            Ok(Some(ticket)) => {
                what.ticket = Some(ticket);
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

impl Due for Pace {
    fn fire(&self, due: Instant, now: Instant) -> Option<Instant> {
        if self.over.load(Ordering::Relaxed) {
            return None;
        }
        let goes_on = self.send();
        let Some(interval) = self.interval.filter(|_| goes_on) else {
            self.over.store(true, Ordering::Relaxed);
            return None;
        };
        // One interval after it was due, not after now: no drift. TickState is past already is skipped: no bursts.
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
