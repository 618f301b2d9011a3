//! The scripted socket of a model, and the wake that waits for such sockets. The scheduler chooses how many bytes each
//! write accepts.

use super::clock;
use crate::message::CloseFrame;
use crate::net::wake;
use crate::net::{Deadline, Transport};
use crate::sync::{Arc, Condvar, Mutex};
use crate::verify::mock_session::{Unsealed, unseal};
use rustix::fd::{AsFd, BorrowedFd};
use shuttle::rand::{Rng, thread_rng};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};

std::thread_local! {
    /// The sockets and wakes of the model that runs.
    static WORLD: RefCell<Arc<World>> = RefCell::default();
}

/// All sockets and wakes of a model. A thread that polls waits for a change of any of them.
#[derive(Debug, Default)]
struct World {
    state: Mutex<WorldState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct WorldState {
    sockets: Vec<Socket>,
    wakes: Vec<bool>,
    /// The number of changes. A thread can look without the lock, and then wait for a change since.
    changes: u64,
}

/// Room in the socket that is never used up.
const AMPLE: usize = 1 << 30;

#[derive(Debug, Default)]
struct Socket {
    /// The number of bytes that it accepts before it blocks.
    room: usize,
    wire: Vec<u8>,
    /// The error of every write.
    error: Option<ErrorKind>,
    /// Both directions were shut down.
    down: bool,
    input: VecDeque<Input>,
    /// Reading was shut down: after the input comes the end of the stream.
    ended: bool,
    /// The peer opens records.
    is_sealed: bool,
}

impl Socket {
    /// Returns the bytes that the peer can read: of whole records, if they are sealed.
    fn received(&self) -> Cow<'_, [u8]> {
        if self.is_sealed { unseal(&self.wire).plain.into() } else { (&self.wire).into() }
    }
}

/// The input of a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    Ping(u8),
    Close(Option<CloseFrame>),
    /// A record that TLS answers itself.
    KeyUpdate,
    /// Bytes that break the protocol.
    Invalid,
    /// The end of the stream.
    End,
}

impl World {
    fn current() -> Arc<Self> {
        WORLD.with_borrow(Arc::clone)
    }

    fn change<R>(&self, change: impl FnOnce(&mut WorldState) -> R) -> R {
        let mut state = self.state.lock();
        let result = change(&mut state);
        state.changes += 1;
        drop(state);
        self.changed.notify_all();
        result
    }
}

pub(super) fn reset() {
    WORLD.set(Arc::default());
}

/// Both ends of a connection: a model writes to one as [`Transport`], and plays the peer at the other.
#[derive(Debug)]
pub(crate) struct Script {
    world: Arc<World>,
    at: usize,
}

impl Script {
    /// Makes a socket that accepts `room` bytes, and then no more until the peer [reads](Self::make_room).
    pub(crate) fn new(room: usize) -> Arc<Self> {
        let world = World::current();
        let at = world.change(|state| {
            state.sockets.push(Socket { room, ..Socket::default() });
            state.sockets.len() - 1
        });
        Arc::new(Self { world, at })
    }

    fn change<R>(&self, change: impl FnOnce(&mut Socket) -> R) -> R {
        self.world.change(|state| change(&mut state.sockets[self.at]))
    }

    /// Waits until `find` returns a value.
    fn wait<R>(&self, deadline: Deadline, mut find: impl FnMut(&mut Socket) -> Option<R>) -> Option<R> {
        let mut state = self.world.state.lock();
        loop {
            let found = find(&mut state.sockets[self.at]);
            if found.is_some() || deadline.has_passed(clock::now()) {
                return found;
            }
            state = self.world.changed.wait_until(state, deadline.instant());
        }
    }

    /// The peer reads `bytes`.
    pub(crate) fn make_room(&self, bytes: usize) {
        self.change(|socket| socket.room += bytes);
    }

    /// The peer reads a few pieces, and then everything.
    pub(crate) fn drain(&self) {
        for _ in 0..3 {
            self.make_room(thread_rng().gen_range(1..40));
        }
        self.make_room(AMPLE);
    }

    /// Makes all further writes fail.
    pub(crate) fn fail(&self, error: ErrorKind) {
        self.change(|socket| socket.error = Some(error));
    }

    /// The peer sends something.
    pub(crate) fn peer_sends(&self, input: Input) {
        self.change(|socket| socket.input.push_back(input));
    }

    /// Returns the next input from the peer, or the end. `None` if the deadline came first.
    pub(crate) fn recv(&self, deadline: Deadline) -> Option<Input> {
        self.wait(deadline, |socket| {
            socket.input.pop_front().or_else(|| (socket.ended || socket.down).then_some(Input::End))
        })
    }

    /// Waits until the bytes on the wire satisfy a condition.
    pub(crate) fn wait_wire(&self, mut condition: impl FnMut(&[u8]) -> bool) {
        self.wait(Deadline::NEVER, |socket| condition(&socket.received()).then_some(()));
    }

    /// Waits until what the peer has opened satisfies a condition.
    pub(crate) fn wait_unsealed(&self, mut condition: impl FnMut(Unsealed) -> bool) {
        self.wait(Deadline::NEVER, |socket| condition(unseal(&socket.wire)).then_some(()));
    }

    /// Waits until the bytes on the wire satisfy a condition, or the connection has ended. Returns false at the end.
    pub(crate) fn wait_wire_or_end(&self, mut condition: impl FnMut(&[u8]) -> bool) -> bool {
        let found = self.wait(Deadline::NEVER, |socket| {
            if condition(&socket.received()) { Some(true) } else { socket.down.then_some(false) }
        });
        found == Some(true)
    }

    /// Returns all bytes that the peer can read so far.
    pub(crate) fn wire(&self) -> Vec<u8> {
        self.world.state.lock().sockets[self.at].received().into_owned()
    }

    /// From now on the peer opens records.
    pub(crate) fn seal(&self) {
        self.change(|socket| socket.is_sealed = true);
    }

    /// Returns what the peer has opened.
    pub(crate) fn unsealed(&self) -> Unsealed {
        unseal(&self.world.state.lock().sockets[self.at].wire)
    }

    /// Returns whether both directions were shut down.
    pub(crate) fn is_down(&self) -> bool {
        self.world.state.lock().sockets[self.at].down
    }
}

impl Transport for Script {
    fn try_write(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: Vec<u8> = bytes.iter().flat_map(|slice| slice.iter().copied()).collect();
        assert!(!all.is_empty(), "a write of nothing");
        let mut state = self.world.state.lock();
        let socket = &mut state.sockets[self.at];
        assert!(!socket.down, "a write after the end: another connection could have the descriptor by then");
        if let Some(error) = socket.error {
            return Err(error.into());
        }
        let most = all.len().min(socket.room);
        if most == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = if thread_rng().gen_bool(0.6) { most } else { thread_rng().gen_range(1..=most) };
        socket.room -= count;
        socket.wire.extend_from_slice(&all[..count]);
        state.changes += 1;
        drop(state);
        self.world.changed.notify_all();
        Ok(count)
    }

    fn wait_writable(&self, deadline: Deadline) -> io::Result<bool> {
        let writable =
            |socket: &mut Socket| (socket.room > 0 || socket.error.is_some() || socket.down).then_some(());
        Ok(self.wait(deadline, writable).is_some())
    }

    fn shutdown_read(&self) {
        self.change(|socket| socket.ended = true);
    }

    fn shutdown_write(&self) {
        self.change(|socket| socket.error = Some(ErrorKind::BrokenPipe));
    }

    fn shutdown_both(&self) {
        self.change(|socket| socket.down = true);
    }

    fn forget_unsent(&self) {}
}

impl AsFd for Script {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!("a model polls no descriptors")
    }
}

/// Wakes a thread that waits for sockets of the model. It contains the real wake, because the acceptor, which is not
/// modelled, polls its descriptor.
#[derive(Debug)]
pub(crate) struct ModelWake {
    real: wake::Wake,
    world: Arc<World>,
    at: usize,
}

impl ModelWake {
    pub(crate) fn new() -> io::Result<Self> {
        let world = World::current();
        let at = world.change(|state| {
            state.wakes.push(false);
            state.wakes.len() - 1
        });
        Ok(Self { real: wake::Wake::new()?, world, at })
    }

    pub(crate) fn wake(&self) {
        self.real.wake();
        self.world.change(|state| state.wakes[self.at] = true);
    }

    pub(crate) fn wait(&self, blocked: &[&dyn Transport], deadline: Deadline) -> io::Result<Vec<bool>> {
        let at_once = Deadline::at(clock::now());
        loop {
            let before = self.world.state.lock().changes;
            let ready: Vec<bool> =
                blocked.iter().map(|stream| stream.wait_writable(at_once)).collect::<io::Result<_>>()?;
            let state = self.world.state.lock();
            if state.wakes[self.at] || ready.contains(&true) || deadline.has_passed(clock::now()) {
                return Ok(ready);
            }
            if state.changes == before {
                drop(self.world.changed.wait_until(state, deadline.instant()));
            }
        }
    }

    pub(crate) fn clear(&self) {
        self.real.clear();
        self.world.change(|state| state.wakes[self.at] = false);
    }
}

impl AsFd for ModelWake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.real.as_fd()
    }
}
