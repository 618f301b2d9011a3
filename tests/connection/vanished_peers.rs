//! A client that vanishes ends its handler once, with the right reason, and leaves nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};
use support::frame::PING;
use support::{Frame, PATIENCE, RawPeer, TestServer, eventually, ms, next, watchdog};
use threadws::connection::State;
use threadws::{Closed, Config, Connection, Error, Timeout};

#[derive(Debug)]
struct Ended {
    error: Option<Error>,
    closed: Option<Closed>,
    state: State,
}

/// Starts a server whose handler greets, reads to the end and reports it. A value that is dropped at the handler's end
/// reports on the third channel that it ended.
fn server(config: Config) -> (TestServer, Receiver<Ended>, Receiver<()>) {
    struct AtTheEnd(mpsc::Sender<()>);
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            self.0.send(()).unwrap_or(());
        }
    }
    let (tx, rx) = mpsc::channel();
    let (end, ends) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(config),
        move |client: &mut Connection| {
            let _end = AtTheEnd(end.clone());
            client.send("in")?;
            let error = client.ignore().err();
            tx.send(Ended { error, closed: client.closed().cloned(), state: client.state() }).unwrap_or(());
            Ok(())
        },
    );
    (server, rx, ends)
}

/// Checks that the handler ended once, and that its place is free.
#[track_caller]
fn ended_once(server: &TestServer, rx: &Receiver<Ended>, ends: &Receiver<()>) -> Ended {
    let end = next(rx, "the handler's end");
    next(ends, "the handler's return");
    assert_eq!(end.state, State::Closed);
    eventually("its place is free", || server.hub().count() == 0);
    assert!(rx.try_recv().is_err() && ends.try_recv().is_err(), "ended twice");
    end
}

/// Checks the median, because a machine may stall now and then.
#[track_caller]
fn mostly_within(limit: Duration, mut times: Vec<Duration>) {
    times.sort();
    assert!(times[times.len() / 2] < limit, "noticed after {times:?}");
}

#[test]
fn an_end_of_stream_without_a_close_is_1006() {
    let _dog = watchdog(20);
    let (server, rx, ends) = server(Config::new());
    let mut times = Vec::new();
    for _ in 0..5 {
        let mut peer = RawPeer::open(server.addr());
        peer.expect_text("in");
        let start = Instant::now();
        peer.fin();
        let end = ended_once(&server, &rx, &ends);
        times.push(start.elapsed());
        let closed = end.closed.expect("it is closed");
        assert_eq!((closed.code().into(), closed.is_clean()), (1006_u16, false));
        assert_eq!(closed.to_string(), "no Close either way: end of stream");
        assert!(matches!(end.error, Some(Error::Closed(_))), "{:?}", end.error);
        peer.expect_gone();
    }
    mostly_within(ms(1000), times);
}

#[test]
fn a_reset_is_1006() {
    let _dog = watchdog(20);
    let (server, rx, ends) = server(Config::new());
    let mut times = Vec::new();
    for _ in 0..5 {
        let mut peer = RawPeer::open(server.addr());
        peer.expect_text("in");
        let start = Instant::now();
        peer.reset();
        let end = ended_once(&server, &rx, &ends);
        times.push(start.elapsed());
        let closed = end.closed.expect("it is closed");
        assert_eq!((closed.code().into(), closed.is_clean()), (1006_u16, false));
        assert_eq!(closed.to_string(), "no Close either way: connection reset");
        assert!(matches!(end.error, Some(Error::Closed(_))), "{:?}", end.error);
    }
    mostly_within(ms(1000), times);
}

#[test]
fn a_client_that_vanishes_inside_a_frame_is_1006() {
    let _dog = watchdog(20);
    let (server, rx, ends) = server(Config::new());
    let bytes = Frame::text("never whole").encode();
    for cut in [1, 4, bytes.len() - 1] {
        let mut peer = RawPeer::open(server.addr());
        peer.expect_text("in");
        peer.write(&bytes[..cut]);
        peer.fin();
        let closed = ended_once(&server, &rx, &ends).closed.expect("it is closed");
        assert_eq!((closed.code().into(), closed.traffic().messages_received), (1006_u16, 0));
    }
}

#[test]
fn a_silent_client_is_pinged_and_disconnected() {
    let _dog = watchdog(20);
    let config = Config::new().with_ping_interval(ms(150)).with_ping_timeout(ms(250));
    let (server, rx, ends) = server(config);
    let start = Instant::now();
    let mut peer = RawPeer::open(server.addr());
    peer.expect_text("in");
    let ping = peer.frame();
    assert_eq!(ping.opcode, PING);
    let pinged = start.elapsed();
    assert!(pinged >= ms(150) && pinged < ms(150) + PATIENCE / 4, "pinged after {pinged:?}");
    // The Close is not answered.
    let end = ended_once(&server, &rx, &ends);
    let took = start.elapsed();
    assert!(took >= ms(400) && took < ms(400) + PATIENCE / 4, "disconnected after {took:?}");
    assert!(matches!(end.error, Some(Error::Timeout(Timeout::Ping))), "{:?}", end.error);
    let closed = end.closed.expect("it is closed");
    assert_eq!((closed.code().into(), closed.is_clean()), (1006_u16, false));
    assert!(closed.to_string().ends_with("no sign of life after a ping"), "{closed}");
    peer.expect_gone();
}

/// Far longer than a machine stalls, so no client is disconnected because of that.
fn long() -> Config {
    Config::new().with_ping_interval(ms(60)).with_ping_timeout(ms(2000))
}

/// After this time a client is disconnected that has not answered its first ping.
fn given_up() -> Duration {
    ms(60 + 2000 + 500)
}

#[test]
fn a_client_that_answers_pings_stays() {
    let _dog = watchdog(20);
    let (server, _told, _ends) = server(long());
    let start = Instant::now();
    let mut peer = RawPeer::open(server.addr());
    peer.expect_text("in");
    let mut pings = 0;
    while start.elapsed() < given_up() || pings < 6 {
        let ping = peer.frame();
        assert_eq!(ping.opcode, PING);
        peer.send(&Frame::pong(ping.payload));
        pings += 1;
    }
    peer.close(1000);
}

#[test]
fn any_byte_is_a_sign_of_life() {
    let _dog = watchdog(20);
    let (server, _told, _ends) = server(long());
    let start = Instant::now();
    let mut talker = RawPeer::open(server.addr());
    let mut ponger = RawPeer::open(server.addr());
    let bytes = Frame::text("byte by byte").encode();
    // One client never completes a message, the other sends pongs that do not match a ping.
    for byte in bytes.iter().cycle() {
        talker.write([*byte]);
        ponger.send(&Frame::pong("unasked for"));
        std::thread::sleep(ms(40));
        if start.elapsed() > given_up() {
            break;
        }
    }
    assert_eq!(server.hub().count(), 2, "disconnected although they sent something");
    ponger.send(&Frame::close(1000, ""));
    ponger.expect_close_at_last(&[1000]);
}

#[test]
fn a_busy_handler_finds_the_messages_that_came_meanwhile() {
    let _dog = watchdog(20);
    let (tx, busy) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(Config::new().with_ping_interval(ms(50)).with_ping_timeout(ms(1000))),
        move |client| {
            // It gets one ping.
            let waited = client.recv_timeout(ms(200));
            assert!(matches!(waited, Err(Error::Timeout(Timeout::Recv))), "{waited:?}");
            tx.send(()).unwrap_or(());
            // The handler reads nothing for longer than the ping's timeout. It has to read before it may declare the
            // client dead.
            std::thread::sleep(ms(1500));
            while let Some(message) = client.recv()? {
                client.send(message)?;
            }
            Ok(())
        },
    );
    let mut peer = RawPeer::open(server.addr());
    next(&busy, "the handler to be busy");
    peer.send_text("said long ago");
    assert_eq!(peer.message().as_text(), "said long ago");
    peer.send(&Frame::close(1000, ""));
    peer.expect_close_at_last(&[1000]);
}

#[test]
fn a_pong_that_came_while_the_handler_was_busy_counts() {
    let _dog = watchdog(20);
    let config = Config::new().with_ping_interval(ms(50)).with_ping_timeout(ms(2000));
    let pinged = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&pinged);
    let (tx, busy) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(config),
        move |client| {
            while !seen.load(Ordering::SeqCst) {
                let waited = client.recv_timeout(ms(10));
                assert!(matches!(waited, Err(Error::Timeout(Timeout::Recv))), "{waited:?}");
            }
            tx.send(()).unwrap_or(());
            // Longer than the answer to the ping may take.
            std::thread::sleep(ms(2500));
            client.ignore()?;
            Ok(())
        },
    );
    let mut peer = RawPeer::open(server.addr());
    let ping = peer.frame();
    assert_eq!(ping.opcode, PING);
    pinged.store(true, Ordering::SeqCst);
    next(&busy, "the handler to be busy");
    peer.send(&Frame::pong(ping.payload));
    // The next ping shows that the connection is still open.
    assert_eq!(peer.frame().opcode, PING);
}

#[test]
fn sending_notices_a_vanished_client() {
    let _dog = watchdog(30);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::new(move |client| {
        client.send("in")?;
        // It never reads, so only sending can notice that the client is gone.
        let error = loop {
            if let Err(error) = client.send("are you there?") {
                break error;
            }
            std::thread::sleep(ms(1)); // the pace of the conversation
        };
        tx.send(error).unwrap_or(());
        tx.send(client.send("and now?").expect_err("it is gone")).unwrap_or(());
        Ok(())
    });
    let mut peer = RawPeer::open(server.addr());
    peer.expect_text("in");
    peer.reset();
    for what in ["an error", "another"] {
        let error = next(&rx, what);
        assert!(matches!(error, Error::Closed(_)), "{error:?}");
    }
    eventually("its place is free", || server.hub().count() == 0);
}

#[test]
fn a_client_that_never_reads_ends_at_the_write_timeout() {
    let _dog = watchdog(30);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(Config::new().with_write_timeout(ms(400))),
        move |client| {
            let start = Instant::now();
            let message = vec![1; 256 << 10];
            // 4.3 MB go into the kernel's buffers.
            let mut last = start;
            let error = loop {
                match client.send(&message) {
                    Ok(()) => last = Instant::now(),
                    Err(error) => break error,
                }
            };
            let took = last.elapsed();
            // The reader has the report.
            let end = client.recv();
            assert!(matches!(end, Err(Error::Timeout(Timeout::Write))), "{end:?}");
            tx.send((error, took, client.closed().cloned())).unwrap_or(());
            Ok(())
        },
    );
    let peer = RawPeer::open(server.addr());
    let (error, took, closed) = next(&rx, "the timeout");
    assert!(matches!(error, Error::Timeout(Timeout::Write)), "{error:?}");
    assert!(took >= ms(350) && took < ms(400) + PATIENCE / 4, "dropped after {took:?}");
    let closed = closed.expect("it is closed");
    assert_eq!((closed.code().into(), closed.is_clean()), (1013_u16, false));
    eventually("its place is free", || server.hub().count() == 0);
    drop(peer);
}

#[test]
fn a_client_that_reads_slowly_ends_at_the_write_timeout() {
    use std::io::Read as _;

    let _dog = watchdog(30);
    let (tx, rx) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(Config::new().with_write_timeout(ms(400))),
        move |client| {
            let start = Instant::now();
            let message = vec![1; 256 << 10];
            let error = loop {
                if let Err(error) = client.send(&message) {
                    break error;
                }
            };
            tx.send((error, start.elapsed())).unwrap_or(());
            Ok(())
        },
    );
    let peer = RawPeer::open(server.addr());
    let stream = peer.stream();
    // Every write of the server makes some progress, until it is cut off.
    let enough = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&enough);
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 500];
        while !stop.load(Ordering::Relaxed) && (&stream).read(&mut bytes).is_ok_and(|bytes| bytes > 0) {
            std::thread::sleep(ms(5)); // the slow pace is the attack
        }
    });
    let (error, took) = next(&rx, "the timeout");
    assert!(matches!(error, Error::Timeout(Timeout::Write)), "{error:?}");
    assert!(took < ms(400) + PATIENCE / 2, "dropped after {took:?}");
    eventually("its place is free", || server.hub().count() == 0);
    enough.store(true, Ordering::Relaxed);
    reader.join().expect("the reader");
}

#[cfg(feature = "cli")]
mod binary {
    use super::*;
    use support::Process;

    #[test]
    fn each_end_is_logged_once() {
        let _dog = watchdog(30);
        let server = Process::threadws(&["--every", "0", "--ping", "1s"]);
        // Clients that leave in another way have gone long before a ping is due.
        let mut fin = RawPeer::open(server.addr());
        fin.fin();
        RawPeer::open(server.addr()).reset();
        let mut silent = RawPeer::open(server.addr());
        RawPeer::open(server.addr()).close(1001);
        silent.expect_gone();
        let lines = server.wait_for_lines(&["disconnected"], 4);
        for cause in
            ["end of stream", "connection reset", "no sign of life after a ping", "1001 (going away)"]
        {
            let count = lines.iter().filter(|line| line.contains(cause)).count();
            assert_eq!(count, 1, "{cause} in {lines:#?}");
        }
        server.wait_for_lines(&["connected from 127.0.0.1"], 4);
        RawPeer::open(server.addr()).close(1000);
        assert_eq!(server.wait_for_lines(&["disconnected"], 5).len(), 5);
    }
}
