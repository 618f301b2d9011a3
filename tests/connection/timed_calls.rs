//! Calls with a time limit, and calls that do not wait, keep their limits.

use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use support::{Frame, PATIENCE, RawPeer, TestServer, ms, next, watchdog};
use threadws::{Config, Connection, Error, Event, Message, Timeout};

/// Returns whether a call ended as it does when no message came.
type Ended = fn(&mut Connection) -> bool;

/// Runs `call` in the handler while a peer sends endless pings and reads the pongs.
fn under_a_flood_of_pings(call: Ended) {
    let (tx, ends) = mpsc::channel();
    // The peer does not answer the Close.
    let config = Config::new().with_close_timeout(ms(200));
    let server = TestServer::with(
        |server| server.config(config),
        move |client| {
            // The flood has begun when its first ping arrives.
            assert!(matches!(client.next_event()?, Some(Event::Ping(_))));
            let _ = tx.send(call(client));
            client.ignore()?;
            Ok(())
        },
    );
    let peer = RawPeer::open(server.addr());
    let over = Arc::new(AtomicBool::new(false));
    let pongs = std::thread::spawn({
        let mut stream = peer.stream();
        move || {
            let mut bytes = [0; 64 * 1024];
            while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
        }
    });
    let pings = std::thread::spawn({
        let (mut peer, over) = (peer, Arc::clone(&over));
        let pings = Frame::ping("").encode().repeat(20_000);
        move || while !over.load(Ordering::Relaxed) && peer.try_write(&pings).is_ok() {}
    });
    let ended = ends.recv_timeout(PATIENCE);
    over.store(true, Ordering::Relaxed);
    pings.join().expect("no panic");
    drop(server);
    pongs.join().expect("no panic");
    assert_eq!(ended, Ok(true));
}

#[test]
fn endless_pings_do_not_delay_recv_timeout() {
    let _dog = watchdog(60);
    under_a_flood_of_pings(|client| {
        matches!(client.recv_timeout(ms(100)), Err(Error::Timeout(Timeout::Recv)))
    });
}

#[test]
fn endless_pings_do_not_delay_try_recv() {
    let _dog = watchdog(60);
    under_a_flood_of_pings(|client| matches!(client.try_recv(), Err(Error::Empty)));
}

#[test]
fn a_message_is_not_late_while_a_ping_is_handled() {
    let _dog = watchdog(60);
    let timeout = ms(400);
    let (tx, messages) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(Config::new().with_message_timeout(timeout)),
        move |client| {
            while let Some(event) = client.next_event()? {
                match event {
                    Event::Ping(payload) if payload == b"busy" => std::thread::sleep(timeout * 2),
                    Event::Message(message) => tx.send(message)?,
                    _ => {}
                }
            }
            Ok(())
        },
    );
    let mut peer = RawPeer::open(server.addr());
    peer.send(&Frame::text("one, ").more());
    peer.send(&Frame::ping("read"));
    peer.expect_pong(b"read");
    // The message deadline runs at the latest from this moment.
    peer.send(&Frame::ping("busy"));
    peer.expect_pong(b"busy");
    peer.send(&Frame::continuation("two"));
    assert_eq!(next(&messages, "the message"), Message::from("one, two"));
    peer.close(1000);
}

#[test]
fn write_after_the_end_returns_closed() {
    let _dog = watchdog(60);
    let (tx, results) = mpsc::channel();
    let server = TestServer::new(move |client| {
        // Unread input remains that no call will read. No answer waits for it.
        assert!(client.recv().is_err());
        tx.send(client.write("lost").is_err())?;
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.write([0xf1, 0x80, 0, 0, 0, 0].repeat(10));
    assert!(next(&results, "an answer"), "it was said to be sent");
    peer.expect_close(1002);
}

#[test]
fn the_end_that_a_sender_reports_does_not_change() {
    let _dog = watchdog(60);
    let (tx, ends) = mpsc::channel();
    let server = TestServer::new(move |client| {
        client.recv()?;
        assert!(matches!(client.recv_timeout(Duration::ZERO), Err(Error::Timeout(_))));
        let (sender, start) = (client.sender(), Instant::now());
        sender.close(1000, "")?;
        if let Err(Error::Closed(closed)) = sender.send("too late") {
            tx.send((closed, start))?;
        }
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.send_text("counted");
    let (closed, start) = next(&ends, "the end");
    assert_eq!((closed.traffic().messages_received, closed.traffic().bytes_received), (1, 13));
    assert!(closed.lifetime() > Duration::ZERO && closed.lifetime() < start.elapsed() + PATIENCE);
    peer.expect_close(1000);
}
