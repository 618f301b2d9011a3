//! Messages in both directions, from any thread, while the client's own thread waits in `recv`.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;
use support::bystander::plain_echo;
use support::frame::PING;
use support::{
    Frame, PATIENCE, RawPeer, TestServer, echo, eventually, is_behind_relay, ms, next, reached, watchdog,
};
use threadws::connection::State;
use threadws::{Error, Message, Timeout};

const fn assert_send_and_sync<T: Send + Sync + Clone + 'static>() {}
const _: () = assert_send_and_sync::<threadws::Sender>();

#[test]
fn messages_of_both_kinds_and_any_size_come_back() {
    let _dog = watchdog(60);
    let server = TestServer::new(echo);
    let mut peer = RawPeer::open(server.addr());
    for size in [0, 1, 125, 126, 127, 65535, 65536, 1 << 20] {
        let text = "x".repeat(size);
        peer.send_text(&text);
        assert!(peer.message().as_text() == text, "text of {size}");
        let bytes: Vec<u8> = (0..size).map(|index| index.to_le_bytes()[0] ^ index.to_le_bytes()[1]).collect();
        peer.send(&Frame::binary(bytes.clone()));
        peer.expect_binary(&bytes);
    }
    peer.send_text("h\u{e9}llo, \u{c548}\u{b155} \u{1f438}");
    peer.expect_text("h\u{e9}llo, \u{c548}\u{b155} \u{1f438}");
    for key in [[0; 4], [0xff; 4], [1, 2, 3, 4]] {
        peer.send(&Frame::text("any key").masked(key));
        peer.expect_text("any key");
    }
    peer.close(1000);
}

#[test]
fn the_state_follows_the_connection() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::with(
        |server| server.check_request(|_, _| Ok(())),
        move |client| {
            let sender = client.sender();
            let both = |client: &threadws::Connection| (client.state(), sender.state());
            tx.send(both(client)).unwrap_or(());
            assert_eq!(client.recv()?, Some(Message::from("go on")));
            tx.send(both(client)).unwrap_or(());
            assert!(client.closed().is_none(), "it is not closed");
            sender.close(1000, "enough")?;
            tx.send(both(client)).unwrap_or(());
            assert!(client.recv()?.is_none());
            tx.send(both(client)).unwrap_or(());
            assert!(client.closed().is_some(), "it is closed");
            Ok(())
        },
    );
    let mut peer = RawPeer::open(server.addr());
    assert_eq!(next(&rx, "the start"), (State::Open, State::Open));
    assert_eq!(server.hub().clients()[0].sender().state(), State::Open);
    peer.send_text("go on");
    assert_eq!(next(&rx, "a message"), (State::Open, State::Open));
    assert_eq!(next(&rx, "our Close"), (State::Closing, State::Closing));
    assert_eq!(peer.expect_close(1000), "enough");
    peer.send(&Frame::close(1000, ""));
    peer.expect_eof();
    assert_eq!(next(&rx, "the peer's Close"), (State::Closed, State::Closed));
    assert!(State::Open < State::Closing && State::Closing < State::Closed);
}

#[test]
fn the_state_is_closed_when_the_peer_closes() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        let sender = client.sender();
        echo(client)?;
        tx.send((client.state(), sender.clone())).unwrap_or(());
        Ok(())
    });
    let peer = RawPeer::open(server.addr());
    peer.close(1000);
    let (state, sender) = next(&rx, "the end");
    assert!(matches!(state, State::Closing | State::Closed), "{state}");
    eventually("closed at last", || sender.state() == State::Closed);
    assert!(matches!(sender.send("too late"), Err(Error::Closed(_))));
}

#[test]
fn corked_messages_keep_their_order_and_leave_before_any_wait() {
    let _dog = watchdog(20);
    let server = TestServer::new(|client| {
        while let Some(message) = client.recv()? {
            match message.as_text() {
                // While unread input remains, these three stay in the cork ...
                Some("write") => {
                    client.write("a")?;
                    client.write(&b"b"[..])?;
                    client.write(String::from("c"))?;
                }
                // ... and none of these may overtake them.
                Some("send") => client.send("sent")?,
                Some("try_send") => client.try_send("tried")?,
                Some("flush") => client.flush()?,
                Some("ping") => client.ping(b"pinged")?,
                Some("recv_timeout") => {
                    assert!(matches!(client.recv_timeout(ms(1)), Err(Error::Timeout(Timeout::Recv))));
                    client.send("timed out")?;
                }
                Some("close") => return Ok(()),
                _ => client.write("?")?,
            }
        }
        Ok(())
    });
    let abc = |peer: &mut RawPeer| {
        peer.expect_text("a");
        peer.expect_binary(b"b");
        peer.expect_text("c");
    };
    let together = |peer: &mut RawPeer, texts: &[&str]| {
        let bytes: Vec<u8> = texts.iter().flat_map(|text| Frame::text(text).encode()).collect();
        peer.write(bytes);
    };
    let mut peer = RawPeer::open(server.addr());
    together(&mut peer, &["write", "send", "write", "try_send"]);
    abc(&mut peer);
    peer.expect_text("sent");
    abc(&mut peer);
    peer.expect_text("tried");
    together(&mut peer, &["write", "flush"]);
    abc(&mut peer);
    together(&mut peer, &["write", "write"]); // Only the wait in `recv` sends these.
    abc(&mut peer);
    abc(&mut peer);
    together(&mut peer, &["write", "recv_timeout"]);
    abc(&mut peer);
    peer.expect_text("timed out");
    together(&mut peer, &["write", "ping"]);
    let mut frames = vec![peer.frame(), peer.frame(), peer.frame(), peer.frame()];
    frames.retain(|frame| frame.opcode != PING); // A control frame may overtake them, at a frame boundary.
    assert_eq!(frames.iter().map(|frame| &frame.payload[..]).collect::<Vec<_>>(), [b"a", b"b", b"c"]);
    together(&mut peer, &["write", "close", "unread", "unread"]);
    abc(&mut peer);
    peer.expect_close(1000);
    peer.send(&Frame::close(1000, ""));
    peer.expect_eof();
}

#[test]
fn eight_threads_send_while_the_handler_waits_in_recv() {
    const THREADS: usize = 8;
    const EACH: usize = 1000;

    let _dog = watchdog(120);
    let server = TestServer::new(|client| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let sender = client.sender();
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        // All sizes up to 4 KiB, so that full socket buffers cut frames too.
                        let filler = "x".repeat((number * 37 + thread * 511) % 4096);
                        sender.send(format!("{thread} {number} {filler}")).expect("the peer reads");
                    }
                })
            })
            .collect();
        assert_eq!(client.recv()?, Some(Message::from("all have come")));
        for thread in threads {
            thread.join().expect("a sending thread");
        }
        client.send("bye")?;
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    let mut seen = [0; THREADS];
    for _ in 0..THREADS * EACH {
        let frame = peer.message();
        let mut words = frame.as_text().split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<usize>().ok()).expect("a number");
        let (thread, count) = (number(), number());
        assert_eq!(count, seen[thread], "thread {thread}'s own order");
        seen[thread] += 1;
        let filler = words.next().expect("a filler");
        assert_eq!(filler.len(), (count * 37 + thread * 511) % 4096, "thread {thread}, message {count}");
    }
    peer.send_text("all have come");
    peer.expect_text("bye");
    peer.expect_close(1000);
    peer.send(&Frame::close(1000, ""));
    peer.expect_eof();
}

#[test]
fn another_thread_sends_to_a_silent_client() {
    let _dog = watchdog(20);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        tx.send(client.sender()).unwrap_or(());
        client.ignore()?;
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    let sender = next(&rx, "the sender");
    for _ in 0..100 {
        let start = Instant::now();
        sender.send("x").expect("open");
        peer.expect_text("x");
        assert!(start.elapsed() < ms(1000), "a send waited for a recv: {:?}", start.elapsed());
    }
    assert_eq!(sender.stats().backlog, 0);
    sender.ping(b"from another thread").expect("open");
    let frame = peer.frame();
    assert_eq!((frame.opcode, &frame.payload[..]), (PING, &b"from another thread"[..]));
    sender.close(4001, "and closes").expect("open");
    assert_eq!(peer.expect_close(4001), "and closes");
    peer.send(&Frame::close(4001, ""));
    peer.expect_eof();
}

#[test]
fn send_waits_for_a_slow_reader_but_not_try_send() {
    let _dog = watchdog(60);
    const SIZE: usize = 64 << 10;

    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        tx.send(client.sender()).unwrap_or(());
        client.ignore()?;
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    let sender = next(&rx, "the sender");
    let message = vec![7; SIZE];
    let mut taken = 0;
    let start = Instant::now();
    // The kernel takes some 4.3 MB, then the backlog 1 MiB.
    loop {
        match sender.try_send(&message) {
            Ok(()) => taken += 1,
            Err(Error::Full) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(taken < 1000, "64 MB went nowhere");
    }
    assert!(start.elapsed() < PATIENCE, "try_send waited");
    let backlog = sender.stats().backlog;
    assert!(backlog > 0 && backlog <= (1 << 20), "backlog {backlog}");
    let slow = sender.clone();
    let waits = std::thread::spawn(move || slow.send("at last"));
    for _ in 0..taken {
        peer.expect_binary(&message);
    }
    peer.expect_text("at last");
    waits.join().expect("a thread").expect("sent");
    eventually("nothing is left", || sender.stats().backlog == 0);
    sender.try_send("and goes on").expect("room again");
    peer.expect_text("and goes on");
    peer.close(1000);
}

#[test]
fn a_panic_closes_only_its_own_client_with_1011() {
    let _dog = watchdog(20);
    let server = TestServer::new(|client| {
        while let Some(message) = client.recv()? {
            assert!(message.as_text() != Some("panic"), "the handler's own fault, with a secret in it");
            client.send(message)?;
        }
        Ok(())
    });
    let mut other = RawPeer::open(server.addr());
    for _ in 0..3 {
        let mut peer = RawPeer::open(server.addr());
        peer.send_text("hello");
        peer.expect_text("hello");
        peer.send_text("panic");
        let reason = peer.expect_close(1011);
        assert!(!reason.contains("secret"), "the inside shows: {reason}");
        peer.send(&Frame::close(1011, ""));
        peer.expect_eof();
        other.send_text("I go on");
        other.expect_text("I go on");
    }
    eventually("the panicked ones are gone", || server.hub().count() == 1);
    other.close(1000);
}

#[test]
fn a_handlers_error_closes_its_own_client_with_1011() {
    let _dog = watchdog(20);
    let server = TestServer::new(|client| match client.recv()? {
        Some(message) if message.as_text() == Some("fail") => Err("no such secret table".into()),
        _ => Ok(()),
    });
    let mut peer = RawPeer::open(server.addr());
    peer.send_text("fail");
    let reason = peer.expect_close(1011);
    assert!(!reason.contains("secret"), "the inside shows: {reason}");
    peer.send(&Frame::close(1011, ""));
    peer.expect_eof();
    // A handler that simply returns closes with 1000.
    let mut peer = RawPeer::open(server.addr());
    peer.send_text("end");
    peer.expect_close(1000);
    peer.send(&Frame::close(1000, ""));
    peer.expect_eof();
}

#[test]
fn a_broadcast_reaches_all_including_its_sender() {
    let _dog = watchdog(30);
    let server = TestServer::new(|client| {
        while let Some(message) = client.recv()? {
            client.write_broadcast(message)?;
        }
        Ok(())
    });
    let mut peers: Vec<_> = (0..5).map(|_| RawPeer::open(server.addr())).collect();
    eventually("all are in", || server.hub().count() == 5);
    for number in 0..5 {
        peers[number].send_text(&format!("from {number}"));
        for peer in &mut peers {
            peer.expect_text(&format!("from {number}"));
        }
    }
    assert_eq!(reached(server.hub().broadcast("from the server")), 5);
    for peer in &mut peers {
        peer.expect_text("from the server");
    }
    peers.pop().expect("five").close(1000);
    eventually("one left", || server.hub().count() == 4);
    assert_eq!(reached(server.hub().broadcast("to the rest")), 4);
}

#[test]
fn broadcasts_from_many_handlers_at_once_lose_nothing() {
    let _dog = watchdog(60);
    let server = TestServer::new(|client| {
        while let Some(message) = client.recv()? {
            client.write_broadcast(message)?;
        }
        Ok(())
    });
    let mut peers: Vec<_> = (0..4).map(|_| RawPeer::open(server.addr())).collect();
    eventually("all are in", || server.hub().count() == 4);
    for number in 0..100 {
        for (from, peer) in peers.iter_mut().enumerate() {
            peer.send_text(&format!("{from} {number}"));
        }
    }
    for peer in &mut peers {
        let mut seen = [0; 4];
        for _ in 0..400 {
            let frame = peer.message();
            let (from, number) = frame.as_text().split_once(' ').expect("two words");
            let from: usize = from.parse().expect("a number");
            assert_eq!(number, seen[from].to_string(), "each sender's order");
            seen[from] += 1;
        }
    }
}

#[test]
fn every_client_has_an_id_and_is_listed_while_connected() {
    let _dog = watchdog(30);
    if is_behind_relay("the relay has an address of its own") {
        return;
    }
    let ids = Arc::new(Mutex::new(Vec::new()));
    let handlers = Arc::clone(&ids);
    let ends = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&ends);
    let server = TestServer::new(move |client| {
        assert_eq!(client.sender().id(), client.id());
        handlers.lock().expect("no panic").push(client.id());
        client.send("in")?;
        client.ignore()?;
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    for round in 0..5 {
        let mut peers: Vec<_> = (0..4).map(|_| RawPeer::open(server.addr())).collect();
        for peer in &mut peers {
            peer.expect_text("in");
        }
        let listed = server.hub().clients();
        assert_eq!(listed.len(), 4);
        for peer in &peers {
            let client =
                listed.iter().find(|client| client.peer_addr() == peer.local_addr().into()).expect("listed");
            assert_eq!(client.client_addr(), peer.local_addr().ip().into());
            assert_eq!(server.hub().get(client.id()).map(|client| client.id()), Some(client.id()));
            client.sender().send("you").expect("open");
        }
        for mut peer in peers {
            peer.expect_text("you");
            peer.close(1000);
        }
        eventually("all are out", || {
            server.hub().count() == 0 && ends.load(Ordering::SeqCst) == 4 * (round + 1)
        });
    }
    let mut ids = ids.lock().expect("no panic").clone();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), count), (20, 20), "an id came twice");
}

#[test]
fn request_and_answer_do_not_wait_for_a_delayed_acknowledgement() {
    let _dog = watchdog(30);
    // Two small writes for each answer. With Nagle's algorithm the second would wait for the peer's ACK, 40 ms on
    // Linux.
    let server = TestServer::new(|client| {
        while let Some(message) = client.recv()? {
            client.send("first")?;
            client.send(message)?;
        }
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    let mut plain = plain_echo();
    let (mut times, mut machine) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let start = Instant::now();
        plain.write_all(b"x").expect("it reads");
        plain.read_exact(&mut [0]).expect("it writes");
        machine.push(start.elapsed());
        let start = Instant::now();
        peer.send_text("x");
        peer.expect_text("first");
        peer.expect_text("x");
        times.push(start.elapsed());
    }
    times.sort();
    machine.sort();
    // A busy machine delays a plain echo as well, but far less than 40 ms.
    let most = (ms(1) + 4 * machine[50]).min(ms(20));
    assert!(times[50] < most, "the median is {:?}, a plain echo's {:?}", times[50], machine[50]);
    peer.close(1000);
}
