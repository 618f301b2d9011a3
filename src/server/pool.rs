//! The client threads: started on demand, kept for a while, joined when they end.
//!
//! Measured when it was made: a reused thread took a handshake from 92 to 55 µs of CPU, which was an event loop's cost.
//! What one takes today is in `guide::performance`.

use crate::stats::Counters;
use crate::sync::{Arc, Condvar, JoinHandle, Mutex, ThreadId, now, spawn, this_thread};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

/// Threads that wait for the next client.
const MAX_PARKED: usize = 32;
/// How long one waits.
const PARKED: Duration = Duration::from_secs(5);

/// What a thread does; it says whether its thread may do another.
pub(super) trait Job: Send + 'static {
    fn run(self) -> bool;
}

/// Threads that each do one job after the other.
#[derive(Debug)]
pub(super) struct Pool<J> {
    stack_size: usize,
    counters: Arc<Counters>,
    state: Mutex<State<J>>,
    /// Tells parked threads of a job, or of the end.
    changed: Condvar,
}

#[derive(Debug)]
struct State<J> {
    /// Jobs for parked threads: never more than there are.
    jobs: VecDeque<J>,
    parked: usize,
    stopped: bool,
    running: HashMap<ThreadId, JoinHandle<()>>,
    /// Threads that are about to end, for somebody to join.
    ended: Vec<JoinHandle<()>>,
}

impl<J: Job> Pool<J> {
    pub(super) fn new(stack_size: usize, counters: Arc<Counters>) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            parked: 0,
            stopped: false,
            running: HashMap::new(),
            ended: Vec::new(),
        };
        Self { stack_size, counters, state: Mutex::new(state), changed: Condvar::default() }
    }

    /// Has a parked thread do `job`, or a new one.
    ///
    /// # Errors
    ///
    /// The job, and why no thread could be started.
    pub(super) fn run(self: &Arc<Self>, job: J) -> Result<(), (J, io::Error)> {
        let mut state = self.state.lock();
        if state.parked > state.jobs.len() {
            state.jobs.push_back(job);
            drop(state);
            self.changed.notify_one();
            return Ok(());
        }
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
                self.counters.thread_started();
                Ok(())
            }
            Err(error) => {
                let job = slot.lock().take();
                job.map_or(Ok(()), |job| Err((job, error)))
            }
        }
    }

    fn work(&self, mut job: Option<J>) {
        while let Some(next) = job.take() {
            if !next.run() {
                break;
            }
            job = self.park();
        }
        let mut state = self.state.lock();
        let this = state.running.remove(&this_thread());
        self.counters.thread_ended();
        let before = std::mem::replace(&mut state.ended, this.into_iter().collect());
        drop(state);
        join(before);
    }

    /// Waits for the next job.
    fn park(&self) -> Option<J> {
        let until = now() + PARKED;
        let mut state = self.state.lock();
        if state.stopped || state.parked >= MAX_PARKED {
            return None;
        }
        state.parked += 1;
        while state.jobs.is_empty() && !state.stopped && now() < until {
            state = self.changed.wait_until(state, Some(until));
        }
        state.parked -= 1;
        state.jobs.pop_front()
    }

    /// Lets parked threads end, and none be parked any more.
    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
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
                // Nobody tells of a thread's very end; it comes soon after its last job's.
                drop(self.changed.wait_until(state, Some(now() + Duration::from_millis(1))));
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
    struct Told(mpsc::Sender<ThreadId>, bool);

    impl Job for Told {
        fn run(self) -> bool {
            self.0.send(this_thread()).is_ok() && self.1
        }
    }

    #[test]
    fn a_thread_that_is_free_is_used_again() {
        let pool = Arc::new(Pool::new(64 * 1024, Arc::default()));
        let (sender, ids) = mpsc::channel();
        pool.run(Told(sender.clone(), true)).map_err(|(_, error)| error).expect("a thread");
        let first = ids.recv().expect("the job ran");
        let deadline = now() + Duration::from_secs(10);
        while pool.state.lock().parked == 0 {
            assert!(now() < deadline, "the thread does not park");
            std::thread::yield_now();
        }
        pool.run(Told(sender, true)).map_err(|(_, error)| error).expect("a thread");
        assert_eq!(ids.recv().expect("the job ran"), first);
        pool.stop();
        pool.join(deadline);
        assert!(pool.state.lock().running.is_empty());
    }

    #[test]
    fn every_job_is_done_and_every_thread_joined() {
        let pool = Arc::new(Pool::new(64 * 1024, Arc::default()));
        let (sender, done) = mpsc::channel();
        for job in 0..500 {
            pool.run(Told(sender.clone(), job % 3 > 0)).map_err(|(_, error)| error).expect("a thread");
        }
        drop(sender);
        assert_eq!(done.iter().count(), 500);
        pool.stop();
        pool.join(now() + Duration::from_secs(20));
        let state = pool.state.lock();
        assert_eq!((state.running.len(), state.ended.len(), state.parked), (0, 0, 0));
    }
}
