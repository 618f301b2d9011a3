//! The clock of a model, and the condition variable that waits for its deadlines. The clock only moves when the model moves
//! it.
//!
//! In a model without a [`ClockThread`], every lost wakeup is a deadlock, because no deadline ends the wait.

use crate::sync::{Arc, AtomicBool, MutexGuard, Ordering};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use shuttle::thread;
use std::cell::{Cell, RefCell};
use std::sync::{OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The highest number of steps of other threads between two deadlines. With more steps, deadlines would not race with
/// enough of them; with fewer, every wait would time out.
const MAX_STEPS: usize = 40;

std::thread_local! {
    /// All threads of a model are coroutines of one thread, so this belongs to one model.
    static CLOCK: RefCell<Clock> = RefCell::new(Clock::new());
    /// The thread of a patient clock.
    static PATIENT: Cell<Option<TaskId>> = const { Cell::new(None) };
}

struct Clock {
    now: Instant,
    sleepers: Vec<(u64, Instant, Arc<shuttle::sync::Condvar>)>,
    next: u64,
    /// Wakes the clock thread for a new sleeper, or to stop.
    changed: Arc<(shuttle::sync::Mutex<()>, shuttle::sync::Condvar)>,
}

impl Clock {
    fn new() -> Self {
        Self { now: start(), sleepers: Vec::new(), next: 0, changed: Arc::default() }
    }
}

/// The time at which every model starts.
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

pub(crate) fn now() -> Instant {
    CLOCK.with_borrow(|clock| clock.now)
}

/// Returns the time since the start of the model.
pub(crate) fn elapsed() -> Duration {
    now() - start()
}

pub(super) fn reset() {
    CLOCK.set(Clock::new());
    PATIENT.set(None);
}

/// Moves the clock, and returns when every thread whose deadline was reached has continued.
pub(crate) fn pass(time: Duration) {
    pass_until(now() + time);
}

fn pass_until(moment: Instant) {
    CLOCK.with_borrow_mut(|clock| clock.now = clock.now.max(moment));
    loop {
        let due: Vec<Arc<shuttle::sync::Condvar>> = CLOCK.with_borrow(|clock| {
            let due = clock.sleepers.iter().filter(|(_, deadline, _)| *deadline <= clock.now);
            due.map(|(_, _, condvar)| Arc::clone(condvar)).collect()
        });
        if due.is_empty() {
            return;
        }
        for condvar in due {
            condvar.notify_all();
        }
        thread::yield_now();
    }
}

fn next_deadline() -> Option<Instant> {
    CLOCK.with_borrow(|clock| clock.sleepers.iter().map(|(_, deadline, _)| *deadline).min())
}

/// A thread that moves the clock from deadline to deadline until it is stopped. It sleeps while there is no deadline, so
/// that it hides no deadlock.
#[derive(Debug)]
pub(crate) struct ClockThread {
    stopped: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl ClockThread {
    /// Starts a clock that moves at random, so that every deadline races with the event that it limits.
    pub(crate) fn racing() -> Self {
        Self::start(|| {
            for _ in 0..thread_rng().gen_range(0..MAX_STEPS) {
                thread::yield_now();
            }
        })
    }

    /// Starts a clock that only moves when no other thread can continue. Time then only passes while threads wait, and a
    /// busy loop is found as an endless run.
    pub(crate) fn patient() -> Self {
        Self::start(|| PATIENT.set(Some(shuttle::current::me())))
    }

    fn start(pause: impl Fn() + Send + 'static) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stopped = Arc::clone(&stopped);
            move || {
                while let Some(deadline) = wait_deadline(&stopped) {
                    pause();
                    // A patient clock continues only when no other thread can. The next deadline can be another by then.
                    thread::yield_now();
                    pass_until(next_deadline().unwrap_or(deadline));
                }
            }
        });
        Self { stopped, thread }
    }

    pub(crate) fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        notify_clock_thread();
        self.thread.join().expect("the clock does not panic");
    }
}

fn wait_deadline(stopped: &AtomicBool) -> Option<Instant> {
    let changed = CLOCK.with_borrow(|clock| Arc::clone(&clock.changed));
    let mut guard = changed.0.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if stopped.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(deadline) = next_deadline() {
            return Some(deadline);
        }
        guard = changed.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
}

fn notify_clock_thread() {
    let changed = CLOCK.with_borrow(|clock| Arc::clone(&clock.changed));
    // The lock makes sure that the clock thread is not between its check and its wait.
    drop(changed.0.lock().unwrap_or_else(PoisonError::into_inner));
    changed.1.notify_all();
}

/// The condition variable of the library's locks in a model. Like std's, it has spurious wakeups: if the deadline of one
/// thread is reached, all threads that wait for it wake up. They must not wait again in here, because a notification that
/// arrives meanwhile would be lost.
#[derive(Debug, Default)]
pub(crate) struct ModelCondvar(Arc<shuttle::sync::Condvar>);

impl ModelCondvar {
    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn wait_until<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'a, T> {
        let _sleeper = deadline.map(|deadline| Sleeper::new(deadline, &self.0));
        if deadline.is_some_and(|deadline| deadline <= now()) {
            return guard;
        }
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }
}

struct Sleeper(u64);

impl Sleeper {
    fn new(deadline: Instant, condvar: &Arc<shuttle::sync::Condvar>) -> Self {
        let number = CLOCK.with_borrow_mut(|clock| {
            clock.next += 1;
            clock.sleepers.push((clock.next, deadline, Arc::clone(condvar)));
            clock.next
        });
        notify_clock_thread();
        Self(number)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        CLOCK.with_borrow_mut(|clock| clock.sleepers.retain(|(number, ..)| *number != self.0));
    }
}

/// A scheduler that runs a patient clock only when no other thread can continue.
pub(super) struct Patient<S>(pub(super) S);

impl<S: Scheduler> Scheduler for Patient<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.0.new_execution()
    }

    fn next_task(&mut self, tasks: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        let others: Vec<&Task> =
            tasks.iter().copied().filter(|task| PATIENT.get() != Some(task.id())).collect();
        self.0.next_task(if others.is_empty() { tasks } else { &others }, current, is_yielding)
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}
