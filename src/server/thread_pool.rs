//! The client threads: started on demand, kept for a while, joined when they end.
//!
//! Measured when it was made: a reused thread took a handshake from 92 to 55 µs of CPU, which was an event loop's cost.
//! What one takes today is in `guide::performance`.

use crate::stats::Counters;
use crate::sync::{Arc, Condvar, JoinHandle, Mutex, ThreadId, Weak, now, spawn, this_thread};
use crate::timer::{Due, Timer};
use std::cell::LazyCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use std::{fmt, io};

/// Threads that wait for the next client.
const MAX_PARKED: usize = 32;
/// Those that no client needed for so long leave when that is looked at, which is as often: after twice as long at most.
pub(super) const UNUSED: Duration = Duration::from_millis(2500);

/// What a thread does; it says whether its thread may do another.
pub(super) trait Job: Send + 'static {
    fn run(self) -> bool;
}

/// Threads that each do one job after the other.
pub(super) struct Pool<J> {
    stack_size: usize,
    counters: Arc<Counters>,
    timer: Arc<Timer>,
    state: Mutex<PoolState<J>>,
    /// Tells of each thread that is about to end.
    ended: Condvar,
}

struct PoolState<J> {
    /// Threads that wait for a job. Who came last goes first: its stack and its allocator's lists are still in the cache,
    /// and those that are too many stay below.
    parked: Vec<Arc<Berth<J>>>,
    /// So many of them have been there since the timer looked.
    unused: usize,
    /// The timer will look.
    watched: bool,
    stopped: bool,
    running: HashMap<ThreadId, JoinHandle<()>>,
    /// Threads that are about to end, for somebody to join.
    ended: Vec<JoinHandle<()>>,
}

impl<J> PoolState<J> {
    /// Lets those end that parked first. They wake while this is locked: each is the last to let go of its berth. Freed here,
    /// it would stay in this thread's list of free pieces, and with it the memory before it.
    fn dismiss(&mut self, count: usize) {
        for berth in self.parked.drain(..count) {
            *berth.word.lock() = Some(Word::Leave);
            berth.told.notify_one();
        }
        self.unused = self.parked.len();
    }
}

/// Where one thread waits. Not until a time: to set and to cancel a timeout would be the hundredth part of a handshake.
struct Berth<J> {
    /// Set under the lock of the state that took the berth from the parked ones: a thread that is not parked has its word.
    word: Mutex<Option<Word<J>>>,
    told: Condvar,
}

/// What a parked thread is told.
enum Word<J> {
    Do(J),
    Leave,
}

impl<J: Job> Pool<J> {
    pub(super) fn new(stack_size: usize, counters: Arc<Counters>, timer: Arc<Timer>) -> Self {
        let state = PoolState {
            parked: Vec::new(),
            unused: 0,
            watched: false,
            stopped: false,
            running: HashMap::new(),
            ended: Vec::new(),
        };
        Self { stack_size, counters, timer, state: Mutex::new(state), ended: Condvar::default() }
    }

    /// Has a parked thread do `job`, or a new one.
    ///
    /// # Errors
    ///
    /// The job, and why no thread could be started.
    pub(super) fn run(self: &Arc<Self>, job: J) -> Result<(), (J, io::Error)> {
        let mut state = self.state.lock();
        if let Some(berth) = state.parked.pop() {
            state.unused = state.unused.min(state.parked.len());
            *berth.word.lock() = Some(Word::Do(job));
            drop(state);
            berth.told.notify_one();
            return Ok(());
        }
        // First: a thread that is quick is counted before it serves, and before it ends.
        self.counters.thread_started();
        // `spawn` drops its closure when it fails: the slot keeps the job.
        let slot = Arc::new(Mutex::new(Some(job)));
        let started = spawn("threadws-client", self.stack_size, {
            let (pool, slot) = (Arc::clone(self), Arc::clone(&slot));
            move || {
                let job = slot.lock().take();
                drop(slot);
                pool.work(job);
            }
        });
        match started {
            Ok(thread) => {
                // Still locked: the thread finds itself here when it ends.
                state.running.insert(thread.thread().id(), thread);
                Ok(())
            }
            Err(error) => {
                self.counters.thread_ended();
                let job = slot.lock().take();
                job.map_or(Ok(()), |job| Err((job, error)))
            }
        }
    }

    fn work(self: &Arc<Self>, mut job: Option<J>) {
        // Made where it is needed: most threads have one client, and stay with it.
        let berth = LazyCell::new(|| Arc::new(Berth { word: Mutex::new(None), told: Condvar::default() }));
        while let Some(next) = job.take() {
            if !next.run() {
                break;
            }
            job = self.park(&berth);
        }
        let mut state = self.state.lock();
        let this = state.running.remove(&this_thread());
        self.counters.thread_ended();
        let before = std::mem::replace(&mut state.ended, this.into_iter().collect());
        drop(state);
        self.ended.notify_all();
        join(before);
        give_memory_back();
    }

    /// Waits for the next job.
    fn park(self: &Arc<Self>, berth: &Arc<Berth<J>>) -> Option<J> {
        let mut state = self.state.lock();
        if state.stopped || state.parked.len() >= MAX_PARKED {
            return None;
        }
        state.parked.push(Arc::clone(berth));
        let watched = std::mem::replace(&mut state.watched, true);
        drop(state);
        if !watched {
            let this: Weak<Self> = Arc::downgrade(self);
            self.timer.add(now() + UNUSED, this);
        }
        let mut word = berth.word.lock();
        loop {
            match word.take() {
                Some(Word::Do(job)) => return Some(job),
                Some(Word::Leave) => return None,
                None => word = berth.told.wait_until(word, None),
            }
        }
    }

    /// Lets parked threads end, and none be parked any more.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        let all = state.parked.len();
        state.dismiss(all);
    }

    /// Waits until all threads have ended, at most until `deadline`, and joins those that have.
    pub(super) fn join(&self, deadline: Instant) {
        loop {
            let mut state = self.state.lock();
            let ended = std::mem::take(&mut state.ended);
            if ended.is_empty() {
                if state.running.is_empty() || now() >= deadline {
                    return;
                }
                drop(self.ended.wait_until(state, Some(deadline)));
            } else {
                drop(state);
                join(ended);
            }
        }
    }

    /// Whether the calling thread is one of these.
    pub(super) fn is_current(&self) -> bool {
        self.state.lock().running.contains_key(&this_thread())
    }
}

/// Threads that no client needed for a while leave.
impl<J: Job> Due for Pool<J> {
    fn fire(&self, _: Instant, now: Instant) -> Option<Instant> {
        let mut state = self.state.lock();
        let unused = state.unused;
        state.watched = unused < state.parked.len();
        let next = state.watched.then(|| now + UNUSED);
        state.dismiss(unused);
        next
    }
}

impl<J> fmt::Debug for Pool<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

/// glibc keeps each small piece of memory that is freed as it is, and with the pieces what lies between them, until one of
/// 64 KiB is freed: then it merges them, and gives the end of the heap back. Without this, 58 MiB stay resident when 10 000
/// clients have left, and with it 20 to 32. It costs a leaving thread nothing that could be measured; to another C library
/// it is an allocation like any other.
fn give_memory_back() {
    let mut piece = Vec::<u8>::new();
    // Where there is no memory left, there is none to give back.
    _ = piece.try_reserve_exact(64 << 10);
    drop(std::hint::black_box(piece));
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // A panic in a handler was caught and told where it happened.
        drop(thread.join());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Tells who did it.
    struct Noted(mpsc::Sender<ThreadId>, bool);

    impl Job for Noted {
        fn run(self) -> bool {
            self.0.send(this_thread()).is_ok() && self.1
        }
    }

    #[test]
    fn a_thread_that_is_free_is_used_again() {
        let pool = Arc::new(Pool::new(64 * 1024, Arc::default(), Arc::default()));
        let (sender, ids) = mpsc::channel();
        pool.run(Noted(sender.clone(), true)).map_err(|(_, error)| error).expect("a thread");
        let first = ids.recv().expect("the job ran");
        let deadline = now() + Duration::from_secs(10);
        while pool.state.lock().parked.is_empty() {
            assert!(now() < deadline, "the thread does not park");
            std::thread::yield_now();
        }
        pool.run(Noted(sender, true)).map_err(|(_, error)| error).expect("a thread");
        assert_eq!(ids.recv().expect("the job ran"), first);
        pool.stop();
        pool.join(deadline);
        assert!(pool.state.lock().running.is_empty());
    }

    /// Tells who does it, and goes on when it may.
    struct Held(mpsc::Sender<ThreadId>, mpsc::Receiver<()>);

    impl Job for Held {
        fn run(self) -> bool {
            self.0.send(this_thread()).is_ok() && self.1.recv().is_err()
        }
    }

    #[test]
    fn of_two_that_are_free_the_one_that_parked_last_goes_first() {
        let pool = Arc::new(Pool::new(64 * 1024, Arc::default(), Arc::default()));
        let (sender, ids) = mpsc::channel();
        let run = || {
            let (held, hold) = mpsc::channel();
            pool.run(Held(sender.clone(), hold)).map_err(|(_, error)| error).expect("a thread");
            (held, ids.recv().expect("the job ran"))
        };
        let deadline = now() + Duration::from_secs(10);
        let parked = |count| {
            while pool.state.lock().parked.len() != count {
                assert!(now() < deadline, "{count} do not park");
                std::thread::yield_now();
            }
        };
        let ((a, first), (b, second)) = (run(), run());
        drop(b);
        parked(1);
        drop(a);
        parked(2);
        let ((a, third), (b, fourth)) = (run(), run());
        assert_eq!((third, fourth), (first, second));
        drop((a, b));
        pool.stop();
        pool.join(deadline);
        assert!(pool.state.lock().running.is_empty());
    }

    #[test]
    fn every_job_is_done_and_every_thread_joined() {
        let pool = Arc::new(Pool::new(64 * 1024, Arc::default(), Arc::default()));
        let (sender, done) = mpsc::channel();
        for job in 0..500 {
            pool.run(Noted(sender.clone(), job % 3 > 0)).map_err(|(_, error)| error).expect("a thread");
        }
        drop(sender);
        assert_eq!(done.iter().count(), 500);
        pool.stop();
        pool.join(now() + Duration::from_secs(20));
        let state = pool.state.lock();
        assert_eq!((state.running.len(), state.ended.len(), state.parked.len()), (0, 0, 0));
    }
}
