//! The connection of a client, with servers that behave in any way.

use std::collections::HashSet;
use std::os::unix::net::UnixStream;
use std::time::Instant;
use support::{Frame, RawServer, RawServerPeer, frame, ms, watchdog};
use threadws::connection::State;
use threadws::{Addr, Config, Connect, Error, Event, Message, Timeout, connect, error::Violation};

#[test]
fn silence_after_the_101_is_ended_by_keepalive() {
    let _dog = watchdog(20);
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        assert_eq!(peer.frame().opcode, frame::PING);
        peer.expect_gone();
    });
    let config = Config::new().with_ping_interval(ms(100)).with_ping_timeout(ms(100));
    let mut connection = Connect::new(host.url()).config(config).connect().expect("a connection");
    let error = connection.recv().expect_err("nothing comes");
    assert!(matches!(error, Error::Timeout(Timeout::Ping)), "{error}");
    assert_eq!(connection.state(), State::Closed);
}

#[test]
fn a_half_frame_after_the_101_ends_at_its_timeout() {
    let _dog = watchdog(20);
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        peer.write(b"\x81\x05hel");
        peer.expect_close(1008);
        peer.expect_gone();
    });
    let config = Config::new().with_message_timeout(ms(200));
    let mut connection = Connect::new(host.url()).config(config).connect().expect("a connection");
    let error = connection.recv().expect_err("nothing whole comes");
    assert!(matches!(error, Error::Timeout(Timeout::Message)), "{error}");
}

#[test]
fn a_masked_frame_from_a_server_is_a_violation() {
    let _dog = watchdog(20);
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        peer.write(Frame::text("masked").encode());
        peer.expect_close(1002);
        peer.expect_gone();
    });
    let mut connection = connect(host.url()).expect("a connection");
    let error = connection.recv().expect_err("a violation");
    assert!(matches!(error, Error::Violation(Violation::MaskedFrame)), "{error}");
}

#[test]
fn an_announced_gigabyte_is_refused_at_its_header() {
    let _dog = watchdog(20);
    for length in [(1 << 20) + 1, 1 << 30, i64::MAX as u64] {
        let host = RawServer::new(move |listener| {
            let mut peer = listener.accept();
            peer.accept_handshake("");
            peer.write(frame::header(0x82, None, length, 64));
            peer.expect_close(1009);
            peer.expect_gone();
        });
        let mut connection = connect(host.url()).expect("a connection");
        let error = connection.recv().expect_err("too big");
        assert!(matches!(error, Error::MessageTooBig { limit: 1_048_576 }), "{error}");
    }
}

#[test]
fn every_frame_has_a_mask_of_its_own() {
    const FRAMES: usize = 200;
    let _dog = watchdog(20);
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        let mut keys = HashSet::new();
        for _ in 0..FRAMES {
            let frame = peer.frame();
            assert_eq!(frame.as_text(), "the same");
            keys.insert(frame.mask.expect("a client masks"));
        }
        // Of 200 keys out of 2^32, two are equal in one of 200,000 runs.
        assert!(keys.len() >= FRAMES - 1, "{} keys", keys.len());
        // They neither count up nor share bytes.
        for at in 0..4 {
            let bytes: HashSet<_> = keys.iter().map(|key| key[at]).collect();
            assert!(bytes.len() > 64, "byte {at} of the keys has {} values", bytes.len());
        }
        peer.finish(1000);
    });
    let mut connection = connect(host.url()).expect("a connection");
    let sender = connection.sender();
    for _ in 0..FRAMES / 2 {
        connection.write("the same").expect("sent");
        sender.send("the same").expect("sent");
    }
    connection.close(1000, "").expect("clean");
}

#[test]
fn it_uses_any_connected_stream() {
    let _dog = watchdog(20);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let script = std::thread::spawn(move || {
        let mut peer = RawServerPeer::of(theirs);
        assert!(peer.head.starts_with("GET /chat?x HTTP/1.1\r\nHost: example.com\r\n"), "{}", peer.head);
        // Bytes behind the head are kept for the connection.
        let bytes =
            [peer.handshake_answer("").into_bytes(), Frame::text("early").unmasked().encode()].concat();
        peer.write(bytes);
        peer.expect_text("over a pair");
        peer.finish(1000);
    });
    let mut connection = Connect::new("ws://example.com/chat?x").connect_over(ours).expect("a connection");
    assert_eq!((connection.peer_addr(), connection.client_addr()), (Addr::Unix, Addr::Unix));
    assert_eq!(connection.recv().expect("open"), Some(Message::from("early")));
    connection.send("over a pair").expect("sent");
    connection.close(1000, "").expect("clean");
    script.join().expect("the script went well");
}

/// The code is 1001.
#[test]
fn a_dropped_connection_closes_as_going_away() {
    let _dog = watchdog(20);
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        peer.expect_text("last words");
        peer.expect_close(1001);
        peer.expect_gone();
    });
    let mut connection = connect(host.url()).expect("a connection");
    let sender = connection.sender();
    connection.send("last words").expect("sent");
    drop(connection);
    assert_eq!(sender.state(), State::Closed);
    assert!(matches!(sender.send("too late"), Err(Error::Closed(_))));
}

#[test]
fn a_client_has_ticks() {
    let _dog = watchdog(20);
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        let begin = Instant::now();
        for text in ["once", "tick", "tick", "tick"] {
            peer.expect_text(text);
        }
        assert!(begin.elapsed() >= ms(290), "three ticks within {:?}", begin.elapsed());
        peer.send(Frame::close(1000, ""));
        while peer.frame().opcode != frame::CLOSE {}
        peer.fin();
        peer.expect_eof();
    });
    let mut connection = connect(host.url()).expect("a connection");
    drop(connection.after(ms(10), "once"));
    drop(connection.every(ms(100), "tick"));
    connection.after(ms(150), "cancelled").cancel();
    connection.ignore().expect("a clean end");
}

#[test]
fn next_event_shows_pings_pongs_and_the_close() {
    let _dog = watchdog(20);
    let host = RawServer::new(|listener| {
        let mut peer = listener.accept();
        peer.accept_handshake("");
        peer.send(Frame::ping("theirs"));
        let frame = peer.frame();
        assert_eq!((frame.opcode, &*frame.payload), (frame::PONG, &b"theirs"[..]));
        let frame = peer.frame();
        assert_eq!((frame.opcode, &*frame.payload), (frame::PING, &b"ours"[..]));
        peer.send(Frame::pong("ours"));
        peer.send(Frame::close(4000, "over"));
        peer.expect_close(4000);
        // RFC 6455 §7.1.1: the client lets the server end the connection.
        peer.fin();
        peer.expect_eof();
    });
    let mut connection = connect(host.url()).expect("a connection");
    assert_eq!(connection.next_event().expect("open"), Some(Event::Ping(b"theirs".to_vec())));
    connection.ping(b"ours").expect("sent");
    assert_eq!(connection.next_event().expect("open"), Some(Event::Pong(b"ours".to_vec())));
    let Some(Event::Close(Some(close))) = connection.next_event().expect("open") else { panic!("no Close") };
    assert_eq!((u16::from(close.code), &*close.reason), (4000, "over"));
    let closed = connection.closed().expect("it is over");
    assert!(closed.is_clean() && closed.by_peer(), "{closed}");
}

#[test]
fn a_server_that_never_closes_ends_at_the_close_timeout() {
    let _dog = watchdog(20);
    const CLIENTS: usize = 8;
    let host = RawServer::new(|listener| {
        let mut guests: Vec<_> = (0..CLIENTS).map(|_| listener.accept()).collect();
        for peer in &mut guests {
            peer.accept_handshake("");
        }
        for peer in &mut guests {
            peer.expect_close(1000);
            peer.send(Frame::close(1000, ""));
        }
        for peer in &mut guests {
            peer.expect_gone(); // but it does not end its own direction
        }
    });
    let settings = Connect::new(host.url()).config(Config::new().with_close_timeout(ms(300)));
    let connecting: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let settings = settings.clone();
            std::thread::spawn(move || {
                let mut connection = settings.connect().expect("a connection");
                let begin = Instant::now();
                if number % 2 == 0 {
                    connection.close(1000, "").expect("a Close went both ways");
                } else {
                    connection.sender().close(1000, "").expect("a code that may be sent");
                    assert_eq!(connection.recv().expect("a Close went both ways"), None);
                }
                assert!(begin.elapsed() < ms(3000), "after {:?}", begin.elapsed());
                let closed = connection.closed().expect("it is over").to_string();
                assert_eq!(closed, "sent 1000 (normal closure); then received 1000 (normal closure)");
            })
        })
        .collect();
    for thread in connecting {
        thread.join().expect("a clean end");
    }
}
