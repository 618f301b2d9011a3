//! A set of clients for models: its members are counters with scripted sockets, and its threads can fail to start.

use super::super::set::{Crew, Duty, May, Member, Next, Set, Threads, Why};
use super::super::watcher::Watcher;
use crate::net::{Deadline, Ready};
use crate::sync::{Arc, AtomicBool, AtomicUsize, Condvar, JoinHandle, Mutex, Ordering, now};
use crate::verify::models::spawn;
use shuttle::rand::{Rng, thread_rng};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

std::thread_local! {
    /// The sockets of the model that runs.
    static BOARD: RefCell<Arc<Board>> = RefCell::default();
}

#[derive(Default)]
pub(super) struct Board {
    state: Mutex<BoardState>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct BoardState {
    /// The inputs of each socket that were not read yet.
    pub(super) inputs: Vec<usize>,
    watched: BTreeMap<u64, usize>,
    is_woken: bool,
    /// A leader waits.
    has_waiter: bool,
}

impl Board {
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut BoardState) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.changed.notify_all();
        result
    }

    /// Waits in steps of a millisecond, so that a patient clock moves.
    pub(super) fn wait(&self, mut condition: impl FnMut() -> bool) {
        let mut state = self.state.lock();
        while !condition() {
            state = self.changed.wait_until(state, Some(now() + Duration::from_millis(1)));
        }
    }
}

/// A scripted `epoll`.
pub(super) struct ModelReady(Arc<Board>);

/// The number of a socket in the board.
pub(super) struct ModelSocket(pub(super) usize);

impl Ready for ModelReady {
    type Socket = ModelSocket;
    type Batch = Vec<u64>;

    fn new() -> io::Result<Self> {
        Ok(Self(BOARD.with_borrow(Arc::clone)))
    }

    fn add(&self, socket: &Arc<ModelSocket>, token: u64) -> io::Result<()> {
        let before = self.0.change(|state| state.watched.insert(token, socket.0));
        assert_eq!(before, None, "I21: watched twice");
        Ok(())
    }

    fn remove(&self, _: &Arc<ModelSocket>, token: u64) {
        let removed = self.0.change(|state| state.watched.remove(&token));
        assert!(removed.is_some(), "I21: not watched");
    }

    fn wake(&self) {
        self.0.change(|state| state.is_woken = true);
    }

    fn wait(&self, batch: &mut Vec<u64>, deadline: Deadline) -> io::Result<()> {
        batch.clear();
        let mut state = self.0.state.lock();
        assert!(!std::mem::replace(&mut state.has_waiter, true), "I22: two leaders");
        loop {
            let ready = state.watched.iter().filter(|(_, socket)| state.inputs[**socket] > 0);
            batch.extend(ready.map(|(token, _)| *token));
            if !batch.is_empty() || std::mem::take(&mut state.is_woken) || deadline.has_passed(now()) {
                state.has_waiter = false;
                return Ok(());
            }
            state = self.0.changed.wait_until(state, deadline.instant());
        }
    }

    fn tokens(batch: &Vec<u64>) -> impl Iterator<Item = u64> + '_ {
        batch.iter().copied()
    }
}

/// The results of a model.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) served: AtomicUsize,
    pub(super) ended: AtomicUsize,
    pub(super) due: AtomicUsize,
    /// Members that are blocked now, and the most at a time.
    pub(super) blocked: AtomicUsize,
    pub(super) most_blocked: AtomicUsize,
}

/// Members wait here until it is open.
#[derive(Default)]
pub(super) struct Latch {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Latch {
    fn wait(&self, tally: &Tally) {
        let blocked = tally.blocked.fetch_add(1, Ordering::SeqCst) + 1;
        tally.most_blocked.fetch_max(blocked, Ordering::SeqCst);
        let mut is_open = self.is_open.lock();
        while !*is_open {
            is_open = self.opened.wait_until(is_open, None);
        }
        drop(is_open);
        tally.blocked.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn open(&self) {
        *self.is_open.lock() = true;
        self.opened.notify_all();
    }
}

/// A member that ends after a number of inputs.
pub(super) struct ModelMember {
    pub(super) socket: usize,
    left: usize,
    /// Each input is blocked there.
    pub(super) latch: Option<Arc<Latch>>,
    /// A helper of this crew serves it first.
    pub(super) first: Option<Crew>,
    pub(super) deadline: Option<Instant>,
    is_served: Arc<AtomicBool>,
    tally: Arc<Tally>,
}

impl Member for ModelMember {
    type Ready = ModelReady;
    type Buffers = ();

    fn serve(&mut self, why: Why, now: Instant, (): &mut (), may: May) -> Next {
        assert!(!self.is_served.swap(true, Ordering::SeqCst), "I22: two threads have one member");
        let next = self.serve_alone(why, now, may);
        self.is_served.store(false, Ordering::SeqCst);
        next
    }
}

impl ModelMember {
    fn serve_alone(&mut self, why: Why, now: Instant, may: May) -> Next {
        if let Some(crew) = self.first {
            if may < May::Wait {
                return Next::Thread(crew);
            }
            self.first = None;
        }
        if why == Why::Due {
            if let Some(deadline) = self.deadline.take_if(|deadline| *deadline <= now) {
                assert!(now <= deadline + Duration::from_millis(5), "I24: late by {:?}", now - deadline);
                self.tally.due.fetch_add(1, Ordering::SeqCst);
            }
            return Next::Rest(Some(self.deadline.into()));
        }
        if may < May::Callbacks {
            return Next::Thread(Crew::Callbacks);
        }
        // One input a read, as a large message takes several reads.
        let board = BOARD.with_borrow(Arc::clone);
        let has_read = board.change(|state| {
            let input = &mut state.inputs[self.socket];
            let has_read = *input > 0;
            *input -= usize::from(has_read);
            has_read
        });
        if has_read {
            self.tally.served.fetch_add(1, Ordering::SeqCst);
            self.left -= 1;
            if let Some(latch) = &self.latch {
                latch.wait(&self.tally);
            } else if thread_rng().gen_bool(0.3) {
                shuttle::thread::yield_now();
            }
        }
        if self.left == 0 {
            self.tally.ended.fetch_add(1, Ordering::SeqCst);
            return Next::End;
        }
        Next::Rest(None)
    }
}

/// Starts threads of the model, or fails.
pub(super) struct ModelThreads {
    started: Mutex<Vec<JoinHandle<()>>>,
    /// How many of the next starts fail.
    pub(super) failures: AtomicUsize,
}

impl ModelThreads {
    fn join(&self) {
        while let Some(thread) = { self.started.lock().pop() } {
            thread.join().expect("no thread of a set panics");
        }
    }
}

impl Threads<ModelMember> for ModelThreads {
    fn start(&self, set: Arc<Set<ModelMember>>, duty: Duty) -> io::Result<()> {
        let fails = |left: usize| left.checked_sub(1);
        if self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails).is_ok() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let thread = crate::sync::spawn("model", 1 << 16, move || set.work(duty))?;
        self.started.lock().push(thread);
        Ok(())
    }
}

/// A set with its threads.
pub(super) struct ModelSet {
    pub(super) board: Arc<Board>,
    pub(super) tally: Arc<Tally>,
    pub(super) set: Arc<Set<ModelMember>>,
    pub(super) threads: Arc<ModelThreads>,
    watcher: Arc<Watcher>,
    watching: JoinHandle<()>,
}

impl ModelSet {
    pub(super) fn start(max_callbacks: usize, max_handshakes: usize) -> Self {
        BOARD.set(Arc::default());
        let watcher = Arc::new(Watcher::default());
        let threads = Arc::new(ModelThreads { started: Mutex::default(), failures: AtomicUsize::new(0) });
        let set = Set::new(&watcher, threads.clone(), max_callbacks, max_handshakes).expect("a set");
        let watching = watcher.start(vec![Arc::clone(&set)]).expect("a thread");
        set.start().expect("a thread");
        let board = BOARD.with_borrow(Arc::clone);
        Self { board, tally: Arc::default(), set, threads, watcher, watching }
    }

    /// Returns a member that ends after `left` inputs.
    pub(super) fn new_member(&self, left: usize) -> ModelMember {
        let socket = self.board.change(|state| {
            state.inputs.push(0);
            state.inputs.len() - 1
        });
        let tally = Arc::clone(&self.tally);
        ModelMember {
            socket,
            left,
            latch: None,
            first: None,
            deadline: None,
            is_served: Arc::default(),
            tally,
        }
    }

    /// Inserts a member. Returns its socket.
    pub(super) fn member(&self, left: usize, change: impl FnOnce(&mut ModelMember)) -> usize {
        let mut member = self.new_member(left);
        change(&mut member);
        let (socket, deadline) = (member.socket, member.deadline.into());
        let inserted = self.set.insert(member, Arc::new(ModelSocket(socket)), deadline);
        assert!(inserted.is_ok(), "not stopped");
        socket
    }

    pub(super) fn blocking_member(&self, left: usize, latch: &Arc<Latch>) -> usize {
        self.member(left, |member| member.latch = Some(Arc::clone(latch)))
    }

    /// Inserts a member with one input, which a helper of handshakes serves. The helper is blocked there.
    pub(super) fn blocked_handshake(&self, latch: &Arc<Latch>) -> usize {
        self.member(1, |member| {
            member.first = Some(Crew::Handshakes);
            member.latch = Some(Arc::clone(latch));
        })
    }

    /// Inserts a member that a helper serves at once. Fails after a stop.
    pub(super) fn join_busy(
        set: &Set<ModelMember>,
        member: ModelMember,
        crew: Crew,
    ) -> Result<(), ModelMember> {
        let socket = Arc::new(ModelSocket(member.socket));
        set.insert_busy(member, socket, crew)
    }

    pub(super) fn blocked(&self) -> usize {
        self.tally.blocked.load(Ordering::SeqCst)
    }

    /// Waits until the clock has reached a time.
    pub(super) fn wait_until(&self, moment: Instant) {
        self.board.wait(|| now() >= moment);
    }

    /// Sends an input to each of these sockets.
    pub(super) fn send(&self, sockets: &[usize]) {
        self.board.change(|state| sockets.iter().for_each(|socket| state.inputs[*socket] += 1));
    }

    /// Sends an input to one of these sockets after the other.
    pub(super) fn peer(&self, sockets: Vec<usize>) -> shuttle::thread::JoinHandle<()> {
        let board = Arc::clone(&self.board);
        spawn(move || {
            for socket in sockets {
                board.change(|state| state.inputs[socket] += 1);
            }
        })
    }

    /// Waits for this time at most until a condition holds.
    #[track_caller]
    pub(super) fn expect_within(&self, time: Duration, invariant: &str, condition: impl Fn(&Tally) -> bool) {
        let end = now() + time;
        self.board.wait(|| condition(&self.tally) || now() > end);
        assert!(condition(&self.tally), "{invariant}: not within {time:?}");
    }

    /// Waits for this time at most until this number of members has ended.
    #[track_caller]
    pub(super) fn expect_ended(&self, time: Duration, invariant: &str, members: usize) {
        self.expect_within(time, invariant, |tally| tally.ended.load(Ordering::SeqCst) == members);
    }

    /// Stops the set, as a shutdown does. Each of its threads has to end.
    pub(super) fn stop(self) {
        self.set.stop();
        self.threads.join();
        self.watcher.stop();
        self.watching.join().expect("the watcher does not panic");
        // The watcher may have started a leader meanwhile.
        self.threads.join();
        let state = self.board.state.lock();
        assert!(state.watched.is_empty(), "I21: watched after the end");
        assert!(state.inputs.iter().all(|left| *left == 0), "I23: an input was not served");
        assert!(self.set.is_clear(), "I24: a deadline without a member");
    }
}
