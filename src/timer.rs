//! One thread that calls what is due. What it serves does not wait, so nobody is delayed by anybody's client.

use crate::sync::{self, Arc, Condvar, JoinHandle, Mutex, Weak, now, spawn};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::{Duration, Instant};

/// Ours are small; the rest is for users' closures.
const STACK: usize = 256 * 1024;

/// It sleeps at least so long at a time. Measured with 3000 ticks a second: half the processor time of waking for each.
const GRAIN: Duration = Duration::from_millis(2);

/// The way to the thread.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    queue: Mutex<DueQueue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct DueQueue {
    /// By time, then by number.
    due: BTreeMap<(Instant, u64), Weak<dyn Due>>,
    /// When each number is due: so that it can be taken out again.
    times: HashMap<u64, Instant>,
    next_number: u64,
    stopped: bool,
}

/// What a timer serves.
pub(crate) trait Due: Send + Sync + std::fmt::Debug {
    /// Does what is due, without waiting; says when it is due again.
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

    /// Ends the thread; nothing fires any more.
    pub(crate) fn stop(&self) {
        self.queue.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Fires `target` when it is due. The number takes it out again.
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
                // Only where ticks come faster than the grain are they later for it.
                queue = self.changed.wait_until(queue, first.map(|first| first.max(rested + GRAIN)));
                rested = sync::now();
                continue;
            }
            let Some(((due, number), target)) = queue.due.pop_first() else { continue };
            // Unlocked: it takes an outbox's lock, and runs a user's closure.
            drop(queue);
            let next = target.upgrade().and_then(|target| target.fire(due, now));
            queue = self.queue.lock();
            // Taken out meanwhile: then its time is gone, and it does not come again.
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
