//! Models of the outbox, the hub, the timer, shutdown and sets of clients, for the model checker shuttle. `.ci/models` runs
//! them.
//!
//! A model is a few threads over a scripted socket. shuttle runs it many times. At each lock, wait and atomic it chooses the
//! thread that continues, and it chooses how many bytes the socket accepts. `I1` to `I26` in assertions are the invariants
//! in `guide/design.md`.
//!
//! loom would explore every order. These models have too many of them, and loom has neither `Weak` nor deadlines. shuttle
//! treats all atomics as sequentially consistent, so weaker orders are not checked here.
//!
//! `MODEL_RUNS` multiplies the number of runs, `MODEL_SEED` explores other orders, `MODEL_REPLAY` repeats the schedule that
//! a failure has printed.

pub(crate) mod clock;
mod closing;
mod compression;
mod hub;
mod opening;
mod sending;
mod ticks;
pub(crate) mod transport;
pub(crate) mod wire;

use crate::config::Config;
use crate::error::{Cause, Closed, Error, Result, Timeout, Violation};
use crate::flush_thread::FlushThread;
use crate::message::{CloseCode, CloseFrame, State};
use crate::net::Deadline;
use crate::outbox::{Compression, Counts, Outbox, SharedFrames};
use crate::protocol::Role;
use crate::sync::Arc;
use crate::verify::mock_session::{MockSession, key_update};
use clock::Patient;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread;
use std::cell::Cell;
use std::time::Duration;
use transport::{Input, Script};
use wire::Wire;

/// The runs of each model by each scheduler. They take a second or two in an optimized build.
const RUNS: usize = 5000;
/// The time limit for the runs of one model by one scheduler.
const TIME: Duration = Duration::from_secs(2);
/// The number of priority changes of the PCT scheduler. Most bugs need one or two.
const DEPTH: usize = 3;
/// A run with more steps is considered endless. The longest takes a tenth of them.
const STEPS: usize = 20_000;
/// The stack of each thread. It is large because of debug builds.
const STACK: usize = 256 * 1024;

std::thread_local! {
    /// The connections of the model that runs have TLS.
    static IS_SEALED: Cell<bool> = const { Cell::new(false) };
}

/// The most plaintext of a record.
const PIECE: usize = 500;

/// Runs a model many times, without and with TLS.
pub(crate) fn check(model: fn()) {
    check_with(false, model);
    check_with(true, model);
}

/// Runs a model many times without TLS, because it has no connection.
pub(crate) fn check_plain(model: fn()) {
    check_with(false, model);
}

/// Runs a model many times with TLS.
pub(crate) fn check_sealed(model: fn()) {
    check_with(true, model);
}

fn check_with(is_sealed: bool, model: fn()) {
    let run = move || {
        clock::reset();
        transport::reset();
        IS_SEALED.set(is_sealed);
        model();
    };
    if let Ok(schedule) = std::env::var("MODEL_REPLAY") {
        return shuttle::replay(run, &schedule);
    }
    let number =
        |name, default| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let (times, seed) = (number("MODEL_RUNS", 1), u64::from(number("MODEL_SEED", 1)));
    let (runs, time) = (RUNS * times as usize, TIME * times);
    explore(Patient(RandomScheduler::new_from_seed(seed, runs)), time, run);
    explore(Patient(PctScheduler::new_from_seed(seed, DEPTH, runs)), time, run);
}

fn explore(scheduler: impl Scheduler + 'static, time: Duration, run: impl Fn() + Send + Sync + 'static) {
    let mut config = shuttle::Config::new();
    config.stack_size = STACK;
    config.max_steps = shuttle::MaxSteps::FailAfter(STEPS);
    config.max_time = Some(time);
    config.silence_warnings = true;
    shuttle::Runner::new(scheduler, config).run(run);
}

/// A connection over a scripted socket.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) script: Arc<Script>,
    pub(crate) outbox: Arc<Outbox>,
}

/// The flush thread. A model must stop it.
#[derive(Debug)]
pub(crate) struct Flushing(Arc<FlushThread>, crate::sync::JoinHandle<()>);

impl Flushing {
    pub(crate) fn start() -> Self {
        let (flush, thread) = FlushThread::start().expect("a thread");
        Self(flush, thread)
    }

    pub(crate) fn stop(self) {
        self.0.stop();
        self.1.join().expect("the flush thread does not panic");
    }
}

impl Link {
    fn new(role: Role, room: usize, flushing: &Flushing) -> Self {
        Self::over(Script::new(room), role, flushing)
    }

    pub(crate) fn over(script: Arc<Script>, role: Role, flushing: &Flushing) -> Self {
        // A few messages fill this backlog.
        let config = Config::new().with_max_backlog(BACKLOG);
        Self::new_with(script, role, &config, flushing)
    }

    pub(crate) fn new_with(script: Arc<Script>, role: Role, config: &Config, flushing: &Flushing) -> Self {
        Self::with_compression(script, role, config, flushing, None)
    }

    fn with_compression(
        script: Arc<Script>,
        role: Role,
        config: &Config,
        flushing: &Flushing,
        compression: Option<Compression>,
    ) -> Self {
        let outbox = Outbox::new(role, config, Arc::clone(&script), Arc::clone(&flushing.0), compression);
        if Self::is_sealed() {
            script.seal();
            outbox.seal_with(Box::new(MockSession::new(PIECE)));
        }
        Self { script, outbox }
    }

    fn is_sealed() -> bool {
        IS_SEALED.get()
    }

    pub(crate) fn wire(&self) -> Wire {
        Wire::read(self.outbox.role(), &self.script.wire())
    }

    /// Sends a message and waits. I6: a message that was sent is on the wire, and therefore before any Close.
    fn send(&self, sender: u8, number: u8, len: usize) -> Sent {
        let result = self.outbox.send(wire::message(sender, number, len));
        if result.is_ok() {
            assert!(self.wire().has(sender, number), "I6: sent, but not on the wire");
        }
        Sent { sender, number, result }
    }

    fn try_send(&self, sender: u8, number: u8, len: usize) -> Sent {
        let result = self.outbox.try_send(wire::message(sender, number, len)).map(drop);
        Sent { sender, number, result }
    }

    /// Queues an encoded frame, as a tick or a broadcast does.
    fn try_send_shared(&self, sender: u8, number: u8, len: usize) -> Sent {
        let mut frame = Vec::new();
        let message = wire::message(sender, number, len);
        crate::protocol::encoder::append(
            Role::Server,
            crate::protocol::encoder::Opcode::Binary,
            &message,
            &mut frame,
        );
        let result = self.outbox.try_send_shared(&SharedFrames::new(frame.into(), 1, true)).map(drop);
        Sent { sender, number, result }
    }

    /// Closes as a [`Sender`](crate::Sender) does.
    fn start_close(&self, code: u16) -> bool {
        let first = self.outbox.close(Some(CloseFrame::new(code, "")));
        if first {
            self.outbox.watch_close();
        }
        first
    }

    /// Uses the outbox as the reading side of a connection does, until the connection ends.
    pub(crate) fn read(&self) -> Closed {
        let Self { script, outbox } = self;
        loop {
            let closing = outbox.state() != State::Open;
            match script.recv(if closing { outbox.close_deadline() } else { Deadline::NEVER }) {
                // Ignored: it fails only after a Close.
                Some(Input::Ping(byte)) => drop(outbox.pong(&[byte])),
                Some(Input::Close(content)) => {
                    outbox.close_received(content.clone());
                    outbox.close_with_notify(content.map(|frame| CloseFrame::new(frame.code, "")));
                    outbox.close_notify();
                    drop(outbox.wait_empty(Deadline::NEVER));
                    return outbox.end(Counts::default(), None);
                }
                Some(Input::Invalid) => {
                    outbox.close_with_notify(Some(CloseFrame::new(CloseCode::PROTOCOL_ERROR, "")));
                    outbox.close_notify();
                    drop(outbox.wait_empty(Deadline::NEVER));
                    return outbox.end(Counts::default(), Some(INVALID_INPUT));
                }
                Some(Input::KeyUpdate) => drop(outbox.open_record(&mut key_update())),
                Some(Input::End) => {
                    outbox.break_off(Cause::Eof);
                    return outbox.end(Counts::default(), None);
                }
                None => {
                    outbox.break_off(Cause::Timeout(Timeout::Close));
                    return outbox.end(Counts::default(), None);
                }
            }
        }
    }

    /// I8: checks for a while that the state only moves forward.
    fn watch_state(&self) {
        let mut last = State::Open;
        for _ in 0..20 {
            let state = self.outbox.state();
            assert!(state >= last, "I8: {state} after {last}");
            last = state;
            thread::yield_now();
        }
    }

    /// Compares the results of all calls with the bytes on the wire, after the end. I5: all calls report the same cause.
    fn check_outcome(&self, closed: &Closed, sent: &[Sent]) -> Wire {
        let wire = self.wire();
        let again = self.outbox.end(Counts::default(), Some(Cause::Eof));
        assert_eq!(again.to_string(), closed.to_string(), "I5: ended twice");
        assert_eq!(closed.traffic().bytes_sent, self.script.wire().len() as u64, "bytes are miscounted");
        assert!(self.script.is_down(), "ended, but the socket is open");
        assert_eq!(self.outbox.stats().backlog, 0, "I12: a backlog after the end");
        let whole = matches!(closed.cause(), None | Some(INVALID_INPUT));
        assert!(wire.torn == 0 || !whole, "I4: torn without a cause");
        for Sent { sender, number, result } in sent {
            let is_sent = wire.has(*sender, *number);
            match result {
                Ok(()) => assert!(is_sent || !whole, "I6: {sender}.{number} was accepted and is lost"),
                Err(Error::Full) => assert!(!is_sent, "{sender}.{number} was refused and sent"),
                Err(Error::Closed(reported)) if whole => {
                    assert!(!is_sent, "I1: {sender}.{number} failed and was sent");
                    assert!(
                        reported.cause().is_none() || reported.cause() == closed.cause(),
                        "I5: {reported}"
                    );
                }
                // A timeout is only returned if it is also the cause of the end.
                Err(Error::Timeout(timeout)) => assert_eq!(closed.cause(), Some(Cause::Timeout(*timeout))),
                Err(Error::Closed(_)) => {}
                Err(error) => panic!("{sender}.{number}: {error}"),
            }
        }
        if let Some(content) = &wire.close {
            assert_eq!(closed.sent(), content.as_ref());
        }
        wire
    }
}

/// The result of sending one message.
#[derive(Debug)]
struct Sent {
    sender: u8,
    number: u8,
    result: Result<()>,
}

/// The cause of the end after [`Input::Invalid`].
const INVALID_INPUT: Cause = Cause::Violation(Violation::ReservedBit);

/// The backlog of every [`Link`].
const BACKLOG: usize = 100;

/// Starts a thread of a model.
pub(crate) fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::spawn(body)
}

/// Waits for a thread of a model.
pub(crate) fn join<T>(thread: thread::JoinHandle<T>) -> T {
    thread.join().expect("no thread of a model panics")
}
