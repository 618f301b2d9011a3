//! The lifetime and the idle timeout of a connection.

use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::{Frame, PATIENCE, RawPeer, TestServer, echo, eventually, ms, next, reporting_echo, watchdog};
use threadws::{BoxError, Config, Connection};

/// Starts an echo server with this `Config` that reports how each connection ended.
fn echo_for(config: Config) -> (TestServer, mpsc::Receiver<String>) {
    let (ends, ended) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(config),
        move |client: &mut Connection| -> Result<(), BoxError> {
            echo(client)?;
            ends.send(client.closed().ok_or("it is not over")?.to_string())?;
            Ok(())
        },
    );
    (server, ended)
}

/// Checks that this time has passed since `start`, and not much more.
#[track_caller]
fn expect_after(time: Duration, start: Instant) {
    let took = start.elapsed();
    assert!(took >= time && took < time + PATIENCE / 2, "after {took:?}, and not {time:?}");
}

/// Expects and answers the Close of a limit, and checks the result of the handler.
#[track_caller]
fn expect_retired(mut peer: RawPeer, reason: &str, ended: &mpsc::Receiver<String>) {
    assert_eq!(peer.expect_close(1001), reason);
    peer.send(&Frame::close(1001, ""));
    peer.expect_eof();
    let expected = format!("sent 1001 (going away) {reason:?}; then received 1001 (going away)");
    assert_eq!(next(ended, "the handler's end"), expected);
}

#[test]
fn a_busy_connection_ends_at_its_lifetime() {
    let _dog = watchdog(60);
    let lifetime = ms(1500);
    let (server, ended) = echo_for(Config::new().with_max_lifetime(lifetime));
    let start = Instant::now();
    let mut talker = RawPeer::open(server.addr());
    let silent = RawPeer::open(server.addr());
    // Until a Close comes instead of an answer.
    let close = loop {
        assert!(start.elapsed() < lifetime + PATIENCE / 2, "it lasts too long");
        talker.send_text("still here");
        let frame = talker.frame();
        if frame.opcode == support::frame::CLOSE {
            break frame;
        }
        assert_eq!(frame.as_text(), "still here");
        std::thread::sleep(ms(5));
    };
    expect_after(lifetime, start);
    assert_eq!(close.close_content(), Some((1001, "maximum lifetime".to_owned())));
    talker.send(&Frame::close(1001, ""));
    talker.expect_eof();
    expect_retired(silent, "maximum lifetime", &ended);
    eventually("both are counted", || server.stats().policy_closes["max_lifetime"] == 2);
}

#[test]
fn messages_before_the_answer_to_a_lifetimes_close_are_received() {
    let _dog = watchdog(60);
    let (heard, words) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(Config::new().with_max_lifetime(ms(200))),
        move |client| {
            while let Some(message) = client.recv()? {
                heard.send(message.as_text().map(str::to_owned))?;
            }
            Ok(())
        },
    );
    let mut peer = RawPeer::open(server.addr());
    assert_eq!(peer.expect_close(1001), "maximum lifetime");
    peer.send_text("last words");
    peer.send(&Frame::close(1001, ""));
    assert_eq!(next(&words, "the last words").as_deref(), Some("last words"));
    peer.expect_eof();
}

#[test]
fn the_lifetime_ends_a_handler_that_only_sends() {
    let _dog = watchdog(60);
    let lifetime = ms(500);
    let server = TestServer::with(
        |server| server.config(Config::new().with_max_lifetime(lifetime)),
        |client| {
            client.every(ms(20), "tick");
            Ok(client.ignore()?)
        },
    );
    let start = Instant::now();
    let mut peer = RawPeer::open(server.addr());
    let close = loop {
        assert!(start.elapsed() < lifetime + PATIENCE / 2, "it lasts too long");
        let frame = peer.frame();
        if frame.opcode == support::frame::CLOSE {
            break frame.close_content();
        }
    };
    assert_eq!(close, Some((1001, "maximum lifetime".to_owned())));
    expect_after(lifetime, start);
    peer.send(&Frame::close(1001, ""));
    peer.expect_eof();
}

#[test]
fn a_busy_handler_sees_its_lifetime_end_when_receiving() {
    let _dog = watchdog(60);
    let lifetime = ms(200);
    let (end, ends) = mpsc::channel();
    let server = TestServer::with(
        |server| server.config(Config::new().with_max_lifetime(lifetime)),
        move |client| {
            std::thread::sleep(lifetime * 2);
            client.send("not over yet")?;
            while client
                .recv_timeout(ms(100))
                .map_or_else(|error| !error.is_fatal(), |message| message.is_some())
            {}
            end.send(client.closed().is_some_and(|closed| closed.is_clean()))?;
            Ok(())
        },
    );
    let mut peer = RawPeer::open(server.addr());
    peer.expect_text("not over yet");
    assert_eq!(peer.expect_close(1001), "maximum lifetime");
    peer.send(&Frame::close(1001, ""));
    assert!(next(&ends, "the end"), "a clean one");
}

#[test]
fn pings_and_pongs_do_not_keep_an_idle_connection_open() {
    let _dog = watchdog(60);
    let idle = ms(1000);
    let (server, ended) = echo_for(Config::new().with_idle_timeout(idle).with_ping_interval(ms(50)));
    let start = Instant::now();
    let mut peer = RawPeer::open(server.addr());
    // It answers each ping, and sends its own pings without a pause.
    let mut pongs = 0;
    let close = loop {
        assert!(start.elapsed() < idle + PATIENCE / 2, "it lasts too long");
        drop(peer.try_write(&Frame::ping("alive").encode()));
        let frame = peer.frame();
        match frame.opcode {
            support::frame::CLOSE => break frame.close_content(),
            support::frame::PING => drop(peer.try_write(&Frame::pong(frame.payload).encode())),
            support::frame::PONG => pongs += 1,
            _ => panic!("unexpected {frame:?}"),
        }
    };
    assert_eq!(close, Some((1001, "idle timeout".to_owned())));
    expect_after(idle, start);
    assert!(pongs > 0, "no pongs");
    peer.send(&Frame::close(1001, ""));
    assert!(next(&ended, "the handler's end").starts_with("sent 1001 (going away) \"idle timeout\""));
    assert_eq!(server.stats().policy_closes["idle_timeout"], 1);
}

#[test]
fn messages_in_either_direction_keep_a_connection_open() {
    let _dog = watchdog(90);
    let idle = ms(2000);
    let until = Instant::now() + idle * 2;
    // The peer only receives.
    let config = Config::new().with_idle_timeout(idle);
    let sink = TestServer::with(|server| server.config(config.clone()), |client| Ok(client.ignore()?));
    let source = TestServer::with(
        |server| server.config(config.clone()),
        |client| {
            let tick = client.every(ms(20), "tick");
            drop(client.recv()?);
            tick.cancel();
            Ok(client.ignore()?)
        },
    );
    let mut talker = RawPeer::open(sink.addr());
    let mut listener = RawPeer::open(source.addr());
    while Instant::now() < until {
        talker.send_text("something");
        listener.expect_text("tick");
    }
    talker.send(&Frame::ping("open"));
    talker.expect_pong(b"open");
    let stopped = Instant::now();
    listener.send_text("stop");
    listener.expect_close_at_last(&[1001]);
    expect_after(idle, stopped);
    talker.expect_close_at_last(&[1001]);
}

#[test]
fn every_way_of_sending_restarts_the_idle_timeout() {
    let _dog = watchdog(60);
    // Messages are sent at a third of the timeout. A message that does not count would close the connection a third too
    // early.
    let (idle, delay) = (ms(1500), ms(500));
    type Send = fn(&mut Connection) -> threadws::Result<()>;
    let cases: [(&str, Send); 5] = [
        ("send", |client| client.send("small")),
        ("a large send", |client| client.send(vec![7; 100_000])),
        ("try_send", |client| client.try_send("tried")),
        ("write", |client| client.write("answered")),
        ("a broadcast", |client| {
            client.hub()?.broadcast("to all");
            Ok(())
        }),
    ];
    std::thread::scope(|scope| {
        for (what, send) in cases {
            // Each runs in a thread, to see its Close when it comes.
            scope.spawn(move || {
                let config = Config::new().with_idle_timeout(idle);
                let server = TestServer::with(
                    |server| server.config(config),
                    move |client| {
                        std::thread::sleep(delay);
                        send(client)?;
                        Ok(client.ignore()?)
                    },
                );
                let start = Instant::now();
                let mut peer = RawPeer::open(server.addr());
                assert!(!peer.message().payload.is_empty(), "{what}");
                peer.expect_close_at_last(&[1001]);
                println!("{what}");
                expect_after(idle + delay, start);
            });
        }
    });
}

#[test]
fn a_message_waiting_for_a_slow_peer_is_not_idle() {
    const SIZE: usize = 16 << 20;
    let _dog = watchdog(60);
    let idle = ms(300);
    // A Close meanwhile would cut the message.
    let config = Config::new().with_idle_timeout(idle).with_close_timeout(ms(200));
    let server = TestServer::with(
        |server| server.config(config),
        |client| {
            client.sender().try_send(vec![7; SIZE])?;
            Ok(client.ignore()?)
        },
    );
    let mut peer = RawPeer::open(server.addr());
    std::thread::sleep(idle * 5);
    let start = Instant::now();
    assert!(peer.message().payload == vec![7; SIZE], "it came whole");
    assert_eq!(peer.expect_close(1001), "idle timeout");
    expect_after(idle, start);
}

#[test]
fn a_message_that_is_arriving_is_not_idle() {
    let _dog = watchdog(60);
    let idle = ms(300);
    let (server, ended) = echo_for(Config::new().with_idle_timeout(idle));
    let mut peer = RawPeer::open(server.addr());
    for part in ["sl", "ow", "ly"] {
        peer.send(&if part == "sl" { Frame::text(part) } else { Frame::continuation(part) }.more());
        std::thread::sleep(idle);
    }
    peer.send(&Frame::continuation(""));
    peer.expect_text("slowly");
    expect_retired(peer, "idle timeout", &ended);
}

/// The messages arrived while the handler was busy.
#[test]
fn unread_messages_are_received_before_the_idle_timeout_counts() {
    let _dog = watchdog(60);
    let idle = ms(300);
    let (go, gone) = mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let server = TestServer::with(
        |server| server.config(Config::new().with_idle_timeout(idle)),
        move |client| {
            gone.lock().expect("no thread panics under it").recv()?;
            echo(client)
        },
    );
    let mut peer = RawPeer::open(server.addr());
    std::thread::sleep(idle * 2);
    peer.send_text("in time");
    std::thread::sleep(idle * 2);
    go.send(()).expect("the handler waits");
    peer.expect_text("in time");
    assert_eq!(peer.expect_close(1001), "idle timeout");
}

#[test]
fn a_client_may_have_a_lifetime() {
    let _dog = watchdog(60);
    let server = TestServer::new(echo);
    let config = Config::new().with_max_lifetime(ms(100));
    let connect = threadws::Connect::new(format!("ws://{}/", server.addr())).config(config);
    let mut connection = connect.connect().expect("a connection");
    assert_eq!(connection.recv().expect("a clean end"), None);
    let sent = connection.closed().and_then(|closed| closed.sent().cloned()).expect("our Close");
    assert_eq!((sent.code.into(), sent.reason.as_str()), (1001_u16, "maximum lifetime"));
}

#[test]
fn a_peer_that_ignores_the_close_ends_at_its_timeout() {
    let _dog = watchdog(60);
    let (time, close_timeout) = (ms(300), ms(400));
    let config = Config::new().with_close_timeout(close_timeout);
    let policies = [
        ("maximum lifetime", config.clone().with_max_lifetime(time)),
        ("idle timeout", config.with_idle_timeout(time)),
    ];
    for (reason, config) in policies {
        let (server, rx) = reporting_echo(config);
        let start = Instant::now();
        let mut peer = RawPeer::open(server.addr());
        assert_eq!(peer.expect_close(1001), reason);
        // Neither an answer nor an end of the stream.
        let (result, closed) = support::reported_end(&rx);
        expect_after(time + close_timeout, start);
        peer.expect_eof_alone();
        assert!(!closed.is_clean(), "{closed}");
        assert_eq!(u16::from(closed.code()), 1006);
        let expected = format!("sent 1001 (going away) {reason:?}; no Close received");
        assert!(closed.to_string().starts_with(&expected), "{closed}");
        let error = result.expect_err("that is not a clean end");
        assert!(error.contains("closing handshake timed out"), "{error}");
        eventually("its place is free", || server.hub().count() == 0);
    }
}

/// The peer reads nothing, so the Close of its lifetime stays in the backlog.
#[test]
fn a_stuck_peer_ends_although_its_close_does_not_fit() {
    let _dog = watchdog(60);
    let (lifetime, close_timeout) = (ms(500), ms(400));
    let (tx, rx) = mpsc::channel();
    let config = Config::new().with_max_lifetime(lifetime).with_close_timeout(close_timeout);
    let server = TestServer::with(
        |server| server.config(config).max_clients(1),
        move |client| {
            // Neither the kernel nor the backlog takes any more.
            while client.try_send(vec![7; 64 << 10]).is_ok() {}
            let result = client.ignore().map_err(|error| error.to_string());
            tx.send((result, client.closed().cloned()))?;
            Ok(())
        },
    );
    let start = Instant::now();
    let mut peer = RawPeer::open(server.addr());
    let (result, closed) = support::reported_end(&rx);
    expect_after(lifetime + close_timeout, start);
    assert_eq!((u16::from(closed.code()), closed.is_clean()), (1006, false), "{closed}");
    println!("{closed} / {result:?}");
    result.expect_err("that is not a clean end");
    // Its place is free, even if it still has bytes to read.
    eventually("its place is free", || server.hub().count() == 0);
    let mut next = RawPeer::connect(server.addr());
    next.upgrade("/", &[]);
    peer.expect_gone();
}
