//! Locks, atomics, threads and the clock. Only this file names the primitives of `std::sync` and starts threads.
//!
//! With `--cfg model` the tests run on the primitives of a model checker and on the clock of `verify::models` instead.

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

/// A mutex without poisoning.
///
/// No code of the program runs under a lock of the library, so a panic under one is a bug of the library. With poisoning
/// each later thread would panic, too, and one broken connection would break others.
#[derive(Default)]
pub(crate) struct Mutex<T: ?Sized>(sync::Mutex<T>);

/// Does not show the guarded value, because std's implementation holds the lock while it writes to the formatter, which may
/// wait.
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

    /// Waits for a notification, at most until `deadline`. `None` waits forever.
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

/// Returns the time. All deadlines are compared with it, so that a model can use a clock of its own.
#[cfg(not(all(test, model)))]
#[inline]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Returns the number of a new connection. No number is used twice in a process.
pub(crate) fn next_id() -> u64 {
    // Always std's: models that run at the same time share it, and the model checker's belongs to one model.
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// The stack of a thread that runs code of the program, in bytes: a client's by default, the timer's and the acceptor's. As
/// large as std's default, so that code which runs in any other thread runs here. Only the pages that are used take memory.
///
/// Measured in debug builds: `serde_json` needs 0.2 MiB for a `Value` of its greatest depth, and up to 1 MiB for structs.
pub(crate) const STACK: usize = 2 << 20;

/// Returns how many threads can compute at the same time.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Starts a named thread. Returns an error where `std::thread::spawn` would panic.
pub(crate) fn spawn(
    name: &str,
    stack_size: usize,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).stack_size(stack_size).spawn(body)
}

/// Returns whether a thread has ended. Joining it does not wait then.
#[cfg(not(all(test, model)))]
pub(crate) fn is_finished(thread: &JoinHandle<()>) -> bool {
    thread.is_finished()
}

/// Never asked in a model, because only a whole server asks. The threads of the model checker do not know it.
#[cfg(all(test, model))]
pub(crate) fn is_finished(_: &JoinHandle<()>) -> bool {
    true
}

/// Returns the id of this thread.
pub(crate) fn this_thread() -> ThreadId {
    thread::current().id()
}

#[cfg(all(test, not(model)))]
mod tests {
    use super::*;

    #[test]
    fn others_can_lock_after_a_panic_under_the_lock() {
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
