//! Models of a set and its threads: leaders, helpers and the watcher. The members are counters with scripted sockets.
//!
//! Each of these changes of the code makes a model fail:
//!
//! | change | model | fails with |
//! | --- | --- | --- |
//! | `hand_over` leaves the socket of the blocked member in the set | `a_blocked_member_delays_no_other_for_long` | an endless run |
//! | `hand_over` does not compare the turn | `every_input_is_served_though_the_lead_changes` | I22 |
//! | `hand_over` does not count the old leader as a helper | `every_input_is_served_though_the_lead_changes` | an overflow |
//! | `hand_over` does not spread the next batch | `a_blocked_member_delays_no_other_for_long` | I25 |
//! | a leader that has lost the lead continues with its batch | `every_input_is_served_though_the_lead_changes` | I22 |
//! | a leader does not wake the watcher | `a_blocked_member_delays_no_other_for_long` | I25 |
//! | a leader makes callbacks though all helpers are blocked | `no_more_members_block_than_there_may_be_helpers` | I26 |
//! | a leader ends at a stop though members are left | `every_input_is_served_though_the_lead_changes` | I21 |
//! | a member that ends stays in the set of sockets | `every_input_is_served_though_the_lead_changes` | I21 |
//! | a member that waits for a helper stays in it | `a_blocked_member_delays_no_other_for_long` | an endless run |
//! | a member leaves its deadline behind | `every_input_is_served_though_the_lead_changes` | I24 |
//! | a helper does not start the next one | `a_blocked_member_delays_no_other_for_long` | I25 |
//! | helpers are not bounded | `no_more_members_block_than_there_may_be_helpers` | I26 |
//! | `settle` does not wake a leader that waits too long | `a_deadline_is_kept_after_a_change_of_the_lead` | I24 |
//! | `settle` forgets a deadline that passed in a thread | `a_deadline_is_kept_after_a_change_of_the_lead` | I24 |
//! | a leader that could not be started is forgotten | `all_are_served_as_soon_as_threads_can_be_started` | I23 |
//! | the watcher does not start threads later | `all_are_served_as_soon_as_threads_can_be_started` | I23 |
//! | the watcher does not start helpers later | `a_parked_watcher_starts_a_helper_that_could_not_be_started` | I25 |
//! | the watcher is not woken to start helpers later | `a_parked_watcher_starts_a_helper_that_could_not_be_started` | I25 |
//! | no thread helps in its turn if no helper can be started | `a_set_goes_on_when_threads_cannot_be_started` | an endless run |
//! | a thread that helps in its turn keeps the lead that it has found | `all_are_served_as_soon_as_threads_can_be_started` | I23 |
//! | the last helper takes the lead though members wait for it | `the_last_helper_serves_those_that_wait_for_it` | I23 |
//! | the last member that ends does not wake the leader at a stop | `every_input_is_served_though_the_lead_changes` | a deadlock |
//! | a stop does not wake the leader | `every_input_is_served_though_the_lead_changes` | a deadlock |
//! | a shutdown does not join the threads that the watcher has started | `a_stop_joins_what_the_watcher_has_started` | I23 |

use super::set::{Crew, Duty, May, Member, Next, Set, Threads, Why};
use super::watcher::Watcher;
use crate::net::{Deadline, Ready};
use crate::sync::{Arc, AtomicBool, AtomicUsize, Condvar, JoinHandle, Mutex, Ordering, now};
use crate::verify::models::clock::ClockThread;
use crate::verify::models::{check_plain, join, spawn};
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
struct Board {
    state: Mutex<BoardState>,
    changed: Condvar,
}

#[derive(Default)]
struct BoardState {
    /// The inputs of each socket that were not read yet.
    inputs: Vec<usize>,
    watched: BTreeMap<u64, usize>,
    is_woken: bool,
    /// A leader waits.
    has_waiter: bool,
}

impl Board {
    fn change<T>(&self, change: impl FnOnce(&mut BoardState) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.changed.notify_all();
        result
    }

    /// Waits in steps of a millisecond, so that a patient clock moves.
    fn wait(&self, mut condition: impl FnMut() -> bool) {
        let mut state = self.state.lock();
        while !condition() {
            state = self.changed.wait_until(state, Some(now() + Duration::from_millis(1)));
        }
    }
}

/// A scripted `epoll`.
struct ModelReady(Arc<Board>);

/// The number of a socket in the board.
struct ModelSocket(usize);

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
struct Tally {
    served: AtomicUsize,
    ended: AtomicUsize,
    due: AtomicUsize,
    /// Members that are blocked now, and the most at a time.
    blocked: AtomicUsize,
    most_blocked: AtomicUsize,
}

/// Members wait here until it is open.
#[derive(Default)]
struct Latch {
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

    fn open(&self) {
        *self.is_open.lock() = true;
        self.opened.notify_all();
    }
}

/// A member that ends after a number of inputs.
struct ModelMember {
    socket: usize,
    left: usize,
    /// Each input is blocked there.
    latch: Option<Arc<Latch>>,
    /// A helper of this crew serves it first.
    first: Option<Crew>,
    deadline: Option<Instant>,
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
struct ModelThreads {
    started: Mutex<Vec<JoinHandle<()>>>,
    /// How many of the next starts fail.
    failures: AtomicUsize,
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
struct ModelSet {
    board: Arc<Board>,
    tally: Arc<Tally>,
    set: Arc<Set<ModelMember>>,
    threads: Arc<ModelThreads>,
    watcher: Arc<Watcher>,
    watching: JoinHandle<()>,
}

impl ModelSet {
    fn start(max_callbacks: usize, max_handshakes: usize) -> Self {
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
    fn new_member(&self, left: usize) -> ModelMember {
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
    fn member(&self, left: usize, change: impl FnOnce(&mut ModelMember)) -> usize {
        let mut member = self.new_member(left);
        change(&mut member);
        let (socket, deadline) = (member.socket, member.deadline.into());
        let inserted = self.set.insert(member, Arc::new(ModelSocket(socket)), deadline);
        assert!(inserted.is_ok(), "not stopped");
        socket
    }

    fn blocking_member(&self, left: usize, latch: &Arc<Latch>) -> usize {
        self.member(left, |member| member.latch = Some(Arc::clone(latch)))
    }

    /// Sends an input to each of these sockets.
    fn send(&self, sockets: &[usize]) {
        self.board.change(|state| sockets.iter().for_each(|socket| state.inputs[*socket] += 1));
    }

    /// Sends an input to one of these sockets after the other.
    fn peer(&self, sockets: Vec<usize>) -> shuttle::thread::JoinHandle<()> {
        let board = Arc::clone(&self.board);
        spawn(move || {
            for socket in sockets {
                board.change(|state| state.inputs[socket] += 1);
            }
        })
    }

    /// Waits for this time at most until a condition holds.
    #[track_caller]
    fn expect_within(&self, time: Duration, invariant: &str, condition: impl Fn(&Tally) -> bool) {
        let end = now() + time;
        self.board.wait(|| condition(&self.tally) || now() > end);
        assert!(condition(&self.tally), "{invariant}: not within {time:?}");
    }

    /// Stops the set, as a shutdown does. Each of its threads has to end.
    fn stop(self) {
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

#[test]
fn every_input_is_served_though_the_lead_changes() {
    check_plain(|| {
        let clock = ClockThread::racing();
        let set = ModelSet::start(2, 1);
        let later = now() + Duration::from_secs(1);
        let sockets = [3, 2].map(|inputs| set.member(inputs, |member| member.deadline = Some(later)));
        let peers =
            [set.peer(vec![sockets[0], sockets[1], sockets[0]]), set.peer(vec![sockets[0], sockets[1]])];
        peers.into_iter().for_each(join);
        let tally = Arc::clone(&set.tally);
        set.stop();
        clock.stop();
        assert_eq!(tally.served.load(Ordering::SeqCst), 5, "I23");
        assert_eq!(tally.ended.load(Ordering::SeqCst), 2, "I23");
    });
}

#[test]
fn a_blocked_member_delays_no_other_for_long() {
    check_plain(|| {
        let clock = ClockThread::patient();
        let (set, latch) = (ModelSet::start(4, 1), Arc::new(Latch::default()));
        // More input than the blocked read has taken.
        let blocked: Vec<_> = (0..3).map(|_| set.blocking_member(2, &latch)).collect();
        let free = set.member(1, |_| ());
        // The watcher looks, is about to park, or is parked.
        let start = now() + Duration::from_millis(thread_rng().gen_range(9..13));
        set.board.wait(|| now() >= start);
        set.send(&[&blocked[..], &blocked, &[free]].concat());
        // Two looks until the first change of the lead. All others have helpers of their own.
        set.expect_within(Duration::from_millis(3), "I25", |tally| {
            let [ended, blocked] = [&tally.ended, &tally.blocked].map(|count| count.load(Ordering::SeqCst));
            ended == 1 && blocked == 3
        });
        latch.open();
        set.stop();
        clock.stop();
    });
}

#[test]
fn no_more_members_block_than_there_may_be_helpers() {
    check_plain(|| {
        let clock = ClockThread::patient();
        let (set, latch) = (ModelSet::start(1, 1), Arc::new(Latch::default()));
        let sockets = [0; 6].map(|_| set.blocking_member(1, &latch));
        for socket in sockets {
            set.send(&[socket]);
            // The next one is in the same batch, or the lead has changed before.
            let end = now() + Duration::from_millis(thread_rng().gen_range(0..5));
            set.board.wait(|| now() >= end);
        }
        latch.open();
        let tally = Arc::clone(&set.tally);
        set.stop();
        clock.stop();
        // A leader that was blocked when the last helper started is one more.
        let most = tally.most_blocked.load(Ordering::SeqCst);
        assert!(most <= 2, "I26: {most} at a time");
        assert_eq!(tally.ended.load(Ordering::SeqCst), 6, "I23");
    });
}

#[test]
fn deadlines_are_kept_while_all_helpers_are_blocked() {
    check_plain(|| {
        let clock = ClockThread::patient();
        let (set, latch) = (ModelSet::start(1, 1), Arc::new(Latch::default()));
        let sockets = [0, 1].map(|_| set.blocking_member(1, &latch));
        let due = now() + Duration::from_millis(thread_rng().gen_range(1..8));
        let last = set.member(1, |member| member.deadline = Some(due));
        join(set.peer(sockets.to_vec()));
        set.expect_within(Duration::from_millis(15), "I24", |tally| tally.due.load(Ordering::SeqCst) == 1);
        latch.open();
        set.send(&[last]);
        set.stop();
        clock.stop();
    });
}

#[test]
fn a_deadline_is_kept_after_a_change_of_the_lead() {
    check_plain(|| {
        let clock = ClockThread::patient();
        let (set, latch) = (ModelSet::start(2, 1), Arc::new(Latch::default()));
        let [opens, due] = [4, 8].map(|time| now() + Duration::from_millis(time));
        let socket = set.member(2, |member| {
            member.latch = Some(Arc::clone(&latch));
            member.deadline = Some(due);
        });
        set.send(&[socket]);
        set.board.wait(|| now() >= opens);
        latch.open();
        set.expect_within(Duration::from_millis(15), "I24", |tally| tally.due.load(Ordering::SeqCst) == 1);
        set.send(&[socket]);
        set.stop();
        clock.stop();
    });
}

#[test]
fn a_set_goes_on_when_threads_cannot_be_started() {
    check_plain(|| {
        let clock = ClockThread::racing();
        let set = ModelSet::start(2, 1);
        let failures = if thread_rng().gen_bool(0.5) { usize::MAX } else { thread_rng().gen_range(1..4) };
        set.threads.failures.store(failures, Ordering::SeqCst);
        let sockets = [
            set.member(1, |member| member.first = Some(Crew::Handshakes)),
            set.member(2, |_| ()),
            set.member(1, |member| member.first = Some(Crew::Callbacks)),
            // It waits for the helper of the first one.
            set.member(1, |member| member.first = Some(Crew::Handshakes)),
        ];
        join(set.peer(vec![sockets[0], sockets[3], sockets[1], sockets[2], sockets[1]]));
        while set.tally.ended.load(Ordering::SeqCst) < 4 {
            shuttle::thread::yield_now();
        }
        set.stop();
        clock.stop();
    });
}

/// A leader is blocked, and no thread can be started in its place for a while. A helper of a handshake ends meanwhile, and a
/// client joins that needs a helper.
#[test]
fn all_are_served_as_soon_as_threads_can_be_started() {
    check_plain(|| {
        let clock = ClockThread::patient();
        let (set, [callback, handshake]) =
            (ModelSet::start(2, 1), [0, 1].map(|_| Arc::new(Latch::default())));
        let blocked = set.blocking_member(1, &callback);
        let free = set.member(1, |_| ());
        let mut members = 1;
        if thread_rng().gen_bool(0.5) {
            let sockets = [0, 1].map(|_| {
                set.member(1, |member| {
                    member.first = Some(Crew::Handshakes);
                    member.latch = Some(Arc::clone(&handshake));
                })
            });
            members += 2;
            set.send(&sockets);
            set.board.wait(|| set.tally.blocked.load(Ordering::SeqCst) == 1);
        }
        let before = set.tally.blocked.load(Ordering::SeqCst);
        set.send(&[blocked]);
        set.board.wait(|| set.tally.blocked.load(Ordering::SeqCst) > before);
        set.threads.failures.store(thread_rng().gen_range(0..8), Ordering::SeqCst);
        let mut times = [0; 3].map(|_| now() + Duration::from_millis(thread_rng().gen_range(0..5)));
        let joining = set.new_member(1);
        set.send(&[joining.socket]);
        let joins = spawn({
            let (board, set, time) = (Arc::clone(&set.board), Arc::clone(&set.set), times[0]);
            move || {
                board.wait(|| now() >= time);
                let socket = Arc::new(ModelSocket(joining.socket));
                assert!(set.insert_busy(joining, socket, Crew::Handshakes).is_ok(), "not stopped");
            }
        });
        times[1..].sort_unstable();
        let sends_first = thread_rng().gen_bool(0.5);
        for (time, sends) in [(times[1], sends_first), (times[2], !sends_first)] {
            set.board.wait(|| now() >= time);
            if sends { set.send(&[free]) } else { handshake.open() }
        }
        set.expect_within(Duration::from_millis(20), "I23", |tally| {
            tally.ended.load(Ordering::SeqCst) == members + 1
        });
        join(joins);
        callback.open();
        set.stop();
        clock.stop();
    });
}

#[test]
fn a_parked_watcher_starts_a_helper_that_could_not_be_started() {
    check_plain(|| {
        let clock = ClockThread::patient();
        let (set, latch) = (ModelSet::start(1, 2), Arc::new(Latch::default()));
        let blocked = set.member(1, |member| {
            member.first = Some(Crew::Handshakes);
            member.latch = Some(Arc::clone(&latch));
        });
        set.send(&[blocked]);
        let parked = now() + Duration::from_millis(thread_rng().gen_range(9..14));
        set.board.wait(|| now() >= parked);
        set.threads.failures.store(1, Ordering::SeqCst);
        let joining = set.new_member(1);
        set.send(&[joining.socket]);
        let socket = Arc::new(ModelSocket(joining.socket));
        assert!(set.set.insert_busy(joining, socket, Crew::Handshakes).is_ok(), "not stopped");
        set.expect_within(Duration::from_millis(3), "I25", |tally| tally.ended.load(Ordering::SeqCst) == 1);
        latch.open();
        set.stop();
        clock.stop();
    });
}

/// No thread can be started in place of the blocked leader, for as long as it is blocked.
#[test]
fn the_last_helper_serves_those_that_wait_for_it() {
    check_plain(|| {
        let clock = ClockThread::patient();
        let (set, [callback, handshake]) =
            (ModelSet::start(2, 1), [0, 1].map(|_| Arc::new(Latch::default())));
        let blocked = set.blocking_member(1, &callback);
        let sockets = [0, 1].map(|_| {
            set.member(1, |member| {
                member.first = Some(Crew::Handshakes);
                member.latch = Some(Arc::clone(&handshake));
            })
        });
        set.send(&sockets);
        set.board.wait(|| set.tally.blocked.load(Ordering::SeqCst) == 1);
        set.send(&[blocked]);
        set.board.wait(|| set.tally.blocked.load(Ordering::SeqCst) == 2);
        set.threads.failures.store(usize::MAX, Ordering::SeqCst);
        let time = now() + Duration::from_millis(thread_rng().gen_range(0..5));
        set.board.wait(|| now() >= time);
        handshake.open();
        set.expect_within(Duration::from_millis(5), "I23", |tally| tally.ended.load(Ordering::SeqCst) == 2);
        set.threads.failures.store(0, Ordering::SeqCst);
        callback.open();
        set.stop();
        clock.stop();
    });
}

#[test]
fn a_stop_joins_what_the_watcher_has_started() {
    check_plain(|| {
        let clock = ClockThread::racing();
        let (set, latch) = (ModelSet::start(1, 1), Arc::new(Latch::default()));
        let sockets = [0; 3].map(|_| set.blocking_member(1, &latch));
        set.send(&sockets);
        for _ in 0..thread_rng().gen_range(0..60) {
            shuttle::thread::yield_now();
        }
        latch.open();
        set.stop();
        clock.stop();
    });
}

#[test]
fn members_that_are_inserted_during_a_stop_are_served_or_refused() {
    check_plain(|| {
        let clock = ClockThread::racing();
        let set = ModelSet::start(1, 1);
        let mut member = set.new_member(1);
        member.first = thread_rng().gen_bool(0.5).then_some(Crew::Handshakes);
        set.send(&[member.socket]);
        let inserting = spawn({
            let (set, board) = (Arc::clone(&set.set), Arc::clone(&set.board));
            move || {
                let socket = Arc::new(ModelSocket(member.socket));
                let result = match member.first {
                    Some(crew) => set.insert_busy(member, socket, crew),
                    None => set.insert(member, socket, Deadline::NEVER),
                };
                if let Err(member) = result {
                    board.change(|state| state.inputs[member.socket] = 0);
                }
            }
        });
        set.set.stop();
        join(inserting);
        set.stop();
        clock.stop();
    });
}
