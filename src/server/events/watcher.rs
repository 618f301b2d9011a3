//! The watcher: one thread that finds leaders which a callback has blocked, and gives their sets to other threads. It also
//! starts the threads that could not be started before.
//!
//! It looks every millisecond while sets are served, and parks when nothing was served for some of these looks.

use super::set::{BLOCKED, Member, Set};
use crate::sync::{Arc, AtomicBool, Condvar, JoinHandle, Mutex, Ordering, now, spawn};
use std::io;

/// The watcher parks after this number of looks without a change.
const QUIET_LOOKS: u32 = 10;
/// The stack of the thread in bytes. It calls no code of the program.
const STACK: usize = 128 * 1024;

/// The handle of the thread.
#[derive(Debug, Default)]
pub(super) struct Watcher {
    /// Relaxed: the watcher sets it before it locks each set, and a leader reads it after it has locked its set. So either the
    /// leader sees it, or the watcher sees the leader's turn.
    is_asleep: AtomicBool,
    is_stopped: Mutex<bool>,
    changed: Condvar,
}

impl Watcher {
    pub(super) fn start<M: Member>(self: &Arc<Self>, sets: Vec<Arc<Set<M>>>) -> io::Result<JoinHandle<()>> {
        let watcher = Arc::clone(self);
        spawn("threadws-watch", STACK, move || watcher.run(&sets))
    }

    /// Called after a leader has begun a turn.
    #[inline]
    pub(super) fn wake_if_asleep(&self) {
        if self.is_asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    fn wake(&self) {
        // Locked, because the watcher may be about to wait.
        let stopped = self.is_stopped.lock();
        self.is_asleep.store(false, Ordering::Relaxed);
        drop(stopped);
        self.changed.notify_one();
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        *self.is_stopped.lock() = true;
        self.changed.notify_one();
    }

    fn run<M: Member>(&self, sets: &[Arc<Set<M>>]) {
        let mut turns: Vec<u64> = sets.iter().map(|set| set.turn()).collect();
        let mut quiet = 0;
        loop {
            let stopped = self.is_stopped.lock();
            let stopped = self.changed.wait_until(stopped, Some(now() + BLOCKED));
            if *stopped {
                return;
            }
            drop(stopped);
            quiet += 1;
            for (set, seen) in sets.iter().zip(&mut turns) {
                let turn = set.turn();
                if turn != *seen {
                    *seen = turn;
                    quiet = 0;
                } else if is_serving(turn) {
                    set.hand_over(turn);
                    quiet = 0;
                }
                if set.needs_threads() {
                    set.start_threads();
                    quiet = 0;
                }
            }
            if quiet >= QUIET_LOOKS {
                self.park(sets, &turns);
                quiet = 0;
            }
        }
    }

    /// Waits until a leader begins a turn, unless one has begun since the last look.
    fn park<M: Member>(&self, sets: &[Arc<Set<M>>], turns: &[u64]) {
        self.is_asleep.store(true, Ordering::Relaxed);
        // `needs_threads` takes the lock of the set.
        if sets.iter().zip(turns).any(|(set, turn)| set.needs_threads() || set.turn() != *turn) {
            self.is_asleep.store(false, Ordering::Relaxed);
            return;
        }
        let mut stopped = self.is_stopped.lock();
        while self.is_asleep.load(Ordering::Relaxed) && !*stopped {
            stopped = self.changed.wait_until(stopped, None);
        }
    }
}

/// Returns whether the leader serves a member in this turn.
fn is_serving(turn: u64) -> bool {
    turn % 2 == 1
}
