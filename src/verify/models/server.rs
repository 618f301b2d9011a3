//! Connections that come and go while the server stops, and the threads that serve them.

use super::registry::Registry;
use super::thread_pool::{IDLE_TIMEOUT, Job, ThreadPool};
use crate::addr::Addr;
use crate::hub::{Client, Hub};
use crate::message::{CloseCode, CloseFrame};
use crate::net::Deadline;
use crate::protocol::Role;
use crate::sender::Sender;
use crate::sync::{Arc, AtomicUsize, Ordering, next_id, now};
use crate::verify::models::clock;
use crate::verify::models::transport::{Input, Script};
use crate::verify::models::wire::{Wire, message};
use crate::verify::models::{Flushing, Link, check, go, join};
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::JoinHandle;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// What the threads of a server share.
#[derive(Debug)]
struct Shared {
    live: Registry,
    hub: Hub,
    flushing: Flushing,
}

/// A connection from its accept: its number, its socket and its thread, if the server does not stop.
type Accepted = (u64, Arc<Script>, Option<JoinHandle<()>>);

/// As the acceptor does. The peer sends its request, or never does.
fn accept(shared: &Arc<Shared>) -> Accepted {
    let id = next_id();
    let script = Script::new(1 << 20);
    if thread_rng().gen_bool(0.8) {
        script.say(Input::Ping(0));
    }
    let thread = shared.live.accepted(id, script.clone()).then(|| {
        let (shared, script) = (Arc::clone(shared), Arc::clone(&script));
        go(move || serve(&shared, id, script))
    });
    (id, script, thread)
}

/// As a client's thread does.
fn serve(shared: &Shared, id: u64, script: Arc<Script>) {
    if script.hear(Deadline::NEVER) == Some(Input::Ping(0)) {
        if !shared.live.welcome(id) {
            assert!(shared.live.is_stopping(), "turned away without a reason");
            return shared.live.ended(id);
        }
        let link = Link::over(script, Role::Server, &shared.flushing);
        let sender = Sender::new(id, Arc::clone(&link.outbox));
        let peer_addr = Addr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        shared.hub.join(Client { sender: sender.clone(), client_addr: peer_addr, peer_addr });
        shared.live.opened(id, &sender);
        let peer = go({
            let script = Arc::clone(&link.script);
            move || {
                if script.wait_wire_or_end(|wire| Wire::read(Role::Server, wire).close.is_some()) {
                    script.say(Input::Close(None));
                }
            }
        });
        // A handler that only reads: it ends when somebody closes.
        let closed = link.read();
        join(peer);
        let told = Some(CloseFrame::new(CloseCode::GOING_AWAY, ""));
        assert_eq!(link.wire().close, Some(told), "I10: {closed}");
        assert!(closed.is_clean(), "I10: the answer was not heard: {closed}");
        shared.hub.leave(id, &crate::hub::Hooks::default());
    } else {
        assert!(shared.live.is_stopping(), "a request that ends without a reason");
    }
    shared.live.ended(id);
}

#[test]
fn a_shutdown_reaches_whoever_was_accepted_meanwhile() {
    check(|| {
        let shared =
            Arc::new(Shared { live: Registry::default(), hub: Hub::default(), flushing: Flushing::start() });
        let acceptors = [1, 2].map(|count| {
            let shared = Arc::clone(&shared);
            go(move || Vec::from_iter((0..count).map(|_| accept(&shared))))
        });
        let publisher = go({
            let shared = Arc::clone(&shared);
            move || {
                for number in 0..2 {
                    shared.hub.broadcast(message(1, number, 5));
                    assert!(shared.hub.len() <= 3);
                }
            }
        });
        let frame = CloseFrame::new(CloseCode::GOING_AWAY, "");
        let count = shared.live.stop(&frame).expect("nobody stopped it before");
        assert_eq!(shared.live.stop(&frame), None);
        // No time passes: whoever is not told hangs.
        let left = shared.live.wait_empty(now() + Duration::from_secs(5));
        assert!(left.is_empty(), "I9, I10: {left:?}");
        join(publisher);
        let accepted = acceptors.map(join).into_iter().flatten();
        let mut ids = Vec::new();
        let mut served = 0;
        for (id, _, thread) in accepted {
            ids.push(id);
            served += usize::from(thread.is_some());
            thread.map(join);
            assert!(shared.hub.get(id).is_none(), "I9: {id} is not forgotten");
        }
        assert_eq!(served, count, "I10: somebody was let in after the stop");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((ids.len(), shared.hub.len(), shared.live.count()), (3, 0, 0), "I9");
        Arc::into_inner(shared).expect("nobody else is left").flushing.stop();
    });
}

/// Counts that it was done. Its thread can be reused if `1` is true.
struct CountingJob(Arc<AtomicUsize>, bool);

impl Job for CountingJob {
    fn run(self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1
    }
}

/// A counting job that sends a message when it is done.
struct SignallingJob(CountingJob, shuttle::sync::mpsc::Sender<()>);

impl Job for SignallingJob {
    fn run(self) -> bool {
        let again = self.0.run();
        self.1.send(()).expect("the test waits");
        again
    }
}

fn pool<J: Job>() -> Arc<ThreadPool<J>> {
    Arc::new(ThreadPool::new(1 << 16, Arc::default()))
}

/// Waits until the pool has no thread left.
fn join_all<J: Job>(pool: &ThreadPool<J>) {
    pool.join(now() + Duration::from_secs(1_000_000));
}

#[test]
fn every_job_is_done_though_threads_become_idle_and_end() {
    check(|| {
        let clock = clock::Running::racing();
        let pool = pool();
        let done = Arc::new(AtomicUsize::new(0));
        let givers = [true, false].map(|again| {
            let (pool, done) = (Arc::clone(&pool), Arc::clone(&done));
            go(move || {
                for job in [CountingJob(done.clone(), again), CountingJob(done, true)] {
                    pool.run(job).expect("a thread");
                }
            })
        });
        givers.into_iter().for_each(join);
        pool.stop();
        join_all(&pool);
        clock.stop();
        assert_eq!(done.load(Ordering::Relaxed), 4, "I7: a job was forgotten");
    });
}

#[test]
fn an_idle_thread_takes_a_job_at_once() {
    check(|| {
        let clock = clock::Running::patient();
        let pool = pool();
        let done = Arc::new(AtomicUsize::new(0));
        let (tell, told) = shuttle::sync::mpsc::channel();
        for _ in 0..3 {
            pool.run(SignallingJob(CountingJob(done.clone(), true), tell.clone())).expect("a thread");
            told.recv().expect("it is done");
        }
        assert_eq!(clock::elapsed(), Duration::ZERO, "I7: a job waited for its thread's time to end");
        pool.stop();
        join_all(&pool);
        clock.stop();
    });
}

#[test]
fn idle_threads_end_after_their_time() {
    check(|| {
        let clock = clock::Running::patient();
        let pool = pool();
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..3 {
            pool.run(CountingJob(done.clone(), true)).expect("a thread");
        }
        join_all(&pool);
        assert_eq!(done.load(Ordering::Relaxed), 3, "I7: a job was forgotten");
        assert_eq!(clock::elapsed(), IDLE_TIMEOUT);
        clock.stop();
    });
}
