//! A client is in the hub before its 101 is sent. `on_open` is called in between, and `wait_count` waits for clients.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use support::{
    Frame, PATIENCE, RawPeer, TestServer, echo, eventually, expect_echo, is_behind_relay, ms, next, reached,
    upgrade_request, watchdog,
};
use threadws::{Connection, Error, Timeout, connect};

fn url(server: &TestServer) -> String {
    format!("ws://{}/room", server.addr())
}

/// An `on_open` that subscribes each client to its path.
fn subscribe(client: &Connection) {
    client.subscribe(client.request().path()).expect("a short path");
}

#[test]
fn a_client_that_has_connected_gets_the_next_message() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.on_open(subscribe), echo);
    let hub = server.hub();
    for round in 0..300 {
        let mut client = connect(url(&server)).expect("it listens");
        assert_eq!((hub.count(), server.stats().opened), (1, round + 1));
        assert_eq!(reached(hub.broadcast("to all")), 1, "round {round}");
        assert_eq!(reached(hub.publish("/room", "to the room")), 1, "round {round}");
        assert_eq!(client.recv().expect("open"), Some("to all".into()));
        assert_eq!(client.recv().expect("open"), Some("to the room".into()));
        client.close(1000, "").expect("it answers");
        hub.wait_count(..=0, PATIENCE).expect("it leaves");
    }
}

#[test]
fn a_new_client_is_subscribed_although_others_broadcast() {
    let _dog = watchdog(60);
    let server = TestServer::with(|server| server.on_open(subscribe), echo);
    let hub = server.hub();
    let over = Arc::new(AtomicBool::new(false));
    let noise = thread::spawn({
        let (hub, over) = (hub.clone(), Arc::clone(&over));
        move || {
            while !over.load(Ordering::Relaxed) {
                hub.broadcast("noise");
                thread::sleep(Duration::from_micros(20));
            }
        }
    });
    for round in 0..100 {
        let mut client = connect(url(&server)).expect("it listens");
        let delivery = hub.publish("/room", "to the room");
        assert_eq!(reached(delivery), 1, "round {round}");
        while client.recv().expect("open") != Some("to the room".into()) {}
        drop(client);
        hub.wait_count(..=0, PATIENCE).expect("it leaves");
    }
    over.store(true, Ordering::Relaxed);
    noise.join().expect("no panic");
}

#[test]
fn messages_of_on_open_follow_the_101() {
    let _dog = watchdog(20);
    let server = TestServer::with(
        |server| {
            server.on_open(|client| {
                let sender = client.sender();
                sender.try_send("queued").expect("an empty queue");
                client.hub().expect("a server's").broadcast("to all");
                client.ping(b"?").expect("short");
                sender.send("sent").expect("it is read");
                sender.try_send("after").expect("an empty queue");
            })
        },
        echo,
    );
    for _ in 0..20 {
        let mut peer = RawPeer::connect(server.addr());
        peer.ask("/", &[]);
        peer.expect_101();
        // A ping overtakes messages.
        assert_eq!(peer.frame(), Frame::ping(b"?").unmasked());
        for text in ["queued", "to all", "sent", "after"] {
            peer.expect_text(text);
        }
        peer.close(1000);
    }
}

/// An `on_open` that waits for the test: the channel on which it reports, and the one that ends it.
fn blocking() -> (TestServer, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (enter, enters) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let on_open = move |client: &Connection| {
        subscribe(client);
        if client.request().path() == "/slow" {
            enter.send(()).unwrap_or(());
            released.lock().expect("one alone").recv().unwrap_or(());
        }
    };
    (TestServer::with(|server| server.on_open(on_open), echo), enters, release)
}

#[test]
fn the_101_waits_for_on_open_and_messages_wait_too() {
    let _dog = watchdog(30);
    let (server, enters, release) = blocking();
    let mut slow = RawPeer::connect(server.addr());
    slow.ask("/slow", &[]);
    next(&enters, "on_open");
    server.hub().wait_count(1.., Duration::ZERO).expect("it is in the hub");
    assert_eq!(reached(server.hub().broadcast("to all")), 1);
    assert_eq!(reached(server.hub().publish("/slow", "to the room")), 1);
    // The 101 is not sent yet, and no other client is delayed.
    slow.expect_silence(ms(100));
    assert_eq!((server.stats().opened, server.stats().open), (0, 1));
    expect_echo(&server);
    drop(release);
    slow.expect_101();
    slow.expect_text("to all");
    slow.expect_text("to the room");
    slow.close(1000);
}

#[test]
fn a_shutdown_during_on_open_sends_the_101_and_1001() {
    let _dog = watchdog(30);
    let (server, enters, release) = blocking();
    let mut slow = RawPeer::connect(server.addr());
    slow.ask("/slow", &[]);
    next(&enters, "on_open");
    let handle = server.into_handle();
    let stop = thread::spawn(move || handle.shutdown(PATIENCE));
    slow.expect_silence(ms(100));
    drop(release);
    slow.expect_101();
    slow.expect_close(1001);
    slow.send(&Frame::close(1001, ""));
    slow.expect_eof();
    let report = stop.join().expect("it ends");
    assert!(report.is_complete() && report.closed == 1, "{report}");
}

#[test]
fn on_open_may_close_the_connection_or_panic() {
    let _dog = watchdog(30);
    let server = TestServer::with(
        |server| {
            server.on_open(|client| match client.request().path() {
                "/close" => client.sender().close(1008, "full").expect("a short reason"),
                "/terminate" => client.sender().terminate(),
                _ => panic!("in on_open, on purpose"),
            })
        },
        echo,
    );
    let mut closed = RawPeer::open_at(server.addr(), "/close", &[]);
    assert_eq!(closed.expect_close(1008), "full");
    closed.send(&Frame::close(1008, ""));
    closed.expect_eof();
    let mut terminated = RawPeer::connect(server.addr());
    terminated.ask("/terminate", &[]);
    terminated.expect_gone();
    let mut other = RawPeer::open_at(server.addr(), "/panic", &[]);
    other.send_text("still there?");
    other.expect_text("still there?");
    other.close(1000);
    server.hub().wait_count(..=0, PATIENCE).expect("all have left");
    assert_eq!((server.stats().accepted, server.stats().opened), (3, 2));
}

#[test]
fn a_101_that_cannot_be_sent_leaves_no_client() {
    let _dog = watchdog(30);
    if is_behind_relay("a reset is late behind the relay") {
        return;
    }
    let (enter, enters) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (released, left) = (Mutex::new(released), Arc::new(AtomicUsize::new(0)));
    let leaves = Arc::clone(&left);
    let server = TestServer::with(
        |server| {
            server
                .on_open(move |client| {
                    subscribe(client);
                    enter.send(()).unwrap_or(());
                    released.lock().expect("one alone").recv().unwrap_or(());
                })
                .on_unsubscribe(move |_, _, topic| {
                    assert_eq!(topic, "/room");
                    leaves.fetch_add(1, Ordering::SeqCst);
                })
        },
        |_| panic!("the handler is called"),
    );
    let mut peer = RawPeer::connect(server.addr());
    peer.write(upgrade_request(server.addr(), "/room", &[]));
    next(&enters, "on_open");
    assert_eq!((server.hub().count(), server.hub().topics()), (1, vec![("/room".to_owned(), 1)]));
    peer.reset();
    release.send(()).expect("it waits");
    server.hub().wait_count(..=0, PATIENCE).expect("it has left");
    eventually("its topic is left, too", || left.load(Ordering::SeqCst) == 1);
    assert_eq!(server.hub().topics(), []);
    assert_eq!((server.stats().accepted, server.stats().opened), (1, 0));
}

#[test]
fn wait_count_waits_for_clients_that_come_and_leave() {
    let _dog = watchdog(30);
    let server = TestServer::new(echo);
    let hub = server.hub();
    let start = Instant::now();
    let late = hub.wait_count(1.., ms(100)).expect_err("no client is there");
    assert!(matches!(late, Error::Timeout(Timeout::Count)), "{late}");
    assert!(!late.is_fatal() && start.elapsed() >= ms(100));
    hub.wait_count(.., Duration::ZERO).expect("any number");
    thread::scope(|scope| {
        let all = scope.spawn(|| hub.wait_count(3..=3, Duration::MAX));
        let more = scope.spawn(|| hub.wait_count(4.., ms(500)));
        let clients: Vec<_> = (0..3).map(|_| connect(url(&server)).expect("it listens")).collect();
        all.join().expect("no panic").expect("three are there");
        more.join().expect("no panic").expect_err("a fourth");
        let gone = scope.spawn(|| hub.wait_count(..1, PATIENCE));
        assert!(!gone.is_finished());
        drop(clients);
        gone.join().expect("no panic").expect("they leave");
    });
    assert_eq!(hub.count(), 0);
}

#[test]
fn a_long_on_open_costs_no_fast_client_its_connection() {
    const MESSAGES: u8 = 30;
    let _dog = watchdog(30);
    let (server, enters, release) = blocking();
    let mut peer = RawPeer::connect(server.addr());
    peer.ask("/slow", &[]);
    next(&enters, "on_open");
    let reader = thread::spawn(move || {
        peer.expect_101();
        for number in 0..MESSAGES {
            let frame = peer.frame();
            assert_eq!((frame.payload.len(), frame.payload[0]), (100_000, number));
        }
        peer
    });
    for number in 0..MESSAGES {
        let delivery = server.hub().publish("/slow", vec![number; 100_000]);
        assert_eq!(reached(delivery), 1, "{number}");
        // The reader takes them meanwhile.
        thread::sleep(ms(2));
    }
    let mut peer = reader.join().expect("it has read all, before on_open has returned");
    drop(release);
    peer.send_text("and the handler?");
    peer.expect_text("and the handler?");
    peer.close(1000);
}
