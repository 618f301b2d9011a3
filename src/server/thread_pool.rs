//! The threads that serve clients: started when they are needed, reused while they are idle, and joined when they end.
//!
//! Reusing a thread took a handshake from 92 to 55 µs of processor time when it was introduced. `guide::performance` has
//! today's figure.

use crate::logging::catch;
use crate::stats::Counters;
use crate::sync::{Arc, Condvar, JoinHandle, Mutex, ThreadId, now, spawn, this_thread};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use std::{fmt, io};

/// At most this many threads wait for the next client.
const MAX_IDLE: usize = 32;
/// A thread that was idle for this long ends.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_millis(2500);

/// One task for a thread.
pub(super) trait Job: Send + 'static {
    /// Runs in a thread of the pool. Returns whether the thread can be reused.
    fn run(self) -> bool;
}

/// Threads that each do one job after the other.
pub(super) struct ThreadPool<J> {
    stack_size: usize,
    counters: Arc<Counters>,
    state: Mutex<PoolState<J>>,
    /// Notified of each thread that is about to end.
    thread_ended: Condvar,
}

struct PoolState<J> {
    /// Idle threads. The last one is reused first because its stack and its allocator's lists are still in the cache, so
    /// the first one has been idle for longest.
    idle: Vec<Arc<Worker<J>>>,
    stopped: bool,
    running: HashMap<ThreadId, JoinHandle<()>>,
    /// Threads that are about to end, to be joined by another thread.
    ended: Vec<JoinHandle<()>>,
}

/// One thread, as others see it.
struct Worker<J> {
    /// The next assignment. Empty while it is idle or busy. Set by the thread that starts it, and later by those that
    /// take it out of [`PoolState::idle`].
    next: Mutex<Option<Assignment<J>>>,
    wake: Condvar,
}

/// The next thing that a worker does.
enum Assignment<J> {
    Run(J),
    End,
}

impl<J> Worker<J> {
    fn wake(&self, next: Assignment<J>) {
        *self.next.lock() = Some(next);
        self.wake.notify_one();
    }
}

impl<J: Job> ThreadPool<J> {
    pub(super) fn new(stack_size: usize, counters: Arc<Counters>) -> Self {
        let state =
            PoolState { idle: Vec::new(), stopped: false, running: HashMap::new(), ended: Vec::new() };
        Self { stack_size, counters, state: Mutex::new(state), thread_ended: Condvar::default() }
    }

    /// Runs a job in an idle thread, or in a new one.
    ///
    /// # Errors
    ///
    /// No thread could be started. The job was dropped.
    pub(super) fn run(self: &Arc<Self>, job: J) -> io::Result<()> {
        let idle = self.state.lock().idle.pop();
        if let Some(worker) = idle {
            worker.wake(Assignment::Run(job));
            return Ok(());
        }
        // Dropped at the end, without a lock held: it still has the job if there is no thread.
        let worker =
            Arc::new(Worker { next: Mutex::new(Some(Assignment::Run(job))), wake: Condvar::default() });
        // Counted before it is started, because a quick thread could otherwise serve, or end, before it is counted.
        self.counters.thread_started();
        let mut state = self.state.lock();
        let thread = spawn("threadws-client", self.stack_size, {
            let (pool, worker) = (Arc::clone(self), Arc::clone(&worker));
            move || pool.work(&worker)
        });
        match thread {
            Ok(thread) => {
                // Still locked, so the thread finds its handle here when it ends.
                state.running.insert(thread.thread().id(), thread);
                Ok(())
            }
            Err(error) => {
                drop(state);
                self.counters.thread_ended();
                Err(error)
            }
        }
    }

    /// The life of one thread.
    fn work(&self, worker: &Arc<Worker<J>>) {
        let mut next = worker.next.lock().take();
        while let Some(Assignment::Run(job)) = next {
            // A panic gets here only from the `Drop` of a value of the program, such as a handler's error.
            if !catch(|| job.run()).unwrap_or(false) {
                break;
            }
            next = self.wait(worker);
        }
        let mut state = self.state.lock();
        let this = state.running.remove(&this_thread());
        self.counters.thread_ended();
        let before = std::mem::replace(&mut state.ended, this.into_iter().collect());
        drop(state);
        self.thread_ended.notify_all();
        join(before);
        give_memory_back();
    }

    /// Waits idle for the next job, at most [`IDLE_TIMEOUT`].
    fn wait(&self, worker: &Arc<Worker<J>>) -> Option<Assignment<J>> {
        let mut state = self.state.lock();
        if state.stopped || state.idle.len() >= MAX_IDLE {
            return None;
        }
        state.idle.push(Arc::clone(worker));
        drop(state);
        let mut deadline = Some(now() + IDLE_TIMEOUT);
        let mut next = worker.next.lock();
        while next.is_none() {
            if deadline.is_some_and(|deadline| now() >= deadline) {
                drop(next);
                if self.stop_waiting(worker) {
                    return None;
                }
                // Another thread has taken this worker out, and is about to wake it.
                deadline = None;
                next = worker.next.lock();
            } else {
                next = worker.wake.wait_until(next, deadline);
            }
        }
        next.take()
    }

    /// Takes a worker out of the idle ones; false if another thread has done that before.
    fn stop_waiting(&self, worker: &Arc<Worker<J>>) -> bool {
        let mut state = self.state.lock();
        let place = state.idle.iter().position(|idle| Arc::ptr_eq(idle, worker));
        place.map(|place| state.idle.remove(place)).is_some()
    }

    /// Ends the idle threads. From now on a thread ends after its job.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        for worker in idle {
            worker.wake(Assignment::End);
        }
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
                drop(self.thread_ended.wait_until(state, Some(deadline)));
            } else {
                drop(state);
                join(ended);
            }
        }
    }

    /// Returns whether the calling thread is one of the pool's.
    pub(super) fn is_current(&self) -> bool {
        self.state.lock().running.contains_key(&this_thread())
    }
}

impl<J> fmt::Debug for ThreadPool<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool").finish_non_exhaustive()
    }
}

/// Makes glibc's allocator return freed memory to the system.
///
/// glibc puts small freed blocks into lists ("fast bins") and merges them only when a block of at least 64 KiB is freed.
/// Merging lets it shrink the heap. After 10 000 clients have left, 59 MiB stay resident without this and 14 to 22 MiB with
/// it. `tests/load/coming_and_going.rs` bounds that memory. It costs an ending thread nothing that could be measured. To
/// another allocator it is one allocation like any other.
fn give_memory_back() {
    let mut block = Vec::<u8>::new();
    // Fails only when memory has run out. Then there is none to give back.
    _ = block.try_reserve_exact(64 << 10);
    drop(std::hint::black_box(block));
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // A panic in a handler was caught and logged before.
        drop(thread.join());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Sends the id of its thread.
    struct Noted(mpsc::Sender<ThreadId>, bool);

    impl Job for Noted {
        fn run(self) -> bool {
            self.0.send(this_thread()).is_ok() && self.1
        }
    }

    #[test]
    fn a_thread_that_is_free_is_used_again() {
        let pool = Arc::new(ThreadPool::new(64 * 1024, Arc::default()));
        let (sender, ids) = mpsc::channel();
        pool.run(Noted(sender.clone(), true)).expect("a thread");
        let first = ids.recv().expect("the job ran");
        let deadline = now() + Duration::from_secs(10);
        while pool.state.lock().idle.is_empty() {
            assert!(now() < deadline, "the thread is not idle");
            std::thread::yield_now();
        }
        pool.run(Noted(sender, true)).expect("a thread");
        assert_eq!(ids.recv().expect("the job ran"), first);
        pool.stop();
        pool.join(deadline);
        assert!(pool.state.lock().running.is_empty());
    }

    /// Sends the id of its thread, and ends when the other end of the second channel is dropped.
    struct Held(mpsc::Sender<ThreadId>, mpsc::Receiver<()>);

    impl Job for Held {
        fn run(self) -> bool {
            self.0.send(this_thread()).is_ok() && self.1.recv().is_err()
        }
    }

    #[test]
    fn of_two_that_are_free_the_one_that_was_busy_last_goes_first() {
        let pool = Arc::new(ThreadPool::new(64 * 1024, Arc::default()));
        let (sender, ids) = mpsc::channel();
        let run = || {
            let (held, hold) = mpsc::channel();
            pool.run(Held(sender.clone(), hold)).expect("a thread");
            (held, ids.recv().expect("the job ran"))
        };
        let deadline = now() + Duration::from_secs(10);
        let idle = |count| {
            while pool.state.lock().idle.len() != count {
                assert!(now() < deadline, "{count} are not idle");
                std::thread::yield_now();
            }
        };
        let ((a, first), (b, second)) = (run(), run());
        drop(b);
        idle(1);
        drop(a);
        idle(2);
        let ((a, third), (b, fourth)) = (run(), run());
        assert_eq!((third, fourth), (first, second));
        drop((a, b));
        pool.stop();
        pool.join(deadline);
        assert!(pool.state.lock().running.is_empty());
    }

    #[test]
    fn every_job_is_done_and_every_thread_joined() {
        let pool = Arc::new(ThreadPool::new(64 * 1024, Arc::default()));
        let (sender, done) = mpsc::channel();
        for job in 0..500 {
            pool.run(Noted(sender.clone(), job % 3 > 0)).expect("a thread");
        }
        drop(sender);
        assert_eq!(done.iter().count(), 500);
        pool.stop();
        pool.join(now() + Duration::from_secs(20));
        let state = pool.state.lock();
        assert_eq!((state.running.len(), state.ended.len(), state.idle.len()), (0, 0, 0));
    }
}
