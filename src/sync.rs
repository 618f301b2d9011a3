//! The only place that names `std::sync` primitives and starts threads, and where what a model runs asks for the time,
//! so that a model checker can be put in here: with `--cfg model` the tests run on the primitives and the clock of
//! `models`.

#[cfg(all(test, model))]
use shuttle::{sync, thread};
use std::fmt;
use std::io;
#[cfg(not(all(test, model)))]
use std::time::Instant;
#[cfg(not(all(test, model)))]
use std::{sync, thread};

#[cfg(all(test, model))]
pub(crate) use crate::verify::models::clock::now;
pub(crate) use std::sync::{OnceLock, mpsc};
pub(crate) use sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
pub(crate) use sync::{Arc, MutexGuard, Weak};
pub(crate) use thread::{JoinHandle, ThreadId};

/// A mutex without poison: no user code runs under any of our locks, so a panic under one is our own bug, and a second
/// panic in everybody who comes later would make one broken connection everybody's.
#[derive(Default)]
pub(crate) struct Mutex<T: ?Sized>(sync::Mutex<T>);

/// Not what it guards: std's would hold the lock while it prints, for as long as whoever is printed to takes.
impl<T: ?Sized> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").finish_non_exhaustive()
    }
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(sync::PoisonError::into_inner)
    }
}

/// The condition variable that goes with [`Mutex`] in a model.
#[cfg(all(test, model))]
pub(crate) type Condvar = crate::verify::models::clock::ModelCondvar;

/// The condition variable that goes with [`Mutex`].
#[cfg(not(all(test, model)))]
#[derive(Debug, Default)]
pub(crate) struct Condvar(sync::Condvar);

#[cfg(not(all(test, model)))]
impl Condvar {
    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Waits for a notification, at most until `deadline`; `None` waits for ever.
    pub(crate) fn wait_until<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'a, T> {
        match deadline {
            None => self.0.wait(guard).unwrap_or_else(sync::PoisonError::into_inner),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(now());
                self.0.wait_timeout(guard, left).unwrap_or_else(sync::PoisonError::into_inner).0
            }
        }
    }
}

/// The time. What counts in deadlines asks here, so that a model can let it pass.
#[cfg(not(all(test, model)))]
#[inline]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A connection's number: one sequence for the whole process, so that none is ever used again.
pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Starts a named thread. `std::thread::spawn` would panic where this returns an error.
pub(crate) fn spawn(
    name: &str,
    stack_size: usize,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).stack_size(stack_size).spawn(body)
}

/// Whether a thread has ended: joining it then does not wait.
#[cfg(not(all(test, model)))]
pub(crate) fn is_finished(thread: &JoinHandle<()>) -> bool {
    thread.is_finished()
}

/// No model runs a whole server, which alone asks; the model checker's threads cannot tell.
#[cfg(all(test, model))]
pub(crate) fn is_finished(_: &JoinHandle<()>) -> bool {
    true
}

/// Whose thread this is.
pub(crate) fn this_thread() -> ThreadId {
    thread::current().id()
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;

    #[test]
    fn a_panic_under_a_lock_costs_nobody_else_the_lock() {
        let lock = Arc::new(Mutex::new(1));
        let held = Arc::clone(&lock);
        let panicked = thread::spawn(move || {
            let _guard = held.lock();
            panic!("under the lock");
        });
        assert!(panicked.join().is_err());
        *lock.lock() += 1;
        assert_eq!(*lock.lock(), 2);
    }
}
