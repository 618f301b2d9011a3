//! A client of a server with events: from its accept to its end, in steps that any thread can take.
//!
//! `client_thread.rs` has the same life in one thread. A step that would wait for the client is left to the set, which watches
//! the socket and the deadline: for the first byte of the request, for messages, for the client's Close, and for the end of the
//! stream after FIN.

use super::set::{Crew, May, Member, Next, Why};
use super::{Callbacks, Turn};
use crate::connection::{Arrived, Buffers, Connection, DRAIN_TIME};
use crate::error::BoxError;
use crate::handshake::LINGER;
use crate::logging::catch;
use crate::net::stream::FULL_FLOW;
use crate::net::{Deadline, ReadySet, Stream};
use crate::quota::Admission;
use crate::server::client_thread::Accepted;
use crate::server::failures::HandlerResult;
use crate::sync::Arc;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// How many bytes of input are discarded in one step.
const DISCARDED: usize = 16 * 1024;

/// A client, in the set or in the thread that serves it.
pub(super) struct EventClient {
    accepted: Box<Accepted>,
    deadline: Deadline,
    stage: Stage,
    /// `None` before the handshake.
    open: Option<OpenClient>,
}

/// The parts of a client after its handshake.
struct OpenClient {
    connection: Box<Connection>,
    /// `None` if the opening callback failed, and after a panic.
    callbacks: Option<Box<dyn Callbacks>>,
    result: CallbackResult,
    /// The connection counts against the quotas of its address until it has ended.
    _admission: Admission,
}

#[derive(Debug)]
enum Stage {
    /// The request is read when its first byte is here.
    Handshake,
    Open,
    /// Our Close was sent because a callback has failed. Messages are discarded until the client's Close.
    Closing,
    /// The closing handshake is complete, or the client has broken a rule. What is queued is still to be sent.
    Finishing,
    /// FIN was sent, and input is discarded.
    Draining(Drain),
    /// The last callbacks are still to be called.
    Ended,
}

/// How the callbacks of a client have ended.
enum CallbackResult {
    Ok,
    Err(BoxError),
    Panicked(String),
}

impl CallbackResult {
    fn as_result(&self) -> HandlerResult<'_> {
        match self {
            Self::Ok => HandlerResult::Ok,
            Self::Err(error) => HandlerResult::Err(error),
            Self::Panicked(text) => HandlerResult::Panicked(text),
        }
    }
}

impl EventClient {
    pub(super) fn new(accepted: Box<Accepted>, deadline: Deadline) -> Box<Self> {
        Box::new(Self { accepted, deadline, stage: Stage::Handshake, open: None })
    }

    pub(super) fn stream(&self) -> &Arc<Stream> {
        self.accepted.stream()
    }

    /// Answers the request, and calls the opening callback. `None` if the client has left.
    fn open(&mut self) -> Option<Stage> {
        let Some(opened) = self.accepted.shake_hands(self.deadline, false) else {
            let until = Deadline::after(self.accepted.shared().settings.config.close_timeout());
            return Some(Stage::Draining(Drain::new(LINGER, until)));
        };
        let (mut connection, admission) = self.accepted.open(*opened)?;
        let (callbacks, result) = match catch(|| self.accepted.shared().way.open(&mut connection)) {
            Ok(Ok(callbacks)) => (Some(callbacks), CallbackResult::Ok),
            Ok(Err(error)) => (None, CallbackResult::Err(error)),
            Err(panic) => (None, CallbackResult::Panicked(panic)),
        };
        let is_open = callbacks.is_some();
        self.open =
            Some(OpenClient { connection, callbacks, result: CallbackResult::Ok, _admission: admission });
        Some(if is_open { Stage::Open } else { self.failed(result) })
    }

    /// Calls the callbacks for everything that has arrived.
    #[inline]
    fn receive(&mut self, reads: Option<Instant>, buffers: &mut Buffers) -> Result<Option<Deadline>, Stage> {
        let Some(OpenClient { connection, callbacks: Some(callbacks), .. }) = &mut self.open else {
            return Err(Stage::Ended);
        };
        connection.borrow_buffers(buffers);
        let result = catch(|| callbacks.receive(connection, reads));
        connection.return_buffers(buffers);
        match result {
            Ok(Ok(Turn::Rest(deadline))) => Ok(deadline),
            Ok(Ok(Turn::End)) => Err(self.end_stage()),
            Ok(Err(error)) => Err(self.failed(CallbackResult::Err(error))),
            Err(panic) => Err(self.failed(CallbackResult::Panicked(panic))),
        }
    }

    /// Discards messages until the client's Close.
    fn discard(
        &mut self,
        mut reads: Option<Instant>,
        buffers: &mut Buffers,
    ) -> Result<Option<Deadline>, Stage> {
        let Some(OpenClient { connection, .. }) = &mut self.open else { return Err(Stage::Ended) };
        connection.borrow_buffers(buffers);
        let result = loop {
            match connection.next_arrived(&mut reads) {
                Arrived::Nothing(deadline) => break Some(deadline),
                Arrived::End => break None,
                _ => {}
            }
        };
        connection.return_buffers(buffers);
        result.ok_or_else(|| self.end_stage())
    }

    /// Closes the connection because a callback has failed.
    fn failed(&mut self, result: CallbackResult) -> Stage {
        let Some(open) = &mut self.open else { return Stage::Ended };
        if matches!(result, CallbackResult::Panicked(_)) {
            // It is in an unknown state. Its `Drop` can panic, too.
            let callbacks = open.callbacks.take();
            drop(catch(|| drop(callbacks)));
        }
        let (is_ok, code) = {
            let (result, code) = self.accepted.judge(&open.connection, result.as_result());
            (matches!(result, HandlerResult::Ok), code)
        };
        open.result = if is_ok { CallbackResult::Ok } else { result };
        open.connection.start_close(code);
        match self.end_stage() {
            Stage::Open => Stage::Closing,
            stage => stage,
        }
    }

    /// Returns the stage of a connection that may have ended.
    fn end_stage(&self) -> Stage {
        match &self.open {
            Some(open) if open.connection.has_deferred_end() => Stage::Finishing,
            Some(open) if open.connection.closed().is_none() => Stage::Open,
            _ => Stage::Ended,
        }
    }

    /// Calls the last callbacks.
    fn end(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        open.connection.end_deferred();
        if let (Some(mut callbacks), Some(closed)) =
            (open.callbacks.take(), open.connection.closed().cloned())
        {
            let connection = &mut *open.connection;
            if let Err(panic) = catch(move || callbacks.closed(connection, &closed)) {
                self.accepted.judge(&open.connection, HandlerResult::Panicked(&panic));
                open.result = CallbackResult::Panicked(panic);
            }
        }
        self.accepted.leave(&open.connection, open.result.as_result());
        // A value of the program, whose `Drop` can panic.
        drop(catch(|| drop(open)));
    }
}

impl Member for Box<EventClient> {
    type Ready = ReadySet;
    type Buffers = Buffers;

    #[inline]
    fn serve(&mut self, why: Why, now: Instant, buffers: &mut Buffers, may: May) -> Next {
        if matches!(self.stage, Stage::Open) && why == Why::Input && may >= May::Callbacks {
            // Nearly every turn.
            match self.receive(Some(now), buffers) {
                Ok(deadline) => return Next::Rest(deadline),
                Err(stage) => self.stage = stage,
            }
            return self.step(Why::Thread, now, None, buffers, may);
        }
        self.step(why, now, (why != Why::Due).then_some(now), buffers, may)
    }
}

impl EventClient {
    /// Goes on until the client has to wait, or needs a thread.
    fn step(
        &mut self,
        why: Why,
        now: Instant,
        mut reads: Option<Instant>,
        buffers: &mut Buffers,
        may: May,
    ) -> Next {
        loop {
            let is_due = why == Why::Due;
            let rest = match &mut self.stage {
                Stage::Handshake if may < May::Wait => return Next::Thread(Crew::Handshakes),
                Stage::Handshake => {
                    reads = None;
                    match self.open() {
                        Some(stage) => Err(stage),
                        None => return Next::End,
                    }
                }
                Stage::Open | Stage::Closing if is_due => self.check_deadlines(now),
                Stage::Open if may < May::Callbacks => return Next::Thread(Crew::Callbacks),
                Stage::Open => self.receive(reads.take(), buffers),
                Stage::Closing => self.discard(reads.take(), buffers),
                Stage::Finishing => match self.finish(may == May::Wait) {
                    Some(stage) => {
                        self.stage = stage;
                        // The socket is watched from now on.
                        if let Stage::Draining(drain) = &self.stage {
                            Ok(Some(drain.deadline()))
                        } else {
                            continue;
                        }
                    }
                    None => return Next::Thread(Crew::Callbacks),
                },
                Stage::Draining(drain) => match drain.step(self.accepted.stream(), is_due, now, buffers) {
                    Some(deadline) => Ok(Some(deadline)),
                    None => Err(Stage::Ended),
                },
                Stage::Ended if self.open.is_some() && may < May::Callbacks => {
                    return Next::Thread(Crew::Callbacks);
                }
                Stage::Ended => {
                    self.end();
                    return Next::End;
                }
            };
            match rest {
                Ok(None) if why != Why::Input => match self.check_deadlines(now) {
                    Ok(deadline) => return Next::Rest(deadline),
                    Err(stage) => self.stage = stage,
                },
                Ok(deadline) => return Next::Rest(deadline),
                Err(stage) => self.stage = stage,
            }
        }
    }

    fn check_deadlines(&mut self, now: Instant) -> Result<Option<Deadline>, Stage> {
        let Some(open) = &mut self.open else { return Err(Stage::Ended) };
        open.connection.check_deadlines(now).map(Some).ok_or_else(|| self.end_stage())
    }

    /// Sends FIN. `None` if that has to wait, and this thread must not.
    fn finish(&mut self, waits: bool) -> Option<Stage> {
        let Some(open) = &mut self.open else { return Some(Stage::Ended) };
        let deadline = open.connection.start_finish(waits)?;
        Some(Stage::Draining(Drain::new(DRAIN_TIME, deadline)))
    }
}

/// Input that is discarded before the socket is closed, as [`Stream::drain`] does in a thread.
#[derive(Debug)]
struct Drain {
    period: Duration,
    /// The end of this period, and the bytes that arrived in it.
    until: Deadline,
    bytes: usize,
    deadline: Deadline,
}

impl Drain {
    fn new(period: Duration, deadline: Deadline) -> Self {
        Self { period, until: Deadline::after(period), bytes: 0, deadline }
    }

    fn deadline(&self) -> Deadline {
        self.until.or(self.deadline)
    }

    /// Discards what has arrived. Returns when this is to be called at the latest, or `None` if the socket can be closed.
    fn step(
        &mut self,
        stream: &Stream,
        is_due: bool,
        now: Instant,
        buffers: &mut Buffers,
    ) -> Option<Deadline> {
        if !is_due {
            match stream.read(buffers.scratch(DISCARDED), false) {
                Ok(0) => return None,
                Ok(count) => self.bytes += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
        if self.deadline.has_passed(now) {
            return None;
        }
        if self.until.has_passed(now) {
            if self.bytes < FULL_FLOW {
                return None;
            }
            (self.until, self.bytes) = (Deadline::after(self.period), 0);
        }
        Some(self.deadline())
    }
}
