//! The flush thread: writes the queues of all outboxes whose sockets were full, and enforces write and close deadlines.
//!
//! It sleeps in `poll` on those sockets and on a wake socket, until the next deadline. It never waits for a single peer,
//! because [`Pushable::push_on`] does not block. One lock guards its inbox, and is held for a push or a take. What an
//! outbox writes, and when it asks for this thread, is in `outbox/wait.rs`.

use crate::logging::{Throttle, log_line};
use crate::net::{Deadline, Transport, Wake};
use crate::sync::{Arc, JoinHandle, Mutex, Weak, now, spawn};
use std::collections::HashMap;
use std::io;
use std::time::Instant;

/// The stack of the thread in bytes. It calls no code of the program except its logger.
const STACK: usize = 128 * 1024;

/// Something with queued bytes and deadlines: an outbox.
pub(crate) trait Pushable: Send + Sync + std::fmt::Debug {
    /// Writes queued bytes without waiting, and breaks the connection if a deadline has passed.
    ///
    /// Returns when to call it again. `None` means not before the next [`FlushThread::watch`].
    fn push_on(&self, now: Instant) -> Option<Watch>;
}

/// When [`Pushable::push_on`] is called again: when the socket takes bytes, or at a deadline.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) stream: Option<Arc<dyn Transport>>,
    pub(crate) until: Deadline,
}

/// The handle of the thread.
#[derive(Debug)]
pub(crate) struct FlushThread {
    inbox: Mutex<Inbox>,
}

#[derive(Debug)]
struct Inbox {
    /// Targets that were passed to [`FlushThread::watch`] since the thread looked last.
    new: Vec<Weak<dyn Pushable>>,
    /// `None` once the thread is to stop. Outboxes that live longer then hold no descriptor.
    wake: Option<Arc<Wake>>,
}

struct Watched {
    target: Weak<dyn Pushable>,
    watch: Watch,
}

impl FlushThread {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<(Arc<Self>, JoinHandle<()>)> {
        let wake = Arc::new(Wake::new()?);
        let inbox = Inbox { new: Vec::new(), wake: Some(Arc::clone(&wake)) };
        let flush = Arc::new(Self { inbox: Mutex::new(inbox) });
        let thread = spawn("threadws-flush", STACK, {
            let flush = Arc::clone(&flush);
            move || flush.run(&wake)
        })?;
        Ok((flush, thread))
    }

    /// Calls [`Pushable::push_on`] of `target` soon, and then as often as it asks for. A second call for the same target
    /// replaces the first.
    pub(crate) fn watch(&self, target: Weak<dyn Pushable>) {
        let mut inbox = self.inbox.lock();
        let Some(wake) = inbox.wake.clone() else { return };
        inbox.new.push(target);
        drop(inbox);
        wake.wake();
    }

    /// Ends the thread. It calls no target after that.
    pub(crate) fn stop(&self) {
        let wake = self.inbox.lock().wake.take();
        if let Some(wake) = wake {
            wake.wake();
        }
    }

    fn run(&self, wake: &Wake) {
        // The key is the address. A `Weak` keeps the allocation, so two entries never have the same address.
        let mut watched: HashMap<usize, Watched> = HashMap::new();
        let mut failures = Throttle::default();
        loop {
            let new = {
                let mut inbox = self.inbox.lock();
                if inbox.wake.is_none() {
                    return;
                }
                std::mem::take(&mut inbox.new)
            };
            for target in new {
                let key = target.as_ptr().cast::<()>() as usize;
                visit(&mut watched, key, target);
            }
            for (key, target) in sleep(wake, &watched, &mut failures) {
                visit(&mut watched, key, target);
            }
            watched.retain(|_, entry| entry.target.strong_count() > 0);
        }
    }
}

/// Waits until a socket takes bytes, a deadline passes or the thread is woken. Returns the targets to call.
fn sleep(
    wake: &Wake,
    watched: &HashMap<usize, Watched>,
    failures: &mut Throttle,
) -> Vec<(usize, Weak<dyn Pushable>)> {
    let mut deadline = Deadline::NEVER;
    let mut refused: Vec<&dyn Transport> = Vec::new();
    let mut keys = Vec::new();
    for (key, entry) in watched {
        deadline = deadline.or(entry.watch.until);
        if let Some(stream) = &entry.watch.stream {
            refused.push(&**stream);
            keys.push(*key);
        }
    }
    let ready = wake.wait(&refused, deadline).unwrap_or_else(|error| {
        // ENOMEM, or RLIMIT_NOFILE was lowered below the number of sockets. The deadlines are enforced nevertheless.
        if let Some(more) = failures.pass(now()) {
            log_line!(Warn, "threadws::flush", "poll failed: {error} ({more} more since the last line)");
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        Vec::new()
    });
    wake.clear();
    let now = now();
    let ready = ready.into_iter().zip(&keys).filter(|(ready, _)| *ready).map(|(_, key)| *key);
    let expired = watched.iter().filter(|(_, entry)| entry.watch.until.has_passed(now)).map(|(key, _)| *key);
    ready
        .chain(expired)
        .filter_map(|key| watched.get(&key).map(|entry| (key, Weak::clone(&entry.target))))
        .collect()
}

/// Calls `target`, and remembers when to call it again.
fn visit(watched: &mut HashMap<usize, Watched>, key: usize, target: Weak<dyn Pushable>) {
    match target.upgrade().and_then(|target| target.push_on(now())) {
        Some(watch) => watched.insert(key, Watched { target, watch }),
        None => watched.remove(&key),
    };
}
