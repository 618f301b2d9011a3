//! A clock that stands still until a model lets it pass, and the condition variable that keeps its deadlines.
//!
//! A model without a running clock finds every lost wakeup as a deadlock: no deadline comes to the rescue.

use crate::sync::{Arc, AtomicBool, MutexGuard, Ordering};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use shuttle::thread;
use std::cell::{Cell, RefCell};
use std::sync::{OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How many other steps may pass between two deadlines, at most: so few that deadlines race with everything, so many that
/// not everything runs out.
const PATIENCE: usize = 40;

std::thread_local! {
    /// All threads of a model are coroutines of one thread, so this is one model's.
    static CLOCK: RefCell<Clock> = RefCell::new(Clock::new());
    /// The thread of a patient clock.
    static PATIENT: Cell<Option<TaskId>> = const { Cell::new(None) };
}

struct Clock {
    now: Instant,
    sleepers: Vec<(u64, Instant, Arc<shuttle::sync::Condvar>)>,
    next: u64,
    /// Tells a running clock of a new sleeper, or that it is over.
    bell: Arc<(shuttle::sync::Mutex<()>, shuttle::sync::Condvar)>,
}

impl Clock {
    fn new() -> Self {
        Self { now: start(), sleepers: Vec::new(), next: 0, bell: Arc::default() }
    }
}

/// When every model starts.
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

pub(crate) fn now() -> Instant {
    CLOCK.with_borrow(|clock| clock.now)
}

/// How long the model has run.
pub(crate) fn elapsed() -> Duration {
    now() - start()
}

pub(super) fn reset() {
    CLOCK.set(Clock::new());
    PATIENT.set(None);
}

/// Lets time pass, and returns when everybody whose deadline came has noticed.
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

/// A clock that runs from deadline to deadline until it is stopped. It sleeps while there is no deadline, so that it hides
/// no deadlock.
#[derive(Debug)]
pub(crate) struct Running {
    over: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Running {
    /// It runs now and then, so that every deadline races with what it is for.
    pub(crate) fn racing() -> Self {
        Self::start(|| {
            for _ in 0..thread_rng().gen_range(0..PATIENCE) {
                thread::yield_now();
            }
        })
    }

    /// It runs when nobody else can go on: nobody is slow, so what takes time has waited, and who spins is found.
    pub(crate) fn patient() -> Self {
        Self::start(|| PATIENT.set(Some(shuttle::current::me())))
    }

    fn start(pause: impl Fn() + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let over = Arc::clone(&over);
            move || {
                while let Some(deadline) = next(&over) {
                    pause();
                    // A patient clock goes on only when the others cannot; by then the deadline may be another.
                    thread::yield_now();
                    pass_until(next_deadline().unwrap_or(deadline));
                }
            }
        });
        Self { over, thread }
    }

    pub(crate) fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        ring();
        self.thread.join().expect("the clock does not panic");
    }
}

fn next(over: &AtomicBool) -> Option<Instant> {
    let bell = CLOCK.with_borrow(|clock| Arc::clone(&clock.bell));
    let mut guard = bell.0.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if over.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(deadline) = next_deadline() {
            return Some(deadline);
        }
        guard = bell.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
}

fn ring() {
    let bell = CLOCK.with_borrow(|clock| Arc::clone(&clock.bell));
    // Locked once: else it might ring between the clock's last look and its sleep.
    drop(bell.0.lock().unwrap_or_else(PoisonError::into_inner));
    bell.1.notify_all();
}

/// The condition variable of the library's locks. As std's it may wake for nothing: whoever shares it with somebody whose
/// deadline has come looks again. To send such a one back to sleep here would lose what it is told just then.
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
        ring();
        Self(number)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        CLOCK.with_borrow_mut(|clock| clock.sleepers.retain(|(number, ..)| *number != self.0));
    }
}

/// Keeps a patient clock waiting.
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
