//! The timer: one thread that calls everything that is due at a time, such as ticks.
//!
//! Its targets must not wait for a peer, so that a slow client delays no other client's tick. One lock guards the queue. It
//! is not held while a target is called, because a target takes the lock of an outbox and calls the program's closure.
//! The messages of ticks are in `tick.rs`.

use crate::sync::{self, Arc, Condvar, JoinHandle, Mutex, STACK, Weak, now, spawn};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::{Duration, Instant};

/// The thread sleeps at least this long at a time, so that it calls several targets when it wakes. With 3000 ticks a second
/// it takes half the processor time of waking up for each.
const GRAIN: Duration = Duration::from_millis(2);

/// The handle of the thread.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    queue: Mutex<DueQueue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct DueQueue {
    /// Ordered by time, then by number.
    due: BTreeMap<(Instant, u64), Weak<dyn Due>>,
    /// The time of each number, by which [`Timer::remove`] finds it. It also has the target that is being called.
    times: HashMap<u64, Instant>,
    next_number: u64,
    stopped: bool,
}

/// Something that is due at a time.
pub(crate) trait Due: Send + Sync + std::fmt::Debug {
    /// Called when it is due, must not wait. Returns when it is due again, or `None` if never.
    fn fire(&self, due: Instant, now: Instant) -> Option<Instant>;
}

impl Timer {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<(Arc<Self>, JoinHandle<()>)> {
        let timer = Arc::new(Self::default());
        let thread = spawn("threadws-timer", STACK, {
            let timer = Arc::clone(&timer);
            move || timer.run()
        })?;
        Ok((timer, thread))
    }

    /// Ends the thread. It calls no target after that.
    pub(crate) fn stop(&self) {
        self.queue.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Calls `target` at `due`. Returns the number for [`remove`](Self::remove).
    pub(crate) fn add(&self, due: Instant, target: Weak<dyn Due>) -> u64 {
        let mut queue = self.queue.lock();
        let number = queue.next_number;
        queue.next_number += 1;
        let first = queue.first();
        queue.due.insert((due, number), target);
        queue.times.insert(number, due);
        drop(queue);
        if first.is_none_or(|first| due < first) {
            self.changed.notify_one();
        }
        number
    }

    /// Removes a target. If it is being called at this moment, it is not called again.
    pub(crate) fn remove(&self, number: u64) {
        let mut queue = self.queue.lock();
        if let Some(due) = queue.times.remove(&number) {
            queue.due.remove(&(due, number));
        }
    }

    fn run(&self) {
        let mut queue = self.queue.lock();
        let mut rested = now();
        while !queue.stopped {
            let first = queue.first();
            let now = now();
            if first.is_none_or(|first| first > now) {
                // This delays a target only if another one was called less than `GRAIN` ago.
                queue = self.changed.wait_until(queue, first.map(|first| first.max(rested + GRAIN)));
                rested = sync::now();
                continue;
            }
            let Some(((due, number), target)) = queue.due.pop_first() else { continue };
            // Without the lock, because it takes the lock of an outbox and calls the program's closure.
            drop(queue);
            let next = target.upgrade().and_then(|target| target.fire(due, now));
            queue = self.queue.lock();
            // `None` if it was removed meanwhile.
            if queue.times.remove(&number).is_some() {
                if let Some(next) = next {
                    queue.times.insert(number, next);
                    queue.due.insert((next, number), target);
                }
            }
        }
    }
}

impl DueQueue {
    fn first(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((due, _), _)| *due)
    }
}
