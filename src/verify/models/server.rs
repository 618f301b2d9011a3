//! Models of the registry during a shutdown, and of the thread pool.

use super::registry::Registry;
use super::thread_pool::{IDLE_TIMEOUT, Job, ThreadPool};
use crate::addr::Addr;
use crate::config::SlowPeer;
use crate::hub::{Client, Hub};
use crate::message::{CloseCode, CloseFrame};
use crate::net::Deadline;
use crate::protocol::Role;
use crate::sender::Sender;
use crate::sync::{Arc, AtomicUsize, Ordering, next_id, now};
use crate::verify::models::clock;
use crate::verify::models::transport::{Input, Script};
use crate::verify::models::wire::{RESPONSE, Wire, after_response, message};
use crate::verify::models::{Flushing, Link, check, check_plain, join, spawn};
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::JoinHandle;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The parts of a server that its threads share.
#[derive(Debug)]
struct ModelServer {
    registry: Registry,
    hub: Hub,
    flushing: Flushing,
}

/// An accepted connection: its id, its socket and its thread. It has no thread if the server was shutting down.
type ModelConnection = (u64, Arc<Script>, Option<JoinHandle<()>>);

/// Accepts a connection, like the acceptor. The peer sends its request, or never does.
fn accept(server: &Arc<ModelServer>) -> ModelConnection {
    let id = next_id();
    let script = Script::new(1 << 20);
    if thread_rng().gen_bool(0.8) {
        script.peer_sends(Input::Ping(0));
    }
    let thread = server.registry.insert(id, script.clone()).then(|| {
        let (server, script) = (Arc::clone(server), Arc::clone(&script));
        spawn(move || serve(&server, id, script))
    });
    (id, script, thread)
}

/// Serves a connection, like a client's thread.
fn serve(server: &ModelServer, id: u64, script: Arc<Script>) {
    if script.recv(Deadline::NEVER) == Some(Input::Ping(0)) {
        if !server.registry.opening(id) {
            assert!(server.registry.is_stopping(), "turned away without a reason");
            return server.registry.remove(id);
        }
        let link = Link::over(script, Role::Server, &server.flushing);
        link.outbox.hold(RESPONSE.to_vec());
        // The backlog of a model is full after one message that waits for the 101.
        link.outbox.set_slow_peer(SlowPeer::Skip);
        let sender = Sender::new(id, Arc::clone(&link.outbox));
        let peer_addr = Addr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        server.hub.join(Client { sender: sender.clone(), client_addr: peer_addr, peer_addr });
        link.outbox.open(Deadline::NEVER).expect("the socket takes it");
        server.registry.opened(id, &sender);
        let frames = |wire: &[u8]| after_response(wire).map(|frames| Wire::read(Role::Server, frames));
        let peer = spawn({
            let script = Arc::clone(&link.script);
            move || {
                if script.wait_wire_or_end(|wire| frames(wire).is_some_and(|wire| wire.close.is_some())) {
                    script.peer_sends(Input::Close(None));
                }
            }
        });
        // The handler only reads, so it ends when the connection is closed.
        let closed = link.read();
        join(peer);
        let sent = Some(CloseFrame::new(CloseCode::GOING_AWAY, ""));
        let close = frames(&link.script.wire()).expect("I13: the 101 is whole").close;
        assert_eq!(close, Some(sent), "I10: {closed}");
        assert!(closed.is_clean(), "I10: the answer was not heard: {closed}");
        server.hub.leave(id, &crate::hub::Hooks::default());
    } else {
        assert!(server.registry.is_stopping(), "a request that ends without a reason");
    }
    server.registry.remove(id);
}

#[test]
fn a_shutdown_reaches_connections_that_are_being_accepted() {
    check(|| {
        let server = Arc::new(ModelServer {
            registry: Registry::default(),
            hub: Hub::default(),
            flushing: Flushing::start(),
        });
        let acceptors = [1, 2].map(|count| {
            let server = Arc::clone(&server);
            spawn(move || Vec::from_iter((0..count).map(|_| accept(&server))))
        });
        let publisher = spawn({
            let server = Arc::clone(&server);
            move || {
                for number in 0..2 {
                    server.hub.broadcast(message(1, number, 5));
                    assert!(server.hub.count() <= 3);
                }
            }
        });
        let frame = CloseFrame::new(CloseCode::GOING_AWAY, "");
        let count = server.registry.stop(&frame).expect("the first call");
        assert_eq!(server.registry.stop(&frame), None);
        // No time passes in this model, so a connection that is not reached is a deadlock.
        let left = server.registry.wait_empty(now() + Duration::from_secs(5));
        assert!(left.is_empty(), "I9, I10: {left:?}");
        join(publisher);
        let accepted = acceptors.map(join).into_iter().flatten();
        let mut ids = Vec::new();
        let mut served = 0;
        for (id, _, thread) in accepted {
            ids.push(id);
            served += usize::from(thread.is_some());
            thread.map(join);
            assert!(server.hub.get(id).is_none(), "I9: {id} is not forgotten");
        }
        assert_eq!(served, count, "I10: a connection was inserted after the stop");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((ids.len(), server.hub.count(), server.registry.count()), (3, 0, 0), "I9");
        Arc::into_inner(server).expect("the last handle").flushing.stop();
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
    check_plain(|| {
        let clock = clock::ClockThread::racing();
        let pool = pool();
        let done = Arc::new(AtomicUsize::new(0));
        let givers = [true, false].map(|again| {
            let (pool, done) = (Arc::clone(&pool), Arc::clone(&done));
            spawn(move || {
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
    check_plain(|| {
        let clock = clock::ClockThread::patient();
        let pool = pool();
        let done = Arc::new(AtomicUsize::new(0));
        let (sender, done_jobs) = shuttle::sync::mpsc::channel();
        for _ in 0..3 {
            pool.run(SignallingJob(CountingJob(done.clone(), true), sender.clone())).expect("a thread");
            done_jobs.recv().expect("it is done");
        }
        assert_eq!(clock::elapsed(), Duration::ZERO, "I7: a job waited for its thread's time to end");
        pool.stop();
        join_all(&pool);
        clock.stop();
    });
}

#[test]
fn idle_threads_end_after_their_time() {
    check_plain(|| {
        let clock = clock::ClockThread::patient();
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
