//! Callbacks that block: other clients are served meanwhile, and the number of threads is bounded.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;
use support::{Frame, RawPeer, TestServer, eventually, ms, watchdog};
use threadws::{Config, Connection, Message, Server};

/// Callbacks that wait here until they are let through.
#[derive(Default)]
struct Barrier {
    is_open: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicUsize,
}

impl Barrier {
    fn wait(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut is_open = self.is_open.lock().expect("no panic");
        while !*is_open {
            is_open = self.opened.wait(is_open).expect("no panic");
        }
    }

    fn open(&self) {
        *self.is_open.lock().expect("no panic") = true;
        self.opened.notify_all();
    }

    fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }
}

/// Opens the barrier when the test ends, so that a failed test does not hang.
struct Opener(Arc<Barrier>);

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Starts an echo server whose callback waits at the barrier if the message is "wait".
fn server(settings: impl FnOnce(Server) -> Server) -> (TestServer, Opener) {
    let barrier = Arc::new(Barrier::default());
    let opener = Opener(Arc::clone(&barrier));
    let server = TestServer::with_events(
        |server| settings(server.workers(1)),
        move |_| {
            let barrier = Arc::clone(&barrier);
            Ok(move |client: &mut Connection, message: Message| {
                if message.as_text() == Some("wait") {
                    barrier.wait();
                }
                Ok(client.write(message)?)
            })
        },
    );
    (server, opener)
}

fn waiting_peers(server: &TestServer, count: usize) -> Vec<RawPeer> {
    let open = |_| {
        let mut peer = RawPeer::open(server.addr());
        peer.send_text("wait");
        peer
    };
    (0..count).map(open).collect()
}

#[test]
fn a_blocked_callback_delays_no_other_client() {
    let _dog = watchdog(60);
    let (server, opener) = server(|server| server);
    for blocked in [1, 2, 30, 200] {
        let before = opener.0.waiting();
        let _peers = waiting_peers(&server, blocked);
        eventually("they wait", || opener.0.waiting() == before + blocked);
        let mut other = RawPeer::open(server.addr());
        for _ in 0..50 {
            other.send_text("hello");
            other.expect_text("hello");
        }
        other.close(1000);
    }
}

#[test]
fn a_blocked_callback_of_each_worker_delays_no_other_client() {
    const WORKERS: usize = 3;
    let _dog = watchdog(60);
    let (server, opener) = server(|server| server.workers(WORKERS));
    // Clients are shared out in turn.
    let mut others: Vec<_> = (0..WORKERS).map(|_| RawPeer::open(server.addr())).collect();
    let _peers = waiting_peers(&server, WORKERS);
    eventually("they wait", || opener.0.waiting() == WORKERS);
    for _ in 0..10 {
        for other in &mut others {
            other.send_text("hello");
            other.expect_text("hello");
        }
    }
}

#[test]
fn messages_of_a_blocked_client_keep_their_order() {
    let _dog = watchdog(60);
    let (server, opener) = server(|server| server);
    let mut peer = RawPeer::open(server.addr());
    // Some are in the same read as the message that blocks, others arrive later.
    let burst: Vec<u8> = ["wait", "1", "2"].iter().flat_map(|text| Frame::text(text).encode()).collect();
    peer.write(burst);
    eventually("it waits", || opener.0.waiting() == 1);
    for text in ["3", "4"] {
        peer.send_text(text);
    }
    std::thread::sleep(ms(20));
    opener.0.open();
    for text in ["wait", "1", "2", "3", "4"] {
        peer.expect_text(text);
    }
    peer.send_text("5");
    peer.expect_text("5");
    peer.close(1000);
}

#[test]
fn a_full_read_buffer_is_kept_while_the_callback_waits() {
    let _dog = watchdog(60);
    let (server, opener) = server(|server| server);
    let mut peer = RawPeer::open(server.addr());
    let texts: Vec<_> = (0..1000).map(|number| format!("{number:1000}")).collect();
    // More than the read buffer, in which the last message is torn, and than the socket's buffers.
    let mut burst = Frame::text("wait").encode();
    burst.extend(texts.iter().flat_map(|text| Frame::text(text).encode()));
    let writing = peer.stream();
    let writer = std::thread::spawn(move || (&writing).write_all(&burst).expect("the server reads"));
    eventually("it waits", || opener.0.waiting() == 1);
    std::thread::sleep(ms(20));
    opener.0.open();
    peer.expect_text("wait");
    for text in &texts {
        peer.expect_text(text);
    }
    writer.join().expect("no panic");
    peer.close(1000);
}

#[test]
fn no_more_callbacks_wait_than_there_may_be_threads() {
    let _dog = watchdog(60);
    const MOST: usize = 4;
    let (server, opener) = server(|server| server.max_callback_threads(MOST));
    let mut peers = Vec::new();
    for number in 1..=MOST {
        // One after the other, because in a burst the leader can make one more while the last thread starts.
        peers.extend(waiting_peers(&server, 1));
        eventually("as many wait as may", || opener.0.waiting() == number);
    }
    peers.extend(waiting_peers(&server, 2 * MOST));
    // Further messages wait, and handshakes do not.
    let mut other = RawPeer::open(server.addr());
    other.send_text("hello");
    other.expect_silence(ms(100));
    assert_eq!(opener.0.waiting(), MOST);
    // The leader and the callbacks. The threads of the handshakes end.
    eventually("few threads", || server.stats().threads <= MOST + 1);
    assert_eq!(opener.0.waiting(), MOST);
    opener.0.open();
    other.expect_text("hello");
    for mut peer in peers.drain(..) {
        peer.expect_text("wait");
        peer.close(1000);
    }
    other.send_text("again");
    other.expect_text("again");
}

#[test]
fn in_a_burst_at_most_one_more_callback_waits() {
    let _dog = watchdog(60);
    const MOST: usize = 4;
    let (server, opener) = server(|server| server.max_callback_threads(MOST));
    let mut peers: Vec<_> = (0..3 * MOST).map(|_| RawPeer::open(server.addr())).collect();
    for peer in &mut peers {
        peer.send_text("wait");
    }
    eventually("as many wait as may", || opener.0.waiting() >= MOST);
    let mut other = RawPeer::open(server.addr());
    other.send_text("hello");
    other.expect_silence(ms(100));
    assert!(opener.0.waiting() <= MOST + 1, "{}", opener.0.waiting());
    opener.0.open();
    other.expect_text("hello");
    for mut peer in peers {
        peer.expect_text("wait");
        peer.close(1000);
    }
}

#[test]
fn deadlines_are_kept_while_all_threads_are_blocked() {
    let _dog = watchdog(60);
    let config = Config::new().with_ping_interval(ms(100)).with_ping_timeout(ms(100));
    let (server, opener) = server(|server| server.max_callback_threads(1).config(config));
    let mut silent = RawPeer::open(server.addr());
    let _peer = waiting_peers(&server, 1);
    eventually("it waits", || opener.0.waiting() == 1);
    assert_eq!(silent.frame().opcode, support::frame::PING);
    // It does not answer.
    silent.expect_gone();
}

#[test]
fn a_reset_while_the_callback_runs_is_noticed_after_it() {
    let _dog = watchdog(60);
    let (server, opener) = server(|server| server);
    let peer = waiting_peers(&server, 1).remove(0);
    eventually("it waits", || opener.0.waiting() == 1);
    peer.reset();
    let mut other = RawPeer::open(server.addr());
    other.send_text("hello");
    other.expect_text("hello");
    opener.0.open();
    eventually("it has left", || server.hub().count() == 1);
}

#[test]
fn a_shutdown_waits_for_a_blocked_callback() {
    let _dog = watchdog(60);
    let (server, opener) = server(|server| server);
    let mut peer = waiting_peers(&server, 1).remove(0);
    eventually("it waits", || opener.0.waiting() == 1);
    let barrier = Arc::clone(&opener.0);
    let opening = std::thread::spawn(move || {
        std::thread::sleep(ms(200));
        barrier.open();
    });
    let client = std::thread::spawn(move || {
        peer.expect_close(1001);
        peer.send(&Frame::close(1001, ""));
        peer.expect_eof();
    });
    let start = Instant::now();
    let report = server.shutdown(ms(20_000));
    assert!(report.is_complete() && report.closed == 1, "{report}");
    assert!(start.elapsed() >= ms(150), "{:?}", start.elapsed());
    opening.join().expect("no panic");
    client.join().expect("no panic");
}

#[test]
fn no_thread_outlives_a_shutdown_during_callbacks() {
    let _dog = watchdog(60);
    for _ in 0..30 {
        let server = TestServer::with_events(
            |server| server.workers(1),
            |_| {
                Ok(|client: &mut Connection, _: Message| {
                    // The watcher finds it blocked when it is about to return.
                    std::thread::sleep(ms(2));
                    Ok(client.close(1000, "")?)
                })
            },
        );
        let mut peer = RawPeer::open(server.addr());
        peer.send_text("hello");
        peer.send(&Frame::close(1000, ""));
        peer.fin();
        assert!(server.shutdown(ms(20_000)).is_complete());
        assert_eq!(server.stats().threads, 0);
    }
}

#[test]
fn a_callback_that_never_returns_is_abandoned() {
    let _dog = watchdog(60);
    let (server, opener) = server(|server| server);
    let _peer = waiting_peers(&server, 1);
    eventually("it waits", || opener.0.waiting() == 1);
    let report = server.shutdown(ms(50));
    assert_eq!((report.abandoned.len(), report.closed), (1, 0), "{report}");
}

#[test]
fn a_send_to_a_stuck_peer_delays_no_other_client() {
    let _dog = watchdog(60);
    let server = TestServer::with_events(
        |server| server.workers(1),
        |_| {
            Ok(|client: &mut Connection, message: Message| {
                if message.as_text() == Some("fill") {
                    client.send(vec![0; 20 << 20])?;
                }
                Ok(client.send(message)?)
            })
        },
    );
    let mut stuck = RawPeer::open(server.addr());
    stuck.send_text("fill");
    let mut other = RawPeer::open(server.addr());
    for _ in 0..20 {
        other.send_text("hello");
        other.expect_text("hello");
    }
    other.close(1000);
    stuck.reset();
    eventually("both have left", || server.hub().count() == 0);
}
