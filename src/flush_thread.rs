//! One thread that pushes on what sockets have refused, and keeps write and close deadlines.
//!
//! It sleeps in `poll` on a wake socket and the sockets that refused bytes, until the next deadline. It never waits for
//! one peer: what it serves does not block.

use crate::logging::{Throttle, log_line};
use crate::net::{Deadline, Transport, Wake};
use crate::sync::{Arc, JoinHandle, Mutex, Weak, now, spawn};
use std::collections::HashMap;
use std::io;
use std::time::Instant;

/// Its own frames and the heads of a few standard functions.
const STACK: usize = 128 * 1024;

/// What can be pushed on.
pub(crate) trait Pushable: Send + Sync + std::fmt::Debug {
    /// Writes what can be written without waiting, ends what expired, and says what to wait for next.
    fn push_on(&self, now: Instant) -> Option<Watch>;
}

/// What [`Pushable::push_on`] waits for: room in the socket, if there is one, or a moment.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) stream: Option<Arc<dyn Transport>>,
    pub(crate) until: Deadline,
}

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct FlushThread {
    inbox: Mutex<Inbox>,
}

#[derive(Debug)]
struct Inbox {
    news: Vec<Weak<dyn Pushable>>,
    /// Taken to stop the thread, so that outboxes that outlive it hold no descriptor.
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
        let inbox = Inbox { news: Vec::new(), wake: Some(Arc::clone(&wake)) };
        let flush = Arc::new(Self { inbox: Mutex::new(inbox) });
        let thread = spawn("threadws-flush", STACK, {
            let flush = Arc::clone(&flush);
            move || flush.run(&wake)
        })?;
        Ok((flush, thread))
    }

    /// Looks at `target` now, and then for as long as it says. Watching it twice is watching it once, anew.
    pub(crate) fn watch(&self, target: Weak<dyn Pushable>) {
        let mut inbox = self.inbox.lock();
        let Some(wake) = inbox.wake.clone() else { return };
        inbox.news.push(target);
        drop(inbox);
        wake.wake();
    }

    /// Ends the thread; nothing is pushed on any more.
    pub(crate) fn stop(&self) {
        let wake = self.inbox.lock().wake.take();
        if let Some(wake) = wake {
            wake.wake();
        }
    }

    fn run(&self, wake: &Wake) {
        // By address: a `Weak` keeps its allocation, so no two live targets have the same.
        let mut watched: HashMap<usize, Watched> = HashMap::new();
        let mut failures = Throttle::default();
        loop {
            let news = {
                let mut inbox = self.inbox.lock();
                if inbox.wake.is_none() {
                    return;
                }
                std::mem::take(&mut inbox.news)
            };
            for target in news {
                let key = target.as_ptr().cast::<()>() as usize;
                look(&mut watched, key, target);
            }
            for (key, target) in sleep(wake, &watched, &mut failures) {
                look(&mut watched, key, target);
            }
            watched.retain(|_, entry| entry.target.strong_count() > 0);
        }
    }
}

/// Waits until something happened, and returns what it happened to.
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
        // ENOMEM, or more sockets than RLIMIT_NOFILE now allows: the deadlines must be kept all the same.
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

fn look(watched: &mut HashMap<usize, Watched>, key: usize, target: Weak<dyn Pushable>) {
    match target.upgrade().and_then(|target| target.push_on(now())) {
        Some(watch) => watched.insert(key, Watched { target, watch }),
        None => watched.remove(&key),
    };
}
