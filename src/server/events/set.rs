//! A set of members that rest without a thread: each has a socket that is watched for input, and a deadline.
//!
//! One thread at a time leads a set: it waits for the sockets, and serves the members that are ready, one after the other. If a
//! member blocks it, the watcher gives the lead to another thread ([`Set::hand_over`]), and the first one continues as a helper.
//! Helpers serve the members that the leader queues for them. This file knows nothing of connections: see [`Member`].
//!
//! # Locks
//!
//! The state of a set has one lock. It is held for a few instructions and for calls of `epoll_ctl`, which do not wait. It is not
//! held while a thread waits or serves a member.

use super::seats::SetState;
use super::watcher::Watcher;
use crate::net::{Deadline, Ready};
use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, Weak, now};
use std::io;
use std::time::{Duration, Instant};

/// A member that occupied a thread for this long has blocked it.
pub(super) const BLOCKED: Duration = Duration::from_millis(1);
/// The pause after a wait that has failed, and before a socket that could not be watched is tried again.
pub(super) const BACK_OFF: Duration = Duration::from_millis(50);

/// Something that is served when its socket has input, and at its deadline.
pub(super) trait Member: Send + Sized + 'static {
    /// The sockets of the members.
    type Ready: Ready;
    /// The memory that a thread uses for one member after the other.
    type Buffers: Default;

    /// Serves the member. `may` says which calls of the program this thread may make; for others the member asks for a thread.
    fn serve(&mut self, why: Why, now: Instant, buffers: &mut Self::Buffers, may: May) -> Next;
}

/// Why a member is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Its socket has input.
    Input,
    /// Its deadline has passed.
    Due,
    /// It has asked for this thread.
    Thread,
}

/// Which waits a thread may enter for a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum May {
    /// None.
    Nothing,
    /// Callbacks of the program, because the lead can be handed over meanwhile.
    Callbacks,
    /// Everything.
    Wait,
}

/// The next state of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It rests until its socket has input, or until a deadline. `None` if the deadline that it has is early enough.
    Rest(Option<Deadline>),
    /// It needs a thread.
    Thread(Crew),
    /// It is over, and is dropped.
    End,
}

/// The helpers of a set, by their work. Each crew has a bound of its own, so that neither can take the threads of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crew {
    Callbacks,
    Handshakes,
}

/// A task of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    /// Leads the set. The number tells a leader from those before it.
    Lead(u64),
    Help(Crew),
}

/// Starts threads for a set.
pub(super) trait Threads<M: Member>: Send + Sync {
    /// Calls [`Set::work`] in a thread.
    fn start(&self, set: Arc<Set<M>>, duty: Duty) -> io::Result<()>;
}

/// A set, and the threads that serve it.
pub(super) struct Set<M: Member> {
    ready: M::Ready,
    state: Mutex<SetState<M>>,
    /// Changes when the leader begins to serve a member (odd) and when it has served it (even). Relaxed, because the watcher
    /// takes the lock before it uses it.
    turn: AtomicU64,
    watcher: Arc<Watcher>,
    threads: Arc<dyn Threads<M>>,
    this: Weak<Self>,
}

/// A batch of a leader.
struct LeaderTurn<'a, M: Member> {
    number: u64,
    /// Callbacks are left to helpers.
    is_spread: bool,
    /// When the wait ended.
    now: Instant,
    buffers: &'a mut M::Buffers,
}

/// The socket of a member.
pub(super) type Socket<M> = <<M as Member>::Ready as Ready>::Socket;
type Guard<'a, M> = MutexGuard<'a, SetState<M>>;

impl<M: Member> Set<M> {
    /// Makes an empty set. It is served from the call of [`start`](Self::start) on.
    pub(super) fn new(
        watcher: &Arc<Watcher>,
        threads: Arc<dyn Threads<M>>,
        max_callbacks: usize,
        max_handshakes: usize,
    ) -> io::Result<Arc<Self>> {
        let ready = M::Ready::new()?;
        Ok(Arc::new_cyclic(|this| Self {
            ready,
            state: Mutex::new(SetState::new(max_callbacks, max_handshakes)),
            turn: AtomicU64::new(0),
            watcher: Arc::clone(watcher),
            threads,
            this: Weak::clone(this),
        }))
    }

    /// Starts the first leader.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<()> {
        self.threads.start(Arc::clone(self), Duty::Lead(0))
    }

    /// The work of one thread.
    pub(super) fn work(&self, duty: Duty) {
        let mut buffers = M::Buffers::default();
        let mut duty = Some(duty);
        while let Some(now) = duty {
            duty = match now {
                Duty::Lead(number) => self.lead(number, &mut buffers),
                Duty::Help(crew) => self.help(crew, &mut buffers),
            };
        }
    }

    /// Adds a member that rests until its socket has input, or until the deadline. Returns it if the set is stopped.
    pub(super) fn insert(&self, member: M, socket: Arc<Socket<M>>, deadline: Deadline) -> Result<(), M> {
        let mut state = self.state.lock();
        if state.is_stopped {
            return Err(member);
        }
        let index = state.add_seat(socket);
        state.settle(&self.ready, index, member, Some(deadline));
        Ok(())
    }

    /// Adds a member for which a helper is needed at once. Returns it if the set is stopped.
    pub(super) fn insert_busy(&self, member: M, socket: Arc<Socket<M>>, crew: Crew) -> Result<(), M> {
        let mut state = self.state.lock();
        if state.is_stopped {
            return Err(member);
        }
        let index = state.add_seat(socket);
        self.queue(state, crew, index, member);
        Ok(())
    }

    /// Ends the leader when no member is left.
    pub(super) fn stop(&self) {
        self.state.lock().is_stopped = true;
        self.ready.wake();
    }

    /// Leads the set until it is stopped or the lead is lost. Returns the next duty of this thread.
    fn lead(&self, number: u64, buffers: &mut M::Buffers) -> Option<Duty> {
        let mut batch = <M::Ready as Ready>::Batch::default();
        let mut state = self.state.lock();
        loop {
            if state.is_stopped && state.is_empty() {
                return None;
            }
            let deadline = state.first_deadline();
            state.wait = Some(deadline);
            drop(state);
            if self.ready.wait(&mut batch, deadline).is_err() {
                // ENOMEM.
                std::thread::sleep(BACK_OFF);
            }
            let now = now();
            state = self.state.lock();
            state.wait = None;
            let is_spread = std::mem::take(&mut state.is_spread);
            let mut turn = LeaderTurn { number, is_spread, now, buffers: &mut *buffers };
            for token in M::Ready::tokens(&batch) {
                if let Some((index, member)) = state.take_ready(token) {
                    match self.serve(state, &mut turn, index, member, Why::Input) {
                        Some(next) => state = next,
                        None => return Some(Duty::Help(Crew::Callbacks)),
                    }
                }
            }
            while let Some((index, member)) = state.take_due(now) {
                match self.serve(state, &mut turn, index, member, Why::Due) {
                    Some(next) => state = next,
                    None => return Some(Duty::Help(Crew::Callbacks)),
                }
            }
        }
    }

    /// Serves a member in the leader's thread. Returns `None` if the lead was lost meanwhile.
    #[inline]
    fn serve<'a>(
        &'a self,
        mut state: Guard<'a, M>,
        leader: &mut LeaderTurn<'_, M>,
        index: u32,
        mut member: M,
        why: Why,
    ) -> Option<Guard<'a, M>> {
        let has_helper = state.crew(Crew::Callbacks).has_room();
        let may = if leader.is_spread || !has_helper { May::Nothing } else { May::Callbacks };
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(turn + 1, Ordering::Relaxed);
        state.current = index;
        drop(state);
        self.watcher.wake_if_asleep();
        let next = member.serve(why, leader.now, leader.buffers, may);
        state = self.state.lock();
        if state.leader != leader.number {
            // The next leader counts this thread as a helper, and the watcher has taken the socket out.
            drop(self.come_back(state, index, member, next));
            return None;
        }
        self.turn.store(turn + 2, Ordering::Relaxed);
        Some(self.come_back(state, index, member, next))
    }

    /// Serves the members that wait for this crew. Returns the next duty of this thread.
    fn help(&self, crew: Crew, buffers: &mut M::Buffers) -> Option<Duty> {
        let mut state = self.state.lock();
        state.crew(crew).is_starting = false;
        loop {
            let own = state.crew(crew);
            // The last helper stays with those that wait, because nothing else would start another.
            let may_lead = own.threads > 1 || own.waiting.is_empty();
            if state.needs_leader && may_lead {
                state.crew(crew).threads -= 1;
                return Some(state.next_leader());
            }
            let own = state.crew(crew);
            let Some((index, mut member)) = own.waiting.pop_front() else {
                own.threads -= 1;
                return None;
            };
            let needs_thread = own.count_needed_thread();
            drop(state);
            if needs_thread {
                self.start_helper(crew);
            }
            let start = now();
            let next = member.serve(Why::Thread, start, buffers, May::Wait);
            let has_blocked = now().saturating_duration_since(start) >= BLOCKED;
            state = self.state.lock();
            state.is_spread |= has_blocked && crew == Crew::Callbacks;
            state = self.come_back(state, index, member, next);
        }
    }

    /// Takes a member back after it was served.
    #[inline]
    fn come_back<'a>(&'a self, mut state: Guard<'a, M>, index: u32, member: M, next: Next) -> Guard<'a, M> {
        match next {
            Next::Rest(deadline) => state.settle(&self.ready, index, member, deadline),
            Next::Thread(crew) => {
                self.queue(state, crew, index, member);
                state = self.state.lock();
            }
            Next::End => {
                state.unwatch(&self.ready, index);
                state.free_seat(index);
                let is_last = state.is_stopped && state.wait.is_some();
                drop(state);
                // Without the lock, because it closes the socket.
                drop(member);
                if is_last {
                    self.ready.wake();
                }
                state = self.state.lock();
            }
        }
        state
    }

    /// Queues a member for a helper, and starts one if there are too few.
    fn queue(&self, mut state: Guard<'_, M>, crew: Crew, index: u32, member: M) {
        state.unwatch(&self.ready, index);
        let own = state.crew(crew);
        own.waiting.push_back((index, member));
        let needs_thread = own.count_needed_thread();
        drop(state);
        if needs_thread {
            self.start_helper(crew);
        }
    }

    /// Starts a helper that is counted already. If no thread can be started, and none helps, this thread does. The watcher
    /// tries again otherwise, because a member can block those that help.
    fn start_helper(&self, crew: Crew) {
        if self.try_start_helper(crew, 1) {
            return;
        }
        if let Some(Duty::Lead(_)) = self.help(crew, &mut M::Buffers::default()) {
            self.state.lock().needs_leader = true;
            self.watcher.wake_if_asleep();
        }
    }

    /// Starts a helper that is counted already. Returns false if it could not be started, and fewer than `others` others help:
    /// the helper is still counted then, and the caller has to do its work.
    fn try_start_helper(&self, crew: Crew, others: usize) -> bool {
        let Some(this) = self.this.upgrade() else { return true };
        if self.threads.start(this, Duty::Help(crew)).is_ok() {
            return true;
        }
        let mut state = self.state.lock();
        let own = state.crew(crew);
        own.is_starting = false;
        let has_others = own.threads > others;
        if has_others {
            own.threads -= 1;
            drop(state);
            // It tries again.
            self.watcher.wake_if_asleep();
        }
        has_others
    }

    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    /// Gives the lead to another thread, if the leader is still in this turn, which has blocked it.
    pub(super) fn hand_over(&self, turn: u64) {
        let mut state = self.state.lock();
        if self.turn() != turn {
            return;
        }
        self.turn.store(turn + 1, Ordering::Relaxed);
        // Otherwise the next leader would find it ready without an end, and could not serve it.
        let current = state.current;
        state.unwatch(&self.ready, current);
        state.crew(Crew::Callbacks).threads += 1;
        state.is_spread = true;
        let duty = state.next_leader();
        drop(state);
        self.start_leader(duty);
    }

    /// Starts the threads that could not be started before.
    pub(super) fn start_threads(&self) {
        let mut state = self.state.lock();
        if state.needs_leader {
            let duty = state.next_leader();
            drop(state);
            self.start_leader(duty);
        } else {
            drop(state);
        }
        for crew in [Crew::Callbacks, Crew::Handshakes] {
            let needs_thread = self.state.lock().crew(crew).count_needed_thread();
            if needs_thread {
                // The watcher calls this, and does not help itself.
                self.try_start_helper(crew, 0);
            }
        }
    }

    fn start_leader(&self, duty: Duty) {
        let Some(this) = self.this.upgrade() else { return };
        if self.threads.start(this, duty).is_err() {
            // A helper takes the lead when it has served its member, or the watcher tries again.
            self.state.lock().needs_leader = true;
        }
    }

    pub(super) fn needs_threads(&self) -> bool {
        self.state.lock().needs_threads()
    }

    /// Returns whether no member and no deadline is left.
    #[cfg(all(test, model))]
    pub(super) fn is_clear(&self) -> bool {
        let state = self.state.lock();
        state.is_empty() && state.due.is_empty()
    }
}
